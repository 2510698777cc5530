"""Information-theoretic metric learning."""

from numbers import Real

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.extmath import safe_sparse_dot

from skdml.base import unchanged_on_error
from skdml.linear._pairs import PairDistances, points_differ
from skdml.linear._prior import log_det_divergence, map_by_prior
from skdml.linear._prior_share import check_prior_share, mix_with_prior
from skdml.linear._psd import leading_components
from skdml.linear._solvers import minimize_lbfgs
from skdml.linear.base import LinearMetricLearner, check_n_components

# Between which percentiles of the distances the bounds of the constraints lie (Davis et al.).
_PERCENTILES = (5, 95)


def slack_loss(squared, same, bound):
    """Least cost of the slack that makes each constraint hold, and its slope.

    A pair may have any bound ξ in place of ξ₀, at the price of the Itakura-Saito divergence
    ξ/ξ₀ - ln(ξ/ξ₀) - 1. Where d² keeps to ξ₀ the cheapest is ξ₀ itself, and else it is d².

    Parameters
    ----------
    squared : ndarray of shape (n_pairs,)
        d².
    same : ndarray of bool, shape (n_pairs,)
        Whether d² is to be at most, and not at least, its bound.
    bound : ndarray of shape (n_pairs,)
        ξ₀ > 0.

    Returns
    -------
    loss, slope : ndarray of shape (n_pairs,)
        The cost, convex and smooth in d², and its derivative by d².
    """
    ratio = squared / bound
    ratio = np.where(same, np.maximum(ratio, 1), np.minimum(ratio, 1))
    return ratio - np.log(ratio) - 1, (1 - 1 / ratio) / bound


def itml_objective(A, pairs, same, bound, weight):
    """D(AᵀA, I) + weight Σ slack_loss: the objective of ITML on points mapped by the prior's root.

    Parameters
    ----------
    A : ndarray of shape (n_features, n_features)
        M = AᵀA.
    pairs : PairDistances
        The pairs; none of two equal points.
    same, bound : ndarray of shape (n_pairs,)
        As for `slack_loss`.
    weight : float
        Of each pair.

    Returns
    -------
    value : float
        At least 0.
    gradient : ndarray of shape (n_features, n_features)
        By A.
    """
    squared, gradient_of = pairs(A)
    loss, slope = slack_loss(squared, same, bound)
    divergence, gradient = log_det_divergence(A)
    return divergence + weight * loss.sum(), gradient + gradient_of(weight * slope)


