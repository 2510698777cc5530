"""Steps on symmetric positive semi-definite matrices that the linear learners share."""

import numpy as np
from scipy.linalg import eigh, svd


def numerical_range(values, size):
    """Tell which eigenvalues or singular values are more than rounding.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
        Eigenvalues or singular values.
    size : int
        The larger side of the matrix they come from: rounding adds up along it.

    Returns
    -------
    ndarray of bool of shape (n_values,)
        Whether each value exceeds eps * size * the largest.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._psd import numerical_range
    >>> numerical_range(np.array([-1e-17, 1e-12, 3.0]), 100)
    array([False,  True,  True])
    """
    return values > np.finfo(np.float64).eps * size * values.max(initial=0)


def pinv_sqrt(covariance, n_samples):
    """Root L of the pseudo-inverse of a covariance: LᵀL = covariance⁺, L covariance Lᵀ = I.

    The rows of L are the principal axes, each over the standard deviation along it.

    Parameters
    ----------
    covariance : ndarray of shape (n_features, n_features)
        Symmetric positive semi-definite matrix, float64.
    n_samples : int
        How many rows it was estimated from.

    Returns
    -------
    ndarray of shape (rank, n_features)
        L, by decreasing variance; the largest entry of each row is positive. The rank is that of
        the correlation matrix, so that the units of the columns have no say in it.

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
        rows = _root_of_inverse(correlation, std, size)
        L = np.zeros((len(rows), len(covariance)))
        L[:, varies] = rows
    return with_positive_peak(L)


def _root_of_inverse(correlation, std, size):
    values, axes = eigh(correlation, driver="evd")  # of all axes, the quickest
    kept = numerical_range(values, size)
    deviation, axes = np.sqrt(values[kept]), axes[:, kept]
    turn, s, principal = svd((axes * deviation).T * std, full_matrices=False)
    if kept.all():
        # The exact inverse, turned to the principal axes. Dividing those by s would be the same
        # but for rounding: with columns of 1e6 and 1e-6 the smallest s has few digits left.
        return turn.T @ ((axes / deviation).T / std)
    # Off its range a singular matrix has many inverses; this is the one of Moore and Penrose.
    kept = numerical_range(s, size)
    return principal[kept] / s[kept, None]


def root(M, n_components=None):
    """L with LᵀL = M, or as near to M as a matrix with fewer rows can get.

    Parameters
    ----------
    M : ndarray of shape (n_features, n_features)
        Symmetric matrix; eigenvalues below 0 count as 0.
    n_components : int, default=None
        How many rows L has: the leading axes of M. None keeps all.

    Returns
    -------
    ndarray of shape (n_components, n_features)
        The eigenvectors of M, each times the root of its eigenvalue, by decreasing eigenvalue;
        the largest entry of each row is positive.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._psd import root
    >>> root(np.diag([4.0, 0.0, 9.0]), 2)
    array([[0., 0., 3.],
           [2., 0., 0.]])
    """
    values, axes = np.linalg.eigh((M + M.T) / 2)  # for a small M much quicker than scipy's
    kept = slice(None, None if n_components is None else -n_components - 1, -1)
    return with_positive_peak((axes * np.sqrt(np.maximum(values, 0)))[:, kept].T)


def with_positive_peak(L):
    """Turn the sign of each row so that its largest entry is positive: axes have no sign.

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


def leading_components(L, n_components):
    """Turn L so that its rows are orthogonal, by decreasing length, and keep the first of them.

    Parameters
    ----------
    L : ndarray of shape (n_rows, n_features)
        The map.
    n_components : int
        How many rows to keep, fewer where there are not so many.

    Returns
    -------
    ndarray of shape (min(n_components, n_rows), n_features)
        The eigenvectors of M = LᵀL, each times the root of its eigenvalue: with all of them no
        distance changes.
    """
    _, lengths, axes = svd(L, full_matrices=False)
    return with_positive_peak((lengths[:, None] * axes)[:n_components])
