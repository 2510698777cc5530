"""Scores of an embedding on held-out data, one value for each held-out class or row.

A score is called with a function ``embed(points)`` and returns an array of shape
(n_views, n_groups): one row for each way to search, and one column for each held-out class, or for
each held-out row where no whole class is held out. Larger is better. Its attribute `name` is the
key in the training history.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from scipy.stats import t as student_t
from sklearn.metrics import roc_auc_score
from torch import Tensor

from skdml.deep.data.augmentation import augmented_view
from skdml.deep.data.datasets import ArrayDataset, LabelledDataset
from skdml.deep.losses.cosent import target_distance
from skdml.deep.networks.map import batches_of_points
from skdml.distances import paired_base_distance, pairwise_base_distance
from skdml.metrics import map_at_r, mean_reciprocal_rank, recall_at_k

SCORINGS: dict[str, Callable[..., Any]] = {"map_at_r": map_at_r, "recall_at_1": recall_at_k}

# Held-out images are augmented in batches of this many, to limit memory.
MAX_BATCH_VIEWS = 256

Embed: TypeAlias = Callable[[Any], NDArray[np.floating]]


class Score(Protocol):
    """What all scores have in common."""

    name: str

    def __call__(self, embed: Embed) -> NDArray[np.floating]:
        """Return values of shape (n_views, n_groups), larger is better."""


def score_name(scoring: str | Callable[..., float], default: str) -> str:
    """Return the key of a score in the training history.

    Parameters
    ----------
    scoring : str or callable
        The parameter `scoring` of the learner.
    default : str
        The key if `scoring` is not a callable.

    Returns
    -------
    str
        The key; for a callable its ``__name__``, or "score" if it has none.
    """
    return getattr(scoring, "__name__", "score") if callable(scoring) else default


def as_score_array(value: Any) -> NDArray[np.float64]:
    """Return the value of a scoring callable as an array of one view and one group.

    Parameters
    ----------
    value : float
        The value.

    Returns
    -------
    ndarray of float64, shape (1, 1)
        The value.

    Raises
    ------
    ValueError
        If the value is not a number.
    """
    if np.ndim(value) or not np.issubdtype(np.asarray(value).dtype, np.number):
        raise ValueError(
            "scoring must return one number, larger for a better embedding; it returned "
            f"{type(value).__name__} {value!r:.60}."
        )
    return np.full((1, 1), float(value))


@dataclass
class RetrievalScore:
    """Retrieval of held-out points, class by class.

    Points of unseen classes are retrieved in two views:

    1. among themselves. A network that only spreads unseen classes apart improves this view alone.
    2. among themselves and the training rows. A network that only moves the training classes away
       improves this view alone.

    Held-out rows of known classes have a single view: they are retrieved among the training rows.

    Parameters
    ----------
    queries, gallery : ndarray of shape (n, ...) or torch Dataset
        Held-out points, and training points to search among.
    labels, gallery_labels : ndarray of int, shape (n,)
        Their classes.
    unseen_classes : bool
        Whether the queries are of classes that are not used for training.
    distance : str
        The base distance.
    scoring : str or callable
        The retrieval measure.
    name : str
        The key in the training history.
    """

    queries: Any
    labels: NDArray[np.integer]
    gallery: Any
    gallery_labels: NDArray[np.integer]
    unseen_classes: bool
    distance: str
    scoring: str | Callable[..., float]
    name: str

    def __call__(self, embed: Embed) -> NDArray[np.floating]:
        """Score an embedding: ndarray of shape (n_views, n_classes) or (1, n_rows)."""
        queries, gallery = (
            (embed(self.queries), self.labels),
            (embed(self.gallery), self.gallery_labels),
        )
        if callable(self.scoring):
            reference = () if self.unseen_classes else gallery
            return as_score_array(self.scoring(*queries, *reference))
        measure, options = SCORINGS[self.scoring], {"metric": self.distance, "average": None}
        if not self.unseen_classes:
            # The known classes are no sample of a larger set, but the held-out rows are: the
            # values stay separate for each row.
            values = measure(*queries, *gallery, **options)
            return values[None, ~np.isnan(values)]
        both = [np.concatenate(parts) for parts in zip(queries, gallery, strict=True)]
        among_both = measure(*queries, *both, **options, reference_includes_queries=True)
        return self._class_means([measure(*queries, **options), among_both])

    def _class_means(self, views: list[NDArray[np.floating]]) -> NDArray[np.floating]:
        """Return the mean over the queries of each class, for each view."""
        defined = ~np.isnan(views[0])
        codes = np.unique(self.labels[defined], return_inverse=True)[1]
        return np.array([np.bincount(codes, v[defined]) / np.bincount(codes) for v in views])


class PairScore:
    """Area under the ROC curve of held-out pairs.

    Parameters
    ----------
    points : ndarray of shape (2 * n_pairs, ...)
        The points of the pairs, one pair after the other.
    same : ndarray of int, shape (n_pairs,)
        1 for a same pair, 0 for a different pair.
    distance : str
        The base distance.
    """

    name = "roc_auc"

    def __init__(self, points: Any, same: NDArray[np.integer], distance: str) -> None:
        self.points, self.same, self.distance = points, same, distance

    def __call__(self, embed: Embed) -> NDArray[np.floating]:
        """Score an embedding: ndarray of shape (1, 1)."""
        Z = embed(self.points)
        distance = paired_base_distance(Z[::2], Z[1::2], self.distance)
        return np.array([[roc_auc_score(self.same, -distance)]])


class TripletScore:
    """Share of held-out triplets with the positive nearer to the anchor than the negative.

    Parameters
    ----------
    points : ndarray of shape (3 * n_triplets, ...)
        The points of the triplets, one triplet after the other.
    distance : str
        The base distance.
    """

    name = "in_order"

    def __init__(self, points: Any, distance: str) -> None:
        self.points, self.distance = points, distance

    def __call__(self, embed: Embed) -> NDArray[np.floating]:
        """Score an embedding: ndarray of shape (1, 1)."""
        Z = embed(self.points)
        positive = paired_base_distance(Z[::3], Z[1::3], self.distance)
        negative = paired_base_distance(Z[::3], Z[2::3], self.distance)
        return np.array([[(positive < negative).mean()]])


class RankScore:
    """Rank correlation of distances and graded targets, for each held-out point.

    The training points are ranked in two ways: by their distance from a held-out point, and by the
    difference between their targets and its target. The score is Spearman's correlation of the
    two rankings.

    Parameters
    ----------
    data : ArrayDataset or LabelledDataset
        The training data.
    queries, gallery : ndarray of int
        Held-out rows, and training rows to rank.
    distance : str
        The base distance.
    scoring : str or callable
        A callable replaces the correlation; a name is ignored.
    """

    def __init__(
        self,
        data: ArrayDataset | LabelledDataset,
        queries: NDArray[np.integer],
        gallery: NDArray[np.integer],
        *,
        distance: str,
        scoring: str | Callable[..., float],
    ) -> None:
        self.queries, self.targets = data.points(queries), data.targets[queries]
        self.gallery, self.gallery_targets = data.points(gallery), data.targets[gallery]
        self.distance = distance
        self.scoring = scoring
        self.name = score_name(scoring, "spearman")
        targets = (torch.from_numpy(t) for t in (self.targets, self.gallery_targets))
        self.ranks = centred_ranks(target_distance(*targets).numpy())

    def __call__(self, embed: Embed) -> NDArray[np.floating]:
        """Score an embedding: ndarray of shape (1, n_queries)."""
        Z, gallery = embed(self.queries), embed(self.gallery)
        if callable(self.scoring):
            return as_score_array(self.scoring(Z, self.targets, gallery, self.gallery_targets))
        ranks = centred_ranks(pairwise_base_distance(Z, gallery, self.distance))
        # If all distances, or all differences of targets, are equal, the correlation is set to 0.
        scale = np.linalg.norm(ranks, axis=1) * np.linalg.norm(self.ranks, axis=1)
        return ((ranks * self.ranks).sum(axis=1) / np.where(scale > 0, scale, 1))[None]


def centred_ranks(distance: ArrayLike) -> NDArray[np.float64]:
    """Rank the values of each row, and subtract the mean rank. Ties get their mean rank.

    Parameters
    ----------
    distance : array-like of shape (n, m)
        The values.

    Returns
    -------
    ndarray of float64, shape (n, m)
        The centred ranks.

    Examples
    --------
    >>> from skdml.deep.scores import centred_ranks
    >>> centred_ranks([[0.5, 7.0, 7.0]])
    array([[-1. ,  0.5,  0.5]])
    """
    ranks = rankdata(distance, axis=1)
    return ranks - ranks.mean(axis=1, keepdims=True)


class ViewScore:
    """Reciprocal rank of the second view of a held-out point, searched by its first view.

    The first view of each held-out point searches among the second views of all held-out points,
    and one view of each training point. The reciprocal rank is used instead of the recall at 1,
    because the recall hardly changes where views are very hard or very easy to find.

    Parameters
    ----------
    data : ArrayDataset or LabelledDataset
        The training data.
    queries, gallery : ndarray of int
        Held-out rows, and training rows to search among.
    distance : str
        The base distance.
    scoring : str or callable
        A callable replaces the reciprocal rank; a name is ignored.
    augment : callable
        Makes the views.
    seed : int
        The seed of the views. Every embedding is scored on the same views.
    """

    def __init__(
        self,
        data: ArrayDataset | LabelledDataset,
        queries: NDArray[np.integer],
        gallery: NDArray[np.integer],
        *,
        distance: str,
        scoring: str | Callable[..., float],
        augment: Callable[[Tensor], Tensor],
        seed: int,
    ) -> None:
        self.queries, self.gallery = data.points(queries), data.points(gallery)
        self.labels = np.concatenate([queries, gallery])
        self.distance = distance
        self.scoring = scoring
        self.augment = augment
        self.seed = seed
        self.name = score_name(scoring, "reciprocal_rank")

    def __call__(self, embed: Embed) -> NDArray[np.floating]:
        """Score an embedding: ndarray of shape (1, n_queries)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            views = (self.queries, self.queries, self.gallery)
            first, *others = [self._embed_views(embed, points) for points in views]
        reference, labels = np.concatenate(others), self.labels[: len(first)]
        if callable(self.scoring):
            return as_score_array(self.scoring(first, labels, reference, self.labels))
        values: Any = mean_reciprocal_rank(
            first, labels, reference, self.labels, metric=self.distance, average=None
        )
        return values[None]

    def _embed_views(self, embed: Embed, points: Any) -> NDArray[np.floating]:
        """Embed one augmented view of each point."""
        batches = batches_of_points(points, MAX_BATCH_VIEWS)
        return np.concatenate([embed(augmented_view(b, self.augment).numpy()) for b in batches])


def lower_bound(gains: NDArray[np.floating], confidence: float = 0.9) -> float:
    r"""Lower confidence bound of the mean gain over the groups.

    .. math:: \min_v \bar g_v - t_{n - 1} \, \max_v s_v / \sqrt n

    Here v runs over the views, and n is the number of groups. The bound combines the smallest mean
    and the largest standard deviation of all views. A few groups can agree by chance in one view;
    they rarely agree by chance in every view.

    Parameters
    ----------
    gains : ndarray of shape (n_views, n_groups)
        The gain of each group in each view. The groups are the same in all views.
    confidence : float, default=0.9
        The one-sided confidence level of Student's t, in (0, 1).

    Returns
    -------
    float
        The bound. With a single group it is the smallest gain over the views.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.scores import lower_bound
    >>> round(lower_bound(np.array([[0.2, 0.2, 0.2], [0.1, 0.2, 0.3]])), 2)
    0.09
    """
    n_groups = gains.shape[1]
    bound = gains.mean(axis=1).min()
    if n_groups > 1:
        error = gains.std(axis=1, ddof=1).max() / np.sqrt(n_groups)
        bound -= student_t.ppf(confidence, n_groups - 1) * error
    return float(bound)
