"""What the losses share that are a function of all distances of a batch and of two masks."""

import math
from abc import ABC, abstractmethod
from numbers import Integral, Real

import torch

from skdml.deep._pairwise import pairwise_distance, row_blocks
from skdml.deep.miners import as_number, label_masks, padded_slots
from skdml.distances import check_distance

from ._base import PairwiseLoss, _Weighted

# Logits beyond this are cut: far outside of anything learned, and still safe to subtract.
_FARTHEST = 1e30
_BEYOND = 1e32  # what is masked lies beyond all logits


def check_positive(name, value, *, zero=False, below=math.inf):
    """Return the value as a float, or raise a ValueError that says which are allowed."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not (number and (0 < value < below or (zero and value == 0))):
        allowed = f"{'>=' if zero else '>'} 0" + (f" and < {below:g}" if below < math.inf else "")
        raise ValueError(f"{name} must be a finite number {allowed}; got {value!r}")
    return float(value)


def check_count(name, value, least=1):
    """Return the value as an int, or raise a ValueError that says which are allowed."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}; got {value!r}")
    return int(value)


def check_flag(name, value):
    """Return the value, or raise a ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False; got {value!r}")
    return value


def check_views(embeddings, indices_tuple, ref_emb):
    """Raise a ValueError unless the rows of the embeddings and of the references are pairs."""
    if indices_tuple is not None:
        raise ValueError("the pairs are given by the rows; indices_tuple must be None")
    if ref_emb is None:
        raise ValueError("ref_emb must be given: its row i is the partner of row i of embeddings")
    empty = [torch.zeros(len(t), dtype=torch.long) for t in (embeddings, ref_emb)]
    PairwiseLoss._check(embeddings, empty[0], ref_emb, empty[1])
    if len(embeddings) != len(ref_emb):
        raise ValueError(
            f"ref_emb must have as many rows as embeddings, {len(embeddings)}; got {len(ref_emb)}"
        )


def logits(distance, temperature):
    """Logits -d / temperature of a softmax over distances, finite whatever the distances."""
    return (distance / -temperature).clamp(-_FARTHEST, _FARTHEST)


def log_sum_exp(logit, mask):
    """Logarithm of the sum of exp(logit) over the true entries of each row; without any, -1e32."""
    # Added, and not chosen by torch.where, which takes many times longer in both directions.
    return (logit + as_number(mask, logit.dtype).sub_(1).mul_(_BEYOND)).logsumexp(1)


def _some(mask):
    """Whether a row has a true entry; summed as numbers, which is far quicker than mask.any."""
    return as_number(mask, torch.float32).sum(1) > 0


def few(mask):
    """Columns of the true entries of each row, packed, and which of these places are taken.

    The positives of a row are few, so that what is done with them alone costs next to nothing.
    """
    row, column, place, width = padded_slots(mask)
    index = torch.zeros(len(mask), width, dtype=torch.long, device=mask.device)
    index[row, place] = column
    taken = torch.zeros_like(index, dtype=torch.bool)
    taken[row, place] = True
    return index, taken


def loss_masks(labels, ref_labels, indices=None):
    """Positive and negative pairs: two masks, by the labels or by given tuples.

    Triplets (a, p, n) stand for the pairs (a, p) and (a, n).
    """
    if indices is None:
        return label_masks(labels, ref_labels)
    a, p, *rest = PairwiseLoss._check_indices(indices, labels.device)
    b, n = rest if len(rest) == 2 else (a, *rest)
    shape = len(labels), len(labels if ref_labels is None else ref_labels)
    same, different = torch.zeros(2, *shape, dtype=torch.bool, device=labels.device)
    same[a, p] = True
    different[b, n] = True
    return same, different


def sum_of_rows(function, distance, same, different, work=1):
    r"""Sum of a loss per row, and its gradient by the distances, a block of rows at a time.

    .. math:: \sum_i \ell(d_{i \cdot}), \quad
        \frac{\partial}{\partial d_{ij}} = \frac{\partial \ell(d_{i \cdot})}{\partial d_{ij}}

    A row's loss knows only its own row. So forward and backward of a block are done at once, while
    the block is in the processor's cache, and nothing is kept of it but its gradient.

    Parameters
    ----------
    function : callable
        ``function(distance, same, different)`` gives the losses of a block of rows.
    distance : Tensor of shape (n, m)
        Distances, with or without a gradient.
    same, different : bool Tensor of shape (n, m)
        Positive and negative pairs.
    work : int
        Numbers that the function keeps for each distance; the more, the smaller the blocks.

    Returns
    -------
    total : Tensor of shape ()
        The sum, differentiable by the distances.
    active : Tensor of shape ()
        How many rows have a loss > 0.
    """
    wanted = distance.requires_grad and torch.is_grad_enabled()
    given = distance.detach()
    weights = torch.empty_like(given) if wanted else None
    total = given.new_zeros(())
    active = given.new_zeros(())
    for rows in row_blocks(len(given), given.shape[1] * work):
        with torch.set_grad_enabled(wanted):
            block = given[rows].requires_grad_(wanted)
            losses = function(block, same[rows], different[rows])
            part = losses.sum()
        if wanted:
            (weights[rows],) = torch.autograd.grad(part, block)
        total += part.detach()
        active += (losses.detach() > 0).sum()
    return (_Weighted.apply(distance, weights, total) if wanted else total), active


class MatrixLoss(torch.nn.Module, ABC):
    """Base of the losses over all pairs of a batch.

    :meth:`forward` checks, measures and masks; ``compute`` says what the loss is.

    Parameters
    ----------
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance between embeddings.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the embeddings that are anchors with a loss > 0, detached.
    """

    # The pairs that an anchor must have: rows without them are left out.
    needs_same, needs_different = True, True

    def __init__(self, distance):
        super().__init__()
        self.distance = check_distance(distance)
        self.active_share = torch.tensor(0.0)

    def measure(self, embeddings, labels, ref_emb):
        """Matrix that the loss is a function of."""
        return pairwise_distance(embeddings, ref_emb, self.distance)

    @abstractmethod
    def compute(self, distance, same, different):
        """Loss of the anchors that have what they need: (value, number of active anchors)."""

    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        """Compute the loss of a batch.

        Parameters
        ----------
        embeddings : Tensor of shape (n, d)
            Anchors, floating point; without references all pairs are inside the batch.
        labels : int Tensor of shape (n,)
            Classes of the embeddings.
        indices_tuple : tuple of int64 Tensors, optional
            Pairs (a1, p, a2, n), or triplets (a, p, n), which stand for their pairs. Given, only
            these are used.
        ref_emb : Tensor of shape (m, d), optional
            References: pairs run from the embeddings to them, and none counts as a self pair.
        ref_labels : int Tensor of shape (m,), optional
            Classes of the references.

        Returns
        -------
        Tensor of shape ()
            The loss; float64 for float64 embeddings, else float32. Where no anchor has the pairs
            it needs it is zero, with a gradient of zero.

        Raises
        ------
        ValueError
            If shapes or types do not fit, or only one of ref_emb and ref_labels is given.
        """
        labels, ref_labels = PairwiseLoss._check(embeddings, labels, ref_emb, ref_labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            matrix = self.measure(embeddings, labels, ref_emb)
            masks = loss_masks(labels, ref_labels, indices_tuple)
            value, active = self.compute(*self._useful(matrix, *masks))
        share = torch.as_tensor(active / max(1, len(embeddings)), device=value.device)
        self.active_share = share.detach().to(value.dtype)
        return value

    def _useful(self, matrix, same, different):
        keep = torch.ones(len(matrix), dtype=torch.bool, device=matrix.device)
        if self.needs_same:
            keep &= _some(same)
        if self.needs_different:
            keep &= _some(different)
        if keep.all():
            return matrix, same, different
        return matrix[keep], same[keep], different[keep]


class RowLoss(MatrixLoss):
    """Base of the losses that are a mean over anchors, of a function of the anchor's distances."""

    @abstractmethod
    def rows(self, distance, same, different):
        """Losses of some anchors, of shape (rows,)."""

    def count(self, same):
        """By how much the sum over anchors is divided."""
        return len(same)

    def work(self, same):
        """Numbers kept for each distance, if they are many."""
        return 1

    def compute(self, distance, same, different):
        """Mean over the anchors."""
        total, active = sum_of_rows(self.rows, distance, same, different, self.work(same))
        return total / max(1, self.count(same)), active
