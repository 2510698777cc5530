"""Training that goes wrong: what is told, and what is left."""

import inspect
import math
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import LRScheduler
from torch import nn

from skdml import DeepEmbedder, DeepSiameseEmbedder, DeepTripletEmbedder
from skdml.deep import IdleBatchesWarning
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

X, Y = make_blobs(n_samples=96, centers=6, n_features=5, cluster_std=4, random_state=0)
# Six batches an epoch.
OPTIONS = {"batch_size": 16, "lr": 0.01, "random_state": 0, "early_stopping": False}


@pytest.fixture(autouse=True)
def same_start():
    """Build the same networks in each run, whatever ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Breaks(TripletLoss):
    """The triplet loss, which is not finite in one call of training."""

    calls = 0
    breaks_at = None
    value = torch.nan

    def forward(self, embeddings, *args):
        loss = super().forward(embeddings, *args)
        Breaks.calls += 1
        return loss * Breaks.value if Breaks.calls == Breaks.breaks_at else loss


@pytest.fixture
def breaks():
    def at(call, value=torch.nan):
        Breaks.calls, Breaks.breaks_at, Breaks.value = 0, call, value

    at(None)
    yield at
    at(None)


def fitted_names(learner):
    return [name for name in vars(learner) if name.endswith("_")]


# The loss is not finite


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_divergence_keeps_the_last_epoch_that_went_well(breaks, value):
    breaks(15, value)  # the third batch of the third epoch
    learner = DeepEmbedder(loss=Breaks, max_epochs=5, **OPTIONS)
    told = (
        rf"diverged in epoch 3, at a learning rate of 0\.01: the loss is {value}\. Try lr=0\.001,"
        r" .*GradientNormClipping.* is fitted with its weights after epoch 2"
    )
    with pytest.raises(RuntimeError, match=told):
        learner.fit(X, Y)
    breaks(None)
    two = DeepEmbedder(loss=Breaks, max_epochs=2, **OPTIONS).fit(X, Y)
    assert_array_equal(learner.transform(X), two.transform(X))
    assert_array_equal(learner.history_["loss"], two.history_["loss"])
    assert learner.best_epoch_ == 2
    assert np.isfinite(learner.partial_fit(X, Y).transform(X)).all()
    assert np.isfinite(pickle.loads(pickle.dumps(learner)).transform(X)).all()


def test_weights_without_a_finite_loss_are_not_good(breaks):
    breaks(13)  # the first batch of the third epoch: what the second ended with may be at fault
    learner = DeepEmbedder(loss=Breaks, max_epochs=5, **OPTIONS)
    with pytest.raises(RuntimeError, match=r"in epoch 3, .* after epoch 1 "):
        learner.fit(X, Y)
    breaks(None)
    one = DeepEmbedder(loss=Breaks, max_epochs=1, **OPTIONS).fit(X, Y)
    assert_array_equal(learner.transform(X), one.transform(X))
    assert len(learner.history_["loss"]) == 1


@pytest.mark.parametrize("call", [1, 5, 7])
def test_divergence_before_an_epoch_went_well_changes_nothing(breaks, call):
    learner = DeepEmbedder(loss=Breaks, max_epochs=5, **OPTIONS)
    breaks(call)
    with pytest.raises(RuntimeError, match="Training diverged in epoch"):
        learner.fit(X, Y)
    assert fitted_names(learner) == []
    breaks(None)
    before = learner.set_params(max_epochs=2).fit(X, Y).transform(X)
    for train in (learner.fit, learner.partial_fit):
        breaks(call if train == learner.fit else 2)
        with pytest.raises(RuntimeError, match="Training diverged in epoch"):
            train(X, Y)
        assert_array_equal(learner.transform(X), before)
        assert len(learner.history_["loss"]) == 2


def test_divergence_with_early_stopping_keeps_the_best_weights(breaks):
    options = {**OPTIONS, "early_stopping": True, "refit": False, "loss": Breaks}
    options["patience"] = 99
    full = DeepEmbedder(**options, max_epochs=6).fit(X, Y)
    n_batches = Breaks.calls // 6
    breaks(5 * n_batches + 1)
    learner = DeepEmbedder(**options, max_epochs=6)
    with pytest.raises(RuntimeError, match=r"in epoch 6, .* after epoch \d \(0 is the start\)"):
        learner.fit(X, Y)
    assert_array_equal(learner.history_["map_at_r"], full.history_["map_at_r"][:5])
    breaks(None)
    five = DeepEmbedder(**options, max_epochs=5).fit(X, Y)
    assert learner.best_epoch_ == five.best_epoch_
    assert_array_equal(learner.transform(X), five.transform(X))


def test_the_learning_rate_told_is_that_of_the_scheduler(breaks):
    halve = LRScheduler(policy="StepLR", step_size=1, gamma=0.5)
    breaks(15)
    with pytest.raises(RuntimeError, match=r"in epoch 3, at a learning rate of 0\.0025"):
        DeepEmbedder(loss=Breaks, max_epochs=5, callbacks=[halve], **OPTIONS).fit(X, Y)


def test_steps_that_are_far_too_long():
    for early_stopping in (True, False):
        options = {**OPTIONS, "lr": 1e30, "early_stopping": early_stopping}
        learner = DeepTripletEmbedder(**options)
        with pytest.raises(RuntimeError, match=r"a learning rate of 1e\+30: the loss is nan"):
            learner.fit(X, Y)
        assert fitted_names(learner) == []


class Spoil(nn.Module):
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
def test_weights_that_are_not_finite_are_neither_kept_nor_saved(tmp_path, checkpoint):
    path, start = tmp_path if checkpoint else None, Spoil()
    learner = DeepTripletEmbedder(start, max_epochs=2, checkpoint=path, **OPTIONS)
    with pytest.raises(
        RuntimeError, match=r"in epoch 2, .* weights are no longer finite.* epoch 1 "
    ):
        learner.fit(X, Y)
    one = DeepTripletEmbedder(start, max_epochs=1, **OPTIONS).fit(X, Y)
    assert_array_equal(learner.transform(X), one.transform(X))
    moments = [v for state in learner.net_.optimizer_.state.values() for v in state.values()]
    assert all(torch.isfinite(value).all() for value in moments)
    if checkpoint:  # the last good epoch stays on disk
        (file,) = tmp_path.iterdir()
        saved = pickle.loads(file.read_bytes())["net"]
        assert len(saved.history) == 1
        assert torch.equal(saved.module_.layer.weight, one.net_.module_.layer.weight)


def test_a_search_goes_on_past_what_diverges():
    model = DeepTripletEmbedder(**OPTIONS, max_epochs=2)
    grid = {"lr": [1e-3, 1e30]}
    search = GridSearchCV(model, grid, cv=2, scoring=lambda model, X, y: 1.0)
    with (
        pytest.warns(FitFailedWarning, match="Training diverged in epoch 1, at a learning rate"),
        pytest.warns(UserWarning, match="test scores are non-finite"),
    ):
        search.fit(X, Y)
    assert search.best_params_ == {"lr": 1e-3}


# The memory of the GPU


class TooBig(nn.Module):
    """A network that has no room for a batch, as a small GPU has none."""

    def __init__(self, room=99):
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.room = room

    def forward(self, X):
        if self.training and len(X) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        return self.layer(X)


def test_too_large_a_batch_is_told_how_to_fit():
    learner = DeepTripletEmbedder(TooBig(10), max_epochs=1, **OPTIONS)
    told = (
        r"batch of 16 points .*chunk_size, now None.* smaller batch_size.* Tried to allocate 9 GiB"
    )
    with pytest.raises(torch.cuda.OutOfMemoryError, match=told):
        learner.fit(X, Y)
    assert fitted_names(learner) == []
    learner.set_params(chunk_size=10).fit(X, Y)


# Batches that teach nothing


class Rarely(SemiHardMiner):
    """A miner that chooses nothing in some of its calls."""

    calls = 0

    def __init__(self, every):
        super().__init__()
        self.every = every

    def __call__(self, *args):
        Rarely.calls += 1
        chosen = super().__call__(*args)
        return chosen if Rarely.calls % self.every else tuple(i[:0] for i in chosen)


class ByTuples(nn.Module):
    def forward(self, embeddings, labels, indices_tuple):
        return TripletLoss(margin=9.0)(embeddings, labels, indices_tuple)


def test_batches_without_a_tuple_are_told_once():
    Rarely.calls = 0
    learner = DeepEmbedder(loss=ByTuples, miner=Rarely(every=4), max_epochs=3, **OPTIONS)
    told = r"\d of the 6 batches of epoch \d had nothing to learn from"
    with pytest.warns(IdleBatchesWarning, match=told) as caught:
        learner.fit(X, Y)
    assert len(caught) == 1
    Rarely.calls = 0
    learner.set_params(miner=Rarely(every=99), max_epochs=1).fit(X, Y)


def test_batches_of_strangers_are_told(monkeypatch):
    singles = [np.array([np.flatnonzero(c == Y)[i] for c in range(6)]) for i in range(16)]
    monkeypatch.setattr(
        "skdml.deep.data.samplers.PKBatchSampler.__iter__", lambda self: iter(singles)
    )
    learner = DeepTripletEmbedder(max_epochs=2, **OPTIONS)
    with pytest.warns(IdleBatchesWarning, match="16 of the 16 batches of epoch 1"):
        learner.fit(X, Y)
    assert (learner.history_["loss"] == 0).all()


class Scaled(nn.Module):
    """Multiplies entry by entry: equal points stay equal to the last bit on every processor."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.weight * x


