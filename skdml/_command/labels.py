"""Check the labels of a table, and choose the rows to use."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Cells that stand for a missing value, in labels and in all other columns.
MISSING = ("", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null")

# A larger table is sampled, so that a run takes a few minutes and less than 2 GiB.
MAX_ROWS = 5_000
MAX_CELLS = 2_000_000
MAX_CLASSES = 500

# With fewer rows, no score means anything.
MIN_ROWS = 10

# As many rows of each class are kept where others are sampled.
_ROWS_PER_CLASS = 10


@dataclass
class Choice:
    """The rows of a table that are used.

    Parameters
    ----------
    is_chosen : ndarray of bool, shape (n_rows,)
        Whether a row is used.
    notes : list of str
        What is left out, and why. One sentence each.
    """

    is_chosen: NDArray[np.bool_]
    notes: list[str]


def choose_rows(
    target: str, labels: list[str], codes: NDArray[np.integer], n_columns: int, seed: int
) -> Choice:
    """Choose the rows to use: those with a label, of classes with two rows, and not too many.

    Parameters
    ----------
    target : str
        Name of the column of labels.
    labels : list of str
        The different labels.
    codes : ndarray of int, shape (n_rows,)
        The index in `labels` of the label of each row.
    n_columns : int
        Number of columns of the table.
    seed : int
        Seed of the sample.

    Returns
    -------
    Choice
        The rows, and what was left out.

    Raises
    ------
    ValueError
        If the labels are numbers that measure something, all different or all the same, or if there
        are too few rows.
    """
    counts = np.bincount(codes, minlength=len(labels))
    is_label = np.array([label not in MISSING for label in labels], dtype=bool)
    check_labels(target, [label for label, kept in zip(labels, is_label, strict=True) if kept])
    is_class = is_label & (counts > 1)
    _check_counts(target, counts[is_label], counts[is_class])
    notes = []
    if n_unlabelled := counts[~is_label].sum():
        notes.append(f"Rows without a label in {target!r} are left out: {n_unlabelled}.")
    if n_single := (is_label & (counts == 1)).sum():
        notes.append(f"Classes with a single row are left out: {n_single}.")
    rng = np.random.default_rng(seed)
    if is_class.sum() > MAX_CLASSES:
        notes.append(f"{MAX_CLASSES} of {is_class.sum()} classes are drawn at random.")
        drawn = rng.choice(np.flatnonzero(is_class), MAX_CLASSES, replace=False)
        is_class = np.isin(np.arange(len(labels)), drawn)
    is_chosen = is_class[codes]
    limit = max(200, min(MAX_ROWS, MAX_CELLS // n_columns))
    if (n_rows := is_chosen.sum()) > limit:
        is_chosen[is_chosen] = draw_rows(codes[is_chosen], limit, rng)
        notes.append(
            f"{is_chosen.sum()} of {n_rows} rows are drawn at random, and at least "
            f"{_rows_per_class(is_class.sum(), limit)} of each class where it has them."
        )
    return Choice(is_chosen, notes)


def _check_counts(
    target: str, of_labels: NDArray[np.integer], of_classes: NDArray[np.integer]
) -> None:
    """Check the numbers of rows of each label, and of each label with two rows or more."""
    n_rows, n_labels = of_labels.sum(), len(of_labels)
    if not n_rows:
        raise ValueError(f"No row has a label in {target!r}; give a table with labelled rows.")
    if n_labels == 1:
        raise ValueError(
            f"All labels in {target!r} are the same; the target needs two classes or more."
        )
    if not len(of_classes):
        raise ValueError(
            f"All {n_rows} labels in {target!r} are different; the target needs classes with "
            "several rows each."
        )
    if len(of_classes) == 1:
        raise ValueError(
            f"Only one class in {target!r} has two rows or more; give two rows of another class."
        )
    if of_classes.sum() < MIN_ROWS:
        raise ValueError(
            f"The classes in {target!r} with two rows or more have {of_classes.sum()} rows "
            f"together; give {MIN_ROWS} or more."
        )


def check_labels(target: str, labels: list[str]) -> None:
    """Check that labels are not measured numbers. Integers may be the names of classes.

    Parameters
    ----------
    target : str
        Name of the column of labels.
    labels : list of str
        The different labels.

    Raises
    ------
    ValueError
        If all labels are numbers, and some are not integers.
    """
    try:
        numbers = np.array(labels, dtype=float)
    except ValueError:
        return
    measured = [label for label, x in zip(labels, numbers, strict=True) if x != np.round(x)]
    if measured or not np.isfinite(numbers).all():
        raise ValueError(
            f"The target {target!r} holds numbers that are not integers, such as "
            f"{(measured or labels)[0]}. The command compares classes: divide the numbers into "
            "classes, or write them as text if they are names of classes. For regression use "
            "skdml.MLKR."
        )


def _rows_per_class(n_classes: int, limit: int) -> int:
    return int(np.clip(limit // (2 * n_classes), 2, _ROWS_PER_CLASS))


def draw_rows(codes: NDArray[Any], limit: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw about `limit` rows at random, the same share of each class but a few rows at least.

    Parameters
    ----------
    codes : ndarray of int, shape (n_rows,)
        Class of each row.
    limit : int
        Number of rows to draw. More are drawn if rare classes need them.
    rng : Generator
        Draws the rows.

    Returns
    -------
    ndarray of bool, shape (n_rows,)
        Whether a row is drawn.
    """
    _, codes, counts = np.unique(codes, return_inverse=True, return_counts=True)
    share = np.floor(counts * limit / len(codes)).astype(int)
    n_drawn = np.maximum(share, np.minimum(counts, _rows_per_class(len(counts), limit)))
    shuffled = rng.permutation(len(codes))
    by_class = shuffled[np.argsort(codes[shuffled], kind="stable")]
    rank_within_class = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_drawn = np.zeros(len(codes), dtype=bool)
    is_drawn[by_class] = rank_within_class < n_drawn[codes[by_class]]
    return is_drawn
