"""LEGO: LogDet exact gradient online, which learns from one pair at a time."""

from copy import deepcopy
from math import sqrt
from numbers import Real
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.blas import dger
from scipy.sparse import csr_matrix, issparse
from sklearn.utils import check_random_state
from sklearn.utils.extmath import safe_sparse_dot

from skdml.base import unchanged_on_error
from skdml.constraints import check_same, draw_pairs
from skdml.linear._prior import to_principal_axes
from skdml.linear._psd import root
from skdml.linear.base import LinearMetricLearner, Pairs, check_n_components, no_same_class_message

# Numbers in a block of differences between the points of pairs.
_BLOCK = 2**18


class OnlineState(NamedTuple):
    """What LEGO remembers of the pairs so far.

    Attributes
    ----------
    A : ndarray of float64, shape (n_features, n_features)
        The matrix after the last pair.
    weighted_changes : ndarray of float64, shape (n_features, n_features)
        Sum of all changes of A, each multiplied by the number of pairs before it. The mean of the
        matrices after each pair is A - weighted_changes / n_pairs.
    n_pairs, n_updates : int
        Number of pairs, and number of pairs that changed A.
    sum_of_squares : float
        Sum of the squared Euclidean distances of the pairs.
    rng : RandomState
        Draws pairs from labels.
    axes : ndarray of float64, shape (n_components, n_features), or None
        Axes that sparse points are mapped to, from the first batch; None for dense points. A then
        has the shape (n_components, n_components).
    """

    A: NDArray[np.floating]
    weighted_changes: NDArray[np.floating]
    n_pairs: int
    n_updates: int
    sum_of_squares: float
    rng: np.random.RandomState
    axes: NDArray[np.floating] | None

    @classmethod
    def initial(
        cls, n_features: int, rng: np.random.RandomState, axes: NDArray[np.floating] | None
    ) -> Self:
        """State before the first pair: A is the identity."""
        return cls(np.eye(n_features), np.zeros((n_features, n_features)), 0, 0, 0.0, rng, axes)

    @property
    def mean(self) -> NDArray[np.floating]:
        """Mean of the matrices after each pair."""
        return self.A - self.weighted_changes / max(self.n_pairs, 1)


def exact_step(squared: float, target: float, eta: float) -> float:
    """Squared distance of a pair after the step, which solves the implicit equation (eq. 4).

    Parameters
    ----------
    squared : float
        Squared distance before the step, zᵀ A z > 0.
    target : float
        Squared distance that the step aims at.
    eta : float
        Step size, in units of 1 / (squared distance)².

    Returns
    -------
    float
        Root v > 0 of eta squared v² + (1 - eta target squared) v - squared = 0. It lies between
        `squared` and `target`.

    Examples
    --------
    >>> from skdml.linear.lego import exact_step
    >>> exact_step(4.0, 1.0, 0.25)
    2.0
    """
    b = 1 - eta * target * squared
    r = sqrt(b * b + 4 * eta * squared * squared)
    # The root has two forms. Take the one without a subtraction, which loses no digits.
    return 2 * squared / (b + r) if b > 0 else (r - b) / (2 * eta * squared)


def update_in_place(
    A: NDArray[np.floating],
    weighted_changes: NDArray[np.floating],
    differences: NDArray[np.floating],
    same: list[bool],
    units: list[float],
    n_before: int,
    margin: float,
    eta: float,
) -> int:
    """Learn from each pair once, in order; A and weighted_changes are changed in place.

    Parameters
    ----------
    A, weighted_changes : ndarray of float64, shape (n_features, n_features), Fortran order
        As in `OnlineState`.
    differences : ndarray of float64, shape (n_pairs, n_features)
        z = x - y of each pair.
    same : list of bool, n_pairs
        Whether each pair is a same pair.
    units : list of float, n_pairs
        Mean squared Euclidean distance of all pairs up to and including this one.
    n_before : int
        Number of pairs before these.
    margin, eta : float
        Parameters of `LEGO`.

    Returns
    -------
    int
        Number of pairs that changed A.
    """
    n_updates = 0
    for i, (z, is_same, unit) in enumerate(zip(differences, same, units, strict=True)):
        Az = A @ z
        squared = float(z @ Az)
        target = (1 - margin if is_same else 1 + margin) * unit
        if squared**2 <= 0 or (squared <= target if is_same else squared >= target):
            continue
        change = (exact_step(squared, target, eta / unit**2) - squared) / squared**2
        dger(change, Az, Az, a=A, overwrite_a=1)
        dger(change * (n_before + i), Az, Az, a=weighted_changes, overwrite_a=1)
        n_updates += 1
    return n_updates


