"""Mahalanobis metric for clustering."""

from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse

from skdml.base import unchanged_on_error
from skdml.linear._neighbors import distinct_neighbor_pairs
from skdml.linear._pairs import PairDistances, points_differ
from skdml.linear._prior import log_det_divergence, map_by_prior, to_principal_axes
from skdml.linear._prior_share import check_prior_share, mix_with_prior
from skdml.linear._psd import leading_components
from skdml.linear._solvers import minimize_lbfgs
from skdml.linear.base import LinearMetricLearner, check_n_components, no_same_class_message

Objective = Callable[[NDArray[np.floating]], tuple[float, NDArray[np.floating]]]
"""A function of an array that returns its value and its gradient."""


def mmc_objective(
    A: NDArray[np.floating],
    pairs: PairDistances,
    same: NDArray[np.bool_],
    unit: float,
    weight: float,
) -> tuple[float, NDArray[np.floating]]:
    """D(AᵀA, I) + weight (mean of d² / unit over same pairs - 2 ln mean of d over different pairs).

    Parameters
    ----------
    A : ndarray of shape (n_features, n_features)
        M = AᵀA, for points mapped by the root of the prior.
    pairs : PairDistances
        The pairs. The two points of a different pair are not equal.
    same : ndarray of bool, shape (n_pairs,)
        Whether each pair is a same pair.
    unit : float
        Target of the mean of d² over same pairs.
    weight : float
        Weight of the pairs relative to the prior.

    Returns
    -------
    value : float
        The objective.
    gradient : ndarray of shape (n_features, n_features)
        Gradient of the value with respect to A.
    """
    squared, gradient_of = pairs(A)
    n_same, n_different = same.sum(), (~same).sum()
    d = np.sqrt(squared)
    same_mean, different_mean = squared @ same / n_same / unit, d @ ~same / n_different
    # The derivative of d with respect to d² is 1 / (2 d).
    slope = same / (n_same * unit)
    slope = slope - ~same / (n_different * different_mean * np.where(same, 1.0, d))
    divergence, gradient = log_det_divergence(A)
    value = divergence + weight * (same_mean - 2 * np.log(different_mean))
    return value, gradient + gradient_of(weight * slope)


def restrict_to_diagonal(objective: Objective) -> Objective:
    """Turn an objective of a matrix into an objective of the diagonal of a diagonal matrix.

    Parameters
    ----------
    objective : callable
        ``objective(A)`` -> (value, gradient), for a matrix A.

    Returns
    -------
    callable
        ``objective(a)`` -> (value, gradient), for a diagonal a of shape (n_features,).
    """

    def diagonal_objective(a: NDArray[np.floating]) -> tuple[float, NDArray[np.floating]]:
        value, gradient = objective(np.diag(a))
        return value, gradient.diagonal()

    return diagonal_objective


def check_diagonal(M0: NDArray[np.floating]) -> None:
    """Raise a ValueError unless the prior M₀ is diagonal, up to rounding."""
    largest = abs(M0 - np.diag(M0.diagonal())).max()
    if largest > 1e-9 * abs(M0).max():
        raise ValueError(
            "diagonal=True needs a diagonal prior; this prior has entries up to "
            f'{largest:.3g} off the diagonal. Choose prior="identity" or a diagonal matrix.'
        )


