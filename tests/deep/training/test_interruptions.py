"""Training that fails: divergence, too little memory, idle batches, collapse, bad margins."""

import inspect
import math
import pickle

import numpy as np
import pytest
import torch
from helpers import Scale, fitted_attributes
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import LRScheduler
from torch import nn

from skdml import DeepEmbedder, DeepSiameseEmbedder, DeepTripletEmbedder
from skdml.deep import CollapseWarning, IdleBatchesWarning
from skdml.deep.losses import (
    LOSSES,
    ContrastiveLoss,
    LiftedStructureLoss,
    MarginLoss,
    MultiSimilarityLoss,
    SignalToNoiseRatioContrastiveLoss,
    TripletLoss,
    learns_from,
)
from skdml.deep.miners import SemiHardMiner
from skdml.deep.training.checkpoint import unpack_state

X, Y = make_blobs(n_samples=96, centers=6, n_features=5, cluster_std=4, random_state=0)
# An epoch has six batches.
OPTIONS = {"batch_size": 16, "lr": 0.01, "random_state": 0, "early_stopping": False}
MANY, MANY_Y = make_blobs(n_samples=120, centers=8, n_features=6, cluster_std=3, random_state=0)

siamese_and_triplet = pytest.mark.parametrize("Learner", [DeepSiameseEmbedder, DeepTripletEmbedder])


@pytest.fixture(autouse=True)
def same_start():
    """Build the same networks in each run, whatever ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class DivergingLoss(TripletLoss):
    """The triplet loss, except in one call, in which it is not finite."""

    calls = 0
    diverging_call = None
    value = torch.nan

    def forward(self, embeddings, *args):
        loss = super().forward(embeddings, *args)
        DivergingLoss.calls += 1
        diverges = DivergingLoss.calls == DivergingLoss.diverging_call
        return loss * DivergingLoss.value if diverges else loss


@pytest.fixture
def diverge_in():
    """Return a function that sets the call in which the loss is not finite."""

    def set_call(call, value=torch.nan):
        DivergingLoss.calls, DivergingLoss.diverging_call = 0, call
        DivergingLoss.value = value

    set_call(None)
    yield set_call
    set_call(None)


# Divergence


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_divergence_keeps_the_last_successful_epoch(diverge_in, value):
    diverge_in(15, value)  # the third batch of the third epoch
    learner = DeepEmbedder(loss=DivergingLoss, max_epochs=5, **OPTIONS)
    message = (
        rf"diverged in epoch 3, at a learning rate of 0\.01: the loss is {value}\. Try lr=0\.001,"
        r" .*GradientNormClipping.* is fitted with its weights after epoch 2"
    )
    with pytest.raises(RuntimeError, match=message):
        learner.fit(X, Y)
    diverge_in(None)
    two_epochs = DeepEmbedder(loss=DivergingLoss, max_epochs=2, **OPTIONS).fit(X, Y)
    assert_array_equal(learner.transform(X), two_epochs.transform(X))
    assert_array_equal(learner.history_["loss"], two_epochs.history_["loss"])
    assert learner.best_epoch_ == 2
    assert np.isfinite(learner.partial_fit(X, Y).transform(X)).all()
    assert np.isfinite(pickle.loads(pickle.dumps(learner)).transform(X)).all()


def test_weights_need_a_finite_loss_to_be_kept(diverge_in):
    # The first batch of the third epoch. The weights after the second epoch may be the cause.
    diverge_in(13)
    learner = DeepEmbedder(loss=DivergingLoss, max_epochs=5, **OPTIONS)
    with pytest.raises(RuntimeError, match=r"in epoch 3, .* after epoch 1 "):
        learner.fit(X, Y)
    diverge_in(None)
    one_epoch = DeepEmbedder(loss=DivergingLoss, max_epochs=1, **OPTIONS).fit(X, Y)
    assert_array_equal(learner.transform(X), one_epoch.transform(X))
    assert len(learner.history_["loss"]) == 1


@pytest.mark.parametrize("call", [1, 5, 7])
def test_divergence_before_a_successful_epoch_changes_nothing(diverge_in, call):
    learner = DeepEmbedder(loss=DivergingLoss, max_epochs=5, **OPTIONS)
    diverge_in(call)
    with pytest.raises(RuntimeError, match="Training diverged in epoch"):
        learner.fit(X, Y)
    assert fitted_attributes(learner) == []
    diverge_in(None)
    before = learner.set_params(max_epochs=2).fit(X, Y).transform(X)
    for train in (learner.fit, learner.partial_fit):
        diverge_in(call if train == learner.fit else 2)
        with pytest.raises(RuntimeError, match="Training diverged in epoch"):
            train(X, Y)
        assert_array_equal(learner.transform(X), before)
        assert len(learner.history_["loss"]) == 2


def test_divergence_with_early_stopping_keeps_the_best_weights(diverge_in):
    options = {**OPTIONS, "early_stopping": True, "refit": False, "loss": DivergingLoss}
    options["patience"] = 99
    full = DeepEmbedder(**options, max_epochs=6).fit(X, Y)
    n_batches = DivergingLoss.calls // 6
    diverge_in(5 * n_batches + 1)
    learner = DeepEmbedder(**options, max_epochs=6)
    with pytest.raises(RuntimeError, match=r"in epoch 6, .* after epoch \d \(0 is the start\)"):
        learner.fit(X, Y)
    assert_array_equal(learner.history_["map_at_r"], full.history_["map_at_r"][:5])
    diverge_in(None)
    five_epochs = DeepEmbedder(**options, max_epochs=5).fit(X, Y)
    assert learner.best_epoch_ == five_epochs.best_epoch_
    assert_array_equal(learner.transform(X), five_epochs.transform(X))


def test_error_names_the_learning_rate_of_the_scheduler(diverge_in):
    halve = LRScheduler(policy="StepLR", step_size=1, gamma=0.5)
    diverge_in(15)
    with pytest.raises(RuntimeError, match=r"in epoch 3, at a learning rate of 0\.0025"):
        DeepEmbedder(loss=DivergingLoss, max_epochs=5, callbacks=[halve], **OPTIONS).fit(X, Y)


def test_far_too_large_a_learning_rate_raises():
    for early_stopping in (True, False):
        options = {**OPTIONS, "lr": 1e30, "early_stopping": early_stopping}
        learner = DeepTripletEmbedder(**options)
        with pytest.raises(RuntimeError, match=r"a learning rate of 1e\+30: the loss is nan"):
            learner.fit(X, Y)
        assert fitted_attributes(learner) == []


class InfiniteGradient(nn.Module):
    """A linear map whose gradient is infinite in one step, while its loss is finite."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.steps = 0

    def forward(self, X):
        Z = self.layer(X)
        if self.training:
            self.steps += 1
            if self.steps == 12:  # the last batch of the second epoch
                Z.register_hook(lambda grad: grad * torch.inf)
        return Z