def test_a_loss_of_zero_may_be_success():
    far = X + 1000.0 * Y[:, None]  # all margins are kept from the start
    learner = DeepTripletEmbedder(max_epochs=2, margin=0.01, **OPTIONS).fit(far, Y)
    assert (learner.history_["loss"] == 0).all()
    pairs = np.stack([X[:40], X[:40] + 100.0], axis=1)
    learner = DeepSiameseEmbedder(Scaled, supervision="pairs", max_epochs=2, margin=0.01, **OPTIONS)
    learner.fit(np.concatenate([pairs, pairs[:, [0, 0]]]), np.repeat([0, 1], 40))
    assert (learner.history_["loss"] == 0).all()


@pytest.mark.parametrize(
    "name",
    [k for k, v in LOSSES.items() if not hasattr(v, "logits") and learns_from(v) != "views"],
)
def test_no_loss_is_moved_by_a_batch_without_any_pair(name):
    x = torch.randn(1, 3, requires_grad=True)
    loss = LOSSES[name]()(x, torch.tensor([0]))
    loss.backward()
    assert loss == 0
    assert (x.grad == 0).all()


# Margins


def too_wide():
    """Losses with a margin just beyond what their distance allows: (class, parameters)."""
    reach = {"cosine": 2.0, "angular": 1.0}
    for Loss in (ContrastiveLoss, LiftedStructureLoss, MarginLoss, TripletLoss):
        yield from ((Loss, {"distance": d, "margin": m + 1e-6}) for d, m in reach.items())
    for Loss, name in ((MultiSimilarityLoss, "base"), (MarginLoss, "boundary")):
        yield from ((Loss, {"distance": d, name: m + 1e-6}) for d, m in reach.items())
    for name, largest in {
        "arcface": math.pi,
        "subcenter_arcface": math.pi,
        "cosface": 2.0,
        "soft_triple": 2.0,
        "proxy_anchor": 1.0,
        "circle": 1.0,
    }.items():
        yield LOSSES[name], {"margin": largest}


