"""Neighbour searches against sorted distances, and sums over pairs against loops."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix

from skdml.linear._neighbors import nearest_other_class, nearest_same_class
from skdml.linear._pairs import PairGraph
from skdml.linear._points import distinct_rows

CODES = np.random.RandomState(0).permutation(np.repeat([0, 1, 2, 3], [30, 5, 1, 14]))


@pytest.fixture
def rng():
    return np.random.RandomState(2)


def points(n_features, dtype=np.float64):
    return np.random.RandomState(1).normal(size=(len(CODES), n_features)).astype(dtype)


def sorted_rows(Z, i, candidates):
    distance = ((Z[candidates] - Z[i]).astype(np.float64) ** 2).sum(axis=1)
    return candidates[np.argsort(distance)]


# With few features scikit-learn searches by a tree, with many by blocks of distances.
@pytest.mark.parametrize("n_features", [2, 20])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_same_class_neighbours_are_the_nearest_of_the_class(n_features, dtype):
    Z = points(n_features, dtype)
    found = nearest_same_class(Z, CODES, 6)
    for i, code in enumerate(CODES):
        same = np.setdiff1d(np.flatnonzero(code == CODES), [i])
        expected = sorted_rows(Z, i, same)[:6]
        assert_array_equal(found[i], np.pad(expected, (0, 6 - len(expected)), constant_values=-1))


# With 3, 10 and 100 neighbours none, some and all of the classes are small.
@pytest.mark.parametrize("n_features", [2, 20])
@pytest.mark.parametrize("n_neighbors", [3, 10, 100])
@pytest.mark.parametrize("bounded", [False, True])
def test_other_class_neighbours_are_the_nearest_of_other_classes(
    rng, n_features, n_neighbors, bounded
):
    Z = points(n_features)
    radius = np.sqrt(n_features) * rng.uniform(-0.3, 2, size=len(Z)) if bounded else None
    first, second = nearest_other_class(Z, CODES, n_neighbors, radius)
    assert_array_equal(first, np.sort(first))
    for i, code in enumerate(CODES):
        expected = sorted_rows(Z, i, np.flatnonzero(code != CODES))[:n_neighbors]
        if bounded:
            expected = expected[np.linalg.norm(Z[expected] - Z[i], axis=1) <= radius[i]]
        assert_array_equal(second[first == i], expected)


def test_no_neighbours_of_other_classes_within_the_radius():
    first, second = nearest_other_class(points(2), CODES, 3, np.full(len(CODES), 1e-9))
    assert len(first) == len(second) == 0
    first, second = nearest_other_class(points(2), CODES, 3, np.full(len(CODES), -1.0))
    assert len(first) == len(second) == 0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("block", [1, 40, 2**18])
def test_sums_over_pairs(rng, monkeypatch, dtype, block):
    monkeypatch.setattr("skdml.linear._pairs._BLOCK", block)
    Z = points(3, dtype)
    first = np.sort(rng.randint(0, len(Z), size=200))
    second = rng.randint(0, len(Z), size=200)
    weight = rng.normal(size=200)
    graph = PairGraph(first, second, len(Z))
    distance, product = np.zeros(200), np.zeros(Z.shape)
    for p, (i, j) in enumerate(zip(first, second, strict=True)):
        distance[p] = ((Z[i] - Z[j]).astype(np.float64) ** 2).sum()
        product[i] += weight[p] * (Z[i] - Z[j])
        product[j] += weight[p] * (Z[j] - Z[i])
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}
    assert graph.squared_distances(Z).dtype == graph.laplacian_product(weight, Z).dtype == dtype
    assert_allclose(graph.squared_distances(Z), distance, **close)
    assert_allclose(graph.laplacian_product(weight, Z), product, **close)


def test_laplacian_product_is_half_the_gradient(rng):
    Z = points(2)
    first, second = np.arange(49), rng.permutation(49)
    weight = rng.normal(size=49)
    graph = PairGraph(first, second, len(Z))
    gradient = np.zeros(Z.shape)
    for entry in np.ndindex(Z.shape):
        step = np.zeros(Z.shape)
        step[entry] = 1e-4
        up, down = (weight @ graph.squared_distances(Z + s * step) for s in (1, -1))
        gradient[entry] = (up - down) / 2e-4
    assert_allclose(2 * graph.laplacian_product(weight, Z), gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", [np.array, csr_matrix])
def test_distinct_rows(rng, kind):
    X = rng.randint(0, 2, size=(60, 3)).astype(np.float32)
    codes, weight = rng.randint(0, 2, size=60), rng.randint(0, 4, size=60) / 2
    rows, row_codes, sums = distinct_rows(kind(X), codes, weight)
    rows = np.asarray(rows.todense()) if kind is csr_matrix else rows
    expected = {}
    for x, code, w in zip(X.tolist(), codes.tolist(), weight.tolist(), strict=True):
        if w > 0:
            expected[(*x, code)] = expected.get((*x, code), 0) + w
    found = [(*x, code) for x, code in zip(rows.tolist(), row_codes.tolist(), strict=True)]
    assert dict(zip(found, sums.tolist(), strict=True)) == expected
    assert len(found) == len(expected)
    assert rows.dtype == np.float32
    mixed = rng.permutation(60)
    again = distinct_rows(kind(X[mixed]), codes[mixed], weight[mixed])
    assert_array_equal(again[0].toarray() if kind is csr_matrix else again[0], rows)
    assert_array_equal(again[1], row_codes)
    assert_array_equal(again[2], sums)
