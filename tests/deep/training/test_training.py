"""How the deep learners train: what reaches the net, what stops it, what is left of it."""

import os
import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback, EarlyStopping
from torch import nn
from torch.utils.data import Dataset

from skdml import DeepEmbedder, DeepSiameseEmbedder, DeepTripletEmbedder
from skdml.deep import CollapseWarning, ResidualEmbedder
from skdml.deep.data.datasets import ArrayDataset
from skdml.deep.losses import TripletLoss
from skdml.deep.networks.map import batches_of_points
from skdml.deep.scores import lower_bound
from skdml.deep.training.held_out import hold_out, split_rows
from skdml.deep.training.net import fastest_step
from skdml.deep.training.stopping import RetrievalStopping

# Eight classes: enough to hold some out. Three of them: too few, so that rows are.
MANY, MANY_Y = make_blobs(n_samples=120, centers=8, n_features=6, cluster_std=3, random_state=0)
FEW, FEW_Y = MANY[MANY_Y < 3], MANY_Y[MANY_Y < 3]

QUICK = {"max_epochs": 3, "random_state": 0, "module__n_hidden": 8}
TO_THE_END = {**QUICK, "early_stopping": False}

both = pytest.mark.parametrize("Learner", [DeepSiameseEmbedder, DeepTripletEmbedder])


def fitted_names(learner):
    return [name for name in vars(learner) if name.endswith("_")]


def global_states():
    _, state, place, *_ = np.random.get_state()  # noqa: NPY002, the one that must not move
    return state.tolist(), place, torch.get_rng_state().tolist()


class Count(Callback):
    """Remember what training did; the copies of a callback share the class's list."""

    seen = ()

    def __init__(self, level=0):
        self.level = level

    def on_batch_end(self, net, batch, **kwargs):
        self.touched_ = True
        Count.seen.append((self.level, len(batch[0])))


@pytest.fixture
def seen():
    Count.seen = []
    return Count.seen


class Scale(nn.Module):
    """A network of one number."""

    def __init__(self, start=1.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(start))

    def forward(self, X):
        return self.factor * X


class Rows(Dataset):
    """Points that count how often they are read."""

    def __init__(self, X):
        self.X = torch.as_tensor(X, dtype=torch.float32)
        self.reads = []

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        self.reads.append(i)
        return self.X[i], "whatever else"


# The module


def small_net(n_features, n_components):
    return nn.Linear(n_features, n_components)


class OpenNet(nn.Linear):
    def __init__(self, n_features, n_components, **others):
        super().__init__(n_features, n_components, **others)


@pytest.mark.parametrize("module", [small_net, OpenNet])
def test_shapes_are_given_to_those_who_ask_for_them(module):
    learner = DeepEmbedder(module, n_components=3, max_epochs=1).fit(FEW, FEW_Y)
    assert learner.transform(FEW).shape == (len(FEW), 3)
    if module is OpenNet:
        learner.set_params(module__bias=False).fit(FEW, FEW_Y)
        assert learner.net_.module_.bias is None


def test_pretrained_weights_are_kept_also_those_of_our_own_networks():
    first = DeepTripletEmbedder(**TO_THE_END, lr=0.01).fit(FEW, FEW_Y)
    ready = first.net_.module_
    again = DeepTripletEmbedder(ready, max_epochs=1, lr=1e-30, early_stopping=False)
    again.fit(FEW * 5 + 3, FEW_Y)
    assert again.net_.module_ is not ready
    assert_allclose(again.transform(FEW), first.transform(FEW), rtol=1e-5, atol=1e-6)


def test_ready_parts_among_the_parameters_are_copied():
    class Net(nn.Module):
        def __init__(self, n_features, last):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(n_features, 2), last)

        def forward(self, X):
            return self.layers(X)

    last, loss, callback = nn.PReLU(), TripletLoss(0.5), Count()
    Count.seen = []
    learner = DeepEmbedder(Net, loss=loss, module__last=last, callbacks=[callback], max_epochs=2)
    learner.set_params(early_stopping=False, lr=0.1).fit(FEW, FEW_Y)
    assert last.weight.item() == 0.25
    assert learner.net_.module_.layers[1].weight.item() != 0.25
    assert learner.net_.criterion_ is not loss
    assert not hasattr(callback, "touched_")
    assert Count.seen


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Sequential(nn.Linear(6, 6), nn.Flatten(0)),
            r"shape \(\d+, n_components\); .* \(1, 6\) it returned shape \(6,\)",
        ),
        (nn.Sequential(nn.Linear(6, 6), nn.Unflatten(1, (2, 3))), r"it returned shape \(1, 2, 3\)"),
        (5, "module=5 is no network"),
    ],
)
def test_module_that_gives_no_embedding_is_refused(module, message):
    learner = DeepTripletEmbedder(module, early_stopping=False)
    with pytest.raises(ValueError, match=message):
        learner.fit(FEW, FEW_Y)
    assert fitted_names(learner) == []


def test_width_of_a_module_has_to_be_that_asked_for():
    with pytest.raises(ValueError, match=r"n_components=3, but the module .* width 2"):
        DeepTripletEmbedder(nn.Linear(6, 2), n_components=3).fit(FEW, FEW_Y)


# Parameters of the net


@both
def test_parameters_of_the_net_reach_it(Learner, seen):
    learner = Learner(
        **TO_THE_END,
        callbacks=[("count", Count)],
        callbacks__count__level=7,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.5,
        iterator_train__num_workers=1,
        criterion__reduction="sum",
    )
    learner = clone(learner).fit(FEW, FEW_Y)
    assert {level for level, _ in seen} == {7}
    assert learner.net_.optimizer_.param_groups[0]["momentum"] == 0.5
    assert learner.net_.get_iterator.__self__.get_params_for("iterator_train") == {"num_workers": 1}
    assert learner.net_.criterion_.reduction == "sum"
    assert clone(learner).get_params() == learner.get_params()
    learner.set_params(iterator_train__num_workers=0)
    Z = learner.transform(FEW)
    assert_array_equal(learner.fit(FEW, FEW_Y).transform(FEW), Z)


