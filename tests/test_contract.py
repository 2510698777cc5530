"""The contract of every learner: scikit-learn's checks, distances, input checks, and use."""

import copy
import functools
import pickle
import pkgutil
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import make_learners
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import DBSCAN, HDBSCAN, OPTICS, AgglomerativeClustering, KMeans
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score, pairwise_distances
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import estimator_checks_generator

import skdml

LEARNERS = make_learners()
SUPERVISED = [learner for learner in LEARNERS if learner.__sklearn_tags__().target_tags.required]

# Wide overlapping blobs: no two distances are equal, and classes are mixed.
X, Y = make_blobs(n_samples=72, n_features=5, centers=3, cluster_std=3.0, random_state=0)
NAMES = list("abcde")

# scikit-learn runs these checks for its own transformers only. Another such check,
# check_param_validation, needs the private attribute _parameter_constraints.
UNLISTED_CHECKS = [
    "check_dataframe_column_names_consistency",
    "check_get_feature_names_out_error",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_inplace_ensure_writeable",
    "check_n_features_in",
    "check_n_features_in_after_fitting",
    "check_readonly_memmap_input",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
]

every_learner = pytest.mark.parametrize("learner", LEARNERS, ids=repr)
every_supervised_learner = pytest.mark.parametrize("learner", SUPERVISED, ids=repr)


@pytest.fixture
def fitted(learner):
    return copy.deepcopy(fit_once(learner))


@functools.cache
def fit_once(learner):
    """Fit on X and Y once in each process. Tests use copies of the fitted learner."""
    return seeded(learner).fit(X, Y)


def seeded(learner):
    learner = clone(learner)
    return learner.set_params(random_state=0) if hasattr(learner, "random_state") else learner


def global_states():
    _, state, position, *_ = np.random.get_state()  # noqa: NPY002, the global generator, which must not change
    return state.tolist(), position, torch.get_rng_state().tolist()


def embedding_distances(Z):
    return pairwise_distances(Z.astype(np.float64))


# scikit-learn's checks


# Not parametrize_with_checks: in scikit-learn < 1.7 it passes a generator to pytest, and
# pytest >= 9 warns about generators.
@pytest.mark.parametrize(
    ("estimator", "check"),
    [pair for learner in LEARNERS for pair in estimator_checks_generator(learner)],
    ids=lambda value: repr(value) if value in LEARNERS else value.func.__name__,
)
# The checks of sample weights fit on fewer rows than columns, and MahalanobisMetric warns.
@pytest.mark.filterwarnings("ignore:The covariance is singular:UserWarning")
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# These checks fit on a data frame and transform an array, or the reverse.
@pytest.mark.filterwarnings("ignore:X (does not have valid|has) feature names:UserWarning")
@every_learner
@pytest.mark.parametrize("name", UNLISTED_CHECKS)
def test_unlisted_scikit_learn_checks(name, learner):
    getattr(estimator_checks, name)(type(learner).__name__, clone(learner))


# d is the base distance of transform


@every_learner
def test_distance_is_the_distance_of_the_embeddings(learner, fitted):
    d = fitted.get_metric()
    D = embedding_distances(fitted.transform(X))
    assert D.max() > 0
    close = {"rtol": 1e-4, "atol": 1e-5 * D.max()}
    assert_allclose(d.pairwise(X), D, **close)
    assert_allclose(d(X[:5], X), D[:5], **close)
    assert_allclose(d.paired(X[:9], X[9:18]), D[range(9), range(9, 18)], **close)
    assert_allclose([d(X[0], x) for x in X], D[0], **close)


@every_learner
def test_pair_score_is_the_negative_distance(learner, fitted):
    pairs = np.stack([X[:20], X[20:40]], axis=1)
    distance = fitted.pair_distance(pairs)
    assert distance.shape == (20,)
    assert (distance > 0).all()
    assert_array_equal(distance, fitted.get_metric().paired(X[:20], X[20:40]))
    assert_array_equal(fitted.pair_score(pairs), -distance)
    assert_array_equal(fitted.pair_distance(pairs.tolist()), distance)


@every_learner
def test_pairs_of_a_wrong_shape_are_refused(learner, fitted):
    for pairs in (X, X[:6].reshape(2, 3, 5), X[0]):
        with pytest.raises(ValueError, match=r"pairs need the shape \(n_pairs, 2, n_features\)"):
            fitted.pair_distance(pairs)
    with pytest.raises(ValueError, match=r"features|points of shape"):
        fitted.pair_distance(X[:4, :3].reshape(2, 2, 3))


@every_learner
def test_another_fit_does_not_change_the_metric(learner, fitted):
    d = fitted.get_metric()
    before = d(X)
    fitted.fit(X[::-1] ** 2, Y)
    assert_array_equal(d(X), before)
    assert not np.allclose(fitted.get_metric()(X), before)


