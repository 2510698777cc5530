"""Draw pairs, triplets and quadruplets from class labels, and check the labels that a user gives.

A tuple is a row of indices of points, not a copy of the points. Every draw uses the given random
generator and contains no tuple twice. If more tuples are asked for than exist, fewer are returned;
small data never raise an error.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skdml._labels import read_labels
from skdml._threads import kneighbors


def check_same(y: ArrayLike | None, n_pairs: int, both_kinds: bool = True) -> NDArray[np.bool_]:
    """Check the labels of pairs, and return them as booleans.

    Parameters
    ----------
    y : array-like of shape (n_pairs,)
        1 or True for pairs of the same class; 0, -1 or False for pairs of different classes.
    n_pairs : int
        Required number of labels.
    both_kinds : bool, default=True
        Whether y must contain same pairs and different pairs.

    Returns
    -------
    ndarray of bool, shape (n_pairs,)
        True for pairs of the same class.

    Raises
    ------
    ValueError
        If y is None, has another length or contains other values, such as NaN. Also if
        `both_kinds` is True and all pairs are of one kind.

    Examples
    --------
    >>> from skdml.constraints import check_same
    >>> check_same([1, -1, 1], 3)
    array([ True, False,  True])
    """
    if y is None:
        raise ValueError(
            "Learning from pairs requires y to be passed: 1 for pairs of the same class, 0 or -1 "
            "for pairs of different classes."
        )
    labels = read_labels(y, continuous=True)
    if len(labels) != n_pairs:
        raise ValueError(
            f"y needs one label for each of the {n_pairs} pairs; got {len(labels)} labels."
        )
    values = np.unique(labels)
    is_in = (set(values.tolist()) <= {*kinds} for kinds in ([0, 1], [-1, 1]))
    if not any(is_in):
        raise ValueError(
            "y of pairs has to hold 1 (same) and 0 (different), or 1 and -1; got the values "
            f"{values[:5].tolist()}."
        )
    same = labels == 1
    if both_kinds and (same.all() or not same.any()):
        kind = "the same" if same.any() else "different"
        raise ValueError(
            f"Pairs of both kinds are needed to learn from; all {n_pairs} are {kind}. Give pairs "
            "of the same class and pairs of different classes."
        )
    return same


def encode_labels(y: ArrayLike, min_classes: int = 2) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """Check class labels, and encode them as 0, 1, ...

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Class labels: integers, strings, booleans or dates, all of one kind.
    min_classes : int, default=2
        Required number of classes. Use 1 for a batch that may contain a single class.

    Returns
    -------
    codes : ndarray of int, shape (n_samples,)
        The index of each label in `classes`.
    classes : ndarray of shape (n_classes,)
        The distinct labels, sorted.

    Raises
    ------
    ValueError
        If y is continuous, has too few classes, misses labels (NaN, None or NA), or mixes numbers
        and strings.

    Warns
    -----
    DataConversionWarning
        If y is a column, of shape (n_samples, 1).

    Examples
    --------
    >>> from skdml.constraints import encode_labels
    >>> encode_labels(["b", "a", "b"])[0]
    array([1, 0, 1])
    """
    classes, codes = np.unique(read_labels(y), return_inverse=True)
    if len(classes) < min_classes:
        raise ValueError(
            f"y needs labels of at least two classes; all {len(codes)} labels are of one class."
        )
    return codes, classes


def draw_pairs(
    codes: NDArray[np.integer], n_constraints: int, rng: np.random.RandomState
) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.bool_]]:
    """Draw pairs of the same class and the same number of pairs of different classes.

    Every row is drawn as an anchor equally often, up to a difference of one. Its partner is drawn
    from the other rows of its class, or from the rows of the other classes.

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
        The class of each row.
    n_constraints : int
        Number of pairs of each kind. Fewer are returned if fewer exist.
    rng : RandomState
        Random generator.

    Returns
    -------
    first, second : ndarray of int, shape (n_pairs,)
        The rows of each pair. Pairs of the same class come first. No pair occurs twice, in either
        order.
    same : ndarray of bool, shape (n_pairs,)
        Whether a pair is of the same class. All False if each class has a single row.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.constraints import draw_pairs
    >>> first, second, same = draw_pairs(np.array([0, 0, 1]), 5, np.random.RandomState(0))
    >>> first.tolist(), second.tolist(), same.tolist()
    ([0, 0, 1], [1, 2, 2], [True, False, False])
    """
    rows = _RowsByClass(codes)
    n_same = rows.counts[codes] - 1
    n_different = len(codes) - 1 - n_same
    same = _draw_distinct_pairs(n_same, rows.draw_same_class, n_constraints, rng)
    different = _draw_distinct_pairs(n_different, rows.draw_other_class, n_constraints, rng)
    first, second = np.concatenate([same, different]).T
    return first, second, np.arange(len(first)) < len(same)


def draw_triplets(
    codes: NDArray[np.integer], n_constraints: int, rng: np.random.RandomState
) -> NDArray[np.integer]:
    """Draw triplets (anchor, positive, negative).

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
        The class of each row.
    n_constraints : int
        Number of triplets. Fewer are returned if fewer exist. Each row whose class has another row
        is an anchor equally often.
    rng : RandomState
        Random generator.

    Returns
    -------
    ndarray of int, shape (n_triplets, 3)
        The rows of each triplet. No triplet occurs twice.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.constraints import draw_triplets
    >>> draw_triplets(np.array([0, 0, 1]), 5, np.random.RandomState(0))
    array([[0, 1, 2],
           [1, 0, 2]])
    """
    rows = _RowsByClass(codes)
    n_same = rows.counts[codes] - 1
    n_choices = n_same * (len(codes) - 1 - n_same)

    def draw(anchors: NDArray[np.integer]) -> NDArray[np.integer]:
        positives = rows.draw_same_class(anchors, rng)
        return np.column_stack([anchors, positives, rows.draw_other_class(anchors, rng)])

    return _draw_distinct(n_choices, draw, n_constraints, rng, int(n_choices.sum()))


def draw_quadruplets(
    codes: NDArray[np.integer], n_constraints: int, rng: np.random.RandomState
) -> NDArray[np.integer]:
    """Draw quadruplets (a, b, c, d): a and b of the same class, c and d of different classes.

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
        The class of each row.
    n_constraints : int
        Number of quadruplets. Fewer are returned if there are fewer pairs of either kind.
    rng : RandomState
        Random generator.

    Returns
    -------
    ndarray of int, shape (n_quadruplets, 4)
        The rows of each quadruplet. No pair occurs twice.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.constraints import draw_quadruplets
    >>> draw_quadruplets(np.array([0, 0, 1]), 5, np.random.RandomState(0)).shape
    (1, 4)
    """
    first, second, same = draw_pairs(codes, n_constraints, rng)
    pairs = np.column_stack([first, second])
    same_pairs, different_pairs = pairs[same], rng.permutation(pairs[~same])
    n_quadruplets = min(len(same_pairs), len(different_pairs))
    return np.hstack([rng.permutation(same_pairs)[:n_quadruplets], different_pairs[:n_quadruplets]])


def neighbor_triplets(
    X: Any, codes: NDArray[np.integer], n_genuine: int, n_impostors: int
) -> NDArray[np.integer]:
    """Combine each row with its nearest rows of the same class and of other classes.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        The class of each row.
    n_genuine : int
        Number of nearest rows of the same class. Fewer are used if fewer exist.
    n_impostors : int
        Number of nearest rows of other classes. Fewer are used if fewer exist.

    Returns
    -------
    ndarray of int, shape (n_triplets, 3)
        Triplets (row, row of the same class, row of another class): every combination, so at most
        n_samples * n_genuine * n_impostors.

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
        # Without queries, scikit-learn leaves out each row itself, even if rows are equal.
        positives = own[kneighbors(X[own], None, k)[1]]
        negatives = others[kneighbors(X[others], X[own], m)[1]]
        shape = (len(own), k, m)
        rows = (own[:, None, None], positives[:, :, None], negatives[:, None, :])
        triplets.append(np.stack([np.broadcast_to(r, shape) for r in rows], -1).reshape(-1, 3))
    return np.concatenate(triplets)


