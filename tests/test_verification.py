"""PairVerifier: thresholds by definition, rates on new pairs, use with scikit-learn."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import beta, binomtest, chi2, norm, t
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
from skdml._accept_rates import count_safe_accepts, extrapolate_distance, find_identities
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


def thresholds_between(distance):
    """Return -1, the values halfway between distances, and one above all of them."""
    values = np.unique(distance)
    return [-1.0, *(values[:-1] + (values[1:] - values[:-1]) / 2), values[-1]]


def literal_bound(same, distance, threshold, identities, target, confidence=0.95):
    """Return whether an upper bound of the false-accept rate is at most the target."""
    pairs = [tuple(sorted(p)) for p in identities[~same]]
    accepted = distance[~same] <= threshold
    rate, n = accepted.mean(), len(pairs)
    people, couples = {p for pair in pairs for p in pair}, set(pairs)

    def squares(units, members):
        residuals = [
            sum((a - rate) * members(p, u) for p, a in zip(pairs, accepted, strict=True))
            for u in units
        ]
        return sum(r**2 for r in residuals), sum(
            sum(members(p, u) for p in pairs) ** 2 for u in units
        )

    total, people_pairs = squares(people, lambda p, u: p.count(u))
    within, couple_pairs = squares(couples, lambda p, u: p == u)
    n_people, n_couples = (2 * n) ** 2 / people_pairs, n**2 / couple_pairs
    between = (total - 2 * within) * n_people / (n_people - 1)
    between = max(between, 0.5 * rate**2 * (people_pairs - 2 * couple_pairs))
    between *= min(max(target / rate, 1), 2) if rate else 1
    variance = (within + between) / n**2
    worth = min(n_couples, rate * (1 - rate) / variance) if rate else n_couples
    worth *= (norm.ppf(confidence) / t.ppf(confidence, n_people - 1)) ** 2
    return rate <= target and beta.ppf(confidence, worth * rate + 1, worth * (1 - rate)) <= target


@st.composite
def judged(draw):
    n = draw(st.integers(2, 30))
    same = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    same[:2] = True, False
    distance = np.array(draw(st.lists(st.integers(0, 8), min_size=n, max_size=n)), dtype=float)
    return same, distance


@pytest.mark.filterwarnings("ignore:.*accepts none of")
@given(judged(), st.sampled_from([0.5, 1.0, 2.0]))
def test_thresholds_are_optimal(pairs, beta):
    same, distance = pairs
    all_thresholds = thresholds_between(distance)

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
        smallest = min(t for t in all_thresholds if quality(t) == pytest.approx(best))
        assert chosen == pytest.approx(smallest, rel=1e-9)


@pytest.mark.filterwarnings("ignore:.*accepts none of")
@given(judged(), st.sampled_from([0.5, 0.7, 0.9]))
def test_target_rates_are_kept_and_the_other_rate_is_lowest(pairs, target):
    same, distance = pairs
    all_thresholds = thresholds_between(distance)
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
        place = np.flatnonzero(-thresholds <= chosen)[-1]
        assert far[place] <= rate
        assert tar[place] == tar[far <= rate].max()
        chosen = choose_threshold(same, distance, "frr", target=rate)
        place = np.flatnonzero(-det_thresholds <= chosen)[0]  # from the largest to the smallest
        assert fnr[place] <= rate
        assert fpr[place] == fpr[fnr <= rate].min()


@pytest.mark.parametrize(("rule", "target"), [("far", 0.01), ("far", 0.1), ("frr", 0.05)])
def test_target_rates_hold_on_new_pairs(rule, target):
    half = np.arange(len(X)) % 2 == 0  # halves of the points, so that the pairs share no point
    old, new = (make_pairs(X[h], Y[h], 4000, random_state=1) for h in (half, ~half))
    # The new pairs are of the same five classes, so no bound over classes is needed.
    verifier = frozen(threshold=rule, confidence=None, **{f"target_{rule}": target}).fit(*old)
    predicted, same = verifier.predict(new[0]), new[1]
    wrong = predicted[same == 0] == 1 if rule == "far" else predicted[same == 1] == 0
    interval = binomtest(int(wrong.sum()), len(wrong)).proportion_ci(0.99)
    # The threshold was chosen on a sample of this size, so it has an error too.
    assert interval.low / 1.5 <= target <= interval.high * 1.5


# Equal answers alone and in a batch


def test_thresholds_lie_between_distances_that_differ_by_more_than_rounding():
    same = np.array([True, True, False, False])
    for dtype, last_bit in (("float32", 1e-7), ("float64", 1e-15)):
        distance = np.array([1, 2, 2 + 2 * last_bit, 4], dtype=dtype)
        assert distance[1] < distance[2]  # two values, equal but for rounding
        assert choose_threshold(same, distance, "accuracy") == 1.5
        assert choose_threshold(same, distance, "frr", target=0.5) == 1.5
    assert choose_threshold(same, np.array([1.0, 2, 3, 4])) == 2.5
    assert choose_threshold(same, np.array([1.0, 4, 2, 3]), "f_beta", beta=9.0) > 4


@pytest.mark.parametrize("rule", ["accuracy", "f_beta", "precision", "eer", "far", "frr"])
def test_a_pair_has_one_answer_alone_and_in_a_batch(rule):
    target = {"precision": "target_precision", "far": "target_far", "frr": "target_frr"}.get(rule)
    params = {target: 0.8 if rule == "precision" else 0.1} if target else {}
    for seed in range(5):
        pairs, same = make_pairs(X, Y, 300, random_state=seed)
        verifier = frozen(threshold=rule, confidence=None, **params).fit(pairs, same)
        distance = verifier.pair_distance(pairs)
        assert abs(distance - verifier.threshold_).min() > 1e-12 * verifier.threshold_
        near = np.argsort(abs(distance - verifier.threshold_))[:3]
        alone = [verifier.predict(pairs[i : i + 1])[0] for i in near]
        assert_array_equal(alone, verifier.predict(pairs)[near])


def test_a_rate_that_is_a_ratio_of_counts_is_reached():
    distance = np.r_[np.arange(1, 101.0), np.arange(1, 101) - 0.5]
    same = np.arange(200) >= 100
    for k in range(1, 100):  # k / 100 * 100 is below k for k = 29, 57 and 58
        assert choose_threshold(same, distance, "far", target=k / 100) == k + 0.75
        assert choose_threshold(same, distance, "frr", target=k / 100) == 100 - k - 0.25


# Bounds on the false-accept rate


def draw_people(n_people, seed, n_samples=6, n_features=8):
    """Return points and identities of people whose centres spread three times as far as samples."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(n_people), n_samples)
    centres = rng.normal(size=(n_people, n_features)) * 3
    return centres[who] + rng.normal(size=(len(who), n_features)), who


