"""Distance metric learning through the maximisation of the Jeffrey divergence."""

from numbers import Real
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skdml.base import unchanged_on_error
from skdml.linear._differences import scatter_of_differences
from skdml.linear._eigen import check_embedding_type, generalized_eigenvectors, scale_axes, shrink
from skdml.linear._neighbors import neighbor_pairs
from skdml.linear._points import centre_and_scale, sort_rows
from skdml.linear.base import LinearMetricLearner, check_n_components


def local_covariances(
    X: NDArray[np.floating],
    same: tuple[NDArray[np.integer], NDArray[np.integer]],
    different: tuple[NDArray[np.integer], NDArray[np.integer]],
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Mean of (x - y)(x - y)ᵀ over same pairs, Σ_S, and over different pairs, Σ_D.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    same, different : tuple of two ndarray of int, shape (n_pairs,)
        Pairs of a row and a neighbour of the same class, and of another class.

    Returns
    -------
    S, D : ndarray of float64, shape (n_features, n_features)
        The two means.
    """
    S, D = (scatter_of_differences(X, *pairs) / len(pairs[0]) for pairs in (same, different))
    return S, D


def jeffrey_axes(
    S: NDArray[np.floating], D: NDArray[np.floating], n_samples: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Axes, ordered by their contribution to the Jeffrey divergence.

    The Jeffrey divergence of two Gaussians with mean 0 and covariances S and D is half the sum of
    λ + 1/λ - 2 over the axes v of D v = λ S v.

    Parameters
    ----------
    S, D : ndarray of shape (n_features, n_features)
        Covariances.
    n_samples : int
        Number of rows that they were estimated from.

    Returns
    -------
    values : ndarray of shape (rank of S,)
        λ, by decreasing λ + 1/λ.
    axes : ndarray of shape (rank of S, n_features)
        The axes as rows, with vᵀ S v = 1.
    """
    values, axes = generalized_eigenvectors(D, S, n_samples)
    positive = np.maximum(values, np.finfo(np.float64).tiny)
    order = np.argsort(-(positive + 1 / positive), kind="stable")
    return values[order], axes[order]


class DMLMJ(LinearMetricLearner):
    """Distance metric learning through the maximisation of the Jeffrey divergence.

    The differences between a point and its nearest neighbours of the same class are modelled as
    Gaussian with mean 0 and covariance Σ_S. The differences to its nearest neighbours of other
    classes have the covariance Σ_D. L maximises the Jeffrey divergence between the two [1]_::

        max over L of  tr((L Σ_S Lᵀ)⁻¹ L Σ_D Lᵀ) + tr((L Σ_D Lᵀ)⁻¹ L Σ_S Lᵀ)

    The rows of L are the axes v of Σ_D v = λ Σ_S v with the largest λ + 1/λ.

    Parameters
    ----------
    n_components : int, default=None
        Number of axes, from 1 to n_features. None keeps n_features axes.
    n_neighbors : int, default=5
        Number of nearest neighbours of the same class, and of other classes, for each row, at
        least 1. Smaller classes give fewer. Increase it for noisy data.
    embedding_type : {"weighted", "orthonormalized", "plain"}, default="weighted"
        Lengths of the axes, which the divergence does not determine. "weighted": vᵀ Σ_S v = λ, so
        an axis has more weight if different pairs are farther apart along it than same pairs.
        "orthonormalized": an orthonormal basis of the axes, for a projection; with n_components
        equal to n_features this is only a rotation. "plain": vᵀ Σ_S v = 1, as in the paper; with
        all axes, M = Σ_S⁻¹.
    shrinkage : float, default=0.1
        Share of a diagonal matrix in Σ_S and in Σ_D, in [0, 1]. The diagonal matrix holds the
        variances of the columns, scaled to the size of Σ_S or Σ_D. 0 gives the paper's estimates.
        Increase it if there are few rows for the number of columns.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L, with the axes as rows. It has the dtype of X if that is float32 or float64, otherwise
        float64.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    KISSME : Uses all pairs instead of pairs of neighbours.
    ANMM : Uses the difference of the two matrices instead of their ratio.

    Notes
    -----
    If Σ_S is singular, its pseudo-inverse is used and a UserWarning is raised. This can happen
    with ``shrinkage=0`` only.

    The diagonal matrix of `shrinkage` is c diag(variance), with c the mean over the columns of
    the diagonal of Σ_S (or Σ_D) divided by the variance.

    With n points and d features, a fit takes O(n n_neighbors d²) time and O(n (d + n_neighbors))
    memory, plus the search for neighbours.

    References
    ----------
    .. [1] B. Nguyen, C. Morell & B. De Baets, "Supervised distance metric learning through
       maximization of the Jeffrey divergence", Pattern Recognition 64, 215-225, 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skdml import DMLMJ
    >>> X, y = load_wine(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), DMLMJ(), KNeighborsClassifier(3))
    >>> round(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]), 2)
    0.97
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        n_neighbors: int = 5,
        embedding_type: str = "weighted",
        shrinkage: float = 0.1,
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
        self : DMLMJ
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D or not finite; if y is missing, is continuous or has a single class;
            if every class has a single row; or if a parameter is out of range.
        """
        with unchanged_on_error(self):
            self._check_ranges(shrinkage=(Real, False, 0, 1, "both"))
            check_embedding_type(self.embedding_type)
            points, codes, _ = self._read_labelled(X, y)
            n_components = check_n_components(self.n_components, points.shape[1], "n_features")

            points, codes = sort_rows(points, codes)
            scaled, scale = centre_and_scale(points)
            pairs = neighbor_pairs(scaled, codes, self.n_neighbors, self.n_neighbors)

            variance = np.var(scaled, axis=0, dtype=np.float64)
            S, D = (shrink(C, variance, self.shrinkage) for C in local_covariances(scaled, *pairs))
            values, axes = jeffrey_axes(S, D, len(scaled))
            L = scale_axes(values[:n_components], axes[:n_components], self.embedding_type)
            if self.embedding_type != "orthonormalized":
                L = L / scale
            self._set_components(L, points.dtype)
            return self
