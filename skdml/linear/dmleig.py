"""DML-eig: the nearest different pairs made as far apart as can be (Ying & Li 2012)."""

from functools import partial
from numbers import Real

import numpy as np
from scipy.linalg import eigh
from scipy.special import logsumexp

from skdml.base import unchanged_on_error
from skdml.linear._differences import scatter_of_differences
from skdml.linear._pairs import PairDistances, constrained_points
from skdml.linear._prior_share import check_prior_share, mix_with_prior
from skdml.linear._psd import root
from skdml.linear._solvers import minimize_lbfgs
from skdml.linear.base import LinearMetricLearner, check_n_components

# A share of the mean variance in the scatter of same pairs, before it is inverted.
_RIDGE = 0.1


def whitening(scatter):
    """Matrix A with A scatter Aᵀ = I, up to a ridge: the inverse root of the scatter.

    Parameters
    ----------
    scatter : ndarray of shape (n_features, n_features)
        X_S of the paper: mean of (x - y)(x - y)ᵀ over same pairs.

    Returns
    -------
    ndarray of shape (n_features, n_features)
        The axes of the scatter, each over its deviation; the identity for a scatter of 0.
    """
    values, axes = eigh(scatter)
    mean = values.mean()
    if mean <= 0:
        return np.eye(len(scatter))
    values = (1 - _RIDGE) * np.maximum(values, 0) + _RIDGE * mean
    return (axes / np.sqrt(values)).T


def different_pairs(points, first, second):
    """Pairs of points brought to a mean square distance of n_features: 1 under S = I / n_features.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_features)
        Points.
    first, second : ndarray of int, shape (n_pairs,)
        The rows that make a pair.

    Returns
    -------
    pairs : PairDistances
        The pairs.
    even : ndarray of shape (n_pairs,)
        Their squared distances under S = I / n_features.
    """
    points, n_features = points - points.mean(axis=0), points.shape[1]
    even = PairDistances(points, first, second)(np.eye(n_features))[0] / n_features
    mean = even.mean() or 1.0
    return PairDistances(points / np.sqrt(mean), first, second), even / mean


def soft_minimum(values, mu):
    """Value and gradient of -mu log mean exp(-values / mu), which is the minimum for mu -> 0."""
    exponents = -values / mu
    total = logsumexp(exponents)
    return -mu * (total - np.log(len(values))), np.exp(exponents - total)


def dml_eig_loss(L, pairs, even, mu, shrinkage):
    """Minus the soft minimum of squared distances under S, and its gradient by L (eq. 16).

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        S = (1 - shrinkage) LᵀL / tr(LᵀL) + shrinkage I / n_features, of trace 1.
    pairs : PairDistances
        The different pairs, whitened.
    even : ndarray of shape (n_pairs,)
        Their squared distances under S = I / n_features.
    mu : float
        How soft the minimum is.
    shrinkage : float
        Share of the identity in S.

    Returns
    -------
    value : float
        mu log mean exp(-d² / mu).
    gradient : ndarray of shape (n_components, n_features)
        Its gradient.
    """
    trace = (L**2).sum()
    squared, gradient_of = pairs(L / np.sqrt(trace))
    value, weight = soft_minimum((1 - shrinkage) * squared + shrinkage * even, mu)
    pull = gradient_of(weight) / np.sqrt(trace) - 2 * L * (weight @ squared) / trace
    return -value, -(1 - shrinkage) * pull


