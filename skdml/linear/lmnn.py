"""Large margin nearest neighbours: pulls same-class neighbours in, pushes other classes away."""

from numbers import Integral, Real
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
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
from skdml.linear._points import Matrix, Points, distinct_rows
from skdml.linear._solvers import minimize_lbfgs, warn_not_converged
from skdml.linear.base import LinearMetricLearner, no_same_class_message

# Steps of L-BFGS between two searches for impostors.
_STEPS = 20
# Keeps the whitening finite along directions without spread within classes.
_LEAST_SHRINKAGE = 1e-3


class Problem(NamedTuple):
    """The points, their target neighbours, and the two parameters of the objective.

    Attributes
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    weight : ndarray of shape (n_samples,)
        w, how many times each row counts.
    targets : PairGraph
        Pairs (i, j) of a row and a target neighbour, n_targets for each row i.
    target_weight : ndarray of shape (n_samples, n_targets)
        w_i times the number of times that j counts among the target neighbours of i.
    mu : float
        Weight of the push, in (0, 1).
    n_impostors : int
        Maximum number of impostors of each row.
    """

    X: Matrix
    codes: NDArray[np.integer]
    weight: NDArray[np.floating]
    targets: PairGraph
    target_weight: NDArray[np.floating]
    mu: float
    n_impostors: int

    def embed(self, L: NDArray[np.floating]) -> NDArray[np.floating]:
        """X Lᵀ, in the dtype of X."""
        return safe_sparse_dot(self.X, L.T.astype(self.X.dtype), dense_output=True)

    def target_distances(self, Z: NDArray[np.floating]) -> NDArray[np.floating]:
        """Squared distances to the target neighbours, of shape (n_samples, n_targets)."""
        return self.targets.squared_distances(Z).reshape(self.target_weight.shape)


class Impostors(NamedTuple):
    """Rows of other classes near each row.

    Attributes
    ----------
    pairs : PairGraph
        Pairs (i, l) of a row and an impostor.
    weight : ndarray of shape (n_pairs,)
        How many times the impostor counts: its sample weight, or what `n_impostors` leaves of it.
    """

    pairs: PairGraph
    weight: NDArray[np.floating]


def target_neighbors(
    Z: NDArray[np.floating],
    codes: NDArray[np.integer],
    weight: NDArray[np.floating],
    n_neighbors: int,
) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
    """Target neighbours of each row: the nearest other rows of its class.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    weight : ndarray of shape (n_samples,)
        A row of weight 2 counts as two equal rows. Each is the nearest neighbour of the other,
        and both are neighbours of other rows. Fractions are rounded up when neighbours are
        counted.
    n_neighbors : int
        Number of target neighbours.

    Returns
    -------
    second : ndarray of int, shape (n_samples, n_targets)
        Rows, padded with the row itself.
    count : ndarray of shape (n_samples, n_targets)
        How many times each counts; 0 for padding.
    """
    rows = np.arange(len(Z))[:, None]
    second = np.hstack([rows, nearest_same_class(Z, codes, n_neighbors)])
    copies = np.where(second < 0, 0, np.ceil(weight)[second])
    copies[:, 0] -= 1
    count = _take_first(copies, n_neighbors) * (weight / np.ceil(weight))[second]
    used = count.any(axis=0)
    return np.where(second < 0, rows, second)[:, used], count[:, used]


def squared_margin_radius(problem: Problem, near: NDArray[np.floating]) -> NDArray[np.floating]:
    """Squared distance of the farthest target neighbour, plus 1; -1 for a row without one.

    Parameters
    ----------
    problem : Problem
        The points.
    near : ndarray of shape (n_samples, n_targets)
        Squared distances to the target neighbours.

    Returns
    -------
    ndarray of shape (n_samples,)
        Rows of other classes that are closer violate the margin.
    """
    return np.where(problem.target_weight > 0, 1 + near, -1).max(axis=1)


