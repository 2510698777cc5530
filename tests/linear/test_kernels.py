"""Kernel sums against loops over all pairs in float64, for any number of threads."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import threadpool_info

from skdml._threads import one_thread
from skdml.linear import _kernels
from skdml.linear._kernels import kernel_sums, scale_to_unit_variance

RNG = np.random.RandomState(0)
Z = RNG.normal(size=(23, 3))
WEIGHT = RNG.randint(1, 4, size=23).astype(float)
FACTOR = RNG.normal(size=23)


def row_terms(block):
    """Weights V_ij = FACTOR_i K_ij / total_i. The value is the log of the sum of exp(-d²)."""
    return np.log(block.total) - block.shift, FACTOR[block.rows] / block.total


def literal(Z, weight, self_weight):
    """The same sums with an array of all pairs."""
    n = len(Z)
    exponent = np.full((n, n), -np.inf)
    for i in range(n):
        for j in range(n):
            mass = self_weight[i] if i == j else weight[j]
            if mass > 0:
                exponent[i, j] = np.log(mass) - ((Z[i] - Z[j]) ** 2).sum()
    top = exponent.max(axis=1)
    K = np.exp(exponent - top[:, None])
    V = FACTOR[:n, None] * K / K.sum(axis=1, keepdims=True)
    pull = np.diag(V.sum(axis=1) + V.sum(axis=0)) @ Z - V @ Z - V.T @ Z
    return np.log(K.sum(axis=1)) + top, pull


@pytest.mark.parametrize("size", [0.01, 1.0, 40.0, 1e4])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_are_those_of_all_pairs(size, weighted):
    weight = WEIGHT if weighted else np.ones(23)
    values, pull = kernel_sums(size * Z, row_terms, weight=weight, self_weight=weight - 1)
    expected = literal(size * Z, weight, weight - 1)
    assert_allclose(values, expected[0], rtol=1e-10, atol=1e-10)
    assert_allclose(pull, expected[1], atol=1e-9 * size)


@pytest.mark.parametrize("size", [0.01, 1.0, 40.0])
def test_single_precision(size):
    values, pull = kernel_sums((size * Z).astype(np.float32), row_terms)
    expected = literal(size * Z, np.ones(23), np.zeros(23))
    assert_allclose(values, expected[0], rtol=1e-4, atol=1e-4)
    assert_allclose(pull, expected[1], atol=2e-2 * size)


def test_points_far_from_the_origin_lose_no_digits():
    near = kernel_sums(Z, row_terms)[1]
    assert_allclose(kernel_sums(Z + 1e4, row_terms)[1], near, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_result_is_independent_of_blocks_and_threads(monkeypatch, dtype):
    X = np.random.RandomState(1).normal(size=(400, 5)).astype(dtype)
    monkeypatch.setattr(_kernels, "_ENTRIES", 1)  # blocks of 64 rows

    def total(block):
        return block.total, 1 / block.total

    with one_thread("blas"):
        one, two, many = (kernel_sums(X, total, n_threads=n) for n in (1, 2, 7))
    for other in (two, many):
        assert_array_equal(other[0], one[0])
        assert_array_equal(other[1], one[1])
    monkeypatch.setattr(_kernels, "_ENTRIES", 2**20)
    whole = kernel_sums(X, total)
    assert_allclose(one[0], whole[0], rtol=1e-5)
    assert_allclose(one[1], whole[1], atol=1e-4)


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch):
    monkeypatch.setattr(_kernels, "_ENTRIES", 1)

    def fail(block):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        kernel_sums(np.zeros((200, 2)), fail, n_threads=2)


def test_blas_threads_are_restored():
    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with one_thread("blas") as n_threads:
        assert set(threads()) <= {1}
        assert n_threads == max(before, default=1)
    assert threads() == before


def test_scale_to_unit_variance_ignores_directions_of_little_variance():
    X = np.random.RandomState(0).normal(size=(500, 4)) * [3.0, 3.0, 3.0, 1e-3]
    L = scale_to_unit_variance(np.eye(4), X, np.ones(500))
    assert_allclose(np.var(X @ L.T, axis=0), [1, 1, 1, 0], atol=0.2)
    assert_allclose(scale_to_unit_variance(7 * np.eye(4), X, np.ones(500)), L)
    flat = np.zeros((5, 4))
    assert_array_equal(scale_to_unit_variance(np.eye(4), flat, np.ones(5)), np.eye(4))
    assert scale_to_unit_variance(np.ones((1, 4)), X, np.ones(500)).shape == (1, 4)
