"""Sparse distance metric learning: a graphical lasso near a prior."""

from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigvalsh
from scipy.linalg.lapack import dpotrf

from skdml.base import unchanged_on_error
from skdml.linear._differences import all_differences, scatter_of_differences
from skdml.linear._moments import moments_of
from skdml.linear._psd import root
from skdml.linear._solvers import warn_not_converged
from skdml.linear.base import LinearMetricLearner, Pairs, check_n_components, no_same_class_message

# Lower bound on P, as a share of inv(M0): P >= _FLOOR * inv(M0), so that M <= M0 / _FLOOR.
_FLOOR = 0.5


def pair_scatters(pairs: Pairs) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Mean of (x - y)(x - y)ᵀ over the same pairs, and over the different pairs.

    Parameters
    ----------
    pairs : Pairs
        Pairs of points.

    Returns
    -------
    same, different : ndarray of float64, shape (n_features, n_features)
        The scatters; 0 if there is no such pair.
    """
    same, different = (
        scatter_of_differences(pairs.X, pairs.first[kind], pairs.second[kind]) / max(kind.sum(), 1)
        for kind in (pairs.same, ~pairs.same)
    )
    return same, different


def scale_to_unit_variance(
    same: NDArray[np.floating], different: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating], float]:
    """Divide both scatters by the mean of their variances.

    Parameters
    ----------
    same, different : ndarray of shape (n_features, n_features)
        The scatters.

    Returns
    -------
    same, different : ndarray of float64, shape (n_features, n_features)
        The scaled scatters; the mean of all their diagonal entries is 1.
    scale : float
        Square root of the divisor; 1 if the points of each pair are equal.
    """
    mean = (np.trace(same) + np.trace(different)) / (2 * len(same))
    mean = mean if mean > 0 else 1.0
    return same / mean, different / mean, np.sqrt(mean)


def balance_pairs(
    prior_inverse: NDArray[np.floating], difference: NDArray[np.floating], balance_param: float
) -> tuple[NDArray[np.floating], float]:
    """P = inv(M0) + balance * difference, with the balance lowered until P is well above 0.

    Parameters
    ----------
    prior_inverse : ndarray of shape (n_features, n_features)
        Inverse of the prior M0, positive definite.
    difference : ndarray of shape (n_features, n_features)
        X K Xᵀ of the paper: the scatter of same pairs minus the scatter of different pairs.
    balance_param : float
        Largest allowed balance, >= 0.

    Returns
    -------
    P : ndarray of shape (n_features, n_features)
        Positive definite: P - inv(M0) / 2 is positive semi-definite.
    balance : float
        The balance that was used, at most `balance_param`.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear.sdml import balance_pairs
    >>> P, balance = balance_pairs(np.eye(2), np.diag([1.0, -2.0]), 1.0)
    >>> P
    array([[1.25, 0.  ],
           [0.  , 0.5 ]])
    """
    lowest = eigvalsh(difference, prior_inverse, subset_by_index=[0, 0])[0]
    if lowest * balance_param < _FLOOR - 1:
        balance_param = (_FLOOR - 1) / lowest
    return prior_inverse + balance_param * difference, float(balance_param)


def sdml_objective(
    M: NDArray[np.floating], P: NDArray[np.floating], sparsity_param: float
) -> float:
    """Value of tr(P M) - log det M + sparsity_param * Σ_{i≠j} abs(M_ij).

    Parameters
    ----------
    M, P : ndarray of shape (n_features, n_features)
        Symmetric matrices.
    sparsity_param : float
        Weight of the entries off the diagonal.

    Returns
    -------
    float
        The objective; infinite if M is not positive definite.
    """
    off_diagonal = abs(M).sum() - abs(M.diagonal()).sum()
    return float((P * M).sum() - log_det(M) + sparsity_param * off_diagonal)


def log_det(M: NDArray[np.floating]) -> float:
    """Logarithm of the determinant; -inf if M is not positive definite."""
    factor, failed = dpotrf(M, lower=1)
    return -np.inf if failed else 2 * np.log(factor.diagonal()).sum()


def duality_gap(
    M: NDArray[np.floating],
    W: NDArray[np.floating],
    P: NDArray[np.floating],
    sparsity_param: float,
) -> float:
    """Upper bound on the difference between the objective at M and its minimum.

    By duality, n_features + log det V is a lower bound of the objective for certain matrices V: V
    equals P on the diagonal and differs from P by at most `sparsity_param` elsewhere. The V
    nearest to W is used.

    Parameters
    ----------
    M, W, P : ndarray of shape (n_features, n_features)
        M, its inverse, and P.
    sparsity_param : float
        Weight of the entries off the diagonal.

    Returns
    -------
    float
        The gap, >= 0 up to rounding; infinite if V is not positive definite.
    """
    V = P + np.clip(W - P, -sparsity_param, sparsity_param)
    np.fill_diagonal(V, P.diagonal())
    return sdml_objective(M, P, sparsity_param) - len(P) - log_det(V)


def soft_threshold(M: NDArray[np.floating], threshold: float) -> NDArray[np.floating]:
    """Move the entries off the diagonal towards 0 by `threshold`, and no further than 0."""
    shrunk = np.sign(M) * np.maximum(abs(M) - threshold, 0)
    np.fill_diagonal(shrunk, M.diagonal())
    return shrunk


def quadratic_bound(
    step: NDArray[np.floating], gradient: NDArray[np.floating], length: float
) -> float:
    """Largest accepted increase of the smooth part of the objective along a step."""
    rounding = 1e-12 * len(step)
    return (gradient * step).sum() + (step**2).sum() / (2 * length) + rounding


def minimise_objective(
    P: NDArray[np.floating], sparsity_param: float, max_iter: int, tol: float, verbose: int = 0
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Minimise `sdml_objective` by proximal gradient steps (Rolfs et al. 2012).

    A step follows the gradient P - inv(M) and then applies the soft threshold. Its length starts
    from the curvature along the last step. It is halved until M is positive definite and the
    objective falls as its quadratic model does.

    Parameters
    ----------
    P : ndarray of shape (n_features, n_features)
        Positive definite matrix.
    sparsity_param : float
        Weight of the entries off the diagonal.
    max_iter : int
        Maximum number of steps. A ConvergenceWarning is raised if they do not suffice.
    tol : float
        The search stops at this duality gap per feature.
    verbose : int, default=0
        1 prints a line for each step.

    Returns
    -------
    M : ndarray of shape (n_features, n_features)
        The minimiser.
    loss_curve : ndarray of shape (n_iter + 1,)
        The objective at the start, the inverse of P, and after each step.
    """
    M, W = np.linalg.inv(P), P
    M = (M + M.T) / 2
    curve, length = [sdml_objective(M, P, sparsity_param)], eigvalsh(M)[0] ** 2
    while duality_gap(M, W, P, sparsity_param) > tol * len(P):
        if len(curve) > max_iter:
            warn_not_converged("SDML", max_iter)
            break
        before, gradient, smooth = M, P - W, sdml_objective(M, P, 0)
        M = soft_threshold(before - length * gradient, length * sparsity_param)
        while sdml_objective(M, P, 0) > smooth + quadratic_bound(M - before, gradient, length):
            length /= 2
            M = soft_threshold(before - length * gradient, length * sparsity_param)
        W = np.linalg.inv(M)
        W = (W + W.T) / 2
        step = M - before
        # The step length of Barzilai and Borwein, from the curvature along the last step.
        length = (step**2).sum() / max((step * (P - W - gradient)).sum(), np.finfo(float).tiny)
        curve.append(sdml_objective(M, P, sparsity_param))
        if verbose:
            print(f"[SDML] iteration {len(curve) - 1}: {curve[-1]:.6g}", flush=True)
    return M, np.array(curve)


