"""Read labels: one function for estimators, measures and splitters, with scikit-learn's errors.

Labels are compared exactly. Numbers that no dtype of numpy holds together, for example int64 and
large uint64, stay Python integers.
"""

import warnings
from numbers import Integral, Number
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import assert_all_finite

_NEVER_MISSING = (Integral, np.bool_, str)
_KINDS = dict.fromkeys("biuf", "numbers") | {"U": "strings", "M": "dates", "m": "durations"}


def read_labels(
    y: ArrayLike | None, name: str = "y", *, column: bool = True, continuous: bool = False
) -> NDArray[Any]:
    """Check labels, and return them as an array in which different labels stay different.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, 1)
        Labels: all numbers, all strings, all dates or all durations.
    name : str, default="y"
        The name of the parameter, for messages.
    column : bool, default=True
        Whether the shape (n_samples, 1) is allowed. It then becomes (n_samples,) with a warning.
    continuous : bool, default=False
        Whether numbers that are not integers are allowed.

    Returns
    -------
    ndarray of shape (n_samples,)
        The labels. Their dtype is object for arrays of strings of dtype object, and for numbers
        that no other dtype holds exactly.

    Raises
    ------
    ValueError
        If a label is missing or infinite, if labels are of several kinds, or if y has another
        shape.

    Warns
    -----
    DataConversionWarning
        If y is a column, of shape (n_samples, 1).

    Examples
    --------
    >>> from skdml._labels import read_labels
    >>> read_labels(["b", "a"]).tolist()
    ['b', 'a']
    """
    labels = read_values(y, name)
    if labels.ndim == 2 and labels.shape[1] == 1 and column:
        warnings.warn(
            f"A column-vector {name} was passed when a 1d array was expected. Please change the "
            f"shape of {name} to (n_samples, ), for example using ravel().",
            DataConversionWarning,
            stacklevel=3,
        )
        labels = labels.ravel()
    if labels.ndim != 1:
        raise ValueError(
            f"{name} should be a 1d array, got an array of shape {labels.shape} instead. Give one "
            "label for each sample."
        )
    if not continuous and is_continuous(labels):
        raise ValueError(
            f"Unknown label type: continuous. {name} needs class labels, but holds numbers that "
            "are not integers."
        )
    return labels


def read_values(y: ArrayLike | None, name: str) -> NDArray[Any]:
    """Check labels of any shape; see `read_labels`.

    Parameters
    ----------
    y : array-like
        Labels.
    name : str
        The name of the parameter, for messages.

    Returns
    -------
    ndarray
        The labels, in the shape of y.

    Raises
    ------
    ValueError
        If a label is missing or infinite, or if labels are of several kinds.
    """
    if y is None:
        raise ValueError(f"{name} is None, but labels are needed. Give one label for each sample.")
    if issparse(y):
        raise ValueError(f"{name} is sparse. Labels have to be dense: use {name}.toarray().")
    if np.ma.is_masked(y):
        raise _missing(np.ma.getmaskarray(np.ma.asarray(y)), name)
    # A list is not given to numpy as it is: it would turn ["a", None] into two strings.
    is_list = isinstance(y, list | tuple)
    values: NDArray[Any] = np.array(y, dtype=object) if is_list else np.asarray(y)
    if values.dtype.kind in "OT":
        return _from_objects(values.astype(object), name, keep_strings=not is_list)
    if values.dtype.kind not in _KINDS:
        raise _unknown(values.dtype.name, name)
    if values.dtype.kind == "f":
        if np.isnan(values).any():
            raise _missing(np.isnan(values), name)
        assert_all_finite(values, input_name=name)
    if values.dtype.kind in "Mm" and np.isnat(values).any():
        raise _missing(np.isnat(values), name)
    return values


