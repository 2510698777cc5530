"""Information-theoretic metric learning."""

from numbers import Real
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from sklearn.utils.extmath import safe_sparse_dot

from skdml.base import unchanged_on_error
from skdml.linear._pairs import PairDistances, points_differ
from skdml.linear._prior import log_det_divergence, map_by_prior
from skdml.linear._prior_share import check_prior_share, mix_with_prior
from skdml.linear._psd import leading_components
from skdml.linear._solvers import minimize_lbfgs
from skdml.linear.base import LinearMetricLearner, check_n_components

# Percentiles of the distances that serve as default bounds, as in Davis et al.
_PERCENTILES = (5, 95)


def slack_loss(
    squared: NDArray[np.floating], same: NDArray[np.bool_], bound: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Cost of the cheapest slack that satisfies each constraint, and its derivative.

    A pair may replace its bound ξ₀ by any ξ. This costs the Itakura-Saito divergence
    ξ/ξ₀ - ln(ξ/ξ₀) - 1. If d² satisfies the bound, the cheapest ξ is ξ₀; otherwise it is d².

    Parameters
    ----------
    squared : ndarray of shape (n_pairs,)
        d².
    same : ndarray of bool, shape (n_pairs,)
        True where the bound is an upper bound, False where it is a lower bound.
    bound : ndarray of shape (n_pairs,)
        ξ₀ > 0.

    Returns
    -------
    loss, slope : ndarray of shape (n_pairs,)
        The cost, which is convex and smooth in d², and its derivative with respect to d².
    """
    ratio = squared / bound
    ratio = np.where(same, np.maximum(ratio, 1), np.minimum(ratio, 1))
    return ratio - np.log(ratio) - 1, (1 - 1 / ratio) / bound


def itml_objective(
    A: NDArray[np.floating],
    pairs: PairDistances,
    same: NDArray[np.bool_],
    bound: NDArray[np.floating],
    weight: float,
) -> tuple[float, NDArray[np.floating]]:
    """D(AᵀA, I) + weight Σ slack_loss, for points mapped by the root of the prior.

    Parameters
    ----------
    A : ndarray of shape (n_features, n_features)
        M = AᵀA.
    pairs : PairDistances
        The pairs. The two points of a pair differ.
    same, bound : ndarray of shape (n_pairs,)
        As for `slack_loss`.
    weight : float
        Weight of each pair.

    Returns
    -------
    value : float
        The objective, >= 0.
    gradient : ndarray of shape (n_features, n_features)
        Gradient of the value with respect to A.
    """
    squared, gradient_of = pairs(A)
    loss, slope = slack_loss(squared, same, bound)
    divergence, gradient = log_det_divergence(A)
    return divergence + weight * loss.sum(), gradient + gradient_of(weight * slope)


class ITML(LinearMetricLearner):
    """Information-theoretic metric learning: bounds on pair distances, and M close to a prior.

    ITML [1]_ gives same pairs an upper bound u on their distance, and different pairs a lower
    bound l. Among all M it takes the one nearest to M₀ in the LogDet divergence D. A pair may
    violate its bound at a price:

        min over M, ξ of  D(M, M₀) + c Σᵢ (ξᵢ/ξ₀ᵢ - ln(ξᵢ/ξ₀ᵢ) - 1)
        with  d²(xᵢ, yᵢ) <= ξᵢ, ξ₀ᵢ = u² for same pairs,
        and   d²(xᵢ, yᵢ) >= ξᵢ, ξ₀ᵢ = l² for different pairs,
        D(M, M₀) = tr(M M₀⁻¹) - ln det(M M₀⁻¹) - n_features.

    For a given M the best ξ is known: ξ₀ᵢ if the bound holds, otherwise d². The remaining problem
    is convex and smooth in M and is solved by L-BFGS. The cyclic projections of [1]_ converge to
    the same M.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, from 1 to n_features. The leading axes of M are kept. None keeps
        all; M is then positive definite. Sparse points are first mapped to this many principal
        axes, and M is learned in that space.
    gamma : float, default=0.3
        Weight of the pairs relative to the prior, > 0. The price c of a pair is ``gamma *
        n_points / n_pairs``, with n_points the number of distinct points in the pairs. The weight
        thus does not grow with more pairs of the same points. For the γ of [1]_, set
        gamma = γ n_pairs / n_points. Increase it if the prior is poor or there are many points.
    prior : {"identity", "covariance"} or array-like of shape (n_features, n_features), \
            default="identity"
        M₀. "identity": the identity, for points scaled to a mean squared distance of 2.
        "covariance": the inverse of the covariance of the points. If the covariance is singular,
        its pseudo-inverse is used and M ignores the directions without variance. An array has to
        be positive definite. Choose "covariance" if the columns have different units.
    prior_share : "auto" or float, default="auto"
        Share of the prior's distance in M, in [0, 1]. The two parts are scaled to the same mean
        squared distance between points. 0 gives the M of the paper. "auto" tries 0, ¼, ½, ¾ and
        1 on at most 500 points. It takes the share for which most of the seven nearest neighbours
        of a point belong to the class of the point, and the smallest share in a tie. Without
        labels, "auto" means 0.
    bounds : tuple of (float, float), default=None
        u and l, both > 0: the upper bound on the distance of same pairs and the lower bound on
        the distance of different pairs. None takes the 5th and the 95th percentile of the
        distances of the pairs under the prior. Set it if the learned distance has to fit a known
        threshold.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` reads. "labels": points and class labels, from which pairs are drawn. "pairs":
        pairs of points, each labelled same or different.
    n_constraints : int, default=None
        With labels, the number of same pairs to draw, and of different pairs, at least 1. None
        draws ten per row, at most 100 000. Fewer pairs make a fit faster.
    max_iter : int, default=1000
        Maximum number of iterations, at least 1. Increase it after a ConvergenceWarning.
    tol : float, default=1e-4
        Relative tolerance, >= 0. Iteration stops if the objective falls by less than this share
        of its initial value. It also stops if the gradient falls to this share of its initial
        size. Increase it for a faster fit.
    random_state : int, RandomState instance or None, default=None
        Seed of the generator that draws the pairs. Pass an int for repeatable results.
    verbose : int, default=0
        1 prints a line for each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M. The rows are the axes of M, by decreasing eigenvalue. float32 if X is
        float32, otherwise float64.
    bounds_ : tuple of (float, float)
        u and l, as learned distances.
    prior_share_ : float
        Share of the prior's distance in M.
    n_iter_ : int
        Number of iterations.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        The objective at the prior and after each iteration, with the best ξ.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    LSML : The same prior, with comparisons of two distances instead of bounds.

    Notes
    -----
    There is no `init`: every start leads to the same minimum, and the search starts at the prior.
    Pairs of two equal points are left out, because their distance is 0 under every M. One
    evaluation of the objective takes O(n_points n_features² + n_pairs n_features) time and
    O(n_points n_features + n_pairs) memory.

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
        n_components: int | None = None,
        *,
        gamma: float = 0.3,
        prior: str | ArrayLike = "identity",
        prior_share: float | str = "auto",
        bounds: tuple[float, float] | None = None,
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
        self.prior_share = prior_share
        self.bounds = bounds
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
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or array-like of shape \
                (n_pairs, 2, n_features)
            Points; pairs of points with ``supervision="pairs"``.
        y : array-like of shape (n_samples,) or (n_pairs,)
            Class labels of any kind. For pairs: 1 for a same pair, 0 or -1 for a different pair.

        Returns
        -------
        self : ITML
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not finite or has another shape; if all labels, or all pairs, are of one kind;
            if no class has two samples; or if a parameter is out of range.

        Warns
        -----
        ConvergenceWarning
            If the fit needs more than `max_iter` iterations.
        """
        with unchanged_on_error(self):
            self._check_ranges(gamma=(Real, False, 0, None, "neither"))
            check_prior_share(self.prior_share)
            given, first, second, same = self._read_pairs(X, y)
            n_components = check_n_components(self.n_components, given.shape[1], "n_features")

            points, L0, first, second = map_by_prior(self.prior, n_components, given, first, second)
            apart = points_differ(points, first, second)
            pairs = PairDistances(points, first[apart], second[apart])

            A = self._minimise(pairs, same[apart])
            mapped = safe_sparse_dot(given, L0.T.astype(given.dtype), dense_output=True)
            labels = y if self.supervision == "labels" else None
            A, self.prior_share_ = mix_with_prior(A, mapped, self.prior_share, labels)
            self._set_components(leading_components(A @ L0, n_components), given.dtype)
            return self

    def _minimise(self, pairs: PairDistances, same: NDArray[np.bool_]) -> NDArray[np.floating]:
        """Find A from the prior on; store the bounds and the loss curve."""
        self.bounds_ = self._choose_bounds(pairs)
        upper, lower = self.bounds_
        bound = np.where(same, upper * upper, lower * lower)
        weight = self.gamma * len(pairs.X) / len(pairs)
        A, self.loss_curve_, self.n_iter_ = minimize_lbfgs(
            lambda A: itml_objective(A, pairs, same, bound, weight),
            np.eye(pairs.X.shape[1]),
            max_iter=self.max_iter,
            tol=self.tol,
            name="ITML",
            verbose=self.verbose,
        )
        return A

    def _choose_bounds(self, pairs: PairDistances) -> tuple[float, float]:
        """Check `bounds`, or take percentiles of the distances under the prior."""
        if self.bounds is None:
            squared, _ = pairs(np.eye(pairs.X.shape[1]))
            return tuple(np.sqrt(np.percentile(squared, _PERCENTILES)).tolist())
        bounds = check_array(self.bounds, ensure_2d=False, dtype=np.float64, input_name="bounds")
        if bounds.shape != (2,) or bounds.min() <= 0:
            raise ValueError(
                f"bounds={self.bounds!r} is invalid. Give None or two distances above 0: the upper "
                "bound for same pairs and the lower bound for different pairs."
            )
        return tuple(bounds.tolist())