def test_adam_steps_in_one_operation_on_a_cpu_unless_told_otherwise(monkeypatch):
    options = {"max_epochs": 1, "early_stopping": False, "device": "cpu", "random_state": 0}
    for given, expected in (({}, True), ({"fused": False}, False), ({"foreach": True}, None)):
        given = {f"optimizer__{name}": value for name, value in given.items()}
        net = DeepEmbedder(**options, **given).fit(MANY, MANY_Y).net_
        assert net.optimizer_.param_groups[0]["fused"] is expected
    weights = [nn.Parameter(torch.ones(2))]
    assert fastest_step(torch.optim.AdamW, weights) == {"fused": True}
    assert fastest_step(torch.optim.SGD, weights) == {}
    assert fastest_step(torch.optim.AdamW, [nn.Parameter(torch.ones(2, device="meta"))]) == {}
    assert fastest_step(torch.optim.Adam, [nn.Parameter(torch.ones(2, dtype=torch.cfloat))]) == {}
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.3.1"))
    assert fastest_step(torch.optim.AdamW, weights) == {}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"optimizer__lrr": 1}, "optimizer__weight_decay"),
        ({"iterator_train__workers": 1}, "iterator_train__num_workers"),
        ({"iterator_train__batch_size": 9}, "no parameter 'iterator_train__batch_size'"),
        ({"callbacks__cuont": None}, "callbacks__print_log"),
        ({"criterion__powr": 1}, "criterion__soft"),
        ({"iterator_valid__num_workers": 1}, "has no parameter 'iterator_valid__num_workers'"),
        ({"module": 5}, "is no network"),
        ({"optimizer": "adam"}, "optimizer='adam' is no optimizer"),
        ({"device": "gpu"}, "device='gpu' cannot be used here"),
        ({"lr": -1.0}, "lr == -1.0"),
        ({"n_components": 0}, "n_components == 0"),
        ({"n_per_class": 1}, "n_per_class == 1"),
        ({"max_epochs": 0}, "max_epochs == 0"),
        ({"patience": 0}, "patience == 0"),
        ({"validation_fraction": 1.0}, "validation_fraction == 1.0"),
        ({"margin": np.inf}, "margin must be a finite number"),
        ({"margin": 1.5, "distance": "angular"}, "<= 1"),
        ({"miner": 5}, "miner must be one of"),
        ({"distance": None}, "distance=None is unknown"),
        ({"scoring": None}, "scoring=None is unknown"),
        ({"random_state": "seed"}, "cannot be used to seed"),
    ],
)
def test_bad_parameters_say_what_is_allowed(params, message):
    learner = DeepTripletEmbedder(**{"early_stopping": False, **params})
    with pytest.raises(ValueError, match=message):
        learner.fit(FEW, FEW_Y)
    assert fitted_names(learner) == []


@pytest.mark.parametrize(
    "params",
    [
        {"margin": "wide"},
        {"lr": "fast"},
        {"batch_size": 8.0},
        {"n_components": 2.5},
        {"normalize": "yes"},
        {"early_stopping": "no"},
        {"warm_start": 1},
        {"verbose": None},
    ],
)
def test_wrong_types_are_refused(params):
    with pytest.raises(TypeError, match=rf"{next(iter(params))} must be an instance of"):
        DeepTripletEmbedder(**params).fit(FEW, FEW_Y)


@pytest.mark.parametrize("loss", ["hinge", 5, nn.MSELoss])
def test_loss_that_is_none_or_has_no_margin_is_refused(loss):
    with pytest.raises(ValueError, match=r"loss=.* is (unknown|no loss)|has no margin"):
        DeepEmbedder(loss=loss, margin=0.3).fit(FEW, FEW_Y)
    with pytest.raises(
        ValueError, match=r"margin=0.3 was given together with a TripletLoss instance"
    ):
        DeepEmbedder(loss=TripletLoss(), margin=0.3).fit(FEW, FEW_Y)


def test_epochs_are_printed_for_those_who_ask(capsys):
    DeepTripletEmbedder(**TO_THE_END).fit(FEW, FEW_Y)
    assert not capsys.readouterr().out
    learner = DeepTripletEmbedder(**TO_THE_END, verbose=1).fit(FEW, FEW_Y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + QUICK["max_epochs"]
    assert "train_loss" in lines[0]
    lines = []
    learner.set_params(verbose=0, callbacks__print_log__sink=lines.append).fit(FEW, FEW_Y)
    assert len(lines) == 2 + QUICK["max_epochs"]


def test_callbacks_can_be_switched_off():
    learner = DeepTripletEmbedder(**QUICK, callbacks__collapse=None, callbacks__print_log=None)
    names = [name for name, _ in learner.fit(FEW, FEW_Y).net_.callbacks_]
    assert "collapse" not in names


@pytest.mark.parametrize(
    "params",
    [
        {"margin": 0.9},
        {"distance": "manhattan"},
        {"normalize": True},
        {"miner": "hard"},
        {"n_per_class": 7},
        {"batch_size": 16},
        {"max_epochs": 2},
        {"lr": 0.01},
        {"optimizer": torch.optim.SGD},
        {"validation_fraction": 0.4, "early_stopping": True},
        {"random_state": 1},
        {"n_components": 2},
        {"criterion__soft": True},
    ],
    ids=str,
)
def test_every_parameter_has_an_effect(params):
    options = {**TO_THE_END, "n_components": 4, "batch_size": 32}
    if params.get("early_stopping"):
        options |= {"early_stopping": True, "lr": 3e-4}
    plain = DeepTripletEmbedder(**options).fit(MANY, MANY_Y)
    other = DeepTripletEmbedder(**options | params).fit(MANY, MANY_Y)
    losses = plain.history_["loss"], other.history_["loss"]
    assert losses[0].shape != losses[1].shape or not np.allclose(*losses, rtol=1e-6, atol=0)
    if "normalize" in params:
        assert_allclose(np.linalg.norm(other.transform(MANY), axis=1), 1, rtol=1e-5)
    if "distance" in params:
        assert other.get_metric().distance == "manhattan"


def test_miner_given_by_name_uses_the_distance_of_the_learner():
    given = []

    class Loss(nn.Module):
        def forward(self, embeddings, labels, indices_tuple=None):
            given.append((embeddings.detach(), labels, indices_tuple))
            return embeddings.square().mean()

    options = {**TO_THE_END, "max_epochs": 1, "loss": Loss}
    DeepEmbedder(**options).fit(FEW, FEW_Y)
    assert given[0][2] is None  # "all" is what a loss learns from anyway
    given.clear()
    DeepEmbedder(**options, miner="hard", distance="cosine").fit(FEW - 20, FEW_Y)
    embeddings, labels, (a, p, _) = given[0]
    similar = nn.functional.cosine_similarity(embeddings[:, None], embeddings, dim=2)
    for i, j in zip(a.tolist(), p.tolist(), strict=True):
        same = (labels == labels[i]).nonzero().ravel()
        assert similar[i, j] <= similar[i, same].min() + 1e-6


def test_plain_loss_of_two_arguments():
    class Loss(nn.Module):
        def forward(self, embeddings, labels):
            return (embeddings - labels[:, None]).square().mean()

    learner = DeepEmbedder(**TO_THE_END, loss=Loss).fit(FEW, FEW_Y)
    assert np.isfinite(learner.history_["loss"]).all()
    assert np.isnan(learner.history_["active_share"]).all()


def test_ready_loss_keeps_its_own_miner():
    loss = TripletLoss(miner="hard")
    by_loss = DeepEmbedder(**TO_THE_END, loss=loss).fit(MANY, MANY_Y)
    by_name = DeepEmbedder(**TO_THE_END, loss="triplet", miner="hard").fit(MANY, MANY_Y)
    assert_array_equal(by_loss.transform(MANY), by_name.transform(MANY))


# Points


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8, bool])
def test_points_of_any_number_type(dtype):
    X = np.abs(FEW).astype(dtype) if dtype is not bool else FEW > 0
    Z = DeepTripletEmbedder(**QUICK).fit(X, FEW_Y).transform(X)
    expected = DeepTripletEmbedder(**QUICK).fit(X.astype(np.float32), FEW_Y)
    assert Z.dtype == np.float32
    assert_array_equal(Z, expected.transform(X.astype(np.float32)))


