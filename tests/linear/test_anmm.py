"""ANMM: its margins equal plain loops, and its axes maximise their objectives."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import expm, logm
from sklearn.datasets import load_iris, make_blobs
from sklearn.exceptions import NotFittedError

from skdml import ANMM
from skdml.linear._neighbors import neighbor_pairs
from skdml.linear.anmm import margin_axes, margin_matrix

IRIS, SPECIES = load_iris(return_X_y=True)
X, Y = make_blobs([30, 20, 3, 1], n_features=5, random_state=0, cluster_std=4.0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def reference_margin(X, y, k, m, L):
    """Sum of the margins under L, with neighbours found by sorting all distances."""
    total = 0.0
    for i in range(len(X)):
        order = sorted(range(len(X)), key=lambda j: np.linalg.norm(X[i] - X[j]))
        same_class = [j for j in order if y[j] == y[i] and j != i][:k]
        other_class = [j for j in order if y[j] != y[i]][:m]
        for sign, rows in ((1, other_class), (-1, same_class)):
            if rows:
                total += sign * np.mean([np.sum((L @ (X[i] - X[j])) ** 2) for j in rows])
    return total


@pytest.mark.parametrize(("k", "m"), [(5, 5), (2, 4), (40, 60)])
def test_margin_matrix_sums_the_margins(k, m, rng):
    margin = margin_matrix(X, *neighbor_pairs(X, Y, k, m))
    for L in (np.eye(5), rng.normal(size=(2, 5))):
        expected = reference_margin(X, Y, k, m, L)
        assert np.trace(L @ margin @ L.T) == pytest.approx(expected, rel=1e-9)


def test_orthonormal_axes_are_the_leading_eigenvectors(rng):
    margin = margin_matrix(X, *neighbor_pairs(X, Y, 5, 3))
    learner = ANMM(2, n_impostors=3, embedding_type="orthonormalized").fit(X, Y)
    L = learner.components_
    values = np.linalg.eigvalsh(margin)[::-1]
    assert_allclose(margin @ L.T, L.T * values[:2], atol=1e-8 * abs(margin).max())
    assert_allclose(L @ L.T, np.eye(2), atol=1e-10)
    for _ in range(20):
        other = np.linalg.qr(rng.normal(size=(5, 2)))[0].T
        assert np.trace(other @ margin @ other.T) < values[:2].sum()


def test_orthonormal_axes_default_to_those_with_a_positive_margin():
    values = np.array([5.0, 1.0, -1.0, -7.0])
    assert_array_equal(margin_axes(np.diag(values), None, "orthonormalized"), np.eye(2, 4))
    assert_array_equal(margin_axes(-np.eye(3), None, "orthonormalized").shape, (1, 3))
    assert_array_equal(margin_axes(np.diag(values), 3, "orthonormalized"), np.eye(3, 4))


def test_weighted_matrix_maximises_its_objective(rng):
    margin = margin_matrix(X, *neighbor_pairs(X, Y, 5, 5))
    tau = abs(np.linalg.eigvalsh(margin)).max()

    def objective(M):
        return np.trace(M @ margin) - tau / 2 * np.trace(M @ logm(M) - M + np.eye(5))

    M = ANMM().fit(X, Y).get_mahalanobis_matrix()
    assert_allclose(M, expm(2 * margin / tau), rtol=1e-8)
    for _ in range(20):
        step = 1e-3 * rng.normal(size=(5, 5))
        assert objective(M + step + step.T) < objective(M)


def test_n_components_keeps_the_leading_rows():
    L = ANMM().fit(X, Y).components_
    assert_array_equal(ANMM(2).fit(X, Y).components_, L[:2])
    assert (np.diff((L**2).sum(axis=1)) < 0).all()


def test_zero_margin_gives_euclidean_distance():
    L = margin_axes(np.zeros((3, 3)), None, "weighted")
    assert_allclose(L.T @ L, np.eye(3))


def test_order_of_rows_does_not_matter_even_with_ties(rng):
    learner = ANMM().fit(IRIS, SPECIES)
    order = rng.permutation(150)
    again = ANMM().fit(IRIS[order], SPECIES[order])
    assert_array_equal(again.components_, learner.components_)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
@pytest.mark.parametrize("embedding_type", ["weighted", "orthonormalized"])
def test_distance_is_in_the_unit_of_the_points(embedding_type, scale):
    learner = ANMM(embedding_type=embedding_type)
    expected = learner.fit(X, Y).get_metric()(X)
    assert_allclose(learner.fit(X * scale, Y).get_metric()(X * scale), expected * scale, rtol=1e-8)


@pytest.mark.parametrize(
    ("parameters", "y", "message"),
    [
        ({}, np.zeros(150), "at least two classes"),
        ({}, np.arange(150), "Each of the 150 classes has a single sample"),
        ({"embedding_type": "plain"}, SPECIES, "embedding_type='plain' is unknown; choose one of"),
        ({"n_neighbors": 0}, SPECIES, "n_neighbors == 0"),
        ({"n_impostors": 0}, SPECIES, "n_impostors == 0"),
        ({"n_components": 5}, SPECIES, "n_components=5 has to be None or an int from 1 to 4"),
    ],
)
def test_invalid_input_raises_and_leaves_the_learner_unfitted(parameters, y, message):
    learner = ANMM(**parameters)
    with pytest.raises(ValueError, match=message):
        learner.fit(IRIS, y)
    with pytest.raises(NotFittedError):
        learner.transform(IRIS)
