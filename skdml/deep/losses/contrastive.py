"""Contrastive loss: pairs of the same class near, pairs of different classes a margin apart."""

from collections.abc import Callable

import torch
from torch import Tensor

from skdml.deep._pairs import Positives, as_number, reduce_sum, row_blocks
from skdml.deep.losses._checks import check_choice, check_margin
from skdml.deep.losses._pairwise import Indices, PairwiseLoss


def distinct_pairs(indices: Indices, n_columns: int) -> Indices:
    """Convert triplets (a, p, n) to their distinct pairs (a1, p, a2, n); return pairs as given."""
    if len(indices) == 4:
        return indices
    a, p, n = indices
    positive, negative = (a * n_columns + p).unique(), (a * n_columns + n).unique()
    return (
        positive // n_columns,
        positive % n_columns,
        negative // n_columns,
        negative % n_columns,
    )


class ContrastiveLoss(PairwiseLoss):
    r"""Contrastive loss: pairs of the same class near, other pairs at least a margin apart.

    .. math:: \ell(i, j) = z_{ij} \, d_{ij}^k + (1 - z_{ij}) \max(0, m - d_{ij})^k

    z is 1 for pairs of the same class and 0 otherwise, m is the margin, and k is the power. The
    loss is the reduction over the positive pairs plus the reduction over the negative pairs. The
    two kinds are reduced separately, because a batch has far more negatives than positives.

    Unlike the paper, the default power is 1, and the squares (``power=2``) have no factor 1/2.

    Parameters
    ----------
    margin : float, default=1.0
        Distance from which negative pairs cost nothing, > 0. At most 2 for cosine and 1 for
        angular distances.
    power : {1, 2}, default=1
        The power k; 2 gives the squares of the paper.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        Distance between embeddings.
    miner : str, class, callable or None, default="all"
        Chooses the pairs: all pairs, or the distinct pairs of the mined triplets. A callable is
        called as ``miner(embeddings, labels)``, or as ``miner(embeddings, labels, ref_emb,
        ref_labels)`` if there are references, and returns indices.
    reduction : {"active", "mean", "sum"}, default="active"
        Mean over the pairs with a loss > 0, mean over all pairs, or sum; for each kind of pairs.

    Attributes
    ----------
    active_share : Tensor of shape ()
        Share of the negative pairs in the last call that had a loss > 0. Positive pairs are not
        counted, because all of them are active unless their distance is 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range. The message states the allowed values.

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
        self,
        margin: float = 1.0,
        power: int = 1,
        *,
        distance: str = "euclidean",
        miner: str | type | Callable[..., Indices] | None = "all",
        reduction: str = "active",
    ) -> None:
        super().__init__(distance, miner, reduction)
        self.margin = check_margin(margin, distance, zero=False)
        self.power = check_choice("power", power, (1, 2))

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return (
            f"margin={self.margin:g}, power={self.power}, distance={self.distance!r}, "
            f"miner={self.miner!r}, reduction={self.reduction!r}"
        )

    def convert_indices(self, indices: Indices, shape: tuple[int, int]) -> tuple[Indices, None]:
        """Convert triplets to pairs."""
        return distinct_pairs(indices, shape[1]), None

    def compute_dense(
        self, distance: Tensor, positives: Positives, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the loss over all pairs."""
        pos = as_number(positives.valid, distance.dtype)
        pos_distance = distance.gather(1, positives.index).mul_(pos)
        gradient = torch.empty_like(distance)
        row_sum = distance.new_zeros(len(distance))
        row_active = torch.zeros_like(row_sum)
        for rows in row_blocks(*distance.shape):
            excess = (self.margin - distance[rows]).clamp_min_(0)
            excess *= as_number(neg_mask[rows], excess.dtype)
            if self.power == 1:
                row_sum[rows] = excess.sum(1)
                row_active[rows] = excess.sign_().sum(1)
            else:
                row_sum[rows] = torch.linalg.vecdot(excess, excess)
                row_active[rows] = excess.sign().sum(1)
            torch.mul(excess, -self.power, out=gradient[rows])
        n_active, n_used = row_active.long().sum(), neg_mask.count_nonzero()
        one = distance.new_ones(())
        neg_factor = reduce_sum(one, n_active, n_used, self.reduction)
        pos_factor = reduce_sum(
            one, pos_distance.count_nonzero(), positives.count.sum(), self.reduction
        )
        if self.power == 1:
            pos_gradient, pos_sum = pos, pos_distance.sum()
        else:
            pos_gradient, pos_sum = 2 * pos_distance, pos_distance.square().sum()
        gradient.mul_(neg_factor).scatter_add_(1, positives.index, pos_gradient * pos_factor)
        value = row_sum.sum() * neg_factor + pos_sum * pos_factor
        return value, gradient, n_active, n_used

    def compute_listed(
        self, distance_of: Callable[[Tensor, Tensor], Tensor], indices: Indices
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the loss over listed pairs."""
        a, p, b, n = indices
        pos_distance = distance_of(a, p)
        excess = (self.margin - distance_of(b, n)).clamp(min=0)
        n_active, n_used = (excess > 0).sum(), torch.tensor(len(b), device=b.device)
        n_pos_active, n_pos = (pos_distance > 0).sum(), torch.tensor(len(a), device=a.device)
        value = reduce_sum((pos_distance**self.power).sum(), n_pos_active, n_pos, self.reduction)
        return (
            value + reduce_sum((excess**self.power).sum(), n_active, n_used, self.reduction),
            n_active,
            n_used,
        )