def test_dataset_is_read_a_batch_at_a_time():
    rows = Rows(MANY)
    learner = DeepTripletEmbedder(**TO_THE_END, batch_size=16).fit(rows, MANY_Y)
    # One look at the shape, one pass to start, and the epochs, with a few rows drawn twice.
    assert 1 + 4 * 120 <= len(rows.reads) <= 1.1 * (1 + 4 * 120)
    assert set(rows.reads) == set(range(120))
    rows.reads.clear()
    Z = learner.transform(rows)
    assert len(rows.reads) == 121
    assert_allclose(Z, learner.transform(MANY), atol=1e-6)
    by_array = DeepTripletEmbedder(**TO_THE_END, batch_size=16).fit(MANY, MANY_Y)
    assert_array_equal(by_array.transform(MANY), learner.transform(MANY))


@pytest.mark.parametrize("shape", [(100,), (1, 10, 10)])
def test_large_points_pass_in_small_batches(shape):
    X = np.arange(1000.0, dtype=np.float32).reshape(10, *shape)
    for data in (X, Rows(X)):
        for limits, sizes in [
            ((4,), [4, 4, 2]),
            ((4, 400), [4, 4, 2]),
            ((4, 399), [3, 3, 3, 1]),
            ((4, 99), [1] * 10),
        ]:
            batches = list(batches_of_points(data, *limits))
            assert [len(batch) for batch in batches] == sizes
            assert_array_equal(torch.cat(batches), X)


def test_dataset_holds_nothing_back_with_early_stopping():
    learner = DeepTripletEmbedder(**QUICK).fit(Rows(MANY), MANY_Y)
    by_array = DeepTripletEmbedder(**QUICK).fit(MANY, MANY_Y)
    assert learner.best_score_ == pytest.approx(by_array.best_score_)
    assert_allclose(learner.transform(MANY), by_array.transform(MANY), atol=1e-5)


def test_dataset_forgets_the_names_of_an_earlier_table():
    frame = pd.DataFrame(MANY, columns=list("abcdef"))
    learner = DeepTripletEmbedder(**QUICK).fit(frame, MANY_Y)
    assert learner.feature_names_in_.tolist() == list("abcdef")
    learner.fit(Rows(MANY), MANY_Y)
    assert not hasattr(learner, "feature_names_in_")
    assert learner.n_features_in_ == 6


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (Rows(FEW), None, "target y is None"),
        (Rows(FEW), FEW_Y[:5], r"each of the 45 items of the Dataset; got y of shape \(5,\)"),
        (Rows(FEW[:0]), FEW_Y[:0], "class"),
        (Rows(FEW[:, 0]), FEW_Y, "gives a single number"),
        (Rows(FEW * np.nan), FEW_Y, "NaN or infinity"),
        (FEW[:, :, None, None, None], FEW_Y, "pass a module"),
        (FEW[:1], FEW_Y[:1], "minimum of 2"),
        (FEW[:0], FEW_Y[:0], "0 sample"),
        (abs(FEW) * np.inf, FEW_Y, "infinity"),
        (FEW, FEW_Y[:7], "inconsistent"),
    ],
)
@pytest.mark.filterwarnings("ignore::skdml.deep.CollapseWarning")
def test_bad_data_leave_nothing_behind(X, y, message):
    learner = DeepTripletEmbedder(**TO_THE_END)
    for train in (learner.fit, learner.partial_fit):
        with pytest.raises(ValueError, match=message):
            train(X, y)
        assert fitted_names(learner) == []


@both
@pytest.mark.parametrize(
    ("X", "y"),
    [
        (np.repeat(FEW[:6], 5, axis=0), np.repeat([0, 0, 1, 1, 2, 2], 5)),
        (np.column_stack([FEW, np.full((len(FEW), 2), 0.1)]), FEW_Y),
        (np.ones((20, 3)), np.arange(20) % 4),
        (FEW, [*range(43), 99, 99]),
        (FEW[:3], [0, 0, 1]),
        (FEW * 1e6 + 1e7, FEW_Y),
    ],
    ids=["duplicates", "constants", "one point", "one pair", "three rows", "far away"],
)
@pytest.mark.filterwarnings("ignore::skdml.deep.CollapseWarning")
@pytest.mark.filterwarnings("ignore:The number of unique classes")
def test_poor_data_give_finite_embeddings(Learner, X, y):
    learner = Learner(**QUICK).fit(X, y)
    assert np.isfinite(learner.transform(X)).all()
    assert np.isfinite(learner.history_["loss"]).all()


# Pairs and triplets


def some_pairs(rng, n=80):
    i, j = rng.integers(len(FEW), size=(2, n))
    return FEW[np.stack([i, j], axis=1)], (FEW_Y[i] == FEW_Y[j]).astype(int)


PAIRS, SAME = some_pairs(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("pairs", "y", "message"),
    [
        (FEW, SAME, r"pairs need the shape \(n_pairs, 2, n_features\)"),
        (PAIRS, None, "supervision='pairs' requires y"),
        (PAIRS, SAME[:5], r"80 pairs need 80 labels.*shape \(5,\)"),
        (PAIRS, SAME + 1, r"values \[1, 2\]"),
        (PAIRS, SAME * 0, "all 80 pairs have y = 0"),
        (PAIRS * np.nan, SAME, "NaN"),
    ],
)
def test_bad_pairs_are_refused(pairs, y, message):
    learner = DeepSiameseEmbedder(supervision="pairs")
    with pytest.raises(ValueError, match=message):
        learner.fit(pairs, y)
    assert fitted_names(learner) == []


