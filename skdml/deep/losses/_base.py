"""What the losses over pairs and triplets share."""

import math
from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch.autograd.function import once_differentiable

from skdml.deep._distances import paired_distance, pairwise_distance
from skdml.deep.losses._checks import check_batch, check_choice, check_indices
from skdml.deep.losses._positives import label_pairs
from skdml.deep.miners import AllTripletsMiner, Miner, get_miner, label_masks
from skdml.distances import check_distance

REDUCTIONS = ("active", "mean", "sum")


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
        labels, ref_labels = check_batch(embeddings, labels, ref_emb, ref_labels)
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
                indices_tuple = check_indices(mined, embeddings.device)

        with torch.autocast(embeddings.device.type, enabled=False):
            pairs = None
            if indices_tuple is None and every:
                pairs = label_pairs(labels, ref_labels)
            elif indices_tuple is None:
                masks = label_masks(labels, ref_labels)
                indices_tuple = self.miner.mine(batch.matrix.detach(), *masks)
            if indices_tuple is not None:
                indices = check_indices(indices_tuple, embeddings.device)
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
