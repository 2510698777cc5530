"""SDML: sparse distance metric learning, a graphical lasso near a prior (Qi et al. 2009)."""

from numbers import Real

import numpy as np
from scipy.linalg import eigvalsh
from scipy.linalg.lapack import dpotrf

from skdml.base import unchanged_on_error
from skdml.linear._differences import all_differences, scatter_of_differences
from skdml.linear._moments import moments_of
from skdml.linear._psd import root
from skdml.linear._solvers import warn_not_converged
from skdml.linear.base import LinearMetricLearner, check_n_components, no_same_class_message

# How near to singular the balance may bring P: P >= _FLOOR * inv(M0), so that M <= M0 / _FLOOR.
_FLOOR = 0.5


def scatters(pairs):
    """Mean of (x - y)(x - y)ᵀ over the pairs of each kind.

    Parameters
    ----------
    pairs : Pairs
        Pairs of points.

    Returns
    -------
    same, different : ndarray of float64, shape (n_features, n_features)
        The scatters; 0 where there is no such pair.
    """
    return tuple(
        scatter_of_differences(pairs.X, pairs.first[kind], pairs.second[kind]) / max(kind.sum(), 1)
        for kind in (pairs.same, ~pairs.same)
    )


def in_their_unit(same, different):
    """Scatters in units of the mean of their variances.

    Parameters
    ----------
    same, different : ndarray of shape (n_features, n_features)
        The scatters.

    Returns
    -------
    same, different : ndarray of float64, shape (n_features, n_features)
        The scatters; the mean of all their diagonal entries is 1.
    scale : float
        The root of what they were divided by; 1 where the points of each pair are equal.
    """
    mean = (np.trace(same) + np.trace(different)) / (2 * len(same))
    mean = mean if mean > 0 else 1.0
    return same / mean, different / mean, np.sqrt(mean)


def balanced(prior_inverse, difference, balance_param):
    """P = inv(M0) + balance_param * difference, with as much balance as keeps P well above 0.

    Parameters
    ----------
    prior_inverse : ndarray of shape (n_features, n_features)
        The inverse of the prior M0, positive definite.
    difference : ndarray of shape (n_features, n_features)
        X K Xᵀ of the paper: the scatter of same pairs minus that of different ones.
    balance_param : float
        The weight of the pairs, >= 0.

    Returns
    -------
    P : ndarray of shape (n_features, n_features)
        Positive definite: P - inv(M0) / 2 is positive semi-definite.
    balance : float
        The weight that was used, at most `balance_param`.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear.sdml import balanced
    >>> P, balance = balanced(np.eye(2), np.diag([1.0, -2.0]), 1.0)
    >>> P
    array([[1.25, 0.  ],
           [0.  , 0.5 ]])
    """
    lowest = eigvalsh(difference, prior_inverse, subset_by_index=[0, 0])[0]
    if lowest * balance_param < _FLOOR - 1:
        balance_param = (_FLOOR - 1) / lowest
    return prior_inverse + balance_param * difference, float(balance_param)


def objective(M, P, sparsity_param):
    """Value of tr(P M) - log det M + sparsity_param * Σ_{i≠j} abs(M_ij).

    Parameters
    ----------
    M, P : ndarray of shape (n_features, n_features)
        Symmetric matrices.
    sparsity_param : float
        The weight of the entries off the diagonal.

    Returns
    -------
    float
        The objective; infinite where M is not positive definite.
    """
    off_diagonal = abs(M).sum() - abs(M.diagonal()).sum()
    return float((P * M).sum() - log_det(M) + sparsity_param * off_diagonal)


def log_det(M):
    """Logarithm of the determinant, -inf where M is not positive definite."""
    factor, failed = dpotrf(M, lower=1)
    return -np.inf if failed else 2 * np.log(factor.diagonal()).sum()


def duality_gap(M, W, P, sparsity_param):
    """How far the objective at M can be above its minimum.

    By the dual, no objective is below d + log det V for a V that differs from P by at most
    `sparsity_param` off the diagonal, and not on it; V is the nearest one to W.

    Parameters
    ----------
    M, W, P : ndarray of shape (n_features, n_features)
        M, its inverse, and P.
    sparsity_param : float
        The weight of the entries off the diagonal.

    Returns
    -------
    float
        The gap, >= 0 but for rounding; infinite where it tells nothing.
    """
    V = P + np.clip(W - P, -sparsity_param, sparsity_param)
    np.fill_diagonal(V, P.diagonal())
    return objective(M, P, sparsity_param) - len(P) - log_det(V)