@pytest.mark.parametrize("checkpoint", [False, True])
def test_infinite_weights_are_neither_kept_nor_saved(tmp_path, checkpoint):
    path, start = tmp_path if checkpoint else None, InfiniteGradient()
    learner = DeepTripletEmbedder(start, max_epochs=2, checkpoint=path, **OPTIONS)
    with pytest.raises(
        RuntimeError, match=r"in epoch 2, .* weights are no longer finite.* epoch 1 "
    ):
        learner.fit(X, Y)
    one_epoch = DeepTripletEmbedder(start, max_epochs=1, **OPTIONS).fit(X, Y)
    assert_array_equal(learner.transform(X), one_epoch.transform(X))
    moments = [v for state in learner.net_.optimizer_.state.values() for v in state.values()]
    assert all(torch.isfinite(value).all() for value in moments)
    if checkpoint:  # the file holds the last successful epoch
        (file,) = tmp_path.iterdir()
        saved = unpack_state(file.read_bytes(), file)["net"]
        assert len(saved.history) == 1
        assert torch.equal(saved.module_.layer.weight, one_epoch.net_.module_.layer.weight)


def test_grid_search_continues_after_divergence():
    model = DeepTripletEmbedder(**OPTIONS, max_epochs=2)
    grid = {"lr": [1e-3, 1e30]}
    search = GridSearchCV(model, grid, cv=2, scoring=lambda model, X, y: 1.0)
    with (
        pytest.warns(FitFailedWarning, match="Training diverged in epoch 1, at a learning rate"),
        pytest.warns(UserWarning, match="test scores are non-finite"),
    ):
        search.fit(X, Y)
    assert search.best_params_ == {"lr": 1e-3}


# GPU memory


class LimitedNetwork(nn.Module):
    """A network that raises the error of a full GPU if a batch is too large."""

    def __init__(self, max_points=99):
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.max_points = max_points

    def forward(self, X):
        if self.training and len(X) > self.max_points:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        return self.layer(X)


def test_error_of_a_full_gpu_says_what_to_do():
    learner = DeepTripletEmbedder(LimitedNetwork(10), max_epochs=1, **OPTIONS)
    message = r"batch of 16 points .*chunk_size \(now None\).* smaller batch_size.* allocate 9 GiB"
    with pytest.raises(torch.cuda.OutOfMemoryError, match=message):
        learner.fit(X, Y)
    assert fitted_attributes(learner) == []
    learner.set_params(chunk_size=10).fit(X, Y)


