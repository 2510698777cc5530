"""Scorers and episodes: on learners and pipelines, by the learner's own base distance."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skdml import MahalanobisMetric
from skdml.base import MetricLearner
from skdml.distances import LearnedDistance, base_distance_of, euclidean_form
from skdml.gallery import GalleryClassifier
from skdml.metrics import (
    equal_error_rate,
    equal_error_rate_scorer,
    few_shot_score,
    make_retrieval_scorer,
    make_verification_scorer,
    map_at_r,
    map_at_r_scorer,
    recall_at_1_scorer,
    recall_at_k,
    tar_at_far,
)
from skdml.model_selection import ClassDisjointKFold, make_pairs
from skdml.preprocessing import TupleIndexer
from skdml.verification import PairVerifier

X, y = load_digits(return_X_y=True)
X, y = X[:300], y[:300]


class Directions(MetricLearner):
    """Leaves points as they are and measures by the angle."""

    def fit(self, X, y=None):
        self.n_features_in_ = np.shape(X)[1]
        return self

    def transform(self, X):
        return np.asarray(X, dtype=float) ** 2

    def get_metric(self):
        return LearnedDistance(self.transform, "angular")


FORMS = {
    "learner": lambda: Directions().fit(X),
    "pipeline": lambda: make_pipeline(FunctionTransformer(), Directions()).fit(X),
    "pipeline in a pipeline": lambda: make_pipeline(
        FunctionTransformer(), make_pipeline(FunctionTransformer(), Directions())
    ).fit(X),
    "frozen": lambda: FrozenEstimator(make_pipeline(FunctionTransformer(), Directions()).fit(X)),
    "search": lambda: GridSearchCV(
        make_pipeline(FunctionTransformer(), Directions()), {}, scoring=map_at_r_scorer, cv=2
    ).fit(X, y),
}
PAIRS, SAME = make_pairs(X, y, 400, random_state=1)


@pytest.mark.parametrize("form", FORMS)
def test_whatever_ends_in_a_learner_is_measured_by_its_distance(form):
    model = FORMS[form]()
    assert base_distance_of(model) == "angular"
    expected = map_at_r(X**2, y, metric="angular")
    assert expected != pytest.approx(map_at_r(X**2, y))
    assert map_at_r_scorer(model, X, y) == pytest.approx(expected)
    distance = LearnedDistance(np.square, "angular").paired(PAIRS[:, 0], PAIRS[:, 1])
    score = make_verification_scorer("roc_auc", supervision="pairs")(model, PAIRS, SAME)
    assert score == pytest.approx(roc_auc_score(SAME, -distance))
    gallery = GalleryClassifier(FrozenEstimator(model), mode="knn").fit(X, y)
    found = gallery.kneighbors(X[:9], 2)[0][:, 1]
    D = LearnedDistance(np.square, "angular")(X[:9], X)
    assert_allclose(found, np.sort(D, axis=1)[:, 1], atol=1e-12)


def test_the_euclidean_form_ranks_as_the_distance_does():
    Z = np.vstack([X[:40], np.zeros((2, 64))])
    for distance in ("cosine", "angular", "euclidean", "sqeuclidean"):
        D = LearnedDistance(np.asarray, distance)(Z)
        form = LearnedDistance(np.asarray)(euclidean_form(Z, distance))
        apart = D[0, :, None] < D[0] - 1e-9
        assert (form[0, :, None] < form[0])[apart].all()
        assert form[40, 41] == 0
    assert base_distance_of(PCA().fit(X)) == "euclidean"


def test_retrieval_scorers_are_the_measures_of_the_embeddings():
    learner = MahalanobisMetric("oas").fit(X)
    Z = learner.transform(X)
    assert recall_at_1_scorer(learner, X, y) == recall_at_k(Z, y, k=1)
    scorer = make_retrieval_scorer("recall_at_k", k=3, average="class")
    assert scorer(learner, X, y) == recall_at_k(Z, y, k=3, average="class")
    assert pickle.loads(pickle.dumps(scorer))(learner, X, y) == scorer(learner, X, y)


def test_verification_scorers_are_the_measures_of_pairs():
    learner = MahalanobisMetric("oas").fit(X)
    pairs, same = make_pairs(X, y, 500, random_state=3)
    distance = learner.pair_distance(pairs)
    drawn = {"n_pairs": 500, "random_state": 3}
    given = {"supervision": "pairs"}
    for options, data in ((drawn, (X, y)), (given, (pairs, same))):
        score = make_verification_scorer(**options)(learner, *data)
        assert score == pytest.approx(-equal_error_rate(same, distance))
        score = make_verification_scorer("tar_at_far", far=0.05, **options)(learner, *data)
        assert score == pytest.approx(tar_at_far(same, distance, 0.05))
        score = make_verification_scorer("roc_auc", **options)(learner, *data)
        assert score == pytest.approx(roc_auc_score(same, -distance))
    again = equal_error_rate_scorer(learner, X, y)
    assert again == equal_error_rate_scorer(learner, X, y)  # the same pairs are drawn
    assert pickle.loads(pickle.dumps(equal_error_rate_scorer))(learner, X, y) == again


def test_a_verifier_over_indices_is_scored_by_its_pairs():
    rows, same = make_pairs(X, y, 500, indices=True, random_state=0)
    learner = MahalanobisMetric("oas").fit(X)
    verifier = PairVerifier(FrozenEstimator(learner))
    pipeline = make_pipeline(TupleIndexer(X), verifier).fit(rows, same)
    scorer = make_verification_scorer("eer", supervision="pairs")
    expected = -equal_error_rate(same, learner.pair_distance(X[rows]))
    assert scorer(pipeline, rows, same) == pytest.approx(expected)


@pytest.mark.parametrize("scorer", [map_at_r_scorer, recall_at_1_scorer, equal_error_rate_scorer])
def test_in_cross_validation_and_in_a_search(scorer):
    model = make_pipeline(StandardScaler(), PCA(), MahalanobisMetric("oas", within_class=True))
    cv = ClassDisjointKFold(2)
    scores = cross_val_score(model, X, y, cv=cv, scoring=scorer)
    for score, (train, test) in zip(scores, cv.split(X, y), strict=True):
        fitted = clone(model).fit(X[train], y[train])
        assert score == pytest.approx(scorer(fitted, X[test], y[test]))
    search = GridSearchCV(model, {"pca__n_components": [2, 20]}, cv=cv, scoring=scorer).fit(X, y)
    assert search.best_params_ == {"pca__n_components": 20}
    assert search.score(X, y) == pytest.approx(scorer(search.best_estimator_, X, y))


class Place(TransformerMixin, BaseEstimator):
    """Embeds a point where the last column says, and keeps others apart by the first."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X[:, :2]


