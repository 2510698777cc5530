"""What training stops on: classes it is not shown, or rows, or tuples, and their score.

A score is an array of shape (n_views, n_groups): one row for each way to look, a column for each
class that is held out, or for each row of a known class. Stopping asks for a gain over the start
that holds in every view, and holds across classes: see `RetrievalStopping`.
"""

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit

from skdml.deep.data import batches_of_points
from skdml.deep.losses.graded import target_distance
from skdml.deep.views import view_of
from skdml.distances import paired_base_distance, pairwise_base_distance
from skdml.metrics import map_at_r, mean_reciprocal_rank, recall_at_k

SCORINGS = {"map_at_r": map_at_r, "recall_at_1": recall_at_k}

# Held-out points are compared all against all after every epoch: a few hundred tell as much as
# all of them.
MAX_QUERIES = 1000
MAX_GALLERY = 1000

VIEWS_AT_ONCE = 256

# With fewer classes left to train on, nothing general can be learned about strangers.
MIN_CLASSES_LEFT = 3

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
        score = OrderScore(data.points(held), distance)
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


def name_of(scoring, ours):
    """Return what the history calls a score.

    Parameters
    ----------
    scoring : str or callable
        The parameter of the learner.
    ours : str
        The name of what is computed where that is no callable.

    Returns
    -------
    str
        The name.
    """
    return getattr(scoring, "__name__", "score") if callable(scoring) else ours


def as_score(found):
    """Return what a callable found as an array of one view and one group.

    Parameters
    ----------
    found : float
        A number.

    Returns
    -------
    ndarray of float64, shape (1, 1)
        The number.

    Raises
    ------
    ValueError
        If it is none.
    """
    if np.ndim(found) or not np.issubdtype(np.asarray(found).dtype, np.number):
        raise ValueError(
            "scoring has to give a number, larger where the embedding is better; it gave "
            f"{type(found).__name__} {found!r:.60}."
        )
    return np.full((1, 1), float(found))


class RetrievalScore:
    """Retrieval of held-out points, class by class.

    Held-out classes are looked for in two views: among themselves, and among themselves and the
    training rows. The first alone rewards a network that merely spreads what it does not know; the
    second alone one that merely draws its own classes away. Held-out rows of known classes have
    one view, among the training rows.

    Parameters
    ----------
    data : ArrayDataset or LabelledDataset
        The training data.
    codes : ndarray of int, shape (n,)
        The class of each row.
    queries, gallery : ndarray of int
        Rows held out, and training rows to look among.
    strangers : bool
        Whether the queries are of classes that are not trained on.
    distance : str
        The base distance.
    scoring : str or callable
        The measure.
    """

    def __init__(self, data, codes, queries, gallery, *, strangers, distance, scoring):
        self.queries, self.labels = data.points(queries), codes[queries]
        self.gallery, self.gallery_labels = data.points(gallery), codes[gallery]
        self.strangers = strangers
        self.distance = distance
        self.scoring = scoring
        self.name = name_of(scoring, scoring)

    def __call__(self, embed):
        """Score an embedding: ndarray of shape (n_views, n_classes or n_rows)."""
        queries, gallery = (
            (embed(self.queries), self.labels),
            (embed(self.gallery), self.gallery_labels),
        )
        if callable(self.scoring):
            return as_score(self.scoring(*queries, *(() if self.strangers else gallery)))
        measure, options = SCORINGS[self.scoring], {"metric": self.distance, "average": None}
        if not self.strangers:  # the classes are no sample, as strangers are; the rows are
            found = measure(*queries, *gallery, **options)
            return found[None, ~np.isnan(found)]
        both = [np.concatenate(parts) for parts in zip(queries, gallery, strict=True)]
        among_both = measure(*queries, *both, **options, reference_includes_queries=True)
        return self._by_class([measure(*queries, **options), among_both])

    def _by_class(self, views):
        found = ~np.isnan(views[0])
        codes = np.unique(self.labels[found], return_inverse=True)[1]
        return np.array([np.bincount(codes, v[found]) / np.bincount(codes) for v in views])


class PairScore:
    """Area under the ROC curve of held-out pairs."""

    name = "roc_auc"

    def __init__(self, points, same, distance):
        self.points, self.same, self.distance = points, same, distance

    def __call__(self, embed):
        """Score an embedding: ndarray of shape (1, 1)."""
        Z = embed(self.points)
        distance = paired_base_distance(Z[::2], Z[1::2], self.distance)
        return np.array([[roc_auc_score(self.same, -distance)]])


class OrderScore:
    """Share of held-out triplets whose positive is nearer than their negative."""

    name = "in_order"

    def __init__(self, points, distance):
        self.points, self.distance = points, distance

    def __call__(self, embed):
        """Score an embedding: ndarray of shape (1, 1)."""
        Z = embed(self.points)
        positive = paired_base_distance(Z[::3], Z[1::3], self.distance)
        negative = paired_base_distance(Z[::3], Z[2::3], self.distance)
        return np.array([[(positive < negative).mean()]])


