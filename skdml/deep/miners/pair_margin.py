"""Pair-margin miner: pairs that violate a margin."""

from numbers import Real

from sklearn.utils import check_scalar
from torch import Tensor

from skdml.deep.miners._base import Miner


def mine_pair_margin(
    distance: Tensor, same: Tensor, different: Tensor, pos_margin: float, neg_margin: float
) -> tuple[Tensor, ...]:
    """Positive pairs farther than one margin, and negative pairs nearer than the other."""
    # The comparisons are negated so that NaN passes: a batch with NaN then has a NaN loss.
    far_same = same & ~(distance <= pos_margin)
    near_different = different & ~(distance >= neg_margin)
    return *far_same.nonzero(as_tuple=True), *near_different.nonzero(as_tuple=True)


class PairMarginMiner(Miner):
    r"""Positive pairs that are still too far apart, and negative pairs that are still too near.

    .. math:: \{(a, p) : d(a, p) > m_p\}, \quad \{(a, n) : d(a, n) < m_n\}

    Parameters
    ----------
    pos_margin : float, default=0.2
        Distance m_p up to which positive pairs are left out, >= 0.
    neg_margin : float, default=0.8
        Distance m_n from which negative pairs are left out, > 0.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
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

    def __init__(
        self, pos_margin: float = 0.2, neg_margin: float = 0.8, *, distance: str = "euclidean"
    ) -> None:
        super().__init__(distance)
        self.pos_margin = check_scalar(pos_margin, "pos_margin", Real, min_val=0)
        self.neg_margin = check_scalar(
            neg_margin, "neg_margin", Real, min_val=0, include_boundaries="neither"
        )

    def mine(self, distance: Tensor, same: Tensor, different: Tensor) -> tuple[Tensor, ...]:
        """Choose from a distance matrix; see `Miner.mine`."""
        return mine_pair_margin(distance, same, different, self.pos_margin, self.neg_margin)
