"""PairVerifier: decide whether two points are of the same class, by a threshold on a distance."""

import warnings
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.utils import Tags, check_scalar
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skdml.base import check_tuples, unchanged_on_error
from skdml.constraints import check_same
from skdml.distances import base_distance_of, paired_base_distance
from skdml.model_selection import PairGroupKFold

RULES = ("accuracy", "f_beta", "eer", "far", "frr")
METHODS = ("sigmoid", "isotonic")


def choose_threshold(
    same: NDArray[np.bool_],
    distance: NDArray[np.floating],
    rule: str = "accuracy",
    *,
    target: float | None = None,
    beta: float = 1.0,
) -> float:
    """Choose the largest distance at which a pair is accepted as "same".

    The candidates are the thresholds of :func:`sklearn.metrics.roc_curve`: every distance in the
    data, and one below 0 that accepts no pair. If several are equally good, the smallest is chosen,
    because it accepts the fewest different pairs.

    Parameters
    ----------
    same : ndarray of bool, shape (n_pairs,)
        Whether a pair is of the same class. Both kinds of pairs are needed.
    distance : ndarray of shape (n_pairs,)
        The distance within each pair.
    rule : {"accuracy", "f_beta", "eer", "far", "frr"}, default="accuracy"
        What the threshold optimises. The false-accept rate (FAR) is the share of different pairs
        that are accepted; the false-reject rate (FRR) is the share of same pairs that are rejected.

        - "accuracy": the highest accuracy.
        - "f_beta": the highest F-beta score.
        - "eer": the smallest difference between FAR and FRR.
        - "far": the lowest FRR with a FAR of at most `target`.
        - "frr": the lowest FAR with an FRR of at most `target`.
    target : float, default=None
        The rate for "far" and "frr", in (0, 1).
    beta : float, default=1.0
        The weight of recall relative to precision for "f_beta", > 0.

    Returns
    -------
    float
        The threshold. It is below 0, and accepts no pair, if that is the best choice.

    Raises
    ------
    ValueError
        If there are fewer than 1 / target pairs of the kind that the rate counts.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.verification import choose_threshold
    >>> same = np.array([True, True, False, True, False])
    >>> choose_threshold(same, np.array([0.1, 0.2, 0.3, 0.4, 0.5]), "frr", target=0.4)
    0.2
    """
    far, tar, thresholds = roc_curve(same, -distance, drop_intermediate=False)
    thresholds[0] = 1.0  # replaces infinity: no distance is below -1 either
    n_same, n_different = same.sum(), (~same).sum()
    # Counts are integers, so equally good thresholds are exactly equal.
    true_accepts, false_accepts = np.rint(tar * n_same), np.rint(far * n_different)
    if rule == "accuracy":
        best = np.argmax(true_accepts - false_accepts)
    elif rule == "f_beta":
        below = beta**2 * n_same + true_accepts + false_accepts
        best = np.argmax((1 + beta**2) * true_accepts / below)
    elif rule == "eer":
        false_rejects = n_same - true_accepts
        best = np.argmin(abs(false_accepts * n_same - false_rejects * n_different))
    elif rule == "far":
        rate = _check_rate(target, n_different, "target_far", "different")
        last = np.flatnonzero(false_accepts <= rate * n_different)[-1]
        # The smallest threshold that accepts as many same pairs.
        best = np.flatnonzero(true_accepts == true_accepts[last])[0]
    else:
        rate = _check_rate(target, n_same, "target_frr", "same")
        best = np.flatnonzero(n_same - true_accepts <= rate * n_same)[0]
    return float(-thresholds[best])


def _check_rate(target: float | None, n_pairs: int, name: str, kind: str) -> float:
    """Return the target rate; raise if there are too few pairs to estimate it."""
    if target is None:
        raise ValueError(f"{name}=None is not a rate. Give a number in (0, 1).")
    needed = int(np.ceil(1 / target))
    if n_pairs < needed:
        raise ValueError(
            f"{name}={target} cannot be estimated from {n_pairs} {kind} pairs: at least "
            f"1 / {target} = {needed} are needed. Give ten times as many for a good estimate."
        )
    return target


class PairVerifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Decide whether two points are of the same class, by a threshold on a learned distance.

    The threshold is chosen on pairs whose points are not used in training. An unfitted learner is
    trained and tested by cross-validation on folds that share no point. With a frozen learner, all
    pairs serve to choose the threshold: give pairs of points that it was not trained on.

    Parameters
    ----------
    estimator : estimator
        A learner with ``supervision="pairs"``, which is cloned and fitted on the pairs. To use a
        fitted learner, pipeline or transformer unchanged, wrap it in a
        :class:`~sklearn.frozen.FrozenEstimator`. If it has no method `pair_distance`, the distance
        between its outputs of `transform` is used: the base distance of the learner, if there is
        one, or the Euclidean distance.
    threshold : {"accuracy", "f_beta", "eer", "far", "frr"} or float, default="accuracy"
        The rule that chooses the largest accepted distance, as in `choose_threshold`. A number is
        used as that distance.
    target_far : float, default=None
        Largest false-accept rate, in (0, 1). Required for ``threshold="far"``.
    target_frr : float, default=None
        Largest false-reject rate, in (0, 1). Required for ``threshold="frr"``.
    beta : float, default=1.0
        Weight of recall relative to precision for ``threshold="f_beta"``, > 0.
    cv : int or splitter, default=5
        Folds of pairs on which the threshold is chosen. An int, at least 2, is the number of folds
        of `skdml.model_selection.PairGroupKFold`. Not used with a frozen estimator.
    method : {"sigmoid", "isotonic"}, default=None
        How `predict_proba` computes probabilities from distances: by a decreasing logistic curve,
        or by any decreasing curve. None offers no `predict_proba`.

    Attributes
    ----------
    estimator_ : estimator
        The fitted learner.
    threshold_ : float
        The largest accepted distance, in units of the learned distance.
    classes_ : ndarray of shape (2,)
        The label of different pairs and the label of same pairs, as in y.
    n_self_pairs_ : int
        Number of pairs of a point with itself. They are not used, because their distance is always
        0.
    calibrator_ : estimator
        Maps the negative distance to the probability of "same". Only if `method` is given.

    See Also
    --------
    skdml.gallery.GalleryClassifier : Recognise the class of a point.
    skdml.preprocessing.TupleIndexer : Look up the points of pairs of indices, in a pipeline.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.frozen import FrozenEstimator
    >>> from skdml import MahalanobisMetric
    >>> from skdml.model_selection import make_pairs
    >>> from skdml.verification import PairVerifier
    >>> X, y = load_digits(return_X_y=True)
    >>> metric = MahalanobisMetric("oas", within_class=True).fit(X[y < 5], y[y < 5])
    >>> pairs, same = make_pairs(X[y >= 5], y[y >= 5], 2000, random_state=0)
    >>> verifier = PairVerifier(FrozenEstimator(metric), threshold="far", target_far=0.01)
    >>> verifier = verifier.fit(pairs[::2], same[::2])
    >>> accepted = verifier.predict(pairs[1::2])
    >>> bool(accepted[same[1::2] == 0].mean() < 0.03)
    True
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        *,
        threshold: str | float = "accuracy",
        target_far: float | None = None,
        target_frr: float | None = None,
        beta: float = 1.0,
        cv: Any = 5,
        method: str | None = None,
    ) -> None:
        self.estimator = estimator
        self.threshold = threshold
        self.target_far = target_far
        self.target_frr = target_frr
        self.beta = beta
        self.cv = cv
        self.method = method

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit the learner, unless it is frozen, and choose the threshold.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, ...)
            Pairs of points.
        y : array-like of shape (n_pairs,)
            1 for pairs of the same class, 0 or -1 for pairs of different classes.
        groups : array-like of shape (n_pairs, 2), default=None
            The group of each point, such as a person. The folds then share no group. See
            `skdml.model_selection.PairGroupKFold`.

        Returns
        -------
        self : PairVerifier
            The fitted verifier.

        Raises
        ------
        ValueError
            If X or y are invalid, if all pairs of two different points are of one kind, if a
            parameter is out of range, or if there are too few pairs for the folds or for the target
            rate.
        """
        with unchanged_on_error(self):
            target = self._check_params()
            pairs, same, self.classes_, keep = _check_pairs(X, y)
            groups = None if groups is None else np.asarray(groups)[keep]
            self.n_self_pairs_ = int((~keep).sum())
            labels = self.classes_[same.astype(int)]
            if isinstance(self.estimator, FrozenEstimator):
                self.estimator_ = self.estimator
                test_same, distance = same, pair_distances(self.estimator, pairs)
            else:
                test_same, distance = self._out_of_fold(pairs, labels, same, groups)
                self.estimator_ = clone(self.estimator).fit(pairs, labels)
            if isinstance(self.threshold, str):
                self.threshold_ = choose_threshold(
                    test_same, distance, self.threshold, target=target, beta=self.beta
                )
            else:
                self.threshold_ = float(self.threshold)
            if self.method is not None:
                self.calibrator_ = calibrate(test_same, distance, self.method)
        return self

    def _out_of_fold(
        self,
        pairs: NDArray[Any],
        labels: NDArray[Any],
        same: NDArray[np.bool_],
        groups: NDArray[Any] | None,
    ) -> tuple[Any, Any]:
        """Return which test pairs are same, and their distances by learners of the other folds."""
        if isinstance(self.threshold, Real) and self.method is None:
            return None, None  # there is nothing to choose
        if getattr(self.estimator, "supervision", "pairs") != "pairs":
            raise ValueError(
                f"{type(self.estimator).__name__} has supervision={self.estimator.supervision!r} "
                "and cannot be fitted on pairs. Set supervision='pairs', or fit it beforehand and "
                "wrap it in sklearn.frozen.FrozenEstimator."
            )
        splitter = PairGroupKFold(self.cv, random_state=0) if _is_count(self.cv) else self.cv
        test_same, test_distance = [], []
        for train, test in splitter.split(pairs, labels, groups):
            if same[train].all() or not same[train].any():
                raise ValueError(
                    f"cv={self.cv!r} gives a fold with {len(train)} training pairs that are all of "
                    "one kind. Give more pairs, or take fewer folds."
                )
            learner = clone(self.estimator).fit(pairs[train], labels[train])
            test_same.append(same[test])
            test_distance.append(pair_distances(learner, pairs[test]))
        kinds = np.concatenate(test_same)
        if kinds.all() or not kinds.any():
            raise ValueError(
                f"cv={self.cv!r} leaves {len(kinds)} test pairs that are all of one kind, so no "
                "threshold can be chosen. Give more pairs, or take fewer folds."
            )
        return kinds, np.concatenate(test_distance)

    def pair_distance(self, X: ArrayLike) -> NDArray[np.floating]:
        """Compute the learned distance within each pair.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, ...)
            Pairs of points.

        Returns
        -------
        ndarray of shape (n_pairs,)
            Distances, >= 0.
        """
        check_is_fitted(self)
        return pair_distances(self.estimator_, check_tuples(X, 2))

    def decision_function(self, X: ArrayLike) -> NDArray[np.floating]:
        """Threshold minus distance.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, ...)
            Pairs of points.

        Returns
        -------
        ndarray of shape (n_pairs,)
            Scores, >= 0 for accepted pairs. A larger score means more similar points.
        """
        distance = self.pair_distance(X)
        return self.threshold_ - distance

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict whether pairs are of the same class.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, ...)
            Pairs of points.

        Returns
        -------
        ndarray of shape (n_pairs,)
            ``classes_[1]`` (same) if the distance is at most `threshold_`, and ``classes_[0]``
            (different) otherwise.
        """
        accepted = self.pair_distance(X) <= self.threshold_
        return self.classes_[accepted.astype(int)]

    @available_if(lambda self: self.method is not None)
    def predict_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Probabilities that pairs are different and that they are the same.

        Available if `method` is given.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, ...)
            Pairs of points.

        Returns
        -------
        ndarray of shape (n_pairs, 2)
            Probabilities in the order of `classes_`. They depend on the distance alone, not on the
            threshold.
        """
        return probabilities(self.calibrator_, self.pair_distance(X))

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """Area under the ROC curve. It does not depend on the threshold.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, ...)
            Pairs of points.
        y : array-like of shape (n_pairs,)
            1 for pairs of the same class, 0 or -1 for pairs of different classes.

        Returns
        -------
        float
            In [0, 1]; 0.5 is chance. For the accuracy, pass ``scoring="accuracy"`` to
            scikit-learn's functions.
        """
        distance = self.pair_distance(X)
        return float(roc_auc_score(check_same(y, len(distance)), -distance))

    def _check_params(self) -> float | None:
        """Check the parameters, and return the target rate, if the rule has one."""
        check_scalar(self.beta, "beta", Real, min_val=0, include_boundaries="neither")
        if _is_count(self.cv):
            check_scalar(self.cv, "cv", Integral, min_val=2)
        if self.method is not None and self.method not in METHODS:
            raise ValueError(f"method={self.method!r} is unknown; choose one of {list(METHODS)}.")
        if not isinstance(self.threshold, Real) and self.threshold not in RULES:
            raise ValueError(
                f"threshold={self.threshold!r} is unknown; choose one of {list(RULES)}, or give a "
                "number."
            )
        if self.threshold not in ("far", "frr"):
            return None
        name = f"target_{self.threshold}"
        if getattr(self, name) is None:
            raise ValueError(
                f"threshold={self.threshold!r} needs {name}, but it is None. Give a rate in (0, 1)."
            )
        limits = {"min_val": 0, "max_val": 1, "include_boundaries": "neither"}
        return check_scalar(getattr(self, name), name, Real, **limits)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.classifier_tags.multi_class = False
        return tags


def pair_distances(estimator: Any, pairs: NDArray[Any]) -> NDArray[np.floating]:
    """Compute the distance within each pair by any fitted learner or transformer.

    Parameters
    ----------
    estimator : estimator
        An estimator with a method `pair_distance` or `transform`. After `transform`, the base
        distance of `skdml.distances.base_distance_of` is used. If a pipeline ends in a learner with
        ``supervision="pairs"``, its other steps receive pairs too; see
        `skdml.preprocessing.OnTuples`.
    pairs : ndarray of shape (n_pairs, 2, ...)
        Pairs of points.

    Returns
    -------
    ndarray of shape (n_pairs,)
        Distances.

    Raises
    ------
    ValueError
        If the estimator has neither method.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)  # the estimator of a search
    if hasattr(estimator, "pair_distance"):
        return estimator.pair_distance(pairs)
    if hasattr(estimator, "steps") and _learns_from_pairs(estimator[-1]):
        return pair_distances(estimator[-1], estimator[:-1].transform(pairs))
    if not hasattr(estimator, "transform"):
        raise ValueError(
            f"{type(estimator).__name__} has neither pair_distance nor transform. Give a learner, "
            "a transformer, or a pipeline that ends in one."
        )
    first, second = (
        np.asarray(estimator.transform(points)) for points in (pairs[:, 0], pairs[:, 1])
    )
    return paired_base_distance(first, second, base_distance_of(estimator))


