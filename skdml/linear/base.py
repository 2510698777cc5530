"""The base class of linear learners: f(x) = L x, with L in `components_`; it checks their input."""

import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Tags, check_array, check_random_state, check_scalar
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import check_is_fitted

from skdml._columns import name_columns_of_strings, validate_data
from skdml._labels import read_labels
from skdml.base import MetricLearner, check_tuples
from skdml.constraints import (
    check_same,
    draw_pairs,
    draw_quadruplets,
    draw_triplets,
    encode_labels,
)
from skdml.distances import LearnedDistance
from skdml.linear._ranges import (
    check_embeddings,
    check_ranges,
    column_ranges,
    describe_column,
    union_of_ranges,
)

FLOATS = [np.float64, np.float32]
"""The dtypes that are kept; all others become the first."""

Range = tuple[type | tuple[type, ...], bool, float | None, float | None, str]
"""Range of a scalar parameter: type, whether None is valid, bounds, and which bounds are valid."""

# A name means the same in every learner.
_RANGES: dict[str, Range] = {
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
    n_features). f does not subtract a mean, because that changes no distance.

    A result is finite, or X is refused with a ValueError that names a column and its range. Values
    may have any magnitude up to 1e70 in float64 and 1e15 in float32. A column must be constant or
    have a range, maximum minus minimum, of at least 1e-70 in float64 and 1e-36 in float32, and of
    at least this share of the widest range. The widest column needs a range of at least 1e-70 in
    float64 and 1e-15 in float32. `transform`, distances and the matrix M are refused in the same
    way if they or squared distances overflow. If all rows are equal, the learner raises a
    ValueError, or a UserWarning says that there is nothing to learn from.

    A subclass sets ``_sparse = True`` if its `fit` takes sparse X. If it learns from tuples, it
    lists the valid values of its parameter `supervision` in ``_supervisions``.
    """

    _sparse = False
    _supervisions: tuple[str, ...] = ("labels",)

    # Set by `fit`.
    components_: NDArray[np.floating]
    _column_ranges: NDArray[np.float64]

    # Parameters that the methods below read. A subclass has those that it needs.
    n_components: int | None
    init: str | ArrayLike
    warm_start: bool
    supervision: str
    n_constraints: int | None
    random_state: int | np.random.RandomState | None

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def transform(self, X: ArrayLike) -> NDArray[np.floating]:
        """Embed points.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Points. They may be sparse if `fit` takes sparse points.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            X Lᵀ; float32 if X is float32, else float64.

        Raises
        ------
        ValueError
            If X is not finite or has another number of features, or if squared distances of the
            embeddings would overflow.
        """
        check_is_fitted(self)
        return _apply(self.components_, validate_data(self, X, reset=False, **self._input()))

    def get_metric(self) -> LearnedDistance:
        """Return the learned distance as a callable.

        Returns
        -------
        LearnedDistance
            d(x, y) = |L x - L y|. It has its own copy of L, so fitting again does not change it.
        """
        check_is_fitted(self)
        return LearnedDistance(LinearMap(self.components_), "euclidean")

    def get_mahalanobis_matrix(self) -> NDArray[np.floating]:
        """Return the matrix M of d(x, y)² = (x - y)ᵀ M (x - y).

        Returns
        -------
        ndarray of shape (n_features, n_features)
            M = LᵀL, symmetric and positive semi-definite, in the dtype of `components_`.

        Raises
        ------
        ValueError
            If M overflows its dtype, which float32 columns with a range below 1e-18 may cause.
        """
        check_is_fitted(self)
        L = self.components_
        with np.errstate(over="ignore", invalid="ignore"):
            M = L.T @ L
        if not np.isfinite(M).all():
            column = int(abs(L).max(axis=0).argmax())
            ranges = getattr(self, "_column_ranges", None)
            seen = f"column {column}" if ranges is None else describe_column(ranges, column)
            raise ValueError(f"M overflows {M.dtype}; fit on float64 numbers. {seen}.")
        return M

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self._sparse
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        supervision = getattr(self, "supervision", "labels")
        tags.target_tags.required = supervision not in ("triplets", "quadruplets")
        return tags

    # -- checks of the parameters and of the input of fit ----------------------------------------

    def _check_ranges(self, **more: Range) -> None:
        """Refuse scalar parameters out of range; `more` are ranges as in `_RANGES`."""
        for name, (kind, allow_none, low, high, bounds) in (_RANGES | more).items():
            value = getattr(self, name, None)
            if not hasattr(self, name) or (value is None and allow_none):
                continue
            limits = {"min_val": low, "max_val": high, "include_boundaries": bounds}
            check_scalar(value, name, kind, **(limits if low is not None else {}))
        supervision = getattr(self, "supervision", "labels")
        if supervision not in self._supervisions:
            raise ValueError(
                f"supervision={supervision!r} is unknown to {type(self).__name__}; choose one of "
                f"{list(self._supervisions)}."
            )

    def _read_labelled(
        self, X: Any, y: Any, min_kinds: int = 2, **options: Any
    ) -> tuple[Any, NDArray[np.integer], NDArray]:
        """Check points and class labels; return X, the codes 0, 1, ... and the classes."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        # C order: the same rows as a data frame, or transposed, then give the same bits.
        given = {"ensure_min_samples": 2, "order": "C"} | self._input() | options
        # Labels first: scikit-learn would turn a list of numbers and strings into strings.
        X, y = self._validate(X, read_labels(y), **given)
        return X, *encode_labels(y, min_kinds)

    def _read_pairs(self, X: Any, y: Any, min_kinds: int = 2, **options: Any) -> "Pairs":
        """Check pairs, or draw them from class labels."""
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

    def _read_triplets(self, X: Any, y: Any) -> tuple[Any, NDArray[np.integer]]:
        """Check triplets, or draw them from class labels; return points and rows (n, 3)."""
        if self.supervision == "triplets":
            X, rows = self._read_tuples(X, 3)
            return X, rows.T
        return self._draw(X, y, draw_triplets)

    def _read_quadruplets(self, X: Any, y: Any) -> tuple[Any, NDArray[np.integer]]:
        """Check quadruplets, or draw them from class labels; return points and rows (n, 4)."""
        if self.supervision == "quadruplets":
            X, rows = self._read_tuples(X, 4)
            return X, rows.T
        return self._draw(X, y, draw_quadruplets)

    def _draw(
        self, X: Any, y: Any, draw: Callable[..., NDArray[np.integer]]
    ) -> tuple[Any, NDArray[np.integer]]:
        X, codes, _ = self._read_labelled(X, y)
        n_constraints = self._n_constraints(len(codes))
        rows = draw(codes, n_constraints, check_random_state(self.random_state))
        if len(rows) == 0:
            raise ValueError(no_same_class_message(codes))
        return X, rows

    def _read_tuples(
        self, tuples: Any, size: int, **options: Any
    ) -> tuple[Any, NDArray[np.integer]]:
        """Check tuples; return all their points in one array, and rows of shape (size, n)."""
        tuples = check_tuples(tuples, size)
        if tuples.ndim != 3:
            raise ValueError(
                f"{type(self).__name__} learns from points that are vectors, so tuples need the "
                f"shape (n, {size}, n_features); got {tuples.shape}."
            )
        points = tuples.reshape(-1, tuples.shape[2])
        points = self._validate(points, **{"dtype": FLOATS, "ensure_min_samples": size} | options)
        return points, np.arange(len(points)).reshape(-1, size).T

    def _n_constraints(self, n_samples: int) -> int:
        # More than ten constraints a row add little. The cap keeps a fit on many rows fast, and
        # exceeds by far the d (d + 1) / 2 numbers in M.
        return self.n_constraints or min(10 * n_samples, 100_000)

    def _read_weight(self, sample_weight: ArrayLike | None, X: Any) -> NDArray[np.floating]:
        """Check sample weights; return them in the dtype of X, ones for None."""
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

    def _init_or_last_fit(self) -> str | ArrayLike:
        """Return `components_` of the last fit if `warm_start` is set, else `init`."""
        if self.warm_start and hasattr(self, "components_"):
            return self.components_
        return self.init

    def _input(self) -> dict[str, Any]:
        """Options of `validate_data`."""
        return {"dtype": FLOATS, "accept_sparse": "csr" if self._sparse else False}

    def _validate(self, X: Any, y: Any = "no_validation", **options: Any) -> Any:
        """Check points of `fit` as `validate_data` does, and refuse columns out of range.

        With ``reset=False`` the rule applies to the rows of all batches together.
        """
        checked = validate_data(self, X, y, **options)
        points = checked[0] if isinstance(checked, tuple) else checked
        ranges = column_ranges(points)
        if not options.get("reset", True):
            ranges = union_of_ranges(self._column_ranges, ranges)
        check_ranges(ranges, points.dtype, getattr(self, "feature_names_in_", None))
        self._column_ranges = ranges
        return checked

    def _set_components(self, L: NDArray[np.floating], dtype: Any) -> None:
        """Store L in the dtype of X, if it is finite; warn if all rows were equal."""
        low, high = self._column_ranges
        with np.errstate(over="ignore"):
            components = L.astype(dtype)
        if not np.isfinite(components).all():
            finite = np.isfinite(components).all(axis=0)
            column = describe_column(self._column_ranges, int(finite.argmin()))
            raise ValueError(
                f"{column}. The learned map is not finite in {np.dtype(dtype)}. Rescale the "
                "columns to similar ranges."
            )
        if (low == high).all():
            warnings.warn(
                f"All rows that {type(self).__name__} learned from are equal, so there was nothing "
                "to learn. The distance is that of the start, or 0.",
                UserWarning,
                stacklevel=3,
            )
        self.components_ = components


