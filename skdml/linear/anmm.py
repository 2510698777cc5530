"""Average neighborhood margin maximization."""

from numbers import Integral

import numpy as np
from scipy.linalg import eigh

from skdml.base import unchanged_on_error
from skdml.linear._differences import scatter_of_differences
from skdml.linear._eigen import check_embedding_type
from skdml.linear._neighbors import neighbor_pairs
from skdml.linear._points import centre_and_scale, sort_rows
from skdml.linear._psd import with_positive_peak
from skdml.linear.base import LinearMetricLearner, check_n_components

EMBEDDING_TYPES = ("weighted", "orthonormalized")


def margin_matrix(X, same, different):
    """S - C, the scatterness less the compactness.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    same, different : tuple of two ndarray of int, shape (n_pairs,)
        Pairs of a row and its neighbours of its class, and of other classes.

    Returns
    -------
    ndarray of float64, shape (n_features, n_features)
        Sum over the rows of the mean (x - y)(x - y)ᵀ to its neighbours of other classes, less that
        to those of its class. tr(L (S - C) Lᵀ) is the sum over the rows of the average margin.
    """
    n_rows = len(X)
    C, S = (
        scatter_of_differences(X, first, second, 1 / np.bincount(first, minlength=n_rows)[first])
        for first, second in (same, different)
    )
    return S - C


def margin_axes(margin, n_components, embedding_type):
    """Maximise the margin tr(L (S - C) Lᵀ).

    Parameters
    ----------
    margin : ndarray of shape (n_features, n_features)
        S - C.
    n_components : int or None
        How many axes.
    embedding_type : {"weighted", "orthonormalized"}
        See `ANMM`.

    Returns
    -------
    ndarray of shape (n_components, n_features)
        L.
    """
    values, axes = eigh(margin)
    values, axes = values[::-1], with_positive_peak(axes.T[::-1])
    if embedding_type == "weighted":
        # The paper's L is turned, not scaled: to stretch it the margin needs a measure of its own.
        lengths = np.exp(values / (abs(values).max() or 1.0))
        return (axes * lengths[:, None])[:n_components]
    if n_components is None:
        n_components = max(1, (values > 0).sum())
    return axes[:n_components]


class ANMM(LinearMetricLearner):
    """Average neighborhood margin maximization.

    The margin of a point is the mean squared distance to its nearest neighbours of other classes
    less that to those of its own. L maximises the sum of them [1]_::

        max over L of  tr(L (S - C) Lᵀ)
        S = Σ_i 1/|Eᵢ| Σ_k∈Eᵢ (x_i - x_k)(x_i - x_k)ᵀ,    Eᵢ the neighbours of other classes
        C = Σ_i 1/|Oᵢ| Σ_j∈Oᵢ (x_i - x_j)(x_i - x_j)ᵀ,    Oᵢ those of the same class

    With orthonormal rows, the paper's constraint, L is made of the leading eigenvectors of S - C.
    With ``embedding_type="weighted"`` M is free but for a price on leaving Euclid's distance, the
    von Neumann divergence to I, τ being the largest of the eigenvalues of S - C in size::

        max over M > 0 of  tr(M (S - C)) - τ/2 tr(M log M - M + I),    M = exp(2 (S - C) / τ)

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L: the leading axes. None for all of them if weighted, for those of a
        positive margin (at least one) if orthonormal: any other would make the objective less.
    n_neighbors : int, default=5
        How many neighbours of its class each row has, fewer where there are not so many.
    n_impostors : int, default=5
        How many neighbours of other classes.
    embedding_type : {"weighted", "orthonormalized"}, default="weighted"
        How long the axes are: exp(λ / τ), λ being the axis' eigenvalue; or 1.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L; in the dtype of X if that is a float dtype, else float64.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    DMLMJ : The quotient of both matrices in place of their difference.

    Notes
    -----
    L is a turn that stretches by e at most, which does little about columns in different units:
    standardise them. Cost: the search for neighbours, and O(n (n_neighbors + n_impostors) d²)
    time; O(n (d + n_neighbors + n_impostors)) memory.

    References
    ----------
    .. [1] F. Wang & C. Zhang, "Feature extraction by maximizing the average neighborhood margin",
       CVPR 2007; equations 7 to 11.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import ANMM
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(ANMM(2), KNeighborsClassifier(3)).fit(X[::2], y[::2])
    >>> round(model.score(X[1::2], y[1::2]), 2)
    0.99
    """

    def __init__(
        self, n_components=None, *, n_neighbors=5, n_impostors=5, embedding_type="weighted"
    ):
        self.n_components = n_components
        self.n_neighbors = n_neighbors
        self.n_impostors = n_impostors
        self.embedding_type = embedding_type

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
        self : ANMM
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D or not finite, y is missing, continuous or of one class, each class has
            a single row, or a parameter is out of range.
        """
        with unchanged_on_error(self):
            self._check_ranges(n_impostors=(Integral, False, 1, None, "left"))
            check_embedding_type(self.embedding_type, EMBEDDING_TYPES)
            X, codes, _ = self._read_labelled(X, y)
            check_n_components(self.n_components, X.shape[1], "n_features")
            X, codes = sort_rows(X, codes)
            points, _ = centre_and_scale(X)
            pairs = neighbor_pairs(points, codes, self.n_neighbors, self.n_impostors)
            margin = margin_matrix(points, *pairs)
            L = margin_axes(margin, self.n_components, self.embedding_type)
            self.components_ = L.astype(X.dtype)
            return self
