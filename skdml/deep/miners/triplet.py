"""Miners of triplets by the order of distances: all, hard, semi-hard and easy-positive."""

import torch
from torch import Tensor

from skdml.deep._pairs import padded_slots, row_blocks
from skdml.deep.miners._base import Miner

# With up to this many positives per anchor, it is faster to compare each positive with all
# negatives than to sort the negatives once.
_FEW_POSITIVES = 32


def nearest_column(distance: Tensor, mask: Tensor, farthest: bool = False) -> tuple[Tensor, Tensor]:
    """Return the column of the nearest (or farthest) true entry of each row.

    The second result tells which rows have a true entry.
    """
    column = torch.zeros(len(distance), dtype=torch.long, device=distance.device)
    if distance.shape[1]:
        for rows in row_blocks(*distance.shape):
            if farthest:
                column[rows] = torch.where(mask[rows], distance[rows], -torch.inf).max(1).indices
            else:
                column[rows] = torch.where(mask[rows], distance[rows], torch.inf).min(1).indices
    return column, mask.any(1)


def mine_all(distance: Tensor, same: Tensor, different: Tensor) -> tuple[Tensor, ...]:
    """Every triplet: each positive pair with each negative of its anchor."""
    a, p = same.nonzero(as_tuple=True)
    pair, n = different[a].nonzero(as_tuple=True)
    return a[pair], p[pair], n


def mine_hard(distance: Tensor, same: Tensor, different: Tensor) -> tuple[Tensor, ...]:
    """For each anchor, its farthest positive and its nearest negative."""
    p, has_positive = nearest_column(distance, same, farthest=True)
    n, has_negative = nearest_column(distance, different)
    a = (has_positive & has_negative).nonzero().squeeze(1)
    return a, p[a], n[a]


def mine_semihard(distance: Tensor, same: Tensor, different: Tensor) -> tuple[Tensor, ...]:
    """For each positive pair, the nearest negative that is farther than the positive."""
    row, column, slot, width = padded_slots(same)
    limits = distance.new_full((len(distance), width), torch.inf)
    limits[row, slot] = distance[row, column]
    nearest = torch.zeros_like(limits, dtype=torch.long)
    found = torch.zeros_like(limits, dtype=torch.bool)
    if not width:
        return row, column, column
    few = width <= _FEW_POSITIVES
    # The comparisons are negated so that NaN passes: a batch with NaN then has a NaN loss.
    for rows in row_blocks(len(distance), distance.shape[1] * (width if few else 1)):
        negatives = torch.where(different[rows], distance[rows], torch.inf)
        limit = limits[rows]
        if few:
            nearer = negatives[:, None, :] <= limit[:, :, None]
            chosen, nearest[rows] = torch.where(nearer, torch.inf, negatives[:, None, :]).min(2)
        else:
            # The first sorted negative above each limit; of equal negatives, the lowest index.
            value, order = torch.sort(negatives, dim=1, stable=True)
            first = torch.searchsorted(value, limit, right=True).clamp_max_(value.shape[1] - 1)
            chosen = value.gather(1, first)
            chosen = torch.where(chosen <= limit, torch.inf, chosen)
            nearest[rows] = order.gather(1, first)
        found[rows] = ~(chosen == torch.inf)
    keep = found[row, slot]
    row, column, slot = row[keep], column[keep], slot[keep]
    return row, column, nearest[row, slot]


def mine_easy_positive(distance: Tensor, same: Tensor, different: Tensor) -> tuple[Tensor, ...]:
    """For each anchor, its nearest positive and the nearest negative farther than this positive."""
    p, has_positive = nearest_column(distance, same)
    a = has_positive.nonzero().squeeze(1)
    limit = distance.new_full((len(distance), 1), torch.inf)
    limit[a, 0] = distance[a, p[a]]
    n, has_negative = nearest_column(distance, different & ~(distance <= limit))
    a = a[has_negative[a]]
    return a, p[a], n[a]


