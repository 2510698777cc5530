"""The siamese and triplet learners: network, training, and errors."""

import numpy as np
import pytest
import torch
from helpers import fitted_attributes
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris, make_blobs
from skorch.callbacks import Callback
from torch.utils.data import Dataset

from skdml import DeepEmbedder, DeepSiameseEmbedder, DeepTripletEmbedder
from skdml.deep import CollapseWarning
from skdml.deep.data.samplers import ClassBalancedBatches

X, y = load_iris(return_X_y=True)
MANY, MANY_Y = make_blobs(n_samples=240, centers=8, n_features=6, cluster_std=3, random_state=0)

siamese_and_triplet = pytest.mark.parametrize("Learner", [DeepSiameseEmbedder, DeepTripletEmbedder])


class Killed(Exception):
    """An error that ends a fit."""


class Kill(Callback):
    """Raise an error at the start of an epoch, if `active`."""

    active = False

    def __init__(self, epoch=3):
        self.epoch = epoch

    def on_batch_begin(self, net, **kwargs):
        if Kill.active and len(net.history) > self.epoch:
            raise Killed


class Interrupt(Callback):
    """Raise the error of Ctrl-C at the start of the third epoch."""

    def on_batch_begin(self, net, **kwargs):
        if len(net.history) == 3:
            raise KeyboardInterrupt


def test_start_is_euclidean_if_labels_are_random():
    learner = DeepTripletEmbedder(max_epochs=1, lr=1e-30, early_stopping=False, random_state=0)
    Z = learner.fit(X, np.random.default_rng(0).permutation(y)).transform(X)
    ratio = torch.pdist(torch.from_numpy(Z)) / torch.pdist(torch.from_numpy(X).float())
    ratio = ratio[~ratio.isnan()]
    assert (ratio.max() - ratio.min()) / ratio.mean() < 1e-3
    assert torch.pdist(torch.from_numpy(Z)).mean() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"module__hiden": 3}, "module__n_hidden"),
        ({"margn": 1}, "margin"),
        ({"margin": -1}, "margin must be a finite number .*; got -1"),
        ({"margin": 2.5, "distance": "cosine"}, "<= 2, the largest cosine distance; got 2.5"),
        ({"margin": 2.5, "normalize": True}, "cannot be reached"),
        ({"distance": "euclid"}, "euclidean"),
        ({"miner": "harder"}, "hard"),
        ({"scoring": "map"}, "map_at_r"),
        ({"supervision": "chunks"}, "labels"),
        ({"lr": 0}, "lr"),
        ({"batch_size": 1}, "batch_size"),
    ],
)
@siamese_and_triplet
def test_bad_parameters_raise_and_set_no_attributes(Learner, params, message):
    learner = Learner(**params)
    with pytest.raises(ValueError, match=message):
        learner.fit(X, y)
    assert fitted_attributes(learner) == []


@pytest.mark.filterwarnings("ignore:The number of unique classes")
@pytest.mark.parametrize(
    ("bad", "labels", "message"),
    [
        (np.where(X.max() == X, np.nan, X), y, "NaN"),
        (np.where(X.max() == X, np.inf, X), y, "infinity"),
        (X, np.zeros(150), "all 150 labels are of one class. Add samples of another"),
        (X, np.arange(150), "150 classes has a single sample.* Give at least one class two"),
        (X[:0], y[:0], "0 sample"),
        (X, None, "requires y"),
        (X.reshape(150, 2, 2), y, "pass a module"),
    ],
)
@siamese_and_triplet
def test_bad_data_raise_and_keep_an_earlier_fit(Learner, bad, labels, message):
    learner = Learner(max_epochs=1, random_state=0).fit(X, y)
    before = learner.transform(X)
    with pytest.raises(ValueError, match=message):
        learner.fit(bad, labels)
    assert_array_equal(learner.transform(X), before)
    with pytest.raises(ValueError, match="features"):
        learner.transform(X[:, :3])


def test_a_module_instance_is_copied_before_training():
    module = torch.nn.Linear(4, 2)
    before = module.weight.detach().clone()
    learner = DeepEmbedder(module, max_epochs=2, early_stopping=False).fit(X, y)
    assert torch.equal(module.weight, before)
    assert not torch.equal(learner.net_.module_.weight, before)
    with pytest.raises(ValueError, match="lose its weights"):
        DeepEmbedder(module, module__bias=False).fit(X, y)


def test_images_and_datasets():
    images = (
        np.random.default_rng(0).normal(size=(60, 1, 8, 8)) + np.arange(60)[:, None, None, None] % 3
    )

    class Images(Dataset):
        def __len__(self):
            return 60

        def __getitem__(self, i):
            return torch.from_numpy(images[i])

    options = {"max_epochs": 2, "random_state": 0}
    by_array = DeepTripletEmbedder(**options).fit(images, np.arange(60) % 3)
    by_dataset = DeepTripletEmbedder(**options).fit(Images(), np.arange(60) % 3)
    np.testing.assert_allclose(
        by_array.transform(images), by_dataset.transform(Images()), atol=1e-5
    )
    assert by_array.get_metric()(images[0].ravel(), images[1].ravel()) > 0


