"""What the losses share that are a function of all distances of a batch."""

import math
from abc import ABC, abstractmethod
from numbers import Integral, Real

import torch
from torch.autograd.function import once_differentiable

from skdml.deep._pairwise import pairwise_distance, row_blocks
from skdml.deep.miners import as_number
from skdml.distances import check_distance

from ._base import PairwiseLoss, _Weighted
from ._positives import label_pairs, listed_pairs

# Logits beyond this are cut: far outside of anything learned, and still safe to subtract.
_FARTHEST = 1e30
_BEYOND = 1e32  # what is masked lies beyond all logits

# exp(-60) is nothing beside 1, also in double precision. Exponentials that near the end of the
# range of single precision take up to a hundred times as long, and so does what is done with them.
_NOTHING = 60.0


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


def exponentials(value, mask, factor):
    r"""Exponentials over the true entries of each row, and the logarithm of their sum.

    .. math:: l_i = \log \sum_j m_{ij} e^{c v_{ij}}, \quad
        \frac{\partial l_i}{\partial v_{ij}} = a_i e_{ij}

    Parameters
    ----------
    value : Tensor of shape (n, m)
        The values v, m > 0; products c v beyond 1e30 are cut, and have no gradient.
    mask : bool Tensor of shape (n, m)
        The mask m.
    factor : float
        The factor c.

    Returns
    -------
    share : Tensor of shape (n, m)
        The exponentials e, the largest of each row 1.
    scale : Tensor of shape (n,)
        What makes the gradient of them, a.
    log_sum : Tensor of shape (n,)
        The logarithms l; -1e32 for a row without a true entry.
    """
    # Subtracted, and not chosen by torch.where, which takes many times longer.
    share = as_number(~mask, value.dtype).mul_(-_BEYOND).add_(value, alpha=factor)
    peak = share.amax(1)
    if (peak.abs() >= _FARTHEST).any():  # nothing to choose from, or something to cut
        share = (value * factor).clamp_(-_FARTHEST, _FARTHEST)
        share.sub_(as_number(~mask, share.dtype), alpha=_BEYOND)
        peak = share.amax(1)
    total = share.sub_(peak[:, None]).clamp_(min=-_NOTHING).exp_().sum(1)
    # What was cut has no gradient; only where nothing is nearer does it have a share.
    scale = torch.where(peak.abs() < _FARTHEST, factor / total, 0)
    return share, scale, peak + total.log()


class _LogSumExp(torch.autograd.Function):
    """As :func:`log_sum_exp`, with one exponential for each entry, kept for the gradient."""

    @staticmethod
    def forward(ctx, value, mask, factor):
        share, scale, log_sum = exponentials(value, mask, factor)
        ctx.save_for_backward(share, scale)
        return log_sum

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        share, scale = ctx.saved_tensors
        return share * (grad * scale)[:, None], None, None


def log_sum_exp(value, mask, factor=1.0):
    r"""Logarithm of a sum of exponentials over the true entries of each row.

    .. math:: \log \sum_j m_{ij} e^{c v_{ij}}

    Parameters
    ----------
    value : Tensor of shape (n, m)
        The values v, m > 0; products c v beyond 1e30 are cut, and have no gradient.
    mask : bool Tensor of shape (n, m)
        The mask m.
    factor : float
        The factor c.

    Returns
    -------
    Tensor of shape (n,)
        The logarithms; -1e32 for a row without a true entry.
    """
    return _LogSumExp.apply(value, mask, factor)


def some(mask):
    """Whether a row has a true entry; summed as numbers, which is far quicker than mask.any."""
    return as_number(mask, torch.float32).sum(1) > 0


def _listed(result):
    return result if isinstance(result, tuple) else (result,)


