"""Retrieval measures, compared with plain loops and with scikit-learn."""

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist
from sklearn.datasets import load_wine
from sklearn.metrics import ndcg_score
from sklearn.preprocessing import StandardScaler

from skdml.metrics import (
    _ranking,
    map_at_r,
    mean_average_precision,
    mean_reciprocal_rank,
    ndcg_at_k,
    precision_at_k,
    r_precision,
    recall_at_k,
    retrieval_report,
)

SCIPY = {
    "euclidean": "euclidean",
    "sqeuclidean": "sqeuclidean",
    "manhattan": "cityblock",
    "cosine": "cosine",
    "angular": "cosine",
}


def rankings(Z, labels, ref, ref_labels, metric, itself):
    """Yield for each query the labels of the ranked reference points, and its own label."""
    for i, row in enumerate(cdist(Z, ref, SCIPY[metric])):
        order = sorted((d, j) for j, d in enumerate(row) if not (itself and j == i))
        yield [ref_labels[j] for _, j in order], labels[i]


def literal_recall(ranking, label, k):
    return float(label in ranking[:k])


def literal_precision(ranking, label, k):
    return ranking[:k].count(label) / k


def literal_ndcg(ranking, label, k):
    def gain(found):
        return sum((one == label) / np.log2(i + 1) for i, one in enumerate(found[:k], 1))

    return gain(ranking) / gain(sorted(ranking, key=lambda one: one != label))


def literal_r_precision(ranking, label):
    return literal_precision(ranking, label, ranking.count(label))


def literal_average_precision(ranking, label, depth=None):
    hits, total = 0, 0.0
    for i, found in enumerate(ranking[:depth], 1):
        if found == label:
            hits += 1
            total += hits / i
    return total / ranking.count(label)


def literal_map_at_r(ranking, label):
    return literal_average_precision(ranking, label, ranking.count(label))


def literal_reciprocal_rank(ranking, label):
    return 1 / (1 + ranking.index(label))


AT_K = {recall_at_k: literal_recall, precision_at_k: literal_precision, ndcg_at_k: literal_ndcg}
OTHERS = {
    r_precision: literal_r_precision,
    map_at_r: literal_map_at_r,
    mean_average_precision: literal_average_precision,
    mean_reciprocal_rank: literal_reciprocal_rank,
}


def each_query(literal, ranked, *args):
    return [literal(*one, *args) if one[1] in one[0] else np.nan for one in ranked]


def averages(values, labels):
    values, labels = np.array(values), np.array(labels)
    found = ~np.isnan(values)
    by_class = [values[found & (labels == c)].mean() for c in np.unique(labels[found])]
    per_class = dict(zip(np.unique(labels[found]).tolist(), by_class, strict=True))
    average = {"query": values[found].mean(), "class": np.mean(by_class)}
    return average | {"per_class": per_class, None: values}


def assert_same(found, expected):
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    assert_allclose(found, expected, rtol=1e-12)


def cases():
    rng = np.random.default_rng(0)
    smooth, small_ints = rng.normal(size=(40, 3)), rng.integers(0, 3, size=(40, 2)).astype(float)
    names = np.array(list("aaabbcccccddef"))
    labels = names[rng.integers(len(names), size=40)]
    for metric in SCIPY:
        yield metric, smooth, labels
    yield "manhattan", small_ints, labels  # exact ties everywhere
    yield "euclidean", small_ints, labels


CASES = list(cases())
IDS = [f"{metric}-{'ties' if X.shape[1] == 2 else 'smooth'}" for metric, X, _ in CASES]