def test_episodes_tell_classes_that_lie_apart_and_guess_those_that_do_not():
    labels = np.repeat(np.arange(8), 20)
    rng = np.random.default_rng(0)
    apart = np.column_stack([10 * labels, np.zeros(160)]) + rng.random((160, 2))
    options = {"n_queries": 5, "n_episodes": 200, "random_state": 0}
    found = few_shot_score(Place(), apart, labels, **options)
    assert (found.mean, found.interval) == (1.0, (1.0, 1.0))
    assert found.accuracies.shape == (200,)
    mixed = few_shot_score(Place(), rng.random((160, 2)), labels, n_way=4, **options)
    assert mixed.interval[0] < 0.25 < mixed.interval[1]
    half = 1.972 * mixed.accuracies.std(ddof=1) / np.sqrt(200)  # of Student's t, 199 degrees
    assert_allclose(mixed.interval, [mixed.mean - half, mixed.mean + half], rtol=1e-4)
    again = few_shot_score(Place(), apart, labels, **options)
    assert (again.accuracies == found.accuracies).all()


def test_an_episode_with_all_samples_is_the_nearest_prototype_of_all():
    # Two classes of which every sample is drawn: what is left to chance is who is known.
    points = np.array([[0.0, 0], [1, 0], [2, 0], [9, 0], [11, 0], [5.4, 0]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    found = few_shot_score(Place(), points, labels, 2, 2, 1, n_episodes=400, random_state=0)
    expected = []
    for i in range(3):
        for j in range(3, 6):
            a, b = np.delete(points[:3, 0], i).mean(), np.delete(points[3:, 0], j - 3).mean()
            right = int(abs(points[i, 0] - a) < abs(points[i, 0] - b))
            expected.append((right + int(abs(points[j, 0] - b) < abs(points[j, 0] - a))) / 2)
    assert set(found.accuracies) == set(expected) == {0.5, 1.0}
    assert found.interval[0] - 0.02 < np.mean(expected) < found.interval[1] + 0.02


def test_more_shots_are_better_and_the_base_distance_is_that_of_the_learner():
    learner = MahalanobisMetric("oas", within_class=True).fit(X[y < 5], y[y < 5])
    options = {"n_queries": 10, "n_episodes": 60, "random_state": 0}
    one = few_shot_score(learner, X[y >= 5], y[y >= 5], **options)
    five = few_shot_score(learner, X[y >= 5], y[y >= 5], n_shot=5, **options)
    assert five.interval[0] > one.interval[1]
    # Points on rays: by the angle all of a class are one.
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 20)
    rays = rng.random((5, 64))[labels] * 10 ** rng.uniform(-1, 1, (100, 1))
    assert few_shot_score(Directions().fit(rays), rays, labels, **options).mean == 1
    assert few_shot_score(FunctionTransformer(np.square), rays, labels, **options).mean < 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_retrieval_scorer("map"), "measure='map' is unknown; choose one of"),
        (lambda: make_retrieval_scorer("map_at_r", k=3), "map_at_r has no k"),
        (lambda: make_retrieval_scorer("recall_at_k", k=0), "k == 0"),
        (lambda: make_retrieval_scorer(average=None), "average=None makes no score"),
        (lambda: make_verification_scorer("err"), "measure='err' is unknown"),
        (lambda: make_verification_scorer(supervision="chunks"), "'chunks' is unknown"),
        (lambda: map_at_r_scorer(KNeighborsClassifier(), X, y), "has no transform"),
        (
            lambda: make_verification_scorer(supervision="pairs")(BaseEstimator(), PAIRS, SAME),
            "none of pair_distance, transform and decision_function",
        ),
        (lambda: few_shot_score(Place(), X, y, n_way=11), "n_way=11 .* 10 of the 10 classes"),
        (lambda: few_shot_score(Place(), X, y, n_shot=30), "= 45 samples are needed; 0 of the 10"),
        (lambda: few_shot_score(Place(), X, y, n_way=1), "n_way == 1"),
        (lambda: few_shot_score(Place(), X, y, n_episodes=1), "n_episodes == 1"),
        (lambda: few_shot_score(Place(), X, y[:9]), "inconsistent numbers of samples"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