class MMC(LinearMetricLearner):
    """Mahalanobis metric for clustering: different pairs far apart, same pairs within a bound.

    MMC [1]_ maximises the distances of different pairs (D), while a bound s limits the squared
    distances of same pairs (S):

        max over M of  mean over D of d(x, y)  with  mean over S of d²(x, y) <= s.

    Up to a factor, the best M minimises mean_S d² / s - 2 ln mean_D d, which is convex in M. This M
    overfits if there are few pairs, and it uses few directions. Unlike the paper, a prior M₀ limits
    both effects, as in :class:`ITML`. The objective, solved by L-BFGS, is

        D(M, M₀) + c (mean_S d² / s - 2 ln mean_D d)
        with D(M, M₀) = tr(M M₀⁻¹) - ln det(M M₀⁻¹) - n_features,

    where s is mean_S d² under M₀. M is then scaled to mean_S d² = 1, so that it satisfies the bound
    s = 1.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, from 1 to n_features. The leading axes of M are kept. None keeps all.
        Sparse points are first mapped to this many principal axes, and M is learned in that
        space.
    gamma : float, default=0.06
        Weight of the pairs relative to the prior, > 0. The factor c is ``gamma * n_points``, with
        n_points the number of distinct points in the pairs. A large gamma approaches the solution
        of [1]_. Increase it if the prior is poor or there are many points.
    diagonal : bool, default=False
        Whether M is diagonal, which gives one weight per feature. X must then be dense. Set it if
        there are few pairs, or to read the weight of each feature.
    prior : {"identity", "covariance"} or array-like of shape (n_features, n_features), \
            default="identity"
        M₀. "identity": the identity, for points scaled to a mean squared distance of 2.
        "covariance": the inverse of the covariance of the points. If the covariance is singular,
        its pseudo-inverse is used and M ignores the directions without variance. An array has to
        be positive definite. With ``diagonal=True``, M₀ has to be diagonal. Choose "covariance"
        if the columns have different units.
    prior_share : "auto" or float, default="auto"
        Share of the prior's distance in M, in [0, 1]. The two parts are scaled to the same mean
        squared distance between points. 0 gives the M of the objective. "auto" tries 0, ¼, ½, ¾
        and 1 on at most 500 points. It takes the share for which most of the seven nearest
        neighbours of a point belong to the class of the point, and the smallest share in a tie.
        Without labels, "auto" means 0.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` reads. "labels": points and class labels. "pairs": pairs of points, each
        labelled same or different.
    n_neighbors : int, default=20
        With labels, the number of nearest neighbours, at least 1. S pairs each point with this
        many nearest neighbours of the same class, D with this many of other classes. [1]_ uses
        all pairs; n_neighbors = n_samples does the same. Pairs of neighbours are more informative
        for nearest-neighbour methods. Increase it for clustering, where distant points of a class
        matter, too.
    max_iter : int, default=1000
        Maximum number of iterations, at least 1. Increase it after a ConvergenceWarning.
    tol : float, default=1e-4
        Relative tolerance, >= 0. Iteration stops if the objective falls by less than this share
        of its initial value. It also stops if the gradient falls to this share of its initial
        size. Increase it for a faster fit.
    verbose : int, default=0
        1 prints a line for each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M. The rows are the axes of M, by decreasing eigenvalue. float32 if X is
        float32, otherwise float64.
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
    There is no `init`: every start leads to the same minimum, and the search starts at the prior.
    Different pairs of two equal points are left out, because no M separates them. One evaluation
    of the objective takes O(n_points n_features² + n_pairs n_features) time and
    O(n_points n_features + n_pairs) memory. The search for neighbours, made once, takes up to
    O(n_points² n_features) time if there are many columns.

    References
    ----------
    .. [1] E. P. Xing, A. Y. Ng, M. I. Jordan & S. Russell, "Distance metric learning, with
       application to clustering with side-information", NIPS 2002, equations (3) to (5).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import MMC
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(MMC(), KNeighborsClassifier(3))
    >>> round(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]), 2)
    0.99
    """

    _sparse = True
    _supervisions = ("labels", "pairs")

    def __init__(
        self,
        n_components: int | None = None,
        *,
        gamma: float = 0.06,
        diagonal: bool = False,
        prior: str | ArrayLike = "identity",
        prior_share: float | str = "auto",
        supervision: str = "labels",
        n_neighbors: int = 20,
        max_iter: int = 1000,
        tol: float = 1e-4,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.gamma = gamma
        self.diagonal = diagonal
        self.prior = prior
        self.prior_share = prior_share
        self.supervision = supervision
        self.n_neighbors = n_neighbors
        self.max_iter = max_iter
        self.tol = tol
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
        self : MMC
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not finite or has another shape; if X is sparse and `diagonal` is True; if all
            labels, or all pairs, are of one kind; if no class has two samples; or if a parameter
            is out of range.

        Warns
        -----
        ConvergenceWarning
            If the fit needs more than `max_iter` iterations.
        """
        with unchanged_on_error(self):
            self._check_parameters(X)
            given, axes, first, second, same = self._read(X, y)
            n_components = self._count_components()

            points, L0, first, second = map_by_prior(self.prior, n_components, given, first, second)
            kept = same.copy()
            kept[~same] = points_differ(points, first[~same], second[~same])
            pairs, same = PairDistances(points, first[kept], second[kept]), same[kept]

            A = self._minimise(pairs, same, L0)
            labels = y if self.supervision == "labels" else None
            A, self.prior_share_ = mix_with_prior(
                A, given @ L0.T.astype(given.dtype), self.prior_share, labels
            )
            same_mean = pairs(A)[0][same].mean()
            L = A @ L0 / np.sqrt(same_mean if same_mean > 0 else 1.0)
            L = L if axes is None else L @ axes
            self._set_components(leading_components(L, n_components), given.dtype)
            return self

    def _check_parameters(self, X: ArrayLike) -> None:
        self._check_ranges(gamma=(Real, False, 0, None, "neither"))
        check_prior_share(self.prior_share)
        if self.diagonal and issparse(X):
            raise ValueError(
                "With diagonal=True X has to be dense, because M weighs single columns; got a "
                "sparse matrix. Pass X.toarray(), or set diagonal=False."
            )

    def _read(
        self, X: ArrayLike, y: ArrayLike | None
    ) -> tuple[
        NDArray[np.floating],
        NDArray[np.floating] | None,
        NDArray[np.integer],
        NDArray[np.integer],
        NDArray[np.bool_],
    ]:
        """Check pairs, or take pairs of neighbours from classes.

        Returns the points, the axes that sparse points were mapped to (or None), and the pairs:
        first, second, same.
        """
        if self.supervision == "pairs":
            points, first, second, same = self._read_pairs(X, y)
            return points, None, first, second, same
        points, codes, _ = self._read_labelled(X, y)
        if np.bincount(codes).max() < 2:
            raise ValueError(no_same_class_message(codes))
        points, axes = to_principal_axes(points, self._count_components())
        return points, axes, *distinct_neighbor_pairs(points, codes, self.n_neighbors)

    def _count_components(self) -> int:
        return check_n_components(self.n_components, self.n_features_in_, "n_features")

    def _minimise(
        self, pairs: PairDistances, same: NDArray[np.bool_], L0: NDArray[np.floating]
    ) -> NDArray[np.floating]:
        """Find A from the prior on; store the loss curve."""
        start: NDArray[np.floating] = np.eye(len(L0))
        unit = pairs(start)[0][same].mean()
        unit, weight = unit if unit > 0 else 1.0, self.gamma * len(pairs.X)
        objective: Objective = partial(
            mmc_objective, pairs=pairs, same=same, unit=unit, weight=weight
        )
        if self.diagonal:
            check_diagonal(L0.T @ L0)
            objective, start = restrict_to_diagonal(objective), np.ones(len(L0))
        A, self.loss_curve_, self.n_iter_ = minimize_lbfgs(
            objective,
            start,
            max_iter=self.max_iter,
            tol=self.tol,
            name="MMC",
            verbose=self.verbose,
        )
        return np.diag(A) if self.diagonal else A