class AllTripletsMiner(Miner):
    r"""Every triplet of the batch.

    .. math:: \{(a, p, n) : y_p = y_a,\; p \ne a,\; y_n \ne y_a\}

    The list grows with the cube of the batch size. The losses of skdml do not build this list:
    with this miner, they sum over all triplets by counting, in memory that grows with the square.

    Parameters
    ----------
    distance : str, default="euclidean"
        Not used for the choice. Accepted, because all miners take it.

    Raises
    ------
    ValueError
        If the name of the distance is unknown.

    References
    ----------
    Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017
    ("batch all").

    Examples
    --------
    >>> import torch
    >>> a, p, n = AllTripletsMiner()(torch.eye(3), torch.tensor([0, 0, 1]))
    >>> a.tolist(), p.tolist(), n.tolist()
    ([0, 1], [1, 0], [2, 2])
    """

    def mine(self, distance: Tensor, same: Tensor, different: Tensor) -> tuple[Tensor, ...]:
        """Choose from a distance matrix; see `Miner.mine`."""
        return mine_all(distance, same, different)

    def shares(self, distance: str, references: bool) -> bool:
        """Return True, because the set of all triplets does not depend on distances."""
        return True


class BatchHardMiner(Miner):
    r"""For each anchor, the farthest positive and the nearest negative.

    .. math:: p = \arg\max_{y_p = y_a} d(a, p), \quad n = \arg\min_{y_n \ne y_a} d(a, n)

    Parameters
    ----------
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        Distance by which triplets are chosen.

    Raises
    ------
    ValueError
        If the name of the distance is unknown.

    References
    ----------
    Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017
    ("batch hard").

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [2.0], [4.0], [9.0]])
    >>> a, p, n = BatchHardMiner()(x, torch.tensor([0, 0, 0, 1, 1]))
    >>> p.tolist(), n.tolist()
    ([2, 0, 0, 4, 3], [3, 3, 3, 2, 2])
    """

    def mine(self, distance: Tensor, same: Tensor, different: Tensor) -> tuple[Tensor, ...]:
        """Choose from a distance matrix; see `Miner.mine`."""
        return mine_hard(distance, same, different)


class SemiHardMiner(Miner):
    r"""For each positive pair, the nearest negative that is farther than the positive.

    .. math:: n = \arg\min_{y_n \ne y_a,\; d(a, n) > d(a, p)} d(a, n)

    Pairs without such a negative are left out. Negatives beyond the margin are not left out; the
    loss gives them no weight.

    Parameters
    ----------
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        Distance by which triplets are chosen.

    Raises
    ------
    ValueError
        If the name of the distance is unknown.

    References
    ----------
    Schroff, Kalenichenko, Philbin: FaceNet: A Unified Embedding for Face Recognition and
    Clustering, CVPR 2015, eq. 4.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [2.0], [1.0], [3.0]])
    >>> a, p, n = SemiHardMiner()(x, torch.tensor([0, 0, 1, 2]))
    >>> a.tolist(), p.tolist(), n.tolist()
    ([0], [1], [3])
    """

    def mine(self, distance: Tensor, same: Tensor, different: Tensor) -> tuple[Tensor, ...]:
        """Choose from a distance matrix; see `Miner.mine`."""
        return mine_semihard(distance, same, different)


class EasyPositiveMiner(Miner):
    r"""For each anchor, the nearest positive and the nearest negative farther than it.

    .. math:: p = \arg\min_{y_p = y_a} d(a, p), \quad
        n = \arg\min_{y_n \ne y_a,\; d(a, n) > d(a, p)} d(a, n)

    A class may stay spread out, as long as each point has a near neighbour of its class. Anchors
    without such a negative are left out.

    Parameters
    ----------
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        Distance by which triplets are chosen.

    Raises
    ------
    ValueError
        If the name of the distance is unknown.

    References
    ----------
    Xuan, Stylianou, Pless: Improved Embeddings with Easy Positive Triplet Mining, WACV 2020
    (easy positive, semi-hard negative).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [3.0], [6.0]])
    >>> a, p, n = EasyPositiveMiner()(x, torch.tensor([0, 0, 0, 1]))
    >>> a.tolist(), p.tolist(), n.tolist()
    ([0, 1, 2], [1, 0, 1], [3, 3, 3])
    """

    def mine(self, distance: Tensor, same: Tensor, different: Tensor) -> tuple[Tensor, ...]:
        """Choose from a distance matrix; see `Miner.mine`."""
        return mine_easy_positive(distance, same, different)
