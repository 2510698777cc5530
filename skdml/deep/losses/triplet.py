"""Losses over triplets: the triplet margin loss."""

import math

import torch
from torch.nn import functional as F

from skdml.deep._distances import row_blocks
from skdml.deep.losses._base import PairwiseLoss
from skdml.deep.losses._checks import check_flag, check_margin
from skdml.deep.losses._positives import listed_pairs
from skdml.deep.miners import as_number

# Up to this many positives per anchor, comparing each of them with all negatives is faster than
# ranking the negatives among the sorted positives.
_FEW = 16


def batch_all(distance, positives, different, margin, soft=False):
    r"""Sum of the triplet loss over all triplets, and its gradient by the distances.

    .. math:: \sum_{a,p,n} [d_{ap} + m - d_{an}]_+, \quad
        \frac{\partial}{\partial d_{ap}} = \#\{n : d_{an} < d_{ap} + m\}, \quad
        \frac{\partial}{\partial d_{an}} = -\#\{p : d_{an} < d_{ap} + m\}

    Counts take the place of the cubic list of triplets: the memory is that of the matrix. With
    softplus in place of the hinge, a sum of sigmoids takes the place of a count.

    Parameters
    ----------
    distance : Tensor of shape (n, m)
        Distances from the anchors to the references.
    positives : Positives
        Positive pairs.
    different : bool Tensor of shape (n, m)
        Negative pairs.
    margin : float
        The margin m.
    soft : bool
        Softplus in place of the hinge.

    Returns
    -------
    total : Tensor of shape ()
        Sum of the loss.
    weights : Tensor of shape (n, m)
        Gradient of the sum.
    active, used : int64 Tensor of shape ()
        Number of triplets with a loss > 0, and of all triplets.
    """
    index, taken = positives.index, positives.taken
    width = index.shape[1]
    # A padded positive reaches no negative, and what is no negative lies beyond all reach.
    reach = torch.where(taken, distance.gather(1, index) + margin, -torch.inf)
    weights = torch.empty_like(distance)
    counts = torch.empty_like(reach)
    row_sum, row_active, row_negatives = distance.new_zeros(3, len(distance))
    by_rank = width > _FEW and not soft
    for rows in row_blocks(len(distance), distance.shape[1] * (1 if by_rank else max(1, width))):
        mask = different[rows]
        negatives = torch.where(mask, distance[rows], torch.inf)
        row_negatives[rows] = as_number(mask, distance.dtype).sum(1)
        if by_rank:
            sums = _by_rank(distance[rows], negatives, reach[rows])
        else:
            sums = _by_triplet(negatives, reach[rows], soft)
        row_sum[rows], row_active[rows], counts[rows], reached = sums
        weights[rows] = -reached
    weights.scatter_add_(1, index, counts * taken)
    used = (taken.sum(1) * row_negatives.long()).sum()
    return row_sum.sum(), weights, row_active.long().sum(), used


def _by_triplet(negatives, reach, soft):
    """Return the sums of a block of rows, from the loss of each of its triplets."""
    slope = reach[:, :, None] - negatives[:, None, :]
    if soft:
        loss = F.softplus(slope)
        total = loss.sum((1, 2))
        active = loss.sign_().sum((1, 2))
        counts = slope.sigmoid_().sum(2)
    else:
        total = slope.clamp_min_(0).sum((1, 2))
        counts = slope.sign_().sum(2)
        active = counts.sum(1)
    return total, active, counts, slope.sum(1)


def _by_rank(distance, negatives, reach):
    """Compute the same for the hinge, from the ranks of the negatives among the positives."""
    width = reach.shape[1]
    reach, order = reach.sort(1)
    rank = torch.searchsorted(reach, negatives, right=True)  # the positives that do not reach it
    reached = (width - rank).to(reach.dtype)
    # A positive reaches the negatives whose rank is at most its own place.
    rank += (width + 1) * torch.arange(len(rank), device=rank.device)[:, None]
    counts = torch.bincount(rank.flatten(), minlength=len(rank) * (width + 1))
    counts = counts.view(len(rank), width + 1).cumsum(1)[:, :width].to(reach.dtype)
    # Distances relative to the row's mean, because the two sums nearly cancel.
    centre = distance.mean(1, keepdim=True)
    total = torch.where(reach > -torch.inf, counts * (reach - centre), 0).sum(1)
    total -= torch.linalg.vecdot(reached, distance - centre)
    return total, reached.sum(1), torch.empty_like(counts).scatter_(1, order, counts), reached


