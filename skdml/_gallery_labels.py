"""The labels of a gallery: checked, joined without loss, and kept apart from "unknown"."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets


def check_gallery_labels(X: ArrayLike, y: ArrayLike | None) -> NDArray[Any]:
    """Check the labels of samples, and return them as an array of shape (n_samples,)."""
    if y is None:
        raise ValueError("GalleryClassifier requires y to be passed, but the target y is None.")
    labels: NDArray[Any] = column_or_1d(y, warn=True)
    check_consistent_length(X, labels)
    check_classification_targets(labels)
    if labels.dtype.kind == "O" and not all(isinstance(label, str) for label in labels):
        kinds = sorted({type(label).__name__ for label in labels})
        raise ValueError(f"y holds labels of the kinds {kinds}. Give all as numbers or as strings.")
    return labels


def join_labels(enrolled: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    """Append new labels to the enrolled ones.

    Raises
    ------
    ValueError
        If numbers, strings and booleans are mixed, or if no dtype can hold all labels exactly.
    """
    if not len(enrolled):
        return new
    joined = np.concatenate([enrolled, new]) if _kind(enrolled) == _kind(new) else None
    if joined is not None:
        parts = (enrolled, new)
        ends = (joined[: len(enrolled)], joined[len(enrolled) :])
        if all(_holds(part, end) for part, end in zip(parts, ends, strict=True)):
            return joined
    raise ValueError(
        f"Labels of dtype {new.dtype} cannot be mixed with the enrolled labels of dtype "
        f"{enrolled.dtype}. Give all labels as numbers or all as strings, of the same dtype."
    )


def unknown_answer(
    classes: NDArray[Any], unknown_label: int | str | None, rejects: bool
) -> tuple[NDArray[Any], Any]:
    """Return the classes in the dtype of predictions, and the label of rejected queries.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        The enrolled classes.
    unknown_label : int, str or None
        The parameter of the gallery.
    rejects : bool
        Whether queries can be rejected.

    Returns
    -------
    answers : ndarray of shape (n_classes,)
        The classes. The dtype holds every class and the unknown label exactly. It is the dtype of
        `classes` if no query can be rejected.
    unknown : int or str
        The label of rejected queries.

    Raises
    ------
    ValueError
        If the label of rejected queries is an enrolled class, or neither an int nor a string.
    """
    unknown = unknown_label
    if unknown is None:
        unknown = "unknown" if _kind(classes) == "string" else -1
    elif not isinstance(unknown, Integral | str | np.bool_):
        raise ValueError(f"unknown_label={unknown!r} is neither an int nor a string.")
    if unknown in classes.tolist() and (rejects or unknown_label is not None):
        raise ValueError(
            f"unknown_label={unknown!r} is a class in y; choose another label for rejected queries."
            if unknown_label is not None
            else f"The label {unknown!r} of y is also the default label of rejected queries. "
            "Set unknown_label to a value that is no class."
        )
    if not rejects:
        return classes, unknown
    return classes.astype(_answer_dtype(classes, unknown)), unknown


def _answer_dtype(classes: NDArray[Any], unknown: Any) -> np.dtype[Any]:
    """Return a dtype that holds the classes and the unknown label without change."""
    label = np.array([unknown])
    if isinstance(unknown, Integral):
        label = label.astype(np.min_scalar_type(int(unknown)))
    if isinstance(unknown, str) != (_kind(classes) == "string") or classes.dtype.kind == "S":
        return np.dtype(object)
    dtype = np.result_type(classes, label)
    exact = _holds(classes, classes.astype(dtype)) and _holds(label, label.astype(dtype))
    return dtype if exact else np.dtype(object)


def _kind(labels: NDArray[Any]) -> str:
    return {"b": "bool", "i": "number", "u": "number", "f": "number"}.get(
        labels.dtype.kind, "string"
    )


def _holds(labels: NDArray[Any], converted: NDArray[Any]) -> bool:
    """Return whether converted labels can be told apart as before, without rounding."""
    if labels.dtype.kind in "iu" and converted.dtype.kind == "f":
        # Larger integers are rounded.
        return bool((np.abs(labels.astype(object)) <= 2 ** np.finfo(converted.dtype).nmant).all())
    return bool((converted.astype(labels.dtype) == labels).all())
