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
    >>> from skdml.linear._eigen import shrink
    >>> shrink(np.array([[1.0, 1.0], [1.0, 1.0]]), np.array([4.0, 4.0]), 0.5)
    array([[1. , 0.5],
           [0.5, 1. ]])
    """
    varies, unit = variance > 0, fill_zero_variances(variance)
    c = (covariance.diagonal() / unit)[varies].mean() if varies.any() else 0.0
    if c < len(unit) * np.finfo(np.float64).eps:
        return np.diag(unit)
    return (1 - shrinkage) * covariance + shrinkage * c * np.diag(unit)


def fill_zero_variances(variance):
    """Squared unit of each column: its variance, or the mean of the others where it has none."""
    varies = variance > 0
    return np.where(varies, variance, variance[varies].mean() if varies.any() else 1.0)


def mix_with_standardised(L, covariance, share):
    """Root of (1 - share) LᵀL + share of Euclid's M on columns of unit variance.

    Parameters
    ----------
    L : ndarray of shape (n_rows, n_features)
        Root of M.
    covariance : ndarray of shape (n_features, n_features)
        Covariance of all rows.
    share : float
        In [0, 1]. Both parts are in the unit in which rows are as far apart as under L.

    Returns
    -------
    ndarray of shape (n_features, n_features)
        The root that is symmetric on columns of unit variance, the only one that changes little
        when M does; L itself where the share is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._eigen import mix_with_standardised
    >>> mix_with_standardised(np.array([[1.0, 0.0]]), np.diag([4.0, 1.0]), 0.5) ** 2
    array([[0.75, 0.  ],
           [0.  , 1.  ]])
    """
    if share == 0:
        return L
    # On columns of unit variance: with 1e6 and 1e-6 side by side the axes would lose digits.
    unit = np.sqrt(fill_zero_variances(covariance.diagonal()))
    A, R = L * unit, covariance / np.outer(unit, unit)
    spread = np.einsum("ij,jk,ik", A, R, A) / max(R.trace(), np.finfo(np.float64).tiny)
    values, axes = eigh((1 - share) * A.T @ A + share * spread * np.eye(len(R)))
    return (axes * np.sqrt(np.maximum(values, 0))) @ axes.T / unit


def leading_by_variance(L, covariance, n_components):
    """Turn L to the axes along which rows differ most as L maps them, and keep the first.

    Parameters
    ----------
    L : ndarray of shape (n_rows, n_features)
        The map.
    covariance : ndarray of shape (n_features, n_features)
        Covariance of all rows.
    n_components : int or None
        How many axes to keep; None keeps all.

    Returns
    -------
    ndarray of shape (min(n_components, n_rows), n_features)
        L, by decreasing variance of L x; the largest entry of each row is positive.
    """
    turn = eigh(L @ covariance @ L.T)[1]
    return with_positive_peak((turn.T[::-1] @ L)[:n_components])


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
            f"Constant or collinear columns and too few rows do that. Its inverse is blind to "
            f"all but {len(L)} directions; {cure} sees all.",
            UserWarning,
            stacklevel=3,
        )
    return L


def generalized_eigenvectors(A, B, n_samples):
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
    >>> from skdml.linear._eigen import generalized_eigenvectors
    >>> values, axes = generalized_eigenvectors(
    ...     np.diag([1.0, 8.0]), np.diag([1.0, 4.0]), n_samples=9
    ... )
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


def scale_axes(values, axes, embedding_type):
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
