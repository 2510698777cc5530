"""Read X, y and groups: check them and return a dataset that serves one batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_consistent_length
from torch.utils.data import Dataset

from skdml._columns import validate_data
from skdml._labels import is_continuous, read_labels, read_values
from skdml.base import check_tuples
from skdml.deep.data.datasets import (
    ArrayDataset,
    LabelledDataset,
    as_dataset_if_items,
    as_point_tensor,
    point_of_item,
)
from skdml.deep.data.precision import choose_origin, to_float32, warn_of_merged_values
from skdml.deep.losses import LOSSES, learns_from

if TYPE_CHECKING:
    from skdml.deep.base import DeepEmbedder

TUPLE_SIZES = {"pairs": 2, "triplets": 3}

_POINT_CHECKS: dict[str, Any] = {"order": "C", "allow_nd": True, "ensure_min_samples": 2}

# Items of a Dataset that are read to choose the origin.
_ITEMS_FOR_ORIGIN = 256


def read_training_data(
    learner: DeepEmbedder,
    X: ArrayLike | Dataset,
    y: ArrayLike | None,
    groups: ArrayLike | None = None,
    *,
    kind: str,
    reset: bool,
    subtract_origin: bool = False,
) -> ArrayDataset | LabelledDataset:
    """Check X, y and groups and return them as a dataset.

    The learner itself is needed, because scikit-learn's `validate_data` sets or reads its
    attributes.

    Parameters
    ----------
    learner : DeepEmbedder
        The learner. If `reset` is True, its attributes `n_features_in_`, `feature_names_in_` and
        `feature_shape_` and `origin_` are set. Otherwise X is checked against them.
    X : array-like or torch Dataset
        Points, or tuples of points.
    y : array-like or None
        Class labels, graded targets, or 1 and 0 for same and different pairs.
    groups : array-like of shape (n_samples,) or None
        The group of each point.
    kind : {"labels", "targets", "views", "pairs", "triplets"}
        What the loss learns from: class labels, graded targets, two views of each point without
        labels, or tuples.
    reset : bool
        Whether to set the attributes of the learner.
    subtract_origin : bool, default=False
        Whether an origin may be subtracted from tables before they are cast to float32. With
        `reset` it is chosen and set as `origin_` of the learner; otherwise `origin_` is used.

    Returns
    -------
    ArrayDataset or LabelledDataset
        Points as float32, with int64 class codes or the result of `graded_targets`.

    Raises
    ------
    ValueError
        If X, y or groups are invalid.
    """
    if kind in TUPLE_SIZES and groups is not None:
        raise ValueError(
            f"groups cannot be used with supervision={kind!r}: groups decide which points share a "
            "batch, and these batches hold tuples. Leave groups out."
        )
    if isinstance(X, (list, tuple)):
        X = as_dataset_if_items(X)
    data = _Reader(learner, kind, reset, subtract_origin).read(X, y)
    data.kind = kind
    data.classes = _scoring_classes(y, len(data)) if kind == "views" else None
    if groups is not None:
        check_consistent_length(X, groups)
        groups = read_labels(groups, "groups", continuous=True)
        data.groups = np.unique(groups, return_inverse=True)[1]
    return data


@dataclass(frozen=True)
class _Reader:
    """Reads points, a Dataset or tuples for one call of `fit` or `partial_fit`."""

    learner: DeepEmbedder
    kind: str
    reset: bool
    subtract_origin: bool = False

    @property
    def name(self) -> str:
        return type(self.learner).__name__

    def read(self, X: Any, y: Any) -> ArrayDataset | LabelledDataset:
        if self.kind in TUPLE_SIZES:
            return self._read_tuples(X, y)
        if isinstance(X, Dataset):
            return self._read_dataset(X, y)
        return self._read_array(X, y)

    def _read_array(self, X: Any, y: Any) -> ArrayDataset:
        _check_not_texts(X, self.name)
        if not self.reset:
            check_n_dims(X, self.learner.feature_shape_, self.name)
        checks = _POINT_CHECKS | {"dtype": point_dtype(X)}
        if self.kind == "views":
            X = validate_data(self.learner, X, reset=self.reset, **checks)
        else:
            if self.kind == "labels" and y is not None:
                # scikit-learn would turn a list of numbers and strings into strings.
                y = _read_classes(y, self.name)
            graded = {"multi_output": True, "y_numeric": True} if self.kind == "targets" else {}
            X, y = validate_data(self.learner, X, y, reset=self.reset, **checks, **graded)
        self._set_or_check_feature_shape(X.shape[1:])
        if self.kind == "views":
            targets = np.arange(len(X))
        else:
            targets = _encode_targets(y, self.kind, self.name)
        X = self._as_float32(X)
        return ArrayDataset(np.require(X, requirements="W"), targets)

    def _read_dataset(self, dataset: Any, y: Any) -> LabelledDataset:
        if y is None and self.kind != "views":
            raise ValueError(
                f"{self.name} requires y to be passed, but the target y is None. Pass the labels "
                "of a Dataset as y: batches are drawn by class before any item is read."
            )
        if not hasattr(dataset, "__len__"):
            raise ValueError(
                f"{self.name} reads the items of a Dataset in random order and needs its length, "
                f"but {type(dataset).__name__} has no __len__. Give a Dataset with __len__ and "
                "__getitem__."
            )
        if self.kind == "views":
            targets = np.arange(len(dataset))
        else:
            y = _read_classes(y, self.name) if self.kind == "labels" else y
            y = _check_dataset_labels(y, len(dataset), self.kind, self.name)
            targets = _encode_targets(y, self.kind, self.name)
        shape = tuple(as_point_tensor(dataset[0]).shape)
        if not shape:
            raise ValueError(
                "Each item of the Dataset must be a point, or a tuple that begins with a point; "
                "the first item gives a single number."
            )
        self._set_or_check_feature_shape(shape)
        if self.reset:
            self.learner.n_features_in_ = shape[0]
            # A fit on a table may have set names.
            self.learner.__dict__.pop("feature_names_in_", None)
        return LabelledDataset(dataset, targets, origin=self._origin_of_dataset(dataset, shape))

    def _read_tuples(self, tuples: Any, y: Any) -> ArrayDataset:
        size = TUPLE_SIZES[self.kind]
        tuples = check_tuples(tuples, size)
        points = tuples.reshape(-1, *tuples.shape[2:])
        points = validate_data(
            self.learner, points, reset=self.reset, dtype=point_dtype(points), allow_nd=True
        )
        self._set_or_check_feature_shape(points.shape[1:])
        points = self._as_float32(points)
        targets = np.zeros(len(tuples), np.int64) if size == 3 else _encode_pairs(y, len(tuples))
        points = np.require(points, requirements="W")  # torch shares its memory
        return ArrayDataset(points.reshape(tuples.shape), targets, tuples=True)

    def _as_float32(self, X: NDArray[np.floating]) -> NDArray[np.float32]:
        """Subtract the origin of the learner, which is set first with `reset`; cast to float32."""
        origin = self._set_or_get_origin(X)
        return to_float32(X, origin)

    def _set_or_get_origin(self, X: NDArray[np.floating]) -> NDArray[np.float64] | None:
        if self.reset:
            may_subtract = self.subtract_origin and X.ndim == 2
            self.learner.origin_ = choose_origin(X) if may_subtract else None
        if self.learner.origin_ is None:
            warn_of_merged_values(X)
        return self.learner.origin_

    def _origin_of_dataset(
        self, dataset: Any, shape: tuple[int, ...]
    ) -> NDArray[np.float64] | None:
        """Return the origin for a Dataset; some float64 items are read to choose it."""
        rows = (
            [0] if not self.reset else range(0, len(dataset), -(-len(dataset) // _ITEMS_FOR_ORIGIN))
        )
        first = point_of_item(dataset[0])
        if str(getattr(first, "dtype", "")).rpartition(".")[2] != "float64":
            return self._set_or_get_origin(np.zeros((1, *shape), np.float32))
        points = [np.asarray(point_of_item(dataset[row]), np.float64) for row in rows]
        if any(point.shape != shape for point in points):
            return self._set_or_get_origin(np.zeros((1, *shape), np.float32))
        return self._set_or_get_origin(np.stack(points))

    def _set_or_check_feature_shape(self, shape: tuple[int, ...]) -> None:
        if self.reset:
            self.learner.feature_shape_ = shape
        else:
            check_feature_shape(shape, self.learner.feature_shape_, self.name)


# Checks of X


def check_feature_shape(
    shape: tuple[int, ...], feature_shape: tuple[int, ...], learner_name: str
) -> None:
    """Raise if points have another shape than the points of the last fit.

    Parameters
    ----------
    shape : tuple of int
        The shape of one point.
    feature_shape : tuple of int
        The shape of one point in the last fit.
    learner_name : str
        The class name of the learner, for the message.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if shape != feature_shape:
        raise ValueError(
            f"{learner_name} was fitted on points of shape {feature_shape}; got points of shape "
            f"{shape}."
        )


