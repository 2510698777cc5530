"""Transformers of tuples, alone and in a Pipeline."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import coo_array, csc_array, csr_array, csr_matrix
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from skdml.model_selection import make_pairs
from skdml.preprocessing import OnTuples, TupleIndexer

IRIS, SPECIES = load_iris(return_X_y=True)
INDICES, SAME = make_pairs(IRIS, SPECIES, 40, indices=True, random_state=0)
PAIRS = IRIS[INDICES]


def test_indices_are_replaced_by_points_of_any_shape():
    assert_array_equal(TupleIndexer(IRIS).fit_transform(INDICES), PAIRS)
    images = IRIS.reshape(150, 1, 2, 2)
    assert_array_equal(TupleIndexer(images).transform([[0, 1, 2]]), images[None, :3])


@pytest.mark.parametrize("kind", [csr_array, csr_matrix, csc_array, coo_array])
def test_sparse_points_become_dense_tuples(kind):
    assert_array_equal(TupleIndexer(kind(IRIS)).fit_transform(INDICES), PAIRS)
    assert TupleIndexer(kind(IRIS)).transform(INDICES[:0]).shape == (0, 2, 4)
    with pytest.raises(ValueError, match="from 0 to 149, because there are 150 points"):
        TupleIndexer(kind(IRIS)).transform([[0, 150]])


def test_sparse_output_of_a_transformer_becomes_dense():
    species = np.repeat(SPECIES[INDICES], 1)[:, None].reshape(40, 2, 1)
    model = OnTuples(OneHotEncoder(sparse_output=True))
    assert_array_equal(model.fit_transform(species), np.eye(3)[SPECIES[INDICES]])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([[0, 150]], "from 0 to 149, because there are 150 points; got 0 to 150"),
        ([[-1, 3]], "got -1 to 3"),
        ([[0.0, 1.0]], "integer indices of shape .* got float64"),
        ([0, 1], r"got int64 of shape \(2,\)"),
    ],
)
def test_invalid_indices_are_refused(X, message):
    with pytest.raises(ValueError, match=message):
        TupleIndexer(IRIS).transform(X)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_points_of_tuples_of_any_size_are_transformed(size):
    tuples = IRIS[: 12 * size].reshape(12, size, 4)
    scaler = OnTuples(StandardScaler()).fit(tuples)
    by_hand = StandardScaler().fit(np.unique(tuples.reshape(-1, 4), axis=0))
    for i in range(size):
        assert_allclose(scaler.transform(tuples)[:, i], by_hand.transform(tuples[:, i]))


def test_a_point_in_many_tuples_counts_once():
    once, often = PAIRS[:3], np.concatenate([PAIRS[:3], *[PAIRS[:1]] * 9])
    means = [OnTuples(StandardScaler()).fit(p).transformer_.mean_ for p in (once, often)]
    assert_array_equal(*means)


def test_the_number_of_features_may_change_and_the_parameter_stays_unfitted():
    pca = PCA(2)
    assert OnTuples(pca).fit_transform(PAIRS).shape == (40, 2, 2)
    assert not hasattr(pca, "components_")
    model = OnTuples(FunctionTransformer(lambda X: X.reshape(-1, 1, 2, 2)))
    assert model.fit_transform(PAIRS).shape == (40, 2, 1, 2, 2)


def test_pipeline_from_indices():
    steps = make_pipeline(TupleIndexer(IRIS), OnTuples(StandardScaler()), OnTuples(PCA(2)))
    assert_allclose(
        clone(steps).fit_transform(INDICES, SAME),
        make_pipeline(OnTuples(StandardScaler()), OnTuples(PCA(2))).fit_transform(PAIRS),
    )


def test_nested_parameters_can_be_set():
    model = OnTuples(PCA(3)).set_params(transformer__n_components=1)
    assert model.fit_transform(PAIRS).shape == (40, 2, 1)


def test_points_that_are_no_tuples_are_refused():
    with pytest.raises(ValueError, match=r"tuples of points, shape .* put TupleIndexer"):
        OnTuples(StandardScaler()).fit(INDICES)
    with pytest.raises(NotFittedError):
        OnTuples(StandardScaler()).transform(PAIRS)
