"""Checkpoints, Ctrl-C, partial_fit and warm_start."""

import os
import pickle
import subprocess
import sys
import textwrap

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_blobs
from skorch.callbacks import Callback
from torch import nn

from skdml import DeepSiameseEmbedder, DeepTripletEmbedder

MANY, MANY_Y = make_blobs(n_samples=120, centers=8, n_features=6, cluster_std=3, random_state=0)

QUICK = {"max_epochs": 3, "random_state": 0, "module__n_hidden": 8}
NO_STOPPING = {**QUICK, "early_stopping": False}

siamese_and_triplet = pytest.mark.parametrize("Learner", [DeepSiameseEmbedder, DeepTripletEmbedder])


# Checkpoints


TRAINING_SCRIPT = textwrap.dedent(
    """
    import os, sys
    import numpy as np, torch
    from skorch.callbacks import Callback, LRScheduler
    from sklearn.datasets import make_blobs
    from skdml import DeepTripletEmbedder
    torch.set_num_threads(1)

    class Kill(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 4 and "KILL" in os.environ:
                os._exit(9)

    X, y = make_blobs(n_samples=120, centers=8, n_features=6, cluster_std=3, random_state=0)
    steps = LRScheduler(policy="StepLR", step_size=2, gamma=0.5)
    learner = DeepTripletEmbedder(
        max_epochs=7, lr=1e-2, random_state=eval(sys.argv[3]), module__dropout=0.2,
        callbacks=[("steps", steps), ("kill", Kill())], checkpoint=eval(sys.argv[1]),
    )
    np.savez(sys.argv[2], Z=learner.fit(X, y).transform(X), **learner.history_)
    """
)


def run_training(checkpoint, out, *, kill=False, seed=3):
    environment = {**os.environ, **({"KILL": "1"} if kill else {})}
    arguments = [sys.executable, "-c", TRAINING_SCRIPT, repr(checkpoint), str(out), repr(seed)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert done.returncode == (9 if kill else 0), done.stderr
    return None if kill else np.load(out)


def test_killed_process_resumes_with_scheduler_and_dropout(tmp_path):
    folder = tmp_path / "states"
    whole = run_training(None, tmp_path / "whole.npz")
    run_training(str(folder), tmp_path / "killed.npz", kill=True)
    assert [path.suffix for path in folder.iterdir()] == [".fit"]
    resumed = run_training(str(folder), tmp_path / "resumed.npz")
    for name in set(whole) - {"seconds"}:
        assert_array_equal(resumed[name], whole[name])
    assert not list(folder.iterdir())


class Failure(Exception):
    """An error that ends a fit."""


class FailAfterEpoch(Callback):
    """Raise an error after a number of epochs."""

    after = None

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) - 1 == FailAfterEpoch.after:  # history has a row for the new epoch
            raise Failure


@pytest.fixture
def fail_after():
    yield lambda after: setattr(FailAfterEpoch, "after", after)
    FailAfterEpoch.after = None


def test_checkpoint_keeps_the_seed_if_random_state_is_none(tmp_path, fail_after, monkeypatch):
    options = {"max_epochs": 4, "callbacks": [FailAfterEpoch], "checkpoint": tmp_path}
    fail_after(2)
    with pytest.raises(Failure):
        DeepTripletEmbedder(**options).fit(MANY, MANY_Y)
    seed = pickle.loads(next(tmp_path.iterdir()).read_bytes())["seed"]
    fail_after(None)
    learner = DeepTripletEmbedder(**options).fit(MANY, MANY_Y)

    class ConstantGenerator:
        def randint(self, _):
            return seed

    target = "skdml.deep.training.fitting.check_random_state"
    monkeypatch.setattr(target, lambda _: ConstantGenerator())
    whole = DeepTripletEmbedder(max_epochs=4).fit(MANY, MANY_Y)
    assert_array_equal(learner.history_["loss"], whole.history_["loss"])
    assert_array_equal(learner.transform(MANY), whole.transform(MANY))


