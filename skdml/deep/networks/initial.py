"""The linear map that the default networks start from.

The start is the Euclidean distance, or a whitening that reduces directions of large variance within
classes. The choice is made by cross-validation before training: some classes are left out in turn,
each candidate map is computed from the other classes, and scored on the retrieval of the classes
left out. A candidate replaces the Euclidean distance only if it is clearly better.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from skdml.deep._statistics import rank_within_class
from skdml.deep.scores import RetrievalScore, lower_bound

# The amount added to all variances within classes, as shares of the largest. An infinite shrinkage
# gives the Euclidean distance, and 0 would give the Mahalanobis distance of the scatter.
SHRINKAGES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)

EUCLID = (0, np.inf)  # representation and shrinkage

N_FOLDS = 5

# The start is computed from at most this many points ...
MAX_START_POINTS = 2048

# ... and chosen by the retrieval of at most this many of them.
MAX_SCORED_POINTS = 1000


def within_class_whitening(
    X: NDArray[np.floating], codes: NDArray[np.integer], shrinkage: float
) -> NDArray[np.float64]:
    r"""Return the linear map that reduces directions of large variance within classes.

    .. math:: A = (S_w / \sigma_1(S_w) + \lambda I)^{-1/2}, \quad
        S_w = \frac1n \sum_i (x_i - \mu_{c_i}) (x_i - \mu_{c_i})^T

    Here sigma_1 is the largest eigenvalue. The map is the whitening of Relevant Component Analysis
    with shrinkage.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Points.
    codes : ndarray of int, shape (n,)
        The class of each point.
    shrinkage : float
        lambda, > 0, in units of the largest variance within classes.

    Returns
    -------
    ndarray of float64, shape (d, d)
        A, symmetric. It is the identity if no class varies.

    References
    ----------
    A. Bar-Hillel et al., "Learning Distance Functions using Equivalence Relations", ICML 2003.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.networks.initial import within_class_whitening
    >>> X = np.array([[0.0, -4.0], [0.0, 4.0], [5.0, -4.0], [5.0, 4.0]])
    >>> within_class_whitening(X, np.array([0, 0, 1, 1]), shrinkage=0.25).round(3)
    array([[2.   , 0.   ],
           [0.   , 0.894]])
    """
    shares, axes = within_class_scatter(X, codes)
    if not shares.any():
        return np.eye(X.shape[1])
    return axes / np.sqrt(shares + shrinkage) @ axes.T


def within_class_scatter(
    X: NDArray[np.floating], codes: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Return the eigenvalues and eigenvectors of the scatter within classes, S_w.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Points.
    codes : ndarray of int, shape (n,)
        The class of each point.

    Returns
    -------
    shares : ndarray of float64, shape (d,)
        The eigenvalues of S_w divided by the largest, >= 0. They are zero if no class varies.
    axes : ndarray of float64, shape (d, d)
        The eigenvectors, as columns.
    """
    sums = np.zeros((codes.max() + 1, X.shape[1]))
    np.add.at(sums, codes, X)
    residuals = X - (sums / np.maximum(np.bincount(codes), 1)[:, None])[codes]
    variances, axes = np.linalg.eigh(residuals.T @ residuals / len(X))
    return np.maximum(variances, 0) / (variances[-1] if variances[-1] > 0 else 1), axes


