"""Losses by name, class and instance; losses with proxies; and `DeepProxyEmbedder`."""

import copy
import pickle
from inspect import signature

import numpy as np
import pytest
import torch
from helpers import fitted_attributes
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris, make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback

from skdml import DeepEmbedder, DeepProxyEmbedder
from skdml.deep import losses
from skdml.deep.losses import (
    LOSSES,
    ArcFaceLoss,
    CosFaceLoss,
    ProxyAnchorLoss,
    TripletLoss,
    learns_from,
)

X, y = load_iris(return_X_y=True)


def proxies(learner):
    return learner.net_.criterion_.proxies.detach().numpy()


@pytest.mark.parametrize("name", LOSSES)
def test_every_named_loss_trains(name):
    distance = "cosine" if name in ("histogram", "smooth_ap", "fastap") else "euclidean"
    views = {"augment": torch.clone} if learns_from(name) == "views" else {}
    options = {"distance": distance, "max_epochs": 2, "random_state": 0, **views}
    learner = DeepEmbedder(loss=name, **options).fit(X, y)
    assert type(learner.net_.criterion_) is LOSSES[name]
    assert np.isfinite(learner.transform(X)).all()
    assert np.isfinite(learner.history_["loss"]).all()


def test_every_loss_has_a_name():
    assert {loss.__name__ for loss in LOSSES.values()} == set(losses.__all__)


def test_a_loss_by_name_class_or_instance_is_the_same():
    options = {"max_epochs": 2, "random_state": 0}
    by_name = DeepEmbedder(loss="triplet", loss__margin=0.7, **options).fit(X, y)
    for loss in (TripletLoss, TripletLoss(0.1), TripletLoss(0.7)):
        other = DeepEmbedder(loss=loss, **options)
        if not isinstance(loss, torch.nn.Module) or loss.margin == 0.1:
            other.set_params(loss__margin=0.7)
        other = clone(other).fit(X, y)
        assert other.net_.criterion_.margin == 0.7
        assert_array_equal(other.transform(X), by_name.transform(X))


WITH_MARGIN = [name for name in LOSSES if "margin" in signature(LOSSES[name]).parameters]


@pytest.mark.parametrize("name", WITH_MARGIN)
def test_a_loss_instance_is_rebuilt_with_its_parameters(name):
    sizes = {"n_classes": 3, "n_components": 4}
    kind = LOSSES[name]
    loss = kind(**sizes) if hasattr(kind, "initialize_from") else kind()
    margin = 2 if name == "sphereface" else 0.9
    learner = DeepEmbedder(loss=loss, loss__margin=margin, max_epochs=1, random_state=0).fit(X, y)
    built = learner.net_.criterion_
    assert built.margin == margin
    assert loss.margin != built.margin
    kept = [key for key in ("scale", "alpha", "distance", "n_proxies") if hasattr(loss, key)]
    assert all(getattr(built, key) == getattr(loss, key) for key in kept)


def test_grid_search_over_losses_and_margins_of_a_pipeline():
    model = make_pipeline(DeepEmbedder(max_epochs=1, random_state=0), KNeighborsClassifier(3))
    grid = [
        {"deepembedder__loss": ["arcface", CosFaceLoss], "deepembedder__loss__margin": [0.1, 0.2]},
        {"deepembedder__loss": [ProxyAnchorLoss(3, 4)], "deepembedder__loss__margin": [0.3]},
    ]
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X, y)
    assert len(search.cv_results_["params"]) == 5
    assert search.best_score_ > 0.9


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"loss": "arcfase"}, "arcface"),
        ({"loss": "arcface", "loss__margn": 1}, "loss__margin"),
        ({"loss": "arcface", "loss__margin": 4}, "margin must be .*< 3.14159; got 4"),
        ({"loss": "arcface", "miner": "hard"}, "takes no indices_tuple"),
        ({"loss": "arcface", "proxy_lr": 0}, "proxy_lr"),
        ({"loss": ArcFaceLoss(2, 4)}, "labels must lie in 0, ..., 1"),
        ({"loss": ArcFaceLoss(3, 9)}, "embeddings must be of width 9"),
        ({"loss": torch.nn.ReLU(), "loss__margin": 1}, "loss__inplace"),
        ({"loss": "nca", "margin": 1}, "set by loss__"),
    ],
)
def test_invalid_parameters_of_a_loss_raise(params, message):
    learner = DeepEmbedder(max_epochs=1, random_state=0, **params)
    with pytest.raises(ValueError, match=message):
        learner.fit(X, y)
    assert fitted_attributes(learner) == []


