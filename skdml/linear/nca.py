"""Neighbourhood components analysis: L that makes a soft nearest-neighbour rule right."""

from functools import partial
from numbers import Real
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from skdml._threads import kneighbors, one_thread
from skdml.base import unchanged_on_error
from skdml.constraints import encode_labels
from skdml.linear._kernels import initial_kernel_components, kernel_sums
from skdml.linear._pairs import PairGraph
from skdml.linear._points import Points, distinct_rows
from skdml.linear._prior import add_log_det_prior
from skdml.linear._solvers import minimize_lbfgs, warn_not_converged
from skdml.linear.base import LinearMetricLearner

SOLVERS = ("auto", "exact", "neighbors", "sgd")

# Up to so many rows "auto" takes all pairs, and up to so many the nearest neighbours.
_EXACT, _NEIGHBORS = 5_000, 20_000
# Iterations with the first candidates.
_ROUND = 8
# The first step by batches, in units of the entries of L.
_STEP = 0.1


def nca_loss(L, X, codes, weight, n_threads=1):
    """Minus the mean probability of a right choice (eq. 3 of the paper, over n), and its gradient.

    Row i chooses row j as its neighbour with probability p_ij, proportional to
    exp(-|L x_i - L x_j|²), and takes over the class of j: it is right with probability p_i, the
    sum of p_ij over its own class.

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        L.
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points, those of one class after the other.
    codes : ndarray of int, shape (n_samples,)
        Their classes, sorted.
    weight : ndarray of shape (n_samples,)
        A row of weight w counts as w rows at one place: its w - 1 twins are neighbours, too.
    n_threads : int, default=1
        How many threads to use.

    Returns
    -------
    loss : float
        In [-1, 0].
    gradient : ndarray of shape (n_components, n_features)
        Its derivative by L.
    """
    starts = np.searchsorted(codes, np.arange(codes[-1] + 2))
    share = weight / weight.sum(dtype=np.float64)

    def work(block):
        own = np.empty_like(block.total)
        pieces = list(_classes(block.rows, codes, starts))
        for rows, columns in pieces:
            own[rows] = block.kernel[rows, columns].sum(axis=1)
        p = own / block.total
        # W_ij = share_i p_ij (s_ij - p_i), s_ij = 1 for the same class, is -share_i p_i p_ij
        # times (1 - s_ij / p_i): only columns of the own class need another factor.
        with np.errstate(divide="ignore"):
            ratio = np.where(p > np.finfo(p.dtype).tiny, 1 - 1 / p, 0)
        for rows, columns in pieces:
            block.kernel[rows, columns] *= ratio[rows, None]
        return p, -share[block.rows] * p / block.total

    Z = X @ L.T.astype(X.dtype)
    p, pull = kernel_sums(
        Z, work, weight=weight, self_weight=np.maximum(weight - 1, 0), n_threads=n_threads
    )
    # V_ij is dp/dlog p_ij, and -|z_i - z_j|² enters log p_ij; so minus twice for p, plus for -p.
    return -float(share @ p), 2 * (X.T @ pull.astype(X.dtype)).T.astype(np.float64)


def _classes(rows, codes, starts):
    """Cut a block into classes: (rows within the block, columns of their class)."""
    for code in range(codes[rows.start], codes[rows.stop - 1] + 1):
        first, last = max(starts[code], rows.start), min(starts[code + 1], rows.stop)
        yield slice(first - rows.start, last - rows.start), slice(starts[code], starts[code + 1])


def nca_loss_of_candidates(L, X, candidates, weight):
    """Compute the same with p_ij = 0 for all pairs but candidates.

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        L.
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    candidates : Candidates
        Who may choose whom.
    weight : ndarray of shape (n_samples,)
        Weights of the rows that choose.

    Returns
    -------
    loss : float
        In [-1, 0].
    gradient : ndarray of shape (n_components, n_features)
        Its derivative by L.
    """
    graph, same, log_weight = candidates
    first, starts = graph.first, graph.starts[:-1]
    share = weight / weight.sum(dtype=np.float64)
    Z = X @ L.T.astype(X.dtype)
    exponent = log_weight - graph.squared_distances(Z)
    exponent -= np.maximum.reduceat(exponent, starts)[first]
    kernel = np.exp(np.maximum(exponent, -80, out=exponent), out=exponent)
    total = np.add.reduceat(kernel, starts)
    p = np.add.reduceat(kernel * same, starts) / total
    change = kernel * (same - p[first])
    change *= (share / total)[first]
    pull = graph.laplacian_product(change, Z)
    return -float(share @ p), 2 * (X.T @ pull).T.astype(np.float64)


