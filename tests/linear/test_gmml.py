"""GMML: its matrix satisfies the defining equation. See also the tests shared with KISSME."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import fractional_matrix_power
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA

from skdml import GMML, KISSME
from skdml.linear.gmml import geodesic

IRIS, SPECIES = load_iris(return_X_y=True)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def matrices(rng):
    A, B = rng.normal(size=(2, 9, 5))
    return A.T @ A, B.T @ B


def reference_geodesic(S, D, t):
    half = fractional_matrix_power(S, 0.5)
    inner = fractional_matrix_power(half @ D @ half, t)
    return np.linalg.inv(half) @ inner @ np.linalg.inv(half)


@pytest.mark.parametrize("t", [0, 0.25, 0.5, 0.9, 1])
def test_geodesic_equals_the_definition(t, matrices):
    M = geodesic(*matrices, t, 9)
    expected = reference_geodesic(*matrices, t)
    assert_allclose(M, expected, atol=1e-8 * abs(expected).max())


def test_ends_and_midpoint_of_the_geodesic(matrices):
    S, D = matrices
    assert_allclose(geodesic(S, D, 0, 9) @ S, np.eye(5), atol=1e-8)
    assert_allclose(geodesic(S, D, 1, 9), D, atol=1e-8)
    M = geodesic(S, D, 0.5, 9)
    assert_allclose(M @ S @ M, D, atol=1e-8)


def test_midpoint_minimises_the_objective(matrices, rng):
    S, D = matrices

    def objective(M):
        return np.trace(M @ S) + np.trace(np.linalg.solve(M, D))

    M = geodesic(S, D, 0.5, 9)
    for _ in range(20):
        step = rng.normal(size=(5, 5))
        assert objective(M + 1e-3 * (step + step.T)) > objective(M)


@pytest.mark.parametrize(("t", "reg"), [(0.25, 0.01), (0.5, 0), (0.7, 0.3)])
def test_labels_equal_the_geodesic_of_all_pairs(t, reg):
    same, different = [], []
    for i in range(150):
        for j in range(i):
            pairs = same if SPECIES[i] == SPECIES[j] else different
            pairs.append(IRIS[i] - IRIS[j])
    S, D = (np.mean([np.outer(x, x) for x in pairs], axis=0) for pairs in (same, different))
    S, D = ((1 - reg) * C + reg * np.trace(C) / 4 * np.eye(4) for C in (S, D))
    M = GMML(t=t, reg=reg).fit(IRIS, SPECIES).get_mahalanobis_matrix()
    expected = reference_geodesic(S, D, t)
    assert_allclose(M, expected, atol=1e-8 * abs(expected).max())


def test_t_0_gives_the_mahalanobis_distance_within_classes():
    M = GMML(t=0, reg=0).fit(IRIS, SPECIES).get_mahalanobis_matrix()
    expected = (
        KISSME(contrast=0, shrinkage=0, prior_share=0).fit(IRIS, SPECIES).get_mahalanobis_matrix()
    )
    assert_allclose(M, expected, rtol=1e-8)


def test_reg_1_gives_euclidean_distance():
    M = GMML(reg=1).fit(IRIS, SPECIES).get_mahalanobis_matrix()
    assert_allclose(M / M[0, 0], np.eye(4), atol=1e-10)


def test_rotation_of_the_points_does_not_change_the_distance():
    turn = PCA(svd_solver="full").fit(IRIS).components_
    expected = GMML().fit(IRIS, SPECIES).get_metric()(IRIS)
    assert_allclose(GMML().fit(IRIS @ turn.T, SPECIES).get_metric()(IRIS @ turn.T), expected)


@pytest.mark.parametrize("parameters", [{"t": -0.1}, {"t": 2}, {"reg": 1.1}])
def test_invalid_parameters_raise(parameters):
    with pytest.raises(ValueError, match=f"{next(iter(parameters))} == "):
        GMML(**parameters).fit(IRIS, SPECIES)
