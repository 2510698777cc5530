"""Metric learning for kernel regression: L that makes a kernel smoother predict y."""

from functools import partial
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array, check_random_state

from skdml._threads import one_thread
from skdml.base import unchanged_on_error
from skdml.linear._kernels import KernelBlock, initial_kernel_components, kernel_sums
from skdml.linear._points import Matrix, Points, distinct_rows
from skdml.linear._prior import add_log_det_prior
from skdml.linear._ranges import check_target_range
from skdml.linear._solvers import Objective, minimize_lbfgs
from skdml.linear.base import LinearMetricLearner


def mlkr_loss(
    L: NDArray[np.floating],
    X: Matrix,
    y: NDArray[np.floating],
    weight: NDArray[np.floating],
    n_threads: int = 1,
) -> tuple[float, NDArray[np.floating]]:
    """Mean squared error of leave-one-out kernel regression (eq. 2 of the paper, over n).

    The prediction for row i is the mean of the other y_j, weighted by
    k_ij = exp(-|L x_i - L x_j|²).

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        L.
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    y : ndarray of shape (n_samples,)
        Targets.
    weight : ndarray of shape (n_samples,)
        A row of weight w counts as w equal rows; w - 1 of them help to predict it.
    n_threads : int, default=1
        Number of threads.

    Returns
    -------
    loss : float
        Mean squared error.
    gradient : ndarray of shape (n_components, n_features)
        Its derivative by L.
    """
    share = weight / weight.sum(dtype=np.float64)

    def row_terms(block: KernelBlock) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        error = (block.kernel @ y) / block.total - y[block.rows]
        predicted = error + y[block.rows]
        # The derivative of ŷ_i by |z_i - z_j|² is -k_ij (y_j - ŷ_i) / sum_k k_ik.
        np.multiply(block.kernel, y - predicted[:, None], out=block.kernel)
        return error, -2 * share[block.rows] * error / block.total

    Z = X @ L.T.astype(X.dtype)
    self_weight = np.maximum(weight - 1, 0)
    error, product = kernel_sums(
        Z, row_terms, weight=weight, self_weight=self_weight, n_threads=n_threads
    )
    return float(share @ error**2), 2 * (X.T @ product.astype(X.dtype)).T.astype(np.float64)


