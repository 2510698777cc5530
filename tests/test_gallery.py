"""GalleryClassifier, compared with plain loops and by scikit-learn's checks."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from skdml import LearnedDistance, MahalanobisMetric, MetricLearner
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


@pytest.mark.parametrize("mode", ["prototype", "knn"])
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3])
def test_the_threshold_accepts_the_given_share_of_impostors(mode, rate):
    model = gallery(mode=mode, reject_far=rate).fit(X, Y)
    Z = METRIC.transform(X)
    if mode == "knn":
        nearest = np.array([cdist([z], Z[y != Y]).min() for z, y in zip(Z, Y, strict=True)])
    else:
        means = {y: Z[y == Y].mean(axis=0) for y in range(5, 10)}
        nearest = np.array(
            [
                min(np.linalg.norm(z - mean) for name, mean in means.items() if name != y)
                for z, y in zip(Z, Y, strict=True)
            ]
        )
    chosen = np.linspace(0, len(Z) - 1, min(len(Z), int(30 / rate))).astype(int)
    passing = (nearest[chosen] <= model.threshold_).sum()
    assert passing == int(rate * len(chosen))


@pytest.mark.parametrize("mode", ["prototype", "knn"])
def test_unseen_classes_are_accepted_at_the_given_rate(mode):
    # The rate holds for unseen classes from the same distribution as the enrolled ones.
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(400), 5)
    faces = rng.normal(size=(400, 8))[names] + 0.3 * rng.normal(size=(2000, 8))
    known = names < 200
    model = GalleryClassifier(FunctionTransformer(), mode=mode, reject_far=0.1)
    model.fit(faces[known], names[known])
    passing = (model.predict(faces[~known]) != -1).mean()
    assert 0.07 < passing < 0.13  # about 2.5 standard errors, for 200 unseen classes
    again = faces[known] + 0.1 * rng.normal(size=(1000, 8))
    assert model.score(again, names[known]) > 0.9


@pytest.mark.parametrize(
    ("names", "unknown", "predicted"),
    [
        (np.arange(10), None, -1),
        (np.arange(10), 99, 99),
        (np.array(list("0123456789")), None, "unknown"),
        (np.array(list("0123456789")), "nobody", "nobody"),
    ],
)
def test_unknown_label_is_predicted_for_rejected_queries(names, unknown, predicted):
    model = gallery(reject_far=0.1, unknown_label=unknown).fit(X, names[Y])
    far_off = model.predict(X[:3] + 1e4)
    assert far_off.tolist() == [predicted] * 3
    assert set(model.predict(X).tolist()) > {predicted}


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
        (
            {"reject_far": 1e-4},
            "reject_far=0.0001 cannot be estimated from 896 samples of 5 classes",
        ),
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
