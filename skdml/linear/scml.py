"""Sparse compositional metric learning: M is a weighted sum of basis elements."""

from functools import partial
from numbers import Integral, Real
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
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

# Sizes of a region: points of each class, or anchors, that are nearest to its centre.
_SCALES = (10, 20, 50)
# Number of directions that a region of one size gives, if they come from triplets.
_DIRECTIONS = 5
# Scatters are mixed with this share of their mean variance before they are inverted.
_RIDGE = 1e-2


class TripletPairs:
    """Triplets as pairs of points, so that each distinct pair is measured once.

    Parameters
    ----------
    triplets : ndarray of int, shape (n_triplets, 3)
        Rows: anchor, positive, negative.
    n_points : int
        Number of points.

    Attributes
    ----------
    graph : PairGraph
        The distinct pairs, without regard to order.
    positive_pair, negative_pair : ndarray of int, shape (n_triplets,)
        For each triplet, the index of its pair (anchor, positive), and of (anchor, negative).
    """

    def __init__(self, triplets: NDArray[np.integer], n_points: int) -> None:
        pairs = np.concatenate([triplets[:, [0, 1]], triplets[:, [0, 2]]])
        keys = pairs.min(axis=1) * n_points + pairs.max(axis=1)
        keys, index = np.unique(keys, return_inverse=True)
        self.graph = PairGraph(*np.divmod(keys, n_points), n_points)
        self.positive_pair, self.negative_pair = np.split(index.ravel(), 2)


