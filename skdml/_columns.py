"""Name the columns of X that are not numbers, where scikit-learn's error names only a value."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, time, timedelta
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils import validation

_DATES = (date, time, timedelta, np.datetime64, np.timedelta64)


def validate_data(estimator: BaseEstimator, X: Any, *args: Any, **options: Any) -> Any:
    """Call scikit-learn's `validate_data`, with an error that names columns of strings.

    Parameters
    ----------
    estimator : estimator
        The estimator that X is validated for.
    X : array-like or sparse matrix of shape (n_samples, ...)
        Points.
    *args, **options
        As in `sklearn.utils.validation.validate_data`.

    Returns
    -------
    ndarray, sparse matrix or tuple of these
        The validated X, or X and y.

    Raises
    ------
    ValueError
        If a column of X holds strings or dates, or scikit-learn refuses X or y.
    """
    with name_columns_of_strings(X, type(estimator).__name__):
        return validation.validate_data(estimator, X, *args, **options)


@contextmanager
def name_columns_of_strings(X: Any, reader: str) -> Iterator[None]:
    """If the block cannot convert X, raise an error that names its columns of strings or dates.

    Parameters
    ----------
    X : object
        What the block converts to numbers.
    reader : str
        What needs numbers, for the message.

    Raises
    ------
    ValueError
        If the block raises, and X has a column of strings or dates.

    Examples
    --------
    >>> from skdml._columns import name_columns_of_strings
    >>> try:
    ...     with name_columns_of_strings([[1.0, "red"]], "NCA"):
    ...         float("red")
    ... except ValueError as error:
    ...     print(str(error)[:44])
    Column 1 of X holds strings, such as 'red'.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        found = _first_values(X)
        if not found:
            raise
        names, (value, *_) = list(found), found.values()
        if isinstance(value, _DATES):
            kind, advice = "dates", "Turn dates into numbers first, for example into days."
        else:
            columns = f"make_column_transformer((OneHotEncoder(), {names[:3]}), ...)"
            kind = "strings"
            advice = (
                f"Encode it first, for example make_pipeline({columns}, {reader}(...)); see "
                "sklearn.preprocessing.OneHotEncoder and OrdinalEncoder."
            )
        more = f" Other such columns: {names[1:4]}." if len(names) > 1 else ""
        raise ValueError(
            f"Column {names[0]!r} of X holds {kind}, such as {value!r}.{more} {reader} needs "
            f"numbers. {advice}"
        ) from error


def _first_values(X: Any) -> dict[Any, Any]:
    """Return a value of each column of X that cannot be a number, by the name of the column."""
    if issparse(X) or not (hasattr(X, "__array__") or isinstance(X, list | tuple)):
        return {}
    try:
        values: Any = np.asarray(X, dtype=object)
    except ValueError:  # rows of different lengths
        return {}
    if values.ndim != 2:
        return {}
    names = getattr(X, "columns", range(values.shape[1]))
    found: dict[Any, Any] = {}
    for name, column in zip(names, values.T, strict=True):
        if any(issubclass(kind, (str, bytes, *_DATES)) for kind in set(map(type, column))):
            wrong = next(filter(_is_no_number, column), None)
            found |= {} if wrong is None else {name: wrong}
    return found


def _is_no_number(value: Any) -> bool:
    if isinstance(value, _DATES):
        return True
    if not isinstance(value, str | bytes):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False
