"""PairVerifier: are two points of one class? A threshold on a learned distance, honestly chosen."""

import warnings
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.utils import check_scalar
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skdml.base import check_tuples, unchanged_on_error
from skdml.constraints import check_same
from skdml.distances import base_distance_of, paired_base_distance
from skdml.model_selection import PairGroupKFold

RULES = ("accuracy", "f_beta", "eer", "far", "frr")
METHODS = ("sigmoid", "isotonic")


def choose_threshold(same, distance, rule="accuracy", *, target=None, beta=1.0):
    """Largest distance that is taken for "same", by a rule.

    The candidates are the thresholds of :func:`sklearn.metrics.roc_curve`: every distance that
    occurs, and one that accepts nothing. Among equally good ones the smallest is taken, which
    accepts the fewest impostors.

    Parameters
    ----------
    same : ndarray of bool, shape (n_pairs,)
        Whether a pair is genuine; both kinds are needed.
    distance : ndarray of shape (n_pairs,)
        Its distance.
    rule : {"accuracy", "f_beta", "eer", "far", "frr"}, default="accuracy"
        "accuracy" and "f_beta" maximise these. "eer" brings the false-accept rate (impostors that
        pass, of all impostors) nearest to the false-reject rate (genuine pairs refused, of all
        genuine). "far" keeps the false-accept rate at or below `target` and accepts all it can
        otherwise; "frr" keeps the false-reject rate at or below `target` and refuses all it can.
    target : float, default=None
        The rate, in (0, 1), for "far" and "frr".
    beta : float, default=1.0
        Recall counts beta times as much as precision, > 0.

    Returns
    -------
    float
        The threshold; below 0 (and so accepting nothing) where no distance would do.

    Raises
    ------
    ValueError
        If there are too few pairs to speak of a rate like `target`: fewer than 1 / target.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.verification import choose_threshold
    >>> same = np.array([True, True, False, True, False])
    >>> choose_threshold(same, np.array([0.1, 0.2, 0.3, 0.4, 0.5]), "frr", target=0.4)
    0.2
    """
    far, tar, thresholds = roc_curve(same, -distance, drop_intermediate=False)
    thresholds[0] = 1.0  # in place of infinity: below a distance of -1 there is none, either
    n_same, n_other = same.sum(), (~same).sum()
    # As whole numbers, so that thresholds which are equally good tie.
    accepted, wrong = np.rint(tar * n_same), np.rint(far * n_other)
    if rule == "accuracy":
        best = np.argmax(accepted - wrong)
    elif rule == "f_beta":
        best = np.argmax((1 + beta**2) * accepted / (beta**2 * n_same + accepted + wrong))
    elif rule == "eer":
        best = np.argmin(abs(wrong * n_same - (n_same - accepted) * n_other))
    elif rule == "far":
        _check_enough(n_other, target, "target_far", "different")
        last = np.flatnonzero(wrong <= target * n_other)[-1]
        best = np.flatnonzero(accepted == accepted[last])[0]  # no more impostors than that needs
    else:
        _check_enough(n_same, target, "target_frr", "same")
        best = np.flatnonzero(n_same - accepted <= target * n_same)[0]
    return float(-thresholds[best])


def _check_enough(n_pairs, target, name, kind):
    needed = int(np.ceil(1 / target))
    if n_pairs < needed:
        raise ValueError(
            f"{name}={target} cannot be told from {n_pairs} pairs that are {kind}: at least "
            f"1 / {target} = {needed} are needed, and ten times as many to tell it well."
        )


class PairVerifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Verify that two points are of one class: accept pairs up to a distance.

    The threshold is chosen on pairs whose points the learner has not seen: by cross-validation
    that keeps points apart, or on the pairs given, where the learner is fitted beforehand.

    Parameters
    ----------
    estimator : estimator
        A learner with ``supervision="pairs"``, which is cloned and fitted on the pairs; or a
        fitted learner, pipeline or transformer in a :class:`~sklearn.frozen.FrozenEstimator`, which
        is left as it is. Without a method `pair_distance`, the distance is that between what
        `transform` returns: a learner's own at the end of a pipeline, else Euclid's.
    threshold : {"accuracy", "f_beta", "eer", "far", "frr"} or float, default="accuracy"
        How the largest accepted distance is chosen, see `choose_threshold`; or that distance.
    target_far : float, default=None
        The false-accept rate, in (0, 1), that ``threshold="far"`` is not to exceed.
    target_frr : float, default=None
        The false-reject rate, in (0, 1), that ``threshold="frr"`` is not to exceed.
    beta : float, default=1.0
        For ``threshold="f_beta"``: recall counts beta times as much as precision.
    cv : int or splitter, default=5
        Folds of pairs to choose the threshold by; an int is that many folds that share no point,
        `skdml.model_selection.PairGroupKFold`. Not used with a frozen estimator.
    method : {"sigmoid", "isotonic"}, default=None
        How distances become probabilities: a falling logistic curve, or any falling curve. None
        makes no probabilities.

    Attributes
    ----------
    estimator_ : estimator
        The fitted learner.
    threshold_ : float
        The largest distance accepted, in units of the learned distance.
    classes_ : ndarray of shape (2,)
        The labels of different and same pairs, as in y.
    n_self_pairs_ : int
        How many pairs of a point with itself were left out: they tell nothing.
    calibrator_ : estimator
        Turns minus the distance into the probability of "same"; only with a `method`.

    See Also
    --------
    skdml.gallery.GalleryClassifier : Who is it, among those enrolled?
    skdml.preprocessing.TupleIndexer : Pairs as indices, in a pipeline before this.

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
        estimator,
        *,
        threshold="accuracy",
        target_far=None,
        target_frr=None,
        beta=1.0,
        cv=5,
        method=None,
    ):
        self.estimator = estimator
        self.threshold = threshold
        self.target_far = target_far
        self.target_frr = target_frr
        self.beta = beta
        self.cv = cv
        self.method = method

    def fit(self, X, y, groups=None):
        """Fit the learner, and choose the threshold on pairs that it was not fitted on.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, ...)
            Pairs of points.
        y : array-like of shape (n_pairs,)
            1 for pairs of the same class, 0 or -1 for different ones.
        groups : array-like of shape (n_pairs, 2), default=None
            Whom each point belongs to, for folds that share nobody; see
            `skdml.model_selection.PairGroupKFold`.

        Returns
        -------
        self : PairVerifier
            The fitted verifier.

        Raises
        ------
        ValueError
            If X or y are no pairs, all are of one kind or of a point with itself, a parameter is
            out of range, or there are too few pairs for the rate asked for.
        """
        with unchanged_on_error(self):
            target = self._check_params()
            pairs, same, self.classes_, keep = _check_pairs(X, y)
            groups = None if groups is None else np.asarray(groups)[keep]
            self.n_self_pairs_ = int((~keep).sum())
            labels = self.classes_[same.astype(int)]
            if isinstance(self.estimator, FrozenEstimator):
                self.estimator_ = self.estimator
                judged, distance = same, distances(self.estimator, pairs)
            else:
                judged, distance = self._out_of_fold(pairs, labels, same, groups)
                self.estimator_ = clone(self.estimator).fit(pairs, labels)
            if isinstance(self.threshold, str):
                options = {"target": target, "beta": self.beta}
                self.threshold_ = choose_threshold(judged, distance, self.threshold, **options)
            else:
                self.threshold_ = float(self.threshold)
            if self.method is not None:
                self.calibrator_ = calibrate(judged, distance, self.method)
        return self

    def _out_of_fold(self, pairs, labels, same, groups):
        """Distances of pairs by learners that saw none of their points; and which are genuine."""
        if isinstance(self.threshold, Real) and self.method is None:
            return None, None  # nothing is to be chosen
        if getattr(self.estimator, "supervision", "pairs") != "pairs":
            raise ValueError(
                f"{type(self.estimator).__name__} has supervision={self.estimator.supervision!r} "
                "and cannot be fitted on pairs. Set supervision='pairs', or fit it beforehand and "
                "give FrozenEstimator(fitted), of sklearn.frozen."
            )
        splitter = PairGroupKFold(self.cv, random_state=0) if _is_count(self.cv) else self.cv
        judged, found = [], []
        for train, test in splitter.split(pairs, labels, groups):
            if same[train].all() or not same[train].any():
                raise ValueError(
                    f"cv={self.cv!r} leaves a fold to learn from of {len(train)} pairs that are "
                    "all of one kind. Give more pairs, or take fewer folds."
                )
            learner = clone(self.estimator).fit(pairs[train], labels[train])
            judged.append(same[test])
            found.append(distances(learner, pairs[test]))
        judged = np.concatenate(judged)
        if judged.all() or not judged.any():
            raise ValueError(
                f"cv={self.cv!r} leaves {len(judged)} pairs to choose a threshold on, all of one "
                "kind. Give more pairs, or take fewer folds."
            )
        return judged, np.concatenate(found)

    def pair_distance(self, X):
        """Learned distance within each pair.

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
        return distances(self.estimator_, check_tuples(X, 2))

    def decision_function(self, X):
        """Threshold minus distance: how clearly a pair is accepted.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, ...)
            Pairs of points.

        Returns
        -------
        ndarray of shape (n_pairs,)
            At or above 0 where a pair is accepted.
        """
        distance = self.pair_distance(X)
        return self.threshold_ - distance

    def predict(self, X):
        """Accept or refuse pairs.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, ...)
            Pairs of points.

        Returns
        -------
        ndarray of shape (n_pairs,)
            ``classes_[1]`` where the distance is at most `threshold_`, else ``classes_[0]``.
        """
        accepted = self.pair_distance(X) <= self.threshold_
        return self.classes_[accepted.astype(int)]

    @available_if(lambda self: self.method is not None)
    def predict_proba(self, X):
        """Probability that pairs are different, and that they are the same.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, ...)
            Pairs of points.

        Returns
        -------
        ndarray of shape (n_pairs, 2)
            In the order of `classes_`. They fall with the distance, and do not depend on the
            threshold.
        """
        return probabilities(self.calibrator_, self.pair_distance(X))

    def score(self, X, y):
        """Area under the ROC curve, which does not depend on the threshold.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, ...)
            Pairs of points.
        y : array-like of shape (n_pairs,)
            1 for pairs of the same class, 0 or -1 for different ones.

        Returns
        -------
        float
            In [0, 1]; 0.5 is chance. For the accuracy give ``scoring="accuracy"``.
        """
        distance = self.pair_distance(X)
        return float(roc_auc_score(check_same(y, len(distance)), -distance))

    def _check_params(self):
        """Check the parameters; return the rate to keep to, if there is one."""
        check_scalar(self.beta, "beta", Real, min_val=0, include_boundaries="neither")
        if _is_count(self.cv):
            check_scalar(self.cv, "cv", Integral, min_val=2)
        if self.method is not None and self.method not in METHODS:
            raise ValueError(f"method={self.method!r} is unknown; choose one of {list(METHODS)}.")
        if not isinstance(self.threshold, Real) and self.threshold not in RULES:
            raise ValueError(
                f"threshold={self.threshold!r} is unknown; choose one of {list(RULES)}, or give a "
                "distance."
            )
        if self.threshold not in ("far", "frr"):
            return None
        name = f"target_{self.threshold}"
        if getattr(self, name) is None:
            raise ValueError(f"threshold={self.threshold!r} needs {name}, a rate between 0 and 1.")
        limits = {"min_val": 0, "max_val": 1, "include_boundaries": "neither"}
        return check_scalar(getattr(self, name), name, Real, **limits)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.classifier_tags.multi_class = False
        return tags


def distances(estimator, pairs):
    """Distance within each pair, by any fitted learner or transformer.

    Parameters
    ----------
    estimator : estimator
        Has `pair_distance`, or else `transform`, after which the base distance measures that goes
        with it, `skdml.distances.base_distance_of`. A pipeline that ends in a learner of pairs
        takes pairs in its other steps, too (`skdml.preprocessing.OnTuples`).
    pairs : ndarray of shape (n_pairs, 2, ...)
        Pairs of points.

    Returns
    -------
    ndarray of shape (n_pairs,)
        Distances.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)  # of a search
    if hasattr(estimator, "pair_distance"):
        return estimator.pair_distance(pairs)
    if hasattr(estimator, "steps") and _learns_from_pairs(estimator[-1]):
        return distances(estimator[-1], estimator[:-1].transform(pairs))
    if not hasattr(estimator, "transform"):
        raise ValueError(
            f"{type(estimator).__name__} has neither pair_distance nor transform, so that no "
            "distance can be measured by it."
        )
    first, second = (
        np.asarray(estimator.transform(points)) for points in (pairs[:, 0], pairs[:, 1])
    )
    return paired_base_distance(first, second, base_distance_of(estimator))