def test_only_an_identical_fit_resumes(tmp_path, fail_after):
    options = {**QUICK, "callbacks": [FailAfterEpoch], "checkpoint": tmp_path}
    fail_after(2)
    with pytest.raises(Failure):
        DeepTripletEmbedder(**options).fit(MANY, MANY_Y)
    fail_after(None)
    for changes, X, y in [
        ({"margin": 0.3}, MANY, MANY_Y),
        ({"module__dropout": 0.1}, MANY, MANY_Y),
        ({"random_state": 1}, MANY, MANY_Y),
        ({}, MANY + 1, MANY_Y),
        ({}, MANY, MANY_Y[::-1]),
    ]:
        learner = DeepTripletEmbedder(**options).set_params(**changes).fit(X, y)
        unaffected = clone(learner).set_params(checkpoint=None).fit(X, y)
        assert_array_equal(learner.transform(X), unaffected.transform(X))
        assert len(list(tmp_path.iterdir())) == 1  # the checkpoint of the fit that failed


def test_checkpoint_works_in_a_moved_folder(tmp_path, fail_after):
    options = {**QUICK, "callbacks": [FailAfterEpoch]}
    fail_after(1)
    with pytest.raises(Failure):
        DeepTripletEmbedder(**options, checkpoint=tmp_path / "old").fit(MANY, MANY_Y)
    (tmp_path / "old").rename(tmp_path / "new")
    fail_after(None)
    DeepTripletEmbedder(**options, checkpoint=tmp_path / "new").fit(MANY, MANY_Y)
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]
    assert not list((tmp_path / "new").iterdir())


def test_checkpoint_does_not_contain_the_data(tmp_path, fail_after):
    X = np.random.default_rng(0).normal(size=(4000, 20)).astype(np.float32)  # 320 kB
    fail_after(1)
    learner = DeepTripletEmbedder(**QUICK, callbacks=[FailAfterEpoch], checkpoint=tmp_path)
    with pytest.raises(Failure):
        learner.fit(X, np.arange(4000) % 9)
    (state,) = tmp_path.iterdir()
    assert state.stat().st_size < 100_000


def test_a_fitted_learner_does_not_contain_the_data(tmp_path):
    X = np.random.default_rng(0).normal(size=(4000, 20)).astype(np.float32)  # 320 kB
    learner = DeepTripletEmbedder(**QUICK, checkpoint=tmp_path).fit(X, np.arange(4000) % 9)
    assert len(pickle.dumps(learner)) < 100_000
    types = [type(c[1] if isinstance(c, tuple) else c) for c in learner.net_.callbacks]
    assert {t.__name__ for t in types} == {"PassthroughScoring", "CollapseAlarm", "IdleAlarm"}
    joblib.dump(learner, tmp_path / "learner")
    assert_array_equal(joblib.load(tmp_path / "learner").transform(X), learner.transform(X))


# Ctrl-C


class Interrupt(Callback):
    """Raise the error of Ctrl-C after the first batch of the third epoch."""

    def on_batch_end(self, net, **kwargs):
        if len(net.history) == 3:
            raise KeyboardInterrupt


def test_interrupted_fit_keeps_its_checkpoint(tmp_path):
    learner = DeepTripletEmbedder(max_epochs=5, random_state=0, callbacks=[Interrupt()])
    learner.set_params(checkpoint=tmp_path, early_stopping=False, batch_size=16)
    with pytest.warns(UserWarning, match="Training was interrupted"):
        learner.fit(MANY, MANY_Y)
    assert len(learner.history_["loss"]) == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_ctrl_c_within_an_epoch_keeps_its_weights():
    options = {**NO_STOPPING, "max_epochs": 9, "lr": 0.01, "batch_size": 16}
    learner = DeepTripletEmbedder(**options, callbacks=[Interrupt])
    with pytest.warns(UserWarning, match="Training was interrupted"):
        learner.fit(MANY, MANY_Y)
    two_epochs = DeepTripletEmbedder(**{**options, "max_epochs": 2}).fit(MANY, MANY_Y)
    assert {len(column) for column in learner.history_.values()} == {2}
    assert_array_equal(learner.history_["loss"], two_epochs.history_["loss"])
    assert not np.array_equal(learner.transform(MANY), two_epochs.transform(MANY))
    stopped = DeepTripletEmbedder(**{**options, "early_stopping": True}, callbacks=[Interrupt])
    with pytest.warns(UserWarning, match="Training was interrupted"):
        stopped.fit(MANY, MANY_Y)
    assert stopped.best_epoch_ <= 2


