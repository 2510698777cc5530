"""What a fit reads: points, pairs, triplets, Datasets, random state; and the learned distance."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import CountingDataset, Scale, fitted_attributes, global_random_states
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_blobs
from skorch.callbacks import Callback
from torch import nn
from torch.utils.data import Dataset

from skdml import DeepSiameseEmbedder, DeepTripletEmbedder
from skdml.deep.networks.map import batches_of_points

# Eight classes: whole classes are held out. Three classes: rows of each class are held out.
MANY, MANY_Y = make_blobs(n_samples=120, centers=8, n_features=6, cluster_std=3, random_state=0)
FEW, FEW_Y = MANY[MANY_Y < 3], MANY_Y[MANY_Y < 3]

QUICK = {"max_epochs": 3, "random_state": 0, "module__n_hidden": 8}
NO_STOPPING = {**QUICK, "early_stopping": False}

siamese_and_triplet = pytest.mark.parametrize("Learner", [DeepSiameseEmbedder, DeepTripletEmbedder])


# Points


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8, bool])
def test_points_of_any_numeric_dtype(dtype):
    X = np.abs(FEW).astype(dtype) if dtype is not bool else FEW > 0
    Z = DeepTripletEmbedder(**QUICK).fit(X, FEW_Y).transform(X)
    expected = DeepTripletEmbedder(**QUICK).fit(X.astype(np.float32), FEW_Y)
    assert Z.dtype == np.float32
    assert_array_equal(Z, expected.transform(X.astype(np.float32)))


def test_dataset_is_read_in_batches():
    data = CountingDataset(MANY)
    learner = DeepTripletEmbedder(**NO_STOPPING, batch_size=16).fit(data, MANY_Y)
    # One row for the shape, one pass for the initial weights, and three epochs, in which a few rows
    # are drawn twice.
    assert 1 + 4 * 120 <= len(data.reads) <= 1.1 * (1 + 4 * 120)
    assert set(data.reads) == set(range(120))
    data.reads.clear()
    Z = learner.transform(data)
    assert len(data.reads) == 121
    assert_allclose(Z, learner.transform(MANY), atol=1e-6)
    by_array = DeepTripletEmbedder(**NO_STOPPING, batch_size=16).fit(MANY, MANY_Y)
    assert_array_equal(by_array.transform(MANY), learner.transform(MANY))


@pytest.mark.parametrize("shape", [(100,), (1, 10, 10)])
def test_batches_of_large_points_are_small(shape):
    X = np.arange(1000.0, dtype=np.float32).reshape(10, *shape)
    for data in (X, CountingDataset(X)):
        for limits, sizes in [
            ((4,), [4, 4, 2]),
            ((4, 400), [4, 4, 2]),
            ((4, 399), [3, 3, 3, 1]),
            ((4, 99), [1] * 10),
        ]:
            batches = list(batches_of_points(data, *limits))
            assert [len(batch) for batch in batches] == sizes
            assert_array_equal(torch.cat(batches), X)


def test_early_stopping_is_the_same_for_a_dataset_and_an_array():
    learner = DeepTripletEmbedder(**QUICK).fit(CountingDataset(MANY), MANY_Y)
    by_array = DeepTripletEmbedder(**QUICK).fit(MANY, MANY_Y)
    assert learner.best_score_ == pytest.approx(by_array.best_score_)
    assert_allclose(learner.transform(MANY), by_array.transform(MANY), atol=1e-5)


def test_fit_on_a_dataset_removes_the_feature_names_of_an_earlier_fit():
    frame = pd.DataFrame(MANY, columns=list("abcdef"))
    learner = DeepTripletEmbedder(**QUICK).fit(frame, MANY_Y)
    assert learner.feature_names_in_.tolist() == list("abcdef")
    learner.fit(CountingDataset(MANY), MANY_Y)
    assert not hasattr(learner, "feature_names_in_")
    assert learner.n_features_in_ == 6


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (CountingDataset(FEW), None, "target y is None"),
        (
            CountingDataset(FEW),
            FEW_Y[:5],
            r"each of the 45 items of the Dataset; got y of shape \(5,\)",
        ),
        (CountingDataset(FEW[:0]), FEW_Y[:0], "class"),
        (CountingDataset(FEW[:, 0]), FEW_Y, "gives a single number"),
        (CountingDataset(FEW * np.nan), FEW_Y, "NaN or infinity"),
        (FEW[:, :, None, None, None], FEW_Y, "pass a module"),
        (FEW[:1], FEW_Y[:1], "minimum of 2"),
        (FEW[:0], FEW_Y[:0], "0 sample"),
        (abs(FEW) * np.inf, FEW_Y, "infinity"),
        (FEW, FEW_Y[:7], "inconsistent"),
    ],
)
@pytest.mark.filterwarnings("ignore::skdml.deep.CollapseWarning")
def test_bad_data_raise_and_set_no_attributes(X, y, message):
    learner = DeepTripletEmbedder(**NO_STOPPING)
    for train in (learner.fit, learner.partial_fit):
        with pytest.raises(ValueError, match=message):
            train(X, y)
        assert fitted_attributes(learner) == []


@siamese_and_triplet
@pytest.mark.parametrize(
    ("X", "y"),
    [
        (np.repeat(FEW[:6], 5, axis=0), np.repeat([0, 0, 1, 1, 2, 2], 5)),
        (np.column_stack([FEW, np.full((len(FEW), 2), 0.1)]), FEW_Y),
        (np.ones((20, 3)), np.arange(20) % 4),
        (FEW, [*range(43), 99, 99]),
        (FEW[:3], [0, 0, 1]),
        (FEW * 1e6 + 1e7, FEW_Y),
    ],
    ids=["duplicates", "constants", "one point", "one pair", "three rows", "far away"],
)
@pytest.mark.filterwarnings("ignore::skdml.deep.CollapseWarning")
@pytest.mark.filterwarnings("ignore:The number of unique classes")
def test_degenerate_data_give_finite_embeddings(Learner, X, y):
    learner = Learner(**QUICK).fit(X, y)
    assert np.isfinite(learner.transform(X)).all()
    assert np.isfinite(learner.history_["loss"]).all()


# Pairs and triplets


def draw_pairs(rng, n=80):
    i, j = rng.integers(len(FEW), size=(2, n))
    return FEW[np.stack([i, j], axis=1)], (FEW_Y[i] == FEW_Y[j]).astype(int)


PAIRS, SAME = draw_pairs(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("pairs", "y", "message"),
    [
        (FEW, SAME, r"pairs need the shape \(n_pairs, 2, n_features\)"),
        (PAIRS, None, "supervision='pairs' requires y"),
        (PAIRS, SAME[:5], r"80 pairs need 80 labels.*shape \(5,\)"),
        (PAIRS, SAME + 1, r"values \[1, 2\]"),
        (PAIRS, SAME * 0, "all 80 pairs have y = 0"),
        (PAIRS * np.nan, SAME, "NaN"),
    ],
)
def test_bad_pairs_raise(pairs, y, message):
    learner = DeepSiameseEmbedder(supervision="pairs")
    with pytest.raises(ValueError, match=message):
        learner.fit(pairs, y)
    assert fitted_attributes(learner) == []


def test_same_pairs_move_closer_than_different_pairs():
    options = {**NO_STOPPING, "supervision": "pairs", "max_epochs": 30}
    before = DeepSiameseEmbedder(**{**options, "lr": 1e-30}).fit(PAIRS, SAME).pair_distance(PAIRS)
    after = DeepSiameseEmbedder(**options, margin=2.0).fit(PAIRS, SAME).pair_distance(PAIRS)
    ratio = after / np.maximum(before, 1e-12)
    assert np.median(ratio[SAME == 1]) < np.median(ratio[SAME == 0])


class BatchSizes(Callback):
    """Record the number of points in each batch."""

    sizes = ()

    def on_batch_end(self, net, batch, **kwargs):
        BatchSizes.sizes += (len(batch[0]),)


def test_pairs_are_scored_by_roc_auc():
    BatchSizes.sizes = ()
    options = {**QUICK, "supervision": "pairs", "batch_size": 16, "callbacks": [BatchSizes]}
    learner = DeepSiameseEmbedder(**options).fit(PAIRS, SAME)
    assert learner.history_["roc_auc"].shape == (3,)
    assert max(BatchSizes.sizes) == 32  # two points for each pair
    assert learner.transform(FEW).shape == (len(FEW), 6)
    with pytest.raises(ValueError, match="triplets need the shape"):
        DeepTripletEmbedder(supervision="triplets").fit(PAIRS)


def test_triplets_are_scored_by_their_order():
    rng = np.random.default_rng(0)
    a = rng.integers(len(FEW), size=60)
    p = [rng.choice(np.flatnonzero(FEW_Y[i] == FEW_Y)) for i in a]
    n = [rng.choice(np.flatnonzero(FEW_Y[i] != FEW_Y)) for i in a]
    learner = DeepTripletEmbedder(**QUICK, supervision="triplets")
    learner.fit(FEW[np.stack([a, p, n], axis=1)])
    assert learner.n_features_in_ == 6
    assert 0.5 < learner.history_["in_order"][-1] <= 1


# Randomness


@siamese_and_triplet
@pytest.mark.parametrize("X", [MANY, CountingDataset(MANY)], ids=["array", "dataset"])
def test_global_random_generators_do_not_change(Learner, X):
    before = global_random_states()
    learner = Learner(**QUICK, module__dropout=0.3).fit(X, MANY_Y)
    learner.partial_fit(X, MANY_Y).transform(X)
    learner.get_metric()(MANY[:3])
    assert global_random_states() == before


@siamese_and_triplet
def test_random_state_determines_every_bit(Learner):
    options = {**NO_STOPPING, "module__dropout": 0.3, "lr": 0.01}
    one, same = (Learner(**options).fit(MANY, MANY_Y) for _ in range(2))
    other = Learner(**options).set_params(random_state=1).fit(MANY, MANY_Y)
    assert_array_equal(one.transform(MANY), same.transform(MANY))
    assert not np.array_equal(one.transform(MANY), other.transform(MANY))
    generators = [np.random.RandomState(0) for _ in range(2)]
    one, same = (clone(one).set_params(random_state=rng).fit(MANY, MANY_Y) for rng in generators)
    assert_array_equal(one.transform(MANY), same.transform(MANY))


class RandomPoints(Dataset):
    """A Dataset that draws a point anew whenever it is read."""

    def __len__(self):
        return len(MANY)

    def __getitem__(self, i):
        return torch.rand(6)


class RecordFirstPoints(Callback):
    """Record the first point of each epoch."""

    points = ()

    def on_batch_begin(self, net, batch, **kwargs):
        if len(RecordFirstPoints.points) < len(net.history):
            RecordFirstPoints.points += (batch[0][0],)


def test_worker_processes_draw_other_points_in_each_epoch_and_the_same_in_each_fit():
    options = {"max_epochs": 2, "iterator_train__num_workers": 1, "callbacks": [RecordFirstPoints]}
    options |= {"early_stopping": False, "random_state": 0}
    fits = []
    for _ in range(2):
        RecordFirstPoints.points = ()
        DeepTripletEmbedder(nn.Linear(6, 2), **options).fit(RandomPoints(), MANY_Y)
        fits.append(RecordFirstPoints.points)
    (first, second), (again, _) = fits
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


# The fitted learner


def test_metric_is_independent_of_further_training():
    learner = DeepTripletEmbedder(**QUICK, lr=0.01).fit(MANY, MANY_Y)
    d = learner.get_metric()
    before = d(MANY)
    learner.partial_fit(MANY, MANY_Y)
    assert not np.allclose(learner.get_metric()(MANY), before)
    learner.fit(MANY * 2, MANY_Y)
    assert_array_equal(d(MANY), before)
    e, before_e = learner.get_metric(), learner.get_metric()(MANY)
    with torch.no_grad():  # a user may train the net with other code
        learner.net_.module_.weight.zero_()
    assert_array_equal(e(MANY), before_e)
    assert_array_equal(pickle.loads(pickle.dumps(d))(MANY), before)


class CountingScale(Scale):
    """Count the points that pass through the network."""

    n_points = 0

    def forward(self, X):
        CountingScale.n_points += len(X)
        return super().forward(X)


def test_each_distinct_point_is_embedded_once():
    options = {"max_epochs": 1, "early_stopping": False}
    d = DeepTripletEmbedder(CountingScale(), **options).fit(FEW, FEW_Y).get_metric()
    CountingScale.n_points = 0
    for x in FEW[:6]:
        for z in FEW[:6]:
            d(x, z)
    assert CountingScale.n_points == 6
    CountingScale.n_points = 0
    d(np.repeat(FEW[:5], 4, axis=0), FEW[:7])
    assert CountingScale.n_points == 7


def test_threads_can_share_a_learner():
    X = np.repeat(MANY, 5, axis=0)
    learner = DeepTripletEmbedder(**QUICK, module__dropout=0.5).fit(MANY, MANY_Y)
    assert not learner.net_.module_.training
    d, Z = learner.get_metric(), learner.transform(X)
    assert not d.embed.module.training
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: learner.transform(X), range(16)):
            assert_array_equal(found, Z)


def test_metric_accepts_flattened_images():
    X = np.random.default_rng(0).normal(size=(30, 2, 3, 5))
    learner = DeepTripletEmbedder(**QUICK).fit(X, np.arange(30) % 3)
    d = learner.get_metric()
    assert learner.n_features_in_ == 2
    assert_array_equal(d(X.reshape(30, -1)), d.pairwise(X))
    assert d(X[0].ravel(), X[1].ravel()) == pytest.approx(d.pairwise(X[:2])[0, 1])
    with pytest.raises(
        ValueError, match=r"points of shape \(2, 3, 5\); got points of shape \(9,\)"
    ):
        d(np.zeros((3, 9)))
    with pytest.raises(ValueError, match=r"fitted on points of shape \(2, 3, 5\)"):
        learner.transform(X[:, :, :2])
