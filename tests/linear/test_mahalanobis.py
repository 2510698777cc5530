"""MahalanobisMetric against NumPy, SciPy and scikit-learn, and on unusual input."""

import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import cdist, mahalanobis, pdist
from sklearn.base import clone
from sklearn.covariance import (
    OAS,
    EmpiricalCovariance,
    LedoitWolf,
    MinCovDet,
    ShrunkCovariance,
)
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from skdml import MahalanobisMetric
from skdml.linear import LinearMap

IRIS, SPECIES = load_iris(return_X_y=True)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def X(rng):
    return rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5)) + 3.0


def fitted_attributes(learner):
    return [name for name in vars(learner) if name.endswith("_")]


def within_class_covariance(X, y):
    total = np.zeros((X.shape[1], X.shape[1]))
    for label in set(y.tolist()):
        members = X[y == label]
        for row in members:
            total += np.outer(row - members.mean(axis=0), row - members.mean(axis=0))
    return total / len(X)


# The definition


def test_distance_is_that_of_the_definition(X):
    learner = MahalanobisMetric().fit(X)
    M = np.linalg.inv(np.cov(X.T, bias=True))
    d = learner.get_metric()
    for x, y in zip(X[:10], X[10:20], strict=True):
        assert d(x, y) == pytest.approx(np.sqrt((x - y) @ M @ (x - y)), rel=1e-12)
        assert d(x, y) == pytest.approx(mahalanobis(x, y, M), rel=1e-12)
    assert_allclose(d(X[:7], X), cdist(X[:7], X, "mahalanobis", VI=M), rtol=1e-10)
    assert_allclose(learner.get_mahalanobis_matrix(), M, rtol=1e-10)
    assert_allclose(learner.location_, X.mean(axis=0))
    assert_allclose(learner.covariance_, np.cov(X.T, bias=True))
    assert learner.n_samples_seen_ == 60


def test_transformed_training_data_have_identity_covariance(X):
    Z = MahalanobisMetric().fit_transform(X)
    assert_allclose(np.cov(Z.T, bias=True), np.eye(5), atol=1e-12)


def test_distance_is_the_same_in_any_basis(X, rng):
    A = rng.normal(size=(5, 5))
    before = MahalanobisMetric().fit(X).get_metric()
    after = MahalanobisMetric().fit(X @ A - 7.0).get_metric()
    assert_allclose(after(X @ A - 7.0), before(X), rtol=1e-9)


@pytest.mark.parametrize("n_components", [1, 3, 5])
def test_components_are_those_of_whitening_pca(X, n_components):
    pca = PCA(n_components, whiten=True).fit(X)
    learner = MahalanobisMetric(n_components=n_components).fit(X)
    std = np.sqrt(pca.explained_variance_ * (len(X) - 1) / len(X))  # PCA divides by n - 1
    assert_allclose(learner.components_, pca.components_ / std[:, None], rtol=1e-9)
    assert learner.transform(X).shape == (60, n_components)


def test_axes_are_ordered_and_signed(X):
    L = MahalanobisMetric().fit(X).components_
    assert (np.diff((L**2).sum(axis=1)) > 0).all()  # longer rows have less variance
    assert (L[np.arange(5), abs(L).argmax(axis=1)] > 0).all()


# The covariance


@pytest.mark.parametrize(
    ("covariance", "reference"),
    [
        ("empirical", EmpiricalCovariance()),
        ("ledoit_wolf", LedoitWolf()),
        ("oas", OAS()),
        ("min_cov_det", MinCovDet(random_state=3)),
        (ShrunkCovariance(shrinkage=0.3), ShrunkCovariance(shrinkage=0.3)),
        (LedoitWolf(store_precision=False), LedoitWolf()),
    ],
)
def test_matrix_is_the_precision_of_the_estimator(covariance, reference):
    learner = MahalanobisMetric(covariance, random_state=3).fit(IRIS)
    reference.fit(IRIS)
    assert_allclose(learner.covariance_, reference.covariance_, rtol=1e-6)
    assert_allclose(learner.get_mahalanobis_matrix(), reference.get_precision(), rtol=1e-6)
    assert_allclose(learner.location_, reference.location_)