# Input


@every_learner
@pytest.mark.parametrize("names", [["x", "y", "z"], [-1, 1, 7], [0.0, 1.0, 2.0]])
def test_labels_of_any_type(learner, fitted, names):
    other = seeded(learner).fit(X, np.array(names)[Y])
    assert_array_equal(other.transform(X), fitted.transform(X))


@every_learner
@pytest.mark.parametrize("names", [[False, True], [-1, 1], ["no", "yes"]])
def test_two_classes_of_any_type(learner, names):
    X2, Y2 = X[Y < 2], Y[Y < 2]
    by_code, by_name = (seeded(learner).fit(X2, y) for y in (Y2, np.array(names)[Y2]))
    assert_array_equal(by_name.transform(X), by_code.transform(X))


@every_supervised_learner
def test_missing_labels_are_refused(learner):
    for call in (seeded(learner).fit, seeded(learner).fit_transform):
        with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
            call(X)


@every_supervised_learner
def test_continuous_targets_are_refused(learner):
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        seeded(learner).fit(X, X[:, 0])


@every_learner
def test_one_sample_is_refused(learner):
    with pytest.raises(ValueError, match=r"1 sample|one sample|1 class|one class"):
        seeded(learner).fit(X[:1], Y[:1])


@every_learner
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_points_that_are_not_finite_are_refused(learner, fitted, value):
    bad = X.copy()
    bad[3, 2] = value
    for call in (
        lambda: clone(learner).fit(bad, Y),
        lambda: fitted.transform(bad),
        lambda: fitted.get_metric()(bad),
        lambda: fitted.get_metric()(bad[3], X[0]),
    ):
        with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
            call()


@every_learner
def test_use_before_fit_is_refused(learner):
    pairs = np.stack([X, X], axis=1)
    for call in (
        lambda: clone(learner).transform(X),
        lambda: clone(learner).get_metric(),
        lambda: clone(learner).pair_distance(pairs),
        lambda: clone(learner).pair_score(pairs),
        lambda: clone(learner).get_feature_names_out(),
    ):
        with pytest.raises(NotFittedError):
            call()


# Objects


@every_learner
def test_clone_keeps_only_the_parameters(learner, fitted):
    copy = clone(fitted)
    assert [name for name in vars(copy) if name.endswith("_")] == []
    assert repr(copy) == repr(fitted)
    assert_array_equal(copy.fit(X, Y).transform(X), fitted.transform(X))


@every_learner
def test_pickle_and_joblib_keep_f_and_d(learner, fitted, tmp_path):
    joblib.dump(fitted, tmp_path / "learner")
    joblib.dump(fitted.get_metric(), tmp_path / "metric")
    Z, D = fitted.transform(X), fitted.get_metric()(X)
    for again in (pickle.loads(pickle.dumps(fitted)), joblib.load(tmp_path / "learner")):
        assert_array_equal(again.transform(X), Z)
    for d in (pickle.loads(pickle.dumps(fitted.get_metric())), joblib.load(tmp_path / "metric")):
        assert_array_equal(d(X), D)
        assert d.distance == fitted.get_metric().distance


@every_learner
def test_random_state_determines_the_result_and_global_generators_do_not_change(learner, fitted):
    before = global_states()
    again = seeded(learner).fit(X, Y)
    assert_array_equal(again.transform(X), fitted.transform(X))
    again.get_metric()(X[0], X[1])
    assert global_states() == before


@every_learner
def test_fit_does_not_change_its_input(learner):
    rows, labels = X.copy(), Y.copy()
    seeded(learner).fit(rows, labels).transform(rows)
    assert_array_equal(rows, X)
    assert_array_equal(labels, Y)


@every_learner
def test_set_output(learner, fitted):
    names = [f"{type(learner).__name__.lower()}{i}" for i in range(fitted.transform(X).shape[1])]
    frame = pd.DataFrame(X, columns=NAMES)
    as_pandas = clone(fitted).set_output(transform="pandas").fit(frame, Y).transform(frame)
    assert isinstance(as_pandas, pd.DataFrame)
    as_polars = clone(fitted).set_output(transform="polars").fit_transform(X, Y)
    assert isinstance(as_polars, pl.DataFrame)
    assert as_pandas.columns.tolist() == as_polars.columns == names
    assert_array_equal(as_pandas.to_numpy(), as_polars.to_numpy())
    assert_array_equal(as_polars.to_numpy(), fitted.transform(X))


# Use with scikit-learn


