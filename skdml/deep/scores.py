"""Scores of an embedding on held-out data, for each held-out class or row."""

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from skdml.deep.data.augmentation import augmented_view
from skdml.deep.data.datasets import batches_of_points
from skdml.deep.losses.cosent import target_distance
from skdml.distances import paired_base_distance, pairwise_base_distance
from skdml.metrics import map_at_r, mean_reciprocal_rank, recall_at_k

SCORINGS = {"map_at_r": map_at_r, "recall_at_1": recall_at_k}


MAX_BATCH_VIEWS = 256


def score_name(scoring, ours):
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


def as_score_array(found):
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
        self.name = score_name(scoring, scoring)

    def __call__(self, embed):
        """Score an embedding: ndarray of shape (n_views, n_classes or n_rows)."""
        queries, gallery = (
            (embed(self.queries), self.labels),
            (embed(self.gallery), self.gallery_labels),
        )
        if callable(self.scoring):
            return as_score_array(self.scoring(*queries, *(() if self.strangers else gallery)))
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


class TripletScore:
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
        self.name = score_name(scoring, "spearman")
        targets = (torch.from_numpy(t) for t in (self.targets, self.gallery_targets))
        self.ranks = centred_ranks(target_distance(*targets).numpy())

    def __call__(self, embed):
        """Score an embedding: ndarray of shape (1, n_queries)."""
        Z, gallery = embed(self.queries), embed(self.gallery)
        if callable(self.scoring):
            return as_score_array(self.scoring(Z, self.targets, gallery, self.gallery_targets))
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
    >>> from skdml.deep.scores import centred_ranks
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
        self.name = score_name(scoring, "reciprocal_rank")

    def __call__(self, embed):
        """Score an embedding: ndarray of shape (1, n_queries)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            views = (self.queries, self.queries, self.gallery)
            one, *others = [self._embed_views(embed, points) for points in views]
        other, labels = np.concatenate(others), self.labels[: len(one)]
        if callable(self.scoring):
            return as_score_array(self.scoring(one, labels, other, self.labels))
        options = {"metric": self.distance, "average": None}
        return mean_reciprocal_rank(one, labels, other, self.labels, **options)[None]

    def _embed_views(self, embed, points):
        """Embed a view of each point; images are augmented some at a time."""
        batches = batches_of_points(points, MAX_BATCH_VIEWS)
        return np.concatenate([embed(augmented_view(b, self.augment).numpy()) for b in batches])
