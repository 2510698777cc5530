"""Enrol, recognise, reject, remove; against plain loops, and through scikit-learn's checks."""

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
STRANGERS = NAMES >= 5
METRIC = MahalanobisMetric("oas", within_class=True).fit(DIGITS[~STRANGERS], NAMES[~STRANGERS])
X, Y = DIGITS[STRANGERS], NAMES[STRANGERS]  # digits the metric never saw
ENROLLED, QUERIES = slice(0, 300), slice(300, None)


class Angles(MetricLearner):
    """The plain angle between points."""

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


def test_prototypes_are_nearest_centroids_of_the_embeddings():
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
def test_votes_of_samples_are_those_of_nearest_neighbours(k):
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
    for i in np.flatnonzero(~alone):  # a tie: the nearest of those that tie
        tied = reference.classes_[best[i]]
        assert predicted[i] == next(n for n in Y[ENROLLED][neighbors[i]] if n in tied)


def test_scores_by_sample_are_those_of_the_nearest_of_each_class():
    model = gallery(mode="knn").fit(X[ENROLLED], Y[ENROLLED])
    Z = METRIC.transform(X)
    D = cdist(Z[QUERIES], Z[ENROLLED])
    nearest = np.array([D[:, Y[ENROLLED] == name].min(axis=1) for name in range(5, 10)]).T
    assert_allclose(model.decision_function(X[QUERIES]), -(nearest**2))


@pytest.mark.parametrize("mode", ["prototype", "knn"])
@pytest.mark.parametrize("distance", ["cosine", "angular", "manhattan", "sqeuclidean"])
def test_other_distances_are_those_of_the_learner(mode, distance):
    learner = Angles(distance)
    model = GalleryClassifier(learner, mode=mode).fit(X[ENROLLED], Y[ENROLLED])
    held = model.prototypes_ if mode == "prototype" else X[ENROLLED]
    D = learner.get_metric().pairwise(X[QUERIES], held)
    found, neighbors = model.kneighbors(X[QUERIES], 2)
    assert_allclose(found, np.sort(D, axis=1)[:, :2])
    assert_allclose(np.take_along_axis(D, neighbors, axis=1), found)


def test_two_classes_have_one_score_a_query():
    two = np.isin(Y, [5, 6])
    model = gallery().fit(X[two], Y[two])
    score = model.decision_function(X)
    assert score.shape == (len(X),)
    assert_array_equal(model.predict(X), np.where(score > 0, 6, 5))


# Enrolling


def learner_bytes(model):
    return pickle.dumps(model.estimator_)


def test_enrolling_piece_by_piece_is_enrolling_at_once_and_leaves_the_learner_alone():
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
def test_a_removed_class_is_as_if_it_had_never_been(mode):
    model = gallery(mode=mode).fit(X, Y)
    before = learner_bytes(model)
    model.remove(7)
    without = gallery(mode=mode).fit(X[Y != 7], Y[Y != 7])
    assert_array_equal(model.classes_, [5, 6, 8, 9])
    assert_array_equal(model.predict(X), without.predict(X))
    assert learner_bytes(model) == before
    with pytest.raises(ValueError, match="7 is not enrolled, so it cannot be removed; there are 4"):
        model.remove(7)


def test_a_gallery_may_be_emptied_and_filled_again():
    model = gallery().fit(X[Y < 7], Y[Y < 7]).remove(5).remove(6)
    for call in (model.predict, model.predict_proba, model.decision_function, model.kneighbors):
        with pytest.raises(ValueError, match="The gallery is empty"):
            call(X)
    model.partial_fit(X[Y == 8], Y[Y == 8])
    assert set(model.predict(X)) == {8}


def test_an_unfrozen_learner_is_fitted_once_and_its_parameter_never():
    learner = MahalanobisMetric(within_class=True, covariance="oas")
    model = GalleryClassifier(learner).fit(X[ENROLLED], Y[ENROLLED])
    assert not hasattr(learner, "components_")
    before = learner_bytes(model)
    model.partial_fit(X[QUERIES], Y[QUERIES])
    assert learner_bytes(model) == before


def test_a_pipeline_a_grid_search_and_strings():
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
def test_the_threshold_is_that_of_impostors(mode, rate):
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
def test_strangers_pass_at_the_rate_asked_for(mode):
    # Classes that are drawn alike, half of them enrolled: the promise is one about such classes.
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(400), 5)
    faces = rng.normal(size=(400, 8))[names] + 0.3 * rng.normal(size=(2000, 8))
    known = names < 200
    model = GalleryClassifier(FunctionTransformer(), mode=mode, reject_far=0.1)
    model.fit(faces[known], names[known])
    passing = (model.predict(faces[~known]) != -1).mean()
    assert 0.07 < passing < 0.13  # of 200 strangers: two standard errors and a half
    again = faces[known] + 0.1 * rng.normal(size=(1000, 8))
    assert model.score(again, names[known]) > 0.9


@pytest.mark.parametrize(
    ("names", "unknown", "said"),
    [
        (np.arange(10), None, -1),
        (np.arange(10), 99, 99),
        (np.array(list("0123456789")), None, "unknown"),
        (np.array(list("0123456789")), "nobody", "nobody"),
    ],
)
def test_the_unknown_have_a_name(names, unknown, said):
    model = gallery(reject_far=0.1, unknown_label=unknown).fit(X, names[Y])
    far_off = model.predict(X[:3] + 1e4)
    assert far_off.tolist() == [said] * 3
    assert set(model.predict(X).tolist()) > {said}


def test_everyone_is_accepted_without_a_rate():
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
        ({"reject_far": 1e-4}, "reject_far=0.0001 cannot be told from 896 samples of 5 classes"),
        ({"unknown_label": 7}, "unknown_label=7 is a class in y"),
    ],
)
def test_bad_parameters_are_named_and_leave_nothing_behind(params, message):
    model = gallery(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y)
    assert not hasattr(model, "estimator_")
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_a_failed_enrolment_loses_nothing():
    model = gallery(mode="knn").fit(X, Y)
    before = pickle.dumps(model)
    for bad_X, bad_y, message in [
        (X[:2], ["a", "b"], "do not go with those enrolled"),
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


def test_a_learner_given_unfitted_but_frozen_says_so():
    with pytest.raises(NotFittedError):
        GalleryClassifier(FrozenEstimator(MahalanobisMetric())).fit(X, Y)
    plain = GalleryClassifier(FunctionTransformer()).fit(X, Y)
    assert plain.score(X, Y) > 0.85