class MLKR(LinearMetricLearner):
    """Metric learning for kernel regression: near points have similar targets.

    MLKR (Weinberger & Tesauro [1]_) minimises the leave-one-out error of a kernel smoother,

        1/n sum_i (y_i - ŷ_i)² + alpha var(y) n_components / n D(L Lᵀ),
        ŷ_i = sum_{j != i} k_ij y_j / sum_{j != i} k_ij,
        k_ij = exp(-|L x_i - L x_j|²).

    D(A) = n_components ln(tr A / n_components) - ln det A is the LogDet divergence of A from the
    nearest multiple of I. It is a pull toward a multiple of the Euclidean distance, as strong as
    ``alpha * n_components`` additional rows. Unlike the paper, the objective includes this pull.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, in [1, n_features]; None for n_features.
    init : {"auto", "pca", "identity", "random"} or array-like of shape \
            (n_components, n_features), default="auto"
        L at the start. "auto" is "pca" if `n_components` leaves axes out, else "identity". Every
        start except an array is scaled so that the few nearest neighbours have most of the weight.
    alpha : float, default=0.02
        Strength of the pull, >= 0; 0 for the objective of the paper. For targets that are mostly
        noise use more, about 0.5.
    max_iter : int, default=200
        Maximum number of iterations.
    tol : float, default=1e-3
        The search ends when an iteration lowers the objective by less than this share of its value
        at the start.
    warm_start : bool, default=False
        Whether to start with L of the last fit.
    random_state : int, RandomState instance or None, default=None
        Seed of ``init="random"``. Nothing else is random.
    verbose : int, default=0
        1 prints a line for each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L; float32 if X is float32, else float64.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        The objective at the start and after each iteration, in the square of the unit of y.
    n_iter_ : int
        Number of iterations.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    skdml.linear.NCA : The same kernel, for classes.
    sklearn.neighbors.KNeighborsRegressor : Predicts from neighbours in the learned distance.

    Notes
    -----
    An iteration takes O(n² n_components + n n_features n_components) time; memory is
    O(n (n_features + n_components)). Equal rows with equal targets are merged into one row with
    their total weight. The result does not depend on the order of the rows, and a weight of 2
    gives the same result as a row given twice.

    References
    ----------
    .. [1] K. Q. Weinberger, G. Tesauro, "Metric learning for kernel regression", Proceedings of
       the Eleventh International Conference on Artificial Intelligence and Statistics, PMLR 2,
       612-619, 2007.

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from sklearn.neighbors import KNeighborsRegressor
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import MLKR
    >>> X, y = make_friedman1(300, random_state=0)
    >>> euclid = KNeighborsRegressor(3).fit(X[::2], y[::2])
    >>> round(euclid.score(X[1::2], y[1::2]), 2)
    0.47
    >>> model = make_pipeline(MLKR(), KNeighborsRegressor(3)).fit(X[::2], y[::2])
    >>> round(model.score(X[1::2], y[1::2]), 2)
    0.84
    """

    _sparse = True

    def __init__(
        self,
        n_components: int | None = None,
        *,
        init: str | ArrayLike = "auto",
        alpha: float = 0.02,
        max_iter: int = 200,
        tol: float = 1e-3,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.init = init
        self.alpha = alpha
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
            Targets, real numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            How many times each row counts: weight 2 is the same as a row given twice.

        Returns
        -------
        self : MLKR
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D or not finite, if y is missing or not made of finite numbers, or if a
            parameter is out of range.

        Warns
        -----
        ConvergenceWarning
            If the search did not converge in `max_iter` iterations.
        """
        with unchanged_on_error(self), one_thread("blas") as n_threads:
            self._check_ranges(alpha=(Real, False, 0, None, "left"))
            rows, targets = self._read_targets(X, y)
            weight = self._read_weight(sample_weight, rows)
            rows, targets, weight = _merge_equal_rows(rows, targets, weight)
            points = Points(rows, None, weight).centred_and_scaled()
            rng = check_random_state(self.random_state)
            init = self._init_or_last_fit()
            start = initial_kernel_components(init, self.n_components, points, rng)
            variance = np.average(targets.astype(np.float64) ** 2, weights=weight)
            strength = self.alpha * variance * len(start) / weight.sum(dtype=np.float64)
            loss: Objective = partial(
                mlkr_loss, X=points.X, y=targets, weight=weight, n_threads=n_threads
            )
            loss = add_log_det_prior(loss, strength)
            options: dict[str, Any] = {"max_iter": self.max_iter, "tol": self.tol}
            options |= {"name": "MLKR", "verbose": self.verbose}
            L, self.loss_curve_, self.n_iter_ = minimize_lbfgs(loss, start, **options)
            self._set_components(L / points.scale, rows.dtype)
        return self

    def _read_targets(self, X: Any, y: Any) -> tuple[Any, NDArray[np.floating]]:
        if y is None:
            raise ValueError("MLKR requires y to be passed, but the target y is None.")
        # `validate_data` would convert an array of objects after its search for NaN and infinity.
        y = _as_numbers(y)
        X, y = self._validate(X, y, y_numeric=True, ensure_min_samples=2, **self._input())
        check_target_range(y, X.dtype)
        return X, y


def _as_numbers(y: ArrayLike) -> NDArray[np.floating]:
    """Convert targets to float64; refuse those that are missing, infinite or no numbers."""
    options: dict[str, Any] = {"ensure_2d": False, "ensure_min_samples": 0, "input_name": "y"}
    try:
        return check_array(y, dtype=np.float64, **options)
    except TypeError as error:  # such as pandas.NA in an array of objects
        raise ValueError(f"y has to hold real numbers, and no missing values: {error}.") from error


def _merge_equal_rows(
    X: Matrix, y: NDArray[np.floating], weight: NDArray[np.floating]
) -> tuple[Matrix, NDArray[np.floating], NDArray[np.floating]]:
    """Merge equal rows with equal targets; centre the targets, because rounding grows with them."""
    values, codes = np.unique(y, return_inverse=True)
    X, codes, weight = distinct_rows(X, codes, weight)
    y = values.astype(np.float64)[codes]
    y -= weight @ y / weight.sum()
    return X, y.astype(X.dtype), weight.astype(X.dtype)