# Further training


@siamese_and_triplet
def test_partial_fit_accepts_other_classes_in_each_call(Learner):
    learner = Learner(**QUICK, lr=0.01)
    embeddings = []
    for labels in ([0, 1], [1, 2, 3], [4, 5]):
        rows = np.isin(MANY_Y, labels)
        embeddings.append(learner.partial_fit(MANY[rows], MANY_Y[rows]).transform(MANY))
    assert learner.history_["loss"].shape == (3,)
    assert not np.allclose(embeddings[0], embeddings[1])
    assert not np.allclose(embeddings[1], embeddings[2])
    before = learner.transform(MANY)
    with pytest.raises(ValueError, match=r"X has 4 features, but .* is expecting 6"):
        learner.partial_fit(MANY[:, :4], MANY_Y)
    assert_array_equal(learner.transform(MANY), before)


def test_partial_fit_continues_after_fit_and_after_pickling():
    learner = DeepTripletEmbedder(**QUICK).fit(MANY, MANY_Y)
    unpickled = pickle.loads(pickle.dumps(learner))
    for continued in (learner, unpickled):
        continued.partial_fit(MANY, MANY_Y).partial_fit(MANY, MANY_Y)
        assert continued.history_["loss"].shape == (5,)
        assert continued.best_epoch_ == 5
    assert_array_equal(unpickled.transform(MANY), learner.transform(MANY))


def test_partial_fit_draws_other_random_numbers_in_each_call():
    class Draw(nn.Module):
        numbers = ()

        def forward(self, X):
            if self.training:
                Draw.numbers += (torch.rand(1).item(),)
            return X

    Draw.numbers = ()
    learner = DeepTripletEmbedder(nn.Sequential(nn.Linear(6, 2), Draw()), random_state=0)
    for _ in range(3):
        learner.partial_fit(MANY, MANY_Y)
    assert len(set(Draw.numbers)) == len(Draw.numbers) == 3


class FailInBatch(Callback):
    """Raise an error after a batch, if `FailAfterEpoch` has a number of epochs."""

    def on_batch_end(self, net, **kwargs):
        if FailAfterEpoch.after is not None:
            raise Failure


def test_failed_epoch_does_not_change_the_learner(fail_after):
    learner = DeepTripletEmbedder(**QUICK, lr=0.01, callbacks=[FailInBatch]).fit(MANY, MANY_Y)
    before = learner.transform(MANY)
    fail_after(0)
    for train in (learner.partial_fit, learner.fit):
        with pytest.raises(Failure):
            train(MANY, MANY_Y)
        assert_array_equal(learner.transform(MANY), before)
        assert learner.history_["loss"].shape == (3,)


def test_warm_start_begins_with_the_previous_network():
    learner = DeepTripletEmbedder(**NO_STOPPING, lr=0.05, warm_start=True).fit(MANY, MANY_Y)
    first = learner.transform(MANY)
    learner.set_params(lr=1e-30).fit(MANY[::-1], MANY_Y[::-1])
    assert_allclose(learner.transform(MANY), first, rtol=1e-5, atol=1e-6)
    learner.set_params(warm_start=False).fit(MANY, MANY_Y)
    assert not np.allclose(learner.transform(MANY), first, atol=1e-3)
    learner.set_params(warm_start=True)
    with pytest.raises(ValueError, match="expecting 6"):
        learner.fit(MANY[:, :4], MANY_Y)
    with pytest.raises(ValueError, match=r"n_components=2, but the module .*last fit.* width 6"):
        learner.set_params(n_components=2).fit(MANY, MANY_Y)
