"""Mahalanobis metric for clustering."""

from numbers import Real

import numpy as np
from scipy.sparse import issparse

from skdml.base import unchanged_on_error
from skdml.linear._neighbors import distinct_neighbor_pairs
from skdml.linear._pairs import PairDistances, points_differ
from skdml.linear._prior import log_det_divergence, map_by_prior, to_principal_axes
from skdml.linear._prior_share import check_prior_share, mix_with_prior
from skdml.linear._psd import leading_components
from skdml.linear._solvers import minimize_lbfgs
from skdml.linear.base import LinearMetricLearner, check_n_components, no_same_class_message


def mmc_objective(A, pairs, same, unit, weight):
    """D(AᵀA, I) + weight (mean of d² / unit over the same - 2 ln mean of d over the different).

    Parameters
    ----------
    A : ndarray of shape (n_features, n_features)
        M = AᵀA, on points mapped by the root of the prior.
    pairs : PairDistances
        The pairs; no different one of two equal points.
    same : ndarray of bool, shape (n_pairs,)
        Whether they are the same.
    unit : float
        What the mean of d² over the same is to be near.
    weight : float
        Of the pairs against the prior.

    Returns
    -------
    value : float
        The objective.
    gradient : ndarray of shape (n_features, n_features)
        By A.
    """
    squared, gradient_of = pairs(A)
    n_same, n_different = same.sum(), (~same).sum()
    d = np.sqrt(squared)
    spread, parted = squared @ same / n_same / unit, d @ ~same / n_different
    # The derivative of d by d² is 1 / (2 d).
    slope = same / (n_same * unit) - ~same / (n_different * parted * np.where(same, 1.0, d))
    divergence, gradient = log_det_divergence(A)
    value = divergence + weight * (spread - 2 * np.log(parted))
    return value, gradient + gradient_of(weight * slope)


def diagonal_of(objective):
    """Turn an objective of a matrix into one of its diagonal, all else being 0.

    Parameters
    ----------
    objective : callable
        ``objective(A)`` -> (value, gradient).

    Returns
    -------
    callable
        ``objective(a)`` -> (value, gradient), for a diagonal of shape (n_features,).
    """

    def of_diagonal(a):
        value, gradient = objective(np.diag(a))
        return value, gradient.diagonal()

    return of_diagonal