def smooth_hinge(z: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Value and slope of a hinge with a rounded corner: 0, then z² / 2 up to 1, then z - 1/2."""
    slope = np.clip(z, 0, 1)
    return slope * (z - slope / 2), slope


def scml_loss(
    w: NDArray[np.floating],
    X: NDArray[np.floating],
    basis: NDArray[np.floating],
    triplet_pairs: TripletPairs,
    beta: float,
) -> tuple[float, NDArray[np.floating]]:
    """Mean hinge of triplets under M = Σ_i w_i b_i b_iᵀ, plus beta Σ_i w_i (eq. 4).

    Parameters
    ----------
    w : ndarray of shape (n_basis,)
        Weights, >= 0.
    X : ndarray of shape (n_points, n_features)
        Points.
    basis : ndarray of shape (n_basis, n_features)
        The b_i, as rows.
    triplet_pairs : TripletPairs
        Triplets (a, p, n) of points.
    beta : float
        Weight of the sum of the w_i.

    Returns
    -------
    value : float
        (1 / n_triplets) Σ hinge(1 + d²(a, p) - d²(a, n)) + beta Σ w.
    gradient : ndarray of shape (n_basis,)
        Gradient of the value with respect to w: b_iᵀ G b_i + beta, with G the gradient of the
        mean hinge with respect to M.
    """
    graph = triplet_pairs.graph
    positive, negative = triplet_pairs.positive_pair, triplet_pairs.negative_pair
    squared = graph.squared_distances(X @ root((basis.T * w) @ basis).T)
    loss, slope = smooth_hinge(1 + squared[positive] - squared[negative])
    pull = np.bincount(positive, slope, len(graph)) - np.bincount(negative, slope, len(graph))
    G = X.T @ graph.laplacian_product(pull / len(positive), X)
    return loss.mean() + beta * w.sum(), np.einsum("ij,ij->i", basis @ G, basis) + beta


def reduce_and_scale(
    X: NDArray[np.floating], triplets: NDArray[np.integer]
) -> tuple[NDArray[np.floating], NDArray[np.floating], float]:
    """Map points to the span of their rows, and scale anchors to a distance of 1 from negatives.

    Parameters
    ----------
    X : ndarray of shape (n_points, n_features)
        Points.
    triplets : ndarray of int, shape (n_triplets, 3)
        Rows: anchor, positive, negative.

    Returns
    -------
    points : ndarray of float64, shape (n_points, n_axes)
        Coordinates of the points along the axes, divided by the unit.
    axes : ndarray of shape (n_axes, n_features)
        Orthonormal axes. The identity unless there are fewer points than features.
    unit : float
        Root mean squared distance between anchors and negatives; 1 if that is 0.
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


def region_centres(
    X: NDArray[np.floating], n_regions: int, rng: np.random.RandomState
) -> NDArray[np.floating]:
    """Centres of k-means clusters: `n_regions`, or fewer if there are few distinct points."""
    n_regions = min(n_regions, max(1, len(X) // 2), len(np.unique(X, axis=0)))
    return KMeans(n_regions, n_init=1, max_iter=20, random_state=rng).fit(X).cluster_centers_


def nearest_rows(
    X: NDArray[np.floating], rows: NDArray[np.integer], centres: NDArray[np.floating]
) -> NDArray[np.integer]:
    """Find the `rows` of X nearest to each centre: as many as the largest region, or all."""
    return rows[kneighbors(X[rows], centres, min(max(_SCALES), len(rows)))[1]]


def local_discriminants(
    X: NDArray[np.floating],
    codes: NDArray[np.integer],
    n_basis: int,
    rng: np.random.RandomState,
) -> NDArray[np.floating]:
    """Fisher's discriminants of regions: around each centre, the nearest points of each class.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Class of each point.
    n_basis : int
        Approximate number of directions.
    rng : RandomState
        Draws the start of k-means.

    Returns
    -------
    ndarray of shape (n_found, n_features)
        Directions of length 1.
    """
    n_axes = min(codes.max(), X.shape[1])
    centres = region_centres(X, -(-n_basis // (n_axes * len(_SCALES))), rng)
    by_class = [
        nearest_rows(X, np.flatnonzero(codes == code), centres) for code in np.unique(codes)
    ]
    found = []
    for region in range(len(centres)):
        for scale in _SCALES:
            rows = np.concatenate([nearest[region, :scale] for nearest in by_class])
            found.append(discriminants(X[rows] - centres[region], codes[rows], n_axes))
    return unit_rows(np.concatenate(found))


def triplet_directions(
    X: NDArray[np.floating],
    triplets: NDArray[np.integer],
    n_basis: int,
    rng: np.random.RandomState,
) -> NDArray[np.floating]:
    """Directions along which, in some region, negatives are far from anchors and positives near.

    In each region they are the leading generalised eigenvectors of two scatters: of anchors and
    negatives, relative to anchors and positives.

    Parameters
    ----------
    X : ndarray of shape (n_points, n_features)
        Points.
    triplets : ndarray of int, shape (n_triplets, 3)
        Rows: anchor, positive, negative.
    n_basis : int
        Approximate number of directions.
    rng : RandomState
        Draws the start of k-means.

    Returns
    -------
    ndarray of shape (n_found, n_features)
        Directions of length 1.
    """
    n_axes = min(_DIRECTIONS, X.shape[1])
    triplets = triplets[np.argsort(triplets[:, 0], kind="stable")]
    anchors, starts = np.unique(triplets[:, 0], return_index=True)
    ends = np.append(starts[1:], len(triplets))
    centres = region_centres(X[anchors], -(-n_basis // (n_axes * len(_SCALES))), rng)
    found = []
    for nearest in nearest_rows(X[anchors], np.arange(len(anchors)), centres):
        for scale in _SCALES:
            rows = np.concatenate([np.arange(starts[i], ends[i]) for i in nearest[:scale]])
            anchor, positive, negative = X[triplets[rows].T]
            found.append(separating_directions(anchor, positive, negative, n_axes))
    return unit_rows(np.concatenate(found))


def separating_directions(
    anchor: NDArray[np.floating],
    positive: NDArray[np.floating],
    negative: NDArray[np.floating],
    n_axes: int,
) -> NDArray[np.floating]:
    """Axes with the largest ratio of distances to negatives and distances to positives.

    Parameters
    ----------
    anchor, positive, negative : ndarray of shape (n_triplets, n_features)
        The points of triplets.
    n_axes : int
        Number of axes.

    Returns
    -------
    ndarray of shape (n_axes, n_features)
        The axes as rows, by increasing ratio.
    """
    n_features = anchor.shape[1]
    S = (anchor - positive).T @ (anchor - positive)
    D = (anchor - negative).T @ (anchor - negative)
    ridge = _RIDGE * np.trace(S) / n_features + np.finfo(np.float64).eps * (1 + np.trace(D))
    chosen = [n_features - n_axes, n_features - 1]
    return eigh(D, S + ridge * np.eye(n_features), subset_by_index=chosen)[1].T


def unit_rows(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    """Scale rows to length 1, and leave out rows of length 0."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    kept = length.ravel() > 0
    return rows[kept] / length[kept]


class SCML(LinearMetricLearner):
    """Sparse compositional metric learning: M is a sum of few locally discriminative bases.

    First, many directions b_i are found. Each of them separates the classes in some region. Then
    M = Σ_i w_i b_i b_iᵀ gets its weights w_i, most of them 0. They make each point nearer to points
    of its class than to points of other classes (Shi, Bellet & Sha [1]_, eq. 4)::

        minimise over w >= 0:  mean over triplets of hinge(1 + d²(a, p) - d²(a, n)) + beta Σ w_i

    Unlike the paper, the hinge has a rounded corner: z² / 2 from 0 to 1. The problem is then smooth
    and convex. L-BFGS with bounds solves it for all triplets at once, much faster than stochastic
    steps. The derivative with respect to w_i is b_iᵀ G b_i + beta, with G of shape (n_features,
    n_features). No array of triplets by bases is needed.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, from 1 to n_features. The leading axes of M are kept. None keeps all.
    basis : {"auto", "lda", "triplet_diffs"} or array-like of shape (n_basis, n_features), \
            default="auto"
        The b_i. "lda", as in the paper: Fisher's discriminants in regions around k-means centres,
        made of the 10, 20 and 50 nearest points of each class. It needs labels. "triplet_diffs":
        in regions of 10, 20 and 50 anchors, the directions with the largest ratio of distances to
        negatives and distances to positives. "auto": "lda" with labels, otherwise
        "triplet_diffs". Give an array if good directions are known.
    n_basis : int, default=None
        Approximate number of b_i to find, at least 1. None finds 20 n_features, at most 1000.
        Increase it if the classes have a complex shape; a fit takes longer.
    beta : float, default=1e-5
        Weight of the sum of the w_i, >= 0. Increase it to set more of them to 0.
    n_neighbors : int, default=3
        With labels, the number of positives of each point, at least 1: its nearest points of the
        same class.
    n_impostors : int, default=10
        With labels, the number of negatives of each point, at least 1: its nearest points of
        other classes. Increase it and `n_neighbors` for noisy data.
    supervision : {"labels", "triplets"}, default="labels"
        What `fit` reads. "labels": points and class labels. "triplets": triplets of points
        (anchor, positive, negative).
    n_constraints : int, default=None
        With labels, the number of triplets to draw from all triplets of neighbours, at least 1.
        None takes all of them. Fewer triplets make a fit faster.
    max_iter : int, default=500
        Maximum number of iterations, at least 1. Increase it after a ConvergenceWarning.
    tol : float, default=1e-4
        Relative tolerance, >= 0. Iteration stops if the objective falls by less than this share
        of its initial value. It also stops if the gradient falls to this share of its initial
        size. Increase it for a faster fit.
    random_state : int, RandomState instance or None, default=None
        Seed of k-means and of the generator that draws triplets if `n_constraints` is given. Pass
        an int for repeatable results.
    verbose : int, default=0
        1 prints the objective after each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M, by decreasing eigenvalue of M. float32 if X is float32, otherwise float64.
    basis_ : ndarray of shape (n_basis, n_features)
        The b_i, of length 1 unless given.
    weights_ : ndarray of shape (n_basis,)
        The w_i, for the original points.
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
    LMNN : Also uses triplets of neighbours, and searches all M.

    Notes
    -----
    Points are scaled to a mean squared distance of 1 between anchors and negatives. The margin and
    `beta` therefore do not depend on the unit of X. If there are fewer rows than columns, the
    search is restricted to the span of the rows.

    If negatives are on average no farther than positives along any direction, all w_i are 0. M is
    then a multiple of the identity, which is Euclidean distance.

    With n points, d features, B bases, m distinct pairs in T triplets and k iterations, a fit
    takes O(k (T + m d + n d² + B d² + d³)) time, plus O(B d²) for the bases, and
    O(T + m + n d + B d) memory. With labels and default parameters, m is at most 13 n and T is at
    most 30 n.

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
        n_components: int | None = None,
        *,
        basis: str | ArrayLike = "auto",
        n_basis: int | None = None,
        beta: float = 1e-5,
        n_neighbors: int = 3,
        n_impostors: int = 10,
        supervision: str = "labels",
        n_constraints: int | None = None,
        max_iter: int = 500,
        tol: float = 1e-4,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
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

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Learn the distance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_triplets, 3, n_features)
            Points; triplets (anchor, positive, negative) with ``supervision="triplets"``.
        y : array-like of shape (n_samples,), default=None
            Class labels of any kind. Ignored with ``supervision="triplets"``.

        Returns
        -------
        self : SCML
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not finite or has another shape; if y is missing, has a single class or no
            class of two samples; or if a parameter is out of range.

        Warns
        -----
        ConvergenceWarning
            If the fit needs more than `max_iter` iterations.
        """
        with unchanged_on_error(self):
            self._check_parameters()
            rng = check_random_state(self.random_state)
            given, codes, triplets = self._read(X, y, rng)
            n_components = check_n_components(self.n_components, given.shape[1], "n_features")

            points, axes, unit = reduce_and_scale(given, triplets)
            # One thread: several would add in any order within k-means, and fits would not repeat
            # bit for bit. The small matrices of the regions are also faster without threads.
            with one_thread():
                basis = self._make_basis(points, axes, codes, triplets, rng)

            w = self._minimise(points, basis @ axes.T, TripletPairs(triplets, len(given)))
            M = (basis.T * w) @ basis if w.any() else np.eye(given.shape[1])
            self.basis_, self.weights_ = basis, w / unit**2
            self._set_components(root(M, n_components) / unit, given.dtype)
        return self

    def _check_parameters(self) -> None:
        self._check_ranges(
            beta=(Real, False, 0, None, "left"),
            n_basis=(Integral, True, 1, None, "left"),
            n_impostors=(Integral, False, 1, None, "left"),
        )

    def _read(
        self, X: ArrayLike, y: ArrayLike | None, rng: np.random.RandomState
    ) -> tuple[NDArray[np.floating], NDArray[np.integer] | None, NDArray[np.integer]]:
        """Check points, classes (None without labels) and triplets of shape (n_triplets, 3)."""
        if self.supervision == "triplets":
            points, triplets = self._read_triplets(X, y)
            return points, None, triplets
        points, codes, _ = self._read_labelled(X, y)
        triplets = neighbor_triplets(points, codes, self.n_neighbors, self.n_impostors)
        if len(triplets) == 0:
            raise ValueError(no_same_class_message(codes))
        if self.n_constraints is not None and self.n_constraints < len(triplets):
            triplets = triplets[np.sort(rng.permutation(len(triplets))[: self.n_constraints])]
        return points, codes, triplets

    def _make_basis(
        self,
        points: NDArray[np.floating],
        axes: NDArray[np.floating],
        codes: NDArray[np.integer] | None,
        triplets: NDArray[np.integer],
        rng: np.random.RandomState,
    ) -> NDArray[np.floating]:
        """Find the b_i, or check those that were given."""
        if not isinstance(self.basis, str):
            return self._check_basis(axes.shape[1])
        kind = self.basis
        if kind == "auto":
            kind = "triplet_diffs" if codes is None else "lda"
        n_basis = self.n_basis or min(20 * points.shape[1], 1000)
        if kind == "triplet_diffs":
            return triplet_directions(points, triplets, n_basis, rng) @ axes
        if kind == "lda" and codes is not None:
            return local_discriminants(points, codes, n_basis, rng) @ axes
        raise ValueError(
            f"basis={self.basis!r} is not available with supervision={self.supervision!r}; choose "
            '"auto", "lda" (only with labels) or "triplet_diffs", or give an array.'
        )

    def _check_basis(self, n_features: int) -> NDArray[np.floating]:
        basis = check_array(self.basis, dtype=np.float64, input_name="basis")
        if basis.shape[1] != n_features:
            raise ValueError(
                f"basis must have the shape (n_basis, {n_features}), because X has {n_features} "
                f"features; got {basis.shape}."
            )
        return basis

    def _minimise(
        self,
        points: NDArray[np.floating],
        basis: NDArray[np.floating],
        triplet_pairs: TripletPairs,
    ) -> NDArray[np.floating]:
        """Find the weights w from 0 on; store the loss curve."""
        loss = partial(
            scml_loss, X=points, basis=basis, triplet_pairs=triplet_pairs, beta=self.beta
        )
        w, self.loss_curve_, self.n_iter_ = minimize_lbfgs(
            loss,
            np.zeros(len(basis)),
            max_iter=self.max_iter,
            tol=self.tol,
            name="SCML",
            bounds=[(0, None)] * len(basis),
            verbose=self.verbose,
        )
        return w
