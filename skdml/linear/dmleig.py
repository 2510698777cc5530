"""DML-eig: distance metric learning with eigenvalue optimization."""

from functools import partial
from numbers import Real
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh
from scipy.special import logsumexp

from skdml.base import unchanged_on_error
from skdml.linear._differences import scatter_of_differences
from skdml.linear._pairs import PairDistances, constrained_points
from skdml.linear._prior_share import check_prior_share, mix_with_prior
from skdml.linear._psd import root
from skdml.linear._solvers import minimize_lbfgs
from skdml.linear.base import LinearMetricLearner, check_n_components

# The scatter of same pairs is mixed with this share of its mean variance before it is inverted.
_RIDGE = 0.1


def whitening(scatter: NDArray[np.floating]) -> NDArray[np.floating]:
    """Inverse root A of the scatter: A scatter Aᵀ = I, up to a ridge.

    Parameters
    ----------
    scatter : ndarray of shape (n_features, n_features)
        X_S of the paper: the mean of (x - y)(x - y)ᵀ over same pairs.

    Returns
    -------
    ndarray of shape (n_features, n_features)
        The principal axes of the scatter, each divided by the standard deviation along it. The
        identity if the scatter is 0.
    """
    values, axes = eigh(scatter)
    mean = values.mean()
    if mean <= 0:
        return np.eye(len(scatter))
    values = (1 - _RIDGE) * np.maximum(values, 0) + _RIDGE * mean
    return (axes / np.sqrt(values)).T


def scale_different_pairs(
    points: NDArray[np.floating], first: NDArray[np.integer], second: NDArray[np.integer]
) -> tuple[PairDistances, NDArray[np.floating]]:
    """Scale points so that the mean squared distance of the pairs is 1 under S = I / n_features.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_features)
        Points, whitened.
    first, second : ndarray of int, shape (n_pairs,)
        The two rows of each different pair.

    Returns
    -------
    pairs : PairDistances
        The pairs of scaled points.
    baseline : ndarray of shape (n_pairs,)
        Their squared distances under S = I / n_features.
    """
    points, n_features = points - points.mean(axis=0), points.shape[1]
    baseline = PairDistances(points, first, second)(np.eye(n_features))[0] / n_features
    mean = baseline.mean() or 1.0
    return PairDistances(points / np.sqrt(mean), first, second), baseline / mean


def soft_minimum(values: NDArray[np.floating], mu: float) -> tuple[float, NDArray[np.floating]]:
    """Value and gradient of -mu log mean exp(-values / mu), which tends to the minimum as mu -> 0.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
        Numbers.
    mu : float
        Softness, > 0.

    Returns
    -------
    value : float
        The soft minimum, between the minimum and the mean of the values.
    gradient : ndarray of shape (n_values,)
        Weight of each value, >= 0. The weights sum to 1.
    """
    exponents = -values / mu
    total = logsumexp(exponents)
    return -mu * (total - np.log(len(values))), np.exp(exponents - total)


def dml_eig_loss(
    L: NDArray[np.floating],
    pairs: PairDistances,
    baseline: NDArray[np.floating],
    mu: float,
    shrinkage: float,
) -> tuple[float, NDArray[np.floating]]:
    """Negative soft minimum of the squared distances under S, and its gradient (eq. 16).

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        S = (1 - shrinkage) LᵀL / tr(LᵀL) + shrinkage I / n_features, of trace 1.
    pairs : PairDistances
        The different pairs of whitened points.
    baseline : ndarray of shape (n_pairs,)
        Their squared distances under S = I / n_features.
    mu : float
        Softness of the minimum.
    shrinkage : float
        Share of the identity in S.

    Returns
    -------
    value : float
        mu log mean exp(-d² / mu).
    gradient : ndarray of shape (n_components, n_features)
        Gradient of the value with respect to L.
    """
    trace = (L**2).sum()
    squared, gradient_of = pairs(L / np.sqrt(trace))
    value, weight = soft_minimum((1 - shrinkage) * squared + shrinkage * baseline, mu)
    pull = gradient_of(weight) / np.sqrt(trace) - 2 * L * (weight @ squared) / trace
    return -value, -(1 - shrinkage) * pull


