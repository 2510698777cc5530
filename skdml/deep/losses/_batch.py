"""What the losses share that are a function of all distances of a batch."""

from abc import ABC, abstractmethod

import torch

from skdml.deep._distances import pairwise_distance, row_blocks
from skdml.deep.losses._base import _Weighted
from skdml.deep.losses._checks import check_batch, check_indices
from skdml.deep.losses._positives import label_pairs, listed_pairs
from skdml.deep.miners import as_number
from skdml.distances import check_distance


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
        labels, ref_labels = check_batch(embeddings, labels, ref_emb, ref_labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            matrix = self.measure(embeddings, labels, ref_emb)
            if indices_tuple is None:
                positives, different = label_pairs(labels, ref_labels)
                others = (len(labels) - 1) if ref_labels is None else len(ref_labels)
                opposed = positives.count < others
            else:
                indices = check_indices(indices_tuple, labels.device)
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
