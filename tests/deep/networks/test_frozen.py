"""A frozen backbone: its outputs are computed once, and only the head is trained."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator
from skorch.callbacks import Callback
from torch import nn
from torch.utils.data import Dataset

from skdml import (
    DeepEmbedder,
    DeepProxyEmbedder,
    DeepSiameseEmbedder,
    DeepTripletEmbedder,
)

DIGITS, DIGITS_Y = load_digits(return_X_y=True)
X = (DIGITS[:300] / 16).reshape(-1, 1, 8, 8).astype(np.float32)
y = DIGITS_Y[:300]

QUICK = {"freeze": "module", "max_epochs": 2, "random_state": 0, "head__n_hidden": 8}

EMBEDDERS = [DeepEmbedder, DeepProxyEmbedder, DeepSiameseEmbedder, DeepTripletEmbedder]


class Backbone(nn.Module):
    """An image model like those of torchvision and timm: features, then a classifier."""

    points_seen = 0

    def __init__(self, in_chans=1, num_features=12, num_classes=10):
        super().__init__()
        self.num_features = num_features
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, num_features, 3, stride=2, padding=1),
            nn.BatchNorm2d(num_features),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        width = 4 * num_features
        self.fc = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, images):
        Backbone.points_seen += len(images)
        return self.fc(self.stem(images))


class TableBackbone(nn.Module):
    """Random features of a table."""

    def __init__(self, n_features, n_components=6):
        super().__init__()
        self.layer = nn.Linear(n_features, n_components)

    def forward(self, table):
        return torch.tanh(self.layer(table))


@pytest.fixture(scope="module")
def backbone():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ready = Backbone(num_classes=0)
        for _ in range(5):  # give batch norm some statistics
            ready(torch.rand(32, 1, 8, 8))
    return ready


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def n_seen():
    """Return a function that counts the points passed through a backbone in this test."""
    start = Backbone.points_seen
    return lambda: Backbone.points_seen - start


def outputs(backbone, images):
    copied = pickle.loads(pickle.dumps(backbone)).eval()
    with torch.no_grad():
        return copied(torch.from_numpy(images)).numpy()


@pytest.mark.parametrize("Learner", EMBEDDERS)
def test_head_equals_a_network_trained_on_the_outputs(Learner, backbone):
    learner = Learner(backbone, **QUICK).fit(X, y)
    Z = outputs(backbone, X)
    expected = Learner(module__n_hidden=8, max_epochs=2, random_state=0).fit(Z, y)
    assert_allclose(learner.transform(X), expected.transform(Z), atol=1e-5)
    assert learner.n_components_ == 48
    assert learner.feature_shape_ == (1, 8, 8)


def test_groups_are_used_in_batches(backbone):
    groups = np.arange(300) % 7
    options = {"max_epochs": 2, "random_state": 0, "group_batches": "together"}
    learner = DeepTripletEmbedder(backbone, freeze="module", **options).fit(X, y, groups)
    Z = outputs(backbone, X)
    expected = DeepTripletEmbedder(n_components=48, **options).fit(Z, y, groups)
    assert_allclose(learner.transform(X), expected.transform(Z), atol=1e-5)
    without = DeepTripletEmbedder(backbone, freeze="module", **options).fit(X, y)
    assert (without.transform(X) != learner.transform(X)).any()


def test_backbone_is_unchanged_and_runs_once(backbone, n_seen):
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    learner = DeepTripletEmbedder(backbone, **QUICK, batch_size=32).fit(X, y)
    assert n_seen() <= len(X) + 1  # one point to find the width
    assert backbone.training  # the given module is not switched either
    for module in (backbone, learner.backbone_.module):
        for name, value in module.state_dict().items():
            assert_array_equal(value, before[name])
    assert learner.backbone_.module is not backbone
    assert not learner.backbone_.module.training  # threads need not switch it
    assert_allclose(learner.backbone_(X), outputs(backbone, X), atol=1e-6)


def test_points_of_tuples_pass_once(backbone, rng, n_seen):
    rows = rng.integers(40, size=(200, 2))
    same = (y[rows[:, 0]] == y[rows[:, 1]]).astype(int)
    options = {**QUICK, "supervision": "pairs"}
    learner = DeepSiameseEmbedder(backbone, **options).fit(X[rows], same)
    assert n_seen() == 1 + len(np.unique(rows))
    options = {"max_epochs": 2, "random_state": 0, "module__n_hidden": 8, "supervision": "pairs"}
    Z = outputs(backbone, X)
    expected = DeepSiameseEmbedder(**options).fit(Z[rows], same)
    assert_allclose(learner.transform(X), expected.transform(Z), atol=1e-5)


def test_frozen_module_with_triplets(backbone, rng):
    triplets = X[rng.integers(300, size=(60, 3))]
    learner = DeepTripletEmbedder(backbone, **QUICK, supervision="triplets").fit(triplets)
    assert learner.transform(X).shape == (300, 48)


class Images(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], "other data"


def test_dataset_is_read_once(backbone, n_seen):
    learner = DeepTripletEmbedder(backbone, **QUICK).fit(Images(X), y)
    assert n_seen() == 1 + len(X)
    by_array = DeepTripletEmbedder(backbone, **QUICK).fit(X, y)
    assert_array_equal(learner.transform(Images(X)), by_array.transform(X))


@pytest.mark.parametrize("module", [Backbone, lambda **params: Backbone(**params)])
def test_backbone_built_from_its_parameters(module):
    params = {"module__num_features": 5, "module__num_classes": 7}
    learner = DeepTripletEmbedder(module, **QUICK, **params).fit(X, y)
    assert learner.backbone_.n_outputs == 7
    assert learner.backbone_.module.num_features == 5
    assert learner.net_.module_.branch[1].out_features == 8
    again = clone(learner).fit(X, y)
    assert_array_equal(again.transform(X), learner.transform(X))


def test_a_backbone_that_accepts_shapes_receives_them():
    learner = DeepTripletEmbedder(TableBackbone, freeze="module", n_components=3, max_epochs=1)
    assert learner.fit(DIGITS[:100], y[:100]).transform(DIGITS[:5]).shape == (5, 3)
    assert learner.backbone_.n_outputs == 6
    learner.set_params(module__n_components=7).fit(DIGITS[:100], y[:100])
    assert learner.backbone_.n_outputs == 7


class Head(nn.Module):
    def __init__(self, n_features, n_components, bias=True):
        super().__init__()
        self.layer = nn.Linear(n_features, n_components, bias=bias)

    def forward(self, features):
        return self.layer(features)


def test_initial_head_keeps_distances(rng):
    pixels = rng.normal(size=(60, 100)).astype(np.float32)
    learner = DeepTripletEmbedder(nn.Identity(), **{**QUICK, "lr": 1e-30, "max_epochs": 1})
    Z = learner.fit(pixels, y[:60]).transform(pixels)
    D = pairwise_distances(pixels)
    assert_allclose(pairwise_distances(Z), D / D[~np.eye(60, dtype=bool)].mean(), atol=1e-5)


def test_custom_head(backbone):
    options = {"freeze": "module", "max_epochs": 1, "random_state": 0}
    learner = DeepTripletEmbedder(backbone, head=Head, head__bias=False, n_components=5, **options)
    learner.fit(X, y)
    assert learner.net_.module_.layer.bias is None
    assert learner.transform(X).shape == (300, 5)
    ready = Head(48, 4)
    start = ready.layer.weight.clone()
    learner = DeepTripletEmbedder(backbone, head=ready, early_stopping=False, lr=0.1, **options)
    learner.fit(X, y)
    assert learner.n_components_ == 4
    assert_array_equal(ready.layer.weight.detach(), start.detach())
    assert (learner.net_.module_.layer.weight != start).any()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"freeze": "head"}, r"freeze='head' is unknown; choose None or 'module'"),
        ({"freeze": "module"}, "with module=None would freeze random weights"),
        ({"head": Head}, r"\['head'\] were given, but only freeze='module' has a head"),
        (
            {"head__n_hidden": 3},
            r"\['head__n_hidden'\] were given, but only freeze='module' has a head",
        ),
        ({"freeze": "module", "module": 3}, "module=3 is no network"),
        ({"freeze": "module", "module": Backbone, "head": 3}, "head=3 is no network"),
        (
            {"freeze": "module", "module": Backbone, "module__n_hidden": 3},
            "no parameter 'module__n_hidden'. Those that begin with module__ are",
        ),
        (
            {"freeze": "module", "module": Backbone, "head__num_features": 3},
            "no parameter 'head__num_features'. Those that begin with head__ are",
        ),
        (
            {"freeze": "module", "module": nn.Flatten(), "module__start_dim": 1},
            "'module__start_dim' needs a class to build the module from",
        ),
        (
            {"freeze": "module", "module": nn.Identity()},
            r"shape \(1, n_components\); for a batch of shape \(1, 1, 8, 8\) it returned shape",
        ),
        (
            {"freeze": "module", "module": nn.Flatten(), "head": nn.Linear(64, 5)}
            | {"n_components": 4},
            "n_components=4, but the module returns embeddings of width 5",
        ),
    ],
)
def test_invalid_parameters_raise_with_the_allowed_ones(params, message):
    learner = DeepTripletEmbedder(**params)
    with pytest.raises(ValueError, match=message):
        learner.fit(X, y)
    assert not hasattr(learner, "net_")
    assert not hasattr(learner, "backbone_")


class LogModule(nn.Module):
    def forward(self, images):
        return images.flatten(1).log()


class DictModule(nn.Linear):
    def forward(self, images):
        return {"features": super().forward(images.flatten(1))}


def test_invalid_outputs_raise():
    learner = DeepTripletEmbedder(LogModule(), freeze="module", max_epochs=1).fit(X + 1, y)
    before = learner.transform(X[:5] + 1)
    with pytest.raises(ValueError, match="outputs that are not finite, for 300 of 300 points"):
        learner.fit(X, y)
    assert_array_equal(learner.transform(X[:5] + 1), before)
    for freeze in (None, "module"):
        with pytest.raises(ValueError, match=r"return a tensor of shape .* it returned a dict"):
            DeepTripletEmbedder(DictModule(64, 3), freeze=freeze).fit(X, y)


def test_metric_pickle_and_copies(backbone):
    learner = DeepTripletEmbedder(backbone, **QUICK).fit(X, y)
    Z = learner.transform(X[:10])
    d = learner.get_metric()
    expected = np.linalg.norm(Z[:5] - Z[5:], axis=1)
    for one in (d, pickle.loads(pickle.dumps(d))):
        assert_allclose(one.paired(X[:5], X[5:10]), expected, rtol=1e-5)
        assert one(X[0].ravel(), X[5].ravel()) == pytest.approx(expected[0], rel=1e-5)
    again = pickle.loads(pickle.dumps(learner))
    assert_array_equal(again.transform(X[:10]), Z)
    assert_allclose(learner.pair_distance(np.stack([X[:5], X[5:10]], 1)), expected, rtol=1e-5)
    learner.set_params(random_state=1).fit(X[:200], y[:200])  # a new fit does not change the metric
    assert_allclose(d.paired(X[:5], X[5:10]), expected, rtol=1e-5)


class Stop(Exception):
    pass


class Fail(Callback):
    """Raise in the third epoch while a file exists."""

    def __init__(self, path):
        self.path = path

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 3 and self.path.exists():
            raise Stop


@pytest.mark.parametrize("module", [Backbone, "ready"])
def test_resumed_fit_gives_the_same_bits(module, backbone, tmp_path):
    if module == "ready":
        module = backbone
    fails = tmp_path / "fails"
    options = {**QUICK, "max_epochs": 4, "early_stopping": False, "callbacks": [Fail(fails)]}
    whole = DeepTripletEmbedder(module, **options).fit(X, y)
    learner = DeepTripletEmbedder(module, **options, checkpoint=tmp_path / "states")
    fails.touch()
    with pytest.raises(Stop):
        learner.fit(X, y)
    (state,) = (tmp_path / "states").iterdir()
    assert b"Backbone" not in state.read_bytes()  # the backbone is not saved
    fails.unlink()
    learner.fit(X, y)
    assert_array_equal(learner.transform(X), whole.transform(X))


def test_partial_fit_keeps_the_backbone(backbone, n_seen):
    learner = DeepTripletEmbedder(backbone, **QUICK).partial_fit(X[:100], y[:100])
    first = learner.transform(X)
    frozen = learner.backbone_
    start = n_seen()
    learner.partial_fit(X[100:200], y[100:200])
    assert n_seen() - start == 100
    assert learner.backbone_ is frozen
    assert len(learner.history_["loss"]) == 2
    assert (learner.transform(X) != first).any()
    proxy = DeepProxyEmbedder(backbone, **QUICK).partial_fit(X[y < 5], y[y < 5])
    proxy.partial_fit(X, y)
    assert proxy.predict_proba(X).shape == (300, 10)


def test_warm_start_continues_with_the_head():
    learner = DeepTripletEmbedder(Backbone, **QUICK, early_stopping=False, lr=0.01).fit(X, y)
    first, frozen = learner.transform(X), learner.backbone_
    learner.set_params(warm_start=True, lr=1e-30, random_state=1).fit(X, y)
    assert learner.backbone_ is frozen
    assert_allclose(learner.transform(X), first, atol=1e-5)


def test_unfrozen_backbone_is_trained_with_its_head(backbone):
    options = {**QUICK, "early_stopping": False}
    learner = DeepTripletEmbedder(backbone, **options).fit(X, y)
    first, weight = learner.transform(X), backbone.stem[0].weight.detach().clone()
    learner.set_params(freeze=None, warm_start=True, lr=1e-30, max_epochs=1)
    backbone_before = learner.backbone_.module
    learner.fit(X, y)
    assert learner.backbone_ is None
    body, _ = learner.net_.module_
    assert_allclose(body.stem[0].weight.detach(), weight, atol=1e-6)
    assert (body.stem[1].running_mean != backbone_before.stem[1].running_mean).any()
    learner.set_params(lr=0.01).fit(X, y)
    body, _ = learner.net_.module_
    assert (body.stem[0].weight != weight).any()
    assert (learner.transform(X) != first).any()
    assert_array_equal(backbone.stem[0].weight.detach(), weight)
    with pytest.raises(ValueError, match="frozen module of the last fit, which froze none"):
        learner.set_params(freeze="module").fit(X, y)


def test_grid_search_over_a_head(backbone):
    learner = DeepTripletEmbedder(backbone, **QUICK)
    search = GridSearchCV(
        make_pipeline(learner, KNeighborsClassifier(3)),
        {"deeptripletembedder__head__n_hidden": [4, 8]},
        cv=2,
    ).fit(X, y)
    best = search.best_estimator_[0]
    assert best.net_.module_.branch[1].out_features == search.best_params_.popitem()[1]
    assert search.best_score_ > 0.8


def test_table_with_column_names():
    table = pd.DataFrame(DIGITS[:100]).add_prefix("pixel")
    learner = DeepTripletEmbedder(TableBackbone, **QUICK).fit(table, y[:100])
    assert learner.feature_names_in_[0] == "pixel0"
    assert learner.get_feature_names_out()[-1] == "deeptripletembedder5"
    frame = learner.set_output(transform="pandas").transform(table)
    assert frame.shape == (100, 6)


def test_layers_without_gradients_are_unchanged(backbone):
    model = nn.Sequential(pickle.loads(pickle.dumps(backbone)), nn.Linear(48, 8))
    model[0].stem[0].requires_grad_(False)
    learner = DeepTripletEmbedder(model, max_epochs=1, early_stopping=False, lr=0.1).fit(X, y)
    trained = learner.net_.module_
    assert_array_equal(trained[0].stem[0].weight, model[0].stem[0].weight)
    assert (trained[1].weight != model[1].weight).any()


CHECKED = DeepTripletEmbedder(TableBackbone, **{**QUICK, "random_state": None})


@pytest.mark.parametrize(
    ("estimator", "check"),
    list(estimator_checks_generator(CHECKED)),
    ids=lambda value: "frozen" if value is CHECKED else value.func.__name__,
)
def test_scikit_learn_estimator_checks(estimator, check):
    check(estimator)
