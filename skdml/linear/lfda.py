"""Local Fisher discriminant analysis."""

from collections.abc import Iterator
from numbers import Real
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skdml._threads import threads_for
from skdml.base import unchanged_on_error
from skdml.linear._eigen import check_embedding_type, generalized_eigenvectors, scale_axes, shrink
from skdml.linear._kernels import square_factors
from skdml.linear._moments import scatter_of
from skdml.linear._points import centre_and_scale
from skdml.linear.base import LinearMetricLearner, check_n_components, no_same_class_message

# Numbers in a block of affinities.
_BLOCK = 2**20


def negative_squared_distances(
    left: NDArray[np.floating], right: NDArray[np.floating]
) -> Iterator[tuple[slice, NDArray[np.floating]]]:
    """Compute -|x_i - x_j|² of points, in blocks of rows.

    Parameters
    ----------
    left, right : ndarray of shape (n, n_features + 2)
        Factors of the points, as `square_factors` returns them.

    Yields
    ------
    block : slice
        Rows.
    negative : ndarray of shape (n_rows, n)
        -|x_i - x_j|² of these rows to all points. Rounding makes none of them positive.
    """
    n_rows = max(1, _BLOCK // len(left))
    for start in range(0, len(left), n_rows):
        block = slice(start, start + n_rows)
        negative = left[block] @ right.T
        yield block, np.minimum(negative, 0, out=negative)


def local_scales(
    left: NDArray[np.floating], right: NDArray[np.floating], n_neighbors: int
) -> NDArray[np.floating]:
    """Distance of each point to its k-th nearest neighbour, σ.

    Parameters
    ----------
    left, right : ndarray of shape (n, n_features + 2)
        Factors of the points of one class, as `square_factors` returns them.
    n_neighbors : int
        k; n - 1 is used if it is less.

    Returns
    -------
    ndarray of shape (n,)
        σ. For a point with k duplicates, up to rounding, it is the smallest distance that exceeds
        rounding.
    """
    # Counted from the largest value down. The largest is that of the point itself.
    position = -1 - min(n_neighbors, len(left) - 1)
    found = []
    for _, block in negative_squared_distances(left, right):
        block.partition(position)
        found.append(block[:, position].copy())  # a view would keep the block in memory
    info = np.finfo(left.dtype)
    return np.sqrt(
        np.maximum(-np.concatenate(found), max(-info.eps * left[:, -1].min(), info.tiny))
    )


def local_scatter(X: NDArray[np.floating], n_neighbors: int) -> NDArray[np.floating]:
    """Half the sum of A_ij (x_i - x_j)(x_i - x_j)ᵀ, A_ij = exp(-|x_i - x_j|² / (σ_i σ_j)).

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
        Points of one class, centred.
    n_neighbors : int
        k of the local scaling σ.

    Returns
    -------
    ndarray of float64, shape (n_features, n_features)
        The sum. A is computed in blocks.
    """
    total = np.zeros((X.shape[1], X.shape[1]))
    if len(X) < 2:
        return total
    left, right = square_factors(X)
    scale = 1 / local_scales(left, right, n_neighbors)[:, None]
    for block, A in negative_squared_distances(left * scale, right * scale):
        np.exp(A, out=A)
        total += scatter_of(X[block], A.sum(axis=1)) - X[block].T @ (A @ X)
    return (total + total.T) / 2


def local_within_and_between(
    X: NDArray[np.floating], codes: NDArray[np.integer], n_neighbors: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Matrices S̃ʷ and S̃ᵇ of the paper's equations 13 and 14.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    n_neighbors : int
        k of the local scaling.

    Returns
    -------
    within, between : ndarray of float64, shape (n_features, n_features)
        Local scatter within classes and between classes, both positive semi-definite.
    """
    n, within = len(X), np.zeros((X.shape[1], X.shape[1]))
    # Pairs of two classes have the weight 1 / n: all pairs minus those within classes.
    between = scatter_of(_centre(X))
    for code in range(codes.max() + 1):
        rows = _centre(X[codes == code])
        local, size = local_scatter(rows, n_neighbors), len(rows)
        within += local / size
        between += local * (1 / n - 1 / size) - scatter_of(rows) * (size / n)
    return within, between


def _centre(X: NDArray[np.floating]) -> NDArray[np.floating]:
    return X - X.mean(axis=0, dtype=np.float64).astype(X.dtype)


class LFDA(LinearMetricLearner):
    """Local Fisher discriminant analysis.

    Fisher's discriminant analysis pulls all points of a class together. LFDA pulls only neighbours
    together, so a class may consist of several clusters (Sugiyama [1]_). Its axes v solve, by
    decreasing λ,::

        S̃ᵇ v = λ S̃ʷ v
        S̃ʷ = ½ Σ_ij W_ij (x_i - x_j)(x_i - x_j)ᵀ,    W_ij = A_ij / n_c
        S̃ᵇ, the same with                            W_ij = A_ij (1/n - 1/n_c)

    if x_i and x_j are in the same class of n_c points. For points of two classes W_ij is 0 in S̃ʷ
    and 1/n in S̃ᵇ. The affinity is A_ij = exp(-|x_i - x_j|² / (σ_i σ_j)), where σ_i is the
    distance from x_i to its k-th nearest neighbour in its class.

    S̃ʷ and S̃ᵇ are sums, not means, as in the paper. With ``embedding_type="weighted"`` or "plain",
    distances therefore shrink as 1/√n with more rows; their ranking does not. If all rows are
    equal, a UserWarning says that nothing was learned.

    Parameters
    ----------
    n_components : int, default=None
        Number of axes, in [1, n_features]; None for n_features.
    n_neighbors : int, default=7
        k of the local scaling; fewer in a class with at most k points.
    embedding_type : {"weighted", "orthonormalized", "plain"}, default="weighted"
        Length of the axes. "weighted" makes vᵀ S̃ʷ v = λ: axes that separate the classes better
        are longer. "plain" makes vᵀ S̃ʷ v = 1. In both, S̃ʷ is the shrunk matrix; see `shrinkage`.
        "orthonormalized" takes orthonormal axes of the same
        space. With n_components=None these only rotate X, and distances are Euclidean.
    shrinkage : float, default=0.03
        Share of a diagonal matrix in S̃ʷ, in [0, 1]. The diagonal matrix holds the variances of the
        columns, times the mean of the diagonal of S̃ʷ divided by them. Unlike the paper, S̃ʷ is
        shrunk by default; 0 is the S̃ʷ of the paper.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L, one axis a row; float32 if X is float32, else float64.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    sklearn.discriminant_analysis.LinearDiscriminantAnalysis : The case A_ij = 1.
    DMLMJ : Compares neighbours of the same class with neighbours of other classes.

    Notes
    -----
    With ``shrinkage=0`` S̃ʷ may be singular. Its pseudo-inverse is then used, with a UserWarning.
    Cost: O(Σ n_c² d + n d²) time and O(n d + d²) memory for n points with d features, because A is
    computed in blocks.

    References
    ----------
    .. [1] M. Sugiyama, "Dimensionality reduction of multimodal labeled data by local Fisher
       discriminant analysis", JMLR 8, 1027-1061, 2007.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skdml import LFDA
    >>> X, y = load_wine(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), LFDA(), KNeighborsClassifier(3))
    >>> round(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]), 2)
    0.96
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        n_neighbors: int = 7,
        embedding_type: str = "weighted",
        shrinkage: float = 0.03,
    ) -> None:
        self.n_components = n_components
        self.n_neighbors = n_neighbors
        self.embedding_type = embedding_type
        self.shrinkage = shrinkage

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Learn the distance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Points.
        y : array-like of shape (n_samples,)
            Class labels of any kind.

        Returns
        -------
        self : LFDA
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D or not finite, if y is missing, continuous or has a single class, if
            each class has a single row, or if a parameter is out of range.

        Warns
        -----
        UserWarning
            If S̃ʷ is singular.
        """
        with unchanged_on_error(self):
            self._check_ranges(shrinkage=(Real, False, 0, 1, "both"))
            check_embedding_type(self.embedding_type)
            rows, codes, _ = self._read_labelled(X, y)
            largest = int(np.bincount(codes).max())
            if largest < 2:
                raise ValueError(no_same_class_message(codes))
            n_components = check_n_components(self.n_components, rows.shape[1], "n_features")
            points, scale = centre_and_scale(rows)
            with threads_for(largest**2 * rows.shape[1]):
                within, between = local_within_and_between(points, codes, self.n_neighbors)
            variance = np.var(points, axis=0, dtype=np.float64)
            S = shrink(within, variance, self.shrinkage)
            values, axes = generalized_eigenvectors(between, S, len(rows))
            L = scale_axes(values[:n_components], axes[:n_components], self.embedding_type)
            orthonormal = self.embedding_type == "orthonormalized"
            self._set_components(L if orthonormal else L / scale, rows.dtype)
            return self