class SDML(LinearMetricLearner):
    """Sparse distance metric learning: M near a prior, with few entries off the diagonal.

    SDML (Qi et al. [1]_, eq. 8) shortens the distances of same pairs and lengthens those of
    different pairs. M stays near a prior M0 in the LogDet divergence, and most of its entries off
    the diagonal are 0::

        minimise over M > 0:  tr(P M) - log det M + sparsity_param * Σ_{i≠j} |M_ij|
        P = inv(M0) + balance_param * (mean over same pairs of (x - y)(x - y)ᵀ
                                       - mean over different pairs of (x - y)(x - y)ᵀ)

    The problem is convex: it is the graphical lasso of P.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, from 1 to n_features. The leading axes of M are kept. None keeps all.
    balance_param : float, default=0.5
        Weight of the pairs relative to the prior, >= 0. Increase it if the prior is poor. It is
        lowered automatically where needed; see the notes.
    sparsity_param : float, default=0.01
        Weight of the entries off the diagonal, >= 0, in units of the mean variance. Entries of P
        below about this size become 0. 0 gives the inverse of P, without zeros. Increase it for
        more zeros.
    shrinkage : float, default=0.8
        Form of the prior, in (0, 1]: inv(M0) = (1 - shrinkage) T + shrinkage I. T is the mean of
        the scatters of same and different pairs, scaled to a mean variance of 1. Near 0, M0 is the
        Mahalanobis distance. 1 is Euclidean distance, the prior of the paper. Decrease it if the
        columns have different units.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` reads. "labels": points and class labels. "pairs": pairs of points, each
        labelled same or different.
    n_constraints : int, default=None
        With labels, the number of same pairs to draw, and of different pairs, at least 1. None
        uses all pairs. They are not listed: the scatters follow from the counts, the means and
        the pooled scatter of the classes. This is exact if all classes have the same size.
        Otherwise every class is treated as having the pooled covariance. Set it if the classes
        differ much in size and in covariance.
    max_iter : int, default=1000
        Maximum number of steps, at least 1. Increase it after a ConvergenceWarning.
    tol : float, default=1e-5
        The search stops at this duality gap per feature, > 0. Increase it for a faster fit.
    random_state : int, RandomState instance or None, default=None
        Seed of the generator that draws the pairs if `n_constraints` is given. Pass an int for
        repeatable results.
    verbose : int, default=0
        1 prints the objective after each step.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M, by decreasing eigenvalue of M. float32 if X is float32, otherwise float64.
    balance_ : float
        Weight of the pairs that was used, at most `balance_param`.
    n_iter_ : int
        Number of steps.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        The objective at the start, the inverse of P, and after each step.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    GMML : Uses the same two scatters in closed form, without zeros.
    ITML : Uses the LogDet divergence from a prior, and bounds on each pair.

    Notes
    -----
    Unlike the paper, scatters are means and not sums, in units of their mean variance. The
    parameters therefore have the same meaning for any number of pairs and in any unit.

    The objective has no minimum unless P is positive definite. Different pairs lower P, and P is
    not positive definite if they differ much more than all pairs do. `balance_param` is then
    lowered to `balance_`, until P >= inv(M0) / 2. Without the penalty this means M <= 2 M0: no
    direction gets more than twice its weight in the prior. With ``shrinkage`` near 0 and
    ``balance_param=0.5``, P is the scatter of the same pairs alone.

    The solver takes proximal gradient steps (Rolfs et al. [2]_) until the duality gap is small.
    With n points, d features, m pairs and k steps, a fit takes O(m d + n d² + k d³) time and
    O(n d + m + d²) memory.

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
        n_components: int | None = None,
        *,
        balance_param: float = 0.5,
        sparsity_param: float = 0.01,
        shrinkage: float = 0.8,
        supervision: str = "labels",
        n_constraints: int | None = None,
        max_iter: int = 1000,
        tol: float = 1e-5,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
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

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Learn the distance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)
            Points; pairs of points with ``supervision="pairs"``.
        y : array-like of shape (n_samples,) or (n_pairs,)
            Class labels of any kind. For pairs: 1 for a same pair, 0 or -1 for a different pair.

        Returns
        -------
        self : SDML
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not finite or has another shape; if y is missing; if all labels, or all pairs,
            are of one kind; if no class has two samples; or if a parameter is out of range.

        Warns
        -----
        ConvergenceWarning
            If the fit needs more than `max_iter` steps.
        """
        with unchanged_on_error(self):
            self._check_parameters()
            dtype, same, different = self._read_scatters(X, y)
            n_components = check_n_components(self.n_components, self.n_features_in_, "n_features")

            same, different, scale = scale_to_unit_variance(same, different)
            total = (same + different) / 2
            prior_inverse = (1 - self.shrinkage) * total + self.shrinkage * np.eye(len(total))
            P, self.balance_ = balance_pairs(prior_inverse, same - different, self.balance_param)

            M, self.loss_curve_ = minimise_objective(
                P, self.sparsity_param, self.max_iter, self.tol, self.verbose
            )
            self.n_iter_ = len(self.loss_curve_) - 1
            self._set_components(root(M, n_components) / scale, dtype)
        return self

    def _check_parameters(self) -> None:
        self._check_ranges(
            tol=(Real, False, 0, None, "neither"),
            balance_param=(Real, False, 0, None, "left"),
            sparsity_param=(Real, False, 0, None, "left"),
            shrinkage=(Real, False, 0, 1, "right"),
        )

    def _read_scatters(
        self, X: ArrayLike, y: ArrayLike | None
    ) -> tuple[np.dtype[Any], NDArray[np.floating], NDArray[np.floating]]:
        """Check points or pairs: their dtype, and the scatters of same and different pairs."""
        if self.supervision == "pairs" or self.n_constraints is not None:
            pairs = self._read_pairs(X, y)
            return pairs.X.dtype, *pair_scatters(pairs)
        points, codes, _ = self._read_labelled(X, y)
        if np.bincount(codes).max() < 2:
            raise ValueError(no_same_class_message(codes))
        same, different, _ = all_differences(moments_of(points.astype(np.float64), codes))
        return points.dtype, same, different