def find_impostors(problem: Problem, Z: NDArray[np.floating]) -> Impostors:
    """Rows of other classes that are closer than the farthest target neighbour plus the margin.

    Parameters
    ----------
    problem : Problem
        The points.
    Z : ndarray of shape (n_samples, n_components)
        The embedded points.

    Returns
    -------
    Impostors
        The nearest of them, at most `n_impostors` for each row.
    """
    square = squared_margin_radius(problem, problem.target_distances(Z))
    radius = np.where(square < 0, -1, np.sqrt(abs(square)))
    first, second = nearest_other_class(Z, problem.codes, problem.n_impostors, radius)
    pairs = PairGraph(first, second, len(Z))
    copies = np.ceil(problem.weight)[second]
    before = copies.cumsum() - copies
    before -= before[pairs.starts[first]]
    copies = np.clip(problem.n_impostors - before, 0, copies)
    kept = np.flatnonzero(copies)
    weight = copies * (problem.weight / np.ceil(problem.weight))[second]
    return Impostors(pairs.subset(kept), weight[kept])


def _take_first(copies: NDArray[np.floating], n: int) -> NDArray[np.floating]:
    """Take the first n copies in each row: how many of each entry."""
    return np.clip(n - (copies.cumsum(axis=1) - copies), 0, copies)


