"""The two networks of `DeepProxyEmbedder`: one stops on strangers, one does not."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.metrics import pairwise_distances
from skorch.callbacks import Callback

from skdml import DeepProxyEmbedder
from skdml.metrics import map_at_r

MANY, MANY_Y = make_blobs(n_samples=240, centers=8, n_features=6, cluster_std=1, random_state=0)
PATIENT = {"patience": 9, "random_state": 0}  # every epoch is scored
QUICK = {"max_epochs": 3, **PATIENT}


def scores(*found):
    """A scoring that finds these: that of the start, and two after each epoch."""
    found = iter([*found, *[0.0] * 20])
    return lambda *args: next(found)


def weights(learner):
    return learner._distance_map().module.state_dict()


@pytest.mark.parametrize(
    ("found", "epoch", "share"),
    [([1.0], 0, 1.0), ([0.0, 1.0], 1, 1.0), ([0.0, 0.0, 0.0, 0.0, 1.0], 2, 0.5)],
)
def test_the_distance_is_of_the_best_epoch_and_the_classifier_of_the_last(found, epoch, share):
    learner = DeepProxyEmbedder(scoring=scores(*found), **QUICK).fit(MANY, MANY_Y)
    assert (learner.best_epoch_, learner.best_share_) == (epoch, share)
    to_the_end = DeepProxyEmbedder(early_stopping=False, **QUICK).fit(MANY, MANY_Y)
    assert_array_equal(learner.predict_proba(MANY), to_the_end.predict_proba(MANY))
    so_far = {**QUICK, "max_epochs": max(1, epoch), "early_stopping": False}
    there = DeepProxyEmbedder(**so_far).fit(MANY, MANY_Y)
    still = DeepProxyEmbedder(**so_far, lr=1e-30).fit(MANY, MANY_Y)
    part = share if epoch else 0.0
    for name, weight in weights(learner).items():
        expected = torch.lerp(weights(still)[name], weights(there)[name], part)
        assert_allclose(weight, expected, atol=1e-7)
    change = np.abs(learner.transform(MANY) - to_the_end.transform(MANY)).max()
    assert change > 1e-3


def test_strangers_are_hidden_from_the_first_training_and_not_from_the_second():
    shown = []

    class Note(Callback):
        def on_epoch_begin(self, net, **kwargs):
            shown.append(set())

        def on_batch_begin(self, net, batch, **kwargs):
            shown[-1] |= set(batch[1].tolist())

    options = {"callbacks": [Note], "validation_fraction": 0.3}
    DeepProxyEmbedder(**options, **QUICK).fit(MANY, MANY_Y)
    assert [len(classes) for classes in shown] == [6, 6, 6, 8, 8, 8]
    assert shown[0] == shown[2]


def test_no_harm_is_done_to_strangers_that_training_forgets():
    X, codes = make_blobs(600, n_features=16, centers=20, cluster_std=3, random_state=0)
    seen = codes < 10
    strangers, names = X[~seen], codes[~seen]
    options = {"lr": 0.01, "max_epochs": 10, "random_state": 0}
    safe, harmed = (
        DeepProxyEmbedder(early_stopping=stop, **options).fit(X[seen], codes[seen])
        for stop in (True, False)
    )
    euclid = map_at_r(strangers, names)
    assert map_at_r(safe.transform(strangers), names) > euclid - 0.01
    assert map_at_r(harmed.transform(strangers), names) < euclid - 0.05
    assert safe.score(X[seen], codes[seen]) == harmed.score(X[seen], codes[seen])


class Killed(Exception):
    pass


class Trouble(Callback):
    """What happens in a given epoch of the first or of the second training."""

    trainings = 0

    def __init__(self, training, epoch, error):
        self.training = training
        self.epoch = epoch
        self.error = error

    def on_train_begin(self, net, **kwargs):
        Trouble.trainings += 1

    def on_batch_begin(self, net, **kwargs):
        if (Trouble.trainings, len(net.history)) != (self.training, self.epoch):
            return
        if self.error is not RuntimeError:
            raise self.error
        with torch.no_grad():
            net.module_.weight.fill_(torch.nan)


@pytest.mark.parametrize("training", [1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_classifier_that_was_interrupted_knows_all_classes(training, error):
    Trouble.trainings = 0
    options = {"callbacks": [Trouble(training, 4, error)], "max_epochs": 4, **PATIENT}
    learner = DeepProxyEmbedder(scoring=scores(0.0, 1.0), **options)
    tells, kind = (pytest.raises, error) if error is RuntimeError else (pytest.warns, UserWarning)
    with tells(kind, match="weights after epoch 1"):
        learner.fit(MANY, MANY_Y)
    assert Trouble.trainings == training
    assert set(learner.predict(MANY)) == set(range(8))
    assert learner.score(MANY, MANY_Y) > 0.9
    assert (learner.distance_network_ is None) == (training == 1)
    if training == 2:
        n_good = 2 if error is RuntimeError else 3  # ruined weights are those after the third
        options = {"early_stopping": False, "max_epochs": n_good, "random_state": 0}
        P = DeepProxyEmbedder(**options).fit(MANY, MANY_Y).predict_proba(MANY)
        assert_array_equal(learner.predict_proba(MANY), P)


@pytest.mark.parametrize("training", [1, 2])
def test_a_killed_classifier_goes_on_in_either_training(tmp_path, training):
    Trouble.trainings = 0
    options = {"checkpoint": tmp_path, "validation_fraction": 0.3, **QUICK}
    learner = DeepProxyEmbedder(callbacks=[Trouble(training, 3, Killed)], **options)
    with pytest.raises(Killed):
        learner.fit(MANY, MANY_Y)
    assert len([*tmp_path.iterdir()]) == training
    Trouble.trainings = 5
    learner.fit(MANY, MANY_Y)
    whole = DeepProxyEmbedder(**options).fit(MANY, MANY_Y)
    assert_array_equal(learner.predict_proba(MANY), whole.predict_proba(MANY))
    assert_array_equal(learner.transform(MANY), whole.transform(MANY))
    assert [*tmp_path.iterdir()] == []


def test_after_a_fit_the_classifier_learns_and_the_distance_stays():
    learner = DeepProxyEmbedder(scoring=scores(0.0, 1.0), **QUICK).fit(MANY, MANY_Y)
    Z, P = learner.transform(MANY), learner.predict_proba(MANY)
    learner.set_params(scoring="map_at_r").partial_fit(MANY, MANY_Y)
    assert_array_equal(learner.transform(MANY), Z)
    assert not np.array_equal(learner.predict_proba(MANY), P)
    again = pickle.loads(pickle.dumps(learner))
    assert_array_equal(again.transform(MANY), Z)
    assert_array_equal(again.predict_proba(MANY), learner.predict_proba(MANY))
    d = learner.get_metric()(MANY[:9])
    assert_allclose(d, pairwise_distances(Z[:9]), atol=1e-3)
    options = {"warm_start": True, "early_stopping": False, "lr": 1e-30}
    learner.set_params(**options).fit(MANY, MANY_Y)  # begins with the distance
    assert_allclose(learner.transform(MANY), Z, atol=1e-6)
    assert learner.distance_network_ is None
