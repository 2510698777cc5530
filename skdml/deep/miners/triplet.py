"""Miners of triplets: an anchor, a positive and a negative."""

import torch

from skdml.deep._distances import row_blocks
from skdml.deep.miners._base import Miner, padded_slots

# Up to this many positives per anchor, comparing all negatives with each positive in turn is
# faster than sorting the negatives once.
_FEW = 32


def _best(distance, mask, farthest=False):
    """Column of the nearest (or farthest) true entry of each row, and whether there is one."""
    column = torch.zeros(len(distance), dtype=torch.long, device=distance.device)
    if distance.shape[1]:
        for rows in row_blocks(*distance.shape):
            if farthest:
                column[rows] = torch.where(mask[rows], distance[rows], -torch.inf).max(1).indices
            else:
                column[rows] = torch.where(mask[rows], distance[rows], torch.inf).min(1).indices
    return column, mask.any(1)


def mine_all(distance, same, different):
    """Every triplet: each positive pair with each negative of its anchor."""
    a, p = same.nonzero(as_tuple=True)
    pair, n = different[a].nonzero(as_tuple=True)
    return a[pair], p[pair], n


def mine_hard(distance, same, different):
    """Per anchor its farthest positive and its nearest negative."""
    p, some_p = _best(distance, same, farthest=True)
    n, some_n = _best(distance, different)
    a = (some_p & some_n).nonzero().squeeze(1)
    return a, p[a], n[a]


def mine_semihard(distance, same, different):
    """Per positive pair the nearest negative that is farther than the positive."""
    row, column, place, width = padded_slots(same)
    limits = distance.new_full((len(distance), width), torch.inf)
    limits[row, place] = distance[row, column]
    nearest = torch.zeros_like(limits, dtype=torch.long)
    found = torch.zeros_like(limits, dtype=torch.bool)
    if not width:
        return row, column, column
    few = width <= _FEW
    # Comparisons are negated so that NaN passes them: a broken batch gives a NaN loss, not none.
    for rows in row_blocks(len(distance), distance.shape[1] * (width if few else 1)):
        negatives = torch.where(different[rows], distance[rows], torch.inf)
        limit = limits[rows]
        if few:
            nearer = negatives[:, None, :] <= limit[:, :, None]
            chosen, nearest[rows] = torch.where(nearer, torch.inf, negatives[:, None, :]).min(2)
        else:
            # The first of the sorted negatives right of each positive, the lowest index of a tie.
            value, order = torch.sort(negatives, dim=1, stable=True)
            first = torch.searchsorted(value, limit, right=True).clamp_max_(value.shape[1] - 1)
            chosen = value.gather(1, first)
            chosen = torch.where(chosen <= limit, torch.inf, chosen)
            nearest[rows] = order.gather(1, first)
        found[rows] = ~(chosen == torch.inf)
    keep = found[row, place]
    row, column, place = row[keep], column[keep], place[keep]
    return row, column, nearest[row, place]


def mine_easy_positive(distance, same, different):
    """Per anchor its nearest positive and the nearest negative farther than this positive."""
    p, some = _best(distance, same)
    a = some.nonzero().squeeze(1)
    limit = distance.new_full((len(distance), 1), torch.inf)
    limit[a, 0] = distance[a, p[a]]
    n, some = _best(distance, different & ~(distance <= limit))
    a = a[some[a]]
    return a, p[a], n[a]


class AllTripletsMiner(Miner):
    r"""Every triplet of the batch.

    .. math:: \{(a, p, n) : y_p = y_a,\; p \ne a,\; y_n \ne y_a\}

    The list grows with the cube of the batch. The losses of skdml do not draw it up: given this
    miner they sum over all triplets by counts, in memory that grows with the square.

    Parameters
    ----------
    distance : str
        Not needed to choose; part of the call that all miners share.

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

    def mine(self, distance, same, different):
        """Choose from a distance matrix; see `Miner`."""
        return mine_all(distance, same, different)

    def shares(self, distance, references):
        """Return True: which all triplets are does not depend on distances."""
        return True


class BatchHardMiner(Miner):
    r"""Per anchor the farthest positive and the nearest negative.

    .. math:: p = \arg\max_{y_p = y_a} d(a, p), \quad n = \arg\min_{y_n \ne y_a} d(a, n)

    Parameters
    ----------
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
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

    def mine(self, distance, same, different):
        """Choose from a distance matrix; see `Miner`."""
        return mine_hard(distance, same, different)


class SemiHardMiner(Miner):
    r"""Per positive pair the nearest negative that is farther than the positive.

    .. math:: n = \arg\min_{y_n \ne y_a,\; d(a, n) > d(a, p)} d(a, n)

    Pairs without such a negative are left out. Negatives beyond every margin stay in: the loss
    gives them no weight.

    Parameters
    ----------
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
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

    def mine(self, distance, same, different):
        """Choose from a distance matrix; see `Miner`."""
        return mine_semihard(distance, same, different)


class EasyPositiveMiner(Miner):
    r"""Per anchor the nearest positive and the nearest negative farther than it.

    .. math:: p = \arg\min_{y_p = y_a} d(a, p), \quad
        n = \arg\min_{y_n \ne y_a,\; d(a, n) > d(a, p)} d(a, n)

    A class may stay spread out, as long as each member has a neighbour of its class. Anchors
    without such a negative are left out.

    Parameters
    ----------
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
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

    def mine(self, distance, same, different):
        """Choose from a distance matrix; see `Miner`."""
        return mine_easy_positive(distance, same, different)
