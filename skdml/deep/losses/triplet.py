"""Triplet loss: each positive nearer than each negative, by a margin."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from skdml.deep._pairs import Positives, as_number, pairs_from_indices, reduce_sum, row_blocks
from skdml.deep.losses._checks import check_flag, check_margin
from skdml.deep.losses._pairwise import Indices, Pairs, PairwiseLoss

# With up to this many positives per anchor, it is faster to compare each positive with all
# negatives than to rank the negatives among the sorted positives.
_FEW_POSITIVES = 16


def batch_all(
    distance: Tensor, positives: Positives, neg_mask: Tensor, margin: float, soft: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Sum of the triplet loss over all triplets, and its gradient.

    .. math:: \sum_{a,p,n} [d_{ap} + m - d_{an}]_+, \quad
        \frac{\partial}{\partial d_{ap}} = \#\{n : d_{an} < d_{ap} + m\}, \quad
        \frac{\partial}{\partial d_{an}} = -\#\{p : d_{an} < d_{ap} + m\}

    The triplets are counted, not listed, so the memory is that of the matrix. The soft loss has
    sums of sigmoids in place of the counts.

    Parameters
    ----------
    distance : Tensor of shape (n, m)
        Distances from the anchors to the references.
    positives : Positives
        Positive pairs.
    neg_mask : bool Tensor of shape (n, m)
        Negative pairs.
    margin : float
        The margin m.
    soft : bool, default=False
        If True, softplus replaces the hinge.

    Returns
    -------
    total : Tensor of shape ()
        Sum of the loss.
    gradient : Tensor of shape (n, m)
        Gradient of the sum with respect to the distances.
    n_active, n_used : int64 Tensor of shape ()
        Number of triplets with a loss > 0, and number of all triplets.
    """
    index, valid = positives.index, positives.valid
    width = index.shape[1]
    # Negatives nearer than the limit d_ap + m have a loss. Padded positives have no such negative.
    limit = torch.where(valid, distance.gather(1, index) + margin, -torch.inf)
    gradient = torch.empty_like(distance)
    pos_gradient = torch.empty_like(limit)
    row_sum, row_active, row_negatives = distance.new_zeros(3, len(distance))
    by_rank = width > _FEW_POSITIVES and not soft
    for rows in row_blocks(len(distance), distance.shape[1] * (1 if by_rank else max(1, width))):
        mask = neg_mask[rows]
        negatives = torch.where(mask, distance[rows], torch.inf)
        row_negatives[rows] = as_number(mask, distance.dtype).sum(1)
        if by_rank:
            sums = _sums_by_rank(distance[rows], negatives, limit[rows])
        else:
            sums = _sums_by_triplet(negatives, limit[rows], soft)
        row_sum[rows], row_active[rows], pos_gradient[rows], counts = sums
        gradient[rows] = -counts
    gradient.scatter_add_(1, index, pos_gradient * valid)
    n_used = (valid.sum(1) * row_negatives.long()).sum()
    return row_sum.sum(), gradient, row_active.long().sum(), n_used