def batch_all_swap(distance, positives, different, margin, soft=False):
    r"""Sum of the triplet loss with the swap over all triplets, and its gradient by the distances.

    .. math:: \sum_{a,p,n} [d_{ap} + m - \min(d_{an}, d_{pn})]_+

    Parameters
    ----------
    distance : Tensor of shape (n, n)
        Distances within the batch.
    positives : Positives
        Positive pairs.
    different : bool Tensor of shape (n, n)
        Negative pairs.
    margin : float
        The margin m.
    soft : bool
        Softplus in place of the hinge.

    Returns
    -------
    total : Tensor of shape ()
        Sum of the loss.
    weights : Tensor of shape (n, n)
        Gradient of the sum.
    active, used : int64 Tensor of shape ()
        Number of triplets with a loss > 0, and of all triplets.
    """
    index, taken = positives.index, positives.taken
    shape = index.shape[1], distance.shape[1]
    reach = torch.where(taken, distance.gather(1, index) + margin, -torch.inf)
    weights = torch.zeros_like(distance)
    row_sum, row_active, row_negatives = distance.new_zeros(3, len(distance))
    for rows in row_blocks(len(distance), max(1, 2 * math.prod(shape))):
        mask = as_number(different[rows], distance.dtype)[:, None]
        own, mates = distance[rows, None], index[rows].flatten()
        other = distance.index_select(0, mates).view(len(own), *shape)
        gap = torch.minimum(own, other)
        torch.sub(reach[rows, :, None], gap, out=gap)
        if soft:
            loss = F.softplus(gap).mul_(mask)
            row_sum[rows] = loss.sum((1, 2))
            row_active[rows] = loss.sign_().sum((1, 2))
            slope = gap.sigmoid_().mul_(mask)
        else:
            slope = gap.clamp_min_(0).mul_(mask)
            row_sum[rows] = slope.sum((1, 2))
            row_active[rows] = slope.sign_().sum((1, 2))
        row_negatives[rows] = mask.sum((1, 2))
        weights[rows].scatter_add_(1, index[rows], slope.sum(2))
        swapped = torch.lt(other, own, out=other).mul_(slope)
        weights[rows] -= slope.sub_(swapped).sum(1)
        weights.index_add_(0, mates, swapped.flatten(0, 1), alpha=-1)
    used = (taken.sum(1) * row_negatives.long()).sum()
    return row_sum.sum(), weights, row_active.long().sum(), used


class TripletLoss(PairwiseLoss):
    r"""Triplet margin loss: each positive nearer than each negative, by a margin.

    .. math:: \ell(a, p, n) = \max(0, d(a, p) - d(a, n) + m)

    With the swap, the lesser of d(a, n) and d(p, n) takes the place of d(a, n): the negative is
    kept from whichever of the two it is nearer to.

    Over all triplets it is exact in O(B^2 log B) time and O(B^2) memory; soft or with the
    swap, the time also grows with the size of the largest class.

    Parameters
    ----------
    margin : float, default=0.2
        The margin m; >= 0, and at most 2 for cosine and 1 for angular distances.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance between embeddings. FaceNet squares the Euclidean distance.
    soft : bool, default=False
        Softplus, log(1 + exp(d(a, p) - d(a, n) + m)), in place of the hinge.
    swap : bool, default=False
        Whether to take the lesser distance of the negative. It takes no references, because
        the distances among them are not known; a miner chooses without regard to it.
    miner : str, class, callable or None, default="all"
        Chooses the triplets. A callable is called as ``miner(embeddings, labels)``, with the
        references as two more arguments where there are some, and gives triplets or pairs; pairs
        with a common anchor, each taken once, are joined to triplets.
    reduction : {"active", "mean", "sum"}, default="active"
        Mean over the triplets with a loss > 0, mean over all triplets, or sum.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the used triplets with a loss > 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range; the message says which values are allowed.

    References
    ----------
    Schroff, Kalenichenko, Philbin: FaceNet: A Unified Embedding for Face Recognition and
    Clustering, CVPR 2015, eq. 3.
    Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017 (batch
    hard, batch all, the soft margin).
    Balntas, Riba, Ponsa, Mikolajczyk: Learning Local Feature Descriptors with Triplets and Shallow
    Convolutional Neural Networks, BMVC 2016 (the anchor swap).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [1.5], [9.0]])
    >>> loss = TripletLoss(margin=1.0)
    >>> loss(x, torch.tensor([0, 0, 1, 1])).item(), loss.active_share.item()
    (3.5, 0.625)
    """

    def __init__(
        self,
        margin=0.2,
        *,
        distance="euclidean",
        soft=False,
        swap=False,
        miner="all",
        reduction="active",
    ):
        super().__init__(distance, miner, reduction)
        self.margin = check_margin(margin, distance, zero=True)
        self.soft = check_flag("soft", soft)
        self.swap = check_flag("swap", swap)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return (
            f"margin={self.margin:g}, distance={self.distance!r}, soft={self.soft}, "
            f"swap={self.swap}, miner={self.miner!r}, reduction={self.reduction!r}"
        )

    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        """Compute the loss of a batch; the call is that of all losses (see `PairwiseLoss`)."""
        if self.swap and ref_emb is not None:
            raise ValueError("swap=True takes no references; leave out ref_emb and ref_labels")
        return super().forward(embeddings, labels, indices_tuple, ref_emb, ref_labels)

    def adapt(self, indices, shape):
        """Join pairs by their anchors; leave triplets alone."""
        if len(indices) == 3:
            return indices, None
        # The joined triplets may be as many as all triplets, so they are not listed.
        return None, listed_pairs(indices, shape)

    def compute_dense(self, distance, positives, different):
        """Loss over all triplets of some pairs."""
        every = batch_all_swap if self.swap else batch_all
        total, weights, active, used = every(distance, positives, different, self.margin, self.soft)
        factor = self.reduce(distance.new_ones(()), active, used)
        return total * factor, weights.mul_(factor), active, used

    def compute(self, measure, indices):
        """Loss over listed triplets."""
        a, p, n = indices
        if self.swap:
            near, far, other = measure(torch.cat([a, a, p]), torch.cat([p, n, n])).tensor_split(3)
            far = torch.minimum(far, other)
        else:
            near, far = measure(torch.cat([a, a]), torch.cat([p, n])).tensor_split(2)
        gap = near - far + self.margin
        loss = F.softplus(gap) if self.soft else gap.clamp(min=0)
        active, used = (loss > 0).sum(), torch.tensor(len(a), device=a.device)
        return self.reduce(loss.sum(), active, used), active, used
