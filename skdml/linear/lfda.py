"""Local Fisher discriminant analysis."""

from numbers import Real

import numpy as np

from skdml._threads import threads_for
from skdml.base import unchanged_on_error
from skdml.linear._eigen import check_embedding_type, generalized_eigenvectors, scale_axes, shrink
from skdml.linear._kernels import square_factors
from skdml.linear._moments import scatter_of
from skdml.linear._points import centre_and_scale
from skdml.linear.base import LinearMetricLearner, check_n_components, no_same_class_message

# Numbers in a block of affinities.
_BLOCK = 2**20


def negative_squares(left, right):
    """-|x_i - x_j|² of points, in blocks of rows.

    Parameters
    ----------
    left, right : ndarray of shape (n, n_features + 2)
        Of the points, as `square_factors` makes them.

    Yields
    ------
    block : slice
        Rows.
    negative : ndarray of shape (n_rows, n)
        What theirs are to all points; no rounding makes one positive.
    """
    n_rows = max(1, _BLOCK // len(left))
    for start in range(0, len(left), n_rows):
        block = slice(start, start + n_rows)
        negative = left[block] @ right.T
        yield block, np.minimum(negative, 0, out=negative)


def local_scaling(left, right, n_neighbors):
    """Distance of each point to its k-th neighbour, σ.

    Parameters
    ----------
    left, right : ndarray of shape (n, n_features + 2)
        Of the points of one class, as `square_factors` makes them.
    n_neighbors : int
        k, or n - 1 if that is less.

    Returns
    -------
    ndarray of shape (n,)
        σ; among duplicates, as far as the precision of the points can tell, the least distance
        that is more than rounding.
    """
    # From the largest down; at place 0 each point is its own nearest.
    place = -1 - min(n_neighbors, len(left) - 1)
    found = []
    for _, block in negative_squares(left, right):
        block.partition(place)
        found.append(block[:, place].copy())  # a view would keep its block
    info = np.finfo(left.dtype)
    return np.sqrt(
        np.maximum(-np.concatenate(found), max(-info.eps * left[:, -1].min(), info.tiny))
    )


def local_scatter(X, n_neighbors):
    """Half the sum of A_ij (x_i - x_j)(x_i - x_j)ᵀ, A_ij = exp(-|x_i - x_j|² / (σ_i σ_j)).

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
        Points of one class, about 0.
    n_neighbors : int
        Of the local scaling σ.

    Returns
    -------
    ndarray of float64, shape (n_features, n_features)
        The sum, in blocks of A.
    """
    total = np.zeros((X.shape[1], X.shape[1]))
    if len(X) < 2:
        return total
    left, right = square_factors(X)
    scale = 1 / local_scaling(left, right, n_neighbors)[:, None]
    for block, A in negative_squares(left * scale, right * scale):
        np.exp(A, out=A)
        total += scatter_of(X[block], A.sum(axis=1)) - X[block].T @ (A @ X)
    return (total + total.T) / 2


def local_within_and_between(X, codes, n_neighbors):
    """Matrices S̃ʷ and S̃ᵇ of the paper's equations 13 and 14, over n.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    n_neighbors : int
        Of the local scaling.

    Returns
    -------
    within, between : ndarray of float64, shape (n_features, n_features)
        Local scatter within classes; that between them, positive semi-definite, too.
    """
    n, within = len(X), np.zeros((X.shape[1], X.shape[1]))
    # Pairs of two classes, each with the weight 1 / n: all pairs less those within classes.
    between = scatter_of(_about_mean(X))
    for code in range(codes.max() + 1):
        rows = _about_mean(X[codes == code])
        local, size = local_scatter(rows, n_neighbors), len(rows)
        within += local / size
        between += local * (1 / n - 1 / size) - scatter_of(rows) * (size / n)
    return within / n, between / n


def _about_mean(X):
    return X - X.mean(axis=0, dtype=np.float64).astype(X.dtype)


class LFDA(LinearMetricLearner):
    """Local Fisher discriminant analysis.

    Fisher's analysis asks all points of a class to be near each other, LFDA only those that are
    neighbours: a class may consist of several clusters [1]_. Its axes v solve, by decreasing λ,::

        S̃ᵇ v = λ S̃ʷ v
        S̃ʷ = ½ Σ_ij W_ij (x_i - x_j)(x_i - x_j)ᵀ,    W_ij = A_ij / n_c
        S̃ᵇ, the same with                            W_ij = A_ij (1/n - 1/n_c)

    for x_i and x_j both in a class of n_c points, and 0 and 1/n for points of two classes. The
    affinity is A_ij = exp(-|x_i - x_j|² / (σ_i σ_j)), σ_i the distance from x_i to its k-th
    neighbour of its class.

    Parameters
    ----------
    n_components : int, default=None
        Number of axes. None for n_features.
    n_neighbors : int, default=7
        k of the local scaling, fewer in a class of no more than k points.
    embedding_type : {"weighted", "orthonormalized", "plain"}, default="weighted"
        How long the axes are: vᵀ S̃ʷ v = λ, so that those along which classes are apart count
        for more; or orthonormal axes of the space they span, which is a mere turn unless
        n_components is less than n_features; or vᵀ S̃ʷ v = 1.
    shrinkage : float, default=0.03
        In [0, 1]. Share of a diagonal matrix in S̃ʷ, namely of the variances of the columns times
        the mean quotient of the diagonal and those. 0 is the paper's S̃ʷ.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L, whose rows are the axes; in the dtype of X if that is a float dtype, else float64.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    sklearn.discriminant_analysis.LinearDiscriminantAnalysis : Fisher's own, with A_ij = 1.
    DMLMJ : Likewise from neighbours, strangers among them.

    Notes
    -----
    A singular S̃ʷ, possible with ``shrinkage=0`` only, gives a pseudo-inverse and a UserWarning.
    Cost: O(Σ n_c² d + n d²) time, O(n d + d²) memory, A being made in blocks.

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
        self, n_components=None, *, n_neighbors=7, embedding_type="weighted", shrinkage=0.03
    ):
        self.n_components = n_components
        self.n_neighbors = n_neighbors
        self.embedding_type = embedding_type
        self.shrinkage = shrinkage

    def fit(self, X, y=None):
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
            If X is not 2-D or not finite, y is missing, continuous or of one class, each class has
            a single row, or a parameter is out of range.
        """
        with unchanged_on_error(self):
            self._check_ranges(shrinkage=(Real, False, 0, 1, "both"))
            check_embedding_type(self.embedding_type)
            X, codes, _ = self._read_labelled(X, y)
            largest = int(np.bincount(codes).max())
            if largest < 2:
                raise ValueError(no_same_class_message(codes))
            n_components = check_n_components(self.n_components, X.shape[1], "n_features")
            points, scale = centre_and_scale(X)
            with threads_for(largest**2 * X.shape[1]):
                within, between = local_within_and_between(points, codes, self.n_neighbors)
            variance = np.var(points, axis=0, dtype=np.float64)
            S = shrink(within, variance, self.shrinkage)
            values, axes = generalized_eigenvectors(between, S, len(X))
            L = scale_axes(values[:n_components], axes[:n_components], self.embedding_type)
            turned = self.embedding_type == "orthonormalized"
            self.components_ = (L if turned else L / scale).astype(X.dtype)
            return self
