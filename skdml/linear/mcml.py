"""Maximally collapsing metric learning: each class is pulled to one point, away from the others."""

from functools import partial
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix
from sklearn.utils import check_random_state

from skdml._threads import one_thread
from skdml.base import unchanged_on_error
from skdml.constraints import encode_labels
from skdml.linear._kernels import (
    KernelBlock,
    initial_kernel_components,
    kernel_sums,
    scale_to_unit_variance,
)
from skdml.linear._points import Points, distinct_rows
from skdml.linear._prior import add_log_det_prior
from skdml.linear._solvers import Objective, minimize_lbfgs
from skdml.linear.base import LinearMetricLearner, no_same_class_message


def same_class_weight(
    codes: NDArray[np.integer], weight: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Total weight of the other rows of the class of each row.

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
        Classes.
    weight : ndarray of shape (n_samples,)
        A row of weight w counts as w equal rows; w - 1 of them are other rows of its class.

    Returns
    -------
    ndarray of float64, shape (n_samples,)
        Weights; 0 for the only row of a class.
    """
    weight = weight.astype(np.float64)
    total = np.bincount(codes, weight)[codes]
    size = np.bincount(codes)[codes]
    return np.where(size > 1, total - weight, 0) + np.maximum(weight - 1, 0)


def same_class_scatter(
    X: NDArray[np.floating],
    codes: NDArray[np.integer],
    share: NDArray[np.floating],
    weight: NDArray[np.floating],
) -> NDArray[np.floating]:
    """Mean over rows i of the mean of (x_i - x_j)(x_i - x_j)ᵀ over other rows j of the class of i.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    share : ndarray of shape (n_samples,)
        Weight of each row i in the outer mean, 0 for the only row of a class. The sum is 1.
    weight : ndarray of shape (n_samples,)
        Weights of the rows j in the inner mean.

    Returns
    -------
    ndarray of float64, shape (n_features, n_features)
        S. tr(S LᵀL) is the mean squared distance of two rows of one class.
    """
    X, weight = X.astype(np.float64), weight.astype(np.float64)
    member = csr_matrix((weight, (codes, np.arange(len(X)))))
    total = np.bincount(codes, weight)
    X -= ((member @ X) / total[:, None])[codes]
    # The sum of w_j (x_i - x_j)(x_i - x_j)ᵀ over the class is total x_i x_iᵀ + sum w_j x_j x_jᵀ.
    share_per_weight = np.divide(
        share, same_class_weight(codes, weight), where=share > 0, out=0 * share
    )
    outer = share_per_weight * total[codes] + weight * np.bincount(codes, share_per_weight)[codes]
    return (X.T * outer) @ X


def mcml_loss(
    L: NDArray[np.floating],
    X: NDArray[np.floating],
    codes: NDArray[np.integer],
    weight: NDArray[np.floating],
    scatter: NDArray[np.floating],
    n_threads: int = 1,
) -> tuple[float, NDArray[np.floating]]:
    """Mean divergence of the neighbours under L from ideal ones (eq. 4 of the paper), its gradient.

    Row i draws row j with probability p_ij, proportional to exp(-|L x_i - L x_j|²). Ideally it
    would draw every other row of its class with the same probability, and no row of other classes.
    The loss is the mean over i of the Kullback-Leibler divergence from the ideal distribution to
    p_i. It is convex in LᵀL.

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        L.
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes. The only row of a class is a neighbour of others, but adds no divergence.
    weight : ndarray of shape (n_samples,)
        A row of weight w counts as w equal rows.
    scatter : ndarray of shape (n_features, n_features)
        `same_class_scatter` of the points.
    n_threads : int, default=1
        Number of threads.

    Returns
    -------
    loss : float
        Mean divergence, >= 0.
    gradient : ndarray of shape (n_components, n_features)
        Its derivative by L.
    """
    others = same_class_weight(codes, weight)
    share = row_shares(others, weight)

    def row_terms(block: KernelBlock) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        return np.log(block.total) - block.shift, -share[block.rows] / block.total

    Z = X @ L.T.astype(X.dtype)
    self_weight = np.maximum(weight - 1, 0)
    log_total, product = kernel_sums(
        Z, row_terms, weight=weight, self_weight=self_weight, n_threads=n_threads
    )
    has_same_class = share > 0
    divergence = log_total[has_same_class] - np.log(others[has_same_class])
    toward = L @ scatter
    loss = float(share[has_same_class] @ divergence + (L * toward).sum())
    return loss, 2 * (toward + (product.astype(X.dtype).T @ X).astype(np.float64))


def row_shares(others: NDArray[np.floating], weight: NDArray[np.floating]) -> NDArray[np.floating]:
    """Share of each row in the mean over all rows that have other rows of their class.

    Parameters
    ----------
    others : ndarray of shape (n_samples,)
        Weight of the other rows of the class, as `same_class_weight` returns it.
    weight : ndarray of shape (n_samples,)
        Weights of the rows.

    Returns
    -------
    ndarray of float64, shape (n_samples,)
        The shares; their sum is 1.
    """
    counted = np.where(others > 0, weight, 0).astype(np.float64)
    return counted / counted.sum()


class MCML(LinearMetricLearner):
    """Maximally collapsing metric learning: pulls each class together, away from the others.

    MCML (Globerson & Roweis [1]_) minimises the divergence from an ideal distribution,

        1/n sum_i KL(q_i || p_i) + alpha n_components / n D(L Lᵀ, s² I),
        p_ij = exp(-|L x_i - L x_j|²) / sum_{k != i} exp(-|L x_i - L x_k|²),

    where q_ij is the same for all other rows j of the class of i, and 0 for rows of other classes.
    For a square L this is convex in M = LᵀL. D is the LogDet divergence
    tr A - ln det A - n_components with A = L Lᵀ / s². It is a pull toward the Euclidean distance,
    as strong as ``alpha * n_components`` additional rows. Unlike the paper, the objective includes
    this pull. Without it, few rows in many dimensions collapse along directions that do not
    generalise to new rows.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, in [1, n_features]; None for n_features. With fewer than n_features
        the search may end in a local minimum.
    init : {"auto", "pca", "lda", "identity", "random"} or array-like of shape \
            (n_components, n_features), default="auto"
        L at the start. "auto" is "lda" if there are at least `n_components` discriminant axes,
        else "pca" if `n_components` leaves axes out, else "identity". Every start except an array
        is scaled so that the few nearest neighbours are the likely choices.
    alpha : float, default=0.5
        Strength of the pull, >= 0; 0 for the objective of the paper. s² I is the Euclidean
        distance, scaled so that the few nearest neighbours are the likely choices.
    max_iter : int, default=200
        Maximum number of iterations.
    tol : float, default=1e-4
        The search ends when an iteration lowers the loss by less than this share of its value at
        the start.
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
        The loss at the start and after each iteration.
    n_iter_ : int
        Number of iterations.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    skdml.linear.NCA : Needs near neighbours of the same class; MCML pulls on all rows of a class.

    Notes
    -----
    An iteration takes O(n² n_components + n n_features n_components) time; memory is
    O(n (n_features + n_components) + n_features²). Minimising over L needs no projection of M.
    For a square L it also finds the minimum over M.

    References
    ----------
    .. [1] A. Globerson, S. Roweis, "Metric learning by collapsing classes", Advances in Neural
       Information Processing Systems 18, 451-458, 2006.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skdml import MCML
    >>> X, y = load_wine(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), MCML(), KNeighborsClassifier(3))
    >>> round(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]), 2)
    0.96
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        init: str | ArrayLike = "auto",
        alpha: float = 0.5,
        max_iter: int = 200,
        tol: float = 1e-4,
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
        X : array-like of shape (n_samples, n_features)
            Points.
        y : array-like of shape (n_samples,)
            Class labels, of any kind.
        sample_weight : array-like of shape (n_samples,), default=None
            How many times each row counts: weight 2 is the same as a row given twice.

        Returns
        -------
        self : MCML
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D or not finite, if y is missing, continuous or has a single class, if
            no class has two rows, or if a parameter is out of range.

        Warns
        -----
        ConvergenceWarning
            If the search did not converge in `max_iter` iterations.
        """
        with unchanged_on_error(self), one_thread("blas") as n_threads:
            self._check_ranges(alpha=(Real, False, 0, None, "left"))
            rows, codes, _ = self._read_labelled(X, y)
            weight = self._read_weight(sample_weight, rows)
            rows, codes, weight = distinct_rows(rows, codes, weight)
            codes, _ = encode_labels(codes)  # drops classes whose rows all have weight 0
            points = Points(rows, codes, weight).centred_and_scaled()
            rng = check_random_state(self.random_state)
            init = self._init_or_last_fit()
            start = initial_kernel_components(init, self.n_components, points, rng)
            loss = add_log_det_prior(
                self._loss(points, n_threads),
                self.alpha * len(start) / weight.sum(dtype=np.float64),
                unit=scale_to_unit_variance(np.eye(rows.shape[1]), points.X, weight)[0, 0],
            )
            options: dict[str, Any] = {"max_iter": self.max_iter, "tol": self.tol}
            options |= {"name": "MCML", "verbose": self.verbose}
            L, self.loss_curve_, self.n_iter_ = minimize_lbfgs(loss, start, **options)
            self._set_components(L / points.scale, rows.dtype)
        return self

    def _loss(self, points: Points, n_threads: int) -> Objective:
        X, codes, weight, _ = points
        others = same_class_weight(codes, weight)
        if not others.any():
            raise ValueError(no_same_class_message(codes))
        scatter = same_class_scatter(X, codes, row_shares(others, weight), weight)
        data = {"X": X, "codes": codes, "weight": weight, "scatter": scatter}
        return partial(mcml_loss, **data, n_threads=n_threads)
