"""Held-out data for early stopping: whole classes, rows or tuples, and their score.

A score is an array of shape (n_views, n_groups): one row for each way to search, and one column for
each held-out class, or for each held-out row where no whole class is held out. Early stopping
requires a gain over the initial weights in every view and across the classes; see
`RetrievalStopping`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit
from torch import Tensor

from skdml.deep._statistics import rank_within_class
from skdml.deep.data.datasets import ArrayDataset, LabelledDataset
from skdml.deep.data.reading import TUPLE_SIZES
from skdml.deep.scores import PairScore, RankScore, RetrievalScore, Score, TripletScore, ViewScore

# Held-out points are compared with each other and with the gallery after an epoch. A subset of
# this size gives nearly the same score as all points.
MAX_QUERIES = 1000
MAX_GALLERY = 1000

# The smallest number of training classes: fewer do not teach a distance for unseen classes.
MIN_TRAINING_CLASSES = 3

# Groups differ in size and classes. The best of this many draws is taken.
GROUP_DRAWS = 20


def hold_out(
    data: ArrayDataset | LabelledDataset,
    fraction: float,
    rng: np.random.Generator,
    *,
    distance: str,
    scoring: str | Callable[..., float],
    kind: str = "auto",
    augment: Callable[[Tensor], Tensor] | None = None,
) -> tuple[NDArray[np.integer], Score | None]:
    """Split the rows into training rows and held-out rows, and return a score of the latter.

    Parameters
    ----------
    data : ArrayDataset or LabelledDataset
        The training data.
    fraction : float
        The share of classes, rows or tuples to hold out, in (0, 1).
    rng : numpy.random.Generator
        Draws the held-out data.
    distance : str
        The base distance.
    scoring : str or callable
        The score of points; pairs and triplets have their own.
    kind : {"auto", "rows", "classes"}, default="auto"
        What to hold out, as in `split_labels`.
    augment : callable, default=None
        Makes the views by which points without labels are scored.

    Returns
    -------
    train : ndarray of int
        The training rows.
    score : callable or None
        ``score(embed)`` returns an array of shape (n_views, n_groups), larger is better. It is
        None, and all rows are training rows, if there is too little data to hold any out.

    Raises
    ------
    ValueError
        If whole classes are to be held out, but there are too few or none.
    """
    options = {"distance": distance, "scoring": scoring}
    has_classes = data.kind == "labels" or data.classes is not None
    if kind == "classes" and not has_classes:
        raise ValueError(
            f"hold_out='classes' needs class labels, but the learner is fitted on {data.kind} "
            "without classes. Use hold_out='rows' or 'auto'."
        )
    if data.kind in TUPLE_SIZES:
        train, score = _hold_out_tuples(data, fraction, rng, distance)
    elif has_classes:
        train, score = _hold_out_labels(data, fraction, rng, kind, **options)
    else:
        train, score = _hold_out_rows(data, fraction, rng, augment, **options)
    return (np.arange(len(data)), None) if score is None else (train, score)


def _hold_out_tuples(
    data: ArrayDataset | LabelledDataset, fraction: float, rng: np.random.Generator, distance: str
) -> tuple[NDArray[np.integer], Score | None]:
    codes = data.targets  # 1 and 0 for pairs, 0 for all triplets
    train, held = split_rows(codes, fraction, rng)
    if len(held) == 0:
        return train, None
    if data.kind == "triplets":
        return train, TripletScore(data.points(held), distance)
    if len(np.unique(codes[held])) < 2:  # the ROC curve needs both kinds of pairs
        return train, None
    return train, PairScore(data.points(held), codes[held], distance)


def _hold_out_labels(
    data: ArrayDataset | LabelledDataset,
    fraction: float,
    rng: np.random.Generator,
    kind: str,
    **options: Any,
) -> tuple[NDArray[np.integer], Score | None]:
    codes = data.targets if data.classes is None else data.classes
    train, held, gallery, unseen_classes = split_labels(codes, fraction, rng, kind, data.groups)
    if len(held) == 0:
        return train, None
    scoring = options["scoring"]
    name = getattr(scoring, "__name__", "score") if callable(scoring) else scoring
    points = (data.points(held), codes[held], data.points(gallery), codes[gallery])
    return train, RetrievalScore(*points, unseen_classes=unseen_classes, name=name, **options)


def _hold_out_rows(
    data: ArrayDataset | LabelledDataset,
    fraction: float,
    rng: np.random.Generator,
    augment: Callable[[Tensor], Tensor] | None,
    **options: Any,
) -> tuple[NDArray[np.integer], Score | None]:
    """Hold out points with graded targets, or points without labels."""
    train, held = split_rows(np.zeros(len(data), int), fraction, rng, data.groups)
    if len(held) == 0:
        return train, None
    held, gallery = held[:MAX_QUERIES], rng.permutation(train)[:MAX_GALLERY]
    if data.kind == "targets":
        return train, RankScore(data, held, gallery, **options)
    options |= {"augment": augment, "seed": int(rng.integers(2**31))}
    return train, ViewScore(data, held, gallery, **options)


def split_labels(
    codes: NDArray[np.integer],
    fraction: float,
    rng: np.random.Generator,
    kind: str = "auto",
    groups: NDArray[np.integer] | None = None,
) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.integer], bool]:
    """Choose what to hold out: whole classes, or rows of each class.

    At least two classes are held out, because retrieval within a single class is always perfect,
    and at least `MIN_TRAINING_CLASSES` must remain for training. Held-out rows are retrieved among
    the training rows.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each row.
    fraction : float
        The share to hold out, in (0, 1).
    rng : numpy.random.Generator
        Draws the held-out data.
    kind : {"auto", "rows", "classes"}, default="auto"
        What to hold out. "auto" holds out whole classes if enough remain for training, and rows
        otherwise.
    groups : ndarray of int, shape (n,), default=None
        The group of each row. If rows are held out, whole groups are held out. If classes are held
        out, groups have no effect.

    Returns
    -------
    train, queries, gallery : ndarray of int
        Training rows, held-out rows to search for, and training rows to search among.
    unseen_classes : bool
        Whether whole classes are held out.

    Raises
    ------
    ValueError
        If ``kind="classes"``, and too few classes would remain for training.
    """
    repeated = np.flatnonzero(np.bincount(codes) >= 2)
    n_held = max(2, round(fraction * len(repeated)))
    is_enough = len(repeated) >= n_held + MIN_TRAINING_CLASSES
    if kind == "classes" and not is_enough:
        raise ValueError(
            f"hold_out='classes' with validation_fraction={fraction:g} holds out {n_held} of the "
            f"{len(repeated)} classes that have two rows or more, but {MIN_TRAINING_CLASSES} of "
            "them must remain for training. Use hold_out='rows', more classes, or a smaller "
            "validation_fraction."
        )
    if kind != "rows" and is_enough:
        is_held = np.isin(codes, rng.choice(repeated, n_held, replace=False))
        held = rng.permutation(np.flatnonzero(is_held))
        if kind == "classes" and np.bincount(codes[held[:MAX_QUERIES]]).max() < 2:
            held = held[np.argsort(codes[held], kind="stable")]  # a few classes as a whole
        held = held[:MAX_QUERIES]
        if np.bincount(codes[held]).max() >= 2:
            rest = np.flatnonzero(~is_held)
            return rest, held, rng.permutation(rest)[:MAX_GALLERY], True
    train, queries = split_rows(codes, fraction, rng, groups)
    gallery = rng.permutation(train)[:MAX_GALLERY]
    has_match = np.isin(codes[queries], codes[gallery])
    return train, queries[has_match][:MAX_QUERIES], gallery, False


def split_rows(
    codes: NDArray[np.integer],
    fraction: float,
    rng: np.random.Generator,
    groups: NDArray[np.integer] | None = None,
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Hold out a share of the rows of each class; at least two rows of each remain for training.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each row.
    fraction : float
        The share to hold out, in (0, 1).
    rng : numpy.random.Generator
        Draws the held-out rows.
    groups : ndarray of int, shape (n,), default=None
        The group of each row. Whole groups are held out, unless every draw leaves a class with
        fewer than two training rows. Then groups are ignored.

    Returns
    -------
    train, held : ndarray of int
        Training rows, sorted, and held-out rows, shuffled.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.training.held_out import split_rows
    >>> groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    >>> train, held = split_rows(np.zeros(8, int), 0.25, np.random.default_rng(0), groups)
    >>> len(held), set(groups[held]) & set(groups[train])
    (2, set())
    """
    if groups is not None and (split := _split_groups(codes, fraction, rng, groups)):
        return split
    order = rng.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    counts = np.bincount(codes)
    n_held = np.minimum((counts * fraction).astype(int), np.maximum(counts - 2, 0))
    held = rank_within_class(codes[order]) < n_held[codes[order]]
    return np.sort(order[~held]), rng.permutation(order[held])


def _split_groups(
    codes: NDArray[np.integer],
    fraction: float,
    rng: np.random.Generator,
    groups: NDArray[np.integer],
) -> tuple[NDArray[np.integer], NDArray[np.integer]] | None:
    """Hold out whole groups, as close as possible to the share of each class.

    Returns None if no draw leaves two training rows of each class that has two rows.
    """
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
        deviation = np.abs(counts - left - fraction * counts).sum()
        if deviation < smallest and (left >= np.minimum(counts, 2)).all():
            best, smallest = (np.sort(train), rng.permutation(held)), deviation
    return best