def test_outliers_hardly_change_the_robust_distance(rng):
    X = rng.normal(size=(200, 2))
    spoilt = np.vstack([X, np.full((10, 2), 50.0)])
    clean = MahalanobisMetric("min_cov_det", random_state=0).fit(X).get_metric()
    robust = MahalanobisMetric("min_cov_det", random_state=0).fit(spoilt).get_metric()
    plain = MahalanobisMetric().fit(spoilt).get_metric()
    assert_allclose(robust(X).mean(), clean(X).mean(), rtol=0.1)
    assert plain(X).mean() < 0.8 * clean(X).mean()


def test_estimator_is_cloned_and_its_parameters_can_be_searched(X):
    given = ShrunkCovariance(shrinkage=0.5)
    learner = MahalanobisMetric(given)
    before = dict(vars(given))
    learner.set_params(covariance__store_precision=False).fit(X)
    assert vars(given) == {**before, "store_precision": False}
    assert learner.get_params()["covariance__shrinkage"] == 0.5
    search = GridSearchCV(
        make_pipeline(learner, KNeighborsClassifier()),
        {"mahalanobismetric__covariance__shrinkage": [0.1, 0.9]},
        cv=3,
    ).fit(IRIS, SPECIES)
    assert len(search.cv_results_["params"]) == 2
    assert search.best_score_ > 0.9


def test_random_state_decides_min_cov_det(X):
    first, again, other = (
        MahalanobisMetric("min_cov_det", random_state=seed).fit(X).components_ for seed in (0, 0, 8)
    )
    assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# Within classes


@pytest.mark.parametrize(
    "names",
    [[0, 1, 2], ["b", "a", "c"], [-1, 1, 5], [1.0, 2.0, 3.0]],
)
def test_within_class_covariance_is_that_of_a_plain_loop(names):
    y = np.array(names)[SPECIES]
    learner = MahalanobisMetric(within_class=True).fit(IRIS, y)
    assert_allclose(learner.covariance_, within_class_covariance(IRIS, SPECIES), rtol=1e-10)
    assert_allclose(learner.location_, IRIS.mean(axis=0))


@pytest.mark.parametrize("names", [[False, True], [-1, 1], ["no", "yes"], [0, 1]])
def test_result_is_independent_of_the_names_of_two_classes(names):
    X, codes = IRIS[:100], SPECIES[:100]
    learner = MahalanobisMetric(within_class=True).fit(X, np.array(names)[codes])
    assert_allclose(learner.covariance_, within_class_covariance(X, codes), rtol=1e-10)
    as_objects = clone(learner).fit(X, np.array(names, dtype=object)[codes])
    assert_array_equal(as_objects.components_, learner.components_)


def test_within_class_with_another_estimator_centres_the_rows_first():
    rows = IRIS.copy()
    for label in range(3):
        rows[label == SPECIES] -= IRIS[label == SPECIES].mean(axis=0)
    for covariance, reference in [
        ("ledoit_wolf", LedoitWolf()),
        ("min_cov_det", MinCovDet(random_state=0)),
    ]:
        learner = MahalanobisMetric(covariance, within_class=True, random_state=0)
        learner.fit(IRIS, SPECIES)
        assert_allclose(learner.covariance_, reference.fit(rows).covariance_, rtol=1e-6)
        assert_allclose(learner.location_, IRIS.mean(axis=0))


def test_class_of_one_row_adds_no_spread():
    X = np.vstack([IRIS, [[100.0, -100.0, 50.0, 0.0]]])
    learner = MahalanobisMetric(within_class=True).fit(X, [*SPECIES, 9])
    expected = within_class_covariance(IRIS, SPECIES) * 150 / 151
    assert_allclose(learner.covariance_, expected, rtol=1e-10)


def test_one_class_gives_the_covariance_of_all_rows():
    one = MahalanobisMetric(within_class=True).fit(IRIS, np.zeros(150))
    assert_allclose(one.components_, MahalanobisMetric().fit(IRIS).components_, rtol=1e-9)


def test_y_is_ignored_without_within_class():
    plain = MahalanobisMetric().fit(IRIS)
    assert_array_equal(
        MahalanobisMetric().fit(IRIS, SPECIES).components_,
        plain.components_,
    )


# Batches