def _learns_from_pairs(learner: Any) -> bool:
    return getattr(learner, "supervision", None) == "pairs"


def calibrate(
    same: NDArray[np.bool_], distance: NDArray[np.floating], method: str
) -> LogisticRegression | IsotonicRegression:
    """Fit a decreasing curve from the distance to the probability of "same".

    Parameters
    ----------
    same : ndarray of bool, shape (n_pairs,)
        Whether a pair is of the same class.
    distance : ndarray of shape (n_pairs,)
        The distance within each pair.
    method : {"sigmoid", "isotonic"}
        The kind of curve: a logistic curve, or any decreasing curve.

    Returns
    -------
    estimator
        A :class:`~sklearn.linear_model.LogisticRegression` or
        :class:`~sklearn.isotonic.IsotonicRegression` of the negative distance.

    References
    ----------
    J. Platt, "Probabilistic outputs for support vector machines", 1999. B. Zadrozny, C. Elkan,
    "Transforming classifier scores into accurate multiclass probability estimates", KDD 2002.
    """
    if method == "isotonic":
        curve = IsotonicRegression(y_min=0, y_max=1, increasing=True, out_of_bounds="clip")
        return curve.fit(-distance, same)
    unit = distance.std() or 1.0  # makes the penalty independent of the unit of the distance
    curve = LogisticRegression(C=1e4, solver="newton-cholesky").fit(-distance[:, None] / unit, same)
    curve.coef_ = np.maximum(curve.coef_, 0) / unit
    return curve