def check_n_dims(X: ArrayLike, feature_shape: tuple[int, ...], learner_name: str) -> None:
    """Raise if points have another number of dimensions than the points of the last fit.

    This check comes before scikit-learn's check of the number of features. For images that check
    would only compare the number of channels.

    Parameters
    ----------
    X : array-like of shape (n, ...)
        Points.
    feature_shape : tuple of int
        The shape of one point in the last fit.
    learner_name : str
        The class name of the learner, for the message.

    Raises
    ------
    ValueError
        If the numbers of dimensions differ, for example rows of a table instead of images.
    """
    shape = (X.shape if hasattr(X, "shape") else np.asarray(X).shape)[1:]
    if shape and len(shape) != len(feature_shape):
        check_feature_shape(shape, feature_shape, learner_name)


def _check_not_texts(X: Any, learner_name: str) -> None:
    is_column = isinstance(X, (list, tuple)) or getattr(X, "ndim", None) == 1
    if is_column and isinstance(next(iter(X), None), str):
        raise ValueError(
            f"{learner_name} needs numbers, but X holds texts. Put a function that turns texts "
            f"into vectors before it: make_pipeline(FunctionTransformer(encode), "
            f"{learner_name}(...))."
        )


# Checks and encodings of y


def _encode_targets(y: Any, kind: str, learner_name: str) -> NDArray:
    """Return graded targets, or class codes."""
    if kind == "targets":
        return graded_targets(y)
    labels = _read_classes(y, learner_name)
    codes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    check_class_labels(codes)
    return codes