def true_far(threshold, n_features=8):
    """Return the false-accept rate for pairs of new people: the distribution is known."""
    return chi2.cdf(max(threshold, 0) ** 2 / 20, n_features)


def fit_on_people(n_people, target, seed, told=True, n_pairs=2000):
    points, who = draw_people(n_people, seed)
    rows, same = make_pairs(points, who, n_pairs, indices=True, random_state=seed)
    learner = FrozenEstimator(FunctionTransformer().fit(points))
    verifier = PairVerifier(learner, threshold="far", target_far=target)
    return verifier.fit(points[rows], same, groups=who[rows] if told else None)


@pytest.mark.parametrize(("n_people", "target"), [(5, 0.01), (5, 0.05), (20, 0.01)])
@pytest.mark.filterwarnings("ignore:.*accepts none of")
def test_few_identities_warn_and_err_on_the_safe_side(n_people, target):
    found = []
    for seed in range(40):
        with pytest.warns(UserWarning, match="is extrapolated"):
            found.append(true_far(fit_on_people(n_people, target, seed).threshold_))
    # With a probability of 5 %, more than 5 of 40 occur once in 29 runs; the draws are fixed.
    assert (np.array(found) > target).sum() <= 3
    assert np.mean(found) < target / 2


@pytest.mark.parametrize("target", [0.05, 0.01])
def test_many_identities_keep_the_rate_and_accept_most_same_pairs(target):
    thresholds = [fit_on_people(50, target, seed, n_pairs=20_000).threshold_ for seed in range(40)]
    assert sum(true_far(found) > target for found in thresholds) <= 5
    accepted = np.mean(chi2.cdf(np.square(thresholds) / 2, 8))
    ideal = chi2.cdf(10 * chi2.ppf(target, 8), 8)
    assert accepted > 0.9 * ideal


def test_shared_points_tell_identities_that_groups_tell():
    told, untold = (fit_on_people(50, 0.05, 0, told, n_pairs=3000) for told in (True, False))
    assert untold.threshold_ == told.threshold_


def test_points_are_counted_where_links_contradict_labels():
    pairs = np.array([[[0.0], [1.0]], [[1.0], [2.0]], [[-0.0], [2.0]], [[3.0], [4.0]]])
    linked = find_identities(pairs, np.array([True, True, True, False]))
    assert_array_equal(linked, [[0, 0], [0, 0], [0, 0], [1, 2]])
    assert_array_equal(
        find_identities(pairs, np.array([True, True, False, False])),
        [[0, 1], [1, 2], [0, 2], [3, 4]],
    )