def choose_start(
    representations: list[NDArray[np.floating]],
    codes: NDArray[np.integer],
    rng: np.random.Generator,
    groups: NDArray[np.integer] | None = None,
) -> tuple[int, float]:
    """Choose the representation and the shrinkage with the best retrieval of left-out classes.

    If there are too few classes, rows are left out instead.

    Parameters
    ----------
    representations : list of ndarray of shape (n, d_i)
        The same points in different features, for example pixels and edges. The first one is the
        default.
    codes : ndarray of int, shape (n,)
        The class of each point.
    rng : numpy.random.Generator
        Draws the folds.
    groups : ndarray of int, shape (n,), default=None
        The group of each point, as in `leave_out_folds`.

    Returns
    -------
    representation : int
        The index in `representations`.
    shrinkage : float
        One of `SHRINKAGES`, or infinity for no whitening. The result is `EUCLID`, which is index 0
        and infinity, unless another choice is clearly better: the lower confidence bound of its
        gain must be positive.
    """
    codes = np.unique(codes[:MAX_SCORED_POINTS], return_inverse=True)[1]
    representations = [span_coordinates(X[:MAX_SCORED_POINTS]) for X in representations]
    groups = None if groups is None else groups[:MAX_SCORED_POINTS]
    scores: dict[tuple[int, float], list[NDArray[np.floating]]] = {}
    for fold in leave_out_folds(codes, rng, groups):
        for index, X in enumerate(representations):
            for shrinkage, values in _score_shrinkages(X, codes, *fold).items():
                scores.setdefault((index, shrinkage), []).append(values)
    values_of = {choice: np.hstack(folds) for choice, folds in scores.items()}
    bounds = {
        choice: lower_bound(values - values_of[EUCLID]) for choice, values in values_of.items()
    }
    return max(bounds, key=bounds.__getitem__, default=EUCLID)


def _score_shrinkages(
    X: NDArray[np.floating],
    codes: NDArray[np.integer],
    train: NDArray[np.integer],
    queries: NDArray[np.integer],
    unseen_classes: bool,
) -> dict[float, NDArray[np.floating]]:
    """Return the retrieval scores of one fold for no whitening and for each shrinkage."""
    shares, axes = within_class_scatter(X[train], codes[train])
    # In the basis of the eigenvectors each map only scales the coordinates.
    Z = X @ axes
    score = RetrievalScore(
        Z[queries],
        codes[queries],
        Z[train],
        codes[train],
        unseen_classes=unseen_classes,
        distance="euclidean",
        scoring="map_at_r",
        name="map_at_r",
    )
    scales = {shrinkage: 1 / np.sqrt(shares + shrinkage) for shrinkage in SHRINKAGES}
    return {
        shrinkage: score(partial(np.multiply, scale))
        for shrinkage, scale in {np.inf: 1.0, **scales}.items()
    }


def span_coordinates(X: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return points with the same inner products and distances in at most n columns.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Points.

    Returns
    -------
    ndarray of shape (n, min(n, d))
        X itself if d <= n. Otherwise the coordinates of the points in their own span.
    """
    if X.shape[1] <= len(X):
        return X
    U, lengths, _ = np.linalg.svd(X, full_matrices=False)
    return U * lengths


def leave_out_folds(
    codes: NDArray[np.integer],
    rng: np.random.Generator,
    groups: NDArray[np.integer] | None = None,
) -> Iterator[tuple[NDArray[np.integer], NDArray[np.integer], bool]]:
    """Yield folds for cross-validation: whole classes, or rows if there are too few classes.

    Each fold leaves out at least two classes. If rows are left out and have groups, whole groups
    are left out, as for early stopping.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each row.
    rng : numpy.random.Generator
        Draws the folds.
    groups : ndarray of int, shape (n,), default=None
        The group of each row.

    Yields
    ------
    train, queries : ndarray of int
        The rows to learn from, and the rows left out.
    unseen_classes : bool
        Whether whole classes are left out.
    """
    repeated = rng.permutation(np.flatnonzero(np.bincount(codes) >= 2))
    n_folds = min(N_FOLDS, len(repeated) // 2)
    if n_folds >= 2:
        for classes in np.array_split(repeated, n_folds):
            is_left_out = np.isin(codes, classes)
            yield np.flatnonzero(~is_left_out), np.flatnonzero(is_left_out), True
        return
    if groups is None:
        order = rng.permutation(len(codes))
        folds = np.empty(len(codes), int)
        folds[order] = rank_within_class(codes[order]) % N_FOLDS
    else:
        names, numbers = np.unique(groups, return_inverse=True)
        folds = rng.permutation(len(names))[numbers] % N_FOLDS
    for fold in range(N_FOLDS):
        train, queries = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        queries = queries[np.isin(codes[queries], codes[train])]
        if len(queries):
            yield train, queries, False