class DMLEig(LinearMetricLearner):
    """DML-eig: maximise the smallest distance of different pairs while same pairs stay near.

    Ying & Li [1]_ fix the mean squared distance of same pairs at 1 and maximise the smallest
    distance of different pairs. Let X_S be the mean of (x - y)(x - y)ᵀ over same pairs, and
    M = X_S^(-1/2) S X_S^(-1/2)::

        maximise over S >= 0, tr S = 1:  -mu log mean over different pairs of exp(-d²(x, y) / mu)

    The problem is concave. Its objective (eq. 16, smoothed) tends to the smallest squared distance
    as mu -> 0, and to the mean squared distance as mu grows. The maximum puts all weight on few
    eigenvectors. Unlike the paper, a share of the identity is therefore kept in S, and a share of
    Euclidean distance in M if this improves the nearest neighbours.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, from 1 to n_features. The leading axes of M are kept. None keeps all.
    mu : float, default=0.1
        Softness of the minimum, > 0. The unit is the mean squared distance of different pairs
        under S = I / n_features. With a small mu only the nearest different pairs count. Increase
        it if the classes overlap, because the nearest different pairs are then noise.
    shrinkage : float, default=0.5
        Share of the identity in S, in [0, 1]. 0 gives the method of the paper. 1 only whitens the
        same pairs. Increase it if few directions dominate the learned distance.
    prior_share : "auto" or float, default="auto"
        Share of Euclidean distance in M, in [0, 1]. The two parts are scaled to the same mean
        squared distance between points. 0 gives the M of the paper. "auto" tries 0, ¼, ½, ¾ and
        1 on at most 500 points. It takes the share for which most of the seven nearest neighbours
        of a point belong to the class of the point, and the smallest share in a tie. Without
        labels, "auto" means 0.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` reads. "labels": points and class labels, from which pairs are drawn. "pairs":
        pairs of points, each labelled same or different.
    n_constraints : int, default=None
        With labels, the number of same pairs to draw, and of different pairs, at least 1. None
        draws ten per row, at most 100 000. Fewer pairs make a fit faster.
    max_iter : int, default=500
        Maximum number of iterations, at least 1. Increase it after a ConvergenceWarning.
    tol : float, default=1e-5
        Relative tolerance, >= 0. Iteration stops if the objective gains less than this share of
        its initial value. It also stops if the gradient falls to this share of its initial size.
        Increase it for a faster fit.
    random_state : int, RandomState instance or None, default=None
        Seed of the generator that draws the pairs. Pass an int for repeatable results.
    verbose : int, default=0
        1 prints the loss after each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M, by decreasing eigenvalue of M. float32 if X is float32, otherwise float64.
    prior_share_ : float
        Share of Euclidean distance in M.
    n_iter_ : int
        Number of iterations.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        Negative objective at S = I / n_features and after each iteration.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    MMC : Uses the sum of the distances of different pairs instead of the smallest one.

    Notes
    -----
    The paper takes Frank-Wolfe steps. Each needs an eigenvector, and O(1 / epsilon) of them are
    needed. Here S is written as LᵀL / tr(LᵀL), and L is found by L-BFGS. With a square L every
    local maximum is global. Tens of L-BFGS steps come closer to it than hundreds of Frank-Wolfe
    steps.

    Before X_S is inverted, a tenth of it is replaced by a tenth of its mean variance times I.
    Otherwise directions without variance among same pairs would outweigh all others.

    With n points, d features, m pairs and k iterations, a fit takes O(m d² + k (m d + n d²) + d³)
    time and O(n d + m + d²) memory.

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
        n_components: int | None = None,
        *,
        mu: float = 0.1,
        shrinkage: float = 0.5,
        prior_share: float | str = "auto",
        supervision: str = "labels",
        n_constraints: int | None = None,
        max_iter: int = 500,
        tol: float = 1e-5,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
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
        self : DMLEig
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not finite or has another shape; if y is missing; if all labels, or all pairs,
            are of one kind; or if a parameter is out of range.

        Warns
        -----
        ConvergenceWarning
            If the fit needs more than `max_iter` iterations.
        """
        with unchanged_on_error(self):
            self._check_ranges(
                mu=(Real, False, 0, None, "neither"), shrinkage=(Real, False, 0, 1, "both")
            )
            check_prior_share(self.prior_share)
            given, first, second, same = self._read_pairs(X, y)
            n_components = check_n_components(self.n_components, given.shape[1], "n_features")
            points, first, second = constrained_points(given.astype(np.float64), first, second)

            scatter = scatter_of_differences(points, first[same], second[same]) / same.sum()
            A = whitening(scatter)
            S = self._maximise(*scale_different_pairs(points @ A.T, first[~same], second[~same]))
            labels = y if self.supervision == "labels" else None
            L, self.prior_share_ = mix_with_prior(
                root(A.T @ S @ A), given, self.prior_share, labels
            )
            self._set_components(L[:n_components], given.dtype)
        return self

    def _maximise(
        self, pairs: PairDistances, baseline: NDArray[np.floating]
    ) -> NDArray[np.floating]:
        """Find the S of trace 1 with the largest soft minimum; store the loss curve."""
        loss = partial(
            dml_eig_loss, pairs=pairs, baseline=baseline, mu=self.mu, shrinkage=self.shrinkage
        )
        L, self.loss_curve_, self.n_iter_ = minimize_lbfgs(
            loss,
            np.eye(pairs.X.shape[1]),
            max_iter=self.max_iter,
            tol=self.tol,
            name="DMLEig",
            verbose=self.verbose,
        )
        S = (1 - self.shrinkage) * L.T @ L / (L**2).sum()
        S += self.shrinkage * np.eye(len(S)) / len(S)
        return S