def sum_of_rows(function, leaves, others, work=1):
    r"""Sum of a loss per row, and its gradient by the row's values, a block of rows at a time.

    A row's loss knows only its own row. So forward and backward of a block are done at once, while
    the block is in the processor's cache, and nothing is kept of it but its gradient.

    Parameters
    ----------
    function : callable
        ``function(*leaves, *others)``, given blocks of rows, gives the losses of these rows; or
        these and their slopes by each of the leaves, and then no graph is recorded.
    leaves : sequence of Tensors of shape (n, ...)
        What the gradient is wanted of; widest last.
    others : sequence of Tensors of shape (n, ...)
        Constants.
    work : int
        Numbers that the function keeps for each value; the more, the smaller the blocks.

    Returns
    -------
    total : Tensor of shape ()
        The sum, detached.
    active : Tensor of shape ()
        How many rows have a loss > 0.
    slopes : list of Tensors
        Gradient by each of the leaves; empty if none of them wants one.
    """
    wanted = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves)
    leaves = [leaf.detach() for leaf in leaves]
    slopes, sums = [], []
    for rows in row_blocks(len(leaves[-1]), leaves[-1].shape[1] * work):
        block = [leaf[rows].requires_grad_(wanted) for leaf in leaves]
        losses, *known = _listed(function(*block, *(other[rows] for other in others)))
        if wanted and known and len(losses) == len(leaves[-1]):
            slopes = known
        elif wanted:
            slopes = slopes or [torch.empty_like(leaf) for leaf in leaves]
            grads = known or torch.autograd.grad(losses.sum(), block)
            for slope, grad in zip(slopes, grads, strict=True):
                slope[rows] = grad
        losses = losses.detach()
        sums.append((losses.sum(), (losses > 0).sum()))
    if not sums:
        return *leaves[-1].new_zeros(2), [torch.empty_like(leaf) for leaf in leaves if wanted]
    total, active = map(sum, zip(*sums, strict=True))
    return total, active, slopes


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
    def compute(self, distance, positives, different):
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
            if indices_tuple is None:
                positives, different = label_pairs(labels, ref_labels)
                others = (len(labels) - 1) if ref_labels is None else len(ref_labels)
                opposed = positives.count < others
            else:
                indices = PairwiseLoss._check_indices(indices_tuple, labels.device)
                positives, different = listed_pairs(indices, (len(labels), matrix.shape[1]))
                opposed = some(different)
            value, active = self.compute(*self._useful(matrix, positives, different, opposed))
        share = torch.as_tensor(active / max(1, len(embeddings)), device=value.device)
        self.active_share = share.detach().to(value.dtype)
        return value

    def _useful(self, matrix, positives, different, opposed):
        """Leave out the rows without what is needed; the last mask are those with a negative."""
        keep = positives.count > 0 if self.needs_same else torch.ones_like(opposed)
        if self.needs_different:
            keep &= opposed
        if keep.all():
            return matrix, positives, different
        return matrix[keep], positives.of_rows(keep), different[keep]


class RowLoss(MatrixLoss):
    """Base of the losses that are a mean over anchors, of a function of the anchor's distances."""

    @abstractmethod
    def rows(self, near, distance, taken, different):
        """Losses of some anchors, of shape (rows,), or these and their slopes (`sum_of_rows`).

        ``near`` are the distances of the positives, in the places ``taken`` of each row, and
        ``distance`` all distances, of which the mask ``different`` tells the negatives.
        """

    def count(self, positives):
        """By how much the sum over anchors is divided."""
        return len(positives.taken)

    def work(self, positives):
        """Numbers kept for each distance, if they are many."""
        return 1

    def compute(self, distance, positives, different):
        """Mean over the anchors."""
        near = distance.detach().gather(1, positives.index)
        total, active, slopes = sum_of_rows(
            self.rows, (near, distance), (positives.taken, different), self.work(positives)
        )
        share = 1 / max(1, self.count(positives))
        if slopes:
            of_near, weights = slopes
            weights.scatter_add_(1, positives.index, of_near).mul_(share)
            return _Weighted.apply(distance, weights, total * share), active
        return total * share, active