def is_continuous(labels: NDArray[Any]) -> bool:
    """Whether labels are numbers of which some are not integers.

    Parameters
    ----------
    labels : ndarray
        Labels, as returned by `read_values`.

    Returns
    -------
    bool
        False for strings and dates.
    """
    if labels.dtype.kind == "O" and kind_of(labels) == "numbers":
        return any(label != label // 1 for label in labels.ravel())
    return labels.dtype.kind == "f" and bool((labels != np.trunc(labels)).any())


def kind_of(labels: NDArray[Any]) -> str:
    """Return the kind of labels: "numbers", "strings", "dates" or "durations".

    Parameters
    ----------
    labels : ndarray
        Labels, as returned by `read_values`.

    Returns
    -------
    str
        The kind. Labels of several kinds cannot be compared.
    """
    if labels.dtype.kind == "O" and labels.size:
        return "strings" if isinstance(labels.flat[0], str) else "numbers"
    return _KINDS.get(labels.dtype.kind, "strings")


def check_same_kind(first: NDArray[Any], second: NDArray[Any], names: tuple[str, str]) -> None:
    """Raise if labels cannot be compared, because one are numbers and the others are strings.

    Parameters
    ----------
    first, second : ndarray
        Labels, as returned by `read_values`.
    names : tuple of two str
        What the two are, for the message.

    Raises
    ------
    ValueError
        If the labels are of different kinds.
    """
    kinds = kind_of(first), kind_of(second)
    if first.size and second.size and kinds[0] != kinds[1]:
        raise ValueError(
            f"The labels in {names[0]} are {kinds[0]}, but those in {names[1]} are {kinds[1]}. "
            "Labels of different kinds are never equal. Use either numbers or strings in both."
        )


def join_labels(first: NDArray[Any], second: NDArray[Any], names: tuple[str, str]) -> NDArray[Any]:
    """Concatenate labels, so that only equal labels become equal.

    Parameters
    ----------
    first, second : ndarray of shape (n_first,) and (n_second,)
        Labels, as returned by `read_labels`.
    names : tuple of two str
        What the two are, for the message.

    Returns
    -------
    ndarray of shape (n_first + n_second,)
        The labels, without a conversion of large integers to float.

    Raises
    ------
    ValueError
        If the labels are of different kinds.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml._labels import join_labels
    >>> join_labels(np.array([2**60]), np.array([2**60 + 1], "uint64"), ("y", "reference")).tolist()
    [1152921504606846976, 1152921504606846977]
    """
    check_same_kind(first, second, names)
    both = first, second
    if np.result_type(*both).kind == "f" and not all(part.dtype.kind == "f" for part in both):
        joined = np.concatenate([part.astype(object) for part in both])
        return _from_objects(joined, names[1], keep_strings=True)
    return np.concatenate(both)


def _from_objects(values: NDArray[Any], name: str, *, keep_strings: bool) -> NDArray[Any]:
    """Check an array of Python objects, and convert it to a dtype that holds it exactly."""
    types = sorted(set(map(type, values.ravel().tolist())), key=lambda kind: kind.__name__)
    kinds: dict[str, str] = {}
    for kind in types:
        kinds.setdefault(_kind_of_type(kind), kind.__name__)
    if "other" in kinds:
        return _from_scalars(values, name, kinds["other"])
    if not all(issubclass(kind, _NEVER_MISSING) for kind in types):
        missing = np.array([_is_missing(label) for label in values.ravel()])
        if missing.any():
            raise _missing(missing, name)
    if len(kinds) > 1:
        raise ValueError(
            f"The labels in {name} must be all numbers or all strings; got "
            f"{sorted(kinds.values())}. Turn them into strings: [str(label) for label in {name}]."
        )
    if "strings" in kinds and keep_strings:
        return values
    # Scalars of numpy become Python numbers, which compare exactly: np.int64 and np.uint64 do not.
    if any(issubclass(kind, np.number | np.bool_) for kind in types):
        plain = [v.item() if isinstance(v, np.generic) else v for v in values.ravel()]
        values = _object_array(plain, values.shape)
    converted = np.array(values.ravel().tolist()).reshape(values.shape)
    if "numbers" in kinds and converted.dtype.kind == "f":
        assert_all_finite(converted, input_name=name)
    return converted if np.array_equal(converted, values) else values


def _from_scalars(values: NDArray[Any], name: str, kind: str) -> NDArray[Any]:
    """Read labels that are arrays or tensors without dimensions."""
    flat = values.ravel().tolist()
    if not all(getattr(label, "ndim", None) == 0 and hasattr(label, "item") for label in flat):
        raise _unknown(kind, name)
    plain = _object_array([label.item() for label in flat], values.shape)
    return _from_objects(plain, name, keep_strings=True)


def _object_array(items: list[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)


def _kind_of_type(kind: type) -> str:
    # pandas need not be installed, so its NA and NaT are known by the names of their types.
    if kind is type(None) or kind.__name__ in ("NAType", "NaTType"):
        return "missing"
    if issubclass(kind, str):
        return "strings"
    is_number = issubclass(kind, Number | np.bool_) and not issubclass(kind, complex)
    return "numbers" if is_number else "other"


def _is_missing(label: Any) -> bool:
    if _kind_of_type(type(label)) == "missing":
        return True
    return isinstance(label, Number) and bool(label != label)  # only NaN differs from itself


def _missing(missing: NDArray[np.bool_], name: str) -> ValueError:
    return ValueError(
        f"Input {name} contains NaN: {missing.sum()} of {missing.size} labels are missing, the "
        f"first in row {np.argwhere(missing)[0][0]}. Remove such rows, or give them a label of "
        "their own."
    )


def _unknown(kind: str, name: str) -> ValueError:
    if kind.startswith("complex"):
        return ValueError(f"Complex data not supported: the labels in {name} are complex numbers.")
    return ValueError(
        f"Unknown label type: {kind}. {name} needs numbers or strings. Turn the labels into "
        f"strings: [str(label) for label in {name}]."
    )