@pytest.mark.parametrize("view", ["itself", "reference", "includes"])
@pytest.mark.parametrize(("metric", "X", "labels"), CASES, ids=IDS)
def test_retrieval_measures_match_plain_loops(metric, X, labels, view):
    if view == "itself":
        Z, own, ref, ref_labels, call = X, labels, X, labels, ()
    else:
        Z, own = X[:15], labels[:15]
        ref, ref_labels = (X, labels) if view == "includes" else (X[15:], labels[15:])
        call = (ref, ref_labels)
    options = {"metric": metric, "reference_includes_queries": view == "includes"}
    ranked = list(rankings(Z, own, ref, ref_labels, metric, view != "reference"))
    literal = {(f, k): each_query(AT_K[f], ranked, k) for f in AT_K for k in (1, 4, 14)}
    literal |= {(f, None): each_query(OTHERS[f], ranked) for f in OTHERS}
    for average in ("query", "class", "per_class", None):
        report = retrieval_report(Z, own, *call, **options, average=average, k=(1, 4, 14))
        for (measure, k), values in literal.items():
            at = {} if k is None else {"k": k}
            expected = averages(values, own)[average]
            assert_same(measure(Z, own, *call, **options, average=average, **at), expected)
            name = measure.__name__
            assert_same(report[name if k is None else f"{name.removesuffix('k')}{k}"], expected)
    assert report["n_queries"] == len(Z)
    assert report["n_without_match"] == sum(own not in ranking for ranking, own in ranked)


def many(n_classes=60):
    rng = np.random.default_rng(0)
    Z, labels = rng.normal(size=(600, 4)), rng.integers(n_classes, size=600)
    return Z, labels, rng.normal(size=(500, 4)), rng.integers(n_classes, size=500)


def assert_same_report(found, expected, rtol=1e-12):
    assert list(found) == list(expected)
    for name in expected:
        assert_allclose(found[name], expected[name], rtol=rtol, err_msg=name)


def test_the_block_size_does_not_change_results():
    Z, labels, *reference = many()
    for call in ((), reference):
        whole = retrieval_report(Z, labels, *call, average=None)
        with sklearn.config_context(working_memory=0.05):
            assert_same_report(retrieval_report(Z, labels, *call, average=None), whole)


def test_shifts_and_units_do_not_change_results():
    Z, labels, *_ = many(5)
    grid = (Z * 64).round()  # on a grid, shifts, units and ties are exact
    expected = retrieval_report(grid, labels, average=None)
    for moved in (grid + 2**30, grid * 2.0**600, grid * 2.0**-600, grid.astype(np.float32)):
        assert_same_report(retrieval_report(moved, labels, average=None), expected)


@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("spacing", [1, 64])
def test_ranking_at_once_equals_ranking_row_by_row(itself, spacing, monkeypatch):
    Z, labels, *reference = many(5)
    Z = (Z * spacing).round()  # a narrow grid has ties everywhere, a wide one few
    call = () if itself else ((reference[0] * spacing).round(), reference[1])

    def found():
        at_k = [m(Z, labels, *call, k=7) for m in (recall_at_k, precision_at_k, ndcg_at_k)]
        return [*at_k, r_precision(Z, labels, *call), map_at_r(Z, labels, *call)]

    at_once = found()
    monkeypatch.setattr(_ranking, "_MAX_POINTS_AT_ONCE", 0)
    assert at_once == found()
    monkeypatch.setattr(_ranking, "_MAX_POINTS_AT_ONCE", 2**14)
    monkeypatch.setattr(_ranking, "_DISTANCES_AT_ONCE", 1)
    assert at_once == found()


@pytest.mark.parametrize("metric", ["manhattan", "euclidean"])
def test_distances_that_differ_beyond_single_precision_are_ordered(metric):
    rng = np.random.default_rng(0)
    x = np.append(0, 1 + rng.random(100) * 1e-9)[:, None]
    labels = np.arange(101) % 3
    ranked = rankings(x, labels.tolist(), x, labels.tolist(), metric, True)
    expected = each_query(literal_average_precision, ranked)
    found = mean_average_precision(x, labels, average=None, metric=metric)
    # Only the first query: from it, the distances of all other points differ in the last digits.
    assert_allclose(found[0], expected[0])


def test_equal_distances_are_ranked_by_index():
    labels = np.array([0, 1, 0, 1, 1])
    found = mean_reciprocal_rank(np.ones((5, 3)), labels, average=None)
    assert_allclose(found, [1 / 2, 1 / 3, 1, 1 / 2, 1 / 2])


@pytest.mark.parametrize("k", [1, 3, 10, 499])
def test_ndcg_matches_scikit_learn(k):
    Z, labels, reference, reference_labels = many()
    match = (labels[:, None] == reference_labels).astype(int)
    asked = match.any(axis=1)
    score = -cdist(Z, reference)
    expected = ndcg_score(match[asked], score[asked], k=k)
    assert ndcg_at_k(Z, labels, reference, reference_labels, k=k) == pytest.approx(expected)


