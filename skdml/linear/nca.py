"""Neighbourhood components analysis: L that maximises the accuracy of a soft nearest neighbour."""

from collections.abc import Callable, Iterator
from functools import partial
from numbers import Real
from operator import itemgetter
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from skdml._threads import kneighbors, one_thread
from skdml.base import unchanged_on_error
from skdml.constraints import encode_labels
from skdml.linear._kernels import KernelBlock, initial_kernel_components, kernel_sums
from skdml.linear._pairs import PairGraph
from skdml.linear._points import Matrix, Points, distinct_rows
from skdml.linear._prior import add_log_det_prior
from skdml.linear._solvers import Objective, minimize_lbfgs, warn_not_converged
from skdml.linear.base import LinearMetricLearner

SOLVERS = ("auto", "exact", "neighbors", "sgd")

# solver="auto" is "exact" up to the first number of rows, and "neighbors" up to the second.
_EXACT, _NEIGHBORS = 5_000, 20_000
# Iterations over the first candidates.
_ROUND = 8
# The first step of the solver "sgd", in units of the entries of L.
_STEP = 0.1

Solution = tuple[NDArray[np.floating], NDArray[np.floating], int]
"""L, the loss curve and the number of iterations."""


def nca_loss(
    L: NDArray[np.floating],
    X: Matrix,
    codes: NDArray[np.integer],
    weight: NDArray[np.floating],
    n_threads: int = 1,
) -> tuple[float, NDArray[np.floating]]:
    """Minus the mean probability of the right class (eq. 3 of the paper, over n), and its gradient.

    Row i draws row j as its neighbour with probability p_ij, proportional to
    exp(-|L x_i - L x_j|²), and predicts the class of j. The prediction is right with probability
    p_i, the sum of p_ij over the class of i.

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        L.
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points, sorted by class.
    codes : ndarray of int, shape (n_samples,)
        Their classes, sorted.
    weight : ndarray of shape (n_samples,)
        A row of weight w counts as w equal rows; w - 1 of them are its neighbours.
    n_threads : int, default=1
        Number of threads.

    Returns
    -------
    loss : float
        The loss, in [-1, 0].
    gradient : ndarray of shape (n_components, n_features)
        Its derivative by L.
    """
    starts = np.searchsorted(codes, np.arange(codes[-1] + 2))
    share = weight / weight.sum(dtype=np.float64)

    def row_terms(block: KernelBlock) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        own = np.empty_like(block.total)
        pieces = list(_class_pieces(block.rows, codes, starts))
        for rows, columns in pieces:
            own[rows] = block.kernel[rows, columns].sum(axis=1)
        p = own / block.total
        # With s_ij = 1 for the same class, W_ij = share_i p_ij (s_ij - p_i) is -share_i p_i p_ij
        # times (1 - s_ij / p_i). Only columns of the own class need the second factor.
        with np.errstate(divide="ignore"):
            ratio = np.where(p > np.finfo(p.dtype).tiny, 1 - 1 / p, 0)
        for rows, columns in pieces:
            block.kernel[rows, columns] *= ratio[rows, None]
        return p, -share[block.rows] * p / block.total

    Z = X @ L.T.astype(X.dtype)
    self_weight = np.maximum(weight - 1, 0)
    p, product = kernel_sums(
        Z, row_terms, weight=weight, self_weight=self_weight, n_threads=n_threads
    )
    # V_ij is the derivative of p by the exponent -|z_i - z_j|². The loss is -p, so the two signs
    # cancel.
    return -float(share @ p), 2 * (X.T @ product.astype(X.dtype)).T.astype(np.float64)


def _class_pieces(
    rows: slice, codes: NDArray[np.integer], starts: NDArray[np.integer]
) -> Iterator[tuple[slice, slice]]:
    """Cut a block by class; yield the rows within the block and the columns of their class."""
    for code in range(codes[rows.start], codes[rows.stop - 1] + 1):
        first, last = max(starts[code], rows.start), min(starts[code + 1], rows.stop)
        yield slice(first - rows.start, last - rows.start), slice(starts[code], starts[code + 1])


