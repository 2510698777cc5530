"""Nearest neighbours of the same class and of other classes, as indices and as pairs of rows.

The searches are scikit-learn's, in blocks or by a tree. No function here holds a matrix of all
n x n distances.
"""

import numpy as np
from numpy.typing import NDArray

from skdml._threads import kneighbors
from skdml.linear.base import no_same_class_message

RowPairs = tuple[NDArray[np.integer], NDArray[np.integer]]
"""Pairs of rows: the first row of each pair, and the second."""


def nearest_same_class(
    Z: NDArray[np.floating], codes: NDArray[np.integer], n_neighbors: int
) -> NDArray[np.integer]:
    """Nearest other rows of the same class.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Embedded points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    n_neighbors : int
        How many neighbours; fewer in a class with fewer other rows.

    Returns
    -------
    ndarray of int, shape (n_samples, n_neighbors)
        Rows, the nearest first, padded with -1.

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
            # Without a query, scikit-learn leaves out each row itself, but not its duplicates.
            found[own, :k] = own[kneighbors(Z[own], None, k)[1]]
    return found


def nearest_other_class(
    Z: NDArray[np.floating],
    codes: NDArray[np.integer],
    n_neighbors: int,
    radius: NDArray[np.floating] | None = None,
) -> RowPairs:
    """Nearest rows of other classes, as pairs.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Embedded points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    n_neighbors : int
        How many neighbours of each row; fewer if there are fewer.
    radius : ndarray of shape (n_samples,), default=None
        Largest distance from each row. A negative radius keeps no neighbour of the row.

    Returns
    -------
    first, second : ndarray of int, shape (n_pairs,)
        A row and a neighbour of another class, sorted by row, then by distance.

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
        # Many small classes would need many searches. One search among all points replaces them.
        # It asks for more neighbours, because those of the same class are then dropped.
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
    """Pair `rows` with their nearest rows of another class among their k nearest in `others`."""
    if len(rows) == 0 or k == 0:
        return np.empty((2, 0), dtype=np.intp)
    distance, near = kneighbors(Z[others], Z[rows], k)
    near = others[near]
    kept = (codes[near] != codes[rows][:, None]) & (distance <= radius[rows][:, None])
    kept &= kept.cumsum(axis=1) <= n_neighbors
    return np.stack([np.repeat(rows, kept.sum(axis=1)), near[kept]])


def neighbor_pairs(
    X: NDArray[np.floating], codes: NDArray[np.integer], n_same: int, n_different: int
) -> tuple[RowPairs, RowPairs]:
    """Pairs of each row with its nearest neighbours of its class, and with those of others.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes. At least one class needs two rows.
    n_same, n_different : int
        How many neighbours of the same class and of other classes; fewer if there are fewer.

    Returns
    -------
    same, different : tuple of two ndarray of int, shape (n_pairs,)
        A row and its neighbour.

    Raises
    ------
    ValueError
        If every class has a single row.
    """
    neighbors = nearest_same_class(X, codes, n_same)
    found = neighbors >= 0
    if not found.any():
        raise ValueError(no_same_class_message(codes))
    same = np.nonzero(found)[0], neighbors[found]
    return same, nearest_other_class(X, codes, n_different)


def distinct_neighbor_pairs(
    X: NDArray[np.floating], codes: NDArray[np.integer], n_neighbors: int
) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.bool_]]:
    """Pairs of each row with its nearest neighbours of its class and of others, each pair once.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    n_neighbors : int
        How many neighbours of each kind for each row; fewer if there are fewer.

    Returns
    -------
    first, second : ndarray of int, shape (n_pairs,)
        Rows, with ``first < second``.
    same : ndarray of bool, shape (n_pairs,)
        Whether the two rows are of one class.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._neighbors import distinct_neighbor_pairs
    >>> X, codes = np.array([[0.0], [1.0], [3.0]]), np.array([0, 0, 1])
    >>> first, second, same = distinct_neighbor_pairs(X, codes, 1)
    >>> first.tolist(), second.tolist(), same.tolist()
    ([0, 0, 1], [1, 2, 2], [True, False, False])
    """
    neighbors = nearest_same_class(X, codes, n_neighbors)
    row, rank = np.nonzero(neighbors >= 0)
    same = row, neighbors[row, rank]
    different = nearest_other_class(X, codes, n_neighbors)
    keys = [
        np.unique(np.minimum(*pairs) * len(X) + np.maximum(*pairs)) for pairs in (same, different)
    ]
    first, second = np.divmod(np.concatenate(keys), len(X))
    return first, second, np.arange(len(first)) < len(keys[0])
