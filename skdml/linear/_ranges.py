"""Ranges of columns: which values a dtype can be learned from, and which embeddings it can hold.

Learners compute squares, and some compute fourth powers. Columns whose squares overflow or
underflow would give a result that is not finite, or one that ignores columns in silence. They are
refused here, before anything is computed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils.sparsefuncs import min_max_axis


class Limits(NamedTuple):
    """What the columns of X have to keep to.

    Attributes
    ----------
    largest : float
        Largest magnitude of a value. The widest column needs a range of at least 1 / largest.
    narrowest : float
        Smallest range, maximum minus minimum, of a column that is not constant, and its smallest
        share of the widest range.
    """

    largest: float
    narrowest: float


LIMITS = {
    np.dtype(np.float64): Limits(1e70, 1e-70),
    np.dtype(np.float32): Limits(1e15, 1e-36),
}
"""The limits of each dtype: fourth powers of float64 and squares of float32 can be computed."""


def column_ranges(X: Any) -> NDArray[np.float64]:
    """Minimum and maximum of each column.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points, without NaN.

    Returns
    -------
    ndarray of float64, shape (2, n_features)
        The minima, then the maxima.

    Examples
    --------
    >>> from skdml.linear._ranges import column_ranges
    >>> import numpy as np
    >>> column_ranges(np.array([[1.0, 5.0], [3.0, 5.0]]))
    array([[1., 5.],
           [3., 5.]])
    """
    low_high = min_max_axis(X, axis=0) if issparse(X) else (X.min(axis=0), X.max(axis=0))
    return np.array(low_high, dtype=np.float64)


def union_of_ranges(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranges of the columns of two batches of rows together."""
    return np.array([np.minimum(a[0], b[0]), np.maximum(a[1], b[1])])


def check_ranges(
    ranges: NDArray[np.float64], dtype: np.dtype, names: Sequence[str] | None = None
) -> None:
    """Refuse columns out of the limits of a dtype.

    Parameters
    ----------
    ranges : ndarray of float64, shape (2, n_features)
        Minimum and maximum of each column.
    dtype : dtype
        float32 or float64.
    names : sequence of str, default=None
        What the message calls each column. None stands for "column 0 of X" and so on.

    Raises
    ------
    ValueError
        If a column is out of range. The message names it and its range.
    """
    low, high = ranges
    largest, narrowest = LIMITS[dtype]
    width = high - low
    widest = int(width.argmax())
    too_large = np.maximum(-low, high) > largest
    least = narrowest * max(1.0, width[widest])
    too_narrow = (width > 0) & (width < least)
    if too_large.any():
        column = int(too_large.argmax())
        rule = f"values between -{largest:g} and {largest:g}"
        remedy = "Correct it if it is wrong, or divide all values by a constant"
    elif 0 < width[widest] < 1 / largest:
        column = widest
        rule = f"at least one column with a range of {1 / largest:g} or more"
        remedy = "Multiply all columns by a constant"
    elif too_narrow.any():
        column = int(too_narrow.argmax())
        rule = f"columns that are constant or have a range of {least:.3g} or more"
        remedy = "Remove it, or multiply it by a constant"
    else:
        return
    more = ", or give float64 numbers" if dtype == np.float32 else ""
    raise ValueError(
        f"{describe_column(ranges, column, names)}. Squares of such numbers cannot be computed in "
        f"{dtype}, which needs {rule}. {remedy}{more}."
    )


def check_target_range(y: NDArray[np.floating], dtype: np.dtype) -> None:
    """Refuse targets whose squares a dtype cannot hold.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Targets.
    dtype : dtype
        float32 or float64.

    Raises
    ------
    ValueError
        If the largest magnitude, or the range of targets that differ, is out of the limits.
    """
    low, high, largest = float(y.min()), float(y.max()), LIMITS[dtype].largest
    if max(-low, high) > largest or 0 < high - low < 1 / largest:
        raise ValueError(
            f"y ranges from {low:.6g} to {high:.6g}. {dtype} needs targets between -{largest:g} "
            f"and {largest:g}, with a range of 0 or at least {1 / largest:g}. Multiply y by a "
            "constant."
        )


def describe_column(
    ranges: NDArray[np.float64], column: int, names: Sequence[str] | None = None
) -> str:
    """Return "Column 2 of X ('width') ranges from 0 to 1e+300"."""
    name = f"Column {column} of X" + (f" ({str(names[column])!r})" if names is not None else "")
    return f"{name} ranges from {ranges[0, column]:.6g} to {ranges[1, column]:.6g}"


def check_embeddings(
    Z: NDArray[np.floating], components: NDArray[np.floating], X: Any
) -> NDArray[np.floating]:
    """Refuse embeddings whose squared distances could overflow.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        X Lᵀ.
    components : ndarray of shape (n_components, n_features)
        L.
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.

    Returns
    -------
    ndarray of shape (n_samples, n_components)
        Z.

    Raises
    ------
    ValueError
        If an entry of Z is NaN or so large that |z - z'|² may exceed the largest number of its
        dtype. The message names the column of X that contributes most.
    """
    # |z - z'|² is at most n_components (2 limit)².
    limit = np.sqrt(np.finfo(Z.dtype).max / (4 * Z.shape[1]))
    if Z.max() <= limit and -Z.min() <= limit:  # both are False for NaN
        return Z
    ranges = column_ranges(X)
    with np.errstate(divide="ignore"):  # the logarithm of 0
        share = np.log(abs(ranges).max(axis=0)) + np.log(abs(components).max(axis=0))
    more = " Give X as float64, or correct" if Z.dtype == np.float32 else " Correct"
    raise ValueError(
        f"{describe_column(ranges, int(share.argmax()))}. The learned map makes it so large that "
        f"squared distances overflow {Z.dtype}.{more} these values."
    )
