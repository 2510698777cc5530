"""Miners of pairs: positive pairs and negative pairs, each kind for itself."""

from numbers import Integral, Real

import torch
from sklearn.utils import check_scalar

from ._base import Miner, farthest, nearest


def mine_multi_similarity(distance, same, different, epsilon):
    """Positives farther than the nearest negative less epsilon, and negatives the other way."""
    # Comparisons are negated so that NaN passes them: a broken batch gives a NaN loss, not none.
    far = same & ~(distance <= nearest(distance, different) - epsilon)
    near = different & ~(distance >= farthest(distance, same) + epsilon)
    return *far.nonzero(as_tuple=True), *near.nonzero(as_tuple=True)


def mine_pair_margin(distance, same, different, pos_margin, neg_margin):
    """Positive pairs farther than one margin, and negative pairs nearer than the other."""
    far = same & ~(distance <= pos_margin)
    near = different & ~(distance >= neg_margin)
    return *far.nonzero(as_tuple=True), *near.nonzero(as_tuple=True)


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


class MultiSimilarityMiner(Miner):
    r"""Pairs that are hard beside the other pairs of their anchor.

    .. math:: \{(a, p) : d(a, p) > \min_n d(a, n) - \epsilon\}, \quad
        \{(a, n) : d(a, n) < \max_p d(a, p) + \epsilon\}

    Anchors without a positive or without a negative are in no pair. The paper says the same of
    cosines.

    Parameters
    ----------
    epsilon : float, default=0.1
        How far beyond the hardest pair of the other kind a pair may be; the larger, the more pairs.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance by which pairs are chosen; default "cosine", that of the paper.

    Raises
    ------
    ValueError
        If the name of the distance is unknown, or epsilon is < 0.

    References
    ----------
    Wang, Han, Huang, Dong, Scott: Multi-Similarity Loss with General Pair Weighting for Deep
    Metric Learning, CVPR 2019 (pair mining).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [2.0], [1.0], [9.0]])
    >>> miner = MultiSimilarityMiner(distance="euclidean")
    >>> a1, p, a2, n = miner(x, torch.tensor([0, 0, 1, 1]))
    >>> list(zip(a1.tolist(), p.tolist())), list(zip(a2.tolist(), n.tolist()))
    ([(0, 1), (1, 0), (2, 3), (3, 2)], [(0, 2), (1, 2), (2, 0), (2, 1), (3, 1)])
    """

    def __init__(self, epsilon=0.1, *, distance="cosine"):
        super().__init__(distance)
        self.epsilon = check_scalar(epsilon, "epsilon", Real, min_val=0)

    def mine(self, distance, same, different):
        """Choose from a distance matrix; see `Miner`."""
        return mine_multi_similarity(distance, same, different, self.epsilon)


class PairMarginMiner(Miner):
    r"""Positive pairs that are still far, and negative pairs that are still near.

    .. math:: \{(a, p) : d(a, p) > m_p\}, \quad \{(a, n) : d(a, n) < m_n\}

    Parameters
    ----------
    pos_margin : float, default=0.2
        Distance m_p up to which positive pairs are left out; >= 0.
    neg_margin : float, default=0.8
        Distance m_n from which on negative pairs are left out; > 0.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance by which pairs are chosen.

    Raises
    ------
    ValueError
        If the name of the distance is unknown, or a margin is out of range.

    References
    ----------
    Simo-Serra, Trulls, Ferraz, Kokkinos, Fua, Moreno-Noguer: Discriminative Learning of Deep
    Convolutional Feature Point Descriptors, ICCV 2015 (mining of hard positive and hard negative
    pairs).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [0.1], [0.5], [3.0]])
    >>> a1, p, a2, n = PairMarginMiner()(x, torch.tensor([0, 0, 1, 1]))
    >>> list(zip(a1.tolist(), p.tolist())), list(zip(a2.tolist(), n.tolist()))
    ([(2, 3), (3, 2)], [(0, 2), (1, 2), (2, 0), (2, 1)])
    """

    def __init__(self, pos_margin=0.2, neg_margin=0.8, *, distance="euclidean"):
        super().__init__(distance)
        self.pos_margin = check_scalar(pos_margin, "pos_margin", Real, min_val=0)
        self.neg_margin = check_scalar(
            neg_margin, "neg_margin", Real, min_val=0, include_boundaries="neither"
        )

    def mine(self, distance, same, different):
        """Choose from a distance matrix; see `Miner`."""
        return mine_pair_margin(distance, same, different, self.pos_margin, self.neg_margin)


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