class Candidates(NamedTuple):
    """Pairs (i, j) in which row i may choose row j as its neighbour.

    Attributes
    ----------
    graph : PairGraph
        The pairs, by i; each row is there at least once.
    same : ndarray of bool, shape (n_pairs,)
        Whether they are of one class.
    log_weight : ndarray of shape (n_pairs,)
        Logarithm of the weight of j.
    """

    graph: PairGraph
    same: np.ndarray
    log_weight: np.ndarray


def find_candidates(Z, codes, weight, n_neighbors):
    """Let each row choose among its nearest neighbours.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Embedded points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    weight : ndarray of shape (n_samples,)
        Weights; a row that weighs more than 1 is a candidate of its own, for its twins.
    n_neighbors : int
        How many neighbours, fewer where there are no more rows.

    Returns
    -------
    Candidates
        The pairs.
    """
    k = min(n_neighbors, len(Z) - 1)
    near = kneighbors(Z, None, k)[1]
    twins = np.flatnonzero(weight > 1)
    first = np.concatenate([np.repeat(np.arange(len(Z)), k), twins])
    second = np.concatenate([near.ravel(), twins])
    order = np.argsort(first, kind="stable")
    first, second = first[order], second[order]
    mass = np.where(first == second, weight[second] - 1, weight[second])
    graph = PairGraph(first, second, len(Z))
    return Candidates(graph, codes[first] == codes[second], np.log(mass).astype(Z.dtype))


def minimize_by_neighbors(start, points, add_prior, n_neighbors, **options):
    """Minimise the loss over candidates, which are found anew as L moves.

    Parameters
    ----------
    start : ndarray of shape (n_components, n_features)
        L to begin with.
    points : Points
        Points, sorted by class, centred and scaled.
    add_prior : callable
        ``add_prior(objective)`` -> the objective with a prior.
    n_neighbors : int
        As in `find_candidates`.
    **options : dict
        As in `minimize_lbfgs`: max_iter, tol, name, verbose.

    Returns
    -------
    L : ndarray of shape (n_components, n_features)
        The best by the loss over its own candidates.
    loss_curve : ndarray of shape (n_iter + 1,)
        The loss at the start and after each iteration, over the candidates of the time.
    n_iter : int
        Number of iterations.
    """
    X, codes, weight, _ = points
    L, best, curve = start, (np.inf, start), [0.0]
    while True:
        Z = X @ L.T.astype(X.dtype)
        candidates = find_candidates(Z, codes, weight, n_neighbors)
        # Each round has as many iterations as there were before: the first candidates are soon
        # out of date, the last ones not.
        length = min(max(_ROUND, len(curve) - 1), options["max_iter"] + 1 - len(curve))
        loss = partial(nca_loss_of_candidates, X=X, candidates=candidates, weight=weight)
        L_next, losses, n_steps = minimize_lbfgs(
            add_prior(loss),
            L,
            monitor=_Countdown(length),
            **options | {"max_iter": length + 1},
        )
        curve[-1] = losses[0]  # over the new candidates
        settled = losses[0] > best[0] - options["tol"] * abs(losses[0])
        best = min(best, (losses[0], L), key=itemgetter(0))
        if settled or n_steps == 0:
            return best[1], np.array(curve), len(curve) - 1
        curve.extend(losses[1:])
        L = L_next
        if len(curve) > options["max_iter"]:
            warn_not_converged(options["name"], options["max_iter"])
            return L, np.array(curve), len(curve) - 1


class _Countdown:
    """A monitor that ends a search after some iterations."""

    def __init__(self, length):
        self.left = length

    def __call__(self, L, value):
        self.left -= 1
        return self.left <= 0