def process_pairs(state: OnlineState, pairs: Pairs, margin: float, eta: float) -> OnlineState:
    """Return the state after learning from more pairs, in order.

    Parameters
    ----------
    state : OnlineState
        The state before.
    pairs : Pairs
        Pairs of points, mapped to the axes of the state.
    margin, eta : float
        Parameters of `LEGO`.

    Returns
    -------
    OnlineState
        The state after.
    """
    A, changes = (np.array(part, order="F") for part in (state.A, state.weighted_changes))
    n_pairs, n_updates, total = state.n_pairs, state.n_updates, state.sum_of_squares
    X, first, second, same = pairs
    size = max(1, _BLOCK // X.shape[1])
    for start in range(0, len(first), size):
        block = slice(start, start + size)
        Z = X[first[block]].astype(np.float64) - X[second[block]]
        # One running sum over all pairs, so that rounding does not depend on the batches.
        sums = np.cumsum(np.append(total, np.einsum("ij,ij->i", Z, Z)))[1:]
        units = sums / np.arange(n_pairs + 1, n_pairs + len(Z) + 1)
        kinds = same[block].tolist()
        n_updates += update_in_place(A, changes, Z, kinds, units.tolist(), n_pairs, margin, eta)
        n_pairs, total = n_pairs + len(Z), float(sums[-1])
    return OnlineState(A, changes, n_pairs, n_updates, total, state.rng, state.axes)


def mix_with_identity(matrix: NDArray[np.floating], share: float) -> NDArray[np.floating]:
    """(1 - share) matrix + share I."""
    return (1 - share) * matrix + share * np.eye(len(matrix))


def map_to_axes(
    X: NDArray[np.floating] | csr_matrix, axes: NDArray[np.floating] | None
) -> NDArray[np.floating]:
    """Map points to known axes; None only makes sparse points dense."""
    if axes is not None:
        return safe_sparse_dot(X, axes.T.astype(X.dtype), dense_output=True)
    return X.toarray() if issparse(X) else X  # type: ignore[union-attr]  # X is sparse here


class LEGO(LinearMetricLearner):
    """LEGO: online learning from pairs, with an exact LogDet step for each pair.

    If the distance of a pair misses its target, LEGO (Jain et al. [1]_) changes the matrix. The
    new matrix balances two aims: to stay near the old one in the LogDet divergence, and to meet
    the target::

        A_t+1 = argmin over A > 0:  D_ld(A, A_t) + eta / 2 (d_A²(x, y) - target)²

    Targets are multiples of the mean squared Euclidean distance of the pairs so far. A same pair
    is to be nearer than 1 - margin times this mean, a different pair farther than 1 + margin
    times. The step has a closed form of rank one, keeps A positive definite, and takes
    O(n_features²) time. A_0 is the identity.

    M is the mean of A_1, ..., A_t, which depends less on the last pairs than A_t does. Unlike the
    paper, M also contains a share of A_0.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, from 1 to n_features. The leading axes of M are kept. None keeps all.
        Sparse points are first mapped to this many principal axes of the first batch, and M is
        learned in that space.
    eta : float, default=0.1
        Step size, > 0, in units of 1 / (mean squared distance)². Decrease it for a long stream.
    margin : float, default=0.5
        Distance of the targets from the mean squared distance, in [0, 1). Increase it to move same
        and different pairs farther apart.
    prior_share : float, default=0.5
        Share of A_0, Euclidean distance, in M, in [0, 1]. 0 gives the M of the paper. A single
        pass fits every pair, including pairs where classes overlap and pairs of distant points.
        Increase `prior_share` if this hurts the nearest neighbours.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` and `partial_fit` read. "labels": points and class labels, from which pairs are
        drawn. "pairs": pairs of points, each labelled same or different, used in the given order.
    n_constraints : int, default=None
        With labels, the number of same pairs to draw from the points of a call, and of different
        pairs, at least 1. None draws ten per row, at most 100 000. Fewer pairs make a fit faster.
    random_state : int, RandomState instance or None, default=None
        Seed of the generator that draws the pairs and their order. Pass an int for repeatable
        results.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M, by decreasing eigenvalue of M. float32 if X is float32, otherwise float64.
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
    ITML : LogDet, too; all pairs are known in advance and visited many times.

    Notes
    -----
    With pairs, `partial_fit` on batches gives the same result as one `fit` on all pairs. With
    labels, each call draws pairs among its own points only. The generator continues from call to
    call.

    The method gives the same result in any basis. To start from a known metric instead of
    Euclidean distance, put a learner of that metric before this one in a pipeline.

    A is a dense matrix of shape (n_features, n_features). Each call computes the eigenvectors of
    M in O(n_features³) time. For sparse points and `n_components`, A_0 is the identity within the
    principal axes and 0 across them. All later matrices have the same range, so A is stored with
    the shape (n_components, n_components).

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
        n_components: int | None = None,
        *,
        eta: float = 0.1,
        margin: float = 0.5,
        prior_share: float = 0.5,
        supervision: str = "labels",
        n_constraints: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_components = n_components
        self.eta = eta
        self.margin = margin
        self.prior_share = prior_share
        self.supervision = supervision
        self.n_constraints = n_constraints
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Learn the distance; earlier calls are forgotten.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or array-like of shape \
                (n_pairs, 2, n_features)
            Points; pairs of points with ``supervision="pairs"``.
        y : array-like of shape (n_samples,) or (n_pairs,)
            Class labels of any kind. For pairs: 1 for a same pair, 0 or -1 for a different pair.

        Returns
        -------
        self : LEGO
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not finite or has another shape; if y is missing; if all labels, or all pairs,
            are of one kind; if no class has two samples; or if a parameter is out of range.
        """
        with unchanged_on_error(self):
            return self._learn(X, y, state=None, min_kinds=2)

    def partial_fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Learn from more pairs, or from pairs of more points.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or array-like of shape \
                (n_pairs, 2, n_features)
            Points; pairs of points with ``supervision="pairs"``.
        y : array-like of shape (n_samples,) or (n_pairs,)
            As in `fit`. A batch may be of one class or kind, and may hold a single pair.

        Returns
        -------
        self : LEGO
            The fitted learner.

        Raises
        ------
        ValueError
            As in `fit`, except that a single class or kind is allowed.
        """
        with unchanged_on_error(self):
            return self._learn(X, y, getattr(self, "_state", None), min_kinds=1)

    def _learn(
        self, X: ArrayLike, y: ArrayLike | None, state: OnlineState | None, min_kinds: int
    ) -> Self:
        """Continue from a state, or start anew without one; `min_kinds` is 1 for batches."""
        self._check_parameters()
        rng = check_random_state(self.random_state) if state is None else deepcopy(state.rng)
        pairs = self._read(X, y, rng, min_kinds, reset=state is None)
        n_components = check_n_components(self.n_components, pairs.X.shape[1], "n_features")

        if state is None:
            mapped, axes = to_principal_axes(pairs.X, n_components)
            state = OnlineState.initial(mapped.shape[1], rng, axes)
        else:
            mapped, axes = map_to_axes(pairs.X, state.axes), state.axes
        pairs, dtype = pairs._replace(X=mapped), pairs.X.dtype
        self._state = process_pairs(state._replace(rng=rng), pairs, self.margin, self.eta)

        L = root(mix_with_identity(self._state.mean, self.prior_share), n_components)
        self._set_components(L if axes is None else L @ axes, dtype)
        self.n_pairs_seen_, self.n_updates_ = self._state.n_pairs, self._state.n_updates
        return self

    def _check_parameters(self) -> None:
        self._check_ranges(
            eta=(Real, False, 0, None, "neither"),
            margin=(Real, False, 0, 1, "left"),
            prior_share=(Real, False, 0, 1, "both"),
        )

    def _read(
        self,
        X: ArrayLike,
        y: ArrayLike | None,
        rng: np.random.RandomState,
        min_kinds: int,
        reset: bool,
    ) -> Pairs:
        """Check pairs, or draw them from classes in random order."""
        options = {"reset": reset, "ensure_min_samples": min_kinds}
        if self.supervision == "pairs":
            points, (first, second) = self._read_tuples(X, 2, **options)
            same = check_same(y, len(first), both_kinds=min_kinds > 1)
            return Pairs(points, first, second, same)
        points, codes, _ = self._read_labelled(X, y, min_kinds, **options)
        first, second, same = draw_pairs(codes, self._n_constraints(len(codes)), rng)
        if min_kinds > 1 and not same.any():
            raise ValueError(no_same_class_message(codes))
        order = rng.permutation(len(first))
        return Pairs(points, first[order], second[order], same[order])