def _learns_from_pairs(learner):
    return getattr(learner, "supervision", None) == "pairs"


def calibrate(same, distance, method):
    """Fit a falling curve from distance to the probability of "same".

    Parameters
    ----------
    same : ndarray of bool, shape (n_pairs,)
        Whether a pair is genuine.
    distance : ndarray of shape (n_pairs,)
        Its distance.
    method : {"sigmoid", "isotonic"}
        The kind of curve.

    Returns
    -------
    estimator
        A :class:`~sklearn.linear_model.LogisticRegression` or
        :class:`~sklearn.isotonic.IsotonicRegression` of minus the distance.

    References
    ----------
    J. Platt, "Probabilistic outputs for support vector machines", 1999. B. Zadrozny, C. Elkan,
    "Transforming classifier scores into accurate multiclass probability estimates", KDD 2002.
    """
    if method == "isotonic":
        curve = IsotonicRegression(y_min=0, y_max=1, increasing=True, out_of_bounds="clip")
        return curve.fit(-distance, same)
    unit = distance.std() or 1.0  # a ridge that does not depend on the unit of the distance
    curve = LogisticRegression(C=1e4, solver="newton-cholesky").fit(-distance[:, None] / unit, same)
    curve.coef_ = np.maximum(curve.coef_, 0) / unit
    return curve


def probabilities(calibrator, distance):
    """Return the probabilities of "different" and "same" by a curve of `calibrate`."""
    if isinstance(calibrator, IsotonicRegression):
        alike = calibrator.predict(-distance)
        return np.column_stack([1 - alike, alike])
    return calibrator.predict_proba(-distance[:, None])


def _check_pairs(X, y):
    """Return the pairs of two points, whether each is genuine, both labels, and which are kept."""
    pairs = check_tuples(X, 2)
    same = check_same(y, len(pairs))
    keep = (pairs[:, 0] != pairs[:, 1]).reshape(len(pairs), -1).any(axis=1)
    if not keep.all():
        warnings.warn(
            f"{(~keep).sum()} of {len(keep)} pairs are of a point with itself; they tell nothing "
            "and are left out.",
            UserWarning,
            stacklevel=3,
        )
    if same[keep].all() or not same[keep].any():
        raise ValueError(
            f"Pairs of both kinds are needed; of the {keep.sum()} pairs of two points all are of "
            "one kind."
        )
    return pairs[keep], same[keep], np.unique(y), keep


def _is_count(cv):
    return isinstance(cv, Integral) and not isinstance(cv, bool)