# Values of AccuracyCalculator of pytorch-metric-learning 2.9.0, with CustomKNN and the Euclidean
# distance without normalisation, on the standardised wine data. The keys are the average ("class"
# is avg_of_avgs) and whether even rows are queries in the odd rows (False: all among all).
WINE = {
    ("query", False): (
        0.9550561797752809,
        0.7792125999088498,
        0.7148115323609885,
        0.8388912238717056,
        0.9676054120063782,
    ),
    ("query", True): (
        0.9775280898876404,
        0.7836486719187223,
        0.7195416876111559,
        0.8415003187511164,
        0.985393226146698,
    ),
    ("class", False): (
        0.9624413145539906,
        0.7918105425241775,
        0.7319623353775149,
        0.8511114048183174,
        0.9729284644126892,
    ),
    ("class", True): (
        0.980952380952381,
        0.7938292510490786,
        0.7331923277094244,
        0.8514781210187589,
        0.9876191020011902,
    ),
}


@pytest.mark.parametrize(("average", "split"), WINE)
def test_values_of_the_accuracy_calculator(average, split):
    X, y = load_wine(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    call = (X[::2], y[::2], X[1::2], y[1::2]) if split else (X, y)
    report = retrieval_report(*call, average=average, k=1)
    names = ("precision_at_1", "r_precision", "map_at_r", "mean_average_precision")
    found = [report[name] for name in (*names, "mean_reciprocal_rank")]
    assert_allclose(found, WINE[average, split], rtol=1e-6)


@pytest.mark.parametrize(
    ("n_points", "known"), [(4, [1]), (6, [1, 5]), (8, [1, 5]), (12, [1, 5, 10])]
)
def test_the_default_k_fits_the_number_of_points(n_points, known):
    Z, labels = np.random.default_rng(0).normal(size=(n_points, 2)), np.arange(n_points) % 2
    report = retrieval_report(Z, labels)
    assert [int(name[10:]) for name in report if name.startswith("recall_at_")] == known
    assert report == retrieval_report(Z, labels, k=known)
    assert ndcg_at_k(Z, labels) == ndcg_at_k(Z, labels, k=min(10, n_points - 1))
    assert retrieval_report(Z, labels, Z, labels).keys() >= {f"recall_at_{k}" for k in known}
    assert ndcg_at_k(Z, labels, Z, labels) == ndcg_at_k(Z, labels, Z, labels, k=min(10, n_points))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda Z, y: map_at_r(Z, range(9)), "None of the 9 queries has a match"),
        (lambda Z, y: map_at_r(Z, y, Z, ["x"] * 9), "None of the 9 queries has a match"),
        (lambda Z, y: map_at_r(Z, y, Z), "come together"),
        (lambda Z, y: map_at_r(Z, y, metric="euclid"), "distance='euclid' is unknown"),
        (lambda Z, y: map_at_r(Z, y, average="macro"), "average='macro' is unknown"),
        (lambda Z, y: map_at_r(Z, y[:5]), "inconsistent numbers of samples"),
        (lambda Z, y: map_at_r(Z * np.nan, y), "NaN"),
        (lambda Z, y: recall_at_k(Z, y, k=9), r"k=9 is more than the \d points"),
        (lambda Z, y: recall_at_k(Z, y, k=0), "k == 0"),
        (lambda Z, y: precision_at_k(Z, y, k=9), r"k=9 is more than the \d points"),
        (lambda Z, y: ndcg_at_k(Z, y, Z, y, k=10), r"k=10 is more than the \d points"),
        (lambda Z, y: retrieval_report(Z, y, k=(1, 9)), r"k=9 is more than the \d points"),
        (lambda Z, y: map_at_r(Z, y, Z[:, :1], y), "have 2 components, the reference has 1"),
        (
            lambda Z, y: map_at_r(Z, y, Z, y[::-1], reference_includes_queries=True),
            "does not begin with the queries",
        ),
    ],
)
def test_invalid_input_of_retrieval_measures(call, message):
    Z = np.random.default_rng(0).normal(size=(9, 2))
    with pytest.raises(ValueError, match=message):
        call(Z, np.array(list("aabbbccdd")))
