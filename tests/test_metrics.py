"""Measures against loops over queries and pairs that say what they promise."""

from itertools import pairwise

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist

from skdml.metrics import equal_error_rate, map_at_r, recall_at_k

SCIPY = {
    "euclidean": "euclidean",
    "sqeuclidean": "sqeuclidean",
    "manhattan": "cityblock",
    "cosine": "cosine",
    "angular": "cosine",
}


def rankings(Z, labels, ref, ref_labels, metric, itself):
    """Labels of the reference points in the order each query meets them, and its own."""
    for i, row in enumerate(cdist(Z, ref, SCIPY[metric])):
        order = sorted((d, j) for j, d in enumerate(row) if not (itself and j == i))
        yield [ref_labels[j] for _, j in order], labels[i]


def literal_recall(ranking, label, k):
    return float(label in ranking[:k]) if label in ranking else np.nan


def literal_map(ranking, label):
    n_matches = ranking.count(label)
    if n_matches == 0:
        return np.nan
    hits, total = 0, 0.0
    for i, found in enumerate(ranking[:n_matches], 1):
        if found == label:
            hits += 1
            total += hits / i
    return total / n_matches


def averages(values, labels):
    values, labels = np.array(values), np.array(labels)
    found = ~np.isnan(values)
    by_class = [values[found & (labels == c)].mean() for c in np.unique(labels[found])]
    return {"query": values[found].mean(), "class": np.mean(by_class), None: values}


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
def test_retrieval_is_that_of_the_loop(metric, X, labels, view):
    if view == "itself":
        Z, own, ref, ref_labels, call = X, labels, X, labels, ()
    else:
        Z, own = X[:15], labels[:15]
        ref, ref_labels = (X, labels) if view == "includes" else (X[15:], labels[15:])
        call = (ref, ref_labels)
    options = {"metric": metric, "reference_includes_queries": view == "includes"}
    ranked = list(rankings(Z, own, ref, ref_labels, metric, view != "reference"))
    for average in ("query", "class", None):
        expected = averages([literal_map(*one) for one in ranked], own)[average]
        assert_allclose(map_at_r(Z, own, *call, **options, average=average), expected)
        for k in (1, 4, 14):
            expected = averages([literal_recall(*one, k) for one in ranked], own)[average]
            found = recall_at_k(Z, own, *call, **options, average=average, k=k)
            assert_allclose(found, expected)


def test_blocks_change_nothing():
    rng = np.random.default_rng(0)
    Z, labels = rng.normal(size=(600, 4)), rng.integers(60, size=600)
    ref, ref_labels = rng.normal(size=(500, 4)), rng.integers(60, size=500)
    for call in ((), (ref, ref_labels)):
        whole = [f(Z, labels, *call, average=None) for f in (map_at_r, recall_at_k)]
        with sklearn.config_context(working_memory=0.05):
            blocks = [f(Z, labels, *call, average=None) for f in (map_at_r, recall_at_k)]
        assert_allclose(blocks, whole)


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
        (lambda Z, y: recall_at_k(Z, y, k=9), "k == 9"),
        (lambda Z, y: recall_at_k(Z, y, k=0), "k == 0"),
        (
            lambda Z, y: map_at_r(Z, y, Z, y[::-1], reference_includes_queries=True),
            "does not begin with the queries",
        ),
    ],
)
def test_retrieval_refuses(call, message):
    Z = np.random.default_rng(0).normal(size=(9, 2))
    with pytest.raises(ValueError, match=message):
        call(Z, np.array(list("aabbbccdd")))


def literal_equal_error_rate(same, distance):
    """The crossing of the two error rates, linear between the thresholds that occur."""
    points = [(0.0, 1.0)]
    for t in sorted(set(distance)):
        accepted = distance <= t
        points.append((accepted[~same].mean(), 1 - accepted[same].mean()))
    for (far0, frr0), (far1, frr1) in pairwise(points):
        if frr1 <= far1:
            w = (frr0 - far0) / ((frr0 - far0) - (frr1 - far1))
            return far0 + w * (far1 - far0)
    return None


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_equal_error_rate_is_that_of_the_loop(seed, ties):
    rng = np.random.default_rng(seed)
    same = rng.random(50) < 0.3
    distance = rng.normal(size=50) - same
    distance = distance.round() if ties else distance
    expected = literal_equal_error_rate(same, distance)
    assert equal_error_rate(same.astype(int), distance) == pytest.approx(expected)
    assert equal_error_rate(np.where(same, 1, -1), distance) == pytest.approx(expected)


def test_equal_error_rate_at_the_ends():
    assert equal_error_rate([1, 1, 0], [0.1, 0.2, 0.3]) == 0
    assert equal_error_rate([0, 0, 1], [0.1, 0.2, 0.3]) == 1
    assert equal_error_rate([0, 1, 0, 1], [0.5] * 4) == 0.5
    with pytest.raises(ValueError, match="needs same and different pairs; all of y_true is 1"):
        equal_error_rate([1, 1], [0.1, 0.2])
