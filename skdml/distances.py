"""The base distances d_e, and `LearnedDistance`, the distance that a fitted learner returns."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from sklearn.preprocessing import normalize
from sklearn.utils import Bunch, check_array, check_random_state
from sklearn.utils.validation import check_consistent_length

BASE_DISTANCES = ("euclidean", "sqeuclidean", "cosine", "angular", "manhattan")
"""The values of the parameter `distance`."""

METRIC_DISTANCES = ("euclidean", "angular", "manhattan")
"""The base distances that satisfy the triangle inequality."""

# Callers that pass single points, such as a ball tree or DBSCAN, pass the same points many times.
# Their embeddings are cached. Beyond this number of points, the oldest one is dropped.
MAX_CACHED_POINTS = 100_000


def check_distance(name: Any) -> str:
    """Check the name of a base distance, and return it.

    Parameters
    ----------
    name : str
        One of `BASE_DISTANCES`.

    Returns
    -------
    str
        The name.

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> from skdml.distances import check_distance
    >>> check_distance("angular")
    'angular'
    """
    if not isinstance(name, str) or name not in BASE_DISTANCES:
        raise ValueError(f"distance={name!r} is unknown; choose one of {sorted(BASE_DISTANCES)}.")
    return name


def pairwise_base_distance(
    A: NDArray[np.floating], B: NDArray[np.floating] | None = None, distance: str = "euclidean"
) -> NDArray[np.floating]:
    """Compute the distances between all rows of A and all rows of B.

    Parameters
    ----------
    A : ndarray of shape (n, n_components)
        Points, float32 or float64.
    B : ndarray of shape (m, n_components), default=None
        Other points. None uses A.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        The base distance. "cosine" is 1 - cos, in [0, 2]; "angular" is the angle divided by pi, in
        [0, 1]. Both treat a zero vector as orthogonal to all others.

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
    # Unlike the faster |a|² - 2ab + |b|², differences give exactly 0 for equal points.
    B = A if B is None else B
    D = cdist(A, B, metric=_SCIPY_NAME[distance])
    if distance == "cosine":
        D /= 2
    elif distance == "angular":
        D = _angle(D, cdist(A, -B))
    return D.astype(A.dtype, copy=False)


def paired_base_distance(
    A: NDArray[np.floating], B: NDArray[np.floating], distance: str = "euclidean"
) -> NDArray[np.floating]:
    """Compute the distance between each row of A and the same row of B.

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


def euclidean_form(A: NDArray[np.floating], distance: str = "euclidean") -> NDArray[np.floating]:
    """Transform points so that Euclidean neighbours are the neighbours by `distance`.

    Parameters
    ----------
    A : ndarray of shape (n, n_components)
        Points, float32 or float64.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        See `pairwise_base_distance`.

    Returns
    -------
    ndarray of shape (n, n_components) or (n, n_components + 1)
        For "cosine" and "angular", unit vectors with a last column that is 1 for zero vectors and 0
        otherwise. For the other distances, A itself. The Manhattan distance has no such form.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.distances import euclidean_form
    >>> euclidean_form(np.array([[3.0, 4.0], [0.0, 0.0]]), "angular")
    array([[0.6, 0.8, 0. ],
           [0. , 0. , 1. ]])
    """
    return _directions(A) if check_distance(distance) in ("angular", "cosine") else A


def base_distance_of(estimator: Any) -> str:
    """Return the name of the base distance for the embeddings of an estimator.

    Parameters
    ----------
    estimator : estimator
        A fitted learner or other transformer, a pipeline that ends in one, a fitted search over
        these, or one of them in a :class:`~sklearn.frozen.FrozenEstimator`.

    Returns
    -------
    str
        The base distance of its `get_metric`. "euclidean" if it has no such method.

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