# Idle batches


class IdleMiner(SemiHardMiner):
    """A semi-hard miner that chooses nothing in its calls number `every`, 2 `every` and so on."""

    calls = 0

    def __init__(self, every):
        super().__init__()
        self.every = every

    def __call__(self, *args):
        IdleMiner.calls += 1
        chosen = super().__call__(*args)
        return chosen if IdleMiner.calls % self.every else tuple(i[:0] for i in chosen)


class TupleLoss(nn.Module):
    """A triplet loss that needs a separate miner."""

    def forward(self, embeddings, labels, indices_tuple):
        return TripletLoss(margin=9.0)(embeddings, labels, indices_tuple)


def test_batches_without_tuples_warn_once():
    IdleMiner.calls = 0
    learner = DeepEmbedder(loss=TupleLoss, miner=IdleMiner(every=4), max_epochs=3, **OPTIONS)
    message = r"\d of the 6 batches of epoch \d had nothing to learn from"
    with pytest.warns(IdleBatchesWarning, match=message) as caught:
        learner.fit(X, Y)
    assert len(caught) == 1
    IdleMiner.calls = 0
    learner.set_params(miner=IdleMiner(every=99), max_epochs=1).fit(X, Y)


def test_batches_without_same_class_pairs_warn(monkeypatch):
    one_per_class = [np.array([np.flatnonzero(c == Y)[i] for c in range(6)]) for i in range(16)]
    monkeypatch.setattr(
        "skdml.deep.data.samplers.ClassBalancedBatches.__iter__", lambda self: iter(one_per_class)
    )
    learner = DeepTripletEmbedder(max_epochs=2, **OPTIONS)
    with pytest.warns(IdleBatchesWarning, match="16 of the 16 batches of epoch 1"):
        learner.fit(X, Y)
    assert (learner.history_["loss"] == 0).all()


def test_a_loss_of_zero_does_not_warn():
    far = X + 1000.0 * Y[:, None]  # no pair of different classes is within the margin
    learner = DeepTripletEmbedder(max_epochs=2, margin=0.01, **OPTIONS).fit(far, Y)
    assert (learner.history_["loss"] == 0).all()
    pairs = np.stack([X[:40], X[:40] + 100.0], axis=1)
    # The network keeps equal points exactly equal, so that the loss of same pairs is 0.
    learner = DeepSiameseEmbedder(Scale, supervision="pairs", max_epochs=2, margin=0.01, **OPTIONS)
    learner.fit(np.concatenate([pairs, pairs[:, [0, 0]]]), np.repeat([0, 1], 40))
    assert (learner.history_["loss"] == 0).all()


@pytest.mark.parametrize(
    "name",
    [k for k, v in LOSSES.items() if not hasattr(v, "logits") and learns_from(v) != "views"],
)
def test_a_batch_without_pairs_has_no_loss_and_no_gradient(name):
    x = torch.randn(1, 3, requires_grad=True)
    loss = LOSSES[name]()(x, torch.tensor([0]))
    loss.backward()
    assert loss == 0
    assert (x.grad == 0).all()


# Collapse


@siamese_and_triplet
def test_collapse_under_hard_mining_warns(Learner):
    learner = Learner(
        nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU()),
        miner="hard",
        lr=1.0,
        max_epochs=20,
        early_stopping=False,
        random_state=0,
    )
    with pytest.warns(CollapseWarning, match="Try a smaller lr") as caught:
        learner.fit(MANY, MANY_Y)
    assert len(caught) == 1
    assert learner.get_metric()(MANY[0], MANY[60]) < 0.05


class Shrink(nn.Module):
    """A loss that moves all points to the origin."""

    def forward(self, embeddings, labels):
        return embeddings.square().mean()


def test_falling_spread_warns_of_collapse():
    options = {"optimizer": torch.optim.SGD, "lr": 0.01, "max_epochs": 8, "early_stopping": False}
    with pytest.warns(CollapseWarning, match=r"spread of the embeddings fell from \d") as caught:
        DeepEmbedder(Scale(), loss=Shrink, random_state=0, **options).fit(MANY, MANY_Y)
    assert len(caught) == 1


