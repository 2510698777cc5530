"""L at the start of an iterative search: the parameter `init`, principal and discriminant axes."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh, svd
from scipy.sparse import csr_matrix, issparse
from scipy.sparse.linalg import ArpackError, LinearOperator, svds
from sklearn.utils import check_array

from skdml.linear._points import Matrix, Points
from skdml.linear._psd import with_positive_peak
from skdml.linear.base import check_n_components

INITS = ("auto", "pca", "lda", "identity", "random")

# Share of the mean variance that is added to the covariance within classes before it is inverted.
# Directions without variance within classes would otherwise dominate all others.
_RIDGE = 1e-3


def initial_components(
    init: str | ArrayLike, n_components: int | None, points: Points, rng: np.random.RandomState
) -> NDArray[np.floating]:
    """L at the start of a search.

    Parameters
    ----------
    init : str or array-like of shape (n_components, n_features)
        One of `INITS`, or L itself: an array of the user, or the L of an earlier fit. An array
        refers to the points as given, so it is multiplied by `points.scale`.
    n_components : int or None
        Number of rows of L. None stands for n_features, or for the number of rows of an array.
    points : Points
        Points, centred and scaled. "lda" needs their classes.
    rng : RandomState
        Draws "random".

    Returns
    -------
    ndarray of float64, shape (n_components, n_features)
        L.

    Raises
    ------
    ValueError
        If `init` is unknown or an array of another shape, or if `n_components` is out of range.
    """
    X, codes, weight, scale = points
    n_features = X.shape[1]
    if not isinstance(init, str):
        return _check_components(init, n_components, n_features) * scale
    n_components = check_n_components(n_components, n_features, "n_features")
    if init == "auto":
        init = _choose_init(n_components, X, codes)
    if init == "identity":
        return np.eye(n_components, n_features)
    if init == "random":
        return rng.normal(scale=n_features**-0.5, size=(n_components, n_features))
    if init == "pca":
        return principal_axes(X, n_components, weight)
    if init == "lda" and codes is not None and not issparse(X):
        return discriminants(X, codes, n_components, weight)
    if init == "lda":
        raise ValueError("init='lda' needs dense points and class labels; choose 'pca'.")
    raise ValueError(f"init={init!r} is unknown; choose one of {list(INITS)}, or give an array.")


def _check_components(
    init: ArrayLike, n_components: int | None, n_features: int
) -> NDArray[np.floating]:
    """Return an array of the user, or of an earlier fit, as L; refuse another shape."""
    L = check_array(init, dtype=np.float64, input_name="init")
    n_rows = len(L) if n_components is None else n_components
    if L.shape != (n_rows, n_features) or n_rows > n_features:
        raise ValueError(
            f"init must have the shape (n_components, n_features). n_components is "
            f"{n_components} and n_features is {n_features}, but init (with warm_start=True: "
            f"components_ of the last fit) has the shape {L.shape}."
        )
    return L


def _choose_init(n_components: int, X: Matrix, codes: NDArray[np.integer] | None) -> str:
    # The rule of scikit-learn's NCA: LDA if it has enough axes, PCA if it leaves any out.
    n_samples, n_features = X.shape
    if codes is not None and not issparse(X) and n_components <= min(n_features, codes.max()):
        return "lda"
    return "pca" if n_components < min(n_samples, n_features) else "identity"


def principal_axes(
    X: Matrix, n_components: int, weight: NDArray[np.floating] | None = None
) -> NDArray[np.floating]:
    """Principal axes of points, as rows of length 1.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points. They need not be centred.
    n_components : int
        How many axes. Axes beyond the span of the points are 0.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the rows.

    Returns
    -------
    ndarray of float64, shape (n_components, n_features)
        The axes, by decreasing variance. The largest entry of each is positive.
    """
    n_samples, n_features = X.shape
    weight = np.ones(n_samples) if weight is None else weight.astype(np.float64)
    if issparse(X):
        axes = _sparse_principal_axes(X, min(n_components, min(X.shape) - 1), weight)
    elif n_samples >= n_features:
        mean = weight @ X / weight.sum()
        second = (X.T * weight).astype(np.float64, copy=False) @ X / weight.sum()
        chosen = [n_features - n_components, n_features - 1]
        axes = eigh(second - np.outer(mean, mean), subset_by_index=chosen)[1].T[::-1]
    else:
        rows = np.sqrt(weight)[:, None] * (X - weight @ X / weight.sum())
        axes = svd(rows, full_matrices=False)[2][:n_components]
    L = np.zeros((n_components, n_features))
    L[: len(axes)] = axes
    return with_positive_peak(L)


def _sparse_principal_axes(
    X: csr_matrix, n_axes: int, weight: NDArray[np.floating]
) -> NDArray[np.floating]:
    mean, root_weight = np.asarray(X.T @ weight).ravel() / weight.sum(), np.sqrt(weight)
    centred = LinearOperator(
        X.shape,
        matvec=lambda v: root_weight * (X @ v.ravel() - mean @ v.ravel()),
        rmatvec=lambda u: X.T @ (root_weight * u.ravel()) - mean * (root_weight @ u.ravel()),
        dtype=np.float64,
    )
    # A fixed start, so that svds draws none from a global generator. It is not constant, because
    # centring would turn a constant vector into 0.
    start = np.cos(np.arange(min(X.shape)))
    if n_axes < 1:
        return np.empty((0, X.shape[1]))
    try:
        return svds(centred, k=n_axes, v0=start)[2][::-1]
    except ArpackError:  # all points are equal, up to rounding: every axis is a principal axis
        return np.eye(n_axes, X.shape[1])


def discriminants(
    X: NDArray[np.floating],
    codes: NDArray[np.integer],
    n_components: int,
    weight: NDArray[np.floating] | None = None,
) -> NDArray[np.floating]:
    """Fisher's discriminant axes: whitened within classes, sorted by variance between classes.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points with a mean squared distance of 2.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    n_components : int
        How many axes. Only the first n_classes - 1 separate classes; the others complete the
        basis.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the rows.

    Returns
    -------
    ndarray of float64, shape (n_components, n_features)
        L. The mean squared distance of two points of one class is 2 n_components / n_features.
    """
    weight = np.ones(len(X)) if weight is None else weight.astype(np.float64)
    X, n_features = X.astype(np.float64, copy=False), X.shape[1]
    member = np.eye(codes.max() + 1)[codes] * weight[:, None]
    member = member[:, member.any(axis=0)]
    mass = member.sum(axis=0)
    means = (member.T @ X) / mass[:, None]
    total, centre = (X.T * weight) @ X, weight @ X / weight.sum()
    within = (total - (means.T * mass) @ means) / weight.sum()
    values, axes = np.linalg.eigh(within)  # for few columns much faster than scipy's
    ridge = _RIDGE * max(values.mean(), np.finfo(np.float64).eps)
    whiten = axes / np.sqrt(np.maximum(values, 0) + ridge)
    spread = np.sqrt(mass / mass.sum())[:, None] * ((means - centre) @ whiten)
    between = spread.T @ spread
    # Axes that separate no classes would come in any order. A small share of their variance within
    # classes decides it.
    tie_breaker = 1e-6 * (1 + np.trace(between)) / max(values[-1], np.finfo(np.float64).eps)
    turn = np.linalg.eigh(between + np.diag(tie_breaker * values))[1]
    return with_positive_peak((whiten @ turn[:, ::-1]).T[:n_components]) / np.sqrt(n_features)
