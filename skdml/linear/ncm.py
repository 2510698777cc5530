"""Nearest class mean metric learning, with one mean or several centroids per class."""

import warnings
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix
from scipy.special import log_softmax, logsumexp
from sklearn.base import ClassifierMixin
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import check_is_fitted

from skdml._threads import one_thread
from skdml.base import unchanged_on_error
from skdml.constraints import encode_labels
from skdml.linear._init import initial_components
from skdml.linear._points import Points, centre_and_scale, distinct_rows
from skdml.linear._solvers import minimize_lbfgs
from skdml.linear.base import LinearMetricLearner

# Entries in a block of probabilities: 32 MiB of float64.
_BLOCK = 2**22


def log_posterior(
    L: NDArray[np.floating], X: NDArray[np.floating], centroids: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Log-probability of each centroid for each point: ln p(j | x) ~ -|L (x - m_j)|² / 2.

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        The map.
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    centroids : ndarray of shape (n_centroids, n_features)
        The centroids m.

    Returns
    -------
    ndarray of shape (n_samples, n_centroids)
        ln p(j | x), in the dtype of X.
    """
    U = centroids @ L.T
    # |L x|² is the same for all centroids and cancels. The rest is linear in x.
    slope, offset = (U @ L).astype(X.dtype), np.einsum("ij,ij->i", U, U) / 2
    return log_softmax(safe_sparse_dot(X, slope.T) - offset.astype(X.dtype), axis=1)


def negative_log_likelihood(
    L: NDArray[np.floating],
    X: NDArray[np.floating],
    codes: NDArray[np.integer],
    centroids: NDArray[np.floating],
    centroid_codes: NDArray[np.integer],
    weight: NDArray[np.floating],
) -> tuple[float, NDArray[np.floating]]:
    """Mean of -ln p(y | x), where p(c | x) is the sum of p(j | x) over the centroids of class c.

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        The map.
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Class of each point.
    centroids : ndarray of shape (n_centroids, n_features)
        The centroids m, float64.
    centroid_codes : ndarray of int, shape (n_centroids,)
        Class of each centroid.
    weight : ndarray of shape (n_samples,)
        Weight of each row.

    Returns
    -------
    value : float
        The mean.
    gradient : ndarray of shape (n_components, n_features)
        Gradient of the value with respect to L, float64. Let a_ij be
        w_i (p(j | x_i) - p(j | x_i, y_i)) divided by the sum of the weights. The gradient is
        -L sum_ij a_ij (x_i - m_j)(x_i - m_j)ᵀ. The a_ij of a row sum to 0, so AᵀX suffices to
        compute it, without a matrix of n_features² entries.
    """
    total, value = weight.sum(dtype=np.float64), 0.0
    pull, mass = np.zeros_like(centroids), np.zeros(len(centroids))  # AᵀX and Aᵀ1
    for rows in gen_batches(X.shape[0], max(1, _BLOCK // len(centroids))):
        log_p = log_posterior(L, X[rows], centroids)
        own = np.where(centroid_codes == codes[rows, None], log_p, -np.inf)
        log_likelihood = logsumexp(own, axis=1, keepdims=True)
        A = np.exp(log_p) - np.exp(own - log_likelihood)
        A *= weight[rows, None] / X.dtype.type(total)
        value -= float(weight[rows].astype(np.float64) @ log_likelihood[:, 0]) / total
        pull += safe_sparse_dot(A.T, X[rows], dense_output=True)
        mass += A.sum(axis=0)
    U = centroids @ L.T
    return value, (L @ pull.T) @ centroids + U.T @ (pull - mass[:, None] * centroids)


def ridge_penalty(
    L: NDArray[np.floating], start: NDArray[np.floating], alpha: float
) -> tuple[float, NDArray[np.floating]]:
    """Ridge penalty alpha / 2 |L - L0|² and its gradient.

    Parameters
    ----------
    L, start : ndarray of shape (n_components, n_features)
        The map, and L0.
    alpha : float
        Strength of the penalty.

    Returns
    -------
    value : float
        The penalty.
    gradient : ndarray of shape (n_components, n_features)
        Gradient of the penalty with respect to L.
    """
    step = L - start
    return alpha / 2 * float((step * step).sum()), alpha * step


def scale_for_softmax(
    L: NDArray[np.floating], X: NDArray[np.floating], weight: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Scale a map so that a softmax of its squared distances is neither flat nor hard.

    The mean squared distance becomes 2 sqrt(n_components). If the components are independent, the
    standard deviation of the squared distance is then 2 sqrt(2) for any number of components.

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        The map.
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    weight : ndarray of shape (n_samples,)
        Weight of each row.

    Returns
    -------
    ndarray of shape (n_components, n_features)
        The scaled map.
    """
    spread = centre_and_scale(safe_sparse_dot(X, L.T, dense_output=True), weight)[1]
    return L * (len(L) ** 0.25 / spread)


def cluster_means(
    X: NDArray[np.floating], clusters: NDArray[np.integer], weight: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Weighted mean of the rows of each cluster.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Rows.
    clusters : ndarray of int, shape (n_samples,)
        Cluster of each row. No cluster is empty.
    weight : ndarray of shape (n_samples,)
        Weight of each row, > 0.

    Returns
    -------
    ndarray of float64, shape (n_clusters, n_features)
        The means.
    """
    share = weight / np.bincount(clusters, weight)[clusters]
    member = csr_matrix((share, (clusters, np.arange(len(clusters)))))
    return np.asarray(safe_sparse_dot(member, X.astype(np.float64), dense_output=True))


def split_classes(
    X: NDArray[np.floating],
    codes: NDArray[np.integer],
    weight: NDArray[np.floating],
    n_centroids: int,
    rng: np.random.RandomState,
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Split each class into clusters by k-means.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Class of each point.
    weight : ndarray of shape (n_samples,)
        Weight of each row, > 0.
    n_centroids : int
        Number of clusters per class. A class with fewer distinct points gets fewer clusters.
    rng : RandomState
        Draws the start of k-means.

    Returns
    -------
    clusters : ndarray of int, shape (n_samples,)
        Cluster of each point.
    centroid_codes : ndarray of int, shape (n_clusters,)
        Class of each cluster, in ascending order.
    """
    clusters = np.empty(len(codes), dtype=np.intp)
    centroid_codes: list[int] = []
    for code in range(codes.max() + 1):
        rows = np.flatnonzero(codes == code)
        kmeans = KMeans(min(n_centroids, len(rows)), n_init=3, random_state=rng)
        # One thread: several would add in any order, and the sums would not repeat bit for bit.
        # The ConvergenceWarning of k-means about fewer distinct points than clusters is expected.
        with one_thread("openmp"), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels = kmeans.fit(X[rows], sample_weight=weight[rows]).labels_
        found, labels = np.unique(labels, return_inverse=True)
        clusters[rows] = labels + len(centroid_codes)
        centroid_codes += [code] * len(found)
    return clusters, np.array(centroid_codes)


class _CentroidClassifier(ClassifierMixin, LinearMetricLearner):
    """A softmax over centroids in the learned distance, fitted by maximum likelihood."""

    _sparse = True

    # Parameters of both learners.
    alpha: float
    max_iter: int
    tol: float
    random_state: int | np.random.RandomState | None
    verbose: int

    def _fit(
        self, X: ArrayLike, y: ArrayLike | None, sample_weight: ArrayLike | None, **ranges: Any
    ) -> Self:
        with unchanged_on_error(self):
            self._check_ranges(alpha=(Real, False, 0, None, "left"), **ranges)
            given, codes, classes = self._read_labelled(X, y)
            # Sort the rows and merge equal ones. k-means then draws the same centroids for a row
            # that occurs twice and a row of weight 2.
            given, codes, weight = distinct_rows(
                given, codes, self._read_weight(sample_weight, given)
            )
            codes, classes = encode_labels(classes[codes])

            rng = check_random_state(self.random_state)
            points, scale = centre_and_scale(given, weight)
            clusters, centroid_codes = self._cluster(points, codes, weight, rng)
            init = self._init_or_last_fit()
            data = Points(points, codes, weight, scale)
            start = initial_components(init, self.n_components, data, rng)
            if isinstance(init, str):
                start = scale_for_softmax(start, points, weight)

            centroids = cluster_means(points, clusters, weight)
            L = self._minimise(start, points, codes, centroids, centroid_codes, weight)
            self._set_components(L / scale, given.dtype)
            self.centroids_ = cluster_means(given, clusters, weight).astype(given.dtype)
            self.classes_, self._centroid_codes = classes, centroid_codes
            return self

    def _cluster(
        self,
        points: NDArray[np.floating],
        codes: NDArray[np.integer],
        weight: NDArray[np.floating],
        rng: np.random.RandomState,
    ) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """Cluster of each point, and class of each cluster; here each class is one cluster."""
        return codes, np.arange(codes.max() + 1)

    def _minimise(
        self,
        start: NDArray[np.floating],
        points: NDArray[np.floating],
        codes: NDArray[np.integer],
        centroids: NDArray[np.floating],
        centroid_codes: NDArray[np.integer],
        weight: NDArray[np.floating],
    ) -> NDArray[np.floating]:
        """Find L; store the loss curve."""
        alpha = self.alpha / float(weight.sum())

        def objective(L: NDArray[np.floating]) -> tuple[float, NDArray[np.floating]]:
            value, gradient = negative_log_likelihood(
                L, points, codes, centroids, centroid_codes, weight
            )
            penalty, slope = ridge_penalty(L, start, alpha)
            return value + penalty, gradient + slope

        L, self.loss_curve_, self.n_iter_ = minimize_lbfgs(
            objective,
            start,
            max_iter=self.max_iter,
            tol=self.tol,
            name=type(self).__name__,
            verbose=self.verbose,
        )
        return L

    def predict_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Probability of each class.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Points.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            p(c | x), in the order of `classes_` and in the dtype of `transform`.
        """
        Z = self.transform(X)
        U = self.centroids_ @ self.components_.T
        middle = U.mean(axis=0)  # far from the origin the products would lose digits
        log_p = log_posterior(np.eye(len(middle)), Z - middle.astype(Z.dtype), U - middle)
        first = np.searchsorted(self._centroid_codes, np.arange(len(self.classes_)))
        return np.add.reduceat(np.exp(log_p), first, axis=1)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Most probable class.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Points.

        Returns
        -------
        ndarray of shape (n_samples,)
            Class labels.
        """
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class NCMML(_CentroidClassifier):
    """Nearest class mean metric learning: each point is close to the mean of its class.

    The class probabilities are p(c | x) ~ exp(-|L (x - m_c)|² / 2), with m_c the mean of class c.
    This is the multi-class logistic model of Mensink et al. [1]_. L maximises the likelihood of the
    classes. Unlike the paper, a Gaussian prior is centred at the start L0:

        min_L  -1/n sum_i ln p(y_i | x_i) + alpha / (2 n) |L - L0|²

    The objective uses points scaled to a mean squared distance of 2; `components_` is L for the
    original points. The learner is also a classifier: `predict` returns the class of the nearest
    mean. A new class needs only its mean, and L stays the same.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, from 1 to n_features. None means n_features. Fewer components make
        `transform` shorter; two give a planar embedding.
    alpha : float, default=1.0
        Strength of the prior, >= 0. Without it, L grows without bound if a linear function
        separates the classes. This is always possible with more features than rows. Increase it
        if there are few rows.
    init : {"auto", "pca", "lda", "identity", "random"} or ndarray of shape \
            (n_components, n_features), default="auto"
        L0: the start of the search and the centre of the prior. "auto" is "lda" if n_components is
        less than the number of classes. Otherwise it is "pca" if n_components is less than
        n_features and n_samples, and "identity" if not. A named start is scaled to a mean squared
        distance of 2 sqrt(n_components), so that the softmax is neither flat nor hard. An array
        is used as it is. Give an array if a good map is known.
    max_iter : int, default=200
        Maximum number of iterations of L-BFGS, at least 1. Increase it after a
        ConvergenceWarning.
    tol : float, default=1e-5
        Relative tolerance on the objective and on its gradient, >= 0. Increase it for a faster
        fit.
    warm_start : bool, default=False
        Whether to start from the L of the earlier fit, which then replaces L0.
    random_state : int, RandomState instance or None, default=None
        Seed of ``init="random"``. Pass an int for repeatable results.
    verbose : int, default=0
        1 prints a line for each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L, in the dtype of X.
    centroids_ : ndarray of shape (n_classes, n_features)
        The class means m.
    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        The objective at the start and after each iteration.
    n_iter_ : int
        Number of iterations.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    NCMC : Several centroids per class.
    sklearn.neighbors.NearestCentroid : The nearest mean in Euclidean distance.

    Notes
    -----
    An iteration takes O(n_samples n_classes n_features) time. Memory is O(n_samples n_features),
    plus at most 32 MiB for each array of probabilities. The likelihood is concave in M = LᵀL.
    Without the prior, a square L therefore has only global minima. The likelihood depends on M
    only through the products of M with the differences of class means.

    References
    ----------
    .. [1] T. Mensink, J. Verbeek, F. Perronnin and G. Csurka, "Metric learning for large scale
       image classification: generalizing to new classes at near-zero cost", ECCV 2012, 488-501;
       and "Distance-based image classification: generalizing to new classes at near-zero cost",
       IEEE Transactions on Pattern Analysis and Machine Intelligence 35(11), 2624-2637, 2013.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skdml import NCMML
    >>> X, y = load_iris(return_X_y=True)
    >>> learner = NCMML().fit(X[::2], y[::2])
    >>> learner.transform(X).shape
    (150, 4)
    >>> round(learner.score(X[1::2], y[1::2]), 2)
    0.97
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        alpha: float = 1.0,
        init: str | ArrayLike = "auto",
        max_iter: int = 200,
        tol: float = 1e-5,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.alpha = alpha
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn the distance.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Points.
        y : array-like of shape (n_samples,)
            Class labels of any kind.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row, >= 0. A row of weight 2 counts as two rows, a row
            of weight 0 is left out. None gives every row the weight 1.

        Returns
        -------
        self : NCMML
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D or not finite; if y is missing, is continuous or has a single class;
            or if a parameter or a weight is out of range.

        Warns
        -----
        ConvergenceWarning
            If the fit needs more than `max_iter` iterations.
        """
        return self._fit(X, y, sample_weight)


class NCMC(_CentroidClassifier):
    """Nearest class multiple centroids: each point is close to a centroid of its class.

    NCMC is like :class:`NCMML`, but a class has several centroids m_j. They are found by k-means
    among the points of the class, so a class may consist of several groups (Mensink et al. [1]_).
    Unlike the paper, a Gaussian prior is centred at the start L0:

        min_L  -1/n sum_i ln sum_(j of class y_i) p(j | x_i) + alpha / (2 n) |L - L0|²

    with p(j | x) ~ exp(-|L (x - m_j)|² / 2). The objective uses points scaled to a mean squared
    distance of 2; `components_` is L for the original points. `predict` returns the class whose
    centroids have the largest total probability.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, from 1 to n_features. None means n_features. Fewer components make
        `transform` shorter; two give a planar embedding.
    n_centroids : int, default=3
        Number of centroids per class, at least 1. A class with fewer distinct points gets fewer.
        Increase it if classes consist of several groups.
    alpha : float, default=2.0
        Strength of the prior, >= 0. Without it, L grows without bound if a linear function
        separates the classes. This is always possible with more features than rows. The default
        is twice that of `NCMML`, because the centroids are themselves fitted to the points that L
        brings near them. Increase it if there are few rows.
    init : {"auto", "pca", "lda", "identity", "random"} or ndarray of shape \
            (n_components, n_features), default="auto"
        L0: the start of the search and the centre of the prior. "auto" is "lda" if n_components is
        less than the number of classes. Otherwise it is "pca" if n_components is less than
        n_features and n_samples, and "identity" if not. A named start is scaled to a mean squared
        distance of 2 sqrt(n_components), so that the softmax is neither flat nor hard. An array
        is used as it is. Give an array if a good map is known.
    max_iter : int, default=200
        Maximum number of iterations of L-BFGS, at least 1. Increase it after a
        ConvergenceWarning.
    tol : float, default=1e-5
        Relative tolerance on the objective and on its gradient, >= 0. Increase it for a faster
        fit.
    warm_start : bool, default=False
        Whether to start from the L of the earlier fit, which then replaces L0.
    random_state : int, RandomState instance or None, default=None
        Seed of k-means and of ``init="random"``. Pass an int for repeatable results.
    verbose : int, default=0
        1 prints a line for each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L, in the dtype of X.
    centroids_ : ndarray of shape (n_all_centroids, n_features)
        The centroids m, sorted by class.
    centroid_classes_ : ndarray of shape (n_all_centroids,)
        Class label of each centroid.
    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        The objective at the start and after each iteration.
    n_iter_ : int
        Number of iterations.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    NCMML : One mean per class.

    Notes
    -----
    An iteration takes O(n_samples n_centroids n_classes n_features) time. Memory is
    O(n_samples n_features), plus at most 32 MiB for each array of probabilities. k-means uses
    Euclidean distance, and the centroids do not change afterwards.

    References
    ----------
    .. [1] T. Mensink, J. Verbeek, F. Perronnin and G. Csurka, "Distance-based image
       classification: generalizing to new classes at near-zero cost", IEEE Transactions on
       Pattern Analysis and Machine Intelligence 35(11), 2624-2637, 2013.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skdml import NCMC
    >>> X, y = load_iris(return_X_y=True)
    >>> learner = NCMC(n_centroids=2, random_state=0).fit(X[::2], y[::2])
    >>> learner.centroids_.shape
    (6, 4)
    >>> round(learner.score(X[1::2], y[1::2]), 1)
    1.0
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        n_centroids: int = 3,
        alpha: float = 2.0,
        init: str | ArrayLike = "auto",
        max_iter: int = 200,
        tol: float = 1e-5,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.n_centroids = n_centroids
        self.alpha = alpha
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn the distance.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Points.
        y : array-like of shape (n_samples,)
            Class labels of any kind.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row, >= 0. A row of weight 2 counts as two rows, in
            k-means, too. A row of weight 0 is left out. None gives every row the weight 1.

        Returns
        -------
        self : NCMC
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D or not finite; if y is missing, is continuous or has a single class;
            or if a parameter or a weight is out of range.

        Warns
        -----
        ConvergenceWarning
            If the fit needs more than `max_iter` iterations.
        """
        self._fit(X, y, sample_weight, n_centroids=(Integral, False, 1, None, "left"))
        self.centroid_classes_ = self.classes_[self._centroid_codes]
        return self

    def _cluster(
        self,
        points: NDArray[np.floating],
        codes: NDArray[np.integer],
        weight: NDArray[np.floating],
        rng: np.random.RandomState,
    ) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        return split_classes(points, codes, weight, self.n_centroids, rng)
