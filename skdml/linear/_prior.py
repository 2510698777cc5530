"""The prior of learners that stay near one: LogDet divergence, roots and principal maps."""

import numpy as np
from scipy.linalg import eigh
from scipy.sparse import issparse
from sklearn.utils import check_array

from skdml.linear._init import principal_axes
from skdml.linear._pairs import constrained_points
from skdml.linear._points import centre_and_scale
from skdml.linear._psd import numerical_range, pinv_sqrt, root

PRIORS = ("identity", "covariance")

# Added to L Lᵀ, in units of its target, before its determinant is taken.
_RIDGE = 1e-9


def log_det_divergence(A):
    """LogDet divergence of M = AᵀA from the identity: tr(M) - ln det(M) - n_features.

    Convex in M, 0 for the identity, and infinite where M is singular: who adds it needs no
    constraint that keeps M positive definite.

    Parameters
    ----------
    A : ndarray of shape (n_features, n_features)
        Square root of M.

    Returns
    -------
    value : float
        At least 0, but for rounding.
    gradient : ndarray of shape (n_features, n_features)
        By A: 2 (A - A⁻ᵀ).

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._prior import log_det_divergence
    >>> log_det_divergence(np.eye(2))[0]
    0.0
    """
    sign, log_det = np.linalg.slogdet(A)
    if sign == 0:  # a search may try such an A, and is to turn back: take one a hair away
        A = A + 1e-8 * np.eye(len(A))
        log_det = np.linalg.slogdet(A)[1]
    value = float((A**2).sum() - 2 * log_det - len(A))
    return value, 2 * (A - np.linalg.inv(A).T)


def prior_root(prior, points, scale):
    """L0 with L0ᵀL0 = M0, for points brought to scale.

    Parameters
    ----------
    prior : {"identity", "covariance"} or array-like of shape (n_features, n_features)
        M0: the identity, the inverse of the covariance of the points, or a positive definite
        matrix that is for points as they came.
    points : ndarray of shape (n_points, n_features)
        Points, centred.
    scale : float
        What they were divided by.

    Returns
    -------
    ndarray of float64, shape (rank, n_features)
        L0. The rank is below n_features only where the covariance is singular.

    Raises
    ------
    ValueError
        If `prior` is unknown, of another shape, or not positive definite, or if the points have
        no covariance.
    """
    n_features = points.shape[1]
    if isinstance(prior, str) and prior == "identity":
        return np.eye(n_features)
    if isinstance(prior, str) and prior == "covariance":
        covariance = (points.T.astype(np.float64) @ points) / len(points)
        if not covariance.any():
            raise ValueError('prior="covariance" needs points that differ; choose "identity".')
        return pinv_sqrt(covariance, len(points))
    if isinstance(prior, str):
        raise ValueError(f"prior={prior!r} is unknown; choose one of {PRIORS}, or give a matrix.")
    M0 = check_array(prior, dtype=np.float64, input_name="prior")
    if M0.shape != (n_features, n_features) or not np.allclose(M0, M0.T, rtol=1e-6, atol=0):
        raise ValueError(
            f"prior has to be a symmetric matrix of shape ({n_features}, {n_features}); got one of "
            f"shape {M0.shape}."
        )
    values = eigh((M0 + M0.T) / 2, eigvals_only=True)
    if not numerical_range(values, n_features).all():
        raise ValueError(
            f"prior has to be positive definite; its eigenvalues go from {values[0]:.3g} to "
            f"{values[-1]:.3g}."
        )
    return root(M0) * scale


def map_by_prior(prior, n_components, X, *rows):
    """Map points so that the prior becomes the identity.

    The LogDet divergence of M = L0ᵀAᵀA L0 from M0 = L0ᵀL0 is that of AᵀA from the identity.

    Parameters
    ----------
    prior : {"identity", "covariance"} or array-like of shape (n_features, n_features)
        M0, as `prior_root` reads it.
    n_components : int
        Of sparse points, how many axes the prior is about; see `to_principal_axes`.
    X, *rows
        Points and constraints, as `constrained_points` takes them; X may be sparse.

    Returns
    -------
    points : ndarray of shape (n_distinct, rank)
        The distinct points of the constraints, centred and mapped by L0, in the dtype of X.
    L0 : ndarray of float64, shape (rank, n_features)
        The map, for points as they came.
    *rows : ndarray of int, shape (n_constraints,)
        Where among the points those of the constraints are.
    """
    X, axes = to_principal_axes(X, n_components)
    points, *rows = constrained_points(X, *rows)
    points, scale = centre_and_scale(points)
    L0 = prior_root(prior, points, scale)
    points = points @ L0.T.astype(X.dtype)
    return points, L0 / scale if axes is None else L0 / scale @ axes, *rows


def to_principal_axes(X, n_components):
    """Points in their leading principal axes, where sparse ones have too many columns to be dense.

    A learner whose prior is the identity of these axes, and 0 across them, looks for M within
    their span: a matrix of finite LogDet divergence from a prior has the range of the prior.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    n_components : int
        How many axes to take for sparse points.

    Returns
    -------
    Z : ndarray of shape (n_samples, n_features or n_components)
        Dense points, in the dtype of X.
    axes : ndarray of float64, shape (n_components, n_features), or None
        The rows are the axes; None where the points were left as they are.

    References
    ----------
    J. V. Davis & I. S. Dhillon, "Structured metric learning for high dimensional problems",
    KDD 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from skdml.linear._prior import to_principal_axes
    >>> Z, axes = to_principal_axes(csr_matrix(np.array([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])), 1)
    >>> Z.round(1)
    array([[-1.8],
           [ 3.2]])
    """
    if not issparse(X):
        return X, None
    if n_components >= X.shape[1]:
        return X.toarray(), None
    axes = principal_axes(X, n_components)
    return np.asarray(X @ axes.T.astype(X.dtype)), axes


def add_log_det_prior(objective, strength, unit=None):
    """Add to an objective of L a pull toward maps that keep all angles.

    The pull is the LogDet divergence of L Lᵀ from unit² I,

        tr A - ln det A - n_components,    A = L Lᵀ / unit²,

    for a square L that of LᵀL, too. It keeps directions from vanishing of which few rows say
    anything.

    Parameters
    ----------
    objective : callable
        ``objective(L)`` -> (value, gradient).
    strength : float
        Factor of the divergence, >= 0.
    unit : float, default=None
        Length of the rows of L that the pull is toward. None leaves it free: it is that of L,
        for which the divergence is least, and only the shape of L counts.

    Returns
    -------
    callable
        ``objective(L)`` -> (value, gradient) of the sum.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._prior import add_log_det_prior
    >>> objective = add_log_det_prior(lambda L: (0.0, np.zeros((2, 3))), strength=1.0)
    >>> value, gradient = objective(2 * np.eye(2, 3))
    >>> bool(abs(value) < 1e-6), bool(abs(gradient).max() < 1e-6)
    (True, True)
    """
    if strength == 0:
        return objective

    def penalised(L):
        value, gradient = objective(L)
        A = L @ L.T
        square = unit**2 if unit else max(A.trace() / len(A), np.finfo(np.float64).tiny)
        # Rows of 0, of which the principal axes of few points have some, are not to be infinite.
        A = A / square
        B = A + _RIDGE * np.eye(len(A))
        divergence = A.trace() - np.linalg.slogdet(B)[1] - len(A)
        slope = 2 / square * (L - np.linalg.solve(B, L))
        return value + strength * divergence, gradient + strength * slope

    return penalised
