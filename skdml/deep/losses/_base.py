"""What the losses over pairs and triplets share."""

import math
from abc import ABC, abstractmethod
from functools import cached_property
from numbers import Real

import torch
from torch.autograd.function import once_differentiable

from skdml.deep._pairwise import paired_distance, pairwise_distance
from skdml.deep.miners import AllTripletsMiner, Miner, get_miner, label_masks
from skdml.distances import check_distance

from ._positives import label_pairs

REDUCTIONS = ("active", "mean", "sum")

# The largest value of the bounded distances: beyond it a margin asks for the impossible.
_LARGEST = {"cosine": 2.0, "angular": 1.0}


def check_choice(name, value, choices):
    """Return the value, or raise a ValueError that lists the choices."""
    if isinstance(value, bool) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}")
    return value


def check_margin(margin, distance, *, zero, name="margin"):
    """Return the margin as a float, or raise a ValueError that says which are allowed."""
    largest = _LARGEST.get(distance, math.inf)
    allowed = f"a finite number {'>= 0' if zero else '> 0'}"
    if largest < math.inf:
        allowed += f" and <= {largest:g}, the largest {distance} distance"
    number = isinstance(margin, Real) and not isinstance(margin, bool)
    if not (number and math.isfinite(margin) and 0 <= margin <= largest and (zero or margin > 0)):
        raise ValueError(f"{name} must be {allowed}; got {margin!r}")
    return float(margin)


class _Weighted(torch.autograd.Function):
    """A number computed elsewhere, with known weights as its gradient by the distances."""

    @staticmethod
    def forward(ctx, distance, weights, value):
        ctx.save_for_backward(weights)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (weights,) = ctx.saved_tensors
        if grad.device.type == "cpu" and grad.item() == 1:  # spares a matrix; elsewhere one waits
            return weights, None, None
        return weights * grad, None, None


class _Batch:
    """Distances from embeddings to references, or among embeddings, computed when needed."""

    def __init__(self, embeddings, ref_emb, distance):
        self.x, self.y, self.distance = embeddings, ref_emb, distance
        self.others = embeddings if ref_emb is None else ref_emb
        self.shape = (len(embeddings), len(self.others))

    @cached_property
    def matrix(self):
        return pairwise_distance(self.x, self.y, self.distance)

    def measure(self, i, j):
        # A few pairs measured by themselves have a much cheaper gradient than a whole matrix.
        if 2 * len(i) * self.x.shape[1] <= math.prod(self.shape):
            x, y = self.x.index_select(0, i), self.others.index_select(0, j)
            return paired_distance(x, y, self.distance)
        return self.matrix[i, j]


