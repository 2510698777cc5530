"""What all linear learners share: f(x) = L x, with L kept in `components_`."""

from numbers import Integral

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from skdml.base import MetricLearner
from skdml.distances import LearnedDistance

FLOATS = [np.float64, np.float32]
"""The dtypes kept as they are; all others become the first."""


class LinearMetricLearner(MetricLearner):
    """A learned linear map f(x) = L x; d is the Mahalanobis distance with M = LᵀL.

    A learner implements `fit`, which sets `components_`, the matrix L of shape (n_components,
    n_features). f does not subtract a mean, since no distance would change.
    """

    @property
    def _n_features_out(self):
        return self.components_.shape[0]

    def transform(self, X):
        """Embed points.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Points.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            X Lᵀ; float32 for points of float32, else float64.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=FLOATS)
        return _apply(self.components_, X)

    def get_metric(self):
        """Return the learned distance as a callable.

        Returns
        -------
        LearnedDistance
            d(x, y) = |L x - L y|. It keeps its own copy of L, so that fitting again does not
            change it.
        """
        check_is_fitted(self)
        return LearnedDistance(LinearMap(self.components_), "euclidean")

    def get_mahalanobis_matrix(self):
        """Return the matrix M of d(x, y)² = (x - y)ᵀ M (x - y).

        Returns
        -------
        ndarray of shape (n_features, n_features)
            M = LᵀL, symmetric and positive semi-definite, in the dtype of `components_`.
        """
        check_is_fitted(self)
        return self.components_.T @ self.components_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class LinearMap:
    """f(x) = L x as a picklable callable that checks its input.

    Parameters
    ----------
    components : array-like of shape (n_components, n_features)
        L, which is copied.

    Examples
    --------
    >>> from skdml.linear import LinearMap
    >>> LinearMap([[1.0, -1.0]])([[5.0, 3.0]])
    array([[2.]])
    """

    def __init__(self, components):
        self.components = check_array(components, dtype=FLOATS, copy=True)

    def __call__(self, X):
        """Embed points.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Points.

        Returns
        -------
        ndarray of shape (n, n_components)
            X Lᵀ, in the dtype of X where that is a float dtype, else float64.

        Raises
        ------
        ValueError
            If X is not 2-D, is empty, is not finite or has another number of features.
        """
        X = check_array(X, dtype=FLOATS, input_name="X")
        n_features = self.components.shape[1]
        if X.shape[1] != n_features:
            raise ValueError(
                f"X has {X.shape[1]} features, but the distance was learned on {n_features}."
            )
        return _apply(self.components, X)

    def __repr__(self):
        n_components, n_features = self.components.shape
        return f"LinearMap({n_components} x {n_features})"


def check_n_components(n_components, limit, reason):
    """Return the number of components to keep, or raise.

    Parameters
    ----------
    n_components : int or None
        What was asked for; None stands for `limit`.
    limit : int
        The most there can be.
    reason : str
        What `limit` is, for the message.

    Returns
    -------
    int
        A number in [1, limit].

    Raises
    ------
    ValueError
        If `n_components` is not an int in that range.

    Examples
    --------
    >>> from skdml.linear.base import check_n_components
    >>> check_n_components(None, 4, "n_features")
    4
    """
    if n_components is None:
        return limit
    if not isinstance(n_components, Integral) or not 1 <= n_components <= limit:
        raise ValueError(
            f"n_components={n_components!r} has to be None or an int from 1 to {limit} ({reason})."
        )
    return int(n_components)


def _apply(components, X):
    return X @ components.T.astype(X.dtype, copy=False)
