"""The state of a gallery, and the distances between its samples and classes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix
from sklearn.utils import gen_batches

from skdml._calibration import N_CLASSES_OF_TAIL, N_NEAREST, ImpostorDistances
from skdml.distances import paired_base_distance, pairwise_base_distance

# Largest number of distances in memory at a time (128 MiB).
BLOCK_SIZE = 2**24

# About this number of samples would be accepted falsely if as many as are used for the threshold
# were impostors. More samples of the same classes change the threshold little.
_N_ACCEPTED = 50
_MAX_SAMPLES = 20_000


@dataclass(frozen=True, eq=False)
class HeldOutLearner:
    """A learner that was fitted without some classes.

    Attributes
    ----------
    estimator : estimator
        The fitted learner.
    embeddings : ndarray of shape (n_enrolled, n_components)
        The embeddings of the enrolled samples by this learner.
    classes : ndarray
        The labels that the learner was fitted without. They stay if a class is removed.
    """

    estimator: Any
    embeddings: NDArray[Any]
    classes: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Enrolled:
    """The enrolled samples and the learners that embed them.

    Attributes
    ----------
    estimator : estimator
        The fitted learner.
    embeddings, labels : ndarray
        The embeddings and the labels of the enrolled samples.
    trained : ndarray
        The labels that the learner was fitted on. Empty if it was frozen.
    held_out : tuple of HeldOutLearner
        Learners that were fitted without some of the trained classes.
    """

    estimator: Any
    embeddings: NDArray[Any]
    labels: NDArray[Any]
    trained: NDArray[Any]
    held_out: tuple[HeldOutLearner, ...]

    def append(self, X: ArrayLike, labels: NDArray[Any]) -> "Enrolled":
        """Return the samples with new ones; `labels` are the labels of all."""
        Z = _append(self.embeddings, self.estimator.transform(X))
        held_out = tuple(
            replace(one, embeddings=_append(one.embeddings, one.estimator.transform(X)))
            for one in self.held_out
        )
        return Enrolled(self.estimator, Z, labels, self.trained, held_out)

    def select(self, rows: NDArray[np.bool_]) -> "Enrolled":
        """Return some of the samples."""
        held_out = tuple(replace(one, embeddings=one.embeddings[rows]) for one in self.held_out)
        Z, labels = self.embeddings[rows], self.labels[rows]
        return Enrolled(self.estimator, Z, labels, self.trained, held_out)


@dataclass(frozen=True, eq=False)
class GalleryState(Enrolled):
    """All that a prediction needs. A state never changes; enrolment makes a new one.

    Attributes
    ----------
    mode : {"prototype", "knn"}
        What a query is compared with.
    distance : str
        The base distance.
    classes, codes, prototypes : ndarray
        The classes, the class of each sample as an index, and the mean of each class.
    answers : ndarray of shape (n_classes,)
        The classes, in the dtype of predictions.
    unknown : object
        The label of rejected queries.
    threshold, acceptance : float
        The largest accepted distance, and the expected share of accepted genuine queries.
    """

    mode: str
    distance: str
    classes: NDArray[Any]
    codes: NDArray[np.integer]
    prototypes: NDArray[Any]
    answers: NDArray[Any]
    unknown: Any
    threshold: float = np.inf
    acceptance: float = 1.0

    @property
    def points(self) -> NDArray[Any]:
        """The prototypes or the samples that queries are compared with."""
        return self.prototypes if self.mode == "prototype" else self.embeddings

    @property
    def point_codes(self) -> NDArray[np.integer]:
        """The class of each point, as an index."""
        return np.arange(len(self.classes)) if self.mode == "prototype" else self.codes


def _append(Z: NDArray[Any], new: ArrayLike) -> NDArray[Any]:
    return np.concatenate([Z, np.asarray(new)])


def class_means(Z: NDArray[Any], codes: NDArray[np.integer], n_classes: int) -> NDArray[Any]:
    """Return the mean of the rows of each class, shape (n_classes, n_components)."""
    member = csr_matrix((np.ones(len(Z)), (codes, np.arange(len(Z)))), shape=(n_classes, len(Z)))
    counts = np.maximum(np.bincount(codes, minlength=n_classes), 1)
    return ((member @ Z) / counts[:, None]).astype(Z.dtype)


def nearest_of_class(
    Z: NDArray[Any],
    enrolled: NDArray[Any],
    codes: NDArray[np.integer],
    distance: str,
    itself: NDArray[np.integer] | None = None,
) -> NDArray[np.floating]:
    """Return the distance of queries to the nearest sample of each class.

    Parameters
    ----------
    Z : ndarray of shape (n_queries, n_components)
        Embedded queries.
    enrolled : ndarray of shape (n_enrolled, n_components)
        Embedded samples. Every class has at least one.
    codes : ndarray of int, shape (n_enrolled,)
        The class of each sample: 0, 1, ...
    distance : str
        The base distance.
    itself : ndarray of int, shape (n_queries,), default=None
        The index of each query among the enrolled samples, if it is one of them. A query is not
        compared with itself.

    Returns
    -------
    ndarray of shape (n_queries, n_classes)
        Distances; infinity for a class whose only sample is the query.
    """
    order = np.argsort(codes, kind="stable")
    first = np.flatnonzero(np.diff(codes[order], prepend=-1))
    D = pairwise_base_distance(Z, enrolled[order].astype(Z.dtype, copy=False), distance)
    if itself is not None:
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        D[np.arange(len(Z)), place[itself]] = np.inf
    return np.minimum.reduceat(D, first, axis=1)


@dataclass(frozen=True, eq=False)
class _View:
    """Samples and how they are measured: by a learner that was not fitted on their classes."""

    embeddings: NDArray[Any]
    rows: NDArray[np.integer]  # the samples to measure
    hidden: NDArray[np.bool_]  # classes that the samples are not compared with
    scale: float  # what one unit of the learner's distance is in units of the gallery's learner


def gallery_distances(
    state: GalleryState, rate: float
) -> tuple[ImpostorDistances, NDArray[np.floating], NDArray[np.floating]]:
    """Measure enrolled samples as if their classes were unknown, and as genuine queries.

    Parameters
    ----------
    state : GalleryState
        The gallery. Its threshold is not used.
    rate : float
        The false-accept rate. It decides how many samples are measured.

    Returns
    -------
    impostors : ImpostorDistances
        The distances to other classes.
    genuine, weight : ndarray of shape (n_samples,)
        The distance of samples to their own class without themselves, and their weights. The sum
        of the weights is 1.
    """
    rows = _spread_rows(state.codes, min(int(_N_ACCEPTED / rate), _MAX_SAMPLES))
    n_kept = len(state.classes) - 1 if len(state.classes) < N_CLASSES_OF_TAIL else N_NEAREST
    parts = [
        _measure(state, view, block, n_kept)
        for view in _views(state, rows)
        for block in _blocks(view.rows, len(state.labels))
    ]
    query, other, distance, n_others, row, genuine = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    n_samples = np.bincount(state.codes[row], minlength=len(state.classes))
    per_sample = 1 / n_samples[query] / np.count_nonzero(n_samples)
    weight = per_sample * len(state.classes) / n_others
    impostors = ImpostorDistances(query, other, distance, weight)
    finite = np.isfinite(genuine)
    counts = np.bincount(state.codes[row[finite]], minlength=len(state.classes))
    share = 1 / np.maximum(counts, 1)[state.codes[row[finite]]] / max(1, np.count_nonzero(counts))
    return impostors, genuine[finite], share


def _views(state: GalleryState, rows: NDArray[np.integer]) -> Iterator[_View]:
    """Yield the samples of classes that a learner was not fitted on, learner by learner."""
    held_out = [learner.classes for learner in state.held_out]
    measured = np.concatenate(held_out) if held_out else state.trained[:0]
    fresh = rows[~np.isin(state.labels[rows], measured)]
    if len(fresh):
        yield _View(state.embeddings, fresh, np.zeros(len(state.classes), bool), 1.0)
    for learner in state.held_out:
        own = rows[np.isin(state.labels[rows], learner.classes)]
        hidden = np.isin(state.classes, learner.classes)
        if len(own) and not hidden.all():
            # A learner that is fitted on fewer classes may have another unit of distance.
            scale = _typical_distance(state, state.embeddings, ~hidden)
            scale /= _typical_distance(state, learner.embeddings, ~hidden) or 1.0
            yield _View(learner.embeddings, own, hidden, scale)


def _typical_distance(state: GalleryState, Z: NDArray[Any], chosen: NDArray[np.bool_]) -> float:
    """Return the mean distance between the prototypes of successive classes."""
    means = class_means(Z, state.codes, len(state.classes))[chosen].astype(np.float64)
    return float(paired_base_distance(means, np.roll(means, 1, axis=0), state.distance).mean())


def _blocks(rows: NDArray[np.integer], n_points: int) -> Iterator[NDArray[np.integer]]:
    for block in gen_batches(len(rows), max(1, BLOCK_SIZE // max(1, n_points))):
        yield rows[block]


def _measure(
    state: GalleryState, view: _View, rows: NDArray[np.integer], n_kept: int
) -> tuple[NDArray[Any], ...]:
    """Return the columns of `ImpostorDistances`, the number of others, rows, own distances."""
    D, own = _leave_out_distances(state, view.embeddings, rows)
    D, own, codes = view.scale * D, view.scale * own, state.codes[rows]
    D[:, view.hidden] = np.inf
    D[np.arange(len(rows)), codes] = np.inf
    n_others = len(state.classes) - np.maximum(view.hidden.sum(), 1)
    n_kept = min(n_kept, n_others)
    other = np.argpartition(D, n_kept - 1, axis=1)[:, :n_kept]
    distance = np.take_along_axis(D, other, axis=1).ravel()
    query = np.repeat(codes, n_kept)
    return query, other.ravel(), distance, np.full(len(query), n_others), rows, own


def _leave_out_distances(
    state: GalleryState, Z: NDArray[Any], rows: NDArray[np.integer]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return distances of samples to all classes, and to their own class without themselves."""
    codes, n_classes = state.codes[rows], len(state.classes)
    if state.mode == "knn":
        D = nearest_of_class(Z[rows], Z, state.codes, state.distance, rows).astype(np.float64)
        return D, D[np.arange(len(rows)), codes]
    means = class_means(Z, state.codes, n_classes)
    D = pairwise_base_distance(Z[rows], means, state.distance).astype(np.float64)
    n = np.bincount(state.codes, minlength=n_classes)[codes][:, None]
    others = (n * means[codes] - Z[rows]) / np.maximum(n - 1, 1)
    own = paired_base_distance(Z[rows], others.astype(Z.dtype), state.distance)
    return D, np.where(n[:, 0] > 1, own, np.inf)


def _spread_rows(codes: NDArray[np.integer], n_rows: int) -> NDArray[np.integer]:
    """Return about `n_rows` samples, evenly over the classes and over each class."""
    n = np.bincount(codes)
    n_classes = min(len(n), n_rows)
    chosen = np.zeros(len(n), bool)
    chosen[np.linspace(0, len(n) - 1, n_classes).astype(int)] = True
    per_class = max(1, n_rows // n_classes)
    order = np.argsort(codes, kind="stable")
    rank = np.arange(len(codes)) - np.repeat(np.cumsum(n) - n, n)
    size = n[codes[order]]
    return np.sort(order[chosen[codes[order]] & (rank * per_class % size < per_class)])