def merge_impostors(a: Impostors, b: Impostors) -> Impostors:
    """All impostors of two sets. One that is in both has the larger weight."""
    n = a.pairs.n_samples
    keys = np.concatenate([s.pairs.first * n + s.pairs.second for s in (a, b)])
    keys, position = np.unique(keys, return_inverse=True)
    weight = np.zeros(len(keys))
    np.maximum.at(weight, position, np.concatenate([a.weight, b.weight]))
    return Impostors(PairGraph(keys // n, keys % n, n), weight)


def lmnn_loss(
    L: NDArray[np.floating], problem: Problem, impostors: Impostors
) -> tuple[float, NDArray[np.floating]]:
    """Objective of LMNN over given impostors, and its gradient.

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        The map.
    problem : Problem
        The points.
    impostors : Impostors
        The impostors l of each row i.

    Returns
    -------
    loss : float
        The mean over all rows i and targets j of
        (1 - mu) d_ij² + mu Σ_l max(0, 1 + d_ij² - d_il²)².
    gradient : ndarray of shape (n_components, n_features)
        Its gradient by L.
    """
    share, mu = problem.target_weight, problem.mu
    pairs, total = impostors.pairs, share.sum()
    Z = problem.embed(L)
    near, far = problem.target_distances(Z), pairs.squared_distances(Z)
    # After some steps few of the pairs violate the margin.
    violating = np.flatnonzero(far < squared_margin_radius(problem, near)[pairs.first])
    pairs, far = pairs.subset(violating), far[violating]
    counts, push = mu * impostors.weight[violating], np.zeros(len(far))
    loss, pull = (1 - mu) * np.vdot(share, near), (1 - mu) * share
    for j in range(share.shape[1]):
        violation = np.maximum(1 + near[pairs.first, j] - far, 0)
        weighted = share[pairs.first, j] * counts * violation
        loss += weighted @ violation
        pull[:, j] += 2 * np.bincount(pairs.first, weighted, len(Z))
        push -= 2 * weighted
    G = problem.targets.laplacian_product(pull.ravel(), Z) + pairs.laplacian_product(push, Z)
    gradient = safe_sparse_dot(problem.X.T, G, dense_output=True).T
    return loss / total, 2 * gradient.astype(np.float64) / total


def half_whitened_start(
    X: NDArray[np.floating], codes: NDArray[np.integer], weight: NDArray[np.floating]
) -> NDArray[np.floating]:
    """L halfway between the identity and the whitening of the covariance within classes.

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
        within classes, shrunk to a multiple of I as by Ledoit & Wolf (2004). With few rows L is
        then near a multiple of I.
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


def best_scale(L: NDArray[np.floating], problem: Problem) -> float:
    """Find the factor of L that minimises the objective, over the nearest rows of other classes."""
    Z = problem.embed(L)
    near = problem.target_distances(Z)
    pull = np.vdot(problem.target_weight, near)
    if pull == 0:
        return 1.0
    pairs = PairGraph(*nearest_other_class(Z, problem.codes, problem.n_impostors), len(Z))
    gap = near[pairs.first] - pairs.squared_distances(Z)[:, None]
    weight = problem.target_weight[pairs.first] * problem.weight[pairs.second][:, None]
    unit = 2 * problem.target_weight.sum() / pull

    def loss(log_factor: float) -> float:
        factor = unit * np.exp(log_factor)
        violation = np.maximum(1 + factor * gap, 0)
        push = np.einsum("ij,ij,ij", weight, violation, violation)
        return (1 - problem.mu) * factor * pull + problem.mu * push

    found = minimize_scalar(loss, bounds=(-10, 10), method="bounded", options={"xatol": 0.01})
    return np.sqrt(unit * np.exp(found.x))


def solve(
    problem: Problem, L: NDArray[np.floating], max_iter: int, tol: float, verbose: int = 0
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Minimise the objective in rounds, each over the impostors found so far.

    Parameters
    ----------
    problem : Problem
        The points.
    L : ndarray of shape (n_components, n_features)
        L at the start.
    max_iter : int
        Maximum number of rounds.
    tol : float
        The rounds end when one lowers the objective by less than this share of its value, either
        over all impostors or over those found so far.
    verbose : int, default=0
        1 prints a line for each round.

    Returns
    -------
    L : ndarray of shape (n_components, n_features)
        The best map found.
    loss_curve : ndarray of shape (n_iter + 1,)
        The objective of the best map so far, at the start and after each round.

    Warns
    -----
    ConvergenceWarning
        If the rounds did not converge in `max_iter`.
    """
    impostors = find_impostors(problem, problem.embed(L))
    curve = [lmnn_loss(L, problem, impostors)[0]]
    for _ in range(max_iter):
        trial, expected_gain = _run_lbfgs(problem, impostors, L, tol)
        Z = problem.embed(trial)
        found = find_impostors(problem, Z)
        value, best = lmnn_loss(trial, problem, found)[0], curve[-1]
        curve.append(min(value, best))
        if verbose:
            print(f"[LMNN] round {len(curve) - 1}: {curve[-1]:.6g}", flush=True)
        if value < best:
            # Former impostors outside the margin add nothing now. They stay in the set, because the
            # next steps could bring them back into the margin.
            L, gain, stuck = trial, best - value, False
            impostors = merge_impostors(found, _outside_margin(problem, impostors, Z))
        else:
            known, impostors, gain = impostors, merge_impostors(impostors, found), np.inf
            stuck = len(impostors.pairs) == len(known.pairs)
        # If each class collapses to a point, the objective tends to 0, and so would its share.
        if stuck or min(expected_gain, gain) <= tol * max(curve[-1], tol * curve[0]):
            break
    else:
        warn_not_converged("LMNN", max_iter)
    return L, np.array(curve)


def _outside_margin(problem: Problem, impostors: Impostors, Z: NDArray[np.floating]) -> Impostors:
    """Select the impostors that do not violate the margin."""
    pairs, weight = impostors
    square = squared_margin_radius(problem, problem.target_distances(Z))
    kept = np.flatnonzero(pairs.squared_distances(Z) > square[pairs.first])
    return Impostors(pairs.subset(kept), weight[kept])


def _run_lbfgs(
    problem: Problem, impostors: Impostors, L: NDArray[np.floating], tol: float
) -> tuple[NDArray[np.floating], float]:
    """Take some steps over given impostors; return L and the decrease of the objective."""
    steps: list[float] = []

    def enough(L: NDArray[np.floating], value: float) -> bool:
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

    The target neighbours of a row are its nearest same-class neighbours under L at the start.
    LMNN pulls them near. It pushes rows of other classes, the impostors, farther away than the
    target neighbours by a margin (Weinberger, Blitzer & Saul [1]_, Weinberger & Saul [2]_). With
    d_ij = |L x_i - L x_j| the objective is the mean over all rows i and their targets j of

        (1 - mu) d_ij² + mu Σ_l max(0, 1 + d_ij² - d_il²)²

    where l runs over the `n_impostors` nearest rows of other classes. Unlike the paper, whose
    objective is equation (13) of [2]_, the hinge is squared. This makes the objective smooth.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, in [1, n_features]; None for n_features.
    n_neighbors : int, default=3
        Number of target neighbours of each row; fewer in a class with fewer other rows.
    mu : float, default=0.5
        Weight of the push, in (0, 1); 1 - mu is the weight of the pull.
    n_impostors : int, default=20
        Maximum number of impostors of each row. The nearest are taken. It bounds time and memory.
    init : {"auto", "pca", "lda", "identity", "random"} or array-like of shape \
            (n_components, n_features), default="auto"
        L at the start. It also decides the target neighbours. With all n_features components,
        "auto" is halfway between the identity and the whitening of the covariance within classes:
        M is the geometric mean of I and the inverse of the shrunk covariance. With fewer
        components "auto" is "lda" if there are enough discriminant axes, else "pca". For sparse X
        it is "identity" or "pca". Every start except an array is scaled to minimise the objective.
    max_iter : int, default=50
        Maximum number of rounds. Each searches for impostors once and takes up to 20 steps of
        L-BFGS.
    tol : float, default=1e-2
        The rounds end when one lowers the objective by less than this share of its value, either
        over all impostors or over those found so far.
    warm_start : bool, default=False
        Whether to start with L of the last fit. The target neighbours are then the nearest under
        this L, as in the passes of [2]_. This helps with many rows and overfits with few.
    random_state : int, RandomState instance or None, default=None
        Seed of ``init="random"``. Nothing else is random.
    verbose : int, default=0
        1 prints a line for each round.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L, for points in the unit of X; float32 if X is float32, else float64.
    n_iter_ : int
        Number of rounds.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        The objective of the best L so far, at the start and after each round. It never rises.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    sklearn.neighbors.NeighborhoodComponentsAnalysis : Uses soft neighbours instead of a margin.

    Notes
    -----
    Each step takes O(n (n_neighbors + n_impostors + n_features) n_components) time, and a round has
    up to 20 steps. A round also searches for neighbours, in O(n² n_components) time with many
    columns. Memory is O(n (n_features + n_neighbors + n_impostors)).

    Equal rows of one class are merged into one row with their total weight, and rows are sorted.
    The result depends neither on the order of the rows nor on the unit of X.

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
        n_components: int | None = None,
        *,
        n_neighbors: int = 3,
        mu: float = 0.5,
        n_impostors: int = 20,
        init: str | ArrayLike = "auto",
        max_iter: int = 50,
        tol: float = 1e-2,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
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

    def fit(
        self, X: ArrayLike, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Learn the distance.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Points.
        y : array-like of shape (n_samples,)
            Class labels, of any kind.
        sample_weight : array-like of shape (n_samples,), default=None
            How many times each row counts: as a point, as a target neighbour and as an impostor.
            Weight 2 is the same as a row given twice. Fractions are rounded up when neighbours are
            counted.

        Returns
        -------
        self : LMNN
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D or not finite, if y is missing, continuous or has a single class, if
            no class has two rows, or if a parameter is out of range.

        Warns
        -----
        ConvergenceWarning
            If the rounds did not converge in `max_iter`.
        """
        with unchanged_on_error(self):
            self._check_ranges(
                mu=(Real, False, 0, 1, "neither"), n_impostors=(Integral, False, 1, None, "left")
            )
            rows, codes, _ = self._read_labelled(X, y)
            weight = self._read_weight(sample_weight, rows)
            rows, codes, weight = distinct_rows(rows, codes, weight)
            encode_labels(codes)  # refuses a single class among the rows of positive weight
            points = Points(rows, codes, weight).centred_and_scaled()
            init = self._init_or_last_fit()
            start = self._start(init, points)
            problem = self._make_problem(points, start)
            start = start * best_scale(start, problem) if isinstance(init, str) else start
            L, self.loss_curve_ = solve(problem, start, self.max_iter, self.tol, self.verbose)
            self._set_components(L / points.scale, rows.dtype)
            self.n_iter_ = len(self.loss_curve_) - 1
        return self

    def _start(self, init: str | ArrayLike, points: Points) -> NDArray[np.floating]:
        X, codes, weight, _ = points
        L = initial_components(
            init, self.n_components, points, check_random_state(self.random_state)
        )
        if isinstance(init, str) and init == "auto" and len(L) == X.shape[1] and not issparse(X):
            return half_whitened_start(X, codes, weight)
        return L

    def _make_problem(self, points: Points, start: NDArray[np.floating]) -> Problem:
        """Find the target neighbours under the start."""
        X, codes, weight, _ = points
        Z = safe_sparse_dot(X, start.T.astype(X.dtype), dense_output=True)
        second, count = target_neighbors(Z, codes, weight, self.n_neighbors)
        if not count.any():
            raise ValueError(no_same_class_message(codes))
        n_samples, n_targets = second.shape
        targets = PairGraph(np.repeat(np.arange(n_samples), n_targets), second.ravel(), n_samples)
        target_weight = weight[:, None] * count
        return Problem(X, codes, weight, targets, target_weight, self.mu, self.n_impostors)
