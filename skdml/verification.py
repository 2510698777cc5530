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
from sklearn.metrics import roc_auc_score
from sklearn.utils import Tags, check_array, check_scalar
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skdml._accept_rates import (
    AcceptCounts,
    check_enough,
    check_rate,
    count_accepts,
    count_safe_accepts,
    extrapolate_distance,
    find_identities,
)
from skdml.base import check_tuples, unchanged_on_error
from skdml.constraints import check_same
from skdml.distances import base_distance_of, paired_base_distance
from skdml.model_selection import PairGroupKFold

RULES = ("accuracy", "f_beta", "precision", "eer", "far", "frr")
TARGETS = {"precision": "target_precision", "far": "target_far", "frr": "target_frr"}
METHODS = ("sigmoid", "isotonic")


def choose_threshold(
    same: NDArray[np.bool_],
    distance: NDArray[np.floating],
    rule: str = "accuracy",
    *,
    target: float | None = None,
    beta: float = 1.0,
    prior: float | None = None,
    confidence: float | None = None,
    identities: NDArray[np.integer] | None = None,
) -> float:
    """Choose the largest distance at which a pair is accepted as "same".

    The candidates lie halfway between the observed distances. Distances that differ by rounding
    errors only are not separated, so a pair gets the same answer alone and in a batch. One more
    candidate is below 0 and accepts no pair. If several are equally good, the smallest is chosen,
    because it accepts the fewest different pairs.

    Parameters
    ----------
    same : ndarray of bool, shape (n_pairs,)
        Whether a pair is of the same class. Both kinds of pairs are needed.
    distance : ndarray of shape (n_pairs,)
        The distance within each pair.
    rule : {"accuracy", "f_beta", "precision", "eer", "far", "frr"}, default="accuracy"
        What the threshold optimises. The false-accept rate (FAR) is the share of different pairs
        that are accepted; the false-reject rate (FRR) is the share of same pairs that are rejected.

        - "accuracy": the highest accuracy.
        - "f_beta": the highest F-beta score.
        - "precision": the lowest FRR with a precision of at least `target`.
        - "eer": the smallest difference between FAR and FRR.
        - "far": the lowest FRR with a FAR of at most `target`.
        - "frr": the lowest FAR with an FRR of at most `target`.
    target : float, default=None
        The rate for "precision", "far" and "frr", in (0, 1).
    beta : float, default=1.0
        The weight of recall relative to precision for "f_beta", > 0.
    prior : float, default=None
        The base rate for "accuracy", "f_beta" and "precision": the share of same pairs where the
        threshold will be used, in (0, 1). None uses the share among the given pairs.
    confidence : float, default=None
        If given, an upper bound of the FAR is at most `target` for "far", at this confidence, in
        (0, 1). None compares the observed FAR with `target`.
    identities : ndarray of int, shape (n_pairs, 2), default=None
        The identity of each point. With `confidence`, an identity that is in many pairs counts as
        one observation. None treats all pairs as independent.

    Returns
    -------
    float
        The threshold. It is below 0, and accepts no pair, if that is the best choice.

    Raises
    ------
    ValueError
        If there are pairs of one kind only, or a parameter is out of range. Without `confidence`
        also if there are fewer than 1 / target pairs of the kind that the rate counts.

    Warns
    -----
    UserWarning
        If no same pair is accepted, or if there are too few identities to observe the FAR at this
        confidence. The threshold is then extrapolated from the distribution of the distances of
        different pairs, on the safe side.

    See Also
    --------
    skdml.metrics.far_frr_curve : Both rates at every threshold.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.verification import choose_threshold
    >>> same = np.array([True, True, False, True, False])
    >>> choose_threshold(same, np.array([0.1, 0.2, 0.3, 0.4, 0.5]), "frr", target=0.4)
    0.25
    """
    same, distance = check_pair_distances(same, distance)
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is unknown; choose one of {list(RULES)}.")
    rate = check_rate(target, TARGETS[rule]) if rule in TARGETS else np.nan
    if rule == "far" and confidence is not None:
        level = check_rate(confidence, "confidence")
        return _choose_bounded(same, distance, rate, level, identities)
    n_same, n_different = int(same.sum()), int((~same).sum())
    if rule in ("far", "frr"):
        n_pairs, kind = (n_different, "different") if rule == "far" else (n_same, "same")
        check_enough(rate, n_pairs, TARGETS[rule], kind)
    odds = 1.0
    if prior is not None:
        prior = check_rate(prior, "prior")
        odds = prior / (1 - prior) * n_different / n_same
    counts = count_accepts(same, distance)
    best = _best(counts, rule, rate, _check_beta(beta), odds)
    return _threshold(counts, best, rule)


