"""From float64 to float32 without loss: the origin of a table, and a warning for other points."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

_FLOAT32_STEP = float(np.finfo(np.float32).eps)

# A column needs an origin if rounding to float32 moves its largest value by more than this share
# of the typical distance from the median.
_LARGEST_ROUNDING = 1e-5

# Columns that vary by less than this share of their largest value are constant up to rounding.
_SMALLEST_SPREAD = 1e-12

# Rows and columns that are looked at. Large tables are thinned out evenly.
_MAX_ROWS = 10_000
_MAX_COLUMNS = 100


def choose_origin(X: NDArray[np.floating]) -> NDArray[np.float64] | None:
    """Return the point to subtract from the rows of a table before they are cast to float32.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
        The table. A float32 table has lost nothing yet and needs no origin.

    Returns
    -------
    ndarray of float64, shape (n_features,), or None
        The median of each column that is far from zero compared with its spread, and 0 for the
        others; None if no column is.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.data.precision import choose_origin
    >>> choose_origin(np.array([[1.7e9, 1.0], [1.7e9 + 20, 2.0], [1.7e9 + 40, 3.0]]))
    array([1.70000002e+09, 0.00000000e+00])
    """
    if X.dtype == np.float32:
        return None
    X = _thin_out(X)
    with np.errstate(over="ignore", invalid="ignore"):
        origin = np.median(X, axis=0)
        deviation = np.abs(X - origin)
        typical, largest = np.median(deviation, axis=0), np.abs(X).max(axis=0)
        typical = np.where(typical > 0, typical, deviation.mean(axis=0))
        is_far = largest * _FLOAT32_STEP > _LARGEST_ROUNDING * typical
        is_far &= typical > _SMALLEST_SPREAD * largest
    return np.where(is_far, origin, 0.0) if is_far.any() else None


def to_float32(
    X: NDArray[np.floating], origin: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """Subtract the origin in float64, and cast to float32.

    Parameters
    ----------
    X : ndarray of shape (n, ...)
        Points.
    origin : ndarray of float64, shape (n_features,), default=None
        What to subtract; None subtracts nothing.

    Returns
    -------
    ndarray of float32, shape (n, ...)
        The points.

    Raises
    ------
    ValueError
        If a value is too large for float32.
    """
    if origin is None and X.dtype == np.float32:
        return X
    with np.errstate(over="ignore"):
        points = (X if origin is None else X - origin).astype(np.float32)
    if not np.isfinite(points).all():
        raise ValueError(
            "Input X contains infinity or a value too large for dtype('float32'). Scale the points."
        )
    return points


def warn_of_merged_values(X: NDArray[np.floating]) -> None:
    """Warn if float32 merges most of the distinct values of a column.

    Parameters
    ----------
    X : ndarray of shape (n, ...)
        Points; each entry of a point is a column.

    Warns
    -----
    UserWarning
        If there is such a column.
    """
    if X.dtype == np.float32:
        return
    X = _thin_out(X.reshape(len(X), -1))
    with np.errstate(over="ignore"):
        largest, spread = np.abs(X).max(axis=0), np.ptp(X, axis=0)
    is_coarse = largest * _FLOAT32_STEP * len(X) > spread
    is_coarse &= spread > _SMALLEST_SPREAD * largest
    for column in np.flatnonzero(is_coarse)[:_MAX_COLUMNS]:
        values = np.unique(X[:, column])
        n_left = len(np.unique(values.astype(np.float32)))
        if 2 * n_left < len(values):
            warnings.warn(
                f"The network reads float32, which keeps {n_left} of {len(values)} distinct values "
                f"of column {column} ({values[0]:.10g} to {values[-1]:.10g}). Subtract an offset "
                "from the column, like its mean, before fit and transform.",
                stacklevel=2,
            )
            return


def _thin_out(X: NDArray[np.floating]) -> NDArray[np.floating]:
    return X[:: -(-len(X) // _MAX_ROWS)]
