"""The classical Mahalanobis distance: M is the inverse of a covariance."""

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.covariance import OAS, LedoitWolf, MinCovDet
from sklearn.utils import Tags

from skdml._labels import read_labels
from skdml.base import unchanged_on_error
from skdml.linear._moments import (
    Moments,
    centre,
    drop_zero_weights,
    mean_of,
    merge,
    moments_of,
    scatter_of,
)
from skdml.linear._psd import pinv_sqrt
from skdml.linear.base import FLOATS, LinearMetricLearner, check_n_components


def make_estimator(
    covariance: Any, random_state: int | np.random.RandomState | None
) -> BaseEstimator | None:
    """Return an unfitted estimator for the parameter `covariance`.

    Parameters
    ----------
    covariance : str or estimator
        The parameter.
    random_state : int, RandomState instance or None
        Seed of the subsets that MinCovDet draws.

    Returns
    -------
    estimator or None
        None for "empirical", which needs no estimator.

    Raises
    ------
    ValueError
        If it is neither a known name nor an estimator.
    """
    if isinstance(covariance, str) and covariance == "empirical":
        return None
    by_name = {
        "ledoit_wolf": LedoitWolf(),
        "oas": OAS(),
        "min_cov_det": MinCovDet(random_state=random_state),
    }
    if isinstance(covariance, str) and covariance in by_name:
        return by_name[covariance]
    if not hasattr(covariance, "fit") or isinstance(covariance, str | type):
        raise ValueError(
            f"covariance={covariance!r} is unknown; choose one of "
            f"{sorted(['empirical', *by_name])} or give an instance of a covariance estimator, "
            "such as sklearn.covariance.ShrunkCovariance()."
        )
    return clone(covariance)


