"""Uniform miner: pairs drawn evenly over the range of distances."""

from numbers import Integral

import torch
from sklearn.utils import check_scalar
from torch import Tensor

from skdml.deep.miners._base import Miner


def mine_uniform(
    distance: Tensor,
    same: Tensor,
    different: Tensor,
    n_bins: int,
    pos_per_bin: int,
    neg_per_bin: int,
) -> tuple[Tensor, ...]:
    """Draw pairs of each kind from each bin of their distances."""
    pairs: list[Tensor] = []
    for mask, per_bin in ((same, pos_per_bin), (different, neg_per_bin)):
        row, column = mask.nonzero(as_tuple=True)
        chosen = draw_by_bin(distance[row, column], n_bins, per_bin)
        pairs += [row[chosen], column[chosen]]
    return tuple(pairs)


def draw_by_bin(values: Tensor, n_bins: int, per_bin: int) -> Tensor:
    """Draw entries from each bin of a histogram with bins of equal width.

    Parameters
    ----------
    values : Tensor of shape (n,)
        The numbers. NaN has a bin of its own.
    n_bins : int
        Number of bins between the smallest and the largest number.
    per_bin : int
        Number of entries to draw from each bin, without repetition. If a bin has fewer entries,
        all are drawn.

    Returns
    -------
    int64 Tensor of shape (n_drawn,)
        Indices of the drawn entries, in order.
    """
    if len(values) == 0:
        return values.new_zeros(0, dtype=torch.long)
    # A tensor as the replacement spares a transfer from the device.
    known = values.nan_to_num(values[~values.isnan()].mean())  # type: ignore[arg-type]
    low, high = known.aminmax()
    share = (known - low) / (high - low).clamp(min=torch.finfo(known.dtype).tiny)
    bins = (share * n_bins).long().clamp(0, n_bins - 1).masked_fill(values.isnan(), n_bins)
    order = torch.randperm(len(bins), device=bins.device)
    order = order[bins[order].argsort(stable=True)]
    counts = torch.bincount(bins, minlength=n_bins + 1)
    place = torch.arange(len(bins), device=bins.device) - (counts.cumsum(0) - counts)[bins[order]]
    return order[place < per_bin].sort().values


class UniformMiner(Miner):
    """Pairs drawn evenly over the range of distances.

    The distances of the positive pairs of a batch, and those of its negative pairs, are divided
    into bins of equal width between the smallest and the largest. A number of pairs is drawn from
    each bin, or all of them if the bin has fewer. No pair is drawn twice. The draws use torch's
    global random generator.

    Unlike the paper, which draws by the density of distances on a sphere, the bins count the
    distances of the batch.

    Parameters
    ----------
    n_bins : int, default=100
        Number of bins for each kind of pairs, >= 1.
    pos_per_bin, neg_per_bin : int, default=10
        Number of positive and of negative pairs to draw from each bin, >= 1.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        Distance by which pairs are drawn.

    Raises
    ------
    ValueError
        If the name of the distance is unknown, or a number is < 1.

    See Also
    --------
    DistanceWeightedMiner : Negatives for each anchor, evenly over the distances on a sphere.

    References
    ----------
    Wu, Manmatha, Smola, Krähenbühl: Sampling Matters in Deep Embedding Learning, ICCV 2017 (why to
    draw evenly by distance).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    >>> a1, p, a2, n = UniformMiner(n_bins=2, neg_per_bin=1)(x, torch.tensor([0, 0, 0, 1]))
    >>> len(a1), len(a2)  # all positive pairs, and a negative from each half of 7 to 9
    (6, 2)
    """

    def __init__(
        self,
        n_bins: int = 100,
        pos_per_bin: int = 10,
        neg_per_bin: int = 10,
        *,
        distance: str = "euclidean",
    ) -> None:
        super().__init__(distance)
        self.n_bins = check_scalar(n_bins, "n_bins", Integral, min_val=1)
        self.pos_per_bin = check_scalar(pos_per_bin, "pos_per_bin", Integral, min_val=1)
        self.neg_per_bin = check_scalar(neg_per_bin, "neg_per_bin", Integral, min_val=1)

    def mine(self, distance: Tensor, same: Tensor, different: Tensor) -> tuple[Tensor, ...]:
        """Choose from a distance matrix; see `Miner.mine`."""
        return mine_uniform(
            distance, same, different, self.n_bins, self.pos_per_bin, self.neg_per_bin
        )