class RankScore:
    """Rank correlation of distances and graded targets, for each held-out point.

    Points of the training rows are ranked by their distance from a held-out point, and by how far
    their targets are from its own: the score is Spearman's correlation of the two.

    Parameters
    ----------
    data : ArrayDataset or LabelledDataset
        The training data.
    queries, gallery : ndarray of int
        Rows held out, and training rows to look among.
    distance : str
        The base distance.
    scoring : str or callable
        A callable takes the place of the correlation.
    """

    def __init__(self, data, queries, gallery, *, distance, scoring):
        self.queries, self.targets = data.points(queries), data.targets[queries]
        self.gallery, self.gallery_targets = data.points(gallery), data.targets[gallery]
        self.distance = distance
        self.scoring = scoring
        self.name = name_of(scoring, "spearman")
        targets = (torch.from_numpy(t) for t in (self.targets, self.gallery_targets))
        self.ranks = centred_ranks(target_distance(*targets).numpy())

    def __call__(self, embed):
        """Score an embedding: ndarray of shape (1, n_queries)."""
        Z, gallery = embed(self.queries), embed(self.gallery)
        if callable(self.scoring):
            return as_score(self.scoring(Z, self.targets, gallery, self.gallery_targets))
        ranks = centred_ranks(pairwise_base_distance(Z, gallery, self.distance))
        # Where all are equally far, in the one way or the other, nothing correlates.
        scale = np.linalg.norm(ranks, axis=1) * np.linalg.norm(self.ranks, axis=1)
        return ((ranks * self.ranks).sum(axis=1) / np.where(scale > 0, scale, 1))[None]


def centred_ranks(distance):
    """Ranks within each row, ties by their mean, less the mean of the row.

    Parameters
    ----------
    distance : ndarray of shape (n, m)
        Numbers.

    Returns
    -------
    ndarray of shape (n, m)
        Their ranks.

    Examples
    --------
    >>> from skdml.deep.held_out import centred_ranks
    >>> centred_ranks([[0.5, 7.0, 7.0]])
    array([[-1. ,  0.5,  0.5]])
    """
    ranks = rankdata(distance, axis=1)
    return ranks - ranks.mean(axis=1, keepdims=True)


class ViewScore:
    """How soon two views of a held-out point find each other, for each such point.

    One view looks for the other among the other views of all held-out points, and views of
    training points; the score is the reciprocal of its rank. (Whether it comes first tells less:
    where views are hard to find, or found from the start, it does not see what is learned.)

    Parameters
    ----------
    data : ArrayDataset or LabelledDataset
        The training data.
    queries, gallery : ndarray of int
        Rows held out, and training rows to look among.
    distance : str
        The base distance.
    scoring : str or callable
        A callable takes the place of the reciprocal rank.
    augment : callable
        What makes the views.
    seed : int
        Decides them: they are the same for every embedding.
    """

    def __init__(self, data, queries, gallery, *, distance, scoring, augment, seed):
        self.queries, self.gallery = data.points(queries), data.points(gallery)
        self.labels = np.concatenate([queries, gallery])
        self.distance = distance
        self.scoring = scoring
        self.augment = augment
        self.seed = seed
        self.name = name_of(scoring, "reciprocal_rank")

    def __call__(self, embed):
        """Score an embedding: ndarray of shape (1, n_queries)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            views = (self.queries, self.queries, self.gallery)
            one, *others = [self._embed_views(embed, points) for points in views]
        other, labels = np.concatenate(others), self.labels[: len(one)]
        if callable(self.scoring):
            return as_score(self.scoring(one, labels, other, self.labels))
        options = {"metric": self.distance, "average": None}
        return mean_reciprocal_rank(one, labels, other, self.labels, **options)[None]

    def _embed_views(self, embed, points):
        """Embed a view of each point; images are augmented some at a time."""
        batches = batches_of_points(points, VIEWS_AT_ONCE)
        return np.concatenate([embed(view_of(b, self.augment).numpy()) for b in batches])


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
    if whole_classes and len(repeated) >= n_held + MIN_CLASSES_LEFT:
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
    >>> from skdml.deep.held_out import split_rows
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
    held = places(codes[order]) < n_held[codes[order]]
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


def places(codes):
    """Return how many rows of its class come before each row.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each row.

    Returns
    -------
    ndarray of int, shape (n,)
        0 for the first row of a class, 1 for the second, and so on.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.held_out import places
    >>> places(np.array([1, 0, 1, 1, 0]))
    array([0, 0, 1, 2, 1])
    """
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    place = np.empty(len(codes), int)
    place[order] = np.arange(len(codes)) - (np.cumsum(counts) - counts)[codes[order]]
    return place
