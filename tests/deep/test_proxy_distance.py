"""The two networks of `DeepProxyEmbedder`: a distance for unseen classes, and a classifier."""

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


def planned_scores(*values):
    """Return a scoring with these values: one for the start, and two after each epoch."""
    values = iter([*values, *[0.0] * 20])
    return lambda *args: next(values)


def weights(learner):
    return learner._distance_map().module.state_dict()


@pytest.mark.parametrize(
    ("values", "epoch", "share"),
    [([1.0], 0, 1.0), ([0.0, 1.0], 1, 1.0), ([0.0, 0.0, 0.0, 0.0, 1.0], 2, 0.5)],
)
def test_the_distance_is_of_the_best_epoch_and_the_classifier_of_the_last(values, epoch, share):
    learner = DeepProxyEmbedder(scoring=planned_scores(*values), **QUICK).fit(MANY, MANY_Y)
    assert (learner.best_epoch_, learner.best_share_) == (epoch, share)
    to_the_end = DeepProxyEmbedder(early_stopping=False, **QUICK).fit(MANY, MANY_Y)
    assert_array_equal(learner.predict_proba(MANY), to_the_end.predict_proba(MANY))
    options = {**QUICK, "max_epochs": max(1, epoch), "early_stopping": False}
    trained = DeepProxyEmbedder(**options).fit(MANY, MANY_Y)
    start = DeepProxyEmbedder(**options, lr=1e-30).fit(MANY, MANY_Y)
    trained_share = share if epoch else 0.0
    for name, weight in weights(learner).items():
        expected = torch.lerp(weights(start)[name], weights(trained)[name], trained_share)
        assert_allclose(weight, expected, atol=1e-7)
    change = np.abs(learner.transform(MANY) - to_the_end.transform(MANY)).max()
    assert change > 1e-3


def test_held_out_classes_are_in_the_second_training_only():
    classes = []  # those of each epoch

    class RecordClasses(Callback):
        def on_epoch_begin(self, net, **kwargs):
            classes.append(set())

        def on_batch_begin(self, net, batch, **kwargs):
            classes[-1] |= set(batch[1].tolist())

    options = {"callbacks": [RecordClasses], "validation_fraction": 0.3}
    DeepProxyEmbedder(**options, **QUICK).fit(MANY, MANY_Y)
    assert [len(of_epoch) for of_epoch in classes] == [6, 6, 6, 8, 8, 8]
    assert classes[0] == classes[2]


def test_early_stopping_protects_retrieval_of_unseen_classes():
    X, codes = make_blobs(600, n_features=16, centers=20, cluster_std=3, random_state=0)
    seen = codes < 10
    unseen, unseen_codes = X[~seen], codes[~seen]
    options = {"lr": 0.01, "max_epochs": 10, "random_state": 0}
    stopped, not_stopped = (
        DeepProxyEmbedder(early_stopping=stop, **options).fit(X[seen], codes[seen])
        for stop in (True, False)
    )
    euclid = map_at_r(unseen, unseen_codes)
    assert map_at_r(stopped.transform(unseen), unseen_codes) > euclid - 0.01
    assert map_at_r(not_stopped.transform(unseen), unseen_codes) < euclid - 0.05
    assert stopped.score(X[seen], codes[seen]) == not_stopped.score(X[seen], codes[seen])


class Killed(Exception):
    """An error that ends a fit."""


class FailInEpoch(Callback):
    """Raise an error in an epoch of the first or second training.

    For a RuntimeError, it makes the weights nan, so that training diverges.
    """

    trainings = 0

    def __init__(self, training, epoch, error):
        self.training = training
        self.epoch = epoch
        self.error = error

    def on_train_begin(self, net, **kwargs):
        FailInEpoch.trainings += 1

    def on_batch_begin(self, net, **kwargs):
        if (FailInEpoch.trainings, len(net.history)) != (self.training, self.epoch):
            return
        if self.error is not RuntimeError:
            raise self.error
        with torch.no_grad():
            net.module_.weight.fill_(torch.nan)


@pytest.mark.parametrize("training", [1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_classifier_knows_all_classes(training, error):
    FailInEpoch.trainings = 0
    options = {"callbacks": [FailInEpoch(training, 4, error)], "max_epochs": 4, **PATIENT}
    learner = DeepProxyEmbedder(scoring=planned_scores(0.0, 1.0), **options)
    expect, kind = (pytest.raises, error) if error is RuntimeError else (pytest.warns, UserWarning)
    with expect(kind, match="weights after epoch 1"):
        learner.fit(MANY, MANY_Y)
    assert FailInEpoch.trainings == training
    assert set(learner.predict(MANY)) == set(range(8))
    assert learner.score(MANY, MANY_Y) > 0.9
    assert (learner.distance_network_ is None) == (training == 1)
    if training == 2:
        # After divergence in epoch 4, the weights after epoch 3 are not kept: their loss is nan.
        n_epochs = 2 if error is RuntimeError else 3
        options = {"early_stopping": False, "max_epochs": n_epochs, "random_state": 0}
        P = DeepProxyEmbedder(**options).fit(MANY, MANY_Y).predict_proba(MANY)
        assert_array_equal(learner.predict_proba(MANY), P)


@pytest.mark.parametrize("training", [1, 2])
def test_a_killed_fit_resumes_in_either_training(tmp_path, training):
    FailInEpoch.trainings = 0
    options = {"checkpoint": tmp_path, "validation_fraction": 0.3, **QUICK}
    learner = DeepProxyEmbedder(callbacks=[FailInEpoch(training, 3, Killed)], **options)
    with pytest.raises(Killed):
        learner.fit(MANY, MANY_Y)
    assert len([*tmp_path.iterdir()]) == training
    FailInEpoch.trainings = 5
    learner.fit(MANY, MANY_Y)
    whole = DeepProxyEmbedder(**options).fit(MANY, MANY_Y)
    assert_array_equal(learner.predict_proba(MANY), whole.predict_proba(MANY))
    assert_array_equal(learner.transform(MANY), whole.transform(MANY))
    assert [*tmp_path.iterdir()] == []


def test_partial_fit_trains_the_classifier_and_keeps_the_distance():
    learner = DeepProxyEmbedder(scoring=planned_scores(0.0, 1.0), **QUICK).fit(MANY, MANY_Y)
    Z, P = learner.transform(MANY), learner.predict_proba(MANY)
    learner.set_params(scoring="map_at_r").partial_fit(MANY, MANY_Y)
    assert_array_equal(learner.transform(MANY), Z)
    assert not np.array_equal(learner.predict_proba(MANY), P)
    unpickled = pickle.loads(pickle.dumps(learner))
    assert_array_equal(unpickled.transform(MANY), Z)
    assert_array_equal(unpickled.predict_proba(MANY), learner.predict_proba(MANY))
    d = learner.get_metric()(MANY[:9])
    assert_allclose(d, pairwise_distances(Z[:9]), atol=1e-3)
    options = {"warm_start": True, "early_stopping": False, "lr": 1e-30}
    learner.set_params(**options).fit(MANY, MANY_Y)  # begins with the network of the distance
    assert_allclose(learner.transform(MANY), Z, atol=1e-6)
    assert learner.distance_network_ is None