def probabilities(calibrator: Any, distance: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the probabilities of "different" and "same" by a curve of `calibrate`."""
    if isinstance(calibrator, IsotonicRegression):
        same = calibrator.predict(-distance)
        return np.column_stack([1 - same, same])
    return calibrator.predict_proba(-distance[:, None])


def _check_pairs(
    X: ArrayLike, y: ArrayLike
) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any], NDArray[np.bool_]]:
    """Drop pairs of a point with itself.

    Returns the pairs, whether they are same, the two labels, and which of the given pairs are kept.
    """
    pairs = check_tuples(X, 2)
    same = check_same(y, len(pairs))
    keep = (pairs[:, 0] != pairs[:, 1]).reshape(len(pairs), -1).any(axis=1)
    if not keep.all():
        warnings.warn(
            f"{(~keep).sum()} of {len(keep)} pairs are of a point with itself. They are not used, "
            "because their distance is always 0.",
            UserWarning,
            stacklevel=3,
        )
    if same[keep].all() or not same[keep].any():
        raise ValueError(
            f"Pairs of both kinds are needed, but all {keep.sum()} pairs of two different points "
            "are of one kind. Give pairs of the same class and pairs of different classes."
        )
    return pairs[keep], same[keep], np.unique(y), keep


def _is_count(cv: Any) -> bool:
    return isinstance(cv, Integral) and not isinstance(cv, bool)