@pytest.mark.parametrize("within_class", [False, True])
@pytest.mark.parametrize("cuts", [[75], [20, 21, 90], [2, 149], list(range(10, 150, 10))])
def test_batches_equal_one_fit(within_class, cuts, rng):
    order = rng.permutation(150)
    X, y = IRIS[order], np.array(["a", "b", "c"])[SPECIES[order]]
    y[1] = y[0]  # the first batch needs two rows of one class
    whole = MahalanobisMetric(within_class=within_class).fit(X, y)
    batched = clone(whole)
    for rows, labels in zip(np.split(X, cuts), np.split(y, cuts), strict=True):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The covariance is singular", UserWarning)
            batched.partial_fit(rows, labels)
    assert_allclose(batched.covariance_, whole.covariance_, rtol=1e-10)
    assert_allclose(batched.location_, whole.location_, rtol=1e-10)
    assert_allclose(batched.components_, whole.components_, rtol=1e-10)
    assert batched.n_samples_seen_ == whole.n_samples_seen_ == 150


def test_batches_may_have_one_class_each():
    whole = MahalanobisMetric(within_class=True).fit(IRIS, SPECIES)
    batched = clone(whole)
    for label in range(3):
        batched.partial_fit(IRIS[label == SPECIES], SPECIES[label == SPECIES])
    assert_allclose(batched.components_, whole.components_, rtol=1e-10)


def test_batches_far_from_the_origin_are_accurate():
    far = IRIS + 1e6  # a sum of squares would lose about 12 of its 16 digits
    whole = MahalanobisMetric().fit(IRIS)
    batched = MahalanobisMetric().partial_fit(far[:50]).partial_fit(far[50:])
    assert_allclose(batched.covariance_, whole.covariance_, rtol=1e-7)


def test_fit_forgets_earlier_batches_and_partial_fit_continues():
    whole = MahalanobisMetric().fit(IRIS)
    learner = MahalanobisMetric().partial_fit(IRIS[:90] * 3).fit(IRIS[:90]).partial_fit(IRIS[90:])
    assert_allclose(learner.components_, whole.components_, rtol=1e-10)
    assert_array_equal(learner.fit(IRIS).components_, whole.components_)


def test_partial_fit_starts_again_after_a_fit_with_another_covariance():
    learner = MahalanobisMetric().fit(IRIS[:90]).set_params(covariance="oas").fit(IRIS[:90])
    learner.set_params(covariance="empirical").partial_fit(IRIS[90:])
    assert_array_equal(learner.components_, MahalanobisMetric().fit(IRIS[90:]).components_)


def test_partial_fit_needs_the_empirical_covariance(X):
    for covariance in ("oas", EmpiricalCovariance()):
        with pytest.raises(ValueError, match='partial_fit needs covariance="empirical"'):
            MahalanobisMetric(covariance).partial_fit(X)


def test_failed_batch_changes_nothing(X):
    learner = MahalanobisMetric().partial_fit(X)
    before = pickle.dumps(learner)
    with pytest.raises(ValueError, match="X has 3 features, but MahalanobisMetric is expecting 5"):
        learner.partial_fit(X[:, :3])
    with pytest.raises(ValueError, match="contains NaN"):
        learner.partial_fit(np.full((2, 5), np.nan))
    assert pickle.dumps(learner) == before


# Weights


@pytest.mark.parametrize("within_class", [False, True])
def test_whole_weights_are_repeated_rows(within_class, rng):
    weight = rng.integers(0, 4, size=150)
    weighted = MahalanobisMetric(within_class=within_class).fit(IRIS, SPECIES, weight)
    rows = np.repeat(np.arange(150), weight)
    repeated = MahalanobisMetric(within_class=within_class).fit(IRIS[rows], SPECIES[rows])
    assert_allclose(weighted.components_, repeated.components_, rtol=1e-9)
    assert_allclose(weighted.covariance_, repeated.covariance_, rtol=1e-10)
    assert_allclose(weighted.location_, repeated.location_, rtol=1e-10)
    assert weighted.n_samples_seen_ == repeated.n_samples_seen_ == weight.sum()


@pytest.mark.parametrize("within_class", [False, True])
def test_batches_of_weighted_rows_equal_one_fit(within_class, rng):
    weight, order = rng.uniform(size=150), rng.permutation(150)
    X, y = IRIS[order], SPECIES[order]
    whole = MahalanobisMetric(within_class=within_class).fit(X, y, weight)
    batched = clone(whole)
    for part in np.split(np.arange(150), [60, 110]):
        batched.partial_fit(X[part], y[part], weight[part])
    assert_allclose(batched.components_, whole.components_, rtol=1e-10)
    assert batched.n_samples_seen_ == pytest.approx(weight.sum())


