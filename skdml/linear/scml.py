"""SCML: sparse compositional metric learning, M a weighted sum of bases (Shi et al. 2014)."""

from functools import partial
from numbers import Integral, Real

import numpy as np
from scipy.linalg import eigh, svd
from sklearn.cluster import KMeans
from sklearn.utils import check_array, check_random_state

from skdml._threads import kneighbors, one_thread
from skdml.base import unchanged_on_error
from skdml.constraints import neighbor_triplets
from skdml.linear._init import discriminants
from skdml.linear._pairs import PairGraph
from skdml.linear._psd import root
from skdml.linear._solvers import minimize_lbfgs
from skdml.linear.base import LinearMetricLearner, check_n_components, no_same_class_message

# A region is looked at on these scales: so many points of each class, or so many anchors.
_SCALES = (10, 20, 50)
# Of triplets, how many directions a region and scale give.
_DIRECTIONS = 5
# A share of the mean variance, added where scatters are inverted.
_RIDGE = 1e-2


class Comparisons:
    """Triplets as pairs of points, each pair measured once however many triplets it is in.

    Parameters
    ----------
    triplets : ndarray of int, shape (n_triplets, 3)
        Rows: anchor, positive, negative.
    n_points : int
        How many points there are.

    Attributes
    ----------
    graph : PairGraph
        The distinct pairs, in either order the same.
    near, far : ndarray of int, shape (n_triplets,)
        The pair of anchor and positive, and that of anchor and negative.
    """

    def __init__(self, triplets, n_points):
        pairs = np.concatenate([triplets[:, [0, 1]], triplets[:, [0, 2]]])
        keys = pairs.min(axis=1) * n_points + pairs.max(axis=1)
        keys, place = np.unique(keys, return_inverse=True)
        self.graph = PairGraph(*np.divmod(keys, n_points), n_points)
        self.near, self.far = np.split(place.ravel(), 2)


def smooth_hinge(z):
    """Value and slope of a hinge whose corner is rounded: 0, z² / 2 from 0 to 1, then z - 1/2."""
    slope = np.clip(z, 0, 1)
    return slope * (z - slope / 2), slope


def scml_loss(w, X, basis, comparisons, beta):
    """Mean hinge of triplets under M = Σ_i w_i b_i b_iᵀ, plus beta Σ_i w_i (eq. 4).

    Parameters
    ----------
    w : ndarray of shape (n_basis,)
        Weights, >= 0.
    X : ndarray of shape (n_points, n_features)
        Points.
    basis : ndarray of shape (n_basis, n_features)
        The b_i, as rows.
    comparisons : Comparisons
        Triplets (a, p, n) of points.
    beta : float
        Weight of the sum of the weights.

    Returns
    -------
    value : float
        (1 / n_triplets) Σ hinge(1 + d²(a, p) - d²(a, n)) + beta Σ w.
    gradient : ndarray of shape (n_basis,)
        Its gradient: b_iᵀ G b_i + beta, with G the gradient by M.
    """
    graph, near, far = comparisons.graph, comparisons.near, comparisons.far
    squared = graph.squared_distances(X @ root((basis.T * w) @ basis).T)
    loss, slope = smooth_hinge(1 + squared[near] - squared[far])
    pull = np.bincount(near, slope, len(graph)) - np.bincount(far, slope, len(graph))
    G = X.T @ graph.laplacian_product(pull / len(near), X)
    return loss.mean() + beta * w.sum(), np.einsum("ij,ij->i", basis @ G, basis) + beta


