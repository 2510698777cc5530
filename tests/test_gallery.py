"""GalleryClassifier, compared with plain loops and by scikit-learn's checks."""

import copy
import pickle
import threading

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from skdml import LearnedDistance, MahalanobisMetric, MetricLearner
from skdml._enrolment import gallery_distances
from skdml.gallery import GalleryClassifier

DIGITS, NAMES = load_digits(return_X_y=True)
UNSEEN = NAMES >= 5
METRIC = MahalanobisMetric("oas", within_class=True).fit(DIGITS[~UNSEEN], NAMES[~UNSEEN])
X, Y = DIGITS[UNSEEN], NAMES[UNSEEN]  # digits that the metric was not trained on
ENROLLED, QUERIES = slice(0, 300), slice(300, None)


class PlainDistance(MetricLearner):
    """A learner that returns points unchanged and measures by a given distance."""

    def __init__(self, distance="angular"):
        self.distance = distance

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return np.asarray(X, dtype=float)

    def get_metric(self):
        return LearnedDistance(self.transform, self.distance)

    def __sklearn_is_fitted__(self):
        return True


def gallery(**params):
    return GalleryClassifier(FrozenEstimator(METRIC), **params)


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pair
        for mode in ("prototype", "knn")
        for pair in estimator_checks_generator(GalleryClassifier(MahalanobisMetric(), mode=mode))
    ],
    ids=lambda value: value.mode if hasattr(value, "mode") else value.func.__name__,
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# Recognition


