"""LEGO: LogDet exact gradient online, a pair at a time (Jain, Kulis, Dhillon & Grauman 2008)."""

from copy import deepcopy
from math import sqrt
from numbers import Real
from typing import NamedTuple

import numpy as np
from scipy.linalg.blas import dger
from scipy.sparse import issparse
from sklearn.utils import check_random_state
from sklearn.utils.extmath import safe_sparse_dot

from skdml.base import unchanged_on_error
from skdml.constraints import check_same, draw_pairs
from skdml.linear._prior import to_principal_axes
from skdml.linear._psd import root
from skdml.linear.base import LinearMetricLearner, check_n_components, no_same_class_message

# Numbers in a block of differences between the points of pairs.
_BLOCK = 2**18


class State(NamedTuple):
    """What is remembered of the pairs so far.

    Attributes
    ----------
    A : ndarray of float64, shape (n_features, n_features)
        The matrix after the last pair.
    lag : ndarray of float64, shape (n_features, n_features)
        Sum of the changes of A, each times the number of pairs before it: A - lag / n_pairs is
        the mean of the matrices after each pair.
    n_pairs, n_updates : int
        How many pairs there were, and how many changed A.
    square : float
        Sum of the squared Euclidean distances of the pairs.
    rng : RandomState
        Draws pairs from labels.
    axes : ndarray of float64, shape (n_components, n_features), or None
        Within which the matrices are, n_components x n_components then; those of the first points,
        where these were sparse.
    """

    A: np.ndarray
    lag: np.ndarray
    n_pairs: int
    n_updates: int
    square: float
    rng: np.random.RandomState
    axes: np.ndarray | None

    @property
    def mean(self):
        """Mean of the matrices after each pair."""
        return self.A - self.lag / max(self.n_pairs, 1)


def exact_step(squared, target, eta):
    """Squared distance of a pair after the step: it solves the implicit equation (eq. 4).

    Parameters
    ----------
    squared : float
        Its squared distance before the step, zᵀ A z > 0.
    target : float
        What it ought to be.
    eta : float
        Step size, in units of one over squared distances squared.

    Returns
    -------
    float
        Root v > 0 of eta squared v² + (1 - eta target squared) v - squared = 0; it lies between
        `squared` and `target`.

    Examples
    --------
    >>> from skdml.linear.lego import exact_step
    >>> exact_step(4.0, 1.0, 0.25)
    2.0
    """
    b = 1 - eta * target * squared
    r = sqrt(b * b + 4 * eta * squared * squared)
    # Of the two forms of the root, the one that subtracts nothing.
    return 2 * squared / (b + r) if b > 0 else (r - b) / (2 * eta * squared)


def learn(A, lag, differences, same, units, n_before, margin, eta):
    """Go through pairs once; A and lag are changed in place.

    Parameters
    ----------
    A, lag : ndarray of float64, shape (n_features, n_features), Fortran order
        As in `State`.
    differences : ndarray of float64, shape (n_pairs, n_features)
        z = x - y of each pair.
    same : list of bool, n_pairs
        Whether a pair is of one class.
    units : list of float, n_pairs
        Mean squared Euclidean distance of the pairs up to this one.
    n_before : int
        How many pairs there were before these.
    margin, eta : float
        The parameters.

    Returns
    -------
    int
        How many pairs changed A.
    """
    n_updates = 0
    for i, (z, alike, unit) in enumerate(zip(differences, same, units, strict=True)):
        Az = A @ z
        squared = float(z @ Az)
        target = (1 - margin if alike else 1 + margin) * unit
        if squared <= 0 or (squared <= target if alike else squared >= target):
            continue
        change = (exact_step(squared, target, eta / unit**2) - squared) / squared**2
        dger(change, Az, Az, a=A, overwrite_a=1)
        dger(change * (n_before + i), Az, Az, a=lag, overwrite_a=1)
        n_updates += 1
    return n_updates