def shrink(M, threshold):
    """Bring the entries off the diagonal nearer to 0 by `threshold`, at most to 0."""
    shrunk = np.sign(M) * np.maximum(abs(M) - threshold, 0)
    np.fill_diagonal(shrunk, M.diagonal())
    return shrunk


def minimise(P, sparsity_param, max_iter, tol, verbose=0):
    """Minimise `objective` by proximal gradient steps of adapted length (Rolfs et al. 2012).

    A step follows the gradient P - inv(M), then shrinks. It is shortened until M stays positive
    definite and the objective falls as its quadratic model does.

    Parameters
    ----------
    P : ndarray of shape (n_features, n_features)
        Positive definite matrix.
    sparsity_param : float
        The weight of the entries off the diagonal.
    max_iter : int
        Steps at most; a ConvergenceWarning tells if they do not suffice.
    tol : float
        Duality gap for each feature to end at.
    verbose : int, default=0
        1 prints a line for each step.

    Returns
    -------
    M : ndarray of shape (n_features, n_features)
        The minimiser.
    loss_curve : ndarray of shape (n_iter + 1,)
        The objective at the inverse of P, where the search starts, and after each step.
    """
    M, W = np.linalg.inv(P), P
    M = (M + M.T) / 2
    curve, length = [objective(M, P, sparsity_param)], eigvalsh(M)[0] ** 2
    while duality_gap(M, W, P, sparsity_param) > tol * len(P):
        if len(curve) > max_iter:
            warn_not_converged("SDML", max_iter)
            break
        before, gradient, smooth = M, P - W, objective(M, P, 0)
        M = shrink(before - length * gradient, length * sparsity_param)
        while objective(M, P, 0) > smooth + model(M - before, gradient, length):
            length /= 2
            M = shrink(before - length * gradient, length * sparsity_param)
        W = np.linalg.inv(M)
        W = (W + W.T) / 2
        step = M - before
        # The step length of Barzilai and Borwein, from the curvature along the last step.
        length = (step**2).sum() / max((step * (P - W - gradient)).sum(), np.finfo(float).tiny)
        curve.append(objective(M, P, sparsity_param))
        if verbose:
            print(f"[SDML] iteration {len(curve) - 1}: {curve[-1]:.6g}", flush=True)
    return M, np.array(curve)


def model(step, gradient, length):
    """How much the smooth part of the objective is to rise along a step, at most."""
    rounding = 1e-12 * len(step)
    return (gradient * step).sum() + (step**2).sum() / (2 * length) + rounding


