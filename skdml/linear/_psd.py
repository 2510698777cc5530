"""Symmetric positive semi-definite matrices: numerical rank, and roots L with LᵀL = M."""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, svd


def numerical_range(values: NDArray[np.floating], size: float) -> NDArray[np.bool_]:
    """Tell which eigenvalues or singular values are more than rounding.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
        Eigenvalues or singular values.
    size : float
        The larger side of the matrix that they belong to. Rounding adds up along it.

    Returns
    -------
    ndarray of bool of shape (n_values,)
        Whether each value exceeds eps * size * the largest value.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._psd import numerical_range
    >>> numerical_range(np.array([-1e-17, 1e-12, 3.0]), 100)
    array([False,  True,  True])
    """
    return values > np.finfo(np.float64).eps * size * values.max(initial=0)


def pinv_sqrt(covariance: NDArray[np.floating], n_samples: float) -> NDArray[np.floating]:
    """Root L of the pseudo-inverse of a covariance: LᵀL = covariance⁺, L covariance Lᵀ = I.

    The rows of L are the principal axes, each divided by the standard deviation along it.

    Parameters
    ----------
    covariance : ndarray of shape (n_features, n_features)
        Symmetric positive semi-definite matrix, float64.
    n_samples : float
        How many rows it was estimated from.

    Returns
    -------
    ndarray of shape (rank, n_features)
        L, by decreasing variance. The largest entry of each row is positive. The rank is that of
        the correlation matrix, so it does not depend on the units of the columns.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._psd import pinv_sqrt
    >>> pinv_sqrt(np.diag([4.0, 0.0, 25.0]), n_samples=10)
    array([[0. , 0. , 0.2],
           [0.5, 0. , 0. ]])
    """
    size = max(n_samples, len(covariance))
    std = np.sqrt(np.maximum(covariance.diagonal(), 0))
    varies = std > 0
    L = np.zeros((0, len(covariance)))
    if varies.any():
        std = std[varies]
        correlation = covariance[np.ix_(varies, varies)] / std[:, None] / std
        rows = _pinv_sqrt_of_correlation(correlation, std, size)
        L = np.zeros((len(rows), len(covariance)))
        L[:, varies] = rows
    return with_positive_peak(L)


def _pinv_sqrt_of_correlation(
    correlation: NDArray[np.floating], std: NDArray[np.floating], size: float
) -> NDArray[np.floating]:
    values, axes = eigh(correlation, driver="evd")  # the fastest driver for all axes
    kept = numerical_range(values, size)
    deviation, axes = np.sqrt(values[kept]), axes[:, kept]
    turn, s, principal = svd((axes * deviation).T * std, full_matrices=False)
    if kept.all():
        # The exact inverse, rotated to the principal axes. Dividing those by s would be the same
        # but for rounding: with columns of 1e6 and 1e-6 the smallest s has few correct digits.
        return turn.T @ ((axes / deviation).T / std)
    # A singular matrix has many generalised inverses; this is the one of Moore and Penrose.
    kept = numerical_range(s, size)
    return principal[kept] / s[kept, None]


def root(M: NDArray[np.floating], n_components: int | None = None) -> NDArray[np.floating]:
    """L with LᵀL = M, or the best approximation of M by an L with fewer rows.

    Parameters
    ----------
    M : ndarray of shape (n_features, n_features)
        Symmetric matrix. Eigenvalues below 0 count as 0.
    n_components : int, default=None
        Number of rows of L: the leading axes of M. None keeps all.

    Returns
    -------
    ndarray of shape (n_components, n_features)
        The eigenvectors of M, each times the root of its eigenvalue, by decreasing eigenvalue.
        The largest entry of each row is positive.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._psd import root
    >>> root(np.diag([4.0, 0.0, 9.0]), 2)
    array([[0., 0., 3.],
           [2., 0., 0.]])
    """
    values, axes = np.linalg.eigh((M + M.T) / 2)  # for a small M much faster than scipy's
    kept = slice(None, None if n_components is None else -n_components - 1, -1)
    return with_positive_peak((axes * np.sqrt(np.maximum(values, 0)))[:, kept].T)


def leading_components(L: NDArray[np.floating], n_components: int) -> NDArray[np.floating]:
    """Rotate L so that its rows are orthogonal, by decreasing length, and keep the first.

    Parameters
    ----------
    L : ndarray of shape (n_rows, n_features)
        The map.
    n_components : int
        How many rows to keep; fewer if L has fewer.

    Returns
    -------
    ndarray of shape (min(n_components, n_rows), n_features)
        The eigenvectors of M = LᵀL, each times the root of its eigenvalue. With all of them no
        distance changes.
    """
    _, lengths, axes = svd(L, full_matrices=False)
    return with_positive_peak((lengths[:, None] * axes)[:n_components])


def with_positive_peak(L: NDArray[np.floating]) -> NDArray[np.floating]:
    """Fix the sign of each row: its entry of largest magnitude becomes positive.

    The sign of an axis is arbitrary. A fixed sign makes results reproducible.

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        Rows.

    Returns
    -------
    ndarray of shape (n_components, n_features)
        The rows, without -0.0.
    """
    largest = np.take_along_axis(L, abs(L).argmax(axis=1)[:, None], axis=1)
    return L * np.where(largest < 0, -1.0, 1.0) + 0.0  # + 0.0 turns -0.0 into 0.0
