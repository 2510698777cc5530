"""Axes that tell one symmetric matrix from another: what closed forms are solved by."""

import warnings

import numpy as np
from scipy.linalg import eigh

from skdml.linear._psd import pinv_sqrt, with_positive_peak

EMBEDDING_TYPES = ("weighted", "orthonormalized", "plain")


def shrink(covariance, variance, shrinkage):
    """Mix a covariance with a diagonal one that knows the units of the columns and no more.

    An estimate has its small eigenvalues too small, the more so the fewer rows there are, and its
    inverse lives on those.

    Parameters
    ----------
    covariance : ndarray of shape (n_features, n_features)
        Covariance, of rows or of differences.
    variance : ndarray of shape (n_features,)
        Variance of each column over all rows: its squared unit.
    shrinkage : float
        Share of the diagonal one, in [0, 1].

    Returns
    -------
    ndarray of shape (n_features, n_features)
        (1 - shrinkage) covariance + shrinkage c diag(variance), c the mean over the columns of the
        quotient of both variances; diag(variance) if that is 0 but for rounding. A column that
        does not vary is given the mean variance of the others.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._axes import shrink
    >>> shrink(np.array([[1.0, 1.0], [1.0, 1.0]]), np.array([4.0, 4.0]), 0.5)
    array([[1. , 0.5],
           [0.5, 1. ]])
    """
    varies = variance > 0
    unit = np.where(varies, variance, variance[varies].mean() if varies.any() else 1.0)
    c = (covariance.diagonal() / unit)[varies].mean() if varies.any() else 0.0
    if c < len(unit) * np.finfo(np.float64).eps:
        return np.diag(unit)
    return (1 - shrinkage) * covariance + shrinkage * c * np.diag(unit)


def inverse_root(covariance, n_samples, cure):
    """Root L of a covariance's inverse; warn where it has only a pseudo-inverse.

    Parameters
    ----------
    covariance : ndarray of shape (n_features, n_features)
        Covariance.
    n_samples : int
        How many rows it was estimated from.
    cure : str
        What to do about a singular one, for the warning.

    Returns
    -------
    ndarray of shape (rank, n_features)
        L, with L covariance Lᵀ = I.
    """
    L = pinv_sqrt(covariance, n_samples)
    if len(L) < len(covariance):
        warnings.warn(
            f"A covariance is singular: it has rank {len(L)} for {len(covariance)} features. "
            f"Constant or collinear columns and too few rows do that. The distance is blind to "
            f"all but {len(L)} directions; {cure} sees all.",
            UserWarning,
            stacklevel=3,
        )
    return L


def relative_axes(A, B, n_samples):
    """Solve A v = λ B v: the axes along which A is large as seen from B.

    Parameters
    ----------
    A, B : ndarray of shape (n_features, n_features)
        Symmetric matrices, B positive semi-definite.
    n_samples : int
        How many rows B was estimated from.

    Returns
    -------
    values : ndarray of shape (rank of B,)
        λ, decreasing.
    axes : ndarray of shape (rank of B, n_features)
        A row for each v, with V B Vᵀ = I and V A Vᵀ = diag(λ); its largest entry is positive.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._axes import relative_axes
    >>> values, axes = relative_axes(np.diag([1.0, 8.0]), np.diag([1.0, 4.0]), n_samples=9)
    >>> values, axes
    (array([2., 1.]), array([[0. , 0.5],
           [1. , 0. ]]))
    """
    L = inverse_root(B, n_samples, "shrinkage > 0")
    seen = L @ A @ L.T
    values, turn = eigh((seen + seen.T) / 2)
    return values[::-1], with_positive_peak(turn.T[::-1] @ L)


def check_embedding_type(embedding_type, known=EMBEDDING_TYPES):
    """Refuse an unknown `embedding_type`.

    Parameters
    ----------
    embedding_type : object
        The parameter.
    known : tuple of str
        What it may be.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    if embedding_type not in known:
        raise ValueError(f"embedding_type={embedding_type!r} is unknown; choose one of {known}.")


def embed(values, axes, embedding_type):
    """Lengths of the axes, and their angles.

    Parameters
    ----------
    values : ndarray of shape (n_components,)
        λ of each axis.
    axes : ndarray of shape (n_components, n_features)
        Axes of length 1 as seen from the matrix of what is near.
    embedding_type : {"weighted", "orthonormalized", "plain"}
        Length √λ, orthonormal axes of the same space, or length 1.

    Returns
    -------
    ndarray of shape (n_components, n_features)
        L.
    """
    if embedding_type == "weighted":
        return axes * np.sqrt(np.maximum(values, 0))[:, None]
    if embedding_type == "orthonormalized":
        return with_positive_peak(np.linalg.qr(axes.T)[0].T)
    return axes
