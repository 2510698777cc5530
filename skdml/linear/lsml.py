"""Metric learning from relative comparisons by minimising squared residuals."""

from numbers import Real
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array

from skdml.base import unchanged_on_error
from skdml.linear._pairs import PairDistances, points_differ
from skdml.linear._prior import log_det_divergence, map_by_prior
from skdml.linear._psd import leading_components
from skdml.linear._solvers import minimize_lbfgs
from skdml.linear.base import LinearMetricLearner, check_n_components


def residual_loss(
    near: NDArray[np.floating], far: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """H(d(a, b) - d(c, d)) with H(x) = max(0, x)², and its derivatives.

    Parameters
    ----------
    near, far : ndarray of shape (n_quadruplets,)
        d(a, b)² and d(c, d)².

    Returns
    -------
    loss, slope_near, slope_far : ndarray of shape (n_quadruplets,)
        The loss, which is convex in both squared distances, and its derivative with respect to
        each of them.
    """
    d_near, d_far = np.sqrt(near), np.sqrt(far)
    excess = np.maximum(d_near - d_far, 0)
    positive = np.finfo(np.float64).tiny  # avoids 0 / 0: a distance of 0 gets the slope 0
    return excess**2, excess / np.maximum(d_near, positive), -excess / np.maximum(d_far, positive)


def lsml_objective(
    A: NDArray[np.floating], pairs: PairDistances, weight: NDArray[np.floating]
) -> tuple[float, NDArray[np.floating]]:
    """D(AᵀA, I) + Σ weight H(d(a, b) - d(c, d)), for points mapped by the root of the prior.

    Parameters
    ----------
    A : ndarray of shape (n_features, n_features)
        M = AᵀA.
    pairs : PairDistances
        The pairs (a, b) of all quadruplets, then the pairs (c, d).
    weight : ndarray of shape (n_quadruplets,)
        Weight of each quadruplet.

    Returns
    -------
    value : float
        The objective, >= 0.
    gradient : ndarray of shape (n_features, n_features)
        Gradient of the value with respect to A.
    """
    squared, gradient_of = pairs(A)
    loss, *slopes = residual_loss(*np.split(squared, 2))
    divergence, gradient = log_det_divergence(A)
    pull = gradient_of(np.tile(weight, 2) * np.hstack(slopes))
    return divergence + float(weight @ loss), gradient + pull


class LSML(LinearMetricLearner):
    """Metric learning from relative comparisons: one distance is less than another.

    LSML [1]_ learns from quadruplets (a, b, c, d) with d(a, b) < d(c, d). It minimises

        D(M, M₀) + Σ wᵢ max(0, d(aᵢ, bᵢ) - d(cᵢ, dᵢ))²
        with D(M, M₀) = tr(M M₀⁻¹) - ln det(M M₀⁻¹) - n_features.

    The first term is the LogDet divergence from a prior M₀. The second term sums the squared
    violations of the comparisons. The problem is convex and smooth in M and is solved by L-BFGS.
    M stays positive definite.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, from 1 to n_features. The leading axes of M are kept. None keeps all.
        Sparse points are first mapped to this many principal axes, and M is learned in that
        space.
    gamma : float, default=0.3
        Weight of the comparisons relative to the prior, > 0. The weight wᵢ is ``gamma * n_points``
        divided by the number of quadruplets, with n_points the number of distinct points in them.
        The total weight thus does not grow with more quadruplets of the same points. Increase it
        if the prior is poor or there are many points.
    prior : {"identity", "covariance"} or array-like of shape (n_features, n_features), \
            default="identity"
        M₀. "identity": the identity, for points scaled to a mean squared distance of 2.
        "covariance": the inverse of the covariance of the points. If the covariance is singular,
        its pseudo-inverse is used and M ignores the directions without variance. An array has to
        be positive definite. Choose "covariance" if the columns have different units.
    supervision : {"labels", "quadruplets"}, default="labels"
        What `fit` reads. "labels": points and class labels, from which quadruplets are drawn; a
        and b belong to one class, c and d to two. "quadruplets": quadruplets of points.
    n_constraints : int, default=None
        With labels, the number of quadruplets to draw, at least 1. None draws as many as M has
        free entries, n_features (n_features + 1) / 2, but at least 1000 and at most ten per row.
        More quadruplets make a fit slower and did not improve k-NN (benchmarks/accuracy.py).
    max_iter : int, default=1000
        Maximum number of iterations, at least 1. Increase it after a ConvergenceWarning.
    tol : float, default=1e-4
        Relative tolerance, >= 0. Iteration stops if the objective falls by less than this share
        of its initial value. It also stops if the gradient falls to this share of its initial
        size. Increase it for a faster fit.
    random_state : int, RandomState instance or None, default=None
        Seed of the generator that draws the quadruplets. Pass an int for repeatable results.
    verbose : int, default=0
        1 prints a line for each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M. The rows are the axes of M, by decreasing eigenvalue. float32 if X is
        float32, otherwise float64.
    n_iter_ : int
        Number of iterations.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        The objective at the prior and after each iteration.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    ITML : The same prior, with bounds on the distances instead of comparisons.

    Notes
    -----
    There is no `init`: every start leads to the same minimum, and the search starts at the prior.
    Quadruplets with equal c and d are left out, because no M separates these two points. One
    evaluation of the objective takes O(n_points n_features² + n_quadruplets n_features) time and
    O(n_points n_features + n_quadruplets) memory.

    References
    ----------
    .. [1] E. Y. Liu, Z. Guo, X. Zhang, V. Jojic & W. Wang, "Metric learning from relative
       comparisons by minimizing squared residual", ICDM 2012.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import LSML
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(LSML(random_state=0), KNeighborsClassifier(3))
    >>> round(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]), 2)
    0.97
    """

    _sparse = True
    _supervisions = ("labels", "quadruplets")

    def __init__(
        self,
        n_components: int | None = None,
        *,
        gamma: float = 0.3,
        prior: str | ArrayLike = "identity",
        supervision: str = "labels",
        n_constraints: int | None = None,
        max_iter: int = 1000,
        tol: float = 1e-4,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.gamma = gamma
        self.prior = prior
        self.supervision = supervision
        self.n_constraints = n_constraints
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, X: ArrayLike, y: ArrayLike | None = None, *, weights: ArrayLike | None = None
    ) -> Self:
        """Learn the distance.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or array-like of shape \
                (n_quadruplets, 4, n_features)
            Points; quadruplets of points with ``supervision="quadruplets"``.
        y : array-like of shape (n_samples,), default=None
            Class labels of any kind. Ignored with ``supervision="quadruplets"``.
        weights : array-like of shape (n_quadruplets,), default=None
            Weight of each quadruplet, >= 0. The weights are divided by their mean. None gives all
            quadruplets the same weight. Only with ``supervision="quadruplets"``.

        Returns
        -------
        self : LSML
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not finite or has another shape; if all labels belong to one class; if no
            class has two samples; if `weights` are invalid; or if a parameter is out of range.

        Warns
        -----
        ConvergenceWarning
            If the fit needs more than `max_iter` iterations.
        """
        with unchanged_on_error(self):
            self._check_ranges(gamma=(Real, False, 0, None, "neither"))
            given, rows = self._read_quadruplets(X, y)
            n_components = check_n_components(self.n_components, given.shape[1], "n_features")
            weight = self._read_quadruplet_weights(weights, len(rows))

            points, L0, a, b, c, d = map_by_prior(self.prior, n_components, given, *rows.T)
            apart = points_differ(points, c, d)
            pairs = PairDistances(points, *(np.r_[i[apart], j[apart]] for i, j in ((a, c), (b, d))))
            weight = self.gamma * len(points) / len(rows) * weight[apart]

            A, self.loss_curve_, self.n_iter_ = minimize_lbfgs(
                lambda A: lsml_objective(A, pairs, weight),
                np.eye(len(L0)),
                max_iter=self.max_iter,
                tol=self.tol,
                name="LSML",
                verbose=self.verbose,
            )
            self._set_components(leading_components(A @ L0, n_components), given.dtype)
            return self

    def _n_constraints(self, n_samples: int) -> int:
        n_entries = self.n_features_in_ * (self.n_features_in_ + 1) // 2
        return self.n_constraints or min(10 * n_samples, max(1000, n_entries))

    def _read_quadruplet_weights(
        self, weights: ArrayLike | None, n_quadruplets: int
    ) -> NDArray[np.floating]:
        """Check the weights of the quadruplets and scale them to a mean of 1."""
        if weights is None:
            return np.ones(n_quadruplets)
        if self.supervision != "quadruplets":
            raise ValueError(
                f'weights need supervision="quadruplets"; supervision is {self.supervision!r}. '
                "Leave weights out, or fit on quadruplets."
            )
        checked = check_array(weights, ensure_2d=False, dtype=np.float64, input_name="weights")
        if checked.shape != (n_quadruplets,) or checked.min() < 0 or not checked.any():
            raise ValueError(
                f"weights must hold one number >= 0 for each of the {n_quadruplets} quadruplets, "
                f"not all 0; got shape {checked.shape} and minimum {checked.min():.3g}."
            )
        return checked / checked.mean()
