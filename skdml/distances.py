"""The base distances d_e, and `LearnedDistance`, the callable a fitted learner hands out."""

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.preprocessing import normalize
from sklearn.utils import Bunch, check_array, check_random_state
from sklearn.utils.validation import check_consistent_length

BASE_DISTANCES = ("euclidean", "sqeuclidean", "cosine", "angular", "manhattan")
"""The names `distance=` takes."""

METRIC_DISTANCES = ("euclidean", "angular", "manhattan")
"""Those that keep the triangle inequality."""

# A point-by-point caller (a ball tree, DBSCAN) comes back to the same rows again and again. The
# rows it has embedded are kept, and forgotten, oldest first, beyond this many.
MAX_CACHED_POINTS = 100_000


def check_distance(name):
    """Return the name of a base distance, or raise.

    Parameters
    ----------
    name : str
        A name to look up in `BASE_DISTANCES`.

    Returns
    -------
    str
        The name.

    Raises
    ------
    ValueError
        If there is no such base distance.

    Examples
    --------
    >>> from skdml.distances import check_distance
    >>> check_distance("angular")
    'angular'
    """
    if not isinstance(name, str) or name not in BASE_DISTANCES:
        raise ValueError(f"distance={name!r} is unknown; choose one of {sorted(BASE_DISTANCES)}.")
    return name


def pairwise_base_distance(A, B=None, distance="euclidean"):
    """Distances between all rows of A and all rows of B.

    Parameters
    ----------
    A : ndarray of shape (n, n_components)
        Points, float32 or float64.
    B : ndarray of shape (m, n_components), default=None
        Further points; None stands for A.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Cosine is 1 - cos in [0, 2], angular is the angle over pi in [0, 1]. A zero vector counts as
        orthogonal to all others.

    Returns
    -------
    ndarray of shape (n, m)
        The distances, in the dtype of the points.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.distances import pairwise_base_distance
    >>> pairwise_base_distance(np.array([[0.0, 1.0]]), np.array([[2.0, 0.0]]), "angular")
    array([[0.5]])
    """
    check_distance(distance)
    if distance in ("angular", "cosine"):
        A = _directions(A)
        B = None if B is None else _directions(B)
    # Differences, not the quicker |a|² - 2ab + |b|²: equal points are then exactly 0 apart.
    B = A if B is None else B
    D = cdist(A, B, metric=_SCIPY_NAME[distance])
    if distance == "cosine":
        D /= 2
    elif distance == "angular":
        D = _angle(D, cdist(A, -B))
    return D.astype(A.dtype, copy=False)


def paired_base_distance(A, B, distance="euclidean"):
    """Distance between each row of A and the same row of B.

    Parameters
    ----------
    A, B : ndarray of shape (n, n_components)
        Points, float32 or float64.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        See `pairwise_base_distance`.

    Returns
    -------
    ndarray of shape (n,)
        The distances, in the dtype of the points.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.distances import paired_base_distance
    >>> paired_base_distance(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]))
    array([5.])
    """
    check_distance(distance)
    if distance in ("angular", "cosine"):
        A, B = _directions(A), _directions(B)
    if distance == "manhattan":
        return abs(A - B).sum(axis=1)
    squared = _squared_length(A - B)
    if distance == "cosine":
        return squared / 2
    if distance == "angular":
        return _angle(np.sqrt(squared), np.sqrt(_squared_length(A + B)))
    return squared if distance == "sqeuclidean" else np.sqrt(squared)


def euclidean_form(A, distance="euclidean"):
    """Points whose Euclidean distances are ordered as their distances are.

    Parameters
    ----------
    A : ndarray of shape (n, n_components)
        Points, float32 or float64.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        See `pairwise_base_distance`.

    Returns
    -------
    ndarray of shape (n, n_components) or (n, n_components + 1)
        For "cosine" and "angular" the directions, and a last column that says which rows have
        none, being zero. Else A itself: the Manhattan distance has no such form.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.distances import euclidean_form
    >>> euclidean_form(np.array([[3.0, 4.0], [0.0, 0.0]]), "angular")
    array([[0.6, 0.8, 0. ],
           [0. , 0. , 1. ]])
    """
    return _directions(A) if check_distance(distance) in ("angular", "cosine") else A


def base_distance_of(estimator):
    """Name of the base distance that goes with an estimator's embeddings.

    Parameters
    ----------
    estimator : estimator
        A fitted learner or any other transformer, a pipeline that ends in one, a search over
        these, or one of them in a :class:`~sklearn.frozen.FrozenEstimator`.

    Returns
    -------
    str
        That of its `get_metric`, where it has one, else "euclidean".

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from skdml.distances import base_distance_of
    >>> base_distance_of(PCA())
    'euclidean'
    """
    while True:
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif hasattr(estimator, "steps"):
            estimator = estimator.steps[-1][1]
        else:
            has_metric = hasattr(estimator, "get_metric")
            return estimator.get_metric().distance if has_metric else "euclidean"