@pytest.mark.parametrize("n_people", [12, 30])
@pytest.mark.parametrize("target", [0.15, 0.3])
def test_the_bound_matches_its_formula(n_people, target):
    points, who = draw_people(n_people, 1, n_samples=2, n_features=2)
    rows, same = make_pairs(points, who, 120, indices=True, random_state=0)
    distance, same = np.linalg.norm(points[rows[:, 0]] - points[rows[:, 1]], axis=1), same == 1
    places = thresholds_between(distance)
    safe = [literal_bound(same, distance, p, who[rows], target) for p in places[:40]]
    largest = places[np.argmin(safe) - 1]
    chosen = choose_threshold(
        same, distance, "far", target=target, confidence=0.95, identities=who[rows]
    )
    assert (distance[same] <= chosen).sum() == (distance[same] <= largest).sum()
    assert chosen <= largest
    assert 0 < (distance[~same] <= chosen).mean() < target


@pytest.mark.parametrize("n_accepted", [0, 3, 10])
def test_independent_pairs_have_the_bound_of_clopper_and_pearson(n_accepted):
    upper = binomtest(n_accepted, 500, alternative="less").proportion_ci(0.95).high
    pairs = np.arange(1000).reshape(-1, 2)
    inflation = (norm.ppf(0.95) / t.ppf(0.95, 999)) ** 2  # close to 1
    assert inflation > 0.997
    assert count_safe_accepts(pairs, 1.01 * upper, 0.95)[0] == n_accepted
    assert count_safe_accepts(pairs, 0.99 * upper, 0.95)[0] == n_accepted - 1


def test_extrapolation_follows_the_distribution_of_normal_classes():
    rng = np.random.default_rng(0)
    for n_features in (1, 2, 8, 64):
        distance = np.linalg.norm(rng.normal(size=(5000, n_features)), axis=1)
        for rate in (1e-2, 1e-4):
            found = extrapolate_distance(distance, 200, rate, 0.95)
            expected = np.sqrt(chi2.ppf(rate, n_features))
            # On the safe side by the margin of 200 observations.
            assert 0.05 * rate < chi2.cdf(found**2, n_features) < rate
            assert found < expected
    assert extrapolate_distance(np.ones(9), 1.0, 0.01, 0.95) == -1
    assert extrapolate_distance(np.ones(9), 5.0, 0.01, 0.95) < 1


# Precision, and rules that accept nothing


@given(judged(), st.sampled_from([0.3, 0.5, 0.9]))
def test_precision_is_kept_and_recall_is_highest(pairs, target):
    same, distance = pairs

    def precise(p):
        accepted = same[distance <= p]
        return len(accepted) > 0 and accepted.mean() >= target

    recalls = [(same & (distance <= p)).sum() for p in thresholds_between(distance) if precise(p)]
    if max(recalls, default=0) == 0:
        with pytest.warns(UserWarning, match="No threshold reaches target_precision"):
            assert choose_threshold(same, distance, "precision", target=target) == -1
        return
    chosen = choose_threshold(same, distance, "precision", target=target)
    assert precise(chosen)
    assert (same & (distance <= chosen)).sum() == max(recalls)


def test_precision_depends_on_the_base_rate_in_use():
    distance, same = METRIC.pair_distance(PAIRS), SAME == 1
    verifier = frozen(threshold="precision", target_precision=0.8, prior=0.2).fit(PAIRS, SAME)
    far, frr = rates(same, distance, verifier.threshold_)
    assert 0.2 * (1 - frr) / (0.2 * (1 - frr) + 0.8 * far) >= 0.8
    assert (
        verifier.threshold_
        < frozen(threshold="precision", target_precision=0.8).fit(PAIRS, SAME).threshold_
    )


def test_accuracy_that_accepts_nothing_warns():
    distance = np.linspace(0, 1, 2000)
    same = (np.arange(2000) % 50 == 49) & (distance < 0.5)  # nearer, but 1 % of all pairs
    with pytest.warns(UserWarning, match="accepts none of the 20 same pairs. Rejecting every pair"):
        assert choose_threshold(same, distance) == -1
    assert choose_threshold(same, distance, prior=0.5) == pytest.approx(
        distance[same][-1], abs=1e-3
    )


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
    expected = choose_threshold(np.concatenate(same), np.concatenate(found), prior=SAME.mean())
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


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_probabilities_are_the_base_rate_where_the_distance_says_nothing(method):
    wrong_way = frozen(method=method, threshold=1.0).fit(PAIRS[500:], 1 - SAME[500:])
    base_rate = 1 - SAME[500:].mean()
    assert wrong_way.predict_proba(PAIRS[500:])[:, 1].mean() == pytest.approx(base_rate)
    equal = np.stack([np.zeros((300, 1)), np.ones((300, 1))], axis=1)
    learner = FrozenEstimator(FunctionTransformer().fit(equal[:, 0]))
    for prior in (None, 0.01, 0.9):
        verifier = PairVerifier(learner, method=method, threshold=1.0, prior=prior)
        found = verifier.fit(equal, np.arange(300) % 3 == 0).predict_proba(equal[:2])
        expected = 1 / 3 if prior is None else prior
        assert_allclose(found, [[1 - expected, expected]] * 2, rtol=1e-6)
        assert verifier.prior_ == pytest.approx(expected)