def nca_candidate_loss(
    L: NDArray[np.floating], X: Matrix, candidates: "Candidates", weight: NDArray[np.floating]
) -> tuple[float, NDArray[np.floating]]:
    """Compute `nca_loss` with p_ij = 0 for all pairs that are no candidates.

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        L.
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    candidates : Candidates
        The pairs.
    weight : ndarray of shape (n_samples,)
        Weights of the rows.

    Returns
    -------
    loss : float
        The loss, in [-1, 0].
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
    product = graph.laplacian_product(change, Z)
    return -float(share @ p), 2 * (X.T @ product).T.astype(np.float64)


class Candidates(NamedTuple):
    """Pairs (i, j) where row i may draw row j as its neighbour.

    Attributes
    ----------
    graph : PairGraph
        The pairs, sorted by i. Every row has at least one.
    same : ndarray of bool, shape (n_pairs,)
        Whether the two rows are of one class.
    log_weight : ndarray of shape (n_pairs,)
        Logarithm of the weight of j.
    """

    graph: PairGraph
    same: NDArray[np.bool_]
    log_weight: NDArray[np.floating]


def find_candidates(
    Z: NDArray[np.floating],
    codes: NDArray[np.integer],
    weight: NDArray[np.floating],
    n_neighbors: int,
) -> Candidates:
    """Take the nearest neighbours of each row as its candidates.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Embedded points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    weight : ndarray of shape (n_samples,)
        Weights. A row of weight above 1 is also a candidate of itself: it stands for equal rows.
    n_neighbors : int
        How many neighbours; fewer if there are fewer rows.

    Returns
    -------
    Candidates
        The pairs.
    """
    k = min(n_neighbors, len(Z) - 1)
    near = kneighbors(Z, None, k)[1]
    repeated = np.flatnonzero(weight > 1)
    first = np.concatenate([np.repeat(np.arange(len(Z)), k), repeated])
    second = np.concatenate([near.ravel(), repeated])
    order = np.argsort(first, kind="stable")
    first, second = first[order], second[order]
    mass = np.where(first == second, weight[second] - 1, weight[second])
    graph = PairGraph(first, second, len(Z))
    return Candidates(graph, codes[first] == codes[second], np.log(mass).astype(Z.dtype))


def minimize_by_neighbors(
    start: NDArray[np.floating],
    points: Points,
    add_prior: Callable[[Objective], Objective],
    n_neighbors: int,
    **options: Any,
) -> Solution:
    """Minimise the loss over candidates, which are searched again as L changes.

    Parameters
    ----------
    start : ndarray of shape (n_components, n_features)
        L at the start.
    points : Points
        Points, sorted by class, centred and scaled.
    add_prior : callable
        ``add_prior(objective)`` -> the objective with a prior.
    n_neighbors : int
        Number of candidates, as in `find_candidates`.
    **options : dict
        max_iter, tol, name and verbose, as in `minimize_lbfgs`.

    Returns
    -------
    L : ndarray of shape (n_components, n_features)
        The best L, each scored by the loss over its own candidates.
    loss_curve : ndarray of shape (n_iter + 1,)
        The loss at the start and after each iteration, over the current candidates.
    n_iter : int
        Number of iterations.
    """
    X, codes, weight, _ = points
    L, best, curve = start, (np.inf, start), [0.0]
    while True:
        Z = X @ L.T.astype(X.dtype)
        candidates = find_candidates(Z, codes, weight, n_neighbors)
        # Each round has as many iterations as all rounds before it: the first candidates are soon
        # out of date, the last ones are not.
        length = min(max(_ROUND, len(curve) - 1), options["max_iter"] + 1 - len(curve))
        loss = partial(nca_candidate_loss, X=X, candidates=candidates, weight=weight)
        L_next, losses, n_steps = minimize_lbfgs(
            add_prior(loss),
            L,
            monitor=_StopAfter(length),
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


class _StopAfter:
    """A monitor that ends a search after a number of iterations."""

    def __init__(self, n_iter: int) -> None:
        self.left = n_iter

    def __call__(self, L: NDArray[np.floating], value: float) -> bool:
        self.left -= 1
        return self.left <= 0


def minimize_by_batches(
    start: NDArray[np.floating],
    points: Points,
    add_prior: Callable[[Objective], Objective],
    batch_size: int,
    rng: np.random.RandomState,
    **options: Any,
) -> Solution:
    """Minimise the loss within random batches, by steps of Adam (Kingma & Ba 2015).

    Parameters
    ----------
    start : ndarray of shape (n_components, n_features)
        L at the start.
    points : Points
        Points, sorted by class, centred and scaled.
    add_prior : callable
        ``add_prior(objective)`` -> the objective with a prior.
    batch_size : int
        Rows in a batch.
    rng : RandomState
        Draws the batches.
    **options : dict
        max_iter, the number of passes over the rows, during which the steps shrink to 0; name, the
        name of the learner; verbose, 1 for a line after each pass.

    Returns
    -------
    L : ndarray of shape (n_components, n_features)
        L after the last step.
    loss_curve : ndarray of shape (n_iter,)
        Mean loss of the batches of each pass. L changes during the pass.
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
            rows = np.sort(batch)  # sorted by class again
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
    """Neighbourhood components analysis: maximises the accuracy of a soft nearest neighbour.

    NCA (Goldberger, Roweis, Hinton & Salakhutdinov [1]_) minimises

        - 1/n sum_i p_i + alpha n_components / n D(L Lᵀ),
        p_i = sum_{j of the class of i} p_ij,
        p_ij = exp(-|L x_i - L x_j|²) / sum_{k != i} exp(-|L x_i - L x_k|²),

    Row i draws row j as its neighbour with probability p_ij and predicts the class of j. p_i is
    the probability that the prediction is right, and its mean is the leave-one-out accuracy of
    this soft nearest-neighbour rule. D(A) = n_components ln(tr A / n_components) - ln det A is the
    LogDet divergence of A from the nearest multiple of I. It is a weak pull toward a multiple of
    the Euclidean distance, as strong as ``alpha * n_components`` additional rows. Unlike the
    paper, the objective includes this pull.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, in [1, n_features]; None for n_features. Fewer components are faster;
        two give a planar embedding.
    init : {"auto", "pca", "lda", "identity", "random"} or array-like of shape \
            (n_components, n_features), default="auto"
        L at the start. "auto" is "lda" if there are at least `n_components` discriminant axes,
        else "pca" if `n_components` leaves axes out, else "identity". Every start except an array
        is scaled so that the few nearest neighbours are the likely choices.
    alpha : float, default=0.1
        Strength of the pull, >= 0; 0 for the objective of the paper.
    solver : {"auto", "exact", "neighbors", "sgd"}, default="auto"
        "exact" sums over all pairs, a block of rows at a time. "neighbors" sums over the
        `n_neighbors` nearest rows of each row, which are searched again as L changes. "sgd" sums
        over pairs within random batches. "auto" is "exact" up to 5000 rows, "neighbors" up to
        20 000, and "sgd" beyond.
    n_neighbors : int, default=60
        Number of candidates of each row with the solver "neighbors".
    batch_size : int, default=2000
        Number of rows in a batch of the solver "sgd".
    max_iter : int, default=100
        Maximum number of iterations; number of passes over the rows with the solver "sgd".
    tol : float, default=1e-4
        The search ends when an iteration lowers the loss by less than this share of its
        magnitude. Not used by the solver "sgd".
    warm_start : bool, default=False
        Whether to start with L of the last fit.
    random_state : int, RandomState instance or None, default=None
        Seed of ``init="random"`` and of the batches of the solver "sgd". Nothing else is random.
    verbose : int, default=0
        1 prints a line for each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L; float32 if X is float32, else float64.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        The loss at the start and after each iteration. With the solver "neighbors" it is over the
        current candidates. With "sgd" it is the mean over the batches of each pass, of shape
        (n_iter_,).
    n_iter_ : int
        Number of iterations.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    sklearn.neighbors.NeighborhoodComponentsAnalysis : The same objective with ``alpha=0``, times n.

    Notes
    -----
    An iteration takes O(n² n_components) time with the solver "exact", O(n n_neighbors
    n_components) with "neighbors" (and a search for neighbours every few iterations), and O(n
    batch_size n_components) with "sgd". L x adds O(n n_features n_components) to each. Memory
    is O(n (n_features + n_components)), plus O(n n_neighbors) for "neighbors".

    Equal rows of one class are merged into one row with their total weight. Except for "sgd", the
    result does not depend on the order of the rows, and a weight of 2 gives the same result as a
    row given twice.

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
        n_components: int | None = None,
        *,
        init: str | ArrayLike = "auto",
        alpha: float = 0.1,
        solver: str = "auto",
        n_neighbors: int = 60,
        batch_size: int = 2000,
        max_iter: int = 100,
        tol: float = 1e-4,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
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
            How many times each row counts: weight 2 is the same as a row given twice.

        Returns
        -------
        self : NCA
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D or not finite, if y is missing, continuous or has a single class, or if
            a parameter is out of range.

        Warns
        -----
        ConvergenceWarning
            If the search did not converge in `max_iter` iterations. "sgd" never warns.
        """
        with unchanged_on_error(self), one_thread("blas") as n_threads:
            self._check_ranges(alpha=(Real, False, 0, None, "left"))
            rows, codes, _ = self._read_labelled(X, y)
            points = _sorted_by_class(rows, codes, self._read_weight(sample_weight, rows))
            points = points.centred_and_scaled()
            rng = check_random_state(self.random_state)
            init = self._init_or_last_fit()
            start = initial_kernel_components(init, self.n_components, points, rng)
            strength = self.alpha * len(start) / points.weight.sum(dtype=np.float64)
            add_prior = partial(add_log_det_prior, strength=strength)
            found = self._solve(start, points, add_prior, rng, n_threads)
            L, self.loss_curve_, self.n_iter_ = found
            self._set_components(L / points.scale, rows.dtype)
        return self

    def _solve(
        self,
        start: NDArray[np.floating],
        points: Points,
        add_prior: Callable[[Objective], Objective],
        rng: np.random.RandomState,
        n_threads: int,
    ) -> Solution:
        X, codes, weight, _ = points
        solver = self.solver if self.solver != "auto" else _choose_solver(len(codes))
        options: dict[str, Any] = {"max_iter": self.max_iter, "verbose": self.verbose}
        options["name"] = "NCA"
        if solver == "sgd":
            return minimize_by_batches(start, points, add_prior, self.batch_size, rng, **options)
        options["tol"] = self.tol
        if solver == "neighbors":
            return minimize_by_neighbors(start, points, add_prior, self.n_neighbors, **options)
        if solver == "exact":
            loss = partial(nca_loss, X=X, codes=codes, weight=weight, n_threads=n_threads)
            return minimize_lbfgs(add_prior(loss), start, **options)
        raise ValueError(f"solver={solver!r} is unknown; choose one of {list(SOLVERS)}.")


def _sorted_by_class(X: Matrix, codes: NDArray[np.integer], weight: NDArray[np.floating]) -> Points:
    """Merge equal rows, and sort the rows by class."""
    X, codes, weight = distinct_rows(X, codes, weight)
    codes, _ = encode_labels(codes)  # drops classes whose rows all have weight 0
    order = np.argsort(codes, kind="stable")
    return Points(X[order], codes[order], weight[order].astype(X.dtype))


def _choose_solver(n_samples: int) -> str:
    if n_samples <= _EXACT:
        return "exact"
    return "neighbors" if n_samples <= _NEIGHBORS else "sgd"