@every_learner
def test_neighbours_by_pipeline_and_by_callable_are_equal(learner, fitted):
    pipeline = make_pipeline(seeded(learner), KNeighborsClassifier(3)).fit(X[:50], Y[:50])
    d = pipeline[0].get_metric()
    expected = pipeline.predict(X[50:])
    assert len(set(expected)) > 1
    for algorithm in ("auto", "brute", "ball_tree"):
        model = KNeighborsClassifier(3, metric=d, algorithm=algorithm).fit(X[:50], Y[:50])
        assert_array_equal(model.predict(X[50:]), expected)


@every_learner
def test_ball_tree_finds_the_neighbours(learner, fitted):
    tree = NearestNeighbors(n_neighbors=4, algorithm="ball_tree", leaf_size=5)
    found = tree.set_params(metric=fitted.get_metric()).fit(X[:50]).kneighbors(X[50:])
    Z = fitted.transform(X).astype(np.float64)
    expected = NearestNeighbors(n_neighbors=4, algorithm="brute").fit(Z[:50]).kneighbors(Z[50:])
    assert_array_equal(found[1], expected[1])
    assert_allclose(found[0], expected[0], rtol=1e-4)


@every_learner
@pytest.mark.parametrize("clusterer", ["DBSCAN", "HDBSCAN", "OPTICS", "AgglomerativeClustering"])
def test_clusters_by_callable_and_by_embeddings_are_equal(learner, fitted, clusterer):
    d, Z = fitted.get_metric(), fitted.transform(X).astype(np.float64)
    radius = np.median(np.sort(embedding_distances(Z), axis=1)[:, 6])
    make = {
        "DBSCAN": lambda metric: DBSCAN(eps=radius, min_samples=7, metric=metric),
        # With min_samples=1 no two edges of the tree tie; rounding would decide between them.
        "HDBSCAN": lambda metric: HDBSCAN(
            min_cluster_size=4, min_samples=1, metric=metric, algorithm="brute", copy=True
        ),
        "OPTICS": lambda metric: OPTICS(min_samples=4, metric=metric, cluster_method="dbscan"),
        "AgglomerativeClustering": lambda metric: AgglomerativeClustering(
            5, metric=metric, linkage="average"
        ),
    }[clusterer]
    by_callable, by_embedding = make(d).fit(X), make("euclidean").fit(Z)
    assert adjusted_rand_score(by_callable.labels_, by_embedding.labels_) == 1
    if clusterer == "OPTICS":
        assert_allclose(by_callable.core_distances_, by_embedding.core_distances_, rtol=1e-4)
    else:
        assert len(set(by_callable.labels_)) > 1


@every_learner
def test_kmeans_runs_on_the_embeddings(learner):
    model = make_pipeline(seeded(learner), KMeans(3, n_init=2, random_state=0)).fit(X, Y)
    assert model[-1].cluster_centers_.shape == (3, model[0].transform(X).shape[1])
    assert len(set(model.predict(X))) == 3


@every_learner
def test_column_transformer_before_the_learner(learner):
    frame = pd.DataFrame(X, columns=NAMES).assign(kind=np.where(X[:, 0] > 0, "up", "down"))
    columns = make_column_transformer(
        (StandardScaler(), NAMES),
        (OneHotEncoder(sparse_output=False, drop="first"), ["kind"]),
    )
    model = make_pipeline(columns, seeded(learner), KNeighborsClassifier()).fit(frame, Y)
    assert model[1].n_features_in_ == 6
    assert model.score(frame, Y) > 0.6


@every_learner
def test_cross_validation_and_calibration(learner):
    model = make_pipeline(seeded(learner), KNeighborsClassifier(5))
    assert cross_val_score(model, X, Y, cv=3, error_score="raise").min() > 0.5
    probability = CalibratedClassifierCV(model, cv=2).fit(X, Y).predict_proba(X)
    assert_allclose(probability.sum(axis=1), 1)
    assert (probability.argmax(axis=1) == Y).mean() > 0.6


def test_grid_search_in_two_processes():
    model = make_pipeline(LEARNERS[0], KNeighborsClassifier(5))
    grid = {model.steps[0][0]: [seeded(learner) for learner in LEARNERS]}
    search = GridSearchCV(model, grid, cv=2, n_jobs=2, error_score="raise").fit(X, Y)
    assert search.cv_results_["mean_test_score"].min() > 0.5
    alone = cross_val_score(search.best_estimator_, X, Y, cv=2).mean()
    assert search.best_score_ == pytest.approx(alone, abs=0.03)


def test_linear_learners_do_not_import_torch():
    program = "import sys, skdml; skdml.MahalanobisMetric(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_all_public_modules_are_attributes_of_the_package():
    modules = {module.name for module in pkgutil.iter_modules(skdml.__path__)}
    assert {name for name in modules if not name.startswith("_")} == set(skdml._SUBMODULES)
    for name in set(skdml.__all__) - {"__version__"}:
        module = f"skdml.{skdml._module_of(name)}"
        assert getattr(skdml, name).__module__.startswith(module)