def test_probabilities_at_another_base_rate_follow_the_theorem_of_bayes():
    plain = frozen(method="sigmoid", threshold=1.0).fit(PAIRS, SAME).predict_proba(PAIRS)
    rare = frozen(method="sigmoid", threshold=1.0, prior=0.1).fit(PAIRS, SAME).predict_proba(PAIRS)
    odds = plain[:, 1] / plain[:, 0] * (0.1 / 0.9)  # half of the pairs are same
    assert_allclose(rare[:, 1], odds / (1 + odds))


def test_probabilities_have_the_base_rate_of_the_pairs_not_of_the_folds():
    # Within folds of identities, a larger share of the pairs is same than in all pairs.
    points, who = draw_people(20, 0)
    rows, same = make_pairs(points, who, 1000, indices=True, random_state=0)
    points = np.random.default_rng(1).normal(size=(len(points), 2)) + 100  # says nothing
    verifier = PairVerifier(SpreadOfPairs(), threshold=1.0, method="sigmoid")
    verifier.fit(points[rows], same, groups=who[rows])
    assert verifier.calibrator_.predict_proba([[-1.0]])[0, 1] > 0.6
    assert abs(verifier.predict_proba(points[rows])[:, 1].mean() - same.mean()) < 0.05


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
    verifier = frozen(threshold="far", target_far=0.05, confidence=None, method="isotonic").fit(
        PAIRS, SAME
    )
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
            {"threshold": "far", "target_far": 1e-4, "confidence": None},
            PAIRS,
            SAME,
            "1500 different pairs: at least 1 / 0.0001 = 10000",
        ),
        ({"threshold": "frr", "target_frr": 1e-4}, PAIRS, SAME, "1500 same pairs: at least"),
        ({"threshold": "far", "target_far": np.nan}, PAIRS, SAME, "target_far == nan"),
        ({"threshold": "frr", "target_frr": np.nan}, PAIRS, SAME, "target_frr == nan"),
        ({"threshold": "precision"}, PAIRS, SAME, "threshold='precision' needs target_precision"),
        (
            {"threshold": "precision", "target_precision": np.nan},
            PAIRS,
            SAME,
            "target_precision == nan",
        ),
        ({"threshold": np.nan}, PAIRS, SAME, "threshold=nan is not a distance"),
        ({"threshold": True}, PAIRS, SAME, "threshold=True is unknown"),
        ({"prior": np.nan}, PAIRS, SAME, "prior == nan"),
        ({"prior": 1.0}, PAIRS, SAME, "prior == 1.0, must be < 1"),
        ({"confidence": np.nan}, PAIRS, SAME, "confidence == nan"),
        ({"confidence": 95}, PAIRS, SAME, "confidence == 95, must be < 1"),
        ({"beta": np.nan}, PAIRS, SAME, "beta == nan, must be finite"),
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


def test_rules_and_targets_of_functions_are_checked():
    same, distance = SAME[:9] == 1, np.arange(9.0)
    with pytest.raises(ValueError, match="target_far=None is not a rate"):
        choose_threshold(same, distance, "far")
    with pytest.raises(ValueError, match="rule='best' is unknown"):
        choose_threshold(same, distance, "best")
    with pytest.raises(ValueError, match="NaN"):
        choose_threshold(same, distance * np.nan)


def test_groups_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"groups needs the shape .* = \(3000, 2\)"):
        frozen().fit(PAIRS, SAME, groups=SAME)


def test_learners_of_labels_are_refused():
    with pytest.raises(ValueError, match="Set supervision='pairs', or fit it beforehand"):
        PairVerifier(SpreadOfPairs(supervision="labels")).fit(PAIRS, SAME)


def test_too_few_pairs_for_the_folds_are_refused():
    with pytest.raises(ValueError, match="fewer folds"):
        PairVerifier(SpreadOfPairs(), cv=2).fit(PAIRS[:2], [1, 0])


def test_estimators_without_a_distance_are_refused():
    with pytest.raises(ValueError, match="neither pair_distance nor transform"):
        PairVerifier(FrozenEstimator(choose_threshold), threshold=1.0).fit(PAIRS, SAME)
