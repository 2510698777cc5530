"""Large margin nearest neighbours: a row's target neighbours nearer than any stranger, by 1."""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import minimize_scalar
from scipy.sparse import issparse
from sklearn.utils import check_random_state
from sklearn.utils.extmath import safe_sparse_dot

from skdml.base import unchanged_on_error
from skdml.constraints import encode_labels
from skdml.linear._init import initial_components
from skdml.linear._moments import centre, scatter_of
from skdml.linear._neighbors import nearest_other_class, nearest_same_class
from skdml.linear._pairs import PairGraph
from skdml.linear._points import Points, distinct_rows
from skdml.linear._solvers import minimize_lbfgs, warn_not_converged
from skdml.linear.base import LinearMetricLearner, no_same_class_message

# Steps of L-BFGS before the impostors are searched for again.
_STEPS = 20
# For directions without any spread within classes.
_LEAST_SHRINKAGE = 1e-3


class Problem(NamedTuple):
    """The points and who is a target neighbour of whom.

    Attributes
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    weight : ndarray of shape (n_samples,)
        w, how many times each row counts.
    targets : PairGraph
        Pairs (i, j), n_targets for each row i.
    share : ndarray of shape (n_samples, n_targets)
        w_i times the number of times that j counts among the target neighbours of i.
    mu : float
        Weight of the push, in (0, 1).
    n_impostors : int
        How many strangers of each row count at most.
    """

    X: np.ndarray
    codes: np.ndarray
    weight: np.ndarray
    targets: PairGraph
    share: np.ndarray
    mu: float
    n_impostors: int

    def embed(self, L):
        """X Lᵀ, in the dtype of X."""
        return safe_sparse_dot(self.X, L.T.astype(self.X.dtype), dense_output=True)

    def target_distances(self, Z):
        """Squared distances to the target neighbours, of shape (n_samples, n_targets)."""
        return self.targets.squared_distances(Z).reshape(self.share.shape)


class Impostors(NamedTuple):
    """Strangers of each row.

    Attributes
    ----------
    pairs : PairGraph
        Pairs (i, l) of a row and a stranger.
    share : ndarray of shape (n_pairs,)
        How many times the stranger counts: its weight, or what is left of the bound.
    """

    pairs: PairGraph
    share: np.ndarray


def target_neighbors(Z, codes, weight, n_neighbors):
    """Target neighbours of each row: the nearest others of its class.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    weight : ndarray of shape (n_samples,)
        A row of weight 2 is two rows: each the nearest neighbour of the other, and two neighbours
        of others. A fraction counts as a row when neighbours are counted.
    n_neighbors : int
        How many.

    Returns
    -------
    second : ndarray of int, shape (n_samples, n_targets)
        Rows; the row itself where there are none left.
    count : ndarray of shape (n_samples, n_targets)
        How many times each counts.
    """
    rows = np.arange(len(Z))[:, None]
    second = np.hstack([rows, nearest_same_class(Z, codes, n_neighbors)])
    places = np.where(second < 0, 0, np.ceil(weight)[second])
    places[:, 0] -= 1
    count = _first_places(places, n_neighbors) * (weight / np.ceil(weight))[second]
    used = count.any(axis=0)
    return np.where(second < 0, rows, second)[:, used], count[:, used]


def reach(problem, near):
    """Squared distance of the farthest target neighbour, and 1; -1 for a row that has none.

    Parameters
    ----------
    problem : Problem
        The points.
    near : ndarray of shape (n_samples, n_targets)
        Squared distances to the target neighbours.

    Returns
    -------
    ndarray of shape (n_samples,)
        Strangers closer than that violate a margin.
    """
    return np.where(problem.share > 0, 1 + near, -1).max(axis=1)


def find_impostors(problem, Z):
    """Strangers closer to a row than its farthest target neighbour and the margin of 1.

    Parameters
    ----------
    problem : Problem
        The points.
    Z : ndarray of shape (n_samples, n_components)
        The points embedded.

    Returns
    -------
    Impostors
        The nearest of them, up to the bound.
    """
    square = reach(problem, problem.target_distances(Z))
    radius = np.where(square < 0, -1, np.sqrt(abs(square)))
    first, second = nearest_other_class(Z, problem.codes, problem.n_impostors, radius)
    pairs = PairGraph(first, second, len(Z))
    places = np.ceil(problem.weight)[second]
    before = places.cumsum() - places
    before -= before[pairs.starts[first]]
    places = np.clip(problem.n_impostors - before, 0, places)
    kept = np.flatnonzero(places)
    share = places * (problem.weight / np.ceil(problem.weight))[second]
    return Impostors(pairs.subset(kept), share[kept])