class SDML(LinearMetricLearner):
    """Sparse distance metric learning: near a prior, with few entries off the diagonal of M.

    SDML (Qi et al. [1]_, eq. 8) makes the distances of same pairs short and those of different
    pairs long, while M stays near a prior M0 in the LogDet divergence and most of its entries off
    the diagonal are 0::

        minimise over M > 0:  tr(P M) - log det M + sparsity_param * Σ_{i≠j} |M_ij|
        P = inv(M0) + balance_param * (mean over same pairs of (x - y)(x - y)ᵀ
                                       - mean over different pairs of (x - y)(x - y)ᵀ)

    which is convex: the graphical lasso of P.

    Parameters
    ----------
    n_components : int, default=None
        Rows of L: this many leading axes of M, from 1 to n_features. None keeps all.
    balance_param : float, default=0.5
        Weight of the pairs beside the prior, >= 0. See the notes.
    sparsity_param : float, default=0.01
        Weight of the entries off the diagonal, >= 0, in units of the mean variance: of P the
        entries smaller than that become 0, about. 0 gives the inverse of P, without zeros.
    shrinkage : float, default=0.8
        The prior: inv(M0) = (1 - shrinkage) T + shrinkage I, with T the scatter of the pairs, same
        and different with equal say, scaled to a mean variance of 1. In (0, 1]: near 0 M0 is the
        Mahalanobis distance, 1 is Euclid, the prior of the paper.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` reads: points and class labels, from which pairs are drawn, or pairs.
    n_constraints : int, default=None
        With labels, how many pairs to draw of each kind. None takes all pairs, by counts, means
        and the pooled scatter of the classes: exactly where all classes are equally large, and as
        if each had the pooled covariance otherwise.
    max_iter : int, default=1000
        Steps at most, >= 1.
    tol : float, default=1e-5
        Duality gap for each feature to end at, > 0.
    random_state : int, RandomState instance or None, default=None
        Draws the pairs if `n_constraints` is given.
    verbose : int, default=0
        1 prints the objective after each step.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M, by decreasing eigenvalue of M. float32 if X is, else float64.
    balance_ : float
        The weight of the pairs that was used, at most `balance_param`.
    n_iter_ : int
        Number of steps.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        The objective at the inverse of P, where the search starts, and after each step.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    GMML : From the same two scatters in closed form, without zeros.
    ITML : LogDet to a prior with bounds on each pair.

    Notes
    -----
    Scatters are means, not sums as in the paper, in units of their mean variance: the parameters
    mean the same for any number of pairs and in any unit.

    P has to be positive definite, else the objective has no minimum. Different pairs pull it
    below 0 where they differ much more than all pairs do. `balance_param` is then lowered, to
    `balance_`, until P >= inv(M0) / 2, hence M <= 2 M0 without the penalty: no direction counts
    more than twice what the prior gives it. With ``shrinkage`` near 0 and ``balance_param=0.5``,
    P is the scatter of the same pairs alone.

    It is solved by proximal gradient steps (Rolfs et al. [2]_) until the duality gap is small.
    With n points, d features, m pairs and k steps: O(m d + n d² + k d³) time, O(n d + m + d²)
    memory.

    References
    ----------
    .. [1] G.-J. Qi, J. Tang, Z.-J. Zha, T.-S. Chua and H.-J. Zhang, "An efficient sparse metric
       learning in high-dimensional space via l1-penalized log-determinant regularization",
       International Conference on Machine Learning, 2009.
    .. [2] B. Rolfs, B. Rajaratnam, D. Guillot, I. Wong and A. Maleki, "Iterative thresholding
       algorithm for sparse inverse covariance estimation", Advances in Neural Information
       Processing Systems 25, 2012.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import SDML
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(SDML(random_state=0), KNeighborsClassifier(3))
    >>> round(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]), 2)
    0.97
    """

    _supervisions = ("labels", "pairs")

    def __init__(
        self,
        n_components=None,
        *,
        balance_param=0.5,
        sparsity_param=0.01,
        shrinkage=0.8,
        supervision="labels",
        n_constraints=None,
        max_iter=1000,
        tol=1e-5,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.balance_param = balance_param
        self.sparsity_param = sparsity_param
        self.shrinkage = shrinkage
        self.supervision = supervision
        self.n_constraints = n_constraints
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None):
        """Learn the distance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)
            Points, or pairs with ``supervision="pairs"``.
        y : array-like of shape (n_samples,) or (n_pairs,)
            Class labels, of any kind; or for each pair 1 if it is of one class, 0 or -1 if not.

        Returns
        -------
        self : SDML
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not finite or of another shape, if y is missing or holds a single class or
            kind, or if a parameter is out of range.
        """
        with unchanged_on_error(self):
            self._check_parameters()
            dtype, same, different = self._read_scatters(X, y)
            n_components = check_n_components(self.n_components, self.n_features_in_, "n_features")
            same, different, scale = in_their_unit(same, different)
            total = (same + different) / 2
            prior = (1 - self.shrinkage) * total + self.shrinkage * np.eye(len(total))
            P, self.balance_ = balanced(prior, same - different, self.balance_param)
            M, self.loss_curve_ = minimise(
                P, self.sparsity_param, self.max_iter, self.tol, self.verbose
            )
            self.n_iter_ = len(self.loss_curve_) - 1
            self.components_ = (root(M, n_components) / scale).astype(dtype)
        return self

    def _read_scatters(self, X, y):
        """Check points or pairs: their dtype, and the scatters of same and different pairs."""
        if self.supervision == "pairs" or self.n_constraints is not None:
            pairs = self._read_pairs(X, y)
            return pairs.X.dtype, *scatters(pairs)
        X, codes, _ = self._read_labelled(X, y)
        if np.bincount(codes).max() < 2:
            raise ValueError(no_same_class_message(codes))
        same, different, _ = all_differences(moments_of(X.astype(np.float64), codes))
        return X.dtype, same, different

    def _check_parameters(self):
        self._check_ranges(
            tol=(Real, False, 0, None, "neither"),
            balance_param=(Real, False, 0, None, "left"),
            sparsity_param=(Real, False, 0, None, "left"),
            shrinkage=(Real, False, 0, 1, "right"),
        )