def test_same_pairs_draw_near_and_different_pairs_apart():
    options = {**TO_THE_END, "supervision": "pairs", "max_epochs": 30}
    before = DeepSiameseEmbedder(**{**options, "lr": 1e-30}).fit(PAIRS, SAME).pair_distance(PAIRS)
    after = DeepSiameseEmbedder(**options, margin=2.0).fit(PAIRS, SAME).pair_distance(PAIRS)
    ratio = after / np.maximum(before, 1e-12)
    assert np.median(ratio[SAME == 1]) < np.median(ratio[SAME == 0])


def test_pairs_stop_on_the_area_under_the_curve(seen):
    options = {**QUICK, "supervision": "pairs", "batch_size": 16, "callbacks": [Count]}
    learner = DeepSiameseEmbedder(**options).fit(PAIRS, SAME)
    assert learner.history_["roc_auc"].shape == (3,)
    assert max(n for _, n in seen) == 32  # two points a pair
    assert learner.transform(FEW).shape == (len(FEW), 6)
    with pytest.raises(ValueError, match="triplets need the shape"):
        DeepTripletEmbedder(supervision="triplets").fit(PAIRS)


def test_triplets_stop_on_their_order():
    rng = np.random.default_rng(0)
    a = rng.integers(len(FEW), size=60)
    p = [rng.choice(np.flatnonzero(FEW_Y[i] == FEW_Y)) for i in a]
    n = [rng.choice(np.flatnonzero(FEW_Y[i] != FEW_Y)) for i in a]
    learner = DeepTripletEmbedder(**QUICK, supervision="triplets")
    learner.fit(FEW[np.stack([a, p, n], axis=1)])
    assert learner.n_features_in_ == 6
    assert 0.5 < learner.history_["in_order"][-1] <= 1


# Stopping


def codes_of(n_classes, each=6):
    return np.repeat(np.arange(n_classes), each)


@pytest.mark.parametrize(
    ("n_classes", "whole_classes"), [(8, True), (5, True), (4, False), (2, False)]
)
def test_classes_are_held_out_where_there_are_enough(n_classes, whole_classes):
    codes = codes_of(n_classes)
    data = ArrayDataset(np.zeros((len(codes), 2), np.float32), codes)
    options = {"distance": "euclidean", "scoring": "map_at_r"}
    train, score = hold_out(data, 0.2, np.random.default_rng(0), **options)
    held = np.setdiff1d(np.arange(len(codes)), train)
    assert len(held) > 0
    assert score.unseen_classes is whole_classes
    assert (len(np.unique(codes[train])) < n_classes) == whole_classes
    if whole_classes:
        assert not set(codes[train]) & set(codes[held])
        assert len(np.unique(codes[held])) == 2
    else:
        assert np.bincount(codes[train]).min() >= 2


def test_strangers_are_looked_for_among_themselves_and_among_all():
    data = ArrayDataset(MANY.astype(np.float32), MANY_Y)
    options = {"distance": "euclidean", "scoring": "recall_at_1"}
    train, score = hold_out(data, 0.3, np.random.default_rng(0), **options)
    held = np.setdiff1d(np.arange(120), train)
    expected = np.zeros((2, 2))
    for view, among in enumerate([held, np.arange(120)]):
        for place, one in enumerate(np.unique(MANY_Y[held])):
            hits = []
            for i in np.flatnonzero(one == MANY_Y):
                others = among[among != i]
                nearest = others[np.linalg.norm(MANY[others] - MANY[i], axis=1).argmin()]
                hits.append(MANY_Y[nearest] == one)
            expected[view, place] = np.mean(hits)
    assert_allclose(score(lambda X: X), expected)
    assert not np.array_equal(*expected)


def test_two_rows_of_a_class_are_left_to_train_on():
    codes = np.repeat([0, 1, 2, 3], [3, 2, 1, 10])
    data = ArrayDataset(np.zeros((16, 2), np.float32), codes)
    options = {"distance": "euclidean", "scoring": "map_at_r"}
    train, _ = hold_out(data, 0.9, np.random.default_rng(0), **options)
    assert np.bincount(codes[train]).tolist() == [2, 2, 1, 2]


@pytest.mark.parametrize("kind", ["labels", "targets"])
def test_no_group_is_split_by_what_is_held_out(kind):
    rng = np.random.default_rng(0)
    groups, codes = rng.integers(15, size=200), rng.integers(3, size=200)
    data = ArrayDataset(np.zeros((200, 2), np.float32), codes if kind == "labels" else codes * 1.5)
    data.kind, data.groups = kind, groups
    options = {"distance": "euclidean", "scoring": "map_at_r"}
    train, _ = hold_out(data, 0.2, np.random.default_rng(0), **options)
    held = np.setdiff1d(np.arange(200), train)
    assert set(groups[train]).isdisjoint(groups[held])
    assert len(set(groups[held])) == 3
    again, _ = hold_out(data, 0.2, np.random.default_rng(0), **options)
    assert np.array_equal(train, again)
    if kind == "labels":  # of twenty draws the one nearest to a fifth of each class
        counts = np.bincount(codes)
        assert np.abs(np.bincount(codes[held]) / counts - 0.2).max() < 0.07


@pytest.mark.parametrize(
    ("n_second", "groups_of_first", "groups_of_second", "whole"),
    [
        (4, [0, 1, 2, 3], [4], True),  # the group of the second class stays
        (4, [0, 1, 2, 3], [4, 5, 6, 7], True),  # two of them at most can go
        (2, [0, 1], [0, 1], False),  # neither group can go
        (4, [0], [0], False),
    ],
)
def test_a_class_keeps_two_rows(n_second, groups_of_first, groups_of_second, whole):
    codes = np.repeat([0, 1], [16, n_second])
    groups = np.r_[np.resize(groups_of_first, 16), np.resize(groups_of_second, n_second)]
    train, held = split_rows(codes, 0.5, np.random.default_rng(0), groups)
    assert np.array_equal(np.sort(np.r_[train, held]), np.arange(len(codes)))
    assert len(held) >= 2
    assert np.bincount(codes[train]).min() >= 2
    assert set(groups[train]).isdisjoint(groups[held]) == whole


def test_held_out_rows_are_not_trained_on():
    rows = Rows(MANY)
    trained = []

    class Watch(Callback):
        def on_batch_end(self, net, batch, **kwargs):
            trained.append(batch[0].numpy())

    DeepTripletEmbedder(**QUICK, callbacks=[Watch], refit=False).fit(rows, MANY_Y)
    trained = {row.tobytes() for row in np.concatenate(trained)}
    of_class = [{row.numpy().tobytes() for row in rows.X[c == MANY_Y]} for c in range(8)]
    assert sorted(len(points & trained) for points in of_class) == [0, 0] + [15] * 6