def prepare(X, triplets):
    """Bring points to the span of their rows, and anchors to a distance of 1 from negatives.

    Parameters
    ----------
    X : ndarray of shape (n_points, n_features)
        Points.
    triplets : ndarray of int, shape (n_triplets, 3)
        Rows: anchor, positive, negative.

    Returns
    -------
    points : ndarray of float64, shape (n_points, n_axes)
        Coordinates of the points along the axes, in the unit.
    axes : ndarray of shape (n_axes, n_features)
        Orthonormal: the identity unless there are fewer points than features.
    unit : float
        Root mean square distance of anchors and negatives; 1 where that is 0.
    """
    points = X.astype(np.float64) - X[0]
    points -= points.mean(axis=0)
    axes = np.eye(X.shape[1])
    if len(X) < X.shape[1]:
        axes = svd(points, full_matrices=False)[2]
        points = points @ axes.T
    anchors, negatives = triplets[:, 0], triplets[:, 2]
    order = np.argsort(anchors, kind="stable")
    graph = PairGraph(anchors[order], negatives[order], len(X))
    unit = float(np.sqrt(graph.squared_distances(points).mean())) or 1.0
    return points / unit, axes, unit


def region_centres(X, n_regions, rng):
    """Centres of k-means clusters, as many as asked for or as there are distinct points."""
    n_regions = min(n_regions, max(1, len(X) // 2), len(np.unique(X, axis=0)))
    return KMeans(n_regions, n_init=1, max_iter=20, random_state=rng).fit(X).cluster_centers_


def nearest(X, rows, centres):
    """Find the `rows` of X nearest to each centre: as many as the largest scale, or all."""
    return rows[kneighbors(X[rows], centres, min(max(_SCALES), len(rows)))[1]]


def local_discriminants(X, codes, n_basis, rng):
    """Fisher's discriminants of regions: around each centre, some nearest points of each class.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    n_basis : int
        About how many to find.
    rng : RandomState
        Starts k-means.

    Returns
    -------
    ndarray of shape (n_found, n_features)
        Directions, of length 1.
    """
    n_axes = min(codes.max(), X.shape[1])
    centres = region_centres(X, -(-n_basis // (n_axes * len(_SCALES))), rng)
    members = [nearest(X, np.flatnonzero(codes == code), centres) for code in np.unique(codes)]
    found = []
    for region in range(len(centres)):
        for scale in _SCALES:
            rows = np.concatenate([near[region, :scale] for near in members])
            found.append(discriminants(X[rows] - centres[region], codes[rows], n_axes))
    return unit_rows(np.concatenate(found))


def triplet_directions(X, triplets, n_basis, rng):
    """Directions in which, around some anchors, negatives are far and positives near.

    Around each centre they are the leading generalised eigenvectors of the scatter of anchors and
    negatives against that of anchors and positives.

    Parameters
    ----------
    X : ndarray of shape (n_points, n_features)
        Points.
    triplets : ndarray of int, shape (n_triplets, 3)
        Rows: anchor, positive, negative.
    n_basis : int
        About how many to find.
    rng : RandomState
        Starts k-means.

    Returns
    -------
    ndarray of shape (n_found, n_features)
        Directions, of length 1.
    """
    n_features = X.shape[1]
    n_axes = min(_DIRECTIONS, n_features)
    triplets = triplets[np.argsort(triplets[:, 0], kind="stable")]
    anchors, starts = np.unique(triplets[:, 0], return_index=True)
    ends = np.append(starts[1:], len(triplets))
    centres = region_centres(X[anchors], -(-n_basis // (n_axes * len(_SCALES))), rng)
    found = []
    for near in nearest(X[anchors], np.arange(len(anchors)), centres):
        for scale in _SCALES:
            rows = np.concatenate([np.arange(starts[i], ends[i]) for i in near[:scale]])
            a, p, n = X[triplets[rows].T]
            S, D = (a - p).T @ (a - p), (a - n).T @ (a - n)
            ridge = _RIDGE * np.trace(S) / n_features + np.finfo(np.float64).eps * (1 + np.trace(D))
            chosen = [n_features - n_axes, n_features - 1]
            found.append(eigh(D, S + ridge * np.eye(n_features), subset_by_index=chosen)[1].T)
    return unit_rows(np.concatenate(found))


def unit_rows(rows):
    """Rows of length 1; those of length 0 are left out."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    kept = length.ravel() > 0
    return rows[kept] / length[kept]


class SCML(LinearMetricLearner):
    """Sparse compositional metric learning: M is a sum of few locally discriminative bases.

    Many directions are found, each telling the classes apart in some region. M = Σ_i w_i b_i b_iᵀ
    weighs them, most by 0, so that each point is nearer to a point of its class than to one of
    another (Shi, Bellet & Sha [1]_, eq. 4)::

        minimise over w >= 0:  mean over triplets of hinge(1 + d²(a, p) - d²(a, n)) + beta Σ w_i

    The hinge has its corner rounded: z² / 2 from 0 to 1. The problem is then smooth and convex,
    and L-BFGS with bounds solves it for all triplets at once in a small part of the time that
    stochastic steps take. Its gradient by w_i is b_iᵀ G b_i, with G of shape (n_features,
    n_features): no array of triplets by bases is made.

    Parameters
    ----------
    n_components : int, default=None
        Rows of L: this many leading axes of M, from 1 to n_features. None keeps all.
    basis : {"auto", "lda", "triplet_diffs"} or array-like of shape (n_basis, n_features), \
            default="auto"
        The b_i. "lda": Fisher's discriminants in regions around k-means centres, of the 10, 20
        and 50 nearest points of each class, as in the paper. "triplet_diffs": in regions of 10,
        20 and 50 anchors, the directions of the largest ratio of distances to negatives and to
        positives. "auto" is "lda" with labels, else "triplet_diffs".
    n_basis : int, default=None
        About how many b_i to find, >= 1. None: 20 n_features, 1000 at most.
    beta : float, default=1e-5
        Weight of the sum of the w_i, >= 0: more makes more of them 0.
    n_neighbors : int, default=3
        With labels, how many nearest points of its class are positives of each point, >= 1.
    n_impostors : int, default=10
        With labels, how many nearest points of other classes are its negatives, >= 1.
    supervision : {"labels", "triplets"}, default="labels"
        What `fit` reads: points and class labels, or triplets (anchor, positive, negative).
    n_constraints : int, default=None
        With labels, how many of those triplets to draw. None takes all of them.
    max_iter : int, default=500
        Iterations at most, >= 1.
    tol : float, default=1e-4
        Relative fall of the objective to end at, >= 0.
    random_state : int, RandomState instance or None, default=None
        Starts k-means, and draws the triplets if `n_constraints` is given.
    verbose : int, default=0
        1 prints the objective after each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M, by decreasing eigenvalue of M. float32 if X is, else float64.
    basis_ : ndarray of shape (n_basis, n_features)
        The b_i, of length 1 unless given.
    weights_ : ndarray of shape (n_basis,)
        The w_i for points as they came.
    n_iter_ : int
        Number of iterations.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        The objective at w = 0 and after each iteration.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    LMNN : Triplets of neighbours too, over all M.

    Notes
    -----
    Points are scaled so that an anchor and a negative are a mean square distance of 1 apart: the
    margin and `beta` mean the same in any unit. Where there are fewer rows than columns, the
    search is in the span of the rows.

    Where negatives are on average no farther than positives in any of the directions, all w_i are
    0. M is then a multiple of the identity, Euclid.

    For n points, d features, B bases, m distinct pairs in T triplets and k iterations: a time of
    O(k (T + m d + n d² + B d² + d³)), and O(B d²) for the bases; a memory of
    O(T + m + n d + B d). With labels m is at most 13 n, T 30 n, at defaults.

    References
    ----------
    .. [1] Y. Shi, A. Bellet and F. Sha, "Sparse compositional metric learning", AAAI Conference
       on Artificial Intelligence, 2014.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import SCML
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(SCML(random_state=0), KNeighborsClassifier(3))
    >>> round(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]), 2)
    0.97
    """

    _supervisions = ("labels", "triplets")

    def __init__(
        self,
        n_components=None,
        *,
        basis="auto",
        n_basis=None,
        beta=1e-5,
        n_neighbors=3,
        n_impostors=10,
        supervision="labels",
        n_constraints=None,
        max_iter=500,
        tol=1e-4,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.basis = basis
        self.n_basis = n_basis
        self.beta = beta
        self.n_neighbors = n_neighbors
        self.n_impostors = n_impostors
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
        X : array-like of shape (n_samples, n_features) or (n_triplets, 3, n_features)
            Points, or triplets (anchor, positive, negative) with ``supervision="triplets"``.
        y : array-like of shape (n_samples,), default=None
            Class labels, of any kind; not read with triplets.

        Returns
        -------
        self : SCML
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not finite or of another shape, if y is missing, holds a single class or no
            class of two points, or if a parameter is out of range.
        """
        with unchanged_on_error(self):
            self._check_parameters()
            rng = check_random_state(self.random_state)
            X, codes, triplets = self._read(X, y, rng)
            n_components = check_n_components(self.n_components, X.shape[1], "n_features")
            points, axes, unit = prepare(X, triplets)
            # Threads of k-means add in any order, so that rounding would differ between fits;
            # and the many small matrices of the regions are faster without threads.
            with one_thread():
                basis = self._make_basis(points, axes, codes, triplets, rng)
            loss = partial(
                scml_loss,
                X=points,
                basis=basis @ axes.T,
                comparisons=Comparisons(triplets, len(X)),
                beta=self.beta,
            )
            w, self.loss_curve_, self.n_iter_ = self._minimize(loss, len(basis))
            M = (basis.T * w) @ basis if w.any() else np.eye(X.shape[1])
            self.basis_, self.weights_ = basis, w / unit**2
            self.components_ = (root(M, n_components) / unit).astype(X.dtype)
        return self

    def _check_parameters(self):
        self._check_ranges(
            beta=(Real, False, 0, None, "left"),
            n_basis=(Integral, True, 1, None, "left"),
            n_impostors=(Integral, False, 1, None, "left"),
        )

    def _read(self, X, y, rng):
        """Points, their classes or None, and triplets of shape (n_triplets, 3)."""
        if self.supervision == "triplets":
            X, triplets = self._read_triplets(X, y)
            return X, None, triplets
        X, codes, _ = self._read_labelled(X, y)
        triplets = neighbor_triplets(X, codes, self.n_neighbors, self.n_impostors)
        if len(triplets) == 0:
            raise ValueError(no_same_class_message(codes))
        if self.n_constraints is not None and self.n_constraints < len(triplets):
            triplets = triplets[np.sort(rng.permutation(len(triplets))[: self.n_constraints])]
        return X, codes, triplets

    def _make_basis(self, points, axes, codes, triplets, rng):
        n_features = len(axes.T)
        if not isinstance(self.basis, str):
            basis = check_array(self.basis, dtype=np.float64, input_name="basis")
            if basis.shape[1] != n_features:
                raise ValueError(
                    f"basis has to be of shape (n_basis, {n_features}), as X has {n_features} "
                    f"features; got {basis.shape}."
                )
            return basis
        kind = self.basis
        if kind == "auto":
            kind = "triplet_diffs" if codes is None else "lda"
        n_basis = self.n_basis or min(20 * points.shape[1], 1000)
        if kind == "triplet_diffs":
            return triplet_directions(points, triplets, n_basis, rng) @ axes
        if kind == "lda" and codes is not None:
            return local_discriminants(points, codes, n_basis, rng) @ axes
        raise ValueError(
            f"basis={self.basis!r} is unknown with supervision={self.supervision!r}; choose "
            '"auto", "lda" (with labels), "triplet_diffs" or give an array.'
        )

    def _minimize(self, loss, n_basis):
        return minimize_lbfgs(
            loss,
            np.zeros(n_basis),
            max_iter=self.max_iter,
            tol=self.tol,
            name="SCML",
            bounds=[(0, None)] * n_basis,
            verbose=self.verbose,
        )
