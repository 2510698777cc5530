"""Closed forms by eigenvectors: shrunk covariances, generalised eigenvectors, leading axes."""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from skdml.linear._psd import pinv_sqrt, with_positive_peak

EMBEDDING_TYPES = ("weighted", "orthonormalized", "plain")


def shrink(
    covariance: NDArray[np.floating], variance: NDArray[np.floating], shrinkage: float
) -> NDArray[np.floating]:
    """Mix a covariance with a diagonal one that only holds the units of the columns.

    The small eigenvalues of an estimated covariance are too small, the more so the fewer rows
    there are. Its inverse depends on them most.

    Parameters
    ----------
    covariance : ndarray of shape (n_features, n_features)
        Covariance of rows or of differences.
    variance : ndarray of shape (n_features,)
        Variance of each column over all rows: its squared unit.
    shrinkage : float
        Share of the diagonal covariance, in [0, 1].

    Returns
    -------
    ndarray of shape (n_features, n_features)
        (1 - shrinkage) covariance + shrinkage c diag(variance). c is the mean, over the columns,
        of the diagonal of `covariance` divided by `variance`. If c is 0 up to rounding, the
        result is diag(variance). A constant column gets the mean variance of the others.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._eigen import shrink
    >>> shrink(np.array([[1.0, 1.0], [1.0, 1.0]]), np.array([4.0, 4.0]), 0.5)
    array([[1. , 0.5],
           [0.5, 1. ]])
    """
    varies, filled = variance > 0, fill_zero_variances(variance)
    c = (covariance.diagonal() / filled)[varies].mean() if varies.any() else 0.0
    if c < len(filled) * np.finfo(np.float64).eps:
        return np.diag(filled)
    return (1 - shrinkage) * covariance + shrinkage * c * np.diag(filled)


def fill_zero_variances(variance: NDArray[np.floating]) -> NDArray[np.floating]:
    """Variance of each column, with the mean of the others for a constant column."""
    varies = variance > 0
    return np.where(varies, variance, variance[varies].mean() if varies.any() else 1.0)


def mix_with_standardised(
    L: NDArray[np.floating], covariance: NDArray[np.floating], share: float
) -> NDArray[np.floating]:
    """Root of (1 - share) LᵀL + share M0, M0 the standardised Euclidean distance.

    M0 is the Euclidean distance on columns scaled to unit variance, times a factor: the total
    variance of the rows is the same under M0 as under L.

    Parameters
    ----------
    L : ndarray of shape (n_rows, n_features)
        Root of M.
    covariance : ndarray of shape (n_features, n_features)
        Covariance of all rows.
    share : float
        Share of M0, in [0, 1].

    Returns
    -------
    ndarray of shape (n_features, n_features)
        The root that is symmetric on columns of unit variance; L itself if the share is 0. The
        symmetric root changes continuously with M.

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
    # Columns of unit variance: with 1e6 and 1e-6 side by side the axes would lose digits.
    unit = np.sqrt(fill_zero_variances(covariance.diagonal()))
    A, R = L * unit, covariance / np.outer(unit, unit)
    spread = np.einsum("ij,jk,ik", A, R, A) / max(R.trace(), np.finfo(np.float64).tiny)
    values, axes = eigh((1 - share) * A.T @ A + share * spread * np.eye(len(R)))
    return (axes * np.sqrt(np.maximum(values, 0))) @ axes.T / unit


def leading_by_variance(
    L: NDArray[np.floating], covariance: NDArray[np.floating], n_components: int | None
) -> NDArray[np.floating]:
    """Rotate L to the principal axes of the mapped rows, and keep the first.

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
        L, by decreasing variance of L x. The largest entry of each row is positive.
    """
    turn = eigh(L @ covariance @ L.T)[1]
    return with_positive_peak((turn.T[::-1] @ L)[:n_components])


def inverse_root(
    covariance: NDArray[np.floating], n_samples: float, remedy: str
) -> NDArray[np.floating]:
    """Root L of a covariance's inverse; warn if it only has a pseudo-inverse.

    Parameters
    ----------
    covariance : ndarray of shape (n_features, n_features)
        Covariance.
    n_samples : float
        How many rows it was estimated from.
    remedy : str
        The parameter that makes it regular, for the warning: "shrinkage > 0".

    Returns
    -------
    ndarray of shape (rank, n_features)
        L, with L covariance Lᵀ = I.

    Warns
    -----
    UserWarning
        If the covariance is singular.
    """
    L = pinv_sqrt(covariance, n_samples)
    if len(L) < len(covariance):
        warnings.warn(
            f"A covariance is singular: it has rank {len(L)} for {len(covariance)} features. "
            f"Constant or collinear columns and too few rows do that. The distance ignores all "
            f"but {len(L)} directions; set {remedy} to use all of them.",
            UserWarning,
            stacklevel=3,
        )
    return L


def generalized_eigenvectors(
    A: NDArray[np.floating], B: NDArray[np.floating], n_samples: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Solve A v = λ B v: the axes along which A is large relative to B.

    Parameters
    ----------
    A, B : ndarray of shape (n_features, n_features)
        Symmetric matrices, B positive semi-definite.
    n_samples : float
        How many rows B was estimated from.

    Returns
    -------
    values : ndarray of shape (rank of B,)
        λ, decreasing.
    axes : ndarray of shape (rank of B, n_features)
        V, one v a row, with V B Vᵀ = I and V A Vᵀ = diag(λ). The largest entry of each row is
        positive.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._eigen import generalized_eigenvectors
    >>> A, B = np.diag([1.0, 8.0]), np.diag([1.0, 4.0])
    >>> values, axes = generalized_eigenvectors(A, B, n_samples=9)
    >>> values, axes
    (array([2., 1.]), array([[0. , 0.5],
           [1. , 0. ]]))
    """
    L = inverse_root(B, n_samples, "shrinkage > 0")
    whitened = L @ A @ L.T
    values, turn = eigh((whitened + whitened.T) / 2)
    return values[::-1], with_positive_peak(turn.T[::-1] @ L)


def check_embedding_type(embedding_type: object, known: tuple[str, ...] = EMBEDDING_TYPES) -> None:
    """Refuse an unknown `embedding_type`.

    Parameters
    ----------
    embedding_type : object
        The parameter.
    known : tuple of str
        The valid values.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    if embedding_type not in known:
        raise ValueError(f"embedding_type={embedding_type!r} is unknown; choose one of {known}.")


def scale_axes(
    values: NDArray[np.floating], axes: NDArray[np.floating], embedding_type: str
) -> NDArray[np.floating]:
    """Scale or orthonormalise axes, as `embedding_type` says.

    Parameters
    ----------
    values : ndarray of shape (n_components,)
        λ of each axis.
    axes : ndarray of shape (n_components, n_features)
        Axes v with vᵀ B v = 1, as `generalized_eigenvectors` returns them.
    embedding_type : {"weighted", "orthonormalized", "plain"}
        "weighted" makes vᵀ B v = λ, "orthonormalized" returns orthonormal axes of the same space,
        "plain" returns the axes unchanged.

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
