"""Class labels turned into pairs, triplets and quadruplets; checks on those that a user gives.

Tuples are rows of indices into points, never copies of the points. What is drawn follows from a
random generator, is capped at what there is, holds nothing twice, and never fails on small data.
"""

import numpy as np
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import type_of_target

from skdml._threads import kneighbors


def check_same(y, n_pairs, both_kinds=True):
    """Return for each pair whether its two points are the same, or raise.

    Parameters
    ----------
    y : array-like of shape (n_pairs,)
        1 or True for pairs of the same class, 0, -1 or False for different ones.
    n_pairs : int
        How many there have to be.
    both_kinds : bool, default=True
        Whether to refuse pairs that are all of one kind.

    Returns
    -------
    ndarray of bool, shape (n_pairs,)
        True where the same.

    Raises
    ------
    ValueError
        If y is missing, of another length, holds other values, or is all of one kind where both
        are needed.

    Examples
    --------
    >>> from skdml.constraints import check_same
    >>> check_same([1, -1, 1], 3)
    array([ True, False,  True])
    """
    if y is None:
        raise ValueError(
            "Learning from pairs requires y to be passed: 1 for the same, 0 or -1 for different."
        )
    y = column_or_1d(check_array(y, ensure_2d=False, dtype=None, input_name="y"), warn=True)
    if len(y) != n_pairs:
        raise ValueError(f"y has to say of each of the {n_pairs} pairs if it is one; got {len(y)}.")
    values = np.unique(y)
    if not (np.isin(values, [0, 1]).all() or np.isin(values, [-1, 1]).all()):
        raise ValueError(
            "y of pairs has to hold 1 (same) and 0 (different), or 1 and -1; got "
            f"{values[:5].tolist()}."
        )
    same = y == 1
    if both_kinds and (same.all() or not same.any()):
        kind = "the same" if same.any() else "different"
        raise ValueError(f"Pairs of both kinds are needed to learn from; all {n_pairs} are {kind}.")
    return same


def encode_labels(y, min_classes=2):
    """Return class labels as codes 0, 1, ..., and the classes; refuse what are no classes.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Class labels of any kind.
    min_classes : int, default=2
        How many classes there have to be; 1 for one of several batches.

    Returns
    -------
    codes : ndarray of int, shape (n_samples,)
        The place of each label among the classes.
    classes : ndarray of shape (n_classes,)
        The distinct labels, sorted.

    Raises
    ------
    ValueError
        If y is continuous, or of too few classes.

    Examples
    --------
    >>> from skdml.constraints import encode_labels
    >>> encode_labels(["b", "a", "b"])[0]
    array([1, 0, 1])
    """
    kind = type_of_target(y, input_name="y")
    if kind not in ("binary", "multiclass"):
        raise ValueError(f"Unknown label type: {kind}. Class labels are needed in y.")
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < min_classes:
        raise ValueError(
            f"A distance is learned from at least two classes; all {len(codes)} labels are of one "
            "class."
        )
    return codes, classes


def draw_pairs(codes, n_constraints, rng):
    """Draw pairs of one class, and as many of two classes.

    Every row is equally often the first of a pair, give or take one; its partner is any other row
    of its class, or any row of another class.

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
        The class of each row.
    n_constraints : int
        How many pairs of each kind, fewer where there are no more.
    rng : RandomState
        Draws.

    Returns
    -------
    first, second : ndarray of int, shape (n_pairs,)
        Rows; no pair is there twice, in either order. Those of one class come first.
    same : ndarray of bool, shape (n_pairs,)
        Whether a pair is of one class. None is where each class has a single row.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.constraints import draw_pairs
    >>> first, second, same = draw_pairs(np.array([0, 0, 1]), 5, np.random.RandomState(0))
    >>> first.tolist(), second.tolist(), same.tolist()
    ([0, 0, 1], [1, 2, 2], [True, False, False])
    """
    by_class = _ByClass(codes)
    mates = by_class.counts[codes] - 1
    alike = _distinct_pairs(mates, by_class.draw_mates, n_constraints, rng)
    apart = _distinct_pairs(len(codes) - 1 - mates, by_class.draw_strangers, n_constraints, rng)
    first, second = np.concatenate([alike, apart]).T
    return first, second, np.arange(len(first)) < len(alike)


def draw_triplets(codes, n_constraints, rng):
    """Draw triplets (anchor, positive, negative).

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
        The class of each row.
    n_constraints : int
        How many, fewer where there are no more. Each row with a mate is equally often an anchor.
    rng : RandomState
        Draws.

    Returns
    -------
    ndarray of int, shape (n_triplets, 3)
        Rows; no triplet is there twice.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.constraints import draw_triplets
    >>> draw_triplets(np.array([0, 0, 1]), 5, np.random.RandomState(0))
    array([[0, 1, 2],
           [1, 0, 2]])
    """
    by_class = _ByClass(codes)
    mates = by_class.counts[codes] - 1
    choices = mates * (len(codes) - 1 - mates)

    def draw(anchors):
        positives = by_class.draw_mates(anchors, rng)
        return np.column_stack([anchors, positives, by_class.draw_strangers(anchors, rng)])

    return _distinct(choices, draw, n_constraints, rng, int(choices.sum()))