def minimize_by_batches(start, points, add_prior, batch_size, rng, **options):
    """Minimise the loss within random batches, by steps of Adam (Kingma & Ba 2015).

    Parameters
    ----------
    start : ndarray of shape (n_components, n_features)
        L to begin with.
    points : Points
        Points, sorted by class, centred and scaled.
    add_prior : callable
        ``add_prior(objective)`` -> the objective with a prior.
    batch_size : int
        Rows in a batch.
    rng : RandomState
        Draws the batches.
    **options : dict
        max_iter, how many times each row is in a batch, while the steps shrink to nothing; name,
        of the learner; verbose, 1 for a line each time.

    Returns
    -------
    L : ndarray of shape (n_components, n_features)
        L after the last step.
    loss_curve : ndarray of shape (n_iter,)
        Mean loss of the batches of each pass over the rows, while L moved.
    n_iter : int
        `max_iter`.
    """
    X, codes, weight, _ = points
    L, curve = start.copy(), []
    mean, square = np.zeros_like(L), np.zeros_like(L)
    n_batches = -(-len(codes) // batch_size)
    length = _STEP * np.sqrt((start**2).mean())
    n_steps, step = options["max_iter"] * n_batches, 0
    for iteration in range(options["max_iter"]):
        losses = []
        for batch in np.array_split(rng.permutation(len(codes)), n_batches):
            rows = np.sort(batch)  # by class again
            loss = partial(nca_loss, X=X[rows], codes=codes[rows], weight=weight[rows])
            value, gradient = add_prior(loss)(L)
            losses.append(value)
            mean += 0.1 * (gradient - mean)
            square += 0.01 * (gradient**2 - square)
            step += 1
            direction = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.99**step)) + 1e-12)
            L -= length * (1 + np.cos(np.pi * step / n_steps)) / 2 * direction
        curve.append(float(np.mean(losses)))
        if options["verbose"]:
            print(f"[{options['name']}] iteration {iteration + 1}: {curve[-1]:.6g}", flush=True)
    return L, np.array(curve), len(curve)