def fit_covariance(
    estimator: Any, rows: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Fit a covariance estimator to centred rows.

    Parameters
    ----------
    estimator : estimator
        The estimator. It is fitted in place.
    rows : ndarray of shape (n_samples, n_features)
        Centred rows.

    Returns
    -------
    covariance : ndarray of shape (n_features, n_features)
        The covariance.
    location : ndarray of shape (n_features,)
        The centre that the estimator found, 0 if it estimates none.

    Raises
    ------
    ValueError
        If the estimator sets no `covariance_`.
    """
    estimator.fit(rows)
    if not hasattr(estimator, "covariance_"):
        raise ValueError(
            f"covariance={estimator!r} is not a covariance estimator: its fit sets no covariance_. "
            "Give an estimator that does, such as sklearn.covariance.ShrunkCovariance()."
        )
    location = getattr(estimator, "location_", np.zeros(rows.shape[1]))
    return np.array(estimator.covariance_, dtype=np.float64), location


def whiten(
    covariance: NDArray[np.floating],
    n_samples: float,
    n_components: int | None,
    within_class: bool,
) -> NDArray[np.floating]:
    """Leading rows of the root of a covariance's inverse; warn if it only has a pseudo-inverse.

    Parameters
    ----------
    covariance : ndarray of shape (n_features, n_features)
        The covariance.
    n_samples : float
        How many rows it was estimated from, or the sum of their weights.
    n_components : int or None
        How many rows to return; None for all.
    within_class : bool
        Whether it is a covariance within classes, for the error message.

    Returns
    -------
    ndarray of shape (min(n_components, rank), n_features)
        L.

    Raises
    ------
    ValueError
        If the covariance is 0, or too large for a float.

    Warns
    -----
    UserWarning
        If the covariance is singular.
    """
    if not np.isfinite(covariance).all():
        raise ValueError(
            "The covariance estimator returned entries that are not finite. Choose another one, or "
            "standardise the columns."
        )
    if not covariance.any():
        which = "In each class of y all rows" if within_class else f"All {n_samples} rows of X"
        raise ValueError(
            f"{which} are equal up to float64 rounding, so there is no spread to learn a distance "
            "from. Give rows that differ."
        )
    L = pinv_sqrt(covariance, n_samples)
    rank, n_features = L.shape
    if rank < (n_components or n_features):
        warnings.warn(
            f"The covariance is singular: it has rank {rank}, X has {n_features} features and "
            f"{n_samples} rows. Constant or collinear columns and too few rows do that. The "
            f"distance ignores all but {rank} directions. Use covariance='ledoit_wolf' to keep all "
            f"directions, or n_components={rank} or less to silence this warning.",
            UserWarning,
            stacklevel=3,
        )
    return L[:n_components]


class MahalanobisMetric(LinearMetricLearner):
    """The Mahalanobis distance: M is the inverse of the covariance.

    d(x, y)² = (x - y)ᵀ Σ⁻¹ (x - y) measures each direction in units of the spread along it
    (Mahalanobis [1]_). It does not depend on the units or the basis of the columns. With
    ``within_class=True`` Σ is the covariance around the class means. Directions along which rows
    of one class differ then have little weight.

    Parameters
    ----------
    covariance : {"empirical", "ledoit_wolf", "oas", "min_cov_det"} or estimator, \
            default="empirical"
        How Σ is estimated. "empirical" is maximum likelihood: the sum of squares over n_samples.
        "ledoit_wolf" and "oas" are the shrunk covariances of
        :class:`~sklearn.covariance.LedoitWolf` and :class:`~sklearn.covariance.OAS`. "min_cov_det"
        is :class:`~sklearn.covariance.MinCovDet`, which resists outliers. Any other covariance
        estimator is cloned and fitted to the centred rows.
    within_class : bool, default=False
        Whether to centre each row by the mean of its class instead of the mean of X. `fit` then
        needs y. A class with a single row adds nothing to the sum of squares.
    n_components : int, default=None
        How many principal axes to keep, those of largest variance, in
        [1, min(n_samples, n_features)]. None keeps all. Distances are those of
        ``PCA(n_components, whiten=True)``, except that PCA divides by n_samples - 1.
    random_state : int, RandomState instance or None, default=None
        Seed of the subsets that "min_cov_det" draws. A given estimator uses its own.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = Σ⁻¹: the principal axes, each divided by the standard deviation along it, by
        decreasing variance. float32 if X is float32, else float64.
    covariance_ : ndarray of shape (n_features, n_features)
        Σ, float64.
    location_ : ndarray of shape (n_features,)
        The centre: the mean of X, or with ``within_class=False`` the centre that the covariance
        estimator found. No distance depends on it.
    n_samples_seen_ : int
        Number of training rows, or the sum of their weights.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    sklearn.decomposition.PCA : The same f with ``whiten=True``, but centred.
    sklearn.covariance.EmpiricalCovariance : Its `mahalanobis` is the squared distance to the mean.

    Notes
    -----
    If Σ is singular, its pseudo-inverse is used, with a UserWarning. Distances between rows of X
    are still right, but d ignores the directions that X does not span. The rank of Σ is that of
    the correlation matrix, so columns in very different units do not make Σ singular.
    Cost: O(n_samples n_features² + n_features³) time, O(n_samples n_features + n_features²) memory.

    References
    ----------
    .. [1] P. C. Mahalanobis, "On the generalised distance in statistics", Proceedings of the
       National Institute of Sciences of India 2(1), 49-55, 1936.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import MahalanobisMetric
    >>> X, y = load_iris(return_X_y=True)
    >>> learner = MahalanobisMetric(within_class=True)
    >>> learner.fit(X, y).components_.shape
    (4, 4)
    >>> model = make_pipeline(learner, KNeighborsClassifier(3)).fit(X[::2], y[::2])
    >>> round(model.score(X[1::2], y[1::2]), 2)
    0.96
    """

    def __init__(
        self,
        covariance: str | BaseEstimator = "empirical",
        *,
        within_class: bool = False,
        n_components: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.covariance = covariance
        self.within_class = within_class
        self.n_components = n_components
        self.random_state = random_state

    def fit(
        self, X: ArrayLike, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Learn the distance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Points.
        y : array-like of shape (n_samples,), default=None
            Class labels, of any kind. They are only read if ``within_class=True``.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, >= 0. A row of weight 2 counts as two rows, and a row of weight 0
            is ignored. Only ``covariance="empirical"`` takes weights. None counts each row once.

        Returns
        -------
        self : MahalanobisMetric
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D, is not finite or has a single row, if all rows are equal (with
            ``within_class=True``: in each class), if y is needed and is missing or continuous, if
            weights are negative, all 0, or given with another covariance than "empirical", or if a
            parameter is out of range.

        Warns
        -----
        UserWarning
            If Σ is singular.
        """
        with unchanged_on_error(self):
            estimator = make_estimator(self.covariance, self.random_state)
            self._refuse_weight(sample_weight, estimator)
            data, labels = self._check_rows(X, y, ensure_min_samples=2)
            check_n_components(self.n_components, min(data.shape), "min(n_samples, n_features)")
            kept = drop_zero_weights(data, labels, self._read_weight(sample_weight, data))
            rows, labels, weight = kept
            rows, classes = centre(rows, labels, weight)
            location, moments = mean_of(classes), None
            if estimator is None or not rows.any():
                moments = Moments(classes, scatter_of(rows, weight))
                covariance = moments.scatter / moments.n_rows
            else:
                covariance, shift = fit_covariance(estimator, rows)
                location = location if self.within_class else location + shift
            L = whiten(covariance, len(rows), self.n_components, self.within_class)
            n_seen = sum(count for count, _ in classes.values())
            return self._store(L, data.dtype, covariance, location, n_seen, moments)

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Learn from more rows, for data larger than memory.

        The result is that of one `fit` on all batches together, however they are cut.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            More points. The first batch needs rows that differ (with ``within_class=True``: in a
            class). Later batches may have a single row.
        y : array-like of shape (n_samples,), default=None
            Their class labels. Later batches may add classes.
        sample_weight : array-like of shape (n_samples,), default=None
            Their weights, >= 0. None counts each row once.

        Returns
        -------
        self : MahalanobisMetric
            The fitted learner.

        Raises
        ------
        ValueError
            As `fit` does, and if `covariance` is not "empirical".

        Warns
        -----
        UserWarning
            If Σ is singular.
        """
        if make_estimator(self.covariance, None) is not None:
            raise ValueError(
                f'partial_fit needs covariance="empirical"; got {self.covariance!r}. Choose '
                '"empirical", or call fit on all rows at once.'
            )
        with unchanged_on_error(self):
            seen = getattr(self, "_moments", None)
            data, labels = self._check_rows(X, y, reset=seen is None)
            check_n_components(self.n_components, data.shape[1], "n_features")
            moments = moments_of(
                *drop_zero_weights(data, labels, self._read_weight(sample_weight, data))
            )
            moments = merge(seen, moments)
            n, covariance = moments.n_rows, moments.scatter / moments.n_rows
            L = whiten(covariance, n, self.n_components, self.within_class)
            return self._store(L, data.dtype, covariance, moments.mean, n, moments)

    def _refuse_weight(
        self, sample_weight: ArrayLike | None, estimator: BaseEstimator | None
    ) -> None:
        if sample_weight is not None and estimator is not None:
            raise ValueError(
                f"covariance={self.covariance!r} takes no sample_weight. Choose "
                'covariance="empirical", or give no weights.'
            )

    def _check_rows(self, X: Any, y: Any, **options: Any) -> tuple[Any, Any]:
        if not self.within_class:
            return self._validate(X, dtype=FLOATS, **options), None
        if y is None:
            raise ValueError(
                "MahalanobisMetric(within_class=True) requires y to be passed, but the target y "
                "is None."
            )
        return self._validate(X, read_labels(y), dtype=FLOATS, **options)

    def _store(
        self,
        L: NDArray[np.floating],
        dtype: np.dtype,
        covariance: NDArray[np.floating],
        location: NDArray[np.floating],
        n_samples: float,
        moments: Moments | None,
    ) -> Self:
        self._set_components(L, dtype)
        self.covariance_ = covariance
        self.location_ = location
        self.n_samples_seen_ = n_samples
        self._moments = moments
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = bool(self.within_class)
        return tags
