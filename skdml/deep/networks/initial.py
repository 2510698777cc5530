"""The linear map that training starts from: Euclid, or with less weight on what classes vary in.

Before training all classes are strangers, and each can be left out in turn to tell which start
finds it best. A choice among a few maps is no training, and so all of them may judge.
"""

import numpy as np

from skdml.deep._statistics import lower_bound, rank_within_class
from skdml.deep.data.datasets import ArrayDataset
from skdml.deep.scores import RetrievalScore

# Shares of the largest variance within classes that are added to all of them; infinitely much is
# Euclid, nothing would be the Mahalanobis distance of that scatter.
SHRINKAGES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)


EUCLID = (0, np.inf)  # view and shrinkage


N_FOLDS = 5


# The start is judged from at most so many points, and chosen by at most so many of them.
MAX_START_POINTS = 2048


MAX_SCORED_POINTS = 1000


def within_class_whitening(X, codes, shrinkage):
    r"""Return the map that makes the directions in which classes vary count less.

    .. math:: A = (S_w / \sigma_1(S_w) + \lambda I)^{-1/2}, \quad
        S_w = \frac1n \sum_i (x_i - \mu_{c_i}) (x_i - \mu_{c_i})^T

    where sigma_1 is the largest eigenvalue. It is the whitening of Relevant Component Analysis,
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
        A, symmetric; the identity where no class varies.

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


def within_class_scatter(X, codes):
    r"""Return how much classes vary, in which directions.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Points.
    codes : ndarray of int, shape (n,)
        The class of each point.

    Returns
    -------
    shares : ndarray of float64, shape (d,)
        Eigenvalues of the scatter S_w, as shares of the largest, >= 0; zeros where no class varies.
    axes : ndarray of float64, shape (d, d)
        Its eigenvectors, as columns.
    """
    sums = np.zeros((codes.max() + 1, X.shape[1]))
    np.add.at(sums, codes, X)
    rest = X - (sums / np.maximum(np.bincount(codes), 1)[:, None])[codes]
    variances, axes = np.linalg.eigh(rest.T @ rest / len(X))
    return np.maximum(variances, 0) / (variances[-1] if variances[-1] > 0 else 1), axes


def choose_start(views, codes, rng, groups=None):
    """Choose the view and the shrinkage that find left-out classes (or, if few, rows) best.

    Parameters
    ----------
    views : list of ndarray of shape (n, d_view)
        Points as they are seen by the first view, which is Euclid, and by others.
    codes : ndarray of int, shape (n,)
        The class of each point.
    rng : numpy.random.Generator
        Draws the folds.
    groups : ndarray of int, shape (n,), default=None
        The group of each point, as in `leave_out_folds`.

    Returns
    -------
    view : int
        Its place in `views`.
    shrinkage : float
        One of `SHRINKAGES`, or infinity, which leaves the view as it is. It is the first view,
        and infinity, where no other choice surely gains.
    """
    codes = np.unique(codes[:MAX_SCORED_POINTS], return_inverse=True)[1]
    views = [span_coordinates(X[:MAX_SCORED_POINTS]) for X in views]
    groups = None if groups is None else groups[:MAX_SCORED_POINTS]
    values = {}
    for train, queries, strangers in leave_out_folds(codes, rng, groups):
        options = {"strangers": strangers, "distance": "euclidean", "scoring": "map_at_r"}
        for view, X in enumerate(views):
            shares, axes = within_class_scatter(X[train], codes[train])
            # Along these axes each map is a scale for each, and distances are the same.
            score = RetrievalScore(ArrayDataset(X @ axes, codes), codes, queries, train, **options)
            scales = {shrinkage: 1 / np.sqrt(shares + shrinkage) for shrinkage in SHRINKAGES}
            for shrinkage, scale in {np.inf: 1.0, **scales}.items():
                found = score(lambda points, scale=scale: points * scale)
                values.setdefault((view, shrinkage), []).append(found)
    values = {choice: np.hstack(folds) for choice, folds in values.items()}
    sure = {choice: lower_bound(found - values[EUCLID]) for choice, found in values.items()}
    return max(sure, key=sure.get, default=EUCLID)


def span_coordinates(X):
    """Return points with the same products and distances in no more columns than there are points.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Points.

    Returns
    -------
    ndarray of shape (n, min(n, d))
        X, or where there are fewer points than columns their coordinates in the span of all.
    """
    if X.shape[1] <= len(X):
        return X
    U, lengths, _ = np.linalg.svd(X, full_matrices=False)
    return U * lengths


def leave_out_folds(codes, rng, groups=None):
    """Yield folds of whole classes, at least two in each; of rows, where classes are too few.

    Where rows have groups, these are left out as a whole, as they are held out in training.

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
        Rows to learn from, and rows left out.
    strangers : bool
        Whether these are of classes of their own.
    """
    repeated = rng.permutation(np.flatnonzero(np.bincount(codes) >= 2))
    n_folds = min(N_FOLDS, len(repeated) // 2)
    if n_folds >= 2:
        for classes in np.array_split(repeated, n_folds):
            held = np.isin(codes, classes)
            yield np.flatnonzero(~held), np.flatnonzero(held), True
        return
    if groups is None:
        order = rng.permutation(len(codes))
        fold = np.empty(len(codes), int)
        fold[order] = rank_within_class(codes[order]) % N_FOLDS
    else:
        names, numbers = np.unique(groups, return_inverse=True)
        fold = rng.permutation(len(names))[numbers] % N_FOLDS
    for one in range(N_FOLDS):
        train, queries = np.flatnonzero(fold != one), np.flatnonzero(fold == one)
        queries = queries[np.isin(codes[queries], codes[train])]
        if len(queries):
            yield train, queries, False
