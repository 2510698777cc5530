"""Miners: which triplets of a batch to learn from.

A miner picks triplets (anchor, positive, negative) by their distances. Its :meth:`~Miner.mine` is
a pure function of a distance matrix, so that a loss shares its own matrix with it.
"""

import torch

from skdml.deep._pairwise import pairwise_distance, row_blocks
from skdml.distances import check_distance

# Up to this many positives per anchor, comparing all negatives with each positive in turn is
# faster than sorting the negatives once.
_FEW = 32


def label_masks(labels, ref_labels=None):
    """Two (n, m) masks: the pairs of the same class (no self pairs) and of different classes."""
    every = labels if ref_labels is None else torch.cat([labels, ref_labels])
    # Floats compared into floats, and those turned into a mask: far quicker than in one step.
    codes = every.unique(return_inverse=True)[1].float()
    rows, columns = (
        codes[: len(labels), None],
        codes if ref_labels is None else codes[len(labels) :],
    )
    different = torch.ne(rows, columns, out=codes.new_empty(len(rows), len(columns))).bool()
    same = ~different
    if ref_labels is None:
        same.fill_diagonal_(False)
    return same, different


def as_number(mask, dtype):
    """0 and 1 in place of false and true; by way of bytes, which is far quicker."""
    return mask.view(torch.uint8).to(dtype)


def padded_slots(mask):
    """Return (row, column, place in the row) of the true entries, and the most per row.

    ``table[row, place] = matrix[row, column]`` packs the few true entries of a wide matrix into a
    narrow one.
    """
    row, column = mask.nonzero(as_tuple=True)
    count = torch.bincount(row, minlength=len(mask))
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    return row, column, place, int(count.max()) if len(count) else 0


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


class Miner:
    """Base class of the miners.

    Parameters
    ----------
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance by which triplets are chosen.

    Raises
    ------
    ValueError
        If the name of the distance is unknown.
    """

    def __init__(self, distance="euclidean"):
        self.distance = check_distance(distance)

    def __repr__(self):
        return f"{type(self).__name__}(distance={self.distance!r})"

    @staticmethod
    def mine(distance, same, different):
        """Choose triplets from a distance matrix.

        Parameters
        ----------
        distance : Tensor of shape (n, m)
            Distances from the anchors to the references.
        same, different : bool Tensor of shape (n, m)
            Which pairs are positive and which negative.

        Returns
        -------
        a, p, n : tuple of int64 Tensors of shape (t,)
            Rows of the anchors, columns of the positives and of the negatives.
        """

    @torch.no_grad()
    def __call__(self, embeddings, labels, ref_emb=None, ref_labels=None):
        """Choose triplets from a batch.

        Parameters
        ----------
        embeddings : Tensor of shape (n, d)
            Anchors; without references the positives and negatives as well.
        labels : int Tensor of shape (n,)
            Classes of the embeddings.
        ref_emb : Tensor of shape (m, d), optional
            References, from which positives and negatives are taken.
        ref_labels : int Tensor of shape (m,), optional
            Classes of the references.

        Returns
        -------
        a, p, n : tuple of int64 Tensors of shape (t,)
            Indices of the anchors in the embeddings, and of the positives and the negatives in
            the references. Anchors without a positive or without a negative are left out; among
            equal distances the lowest index is taken.
        """
        distance = pairwise_distance(embeddings, ref_emb, self.distance)
        return self.mine(distance, *label_masks(labels, ref_labels))


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
    Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017,
    eq. 6 ("batch all").

    Examples
    --------
    >>> import torch
    >>> a, p, n = AllTripletsMiner()(torch.eye(3), torch.tensor([0, 0, 1]))
    >>> a.tolist(), p.tolist(), n.tolist()
    ([0, 1], [1, 0], [2, 2])
    """

    mine = staticmethod(mine_all)


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
    Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017,
    eq. 5 ("batch hard").

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [2.0], [4.0], [9.0]])
    >>> a, p, n = BatchHardMiner()(x, torch.tensor([0, 0, 0, 1, 1]))
    >>> p.tolist(), n.tolist()
    ([2, 0, 0, 4, 3], [3, 3, 3, 2, 2])
    """

    mine = staticmethod(mine_hard)


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

    mine = staticmethod(mine_semihard)


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
    Xuan, Stylianou, Pless: Improved Embeddings with Easy Positive Triplet Mining, WACV 2020,
    section 3 (easy positive, semi-hard negative).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [3.0], [6.0]])
    >>> a, p, n = EasyPositiveMiner()(x, torch.tensor([0, 0, 0, 1]))
    >>> a.tolist(), p.tolist(), n.tolist()
    ([0, 1, 2], [1, 0, 1], [3, 3, 3])
    """

    mine = staticmethod(mine_easy_positive)


MINERS = {
    "all": AllTripletsMiner,
    "hard": BatchHardMiner,
    "semihard": SemiHardMiner,
    "easy_positive": EasyPositiveMiner,
}


def get_miner(miner="all", distance="euclidean"):
    """Return the miner of a name.

    Parameters
    ----------
    miner : {"all", "hard", "semihard", "easy_positive"}, callable or None
        A name; None stands for "all". A callable is returned as it is.
    distance : str
        Distance of a miner given by name.

    Returns
    -------
    callable
        ``miner(embeddings, labels, ref_emb=None, ref_labels=None)`` gives a tuple of indices.

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> get_miner("hard", "cosine")
    BatchHardMiner(distance='cosine')
    """
    if miner is None:
        miner = "all"
    if isinstance(miner, str) and miner in MINERS:
        return MINERS[miner](distance)
    if isinstance(miner, str) or not callable(miner):
        raise ValueError(f"miner must be one of {', '.join(MINERS)}, or callable; got {miner!r}")
    return miner