def _first_places(places, n):
    """Of the places in each row the first n."""
    return np.clip(n - (places.cumsum(axis=1) - places), 0, places)


def unite(a, b):
    """All impostors of two sets; of those in both the larger share."""
    n = a.pairs.n_samples
    keys = np.concatenate([s.pairs.first * n + s.pairs.second for s in (a, b)])
    keys, place = np.unique(keys, return_inverse=True)
    share = np.zeros(len(keys))
    np.maximum.at(share, place, np.concatenate([a.share, b.share]))
    return Impostors(PairGraph(keys // n, keys % n, n), share)


def lmnn_loss(L, problem, impostors):
    """Objective of LMNN over given impostors, and its gradient.

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        The map.
    problem : Problem
        The points.
    impostors : Impostors
        The strangers that count.

    Returns
    -------
    loss : float
        The mean over all (i, j) of (1 - mu) d_ij² + mu Σ_l max(0, 1 + d_ij² - d_il²)².
    gradient : ndarray of shape (n_components, n_features)
        Its gradient by L.
    """
    _, _, _, targets, share, mu, _ = problem
    pairs, total = impostors.pairs, share.sum()
    Z = problem.embed(L)
    near, far = problem.target_distances(Z), pairs.squared_distances(Z)
    # Few of the pairs violate a margin, once some steps are made.
    violating = np.flatnonzero(far < reach(problem, near)[pairs.first])
    pairs, far = pairs.subset(violating), far[violating]
    counts, push = mu * impostors.share[violating], np.zeros(len(far))
    loss, pull = (1 - mu) * np.vdot(share, near), (1 - mu) * share
    for j in range(share.shape[1]):
        violation = np.maximum(1 + near[pairs.first, j] - far, 0)
        weighted = share[pairs.first, j] * counts * violation
        loss += weighted @ violation
        pull[:, j] += 2 * np.bincount(pairs.first, weighted, len(Z))
        push -= 2 * weighted
    G = targets.laplacian_product(pull.ravel(), Z) + pairs.laplacian_product(push, Z)
    gradient = safe_sparse_dot(problem.X.T, G, dense_output=True).T
    return loss / total, 2 * gradient.astype(np.float64) / total


def half_whitened_start(X, codes, weight):
    """L halfway between Euclid's and the one by which the spread within classes is a sphere.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    weight : ndarray of shape (n_samples,)
        Weights of the rows.

    Returns
    -------
    ndarray of float64, shape (n_features, n_features)
        The symmetric L with LᵀL = S^(-1/2), the geometric mean of I and S⁻¹. S is the covariance
        within classes, shrunk to a multiple of I as Ledoit & Wolf (2004) do, so that few rows
        leave L near Euclid's.
    """
    rows, _ = centre(X.astype(np.float64), codes, weight)
    n, n_features = weight.sum(), X.shape[1]
    S = scatter_of(rows, weight) / n
    mean, square = S.trace() / n_features, np.vdot(S, S)
    if mean == 0:
        return np.eye(n_features)
    error = (weight @ np.einsum("ij,ij->i", rows, rows) ** 2 / n - square) / n
    spread = max(square - n_features * mean**2, np.finfo(np.float64).eps * square)
    shrinkage = np.clip(error / spread, _LEAST_SHRINKAGE, 1)
    values, axes = eigh((1 - shrinkage) * S + shrinkage * mean * np.eye(n_features))
    return axes * values**-0.25 @ axes.T


def best_scale(L, problem):
    """Find the factor of L for which the objective is least, by the nearest strangers."""
    Z = problem.embed(L)
    near = problem.target_distances(Z)
    pull = np.vdot(problem.share, near)
    if pull == 0:
        return 1.0
    pairs = PairGraph(*nearest_other_class(Z, problem.codes, problem.n_impostors), len(Z))
    gap = near[pairs.first] - pairs.squared_distances(Z)[:, None]
    weight = problem.share[pairs.first] * problem.weight[pairs.second][:, None]
    unit = 2 * problem.share.sum() / pull

    def loss(log_factor):
        factor = unit * np.exp(log_factor)
        violation = np.maximum(1 + factor * gap, 0)
        push = np.einsum("ij,ij,ij", weight, violation, violation)
        return (1 - problem.mu) * factor * pull + problem.mu * push

    found = minimize_scalar(loss, bounds=(-10, 10), method="bounded", options={"xatol": 0.01})
    return np.sqrt(unit * np.exp(found.x))


def solve(problem, L, max_iter, tol, verbose=0):
    """Minimise the objective in rounds, each over the impostors known so far.

    Parameters
    ----------
    problem : Problem
        The points.
    L : ndarray of shape (n_components, n_features)
        Where to begin.
    max_iter : int
        Rounds at most.
    tol : float
        The objective has converged when a round lowers it, or promises to, by less than this
        share of it.
    verbose : int, default=0
        1 prints a line for each round.

    Returns
    -------
    L : ndarray of shape (n_components, n_features)
        The best map seen.
    loss_curve : ndarray of shape (n_iter + 1,)
        The objective of the best map so far, at the start and after each round.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` rounds did not suffice.
    """
    impostors = find_impostors(problem, problem.embed(L))
    curve = [lmnn_loss(L, problem, impostors)[0]]
    for _ in range(max_iter):
        trial, promise = _descend(problem, impostors, L, tol)
        Z = problem.embed(trial)
        found = find_impostors(problem, Z)
        value, best = lmnn_loss(trial, problem, found)[0], curve[-1]
        curve.append(min(value, best))
        if verbose:
            print(f"[LMNN] round {len(curve) - 1}: {curve[-1]:.6g}", flush=True)
        if value < best:
            # Strangers that have been left behind count for nothing, but are not to come back.
            L, gain, stuck = trial, best - value, False
            impostors = unite(found, _beyond_reach(problem, impostors, Z))
        else:
            known, impostors, gain = impostors, unite(impostors, found), np.inf
            stuck = len(impostors.pairs) == len(known.pairs)
        # Where classes come to lie in a point each, the objective ends at 0: no share of that.
        if stuck or min(promise, gain) <= tol * max(curve[-1], tol * curve[0]):
            break
    else:
        warn_not_converged("LMNN", max_iter)
    return L, np.array(curve)


def _beyond_reach(problem, impostors, Z):
    """Pick the strangers that violate no margin."""
    pairs, share = impostors
    square = reach(problem, problem.target_distances(Z))
    kept = np.flatnonzero(pairs.squared_distances(Z) > square[pairs.first])
    return Impostors(pairs.subset(kept), share[kept])


def _descend(problem, impostors, L, tol):
    """Take some steps over given impostors: L, and by how much the objective over them fell."""
    steps = []

    def enough(L, value):
        steps.append(value)
        return len(steps) == _STEPS

    L, curve, _ = minimize_lbfgs(
        lambda L: lmnn_loss(L, problem, impostors),
        L,
        max_iter=_STEPS + 1,
        tol=tol / 10,
        name="LMNN",
        monitor=enough,
    )
    return L, curve[0] - curve[-1]


class LMNN(LinearMetricLearner):
    """Large margin nearest neighbours.

    Each row has target neighbours: the nearest others of its class, in the metric that the search
    begins with. They are drawn near, and strangers (rows of other classes) pushed farther away
    than they are, by a margin (Weinberger, Blitzer & Saul [1]_, Weinberger & Saul [2]_). With
    d_ij = |L x_i - L x_j| the objective is the mean over all rows i and their targets j of

        (1 - mu) d_ij² + mu Σ_l max(0, 1 + d_ij² - d_il²)²

    where l are the strangers of i, the nearest `n_impostors` of them. That is equation (13) of
    [2]_ with its hinge squared, which makes the objective smooth.

    Parameters
    ----------
    n_components : int, default=None
        Rows of L, in [1, n_features]. None for n_features.
    n_neighbors : int, default=3
        Target neighbours of each row, fewer in a class that has not so many other rows.
    mu : float, default=0.5
        Weight of the push against the pull, in (0, 1).
    n_impostors : int, default=20
        How many strangers of a row count at most, the nearest ones. It bounds time and memory.
    init : {"auto", "pca", "lda", "identity", "random"} or array-like of shape \
            (n_components, n_features), default="auto"
        L to begin with; it decides the target neighbours, too. "auto" keeps all features halfway
        between "identity" and the whitening of the spread within classes (the latter shrunk,
        M the geometric mean of both); with fewer components it is "lda" if there are so many
        discriminant axes, else "pca". Sparse X begins with "identity" or "pca". All but an array
        are then scaled to where the objective is least.
    max_iter : int, default=50
        Rounds at most. Each searches for impostors once and then takes up to 20 steps of L-BFGS.
    tol : float, default=1e-2
        The rounds end when one lowers the objective by less than this share of it, or does so over
        the impostors it knows of.
    warm_start : bool, default=False
        Whether `fit` begins with the L of an earlier fit, and with its nearest mates for target
        neighbours: the passes of [2]_. They pay with many rows and overfit few.
    random_state : int, RandomState instance or None, default=None
        Draws ``init="random"``; nothing else is drawn.
    verbose : int, default=0
        1 prints a line for each round.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L, for points in the unit they came in. float32 if X is, else float64.
    n_iter_ : int
        Rounds.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        The objective of the best L so far, at the start and after each round; it never rises.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    sklearn.neighbors.NeighborhoodComponentsAnalysis : Softens the neighbours instead.

    Notes
    -----
    Cost: O(n (n_neighbors + n_impostors + n_features) n_components) time for each of some 20 steps
    of a round, and a search for neighbours for each round, which is O(n² n_components) among many
    columns; O(n (n_features + n_neighbors + n_impostors)) memory.

    Equal rows are merged and counted, and rows are sorted: their order makes no difference, and
    neither does the unit of X.

    References
    ----------
    .. [1] K. Q. Weinberger, J. Blitzer, L. K. Saul, "Distance metric learning for large margin
       nearest neighbor classification", NIPS 2005.
    .. [2] K. Q. Weinberger, L. K. Saul, "Distance metric learning for large margin nearest
       neighbor classification", JMLR 10, 207-244, 2009.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skdml import LMNN
    >>> X, y = load_wine(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), LMNN(), KNeighborsClassifier(3))
    >>> bool(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.95)
    True
    """

    _sparse = True

    def __init__(
        self,
        n_components=None,
        *,
        n_neighbors=3,
        mu=0.5,
        n_impostors=20,
        init="auto",
        max_iter=50,
        tol=1e-2,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.n_neighbors = n_neighbors
        self.mu = mu
        self.n_impostors = n_impostors
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None, sample_weight=None):
        """Learn the distance.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Points.
        y : array-like of shape (n_samples,)
            Class labels, of any kind.
        sample_weight : array-like of shape (n_samples,), default=None
            How many times each row counts, as a point, as a target neighbour and as a stranger:
            weight 2 is the same as a row given twice. When neighbours are counted a fraction
            counts as a whole row.

        Returns
        -------
        self : LMNN
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D or not finite, if y is missing, continuous or of one class, if no
            class has two rows, or if a parameter is out of range.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` rounds did not suffice.
        """
        with unchanged_on_error(self):
            self._check_ranges(
                mu=(Real, False, 0, 1, "neither"), n_impostors=(Integral, False, 1, None, "left")
            )
            X, codes, _ = self._read_labelled(X, y)
            X, codes, weight = distinct_rows(X, codes, self._read_weight(sample_weight, X))
            encode_labels(codes)  # two classes are needed with a weight, too
            points = Points(X, codes, weight).centred_and_scaled()
            init = self._init_or_last_fit()
            start = self._start(init, points)
            problem = self._make_problem(points, start)
            start = start * best_scale(start, problem) if isinstance(init, str) else start
            L, self.loss_curve_ = solve(problem, start, self.max_iter, self.tol, self.verbose)
            self.components_ = (L / points.scale).astype(X.dtype)
            self.n_iter_ = len(self.loss_curve_) - 1
        return self

    def _start(self, init, points):
        X, codes, weight, _ = points
        L = initial_components(
            init, self.n_components, points, check_random_state(self.random_state)
        )
        if isinstance(init, str) and init == "auto" and len(L) == X.shape[1] and not issparse(X):
            return half_whitened_start(X, codes, weight)
        return L

    def _make_problem(self, points, start):
        X, codes, weight, _ = points
        Z = safe_sparse_dot(X, start.T.astype(X.dtype), dense_output=True)
        second, count = target_neighbors(Z, codes, weight, self.n_neighbors)
        if not count.any():
            raise ValueError(no_same_class_message(codes))
        n_samples, n_targets = second.shape
        targets = PairGraph(np.repeat(np.arange(n_samples), n_targets), second.ravel(), n_samples)
        share = weight[:, None] * count
        return Problem(X, codes, weight, targets, share, self.mu, self.n_impostors)
