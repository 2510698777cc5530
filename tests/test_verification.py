"""PairVerifier: thresholds by definition, rates on new pairs, use with scikit-learn."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binomtest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, brier_score_loss, det_curve, roc_auc_score, roc_curve
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    TunedThresholdClassifierCV,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import shuffle

from skdml import MahalanobisMetric, MetricLearner
from skdml.distances import LearnedDistance
from skdml.model_selection import PairGroupKFold, make_pairs
from skdml.preprocessing import OnTuples, TupleIndexer
from skdml.verification import PairVerifier, choose_threshold

DIGITS, NAMES = load_digits(return_X_y=True)
UNSEEN = NAMES >= 5
METRIC = MahalanobisMetric("oas", within_class=True).fit(DIGITS[~UNSEEN], NAMES[~UNSEEN])
X, Y = DIGITS[UNSEEN], NAMES[UNSEEN]  # digits that the metric was not trained on
INDICES, SAME = shuffle(*make_pairs(X, Y, 3000, indices=True, random_state=0), random_state=0)
PAIRS = X[INDICES]


class SpreadOfPairs(MetricLearner):
    """A learner that divides each feature by its typical difference within same pairs."""

    def __init__(self, floor=1.0, supervision="pairs"):
        self.floor = floor
        self.supervision = supervision

    def fit(self, X, y):
        self.n_fits_ = getattr(self, "n_fits_", 0) + 1
        self.points_ = np.unique(X.reshape(-1, X.shape[2]), axis=0)
        same = np.asarray(y) == 1
        self.scale_ = np.sqrt(((X[same, 0] - X[same, 1]) ** 2).mean(axis=0) + self.floor)
        return self

    def transform(self, X):
        return np.asarray(X) / self.scale_

    def get_metric(self):
        return LearnedDistance(self.transform)


def frozen(**params):
    return PairVerifier(FrozenEstimator(METRIC), **params)


# Thresholds


def rates(same, distance, threshold):
    accepted = distance <= threshold
    return accepted[~same].mean(), 1 - accepted[same].mean()


@st.composite
def judged(draw):
    n = draw(st.integers(2, 30))
    same = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    same[:2] = True, False
    distance = np.array(draw(st.lists(st.integers(0, 8), min_size=n, max_size=n)), dtype=float)
    return same, distance


@given(judged(), st.sampled_from([0.5, 1.0, 2.0]))
def test_thresholds_are_optimal(pairs, beta):
    same, distance = pairs
    all_thresholds = [-1.0, *np.unique(distance)]

    def accuracy(t):
        return ((distance <= t) == same).mean()

    def f_beta(t):
        hits = (same & (distance <= t)).sum()
        precision, recall = hits / max(1, (distance <= t).sum()), hits / same.sum()
        below = beta**2 * precision + recall
        return (1 + beta**2) * precision * recall / below if below else 0.0

    def unequal(t):
        far, frr = rates(same, distance, t)
        return -abs(far - frr)

    for rule, quality in [("accuracy", accuracy), ("f_beta", f_beta), ("eer", unequal)]:
        chosen = choose_threshold(same, distance, rule, beta=beta)
        best = max(quality(t) for t in all_thresholds)
        assert quality(chosen) == pytest.approx(best)
        assert chosen == min(t for t in all_thresholds if quality(t) == pytest.approx(best))


@given(judged(), st.sampled_from([0.5, 0.7, 0.9]))
def test_target_rates_are_kept_and_the_other_rate_is_lowest(pairs, target):
    same, distance = pairs
    all_thresholds = [-1.0, *np.unique(distance)]
    if (~same).sum() >= 1 / target:
        chosen = choose_threshold(same, distance, "far", target=target)
        far, frr = rates(same, distance, chosen)
        allowed = [rates(same, distance, t) for t in all_thresholds]
        assert far <= target
        assert frr == min(r for f, r in allowed if f <= target)
        assert far == min(f for f, r in allowed if r == frr)
    if same.sum() >= 1 / target:
        chosen = choose_threshold(same, distance, "frr", target=target)
        far, frr = rates(same, distance, chosen)
        assert frr <= target + 1e-12
        assert far == min(
            f for f, r in (rates(same, distance, t) for t in all_thresholds) if r <= target + 1e-12
        )


def test_target_rates_match_the_curves_of_scikit_learn():
    distance = METRIC.pair_distance(PAIRS)
    same = SAME == 1
    far, tar, thresholds = roc_curve(same, -distance, drop_intermediate=False)
    fpr, fnr, det_thresholds = det_curve(same, -distance)
    for rate in (0.01, 0.05, 0.2):
        chosen = choose_threshold(same, distance, "far", target=rate)
        place = np.flatnonzero(-thresholds == chosen)[0]
        assert far[place] <= rate
        assert tar[place] == tar[far <= rate].max()
        chosen = choose_threshold(same, distance, "frr", target=rate)
        place = np.flatnonzero(-det_thresholds == chosen)[0]
        assert fnr[place] <= rate
        assert fpr[place] == fpr[fnr <= rate].min()


@pytest.mark.parametrize(("rule", "target"), [("far", 0.01), ("far", 0.1), ("frr", 0.05)])
def test_target_rates_hold_on_new_pairs(rule, target):
    half = np.arange(len(X)) % 2 == 0  # halves of the points, so that the pairs share no point
    old, new = (make_pairs(X[h], Y[h], 4000, random_state=1) for h in (half, ~half))
    verifier = frozen(threshold=rule, **{f"target_{rule}": target}).fit(*old)
    predicted, same = verifier.predict(new[0]), new[1]
    wrong = predicted[same == 0] == 1 if rule == "far" else predicted[same == 1] == 0
    interval = binomtest(int(wrong.sum()), len(wrong)).proportion_ci(0.99)
    # The threshold was chosen on a sample of this size, so it has an error too.
    assert interval.low / 1.5 <= target <= interval.high * 1.5


# Fitting


def test_a_frozen_learner_does_not_change():
    before = pickle.dumps(METRIC)
    verifier = frozen().fit(PAIRS, SAME)
    assert pickle.dumps(METRIC) == before
    distance = METRIC.pair_distance(PAIRS)
    assert verifier.threshold_ == choose_threshold(SAME == 1, distance)
    assert_array_equal(verifier.decision_function(PAIRS), verifier.threshold_ - distance)
    assert_array_equal(verifier.predict(PAIRS), (distance <= verifier.threshold_).astype(int))
    assert verifier.score(PAIRS, SAME) == pytest.approx(roc_auc_score(SAME, -distance))


def test_the_threshold_is_chosen_on_points_that_are_not_used_in_training():
    verifier = PairVerifier(SpreadOfPairs(), cv=3).fit(PAIRS, SAME)
    found, same = [], []
    for train, test in PairGroupKFold(3, random_state=0).split(PAIRS):
        learner = SpreadOfPairs().fit(PAIRS[train], SAME[train])
        assert not set(map(bytes, PAIRS[test].reshape(-1, 64))) & set(map(bytes, learner.points_))
        found.append(learner.pair_distance(PAIRS[test]))
        same.append(SAME[test] == 1)
    expected = choose_threshold(np.concatenate(same), np.concatenate(found))
    assert verifier.threshold_ == expected
    whole = SpreadOfPairs().fit(PAIRS, SAME)
    assert_array_equal(verifier.estimator_.scale_, whole.scale_)


def test_folds_share_no_group():
    people = np.where(np.arange(len(X)) % 2, Y + 10, Y)[INDICES]
    verifier = PairVerifier(SpreadOfPairs(), cv=3).fit(PAIRS, SAME, groups=people)
    other = PairVerifier(SpreadOfPairs(), cv=3).fit(PAIRS, SAME)
    assert verifier.threshold_ != other.threshold_


def test_a_number_as_threshold_needs_no_folds():
    verifier = PairVerifier(SpreadOfPairs(), threshold=7.0).fit(PAIRS[:4], [1, 0, 1, 0])
    assert verifier.threshold_ == 7.0


@pytest.mark.parametrize("labels", [(0, 1), (-1, 1), (False, True)])
def test_predictions_have_the_given_labels(labels):
    y = np.array(labels)[SAME]
    verifier = frozen().fit(PAIRS, y)
    assert_array_equal(verifier.classes_, labels)
    assert verifier.predict(PAIRS).dtype == y.dtype
    assert verifier.threshold_ == frozen().fit(PAIRS, SAME).threshold_
    assert cross_val_score(frozen(), PAIRS, y, cv=3, scoring="accuracy").min() > 0.65


def test_pairs_of_a_point_with_itself_are_not_used():
    pairs = np.concatenate([PAIRS, np.stack([X[:5], X[:5]], axis=1)])
    y = np.concatenate([SAME, np.ones(5, int)])
    with pytest.warns(UserWarning, match="5 of 3005 pairs are of a point with itself"):
        verifier = frozen().fit(pairs, y)
    assert verifier.n_self_pairs_ == 5
    assert verifier.threshold_ == frozen().fit(PAIRS, SAME).threshold_


def test_a_pipeline_measures_by_the_distance_of_its_embeddings():
    steps = make_pipeline(StandardScaler(), MahalanobisMetric("oas")).fit(X)
    verifier = PairVerifier(FrozenEstimator(steps)).fit(PAIRS, SAME)
    Z = steps.transform(X)
    assert_allclose(
        verifier.pair_distance(PAIRS),
        np.linalg.norm(Z[INDICES[:, 0]] - Z[INDICES[:, 1]], axis=1),
    )


# Probabilities


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_probabilities_decrease_and_are_better_than_a_rescaled_distance(method):
    verifier = frozen(method=method).fit(PAIRS[::2], SAME[::2])
    distance, same = verifier.pair_distance(PAIRS[1::2]), SAME[1::2]
    P = verifier.predict_proba(PAIRS[1::2])
    assert_allclose(P.sum(axis=1), 1)
    assert (np.diff(P[np.argsort(distance), 1]) <= 1e-12).all()
    linear = 1 - (distance - distance.min()) / np.ptp(distance)
    assert brier_score_loss(same, P[:, 1]) < 0.9 * brier_score_loss(same, linear)
    assert abs(P[:, 1].mean() - same.mean()) < 0.03


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_probabilities_do_not_depend_on_the_unit(method):
    found = []
    for unit in (1e-6, 1.0, 1e6):
        verifier = PairVerifier(FrozenEstimator(FunctionTransformer().fit(X)), method=method)
        found.append(verifier.fit(PAIRS * unit, SAME).predict_proba(PAIRS * unit))
    assert_allclose(found[0], found[1], atol=1e-4)
    assert_allclose(found[2], found[1], atol=1e-4)


def test_probabilities_never_increase_with_the_distance():
    verifier = frozen(method="sigmoid").fit(PAIRS, 1 - SAME)  # with same and different exchanged
    assert_allclose(np.ptp(verifier.predict_proba(PAIRS)[:, 1]), 0, atol=1e-12)


def test_predict_proba_needs_a_method():
    assert not hasattr(frozen(), "predict_proba")


# Use with scikit-learn


def test_pipeline_of_indices_in_a_grid_search():
    model = make_pipeline(
        TupleIndexer(X), OnTuples(StandardScaler()), PairVerifier(SpreadOfPairs(), cv=3)
    )
    grid = {
        "pairverifier__estimator__floor": [1e-3, 1.0],
        "pairverifier__threshold": ["eer", "accuracy"],
    }
    search = GridSearchCV(model, grid, cv=PairGroupKFold(3, random_state=0), error_score="raise")
    search.fit(INDICES, SAME)
    assert search.best_score_ > 0.75
    assert_array_equal(search.predict(INDICES), search.best_estimator_.predict(INDICES))


def test_scoring_does_not_change_the_verifier():
    verifier = frozen().fit(PAIRS, SAME)
    before = pickle.dumps(verifier)
    verifier.score(PAIRS[:50], SAME[:50])
    accuracy_score(SAME, verifier.predict(PAIRS))
    cross_val_score(verifier, PAIRS, SAME, cv=2)
    assert pickle.dumps(verifier) == before


def test_calibration_and_tuning_by_scikit_learn():
    calibrated = CalibratedClassifierCV(frozen(), cv=3).fit(PAIRS, SAME)
    assert brier_score_loss(SAME, calibrated.predict_proba(PAIRS)[:, 1]) < 0.21
    tuned = TunedThresholdClassifierCV(frozen(), scoring="balanced_accuracy", cv=3)
    assert (tuned.fit(PAIRS, SAME).predict(PAIRS) == SAME).mean() > 0.65
    fixed = FixedThresholdClassifier(frozen(), threshold=0.0, response_method="decision_function")
    fixed.fit(PAIRS, SAME)
    assert_array_equal(fixed.predict(PAIRS), frozen().fit(PAIRS, SAME).predict(PAIRS))


def test_clone_and_pickle():
    verifier = frozen(threshold="far", target_far=0.05, method="isotonic").fit(PAIRS, SAME)
    assert clone(verifier).get_params()["target_far"] == 0.05
    again = pickle.loads(pickle.dumps(verifier))
    assert_array_equal(again.predict_proba(PAIRS), verifier.predict_proba(PAIRS))


# Bad input


@pytest.mark.parametrize(
    ("params", "pairs", "y", "message"),
    [
        ({}, X, SAME, r"pairs need the shape \(n_pairs, 2, n_features\)"),
        ({}, PAIRS, SAME + 1, "y of pairs has to hold 1"),
        ({}, PAIRS, None, "requires y"),
        ({}, PAIRS[:5], SAME, "one label for each of the 5 pairs"),
        ({}, PAIRS, np.ones(3000), "all 3000 are the same"),
        ({"threshold": "best"}, PAIRS, SAME, "threshold='best' is unknown; choose one of"),
        ({"threshold": "far"}, PAIRS, SAME, "threshold='far' needs target_far"),
        ({"threshold": "frr", "target_frr": 0.0}, PAIRS, SAME, "target_frr == 0.0, must be > 0"),
        (
            {"threshold": "far", "target_far": 1e-4},
            PAIRS,
            SAME,
            "1500 different pairs: at least 1 / 0.0001 = 10000",
        ),
        ({"threshold": "frr", "target_frr": 1e-4}, PAIRS, SAME, "1500 same pairs: at least"),
        ({"beta": 0.0}, PAIRS, SAME, "beta == 0.0, must be > 0"),
        ({"method": "platt"}, PAIRS, SAME, "method='platt' is unknown"),
        ({"cv": 1}, PAIRS, SAME, "cv == 1, must be >= 2"),
    ],
)
def test_invalid_input_is_refused_and_nothing_is_fitted(params, pairs, y, message):
    verifier = frozen(**params)
    with pytest.raises(ValueError, match=message):
        verifier.fit(pairs, y)
    assert [name for name in vars(verifier) if name.endswith("_")] == []
    with pytest.raises(NotFittedError):
        verifier.predict(PAIRS)


def test_pairs_of_two_points_of_one_kind_are_refused():
    pairs = np.concatenate([PAIRS[:3], np.stack([X[:3], X[:3]], axis=1)])
    with (
        pytest.warns(UserWarning, match="3 of 6 pairs"),
        pytest.raises(ValueError, match="all 3 pairs of two different points are of one kind"),
    ):
        frozen().fit(pairs, [0, 0, 0, 1, 1, 1])


def test_learners_of_labels_are_refused():
    with pytest.raises(ValueError, match="Set supervision='pairs', or fit it beforehand"):
        PairVerifier(SpreadOfPairs(supervision="labels")).fit(PAIRS, SAME)


def test_too_few_pairs_for_the_folds_are_refused():
    with pytest.raises(ValueError, match="fewer folds"):
        PairVerifier(SpreadOfPairs(), cv=2).fit(PAIRS[:2], [1, 0])


def test_estimators_without_a_distance_are_refused():
    with pytest.raises(ValueError, match="neither pair_distance nor transform"):
        PairVerifier(FrozenEstimator(choose_threshold), threshold=1.0).fit(PAIRS, SAME)