def test_without_early_stopping_every_row_is_trained_on_to_the_end(seen):
    learner = DeepTripletEmbedder(**TO_THE_END, callbacks=[Count]).fit(MANY, MANY_Y)
    assert sum(n for _, n in seen) == 3 * 120
    assert learner.best_epoch_ == len(learner.history_["loss"]) == 3
    assert np.isnan([learner.start_score_, learner.best_score_]).all()
    assert set(learner.history_) == {"loss", "active_share", "spread", "seconds"}


def test_history_has_a_value_for_each_epoch():
    history = DeepSiameseEmbedder(**QUICK, patience=9).fit(MANY, MANY_Y).history_
    names = {"loss", "active_share", "spread", "seconds", "map_at_r", "map_at_r_gain"}
    assert set(history) == names
    for column in history.values():
        assert column.shape == (3,)
        assert np.isfinite(column).all()
    assert (history["spread"] > 0).all()
    assert ((history["active_share"] >= 0) & (history["active_share"] <= 1)).all()


class Plan:
    """A score that follows a plan, whatever the embedding; that midway to the start is worse."""

    __name__ = "plan"

    def __init__(self, values, midway=-1.0):
        self.values = [values[0]]
        for value in values[1:]:
            self.values += [value, midway]

    def __call__(self, embeddings, labels, reference=None, reference_labels=None):
        return self.values.pop(0)

    def __deepcopy__(self, memo):
        return self


def test_gain_has_to_hold_in_every_view_and_across_classes():
    gains = np.random.default_rng(0).normal(0.2, 0.3, size=(2, 4))
    gains[1] -= 0.1
    quantile = 1.6377443536962102  # 90 % of Student's t with three degrees of freedom
    means = [sum(view) / 4 for view in gains.tolist()]
    spreads = [
        np.sqrt(sum((g - mean) ** 2 for g in view) / 3)
        for view, mean in zip(gains.tolist(), means, strict=True)
    ]
    assert np.argmin(means) != np.argmax(spreads)
    expected = min(means) - quantile * max(spreads) / 2
    assert lower_bound(gains) == pytest.approx(expected)
    assert lower_bound(gains[::-1]) == pytest.approx(expected)
    assert lower_bound(np.full((1, 5), 0.1)) == pytest.approx(0.1)
    assert lower_bound(np.array([[0.5, 0.0, 0.0, 0.0]])) < 0
    assert lower_bound(np.array([[0.3], [0.2]])) == 0.2
    differ, agree = [0.042, 0.080], [0.043, 0.044]
    assert lower_bound(np.array([differ])) > 0
    assert lower_bound(np.array([agree])) > 0
    assert lower_bound(np.array([differ, agree])) < 0


@pytest.mark.parametrize(
    ("values", "patience", "best", "n_epochs"),
    [
        ([0.5, 0.4, 0.3, 0.2, 0.1], 2, 0, 2),
        ([0.5, 0.6, 0.4, 0.7, 0.6, 0.6, 0.9], 2, 3, 5),
        ([0.5, 0.6, 0.4, 0.7, 0.6, 0.6, 0.9], 9, 6, 6),
        ([0.5, np.nan, np.nan, 0.6, 0.1, 0.1, 0.1], 9, 3, 6),
    ],
)
def test_patience_and_the_best_weights(values, patience, best, n_epochs):
    weights = []

    class Keep(Callback):
        def on_epoch_end(self, net, **kwargs):
            weights.append(net.module_.weight.detach().clone())

    options = {"max_epochs": 6, "random_state": 0, "lr": 0.01, "callbacks": [Keep]}
    options |= {"scoring": Plan(values), "patience": patience, "refit": False}
    learner = DeepTripletEmbedder(**options).fit(FEW, FEW_Y)
    assert learner.best_epoch_ == best
    assert learner.start_score_ == 0.5
    assert learner.best_score_ == values[best]
    assert len(learner.history_["plan"]) == n_epochs
    assert_array_equal(learner.history_["plan"], values[1 : n_epochs + 1])
    if best:
        assert torch.equal(learner.net_.module_.weight, weights[best - 1])


