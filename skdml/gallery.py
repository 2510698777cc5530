"""GalleryClassifier: enrol classes from a few samples, recognise them, reject unknown classes."""

from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_consistent_length, check_scalar, column_or_1d, gen_batches
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from skdml.base import unchanged_on_error
from skdml.distances import (
    base_distance_of,
    euclidean_form,
    paired_base_distance,
    pairwise_base_distance,
)

MODES = ("prototype", "knn")

# The threshold is chosen on a subset of the gallery in which about this number of impostors is
# accepted. The standard error of the rate is then about a fifth of the rate.
_N_ACCEPTED = 30

# Largest number of distances in memory at a time (128 MiB).
_BLOCK_SIZE = 2**24


class GalleryClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Recognise classes that are enrolled from a few samples each, without further training.

    A gallery contains embedded samples. A query is assigned to the class with the nearest prototype
    (the mean of its samples), or with the nearest samples, by the learned distance. `partial_fit`
    adds samples of old or new classes and `remove` removes a class. Neither changes the learner.

    Parameters
    ----------
    estimator : estimator
        A learner, another transformer, or a pipeline of them. `fit` clones and fits it. To use a
        fitted one unchanged, wrap it in a :class:`~sklearn.frozen.FrozenEstimator`. The distance is
        the one of its `get_metric`; if it has no such method, the Euclidean distance.
    mode : {"prototype", "knn"}, default="prototype"
        What a query is compared with: the prototype of each class, or every enrolled sample.
    n_neighbors : int, default=1
        Number of nearest samples that vote, if ``mode="knn"``. In a tie, the class of the nearest
        sample wins.
    reject_far : float, default=None
        False-accept rate, in (0, 1). If given, `fit` sets a threshold on the distance so that at
        most this share of impostors is accepted, and `predict` rejects queries beyond it. Each
        sample is compared with all other classes; its nearest distance is an impostor distance.
        None accepts every query.
    unknown_label : int or str, default=None
        What `predict` returns for rejected queries. None is -1 if labels are numbers, and "unknown"
        otherwise.

    Attributes
    ----------
    estimator_ : estimator
        The fitted learner.
    classes_ : ndarray of shape (n_classes,)
        The enrolled classes, sorted.
    embeddings_ : ndarray of shape (n_enrolled, n_components)
        The embeddings of the enrolled samples.
    labels_ : ndarray of shape (n_enrolled,)
        The labels of the enrolled samples.
    prototypes_ : ndarray of shape (n_classes, n_components)
        The mean of the embeddings of each class.
    threshold_ : float
        The largest accepted distance. Infinity if `reject_far` is None.

    See Also
    --------
    skdml.verification.PairVerifier : Decide whether two points are of the same class.

    References
    ----------
    J. Snell, K. Swersky, R. Zemel, "Prototypical Networks for Few-shot Learning", NIPS 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.frozen import FrozenEstimator
    >>> from skdml import MahalanobisMetric
    >>> from skdml.gallery import GalleryClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> metric = MahalanobisMetric("oas", within_class=True).fit(X[y < 5], y[y < 5])
    >>> gallery = GalleryClassifier(FrozenEstimator(metric))
    >>> X_new, y_new = X[y >= 5], y[y >= 5]  # classes that are unseen in training
    >>> gallery = gallery.fit(X_new[:50], y_new[:50])  # about ten samples of each class
    >>> bool(gallery.score(X_new[50:], y_new[50:]) > 0.8)
    True
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        *,
        mode: str = "prototype",
        n_neighbors: int = 1,
        reject_far: float | None = None,
        unknown_label: int | str | None = None,
    ) -> None:
        self.estimator = estimator
        self.mode = mode
        self.n_neighbors = n_neighbors
        self.reject_far = reject_far
        self.unknown_label = unknown_label

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the learner, unless it is frozen, and enrol the samples in a new gallery.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.
        y : array-like of shape (n_samples,)
            Their labels.

        Returns
        -------
        self : GalleryClassifier
            The gallery.

        Raises
        ------
        ValueError
            If X and y are invalid or differ in length, if a parameter is out of range, or if there
            are too few samples for the rate `reject_far`: fewer than 1 / `reject_far`.
        """
        with unchanged_on_error(self):
            labels = _check_labels(X, y)
            frozen = isinstance(self.estimator, FrozenEstimator)
            self.estimator_ = self.estimator if frozen else clone(self.estimator).fit(X, labels)
            for name in ("n_features_in_", "feature_names_in_"):
                if hasattr(self.estimator_, name):
                    setattr(self, name, getattr(self.estimator_, name))
            return self._enrol(self._embed(X), labels)

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: object = None) -> Self:
        """Enrol more samples, of enrolled or of new classes. The learner does not change.

        The first call is the same as `fit`.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.
        y : array-like of shape (n_samples,)
            Their labels.
        classes : object
            Ignored. New classes need no announcement.

        Returns
        -------
        self : GalleryClassifier
            The gallery.

        Raises
        ------
        ValueError
            In the cases of `fit`, and if enrolled labels are numbers and new ones are strings, or
            the reverse.
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, y)
        with unchanged_on_error(self):
            labels = _check_labels(X, y)
            if len(self.labels_) and _is_numeric(labels) != _is_numeric(self.labels_):
                raise ValueError(
                    f"Labels of dtype {labels.dtype} cannot be mixed with the enrolled labels of "
                    f"dtype {self.labels_.dtype}. Give all labels as numbers or all as strings."
                )
            Z = np.concatenate([self.embeddings_, self._embed(X)])
            return self._enrol(Z, np.concatenate([self.labels_, labels]))

    def remove(self, label: Any) -> Self:
        """Remove a class and its samples.

        Parameters
        ----------
        label : int or str
            The label of the class.

        Returns
        -------
        self : GalleryClassifier
            The gallery.

        Raises
        ------
        ValueError
            If the class is not enrolled.
        """
        check_is_fitted(self)
        if label not in self.classes_.tolist():
            raise ValueError(
                f"label={label!r} is not enrolled. There are {len(self.classes_)} enrolled "
                f"classes: {self.classes_[:5].tolist()} ..."
            )
        kept = self.labels_ != label
        with unchanged_on_error(self):
            return self._enrol(self.embeddings_[kept], self.labels_[kept])

    def _enrol(self, Z: NDArray[Any], y: NDArray[Any]) -> Self:
        """Make these embeddings and labels the gallery, and set the threshold."""
        self._check_params(y)
        self.embeddings_, self.labels_ = Z, y
        self.classes_, self._codes = np.unique(y, return_inverse=True)
        self.prototypes_ = _means(Z, self._codes, len(self.classes_))
        self.threshold_ = np.inf
        if self.reject_far is not None:
            self.threshold_ = self._choose_threshold(self.reject_far)
        return self

    def _check_params(self, y: NDArray[Any]) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r} is unknown; choose one of {list(MODES)}.")
        check_scalar(self.n_neighbors, "n_neighbors", Integral, min_val=1)
        if self.reject_far is not None:
            limits = {"min_val": 0, "max_val": 1, "include_boundaries": "neither"}
            check_scalar(self.reject_far, "reject_far", Real, **limits)
        if self.unknown_label is not None and self.unknown_label in y.tolist():
            raise ValueError(
                f"unknown_label={self.unknown_label!r} is a class in y; choose another."
            )

    def _choose_threshold(self, rate: float) -> float:
        """Return a distance with at most a share `rate` of the impostor distances below it."""
        n_samples = len(self.labels_)
        n_chosen = min(n_samples, int(_N_ACCEPTED / rate))
        chosen = np.linspace(0, n_samples - 1, n_chosen).astype(int)  # evenly over the gallery
        needed = int(np.ceil(1 / rate))
        if len(chosen) < needed or len(self.classes_) < 2:
            raise ValueError(
                f"reject_far={rate} cannot be estimated from {len(chosen)} samples of "
                f"{len(self.classes_)} classes: at least 1 / {rate} = {needed} samples "
                "and two classes are needed. Enrol more samples or take a larger rate."
            )
        nearest = np.sort(self._impostor_distances(chosen))
        # The middle between the last accepted impostor distance and the first rejected one.
        first = int(np.floor(rate * len(nearest)))
        below = nearest[first - 1] if first else 0.0
        return float(below + (nearest[first] - below) / 2)

    def _impostor_distances(self, rows: NDArray[np.integer]) -> NDArray[np.floating]:
        """Return the distance of enrolled samples to the nearest other class."""
        points, codes = self._searched_points()
        blocks = []
        for block in gen_batches(len(rows), max(1, _BLOCK_SIZE // len(points))):
            samples = rows[block]
            D = pairwise_distances(
                euclidean_form(self.embeddings_[samples], self._metric),
                points,
                metric=_search_metric(self._metric),
            )
            D[self._codes[samples][:, None] == codes] = np.inf
            blocks.append(D.argmin(axis=1))
        nearest = np.concatenate(blocks)
        enrolled = self.prototypes_ if self.mode == "prototype" else self.embeddings_
        return paired_base_distance(self.embeddings_[rows], enrolled[nearest], self._metric)

    def kneighbors(
        self, X: ArrayLike, n_neighbors: int | None = None, return_distance: bool = True
    ) -> Any:
        """Find the nearest prototypes, or the nearest enrolled samples if ``mode="knn"``.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.
        n_neighbors : int, default=None
            Number of neighbours. None uses the parameter `n_neighbors` of the estimator.
        return_distance : bool, default=True
            Whether to return the distances too.

        Returns
        -------
        distance : ndarray of shape (n_samples, n_neighbors)
            Learned distances, in increasing order. Only if `return_distance` is True.
        neighbors : ndarray of int, shape (n_samples, n_neighbors)
            Indices into `classes_`, or into `labels_` if ``mode="knn"``.

        Raises
        ------
        ValueError
            If the gallery is empty or has fewer than `n_neighbors` classes (or samples).
        """
        check_is_fitted(self)
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        check_scalar(k, "n_neighbors", Integral, min_val=1)
        distance, neighbors = self._nearest(self._embed(X), k)
        return (distance, neighbors) if return_distance else neighbors

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict the class of samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,)
            The predicted labels, with `unknown_label` for rejected samples.
        """
        check_is_fitted(self)
        k = 1 if self.mode == "prototype" else min(self.n_neighbors, max(1, len(self.labels_)))
        distance, neighbors = self._nearest(self._embed(X), k)
        codes = self._searched_points()[1][neighbors]
        votes = (codes[:, :, None] == codes[:, None, :]).sum(axis=2)
        # `argmax` returns the first maximum, so the nearest neighbour wins a tie.
        label = self.classes_[codes[np.arange(len(codes)), votes.argmax(axis=1)]]
        unknown = distance[:, 0] > self.threshold_
        if not unknown.any():
            return label
        numeric = _is_numeric(self.classes_)
        name = self.unknown_label
        name = (-1 if numeric else "unknown") if name is None else name
        return np.where(unknown, name, label if numeric else label.astype(object))

    def predict_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Class probabilities, assuming that every query belongs to an enrolled class.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities in the order of `classes_`. With prototypes, the softmax of the negative
            squared distances (Snell 2017, equation 2). With ``mode="knn"``, the shares of the
            votes.
        """
        check_is_fitted(self)
        Z = self._embed(X)
        if self.mode == "prototype":
            return softmax(self._scores(Z), axis=1)
        neighbors = self._nearest(Z, min(self.n_neighbors, max(1, len(self.labels_))))[1]
        n_samples, k = neighbors.shape
        votes = np.zeros((n_samples, len(self.classes_)))
        np.add.at(votes, (np.arange(n_samples)[:, None], self._codes[neighbors]), 1 / k)
        return votes

    def decision_function(self, X: ArrayLike) -> NDArray[np.floating]:
        """Negative squared distance to each class: to its prototype, or to its nearest sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Scores, <= 0, in the order of `classes_`. With two classes the shape is (n_samples,):
            the score of the second class minus the score of the first.
        """
        check_is_fitted(self)
        score = self._scores(self._embed(X))
        return score[:, 1] - score[:, 0] if score.shape[1] == 2 else score

    def _scores(self, Z: NDArray[Any]) -> NDArray[np.floating]:
        return -(self._class_distances(Z).astype(np.float64) ** 2)

    def _class_distances(self, Z: NDArray[Any]) -> NDArray[np.floating]:
        """Return the distance of embedded queries to each class, (n_queries, n_classes)."""
        self._check_not_empty(1)
        if self.mode == "prototype":
            return pairwise_base_distance(Z, self.prototypes_, self._metric)
        order = np.argsort(self._codes, kind="stable")
        first = np.searchsorted(self._codes[order], np.arange(len(self.classes_)))
        blocks = [
            np.minimum.reduceat(
                pairwise_base_distance(Z[rows], self.embeddings_[order], self._metric),
                first,
                axis=1,
            )
            for rows in gen_batches(len(Z), max(1, _BLOCK_SIZE // len(order)))
        ]
        return np.concatenate(blocks)

    def _nearest(self, Z: NDArray[Any], k: int) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
        """Return the distances and the indices of the k nearest enrolled points."""
        self._check_not_empty(k)
        points, _ = self._searched_points()
        metric = _search_metric(self._metric)
        search = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric)
        neighbors = search.fit(points).kneighbors(
            euclidean_form(Z, self._metric), return_distance=False
        )
        enrolled = self.prototypes_ if self.mode == "prototype" else self.embeddings_
        distance = paired_base_distance(
            np.repeat(Z, k, axis=0), enrolled[neighbors.ravel()].astype(Z.dtype), self._metric
        )
        return distance.reshape(neighbors.shape), neighbors

    def _searched_points(self) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
        """Return the prototypes or samples in the form that is searched, and their classes."""
        if self.mode == "prototype":
            return euclidean_form(self.prototypes_, self._metric), np.arange(len(self.classes_))
        return euclidean_form(self.embeddings_, self._metric), self._codes

    def _check_not_empty(self, k: int) -> None:
        n_points = len(self.classes_ if self.mode == "prototype" else self.labels_)
        if n_points == 0:
            raise ValueError("The gallery is empty. Enrol samples with partial_fit first.")
        if k > n_points:
            kind = "classes" if self.mode == "prototype" else "samples"
            raise ValueError(f"n_neighbors={k} is more than the {n_points} {kind} in the gallery.")

    def _embed(self, X: ArrayLike) -> NDArray[Any]:
        return np.asarray(self.estimator_.transform(X))

    @property
    def _metric(self) -> str:
        return base_distance_of(self.estimator_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "embeddings_")


def _check_labels(X: ArrayLike, y: ArrayLike | None) -> NDArray[Any]:
    if y is None:
        raise ValueError("GalleryClassifier requires y to be passed, but the target y is None.")
    labels: NDArray[Any] = column_or_1d(y, warn=True)
    check_consistent_length(X, labels)
    check_classification_targets(labels)
    return labels


def _is_numeric(labels: NDArray[Any]) -> bool:
    return labels.dtype.kind in "biuf"


def _means(Z: NDArray[Any], codes: NDArray[np.integer], n_classes: int) -> NDArray[Any]:
    """Return the mean of the rows of each class."""
    member = csr_matrix((np.ones(len(Z)), (codes, np.arange(len(Z)))), shape=(n_classes, len(Z)))
    counts = np.maximum(np.bincount(codes, minlength=n_classes), 1)
    return ((member @ Z) / counts[:, None]).astype(Z.dtype)


def _search_metric(distance: str) -> str:
    """Return the metric that searches points in Euclidean form."""
    return "manhattan" if distance == "manhattan" else "euclidean"