NO_TRAINING = {"max_epochs": 1, "lr": 1e-30, "proxy_lr": 1e-30, "early_stopping": False}


def test_proxies_of_a_classifier_start_at_the_class_means():
    learner = DeepProxyEmbedder(loss="arcface", random_state=0, **NO_TRAINING)
    repeated = [np.tile(array, (2, 1) if array.ndim == 2 else 2) for array in (X[::5], y[::5])]
    learner.fit(*repeated)  # 20 points of each class; all of them enter the mean
    Z = learner.transform(X[::5]).astype(float)
    Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    expected = [Z[y[::5] == c].mean(axis=0) for c in range(3)]
    np.testing.assert_allclose(proxies(learner), expected, atol=1e-5)


class StoredStart(ArcFaceLoss):
    """An ArcFace loss that stores the start of its proxies."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("start", self.proxies.detach().clone())


def test_proxies_of_a_distance_start_as_the_loss_draws_them():
    first, second = (
        DeepEmbedder(loss=StoredStart, random_state=seed, **NO_TRAINING).fit(X, y)
        for seed in (0, 1)
    )
    assert_array_equal(proxies(first), first.net_.criterion_.start.numpy())
    assert not np.array_equal(proxies(first), proxies(second))
    first, second = (learner.partial_fit(X, y) for learner in (clone(first), clone(second)))
    assert_array_equal(proxies(first), first.net_.criterion_.start.numpy())
    assert not np.array_equal(proxies(first), proxies(second))


def test_a_loss_instance_keeps_its_proxies_and_is_not_trained():
    loss = ArcFaceLoss(3, 4)
    before = loss.proxies.detach().clone()
    distance = DeepEmbedder(loss=loss, **NO_TRAINING).fit(X, y)
    assert_array_equal(proxies(distance), before)
    classifier = DeepProxyEmbedder(loss=loss, normalize=False, **NO_TRAINING).fit(X, y)
    assert_array_equal(proxies(classifier), before)
    trained = DeepEmbedder(loss=loss, max_epochs=1, early_stopping=False).fit(X, y)
    assert not np.array_equal(proxies(trained), before)
    assert torch.equal(loss.proxies, before)


def test_proxies_have_their_own_learning_rate():
    options = {"loss": "arcface", "max_epochs": 1, "early_stopping": False, "random_state": 0}
    slow, fast = (DeepEmbedder(proxy_lr=lr, **options).fit(X, y) for lr in (1e-30, 0.1))
    start = DeepEmbedder(lr=1e-30, proxy_lr=1e-30, **options).fit(X, y)
    assert_array_equal(proxies(slow), proxies(start))
    assert np.abs(proxies(fast) - proxies(start)).max() > 0.05
    assert not np.array_equal(slow.transform(X), start.transform(X))
    rates = [group["lr"] for group in fast.net_.optimizer_.param_groups]
    assert rates == [3e-4, 0.1]


class SpoilWeights(Callback):
    """Record the proxies after the first epoch, and spoil all weights after later epochs."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 1:
            self.proxies = copy.deepcopy(net.criterion_.proxies.detach())
        else:
            with torch.no_grad():
                for part in net.trained_parts():
                    for parameter in part.parameters():
                        parameter.normal_()


def highest_after_first_epoch():
    # One score for the start. After each epoch, one for the weights and one for those midway.
    scores = iter([0.0, 1.0, *[0.5] * 7])
    return lambda *args: next(scores)


def test_the_best_proxies_are_restored_with_the_best_weights():
    options = {"patience": 3, "refit": False, "random_state": 0, "callbacks": [SpoilWeights()]}
    learner = DeepEmbedder(loss="arcface", scoring=highest_after_first_epoch(), **options).fit(X, y)
    assert learner.best_epoch_ == 1
    assert_array_equal(proxies(learner), learner.net_.callback(SpoilWeights).proxies)


def test_proxies_are_pickled_and_copied_but_not_cloned():
    learner = DeepEmbedder(loss="soft_triple", max_epochs=2, random_state=0).fit(X, y)
    for copied in (copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))):
        assert_array_equal(proxies(copied), proxies(learner))
        assert copied.net_.criterion_.proxies is not learner.net_.criterion_.proxies
    assert not hasattr(clone(learner), "net_")
    assert_array_equal(proxies(clone(learner).fit(X, y)), proxies(learner))


