"""GalleryClassifier: enrol classes from a few samples, recognise them, reject unknown classes."""

import threading
import warnings
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_consistent_length, check_scalar, gen_batches, get_tags
from sklearn.utils.metadata_routing import UNUSED, MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import check_is_fitted

from skdml._calibration import accepting_threshold
from skdml._enrolment import (
    BLOCK_SIZE,
    Enrolled,
    GalleryState,
    HeldOutLearner,
    class_means,
    gallery_distances,
    nearest_of_class,
)
from skdml._gallery_labels import check_gallery_labels, join_labels, unknown_answer
from skdml.distances import (
    base_distance_of,
    euclidean_form,
    paired_base_distance,
    pairwise_base_distance,
)
from skdml.model_selection import ClassDisjointKFold

MODES = ("prototype", "knn")

# If the gallery has fewer than this number divided by the rate of classes, the rate is extrapolated
# far beyond the observed distances.
_N_CLASSES_AT_RATE = 2.5

# Locks of the galleries, one for each. They are not attributes, so that a gallery can be pickled.
_LOCKS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()


class GalleryClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Recognise classes that are enrolled from a few samples each, without further training.

    A gallery contains embedded samples. A query is assigned to the class with the nearest prototype
    (the mean of its samples), or with the nearest samples, by the learned distance. `partial_fit`
    adds samples of old or new classes and `remove` removes a class. Neither changes the learner.

    **Unknown classes.** `reject_far` is the share of the samples of unseen classes that may be
    accepted. Each enrolled class is held out in turn and compared with the others; the threshold is
    an upper confidence bound over classes, not over samples. It is valid for unseen classes from
    the distribution of the enrolled ones. If `fit` fits the learner, the learner is fitted `cv`
    more times, each time without some of the classes: distances among classes that a learner was
    fitted on are larger than those of unseen classes. A frozen learner is not fitted again; it
    must have been fitted on other classes.

    **Few classes.** With fewer than 2.5 / `reject_far` classes (50 for a rate of 0.05), the rate is
    extrapolated, and a warning says so. The threshold then errs on the safe side and may reject
    many genuine queries. `genuine_acceptance_` says how many to expect.

    **Threads.** Any number of threads may predict while others enrol or remove. Each prediction
    uses one state of the gallery as a whole: the one before or the one after a change. Threads that
    change the gallery take turns, and no change is lost. Two attributes that are read one after the
    other may belong to different states; ``copy.copy(gallery)`` gives a gallery whose state stays.
    This is promised within one process, if `transform` of the learner may be called from several
    threads.

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
        False-accept rate, in (0, 1): the largest share of the samples of unseen classes that
        `predict` accepts. `predict` rejects queries beyond `threshold_`. None accepts every query.
    unknown_label : int or str, default=None
        What `predict` returns for rejected queries. It must not be an enrolled class. None is -1 if
        labels are numbers or booleans, and "unknown" if they are strings.
    confidence : float, default=0.95
        Probability that the false-accept rate of a gallery is at most `reject_far`, in (0, 1). A
        smaller value accepts more genuine queries.
    cv : int, default=5
        Number of folds of classes, at least 2. For each fold, the learner is fitted without the
        classes of the fold. At most the number of classes is used. Not used with a frozen learner,
        or without `reject_far`.

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
        The largest accepted distance. Infinity if `reject_far` is None. Negative if no query can be
        accepted at the rate.
    genuine_acceptance_ : float
        The expected share of genuine queries that are accepted: the share of the enrolled samples,
        averaged over classes, whose distance to their own class without them is at most
        `threshold_`. With a learner that `fit` fitted, held-out classes are measured, so the value
        is cautious. 1 if `reject_far` is None, NaN if every class has one sample.

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

    # The gallery passes groups on and does not use them itself.
    __metadata_request__fit: ClassVar = {"groups": UNUSED}
    __metadata_request__partial_fit: ClassVar = {"groups": UNUSED}

    def __init__(
        self,
        estimator: BaseEstimator,
        *,
        mode: str = "prototype",
        n_neighbors: int = 1,
        reject_far: float | None = None,
        unknown_label: int | str | None = None,
        confidence: float = 0.95,
        cv: int = 5,
    ) -> None:
        self.estimator = estimator
        self.mode = mode
        self.n_neighbors = n_neighbors
        self.reject_far = reject_far
        self.unknown_label = unknown_label
        self.confidence = confidence
        self.cv = cv

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit the learner, unless it is frozen, and enrol the samples in a new gallery.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples.
        y : array-like of shape (n_samples,)
            Their labels.
        groups : array-like of shape (n_samples,), default=None
            Passed to the `fit` of the learner. If metadata routing is enabled, the learner has to
            request it, with ``set_fit_request(groups=True)``. Not used with a frozen learner.

        Returns
        -------
        self : GalleryClassifier
            The gallery.

        Raises
        ------
        ValueError
            If X and y are invalid or differ in length, if a parameter is out of range, if a label
            is the one of rejected queries, or if `reject_far` is given and there is only one class.
        """
        with self._writing():
            labels = check_gallery_labels(X, y)
            self._check_params()
            if groups is not None:
                check_consistent_length(X, groups)
            # Refuse bad labels before the learner is fitted, which may take long.
            unknown_answer(np.unique(labels), self.unknown_label, self.reject_far is not None)
            enrolled = self._fit_learners(X, labels, groups)
            self._state = self._enrol(enrolled, last=None)
        return self

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: object = None,
        groups: ArrayLike | None = None,
    ) -> Self:
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
        groups : array-like of shape (n_samples,), default=None
            Passed to `fit` in the first call, and ignored later.

        Returns
        -------
        self : GalleryClassifier
            The gallery.

        Raises
        ------
        ValueError
            In the cases of `fit`, and if the new labels cannot be mixed with the enrolled ones:
            numbers, strings and booleans, or integers that no common dtype can hold.
        """
        with self._writing():
            state = self._current()
            if state is None:
                return self.fit(X, y, groups)
            labels = check_gallery_labels(X, y)
            self._check_params()
            joined = join_labels(state.labels, labels)
            unknown_answer(np.unique(joined), self.unknown_label, self.reject_far is not None)
            self._state = self._enrol(state.append(X, joined), last=state)
        return self

    def remove(self, label: Any) -> Self:
        """Remove a class and its samples.

        Every enrolled class can be removed. If fewer than two are left, no distance between classes
        can be measured: the last threshold stays, and a warning says so.

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
        with self._writing():
            check_is_fitted(self)
            state = self._state
            if label not in state.classes.tolist():
                raise ValueError(
                    f"label={label!r} is not enrolled. There are {len(state.classes)} enrolled "
                    f"classes: {state.classes[:5].tolist()} ..."
                )
            self._state = self._enrol(state.select(state.labels != label), last=state)
        return self

    def get_metadata_routing(self) -> MetadataRouter:
        """Return the routing of metadata: `fit` passes it to the learner's `fit`.

        Returns
        -------
        MetadataRouter
            The routing, as in scikit-learn's user guide.
        """
        mapping = MethodMapping().add(caller="fit", callee="fit")
        mapping = mapping.add(caller="partial_fit", callee="fit")
        router = MetadataRouter(owner=type(self).__name__)
        router = router.add_self_request(self)
        return router.add(estimator=self.estimator, method_mapping=mapping)

    def _fit_learners(
        self, X: ArrayLike, labels: NDArray[Any], groups: ArrayLike | None
    ) -> Enrolled:
        """Fit the learner, and again without some of the classes if a threshold needs it."""
        if isinstance(self.estimator, FrozenEstimator):
            Z = np.asarray(self.estimator.transform(X))
            return Enrolled(self.estimator, Z, labels, labels[:0], ())
        params = self._fit_params(groups)
        learner = clone(self.estimator).fit(X, labels, **params)
        Z = np.asarray(learner.transform(X))
        if not get_tags(learner).requires_fit:  # such as a FunctionTransformer
            return Enrolled(learner, Z, labels, labels[:0], ())
        held_out = self._held_out_learners(X, labels, params)
        return Enrolled(learner, Z, labels, np.unique(labels), held_out)

    def _fit_params(self, groups: ArrayLike | None) -> dict[str, NDArray[Any]]:
        """Return what the learner's `fit` gets."""
        if groups is None:
            return {}
        params = {"groups": np.asarray(groups)}
        if not get_config()["enable_metadata_routing"]:
            return params
        return dict(process_routing(self, "fit", **params).estimator.fit)

    def _held_out_learners(
        self, X: ArrayLike, labels: NDArray[Any], params: dict[str, NDArray[Any]]
    ) -> tuple[HeldOutLearner, ...]:
        """Fit the learner without the classes of each fold.

        Among classes that a learner was fitted on, distances are larger than those of unseen
        classes. Held-out classes show how near unseen classes come.
        """
        n_classes = len(np.unique(labels))
        if self.reject_far is None or n_classes < 3:
            return ()
        learners = []
        for train, test in ClassDisjointKFold(min(self.cv, n_classes)).split(labels, labels):
            kept = {name: value[train] for name, value in params.items()}
            try:
                learner = clone(self.estimator).fit(_take_rows(X, train), labels[train], **kept)
            except ValueError as error:
                raise ValueError(
                    f"reject_far={self.reject_far} needs a learner that is fitted without some of "
                    f"the classes, and without {np.unique(labels[test])[:5].tolist()} this fails: "
                    f"{error} Give samples of more classes, or fit the learner on other data and "
                    "wrap it in sklearn.frozen.FrozenEstimator."
                ) from error
            Z = np.asarray(learner.transform(X))
            learners.append(HeldOutLearner(learner, Z, np.unique(labels[test])))
        return tuple(learners)

    def _check_params(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r} is unknown; choose one of {list(MODES)}.")
        check_scalar(self.n_neighbors, "n_neighbors", Integral, min_val=1)
        check_scalar(self.cv, "cv", Integral, min_val=2)
        limits = {"min_val": 0, "max_val": 1, "include_boundaries": "neither"}
        check_scalar(self.confidence, "confidence", Real, **limits)
        if self.reject_far is not None:
            check_scalar(self.reject_far, "reject_far", Real, **limits)

    def _enrol(self, enrolled: Enrolled, last: GalleryState | None) -> GalleryState:
        """Return the gallery of these samples. `last` is the gallery that it continues."""
        classes, codes = np.unique(enrolled.labels, return_inverse=True)
        rejects = self.reject_far is not None
        answers, unknown = unknown_answer(classes, self.unknown_label, rejects)
        state = GalleryState(
            **vars(enrolled),
            mode=self.mode,
            distance=base_distance_of(enrolled.estimator),
            classes=classes,
            codes=codes,
            prototypes=class_means(enrolled.embeddings, codes, len(classes)),
            answers=answers,
            unknown=unknown,
        )
        if self.reject_far is None:
            return state
        if len(classes) < 2:
            return self._with_last_threshold(state, last)
        return self._with_threshold(state, self.reject_far)

    def _with_threshold(self, state: GalleryState, rate: float) -> GalleryState:
        """Choose the threshold of a new state, and warn where it is uncertain."""
        n_classes = len(state.classes)
        impostors, genuine, weight = gallery_distances(state, rate)
        # Squared distances are measured by their roots, which are distances.
        power = 2 if state.distance in ("sqeuclidean", "cosine") else 1
        roots = impostors._replace(distance=impostors.distance ** (1 / power))
        root = accepting_threshold(roots, n_classes, rate, self.confidence)
        threshold = root**power if root > 0 else root
        acceptance = float(weight[genuine <= threshold].sum()) if len(genuine) else np.nan
        if n_classes < round(_N_CLASSES_AT_RATE / rate):
            warnings.warn(
                f"reject_far={rate} is extrapolated from {n_classes} classes; about "
                f"{round(_N_CLASSES_AT_RATE / rate)} are needed to observe it. The threshold errs "
                f"on the safe side: about {acceptance:.0%} of the genuine queries will be accepted."
                " Enrol more classes, or take a larger rate or a smaller confidence.",
                stacklevel=4,
            )
        if len(state.trained) and not state.held_out:
            warnings.warn(
                f"The learner was fitted on all {n_classes} classes of the gallery, which are too "
                "few to hold some out. The false-accept rate may be above "
                f"reject_far={rate}. Fit the learner on other classes and wrap it in "
                "sklearn.frozen.FrozenEstimator.",
                stacklevel=4,
            )
        return replace(state, threshold=threshold, acceptance=acceptance)

    def _with_last_threshold(self, state: GalleryState, last: GalleryState | None) -> GalleryState:
        """Keep the threshold of the previous state: no distance between classes can be measured."""
        if last is None or not np.isfinite(last.threshold):
            raise ValueError(
                f"reject_far={self.reject_far} needs at least two classes, but y holds "
                f"{len(state.classes)}. Give samples of two classes in the first call."
            )
        warnings.warn(
            f"{len(state.classes)} enrolled classes cannot determine the threshold of "
            f"reject_far={self.reject_far}. The last threshold, {last.threshold:.4g}, stays until "
            "two classes are enrolled.",
            stacklevel=4,
        )
        return replace(state, threshold=last.threshold, acceptance=last.acceptance)

    def _writing(self) -> Any:
        """Return the lock of this gallery. Those who change the gallery take turns."""
        with _LOCKS_GUARD:
            return _LOCKS.setdefault(self, threading.RLock())

    def _current(self) -> GalleryState | None:
        return vars(self).get("_state")

    def _part(self, name: str) -> Any:
        """Return a part of the state for a public attribute."""
        state = self._current()
        if state is None:
            raise AttributeError(f"{type(self).__name__} has no attributes before fit.")
        return getattr(state, name)

    @property
    def estimator_(self) -> Any:
        """The fitted learner."""
        return self._part("estimator")

    @property
    def classes_(self) -> NDArray[Any]:
        """The enrolled classes, sorted."""
        return self._part("classes")

    @property
    def embeddings_(self) -> NDArray[Any]:
        """The embeddings of the enrolled samples."""
        return self._part("embeddings")

    @property
    def labels_(self) -> NDArray[Any]:
        """The labels of the enrolled samples."""
        return self._part("labels")

    @property
    def prototypes_(self) -> NDArray[Any]:
        """The mean of the embeddings of each class."""
        return self._part("prototypes")

    @property
    def threshold_(self) -> float:
        """The largest accepted distance."""
        return self._part("threshold")

    @property
    def genuine_acceptance_(self) -> float:
        """The expected share of genuine queries that are accepted."""
        return self._part("acceptance")

    @property
    def n_features_in_(self) -> int:
        """Number of features, if the learner knows it."""
        return self._part("estimator").n_features_in_

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        """Names of the features, if the learner knows them."""
        return self._part("estimator").feature_names_in_

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
        state = self._whole_state()
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        check_scalar(k, "n_neighbors", Integral, min_val=1)
        distance, neighbors = _nearest(state, _embed(state, X), k)
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
            The predicted labels, with `unknown_label` for rejected samples. The dtype depends on
            the gallery only: it is the one of the labels, or one that also holds `unknown_label`
            if `reject_far` is given.
        """
        state = self._whole_state()
        k = 1 if state.mode == "prototype" else min(self.n_neighbors, max(1, len(state.labels)))
        distance, neighbors = _nearest(state, _embed(state, X), k)
        codes = state.point_codes[neighbors]
        votes = (codes[:, :, None] == codes[:, None, :]).sum(axis=2)
        # `argmax` returns the first maximum, so the nearest neighbour wins a tie.
        label = state.answers[codes[np.arange(len(codes)), votes.argmax(axis=1)]]
        rejected = distance[:, 0] > state.threshold
        if rejected.any():
            label[rejected] = state.unknown
        return label

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
        state = self._whole_state()
        Z = _embed(state, X)
        if state.mode == "prototype":
            return softmax(_scores(state, Z), axis=1)
        neighbors = _nearest(state, Z, min(self.n_neighbors, max(1, len(state.labels))))[1]
        n_samples, k = neighbors.shape
        votes = np.zeros((n_samples, len(state.classes)))
        np.add.at(votes, (np.arange(n_samples)[:, None], state.codes[neighbors]), 1 / k)
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
        state = self._whole_state()
        score = _scores(state, _embed(state, X))
        return score[:, 1] - score[:, 0] if score.shape[1] == 2 else score

    def _whole_state(self) -> GalleryState:
        """Return the state. A prediction reads it once, so that no writer can change it midway."""
        state = self._current()
        if state is None:
            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with "
                "appropriate arguments before using this estimator."
            )
        return state

    def __sklearn_is_fitted__(self) -> bool:
        return self._current() is not None


def _embed(state: GalleryState, X: ArrayLike) -> NDArray[Any]:
    return np.asarray(state.estimator.transform(X))


def _scores(state: GalleryState, Z: NDArray[Any]) -> NDArray[np.floating]:
    return -(_class_distances(state, Z).astype(np.float64) ** 2)


def _class_distances(state: GalleryState, Z: NDArray[Any]) -> NDArray[np.floating]:
    """Return the distance of embedded queries to each class, (n_queries, n_classes)."""
    _check_not_empty(state, 1)
    if state.mode == "prototype":
        return pairwise_base_distance(Z, state.prototypes, state.distance)
    blocks = [
        nearest_of_class(Z[rows], state.embeddings, state.codes, state.distance)
        for rows in gen_batches(len(Z), max(1, BLOCK_SIZE // len(state.codes)))
    ]
    return np.concatenate(blocks)


def _nearest(
    state: GalleryState, Z: NDArray[Any], k: int
) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """Return the distances and the indices of the k nearest enrolled points."""
    _check_not_empty(state, k)
    metric = "manhattan" if state.distance == "manhattan" else "euclidean"
    search = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric)
    neighbors = search.fit(euclidean_form(state.points, state.distance)).kneighbors(
        euclidean_form(Z, state.distance), return_distance=False
    )
    distance = paired_base_distance(
        np.repeat(Z, k, axis=0), state.points[neighbors.ravel()].astype(Z.dtype), state.distance
    )
    return distance.reshape(neighbors.shape), neighbors


def _check_not_empty(state: GalleryState, k: int) -> None:
    n_points = len(state.points)
    if n_points == 0:
        raise ValueError("The gallery is empty. Enrol samples with partial_fit first.")
    if k > n_points:
        kind = "classes" if state.mode == "prototype" else "samples"
        raise ValueError(f"n_neighbors={k} is more than the {n_points} {kind} in the gallery.")


def _take_rows(values: Any, rows: NDArray[np.integer]) -> Any:
    """Return rows of an array, a sparse matrix, a frame or a list."""
    if hasattr(values, "iloc"):
        return values.iloc[rows]
    if hasattr(values, "tocsr"):
        return values.tocsr()[rows]
    return values[rows] if hasattr(values, "shape") else [values[i] for i in rows]
