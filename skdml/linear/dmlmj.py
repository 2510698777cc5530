"""Distance metric learning through the maximisation of the Jeffrey divergence."""

from numbers import Real

import numpy as np

from skdml.base import unchanged_on_error
from skdml.linear._differences import scatter_of_differences
from skdml.linear._eigen import check_embedding_type, generalized_eigenvectors, scale_axes, shrink
from skdml.linear._neighbors import neighbor_pairs
from skdml.linear._points import centre_and_scale, sort_rows
from skdml.linear.base import LinearMetricLearner, check_n_components


def local_differences(X, same, different):
    """Mean (x - y)(x - y)ᵀ over pairs of one class, Σ_S, and over pairs of two, Σ_D.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    same, different : tuple of two ndarray of int, shape (n_pairs,)
        Pairs.

    Returns
    -------
    S, D : ndarray of float64, shape (n_features, n_features)
        The two means.
    """
    return tuple(scatter_of_differences(X, *pairs) / len(pairs[0]) for pairs in (same, different))


def jeffrey_axes(S, D, n_samples):
    """Axes by how much they tell differences of covariance S from those of D.

    The Jeffrey divergence of two Gaussians of mean 0 is a sum over the axes v of D v = λ S v, of
    λ + 1/λ - 2, halved.

    Parameters
    ----------
    S, D : ndarray of shape (n_features, n_features)
        Covariances.
    n_samples : int
        How many rows they were estimated from.

    Returns
    -------
    values : ndarray of shape (rank of S,)
        λ, by decreasing λ + 1/λ.
    axes : ndarray of shape (rank of S, n_features)
        The axes, vᵀ S v = 1.
    """
    values, axes = generalized_eigenvectors(D, S, n_samples)
    positive = np.maximum(values, np.finfo(np.float64).tiny)
    order = np.argsort(-(positive + 1 / positive), kind="stable")
    return values[order], axes[order]


class DMLMJ(LinearMetricLearner):
    """Distance metric learning through the maximisation of the Jeffrey divergence.

    Differences of a point to its nearest neighbours of its class are taken for Gaussian with mean
    0 and covariance Σ_S, those to its nearest neighbours of other classes with Σ_D. L maximises
    the Jeffrey divergence between both [1]_::

        max over L of  tr((L Σ_S Lᵀ)⁻¹ L Σ_D Lᵀ) + tr((L Σ_D Lᵀ)⁻¹ L Σ_S Lᵀ)

    Its rows are the axes v of Σ_D v = λ Σ_S v with the largest λ + 1/λ.

    Parameters
    ----------
    n_components : int, default=None
        Number of axes. None for n_features.
    n_neighbors : int, default=5
        How many neighbours each row has, of its class and of other classes, fewer where there are
        not so many.
    embedding_type : {"weighted", "orthonormalized", "plain"}, default="weighted"
        The divergence says which axes, and leaves open how long they are: vᵀ Σ_S v = λ, so that
        those along which strangers are further away than mates count for more; or orthonormal
        axes of the space they span, which is a mere turn unless n_components is less than
        n_features; or, as in the paper, vᵀ Σ_S v = 1, which for all axes makes M = Σ_S⁻¹.
    shrinkage : float, default=0.1
        In [0, 1]. Share of a diagonal matrix in Σ_S and in Σ_D, namely of the variances of the
        columns times the mean quotient of the diagonal and those. 0 is the paper's.

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
    KISSME : From all pairs, not those of neighbours.
    ANMM : The difference of both covariances in place of their quotient.

    Notes
    -----
    A singular Σ_S, possible with ``shrinkage=0`` only, gives a pseudo-inverse and a UserWarning.
    Cost: the search for neighbours, and O(n n_neighbors d²) time; O(n (d + n_neighbors)) memory.

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
        self, n_components=None, *, n_neighbors=5, embedding_type="weighted", shrinkage=0.1
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
        self : DMLMJ
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
            n_components = check_n_components(self.n_components, X.shape[1], "n_features")
            X, codes = sort_rows(X, codes)
            points, scale = centre_and_scale(X)
            pairs = neighbor_pairs(points, codes, self.n_neighbors, self.n_neighbors)
            variance = np.var(points, axis=0, dtype=np.float64)
            S, D = (shrink(C, variance, self.shrinkage) for C in local_differences(points, *pairs))
            values, axes = jeffrey_axes(S, D, len(X))
            L = scale_axes(values[:n_components], axes[:n_components], self.embedding_type)
            turned = self.embedding_type == "orthonormalized"
            self.components_ = (L if turned else L / scale).astype(X.dtype)
            return self