def test_loss_that_stays_at_the_margin_warns_of_collapse():
    options = {"lr": 1e-30, "early_stopping": False, "random_state": 0}
    # All distances are 1, but for the last bit. No start is chosen by it: the network has none.
    corners, labels = np.eye(12) / np.sqrt(2), np.arange(12) % 3
    DeepTripletEmbedder(Scale(), max_epochs=2, **options).fit(corners, labels)
    with pytest.warns(CollapseWarning, match=r"by epoch 3: the loss stayed at the margin 0\.2"):
        DeepTripletEmbedder(Scale(), max_epochs=5, **options).fit(corners, labels)
    # All distances are 1 at the start, and so the contrastive loss is 1.
    siamese = DeepSiameseEmbedder(Scale(), max_epochs=5, **options).fit(corners, labels)
    assert_allclose(siamese.history_["loss"], 1, atol=0.01)


@siamese_and_triplet
def test_normal_training_does_not_warn(Learner):
    learner = Learner(max_epochs=12, early_stopping=False, random_state=0)
    learner.fit(MANY, MANY_Y)  # warnings are errors here


# Margins


def margins_out_of_range():
    """Yield loss classes and parameters, with a margin just above the largest allowed one."""
    max_distance = {"cosine": 2.0, "angular": 1.0}
    for Loss in (ContrastiveLoss, LiftedStructureLoss, MarginLoss, TripletLoss):
        yield from ((Loss, {"distance": d, "margin": m + 1e-6}) for d, m in max_distance.items())
    for Loss, name in ((MultiSimilarityLoss, "base"), (MarginLoss, "boundary")):
        yield from ((Loss, {"distance": d, name: m + 1e-6}) for d, m in max_distance.items())
    for name, largest in {
        "arcface": math.pi,
        "subcenter_arcface": math.pi,
        "cosface": 2.0,
        "soft_triple": 2.0,
        "proxy_anchor": 1.0,
        "circle": 1.0,
    }.items():
        yield LOSSES[name], {"margin": largest}


@pytest.mark.parametrize(("Loss", "params"), [*margins_out_of_range()], ids=str)
def test_margins_above_the_largest_distance_raise(Loss, params):
    options = {**OPTIONS, "max_epochs": 1, "loss": Loss}
    own = {name: value for name, value in params.items() if name != "distance"}
    distance = {name: value for name, value in params.items() if name == "distance"}
    with pytest.raises(ValueError, match=rf"{next(iter(own))} must be .*(<|<=) \d"):
        DeepEmbedder(**options, **distance, **{f"loss__{k}": v for k, v in own.items()}).fit(X, Y)


@pytest.mark.parametrize(
    "name", [k for k, v in LOSSES.items() if "margin" in inspect.signature(v).parameters]
)
@pytest.mark.parametrize("margin", [-0.1, math.nan, "wide", True])
def test_invalid_margins_raise(name, margin):
    error = TypeError if margin == "wide" else ValueError
    learner = DeepEmbedder(loss=name, margin=margin, max_epochs=1, **OPTIONS)
    with pytest.raises(error, match="margin must be"):
        learner.fit(X, Y)
    assert fitted_attributes(learner) == []


@pytest.mark.parametrize("loss", [ContrastiveLoss, LiftedStructureLoss, MarginLoss, TripletLoss])
@pytest.mark.parametrize(
    ("distance", "largest"), [("euclidean", 2), ("sqeuclidean", 4), ("manhattan", 2 * 3**0.5)]
)
def test_margins_out_of_reach_of_normalized_embeddings_raise(loss, distance, largest):
    options = {**OPTIONS, "max_epochs": 1, "loss": loss, "distance": distance, "n_components": 3}
    DeepEmbedder(**options, normalize=True, margin=0.99 * largest).fit(X, Y)
    DeepEmbedder(**options, normalize=False, margin=1.01 * largest).fit(X, Y)
    for given in (
        {"margin": 1.01 * largest},
        {"loss__margin": 1.01 * largest},
        {"loss": loss(1.01 * largest, distance=distance)},
    ):
        learner = DeepEmbedder(**{**options, "normalize": True, **given})
        with pytest.raises(ValueError, match=r"margin=.* cannot be reached: with normalize=True"):
            learner.fit(X, Y)
        assert fitted_attributes(learner) == []


def test_only_margins_that_are_distances_are_limited():
    options = {**OPTIONS, "max_epochs": 1, "normalize": True}
    DeepEmbedder(loss=SignalToNoiseRatioContrastiveLoss, margin=5.0, **options).fit(X, Y)
    with pytest.raises(ValueError, match="base=3 cannot be reached"):
        DeepEmbedder(loss="multi_similarity", loss__base=3.0, **options).fit(X, Y)
    with pytest.raises(ValueError, match="boundary=3 cannot be reached"):
        DeepEmbedder(loss="margin", loss__boundary=3.0, **options).fit(X, Y)
