"""What training stops on: classes it is not shown, or rows, or tuples, and their score.

A score is an array of shape (n_views, n_groups): one row for each way to look, a column for each
class that is held out, or for each row of a known class. Stopping asks for a gain over the start
that holds in every view, and holds across classes: see `RetrievalStopping`.
"""

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from skdml.deep._statistics import rank_within_class
from skdml.deep.scores import PairScore, RankScore, RetrievalScore, TripletScore, ViewScore

# Held-out points are compared all against all after every epoch: a few hundred tell as much as
# all of them.
MAX_QUERIES = 1000


MAX_GALLERY = 1000


# With fewer classes left to train on, nothing general can be learned about strangers.
MIN_TRAINING_CLASSES = 3


# Whole groups hold what they hold: of so many draws the one is taken that is nearest to the share.
GROUP_DRAWS = 20


def hold_out(data, fraction, rng, *, distance, scoring, whole_classes=True, augment=None):
    """Split rows into those to train on and a score of the others.

    Parameters
    ----------
    data : ArrayDataset or LabelledDataset
        The training data.
    fraction : float
        The share of classes, rows or tuples to hold out, in (0, 1).
    rng : numpy.random.Generator
        Draws.
    distance : str
        The base distance.
    scoring : str or callable
        The score of labelled rows.
    whole_classes : bool, default=True
        Whether classes may be held out as a whole. A classifier has to see them all.
    augment : callable, default=None
        What makes views of rows that have nothing else to be found by.

    Returns
    -------
    train : ndarray of int
        Rows to train on.
    score : callable or None
        ``score(embed)`` -> float, larger is better; None where too little was there to hold out.
    """
    codes = data.targets
    if data.kind == "triplets":
        train, held = split_rows(np.zeros(len(codes), int), fraction, rng)
        score = TripletScore(data.points(held), distance)
    elif data.kind == "pairs":
        train, held = split_rows(codes, fraction, rng)
        score = PairScore(data.points(held), codes[held], distance)
    elif data.kind in ("targets", "views") and data.classes is None:
        train, held = split_rows(np.zeros(len(codes), int), fraction, rng, data.groups)
        held, gallery = held[:MAX_QUERIES], rng.permutation(train)[:MAX_GALLERY]
        options = {"distance": distance, "scoring": scoring}
        if data.kind == "targets":
            score = RankScore(data, held, gallery, **options)
        else:
            seed = int(rng.integers(2**31))
            score = ViewScore(data, held, gallery, augment=augment, seed=seed, **options)
    else:
        codes = codes if data.classes is None else data.classes
        train, held, gallery, strangers = split_labels(
            codes, fraction, rng, whole_classes, data.groups
        )
        options = {"strangers": strangers, "distance": distance, "scoring": scoring}
        score = RetrievalScore(data, codes, held, gallery, **options)
    if len(held) == 0 or (data.kind == "pairs" and len(np.unique(codes[held])) < 2):
        return np.arange(len(codes)), None
    return train, score


def split_labels(codes, fraction, rng, whole_classes=True, groups=None):
    """Choose what to hold out: strangers, or else rows of known classes.

    Whole classes are held out where enough remain to train on; two at least, for one class alone
    is always found. Where classes are few, a share of the rows of each class is, to be found
    among the others.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each row.
    fraction : float
        The share to hold out, in (0, 1).
    rng : numpy.random.Generator
        Draws.
    whole_classes : bool, default=True
        Whether to hold out classes at all.
    groups : ndarray of int, shape (n,), default=None
        The group of each row; rows of known classes are then held out by whole groups. (Of a class
        that is held out nothing is trained on, in whatever group.)

    Returns
    -------
    train, queries, gallery : ndarray of int
        Rows to train on, held-out rows to look for, and training rows to look among.
    strangers : bool
        Whether the queries are of classes that are not trained on.
    """
    repeated = np.flatnonzero(np.bincount(codes) >= 2)
    n_held = max(2, round(fraction * len(repeated)))
    if whole_classes and len(repeated) >= n_held + MIN_TRAINING_CLASSES:
        held = np.isin(codes, rng.choice(repeated, n_held, replace=False))
        queries = rng.permutation(np.flatnonzero(held))[:MAX_QUERIES]
        train = np.flatnonzero(~held)
        if np.bincount(codes[queries]).max() >= 2:
            return train, queries, rng.permutation(train)[:MAX_GALLERY], True
    train, queries = split_rows(codes, fraction, rng, groups)
    gallery = rng.permutation(train)[:MAX_GALLERY]
    found = np.isin(codes[queries], codes[gallery])
    return train, queries[found][:MAX_QUERIES], gallery, False


def split_rows(codes, fraction, rng, groups=None):
    """Hold out a share of the rows of each class, leaving two of each.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each row.
    fraction : float
        The share to hold out, in (0, 1).
    rng : numpy.random.Generator
        Draws.
    groups : ndarray of int, shape (n,), default=None
        The group of each row: none is then split, unless a class would lack two rows to train on
        however they are drawn.

    Returns
    -------
    train, held : ndarray of int
        Rows to train on, sorted, and rows held out, shuffled.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.training.held_out import split_rows
    >>> groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    >>> train, held = split_rows(np.zeros(8, int), 0.25, np.random.default_rng(0), groups)
    >>> len(held), set(groups[held]) & set(groups[train])
    (2, set())
    """
    if groups is not None and (parts := _split_groups(codes, fraction, rng, groups)):
        return parts
    order = rng.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    counts = np.bincount(codes)
    n_held = np.minimum((counts * fraction).astype(int), np.maximum(counts - 2, 0))
    held = rank_within_class(codes[order]) < n_held[codes[order]]
    return np.sort(order[~held]), rng.permutation(order[held])


def _split_groups(codes, fraction, rng, groups):
    """Hold out whole groups, near to the share of each class; None where that cannot be."""
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        return None
    n_held = min(max(1, round(fraction * n_groups)), n_groups - 1)
    seed = int(rng.integers(2**31))
    draws = GroupShuffleSplit(GROUP_DRAWS, test_size=n_held, random_state=seed)
    counts = np.bincount(codes)
    best, smallest = None, np.inf
    for train, held in draws.split(codes, groups=groups):
        left = np.bincount(codes[train], minlength=len(counts))
        off = np.abs(counts - left - fraction * counts).sum()
        if off < smallest and (left >= np.minimum(counts, 2)).all():
            best, smallest = (np.sort(train), rng.permutation(held)), off
    return best
