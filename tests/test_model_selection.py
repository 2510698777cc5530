"""Splits without shared classes or points, tuples drawn from labels, and comparisons."""

import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from scipy.stats import ttest_1samp
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import get_scorer, log_loss, make_scorer
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skdml import MahalanobisMetric
from skdml.metrics import equal_error_rate_scorer, map_at_r, map_at_r_scorer
from skdml.model_selection import (
    ClassDisjointKFold,
    ClassDisjointShuffleSplit,
    PairGroupKFold,
    compare_learners,
    make_pairs,
    make_triplets,
    p_of_no_gain,
)

IRIS, SPECIES = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])

labels = arrays(np.int64, st.integers(4, 40), elements=st.integers(-3, 6))
some_pairs = arrays(
    np.int64, st.tuples(st.integers(1, 40), st.just(2)), elements=st.integers(0, 25)
)


@given(labels, st.integers(2, 5), st.booleans())
def test_folds_share_no_class_and_test_each_row_once(y, n_splits, shuffle):
    assume(len(np.unique(y)) >= n_splits)
    splitter = ClassDisjointKFold(n_splits, shuffle=shuffle, random_state=0 if shuffle else None)
    tested = []
    for train, test in splitter.split(np.zeros(len(y)), y):
        assert not set(y[train]) & set(y[test])
        assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(len(y)))
        tested.append(test)
    assert len(tested) == splitter.get_n_splits() == n_splits
    assert_array_equal(np.sort(np.concatenate(tested)), np.arange(len(y)))


@given(labels, st.integers(0, 99))
def test_random_splits_share_no_class(y, seed):
    assume(len(np.unique(y)) >= 3)
    splitter = ClassDisjointShuffleSplit(3, test_size=0.4, random_state=seed)
    for train, test in splitter.split(np.zeros(len(y)), y):
        assert not set(y[train]) & set(y[test])
        assert len(train) > 0
        assert len(test) > 0
    again = splitter.split(np.zeros(len(y)), y)
    for (train, _), (other, _) in zip(splitter.split(y, y), again, strict=True):
        assert_array_equal(train, other)


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(some_pairs, st.integers(2, 4), st.integers(0, 9))
def test_folds_of_pairs_share_no_point(pairs, n_splits, seed):
    splitter = PairGroupKFold(n_splits, random_state=seed)
    try:
        splits = list(splitter.split(pairs))
    except ValueError:  # too few points: see test_impossible_splits_are_refused
        reject()
    tested = np.concatenate([test for _, test in splits])
    assert len(np.unique(tested)) == len(tested)
    for train, test in splits:
        assert not set(pairs[train].ravel()) & set(pairs[test].ravel())
        outside = ~np.isin(pairs, pairs[test]).any(axis=1)
        assert set(train) <= set(np.flatnonzero(outside))


def test_unconnected_pairs_are_all_tested():
    pairs = np.arange(40).reshape(20, 2)
    splits = list(PairGroupKFold(5, random_state=0).split(pairs))
    assert_array_equal(np.sort(np.concatenate([test for _, test in splits])), np.arange(20))
    assert all(len(test) == 4 and len(train) == 16 for train, test in splits)


def test_large_connected_groups_are_divided():
    first, second = np.triu_indices(20, k=1)
    pairs = np.column_stack([first, second])
    for train, test in PairGroupKFold(4, random_state=0).split(pairs):
        assert len(test) == 10  # the pairs among the 5 points of the fold
        assert len(train) == 105  # the pairs among the other 15 points


def test_pairs_of_points_and_pairs_of_indices_give_the_same_splits():
    indices, _ = make_pairs(IRIS, SPECIES, 60, indices=True, random_state=0)
    distinct = np.unique(IRIS, axis=0, return_inverse=True)[1].reshape(-1)
    by_index = list(PairGroupKFold(3, random_state=0).split(distinct[indices]))
    by_point = list(PairGroupKFold(3, random_state=0).split(IRIS[indices]))
    for (train, test), (other_train, other_test) in zip(by_index, by_point, strict=True):
        assert_array_equal(train, other_train)
        assert_array_equal(test, other_test)


