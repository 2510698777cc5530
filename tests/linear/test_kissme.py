"""KISSME equals plain loops over all pairs; KISSME and GMML with labels, pairs and batches."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import eigh
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from skdml import GMML, KISSME, RCA
from skdml.linear.kissme import likelihood_ratio_map

IRIS, SPECIES = load_iris(return_X_y=True)
LEARNERS = [KISSME(), GMML()]

both = pytest.mark.parametrize("learner", LEARNERS, ids=repr)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def all_pairs(X, y):
    """Return all pairs of rows, and whether each is a same pair."""
    first, second = np.triu_indices(len(X), 1)
    return np.stack([X[first], X[second]], axis=1), (y[first] == y[second]).astype(int)


def reference_means(X, y):
    """Return the mean of (x - y)(x - y)ᵀ over same pairs, different pairs and all pairs."""
    sums, counts = {True: 0.0, False: 0.0}, {True: 0, False: 0}
    for i in range(len(X)):
        for j in range(i):
            same = bool(y[i] == y[j])
            sums[same] = sums[same] + np.outer(X[i] - X[j], X[i] - X[j])
            counts[same] += 1
    total = (sums[True] + sums[False]) / sum(counts.values())
    return sums[True] / counts[True], sums[False] / counts[False], total


def reference_shrunk(C, variance, shrinkage):
    c = (C.diagonal() / variance).mean()
    return (1 - shrinkage) * C + shrinkage * c * np.diag(variance)


@pytest.mark.parametrize(("shrinkage", "contrast"), [(0, 0.9), (0.3, 0.9), (0.2, 0.5), (0.3, 0)])
def test_matrix_is_the_difference_of_the_inverses(shrinkage, contrast):
    S, D, T = reference_means(IRIS, SPECIES)
    S, D = (reference_shrunk(C, T.diagonal() / 2, shrinkage) for C in (S, D))
    M = KISSME(shrinkage=shrinkage, contrast=contrast, prior_share=0).fit(IRIS, SPECIES)
    M = M.get_mahalanobis_matrix()
    values, axes = eigh(D, S)
    expected = np.linalg.inv(S) - contrast * np.linalg.inv(D)
    # Along an axis with different pairs nearer than same pairs, D is replaced by S.
    excess = contrast * (1 / values - 1).clip(0)
    expected += (axes * excess) @ axes.T
    assert_allclose(M, expected, atol=1e-8 * abs(expected).max())


@pytest.mark.parametrize("share", [0.25, 1])
def test_matrix_is_mixed_with_euclidean_distance(share):
    X = IRIS * [1, 1e-3, 1, 1e3]
    *_, T = reference_means(X, SPECIES)
    M = KISSME(prior_share=0).fit(X, SPECIES).get_mahalanobis_matrix()
    euclid = np.diag(1 / T.diagonal())
    expected = (1 - share) * M + share * euclid * np.trace(M @ T) / np.trace(euclid @ T)
    M = KISSME(prior_share=share).fit(X, SPECIES).get_mahalanobis_matrix()
    unit = np.outer(1 / X.std(axis=0), 1 / X.std(axis=0))
    assert_allclose(M / unit, expected / unit, atol=1e-8 * abs(expected / unit).max())


def test_matrix_is_that_of_the_paper_if_different_pairs_are_farther_apart_everywhere(rng):
    A, B = rng.normal(size=(2, 6, 4))
    S = A.T @ A
    D = S + B.T @ B
    L = likelihood_ratio_map(S, D, np.ones(4), 0, 1)
    assert_allclose(L.T @ L, np.linalg.inv(S) - np.linalg.inv(D), atol=1e-8)


def test_projection_removes_negative_eigenvalues(rng):
    A, B = rng.normal(size=(2, 6, 4))
    S, D = A.T @ A, B.T @ B
    L = likelihood_ratio_map(S, D, np.ones(4), 0, 1)
    values, axes = eigh(D, S)
    assert values.min() < 1 < values.max()
    kept = values > 1
    expected = (axes[:, kept] * (1 - 1 / values[kept])) @ axes[:, kept].T
    assert_allclose(L.T @ L, expected, atol=1e-10)


def test_contrast_0_equals_rca_up_to_scale():
    d = KISSME(shrinkage=0, contrast=0, prior_share=0).fit(IRIS, SPECIES).get_metric()(IRIS)
    expected = RCA(embedding_type="plain", shrinkage=0, prior_share=0).fit(IRIS, SPECIES)
    expected = expected.get_metric()(IRIS)
    assert_allclose(d, expected * d.max() / expected.max(), rtol=1e-9)


def test_contrast_1_keeps_n_classes_minus_one_directions():
    values = np.linalg.eigvalsh(
        KISSME(shrinkage=0, contrast=1, prior_share=0).fit(IRIS, SPECIES).get_mahalanobis_matrix()
    )
    assert (values > 1e-9 * values.max()).sum() == 2


@both
def test_labels_of_balanced_classes_equal_all_pairs(learner):
    X, y = IRIS[::5], SPECIES[::5]
    by_label = clone(learner).fit(X, y)
    by_pair = clone(learner).set_params(supervision="pairs").fit(*all_pairs(X, y))
    assert_allclose(by_pair.components_, by_label.components_, rtol=1e-9)
    signs = all_pairs(X, y)[1] * 2 - 1
    again = clone(by_pair).fit(all_pairs(X, y)[0], signs)
    assert_array_equal(again.components_, by_pair.components_)


@both
@pytest.mark.parametrize("cuts", [[75], [20, 21, 90], list(range(60, 150, 10))])
def test_batches_equal_one_fit(learner, cuts, rng):
    order = rng.permutation(150)
    X, y = IRIS[order], np.array(["a", "b", "c"])[SPECIES[order]]
    whole, batched = clone(learner).fit(X, y), clone(learner)
    for part in np.split(np.arange(150), cuts):
        batched.partial_fit(X[part], y[part])
    assert_allclose(batched.components_, whole.components_, rtol=1e-10)
    pairs, same = all_pairs(X[:40], y[:40])
    whole = clone(learner).set_params(supervision="pairs").fit(pairs, same)
    batched = clone(whole).partial_fit(pairs[:400], same[:400])
    batched.partial_fit(pairs[400:], same[400:])
    assert_allclose(batched.components_, whole.components_, rtol=1e-10)


@both
def test_fit_restarts_and_partial_fit_continues(learner):
    whole = clone(learner).fit(IRIS, SPECIES)
    batched = clone(learner).partial_fit(IRIS * 3, SPECIES).fit(IRIS[::2], SPECIES[::2])
    batched.partial_fit(IRIS[1::2], SPECIES[1::2])
    assert_allclose(batched.components_, whole.components_, rtol=1e-10)


@both
def test_only_later_batches_may_have_a_single_class(learner):
    whole = clone(learner).fit(IRIS, SPECIES)
    batched = clone(learner).partial_fit(IRIS[:100], SPECIES[:100])
    batched.partial_fit(IRIS[100:], SPECIES[100:])
    assert_allclose(batched.components_, whole.components_, rtol=1e-10)
    with pytest.raises(ValueError, match="at least two classes"):
        clone(learner).partial_fit(IRIS[:50], SPECIES[:50])


@both
def test_n_components_keeps_the_leading_rows(learner):
    L = clone(learner).fit(IRIS, SPECIES).components_
    two = clone(learner).set_params(n_components=2).fit(IRIS, SPECIES).components_
    assert_allclose(two, L[:2], rtol=1e-9)


@both
def test_fewer_rows_than_columns_do_not_warn(learner, rng):
    X, y = rng.normal(size=(10, 30)), np.arange(10) % 2
    L = clone(learner).fit(X, y).components_
    assert L.shape == (30, 30)
    assert np.isfinite(L).all()


@both
def test_singular_covariance_without_a_prior_warns(learner, rng):
    X, y = rng.normal(size=(10, 20)), np.arange(10) % 2
    name = {"KISSME": "shrinkage", "GMML": "reg"}[type(learner).__name__]
    with pytest.warns(UserWarning, match=rf"rank 8 for 20 features.*{name} > 0"):
        L = clone(learner).set_params(**{name: 0}).fit(X, y).components_
    assert np.isfinite(L).all()


def test_distance_does_not_depend_on_the_units():
    units = np.array([1e-6, 1.0, 1e3, 1e6])
    expected = KISSME().fit(IRIS, SPECIES).get_metric()(IRIS)
    assert_allclose(
        KISSME().fit(IRIS * units, SPECIES).get_metric()(IRIS * units), expected, rtol=1e-6
    )


@both
@pytest.mark.parametrize(
    ("parameters", "X", "y", "message"),
    [
        ({}, IRIS, np.zeros(150), "at least two classes"),
        ({}, IRIS, np.arange(150), "No two points of one class differ"),
        ({}, np.repeat(IRIS[:2], 5, axis=0), np.repeat([0, 1], 5), "No two points of one class"),
        ({"supervision": "pairs"}, IRIS, SPECIES, "pairs need the shape"),
        ({"supervision": "pairs"}, IRIS.reshape(75, 2, 4), np.ones(75), "Pairs of both kinds"),
        ({"supervision": "chunks"}, IRIS, SPECIES, "supervision='chunks' is unknown"),
        ({"n_components": 5}, IRIS, SPECIES, "n_components=5 has to be None or an int from 1 to 4"),
    ],
)
def test_invalid_input_raises_and_leaves_the_learner_unfitted(learner, parameters, X, y, message):
    learner = clone(learner).set_params(**parameters)
    for call in (learner.fit, learner.partial_fit):
        with pytest.raises(ValueError, match=message):
            call(X, y)
    assert not hasattr(learner, "n_features_in_")
    with pytest.raises(NotFittedError):
        learner.transform(IRIS)


@both
def test_partial_fit_refuses_a_change_of_supervision(learner):
    learner = clone(learner).fit(IRIS, SPECIES).set_params(supervision="pairs")
    with pytest.raises(ValueError, match="call fit to start again"):
        learner.partial_fit(*all_pairs(IRIS[::5], SPECIES[::5]))


@pytest.mark.parametrize("parameters", [{"shrinkage": -0.1}, {"contrast": 2}, {"prior_share": 1.1}])
def test_invalid_parameters_raise(parameters):
    with pytest.raises(ValueError, match=f"{next(iter(parameters))} == "):
        KISSME(**parameters).fit(IRIS, SPECIES)


def test_contrast_that_leaves_no_distance_raises(rng):
    X = np.concatenate([IRIS[:50], IRIS[:50]])
    with pytest.raises(ValueError, match=r"Choose contrast < 1"):
        KISSME(contrast=1).fit(X, np.repeat([0, 1], 50))


def test_later_batches_of_pairs_may_be_of_one_kind(rng):
    pairs, same = rng.normal(size=(60, 2, 3)), rng.permutation(60) % 2
    order = (
        np.argsort(same[10:], kind="stable") + 10
    )  # first all different pairs, then all same pairs
    learner = KISSME(supervision="pairs").partial_fit(pairs[:10], same[:10])
    for rows in np.split(order, [np.count_nonzero(same[order] == 0)]):
        learner.partial_fit(pairs[rows], same[rows])
    whole = KISSME(supervision="pairs").fit(pairs, same)
    assert_allclose(learner.components_, whole.components_, rtol=1e-9, atol=1e-10)