def test_rows_of_weight_0_are_ignored():
    spoilt, weight = IRIS.copy(), np.ones(150)
    spoilt[3], weight[3] = 1e9, 0
    kept = np.arange(150) != 3
    expected = MahalanobisMetric().fit(IRIS[kept]).components_
    assert_array_equal(MahalanobisMetric().fit(spoilt, sample_weight=weight).components_, expected)


def test_other_covariances_take_no_weights(X):
    for covariance in ("oas", "min_cov_det", EmpiricalCovariance()):
        with pytest.raises(ValueError, match="takes no sample_weight"):
            MahalanobisMetric(covariance).fit(X, sample_weight=np.ones(60))
    MahalanobisMetric("oas").fit(X, sample_weight=None)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(59), r"one weight for each of the 60 rows"),
        (-np.ones(60), "non-negative values"),
        (np.zeros(60), "at least one non-zero"),
        (np.full(60, np.nan), "sample_weight contains NaN"),
    ],
)
def test_bad_weights_are_refused(weight, message, X):
    for call in (MahalanobisMetric().fit, MahalanobisMetric().partial_fit):
        with pytest.raises(ValueError, match=message):
            call(X, sample_weight=weight)


# Singular data


def singular_data(kind, rng):
    A = rng.normal(size=(40, 3))
    return {
        "collinear": (np.column_stack([A, A[:, 0] + A[:, 1]]), 3),
        "constant": (np.column_stack([A, np.full(40, 0.1)]), 3),
        "two constants": (np.column_stack([np.full(40, 1e9), A, np.full(40, -1e-9)]), 3),
        "few rows": (rng.normal(size=(6, 20)), 5),
        "duplicate column": (np.column_stack([A, A * 1000]), 3),
        "duplicate rows": (np.repeat(rng.normal(size=(3, 4)), 10, axis=0), 2),
        "two rows": (rng.normal(size=(2, 4)), 1),
    }[kind]


SINGULAR = [
    "collinear",
    "constant",
    "two constants",
    "few rows",
    "duplicate column",
    "duplicate rows",
    "two rows",
]


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("kind", SINGULAR)
def test_singular_data_use_the_pseudo_inverse_and_warn_once(kind, batches, rng):
    X, rank = singular_data(kind, rng)
    message = f"rank {rank}, X has {X.shape[1]} features .*covariance='ledoit_wolf'"
    learner = MahalanobisMetric()
    with pytest.warns(UserWarning, match=message) as caught:
        (learner.partial_fit if batches else learner.fit)(X)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert learner.components_.shape == (rank, X.shape[1])
    covariance = np.cov(X.T, bias=True)
    expected = np.linalg.pinv(covariance, rcond=1e-13, hermitian=True)
    if kind == "two constants":
        expected = np.zeros((5, 5))
        expected[1:4, 1:4] = np.linalg.inv(covariance[1:4, 1:4])
    M = learner.get_mahalanobis_matrix()
    assert_allclose(M, expected, atol=1e-9 * abs(expected).max())
    Z = learner.transform(X)
    assert_allclose(np.cov(Z.T, bias=True).reshape(rank, rank), np.eye(rank), atol=1e-9)


@pytest.mark.parametrize("n_components", [1, 3])
def test_asking_for_no_more_than_the_rank_needs_no_warning(n_components, rng):
    X, rank = singular_data("few rows", rng)
    assert n_components <= rank
    learner = MahalanobisMetric(n_components=n_components).fit(X)
    pca = PCA(n_components, whiten=True, svd_solver="full").fit(X)
    assert_allclose(pdist(learner.transform(X)) ** 2, pdist(pca.transform(X)) ** 2 * 6 / 5)


def test_components_are_bounded_by_the_rank(rng):
    X, rank = singular_data("few rows", rng)
    with pytest.warns(UserWarning, match=f"rank {rank}"):
        learner = MahalanobisMetric(n_components=6).fit(X)
    assert learner.components_.shape == (rank, 20)
    assert learner.get_feature_names_out().tolist() == [f"mahalanobismetric{i}" for i in range(5)]


def test_shrinkage_gives_no_warning(rng):
    for kind in ("few rows", "constant", "collinear"):
        X, _ = singular_data(kind, rng)
        learner = MahalanobisMetric("ledoit_wolf").fit(X)
        assert learner.components_.shape == (X.shape[1], X.shape[1])


def test_duplicate_rows_count_twice(rng):
    X = rng.normal(size=(20, 3))
    doubled = MahalanobisMetric().fit(np.repeat(X, 2, axis=0))
    assert_allclose(doubled.components_, MahalanobisMetric().fit(X).components_, rtol=1e-9)