class PairwiseLoss(torch.nn.Module, ABC):
    """Base of the losses over pairs or triplets of a batch.

    :meth:`forward` checks, mines and measures distances; a subclass says what a loss is, twice:
    ``compute_dense`` for all tuples of some pairs, with the gradient by the distances written out,
    and ``compute`` for listed tuples.

    Parameters
    ----------
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance between embeddings.
    miner : str, class, callable or None
        Chooses tuples when a call is given none; see `skdml.deep.miners.get_miner`.
    reduction : {"active", "mean", "sum"}
        Mean over the tuples with a loss > 0, mean over all valid tuples, or sum.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the used tuples with a loss > 0, detached.
    """

    def __init__(self, distance, miner, reduction):
        super().__init__()
        self.distance = check_distance(distance)
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.miner = get_miner(miner, distance)
        self.active_share = torch.tensor(0.0)

    @abstractmethod
    def compute_dense(self, distance, positives, different):
        """Loss over all tuples: (value, weights, active tuples, used tuples)."""

    @abstractmethod
    def compute(self, measure, indices):
        """Loss over listed tuples: (value, active tuples, used tuples).

        ``measure(i, j)`` gives the distances of listed pairs.
        """

    @abstractmethod
    def adapt(self, indices, shape):
        """Turn given or mined tuples into those of this loss: (indices, None) or (None, pairs)."""

    def reduce(self, total, active, used):
        """Apply the reduction to a sum over tuples of which some are active."""
        if self.reduction == "sum":
            return total
        return total / (active if self.reduction == "active" else used).clamp(min=1)

    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        """Compute the loss of a batch.

        Parameters
        ----------
        embeddings : Tensor of shape (n, d)
            Anchors, floating point; without references all pairs are inside the batch.
        labels : int Tensor of shape (n,)
            Classes of the embeddings.
        indices_tuple : tuple of int64 Tensors, optional
            Triplets (a, p, n), or pairs (a1, p, a2, n): positive pairs (a1, p) and negative
            pairs (a2, n). Given, only these are used and nothing is mined.
        ref_emb : Tensor of shape (m, d), optional
            References: pairs run from the embeddings to them, and none counts as a self pair.
        ref_labels : int Tensor of shape (m,), optional
            Classes of the references.

        Returns
        -------
        Tensor of shape ()
            The loss, >= 0; float64 for float64 embeddings, else float32. Without a valid tuple
            it is zero, with a gradient of zero.

        Raises
        ------
        ValueError
            If shapes or types do not fit, or only one of ref_emb and ref_labels is given.
        """
        labels, ref_labels = self._check(embeddings, labels, ref_emb, ref_labels)
        batch = _Batch(embeddings, ref_emb, self.distance)
        # A miner of skdml shares the distances of the loss, where they are what it chooses by.
        every = isinstance(self.miner, AllTripletsMiner)
        shared = isinstance(self.miner, Miner) and self.miner.shares(
            self.distance, references=ref_emb is not None
        )
        if indices_tuple is None and not shared:
            references = () if ref_emb is None else (ref_emb, ref_labels)
            with torch.no_grad():
                mined = self.miner(embeddings, labels, *references)
                indices_tuple = self._check_indices(mined, embeddings.device)

        with torch.autocast(embeddings.device.type, enabled=False):
            pairs = None
            if indices_tuple is None and every:
                pairs = label_pairs(labels, ref_labels)
            elif indices_tuple is None:
                masks = label_masks(labels, ref_labels)
                indices_tuple = self.miner.mine(batch.matrix.detach(), *masks)
            if indices_tuple is not None:
                indices = self._check_indices(indices_tuple, embeddings.device)
                indices, pairs = self.adapt(indices, batch.shape)
            if pairs is None:
                value, active, used = self.compute(batch.measure, indices)
            else:
                matrix = batch.matrix
                with torch.no_grad():
                    value, weights, active, used = self.compute_dense(matrix, *pairs)
                value = _Weighted.apply(matrix, weights, value)
        self.active_share = (active / used.clamp(min=1)).detach().to(value.dtype)
        return value

    @staticmethod
    def _check(embeddings, labels, ref_emb, ref_labels):
        if (ref_emb is None) != (ref_labels is None):
            given = "ref_emb" if ref_labels is None else "ref_labels"
            raise ValueError(f"ref_emb and ref_labels must be given together; got only {given}")
        checked = []
        for prefix, x, y in (("", embeddings, labels), ("ref_", ref_emb, ref_labels)):
            x_name = prefix + "emb" if prefix else "embeddings"
            if x is None and prefix:
                checked.append(None)
                continue
            if not isinstance(x, torch.Tensor) or x.dim() != 2 or not x.is_floating_point():
                raise ValueError(f"{x_name} must be a 2-D floating point tensor; got {_what(x)}")
            if not isinstance(y, torch.Tensor) or y.dim() != 1 or len(y) != len(x):
                raise ValueError(
                    f"{prefix}labels must be a 1-D tensor of length {len(x)}, that of {x_name}; "
                    f"got {_what(y)}"
                )
            if y.is_floating_point() or y.is_complex():
                raise ValueError(f"{prefix}labels must be integers; got {_what(y)}")
            checked.append(y.to(x.device))
        if ref_emb is not None and ref_emb.shape[1] != embeddings.shape[1]:
            raise ValueError(
                f"ref_emb must be as wide as embeddings, {embeddings.shape[1]}; "
                f"got {ref_emb.shape[1]}"
            )
        return checked

    @staticmethod
    def _check_indices(indices, device):
        if not isinstance(indices, (tuple, list)) or not all(map(torch.is_tensor, indices)):
            raise ValueError(
                f"indices_tuple must be a tuple of tensors of indices; got {_what(indices)}"
            )
        lengths = [len(i) for i in indices]
        pairs = lengths[:1] * 2 + lengths[2:3] * 2
        if len(lengths) not in (3, 4) or lengths not in (lengths[:1] * 3, pairs):
            raise ValueError(
                "indices_tuple must be triplets (a, p, n) or pairs (a1, p, a2, n) of equally long "
                f"indices; got lengths {lengths}"
            )
        return tuple(i.to(device) for i in indices)


def _what(value):
    if isinstance(value, torch.Tensor):
        return f"shape {tuple(value.shape)} of {value.dtype}"
    return f"{type(value).__name__}"
