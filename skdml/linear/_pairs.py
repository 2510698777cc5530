"""What learners of pairs and quadruplets share: points, distances of pairs, the LogDet prior."""

import numpy as np
from scipy.linalg import svd

from skdml.linear._neighbors import PairGraph, nearest_mates, nearest_strangers
from skdml.linear._psd import with_positive_peak


def constrained_points(X, *rows):
    """Distinct points that constraints are about.

    How often a point is listed, and in what order, then makes no difference: constraints drawn
    from labels and the same ones given as tuples are one problem.

    Parameters
    ----------
    X : ndarray of shape (n_points, n_features)
        Points, of which some may be equal.
    *rows : ndarray of int, shape (n_constraints,)
        Rows of X, the first, the second ... of each constraint.

    Returns
    -------
    points : ndarray of shape (n_distinct, n_features)
        The points, sorted.
    *rows : ndarray of int, shape (n_constraints,)
        Where among them those of the constraints are.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._pairs import constrained_points
    >>> constrained_points(
    ...     np.array([[5.0], [1.0], [7.0], [5.0]]), np.array([3, 0]), np.array([1, 1])
    ... )
    (array([[1.],
           [5.]]), array([1, 1]), array([0, 0]))
    """
    used = np.zeros(len(X), dtype=bool)
    for column in rows:
        used[column] = True
    used = np.flatnonzero(used)
    used = used[np.lexsort(X[used].T[::-1])]
    is_new = np.ones(len(used), dtype=bool)
    is_new[1:] = (X[used[1:]] != X[used[:-1]]).any(axis=1)
    place = np.empty(len(X), dtype=np.intp)
    place[used] = is_new.cumsum() - 1
    return X[used[is_new]], *(place[column] for column in rows)


class PairDistances:
    """d² = |L x - L y|² of fixed pairs, and its gradients by L.

    Points are mapped once, however many pairs they are in: with ten pairs a point this takes a
    tenth of the time and memory that mapping the differences would.

    Parameters
    ----------
    X : ndarray of shape (n_points, n_features)
        Points.
    first, second : ndarray of int, shape (n_pairs,)
        The rows that make a pair.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._pairs import PairDistances
    >>> pairs = PairDistances(np.array([[0.0], [1.0], [3.0]]), np.array([1, 0]), np.array([0, 2]))
    >>> squared, gradient_of = pairs(np.array([[2.0]]))
    >>> squared
    array([ 4., 36.])
    >>> gradient_of(np.array([1.0, 0.0]))
    array([[4.]])
    """

    def __init__(self, X, first, second):
        self.X, self.order = X, np.argsort(first, kind="stable")
        self.graph = PairGraph(first[self.order], second[self.order], len(X))

    def __len__(self):
        return len(self.order)

    def __call__(self, L):
        """Measure the pairs under L.

        Parameters
        ----------
        L : ndarray of shape (n_components, n_features)
            The map.

        Returns
        -------
        squared : ndarray of float64, shape (n_pairs,)
            d².
        gradient_of : callable
            ``gradient_of(weight)``, with a weight for each pair, is the gradient of weight @ d²
            by L, 2 L Σ weight (x - y)(x - y)ᵀ.
        """
        Z = self.X @ L.T.astype(self.X.dtype)
        squared = np.empty(len(self.order))
        squared[self.order] = self.graph.squared_distances(Z)

        def gradient_of(weight):
            pull = self.graph.laplacian_product(weight[self.order], Z)
            return 2 * (self.X.T @ pull).T.astype(np.float64)

        return squared, gradient_of


def told_apart(X, first, second):
    """Tell which pairs are of two points, as far as the precision of the points goes.

    Parameters
    ----------
    X : ndarray of shape (n_points, n_features)
        Points, centred.
    first, second : ndarray of int, shape (n_pairs,)
        The rows that make a pair.

    Returns
    -------
    ndarray of bool, shape (n_pairs,)
        False where the points are equal but for rounding.

    Raises
    ------
    ValueError
        If all are.
    """
    squared = PairDistances(X, first, second)(np.eye(X.shape[1]))[0]
    apart = squared > (100 * np.finfo(X.dtype).eps) ** 2 * squared.mean()
    if not apart.any():
        raise ValueError(
            f"The points of all {len(first)} pairs are equal: there is nothing to learn from."
        )
    return apart


def leading_components(L, n_components):
    """Turn L so that its rows are orthogonal, by decreasing length, and keep the first of them.

    Parameters
    ----------
    L : ndarray of shape (n_rows, n_features)
        The map.
    n_components : int
        How many rows to keep, fewer where there are not so many.

    Returns
    -------
    ndarray of shape (min(n_components, n_rows), n_features)
        The eigenvectors of M = LᵀL, each times the root of its eigenvalue: with all of them no
        distance changes.
    """
    _, lengths, axes = svd(L, full_matrices=False)
    return with_positive_peak((lengths[:, None] * axes)[:n_components])


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
    >>> from skdml.linear._pairs import distinct_neighbor_pairs
    >>> X, codes = np.array([[0.0], [1.0], [3.0]]), np.array([0, 0, 1])
    >>> first, second, same = distinct_neighbor_pairs(X, codes, 1)
    >>> first.tolist(), second.tolist(), same.tolist()
    ([0, 0, 1], [1, 2, 2], [True, False, False])
    """
    mates = nearest_mates(X, codes, n_neighbors)
    row, rank = np.nonzero(mates >= 0)
    alike, apart = (row, mates[row, rank]), nearest_strangers(X, codes, n_neighbors)
    keys = [np.unique(np.minimum(*pairs) * len(X) + np.maximum(*pairs)) for pairs in (alike, apart)]
    first, second = np.divmod(np.concatenate(keys), len(X))
    return first, second, np.arange(len(first)) < len(keys[0])