class MMC(LinearMetricLearner):
    """Mahalanobis metric for clustering: different points far, like ones within a bound.

    MMC [1]_ wants pairs of different points (D) as far apart as can be, while the squared
    distances of like pairs (S) keep below a bound:

        max over M of  mean over D of d(x, y)  with  mean over S of d²(x, y) <= s.

    The best M is, but for its scale, the one that minimises mean_S d² / s - 2 ln mean_D d, which
    is convex. It fits few pairs too well, and parts classes by few directions; a prior M₀ that it
    is to stay near, as with :class:`ITML`, keeps it from both. What is minimised by L-BFGS is

        D(M, M₀) + c (mean_S d² / s - 2 ln mean_D d)
        with D(M, M₀) = tr(M M₀⁻¹) - ln det(M M₀⁻¹) - n_features,

    s being mean_S d² under M₀. M is then scaled to mean_S d² = 1, which keeps the bound s = 1.

    Parameters
    ----------
    n_components : int, default=None
        Keep the so many leading axes of M. None keeps all n_features. Of sparse X, so many
        principal axes are taken first, and M is sought within them.
    gamma : float, default=0.06
        How much the pairs count against the prior, > 0: c is ``gamma * n_points``, n_points being
        the number of distinct points in the pairs. The solution of [1]_ is the limit of a large
        gamma.
    diagonal : bool, default=False
        Whether M is to be diagonal: a weight for each feature.
    prior : {"identity", "covariance"} or array-like of shape (n_features, n_features), \
            default="identity"
        M₀: the identity, in a unit in which the mean square distance of points is 2; the inverse
        of their covariance (its pseudo-inverse where it is singular: M is then blind where it
        is); or a positive definite matrix. Diagonal if M is to be.
    prior_share : "auto" or float, default="auto"
        Share of the prior's distance in M, in [0, 1], in a unit in which points are as far apart
        by it as by what was learned. 0 is the paper's M. "auto" takes the one of 0, ¼, ½, ¾ and 1
        by which most of the seven nearest others of the points (of 500 at most) are of the class
        of these, the least if several are equal; without labels it is 0.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` is given: points and their classes, or pairs and whether they are the same.
    n_neighbors : int, default=20
        With labels, S is made of each point with so many nearest ones of its class, and D with so
        many nearest ones of other classes. [1]_ takes all pairs, by n_neighbors = n_samples;
        near ones tell more of who will be a neighbour.
    max_iter : int, default=1000
        Iterations at most.
    tol : float, default=1e-4
        Relative tolerance: iteration ends when the objective falls by less than this share of its
        value at the start, or its gradient is this share of what it was.
    verbose : int, default=0
        1 prints a line for each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M: the axes of M, by decreasing eigenvalue. float32 if X is, else float64.
    prior_share_ : float
        The share of the prior's distance in M.
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
    ITML : The same prior; distances are held to bounds.

    Notes
    -----
    There is no `init`: the minimum is the same from any start, and the search begins at the prior.
    Different pairs of two equal points are left out, since no M parts these. An evaluation takes
    O(n_points n_features² + n_pairs n_features) time and O(n_points n_features + n_pairs) memory,
    and the search for near pairs, once, up to O(n_points² n_features) time among many columns.

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
        n_components=None,
        *,
        gamma=0.06,
        diagonal=False,
        prior="identity",
        prior_share="auto",
        supervision="labels",
        n_neighbors=20,
        max_iter=1000,
        tol=1e-4,
        verbose=0,
    ):
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
        self : MMC
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not of that shape or not finite, or sparse with ``diagonal=True``, if all
            labels or pairs are of one kind, if no class has two samples, or if a parameter is out
            of range.
        """
        with unchanged_on_error(self):
            self._check_ranges(gamma=(Real, False, 0, None, "neither"))
            check_prior_share(self.prior_share)
            if self.diagonal and issparse(X):
                raise ValueError("With diagonal=True X has to be dense: M weighs single features.")
            X, axes, first, second, same = self._read(X, y)
            n_components = self._count_components()
            points, L0, first, second = map_by_prior(self.prior, n_components, X, first, second)
            kept = same.copy()
            kept[~same] = points_differ(points, first[~same], second[~same])
            pairs, same = PairDistances(points, first[kept], second[kept]), same[kept]
            A = self._minimize(pairs, same, L0)
            A, self.prior_share_ = mix_with_prior(
                A,
                X @ L0.T.astype(X.dtype),
                self.prior_share,
                y if self.supervision == "labels" else None,
            )
            spread = pairs(A)[0][same].mean()
            L = A @ L0 / np.sqrt(spread if spread > 0 else 1.0)
            L = L if axes is None else L @ axes
            self.components_ = leading_components(L, n_components).astype(X.dtype)
            return self

    def _minimize(self, pairs, same, L0):
        """Find A, and note how."""
        prior = np.eye(len(L0))
        unit = pairs(prior)[0][same].mean()
        unit, weight = unit if unit > 0 else 1.0, self.gamma * len(pairs.X)

        def objective(A):
            return mmc_objective(A, pairs, same, unit, weight)

        if self.diagonal:
            M0 = L0.T @ L0
            if abs(M0 - np.diag(M0.diagonal())).max() > 1e-9 * abs(M0).max():
                raise ValueError(
                    "With diagonal=True prior has to be diagonal, too; this one is not."
                )
            objective, prior = diagonal_of(objective), np.ones(len(L0))
        A, self.loss_curve_, self.n_iter_ = minimize_lbfgs(
            objective,
            prior,
            max_iter=self.max_iter,
            tol=self.tol,
            name="MMC",
            verbose=self.verbose,
        )
        return np.diag(A) if self.diagonal else A

    def _read(self, X, y):
        """Check pairs, or choose them from classes: points within axes, the axes, the pairs."""
        if self.supervision == "pairs":
            X, first, second, same = self._read_pairs(X, y)
            return X, None, first, second, same
        X, codes, _ = self._read_labelled(X, y)
        if np.bincount(codes).max() < 2:
            raise ValueError(no_same_class_message(codes))
        Z, axes = to_principal_axes(X, self._count_components())
        return Z, axes, *distinct_neighbor_pairs(Z, codes, self.n_neighbors)

    def _count_components(self):
        return check_n_components(self.n_components, self.n_features_in_, "n_features")
