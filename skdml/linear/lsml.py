"""Metric learning from relative comparisons by minimising squared residuals."""

from numbers import Real

import numpy as np
from sklearn.utils import check_array

from skdml.base import unchanged_on_error
from skdml.linear._pairs import PairDistances, points_differ
from skdml.linear._prior import log_det_divergence, map_by_prior
from skdml.linear._psd import leading_components
from skdml.linear._solvers import minimize_lbfgs
from skdml.linear.base import LinearMetricLearner, check_n_components


def residual_loss(near, far):
    """H(d(a, b) - d(c, d)) with H(x) = max(0, x)², and its slopes.

    Parameters
    ----------
    near, far : ndarray of shape (n_quadruplets,)
        d(a, b)² and d(c, d)².

    Returns
    -------
    loss, slope_near, slope_far : ndarray of shape (n_quadruplets,)
        The loss, convex in both, and its derivatives by each.
    """
    d_near, d_far = np.sqrt(near), np.sqrt(far)
    excess = np.maximum(d_near - d_far, 0)
    positive = np.finfo(np.float64).tiny  # a distance of 0 has no excess, and no slope
    return excess**2, excess / np.maximum(d_near, positive), -excess / np.maximum(d_far, positive)


def lsml_objective(A, pairs, weight):
    """D(AᵀA, I) + Σ weight H(d(a, b) - d(c, d)), on points mapped by the prior's root.

    Parameters
    ----------
    A : ndarray of shape (n_features, n_features)
        M = AᵀA.
    pairs : PairDistances
        The pairs (a, b) of all quadruplets, then the pairs (c, d).
    weight : ndarray of shape (n_quadruplets,)
        Of each quadruplet.

    Returns
    -------
    value : float
        At least 0.
    gradient : ndarray of shape (n_features, n_features)
        By A.
    """
    squared, gradient_of = pairs(A)
    loss, *slopes = residual_loss(*np.split(squared, 2))
    divergence, gradient = log_det_divergence(A)
    return divergence + weight @ loss, gradient + gradient_of(
        np.tile(weight, 2) * np.hstack(slopes)
    )


class LSML(LinearMetricLearner):
    """Metric learning from relative comparisons: one distance less than another.

    LSML [1]_ learns from quadruplets (a, b, c, d) that say d(a, b) < d(c, d). It minimises

        D(M, M₀) + Σ wᵢ max(0, d(aᵢ, bᵢ) - d(cᵢ, dᵢ))²
        with D(M, M₀) = tr(M M₀⁻¹) - ln det(M M₀⁻¹) - n_features,

    the squares of what the comparisons are broken by, and the LogDet divergence from a prior M₀.
    That is convex and smooth in M, and is minimised by L-BFGS; M stays positive definite.

    Parameters
    ----------
    n_components : int, default=None
        Keep the so many leading axes of M. None keeps all n_features. Of sparse X, so many
        principal axes are taken first, and M is sought within them.
    gamma : float, default=0.3
        How much the comparisons count against the prior, > 0: wᵢ is ``gamma * n_points`` over the
        number of quadruplets, n_points being the number of distinct points in them: more
        quadruplets of the same points tell little that is new.
    prior : {"identity", "covariance"} or array-like of shape (n_features, n_features), \
            default="identity"
        M₀: the identity, in a unit in which the mean square distance of points is 2; the inverse
        of their covariance (its pseudo-inverse where it is singular: M is then blind where it
        is); or a positive definite matrix.
    supervision : {"labels", "quadruplets"}, default="labels"
        What `fit` is given: points and their classes, from which quadruplets are drawn with a, b
        of one class and c, d of two, or quadruplets.
    n_constraints : int, default=None
        How many quadruplets to draw from labels. None draws 1000, or as many as M has entries
        that may differ, n_features (n_features + 1) / 2, where those are more; ten for each row at
        most. More were no better for k-NN (benchmarks/accuracy.py), only slower.
    max_iter : int, default=1000
        Iterations at most.
    tol : float, default=1e-4
        Relative tolerance: iteration ends when the objective falls by less than this share of its
        value at the start, or its gradient is this share of what it was.
    random_state : int, RandomState instance or None, default=None
        Decides the quadruplets drawn.
    verbose : int, default=0
        1 prints a line for each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M: the axes of M, by decreasing eigenvalue. float32 if X is, else float64.
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
    ITML : The same prior; distances are held to bounds instead of to each other.

    Notes
    -----
    There is no `init`: the minimum is the same from any start, and the search begins at the prior.
    Quadruplets with c equal to d are left out: no M puts these apart. An evaluation takes
    O(n_points n_features² + n_quadruplets n_features) time and O(n_points n_features +
    n_quadruplets) memory.

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
        n_components=None,
        *,
        gamma=0.3,
        prior="identity",
        supervision="labels",
        n_constraints=None,
        max_iter=1000,
        tol=1e-4,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.gamma = gamma
        self.prior = prior
        self.supervision = supervision
        self.n_constraints = n_constraints
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None, *, weights=None):
        """Learn the distance.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or array-like of shape \
                (n_quadruplets, 4, n_features)
            Points, or with ``supervision="quadruplets"`` quadruplets of points.
        y : array-like of shape (n_samples,), default=None
            Class labels of any kind. Not read with ``supervision="quadruplets"``.
        weights : array-like of shape (n_quadruplets,), default=None
            How much each quadruplet counts, on average 1: they are divided by their mean. Only
            with ``supervision="quadruplets"``.

        Returns
        -------
        self : LSML
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not of that shape or not finite, if all labels are of one class, if no class
            has two samples, if `weights` are none, or if a parameter is out of range.
        """
        with unchanged_on_error(self):
            self._check_ranges(gamma=(Real, False, 0, None, "neither"))
            X, rows = self._read_quadruplets(X, y)
            n_components = check_n_components(self.n_components, X.shape[1], "n_features")
            weight = self._read_weights(weights, len(rows))
            points, L0, a, b, c, d = map_by_prior(self.prior, n_components, X, *rows.T)
            apart = points_differ(points, c, d)
            weight = self.gamma * len(points) / len(rows) * weight[apart]
            pairs = PairDistances(points, *(np.r_[i[apart], j[apart]] for i, j in ((a, c), (b, d))))
            A, self.loss_curve_, self.n_iter_ = minimize_lbfgs(
                lambda A: lsml_objective(A, pairs, weight),
                np.eye(len(L0)),
                max_iter=self.max_iter,
                tol=self.tol,
                name="LSML",
                verbose=self.verbose,
            )
            self.components_ = leading_components(A @ L0, n_components).astype(X.dtype)
            return self

    def _n_constraints(self, n_samples):
        n_entries = self.n_features_in_ * (self.n_features_in_ + 1) // 2
        return self.n_constraints or min(10 * n_samples, max(1000, n_entries))

    def _read_weights(self, weights, n_quadruplets):
        """Check the weights of quadruplets, and bring them to a mean of 1."""
        if weights is None:
            return np.ones(n_quadruplets)
        if self.supervision != "quadruplets":
            raise ValueError(
                f"weights are for quadruplets that are given: supervision is {self.supervision!r}, "
                'not "quadruplets".'
            )
        weights = check_array(weights, ensure_2d=False, dtype=np.float64, input_name="weights")
        if weights.shape != (n_quadruplets,) or weights.min() < 0 or not weights.any():
            raise ValueError(
                f"weights needs one number >= 0 for each of the {n_quadruplets} quadruplets, not "
                f"all 0; got shape {weights.shape}."
            )
        return weights / weights.mean()