def _read_classes(y: Any, learner_name: str) -> NDArray[Any]:
    """Return class labels as an array; raise if y does not hold one for each sample."""
    labels = y if issparse(y) else read_values(y, "y")
    is_vector = labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1)
    if issparse(labels) or not is_vector or is_continuous(labels):
        losses = sorted(name for name in LOSSES if learns_from(name) == "targets")
        raise ValueError(
            f"Unknown label type: {type_of_target(labels)}. {learner_name} needs one class label "
            "for each sample. To learn from numbers, or from several labels per sample as rows of "
            f"0 and 1, use DeepEmbedder with one of these losses: {losses}."
        )
    return read_labels(labels)


def _scoring_classes(y: Any, n_rows: int) -> NDArray[np.int64] | None:
    """Return class codes to score held-out points by, if y holds usable class labels.

    A loss that compares two views ignores class labels. Held-out data can still be scored by them.
    """
    if y is None or issparse(y):
        return None
    y = read_values(y, "y")
    if y.ndim != 1 or is_continuous(y):
        return None
    if len(y) != n_rows:
        raise ValueError(f"y holds {len(y)} labels for {n_rows} points; give one for each.")
    codes, counts = np.unique(y, return_inverse=True, return_counts=True)[1:]
    return codes if np.count_nonzero(counts > 1) > 1 else None