@pytest.mark.parametrize("decades", [6, 8])
def test_columns_may_have_very_different_units(decades, rng):
    X = rng.normal(size=(100, 7)) + rng.normal(size=(100, 1))
    expected = MahalanobisMetric().fit(X).get_metric()(X)
    for _ in range(20):
        units = 10.0 ** rng.permutation(np.linspace(-decades, decades, 7))
        d = MahalanobisMetric().fit(X * units).get_metric()
        assert_allclose(d(X * units), expected, rtol=1e-10)


# Bad input


BAD_DATA = [
    ({}, np.ones((5, 2)), None, "All 5 rows of X are equal"),
    ({}, np.array([[1.0, np.nan], [0.0, 1.0]]), None, "Input X contains NaN"),
    ({}, np.array([[1.0, np.inf], [0.0, 1.0]]), None, "Input X contains infinity"),
    ({}, np.array([[1e300, 0.0], [0.0, 1e300]]), None, r"Column 0 of X ranges from 0 to 1e\+300"),
    ({}, np.empty((0, 2)), None, r"0 sample\(s\)"),
    ({}, np.empty((4, 0)), None, r"0 feature\(s\)"),
    ({}, np.ones((1, 2)), None, "minimum of 2 is required by MahalanobisMetric"),
    ({}, np.arange(4.0), None, "Expected 2D array, got 1D array"),
    ({}, np.ones((2, 2, 2)), None, "with dim 3"),
    ({"covariance": "tied"}, IRIS, None, "covariance='tied' is unknown; choose one of"),
    ({"covariance": LedoitWolf}, IRIS, None, "is unknown; choose one of"),
    ({"covariance": None}, IRIS, None, "covariance=None is unknown"),
    ({"covariance": PCA()}, IRIS, None, "is not a covariance estimator"),
    ({"n_components": 0}, IRIS, None, "n_components=0 has to be None or an int from 1 to 4"),
    ({"n_components": 5}, IRIS, None, "n_components=5 has to be None or an int from 1 to 4"),
    ({"n_components": 4}, IRIS[:3], None, "n_components=4 .* from 1 to 3"),
    ({"n_components": 1.5}, IRIS, None, "n_components=1.5 has to be"),
    ({"n_components": "two"}, IRIS, None, "n_components='two' has to be"),
    ({"within_class": True}, IRIS, None, "within_class=True.* requires y to be passed"),
    ({"within_class": True}, IRIS, SPECIES[:9], "inconsistent numbers of samples"),
    ({"within_class": True}, IRIS, SPECIES + 0.5 * IRIS[:, 0], "Unknown label type: continuous"),
    ({"within_class": True}, IRIS, np.arange(150), "In each class of y all rows are equal"),
    ({"covariance": "oas"}, np.ones((5, 2)), None, "All 5 rows of X are equal"),
    ({"covariance": "min_cov_det"}, np.ones((5, 2)), None, "All 5 rows of X are equal"),
]


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize(("parameters", "X", "y", "message"), BAD_DATA)
def test_bad_input_is_refused_and_leaves_the_learner_unfitted(parameters, X, y, message):
    learner = MahalanobisMetric(**parameters)
    with pytest.raises(ValueError, match=message):
        learner.fit(X, y)
    assert fitted_attributes(learner) == []
    with pytest.raises(NotFittedError):
        learner.transform(IRIS)


def test_failed_fit_keeps_the_last_one(X):
    learner = MahalanobisMetric().fit(pd.DataFrame(X, columns=list("abcde")))
    before = pickle.dumps(learner)
    for bad in (np.ones((5, 2)), np.full((5, 2), np.nan)):
        with pytest.raises(ValueError, match=r"equal|NaN"):
            learner.fit(bad)
    assert pickle.dumps(learner) == before


def test_wrong_number_of_features_is_refused(X):
    learner = MahalanobisMetric().fit(X)
    with pytest.raises(ValueError, match="X has 4 features, but MahalanobisMetric is expecting 5"):
        learner.transform(X[:, :4])
    with pytest.raises(ValueError, match="X has 4 features, but the distance was learned on 5"):
        learner.get_metric()(X[:, :4])