@pytest.mark.parametrize(("batch_size", "n_batches"), [(8, 12), (64, 2)])
def test_patience_of_short_epochs_is_a_hundred_batches(batch_size, n_batches):
    options = {"max_epochs": 60, "batch_size": batch_size, "refit": False, "random_state": 0}
    learner = DeepTripletEmbedder(scoring=Plan([0.5] * 61), **options).fit(MANY, MANY_Y)
    assert len(learner.net_.history[-1, "batches"]) == n_batches
    n_epochs = max(10, 100 // n_batches)
    assert len(learner.history_["plan"]) == n_epochs
    scored = np.flatnonzero(np.isfinite(learner.history_["plan"])) + 1
    assert_array_equal(scored, np.arange(1, 11) * n_epochs // 10)


def test_short_trainings_are_scored_at_their_end():
    options = {"max_epochs": 7, "scoring": Plan([0.5, 0.4, 0.6]), "refit": False}
    learner = DeepTripletEmbedder(batch_size=64, random_state=0, **options).fit(MANY, MANY_Y)
    assert_array_equal(learner.history_["plan"], [np.nan] * 4 + [0.4, np.nan, 0.6])
    assert (learner.best_epoch_, learner.best_score_) == (7, 0.6)


@pytest.mark.parametrize("refit", [False, True])
def test_midway_between_the_start_and_the_end_where_that_is_better(refit):
    options = {"lr": 0.01, "random_state": 0}
    plan = Plan([0.5, 0.4, 0.3], midway=0.7)
    stopped = {"scoring": plan, "max_epochs": 2, "patience": 9, "refit": refit}
    learner = DeepTripletEmbedder(**stopped, **options).fit(MANY, MANY_Y)
    assert (learner.best_epoch_, learner.best_share_, learner.best_score_) == (1, 0.5, 0.7)
    assert_array_equal(learner.history_["plan"], [0.7, 0.7])
    ends = {}
    for lr in (0.01, 1e-30):
        whole = {**options, "lr": lr, "max_epochs": 1}
        if refit:
            whole["early_stopping"] = False
        else:
            whole |= {"scoring": Plan([0.5, 0.6]), "refit": False}
        ends[lr] = DeepTripletEmbedder(**whole).fit(MANY, MANY_Y).net_.module_.state_dict()
    for name, weight in learner.net_.module_.state_dict().items():
        expected = (ends[0.01][name] + ends[1e-30][name]) / 2
        assert_allclose(weight, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("best", [0, 2])
def test_refit_trains_on_everything_up_to_the_best_epoch(best):
    values = np.where(np.arange(5) == best, 0.7, 0.5)
    options = {"lr": 0.01, "random_state": 0, "module__dropout": 0.2}
    stopped = {"max_epochs": 4, "patience": 9, "scoring": Plan(values), **options}
    learner = DeepTripletEmbedder(**stopped).fit(MANY, MANY_Y)
    assert learner.best_epoch_ == best
    assert len(learner.history_["plan"]) == 4
    lr = options.pop("lr") if best else options.pop("lr") * 1e-30
    whole = DeepTripletEmbedder(max_epochs=max(best, 1), lr=lr, early_stopping=False, **options)
    Z = whole.fit(MANY, MANY_Y).transform(MANY)
    assert_allclose(learner.transform(MANY), Z, rtol=0, atol=0 if best else 1e-6)
    stopped["scoring"] = Plan(values)
    part = DeepTripletEmbedder(refit=False, **stopped).fit(MANY, MANY_Y)
    assert not np.allclose(part.transform(MANY), Z, atol=1e-3)


class InRefit(Callback):
    """Raise an error after the first epoch of the second training of a fit."""

    error = None

    def on_batch_begin(self, net, **kwargs):
        if InRefit.error and len(net.history) == 2 and net.callback(RetrievalStopping) is None:
            raise InRefit.error


@pytest.fixture
def fit_that_is_refitted():
    """Parameters of a fit that is stopped at its last epoch, since it spreads its points."""
    yield {
        "lr": 0.01,
        "max_epochs": 3,
        "scoring": spread,
        "callbacks": [InRefit],
        "random_state": 0,
    }
    InRefit.error = None


def spread(embeddings, labels):
    return float(embeddings.std())


def test_a_refit_that_is_killed_goes_on_and_ends_with_the_same_bits(tmp_path, fit_that_is_refitted):
    whole = DeepTripletEmbedder(**fit_that_is_refitted).fit(MANY, MANY_Y)
    learner = DeepTripletEmbedder(**fit_that_is_refitted, checkpoint=tmp_path)
    InRefit.error = Stop()
    with pytest.raises(Stop):
        learner.fit(MANY, MANY_Y)
    InRefit.error = None
    assert len([*tmp_path.iterdir()]) == 2
    learner.fit(MANY, MANY_Y)
    assert learner.best_epoch_ == whole.best_epoch_ == 3
    assert_array_equal(learner.transform(MANY), whole.transform(MANY))
    assert not [*tmp_path.iterdir()]


def test_ctrl_c_amid_a_refit_keeps_what_was_stopped(fit_that_is_refitted):
    part = DeepTripletEmbedder(**fit_that_is_refitted, refit=False).fit(MANY, MANY_Y)
    InRefit.error = KeyboardInterrupt()
    learner = DeepTripletEmbedder(**fit_that_is_refitted)
    with pytest.warns(UserWarning, match="Training was interrupted"):
        learner.fit(MANY, MANY_Y)
    assert_array_equal(learner.transform(MANY), part.transform(MANY))


@pytest.mark.parametrize(("X", "y", "n_given"), [(MANY, MANY_Y, 2), (FEW, FEW_Y, 4)])
def test_callable_scoring_gets_what_was_held_out(X, y, n_given):
    calls = []

    def score(*given):
        calls.append(given)
        return 0.0

    DeepTripletEmbedder(**QUICK, patience=9, scoring=score).fit(X, y)
    assert len(calls) == 1 + 2 * 3  # as trained, and midway
    assert {len(given) for given in calls} == {n_given}
    assert all(len(given[0]) == len(given[1]) for given in calls)


def test_scoring_by_name():
    learner = DeepTripletEmbedder(**QUICK, scoring="recall_at_1").fit(MANY, MANY_Y)
    assert 0 < learner.history_["recall_at_1"][-1] <= 1


def test_too_few_rows_to_hold_out_train_to_the_end():
    learner = DeepTripletEmbedder(**QUICK).fit(FEW[:6], [0, 0, 1, 1, 2, 2])
    assert learner.best_epoch_ == 3
    assert np.isnan(learner.best_score_)


def test_early_stopping_of_skorch_may_be_used():
    stop = EarlyStopping(monitor="train_loss", patience=1, threshold=10, sink=lambda text: None)
    learner = DeepTripletEmbedder(**TO_THE_END, callbacks=[stop]).fit(FEW, FEW_Y)
    assert len(learner.history_["loss"]) < 3


# Collapse


@both
def test_collapse_by_hard_mining(Learner):
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
    """A loss that wants all points at the origin."""

    def forward(self, embeddings, labels):
        return embeddings.square().mean()


def test_collapse_is_seen_in_the_spread():
    options = {"optimizer": torch.optim.SGD, "lr": 0.01, "max_epochs": 8, "early_stopping": False}
    with pytest.warns(CollapseWarning, match=r"spread of the embeddings fell from \d") as caught:
        DeepEmbedder(Scale(), loss=Shrink, random_state=0, **options).fit(MANY, MANY_Y)
    assert len(caught) == 1


def test_collapse_is_seen_in_a_loss_at_the_margin():
    options = {"lr": 1e-30, "early_stopping": False, "random_state": 0}
    corners, labels = np.eye(12), np.arange(12) % 3  # all equally far apart
    DeepTripletEmbedder(max_epochs=2, **options).fit(corners, labels)
    with pytest.warns(CollapseWarning, match=r"by epoch 3: the loss stayed at the margin 0\.2"):
        DeepTripletEmbedder(max_epochs=5, **options).fit(corners, labels)
    # All pairs are 1 apart, and so is what the contrastive loss begins with.
    siamese = DeepSiameseEmbedder(max_epochs=5, **options).fit(corners, labels)
    assert_allclose(siamese.history_["loss"], 1, atol=0.01)


@both
def test_no_warning_on_a_healthy_run(Learner):
    Learner(max_epochs=12, random_state=0).fit(MANY, MANY_Y)  # warnings are errors here


# Checkpoints

KILLED = textwrap.dedent(
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


def run_killed(checkpoint, out, *, kill=False, seed=3):
    environment = {**os.environ, **({"KILL": "1"} if kill else {})}
    arguments = [sys.executable, "-c", KILLED, repr(checkpoint), str(out), repr(seed)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert done.returncode == (9 if kill else 0), done.stderr
    return None if kill else np.load(out)


def test_killed_process_goes_on_with_a_scheduler_and_dropout(tmp_path):
    folder = tmp_path / "states"
    whole = run_killed(None, tmp_path / "whole.npz")
    run_killed(str(folder), tmp_path / "killed.npz", kill=True)
    assert [path.suffix for path in folder.iterdir()] == [".fit"]
    again = run_killed(str(folder), tmp_path / "again.npz")
    for name in set(whole) - {"seconds"}:
        assert_array_equal(again[name], whole[name])
    assert not list(folder.iterdir())


class Stop(Exception):
    pass


class Fail(Callback):
    after = None

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) - 1 == Fail.after:  # the epoch that begins has its row
            raise Stop


@pytest.fixture
def fail_after():
    yield lambda after: setattr(Fail, "after", after)
    Fail.after = None


def test_checkpoint_without_random_state_keeps_its_seed(tmp_path, fail_after, monkeypatch):
    options = {"max_epochs": 4, "callbacks": [Fail], "checkpoint": tmp_path}
    fail_after(2)
    with pytest.raises(Stop):
        DeepTripletEmbedder(**options).fit(MANY, MANY_Y)
    seed = pickle.loads(next(tmp_path.iterdir()).read_bytes())["seed"]
    fail_after(None)
    learner = DeepTripletEmbedder(**options).fit(MANY, MANY_Y)

    class Draws:
        def randint(self, _):
            return seed

    monkeypatch.setattr("skdml.deep.training.fitting.check_random_state", lambda _: Draws())
    whole = DeepTripletEmbedder(max_epochs=4).fit(MANY, MANY_Y)
    assert_array_equal(learner.history_["loss"], whole.history_["loss"])
    assert_array_equal(learner.transform(MANY), whole.transform(MANY))


def test_only_the_very_same_fit_goes_on(tmp_path, fail_after):
    options = {**QUICK, "callbacks": [Fail], "checkpoint": tmp_path}
    fail_after(2)
    with pytest.raises(Stop):
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
        alone = clone(learner).set_params(checkpoint=None).fit(X, y)
        assert_array_equal(learner.transform(X), alone.transform(X))
        assert len(list(tmp_path.iterdir())) == 1  # that of the fit that failed


def test_checkpoint_moves_with_its_folder(tmp_path, fail_after):
    options = {**QUICK, "callbacks": [Fail]}
    fail_after(1)
    with pytest.raises(Stop):
        DeepTripletEmbedder(**options, checkpoint=tmp_path / "old").fit(MANY, MANY_Y)
    (tmp_path / "old").rename(tmp_path / "new")
    fail_after(None)
    DeepTripletEmbedder(**options, checkpoint=tmp_path / "new").fit(MANY, MANY_Y)
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]
    assert not list((tmp_path / "new").iterdir())


def test_checkpoint_does_not_carry_the_data(tmp_path, fail_after):
    X = np.random.default_rng(0).normal(size=(4000, 20)).astype(np.float32)  # 320 kB
    fail_after(1)
    learner = DeepTripletEmbedder(**QUICK, callbacks=[Fail], checkpoint=tmp_path)
    with pytest.raises(Stop):
        learner.fit(X, np.arange(4000) % 9)
    (state,) = tmp_path.iterdir()
    assert state.stat().st_size < 100_000


def test_interrupted_fit_keeps_its_checkpoint(tmp_path):
    learner = DeepTripletEmbedder(max_epochs=5, random_state=0, callbacks=[Interrupt()])
    learner.set_params(checkpoint=tmp_path, early_stopping=False, batch_size=16)
    with pytest.warns(UserWarning, match="Training was interrupted"):
        learner.fit(MANY, MANY_Y)
    assert len(learner.history_["loss"]) == 2
    assert len(list(tmp_path.iterdir())) == 1


class Interrupt(Callback):
    """Ctrl-C after the first batch of the third epoch."""

    def on_batch_end(self, net, **kwargs):
        if len(net.history) == 3:
            raise KeyboardInterrupt


def test_ctrl_c_amid_an_epoch_keeps_what_it_learned():
    options = {**TO_THE_END, "max_epochs": 9, "lr": 0.01, "batch_size": 16}
    learner = DeepTripletEmbedder(**options, callbacks=[Interrupt])
    with pytest.warns(UserWarning, match="Training was interrupted"):
        learner.fit(MANY, MANY_Y)
    two = DeepTripletEmbedder(**{**options, "max_epochs": 2}).fit(MANY, MANY_Y)
    assert {len(column) for column in learner.history_.values()} == {2}
    assert_array_equal(learner.history_["loss"], two.history_["loss"])
    assert not np.array_equal(learner.transform(MANY), two.transform(MANY))
    best = DeepTripletEmbedder(**{**options, "early_stopping": True}, callbacks=[Interrupt])
    with pytest.warns(UserWarning, match="Training was interrupted"):
        best.fit(MANY, MANY_Y)
    assert best.best_epoch_ <= 2


# Going on


@both
def test_partial_fit_goes_on_with_classes_that_come_and_go(Learner):
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


def test_partial_fit_goes_on_after_fit_and_after_pickle():
    learner = DeepTripletEmbedder(**QUICK).fit(MANY, MANY_Y)
    again = pickle.loads(pickle.dumps(learner))
    for one in (learner, again):
        one.partial_fit(MANY, MANY_Y).partial_fit(MANY, MANY_Y)
        assert one.history_["loss"].shape == (5,)
        assert one.best_epoch_ == 5
    assert_array_equal(again.transform(MANY), learner.transform(MANY))


def test_partial_fit_draws_another_dropout_in_each_call():
    class Mask(nn.Module):
        drawn = ()

        def forward(self, X):
            if self.training:
                Mask.drawn += (torch.rand(1).item(),)
            return X

    Mask.drawn = ()
    learner = DeepTripletEmbedder(nn.Sequential(nn.Linear(6, 2), Mask()), random_state=0)
    for _ in range(3):
        learner.partial_fit(MANY, MANY_Y)
    assert len(set(Mask.drawn)) == len(Mask.drawn) == 3


class Bad(Callback):
    def on_batch_end(self, net, **kwargs):
        if Fail.after is not None:
            raise Stop


def test_epoch_that_fails_changes_nothing(fail_after):
    learner = DeepTripletEmbedder(**QUICK, lr=0.01, callbacks=[Bad]).fit(MANY, MANY_Y)
    before = learner.transform(MANY)
    fail_after(0)
    for train in (learner.partial_fit, learner.fit):
        with pytest.raises(Stop):
            train(MANY, MANY_Y)
        assert_array_equal(learner.transform(MANY), before)
        assert learner.history_["loss"].shape == (3,)


def test_warm_start_begins_with_the_last_network():
    learner = DeepTripletEmbedder(**TO_THE_END, lr=0.05, warm_start=True).fit(MANY, MANY_Y)
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


# Randomness


@both
@pytest.mark.parametrize("X", [MANY, Rows(MANY)], ids=["array", "dataset"])
def test_no_global_generator_moves(Learner, X):
    before = global_states()
    learner = Learner(**QUICK, module__dropout=0.3).fit(X, MANY_Y)
    learner.partial_fit(X, MANY_Y).transform(X)
    learner.get_metric()(MANY[:3])
    assert global_states() == before


@both
def test_random_state_decides_every_bit(Learner):
    options = {**TO_THE_END, "module__dropout": 0.3, "lr": 0.01}
    one, two = (Learner(**options).fit(MANY, MANY_Y) for _ in range(2))
    other = Learner(**options).set_params(random_state=1).fit(MANY, MANY_Y)
    assert_array_equal(one.transform(MANY), two.transform(MANY))
    assert not np.array_equal(one.transform(MANY), other.transform(MANY))
    generators = [np.random.RandomState(0) for _ in range(2)]
    one, two = (clone(one).set_params(random_state=rng).fit(MANY, MANY_Y) for rng in generators)
    assert_array_equal(one.transform(MANY), two.transform(MANY))


# What is left


def test_a_fitted_learner_does_not_carry_the_data(tmp_path):
    X = np.random.default_rng(0).normal(size=(4000, 20)).astype(np.float32)  # 320 kB
    learner = DeepTripletEmbedder(**QUICK, checkpoint=tmp_path).fit(X, np.arange(4000) % 9)
    assert len(pickle.dumps(learner)) < 100_000
    names = [type(one[1] if isinstance(one, tuple) else one) for one in learner.net_.callbacks]
    assert {name.__name__ for name in names} == {"PassthroughScoring", "CollapseAlarm", "IdleAlarm"}
    joblib.dump(learner, tmp_path / "learner")
    assert_array_equal(joblib.load(tmp_path / "learner").transform(X), learner.transform(X))


@both
def test_grid_search_in_two_processes(Learner):
    model = make_pipeline(Learner(**QUICK), KNeighborsClassifier())
    name = Learner.__name__.lower()
    grid = {f"{name}__margin": [0.1, 0.8], f"{name}__module__n_hidden": [4, 9]}
    search = GridSearchCV(model, grid, cv=2, n_jobs=2, error_score="raise").fit(FEW, FEW_Y)
    best = search.best_params_[f"{name}__module__n_hidden"]
    assert search.best_estimator_[0].net_.module_.branch[1].out_features == best
    assert len(search.cv_results_["params"]) == 4


def test_metric_is_independent_of_further_training():
    learner = DeepTripletEmbedder(**QUICK, lr=0.01).fit(MANY, MANY_Y)
    d = learner.get_metric()
    before = d(MANY)
    learner.partial_fit(MANY, MANY_Y)
    assert not np.allclose(learner.get_metric()(MANY), before)
    learner.fit(MANY * 2, MANY_Y)
    assert_array_equal(d(MANY), before)
    e, before_e = learner.get_metric(), learner.get_metric()(MANY)
    with torch.no_grad():  # as one does who trains the net himself
        learner.net_.module_.weight.zero_()
    assert_array_equal(e(MANY), before_e)
    assert_array_equal(pickle.loads(pickle.dumps(d))(MANY), before)


class Counting(Scale):
    """Counts the points that pass through it."""

    passed = 0

    def forward(self, X):
        Counting.passed += len(X)
        return super().forward(X)


def test_each_distinct_point_is_embedded_once():
    options = {"max_epochs": 1, "early_stopping": False}
    d = DeepTripletEmbedder(Counting(), **options).fit(FEW, FEW_Y).get_metric()
    Counting.passed = 0
    for x in FEW[:6]:
        for z in FEW[:6]:
            d(x, z)
    assert Counting.passed == 6
    Counting.passed = 0
    d(np.repeat(FEW[:5], 4, axis=0), FEW[:7])
    assert Counting.passed == 7


def test_threads_may_share_a_learner():
    X = np.repeat(MANY, 5, axis=0)
    learner = DeepTripletEmbedder(**QUICK, module__dropout=0.5).fit(MANY, MANY_Y)
    assert not learner.net_.module_.training
    d, Z = learner.get_metric(), learner.transform(X)
    assert not d.embed.module.training
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: learner.transform(X), range(16)):
            assert_array_equal(found, Z)


def test_flattened_images_are_accepted_by_the_metric():
    X = np.random.default_rng(0).normal(size=(30, 2, 4, 3))
    learner = DeepTripletEmbedder(**QUICK).fit(X, np.arange(30) % 3)
    d = learner.get_metric()
    assert learner.n_features_in_ == 2
    assert_array_equal(d(X.reshape(30, -1)), d.pairwise(X))
    assert d(X[0].ravel(), X[1].ravel()) == pytest.approx(d.pairwise(X[:2])[0, 1])
    with pytest.raises(
        ValueError, match=r"points of shape \(2, 4, 3\); got points of shape \(9,\)"
    ):
        d(np.zeros((3, 9)))
    with pytest.raises(ValueError, match=r"fitted on points of shape \(2, 4, 3\)"):
        learner.transform(X[:, :, :3])


def test_instance_of_our_network_can_be_given():
    net = ResidualEmbedder(6, 2, n_hidden=5)
    learner = DeepTripletEmbedder(net, **{k: QUICK[k] for k in ("max_epochs", "random_state")})
    assert learner.fit(MANY, MANY_Y).transform(MANY).shape == (120, 2)
    with pytest.raises(ValueError, match="'module__n_hidden' needs a class to build"):
        learner.set_params(module__n_hidden=3).fit(MANY, MANY_Y)


class Noise(Dataset):
    """Points that are drawn anew whenever they are read."""

    def __len__(self):
        return len(MANY)

    def __getitem__(self, i):
        return torch.rand(6)


class FirstPoints(Callback):
    """Note the first point of each epoch."""

    seen = ()

    def on_batch_begin(self, net, batch, **kwargs):
        if len(FirstPoints.seen) < len(net.history):
            FirstPoints.seen += (batch[0][0],)


def test_worker_processes_draw_otherwise_in_each_epoch_and_alike_in_each_fit():
    options = {"max_epochs": 2, "iterator_train__num_workers": 1, "callbacks": [FirstPoints]}
    options |= {"early_stopping": False, "random_state": 0}
    fits = []
    for _ in range(2):
        FirstPoints.seen = ()
        DeepTripletEmbedder(nn.Linear(6, 2), **options).fit(Noise(), MANY_Y)
        fits.append(FirstPoints.seen)
    (first, second), (again, _) = fits
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
