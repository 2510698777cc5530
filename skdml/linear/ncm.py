"""Nearest class mean metric learning, with one mean or several centroids a class."""

import warnings
from numbers import Integral, Real

import numpy as np
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

# Entries of the blocks of probabilities: 32 MiB of float64.
_BLOCK = 2**22


def log_posterior(L, X, centroids):
    """Log-probability that a centroid is the one of a point: ln p(j | x) ~ -|L (x - m_j)|² / 2.

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        The map.
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    centroids : ndarray of shape (n_centroids, n_features)
        m.

    Returns
    -------
    ndarray of shape (n_samples, n_centroids)
        In the dtype of X.
    """
    U = centroids @ L.T
    # |L x|² is the same for all centroids and cancels: what is left is linear in x.
    slope, offset = (U @ L).astype(X.dtype), np.einsum("ij,ij->i", U, U) / 2
    return log_softmax(safe_sparse_dot(X, slope.T) - offset.astype(X.dtype), axis=1)


def negative_log_likelihood(L, X, codes, centroids, owners, weight):
    """Mean of -ln p(y | x), where p(c | x) is the sum of p(j | x) over the centroids of class c.

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        The map.
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    centroids : ndarray of shape (n_centroids, n_features)
        m, float64.
    owners : ndarray of int, shape (n_centroids,)
        The class of each centroid.
    weight : ndarray of shape (n_samples,)
        Weights of the rows.

    Returns
    -------
    value : float
        The mean.
    gradient : ndarray of shape (n_components, n_features)
        Its gradient, float64. Let a_ij be w_i (p(j | x_i) - p(j | x_i, y_i)) over the sum of the
        weights; it is -L sum_ij a_ij (x_i - m_j)(x_i - m_j)ᵀ. As the a_ij of a row add up to 0
        that takes but AᵀX, and no matrix of n_features².
    """
    total, value = weight.sum(dtype=np.float64), 0.0
    pull, mass = np.zeros_like(centroids), np.zeros(len(centroids))  # AᵀX and Aᵀ1
    for rows in gen_batches(X.shape[0], max(1, _BLOCK // len(centroids))):
        log_p = log_posterior(L, X[rows], centroids)
        own = np.where(owners == codes[rows, None], log_p, -np.inf)
        log_likelihood = logsumexp(own, axis=1, keepdims=True)
        A = np.exp(log_p) - np.exp(own - log_likelihood)
        A *= weight[rows, None] / X.dtype.type(total)
        value -= float(weight[rows].astype(np.float64) @ log_likelihood[:, 0]) / total
        pull += safe_sparse_dot(A.T, X[rows], dense_output=True)
        mass += A.sum(axis=0)
    U = centroids @ L.T
    return value, (L @ pull.T) @ centroids + U.T @ (pull - mass[:, None] * centroids)


def penalised(L, start, alpha):
    """Ridge alpha / 2 |L - L0|², by its value and its gradient.

    Parameters
    ----------
    L, start : ndarray of shape (n_components, n_features)
        The map, and L0.
    alpha : float
        How strong it is.

    Returns
    -------
    value : float
        The ridge.
    gradient : ndarray of shape (n_components, n_features)
        Its gradient.
    """
    step = L - start
    return alpha / 2 * float((step * step).sum()), alpha * step


def to_softmax(L, X, weight):
    """Scale a map so that a softmax of its squared distances is neither flat nor hard.

    The mean square distance becomes 2 sqrt(n_components). If the components are independent, the
    square distance then varies by 2 sqrt(2), however many there are.

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        The map.
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    weight : ndarray of shape (n_samples,)
        Weights of the rows.

    Returns
    -------
    ndarray of shape (n_components, n_features)
        The scaled map.
    """
    spread = centre_and_scale(safe_sparse_dot(X, L.T, dense_output=True), weight)[1]
    return L * (len(L) ** 0.25 / spread)


def means(X, clusters, weight):
    """Weighted mean of the rows of each cluster.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Rows.
    clusters : ndarray of int, shape (n_samples,)
        The cluster of each row; each has one.
    weight : ndarray of shape (n_samples,)
        Weights of the rows, > 0.

    Returns
    -------
    ndarray of float64, shape (n_clusters, n_features)
        The means.
    """
    share = weight / np.bincount(clusters, weight)[clusters]
    member = csr_matrix((share, (clusters, np.arange(len(clusters)))))
    return np.asarray(safe_sparse_dot(member, X.astype(np.float64), dense_output=True))


def split_classes(X, codes, weight, n_centroids, rng):
    """Cut each class into clusters by k-means.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    weight : ndarray of shape (n_samples,)
        Weights of the rows, > 0.
    n_centroids : int
        Clusters in a class; fewer where it has no more distinct points.
    rng : RandomState
        Draws where k-means begins.

    Returns
    -------
    clusters : ndarray of int, shape (n_samples,)
        The cluster of each point.
    owners : ndarray of int, shape (n_clusters,)
        The class of each cluster, rising.
    """
    clusters, owners = np.empty(len(codes), dtype=np.intp), []
    for code in range(codes.max() + 1):
        rows = np.flatnonzero(codes == code)
        kmeans = KMeans(min(n_centroids, len(rows)), n_init=3, random_state=rng)
        # Threads would add in any order, and leave the bits of the sums to chance. That there are
        # fewer distinct points than clusters, which k-means warns of, is nothing wrong here.
        with one_thread("openmp"), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels = kmeans.fit(X[rows], sample_weight=weight[rows]).labels_
        found, labels = np.unique(labels, return_inverse=True)
        clusters[rows] = labels + len(owners)
        owners += [code] * len(found)
    return clusters, np.array(owners)


class _CentroidSoftmax(ClassifierMixin, LinearMetricLearner):
    """A softmax over centroids in the learned distance, fitted by maximum likelihood."""

    _sparse = True

    def _fit(self, X, y, sample_weight, **ranges):
        with unchanged_on_error(self):
            self._check_ranges(alpha=(Real, False, 0, None, "left"), **ranges)
            X, codes, classes = self._read_labelled(X, y)
            # Rows in an order of their own, equal ones merged: k-means then draws the same, whether
            # a row is there twice or counts twice.
            X, codes, weight = distinct_rows(X, codes, self._read_weight(sample_weight, X))
            codes, classes = encode_labels(classes[codes])
            rng = check_random_state(self.random_state)
            points, scale = centre_and_scale(X, weight)
            clusters, owners = self._cluster(points, codes, weight, rng)
            start = self._start(points, codes, scale, rng, weight)
            solution = self._solve(points, codes, clusters, owners, weight, start)
            return self._store(solution, scale, means(X, clusters, weight), owners, classes, X)

    def _cluster(self, points, codes, weight, rng):
        return codes, np.arange(codes.max() + 1)

    def _start(self, points, codes, scale, rng, weight):
        init = self._init_or_last_fit()
        data = Points(points, codes, weight, scale)
        start = initial_components(init, self.n_components, data, rng)
        return to_softmax(start, points, weight) if isinstance(init, str) else start

    def _solve(self, points, codes, clusters, owners, weight, start):
        centroids, alpha = means(points, clusters, weight), self.alpha / float(weight.sum())

        def objective(L):
            value, gradient = negative_log_likelihood(L, points, codes, centroids, owners, weight)
            ridge, slope = penalised(L, start, alpha)
            return value + ridge, gradient + slope

        return minimize_lbfgs(
            objective,
            start,
            max_iter=self.max_iter,
            tol=self.tol,
            name=type(self).__name__,
            verbose=self.verbose,
        )

    def _store(self, solution, scale, centroids, owners, classes, X):
        L, self.loss_curve_, self.n_iter_ = solution
        self.components_ = (L / scale).astype(X.dtype)
        self.centroids_ = centroids.astype(X.dtype)
        self.classes_ = classes
        self._owners = owners
        return self

    def predict_proba(self, X):
        """Probability of each class.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Points.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            p(c | x), in the order of `classes_`, in the dtype of `transform`.
        """
        Z = self.transform(X)
        U = self.centroids_ @ self.components_.T
        middle = U.mean(axis=0)  # far from the origin the products would lose digits
        log_p = log_posterior(np.eye(len(middle)), Z - middle.astype(Z.dtype), U - middle)
        first = np.searchsorted(self._owners, np.arange(len(self.classes_)))
        return np.add.reduceat(np.exp(log_p), first, axis=1)

    def predict(self, X):
        """Most probable class.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Points.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels.
        """
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class NCMML(_CentroidSoftmax):
    """Nearest class mean metric learning: each point is to lie nearest to the mean of its class.

    L maximises the likelihood of the classes, with p(c | x) ~ exp(-|L (x - m_c)|² / 2) and m_c the
    mean of class c (the multi-class logistic model of Mensink et al. [1]_), and a Gaussian prior
    around its start:

        min_L  -1/n sum_i ln p(y_i | x_i) + alpha / (2 n) |L - L0|²

    on points brought to a mean square distance of 2 (L is given for the points as they came). It
    is a classifier, too: `predict` names the class of the nearest mean. A class that is added
    later needs but its mean, no other L.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, in [1, n_features]. None stands for n_features.
    alpha : float, default=1.0
        Strength of the prior, >= 0. Where a linear function parts the classes, as it always can
        with more features than rows, L has no end without it.
    init : {"auto", "pca", "lda", "identity", "random"} or ndarray of shape \
            (n_components, n_features), default="auto"
        L0, where the search begins and the prior has its peak. "auto" is "lda" if n_components is
        less than the number of classes, else "pca" if it is less than n_features and n_samples,
        else "identity". All but an array are scaled to a mean square distance of
        2 sqrt(n_components), so that the softmax is neither flat nor hard.
    max_iter : int, default=200
        Iterations of L-BFGS at most.
    tol : float, default=1e-5
        Relative tolerance on the objective and on its gradient.
    warm_start : bool, default=False
        Whether to begin with the L of the earlier fit, which is then L0.
    random_state : int, RandomState instance or None, default=None
        Decides ``init="random"``.
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
    NCMC : Several centroids a class.
    sklearn.neighbors.NearestCentroid : The nearest mean in the plain distance.

    Notes
    -----
    An iteration takes O(n_samples n_classes n_features) time; memory is O(n_samples n_features)
    and at most 32 MiB for each array of probabilities. The loss is convex in M = LᵀL, so that
    without the prior a square L has no minimum but the global one. It depends on M by what M does
    to the differences of class means.

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
        n_components=None,
        *,
        alpha=1.0,
        init="auto",
        max_iter=200,
        tol=1e-5,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.alpha = alpha
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None, sample_weight=None):
        """Learn the distance.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Points.
        y : array-like of shape (n_samples,)
            Class labels, of any kind.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, >= 0: 2 counts a row twice, 0 leaves it out.

        Returns
        -------
        self : NCMML
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D or not finite, if y is missing, continuous or of one class, or if a
            parameter or a weight is out of range.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` iterations did not suffice.
        """
        return self._fit(X, y, sample_weight)


class NCMC(_CentroidSoftmax):
    """Nearest class multiple centroids: each point is to lie near a centroid of its class.

    As `NCMML`, but a class has several centroids m_j, found by k-means among its points, so that
    it may be made of several groups (Mensink et al. [1]_):

        min_L  -1/n sum_i ln sum_(j of class y_i) p(j | x_i) + alpha / (2 n) |L - L0|²

    with p(j | x) ~ exp(-|L (x - m_j)|² / 2), on points brought to a mean square distance of 2 (L
    is given for the points as they came). `predict` names the class whose centroids have most of
    the probability.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, in [1, n_features]. None stands for n_features.
    n_centroids : int, default=3
        Centroids of a class, >= 1; fewer where it has no more distinct points.
    alpha : float, default=2.0
        Strength of the prior, >= 0. Where a linear function parts the classes, as it always can
        with more features than rows, L has no end without it. It is twice that of `NCMML`, as
        the centroids are themselves fitted to the points that L brings near them.
    init : {"auto", "pca", "lda", "identity", "random"} or ndarray of shape \
            (n_components, n_features), default="auto"
        L0, where the search begins and the prior has its peak. "auto" is "lda" if n_components is
        less than the number of classes, else "pca" if it is less than n_features and n_samples,
        else "identity". All but an array are scaled to a mean square distance of
        2 sqrt(n_components), so that the softmax is neither flat nor hard.
    max_iter : int, default=200
        Iterations of L-BFGS at most.
    tol : float, default=1e-5
        Relative tolerance on the objective and on its gradient.
    warm_start : bool, default=False
        Whether to begin with the L of the earlier fit, which is then L0.
    random_state : int, RandomState instance or None, default=None
        Decides where k-means begins, and ``init="random"``.
    verbose : int, default=0
        1 prints a line for each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L, in the dtype of X.
    centroids_ : ndarray of shape (n_all_centroids, n_features)
        The centroids m, those of the first class first.
    centroid_classes_ : ndarray of shape (n_all_centroids,)
        The class label of each centroid.
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
    NCMML : One mean a class.

    Notes
    -----
    An iteration takes O(n_samples n_centroids n_classes n_features) time; memory is
    O(n_samples n_features) and at most 32 MiB for each array of probabilities. The centroids stay
    as k-means finds them in the plain distance.

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
        n_components=None,
        *,
        n_centroids=3,
        alpha=2.0,
        init="auto",
        max_iter=200,
        tol=1e-5,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.n_centroids = n_centroids
        self.alpha = alpha
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None, sample_weight=None):
        """Learn the distance.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Points.
        y : array-like of shape (n_samples,)
            Class labels, of any kind.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, >= 0: 2 counts a row twice, in k-means, too; 0 leaves it out.

        Returns
        -------
        self : NCMC
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not 2-D or not finite, if y is missing, continuous or of one class, or if a
            parameter or a weight is out of range.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` iterations did not suffice.
        """
        self._fit(X, y, sample_weight, n_centroids=(Integral, False, 1, None, "left"))
        self.centroid_classes_ = self.classes_[self._owners]
        return self

    def _cluster(self, points, codes, weight, rng):
        return split_classes(points, codes, weight, self.n_centroids, rng)
