"""Average neighborhood margin maximization."""

from numbers import Integral
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh

from skdml.base import unchanged_on_error
from skdml.linear._differences import scatter_of_differences
from skdml.linear._eigen import check_embedding_type
from skdml.linear._neighbors import neighbor_pairs
from skdml.linear._points import centre_and_scale, sort_rows
from skdml.linear._psd import with_positive_peak
from skdml.linear.base import LinearMetricLearner, check_n_components

EMBEDDING_TYPES = ("weighted", "orthonormalized")


def margin_matrix(
    X: NDArray[np.floating],
    same: tuple[NDArray[np.integer], NDArray[np.integer]],
    different: tuple[NDArray[np.integer], NDArray[np.integer]],
) -> NDArray[np.floating]:
    """Scatterness minus compactness, S - C.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    same, different : tuple of two ndarray of int, shape (n_pairs,)
        Pairs of a row and a neighbour of the same class, and of another class.

    Returns
    -------
    ndarray of float64, shape (n_features, n_features)
        S sums over the rows the mean of (x - y)(x - y)ᵀ over neighbours of other classes. C does
        the same for neighbours of the same class. tr(L (S - C) Lᵀ) is the sum of the margins.
    """
    n_rows = len(X)
    C, S = (
        scatter_of_differences(X, first, second, 1 / np.bincount(first, minlength=n_rows)[first])
        for first, second in (same, different)
    )
    return S - C


def margin_axes(
    margin: NDArray[np.floating], n_components: int | None, embedding_type: str
) -> NDArray[np.floating]:
    """Maximise the margin tr(L (S - C) Lᵀ).

    Parameters
    ----------
    margin : ndarray of shape (n_features, n_features)
        S - C.
    n_components : int or None
        Number of axes. None has the meaning documented in `ANMM`.
    embedding_type : {"weighted", "orthonormalized"}
        Lengths of the axes, as in `ANMM`.

    Returns
    -------
    ndarray of shape (n_components, n_features)
        L, by decreasing eigenvalue of S - C.
    """
    values, axes = eigh(margin)
    values, axes = values[::-1], with_positive_peak(axes.T[::-1])
    if embedding_type == "weighted":
        # A margin has no natural unit. Dividing by the largest eigenvalue makes lengths comparable.
        lengths = np.exp(values / (abs(values).max() or 1.0))
        return (axes * lengths[:, None])[:n_components]
    if n_components is None:
        n_components = max(1, (values > 0).sum())
    return axes[:n_components]


class ANMM(LinearMetricLearner):
    """Average neighborhood margin maximization.

    The margin of a point is the mean squared distance to its nearest neighbours of other classes
    minus the mean squared distance to its nearest neighbours of its own class. L maximises the
    sum of all margins [1]_::

        max over L of  tr(L (S - C) Lᵀ)
        S = Σ_i 1/|Eᵢ| Σ_k∈Eᵢ (x_i - x_k)(x_i - x_k)ᵀ,    Eᵢ the neighbours of other classes
        C = Σ_i 1/|Oᵢ| Σ_j∈Oᵢ (x_i - x_j)(x_i - x_j)ᵀ,    Oᵢ the neighbours of the same class

    With ``embedding_type="orthonormalized"`` the rows of L are orthonormal, as in the paper. They
    are the leading eigenvectors of S - C. Unlike the paper, the default
    ``embedding_type="weighted"`` also learns lengths. It penalises the distance from Euclidean
    distance by the von Neumann divergence of M from I, with τ the largest absolute eigenvalue of
    S - C::

        max over M > 0 of  tr(M (S - C)) - τ/2 tr(M log M - M + I),    M = exp(2 (S - C) / τ)

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, from 1 to n_features. The leading axes are kept. None keeps all axes
        if they are weighted. If they are orthonormal, None keeps those with a positive margin (at
        least one), because any other axis lowers the objective.
    n_neighbors : int, default=5
        Number of nearest neighbours of the same class for each row, at least 1. Smaller classes
        give fewer. Increase it for noisy data; this smooths the margin.
    n_impostors : int, default=5
        Number of nearest neighbours of other classes for each row, at least 1. Increase it with
        `n_neighbors`.
    embedding_type : {"weighted", "orthonormalized"}, default="weighted"
        Length of each axis. "weighted": exp(λ / τ), with λ the eigenvalue of the axis.
        "orthonormalized": 1, as in the paper. Choose it to project onto few axes.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L. It has the dtype of X if that is float32 or float64, otherwise float64.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    DMLMJ : Uses the ratio of the two matrices instead of their difference.

    Notes
    -----
    L rotates the points and stretches them by a factor of at most e. It cannot correct columns
    with different units: standardise them first.

    With n points and d features, a fit takes O(n (n_neighbors + n_impostors) d²) time and
    O(n (d + n_neighbors + n_impostors)) memory, plus the search for neighbours.

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
        self,
        n_components: int | None = None,
        *,
        n_neighbors: int = 5,
        n_impostors: int = 5,
        embedding_type: str = "weighted",
    ) -> None:
        self.n_components = n_components
        self.n_neighbors = n_neighbors
        self.n_impostors = n_impostors
        self.embedding_type = embedding_type

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
        self : ANMM
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D or not finite; if y is missing, is continuous or has a single class;
            if every class has a single row; or if a parameter is out of range.
        """
        with unchanged_on_error(self):
            self._check_ranges(n_impostors=(Integral, False, 1, None, "left"))
            check_embedding_type(self.embedding_type, EMBEDDING_TYPES)
            points, codes, _ = self._read_labelled(X, y)
            check_n_components(self.n_components, points.shape[1], "n_features")

            points, codes = sort_rows(points, codes)
            scaled, _ = centre_and_scale(points)
            pairs = neighbor_pairs(scaled, codes, self.n_neighbors, self.n_impostors)

            margin = margin_matrix(scaled, *pairs)
            L = margin_axes(margin, self.n_components, self.embedding_type)
            self._set_components(L, points.dtype)
            return self
