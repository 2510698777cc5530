"""Maximally collapsing metric learning: each class drawn to one point, the others sent away."""

from functools import partial
from numbers import Real

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.utils import check_random_state

from skdml._threads import one_thread
from skdml.base import unchanged_on_error
from skdml.constraints import encode_labels
from skdml.linear._kernels import initial_kernel_components, kernel_sums, scale_to_unit_variance
from skdml.linear._points import Points, distinct_rows
from skdml.linear._prior import add_log_det_prior
from skdml.linear._solvers import minimize_lbfgs
from skdml.linear.base import LinearMetricLearner, no_same_class_message


def mass_of_mates(codes, weight):
    """Weight of the other rows of the class of each row.

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
        Classes.
    weight : ndarray of shape (n_samples,)
        A row of weight w counts as w rows at one place: its w - 1 twins are among its mates.

    Returns
    -------
    ndarray of float64, shape (n_samples,)
        Weights; 0 where a row is alone.
    """
    weight = weight.astype(np.float64)
    total = np.bincount(codes, weight)[codes]
    size = np.bincount(codes)[codes]
    return np.where(size > 1, total - weight, 0) + np.maximum(weight - 1, 0)


def scatter_of_mates(X, codes, share, weight):
    """Mean over the rows i of the mean of (x_i - x_j)(x_i - x_j)ᵀ over the mates j of i.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    share : ndarray of shape (n_samples,)
        Weight of each row in the outer mean, 0 for rows without mates; the sum is 1.
    weight : ndarray of shape (n_samples,)
        Weights of the rows as mates.

    Returns
    -------
    ndarray of float64, shape (n_features, n_features)
        S: tr(S LᵀL) is the mean square distance of mates.
    """
    X, weight = X.astype(np.float64), weight.astype(np.float64)
    member = csr_matrix((weight, (codes, np.arange(len(X)))))
    total = np.bincount(codes, weight)
    X -= ((member @ X) / total[:, None])[codes]
    # Sum over j in the class of w_j (x_i - x_j)(x_i - x_j)ᵀ is total x_i x_iᵀ + sum w_j x_j x_jᵀ.
    per_mass = np.divide(share, mass_of_mates(codes, weight), where=share > 0, out=0 * share)
    outer = per_mass * total[codes] + weight * np.bincount(codes, per_mass)[codes]
    return (X.T * outer) @ X


def mcml_loss(L, X, codes, weight, scatter, n_threads=1):
    """Mean divergence from ideal neighbours to those under L (eq. 4 of the paper), its gradient.

    Row i chooses row j with probability p_ij, proportional to exp(-|L x_i - L x_j|²); ideally it
    would choose each row of its class with the same probability, and no other. The loss is the
    mean over i of the Kullback-Leibler divergence of the one from the other. It is convex in LᵀL.

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        L.
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes. Rows without a mate only serve as neighbours.
    weight : ndarray of shape (n_samples,)
        A row of weight w counts as w rows at one place.
    scatter : ndarray of shape (n_features, n_features)
        `scatter_of_mates` of the same.
    n_threads : int, default=1
        How many threads to use.

    Returns
    -------
    loss : float
        Mean divergence, >= 0.
    gradient : ndarray of shape (n_components, n_features)
        Its derivative by L.
    """
    mass = mass_of_mates(codes, weight)
    share = share_of_choosers(mass, weight)

    def work(block):
        return np.log(block.total) - block.shift, -share[block.rows] / block.total

    Z = X @ L.T.astype(X.dtype)
    log_total, pull = kernel_sums(
        Z, work, weight=weight, self_weight=np.maximum(weight - 1, 0), n_threads=n_threads
    )
    has_mates = share > 0
    divergence = log_total[has_mates] - np.log(mass[has_mates])
    toward = L @ scatter
    loss = float(share[has_mates] @ divergence + (L * toward).sum())
    return loss, 2 * (toward + (pull.astype(X.dtype).T @ X).astype(np.float64))


def share_of_choosers(mass, weight):
    """Share of each row in the mean over all rows that have mates.

    Parameters
    ----------
    mass : ndarray of shape (n_samples,)
        `mass_of_mates`.
    weight : ndarray of shape (n_samples,)
        Weights of the rows.

    Returns
    -------
    ndarray of float64, shape (n_samples,)
        The shares; their sum is 1.
    """
    chosen = np.where(mass > 0, weight, 0).astype(np.float64)
    return chosen / chosen.sum()