def _squared_length(A):
    return np.einsum("ij,ij->i", A, A)


_SCIPY_NAME = {
    "angular": "euclidean",
    "cosine": "sqeuclidean",
    "euclidean": "euclidean",
    "manhattan": "cityblock",
    "sqeuclidean": "sqeuclidean",
}


def _directions(A):
    # A zero vector has no direction. It gets one of its own, orthogonal to all others, so that
    # the angular distance stays a metric. The largest entry is divided out first: squares of very
    # small or large entries are no floats.
    largest = abs(A).max(axis=1, keepdims=True)
    A = normalize(A / np.where(largest > 0, largest, 1))
    return np.hstack([A, largest == 0], dtype=A.dtype, casting="unsafe")


def _angle(chord, antichord):
    # By |u - v| and |u + v| of unit vectors (Kahan): the cosine has lost half of the digits where
    # directions are nearly equal or opposite.
    return 2 / np.pi * np.arctan2(chord, antichord)


class LearnedDistance:
    """A learned distance d(x, y) = d_e(f(x), f(y)) as a picklable callable.

    Learners hand it out by `get_metric()`. It holds its own copy of f: fitting the learner again
    does not change it.

    Parameters
    ----------
    embed : callable
        f: takes points of shape (n, ...), gives embeddings of shape (n, n_components). It checks
        its input, since every point that is measured passes through it.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        The base distance d_e.
    distinct : bool, default=False
        Whether f is so costly that `pairwise` and `paired` first look for rows that are equal and
        embed each distinct row once.

    Attributes
    ----------
    is_metric : bool
        Whether the metric axioms hold. They do but for the triangle inequality of "sqeuclidean"
        and "cosine". As for every learned distance, "zero only for equal points" reads "equal
        embeddings": a learner may be blind to a difference it was taught to ignore.

    See Also
    --------
    check_metric_axioms : Measures the axioms on data.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skdml import MahalanobisMetric
    >>> X, _ = load_iris(return_X_y=True)
    >>> d = MahalanobisMetric().fit(X).get_metric()
    >>> round(d(X[0], X[100]), 2)
    3.87
    >>> d(X[:3], X[:5]).shape
    (3, 5)
    >>> d.paired(X[:3], X[3:6]).shape
    (3,)
    """

    def __init__(self, embed, distance="euclidean", *, distinct=False):
        self.embed = embed
        self.distance = check_distance(distance)
        self.distinct = distinct
        self._cache = {}

    @property
    def is_metric(self):
        """Whether the metric axioms hold for this distance."""
        return self.distance in METRIC_DISTANCES

    def __call__(self, X, Y=None):
        """Distance of two points, or the matrix of distances of two sets of points.

        Parameters
        ----------
        X : array-like of shape (n_features,) or (n, n_features)
            A point, or points.
        Y : array-like of shape (n_features,) or (m, n_features), default=None
            The other point, or points; for points None stands for X.

        Returns
        -------
        float or ndarray of shape (n, m)
            The distance, or distances.
        """
        X = X if hasattr(X, "ndim") else np.asarray(X)
        if X.ndim != 1:
            return self.pairwise(X, Y)
        if Y is None:
            raise ValueError("A distance needs two points: one 1-D point was given, and no other.")
        a, b = self._embed_point(X), self._embed_point(np.asarray(Y))
        if self.distance == "euclidean":  # what nearly every caller asks for, without the checks
            difference = a - b
            return float(np.sqrt(difference @ difference))
        return float(paired_base_distance(a[None], b[None], self.distance)[0])

    def pairwise(self, X, Y=None):
        """Distances between all points of X and all points of Y.

        Parameters
        ----------
        X : array-like of shape (n, ...)
            Points.
        Y : array-like of shape (m, ...), default=None
            Further points; None stands for X.

        Returns
        -------
        ndarray of shape (n, m)
            The distances.
        """
        A, B = self._embed_sets(X, Y)
        return pairwise_base_distance(A, B, self.distance)

    def paired(self, X, Y):
        """Distance between each point of X and the point of Y at the same place.

        Parameters
        ----------
        X, Y : array-like of shape (n, ...)
            Points.

        Returns
        -------
        ndarray of shape (n,)
            The distances.
        """
        check_consistent_length(X, Y)
        return paired_base_distance(*self._embed_sets(X, Y), self.distance)

    def _embed_point(self, x):
        if x.dtype.hasobject:  # its bytes would be addresses
            x = x.astype(np.float64)
        key = x.dtype.char, x.tobytes()
        z = self._cache.get(key)
        if z is None:
            z = self.embed(x[None])[0]
            if len(self._cache) >= MAX_CACHED_POINTS:
                self._cache.pop(next(iter(self._cache)), None)
            self._cache[key] = z
        return z

    def _embed_sets(self, X, Y):
        if not self.distinct:
            return self.embed(X), None if Y is None else self.embed(Y)
        sets = [np.ascontiguousarray(S) for S in ((X,) if Y is None else (X, Y))]
        points, inverse = distinct_points(sets)
        Z = self.embed(points)[inverse]
        return Z[: len(sets[0])], None if Y is None else Z[len(sets[0]) :]

    def __getstate__(self):
        return {**self.__dict__, "_cache": {}}

    def __repr__(self):
        return f"LearnedDistance({self.embed!r}, distance={self.distance!r})"


