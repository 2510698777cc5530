"""The classical Mahalanobis distance: M is the inverse of a covariance."""

import warnings

import numpy as np
from sklearn.base import clone
from sklearn.covariance import OAS, LedoitWolf, MinCovDet
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import validate_data

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


def make_estimator(covariance, random_state):
    """Return an unfitted estimator for the parameter `covariance`, or raise.

    Parameters
    ----------
    covariance : str or estimator
        The parameter.
    random_state : int, RandomState instance or None
        Decides the subsets that MinCovDet draws.

    Returns
    -------
    estimator or None
        None for "empirical", which is a mere sum.

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


def estimate(estimator, rows):
    """Fit a covariance estimator to centred rows.

    Parameters
    ----------
    estimator : estimator
        It is fitted in place.
    rows : ndarray of shape (n_samples, n_features)
        Centred rows.

    Returns
    -------
    covariance : ndarray of shape (n_features, n_features)
        The covariance.
    location : ndarray of shape (n_features,)
        The centre the estimator found, 0 if it looks for none.

    Raises
    ------
    ValueError
        If the estimator learns no `covariance_`.
    """
    estimator.fit(rows)
    if not hasattr(estimator, "covariance_"):
        raise ValueError(
            f"covariance={estimator!r} is no covariance estimator: fit sets no covariance_."
        )
    location = getattr(estimator, "location_", np.zeros(rows.shape[1]))
    return np.array(estimator.covariance_, dtype=np.float64), location


def whiten(covariance, n_samples, n_components, within_class):
    """Leading rows of the root of a covariance's inverse; warn where there is only a pseudo-one.

    Parameters
    ----------
    covariance : ndarray of shape (n_features, n_features)
        The covariance.
    n_samples : int
        How many rows it was estimated from.
    n_components : int or None
        How many rows to return; None for as many as there are.
    within_class : bool
        Whether it is a covariance within classes, for the message.

    Returns
    -------
    ndarray of shape (min(n_components, rank), n_features)
        L.

    Raises
    ------
    ValueError
        If the covariance is 0, or too large for a float.
    """
    if not np.isfinite(covariance).all():
        raise ValueError(
            "The covariance is not finite: squares of these rows are too large for a float64. Give "
            "X in a larger unit."
        )
    if not covariance.any():
        which = "In each class of y all rows" if within_class else f"All {n_samples} rows of X"
        raise ValueError(
            f"{which} are equal, as far as a float64 variance can tell: there is no spread to "
            "learn a distance from."
        )
    L = pinv_sqrt(covariance, n_samples)
    rank, n_features = L.shape
    if rank < (n_components or n_features):
        warnings.warn(
            f"The covariance is singular: it has rank {rank}, X has {n_features} features and "
            f"{n_samples} rows. Constant or collinear columns and too few rows do that. The "
            f"distance is blind to all but {rank} directions; covariance='ledoit_wolf' sees all, "
            f"and n_components={rank} or less asks for no more than there are.",
            UserWarning,
            stacklevel=3,
        )
    return L[:n_components]


class MahalanobisMetric(LinearMetricLearner):
    """The Mahalanobis distance: M is the inverse of the covariance.

    d(x, y)² = (x - y)ᵀ Σ⁻¹ (x - y) measures each direction in units of the spread along it
    (Mahalanobis [1]_). It is the same in whatever units, or other basis, the columns are given.
    With ``within_class=True`` Σ is the spread around the class means: directions along which
    members of a class differ count for little.

    Parameters
    ----------
    covariance : {"empirical", "ledoit_wolf", "oas", "min_cov_det"} or estimator, \
            default="empirical"
        How Σ is estimated: by maximum likelihood (the sum of squares over n_samples), with the
        shrinkage of :class:`~sklearn.covariance.LedoitWolf` or :class:`~sklearn.covariance.OAS`,
        by the outlier-resistant :class:`~sklearn.covariance.MinCovDet`, or by any covariance
        estimator, which is cloned. It is given the centred rows.
    within_class : bool, default=False
        Whether to centre each row by the mean of its class instead of the mean of X. `fit` then
        needs y. A class of one row adds nothing to the sum of squares.
    n_components : int, default=None
        Keep this many principal axes, those along which the data vary most, whitened: distances
        are then those of ``PCA(n_components, whiten=True)`` (but for its n_samples - 1 in place of
        n_samples). In [1, min(n_samples, n_features)]. None keeps them all.
    random_state : int, RandomState instance or None, default=None
        Decides the subsets that "min_cov_det" draws. An estimator keeps its own.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = Σ⁻¹: the principal axes, each over the standard deviation along it, by
        decreasing variance. float32 if X is, else float64.
    covariance_ : ndarray of shape (n_features, n_features)
        Σ, float64.
    location_ : ndarray of shape (n_features,)
        The centre: the mean of X, or what the covariance estimator takes for it if
        ``within_class=False``. No distance depends on it.
    n_samples_seen_ : int
        Number of rows learned from, or the sum of their weights.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    sklearn.decomposition.PCA : The same f with ``whiten=True``, but for its centring.
    sklearn.covariance.EmpiricalCovariance : Has the squared distance to the mean, as `mahalanobis`.

    Notes
    -----
    Where Σ is singular its pseudo-inverse is used and a UserWarning says so: distances among the
    rows of X are still right, but d is blind to the directions that X does not span. Whether Σ is
    singular is judged on the correlations, so that columns in very unequal units pass.
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
        covariance="empirical",
        *,
        within_class=False,
        n_components=None,
        random_state=None,
    ):
        self.covariance = covariance
        self.within_class = within_class
        self.n_components = n_components
        self.random_state = random_state

    def fit(self, X, y=None, sample_weight=None):
        """Learn the distance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Points.
        y : array-like of shape (n_samples,), default=None
            Class labels, of any kind. Only read if ``within_class=True``.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, >= 0: a row of weight 2 counts as two rows, one of weight 0 as
            none. Only ``covariance="empirical"`` takes weights. None counts each row once.

        Returns
        -------
        self : MahalanobisMetric
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D, not finite, has a single row or rows that are all equal (with
            ``within_class=True``: within each class), if y is missing or continuous where it is
            needed, if weights are negative, all 0 or given to another covariance than the
            empirical, or if a parameter is out of range.
        """
        with unchanged_on_error(self):
            estimator = make_estimator(self.covariance, self.random_state)
            self._refuse_weight(sample_weight, estimator)
            data, y = self._check_rows(X, y, ensure_min_samples=2)
            check_n_components(self.n_components, min(data.shape), "min(n_samples, n_features)")
            rows, y, weight = drop_zero_weights(data, y, self._read_weight(sample_weight, data))
            rows, classes = centre(rows, y, weight)
            location, moments = mean_of(classes), None
            if estimator is None or not rows.any():
                moments = Moments(classes, scatter_of(rows, weight))
                covariance = moments.scatter / moments.n_rows
            else:
                covariance, shift = estimate(estimator, rows)
                location = location if self.within_class else location + shift
            L = whiten(covariance, len(rows), self.n_components, self.within_class)
            n_seen = sum(count for count, _ in classes.values())
            return self._store(L.astype(data.dtype), covariance, location, n_seen, moments)

    def partial_fit(self, X, y=None, sample_weight=None):
        """Learn from some more rows, for data larger than memory.

        However the rows are cut into batches, the result is that of one `fit` on all of them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            More points. The first batch needs rows that differ (with ``within_class=True``: within
            a class); later ones may be of one row.
        y : array-like of shape (n_samples,), default=None
            Their class labels. Classes may show up in any batch.
        sample_weight : array-like of shape (n_samples,), default=None
            Their weights, >= 0. None counts each row once.

        Returns
        -------
        self : MahalanobisMetric
            The fitted learner.

        Raises
        ------
        ValueError
            As `fit` does, and if `covariance` is not "empirical": no other can be updated.
        """
        if make_estimator(self.covariance, None) is not None:
            raise ValueError(
                f'partial_fit needs covariance="empirical", not {self.covariance!r}: fit on all '
                "rows at once, or choose that one."
            )
        with unchanged_on_error(self):
            seen = getattr(self, "_moments", None)
            data, y = self._check_rows(X, y, reset=seen is None)
            check_n_components(self.n_components, data.shape[1], "n_features")
            moments = moments_of(
                *drop_zero_weights(data, y, self._read_weight(sample_weight, data))
            )
            moments = merge(seen, moments)
            n, covariance = moments.n_rows, moments.scatter / moments.n_rows
            L = whiten(covariance, n, self.n_components, self.within_class)
            return self._store(L.astype(data.dtype), covariance, moments.mean, n, moments)

    def _refuse_weight(self, sample_weight, estimator):
        if sample_weight is not None and estimator is not None:
            raise ValueError(
                f"covariance={self.covariance!r} takes no sample_weight; choose "
                'covariance="empirical", or give no weights.'
            )

    def _check_rows(self, X, y, **options):
        if not self.within_class:
            return validate_data(self, X, dtype=FLOATS, **options), None
        if y is None:
            raise ValueError(
                "MahalanobisMetric(within_class=True) requires y to be passed, but the target y "
                "is None."
            )
        X, y = validate_data(self, X, y, dtype=FLOATS, **options)
        if type_of_target(y, input_name="y").startswith("continuous"):
            raise ValueError(
                "Unknown label type: continuous. within_class=True needs class labels in y."
            )
        return X, y

    def _store(self, components, covariance, location, n_samples, moments):
        self.components_ = components
        self.covariance_ = covariance
        self.location_ = location
        self.n_samples_seen_ = n_samples
        self._moments = moments
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = bool(self.within_class)
        return tags