def test_folds_of_pairs_share_no_group():
    rng = np.random.default_rng(0)
    pairs, people = rng.integers(0, 1000, (80, 2)), rng.integers(0, 12, (80, 2))
    for train, test in PairGroupKFold(3, random_state=0).split(pairs, groups=people):
        assert not set(people[train].ravel()) & set(people[test].ravel())


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (lambda: ClassDisjointKFold(4).split(IRIS, SPECIES), "at least 4 classes; y has 3"),
        (lambda: ClassDisjointKFold(2).split(IRIS, None), "splits by class, but y is None"),
        (lambda: ClassDisjointKFold(2).split(IRIS, IRIS[:, 0]), "Unknown label type"),
        (lambda: ClassDisjointShuffleSplit(2).split(IRIS, np.ones(150)), "at least two classes"),
        (lambda: ClassDisjointKFold(2).split(IRIS[:9], SPECIES), "inconsistent numbers"),
        (lambda: PairGroupKFold(2).split(IRIS), r"pairs need the shape .* got .* \(150, 4\)"),
        (lambda: PairGroupKFold(2).split(np.empty((0, 2))), "pairs need the shape"),
        (lambda: PairGroupKFold(5).split([[0, 1], [1, 2]]), "n_splits=5 is too large for 3"),
        (lambda: PairGroupKFold(2).split([[0, 1]]), "n_splits=2 is too large for"),
        (lambda: PairGroupKFold(1).split([[0, 1]]), "n_splits == 1, must be >= 2"),
    ],
)
def test_impossible_splits_are_refused(split, message):
    with pytest.raises(ValueError, match=message):
        list(split())


def retrieval(estimator, X, y):
    return map_at_r(estimator.transform(X), y)


def test_grid_search_scores_on_unseen_classes():
    y = np.arange(150) // 15  # ten classes, several of one species each
    search = GridSearchCV(
        MahalanobisMetric(),
        {"within_class": [False, True]},
        cv=ClassDisjointKFold(3),
        scoring=retrieval,
        error_score="raise",
    ).fit(IRIS, y)
    for within_class, score in zip(
        [False, True], search.cv_results_["mean_test_score"], strict=True
    ):
        learner = MahalanobisMetric(within_class=within_class)
        by_hand = [
            retrieval(clone(learner).fit(IRIS[train], y[train]), IRIS[test], y[test])
            for train, test in ClassDisjointKFold(3).split(IRIS, y)
        ]
        assert score == pytest.approx(np.mean(by_hand))


def test_repr_of_splitters():
    assert repr(ClassDisjointKFold(3)) == (
        "ClassDisjointKFold(n_splits=3, shuffle=False, random_state=None)"
    )
    assert cross_val_score(
        MahalanobisMetric(), IRIS, SPECIES, cv=ClassDisjointKFold(3), scoring=retrieval
    ).tolist() == [1.0, 1.0, 1.0]


# Tuples from labels


@pytest.mark.parametrize("n_pairs", [2, 101, 1000])
def test_pairs_are_distinct_and_of_both_kinds(n_pairs):
    rows, same = make_pairs(IRIS, NAMES[SPECIES], n_pairs, indices=True, random_state=1)
    assert rows.shape == (n_pairs, 2)
    assert_array_equal(SPECIES[rows[:, 0]] == SPECIES[rows[:, 1]], same == 1)
    assert abs(same.sum() - n_pairs / 2) <= 0.5
    assert len({tuple(sorted(pair)) for pair in rows.tolist()}) == n_pairs
    pairs, again = make_pairs(IRIS, NAMES[SPECIES], n_pairs, random_state=1)
    assert_array_equal(pairs, IRIS[rows])
    assert_array_equal(again, same)