def with_first(mean, share):
    """(1 - share) mean + share A_0, the mean one of A_1, ..., A_t and A_0 the identity."""
    return (1 - share) * mean + share * np.eye(len(mean))


class LEGO(LinearMetricLearner):
    """LEGO: online learning from pairs, an exact LogDet step for each.

    Where the distance of a pair is not as it ought to be, LEGO (Jain et al. [1]_) takes the matrix
    that makes up best between staying near, in the LogDet divergence, and meeting the target::

        A_t+1 = argmin over A > 0:  D_ld(A, A_t) + eta / 2 (d_A²(x, y) - target)²

    A same pair ought to be nearer than (1 - margin) and a different pair farther than (1 + margin)
    times the mean squared Euclidean distance of the pairs so far. The step has a closed form of
    rank one, keeps A positive definite, and takes O(n_features²) time. A_0 is the identity. M is
    the mean of A_1, ..., A_t, which depends less on the last pairs than A_t does, mixed with A_0.

    Parameters
    ----------
    n_components : int, default=None
        Rows of L: this many leading axes of M, from 1 to n_features. None keeps all. Of sparse X,
        so many principal axes of the first points are taken, and M is sought within them.
    eta : float, default=0.1
        Step size, > 0, in units of one over the mean squared distance, squared: small for a
        stream that is long.
    margin : float, default=0.5
        How far pairs ought to be from the mean, in [0, 1).
    prior_share : float, default=0.5
        Share of A_0, Euclid's distance, in M, in [0, 1]; 0 is the paper's. A single pass goes
        after each pair, also where classes overlap, and after far ones as much as after near.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` and `partial_fit` read: points and class labels, from which pairs are drawn, or
        pairs, which are learned from in their order.
    n_constraints : int, default=None
        With labels, how many pairs to draw of each kind from the points of a call. None draws ten
        a row, at most 100 000.
    random_state : int, RandomState instance or None, default=None
        Draws the pairs and their order.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M, by decreasing eigenvalue of M. float32 if X is, else float64.
    n_pairs_seen_ : int
        Number of pairs learned from.
    n_updates_ : int
        Number of pairs that changed A.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    ITML : LogDet too, with all pairs known beforehand, each gone through many times.

    Notes
    -----
    With pairs, however they are cut into batches, `partial_fit` gives what one `fit` on all of
    them gives. With labels each call draws pairs among its own points only, by one generator that
    runs on from call to call.

    The method is the same in any basis: to start from a metric that is known, not Euclid, put a
    learner of that metric before this one in a pipeline.

    A is dense, n_features x n_features, and each call takes the eigenvectors of M, O(n_features³)
    time. For sparse points and n_components, A_0 is the identity on so many axes and 0 across
    them, and so is all that follows: A is n_components x n_components.

    References
    ----------
    .. [1] P. Jain, B. Kulis, I. S. Dhillon and K. Grauman, "Online metric learning and fast
       similarity search", Advances in Neural Information Processing Systems 21, 2008.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import LEGO
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(LEGO(random_state=0), KNeighborsClassifier(3))
    >>> round(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]), 2)
    0.97
    """

    _sparse = True
    _supervisions = ("labels", "pairs")

    def __init__(
        self,
        n_components=None,
        *,
        eta=0.1,
        margin=0.5,
        prior_share=0.5,
        supervision="labels",
        n_constraints=None,
        random_state=None,
    ):
        self.n_components = n_components
        self.eta = eta
        self.margin = margin
        self.prior_share = prior_share
        self.supervision = supervision
        self.n_constraints = n_constraints
        self.random_state = random_state

    def fit(self, X, y=None):
        """Learn the distance, from the start.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or array-like of shape \
                (n_pairs, 2, n_features)
            Points, or pairs with ``supervision="pairs"``.
        y : array-like of shape (n_samples,) or (n_pairs,)
            Class labels, of any kind; or for each pair 1 if it is of one class, 0 or -1 if not.

        Returns
        -------
        self : LEGO
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not finite or of another shape, if y is missing or holds a single class or
            kind, or if a parameter is out of range.
        """
        with unchanged_on_error(self):
            return self._learn(X, y, None)

    def partial_fit(self, X, y=None):
        """Learn from some more pairs, or from pairs of some more points.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or array-like of shape \
                (n_pairs, 2, n_features)
            Points, or pairs.
        y : array-like of shape (n_samples,) or (n_pairs,)
            As in `fit`; a batch may be of one class or kind, and of a single pair.

        Returns
        -------
        self : LEGO
            The fitted learner.

        Raises
        ------
        ValueError
            As `fit` does, but for a single class or kind.
        """
        with unchanged_on_error(self):
            return self._learn(X, y, getattr(self, "_state", None), min_kinds=1)

    def _learn(self, X, y, state, min_kinds=2):
        self._check_ranges(
            eta=(Real, False, 0, None, "neither"),
            margin=(Real, False, 0, 1, "left"),
            prior_share=(Real, False, 0, 1, "both"),
        )
        rng = check_random_state(self.random_state) if state is None else deepcopy(state.rng)
        X, first, second, same = self._read(X, y, rng, min_kinds, reset=state is None)
        n_components = check_n_components(self.n_components, X.shape[1], "n_features")
        Z, axes = to_principal_axes(X, n_components) if state is None else _map(X, state.axes)
        if state is None:
            n_rows = Z.shape[1]
            state = State(np.eye(n_rows), np.zeros((n_rows, n_rows)), 0, 0, 0.0, rng, axes)
        self._state = self._go_through(state._replace(rng=rng), Z, first, second, same)
        L = root(with_first(self._state.mean, self.prior_share), n_components)
        self.components_ = (L if axes is None else L @ axes).astype(X.dtype)
        self.n_pairs_seen_, self.n_updates_ = self._state.n_pairs, self._state.n_updates
        return self

    def _read(self, X, y, rng, min_kinds, reset):
        """Check pairs, or draw them from classes in an order by chance."""
        options = {"reset": reset, "ensure_min_samples": min_kinds}
        if self.supervision == "pairs":
            X, (first, second) = self._read_tuples(X, 2, **options)
            return X, first, second, check_same(y, len(first), both_kinds=min_kinds > 1)
        X, codes, _ = self._read_labelled(X, y, min_kinds, **options)
        pairs = draw_pairs(codes, self._n_constraints(len(codes)), rng)
        if min_kinds > 1 and not pairs[2].any():
            raise ValueError(no_same_class_message(codes))
        order = rng.permutation(len(pairs[0]))
        return X, *(part[order] for part in pairs)

    def _go_through(self, state, X, first, second, same):
        A, lag = (np.array(part, order="F") for part in (state.A, state.lag))
        n_pairs, n_updates, square = state.n_pairs, state.n_updates, state.square
        size = max(1, _BLOCK // X.shape[1])
        for start in range(0, len(first), size):
            block = slice(start, start + size)
            Z = X[first[block]].astype(np.float64) - X[second[block]]
            # One sum after the other, so that rounding is the same however pairs are cut.
            sums = np.cumsum(np.append(square, np.einsum("ij,ij->i", Z, Z)))[1:]
            units = sums / np.arange(n_pairs + 1, n_pairs + len(Z) + 1)
            kinds, scales = same[block].tolist(), units.tolist()
            n_updates += learn(A, lag, Z, kinds, scales, n_pairs, self.margin, self.eta)
            n_pairs, square = n_pairs + len(Z), float(sums[-1])
        return State(A, lag, n_pairs, n_updates, square, state.rng, state.axes)


def _map(X, axes):
    """Map points to axes that are known, and give these back, as `to_principal_axes` does."""
    if axes is not None:
        X = safe_sparse_dot(X, axes.T.astype(X.dtype), dense_output=True)
    return X.toarray() if issparse(X) else X, axes