class ITML(LinearMetricLearner):
    """Information-theoretic metric learning: near pairs alike, far pairs not, M close to a prior.

    ITML [1]_ looks for the M nearest to M₀, in the LogDet divergence D, under which pairs of the
    same class are at most u apart and pairs of different classes at least l, where a pair may
    break its bound at a price:

        min over M, ξ of  D(M, M₀) + c Σᵢ (ξᵢ/ξ₀ᵢ - ln(ξᵢ/ξ₀ᵢ) - 1)
        with  d²(xᵢ, yᵢ) <= ξᵢ, ξ₀ᵢ = u² if the same, and d²(xᵢ, yᵢ) >= ξᵢ, ξ₀ᵢ = l² if not,
        D(M, M₀) = tr(M M₀⁻¹) - ln det(M M₀⁻¹) - n_features.

    The best ξ for an M is known: ξ₀ᵢ where the bound is kept, else d². What is left is convex and
    smooth in M, and is minimised by L-BFGS. The cyclic projections of [1]_ end at the same M.

    Parameters
    ----------
    n_components : int, default=None
        Keep the so many leading axes of M. None keeps all n_features: M is positive definite.
        Of sparse X, so many principal axes are taken first, and M is sought within them.
    gamma : float, default=0.3
        How much the pairs count against the prior, > 0. The price c of a pair is ``gamma *
        n_points / n_pairs``, n_points being the number of distinct points in the pairs: more
        pairs of the same points tell little that is new. To get the γ of [1]_, multiply that by
        n_pairs / n_points.
    prior : {"identity", "covariance"} or array-like of shape (n_features, n_features), \
            default="identity"
        M₀: the identity, in a unit in which the mean square distance of points is 2; the inverse
        of their covariance (its pseudo-inverse where it is singular: M is then blind where it
        is); or a positive definite matrix.
    prior_share : "auto" or float, default="auto"
        Share of the prior's distance in M, in [0, 1], in a unit in which points are as far apart
        by it as by what was learned. 0 is the paper's M. "auto" takes the one of 0, ¼, ½, ¾ and 1
        by which most of the seven nearest others of the points (of 500 at most) are of the class
        of these, the least if several are equal; without labels it is 0.
    bounds : tuple of (float, float), default=None
        u and l > 0, what the learned d is to be below and above. None takes the 5th and the 95th
        percentile of the distances of the pairs under the prior.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` is given: points and their classes, from which pairs are drawn, or pairs and
        whether they are the same.
    n_constraints : int, default=None
        How many pairs of the same class to draw from labels, and as many of different ones. None
        draws ten for each row, 100 000 at most.
    max_iter : int, default=1000
        Iterations at most.
    tol : float, default=1e-4
        Relative tolerance: iteration ends when the objective falls by less than this share of its
        value at the start, or its gradient is this share of what it was.
    random_state : int, RandomState instance or None, default=None
        Decides the pairs drawn.
    verbose : int, default=0
        1 prints a line for each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M: the axes of M, by decreasing eigenvalue. float32 if X is, else float64.
    bounds_ : tuple of (float, float)
        u and l, as distances of the learned d.
    prior_share_ : float
        The share of the prior's distance in M.
    n_iter_ : int
        Number of iterations.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        The objective, with ξ at its best, at the prior and after each iteration.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    LSML : The same prior; one distance is to be less than another instead of a bound.

    Notes
    -----
    There is no `init`: the minimum is the same from any start, and the search begins at the prior.
    Pairs of two equal points are left out, since no M tells these apart. An evaluation takes
    O(n_points n_features² + n_pairs n_features) time and O(n_points n_features + n_pairs) memory.

    References
    ----------
    .. [1] J. V. Davis, B. Kulis, P. Jain, S. Sra & I. S. Dhillon, "Information-theoretic metric
       learning", ICML 2007, algorithm 1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import ITML
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(ITML(random_state=0), KNeighborsClassifier(3))
    >>> round(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]), 2)
    0.97
    """

    _sparse = True
    _supervisions = ("labels", "pairs")

    def __init__(
        self,
        n_components=None,
        *,
        gamma=0.3,
        prior="identity",
        prior_share="auto",
        bounds=None,
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
        self.prior_share = prior_share
        self.bounds = bounds
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
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or array-like of shape \
                (n_pairs, 2, n_features)
            Points, or with ``supervision="pairs"`` pairs of points.
        y : array-like of shape (n_samples,) or (n_pairs,)
            Class labels of any kind, or for each pair 1 if it is the same and 0 or -1 if not.

        Returns
        -------
        self : ITML
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not of that shape or not finite, if all labels or pairs are of one kind, if no
            class has two samples, or if a parameter is out of range.
        """
        with unchanged_on_error(self):
            self._check_ranges(gamma=(Real, False, 0, None, "neither"))
            check_prior_share(self.prior_share)
            X, first, second, same = self._read_pairs(X, y)
            n_components = check_n_components(self.n_components, X.shape[1], "n_features")
            points, L0, first, second = map_by_prior(self.prior, n_components, X, first, second)
            apart = points_differ(points, first, second)
            pairs, same = PairDistances(points, first[apart], second[apart]), same[apart]
            self.bounds_ = self._choose_bounds(pairs)
            bound = np.where(same, *np.square(self.bounds_))
            weight = self.gamma * len(points) / len(pairs)
            A, self.loss_curve_, self.n_iter_ = minimize_lbfgs(
                lambda A: itml_objective(A, pairs, same, bound, weight),
                np.eye(len(L0)),
                max_iter=self.max_iter,
                tol=self.tol,
                name="ITML",
                verbose=self.verbose,
            )
            mapped = safe_sparse_dot(X, L0.T.astype(X.dtype), dense_output=True)
            A, self.prior_share_ = mix_with_prior(
                A, mapped, self.prior_share, y if self.supervision == "labels" else None
            )
            self.components_ = leading_components(A @ L0, n_components).astype(X.dtype)
            return self

    def _choose_bounds(self, pairs):
        """Read `bounds`, or take percentiles of the distances under the prior."""
        if self.bounds is None:
            squared, _ = pairs(np.eye(pairs.X.shape[1]))
            return tuple(np.sqrt(np.percentile(squared, _PERCENTILES)).tolist())
        bounds = check_array(self.bounds, ensure_2d=False, dtype=np.float64, input_name="bounds")
        if bounds.shape != (2,) or bounds.min() <= 0:
            raise ValueError(
                f"bounds={self.bounds!r} has to be None or two distances above 0: what pairs of "
                "the same are to be below, and different ones above."
            )
        return tuple(bounds.tolist())