def test_at_most_all_existing_pairs_are_returned():
    rows, same = make_pairs(IRIS[:5], [0, 0, 0, 1, 1], 99, indices=True, random_state=0)
    assert rows.shape == (10, 2)
    assert same.sum() == 4


def test_triplets_have_a_positive_and_a_negative():
    rows = make_triplets(IRIS, SPECIES, 500, indices=True, random_state=0)
    anchor, positive, negative = SPECIES[rows].T
    assert rows.shape == (500, 3)
    assert_array_equal(anchor, positive)
    assert (anchor != negative).all()
    assert (rows[:, 0] != rows[:, 1]).all()
    assert len(np.unique(rows, axis=0)) == 500
    assert_array_equal(make_triplets(IRIS, SPECIES, 500, random_state=0), IRIS[rows])


def test_tuples_of_images():
    images = np.arange(6 * 4.0).reshape(6, 1, 2, 2)
    assert make_pairs(images, [0, 0, 0, 1, 1, 1], 6, random_state=0)[0].shape == (6, 2, 1, 2, 2)
    assert make_triplets(images, [0, 0, 0, 1, 1, 1], 6, random_state=0).shape == (6, 3, 1, 2, 2)


def test_tuples_of_sparse_points_are_dense():
    sparse = csr_array(IRIS)
    for draw in (make_pairs, make_triplets):
        dense = draw(IRIS, SPECIES, 20, random_state=0)
        found = draw(sparse, SPECIES, 20, random_state=0)
        for one, other in zip(dense, found, strict=True):
            assert_array_equal(one, other)


def test_labels_that_allow_no_tuples_are_refused():
    with pytest.raises(ValueError, match="at least two classes"):
        make_pairs(IRIS, np.zeros(150))
    with pytest.raises(ValueError, match="No class in y has two points"):
        make_triplets(IRIS[:3], [0, 1, 2])
    with pytest.raises(ValueError, match="inconsistent numbers"):
        make_pairs(IRIS[:3], SPECIES)
    with pytest.raises(ValueError, match="n_pairs == 0, must be >= 2"):
        make_pairs(IRIS, SPECIES, 0)


# Comparisons


# scikit-learn 1.6 passes an option that newer versions of scipy deprecate.
@pytest.mark.filterwarnings("ignore:scipy.optimize. The .disp. and .iprint. opt:DeprecationWarning")
def test_a_comparison_equals_cross_validation():
    within = MahalanobisMetric(within_class=True)
    scaled = make_pipeline(StandardScaler(), within)
    table = compare_learners({"plain": within, "scaled": scaled}, IRIS, SPECIES, cv=5)
    assert table.index.tolist() == ["Euclid", "PCA", "LDA", "sklearn NCA", "plain", "scaled"]
    cv = StratifiedKFold(5)
    for name, learner in [("Euclid", FunctionTransformer()), ("plain", within), ("scaled", scaled)]:
        model = make_pipeline(learner, KNeighborsClassifier(3))
        scores = cross_val_score(model, IRIS, SPECIES, cv=cv)
        assert table.loc[name, "mean"] == pytest.approx(scores.mean())
        assert table.loc[name, "std"] == pytest.approx(scores.std())
    difference = table.loc["plain", "folds"]
    assert table.loc["plain", "gain"] == pytest.approx(difference.mean())
    assert table.loc["plain", "gain"] == pytest.approx(
        table.loc["plain", "mean"] - table.loc["Euclid", "mean"]
    )
    assert table.loc["plain", "wins"] == (difference > 0).sum()
    assert np.isnan(table.loc["Euclid", "p"])


class Broken(MahalanobisMetric):
    """A learner whose fit fails if the first row is the given one, or always."""

    def __init__(self, row=None):
        super().__init__()
        self.row = row

    def fit(self, X, y=None):
        if self.row is None or np.array_equal(X[0], self.row):
            raise RuntimeError("out of luck")
        return super().fit(X, y)


