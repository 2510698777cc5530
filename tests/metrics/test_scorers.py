"""Scorers: on learners and pipelines, by the base distance of the learner."""

import pickle

import numpy as np
import pytest
from helpers import AngleOfSquares
from numpy.testing import assert_allclose
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skdml import MahalanobisMetric
from skdml.distances import LearnedDistance, base_distance_of, euclidean_form
from skdml.gallery import GalleryClassifier
from skdml.metrics import (
    equal_error_rate,
    equal_error_rate_scorer,
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


FORMS = {
    "learner": lambda: AngleOfSquares().fit(X),
    "pipeline": lambda: make_pipeline(FunctionTransformer(), AngleOfSquares()).fit(X),
    "pipeline in a pipeline": lambda: make_pipeline(
        FunctionTransformer(), make_pipeline(FunctionTransformer(), AngleOfSquares())
    ).fit(X),
    "frozen": lambda: FrozenEstimator(
        make_pipeline(FunctionTransformer(), AngleOfSquares()).fit(X)
    ),
    "search": lambda: GridSearchCV(
        make_pipeline(FunctionTransformer(), AngleOfSquares()), {}, scoring=map_at_r_scorer, cv=2
    ).fit(X, y),
}
PAIRS, SAME = make_pairs(X, y, 400, random_state=1)


@pytest.mark.parametrize("form", FORMS)
def test_the_base_distance_of_the_last_learner_is_used(form):
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


def test_the_euclidean_form_keeps_the_order_of_distances():
    Z = np.vstack([X[:40], np.zeros((2, 64))])
    for distance in ("cosine", "angular", "euclidean", "sqeuclidean"):
        D = LearnedDistance(np.asarray, distance)(Z)
        form = LearnedDistance(np.asarray)(euclidean_form(Z, distance))
        apart = D[0, :, None] < D[0] - 1e-9
        assert (form[0, :, None] < form[0])[apart].all()
        assert form[40, 41] == 0
    assert base_distance_of(PCA().fit(X)) == "euclidean"


def test_retrieval_scorers_equal_the_measures_of_the_embeddings():
    learner = MahalanobisMetric("oas").fit(X)
    Z = learner.transform(X)
    assert recall_at_1_scorer(learner, X, y) == recall_at_k(Z, y, k=1)
    scorer = make_retrieval_scorer("recall_at_k", k=3, average="class")
    assert scorer(learner, X, y) == recall_at_k(Z, y, k=3, average="class")
    assert pickle.loads(pickle.dumps(scorer))(learner, X, y) == scorer(learner, X, y)


def test_verification_scorers_equal_the_measures_of_pairs():
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


def test_a_verifier_of_indices_can_be_scored():
    rows, same = make_pairs(X, y, 500, indices=True, random_state=0)
    learner = MahalanobisMetric("oas").fit(X)
    verifier = PairVerifier(FrozenEstimator(learner))
    pipeline = make_pipeline(TupleIndexer(X), verifier).fit(rows, same)
    scorer = make_verification_scorer("eer", supervision="pairs")
    expected = -equal_error_rate(same, learner.pair_distance(X[rows]))
    assert scorer(pipeline, rows, same) == pytest.approx(expected)


@pytest.mark.parametrize("scorer", [map_at_r_scorer, recall_at_1_scorer, equal_error_rate_scorer])
def test_scorers_in_cross_validation_and_in_a_search(scorer):
    model = make_pipeline(StandardScaler(), PCA(), MahalanobisMetric("oas", within_class=True))
    cv = ClassDisjointKFold(2)
    scores = cross_val_score(model, X, y, cv=cv, scoring=scorer)
    for score, (train, test) in zip(scores, cv.split(X, y), strict=True):
        fitted = clone(model).fit(X[train], y[train])
        assert score == pytest.approx(scorer(fitted, X[test], y[test]))
    search = GridSearchCV(model, {"pca__n_components": [2, 20]}, cv=cv, scoring=scorer).fit(X, y)
    assert search.best_params_ == {"pca__n_components": 20}
    assert search.score(X, y) == pytest.approx(scorer(search.best_estimator_, X, y))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_retrieval_scorer("map"), "measure='map' is unknown; choose one of"),
        (lambda: make_retrieval_scorer("map_at_r", k=3), "map_at_r has no k"),
        (lambda: make_retrieval_scorer("recall_at_k", k=0), "k == 0"),
        (lambda: make_retrieval_scorer(average=None), "average=None gives no score"),
        (lambda: make_verification_scorer("err"), "measure='err' is unknown"),
        (lambda: make_verification_scorer(supervision="chunks"), "'chunks' is unknown"),
        (lambda: map_at_r_scorer(KNeighborsClassifier(), X, y), "has no transform"),
        (
            lambda: make_verification_scorer(supervision="pairs")(BaseEstimator(), PAIRS, SAME),
            "none of pair_distance, transform and decision_function",
        ),
    ],
)
def test_invalid_parameters_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("far", [np.nan, 0.0, 1.5])
def test_rates_of_scorers_are_checked_at_once(far):
    with pytest.raises(ValueError, match="far == "):
        make_verification_scorer("tar_at_far", far=far)