def distinct_points(sets):
    """Stack sets of points and keep each point once.

    Parameters
    ----------
    sets : list of ndarray, each of shape (n_i, ...)
        Points, compared by their bytes.

    Returns
    -------
    points : ndarray of shape (n_distinct, ...)
        The points that differ. Points that are objects are not compared, and all kept.
    inverse : ndarray of int, shape (sum of the n_i,)
        Where each of the stacked points is among them.

    Raises
    ------
    ValueError
        If the points of two sets differ in shape.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.distances import distinct_points
    >>> points, inverse = distinct_points([np.array([[1.0], [2.0]]), np.array([[1.0]])])
    >>> len(points), bool(inverse[0] == inverse[2])
    (2, True)
    """
    shapes = {S.shape[1:] for S in sets}
    if len(shapes) > 1:
        raise ValueError(f"The points of X and Y differ in shape: {sorted(shapes)}.")
    points = np.concatenate(sets)
    if len(points) == 0 or points.dtype.hasobject or points[0].size == 0:
        return points, np.arange(len(points))
    # A row as one opaque value: sorting bytes is far quicker than sorting along an axis.
    rows = points.reshape(len(points), -1)
    rows = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize * rows.shape[1])))
    _, first, inverse = np.unique(rows.ravel(), return_index=True, return_inverse=True)
    return points[first], inverse


def check_metric_axioms(d, X, *, max_points=200, random_state=None):
    """Measure the worst violation of each metric axiom on data.

    All pairs and triples of (at most `max_points`) rows of X are tried.

    Parameters
    ----------
    d : callable
        A `LearnedDistance`, or any d(x, y) -> float of two points.
    X : array-like of shape (n, n_features)
        Points.
    max_points : int, default=200
        Draw this many rows where X has more: time grows with the cube.
    random_state : int, RandomState instance or None, default=None
        Decides the rows drawn.

    Returns
    -------
    Bunch
        ``negativity`` (the largest -d), ``identity`` (the largest d(x, x)), ``asymmetry`` (the
        largest abs(d(x, y) - d(y, x))) and ``triangle`` (the largest d(x, z) - d(x, y) - d(y, z)):
        floats >= 0 in units of d, 0 where the axiom holds. ``smallest`` is the smallest distance
        between two rows that differ, and ``scale`` the largest distance, to judge the others by.

    Raises
    ------
    ValueError
        If X has no two rows.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.spatial.distance import euclidean, sqeuclidean
    >>> from skdml import check_metric_axioms
    >>> X = np.arange(6.0).reshape(-1, 1)
    >>> check_metric_axioms(euclidean, X).triangle
    0.0
    >>> check_metric_axioms(sqeuclidean, X).triangle  # 5² is more than 2² + 3²
    12.0
    """
    X = check_array(X, allow_nd=True, ensure_min_samples=2)
    if len(X) > max_points:
        X = X[check_random_state(random_state).choice(len(X), max_points, replace=False)]
    # Y is a copy, so that d(x, x) is computed like any other distance instead of assumed.
    if hasattr(d, "pairwise"):
        D = d.pairwise(X, X.copy())
        own = max(D.diagonal().max(), d.paired(X, X.copy()).max())
    else:
        D = np.array([[d(x, y) for y in X] for x in X], dtype=float)
        own = D.diagonal().max()
    rows = X.reshape(len(X), -1)
    differ = (rows[:, None] != rows[None]).any(axis=2)
    return Bunch(
        negativity=float(max(0, -D.min())),
        identity=float(own),
        asymmetry=float(abs(D - D.T).max()),
        triangle=float(max(0, max((D - D[:, [k]] - D[k]).max() for k in range(len(D))))),
        smallest=float(D[differ].min()) if differ.any() else np.nan,
        scale=float(D.max()),
    )
