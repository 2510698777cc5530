"""skorch callbacks that monitor the score, and Ctrl-C in each stage of a fit."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.datasets import make_blobs
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, LRScheduler, TrainEndCheckpoint
from skorch.history import History
from torch.optim.lr_scheduler import ReduceLROnPlateau

from skdml import DeepEmbedder, DeepProxyEmbedder, DeepTripletEmbedder
from skdml.deep.training.stopping import ReplayedScores, RetrievalStopping

# Eight classes, two of them held out. An epoch has 5 or 6 batches of 16 points, so that every
# second epoch is scored.
X, Y = make_blobs(n_samples=96, centers=8, n_features=5, cluster_std=3, random_state=0)
OPTIONS = {"batch_size": 16, "random_state": 0, "lr": 1e-3}


@pytest.fixture(autouse=True)
def same_start():
    """Build the same networks in each test, independent of earlier tests."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class PlannedScores:
    """A scoring that returns given values for trained weights, and -1 for weights halfway."""

    __name__ = "plan"

    def __init__(self, *values):
        self.values = values
        self.n_calls = 0

    def __call__(self, embeddings, labels):
        n = self.n_calls
        self.n_calls += 1
        if n == 0:
            return self.values[0]
        return -1.0 if n % 2 == 0 else self.values[min((n + 1) // 2, len(self.values) - 1)]

    def __deepcopy__(self, memo):
        return self


class RecordRates(Callback):
    """Record the learning rate of each epoch, in one list for each training."""

    def on_train_begin(self, net, **kwargs):
        RATES.append([])

    def on_epoch_end(self, net, **kwargs):
        RATES[-1].append(net.optimizer_.param_groups[0]["lr"])


RATES = []


def test_every_epoch_is_scored_if_a_callback_monitors_the_score():
    watch = EarlyStopping(monitor="map_at_r", lower_is_better=False, patience=99)
    options = {**OPTIONS, "max_epochs": 5}
    default = DeepEmbedder(**options).fit(X, Y).history_["map_at_r"]
    assert np.isnan(default).tolist() == [True, False, True, False, False]
    each = DeepEmbedder(callbacks=[watch], **options).fit(X, Y).history_["map_at_r"]
    assert np.isfinite(each).all()
    assert_array_equal(each[np.isfinite(default)], default[np.isfinite(default)])


@pytest.mark.parametrize("refit", [True, False])
def test_skorch_early_stopping_on_the_score(refit):
    plan = PlannedScores(0.5, 0.6, 0.7, 0.6, 0.6, 0.9)
    stop = EarlyStopping(
        monitor="plan", lower_is_better=False, patience=2, threshold=0, sink=lambda text: None
    )
    learner = DeepEmbedder(callbacks=[stop], scoring=plan, refit=refit, **OPTIONS).fit(X, Y)
    assert learner.history_["plan"].tolist() == [0.6, 0.7, 0.6, 0.6]
    assert learner.best_epoch_ == 2
    assert len(learner.net_.history) == 4


def test_a_refit_repeats_the_learning_rates_of_the_schedule():
    RATES.clear()
    plan = PlannedScores(0.5, 0.6, 0.6, 0.6, 0.7)
    halve = LRScheduler(
        policy=ReduceLROnPlateau, monitor="plan", mode="max", factor=0.5, patience=0, threshold=0
    )
    options = {"callbacks": [halve, RecordRates], "scoring": plan, "max_epochs": 4, "patience": 9}
    learner = DeepEmbedder(**{**OPTIONS, **options}).fit(X, Y)
    assert learner.best_epoch_ == 4
    first, second = RATES
    assert first == [1e-3, 5e-4, 2.5e-4, 2.5e-4]
    assert second == first


def test_replayed_scores_repeat_the_last_one():
    replayed = ReplayedScores([{"plan": 0.1, "plan_best": True}, {"plan": 0.3, "dur": 9.0}], "plan")
    net = SimpleNamespace(history=History())
    for _ in range(3):
        net.history.new_epoch()
        replayed.on_epoch_end(net)
    assert [epoch.get("plan") for epoch in net.history] == [0.1, 0.3, 0.3]
    assert [set(epoch) - {"batches"} for epoch in net.history] == [
        {"plan", "plan_best"},
        {"plan"},
        {"plan"},
    ]


@pytest.mark.parametrize("monitor", ["plan_best", "plan_gain_best"])
def test_skorch_checkpoint_of_the_best_epoch(tmp_path, monitor):
    saved = Checkpoint(monitor=monitor, dirname=tmp_path, f_params="{last_epoch[epoch]}.pt")
    options = {"scoring": PlannedScores(0.5, 0.6, 0.4, 0.7, 0.6), "max_epochs": 4, "refit": False}
    learner = DeepEmbedder(callbacks=[saved], patience=9, **OPTIONS, **options).fit(X, Y)
    assert {path.name for path in tmp_path.glob("*.pt")} >= {"1.pt", "3.pt"}
    assert not {path.name for path in tmp_path.glob("*.pt")} & {"2.pt", "4.pt"}
    best = torch.load(tmp_path / "3.pt", weights_only=True)
    for name, weight in learner.net_.module_.state_dict().items():
        assert torch.equal(weight, best[name])


@pytest.mark.parametrize("best", [0, 1])
def test_skorch_checkpoint_at_the_end_of_training(tmp_path, best):
    saved = TrainEndCheckpoint(dirname=tmp_path)
    plan = PlannedScores(0.5, 0.4 + best, 0.3)
    options = {"scoring": plan, "max_epochs": 2, "patience": 9}
    learner = DeepEmbedder(callbacks=[saved], **OPTIONS, **options).fit(X, Y)
    assert learner.best_epoch_ == best
    assert (tmp_path / "train_end_params.pt").exists()


def test_weights_loaded_by_a_callback_do_not_replace_the_best():
    options = {**OPTIONS, "max_epochs": 4, "patience": 9, "refit": False}
    learners = []
    for callbacks in ([], [EarlyStopping(monitor="train_loss", load_best=True)]):
        plan = PlannedScores(0.5, 0.6, 0.8, 0.7, 0.6)
        learners.append(DeepEmbedder(callbacks=callbacks, scoring=plan, **options).fit(X, Y))
    plain, loaded = learners
    assert loaded.best_epoch_ == plain.best_epoch_ == 2
    assert_array_equal(loaded.transform(X), plain.transform(X))


class EndsRefit(Callback):
    """End the second training after its first epoch, by the exception that skorch uses."""

    def on_epoch_end(self, net, **kwargs):
        if net.callback(RetrievalStopping) is None:
            raise KeyboardInterrupt


def test_a_callback_may_end_a_refit_before_the_best_epoch():
    options = {**OPTIONS, "max_epochs": 3, "patience": 9}
    plan = {"scoring": PlannedScores(0.5, 0.6, 0.7, 0.8)}
    learner = DeepEmbedder(callbacks=[EndsRefit], **plan, **options).fit(X, Y)
    assert learner.best_epoch_ == 3
    one = DeepEmbedder(**{**options, "max_epochs": 1}, early_stopping=False).fit(X, Y)
    assert_array_equal(learner.transform(X), one.transform(X))


@pytest.mark.parametrize(
    ("callback", "params", "message"),
    [
        (
            EarlyStopping(),
            {},
            r"EarlyStopping monitors 'valid_loss', .* Recorded are 'map_at_r' \(larger",
        ),
        (Checkpoint(), {}, "Checkpoint monitors 'valid_loss_best', which is not recorded"),
        (EarlyStopping(monitor="recall_at_1"), {}, "Recorded are 'map_at_r'"),
        (
            EarlyStopping(monitor="map_at_r"),
            {"early_stopping": False},
            "Recorded are 'train_loss', 'act",
        ),
    ],
)
def test_monitoring_an_unknown_score_raises(callback, params, message):
    learner = DeepEmbedder(callbacks=[callback], **OPTIONS, **params)
    with pytest.raises(ValueError, match=message):
        learner.fit(X, Y)
    assert not hasattr(learner, "net_")


def test_partial_fit_has_no_score_to_monitor():
    watch = EarlyStopping(monitor="map_at_r", lower_is_better=False)
    learner = DeepEmbedder(callbacks=[watch], max_epochs=1, **OPTIONS).fit(X, Y)
    before = learner.transform(X)
    with pytest.raises(ValueError, match="monitors 'map_at_r', which is not recorded"):
        learner.partial_fit(X, Y)
    assert_array_equal(learner.transform(X), before)


# Ctrl-C


class InterruptedScoring:
    """A scoring that is interrupted by Ctrl-C in a given call."""

    __name__ = "plan"

    def __init__(self, call):
        self.call = call
        self.n_calls = 0

    def __call__(self, embeddings, labels):
        self.n_calls += 1
        if self.n_calls == self.call:
            raise KeyboardInterrupt
        return float(self.n_calls) * (self.n_calls % 2 == 0)  # trained weights only, not halfway

    def __deepcopy__(self, memo):
        return self


class InterruptTraining(Callback):
    """Ctrl-C in a given epoch of a given training; epoch 0 is before the first."""

    trainings = 0

    def __init__(self, training, epoch):
        self.training = training
        self.epoch = epoch

    def on_train_begin(self, net, **kwargs):
        InterruptTraining.trainings += 1
        if (InterruptTraining.trainings, 0) == (self.training, self.epoch):
            raise KeyboardInterrupt

    def on_batch_end(self, net, **kwargs):
        if (InterruptTraining.trainings, len(net.history)) == (self.training, self.epoch):
            raise KeyboardInterrupt


def interrupted(Learner, training, epoch, **params):
    InterruptTraining.trainings = 0
    options = {
        **OPTIONS,
        "max_epochs": 3,
        "patience": 9,
        "scoring": PlannedScores(0.5, 0.6, 0.7, 0.8),
    }
    return Learner(**{**options, **params}, callbacks=[InterruptTraining(training, epoch)])


@pytest.mark.parametrize("Learner", [DeepEmbedder, DeepTripletEmbedder, DeepProxyEmbedder])
def test_ctrl_c_before_training_changes_nothing(Learner):
    learner = interrupted(Learner, 1, 0)
    with pytest.raises(KeyboardInterrupt):
        learner.fit(X, Y)
    assert not [name for name in vars(learner) if name.endswith("_")]
    learner = Learner(**OPTIONS, scoring=InterruptedScoring(1))
    with pytest.raises(KeyboardInterrupt):
        learner.fit(X, Y)
    assert not [name for name in vars(learner) if name.endswith("_")]


@pytest.mark.parametrize(("epoch", "best"), [(1, 0), (3, 2)])
@pytest.mark.parametrize("Learner", [DeepEmbedder, DeepProxyEmbedder])
def test_ctrl_c_in_the_first_training_keeps_the_best_weights(Learner, epoch, best):
    learner = interrupted(Learner, 1, epoch)
    message = (
        rf"Training was interrupted\. The learner is fitted with its weights after epoch {best} "
    )
    with pytest.warns(UserWarning, match=message):
        learner.fit(X, Y)
    assert InterruptTraining.trainings == 1  # no refit
    assert learner.best_epoch_ == best
    assert len(learner.history_["loss"]) == epoch - 1
    if best and Learner is DeepEmbedder:
        options = {**OPTIONS, "max_epochs": best, "scoring": PlannedScores(0.5, 0.6, 0.7)}
        whole = Learner(**options, patience=9, refit=False).fit(X, Y)
        assert_array_equal(learner.transform(X), whole.transform(X))
    if Learner is DeepProxyEmbedder:  # the proxies of held-out classes are their means
        assert set(learner.predict(X)) == set(Y)


def test_ctrl_c_during_scoring_keeps_the_best_weights():
    learner = DeepEmbedder(**OPTIONS, patience=9, scoring=InterruptedScoring(4))
    with pytest.warns(UserWarning, match=r"interrupted\. .* after epoch 1 "):
        learner.fit(X, Y)
    one = DeepEmbedder(
        **OPTIONS, patience=9, scoring=InterruptedScoring(9), max_epochs=1, refit=False
    )
    assert_array_equal(learner.transform(X), one.fit(X, Y).transform(X))
    assert len(learner.history_["loss"]) == 2
    assert np.isnan(learner.history_["plan"][1])


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("Learner", [DeepEmbedder, DeepProxyEmbedder])
def test_ctrl_c_in_the_refit_keeps_the_first_network(Learner, epoch):
    learner = interrupted(Learner, 2, epoch)
    with pytest.warns(UserWarning, match=r"interrupted\. .* after epoch 3 "):
        learner.fit(X, Y)
    if Learner is DeepEmbedder:
        first = interrupted(Learner, 9, 9, refit=False).fit(X, Y)
    else:
        with pytest.warns(UserWarning, match="interrupted"):
            first = interrupted(Learner, 1, 4, max_epochs=4).fit(X, Y)
    assert_array_equal(learner.transform(X), first.transform(X))
    assert learner.history_.keys() == first.history_.keys()