@pytest.mark.parametrize(("Loss", "params"), [*too_wide()], ids=str)
def test_margins_beyond_the_geometry_are_refused(Loss, params):
    options = {**OPTIONS, "max_epochs": 1, "loss": Loss}
    own = {name: value for name, value in params.items() if name != "distance"}
    distance = {name: value for name, value in params.items() if name == "distance"}
    with pytest.raises(ValueError, match=rf"{next(iter(own))} must be .*(<|<=) \d"):
        DeepEmbedder(**options, **distance, **{f"loss__{k}": v for k, v in own.items()}).fit(X, Y)


@pytest.mark.parametrize(
    "name", [k for k, v in LOSSES.items() if "margin" in inspect.signature(v).parameters]
)
@pytest.mark.parametrize("margin", [-0.1, math.nan, "wide", True])
def test_margins_that_are_none_are_refused(name, margin):
    error = TypeError if margin == "wide" else ValueError
    learner = DeepEmbedder(loss=name, margin=margin, max_epochs=1, **OPTIONS)
    with pytest.raises(error, match="margin must be"):
        learner.fit(X, Y)
    assert fitted_names(learner) == []


@pytest.mark.parametrize("loss", [ContrastiveLoss, LiftedStructureLoss, MarginLoss, TripletLoss])
@pytest.mark.parametrize(
    ("distance", "largest"), [("euclidean", 2), ("sqeuclidean", 4), ("manhattan", 2 * 3**0.5)]
)
def test_margins_beyond_unit_length_are_refused(loss, distance, largest):
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
        assert fitted_names(learner) == []


def test_margins_that_are_no_distance_are_left_alone():
    options = {**OPTIONS, "max_epochs": 1, "normalize": True}
    DeepEmbedder(loss=SignalToNoiseRatioContrastiveLoss, margin=5.0, **options).fit(X, Y)
    with pytest.raises(ValueError, match="base=3 cannot be reached"):
        DeepEmbedder(loss="multi_similarity", loss__base=3.0, **options).fit(X, Y)
    with pytest.raises(ValueError, match="boundary=3 cannot be reached"):
        DeepEmbedder(loss="margin", loss__boundary=3.0, **options).fit(X, Y)