def _squared_length(A: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.einsum("ij,ij->i", A, A)


_SCIPY_NAME = {
    "angular": "euclidean",
    "cosine": "sqeuclidean",
    "euclidean": "euclidean",
    "manhattan": "cityblock",
    "sqeuclidean": "sqeuclidean",
}


def _directions(A: NDArray[np.floating]) -> NDArray[np.floating]:
    # A zero vector has no direction. The last column gives it one that is orthogonal to all others,
    # so the angular distance stays a metric. Rows are first divided by their largest entry, because
    # squares of very small or very large entries underflow or overflow.
    largest = abs(A).max(axis=1, keepdims=True)
    A = normalize(A / np.where(largest > 0, largest, 1))
    return np.hstack([A, largest == 0], dtype=A.dtype, casting="unsafe")


def _angle(chord: NDArray[np.floating], antichord: NDArray[np.floating]) -> NDArray[np.floating]:
    # Computed from |u - v| and |u + v| of unit vectors u and v (Kahan). The arccosine of u·v would
    # lose half of the digits if directions are nearly equal or opposite.
    return 2 / np.pi * np.arctan2(chord, antichord)


class LearnedDistance:
    """A learned distance d(x, y) = d_e(f(x), f(y)) as a picklable callable.

    The method `get_metric` of a learner returns it. It has its own copy of f, so a later fit of the
    learner does not change it.

    Parameters
    ----------
    embed : callable
        The embedding f. It maps points of shape (n, ...) to embeddings of shape (n, n_components),
        and must validate the points: the distance itself does not.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance d_e.
    distinct : bool, default=False
        Whether `pairwise` and `paired` embed equal points only once. Set it to True if f is slow,
        as most networks are: finding equal points also takes time.

    Attributes
    ----------
    is_metric : bool
        Whether the triangle inequality holds: False for "sqeuclidean" and "cosine". The other
        axioms hold for every base distance, with one exception: a distance of 0 means equal
        embeddings, not equal points. A learner may ignore some differences between points.

    See Also
    --------
    check_metric_axioms : Measure violations of the metric axioms on data.

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

    def __init__(
        self,
        embed: Callable[[Any], NDArray[np.floating]],
        distance: str = "euclidean",
        *,
        distinct: bool = False,
    ) -> None:
        self.embed = embed
        self.distance = check_distance(distance)
        self.distinct = distinct
        self._cache: dict[tuple[str, bytes], NDArray[np.floating]] = {}

    @property
    def is_metric(self) -> bool:
        """Whether the triangle inequality holds for the base distance."""
        return self.distance in METRIC_DISTANCES

    def __call__(self, X: ArrayLike, Y: ArrayLike | None = None) -> Any:
        """Compute the distance between two points, or all distances between two sets of points.

        Parameters
        ----------
        X : array-like of shape (n_features,) or (n, n_features)
            A point, or a set of points. For a learner of images or sequences, an array of the shape
            of one training point is a point, and so is a flattened one.
        Y : array-like of shape (n_features,) or (m, n_features), default=None
            The other point, or the other set of points. If X is a set, None uses X.

        Returns
        -------
        float or ndarray of shape (n, m)
            The distance between two points, or the matrix of distances between two sets.

        Raises
        ------
        ValueError
            If X is a single point and Y is not, or if `embed` refuses the points.
        """
        x: Any = X if hasattr(X, "ndim") else np.asarray(X)
        if not self._is_point(x):
            return self.pairwise(x, Y)
        if Y is None:
            raise ValueError(
                "A distance needs two points, but X is a single point and Y is None. Give Y, or "
                "give X as a 2-D array of points."
            )
        y = np.asarray(Y)
        if not self._is_point(y):
            raise ValueError(
                f"X is a single point, of shape {x.shape}, but Y is not: it has shape {y.shape}. "
                "Give two points, or X[None] and Y as two sets of points."
            )
        a, b = self._embed_point(np.asarray(x)), self._embed_point(y)
        if self.distance == "euclidean":  # the usual case, computed without the checks
            difference = a - b
            return float(np.sqrt(difference @ difference))
        return float(paired_base_distance(a[None], b[None], self.distance)[0])

    def pairwise(self, X: ArrayLike, Y: ArrayLike | None = None) -> NDArray[np.floating]:
        """Compute the distances between all points of X and all points of Y.

        Parameters
        ----------
        X : array-like of shape (n, ...)
            Points.
        Y : array-like of shape (m, ...), default=None
            Other points. None uses X.

        Returns
        -------
        ndarray of shape (n, m)
            The distances.
        """
        A, B = self._embed_sets(X, Y)
        return pairwise_base_distance(A, B, self.distance)

    def paired(self, X: ArrayLike, Y: ArrayLike) -> NDArray[np.floating]:
        """Compute the distance between each point of X and the point of Y with the same index.

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
        A, B = self._embed_sets(X, Y)
        return paired_base_distance(A, B, self.distance)

    def _is_point(self, x: Any) -> bool:
        """Whether an array is one point: 1-D, or of the shape of one training point."""
        return x.ndim == 1 or x.shape == getattr(self.embed, "feature_shape", None)

    def _embed_point(self, x: NDArray[Any]) -> NDArray[np.floating]:
        if x.dtype.hasobject:  # the bytes of an object array are addresses, not values
            x = x.astype(np.float64)
        key = x.dtype.char, x.tobytes()
        z = self._cache.get(key)
        if z is None:
            z = self.embed(x[None])[0]
            if len(self._cache) >= MAX_CACHED_POINTS:
                self._cache.pop(next(iter(self._cache)), None)
            self._cache[key] = z
        return z

    def _embed_sets(self, X: ArrayLike, Y: ArrayLike | None) -> tuple[Any, Any]:
        if not self.distinct:
            return self.embed(X), None if Y is None else self.embed(Y)
        sets = [np.ascontiguousarray(S) for S in ((X,) if Y is None else (X, Y))]
        points, inverse = distinct_points(sets)
        Z = self.embed(points)[inverse]
        return Z[: len(sets[0])], None if Y is None else Z[len(sets[0]) :]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}

    def __repr__(self) -> str:
        return f"LearnedDistance({self.embed!r}, distance={self.distance!r})"