def _best(counts: AcceptCounts, rule: str, target: float, beta: float, odds: float) -> int:
    """Return the index of the best threshold. The weight of a same pair is `odds`.

    Counts are integers, so equally good thresholds are exactly equal if `odds` is 1.
    """
    accepts, false_accepts = odds * counts.same, counts.different
    n_same, n_different = counts.same[-1], counts.different[-1]
    rejects = n_same - counts.same
    if rule == "accuracy":
        return int(np.argmax(accepts - false_accepts))
    if rule == "f_beta":
        below = beta**2 * odds * n_same + accepts + false_accepts
        return int(np.argmax((1 + beta**2) * accepts / below))
    if rule == "precision":
        enough = accepts / np.maximum(accepts + false_accepts, 1e-300) >= target
        return int(np.argmax(np.where(enough, counts.same, 0)))
    if rule == "eer":
        return int(np.argmin(abs(false_accepts * n_same - rejects * n_different)))
    if rule == "far":
        return _lowest_with_equal_recall(counts, false_accepts / n_different <= target)
    return int(np.argmax(rejects / n_same <= target))


def _lowest_with_equal_recall(counts: AcceptCounts, allowed: NDArray[np.bool_]) -> int:
    """Return the smallest threshold that accepts as many same pairs as the largest allowed one."""
    last = np.flatnonzero(allowed)[-1]
    return int(np.argmax(counts.same == counts.same[last]))


def _choose_bounded(
    same: NDArray[np.bool_],
    distance: NDArray[np.floating],
    target: float,
    confidence: float,
    identities: NDArray[np.integer] | None,
) -> float:
    """Choose the threshold for which an upper bound of the false-accept rate is the target."""
    if identities is None:
        identities = np.arange(2 * len(same)).reshape(-1, 2)
    impostor = np.flatnonzero(~same)
    impostor = impostor[np.argsort(distance[impostor], kind="stable")]
    n_safe, n_observations = count_safe_accepts(identities[impostor], target, confidence)
    if n_safe >= 0:
        counts = count_accepts(same, distance)
        best = _lowest_with_equal_recall(counts, counts.different <= n_safe)
        return _threshold(counts, best, "far")
    warnings.warn(
        f"target_far={target} is extrapolated: {len(impostor)} different pairs, worth "
        f"{n_observations:.3g} independent identities, are too few to observe this rate at a "
        f"confidence of {confidence}. The threshold is on the safe side and may reject many same "
        "pairs. Give pairs of more identities, or raise target_far. Set confidence=None if new "
        "pairs are of the same identities.",
        UserWarning,
        stacklevel=4,
    )
    bound = extrapolate_distance(distance[impostor], n_observations, target, confidence)
    # The bound counts as one more rejected distance, so the threshold lies below it.
    counts = count_accepts(np.append(same, False), np.append(distance, distance.dtype.type(bound)))
    allowed = (counts.thresholds < bound) & (counts.different / len(impostor) <= target)
    best = _lowest_with_equal_recall(counts, allowed | (counts.thresholds == -np.inf))
    return _threshold(counts, best, "far")