class Killed(Exception):
    """An error that ends a fit."""


class Kill(Callback):
    """Raise an error in the third epoch, if `active`."""

    active = True

    def on_batch_begin(self, net, **kwargs):
        if Kill.active and len(net.history) > 2:
            raise Killed


def test_a_killed_fit_resumes_with_its_proxies(tmp_path):
    options = {"loss": "proxy_anchor", "max_epochs": 4, "random_state": 0, "callbacks": [Kill()]}
    Kill.active = True
    learner = DeepEmbedder(checkpoint=tmp_path, **options)
    with pytest.raises(Killed):
        learner.fit(X, y)
    Kill.active = False
    whole = DeepEmbedder(**options).fit(X, y)
    learner.fit(X, y)
    assert_array_equal(proxies(learner), proxies(whole))
    assert_array_equal(learner.transform(X), whole.transform(X))


def test_infinite_proxies_raise():
    class SetNaN(Callback):
        def on_epoch_end(self, net, **kwargs):
            net.criterion_.proxies.data.fill_(torch.nan)

    options = {"max_epochs": 1, "early_stopping": False}
    with pytest.raises(RuntimeError, match=r"in epoch 1, .* weights are no longer finite"):
        DeepEmbedder(loss="arcface", callbacks=[SetNaN()], **options).fit(X, y)


def test_a_loss_of_another_package_receives_its_sizes():
    class ForeignLoss(torch.nn.Module):
        def __init__(self, num_classes, embedding_size, margin=1, **kwargs):
            super().__init__()
            self.W = torch.nn.Parameter(torch.zeros(embedding_size, num_classes))
            self.margin = margin
            self.num_classes = num_classes

        def forward(self, embeddings, labels):
            return torch.nn.functional.cross_entropy(embeddings @ self.W, labels)

    options = {"max_epochs": 1, "early_stopping": False}
    learner = DeepEmbedder(torch.nn.Linear(4, 6), loss=ForeignLoss, loss__margin=3, **options)
    learner.fit(X, y)
    assert learner.net_.criterion_.W.shape == (6, 3)
    assert learner.net_.criterion_.margin == 3
    assert learner.net_.criterion_.W.any()
    with pytest.raises(ValueError, match="numbers the classes of each call anew"):
        learner.partial_fit(X[50:], y[50:])

    class ForeignSubclass(ForeignLoss):
        def __init__(self, *args, margin=2, **kwargs):
            super().__init__(*args, margin=margin, **kwargs)

    learner = DeepEmbedder(torch.nn.Linear(4, 6), loss=ForeignSubclass, **options).fit(X, y)
    assert learner.net_.criterion_.W.shape == (6, 3)
    with pytest.raises(ValueError, match="does not keep all the parameters"):
        DeepEmbedder(loss=ForeignLoss(3, 4), loss__margin=3).fit(X, y)


def test_partial_fit_with_other_classes_raises():
    learner = DeepEmbedder(loss="arcface", random_state=0).partial_fit(X, y)
    before = learner.transform(X)
    with pytest.raises(
        ValueError, match=r"numbers the classes of each call anew.* Use DeepProxyEmbedder"
    ):
        learner.partial_fit(X[50:], y[50:])
    assert_array_equal(learner.transform(X), before)


# DeepProxyEmbedder

MANY, MANY_Y = make_blobs(n_samples=240, centers=8, n_features=6, cluster_std=1, random_state=0)
PROXY_NAMES = [name for name in LOSSES if hasattr(LOSSES[name], "logits")]


def optimizer_state(learner):
    return learner.net_.optimizer_.state[learner.net_.criterion_.proxies]


@pytest.mark.parametrize("name", PROXY_NAMES)
def test_every_proxy_loss_classifies(name):
    learner = DeepProxyEmbedder(loss=name, max_epochs=10, random_state=0).fit(MANY, MANY_Y)
    assert learner.score(MANY, MANY_Y) > 0.95
    P = learner.predict_proba(MANY)
    assert P.shape == (240, 8)
    assert (P >= 0).all()
    np.testing.assert_allclose(P.sum(axis=1), 1, rtol=1e-12)
    assert_array_equal(learner.predict(MANY), learner.classes_[P.argmax(axis=1)])
    with torch.no_grad():
        Z = torch.from_numpy(learner.net_.map().embed(MANY.astype(np.float32)))
        logits = learner.net_.criterion_.logits(Z)
    np.testing.assert_allclose(P, logits.softmax(1).numpy(), atol=1e-4)