class MCML(LinearMetricLearner):
    """Maximally collapsing metric learning: each class drawn together, the others kept away.

    MCML (Globerson & Roweis [1]_) minimises the divergence from ideal neighbours,

        1/n sum_i KL(q_i || p_i) + alpha n_components / n D(L Lᵀ, s² I),
        p_ij = exp(-|L x_i - L x_j|²) / sum_{k != i} exp(-|L x_i - L x_k|²),

    where q_ij is the same for all other rows j of the class of i, and 0 for all others. For a
    square L that is convex in M = LᵀL. D is the LogDet divergence tr A - ln det A - n_components,
    A = L Lᵀ / s²: a pull toward Euclid, as if ``alpha * n_components`` more rows spoke for it. It
    is no part of the paper; without it few rows in many dimensions collapse onto directions that
    other rows do not share.

    Parameters
    ----------
    n_components : int, default=None
        Rows of L, in [1, n_features]; None for n_features. With fewer the minimum may be a local
        one.
    init : {"auto", "pca", "lda", "identity", "random"} or array-like of shape \
            (n_components, n_features), default="auto"
        L to begin with. "auto" is "lda" where that has so many axes, else "pca" where some are
        left out, else "identity". All but an array are brought to a scale at which the nearest
        few neighbours are the likely choices.
    alpha : float, default=0.5
        Strength of the pull, >= 0; 0 for the objective of the paper. s² I is Euclid
        at a scale at which the nearest few neighbours are the likely choices.
    max_iter : int, default=200
        Iterations at most.
    tol : float, default=1e-4
        The search ends when an iteration gains less than this share of the loss at the start.
    warm_start : bool, default=False
        Whether to begin with L of the last fit.
    random_state : int, RandomState instance or None, default=None
        Decides ``init="random"``. All else draws nothing.
    verbose : int, default=0
        1 prints a line for each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L. float32 if X is, else float64.
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
    skdml.linear.NCA : Rewards one mate among the nearest, where MCML asks for all.

    Notes
    -----
    An iteration takes O(n² n_components + n n_features n_components) time; memory is
    O(n (n_features + n_components) + n_features²). Minimising over L needs no projection of M,
    and for a square L finds the minimum over M, too.

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
        n_components=None,
        *,
        init="auto",
        alpha=0.5,
        max_iter=200,
        tol=1e-4,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.init = init
        self.alpha = alpha
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None, sample_weight=None):
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
            If X is not 2-D or not finite, if y is missing, continuous or of one class, if no
            class has two rows, or if a parameter is out of range.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` iterations did not suffice.
        """
        with unchanged_on_error(self), one_thread("blas") as n_threads:
            self._check_ranges(alpha=(Real, False, 0, None, "left"))
            X, codes, _ = self._read_labelled(X, y)
            X, codes, weight = distinct_rows(X, codes, self._read_weight(sample_weight, X))
            codes, _ = encode_labels(codes)  # drops classes whose rows all have weight 0
            points = Points(X, codes, weight).centred_and_scaled()
            rng = check_random_state(self.random_state)
            init = self._init_or_last_fit()
            start = initial_kernel_components(init, self.n_components, points, rng)
            loss = add_log_det_prior(
                self._loss(points, n_threads),
                self.alpha * len(start) / weight.sum(dtype=np.float64),
                unit=scale_to_unit_variance(np.eye(X.shape[1]), points.X, weight)[0, 0],
            )
            options = {"max_iter": self.max_iter, "tol": self.tol, "verbose": self.verbose}
            L, self.loss_curve_, self.n_iter_ = minimize_lbfgs(loss, start, name="MCML", **options)
            self.components_ = (L / points.scale).astype(X.dtype)
        return self

    def _loss(self, points, n_threads):
        X, codes, weight, _ = points
        mass = mass_of_mates(codes, weight)
        if not mass.any():
            raise ValueError(no_same_class_message(codes))
        scatter = scatter_of_mates(X, codes, share_of_choosers(mass, weight), weight)
        data = {"X": X, "codes": codes, "weight": weight, "scatter": scatter}
        return partial(mcml_loss, **data, n_threads=n_threads)