def test_prototypes_classify_by_the_nearest_mean_of_the_embeddings():
    model = gallery().fit(X[ENROLLED], Y[ENROLLED])
    Z = METRIC.transform(X)
    means = np.array([Z[ENROLLED][Y[ENROLLED] == name].mean(axis=0) for name in range(5, 10)])
    assert_allclose(model.prototypes_, means)
    D = cdist(Z[QUERIES], means)
    assert_array_equal(model.predict(X[QUERIES]), D.argmin(axis=1) + 5)
    assert_allclose(model.decision_function(X[QUERIES]), -(D**2))
    odds = np.exp(-(D**2) + (D**2).min(axis=1, keepdims=True))
    assert_allclose(model.predict_proba(X[QUERIES]), odds / odds.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_votes_match_k_nearest_neighbours(k):
    model = gallery(mode="knn", n_neighbors=k).fit(X[ENROLLED], Y[ENROLLED])
    Z = METRIC.transform(X)
    reference = KNeighborsClassifier(k).fit(Z[ENROLLED], Y[ENROLLED])
    share = reference.predict_proba(Z[QUERIES])
    assert_allclose(model.predict_proba(X[QUERIES]), share)
    distance, neighbors = reference.kneighbors(Z[QUERIES])
    found = model.kneighbors(X[QUERIES])
    assert_allclose(found[0], distance)
    assert_array_equal(found[1], neighbors)
    assert_array_equal(model.kneighbors(X[QUERIES], return_distance=False), neighbors)
    predicted = model.predict(X[QUERIES])
    best = share == share.max(axis=1, keepdims=True)
    alone = best.sum(axis=1) == 1
    assert_array_equal(predicted[alone], reference.predict(Z[QUERIES])[alone])
    for i in np.flatnonzero(~alone):  # in a tie, the nearest of the tied classes wins
        tied = reference.classes_[best[i]]
        assert predicted[i] == next(n for n in Y[ENROLLED][neighbors[i]] if n in tied)


def test_scores_by_samples_use_the_nearest_sample_of_each_class():
    model = gallery(mode="knn").fit(X[ENROLLED], Y[ENROLLED])
    Z = METRIC.transform(X)
    D = cdist(Z[QUERIES], Z[ENROLLED])
    nearest = np.array([D[:, Y[ENROLLED] == name].min(axis=1) for name in range(5, 10)]).T
    assert_allclose(model.decision_function(X[QUERIES]), -(nearest**2))


@pytest.mark.parametrize("mode", ["prototype", "knn"])
@pytest.mark.parametrize("distance", ["cosine", "angular", "manhattan", "sqeuclidean"])
def test_the_base_distance_of_the_learner_is_used(mode, distance):
    learner = PlainDistance(distance)
    model = GalleryClassifier(learner, mode=mode).fit(X[ENROLLED], Y[ENROLLED])
    enrolled = model.prototypes_ if mode == "prototype" else X[ENROLLED]
    D = learner.get_metric().pairwise(X[QUERIES], enrolled)
    found, neighbors = model.kneighbors(X[QUERIES], 2)
    assert_allclose(found, np.sort(D, axis=1)[:, :2])
    assert_allclose(np.take_along_axis(D, neighbors, axis=1), found)


def test_two_classes_give_one_score_for_each_query():
    two = np.isin(Y, [5, 6])
    model = gallery().fit(X[two], Y[two])
    score = model.decision_function(X)
    assert score.shape == (len(X),)
    assert_array_equal(model.predict(X), np.where(score > 0, 6, 5))


# Enrolling


def learner_bytes(model):
    return pickle.dumps(model.estimator_)


def test_enrolling_in_parts_equals_enrolling_at_once_and_keeps_the_learner():
    whole = gallery().fit(X, Y)
    model = gallery().partial_fit(X[Y == 7], Y[Y == 7])
    before = learner_bytes(model)
    for name in (5, 9, 6, 8):
        model.partial_fit(X[name == Y], Y[name == Y])
    assert learner_bytes(model) == before
    assert_array_equal(model.classes_, whole.classes_)
    assert_allclose(model.prototypes_, whole.prototypes_)
    assert_array_equal(model.predict(X), whole.predict(X))


@pytest.mark.parametrize("mode", ["prototype", "knn"])
def test_removing_a_class_equals_never_enrolling_it(mode):
    model = gallery(mode=mode).fit(X, Y)
    before = learner_bytes(model)
    model.remove(7)
    without = gallery(mode=mode).fit(X[Y != 7], Y[Y != 7])
    assert_array_equal(model.classes_, [5, 6, 8, 9])
    assert_array_equal(model.predict(X), without.predict(X))
    assert learner_bytes(model) == before
    with pytest.raises(ValueError, match=r"label=7 is not enrolled\. There are 4"):
        model.remove(7)


def test_an_empty_gallery_can_be_filled_again():
    model = gallery().fit(X[Y < 7], Y[Y < 7]).remove(5).remove(6)
    for call in (model.predict, model.predict_proba, model.decision_function, model.kneighbors):
        with pytest.raises(ValueError, match="The gallery is empty"):
            call(X)
    model.partial_fit(X[Y == 8], Y[Y == 8])
    assert set(model.predict(X)) == {8}


def test_the_learner_is_cloned_and_fitted_once():
    learner = MahalanobisMetric(within_class=True, covariance="oas")
    model = GalleryClassifier(learner).fit(X[ENROLLED], Y[ENROLLED])
    assert not hasattr(learner, "components_")
    before = learner_bytes(model)
    model.partial_fit(X[QUERIES], Y[QUERIES])
    assert learner_bytes(model) == before


def test_pipelines_grid_search_and_string_labels():
    names = np.array(list("?????fgsen"))[Y]
    steps = make_pipeline(StandardScaler(), MahalanobisMetric("oas", within_class=True))
    model = GalleryClassifier(steps)
    assert cross_val_score(model, X, names, cv=3).min() > 0.85
    search = GridSearchCV(model, {"mode": ["prototype", "knn"]}, cv=2).fit(X, names)
    assert search.best_estimator_.predict(X[:3]).dtype.kind == "U"
    inside = make_pipeline(StandardScaler(), clone(model)).fit(X, names)
    assert inside.score(X, names) > 0.9


# Rejection


def make_identities(rng, n, n_features=8, spread=5.0):
    return spread * rng.normal(size=(n, n_features))


def make_samples(rng, identities, n_each):
    who = np.repeat(np.arange(len(identities)), n_each)
    return identities[who] + rng.normal(size=(len(who), identities.shape[1])), who


def measure_galleries(n_classes, n_seeds=40, mode="prototype"):
    """Return the false-accept rate and the genuine acceptance relative to the ideal threshold."""
    results = []
    for seed in range(n_seeds):
        rng = np.random.default_rng(seed)
        identities = make_identities(rng, n_classes)
        model = GalleryClassifier(FunctionTransformer(), mode=mode, reject_far=0.05)
        model.fit(*make_samples(rng, identities, 8))
        unknown = make_samples(rng, make_identities(rng, 2000), 1)[0]
        known = make_samples(rng, identities, 4)[0]
        distance = model.kneighbors(unknown, 1)[0][:, 0]
        own = model.kneighbors(known, 1)[0][:, 0]
        ideal = (own <= np.quantile(distance, 0.05)).mean()
        rate = (model.predict(unknown) != -1).mean()
        results.append((rate, (own <= model.threshold_).mean() / ideal))
    return np.array(results).T


@pytest.mark.parametrize("mode", ["prototype", "knn"])
@pytest.mark.parametrize("n_classes", [50, 100])
def test_the_rate_is_kept_and_genuine_queries_are_accepted(n_classes, mode):
    # Warnings are errors here: 50 classes observe a rate of 5 %.
    rate, genuine = measure_galleries(n_classes, mode=mode)
    assert 0.005 < rate.mean() < 0.04
    assert (rate > 0.05).mean() <= 0.125  # expected are 5 % of 40 galleries
    assert genuine.mean() > 0.95


@pytest.mark.filterwarnings("ignore:reject_far=0.05 is extrapolated")
@pytest.mark.parametrize("n_classes", [3, 5, 10, 20])
def test_few_classes_err_on_the_safe_side(n_classes):
    rate, genuine = measure_galleries(n_classes)
    assert rate.mean() < 0.04
    if n_classes >= 5:
        assert genuine.mean() > 0.5


def test_few_classes_warn_that_the_rate_is_extrapolated():
    rng = np.random.default_rng(0)
    points, who = make_samples(rng, make_identities(rng, 49), 4)
    model = GalleryClassifier(FunctionTransformer(), reject_far=0.05)
    with pytest.warns(UserWarning, match="extrapolated from 49 classes; about 50 are needed"):
        model.fit(points, who)


def test_more_samples_of_the_same_classes_do_not_make_a_bound_bolder():
    # The bound counts classes: the limit of many samples is a threshold, not a growing one.
    thresholds = []
    for n_each in (5, 50):
        rng = np.random.default_rng(0)
        identities = make_identities(rng, 60)
        points, who = make_samples(rng, identities, n_each)
        model = GalleryClassifier(FunctionTransformer(), reject_far=0.05)
        thresholds.append(model.fit(points, who).threshold_)
    assert thresholds[1] < 1.1 * thresholds[0]


def test_more_confidence_gives_a_smaller_threshold():
    rng = np.random.default_rng(0)
    points, who = make_samples(rng, make_identities(rng, 60), 5)
    thresholds = [
        GalleryClassifier(FunctionTransformer(), reject_far=0.05, confidence=confidence)
        .fit(points, who)
        .threshold_
        for confidence in (0.5, 0.9, 0.99)
    ]
    assert thresholds[0] > 1.02 * thresholds[1] > 1.04 * thresholds[2]


class Memoriser(BaseEstimator):
    """A learner that moves the classes it was fitted on far apart, and no other point."""

    def fit(self, X, y, groups=None, sample_weight=None):
        self.X_, self.y_, self.groups_, self.weight_ = X, y, groups, sample_weight
        return self

    def transform(self, X):
        X = np.asarray(X, dtype=float)
        known = (X[:, None] == np.asarray(self.X_)).all(axis=2)
        code = np.where(known.any(axis=1), self.y_[known.argmax(axis=1)] + 1, 0)
        return np.hstack([X, 100.0 * code[:, None]])

    def __sklearn_is_fitted__(self):
        return hasattr(self, "X_")


class Separator(BaseEstimator):
    """A learner in units of its own that moves the classes it was fitted on apart."""

    def fit(self, X, y):
        self.means_ = np.array([X[y == name].mean(axis=0) for name in np.unique(y)])
        self.unit_ = 1000 / len(self.means_) ** 2
        return self

    def transform(self, X):
        D = cdist(X, self.means_)
        near = D.min(axis=1) < 5
        moved = X + np.where(near[:, None], 2 * self.means_[D.argmin(axis=1)], 0)
        return self.unit_ * moved


def test_a_learner_that_was_fitted_on_the_gallery_is_calibrated_on_held_out_classes():
    rates = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        points, who = make_samples(rng, make_identities(rng, 60), 4)
        unknown = make_samples(rng, make_identities(rng, 2000), 1)[0]
        model = GalleryClassifier(Separator(), reject_far=0.05).fit(points, who)
        in_sample = GalleryClassifier(FrozenEstimator(model.estimator_), reject_far=0.05)
        rates.append(
            [(one.predict(unknown) != -1).mean() for one in (model, in_sample.fit(points, who))]
        )
    kept, exceeded = np.mean(rates, axis=0)
    assert kept < 0.05 < exceeded


@pytest.mark.filterwarnings("ignore:reject_far")
def test_each_class_is_measured_by_a_learner_that_was_not_fitted_on_it():
    rng = np.random.default_rng(0)
    points, who = make_samples(rng, make_identities(rng, 10), 6)
    model = GalleryClassifier(Memoriser(), reject_far=0.05, cv=5).fit(points, who)
    # In sample, the classes are 100 apart.
    assert model.threshold_ < 30
    state = model._state
    assert sorted(np.concatenate([one.classes for one in state.held_out])) == list(range(10))
    for one in state.held_out:
        assert not set(one.estimator.y_) & set(one.classes)
    measured = gallery_distances(state, 0.05)[0]
    together = [
        np.isin(measured.query, one.classes) & np.isin(measured.other, one.classes)
        for one in state.held_out
    ]
    assert not np.any(together)
    assert set(measured.query) == set(range(10))
    # Classes that are enrolled later are unseen by every learner; removed ones stay trained.
    model.remove(0).partial_fit(points[who == 0] + 50, np.full(6, 99))
    model.partial_fit(points[who == 0], np.zeros(6, int))
    assert model.threshold_ < 30
    assert all(len(one.embeddings) == len(model.labels_) for one in model._state.held_out)


@pytest.mark.filterwarnings("ignore:reject_far")
def test_two_classes_that_the_learner_was_fitted_on_warn():
    model = GalleryClassifier(MahalanobisMetric("oas", within_class=True), reject_far=0.1)
    with pytest.warns(UserWarning, match="fitted on all 2 classes"):
        model.fit(X[Y < 7], Y[Y < 7])


@pytest.mark.parametrize("mode", ["prototype", "knn"])
def test_expected_genuine_acceptance_leaves_each_sample_out(mode):
    rng = np.random.default_rng(0)
    points, who = make_samples(rng, make_identities(rng, 60, spread=4.0), rng.integers(1, 6, 60))
    model = GalleryClassifier(FunctionTransformer(), mode=mode, reject_far=0.05).fit(points, who)
    shares = []
    for name in range(60):
        own = points[who == name]
        rest = [np.delete(own, i, axis=0) for i in range(len(own))]
        if len(own) > 1 and mode == "knn":
            distance = [np.linalg.norm(z - r, axis=1).min() for z, r in zip(own, rest, strict=True)]
        elif len(own) > 1:
            distance = [np.linalg.norm(z - r.mean(0)) for z, r in zip(own, rest, strict=True)]
        else:
            continue
        shares.append(np.mean(np.array(distance) <= model.threshold_))
    assert 0.1 < model.genuine_acceptance_ < 0.99
    assert_allclose(model.genuine_acceptance_, np.mean(shares))


def test_without_a_rate_all_genuine_queries_are_accepted():
    assert gallery().fit(X, Y).genuine_acceptance_ == 1


@pytest.mark.parametrize("distance", ["sqeuclidean", "cosine"])
def test_squared_distances_accept_the_same_queries(distance):
    rng = np.random.default_rng(0)
    points, who = make_samples(rng, make_identities(rng, 60), 4)
    if distance == "cosine":
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    fresh = points + 0.1 * rng.normal(size=points.shape)
    plain, squared = (
        GalleryClassifier(PlainDistance(name), mode="knn", reject_far=0.05).fit(points, who)
        for name in ("euclidean", distance)
    )
    scale = 2 if distance == "cosine" else 1
    assert_allclose(scale * squared.threshold_, plain.threshold_**2, rtol=1e-6)
    assert squared.predict(fresh).shape == who.shape


@pytest.mark.parametrize("mode", ["prototype", "knn"])
def test_equal_points_of_different_classes_accept_nothing(mode):
    points, who = np.zeros((120, 3)), np.arange(120) % 60
    model = GalleryClassifier(FunctionTransformer(), mode=mode, reject_far=0.05).fit(points, who)
    assert set(model.predict(points)) == {-1}


@pytest.mark.parametrize(
    ("names", "unknown", "predicted"),
    [
        (np.arange(10), None, -1),
        (np.arange(10), 99, 99),
        (np.array(list("0123456789")), None, "unknown"),
        (np.array(list("0123456789")), "nobody", "nobody"),
    ],
)
@pytest.mark.filterwarnings("ignore:reject_far=0.1 is extrapolated")
def test_unknown_label_is_predicted_for_rejected_queries(names, unknown, predicted):
    model = gallery(reject_far=0.1, unknown_label=unknown).fit(X, names[Y])
    far_off = model.predict(X[:3] + 1e4)
    assert far_off.tolist() == [predicted] * 3
    assert predicted in set(model.predict(X).tolist())


@pytest.mark.filterwarnings("ignore:reject_far=0.1 is extrapolated")
@pytest.mark.parametrize(
    ("labels", "unknown"),
    [
        (np.arange(251, 256, dtype=np.uint8), None),
        (np.arange(251, 256, dtype=np.uint8), 300),
        (np.arange(123, 128, dtype=np.int8), 1000),
        (np.arange(5, dtype=np.uint64) + np.uint64(2**64 - 5), None),
        (np.arange(5) + 2**62, 2**63),
        (np.arange(5), 2**70),
        (np.arange(5).astype(np.float32) + 2**24 - 6, 2**24 + 1),
        (np.arange(5), "unknown"),
        (np.array(list("abcde")), "nobody enrolled"),
        (np.array(list("abcde")), 0),
        (np.array(list("abcde"), dtype=object), None),
        (np.array([False, True]), None),
        (pd.Categorical(list("abcde")), None),
        (pd.Categorical(np.arange(251, 256, dtype=np.uint8)), None),
    ],
)
def test_unknown_is_no_enrolled_class_in_any_dtype(labels, unknown):
    n = len(labels)
    chosen = 5 + n > Y
    model = gallery(reject_far=0.1, unknown_label=unknown).fit(X[chosen], labels[Y[chosen] - 5])
    far_off = model.predict(X[:3] + 1e4)
    found = far_off[0]
    assert far_off.tolist() == [found] * 3
    assert found == (found if unknown is None else unknown)
    assert found not in list(labels)
    # The threshold aside, classes come back unchanged.
    near = gallery().fit(X[chosen], labels[Y[chosen] - 5]).predict(X[chosen])
    object.__setattr__(model._state, "threshold", np.inf)
    accepted = model.predict(X[chosen])
    assert accepted.tolist() == near.tolist()
    assert accepted.dtype == far_off.dtype


@pytest.mark.filterwarnings("ignore:reject_far=0.1 is extrapolated")
@pytest.mark.parametrize(
    ("names", "unknown", "message"),
    [
        ([5, -1], None, "label -1 of y is also the default label"),
        (["a", "unknown"], None, "label 'unknown' of y is also the default label"),
        ([5, 6], 6, "unknown_label=6 is a class in y"),
        ([5.0, 6.0], 6, "unknown_label=6 is a class in y"),
        ([False, True], 1, "unknown_label=1 is a class in y"),
        (["a", "b"], "b", "unknown_label='b' is a class in y"),
        ([5, 6], 0.5, "unknown_label=0.5 is neither an int nor a string"),
    ],
)
def test_the_unknown_label_may_not_be_enrolled(names, unknown, message):
    two, labels = Y < 7, np.array(names)
    model = gallery(reject_far=0.1, unknown_label=unknown)
    with pytest.raises(ValueError, match=message):
        model.fit(X[two], labels[Y[two] - 5])
    if unknown == 0.5:
        return
    others = {"U": ["c", "d"], "b": [False, False], "i": [8, 9], "f": [8, 9]}[labels.dtype.kind]
    chosen = two if labels.dtype.kind != "b" else Y == 5
    if labels.dtype.kind == "b":
        return
    model.fit(X[chosen], np.array(others)[Y[chosen] - 5])
    before = pickle.dumps(model)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X[two], labels[Y[two] - 5])
    assert pickle.dumps(model) == before