class _RowsByClass:
    """Rows grouped by class. Draws partners without a loop over rows or classes."""

    def __init__(self, codes: NDArray[np.integer]) -> None:
        self.order = np.argsort(codes, kind="stable")
        self.counts = np.bincount(codes)
        self.starts = np.cumsum(self.counts) - self.counts
        self.codes = codes
        self.positions = np.empty(len(codes), dtype=np.intp)
        self.positions[self.order] = np.arange(len(codes))

    def draw_same_class(
        self, rows: NDArray[np.integer], rng: np.random.RandomState
    ) -> NDArray[np.integer]:
        """Draw for each row another row of its class. The class needs at least two rows."""
        code = self.codes[rows]
        own = self.positions[rows] - self.starts[code]
        drawn = rng.randint(0, self.counts[code] - 1)
        return self.order[self.starts[code] + drawn + (drawn >= own)]

    def draw_other_class(
        self, rows: NDArray[np.integer], rng: np.random.RandomState
    ) -> NDArray[np.integer]:
        """Draw for each row a row of another class."""
        code = self.codes[rows]
        drawn = rng.randint(0, len(self.codes) - self.counts[code])
        return self.order[drawn + np.where(drawn >= self.starts[code], self.counts[code], 0)]


def _draw_distinct_pairs(
    n_choices: NDArray[np.integer],
    draw_partners: Callable[[NDArray[np.integer], np.random.RandomState], NDArray[np.integer]],
    n_wanted: int,
    rng: np.random.RandomState,
) -> NDArray[np.integer]:
    """Draw distinct unordered pairs. `n_choices` is the number of partners of each row."""

    def draw(anchors: NDArray[np.integer]) -> NDArray[np.integer]:
        return np.sort(np.column_stack([anchors, draw_partners(anchors, rng)]), axis=1)

    return _draw_distinct(n_choices, draw, n_wanted, rng, int(n_choices.sum()) // 2)


def _draw_distinct(
    n_choices: NDArray[np.integer],
    draw: Callable[[NDArray[np.integer]], NDArray[np.integer]],
    n_wanted: int,
    rng: np.random.RandomState,
    n_existing: int,
) -> NDArray[np.integer]:
    """Draw tuples for anchors until `n_wanted` distinct ones are found, or all that exist."""
    anchors = np.flatnonzero(n_choices)
    n_wanted = min(n_wanted, n_existing)
    found = draw(anchors[:0])
    # If nearly all existing tuples are wanted, the last ones are rarely drawn. The number of rounds
    # is therefore limited, and a few tuples may be missing.
    for _ in range(50):
        missing = n_wanted - len(found)
        if missing <= 0:
            break
        n_drawn = max(2 * missing, len(anchors))
        rounds = -(-n_drawn // len(anchors))
        shuffled = np.concatenate([rng.permutation(anchors) for _ in range(rounds)])
        both = np.concatenate([found, draw(shuffled[:n_drawn])])
        found = both[np.sort(np.unique(_tuple_keys(both), return_index=True)[1])]
    found = found[:n_wanted]
    return found[np.lexsort(found.T[::-1])]


def _tuple_keys(tuples: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return a number for each tuple, equal for equal tuples. Numbers sort faster than rows."""
    n_rows = tuples.max(initial=0) + 1
    keys = tuples[:, 0] * n_rows + tuples[:, 1]
    for column in tuples.T[2:]:
        # Renumbering the keys keeps them far below the largest integer.
        keys = np.unique(keys, return_inverse=True)[1] * n_rows + column
    return keys