LOG_LOSS = make_scorer(log_loss, greater_is_better=False, response_method="predict_proba")


@pytest.mark.parametrize(
    "scoring",
    ["accuracy", "f1_macro", "neg_log_loss", "roc_auc_ovr", get_scorer("f1_macro"), LOG_LOSS],
)
def test_scores_of_predictions_are_those_of_a_neighbour_classifier(scoring):
    within = MahalanobisMetric(within_class=True)
    table = compare_learners(within, IRIS, SPECIES, cv=3, scoring=scoring, baselines=False)
    for name, learner in [("Euclid", FunctionTransformer()), ("MahalanobisMetric", within)]:
        model = make_pipeline(learner, KNeighborsClassifier(3))
        scores = cross_val_score(model, IRIS, SPECIES, cv=StratifiedKFold(3), scoring=scoring)
        assert table.loc[name, "mean"] == pytest.approx(scores.mean())


@pytest.mark.parametrize(
    "scoring", [map_at_r_scorer, equal_error_rate_scorer, lambda learner, X, y: -len(X)]
)
def test_other_scorers_get_the_learner(scoring):
    within = MahalanobisMetric(within_class=True)
    table = compare_learners(within, IRIS, SPECIES, cv=3, scoring=scoring, baselines=False)
    scores = cross_val_score(within, IRIS, SPECIES, cv=StratifiedKFold(3), scoring=scoring)
    assert table.loc["MahalanobisMetric", "mean"] == pytest.approx(scores.mean())


def test_numbers_are_predicted_by_a_neighbour_regressor():
    numbers = IRIS[:, 3] + 0.5
    learner = MahalanobisMetric()
    loss = "neg_mean_squared_error"
    table = compare_learners(learner, IRIS[:, :3], numbers, cv=3, scoring=loss)
    assert table.index.tolist() == ["Euclid", "PCA", "MahalanobisMetric"]
    model = make_pipeline(learner, KNeighborsRegressor(3))
    scores = cross_val_score(model, IRIS[:, :3], numbers, cv=3, scoring=loss)
    assert table.loc["MahalanobisMetric", "mean"] == pytest.approx(scores.mean())


def test_a_learner_that_fails_does_not_lose_the_others():
    learners = {"never": Broken(), "plain": MahalanobisMetric(), "no learner": object()}
    with pytest.warns(FitFailedWarning) as caught:
        table = compare_learners(learners, IRIS, SPECIES, cv=3, baselines=False)
    messages = [str(warning.message) for warning in caught]
    assert any("never failed in all 3 folds" in m and "out of luck" in m for m in messages)
    assert any("no learner failed in all 3 folds" in m for m in messages)
    alone = compare_learners({"plain": Broken([])}, IRIS, SPECIES, cv=3, baselines=False)
    assert table.loc["plain", "mean"] == alone.loc["plain", "mean"]
    assert np.isnan(table.loc["never", ["mean", "std", "gain", "p", "fit s"]].astype(float)).all()
    assert np.isnan(table.loc["never", "folds"]).tolist() == [True] * 3


def test_a_fold_that_fails_has_the_score_nan():
    first = next(StratifiedKFold(3).split(IRIS, SPECIES))[0][0]
    with pytest.warns(FitFailedWarning, match="1 fits failed"):
        table = compare_learners(Broken(IRIS[first]), IRIS, SPECIES, cv=3, baselines=False)
    assert np.isnan(table.loc["Broken", "folds"]).tolist() == [True, False, False]
    assert np.isnan(table.loc["Broken", "mean"])