class Pairs(NamedTuple):
    """Pairs of points, as row indices.

    Attributes
    ----------
    X : ndarray of shape (n_points, n_features)
        Points.
    first, second : ndarray of int, shape (n_pairs,)
        The two rows of each pair.
    same : ndarray of bool, shape (n_pairs,)
        Whether they are of the same class.
    """

    X: NDArray[np.floating]
    first: NDArray[np.integer]
    second: NDArray[np.integer]
    same: NDArray[np.bool_]

    @property
    def differences(self) -> NDArray[np.floating]:
        """The vector x - y of each pair, shape (n_pairs, n_features)."""
        return self.X[self.first] - self.X[self.second]


class LinearMap:
    """f(x) = L x as a picklable callable that checks its input.

    Parameters
    ----------
    components : array-like of shape (n_components, n_features)
        L. It is copied.

    Examples
    --------
    >>> from skdml.linear import LinearMap
    >>> LinearMap([[1.0, -1.0]])([[5.0, 3.0]])
    array([[2.]])
    """

    def __init__(self, components: ArrayLike) -> None:
        self.components = check_array(components, dtype=FLOATS, copy=True)

    def __call__(self, X: ArrayLike) -> NDArray[np.floating]:
        """Embed points.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n, n_features)
            Points.

        Returns
        -------
        ndarray of shape (n, n_components)
            X Lᵀ; float32 if X is float32, else float64.

        Raises
        ------
        ValueError
            If X is not 2-D, is empty, is not finite or has another number of features, or if
            squared distances of the embeddings would overflow.
        """
        with name_columns_of_strings(X, "LinearMap"):
            points = check_array(X, dtype=FLOATS, accept_sparse="csr", input_name="X")
        n_features = self.components.shape[1]
        if points.shape[1] != n_features:
            raise ValueError(
                f"X has {points.shape[1]} features, but the distance was learned on {n_features}."
            )
        return _apply(self.components, points)

    def __repr__(self) -> str:
        n_components, n_features = self.components.shape
        return f"LinearMap({n_components} x {n_features})"


def check_n_components(n_components: int | None, limit: int, reason: str) -> int:
    """Return the number of components to keep, or raise.

    Parameters
    ----------
    n_components : int or None
        The parameter; None stands for `limit`.
    limit : int
        The largest possible number.
    reason : str
        Where `limit` comes from, for the message: "n_features".

    Returns
    -------
    int
        A number from 1 to `limit`.

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


def _apply(components: NDArray[np.floating], X: Any) -> NDArray[np.floating]:
    with np.errstate(over="ignore", invalid="ignore"):  # check_embeddings refuses the result
        Z = safe_sparse_dot(X, components.T.astype(X.dtype, copy=False), dense_output=True)
    return check_embeddings(Z, components, X)


def no_same_class_message(codes: NDArray[np.integer]) -> str:
    """Return the error message for labels of which no two are equal.

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
        The class of each row.

    Returns
    -------
    str
        The message.
    """
    return (
        f"Each of the {codes.max() + 1} classes has a single sample, so there is no pair of the "
        "same class to learn from. Give at least two samples of one class."
    )
