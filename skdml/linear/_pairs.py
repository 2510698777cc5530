"""What learners of pairs and quadruplets share: points, distances of pairs, the LogDet prior."""

import numpy as np
from scipy.linalg import eigh, svd
from sklearn.utils import check_array

from skdml.linear._initial import within_axes
from skdml.linear._neighbors import PairGraph, nearest_mates, nearest_strangers
from skdml.linear._psd import numerical_range, pinv_sqrt, root, with_positive_peak
from skdml.linear.base import centre_and_scale

PRIORS = ("identity", "covariance")


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


def log_det_divergence(A):
    """LogDet divergence of M = AᵀA from the identity: tr(M) - ln det(M) - n_features.

    Convex in M, 0 for the identity, and infinite where M is singular: who adds it needs no
    constraint that keeps M positive definite.

    Parameters
    ----------
    A : ndarray of shape (n_features, n_features)
        Square root of M.

    Returns
    -------
    value : float
        At least 0, but for rounding.
    gradient : ndarray of shape (n_features, n_features)
        By A: 2 (A - A⁻ᵀ).

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._pairs import log_det_divergence
    >>> log_det_divergence(np.eye(2))[0]
    0.0
    """
    sign, log_det = np.linalg.slogdet(A)
    if sign == 0:  # a search may try such an A, and is to turn back: take one a hair away
        A = A + 1e-8 * np.eye(len(A))
        log_det = np.linalg.slogdet(A)[1]
    value = float((A**2).sum() - 2 * log_det - len(A))
    return value, 2 * (A - np.linalg.inv(A).T)


def prior_root(prior, points, scale):
    """L0 with L0ᵀL0 = M0, for points brought to scale.

    Parameters
    ----------
    prior : {"identity", "covariance"} or array-like of shape (n_features, n_features)
        M0: the identity, the inverse of the covariance of the points, or a positive definite
        matrix that is for points as they came.
    points : ndarray of shape (n_points, n_features)
        Points, centred.
    scale : float
        What they were divided by.

    Returns
    -------
    ndarray of float64, shape (rank, n_features)
        L0. The rank is below n_features only where the covariance is singular.

    Raises
    ------
    ValueError
        If `prior` is unknown, of another shape, or not positive definite, or if the points have
        no covariance.
    """
    n_features = points.shape[1]
    if isinstance(prior, str) and prior == "identity":
        return np.eye(n_features)
    if isinstance(prior, str) and prior == "covariance":
        covariance = (points.T.astype(np.float64) @ points) / len(points)
        if not covariance.any():
            raise ValueError('prior="covariance" needs points that differ; choose "identity".')
        return pinv_sqrt(covariance, len(points))
    if isinstance(prior, str):
        raise ValueError(f"prior={prior!r} is unknown; choose one of {PRIORS}, or give a matrix.")
    M0 = check_array(prior, dtype=np.float64, input_name="prior")
    if M0.shape != (n_features, n_features) or not np.allclose(M0, M0.T, rtol=1e-6, atol=0):
        raise ValueError(
            f"prior has to be a symmetric matrix of shape ({n_features}, {n_features}); got one of "
            f"shape {M0.shape}."
        )
    values = eigh((M0 + M0.T) / 2, eigvals_only=True)
    if not numerical_range(values, n_features).all():
        raise ValueError(
            f"prior has to be positive definite; its eigenvalues go from {values[0]:.3g} to "
            f"{values[-1]:.3g}."
        )
    return root(M0) * scale


def map_by_prior(prior, n_components, X, *rows):
    """Map points so that the prior becomes the identity.

    The LogDet divergence of M = L0ᵀAᵀA L0 from M0 = L0ᵀL0 is that of AᵀA from the identity.

    Parameters
    ----------
    prior : {"identity", "covariance"} or array-like of shape (n_features, n_features)
        M0, as `prior_root` reads it.
    n_components : int
        Of sparse points, how many axes the prior is about; see `within_axes`.
    X, *rows
        Points and constraints, as `constrained_points` takes them; X may be sparse.

    Returns
    -------
    points : ndarray of shape (n_distinct, rank)
        The distinct points of the constraints, centred and mapped by L0, in the dtype of X.
    L0 : ndarray of float64, shape (rank, n_features)
        The map, for points as they came.
    *rows : ndarray of int, shape (n_constraints,)
        Where among the points those of the constraints are.
    """
    X, axes = within_axes(X, n_components)
    points, *rows = constrained_points(X, *rows)
    points, scale = centre_and_scale(points)
    L0 = prior_root(prior, points, scale)
    points = points @ L0.T.astype(X.dtype)
    return points, L0 / scale if axes is None else L0 / scale @ axes, *rows


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