def test_images_can_be_compared_although_the_euclidean_distance_fails():
    flatten = FunctionTransformer(lambda X: X.reshape(len(X), -1))
    with pytest.warns(FitFailedWarning, match="Euclid failed"):
        table = compare_learners(flatten, IRIS.reshape(-1, 2, 2), SPECIES, cv=3, baselines=False)
    assert table.loc["FunctionTransformer", "mean"] > 0.9
    assert np.isnan(table.loc["FunctionTransformer", "gain"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scoring": log_loss}, "looks like it is a metric function"),
        ({"scoring": "precise"}, "precise"),
        ({"scoring": ["accuracy", "f1_macro"]}, "one name or one callable"),
        ({"scoring": lambda learner, X, y: {"a": 1.0, "b": 2.0}}, r"several: \['a', 'b'\]"),
        ({"learners": {"Euclid": MahalanobisMetric()}}, r"\['Euclid'\] of learners"),
    ],
)
def test_comparisons_that_mean_nothing_are_refused(options, message):
    options = {"learners": MahalanobisMetric(), "cv": 3, "baselines": False} | options
    with pytest.raises(ValueError, match=message):
        compare_learners(X=IRIS, y=SPECIES, **options)


def test_a_comparison_in_which_all_fail_is_an_error():
    def scoring(learner, X, y):
        raise RuntimeError("no score")

    with (
        pytest.warns(UserWarning, match="no score"),
        pytest.raises(ValueError, match="Every distance failed in every fold"),
    ):
        compare_learners(MahalanobisMetric(), IRIS, SPECIES, cv=3, baselines=False, scoring=scoring)


def test_a_learner_of_the_name_of_a_baseline_is_numbered():
    table = compare_learners([PCA(2), PCA(3)], IRIS, SPECIES, cv=3, scoring=retrieval)
    assert table.index.tolist() == ["Euclid", "PCA", "LDA", "sklearn NCA", "PCA-2", "PCA-3"]


def test_a_comparison_on_unseen_classes():
    y = np.arange(150) // 15
    table = compare_learners(
        [MahalanobisMetric(), MahalanobisMetric(within_class=True)],
        IRIS,
        y,
        cv=ClassDisjointKFold(3),
        scoring=retrieval,
        baselines=False,
    )
    assert table.index.tolist() == ["Euclid", "MahalanobisMetric", "MahalanobisMetric-2"]
    by_hand = [
        retrieval(FunctionTransformer(), IRIS[t], y[t])
        for _, t in ClassDisjointKFold(3).split(IRIS, y)
    ]
    assert table.loc["Euclid", "mean"] == pytest.approx(np.mean(by_hand))


def test_p_value_is_a_corrected_students_t_test():
    gains = np.array([0.03, -0.01, 0.02, 0.04, 0.01])
    assert p_of_no_gain(gains, 0.0) == pytest.approx(ttest_1samp(gains, 0).pvalue)
    wider = p_of_no_gain(gains, 1 / 4)
    # The variance of the mean grows by 9/4, as if the deviations were 3/2 as large.
    spread = gains.mean() + (gains - gains.mean()) * np.sqrt((1 / 5 + 1 / 4) * 5)
    assert wider == pytest.approx(ttest_1samp(spread, 0).pvalue)
    assert p_of_no_gain(np.zeros(3), 0.5) == 1
    assert p_of_no_gain(np.full(3, 0.1), 0.5) == pytest.approx(0, abs=1e-9)
    assert np.isnan(p_of_no_gain(np.array([0.1]), 0.5))


def test_a_comparison_without_pandas_is_a_dict(monkeypatch):
    class NoPandas:
        def find_spec(self, name, path=None, target=None):
            if name == "pandas":
                raise ModuleNotFoundError(name)

    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoPandas(), *sys.meta_path])
    table = compare_learners(MahalanobisMetric(), IRIS, SPECIES, cv=3, baselines=False)
    assert table["distance"] == ["Euclid", "MahalanobisMetric"]
    assert_allclose(table["gain"][1], table["folds"][1].mean())
