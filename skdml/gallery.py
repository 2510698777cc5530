"""GalleryClassifier: enrol classes from a few samples, recognise them, reject who is unknown."""

from numbers import Integral, Real

import numpy as np
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

# A rate is read off so many impostors that pass, on average, in place of all that there are: it
# is then known to within a fifth.
_PASSING = 30

# Distances held at a time: 128 MiB of them.
_BLOCK = 2**24


class GalleryClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Recognise classes that are enrolled from a few samples each, learning nothing anew.

    A gallery holds embedded samples. A query is of the class whose prototype (the mean of its
    samples), or whose samples, are nearest in the learned distance. Classes come and go by
    `partial_fit` and `remove`, and the learner stays as it is, to the byte.

    Parameters
    ----------
    estimator : estimator
        A learner, or any transformer or pipeline of them, which is cloned and fitted by `fit`; or
        one in a :class:`~sklearn.frozen.FrozenEstimator`, which is fitted already and left as it
        is. Distances are those of its `get_metric`, where it has one, else Euclid's.
    mode : {"prototype", "knn"}, default="prototype"
        Compare a query with the mean of each class, or with every sample.
    n_neighbors : int, default=1
        With ``mode="knn"``: how many of the nearest samples vote; the nearer wins a tie.
    reject_far : float, default=None
        In (0, 1): reject queries beyond a distance, set so that at most this share of impostors
        passes. An impostor is a sample of the gallery whose class were not in it. None accepts
        everyone.
    unknown_label : int or str, default=None
        What `predict` says of the rejected; None is -1 among numbers, else "unknown".

    Attributes
    ----------
    estimator_ : estimator
        The fitted learner.
    classes_ : ndarray of shape (n_classes,)
        The labels enrolled, sorted.
    embeddings_ : ndarray of shape (n_enrolled, n_components)
        The enrolled samples, embedded.
    labels_ : ndarray of shape (n_enrolled,)
        Their labels.
    prototypes_ : ndarray of shape (n_classes, n_components)
        The mean of each class.
    threshold_ : float
        The distance beyond which a query is unknown; infinite without `reject_far`.

    See Also
    --------
    skdml.verification.PairVerifier : Is this the same, or not?

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
    >>> known = X[y >= 5], y[y >= 5]
    >>> gallery = gallery.fit(known[0][:50], known[1][:50])  # about ten samples a digit
    >>> bool(gallery.score(known[0][50:], known[1][50:]) > 0.8)
    True
    """

    def __init__(
        self,
        estimator,
        *,
        mode="prototype",
        n_neighbors=1,
        reject_far=None,
        unknown_label=None,
    ):
        self.estimator = estimator
        self.mode = mode
        self.n_neighbors = n_neighbors
        self.reject_far = reject_far
        self.unknown_label = unknown_label

    def fit(self, X, y):
        """Fit the learner, unless it is frozen, and enrol the samples in an empty gallery.

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
            If X and y do not fit together, a parameter is out of range, or there are too few
            samples to speak of a rate like `reject_far`.
        """
        with unchanged_on_error(self):
            y = _check_labels(X, y)
            frozen = isinstance(self.estimator, FrozenEstimator)
            self.estimator_ = self.estimator if frozen else clone(self.estimator).fit(X, y)
            for name in ("n_features_in_", "feature_names_in_"):
                if hasattr(self.estimator_, name):
                    setattr(self, name, getattr(self.estimator_, name))
            return self._enrol(self._embed(X), y)

    def partial_fit(self, X, y, classes=None):
        """Enrol further samples, of classes old or new; the learner is not touched.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.
        y : array-like of shape (n_samples,)
            Their labels.
        classes : object
            Ignored: any class may come at any time.

        Returns
        -------
        self : GalleryClassifier
            The gallery. If there was none, this is `fit`.

        Raises
        ------
        ValueError
            As `fit` does, and if the labels are of another kind than those enrolled.
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, y)
        with unchanged_on_error(self):
            y = _check_labels(X, y)
            if len(self.labels_) and (y.dtype.kind in "biuf") != (
                self.labels_.dtype.kind in "biuf"
            ):
                raise ValueError(
                    f"Labels of dtype {y.dtype} do not go with those enrolled, of "
                    f"{self.labels_.dtype}: give all as numbers or all as strings."
                )
            Z = np.concatenate([self.embeddings_, self._embed(X)])
            return self._enrol(Z, np.concatenate([self.labels_, y]))

    def remove(self, label):
        """Remove a class and its samples.

        Parameters
        ----------
        label : int or str
            The class.

        Returns
        -------
        self : GalleryClassifier
            The gallery.

        Raises
        ------
        ValueError
            If it is not enrolled.
        """
        check_is_fitted(self)
        if label not in self.classes_.tolist():
            raise ValueError(
                f"{label!r} is not enrolled, so it cannot be removed; there are "
                f"{len(self.classes_)} classes: {self.classes_[:5].tolist()} ..."
            )
        kept = self.labels_ != label
        with unchanged_on_error(self):
            return self._enrol(self.embeddings_[kept], self.labels_[kept])

    def _enrol(self, Z, y):
        """Make these the gallery."""
        self._check_params(y)
        self.embeddings_, self.labels_ = Z, y
        self.classes_, self._codes = np.unique(y, return_inverse=True)
        self.prototypes_ = _means(Z, self._codes, len(self.classes_))
        self.threshold_ = np.inf
        if self.reject_far is not None:
            self.threshold_ = self._choose_threshold()
        return self

    def _check_params(self, y):
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

    def _choose_threshold(self):
        """Distance that at most a share `reject_far` of the impostors keeps below."""
        n_samples = len(self.labels_)
        n_chosen = min(n_samples, int(_PASSING / self.reject_far))
        chosen = np.linspace(0, n_samples - 1, n_chosen).astype(int)  # evenly over the gallery
        needed = int(np.ceil(1 / self.reject_far))
        if len(chosen) < needed or len(self.classes_) < 2:
            raise ValueError(
                f"reject_far={self.reject_far} cannot be told from {len(chosen)} samples of "
                f"{len(self.classes_)} classes: at least 1 / {self.reject_far} = {needed} samples "
                "and two classes are needed."
            )
        nearest = np.sort(self._impostor_distances(chosen))
        # Halfway below the first impostor that would be one too many.
        first = int(np.floor(self.reject_far * len(nearest)))
        below = nearest[first - 1] if first else 0.0
        return float(below + (nearest[first] - below) / 2)

    def _impostor_distances(self, rows):
        """Distance of samples to what is nearest in the gallery without their class."""
        points, codes = self._points()
        nearest = []
        for block in gen_batches(len(rows), max(1, _BLOCK // len(points))):
            of = rows[block]
            D = pairwise_distances(
                euclidean_form(self.embeddings_[of], self._metric),
                points,
                metric=_rank_by(self._metric),
            )
            D[self._codes[of][:, None] == codes] = np.inf
            nearest.append(D.argmin(axis=1))
        nearest = np.concatenate(nearest)
        held = self.prototypes_ if self.mode == "prototype" else self.embeddings_
        return paired_base_distance(self.embeddings_[rows], held[nearest], self._metric)

    def kneighbors(self, X, n_neighbors=None, return_distance=True):
        """Find what is nearest in the gallery: prototypes, or samples with ``mode="knn"``.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.
        n_neighbors : int, default=None
            How many; None is the parameter of that name.
        return_distance : bool, default=True
            Whether to return the distances, too.

        Returns
        -------
        distance : ndarray of shape (n_samples, n_neighbors)
            Learned distances, increasing.
        neighbors : ndarray of int, shape (n_samples, n_neighbors)
            Places in `classes_`, or in `labels_` with ``mode="knn"``.

        Raises
        ------
        ValueError
            If the gallery is empty, or holds fewer.
        """
        check_is_fitted(self)
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        check_scalar(k, "n_neighbors", Integral, min_val=1)
        distance, neighbors = self._nearest(self._embed(X), k)
        return (distance, neighbors) if return_distance else neighbors

    def predict(self, X):
        """Recognise samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,)
            The label of each, or that of the unknown.
        """
        check_is_fitted(self)
        k = 1 if self.mode == "prototype" else min(self.n_neighbors, max(1, len(self.labels_)))
        distance, neighbors = self._nearest(self._embed(X), k)
        codes = self._points()[1][neighbors]
        votes = (codes[:, :, None] == codes[:, None, :]).sum(axis=2)
        # The first of the greatest: the nearer wins a tie.
        label = self.classes_[codes[np.arange(len(codes)), votes.argmax(axis=1)]]
        unknown = distance[:, 0] > self.threshold_
        if not unknown.any():
            return label
        number = self.classes_.dtype.kind in "biuf"
        name = self.unknown_label
        name = (-1 if number else "unknown") if name is None else name
        return np.where(unknown, name, label if number else label.astype(object))

    def predict_proba(self, X):
        """Probability of each class, were every query of one of them.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `classes_`: softmax of minus the square distance to the prototypes
            (Snell 2017, equation 2), or the share of the votes.
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

    def decision_function(self, X):
        """Minus the square distance to each class, its prototype or its nearest sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Scores, <= 0, in the order of `classes_`. With two classes, of shape (n_samples,): what
            the second has more than the first.
        """
        check_is_fitted(self)
        score = self._scores(self._embed(X))
        return score[:, 1] - score[:, 0] if score.shape[1] == 2 else score

    def _scores(self, Z):
        return -(self._class_distances(Z).astype(np.float64) ** 2)

    def _class_distances(self, Z):
        """Distance of embedded queries to each class, shape (n_queries, n_classes)."""
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
            for rows in gen_batches(len(Z), max(1, _BLOCK // len(order)))
        ]
        return np.concatenate(blocks)

    def _nearest(self, Z, k):
        """Find the k nearest of the gallery, and their distances."""
        self._check_not_empty(k)
        points, _ = self._points()
        search = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=_rank_by(self._metric))
        neighbors = search.fit(points).kneighbors(
            euclidean_form(Z, self._metric), return_distance=False
        )
        held = self.prototypes_ if self.mode == "prototype" else self.embeddings_
        distance = paired_base_distance(
            np.repeat(Z, k, axis=0), held[neighbors.ravel()].astype(Z.dtype), self._metric
        )
        return distance.reshape(neighbors.shape), neighbors

    def _points(self):
        """Return what queries are compared with, for Euclid to rank, and its classes."""
        if self.mode == "prototype":
            return euclidean_form(self.prototypes_, self._metric), np.arange(len(self.classes_))
        return euclidean_form(self.embeddings_, self._metric), self._codes

    def _check_not_empty(self, k):
        n_points = len(self.classes_ if self.mode == "prototype" else self.labels_)
        if n_points == 0:
            raise ValueError("The gallery is empty: enrol samples by partial_fit first.")
        if k > n_points:
            what = "classes" if self.mode == "prototype" else "samples"
            raise ValueError(f"n_neighbors={k} is more than the {n_points} {what} in the gallery.")

    def _embed(self, X):
        return np.asarray(self.estimator_.transform(X))

    @property
    def _metric(self):
        return base_distance_of(self.estimator_)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "embeddings_")


def _check_labels(X, y):
    if y is None:
        raise ValueError("GalleryClassifier requires y to be passed, but the target y is None.")
    y = column_or_1d(y, warn=True)
    check_consistent_length(X, y)
    check_classification_targets(y)
    return y


def _means(Z, codes, n_classes):
    """Mean of the rows of each class."""
    member = csr_matrix((np.ones(len(Z)), (codes, np.arange(len(Z)))), shape=(n_classes, len(Z)))
    counts = np.maximum(np.bincount(codes, minlength=n_classes), 1)
    return ((member @ Z) / counts[:, None]).astype(Z.dtype)


def _rank_by(metric):
    return "manhattan" if metric == "manhattan" else "euclidean"