def distinct_points(sets: list[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Stack sets of points, and keep one of equal points.

    Parameters
    ----------
    sets : list of ndarray, each of shape (n_i, ...)
        Sets of points. Two points are equal if their bytes are equal.

    Returns
    -------
    points : ndarray of shape (n_distinct, ...)
        The distinct points. Object arrays are not compared: all their points are kept.
    inverse : ndarray of int, shape (sum of the n_i,)
        The index in `points` of each stacked point.

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
    # Each row is viewed as one opaque value: sorting bytes is much faster than sorting rows.
    rows = points.reshape(len(points), -1)
    rows = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize * rows.shape[1])))
    _, first, inverse = np.unique(rows.ravel(), return_index=True, return_inverse=True)
    return points[first], inverse


def check_metric_axioms(
    d: Callable[[Any, Any], Any],
    X: ArrayLike,
    *,
    max_points: int = 200,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Measure the largest violation of each metric axiom on data.

    All pairs and triples of points are tried.

    Parameters
    ----------
    d : callable
        A `LearnedDistance`, or any function ``d(x, y)`` of two points that returns a float.
    X : array-like of shape (n, n_features)
        Points, at least two.
    max_points : int, default=200
        Largest number of points to try. If X has more, this number is drawn at random. The time
        grows with the cube of this number.
    random_state : int, RandomState instance or None, default=None
        Seed of the random draw of points.

    Returns
    -------
    Bunch
        Violations as floats >= 0, in units of d. A violation is 0 if the axiom holds.

        - ``negativity``: the largest -d(x, y).
        - ``identity``: the largest d(x, x).
        - ``asymmetry``: the largest abs(d(x, y) - d(y, x)).
        - ``triangle``: the largest d(x, z) - d(x, y) - d(y, z).

        Two values to compare them with: ``scale`` is the largest distance, and ``smallest`` is the
        smallest distance between two different points (NaN if all points are equal).

    Raises
    ------
    ValueError
        If X has fewer than two points.

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
    points: NDArray[Any] = check_array(X, allow_nd=True, ensure_min_samples=2)
    if len(points) > max_points:
        rng = check_random_state(random_state)
        points = points[rng.choice(len(points), max_points, replace=False)]
    # A copy of the points makes `pairwise` compute d(x, x) instead of assuming 0.
    if hasattr(d, "pairwise") and hasattr(d, "paired"):
        D = d.pairwise(points, points.copy())
        identity = max(D.diagonal().max(), d.paired(points, points.copy()).max())
    else:
        D = np.array([[d(x, y) for y in points] for x in points], dtype=float)
        identity = D.diagonal().max()
    rows = points.reshape(len(points), -1)
    different = (rows[:, None] != rows[None]).any(axis=2)
    return Bunch(
        negativity=float(max(0, -D.min())),
        identity=float(identity),
        asymmetry=float(abs(D - D.T).max()),
        triangle=float(max(0, max((D - D[:, [k]] - D[k]).max() for k in range(len(D))))),
        smallest=float(D[different].min()) if different.any() else np.nan,
        scale=float(D.max()),
    )