def graded_targets(y: ArrayLike) -> NDArray:
    """Check graded targets: numbers, or sets of labels.

    Parameters
    ----------
    y : array-like or sparse matrix of shape (n,) or (n, k)
        Numbers. A matrix with two distinct values, for example 0 and 1, is read as sets of labels:
        the larger value marks the labels of a sample.

    Returns
    -------
    ndarray of float64 or bool, shape (n,) or (n, k)
        Numbers as float64, sets of labels as bool.

    Raises
    ------
    ValueError
        If the targets are not numbers, have more than two dimensions, or are all equal.

    Examples
    --------
    >>> from skdml.deep.data.reading import graded_targets
    >>> graded_targets([[1, 0, 1], [0, 0, 1]])
    array([[ True, False,  True],
           [False, False,  True]])
    """
    y = y.toarray() if issparse(y) else read_values(y, "y")  # type: ignore[union-attr]
    if y.dtype.kind not in "biuf":
        raise ValueError(
            "Graded targets must be numbers, or rows of 0 and 1 for several labels per sample; got "
            f"{y.dtype} {y.ravel()[:3].tolist()}. Use MultiLabelBinarizer to make such rows, or "
            "set loss__graded=False to learn from classes."
        )
    targets = y.astype(np.float64)
    if targets.ndim not in (1, 2):
        raise ValueError(f"Graded targets must have shape (n,) or (n, k); got {targets.shape}.")
    if (targets == targets[0]).all():
        raise ValueError(
            f"Graded targets must differ between samples; all {len(targets)} are equal. Add "
            "samples with other targets."
        )
    is_sets = type_of_target(y, input_name="y") == "multilabel-indicator"
    return targets == targets.max() if is_sets else targets


def _check_dataset_labels(y: Any, n_items: int, kind: str, learner_name: str) -> Any:
    """Return y as an array; raise unless it holds one label for each item of a Dataset."""
    y = y if issparse(y) else np.asarray(y)
    if y.shape[:1] != (n_items,) or (kind == "labels" and y.ndim > 1):
        raise ValueError(
            f"{learner_name} needs one label for each of the {n_items} items of the Dataset; got y "
            f"of shape {y.shape}."
        )
    return y


def _encode_pairs(y: Any, n_pairs: int) -> NDArray[np.int64]:
    """Return 1 for each same pair and 0 for each different pair."""
    if y is None:
        raise ValueError(
            "supervision='pairs' requires y to be passed, but the target y is None. Give 1 for "
            "each pair of the same class, and 0 or -1 for each pair of different classes."
        )
    y = read_labels(y, continuous=True)
    values = set(np.unique(y).tolist())
    if y.shape != (n_pairs,) or not (values <= {0, 1} or values <= {-1, 1}):
        raise ValueError(
            f"{n_pairs} pairs need {n_pairs} labels in y, 1 for same and 0 (or -1) for different; "
            f"got y of shape {y.shape} with the values {sorted(values)[:5]}."
        )
    if len(values) < 2:
        raise ValueError(
            f"y must mark both same and different pairs; all {n_pairs} pairs have y = "
            f"{values.pop()}."
        )
    return (y == 1).astype(np.int64)


def label_defect(codes: NDArray[np.integer]) -> str | None:
    """Describe why no distance can be learned from class labels, or return None if one can.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each sample.

    Returns
    -------
    str or None
        The error message.
    """
    counts = np.bincount(codes)
    n_classes = np.count_nonzero(counts)
    if n_classes < 2:
        return (
            f"Learning a distance needs at least two classes; all {len(codes)} labels are of one "
            "class. Add samples of another class."
        )
    if counts.max() < 2:
        return (
            f"Each of the {n_classes} classes has a single sample, so there is no pair of the same "
            "class. Give at least one class two samples, or check whether y holds continuous "
            "targets instead of classes."
        )
    return None


def check_class_labels(codes: NDArray[np.integer]) -> None:
    """Raise unless there are two classes, and two samples of at least one class.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each sample.

    Raises
    ------
    ValueError
        If there is only one class, or every class has a single sample.
    """
    if defect := label_defect(codes):
        raise ValueError(defect)


def point_dtype(X: ArrayLike) -> Any:
    """Return the dtype in which points are read: float32 only if it holds every value of X."""
    dtype = getattr(X, "dtype", None)
    fits = isinstance(dtype, np.dtype) and dtype.kind in "biuf" and np.can_cast(dtype, np.float32)
    return np.float32 if fits else [np.float64, np.float32]
