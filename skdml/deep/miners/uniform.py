"""Mines pairs spread evenly over distances."""

from numbers import Integral

import torch
from sklearn.utils import check_scalar

from skdml.deep.miners._base import Miner


def mine_uniform(distance, same, different, n_bins, pos_per_bin, neg_per_bin):
    """Draw some pairs of each kind from each of the bins into which their distances fall."""
    pairs = []
    for mask, per_bin in ((same, pos_per_bin), (different, neg_per_bin)):
        row, column = mask.nonzero(as_tuple=True)
        chosen = draw_by_bin(distance[row, column], n_bins, per_bin)
        pairs += [row[chosen], column[chosen]]
    return tuple(pairs)


def draw_by_bin(values, n_bins, per_bin):
    """Draw so many entries, or all there are, from each bin of a histogram of equal bins.

    Parameters
    ----------
    values : Tensor of shape (n,)
        The numbers; what is NaN has a bin of its own.
    n_bins : int
        Bins between the least and the largest number.
    per_bin : int
        Entries to draw from each, without repetition.

    Returns
    -------
    int64 Tensor of shape (n_drawn,)
        Places of the drawn entries, in order.
    """
    if len(values) == 0:
        return values.new_zeros(0, dtype=torch.long)
    known = values.nan_to_num(values[~values.isnan()].mean())
    low, high = known.aminmax()
    share = (known - low) / (high - low).clamp(min=torch.finfo(known.dtype).tiny)
    bins = (share * n_bins).long().clamp(0, n_bins - 1).masked_fill(values.isnan(), n_bins)
    order = torch.randperm(len(bins), device=bins.device)
    order = order[bins[order].argsort(stable=True)]
    counts = torch.bincount(bins, minlength=n_bins + 1)
    place = torch.arange(len(bins), device=bins.device) - (counts.cumsum(0) - counts)[bins[order]]
    return order[place < per_bin].sort().values


class UniformMiner(Miner):
    """Pairs drawn evenly over the range of distances, and not as their distances happen to be.

    The distances of the positive pairs of a batch, and those of its negative pairs, are cut into
    bins of equal width between the least and the largest. From each bin so many pairs are drawn,
    or all there are, each pair at most once. Draws come from torch's generator.

    Parameters
    ----------
    n_bins : int, default=100
        Bins for each kind of pairs.
    pos_per_bin, neg_per_bin : int, default=10
        Pairs to draw from each bin.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
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
    draw evenly by distance; there by the density of a sphere, here by counts).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    >>> a1, p, a2, n = UniformMiner(n_bins=2, neg_per_bin=1)(x, torch.tensor([0, 0, 0, 1]))
    >>> len(a1), len(a2)  # all positive pairs, and a negative from each half of 7 to 9
    (6, 2)
    """

    def __init__(self, n_bins=100, pos_per_bin=10, neg_per_bin=10, *, distance="euclidean"):
        super().__init__(distance)
        self.n_bins = check_scalar(n_bins, "n_bins", Integral, min_val=1)
        self.pos_per_bin = check_scalar(pos_per_bin, "pos_per_bin", Integral, min_val=1)
        self.neg_per_bin = check_scalar(neg_per_bin, "neg_per_bin", Integral, min_val=1)

    def mine(self, distance, same, different):
        """Choose from a distance matrix; see `Miner`."""
        return mine_uniform(
            distance, same, different, self.n_bins, self.pos_per_bin, self.neg_per_bin
        )
