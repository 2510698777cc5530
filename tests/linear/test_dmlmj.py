"""DMLMJ: its covariances equal plain loops, and its axes maximise the divergence."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import subspace_angles
from sklearn.datasets import load_iris, make_blobs
from sklearn.exceptions import NotFittedError

from skdml import DMLMJ
from skdml.linear._neighbors import neighbor_pairs
from skdml.linear.dmlmj import jeffrey_axes, local_covariances

IRIS, SPECIES = load_iris(return_X_y=True)
X, Y = make_blobs([30, 20, 3, 1], n_features=5, random_state=0, cluster_std=4.0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def reference_pairs(X, y, k, m):
    """Return pairs with the k nearest rows of the same class and the m nearest of others."""
    same, different = [], []
    for i in range(len(X)):
        order = sorted(range(len(X)), key=lambda j: np.linalg.norm(X[i] - X[j]))
        same += [(i, j) for j in order if y[j] == y[i] and j != i][:k]
        different += [(i, j) for j in order if y[j] != y[i]][:m]
    return same, different


def reference_mean(X, pairs):
    return np.mean([np.outer(X[i] - X[j], X[i] - X[j]) for i, j in pairs], axis=0)


def reference_shrunk(C, variance, shrinkage):
    c = (C.diagonal() / variance).mean()
    return (1 - shrinkage) * C + shrinkage * c * np.diag(variance)


@pytest.mark.parametrize(("k", "m"), [(1, 1), (5, 3), (40, 60)])
def test_neighbor_pairs_equal_a_sort_of_all_distances(k, m):
    for got, expected in zip(neighbor_pairs(X, Y, k, m), reference_pairs(X, Y, k, m), strict=True):
        assert sorted(zip(*(rows.tolist() for rows in got), strict=True)) == sorted(expected)


def test_local_covariances_equal_the_definition():
    pairs = neighbor_pairs(X, Y, 5, 5)
    for got, expected in zip(
        local_covariances(X, *pairs), reference_pairs(X, Y, 5, 5), strict=True
    ):
        assert_allclose(got, reference_mean(X, expected), rtol=1e-10)


@pytest.mark.parametrize("shrinkage", [0, 0.1])
@pytest.mark.parametrize("n_components", [None, 2])
def test_axes_solve_the_eigenproblem(shrinkage, n_components):
    S, D = (
        reference_shrunk(reference_mean(X, pairs), X.var(axis=0), shrinkage)
        for pairs in reference_pairs(X, Y, 5, 5)
    )
    parameters = {"n_components": n_components, "shrinkage": shrinkage}
    plain = DMLMJ(embedding_type="plain", **parameters).fit(X, Y).components_
    values = np.einsum("ij,jk,ik->i", plain, D, plain)
    assert_allclose(D @ plain.T, S @ plain.T * values, atol=1e-8 * abs(D).max())
    assert_allclose(plain @ S @ plain.T, np.eye(len(plain)), atol=1e-8)
    assert (np.diff(values + 1 / values) < 0).all()
    weighted = DMLMJ(**parameters).fit(X, Y).components_
    assert_allclose(weighted, plain * np.sqrt(values)[:, None], rtol=1e-7)
    turned = DMLMJ(embedding_type="orthonormalized", **parameters).fit(X, Y).components_
    assert_allclose(turned @ turned.T, np.eye(len(plain)), atol=1e-10)
    assert subspace_angles(turned.T, plain.T).max() < 1e-7
    if n_components is None and shrinkage == 0:
        assert_allclose(plain.T @ plain, np.linalg.inv(S), atol=1e-8)


def test_axes_maximise_the_divergence(rng):
    def divergence(L, S, D):
        S, D = L @ S @ L.T, L @ D @ L.T
        return np.trace(np.linalg.solve(S, D)) + np.trace(np.linalg.solve(D, S))

    A, B = rng.normal(size=(2, 9, 6))
    S, D = A.T @ A, 0.1 * B.T @ B
    values, axes = jeffrey_axes(S, D, 9)
    best = divergence(axes[:2], S, D)
    assert best == pytest.approx((values + 1 / values)[:2].sum(), rel=1e-9)
    assert (values[:2] < 1).any()  # the axes are not ordered by value
    for _ in range(50):
        assert divergence(rng.normal(size=(2, 6)), S, D) < best
        assert divergence(axes[:2] + 1e-3 * rng.normal(size=(2, 6)), S, D) < best


def test_order_of_rows_does_not_matter_even_with_ties(rng):
    learner = DMLMJ().fit(IRIS, SPECIES)
    order = rng.permutation(150)
    again = DMLMJ().fit(IRIS[order], SPECIES[order])
    assert_array_equal(again.components_, learner.components_)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_distance_does_not_depend_on_the_unit(scale):
    expected = DMLMJ().fit(X, Y).get_metric()(X)
    assert_allclose(DMLMJ().fit(X * scale, Y).get_metric()(X * scale), expected, rtol=1e-9)


def test_duplicate_points_give_a_finite_map():
    rows = np.repeat(IRIS[::50], 9, axis=0)
    L = DMLMJ().fit(rows, np.repeat([0, 1, 2], 9)).components_
    assert np.isfinite(L).all()
    assert L.any()


def test_singular_covariance_warns_only_without_shrinkage(rng):
    rows, y = rng.normal(size=(10, 20)), np.arange(10) % 2
    with pytest.warns(UserWarning, match=r"rank 8 for 20 features.*shrinkage > 0"):
        DMLMJ(shrinkage=0).fit(rows, y)
    assert DMLMJ().fit(rows, y).components_.shape == (20, 20)


@pytest.mark.parametrize(
    ("parameters", "y", "message"),
    [
        ({}, np.zeros(150), "at least two classes"),
        ({}, np.arange(150), "Each of the 150 classes has a single sample"),
        ({"embedding_type": "long"}, SPECIES, "embedding_type='long' is unknown; choose one of"),
        ({"n_neighbors": 0}, SPECIES, "n_neighbors == 0"),
        ({"shrinkage": 1.5}, SPECIES, "shrinkage == 1.5"),
        ({"n_components": 5}, SPECIES, "n_components=5 has to be None or an int from 1 to 4"),
    ],
)
def test_invalid_input_raises_and_leaves_the_learner_unfitted(parameters, y, message):
    learner = DMLMJ(**parameters)
    with pytest.raises(ValueError, match=message):
        learner.fit(IRIS, y)
    with pytest.raises(NotFittedError):
        learner.transform(IRIS)
