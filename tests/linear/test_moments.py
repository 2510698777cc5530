"""Moments against plain sums, for any batches and weights."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skdml.linear._moments import centre, drop_zero_weights, merge, moments_of


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def literal_moments(X, y, weight):
    """Return the weight and mean of each class, the scatter within and between, and the mean."""
    classes, within = {}, np.zeros((X.shape[1], X.shape[1]))
    for label in sorted(set(y.tolist())):
        rows, w = X[y == label], weight[y == label]
        mean = sum(wi * row for wi, row in zip(w, rows, strict=True)) / w.sum()
        classes[label] = w.sum(), mean
        for wi, row in zip(w, rows, strict=True):
            within += wi * np.outer(row - mean, row - mean)
    mean = (weight[:, None] * X).sum(axis=0) / weight.sum()
    between = sum(w * np.outer(m - mean, m - mean) for w, m in classes.values())
    return classes, within, mean, between


@pytest.fixture
def data(rng):
    y = np.array(["a", "b", "c"])[rng.integers(0, 3, size=40)]
    return rng.normal(size=(40, 4)) + 5.0, y, rng.uniform(0.1, 3.0, size=40)


def assert_same(moments, expected):
    classes, within, mean, between = expected
    assert list(moments.classes) == list(classes)
    for label, (count, class_mean) in moments.classes.items():
        assert count == pytest.approx(classes[label][0], rel=1e-12)
        assert_allclose(class_mean, classes[label][1], rtol=1e-12)
    assert_allclose(moments.scatter, within, rtol=1e-10, atol=1e-12)
    assert_allclose(moments.mean, mean, rtol=1e-12)
    assert_allclose(moments.between, between, rtol=1e-9, atol=1e-12)


def test_moments_are_plain_sums(data):
    X, y, weight = data
    assert_same(moments_of(X, y), literal_moments(X, y, np.ones(40)))
    assert_same(moments_of(X, y, weight), literal_moments(X, y, weight))


def test_within_and_between_add_up_to_the_total(data):
    X, y, weight = data
    by_class, total = moments_of(X, y, weight), moments_of(X, weight=weight)
    assert_allclose(by_class.scatter + by_class.between, total.scatter, rtol=1e-10)
    assert by_class.n_rows == pytest.approx(total.n_rows)


@pytest.mark.parametrize("cuts", [[20], [1, 2, 39], list(range(1, 40))])
def test_merged_moments_are_those_of_all_rows(cuts, data):
    X, y, weight = data
    moments = None
    for part in np.split(np.arange(40), cuts):
        moments = merge(moments, moments_of(X[part], y[part], weight[part]))
    moments = moments._replace(classes=dict(sorted(moments.classes.items())))
    assert_same(moments, literal_moments(X, y, weight))


def test_merging_does_not_change_its_arguments(data):
    X, y, _ = data
    a, b = moments_of(X[:20], y[:20]), moments_of(X[20:], y[20:])
    before = a.scatter.copy(), dict(a.classes)
    merge(a, b)
    assert_array_equal(a.scatter, before[0])
    assert a.classes.keys() == before[1].keys()
    assert all(a.classes[label][0] == before[1][label][0] for label in a.classes)


def test_constant_columns_have_exactly_no_spread():
    X = np.full((7, 2), 0.1)
    X[:, 1] = 1e9 / 3
    for y in (None, np.array([0, 0, 0, 1, 1, 1, 1])):
        rows, _ = centre(X, y, np.linspace(0.1, 0.7, 7))
        assert not rows.any()


def test_rows_of_weight_0_are_dropped(data):
    X, y, weight = data
    weight[::3] = 0
    kept = weight > 0
    for got, expected in zip(
        drop_zero_weights(X, y, weight), (X[kept], y[kept], weight[kept]), strict=True
    ):
        assert_array_equal(got, expected)
    rows, labels, none = drop_zero_weights(X.astype(np.float32), None, np.ones(40))
    assert rows.dtype == np.float64
    assert labels is none is None