def draw_quadruplets(codes, n_constraints, rng):
    """Draw quadruplets (a, b, c, d): a and b of one class, c and d of two.

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
        The class of each row.
    n_constraints : int
        How many, fewer where there are not so many pairs of either kind.
    rng : RandomState
        Draws.

    Returns
    -------
    ndarray of int, shape (n_quadruplets, 4)
        Rows; no pair is there twice.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.constraints import draw_quadruplets
    >>> draw_quadruplets(np.array([0, 0, 1]), 5, np.random.RandomState(0)).shape
    (1, 4)
    """
    first, second, same = draw_pairs(codes, n_constraints, rng)
    pairs = np.column_stack([first, second])
    alike, apart = pairs[same], rng.permutation(pairs[~same])
    n_quadruplets = min(len(alike), len(apart))
    return np.hstack([rng.permutation(alike)[:n_quadruplets], apart[:n_quadruplets]])


def neighbor_triplets(X, codes, n_genuine, n_impostors):
    """All triplets of a row, one of its nearest mates and one of its nearest strangers.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        The class of each row.
    n_genuine, n_impostors : int
        How many neighbours of its class and of other classes each row has, fewer where there are
        not so many.

    Returns
    -------
    ndarray of int, shape (n_triplets, 3)
        Rows, at most n_samples * n_genuine * n_impostors.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.constraints import neighbor_triplets
    >>> neighbor_triplets(np.array([[0.0], [1.0], [3.0]]), np.array([0, 0, 1]), 1, 1)
    array([[0, 1, 2],
           [1, 0, 2]])
    """
    triplets = [np.empty((0, 3), dtype=np.intp)]
    for code in np.unique(codes):
        own, others = np.flatnonzero(codes == code), np.flatnonzero(codes != code)
        k, m = min(n_genuine, len(own) - 1), min(n_impostors, len(others))
        if k < 1 or m < 1:
            continue
        # Without a query, scikit-learn leaves out each row itself, duplicates or not.
        mates = own[kneighbors(X[own], None, k)[1]]
        strangers = others[kneighbors(X[others], X[own], m)[1]]
        shape = (len(own), k, m)
        rows = (own[:, None, None], mates[:, :, None], strangers[:, None, :])
        triplets.append(np.stack([np.broadcast_to(r, shape) for r in rows], -1).reshape(-1, 3))
    return np.concatenate(triplets)


class _ByClass:
    """The rows of each class, to draw partners from without a loop over rows or classes."""

    def __init__(self, codes):
        self.order = np.argsort(codes, kind="stable")
        self.counts = np.bincount(codes)
        self.starts = np.cumsum(self.counts) - self.counts
        self.codes = codes
        self.place = np.empty(len(codes), dtype=np.intp)
        self.place[self.order] = np.arange(len(codes))

    def draw_mates(self, rows, rng):
        """Draw for each row another of its class; all need one."""
        code = self.codes[rows]
        own = self.place[rows] - self.starts[code]
        drawn = rng.randint(0, self.counts[code] - 1)
        return self.order[self.starts[code] + drawn + (drawn >= own)]

    def draw_strangers(self, rows, rng):
        """Draw for each row one of another class."""
        code = self.codes[rows]
        drawn = rng.randint(0, len(self.codes) - self.counts[code])
        return self.order[drawn + np.where(drawn >= self.starts[code], self.counts[code], 0)]


def _distinct_pairs(choices, draw_partners, n_wanted, rng):
    """Draw unordered pairs; `choices` says how many partners each row has."""

    def draw(anchors):
        return np.sort(np.column_stack([anchors, draw_partners(anchors, rng)]), axis=1)

    return _distinct(choices, draw, n_wanted, rng, int(choices.sum()) // 2)


def _distinct(choices, draw, n_wanted, rng, n_there):
    """Draw tuples around anchors until enough distinct ones are there."""
    anchors = np.flatnonzero(choices)
    n_wanted = min(n_wanted, n_there)
    found = draw(anchors[:0])
    # Asked for nearly all there are, chance would take long over the last ones (as long as a
    # collector over the last cards); a few of them may then stay out.
    for _ in range(50):
        missing = n_wanted - len(found)
        if missing <= 0:
            break
        n_drawn = max(2 * missing, len(anchors))
        rounds = -(-n_drawn // len(anchors))
        shuffled = np.concatenate([rng.permutation(anchors) for _ in range(rounds)])
        both = np.concatenate([found, draw(shuffled[:n_drawn])])
        found = both[np.sort(np.unique(_keys(both), return_index=True)[1])]
    found = found[:n_wanted]
    return found[np.lexsort(found.T[::-1])]


def _keys(tuples):
    """Return a number for each tuple of rows, alike for equal ones: quicker to sort."""
    n_rows = tuples.max(initial=0) + 1
    keys = tuples[:, 0] * n_rows + tuples[:, 1]
    for column in tuples.T[2:]:
        # Numbered anew, they stay far below the largest int.
        keys = np.unique(keys, return_inverse=True)[1] * n_rows + column
    return keys
