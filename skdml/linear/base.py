"""What linear learners share: f(x) = L x, with L kept in `components_`; and what `fit` reads."""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from sklearn.utils import check_array, check_random_state, check_scalar
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import check_is_fitted, validate_data

from skdml.base import MetricLearner, check_tuples
from skdml.constraints import (
    check_same,
    draw_pairs,
    draw_quadruplets,
    draw_triplets,
    encode_labels,
)
from skdml.distances import LearnedDistance

FLOATS = [np.float64, np.float32]
"""The dtypes kept as they are; all others become the first."""

# The range of each scalar parameter, by its name, which means the same in every learner:
# (type, whether None will do, lower bound, upper bound, which bounds are in the range).
_RANGES = {
    "max_iter": (Integral, False, 1, None, "left"),
    "tol": (Real, False, 0, None, "left"),
    "n_neighbors": (Integral, False, 1, None, "left"),
    "n_constraints": (Integral, True, 1, None, "left"),
    "batch_size": (Integral, False, 1, None, "left"),
    "verbose": (Integral, True, None, None, "neither"),
    "warm_start": ((bool, np.bool_), False, None, None, "neither"),
}


class LinearMetricLearner(MetricLearner):
    """A learned linear map f(x) = L x; d is the Mahalanobis distance with M = LᵀL.

    A learner implements `fit`, which sets `components_`, the matrix L of shape (n_components,
    n_features). f does not subtract a mean, since no distance would change.

    A learner that takes sparse X in `fit` says so by ``_sparse = True``; one that learns from
    tuples names in ``_supervisions`` what its parameter `supervision` may be.
    """

    _sparse = False
    _supervisions = ("labels",)

    @property
    def _n_features_out(self):
        return self.components_.shape[0]

    def transform(self, X):
        """Embed points.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Points. Sparse where `fit` takes sparse points, too.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            X Lᵀ; float32 for points of float32, else float64.
        """
        check_is_fitted(self)
        return _apply(self.components_, validate_data(self, X, reset=False, **self._input()))

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
        tags.input_tags.sparse = self._sparse
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        supervision = getattr(self, "supervision", "labels")
        tags.target_tags.required = supervision not in ("triplets", "quadruplets")
        return tags

    # -- what fit reads --------------------------------------------------------------------------

    def _check_ranges(self, **more):
        """Refuse scalar parameters out of range; `more` are ranges as in `_RANGES`."""
        for name, (kind, none_will_do, low, high, bounds) in (_RANGES | more).items():
            value = getattr(self, name, None)
            if not hasattr(self, name) or (value is None and none_will_do):
                continue
            limits = {"min_val": low, "max_val": high, "include_boundaries": bounds}
            check_scalar(value, name, kind, **(limits if low is not None else {}))
        supervision = getattr(self, "supervision", "labels")
        if supervision not in self._supervisions:
            raise ValueError(
                f"supervision={supervision!r} is unknown to {type(self).__name__}; choose one of "
                f"{list(self._supervisions)}."
            )

    def _read_labelled(self, X, y, min_kinds=2, **options):
        """Check points and their classes: X, the codes 0, 1, ... of the classes, the classes."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        # In C order, so that the same rows as a data frame, or transposed, give the same bits.
        given = {"ensure_min_samples": 2, "order": "C"} | self._input() | options
        X, y = validate_data(self, X, y, **given)
        return X, *encode_labels(y, min_kinds)

    def _read_pairs(self, X, y, min_kinds=2, **options):
        """Check pairs, or draw them from classes: a `Pairs`."""
        if self.supervision == "pairs":
            X, (first, second) = self._read_tuples(X, 2, **options)
            same = check_same(y, len(first), both_kinds=min_kinds > 1)
            return Pairs(X, first, second, same)
        X, codes, _ = self._read_labelled(X, y, min_kinds, **options)
        rng = check_random_state(self.random_state)
        pairs = Pairs(X, *draw_pairs(codes, self._n_constraints(len(codes)), rng))
        if not pairs.same.any():
            raise ValueError(no_same_class_message(codes))
        return pairs

    def _read_triplets(self, X, y):
        """Check triplets, or draw them from classes: points, and rows of shape (n, 3)."""
        if self.supervision == "triplets":
            X, rows = self._read_tuples(X, 3)
            return X, rows.T
        return self._draw(X, y, draw_triplets)

    def _read_quadruplets(self, X, y):
        """Check quadruplets, or draw them from classes: points, and rows of shape (n, 4)."""
        if self.supervision == "quadruplets":
            X, rows = self._read_tuples(X, 4)
            return X, rows.T
        return self._draw(X, y, draw_quadruplets)

    def _draw(self, X, y, draw):
        X, codes, _ = self._read_labelled(X, y)
        n_constraints = self._n_constraints(len(codes))
        rows = draw(codes, n_constraints, check_random_state(self.random_state))
        if len(rows) == 0:
            raise ValueError(no_same_class_message(codes))
        return X, rows

    def _read_tuples(self, tuples, size, **options):
        """Check tuples: their points, one after the other, and rows of shape (size, n)."""
        tuples = check_tuples(tuples, size)
        if tuples.ndim != 3:
            raise ValueError(
                f"{type(self).__name__} learns from points that are vectors: tuples of shape "
                f"(n, {size}, n_features); got {tuples.shape}."
            )
        points = tuples.reshape(-1, tuples.shape[2])
        points = validate_data(
            self, points, **{"dtype": FLOATS, "ensure_min_samples": size} | options
        )
        return points, np.arange(len(points)).reshape(-1, size).T

    def _n_constraints(self, n_samples):
        # Ten constraints a row tell nearly all that more would; the cap keeps a fit on many rows
        # quick, and is far more than the d (d + 1) / 2 numbers in M.
        return self.n_constraints or min(10 * n_samples, 100_000)

    def _read_weight(self, sample_weight, X):
        """Check sample weights: ndarray of shape (n_samples,) in the dtype of X, ones for None."""
        if sample_weight is None:
            return np.ones(X.shape[0], dtype=X.dtype)
        weight = check_array(
            sample_weight, ensure_2d=False, dtype=X.dtype, input_name="sample_weight"
        )
        if weight.shape != (X.shape[0],):
            raise ValueError(
                f"sample_weight needs one weight for each of the {X.shape[0]} rows, shape "
                f"({X.shape[0]},); got shape {weight.shape}."
            )
        if (weight < 0).any() or not weight.any():
            raise ValueError(
                "sample_weight must have non-negative values, with at least one non-zero weight."
            )
        return weight

    def _init_or_last_fit(self):
        """Return `init`, or with `warm_start` the components of the last fit if there is one."""
        if self.warm_start and hasattr(self, "components_"):
            return self.components_
        return self.init

    def _input(self):
        return {"dtype": FLOATS, "accept_sparse": "csr" if self._sparse else False}


class Pairs(NamedTuple):
    """Pairs of points, as indices.

    Attributes
    ----------
    X : ndarray of shape (n_points, n_features)
        Points.
    first, second : ndarray of int, shape (n_pairs,)
        The rows that make a pair.
    same : ndarray of bool, shape (n_pairs,)
        Whether they are of the same class.
    """

    X: np.ndarray
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray

    @property
    def differences(self):
        """The vector x - y of each pair, shape (n_pairs, n_features)."""
        return self.X[self.first] - self.X[self.second]


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
        X : {array-like, sparse matrix} of shape (n, n_features)
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
        X = check_array(X, dtype=FLOATS, accept_sparse="csr", input_name="X")
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
    return safe_sparse_dot(X, components.T.astype(X.dtype, copy=False), dense_output=True)


def no_same_class_message(codes):
    """Return what to say where every class has a single row.

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
        The class of each row.

    Returns
    -------
    str
        The message of the error.
    """
    return (
        f"Each of the {codes.max() + 1} classes has a single sample, so no two samples are known "
        "to be alike. Give at least one class two samples."
    )
