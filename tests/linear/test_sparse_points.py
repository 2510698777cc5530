"""Sparse points: M lies within the leading axes, and no matrix is n_features x n_features."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_matrix, random

from skdml import ITML, LDML, LEGO, LSML, MMC
from skdml.linear._init import principal_axes

LEARNERS = {
    "ITML": ITML(random_state=0),
    "LDML": LDML(random_state=0),
    "LEGO": LEGO(random_state=0),
    "LSML": LSML(n_constraints=300, random_state=0),
    "MMC": MMC(),
}
every_learner = pytest.mark.parametrize("name", LEARNERS)


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    return rng.poisson(1 + 3 * np.eye(8)[y] + np.eye(8)[:, ::-1][y]).astype(float), y


def learner(name, **params):
    return type(LEARNERS[name])(**LEARNERS[name].get_params() | params)


@every_learner
def test_with_all_components_sparse_points_give_the_result_of_dense_points(name, counts):
    X, y = counts
    dense, sparse = learner(name).fit(X, y), learner(name).fit(csr_matrix(X), y)
    M = dense.get_mahalanobis_matrix()
    assert_allclose(sparse.get_mahalanobis_matrix(), M, rtol=1e-6, atol=1e-6 * abs(M).max())


@every_learner
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_with_fewer_components_m_is_learned_within_the_leading_axes(name, counts, dtype):
    X, y = counts
    X = X.astype(dtype)
    sparse = learner(name, n_components=3).fit(csr_matrix(X), y)
    axes = principal_axes(csr_matrix(X), 3)
    inside = learner(name).fit(X @ axes.T.astype(dtype), y)
    expected = axes.T @ inside.get_mahalanobis_matrix() @ axes
    tol = 1e-5 if dtype is np.float64 else 1e-2
    found = sparse.get_mahalanobis_matrix()
    assert sparse.components_.shape == (3, 8)
    assert sparse.components_.dtype == dtype
    assert_allclose(found, expected, rtol=tol, atol=tol * abs(expected).max())
    assert_allclose(sparse.transform(csr_matrix(X)), sparse.transform(X), rtol=1e-5, atol=1e-5)


@every_learner
def test_memory_does_not_grow_with_the_square_of_the_features(name):
    X = random(200, 20_000, density=0.002, format="csr", random_state=0)
    y = np.arange(200) % 4
    tracemalloc.start()
    fitted = learner(name, n_components=5).fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert fitted.components_.shape == (5, 20_000)
    assert peak < 64 * 2**20  # a dense copy of X would take 32 MB, M 3.2 GB


def test_lego_keeps_the_axes_of_its_first_batch(counts):
    X, y = counts
    first, second = csr_matrix(X[:30]), csr_matrix(X[30:])
    stream = LEGO(3, random_state=0).partial_fit(first, y[:30])
    axes = principal_axes(first, 3)
    dense = LEGO(random_state=0).partial_fit(X[:30] @ axes.T, y[:30])
    for batch in (second, X[30:]):
        continued = learner("LEGO", n_components=3).partial_fit(first, y[:30])
        continued.partial_fit(batch, y[30:])
        expected = dense.get_mahalanobis_matrix()
        assert_allclose(stream.get_mahalanobis_matrix(), axes.T @ expected @ axes, atol=1e-8)
    dense.partial_fit(X[30:] @ axes.T, y[30:])
    expected = axes.T @ dense.get_mahalanobis_matrix() @ axes
    assert_allclose(continued.get_mahalanobis_matrix(), expected, atol=1e-8)


def test_a_diagonal_m_needs_dense_points(counts):
    X, y = counts
    with pytest.raises(ValueError, match="X has to be dense"):
        MMC(diagonal=True).fit(csr_matrix(X), y)
