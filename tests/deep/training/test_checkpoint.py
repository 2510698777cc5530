"""Checkpoints, Ctrl-C, partial_fit and warm_start."""

import errno
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

import skdml
from skdml import DeepSiameseEmbedder, DeepTripletEmbedder
from skdml.deep.training.checkpoint import (
    FORMAT,
    MAGIC,
    checksum_line,
    pack_state,
    unpack_state,
)
from skdml.deep.training.stopping import RetrievalStopping

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
    (file,) = tmp_path.iterdir()
    seed = unpack_state(file.read_bytes(), file)["seed"]
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


# Files that are damaged, foreign or cannot be written


@pytest.fixture
def killed_fit(tmp_path, fail_after):
    """A learner whose fit ended after two epochs, the data, and the file that was left."""
    learner = DeepTripletEmbedder(**NO_STOPPING, callbacks=[FailAfterEpoch], checkpoint=tmp_path)
    fail_after(2)
    with pytest.raises(Failure):
        learner.fit(MANY, MANY_Y)
    fail_after(None)
    (file,) = tmp_path.iterdir()
    return learner, file


@pytest.fixture
def refuse_unpickling(monkeypatch):
    """Make it an error to unpickle anything."""

    def fail(_):
        raise AssertionError("unpickled")

    monkeypatch.setattr("skdml.deep.training.checkpoint.pickle.loads", fail)


def assert_refused(learner, file, match):
    content = file.read_bytes()
    with pytest.raises(ValueError, match=match) as caught:
        learner.fit(MANY, MANY_Y)
    assert str(file) in str(caught.value)
    assert "Delete" in str(caught.value)
    assert not hasattr(learner, "net_")
    assert file.read_bytes() == content
    assert [*file.parent.iterdir()] == [file]