def test_column_of_labels_warns():
    with pytest.warns(DataConversionWarning):
        learner = MahalanobisMetric(within_class=True).fit(IRIS, SPECIES[:, None])
    assert_allclose(learner.covariance_, within_class_covariance(IRIS, SPECIES))


def test_y_is_required_only_within_class():
    for within_class in (False, True):
        tags = MahalanobisMetric(within_class=within_class).__sklearn_tags__()
        assert tags.target_tags.required is within_class


# Types


def test_float32_stays_float32():
    X = IRIS.astype(np.float32)
    learner = MahalanobisMetric().fit(X)
    assert learner.components_.dtype == np.float32
    assert learner.transform(X).dtype == np.float32
    assert learner.transform(IRIS).dtype == np.float64
    assert learner.get_metric()(X).dtype == np.float32
    exact = MahalanobisMetric().fit(X.astype(np.float64))
    assert exact.transform(X).dtype == np.float32
    assert_array_equal(learner.components_, exact.components_.astype(np.float32))
    assert_allclose(learner.get_metric()(X), exact.get_metric()(X), atol=1e-4)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool, np.float16])
def test_other_dtypes_are_read_as_float64(dtype, rng):
    X = rng.integers(0, 2, size=(50, 3)).astype(dtype)
    learner = MahalanobisMetric().fit(X)
    assert learner.transform(X).dtype == np.float64
    exact = MahalanobisMetric().fit(X.astype(np.float64))
    assert_array_equal(learner.transform(X), exact.transform(X.astype(np.float64)))


def test_set_output_names_the_components():
    names = [f"mahalanobismetric{i}" for i in range(4)]
    frame = pd.DataFrame(IRIS, columns=list("abcd"))
    as_pandas = MahalanobisMetric().set_output(transform="pandas").fit(frame).transform(frame)
    assert isinstance(as_pandas, pd.DataFrame)
    assert as_pandas.columns.tolist() == names
    as_polars = MahalanobisMetric().set_output(transform="polars").fit_transform(IRIS)
    assert isinstance(as_polars, pl.DataFrame)
    assert as_polars.columns == names
    assert_allclose(as_polars.to_numpy(), as_pandas.to_numpy())


# Whole objects


def test_two_fits_are_equal_and_leave_the_input_unchanged():
    X = IRIS.copy()
    first, second = MahalanobisMetric().fit(X), MahalanobisMetric().fit(X)
    assert_array_equal(first.components_, second.components_)
    assert_array_equal(X, IRIS)
    X.setflags(write=False)
    assert_array_equal(first.fit(X).components_, second.components_)


def test_order_of_rows_only_changes_rounding(rng):
    order = rng.permutation(150)
    for learner in (MahalanobisMetric(), MahalanobisMetric(within_class=True)):
        L = learner.fit(IRIS, SPECIES).components_.copy()
        assert_allclose(learner.fit(IRIS[order], SPECIES[order]).components_, L, rtol=1e-9)


def test_clone_and_pickle(X):
    learner = MahalanobisMetric(OAS(), n_components=2, random_state=5).fit(X)
    copy = clone(learner)
    assert fitted_attributes(copy) == []
    assert copy.get_params()["n_components"] == 2
    assert copy.covariance is not learner.covariance
    again = pickle.loads(pickle.dumps(learner))
    assert_array_equal(again.transform(X), learner.transform(X))
    d = pickle.loads(pickle.dumps(learner.get_metric()))
    assert_array_equal(d(X), learner.get_metric()(X))


def test_metric_is_unchanged_by_another_fit(X, rng):
    learner = MahalanobisMetric().fit(X)
    d = learner.get_metric()
    before = d(X)
    learner.fit(rng.normal(size=(30, 5)))
    assert_array_equal(d(X), before)
    learner = MahalanobisMetric().fit(X)
    d = learner.get_metric()
    learner.components_ *= 2
    assert_array_equal(d(X), before)


def test_linear_map_copies_and_checks():
    L = np.array([[1.0, 2.0]])
    f = LinearMap(L)
    L[:] = 0
    assert_array_equal(f([[3, 4]]), [[11.0]])
    assert f(np.ones((2, 2), dtype=np.float32)).dtype == np.float32
    assert repr(f) == "LinearMap(1 x 2)"
    for points, message in [
        ([[1.0]], "X has 1 features, but the distance was learned on 2"),
        ([[1.0, np.nan]], "contains NaN"),
        ([1.0, 2.0], "Expected 2D array"),
    ]:
        with pytest.raises(ValueError, match=message):
            f(points)
