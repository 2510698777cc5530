"""Miners of pairs: positive pairs and negative pairs, each kind for itself."""

from numbers import Real

from sklearn.utils import check_scalar

from skdml.deep.miners._base import Miner, farthest, nearest


def mine_multi_similarity(distance, same, different, epsilon):
    """Positives farther than the nearest negative less epsilon, and negatives the other way."""
    # Comparisons are negated so that NaN passes them: a broken batch gives a NaN loss, not none.
    far = same & ~(distance <= nearest(distance, different) - epsilon)
    near = different & ~(distance >= farthest(distance, same) + epsilon)
    return *far.nonzero(as_tuple=True), *near.nonzero(as_tuple=True)


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
