"""Where the search for L begins: the parameter `init` of the iterative learners."""

import numpy as np
from scipy.linalg import eigh, svd
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator, svds
from sklearn.utils import check_array

from skdml.linear._psd import with_positive_peak
from skdml.linear.base import check_n_components

INITS = ("auto", "pca", "lda", "identity", "random")


# A share of the mean variance that is added to the covariance within classes before it is
# inverted, so that directions without any do not swamp all others.
_RIDGE = 1e-3


def initial_components(init, n_components, points, rng):
    """L at the start of a search, for points brought to scale.

    Parameters
    ----------
    init : str or array-like of shape (n_components, n_features)
        One of `INITS`, or L itself: an array of the user, or the L of an earlier fit. An array
        is for the points as given, so it is multiplied by the scale of the points.
    n_components : int or None
        Number of rows of L. None stands for n_features, or for the rows of an array.
    points : Points
        Points, centred and scaled. Without classes "lda" is refused.
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
        init = _choose(n_components, X, codes)
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


def _check_components(init, n_components, n_features):
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


def _choose(n_components, X, codes):
    # As scikit-learn's NCA does: LDA where it has so many axes, PCA where it leaves any out.
    n_samples, n_features = X.shape
    if codes is not None and not issparse(X) and n_components <= min(n_features, codes.max()):
        return "lda"
    return "pca" if n_components < min(n_samples, n_features) else "identity"


def principal_axes(X, n_components, weight=None):
    """Principal axes of points, as rows of length 1.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points; dense ones are centred.
    n_components : int
        How many axes. Beyond what the points span they are 0.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the rows.

    Returns
    -------
    ndarray of float64, shape (n_components, n_features)
        The axes, by decreasing variance, each with its largest entry positive.
    """
    n_samples, n_features = X.shape
    weight = np.ones(n_samples) if weight is None else weight.astype(np.float64)
    if issparse(X):
        axes = _axes_of_sparse(X, min(n_components, min(X.shape) - 1), weight)
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


def _axes_of_sparse(X, n_axes, weight):
    mean, side = np.asarray(X.T @ weight).ravel() / weight.sum(), np.sqrt(weight)
    centred = LinearOperator(
        X.shape,
        matvec=lambda v: side * (X @ v.ravel() - mean @ v.ravel()),
        rmatvec=lambda u: X.T @ (side * u.ravel()) - mean * (side @ u.ravel()),
        dtype=np.float64,
    )
    # Given, so that no global generator is asked; not constant, which centring would bring to 0.
    start = np.cos(np.arange(min(X.shape)))
    return svds(centred, k=n_axes, v0=start)[2][::-1] if n_axes > 0 else np.empty((0, X.shape[1]))


def discriminants(X, codes, n_components, weight=None):
    """Fisher's discriminant axes: spherical within classes, then by spread between classes.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points of a mean square distance of 2.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    n_components : int
        How many axes. Beyond the number of classes less one they part no classes, but complete
        the basis.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the rows.

    Returns
    -------
    ndarray of float64, shape (n_components, n_features)
        L; the mean square distance of two points of one class is 2 n_components / n_features.
    """
    weight = np.ones(len(X)) if weight is None else weight.astype(np.float64)
    X, n_features = X.astype(np.float64, copy=False), X.shape[1]
    member = np.eye(codes.max() + 1)[codes] * weight[:, None]
    member = member[:, member.any(axis=0)]
    mass = member.sum(axis=0)
    means = (member.T @ X) / mass[:, None]
    total, centre = (X.T * weight) @ X, weight @ X / weight.sum()
    within = (total - (means.T * mass) @ means) / weight.sum()
    values, axes = np.linalg.eigh(within)  # for few columns much quicker than scipy's
    ridge = _RIDGE * max(values.mean(), np.finfo(np.float64).eps)
    whiten = axes / np.sqrt(np.maximum(values, 0) + ridge)
    spread = np.sqrt(mass / mass.sum())[:, None] * ((means - centre) @ whiten)
    between = spread.T @ spread
    # What parts no classes would come in any order: a trace of its variance puts it in one.
    trace = 1e-6 * (1 + np.trace(between)) / max(values[-1], np.finfo(np.float64).eps)
    turn = np.linalg.eigh(between + np.diag(trace * values))[1]
    return with_positive_peak((whiten @ turn[:, ::-1]).T[:n_components]) / np.sqrt(n_features)
