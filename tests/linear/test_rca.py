"""RCA equals plain loops and metric-learn; batches and weights equal one fit on all rows."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import eigh
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from skdml import RCA, MahalanobisMetric

IRIS, SPECIES = load_iris(return_X_y=True)

# metric-learn 0.7.0 with scikit-learn 1.5.2: RCA().fit(IRIS, SPECIES).get_mahalanobis_matrix()
METRIC_LEARN = [
    [11.06481504, -5.48691938, -9.17543051, 3.4871337],
    [-5.48691938, 14.52436643, 2.7242858, -9.08804849],
    [-9.17543051, 2.7242858, 15.09102422, -9.08813896],
    [3.4871337, -9.08804849, -9.08813896, 37.52283607],
]

PAPER = {"embedding_type": "plain", "shrinkage": 0, "prior_share": 0}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def reference_covariances(X, chunks):
    """Return C, the covariance within chunks, and the covariance of all rows."""
    within, n = np.zeros((X.shape[1], X.shape[1])), 0
    for chunk in set(chunks[chunks >= 0].tolist()):
        rows = X[chunks == chunk]
        n += len(rows)
        for row in rows:
            within += np.outer(row - rows.mean(axis=0), row - rows.mean(axis=0))
    total = sum(np.outer(row - X.mean(axis=0), row - X.mean(axis=0)) for row in X)
    return within / n, total / len(X)


def reference_shrunk(within, total, shrinkage):
    variance = total.diagonal()
    c = (within.diagonal() / variance).mean()
    return (1 - shrinkage) * within + shrinkage * c * np.diag(variance)


@pytest.fixture
def chunked(rng):
    X = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5)) + 3.0
    return X, rng.integers(-1, 12, size=60)


@pytest.mark.parametrize("shrinkage", [0, 0.3, 1])
def test_matrix_is_the_inverse_of_the_covariance_within_chunks(shrinkage, chunked):
    X, chunks = chunked
    C = reference_shrunk(*reference_covariances(X, chunks), shrinkage)
    learner = RCA(supervision="chunks", **PAPER | {"shrinkage": shrinkage}).fit(X, chunks)
    L = learner.components_
    assert_allclose(L @ C @ L.T, np.eye(5), atol=1e-10)
    assert_allclose(learner.get_mahalanobis_matrix() @ C, np.eye(5), atol=1e-8)


@pytest.mark.parametrize("share", [0, 0.25, 1])
@pytest.mark.parametrize("kind", ["weighted", "plain"])
def test_matrix_is_weighted_and_mixed_with_euclidean_distance(share, kind, chunked):
    X, chunks = chunked
    X = X * [1, 1e-3, 1, 1e3, 1]
    C, T = reference_covariances(X, chunks)
    C = np.linalg.inv(reference_shrunk(C, T, 0.2))
    M = C @ T @ C if kind == "weighted" else C
    euclid = np.diag(1 / T.diagonal())
    # Both parts have the same mean squared distance, which is 2 tr(M T).
    expected = (1 - share) * M + share * euclid * np.trace(M @ T) / np.trace(euclid @ T)
    learner = RCA(supervision="chunks", embedding_type=kind, prior_share=share).fit(X, chunks)
    unit = np.outer(1 / X.std(axis=0), 1 / X.std(axis=0))
    assert_allclose(learner.get_mahalanobis_matrix() / unit, expected / unit, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("n_components", [1, 3, 5])
def test_components_are_the_axes_of_largest_spread(n_components, chunked):
    X, chunks = chunked
    whole = RCA(supervision="chunks").fit(X, chunks).transform(X)
    part = RCA(n_components, supervision="chunks").fit(X, chunks)
    covariance = np.cov(part.transform(X).T, bias=True).reshape(n_components, n_components)
    spread = np.linalg.eigvalsh(np.cov(whole.T, bias=True))[::-1][:n_components]
    assert_allclose(covariance, np.diag(spread), atol=1e-9 * spread[0])


def test_matrix_equals_that_of_metric_learn():
    M = RCA(**PAPER).fit(IRIS, SPECIES).get_mahalanobis_matrix()
    assert_allclose(M, METRIC_LEARN, rtol=1e-7)


def test_labels_equal_chunks():
    by_label = RCA().fit(IRIS, np.array(["a", "b", "c"])[SPECIES])
    by_chunk = RCA(supervision="chunks").fit(IRIS, SPECIES + 5)
    assert_array_equal(by_label.components_, by_chunk.components_)


def test_without_shrinkage_it_equals_the_mahalanobis_distance_within_classes():
    expected = MahalanobisMetric(within_class=True).fit(IRIS, SPECIES).components_
    assert_allclose(RCA(**PAPER).fit(IRIS, SPECIES).components_, expected, rtol=1e-9)


@pytest.mark.parametrize("n_components", [1, 3, 5])
def test_components_of_the_paper_are_fishers_axes(n_components, chunked):
    X, chunks = chunked
    C, T = reference_covariances(X, chunks)
    C = reference_shrunk(C, T, 0.3)
    learner = RCA(n_components, supervision="chunks", **PAPER | {"shrinkage": 0.3})
    L = learner.fit(X, chunks).components_
    values = eigh(T, C, eigvals_only=True)[::-1][:n_components]
    assert_allclose(T @ L.T, C @ L.T * values, atol=1e-8)
    assert_allclose(L @ C @ L.T, np.eye(n_components), atol=1e-10)


def test_rows_in_no_chunk_only_affect_the_total_covariance(chunked):
    X, chunks = chunked
    kept = chunks >= 0
    whole = RCA(supervision="chunks", **PAPER).fit(X, chunks)
    part = RCA(supervision="chunks", **PAPER).fit(X[kept], chunks[kept])
    assert_allclose(whole.components_, part.components_, rtol=1e-9)
    axes = RCA(2, supervision="chunks", **PAPER)
    assert not np.allclose(
        clone(axes).fit(X, chunks).components_, axes.fit(X[kept], chunks[kept]).components_
    )


@pytest.mark.parametrize("supervision", ["labels", "chunks"])
@pytest.mark.parametrize("cuts", [[75], [20, 21, 90], list(range(10, 150, 10))])
def test_batches_equal_one_fit(supervision, cuts, rng):
    order, weight = rng.permutation(150), rng.uniform(size=150)
    X, y = IRIS[order], SPECIES[order]
    y = y - 1 if supervision == "chunks" else np.array(["a", "b", "c"])[y]
    whole = RCA(supervision=supervision).fit(X, y, weight)
    batched = RCA(supervision=supervision)
    for part in np.split(np.arange(150), cuts):
        batched.partial_fit(X[part], y[part], weight[part])
    assert_allclose(batched.components_, whole.components_, rtol=1e-10)


def test_fit_restarts_and_partial_fit_continues():
    whole = RCA().fit(IRIS, SPECIES)
    learner = RCA().partial_fit(IRIS * 3, SPECIES).fit(IRIS[::2], SPECIES[::2])
    learner.partial_fit(IRIS[1::2], SPECIES[1::2])
    assert_allclose(learner.components_, whole.components_, rtol=1e-10)


@pytest.mark.parametrize("n_components", [None, 2])
def test_integer_weights_equal_repeated_rows(n_components, rng):
    weight = rng.integers(0, 4, size=150)
    rows = np.repeat(np.arange(150), weight)
    weighted = RCA(n_components).fit(IRIS, SPECIES, weight)
    repeated = RCA(n_components).fit(IRIS[rows], SPECIES[rows])
    assert_allclose(weighted.components_, repeated.components_, rtol=1e-8)


def test_chunks_of_weight_zero_are_left_out():
    chunks, weight = np.repeat([0, 1, -1], 50), np.repeat([0, 0, 1], 50)
    with pytest.raises(ValueError, match="No two rows of one chunk differ"):
        RCA(supervision="chunks").fit(IRIS, chunks, weight)
    later = RCA(supervision="chunks").partial_fit(IRIS, chunks).partial_fit(IRIS, chunks, weight)
    assert np.isfinite(later.components_).all()


def test_distance_does_not_depend_on_the_units(rng):
    units = np.array([1e-6, 1.0, 1e3, 1e6])
    expected = RCA().fit(IRIS, SPECIES).get_metric()(IRIS)
    assert_allclose(RCA().fit(IRIS * units, SPECIES).get_metric()(IRIS * units), expected)


def test_singular_covariance_warns_only_without_shrinkage(rng):
    X, y = rng.normal(size=(10, 20)), np.arange(10) % 2
    with pytest.warns(UserWarning, match="rank 8 for 20 features.*shrinkage > 0"):
        learner = RCA(**PAPER).fit(X, y)
    assert learner.components_.shape == (8, 20)
    assert RCA().fit(X, y).components_.shape == (20, 20)


BAD = [
    ({}, np.zeros(150), "at least two classes"),
    ({}, np.arange(150), "No two rows of one chunk differ"),
    ({"supervision": "chunks"}, np.full(150, -1), "No two rows of one chunk differ"),
    ({"supervision": "chunks"}, SPECIES + 0.5, "the chunk of each row as an integer"),
    ({"supervision": "chunks"}, None, "y"),
    ({"supervision": "pairs"}, SPECIES, "supervision='pairs' is unknown to RCA"),
    ({"shrinkage": 1.5}, SPECIES, "shrinkage == 1.5"),
    ({"prior_share": -1}, SPECIES, "prior_share == -1"),
    ({"embedding_type": "orthonormalized"}, SPECIES, "choose one of .'weighted', 'plain'"),
    ({"n_components": 5}, SPECIES, "n_components=5 has to be None or an int from 1 to 4"),
]


@pytest.mark.parametrize(("parameters", "y", "message"), BAD)
def test_invalid_input_raises_and_leaves_the_learner_unfitted(parameters, y, message):
    learner = RCA(**parameters)
    for call in (learner.fit, learner.partial_fit) if y is not None and y.any() else (learner.fit,):
        with pytest.raises(ValueError, match=message):
            call(IRIS, y)
    assert not hasattr(learner, "n_features_in_")
    with pytest.raises(NotFittedError):
        learner.transform(IRIS)