def _threshold(counts: AcceptCounts, best: int, rule: str) -> float:
    """Return a threshold, and warn if it accepts no same pair."""
    if counts.same[best] == 0:
        advice = {
            "accuracy": "Rejecting every pair is the most accurate where same pairs are rare or "
            "not nearer. Take threshold='f_beta', 'eer', 'precision' or 'far', or set prior.",
            "far": "Give pairs of more identities, or raise target_far.",
            "precision": "No threshold reaches target_precision. Lower it.",
        }
        n_same = counts.same[-1]
        warnings.warn(
            f"threshold={rule!r} accepts none of the {n_same} same pairs. "
            + advice.get(rule, "Same pairs are not nearer than different pairs."),
            UserWarning,
            stacklevel=4,
        )
    # Distances are not negative, so -1 accepts no pair.
    return float(counts.thresholds[best]) if best else -1.0


def _check_beta(beta: float) -> float:
    check_scalar(beta, "beta", Real, min_val=0, include_boundaries="neither")
    if not np.isfinite(beta):
        raise ValueError(f"beta == {beta}, must be finite.")
    return beta


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
    threshold : {"accuracy", "f_beta", "precision", "eer", "far", "frr"} or float, \
            default="accuracy"
        The rule that chooses the largest accepted distance, as in `choose_threshold`. A number is
        used as that distance.
    target_far : float, default=None
        Largest false-accept rate, in (0, 1). Required for ``threshold="far"``.
    target_frr : float, default=None
        Largest false-reject rate on the given pairs, in (0, 1). Required for ``threshold="frr"``.
    target_precision : float, default=None
        Smallest precision on the given pairs, in (0, 1): the share of same pairs among the accepted
        pairs. Required for ``threshold="precision"``.
    confidence : float, default=0.95
        Confidence, in (0, 1), that the false-accept rate for pairs of new identities is at most
        `target_far`. An identity, such as a person, counts as one observation even if it is in many
        pairs. `groups` tells the identities; without it, points that are linked by same pairs are
        of one identity. With too few identities the rate is extrapolated, and a warning says so.
        None keeps the rate on the given pairs only, which suits new pairs of the same identities.
    beta : float, default=1.0
        Weight of recall relative to precision for ``threshold="f_beta"``, > 0.
    cv : int or splitter, default=5
        Folds of pairs on which the threshold is chosen. An int, at least 2, is the number of folds
        of `skdml.model_selection.PairGroupKFold`. Not used with a frozen estimator.
    method : {"sigmoid", "isotonic"}, default=None
        How `predict_proba` computes probabilities from distances: by a decreasing logistic curve,
        or by any decreasing curve. None offers no `predict_proba`.
    prior : float, default=None
        The base rate: the share of same pairs where the verifier will be used, in (0, 1). It sets
        the level of the probabilities, and the rules "accuracy", "f_beta" and "precision" depend on
        it. None uses the share among the pairs in `fit`. Set it if same pairs are rarer in use: of
        `make_pairs`, half are same.

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
    prior_ : float
        The base rate that is used.
    calibrator_ : estimator
        Maps the negative distance to the probability of "same", at the base rate of the pairs on
        which the threshold is chosen. Only if `method` is given.

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
        target_precision: float | None = None,
        confidence: float | None = 0.95,
        beta: float = 1.0,
        cv: Any = 5,
        method: str | None = None,
        prior: float | None = None,
    ) -> None:
        self.estimator = estimator
        self.threshold = threshold
        self.target_far = target_far
        self.target_frr = target_frr
        self.target_precision = target_precision
        self.confidence = confidence
        self.beta = beta
        self.cv = cv
        self.method = method
        self.prior = prior

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit the learner, unless it is frozen, and choose the threshold.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, ...)
            Pairs of points.
        y : array-like of shape (n_pairs,)
            1 for pairs of the same class, 0 or -1 for pairs of different classes.
        groups : array-like of shape (n_pairs, 2), default=None
            The group of each point, such as a person. The folds then share no group, see
            `skdml.model_selection.PairGroupKFold`. The false-accept rate counts each group once,
            see `confidence`.

        Returns
        -------
        self : PairVerifier
            The fitted verifier.

        Raises
        ------
        ValueError
            If X or y are invalid, if all pairs of two different points are of one kind, if a
            parameter is out of range, or if there are too few pairs for the folds or for
            `target_frr`.

        Warns
        -----
        UserWarning
            If pairs of a point with itself are dropped, if the false-accept rate is extrapolated,
            or if the threshold accepts no same pair.
        """
        with unchanged_on_error(self):
            target = self._check_params()
            pairs, same, self.classes_, keep = _check_pairs(X, y)
            groups = None if groups is None else _check_groups(groups, len(keep))[keep]
            self.n_self_pairs_ = int((~keep).sum())
            self.prior_ = float(same.mean()) if self.prior is None else float(self.prior)
            labels = self.classes_[same.astype(int)]
            if isinstance(self.estimator, FrozenEstimator):
                self.estimator_ = self.estimator
                used: NDArray[np.integer] = np.arange(len(pairs))
                distance = pair_distances(self.estimator, pairs)
            else:
                used, distance = self._out_of_fold(pairs, labels, same, groups)
                self.estimator_ = clone(self.estimator).fit(pairs, labels)
            if isinstance(self.threshold, str):
                prior = None if self.prior_ == same[used].mean() else self.prior_
                self.threshold_ = choose_threshold(
                    same[used],
                    distance,
                    self.threshold,
                    target=target,
                    beta=self.beta,
                    prior=prior,
                    confidence=self.confidence,
                    identities=self._identities(pairs, same, groups, used),
                )
            else:
                self.threshold_ = float(self.threshold)
            if self.method is not None:
                self.calibrator_ = calibrate(same[used], distance, self.method)
                base_rate = same[used].mean()
                self._odds = self.prior_ / (1 - self.prior_) * (1 - base_rate) / base_rate
        return self

    def _identities(
        self,
        pairs: NDArray[Any],
        same: NDArray[np.bool_],
        groups: NDArray[Any] | None,
        used: NDArray[np.integer],
    ) -> NDArray[np.integer] | None:
        """Return the identities of the used pairs, if the rule counts them."""
        if self.threshold != "far" or self.confidence is None:
            return None
        if groups is None:
            return find_identities(pairs, same)[used]
        return np.unique(groups, return_inverse=True)[1].reshape(-1, 2)[used]

    def _out_of_fold(
        self,
        pairs: NDArray[Any],
        labels: NDArray[Any],
        same: NDArray[np.bool_],
        groups: NDArray[Any] | None,
    ) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
        """Return the indices of the test pairs, and their distances by learners of other folds."""
        if isinstance(self.threshold, Real) and self.method is None:
            return np.array([], dtype=int), np.array([])  # there is nothing to choose
        if getattr(self.estimator, "supervision", "pairs") != "pairs":
            raise ValueError(
                f"{type(self.estimator).__name__} has supervision={self.estimator.supervision!r} "
                "and cannot be fitted on pairs. Set supervision='pairs', or fit it beforehand and "
                "wrap it in sklearn.frozen.FrozenEstimator."
            )
        splitter = PairGroupKFold(self.cv, random_state=0) if _is_count(self.cv) else self.cv
        tested, test_distance = [], []
        for train, test in splitter.split(pairs, labels, groups):
            if same[train].all() or not same[train].any():
                raise ValueError(
                    f"cv={self.cv!r} gives a fold with {len(train)} training pairs that are all of "
                    "one kind. Give more pairs, or take fewer folds."
                )
            learner = clone(self.estimator).fit(pairs[train], labels[train])
            tested.append(test)
            test_distance.append(pair_distances(learner, pairs[test]))
        used = np.concatenate(tested)
        kinds = same[used]
        if kinds.all() or not kinds.any():
            raise ValueError(
                f"cv={self.cv!r} leaves {len(kinds)} test pairs that are all of one kind, so no "
                "threshold can be chosen. Give more pairs, or take fewer folds."
            )
        return used, np.concatenate(test_distance)

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
            Probabilities in the order of `classes_`. They depend on the distance and on `prior_`,
            not on the threshold. Where the distance says nothing, the probability is `prior_`.
        """
        return probabilities(self.calibrator_, self.pair_distance(X), self._odds)

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
        _check_beta(self.beta)
        if _is_count(self.cv):
            check_scalar(self.cv, "cv", Integral, min_val=2)
        if self.method is not None and self.method not in METHODS:
            raise ValueError(f"method={self.method!r} is unknown; choose one of {list(METHODS)}.")
        for name in ("prior", "confidence"):
            if getattr(self, name) is not None:
                check_rate(getattr(self, name), name)
        if isinstance(self.threshold, Real) and not isinstance(self.threshold, bool):
            if np.isnan(self.threshold):
                raise ValueError("threshold=nan is not a distance. Give a number or a rule.")
            return None
        if self.threshold not in RULES:
            raise ValueError(
                f"threshold={self.threshold!r} is unknown; choose one of {list(RULES)}, or give a "
                "number."
            )
        if self.threshold not in TARGETS:
            return None
        name = TARGETS[self.threshold]
        if getattr(self, name) is None:
            raise ValueError(
                f"threshold={self.threshold!r} needs {name}, but it is None. Give a rate in (0, 1)."
            )
        return check_rate(getattr(self, name), name)

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
    # The penalty does not depend on the unit and the origin of the distance.
    centre, unit = distance.mean(), distance.std() or 1.0
    score = (centre - distance[:, None]) / unit
    curve = LogisticRegression(C=1e4, solver="newton-cholesky").fit(score, same)
    if curve.coef_[0, 0] <= 0:  # same pairs are not nearer, so the distance says nothing
        curve.coef_[:], curve.intercept_[:] = 0.0, np.log(same.mean() / (1 - same.mean()))
    curve.coef_ /= unit
    curve.intercept_ += curve.coef_[0] * centre
    return curve