def test_pairs_and_triplets():
    rng = np.random.default_rng(0)
    i, j = rng.integers(150, size=(2, 200))
    pairs, same = X[np.stack([i, j], axis=1)], y[i] == y[j]
    options = {"supervision": "pairs", "max_epochs": 3, "random_state": 0}
    zero_one = DeepSiameseEmbedder(**options).fit(pairs, same.astype(int))
    signs = DeepSiameseEmbedder(**options).fit(pairs, np.where(same, 1, -1))
    assert_array_equal(zero_one.transform(X), signs.transform(X))
    assert zero_one.n_features_in_ == 4
    triplets = X[
        np.stack(
            [rng.integers(50, size=90), rng.integers(50, size=90), rng.integers(50, 150, size=90)],
            1,
        )
    ]
    embedder = DeepTripletEmbedder(supervision="triplets", max_epochs=3).fit(triplets)
    assert embedder.transform(X).shape == (150, 4)


def test_training_that_only_lowers_the_score_returns_the_start():
    options = {"random_state": 0, "max_epochs": 3}
    learner = DeepTripletEmbedder(lr=10.0, **options).fit(MANY, MANY_Y)
    start = DeepTripletEmbedder(lr=1e-30, early_stopping=False, **options).fit(MANY, MANY_Y)
    assert learner.best_epoch_ == 0
    assert learner.best_score_ == learner.start_score_
    np.testing.assert_allclose(learner.transform(MANY), start.transform(MANY), rtol=1e-4, atol=1e-5)
    assert {len(column) for column in learner.history_.values()} == {3}


def test_collapse_warns():
    class ZeroScale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, X):
            return self.weight * X

    with pytest.warns(CollapseWarning, match="collapsed"):
        DeepTripletEmbedder(ZeroScale, lr=1e-30, max_epochs=4, early_stopping=False).fit(X, y)


@pytest.mark.parametrize("stopping", [True, False])
def test_killed_fit_resumes_and_gives_equal_results(tmp_path, stopping):
    options = {
        "max_epochs": 6,
        "random_state": 3,
        "module__dropout": 0.2,
        "early_stopping": stopping,
        "callbacks": [("kill", Kill())],
        "lr": 1e-2,
    }
    Kill.active = False
    whole = DeepTripletEmbedder(**options).fit(MANY, MANY_Y)
    learner = DeepTripletEmbedder(checkpoint=tmp_path, **options)
    Kill.active = True
    with pytest.raises(Killed):
        learner.fit(MANY, MANY_Y)
    Kill.active = False
    assert len(list(tmp_path.iterdir())) == 1
    learner.fit(MANY, MANY_Y)
    assert_array_equal(learner.transform(MANY), whole.transform(MANY))
    assert_array_equal(learner.history_["loss"], whole.history_["loss"])
    assert not list(tmp_path.iterdir())


def test_ctrl_c_keeps_the_weights_of_the_last_epoch():
    options = {"early_stopping": False, "random_state": 0}
    interrupted = DeepTripletEmbedder(callbacks=[Interrupt()], **options)
    with pytest.warns(UserWarning, match="interrupted. .* weights after epoch 2 "):
        interrupted.fit(MANY, MANY_Y)
    two_epochs = DeepTripletEmbedder(max_epochs=2, **options).fit(MANY, MANY_Y)
    assert len(interrupted.history_["loss"]) == 2
    assert_array_equal(interrupted.transform(MANY), two_epochs.transform(MANY))


def test_partial_fit_and_warm_start_continue():
    learner = DeepTripletEmbedder(random_state=0).partial_fit(MANY, MANY_Y)
    first = learner.transform(MANY)
    learner.partial_fit(MANY[:100], MANY_Y[:100] + 50)
    assert len(learner.history_["loss"]) == 2
    assert not np.array_equal(learner.transform(MANY), first)
    warm = DeepTripletEmbedder(
        random_state=0, warm_start=True, max_epochs=1, lr=1e-30, early_stopping=False
    )
    warm.net_, warm.backbone_ = learner.net_, None
    warm.feature_shape_, warm.n_features_in_, warm.origin_ = (6,), 6, None
    np.testing.assert_allclose(
        warm.fit(MANY, MANY_Y).transform(MANY), learner.transform(MANY), rtol=1e-5
    )


def test_only_verbose_prints(capsys):
    DeepTripletEmbedder(max_epochs=1).fit(X, y)
    assert capsys.readouterr().out == ""
    DeepTripletEmbedder(max_epochs=1, verbose=1).fit(X, y)
    assert "train_loss" in capsys.readouterr().out


def test_batches_hold_every_sample_and_both_kinds_of_pairs():
    rng = np.random.default_rng(0)
    for _ in range(30):
        counts = rng.integers(1, 12, size=rng.integers(2, 9))
        counts[0] += 1
        codes = np.repeat(np.arange(len(counts)), counts)
        sampler = ClassBalancedBatches(codes, int(rng.integers(4, 20)), 3, seed=1)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert set(np.concatenate(batches)) == set(range(len(codes)))
        for batch in batches:
            n = np.bincount(codes[batch])
            assert (n > 0).sum() >= 2
            assert n.max() >= 2


@siamese_and_triplet
def test_parameters_of_the_net_are_passed_on_and_cloned(Learner):
    params = {"module__n_hidden": 7, "optimizer__weight_decay": 0.5, "criterion__reduction": "mean"}
    learner = clone(Learner(max_epochs=1, **params))
    assert learner.get_params()["module__n_hidden"] == 7
    with pytest.raises(ValueError, match="iterator_train__generator"):
        clone(learner).set_params(iterator_train__drop_last=True).fit(X, y)
    learner.fit(X, y)
    assert learner.net_.module_.branch[1].out_features == 7
    assert learner.net_.optimizer_.param_groups[0]["weight_decay"] == 0.5
    assert learner.net_.criterion_.reduction == "mean"