@pytest.mark.parametrize("part", ["magic", "checksum", "newline", "header", "state", "end"])
def test_one_flipped_bit_is_found_before_unpickling(killed_fit, refuse_unpickling, part):
    learner, file = killed_fit
    content = bytearray(file.read_bytes())
    start = len(MAGIC)
    places = {"magic": 3, "checksum": start, "newline": start + 64, "header": start + 70}
    places |= {"state": len(content) // 2, "end": len(content) - 1}
    for bit in (1, 16, 128):
        damaged = content.copy()
        damaged[places[part]] ^= bit
        file.write_bytes(damaged)
        assert_refused(learner, file, "no checkpoint of this" if part == "magic" else "is damaged")


@pytest.mark.parametrize("n_bytes", [0, 5, 40, 81, 150, -1])
def test_half_written_file_is_named(killed_fit, refuse_unpickling, n_bytes):
    learner, file = killed_fit
    file.write_bytes(file.read_bytes()[:n_bytes])
    assert_refused(learner, file, "ends too early")


@pytest.mark.parametrize("content", [pickle.dumps({"seed": 0}), b"a,b\n1,2\n"])
def test_file_of_another_program_is_named(killed_fit, refuse_unpickling, content):
    learner, file = killed_fit
    file.write_bytes(content)
    assert_refused(learner, file, "no checkpoint of this version")


def test_file_of_another_version_is_named(killed_fit, refuse_unpickling, monkeypatch):
    learner, file = killed_fit
    with monkeypatch.context() as patch:
        patch.setattr(skdml, "__version__", "0.0.1")
        file.write_bytes(b"".join(pack_state({}, file.name)))
    assert_refused(learner, file, "skdml '0.0.1', but this fit needs skdml")
    with monkeypatch.context() as patch:
        patch.setattr("skdml.deep.training.checkpoint.FORMAT", FORMAT + 1)
        file.write_bytes(b"".join(pack_state({}, file.name)))
    assert_refused(learner, file, f"format {FORMAT + 1}, but this fit needs format {FORMAT}")


def test_checkpoint_of_another_fit_is_named(killed_fit, refuse_unpickling):
    learner, file = killed_fit
    learner.set_params(lr=0.1)
    other = file.with_name(joblib.hash("other") + ".fit")
    file.rename(other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skdml.deep.training.checkpoint.joblib.hash", lambda _: other.stem)
        assert_refused(learner, other, f"is of fit '{file.name}'")


def test_file_that_cannot_be_unpickled_is_named(killed_fit):
    learner, file = killed_fit
    *_, header, _ = pack_state({}, file.name)
    broken = b"cno_such_module\nThing\n."
    content = [MAGIC, checksum_line(header, broken), header, broken]
    file.write_bytes(b"".join(content))
    assert_refused(learner, file, "cannot be read here: ModuleNotFoundError.*no_such_module")


def test_damaged_checkpoint_of_a_refit_is_named(tmp_path, fail_after):
    options = {**QUICK, "scoring": number_of_calls, "patience": 9, "callbacks": [FailInRefit]}
    learner = DeepTripletEmbedder(**options, checkpoint=tmp_path)
    FailInRefit.is_active = True
    with pytest.raises(Failure):
        learner.fit(MANY, MANY_Y)
    FailInRefit.is_active = False
    (file,) = tmp_path.glob("*.refit.fit")
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"\.refit\.fit is damaged"):
        learner.fit(MANY, MANY_Y)
    assert not hasattr(learner, "net_")
    file.write_bytes(content)
    whole = clone(learner).set_params(checkpoint=None).fit(MANY, MANY_Y)
    assert_array_equal(learner.fit(MANY, MANY_Y).transform(MANY), whole.transform(MANY))


class FailInRefit(Callback):
    """Raise an error in the second epoch of a refit."""

    is_active = False

    def on_epoch_begin(self, net, **kwargs):
        if FailInRefit.is_active and len(net.history) == 2 and not net.callback(RetrievalStopping):
            raise Failure


def number_of_calls(embeddings, labels, calls=[]):  # noqa: B006  # each score is larger
    calls.append(None)
    return float(len(calls))


def raise_no_space(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_full_disk_is_named_and_leaves_no_temporary_file(killed_fit, monkeypatch, function):
    learner, file = killed_fit
    content = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(f"skdml.deep.training.checkpoint.os.{function}", raise_no_space)
        with pytest.raises(OSError, match=r"No space left on device.*to a folder") as caught:
            learner.fit(MANY, MANY_Y)
    assert caught.value.errno == errno.ENOSPC
    assert str(file) in str(caught.value)
    assert [*file.parent.iterdir()] == [file]
    assert file.read_bytes() == content  # the last good state
    assert not hasattr(learner, "net_")
    whole = clone(learner).set_params(checkpoint=None).fit(MANY, MANY_Y)
    assert_array_equal(learner.fit(MANY, MANY_Y).transform(MANY), whole.transform(MANY))


def test_failed_checkpoint_leaves_a_fitted_learner_as_it_was(tmp_path, monkeypatch):
    learner = DeepTripletEmbedder(**NO_STOPPING, checkpoint=tmp_path).fit(MANY, MANY_Y)
    before = learner.transform(MANY)
    monkeypatch.setattr("skdml.deep.training.checkpoint.os.fsync", raise_no_space)
    with pytest.raises(OSError, match="No space left"):
        learner.set_params(lr=0.1).fit(MANY, MANY_Y)
    assert_array_equal(learner.transform(MANY), before)
    assert not [*tmp_path.iterdir()]


def test_folder_that_cannot_be_used_is_found_before_training(tmp_path, monkeypatch):
    def train(*args):
        raise AssertionError("trained")

    monkeypatch.setattr("skdml.deep.training.fitting.Training.run", train)
    (tmp_path / "file").write_text("no folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        learner = DeepTripletEmbedder(**NO_STOPPING, checkpoint=folder)
        with pytest.raises(OSError, match=r"cannot be written.*checkpoint to a folder") as caught:
            learner.fit(MANY, MANY_Y)
        assert str(folder) in str(caught.value)
        assert not hasattr(learner, "net_")
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]


def test_read_only_folder_is_named(tmp_path, monkeypatch):
    def refuse(**kwargs):  # a folder without permission to write, also for an administrator
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("skdml.deep.training.checkpoint.tempfile.TemporaryFile", refuse)
    with pytest.raises(PermissionError, match="Permission denied") as caught:
        DeepTripletEmbedder(**NO_STOPPING, checkpoint=tmp_path).fit(MANY, MANY_Y)
    assert str(tmp_path) in str(caught.value)


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