class DMLEig(LinearMetricLearner):
    """DML-eig: different pairs far apart, the nearest of them first, while same pairs stay near.

    Ying & Li [1]_ make the least distance of different pairs as large as they can while the mean
    square distance of same pairs is 1. With X_S the mean of (x - y)(x - y)ᵀ over same pairs and
    M = X_S^(-1/2) S X_S^(-1/2)::

        maximise over S >= 0, tr S = 1:  -mu log mean over different pairs of exp(-d²(x, y) / mu)

    a concave problem: the least distance itself for mu -> 0, and the mean one for a large mu
    (eq. 16, smoothed). The maximum puts all weight on few eigenvectors. A share of the identity
    is therefore kept in S, and one of Euclid's distance in M where neighbours are told better by
    that.

    Parameters
    ----------
    n_components : int, default=None
        Rows of L: this many leading axes of M, from 1 to n_features. None keeps all.
    mu : float, default=0.1
        Softness of the minimum, > 0, in units of the mean square distance of different pairs at
        S = I / n_features. A small mu looks at the nearest different pairs alone: with classes
        that overlap, at noise.
    shrinkage : float, default=0.5
        Share of the identity in S, in [0, 1]: 0 is the method of the paper, 1 whitens the same
        pairs and no more.
    prior_share : "auto" or float, default="auto"
        Share of Euclid's distance in M, in [0, 1], in a unit in which points are as far apart
        by it as by what was learned. 0 is the paper's M. "auto" takes the one of 0, ¼, ½, ¾ and 1
        by which most of the seven nearest others of the points (of 500 at most) are of the class
        of these, the least if several are equal; without labels it is 0.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` reads: points and class labels, from which pairs are drawn, or pairs.
    n_constraints : int, default=None
        With labels, how many pairs to draw of each kind. None draws ten a row, at most 100 000.
    max_iter : int, default=500
        Iterations at most, >= 1.
    tol : float, default=1e-5
        Relative gain of the objective to end at, >= 0.
    random_state : int, RandomState instance or None, default=None
        Draws the pairs.
    verbose : int, default=0
        1 prints the loss after each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M, by decreasing eigenvalue of M. float32 if X is, else float64.
    prior_share_ : float
        The share of Euclid's distance in M.
    n_iter_ : int
        Number of iterations.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        Minus the objective at S = I / n_features and after each iteration.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    MMC : The sum of the distances of different pairs in place of the least.

    Notes
    -----
    The paper takes Frank-Wolfe steps: an eigenvector each, O(1 / epsilon) of them. Here S is
    LᵀL / tr(LᵀL) and L is found by L-BFGS. For a square L no local maximum is worse than the global
    one, and tens of steps do what hundreds of Frank-Wolfe's leave undone.

    X_S is inverted with a tenth of its mean variance in place of as much of itself, so that
    directions without variance among same pairs do not outweigh all others.

    With n points, d features, m pairs and k iterations: O(m d² + k (m d + n d²) + d³) time,
    O(n d + m + d²) memory.

    References
    ----------
    .. [1] Y. Ying and P. Li, "Distance metric learning with eigenvalue optimization", Journal of
       Machine Learning Research 13, 1-26, 2012.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import DMLEig
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(DMLEig(random_state=0), KNeighborsClassifier(3))
    >>> round(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]), 2)
    0.96
    """

    _supervisions = ("labels", "pairs")

    def __init__(
        self,
        n_components=None,
        *,
        mu=0.1,
        shrinkage=0.5,
        prior_share="auto",
        supervision="labels",
        n_constraints=None,
        max_iter=500,
        tol=1e-5,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.mu = mu
        self.shrinkage = shrinkage
        self.prior_share = prior_share
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
        self : DMLEig
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not finite or of another shape, if y is missing or holds a single class or
            kind, or if a parameter is out of range.
        """
        with unchanged_on_error(self):
            self._check_ranges(
                mu=(Real, False, 0, None, "neither"), shrinkage=(Real, False, 0, 1, "both")
            )
            check_prior_share(self.prior_share)
            X, first, second, same = self._read_pairs(X, y)
            n_components = check_n_components(self.n_components, X.shape[1], "n_features")
            points, first, second = constrained_points(X.astype(np.float64), first, second)
            scatter = scatter_of_differences(points, first[same], second[same]) / same.sum()
            A = whitening(scatter)
            pairs, even = different_pairs(points @ A.T, first[~same], second[~same])
            L = self._maximise(pairs, even)
            S = (1 - self.shrinkage) * L.T @ L / (L**2).sum()
            S += self.shrinkage * np.eye(len(S)) / len(S)
            L, self.prior_share_ = mix_with_prior(
                root(A.T @ S @ A),
                X,
                self.prior_share,
                y if self.supervision == "labels" else None,
            )
            self.components_ = L[:n_components].astype(X.dtype)
        return self

    def _maximise(self, pairs, even):
        L, self.loss_curve_, self.n_iter_ = minimize_lbfgs(
            partial(dml_eig_loss, pairs=pairs, even=even, mu=self.mu, shrinkage=self.shrinkage),
            np.eye(pairs.X.shape[1]),
            max_iter=self.max_iter,
            tol=self.tol,
            name="DMLEig",
            verbose=self.verbose,
        )
        return L