def test_the_unknown_label_may_be_a_class_if_nothing_is_rejected():
    names = np.where(Y == 5, -1, Y)
    assert -1 in gallery().fit(X, names).predict(X)


@pytest.mark.filterwarnings("ignore:reject_far=0.1 is extrapolated")
@pytest.mark.parametrize("unknown", [None, "unknown", 300])
def test_a_prediction_does_not_depend_on_the_batch(unknown):
    model = gallery(reject_far=0.1, unknown_label=unknown).fit(X, Y.astype(np.uint8))
    batch = np.vstack([X[:40], X[:5] + 1e4])
    whole = model.predict(batch)
    for i in range(len(batch)):
        alone = model.predict(batch[i : i + 1])
        assert alone.dtype == whole.dtype
        assert alone[0] == whole[i]


def test_labels_are_joined_without_loss():
    large = np.array([2**60 + 1, 2**60 + 2])
    two = Y < 7
    model = gallery().fit(X[two], large[Y[two] - 5])
    for new in (large.astype(np.uint64) + np.uint64(5), large.astype(float), [True, False]):
        with pytest.raises(ValueError, match="cannot be mixed"):
            model.partial_fit(X[two], np.asarray(new)[Y[two] - 5])
    assert_array_equal(model.classes_, large)
    with pytest.raises(ValueError, match="cannot be mixed"):
        gallery().fit(X[two], Y[two] == 5).partial_fit(X[two], Y[two])


