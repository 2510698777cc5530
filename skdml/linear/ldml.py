"""Logistic discriminant metric learning."""

from numbers import Real
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.utils.extmath import safe_sparse_dot

from skdml.base import unchanged_on_error
from skdml.linear._pairs import PairDistances
from skdml.linear._prior import log_det_divergence, map_by_prior
from skdml.linear._prior_share import check_prior_share, mix_with_prior
from skdml.linear._psd import leading_components
from skdml.linear._solvers import minimize_lbfgs
from skdml.linear.base import LinearMetricLearner, check_n_components


def ldml_objective(
    parameters: NDArray[np.floating],
    pairs: PairDistances,
    same: NDArray[np.bool_],
    weight: float,
) -> tuple[float, NDArray[np.floating]]:
    """D(AᵀA, I) - weight Σ ln p, for points mapped by the root of the prior.

    p is the probability of the label of a pair: σ(b - d²) for a same pair, σ(d² - b) for a
    different pair.

    Parameters
    ----------
    parameters : ndarray of shape (n_features**2 + 1,)
        A, row by row, with M = AᵀA; then b.
    pairs : PairDistances
        The pairs.
    same : ndarray of bool, shape (n_pairs,)
        Whether each pair is a same pair.
    weight : float
        Weight of each pair.

    Returns
    -------
    value : float
        The objective, >= 0.
    gradient : ndarray of shape (n_features**2 + 1,)
        Gradient of the value with respect to A and b.
    """
    n_features = pairs.X.shape[1]
    A, b = parameters[:-1].reshape(n_features, n_features), parameters[-1]
    squared, gradient_of = pairs(A)
    sign = np.where(same, 1.0, -1.0)
    margin = sign * (b - squared)
    slope = weight * sign * expit(-margin)
    divergence, gradient = log_det_divergence(A)
    value = divergence + weight * np.logaddexp(0, -margin).sum()
    return value, np.append(gradient + gradient_of(slope), -slope.sum())


def most_likely_bias(squared: NDArray[np.floating], same: NDArray[np.bool_]) -> float:
    """Bias b that maximises the likelihood of the labels of the pairs, for fixed distances.

    The derivative of the log-likelihood with respect to b is 0 if the expected number of same
    pairs equals their actual number: Σ σ(b - d²) = Σ same.

    Parameters
    ----------
    squared : ndarray of shape (n_pairs,)
        d².
    same : ndarray of bool, shape (n_pairs,)
        Whether each pair is a same pair. Both kinds are needed.

    Returns
    -------
    float
        b.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear.ldml import most_likely_bias
    >>> round(most_likely_bias(np.array([1.0, 3.0]), np.array([True, False])), 6)
    2.0
    """
    beyond = 1 + np.log(len(squared))  # so far below all d², the sum of σ is less than one pair
    return brentq(
        lambda b: expit(b - squared).sum() - same.sum(),
        squared.min() - beyond,
        squared.max() + beyond,
    )


class LDML(LinearMetricLearner):
    """Logistic discriminant metric learning: a logistic model of same and different pairs.

    LDML [1]_ models the probability that x and y belong to the same class as σ(b - d²(x, y)), with
    σ(t) = 1 / (1 + exp(-t)). It maximises the likelihood of the labels of the pairs over M and the
    bias b. Unlike the paper, a prior M₀ keeps M from fitting few pairs too well:

        min over M, b of  D(M, M₀) - c Σᵢ ln p(sameᵢ | xᵢ, yᵢ)
        with D(M, M₀) = tr(M M₀⁻¹) - ln det(M M₀⁻¹) - n_features.

    The problem is convex and smooth in M and b and is solved by L-BFGS.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, from 1 to n_features. The leading axes of M are kept. None keeps all.
        Sparse points are first mapped to this many principal axes, and M is learned in that
        space.
    gamma : float, default=0.2
        Weight of the pairs relative to the prior, > 0. The factor c is ``gamma * n_points /
        n_pairs``, with n_points the number of distinct points in the pairs. The weight thus does
        not grow with more pairs of the same points. A large gamma approaches the method of [1]_,
        which has no prior. M then overfits unless n_features is far below n_points. Increase it
        if the prior is poor or there are many points.
    prior : {"identity", "covariance"} or array-like of shape (n_features, n_features), \
            default="identity"
        M₀. "identity": the identity, for points scaled to a mean squared distance of 2.
        "covariance": the inverse of the covariance of the points. If the covariance is singular,
        its pseudo-inverse is used and M ignores the directions without variance. An array has to
        be positive definite. Choose "covariance" if the columns have different units.
    prior_share : "auto" or float, default="auto"
        Share of the prior's distance in M, in [0, 1]. The two parts are scaled to the same mean
        squared distance between points. 0 gives the M of the objective. "auto" tries 0, ¼, ½, ¾
        and 1 on at most 500 points. It takes the share for which most of the seven nearest
        neighbours of a point belong to the class of the point, and the smallest share in a tie.
        Without labels, "auto" means 0.
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
    bias_ : float
        b: the squared distance at which same and different are equally likely, for M with all its
        axes. If M contains a share of the prior, b is the most likely bias for that M.
    prior_share_ : float
        Share of the prior's distance in M.
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
    ITML : The same prior, with bounds on the distances.

    Notes
    -----
    There is no `init`: every start leads to the same minimum. The search starts at the prior, with
    b the mean squared distance of the pairs. One evaluation of the objective takes
    O(n_points n_features² + n_pairs n_features) time and O(n_points n_features + n_pairs) memory.

    References
    ----------
    .. [1] M. Guillaumin, J. Verbeek & C. Schmid, "Is that you? Metric learning approaches for face
       identification", ICCV 2009, section 3.1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import LDML
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(LDML(random_state=0), KNeighborsClassifier(3))
    >>> round(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]), 2)
    0.97
    """

    _sparse = True
    _supervisions = ("labels", "pairs")

    def __init__(
        self,
        n_components: int | None = None,
        *,
        gamma: float = 0.2,
        prior: str | ArrayLike = "identity",
        prior_share: float | str = "auto",
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
        self : LDML
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
            pairs = PairDistances(points, first, second)

            A, b = self._minimise(pairs, same)
            mapped = safe_sparse_dot(given, L0.T.astype(given.dtype), dense_output=True)
            labels = y if self.supervision == "labels" else None
            A, self.prior_share_ = mix_with_prior(A, mapped, self.prior_share, labels)
            self.bias_ = float(most_likely_bias(pairs(A)[0], same) if self.prior_share_ else b)
            self._set_components(leading_components(A @ L0, n_components), given.dtype)
            return self

    def _minimise(
        self, pairs: PairDistances, same: NDArray[np.bool_]
    ) -> tuple[NDArray[np.floating], float]:
        """Find A and b from the prior on; store the loss curve."""
        prior = np.eye(pairs.X.shape[1])
        weight = self.gamma * len(pairs.X) / len(pairs)
        found, self.loss_curve_, self.n_iter_ = minimize_lbfgs(
            lambda parameters: ldml_objective(parameters, pairs, same, weight),
            np.append(prior, pairs(prior)[0].mean()),
            max_iter=self.max_iter,
            tol=self.tol,
            name="LDML",
            verbose=self.verbose,
        )
        return found[:-1].reshape(prior.shape), found[-1]
