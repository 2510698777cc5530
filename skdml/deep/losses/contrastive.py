"""Losses over pairs: the contrastive loss."""

import torch

from skdml.deep._distances import row_blocks
from skdml.deep.losses._base import PairwiseLoss
from skdml.deep.losses._checks import check_choice, check_margin
from skdml.deep.miners import as_number


def distinct_pairs(indices, columns):
    """Turn triplets (a, p, n) into their distinct pairs (a1, p, a2, n); leave pairs alone."""
    if len(indices) == 4:
        return indices
    a, p, n = indices
    positive, negative = (a * columns + p).unique(), (a * columns + n).unique()
    return positive // columns, positive % columns, negative // columns, negative % columns


class ContrastiveLoss(PairwiseLoss):
    r"""Contrastive loss: pairs of one class together, others at least a margin apart.

    .. math:: \ell(i, j) = z_{ij} \, d_{ij}^k + (1 - z_{ij}) \max(0, m - d_{ij})^k

    with z = 1 for pairs of the same class, the margin m and the power k. The loss is the reduction
    over the positive pairs plus the reduction over the negative pairs: each kind is reduced on its
    own, because a batch has far more negatives than positives.

    Parameters
    ----------
    margin : float, default=1.0
        Distance from which on negative pairs cost nothing; > 0, and at most 2 for cosine and 1
        for angular distances.
    power : {1, 2}, default=1
        1, or 2 for the squares of the paper (which has a further factor 1/2).
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance between embeddings.
    miner : str, class, callable or None, default="all"
        Chooses the pairs: all pairs, or the distinct pairs of the mined triplets. A callable is
        called as ``miner(embeddings, labels)``, with the references as two more arguments where
        there are some, and gives indices.
    reduction : {"active", "mean", "sum"}, default="active"
        Mean over the pairs with a loss > 0, mean over all pairs, or sum, for each kind.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the used negative pairs with a loss > 0. Positives are left out,
        because all of them are active unless their distance is 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range; the message says which values are allowed.

    References
    ----------
    Hadsell, Chopra, LeCun: Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006,
    eq. 4.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0, 0.0], [0.0, 0.5], [0.6, 0.0]])
    >>> loss = ContrastiveLoss(margin=1.0)(x, torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # 0.5 + (0.4 + 0.219) / 2
    0.8095
    """

    def __init__(
        self, margin=1.0, power=1, *, distance="euclidean", miner="all", reduction="active"
    ):
        super().__init__(distance, miner, reduction)
        self.margin = check_margin(margin, distance, zero=False)
        self.power = check_choice("power", power, (1, 2))

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return (
            f"margin={self.margin:g}, power={self.power}, distance={self.distance!r}, "
            f"miner={self.miner!r}, reduction={self.reduction!r}"
        )

    def adapt(self, indices, shape):
        """Take triplets apart; leave pairs alone."""
        return distinct_pairs(indices, shape[1]), None

    def compute_dense(self, distance, positives, different):
        """Loss over all pairs."""
        taken = as_number(positives.taken, distance.dtype)
        near = distance.gather(1, positives.index).mul_(taken)
        weights = torch.empty_like(distance)
        row_sum = distance.new_zeros(len(distance))
        row_active = torch.zeros_like(row_sum)
        for rows in row_blocks(*distance.shape):
            excess = (self.margin - distance[rows]).clamp_min_(0)
            excess *= as_number(different[rows], excess.dtype)
            if self.power == 1:
                row_sum[rows] = excess.sum(1)
                row_active[rows] = excess.sign_().sum(1)
            else:
                row_sum[rows] = torch.linalg.vecdot(excess, excess)
                row_active[rows] = excess.sign().sum(1)
            torch.mul(excess, -self.power, out=weights[rows])
        active, used = row_active.long().sum(), different.count_nonzero()
        pulled, kept = near.count_nonzero(), positives.count.sum()
        one = distance.new_ones(())
        push, pull = self.reduce(one, active, used), self.reduce(one, pulled, kept)
        slope, total = (taken, near.sum()) if self.power == 1 else (2 * near, near.square().sum())
        weights.mul_(push).scatter_add_(1, positives.index, slope * pull)
        return row_sum.sum() * push + total * pull, weights, active, used

    def compute(self, measure, indices):
        """Loss over listed pairs."""
        a, p, b, n = indices
        near = measure(a, p)
        excess = (self.margin - measure(b, n)).clamp(min=0)
        active, used = (excess > 0).sum(), torch.tensor(len(b), device=b.device)
        pulled, kept = (near > 0).sum(), torch.tensor(len(a), device=a.device)
        value = self.reduce((near**self.power).sum(), pulled, kept)
        return value + self.reduce((excess**self.power).sum(), active, used), active, used