@pytest.mark.filterwarnings("ignore:reject_far=0.1 is extrapolated")
def test_every_class_can_be_removed_and_the_last_threshold_stays():
    model = gallery(reject_far=0.1).fit(X, Y).remove(7).remove(8).remove(9)
    last = model.threshold_
    for name, n_left in ((5, 1), (6, 0)):
        with pytest.warns(UserWarning, match=f"{n_left} enrolled classes cannot determine"):
            model.remove(name)
        assert model.threshold_ == last
        assert len(model.classes_) == n_left
    with pytest.warns(UserWarning, match="1 enrolled classes cannot determine"):
        model.partial_fit(X[Y == 8], Y[Y == 8])
    with pytest.raises(ValueError, match="needs at least two classes, but y holds 1"):
        model.fit(X[Y == 8], Y[Y == 8])
    assert_array_equal(model.classes_, [8])
    last = model.threshold_
    model.partial_fit(X, Y)
    assert model.threshold_ != last


# Threads


def run_beside(work, read, n_reads=150):
    """Call `read` while a thread repeats `work`; return the results and the errors of `work`."""
    stop, errors = threading.Event(), []

    def loop():
        try:
            while not stop.is_set():
                work()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        results = [read() for _ in range(n_reads)]
    finally:
        stop.set()
        thread.join()
    return results, errors