def _sums_by_triplet(
    negatives: Tensor, limit: Tensor, soft: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum a block of rows over its triplets.

    Returns loss and number of active triplets of each row, and the gradients with respect to the
    distances of positives and (negated) of all points.
    """
    gap = limit[:, :, None] - negatives[:, None, :]
    if soft:
        loss = F.softplus(gap)
        total = loss.sum((1, 2))
        n_active = loss.sign_().sum((1, 2))
        pos_gradient = gap.sigmoid_().sum(2)
    else:
        total = gap.clamp_min_(0).sum((1, 2))
        pos_gradient = gap.sign_().sum(2)
        n_active = pos_gradient.sum(1)
    return total, n_active, pos_gradient, gap.sum(1)


def _sums_by_rank(
    distance: Tensor, negatives: Tensor, limit: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the sums of `_sums_by_triplet` (hinge) by ranking negatives among the limits."""
    width = limit.shape[1]
    limit, order = limit.sort(1)
    rank = torch.searchsorted(limit, negatives, right=True)  # number of limits up to the negative
    n_positives = (width - rank).to(limit.dtype)
    # A positive has a loss with the negatives whose rank is at most its own position.
    rank += (width + 1) * torch.arange(len(rank), device=rank.device)[:, None]
    n_negatives = torch.bincount(rank.flatten(), minlength=len(rank) * (width + 1))
    n_negatives = n_negatives.view(len(rank), width + 1).cumsum(1)[:, :width].to(limit.dtype)
    # Distances are taken relative to the row mean, because the two sums nearly cancel.
    centre = distance.mean(1, keepdim=True)
    total = torch.where(limit > -torch.inf, n_negatives * (limit - centre), 0).sum(1)
    total -= torch.linalg.vecdot(n_positives, distance - centre)
    pos_gradient = torch.empty_like(n_negatives).scatter_(1, order, n_negatives)
    return total, n_positives.sum(1), pos_gradient, n_positives


def batch_all_swap(
    distance: Tensor, positives: Positives, neg_mask: Tensor, margin: float, soft: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Sum of the triplet loss with the anchor swap over all triplets, and its gradient.

    .. math:: \sum_{a,p,n} [d_{ap} + m - \min(d_{an}, d_{pn})]_+

    Parameters
    ----------
    distance : Tensor of shape (n, n)
        Distances within the batch.
    positives : Positives
        Positive pairs.
    neg_mask : bool Tensor of shape (n, n)
        Negative pairs.
    margin : float
        The margin m.
    soft : bool, default=False
        If True, softplus replaces the hinge.

    Returns
    -------
    total : Tensor of shape ()
        Sum of the loss.
    gradient : Tensor of shape (n, n)
        Gradient of the sum with respect to the distances.
    n_active, n_used : int64 Tensor of shape ()
        Number of triplets with a loss > 0, and number of all triplets.
    """
    index, valid = positives.index, positives.valid
    shape = index.shape[1], distance.shape[1]
    limit = torch.where(valid, distance.gather(1, index) + margin, -torch.inf)
    gradient = torch.zeros_like(distance)
    row_sum, row_active, row_negatives = distance.new_zeros(3, len(distance))
    for rows in row_blocks(len(distance), max(1, 2 * math.prod(shape))):
        mask = as_number(neg_mask[rows], distance.dtype)[:, None]
        from_anchor, pos_index = distance[rows, None], index[rows].flatten()
        from_positive = distance.index_select(0, pos_index).view(len(from_anchor), *shape)
        gap = torch.minimum(from_anchor, from_positive)
        torch.sub(limit[rows, :, None], gap, out=gap)
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
        gradient[rows].scatter_add_(1, index[rows], slope.sum(2))
        swapped = torch.lt(from_positive, from_anchor, out=from_positive).mul_(slope)
        gradient[rows] -= slope.sub_(swapped).sum(1)
        gradient.index_add_(0, pos_index, swapped.flatten(0, 1), alpha=-1)
    n_used = (valid.sum(1) * row_negatives.long()).sum()
    return row_sum.sum(), gradient, row_active.long().sum(), n_used


class TripletLoss(PairwiseLoss):
    r"""Triplet margin loss: each positive nearer than each negative, by a margin.

    .. math:: \ell(a, p, n) = \max(0, d(a, p) - d(a, n) + m)

    With the anchor swap, the smaller of d(a, n) and d(p, n) replaces d(a, n): the negative must be
    far from the anchor and from the positive.

    The loss over all triplets is exact. It takes O(B^2 log B) time and O(B^2) memory for a batch
    of B points. If soft or with the swap, the time also grows with the size of the largest class.

    Unlike the paper by Schroff et al., which squares the Euclidean distance and sums over the
    triplets, the default distance is not squared and the default loss is a mean. For the loss of
    the paper, use ``distance="sqeuclidean"`` and ``reduction="sum"``.

    Parameters
    ----------
    margin : float, default=0.2
        The margin m, >= 0. At most 2 for cosine and 1 for angular distances.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        Distance between embeddings.
    soft : bool, default=False
        If True, softplus, log(1 + exp(d(a, p) - d(a, n) + m)), replaces the hinge.
    swap : bool, default=False
        If True, use the anchor swap. It takes no references, because the distances among
        references are not known. A miner chooses triplets without the swap.
    miner : str, class, callable or None, default="all"
        Chooses the triplets. A callable is called as ``miner(embeddings, labels)``, or as
        ``miner(embeddings, labels, ref_emb, ref_labels)`` if there are references, and returns
        triplets or pairs. Each positive pair is combined with each negative pair of the same
        anchor to a triplet; repeated pairs count once.
    reduction : {"active", "mean", "sum"}, default="active"
        Mean over the triplets with a loss > 0, mean over all triplets, or sum.

    Attributes
    ----------
    active_share : Tensor of shape ()
        Share of the triplets in the last call that had a loss > 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range. The message states the allowed values.

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
        margin: float = 0.2,
        *,
        distance: str = "euclidean",
        soft: bool = False,
        swap: bool = False,
        miner: str | type | Callable[..., Indices] | None = "all",
        reduction: str = "active",
    ) -> None:
        super().__init__(distance, miner, reduction)
        self.margin = check_margin(margin, distance, zero=True)
        self.soft = check_flag("soft", soft)
        self.swap = check_flag("swap", swap)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return (
            f"margin={self.margin:g}, distance={self.distance!r}, soft={self.soft}, "
            f"swap={self.swap}, miner={self.miner!r}, reduction={self.reduction!r}"
        )

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Indices | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch; see `PairwiseLoss.forward`."""
        if self.swap and ref_emb is not None:
            raise ValueError("swap=True takes no references; leave out ref_emb and ref_labels")
        return super().forward(embeddings, labels, indices_tuple, ref_emb, ref_labels)

    def convert_indices(
        self, indices: Indices, shape: tuple[int, int]
    ) -> tuple[Indices | None, Pairs | None]:
        """Return triplets as given; combine pairs to all their triplets."""
        if len(indices) == 3:
            return indices, None
        # The triplets of given pairs can be as many as all triplets, so they are not listed.
        return None, pairs_from_indices(indices, shape)

    def compute_dense(
        self, distance: Tensor, positives: Positives, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the loss over all triplets of some pairs."""
        sum_over_triplets = batch_all_swap if self.swap else batch_all
        total, gradient, n_active, n_used = sum_over_triplets(
            distance, positives, neg_mask, self.margin, self.soft
        )
        factor = reduce_sum(distance.new_ones(()), n_active, n_used, self.reduction)
        return total * factor, gradient.mul_(factor), n_active, n_used

    def compute_listed(
        self, distance_of: Callable[[Tensor, Tensor], Tensor], indices: Indices
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the loss over listed triplets."""
        a, p, n = indices
        if self.swap:
            # One call for all pairs, because it may compute the whole matrix.
            distances = distance_of(torch.cat([a, a, p]), torch.cat([p, n, n]))
            d_ap, d_an, d_pn = distances.tensor_split(3)
            d_an = torch.minimum(d_an, d_pn)
        else:
            d_ap, d_an = distance_of(torch.cat([a, a]), torch.cat([p, n])).tensor_split(2)
        gap = d_ap - d_an + self.margin
        loss = F.softplus(gap) if self.soft else gap.clamp(min=0)
        n_active, n_used = (loss > 0).sum(), torch.tensor(len(a), device=a.device)
        return reduce_sum(loss.sum(), n_active, n_used, self.reduction), n_active, n_used
