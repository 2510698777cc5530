"""LFDA against loops over all pairs, and on unusual input."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import eigh, subspace_angles
from sklearn.datasets import load_iris, make_blobs
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError

from skdml import LFDA
from skdml.linear import lfda
from skdml.linear.lfda import local_scatter, local_within_and_between

IRIS, SPECIES = load_iris(return_X_y=True)
BLOBS, CLASSES = make_blobs([30, 20, 4], n_features=5, random_state=0, cluster_std=4.0)


def literal_affinity(X, k):
    """Return A for the points of one class."""
    n = len(X)
    distance = np.array([[np.linalg.norm(X[i] - X[j]) for j in range(n)] for i in range(n)])
    sigma = np.array([sorted(distance[i])[min(k, n - 1)] for i in range(n)])
    return np.exp(-(distance**2) / np.outer(sigma, sigma))


def literal_matrices(X, y, k):
    """Return S̃ʷ and S̃ᵇ by the paper's equations 13 to 16."""
    n, d = X.shape
    within, between = np.zeros((2, d, d))
    A = {c: literal_affinity(X[y == c], k) for c in set(y.tolist())}
    position = {c: {i: p for p, i in enumerate(np.flatnonzero(y == c))} for c in A}
    for i in range(n):
        for j in range(n):
            outer = np.outer(X[i] - X[j], X[i] - X[j]) / 2
            if y[i] != y[j]:
                between += outer / n
                continue
            c = y[i]
            a, size = A[c][position[c][i], position[c][j]], len(A[c])
            within += a / size * outer
            between += a * (1 / n - 1 / size) * outer
    return within, between


@pytest.mark.parametrize("k", [1, 7])
def test_matrices_are_those_of_the_paper(k):
    got, expected = (f(BLOBS, CLASSES, k) for f in (local_within_and_between, literal_matrices))
    assert_allclose(got[0], expected[0], atol=1e-10 * abs(expected[0]).max())
    assert_allclose(got[1], expected[1], atol=1e-10 * abs(expected[1]).max())


def test_result_is_independent_of_the_block_size(monkeypatch):
    X = BLOBS - BLOBS.mean(axis=0)
    whole = local_scatter(X, 7)
    monkeypatch.setattr(lfda, "_BLOCK", 200)
    assert_allclose(local_scatter(X, 7), whole, rtol=1e-12)


def test_blocks_are_not_kept():
    X = np.random.default_rng(0).normal(size=(4000, 2))
    tracemalloc.start()
    local_scatter(X, 7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(X) ** 2 * X.itemsize / 4


def literal_shrunk(within, variance, shrinkage):
    c = (within.diagonal() / variance).mean()
    return (1 - shrinkage) * within + shrinkage * c * np.diag(variance)


@pytest.mark.parametrize("shrinkage", [0, 0.2])
@pytest.mark.parametrize("n_components", [None, 2])
def test_axes_solve_the_eigenproblem(shrinkage, n_components):
    S, B = literal_matrices(BLOBS, CLASSES, 7)
    S = literal_shrunk(S, BLOBS.var(axis=0), shrinkage)
    k = n_components or 5
    values = eigh(B, S, eigvals_only=True)[::-1][:k]
    parameters = {"n_components": n_components, "shrinkage": shrinkage}
    plain = LFDA(embedding_type="plain", **parameters).fit(BLOBS, CLASSES).components_
    assert_allclose(plain @ S @ plain.T, np.eye(k), atol=1e-8)
    assert_allclose(plain @ B @ plain.T, np.diag(values), atol=1e-8)
    weighted = LFDA(**parameters).fit(BLOBS, CLASSES).components_
    assert_allclose(weighted, plain * np.sqrt(values)[:, None], rtol=1e-7)
    turned = LFDA(embedding_type="orthonormalized", **parameters).fit(BLOBS, CLASSES).components_
    assert_allclose(turned @ turned.T, np.eye(k), atol=1e-10)
    assert subspace_angles(turned.T, plain.T).max() < 1e-7


def test_affinities_of_1_give_fishers_discriminant_analysis(monkeypatch):
    monkeypatch.setattr(lfda, "local_scales", lambda left, right, k: np.full(50, 1e9))
    fisher = LinearDiscriminantAnalysis(solver="eigen").fit(IRIS, SPECIES).scalings_[:, :2]
    axes = LFDA(2, shrinkage=0).fit(IRIS, SPECIES).components_
    for ours, theirs in zip(axes, fisher.T, strict=True):
        cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
        assert abs(cosine) == pytest.approx(1, abs=1e-9)


def test_local_scales_do_not_depend_on_other_classes():
    order = np.argsort(-CLASSES, kind="stable")  # the class of four rows first
    d = LFDA().fit(BLOBS, CLASSES).get_metric()(BLOBS)
    for X, y in ((BLOBS[order], CLASSES[order]), (BLOBS, 2 - CLASSES)):
        assert_allclose(LFDA().fit(X, y).get_metric()(BLOBS), d, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_result_is_independent_of_the_unit(scale):
    expected = LFDA().fit(IRIS, SPECIES).get_metric()(IRIS)
    assert_allclose(LFDA().fit(IRIS * scale, SPECIES).get_metric()(IRIS * scale), expected)


def test_duplicates_and_classes_of_one_row():
    X = np.concatenate([np.repeat(IRIS[::10], 9, axis=0), IRIS[:1] + 1])
    y = np.append(np.repeat(SPECIES[::10], 9), 3)
    for parameters in ({}, {"n_neighbors": 3}, {"n_neighbors": 20}):
        L = LFDA(**parameters).fit(X, y).components_
        assert np.isfinite(L).all()
        assert L.any()


def test_singular_without_shrinkage_warns_and_with_it_does_not():
    X, y = np.random.default_rng(0).normal(size=(10, 20)), np.arange(10) % 2
    with pytest.warns(UserWarning, match=r"rank 8 for 20 features.*shrinkage > 0"):
        LFDA(shrinkage=0).fit(X, y)
    assert LFDA().fit(X, y).components_.shape == (20, 20)


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
def test_bad_input_is_refused_and_leaves_the_learner_unfitted(parameters, y, message):
    learner = LFDA(**parameters)
    with pytest.raises(ValueError, match=message):
        learner.fit(IRIS, y)
    with pytest.raises(NotFittedError):
        learner.transform(IRIS)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("offset", [0, 0.3])
def test_a_row_with_k_duplicates_has_no_other_neighbours(dtype, offset):
    X = np.repeat(100 * IRIS[:5] + offset, 8, axis=0).astype(dtype)
    X -= X.mean(axis=0)
    assert abs(local_scatter(X, 7)).max() < 1e-5 * (X.T @ X).max()
    assert local_scatter(X, 8).max() > 0.1 * (X.T @ X).max()