@pytest.mark.parametrize("mode", ["prototype", "knn"])
def test_a_prediction_sees_one_whole_state(mode):
    rng = np.random.default_rng(0)
    points, who = make_samples(rng, make_identities(rng, 60), 4)
    names = np.array([f"p{i:02}" for i in who])
    model = GalleryClassifier(FunctionTransformer(), mode=mode, reject_far=0.05).fit(points, names)
    known = model.predict(points)
    far = np.full((20, 8), 1e3)

    def work():
        model.partial_fit(np.full((2, 8), 500.0), ["a newcomer"] * 2)
        model.remove("a newcomer")

    def read():
        found, unknown = model.predict(points), model.predict(far)
        calls = [model.predict_proba(points), model.decision_function(points)]
        right = (found == known).mean() > 0.9 and set(found) <= {*names, "unknown"}
        return right and set(unknown) == {"unknown"} and all(len(c) == len(points) for c in calls)

    results, errors = run_beside(work, read)
    assert all(results)
    assert not errors


def test_several_writers_lose_nothing():
    rng = np.random.default_rng(0)
    model = GalleryClassifier(FunctionTransformer()).fit(*make_samples(rng, np.eye(8) * 9, 3))

    def enrol(first):
        for name in range(first, first + 25):
            model.partial_fit(rng.normal(size=(1, 8)), [name])
            if name % 5 == 0:
                model.remove(name)

    writers = [threading.Thread(target=enrol, args=(100 * k,)) for k in (1, 2, 3, 4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    expected = [100 * k + i for k in (1, 2, 3, 4) for i in range(25) if i % 5]
    assert_array_equal(model.classes_, [*range(8), *expected])
    assert len(model.labels_) == 24 + len(expected)


def test_a_copy_keeps_its_state_and_a_pickle_has_its_own_lock():
    model = gallery().fit(X, Y)
    still, restored = copy.copy(model), pickle.loads(pickle.dumps(model))
    model.remove(5)
    restored.remove(6)
    assert_array_equal(still.classes_, [5, 6, 7, 8, 9])
    assert_array_equal(restored.classes_, [5, 7, 8, 9])


# Metadata


@pytest.mark.filterwarnings("ignore:reject_far")
@pytest.mark.parametrize("routing", [False, True])
def test_groups_reach_the_learner_with_the_rows_of_each_fold(routing):
    groups = np.arange(len(Y)) % 3
    with config_context(enable_metadata_routing=routing):
        learner = Memoriser()
        if routing:
            learner.set_fit_request(groups=True)
        model = GalleryClassifier(learner, reject_far=0.05)
        model.partial_fit(X, Y, groups=groups)
    assert_array_equal(model.estimator_.groups_, groups)
    for one in model._state.held_out:
        assert_array_equal(one.estimator.groups_, groups[~np.isin(Y, one.classes)])


def test_groups_are_routed_through_a_pipeline_and_a_search():
    groups = np.arange(len(Y)) % 3
    with config_context(enable_metadata_routing=True):
        learner = Memoriser().set_fit_request(groups=True)
        steps = make_pipeline(StandardScaler(), learner)
        search = GridSearchCV(GalleryClassifier(steps), {"n_neighbors": [1]}, cv=GroupKFold(2))
        search.fit(X, Y, groups=groups)
    assert_array_equal(search.best_estimator_.estimator_.steps[-1][1].groups_, groups)


@pytest.mark.filterwarnings("ignore:reject_far")
@pytest.mark.parametrize("kind", [pd.DataFrame, list, csr_array])
def test_classes_are_held_out_of_frames_lists_and_sparse_points(kind):
    plain = GalleryClassifier(PCA(4, random_state=0), reject_far=0.1).fit(X, Y)
    other = GalleryClassifier(PCA(4, random_state=0), reject_far=0.1).fit(kind(X), Y)
    assert_allclose(other.threshold_, plain.threshold_, rtol=1e-6)


class NeedsFiveClasses(Memoriser):
    def fit(self, X, y):
        if len(set(y)) < 5:
            raise ValueError("Five classes are needed.")
        return super().fit(X, y)


def test_a_learner_that_cannot_do_without_a_class_says_so():
    model = GalleryClassifier(NeedsFiveClasses(), reject_far=0.1)
    with pytest.raises(ValueError, match=r"fitted without some of the classes.*Five classes are"):
        model.fit(X, Y)
    assert not hasattr(model, "classes_")


def test_every_query_is_accepted_without_a_rate():
    model = gallery().fit(X, Y)
    assert model.threshold_ == np.inf
    assert set(model.predict(X + 1e6)) <= set(Y)


# Bad input


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"mode": "mean"}, "mode='mean' is unknown; choose one of"),
        ({"n_neighbors": 0}, "n_neighbors == 0, must be >= 1"),
        ({"reject_far": 1.0}, "reject_far == 1.0, must be < 1"),
        ({"reject_far": 0.1, "confidence": 1.0}, "confidence == 1.0, must be < 1"),
        ({"cv": 1}, "cv == 1, must be >= 2"),
        ({"unknown_label": 7}, "unknown_label=7 is a class in y"),
    ],
)
def test_invalid_parameters_are_refused_and_nothing_is_fitted(params, message):
    model = gallery(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y)
    assert not hasattr(model, "estimator_")
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_a_failed_call_changes_nothing():
    model = gallery(mode="knn").fit(X, Y)
    before = pickle.dumps(model)
    for bad_X, bad_y, message in [
        (X[:2], ["a", "b"], "cannot be mixed with the enrolled labels"),
        (X[:2], [5], "inconsistent numbers"),
        (X[:2], None, "requires y"),
        (X[:2, :3], [5, 6], "expecting 64 features"),
        (X[:2] * np.nan, [5, 6], "NaN"),
        (X[:2], [0.5, 1.5], "Unknown label type"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.partial_fit(bad_X, bad_y)
    with pytest.raises(ValueError, match="n_neighbors=897 is more than the 896 samples"):
        model.kneighbors(X, 897)
    with pytest.raises(ValueError, match="3 is not enrolled"):
        model.remove(3)
    assert pickle.dumps(model) == before


def test_a_frozen_learner_has_to_be_fitted():
    with pytest.raises(NotFittedError):
        GalleryClassifier(FrozenEstimator(MahalanobisMetric())).fit(X, Y)
    plain = GalleryClassifier(FunctionTransformer()).fit(X, Y)
    assert plain.score(X, Y) > 0.85
