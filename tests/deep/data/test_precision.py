"""Float64 points keep their differences in a network that reads float32."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from torch.utils.data import Dataset

from skdml import DeepEmbedder, DeepProxyEmbedder, DeepSiameseEmbedder, DeepTripletEmbedder
from skdml.deep.data.precision import choose_origin, to_float32, warn_of_merged_values

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1], 40)
FAR = 1.7e9 + 64 * RNG.integers(0, 8, 80) + np.where(LABELS, 3.0, 17.0)
TABLE = np.c_[FAR, RNG.normal(size=80)]
QUICK = {"max_epochs": 2, "random_state": 0}
SHIFT = np.array([1.7e9, 0.0])


class Items(Dataset):
    """A Dataset of (x, y) items."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, row):
        return self.X[row], self.y[row]


def assert_subtracts_the_origin(learner):
    """Points that differ by less than the step of float32 keep the distance of shifted points."""
    f = learner.transform(TABLE)
    assert_array_equal(learner.get_metric().embed(TABLE), f)
    assert_array_equal(learner.transform(Items(TABLE, LABELS)), f)
    assert_array_equal(learner.transform(Items(torch.from_numpy(TABLE), LABELS)), f)
    assert_array_equal(pickle.loads(pickle.dumps(learner)).transform(TABLE), f)
    assert len(np.unique(f, axis=0)) == 80
    d = learner.get_metric()
    close = np.array([TABLE[0], TABLE[0] + [1.0, 0.0]])  # float32 has steps of 128 here
    assert d(*close) > 0
    assert d(*close) == pytest.approx(d(close)[0, 1], rel=1e-5)


@pytest.mark.parametrize("kind", [DeepTripletEmbedder, DeepProxyEmbedder])
def test_far_columns_keep_their_differences(kind):
    learner = kind(**QUICK).fit(TABLE, LABELS)
    assert learner.origin_[0] == np.median(FAR)
    assert learner.origin_[1] == 0
    assert_subtracts_the_origin(learner)
    near = kind(**QUICK).fit(TABLE - learner.origin_, LABELS)
    assert near.origin_ is None
    assert_allclose(
        learner.transform(TABLE), near.transform(TABLE - learner.origin_), rtol=1e-4, atol=1e-5
    )


def test_datasets_subtract_the_origin():
    of_table = DeepTripletEmbedder(**QUICK).fit(TABLE, LABELS)
    of_items = DeepTripletEmbedder(**QUICK).fit(Items(TABLE, LABELS), LABELS)
    assert_array_equal(of_items.origin_, of_table.origin_)
    assert_subtracts_the_origin(of_items)
    assert_allclose(of_items.transform(TABLE), of_table.transform(TABLE), rtol=1e-4, atol=1e-5)


def test_tuples_subtract_the_origin():
    a, b = RNG.permutation(80), RNG.permutation(80)
    pairs, same = np.stack([TABLE[a], TABLE[b]], axis=1), (LABELS[a] == LABELS[b]).astype(int)
    learner = DeepSiameseEmbedder(supervision="pairs", **QUICK).fit(pairs, same)
    assert learner.origin_[0] > 1e9
    assert_subtracts_the_origin(learner)
    assert (learner.pair_distance(pairs[a != b]) > 0).all()


def test_later_fits_keep_the_origin():
    learner = DeepTripletEmbedder(**QUICK).partial_fit(TABLE[::2], LABELS[::2])
    origin = learner.origin_
    learner.partial_fit(TABLE[1::2] + np.array([64.0, 0.0]), LABELS[1::2])
    assert_array_equal(learner.origin_, origin)
    assert_subtracts_the_origin(learner)
    warm = DeepTripletEmbedder(warm_start=True, **QUICK).fit(TABLE, LABELS)
    origin = warm.origin_
    warm.fit(TABLE + np.array([640.0, 0.0]), LABELS)
    assert_array_equal(warm.origin_, origin)
    assert clone(warm).set_params(warm_start=False).fit(
        TABLE + np.array([640.0, 0.0]), LABELS
    ).origin_[0] == (origin[0] + 640)


def test_other_networks_get_their_points_unchanged_with_a_warning():
    seen = []

    class Watch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def forward(self, X):
            seen.append(X.detach().clone())
            return self.layer(X / 1e9)

    learner = DeepTripletEmbedder(Watch, early_stopping=False, max_epochs=1)
    with pytest.warns(UserWarning, match=r"keeps \d+ of \d+ distinct values of column 0"):
        learner.fit(TABLE, LABELS)
    assert learner.origin_ is None
    assert torch.cat(seen)[:, 0].min() > 1e9
    with pytest.warns(UserWarning, match="distinct values of column 0"):
        clone(learner).fit(Items(TABLE, LABELS), LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warn_of_merged_values(TABLE - SHIFT)
        warn_of_merged_values(np.full((50, 2), 0.1) + 1e-17)
        warn_of_merged_values(TABLE.astype(np.float32))


def test_choose_origin():
    assert choose_origin(TABLE.astype(np.float32)) is None
    assert choose_origin(RNG.normal(5, 1, (50, 3))) is None
    noise = np.full((50, 1), 0.3) + 1e-17 * RNG.normal(size=(50, 1))
    assert choose_origin(noise) is None  # constant up to rounding
    with_outlier = TABLE.copy()
    with_outlier[0, 0] = 0.0
    assert choose_origin(with_outlier)[0] > 1.6e9


def test_values_too_large_for_float32_raise():
    with pytest.raises(ValueError, match="too large for dtype"):
        to_float32(np.array([[1e39]]))
    with pytest.raises(ValueError, match="too large for dtype"):
        DeepEmbedder(**QUICK).fit(TABLE * [1.0, 1e300], LABELS)


def test_grid_search_over_a_dataset_of_items():
    items = Items(TABLE, LABELS)
    model = make_pipeline(DeepTripletEmbedder(max_epochs=1, random_state=0), KNeighborsClassifier())
    search = GridSearchCV(model, {"deeptripletembedder__margin": [0.1, 0.3]}, cv=2)
    search.fit(items, LABELS)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    expected = GridSearchCV(model, search.param_grid, cv=2).fit(TABLE, LABELS)
    assert_allclose(
        search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"], atol=0.05
    )
    proxy = DeepProxyEmbedder(max_epochs=1, random_state=0)
    search = GridSearchCV(proxy, {"lr": [1e-3]}, cv=2, error_score="raise")
    images = Items(torch.randn(80, 1, 6, 6, generator=torch.Generator().manual_seed(0)), LABELS)
    assert search.fit(images, LABELS).predict(images).shape == (80,)