def test_iris_with_default_parameters():
    learner = DeepProxyEmbedder(random_state=0).fit(X[::2], y[::2])
    assert learner.score(X[1::2], y[1::2]) > 0.93


def test_class_names_are_kept_and_sorted():
    names = np.array(["violet", "aster", "rose"])
    learner = DeepProxyEmbedder(max_epochs=5, random_state=0).fit(X, names[y])
    assert learner.classes_.tolist() == ["aster", "rose", "violet"]
    assert (learner.predict(X) == names[y]).mean() > 0.85
    learner.set_params(warm_start=True).fit(X[:100], y[:100])
    assert learner.classes_.tolist() == [0, 1]
    assert learner.score(X[:100], y[:100]) > 0.95


def test_rows_are_held_out_without_a_refit():
    learner = DeepProxyEmbedder(refit=False, max_epochs=3, random_state=0)
    learner.fit(MANY, MANY_Y)
    assert learner.score(MANY, MANY_Y) > 0.95
    assert 0 <= learner.start_score_ <= 1
    assert learner.distance_network_ is None


def test_new_classes_add_proxies_and_keep_the_old_ones():
    known = MANY_Y < 5
    learner = DeepProxyEmbedder(random_state=0)
    for _ in range(5):
        learner.partial_fit(MANY[known], MANY_Y[known] + 10)
    assert learner.score(MANY[known], MANY_Y[known] + 10) > 0.95
    old, steps = proxies(learner), optimizer_state(learner)["step"]
    later = ~known | (MANY_Y == 3)
    labels = np.where(MANY_Y == 7, 1, MANY_Y + 10)  # the new class 1 comes after the known classes
    learner.partial_fit(MANY[later], labels[later])
    assert learner.classes_.tolist() == [10, 11, 12, 13, 14, 1, 15, 16]
    assert learner.predict_proba(MANY).shape == (240, 8)
    assert learner.score(MANY, labels) > 0.9
    assert np.abs(proxies(learner)[:5] - old).max() < 0.1
    assert optimizer_state(learner)["step"] > steps > 0


def test_new_proxies_keep_the_optimizer_state_of_the_old_ones():
    learner = DeepProxyEmbedder(random_state=0).partial_fit(X, y)
    net = learner.net_
    before = {key: value.clone() for key, value in optimizer_state(learner).items()}
    net.grow(5)
    after = optimizer_state(learner)
    assert after["exp_avg"].shape == (5, 4)
    assert torch.equal(after["exp_avg"][:3], before["exp_avg"])
    assert before["exp_avg"].any()
    assert not after["exp_avg"][3:].any()
    assert torch.equal(after["step"], before["step"])
    assert len(net.optimizer_.state) == len(list(net.get_all_learnable_params()))
    assert any(p is net.criterion_.proxies for p in net.optimizer_.param_groups[1]["params"])


def test_classes_can_be_given_in_advance():
    learner = DeepProxyEmbedder(random_state=0)
    learner.partial_fit(X[:100], y[:100], classes=[0, 1, 2])
    assert learner.classes_.tolist() == [0, 1, 2]
    assert learner.predict_proba(X).shape == (150, 3)
    with pytest.raises(ValueError, match="features"):
        learner.partial_fit(X[:, :2], y + 7)
    assert learner.classes_.tolist() == [0, 1, 2]


def test_a_loss_without_proxies_raises():
    for loss in ("triplet", TripletLoss, TripletLoss()):
        with pytest.raises(ValueError, match=r"does not accept loss=.*'arcface'"):
            DeepProxyEmbedder(loss=loss).fit(X, y)


def test_grid_search_over_losses_and_margins_of_a_classifier():
    learner = DeepProxyEmbedder(max_epochs=2, random_state=0)
    grid = {"loss": ["arcface", "cosface", ProxyAnchorLoss], "loss__margin": [0.1, 0.3]}
    search = GridSearchCV(learner, grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_estimator_.net_.criterion_.margin in (0.1, 0.3)
    assert search.best_score_ > 0.8
    assert_array_equal(search.predict(X), search.best_estimator_.predict(X))


def test_copies_of_a_classifier_predict_the_same():
    learner = DeepProxyEmbedder(max_epochs=2, random_state=0).fit(X, y)
    P = learner.predict_proba(X)
    for copied in (copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))):
        assert_array_equal(copied.predict_proba(X), P)
    assert_array_equal(clone(learner).fit(X, y).predict_proba(X), P)
