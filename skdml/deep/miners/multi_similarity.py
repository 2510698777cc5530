"""Multi-similarity miner: pairs that are hard compared with the other pairs of their anchor."""

from numbers import Real

from sklearn.utils import check_scalar
from torch import Tensor

from skdml.deep.miners._base import Miner, farthest_distance, nearest_distance


def mine_multi_similarity(
    distance: Tensor, same: Tensor, different: Tensor, epsilon: float
) -> tuple[Tensor, ...]:
    """Hard positive pairs and hard negative pairs, as `MultiSimilarityMiner` defines them."""
    # The comparisons are negated so that NaN passes: a batch with NaN then has a NaN loss.
    hard_same = same & ~(distance <= nearest_distance(distance, different) - epsilon)
    hard_different = different & ~(distance >= farthest_distance(distance, same) + epsilon)
    return *hard_same.nonzero(as_tuple=True), *hard_different.nonzero(as_tuple=True)


class MultiSimilarityMiner(Miner):
    r"""Pairs that are hard compared with the other pairs of their anchor.

    .. math:: \{(a, p) : d(a, p) > \min_n d(a, n) - \epsilon\}, \quad
        \{(a, n) : d(a, n) < \max_p d(a, p) + \epsilon\}

    Anchors without a positive or without a negative are in no pair. With the cosine distance, this
    is the rule of the paper.

    Parameters
    ----------
    epsilon : float, default=0.1
        Tolerance, >= 0. Larger values give more pairs.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="cosine"
        Distance by which pairs are chosen.

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

    def __init__(self, epsilon: float = 0.1, *, distance: str = "cosine") -> None:
        super().__init__(distance)
        self.epsilon = check_scalar(epsilon, "epsilon", Real, min_val=0)

    def mine(self, distance: Tensor, same: Tensor, different: Tensor) -> tuple[Tensor, ...]:
        """Choose from a distance matrix; see `Miner.mine`."""
        return mine_multi_similarity(distance, same, different, self.epsilon)
