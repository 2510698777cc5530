"""Neighbours within a class and among strangers, and sums over pairs of points as matrix products.

Pairs are two arrays of row indices. No function here holds a matrix of all n x n distances: the
search is scikit-learn's, in blocks or by a tree, and pairs are worked off in blocks.
"""

import numpy as np

from skdml._threads import kneighbors
from skdml.linear.base import no_same_class_message


def nearest_same_class(Z, codes, n_neighbors):
    """Nearest other rows of the same class.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Embedded points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    n_neighbors : int
        How many, fewer in a class that has not so many other rows.

    Returns
    -------
    ndarray of int, shape (n_samples, n_neighbors)
        Rows, the nearest first; -1 where there are none left.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._neighbors import nearest_same_class
    >>> nearest_same_class(np.array([[0.0], [1.0], [3.0], [9.0]]), np.array([0, 0, 0, 1]), 2)
    array([[ 1,  2],
           [ 0,  2],
           [ 1,  0],
           [-1, -1]])
    """
    found = np.full((len(Z), n_neighbors), -1, dtype=np.intp)
    order = np.argsort(codes, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        k = min(n_neighbors, len(own) - 1)
        if k > 0:
            # Without a query, scikit-learn leaves out each row itself, duplicates or not.
            found[own, :k] = own[kneighbors(Z[own], None, k)[1]]
    return found


def nearest_other_class(Z, codes, n_neighbors, radius=None):
    """Nearest rows of other classes, as pairs.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Embedded points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    n_neighbors : int
        How many for each row, fewer where there are not so many.
    radius : ndarray of shape (n_samples,), default=None
        How far from each row at most, beyond which none are kept. A negative radius keeps none.

    Returns
    -------
    first, second : ndarray of int, shape (n_pairs,)
        A row and a stranger to it, by row, then from the nearest to the farthest.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._neighbors import nearest_other_class
    >>> Z, codes = np.array([[0.0], [1.0], [3.0], [9.0]]), np.array([0, 0, 1, 1])
    >>> first, second = nearest_other_class(Z, codes, 2, radius=np.array([5.0, 5.0, 2.5, 5.0]))
    >>> first.tolist(), second.tolist()
    ([0, 1, 2], [2, 2, 1])
    """
    radius = np.full(len(Z), np.inf) if radius is None else radius
    count = np.bincount(codes)
    small = count[codes] <= n_neighbors
    pairs = []
    if small.any():
        # Many small classes would be many searches. All points are searched at once instead, for
        # so many more neighbours that the mates among them can be left out.
        rows = np.flatnonzero(small & (radius >= 0))
        most = min(n_neighbors + count[codes[small]].max(), len(Z))
        pairs.append(_search(Z, rows, np.arange(len(Z)), most, codes, n_neighbors, radius))
    for code in np.flatnonzero(count > n_neighbors):
        rows = np.flatnonzero((codes == code) & (radius >= 0))
        others = np.flatnonzero(codes != code)
        most = min(n_neighbors, len(others))
        pairs.append(_search(Z, rows, others, most, codes, n_neighbors, radius))
    first, second = np.concatenate(pairs, axis=1)
    order = np.argsort(first, kind="stable")
    return first[order], second[order]


def _search(Z, rows, others, k, codes, n_neighbors, radius):
    """Pairs of `rows` with the nearest strangers among `others`, of which k are looked at."""
    if len(rows) == 0 or k == 0:
        return np.empty((2, 0), dtype=np.intp)
    distance, near = kneighbors(Z[others], Z[rows], k)
    near = others[near]
    kept = (codes[near] != codes[rows][:, None]) & (distance <= radius[rows][:, None])
    kept &= kept.cumsum(axis=1) <= n_neighbors
    return np.stack([np.repeat(rows, kept.sum(axis=1)), near[kept]])


def neighbor_pairs(X, codes, n_mates, n_strangers):
    """Pairs of each row with its nearest neighbours of its class, and with those of others.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes, one of two rows at least.
    n_mates, n_strangers : int
        How many neighbours of either kind, fewer where there are not so many.

    Returns
    -------
    same, different : tuple of two ndarray of int, shape (n_pairs,)
        A row and its neighbour.

    Raises
    ------
    ValueError
        If each class has a single row.
    """
    mates = nearest_same_class(X, codes, n_mates)
    found = mates >= 0
    if not found.any():
        raise ValueError(no_same_class_message(codes))
    same = np.nonzero(found)[0], mates[found]
    return same, nearest_other_class(X, codes, n_strangers)


def distinct_neighbor_pairs(X, codes, n_neighbors):
    """Pairs of each point with its nearest mates, and with its nearest strangers.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    n_neighbors : int
        How many of either kind for each point, fewer where there are not so many.

    Returns
    -------
    first, second : ndarray of int, shape (n_pairs,)
        Rows, ``first < second``; no pair is there twice.
    same : ndarray of bool, shape (n_pairs,)
        Whether a pair is of one class.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._neighbors import distinct_neighbor_pairs
    >>> X, codes = np.array([[0.0], [1.0], [3.0]]), np.array([0, 0, 1])
    >>> first, second, same = distinct_neighbor_pairs(X, codes, 1)
    >>> first.tolist(), second.tolist(), same.tolist()
    ([0, 0, 1], [1, 2, 2], [True, False, False])
    """
    mates = nearest_same_class(X, codes, n_neighbors)
    row, rank = np.nonzero(mates >= 0)
    alike, apart = (row, mates[row, rank]), nearest_other_class(X, codes, n_neighbors)
    keys = [np.unique(np.minimum(*pairs) * len(X) + np.maximum(*pairs)) for pairs in (alike, apart)]
    first, second = np.divmod(np.concatenate(keys), len(X))
    return first, second, np.arange(len(first)) < len(keys[0])