class NCA(LinearMetricLearner):
    """Neighbourhood components analysis: a soft nearest-neighbour rule that is right most often.

    NCA (Goldberger, Roweis, Hinton & Salakhutdinov [1]_) minimises

        - 1/n sum_i p_i + alpha n_components / n D(L Lᵀ),
        p_i = sum_{j of the class of i} p_ij,
        p_ij = exp(-|L x_i - L x_j|²) / sum_{k != i} exp(-|L x_i - L x_k|²),

    where p_i is the probability that row i takes over the right class from a neighbour it draws:
    the leave-one-out accuracy of a soft nearest-neighbour rule. D(A) =
    n_components ln(tr A / n_components) - ln det A is the LogDet divergence of A from the nearest
    multiple of I: a weak pull toward Euclid in any unit, as if ``alpha * n_components`` more rows
    spoke for it. It is no part of the paper.

    Parameters
    ----------
    n_components : int, default=None
        Rows of L, in [1, n_features]; None for n_features. Few make it quicker, and d a distance
        in a plane, say, where ``n_components=2``.
    init : {"auto", "pca", "lda", "identity", "random"} or array-like of shape \
            (n_components, n_features), default="auto"
        L to begin with. "auto" is "lda" where that has so many axes, else "pca" where some are
        left out, else "identity". All but an array are brought to a scale at which the nearest
        few neighbours are the likely choices.
    alpha : float, default=0.1
        Strength of the pull, >= 0; 0 for the objective of the paper.
    solver : {"auto", "exact", "neighbors", "sgd"}, default="auto"
        "exact" sums over all pairs, a block of rows at a time. "neighbors" sums over the
        `n_neighbors` nearest rows of each row, which are found anew as L moves. "sgd" sums over
        pairs within random batches. "auto" is "exact" up to 5000 rows, "neighbors" up to 20 000,
        and "sgd" beyond.
    n_neighbors : int, default=60
        How many candidates each row has with the solver "neighbors".
    batch_size : int, default=2000
        Rows in a batch for the solver "sgd".
    max_iter : int, default=100
        Iterations at most; passes over the rows with the solver "sgd".
    tol : float, default=1e-4
        The search ends when an iteration gains less than this share of the loss at the start. Not
        used by the solver "sgd".
    warm_start : bool, default=False
        Whether to begin with L of the last fit.
    random_state : int, RandomState instance or None, default=None
        Decides ``init="random"`` and the batches of the solver "sgd". All else draws nothing.
    verbose : int, default=0
        1 prints a line for each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L. float32 if X is, else float64.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        The loss at the start and after each iteration. With the solver "neighbors" it is over the
        candidates of the time; with "sgd" it is the mean over the batches of each pass, of shape
        (n_iter_,).
    n_iter_ : int
        Number of iterations.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    sklearn.neighbors.NeighborhoodComponentsAnalysis : The same with ``alpha=0``, and times n.

    Notes
    -----
    An iteration takes O(n² n_components) time with the solver "exact", O(n n_neighbors
    n_components) with "neighbors" (and a search for neighbours every few iterations), O(n
    batch_size n_components) with "sgd", each and O(n n_features n_components) for L x. Memory
    is O(n (n_features + n_components)), with O(n n_neighbors) for "neighbors".

    Rows that are equal are merged to one of their weight, so that neither the order of the rows
    nor how a weight is given (as a number, or by repeated rows) matters, but to "sgd".

    References
    ----------
    .. [1] J. Goldberger, S. Roweis, G. Hinton, R. Salakhutdinov, "Neighbourhood components
       analysis", Advances in Neural Information Processing Systems 17, 513-520, 2005.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import NCA
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(NCA(), KNeighborsClassifier(3)).fit(X[::2], y[::2])
    >>> round(model.score(X[1::2], y[1::2]), 2)
    0.97
    """

    _sparse = True

    def __init__(
        self,
        n_components=None,
        *,
        init="auto",
        alpha=0.1,
        solver="auto",
        n_neighbors=60,
        batch_size=2000,
        max_iter=100,
        tol=1e-4,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.init = init
        self.alpha = alpha
        self.solver = solver
        self.n_neighbors = n_neighbors
        self.batch_size = batch_size
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
            How many times each row counts: weight 2 is the same as a row given twice.

        Returns
        -------
        self : NCA
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D or not finite, if y is missing, continuous or of one class, or if a
            parameter is out of range.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` iterations did not suffice. "sgd" never warns: it ends by plan.
        """
        with unchanged_on_error(self), one_thread("blas") as n_threads:
            self._check_ranges(alpha=(Real, False, 0, None, "left"))
            X, codes, _ = self._read_labelled(X, y)
            points = _sorted_by_class(X, codes, self._read_weight(sample_weight, X))
            points = points.centred_and_scaled()
            rng = check_random_state(self.random_state)
            init = self._init_or_last_fit()
            start = initial_kernel_components(init, self.n_components, points, rng)
            strength = self.alpha * len(start) / points.weight.sum(dtype=np.float64)
            add_prior = partial(add_log_det_prior, strength=strength)
            found = self._solve(start, points, add_prior, rng, n_threads)
            L, self.loss_curve_, self.n_iter_ = found
            self.components_ = (L / points.scale).astype(X.dtype)
        return self

    def _solve(self, start, points, add_prior, rng, n_threads):
        X, codes, weight, _ = points
        solver = self.solver if self.solver != "auto" else _choose_solver(len(codes))
        options = {"max_iter": self.max_iter, "name": "NCA", "verbose": self.verbose}
        if solver == "sgd":
            return minimize_by_batches(start, points, add_prior, self.batch_size, rng, **options)
        options["tol"] = self.tol
        if solver == "neighbors":
            return minimize_by_neighbors(start, points, add_prior, self.n_neighbors, **options)
        if solver == "exact":
            loss = partial(nca_loss, X=X, codes=codes, weight=weight, n_threads=n_threads)
            return minimize_lbfgs(add_prior(loss), start, **options)
        raise ValueError(f"solver={solver!r} is unknown; choose one of {list(SOLVERS)}.")


def _sorted_by_class(X, codes, weight):
    """Merge equal rows, and put those of one class after the other."""
    X, codes, weight = distinct_rows(X, codes, weight)
    codes, _ = encode_labels(codes)  # drops classes whose rows all have weight 0
    order = np.argsort(codes, kind="stable")
    return Points(X[order], codes[order], weight[order].astype(X.dtype))


def _choose_solver(n_samples):
    if n_samples <= _EXACT:
        return "exact"
    return "neighbors" if n_samples <= _NEIGHBORS else "sgd"
