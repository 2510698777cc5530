"""The prior of learners that stay near a given M: its root, and LogDet divergences from it."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh
from scipy.sparse import issparse
from sklearn.utils import check_array

from skdml.linear._init import principal_axes
from skdml.linear._pairs import constrained_points
from skdml.linear._points import Matrix, centre_and_scale
from skdml.linear._psd import numerical_range, pinv_sqrt, root
from skdml.linear._solvers import Objective

PRIORS = ("identity", "covariance")

# Added to L Lᵀ, in units of its target, before its determinant is taken.
_RIDGE = 1e-9


def log_det_divergence(A: NDArray[np.floating]) -> tuple[float, NDArray[np.floating]]:
    """LogDet divergence of M = AᵀA from the identity: tr(M) - ln det(M) - n_features.

    It is convex in M, 0 for the identity, and infinite for a singular M. An objective that
    includes it needs no constraint to keep M positive definite.

    Parameters
    ----------
    A : ndarray of shape (n_features, n_features)
        Square root of M.

    Returns
    -------
    value : float
        At least 0, up to rounding.
    gradient : ndarray of shape (n_features, n_features)
        Gradient by A, 2 (A - A⁻ᵀ).

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._prior import log_det_divergence
    >>> log_det_divergence(np.eye(2))[0]
    0.0
    """
    sign, log_det = np.linalg.slogdet(A)
    if sign == 0:  # a line search may try a singular A: a slightly shifted one gives a finite value
        A = A + 1e-8 * np.eye(len(A))
        log_det = np.linalg.slogdet(A)[1]
    value = float((A**2).sum() - 2 * log_det - len(A))
    return value, 2 * (A - np.linalg.inv(A).T)


def prior_root(
    prior: str | ArrayLike, points: NDArray[np.floating], scale: float
) -> NDArray[np.floating]:
    """L0 with L0ᵀL0 = M0, for points brought to scale.

    Parameters
    ----------
    prior : {"identity", "covariance"} or array-like of shape (n_features, n_features)
        M0: the identity, the inverse of the covariance of the points, or a positive definite
        matrix for the points as given.
    points : ndarray of shape (n_points, n_features)
        Points, centred.
    scale : float
        What they were divided by.

    Returns
    -------
    ndarray of float64, shape (rank, n_features)
        L0. The rank is below n_features only if the covariance is singular.

    Raises
    ------
    ValueError
        If `prior` is unknown, of another shape, or not positive definite, or if all points are
        equal and `prior` is "covariance".
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


def map_by_prior(
    prior: str | ArrayLike, n_components: int, X: Matrix, *rows: NDArray[np.integer]
) -> tuple[NDArray, ...]:
    """Map points so that the prior becomes the identity.

    The LogDet divergence of M = L0ᵀAᵀA L0 from M0 = L0ᵀL0 is that of AᵀA from the identity.

    Parameters
    ----------
    prior : {"identity", "covariance"} or array-like of shape (n_features, n_features)
        M0, as in `prior_root`.
    n_components : int
        Number of axes that the prior has for sparse points; see `to_principal_axes`.
    X : {ndarray, CSR matrix} of shape (n_points, n_features)
        Points.
    *rows : ndarray of int, shape (n_constraints,)
        Rows of X, as in `constrained_points`.

    Returns
    -------
    points : ndarray of shape (n_distinct, rank)
        The distinct points of the constraints, centred and mapped by L0, in the dtype of X.
    L0 : ndarray of float64, shape (rank, n_features)
        The map, for the points as given.
    *rows : ndarray of int, shape (n_constraints,)
        The same rows, as positions among `points`.
    """
    Z, axes = to_principal_axes(X, n_components)
    points, *rows_of_points = constrained_points(Z, *rows)
    points, scale = centre_and_scale(points)
    L0 = prior_root(prior, points, scale)
    points = points @ L0.T.astype(Z.dtype)
    return points, L0 / scale if axes is None else L0 / scale @ axes, *rows_of_points


def to_principal_axes(
    X: Matrix, n_components: int
) -> tuple[NDArray[np.floating], NDArray[np.floating] | None]:
    """Map sparse points to their leading principal axes; leave dense points as they are.

    Sparse points often have too many columns for a dense M. A learner then takes the identity on
    these axes, and 0 across them, as its prior. It searches for M within their span only, because
    M has a finite LogDet divergence only from a prior with the same range.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    n_components : int
        Number of axes for sparse points.

    Returns
    -------
    Z : ndarray of shape (n_samples, n_features or n_components)
        Dense points, in the dtype of X.
    axes : ndarray of float64, shape (n_components, n_features), or None
        The axes, one a row; None if the columns were kept.

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
        return X.toarray(), None  # type: ignore[union-attr]  # X is sparse here
    axes = principal_axes(X, n_components)
    return np.asarray(X @ axes.T.astype(X.dtype)), axes


def add_log_det_prior(
    objective: Objective, strength: float, unit: float | None = None
) -> Objective:
    """Add to an objective of L the LogDet divergence of L Lᵀ from unit² I.

    The divergence is

        tr A - ln det A - n_components,    A = L Lᵀ / unit².

    For a square L it is also that of LᵀL. It pulls L toward maps that keep all angles. Directions
    with little evidence in the data then keep a positive length.

    Parameters
    ----------
    objective : callable
        ``objective(L)`` -> (value, gradient).
    strength : float
        Factor of the divergence, >= 0.
    unit : float, default=None
        Length of the rows of L at the minimum of the divergence. None takes the unit for which
        the divergence is least at the given L; only the shape of L then matters.

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

    def penalised(L: NDArray[np.floating]) -> tuple[float, NDArray[np.floating]]:
        value, gradient = objective(L)
        A = L @ L.T
        square = unit**2 if unit else max(A.trace() / len(A), np.finfo(np.float64).tiny)
        # The ridge keeps the divergence finite for rows of 0, which few points can lead to.
        A = A / square
        B = A + _RIDGE * np.eye(len(A))
        divergence = A.trace() - np.linalg.slogdet(B)[1] - len(A)
        slope = 2 / square * (L - np.linalg.solve(B, L))
        return value + strength * divergence, gradient + strength * slope

    return penalised