def probabilities(
    calibrator: Any, distance: NDArray[np.floating], odds: float = 1.0
) -> NDArray[np.floating]:
    """Compute the probabilities of "different" and "same" by a curve of `calibrate`.

    Parameters
    ----------
    calibrator : estimator
        The curve.
    distance : ndarray of shape (n_pairs,)
        The distance within each pair.
    odds : float, default=1.0
        The odds of "same" at the base rate in use, divided by those at the base rate of the pairs
        that the curve is fitted to.

    Returns
    -------
    ndarray of shape (n_pairs, 2)
        The probabilities.

    References
    ----------
    C. Elkan, "The foundations of cost-sensitive learning", IJCAI 2001, theorem 2.
    """
    if isinstance(calibrator, IsotonicRegression):
        same = calibrator.predict(-distance)
    else:
        same = calibrator.predict_proba(-distance[:, None])[:, 1]
    same = odds * same / (odds * same + 1 - same)
    return np.column_stack([1 - same, same])


def check_pair_distances(
    y_true: ArrayLike, distance: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Check the labels and the distances of pairs, and return the labels as booleans.

    Parameters
    ----------
    y_true : array-like of shape (n_pairs,)
        1 for pairs of the same class, 0 or -1 for pairs of different classes.
    distance : array-like of shape (n_pairs,)
        The distance within each pair.

    Returns
    -------
    same : ndarray of bool, shape (n_pairs,)
        Whether a pair is of the same class.
    distance : ndarray of shape (n_pairs,)
        The distances.

    Raises
    ------
    ValueError
        If a distance is not finite, or all pairs are of one kind.
    """
    checked: NDArray[Any] = check_array(distance, ensure_2d=False, input_name="distance")
    if checked.ndim != 1:
        raise ValueError(f"distance needs the shape (n_pairs,); got {checked.shape}.")
    same = check_same(y_true, len(checked), both_kinds=False)
    if same.all() or not same.any():
        kind = "the same" if same.any() else "different"
        raise ValueError(f"Verification needs pairs of both kinds; all {len(same)} are {kind}.")
    return same, checked


def _check_groups(groups: ArrayLike, n_pairs: int) -> NDArray[Any]:
    checked = np.asarray(groups)
    if checked.shape != (n_pairs, 2):
        raise ValueError(
            f"groups needs the shape (n_pairs, 2) = ({n_pairs}, 2), one group for each point; got "
            f"{checked.shape}."
        )
    return checked


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
