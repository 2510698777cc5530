"""Early stopping: what is held out, which weights are kept, and the refit on all rows."""

import warnings

import numpy as np
import pytest
import torch
from helpers import CountingDataset
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from skorch.callbacks import Callback, EarlyStopping
from torch import nn

from skdml import DeepEmbedder, DeepProxyEmbedder, DeepSiameseEmbedder, DeepTripletEmbedder
from skdml.deep import InitialWeightsWarning
from skdml.deep.data.datasets import ArrayDataset
from skdml.deep.scores import RetrievalScore, lower_bound
from skdml.deep.training.held_out import hold_out, split_labels, split_rows
from skdml.deep.training.stopping import RetrievalStopping

# Eight classes: whole classes are held out. Three classes: rows of each class are held out.
MANY, MANY_Y = make_blobs(n_samples=120, centers=8, n_features=6, cluster_std=3, random_state=0)
FEW, FEW_Y = MANY[MANY_Y < 3], MANY_Y[MANY_Y < 3]

QUICK = {"max_epochs": 3, "random_state": 0, "module__n_hidden": 8}
NO_STOPPING = {**QUICK, "early_stopping": False}


# Held-out classes and rows


def make_codes(n_classes, each=6):
    return np.repeat(np.arange(n_classes), each)


@pytest.mark.parametrize(
    ("n_classes", "whole_classes"), [(8, True), (5, True), (4, False), (2, False)]
)
def test_whole_classes_are_held_out_if_there_are_at_least_five(n_classes, whole_classes):
    codes = make_codes(n_classes)
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


def test_held_out_classes_are_searched_among_themselves_and_among_all_points():
    data = ArrayDataset(MANY.astype(np.float32), MANY_Y)
    options = {"distance": "euclidean", "scoring": "recall_at_1"}
    train, score = hold_out(data, 0.3, np.random.default_rng(0), **options)
    held = np.setdiff1d(np.arange(120), train)
    expected = np.zeros((2, 2))
    for view, gallery in enumerate([held, np.arange(120)]):
        for column, label in enumerate(np.unique(MANY_Y[held])):
            hits = []
            for i in np.flatnonzero(label == MANY_Y):
                others = gallery[gallery != i]
                nearest = others[np.linalg.norm(MANY[others] - MANY[i], axis=1).argmin()]
                hits.append(MANY_Y[nearest] == label)
            expected[view, column] = np.mean(hits)
    assert_allclose(score(lambda X: X), expected)
    assert not np.array_equal(*expected)


def test_two_rows_of_each_class_remain_for_training():
    codes = np.repeat([0, 1, 2, 3], [3, 2, 1, 10])
    data = ArrayDataset(np.zeros((16, 2), np.float32), codes)
    options = {"distance": "euclidean", "scoring": "map_at_r"}
    train, _ = hold_out(data, 0.9, np.random.default_rng(0), **options)
    assert np.bincount(codes[train]).tolist() == [2, 2, 1, 2]


@pytest.mark.parametrize("kind", ["labels", "targets"])
def test_groups_are_held_out_as_a_whole(kind):
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
    if kind == "labels":  # the best of twenty draws holds out about a fifth of each class
        counts = np.bincount(codes)
        assert np.abs(np.bincount(codes[held]) / counts - 0.2).max() < 0.07


@pytest.mark.parametrize(
    ("n_second", "groups_of_first", "groups_of_second", "whole"),
    [
        (4, [0, 1, 2, 3], [4], True),  # the only group of the second class cannot be held out
        (4, [0, 1, 2, 3], [4, 5, 6, 7], True),  # at most two groups of it can be held out
        (2, [0, 1], [0, 1], False),  # no group can be held out
        (4, [0], [0], False),
    ],
)
def test_held_out_groups_leave_two_rows_of_each_class(
    n_second, groups_of_first, groups_of_second, whole
):
    codes = np.repeat([0, 1], [16, n_second])
    groups = np.r_[np.resize(groups_of_first, 16), np.resize(groups_of_second, n_second)]
    train, held = split_rows(codes, 0.5, np.random.default_rng(0), groups)
    assert np.array_equal(np.sort(np.r_[train, held]), np.arange(len(codes)))
    assert len(held) >= 2
    assert np.bincount(codes[train]).min() >= 2
    assert set(groups[train]).isdisjoint(groups[held]) == whole


def test_held_out_rows_are_not_trained_on():
    data = CountingDataset(MANY)
    trained = []

    class RecordPoints(Callback):
        def on_batch_end(self, net, batch, **kwargs):
            trained.append(batch[0].numpy())

    DeepTripletEmbedder(**QUICK, callbacks=[RecordPoints], refit=False).fit(data, MANY_Y)
    trained = {row.tobytes() for row in np.concatenate(trained)}
    of_class = [{row.numpy().tobytes() for row in data.X[c == MANY_Y]} for c in range(8)]
    assert sorted(len(points & trained) for points in of_class) == [0, 0] + [15] * 6


def test_too_few_rows_to_hold_out_are_trained_on_without_stopping():
    learner = DeepTripletEmbedder(**QUICK).fit(FEW[:6], [0, 0, 1, 1, 2, 2])
    assert learner.best_epoch_ == 3
    assert np.isnan(learner.best_score_)


# Scores


def test_history_has_a_value_for_each_epoch():
    history = DeepSiameseEmbedder(**QUICK, patience=9).fit(MANY, MANY_Y).history_
    names = {"loss", "active_share", "spread", "seconds", "map_at_r", "map_at_r_gain"}
    assert set(history) == names
    for column in history.values():
        assert column.shape == (3,)
        assert np.isfinite(column).all()
    assert (history["spread"] > 0).all()
    assert ((history["active_share"] >= 0) & (history["active_share"] <= 1)).all()


@pytest.mark.parametrize(("X", "y", "n_given"), [(MANY, MANY_Y, 2), (FEW, FEW_Y, 4)])
def test_callable_scoring_receives_the_held_out_points(X, y, n_given):
    calls = []

    def score(*given):
        calls.append(given)
        return 0.0

    DeepTripletEmbedder(**QUICK, patience=9, scoring=score).fit(X, y)
    assert len(calls) == 1 + 2 * 3  # the start, and twice in each epoch
    assert {len(given) for given in calls} == {n_given}
    assert all(len(given[0]) == len(given[1]) for given in calls)


def test_scoring_by_name():
    learner = DeepTripletEmbedder(**QUICK, scoring="recall_at_1").fit(MANY, MANY_Y)
    assert 0 < learner.history_["recall_at_1"][-1] <= 1


def test_lower_bound_of_gains_in_all_views_and_classes():
    gains = np.random.default_rng(0).normal(0.2, 0.3, size=(2, 4))
    gains[1] -= 0.1
    quantile = 1.6377443536962102  # the 90 % quantile of Student's t, three degrees of freedom
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


# The best weights


class PlannedScore:
    """A score with planned values, whatever the embedding.

    The first value is the score of the initial weights. Each epoch then takes two values: that of
    the trained weights, and `midway` for the weights midway to the initial ones.
    """

    __name__ = "plan"

    def __init__(self, values, midway=-1.0):
        self.values = [values[0]]
        for value in values[1:]:
            self.values += [value, midway]

    def __call__(self, embeddings, labels, reference=None, reference_labels=None):
        return self.values.pop(0)

    def __deepcopy__(self, memo):
        return self


@pytest.mark.parametrize(
    ("values", "patience", "best", "n_epochs"),
    [
        ([0.5, 0.4, 0.3, 0.2, 0.1], 2, 0, 2),
        ([0.5, 0.6, 0.4, 0.7, 0.6, 0.6, 0.9], 2, 3, 5),
        ([0.5, 0.6, 0.4, 0.7, 0.6, 0.6, 0.9], 9, 6, 6),
        ([0.5, np.nan, np.nan, 0.6, 0.1, 0.1, 0.1], 9, 3, 6),
    ],
)
def test_patience_and_best_weights(values, patience, best, n_epochs):
    weights = []

    class RecordWeights(Callback):
        def on_epoch_end(self, net, **kwargs):
            weights.append(net.module_.weight.detach().clone())

    options = {"max_epochs": 6, "random_state": 0, "lr": 0.01, "callbacks": [RecordWeights]}
    options |= {"scoring": PlannedScore(values), "patience": patience, "refit": False}
    learner = DeepTripletEmbedder(**options).fit(FEW, FEW_Y)
    assert learner.best_epoch_ == best
    assert learner.start_score_ == 0.5
    assert learner.best_score_ == values[best]
    assert len(learner.history_["plan"]) == n_epochs
    assert_array_equal(learner.history_["plan"], values[1 : n_epochs + 1])
    if best:
        assert torch.equal(learner.net_.module_.weight, weights[best - 1])


@pytest.mark.parametrize(("batch_size", "n_batches"), [(8, 11), (64, 2)])
def test_default_patience_is_ten_epochs_or_a_hundred_batches(batch_size, n_batches):
    options = {"max_epochs": 60, "batch_size": batch_size, "refit": False, "random_state": 0}
    learner = DeepTripletEmbedder(scoring=PlannedScore([0.5] * 61), **options).fit(MANY, MANY_Y)
    assert len(learner.net_.history[-1, "batches"]) == n_batches
    n_epochs = max(10, 100 // n_batches)
    assert len(learner.history_["plan"]) == n_epochs
    scored = np.flatnonzero(np.isfinite(learner.history_["plan"])) + 1
    assert_array_equal(scored, np.arange(1, 11) * n_epochs // 10)


def test_a_short_training_is_scored_at_its_end():
    options = {"max_epochs": 7, "scoring": PlannedScore([0.5, 0.4, 0.6]), "refit": False}
    learner = DeepTripletEmbedder(batch_size=64, random_state=0, **options).fit(MANY, MANY_Y)
    assert_array_equal(learner.history_["plan"], [np.nan] * 4 + [0.4, np.nan, 0.6])
    assert (learner.best_epoch_, learner.best_score_) == (7, 0.6)


@pytest.mark.parametrize("refit", [False, True])
def test_weights_midway_to_the_start_are_kept_if_they_score_higher(refit):
    options = {"lr": 0.01, "random_state": 0}
    score = PlannedScore([0.5, 0.4, 0.3], midway=0.7)
    stopped = {"scoring": score, "max_epochs": 2, "patience": 9, "refit": refit}
    learner = DeepTripletEmbedder(**stopped, **options).fit(MANY, MANY_Y)
    assert (learner.best_epoch_, learner.best_share_, learner.best_score_) == (1, 0.5, 0.7)
    assert_array_equal(learner.history_["plan"], [0.7, 0.7])
    weights = {}
    for lr in (0.01, 1e-30):
        one_epoch = {**options, "lr": lr, "max_epochs": 1}
        if refit:
            one_epoch["early_stopping"] = False
        else:
            one_epoch |= {"scoring": PlannedScore([0.5, 0.6]), "refit": False}
        trained = DeepTripletEmbedder(**one_epoch).fit(MANY, MANY_Y)
        weights[lr] = trained.net_.module_.state_dict()
    for name, weight in learner.net_.module_.state_dict().items():
        expected = (weights[0.01][name] + weights[1e-30][name]) / 2
        assert_allclose(weight, expected, rtol=1e-3, atol=1e-6)


def test_without_early_stopping_every_epoch_uses_all_rows():
    sizes = []

    class RecordSizes(Callback):
        def on_batch_end(self, net, batch, **kwargs):
            sizes.append(len(batch[0]))

    learner = DeepTripletEmbedder(**NO_STOPPING, callbacks=[RecordSizes]).fit(MANY, MANY_Y)
    assert sum(sizes) == 3 * 120
    assert learner.best_epoch_ == len(learner.history_["loss"]) == 3
    assert np.isnan([learner.start_score_, learner.best_score_]).all()
    assert set(learner.history_) == {"loss", "active_share", "spread", "seconds"}


def test_early_stopping_of_skorch():
    stop = EarlyStopping(monitor="train_loss", patience=1, threshold=10, sink=lambda text: None)
    learner = DeepTripletEmbedder(**NO_STOPPING, callbacks=[stop]).fit(FEW, FEW_Y)
    assert len(learner.history_["loss"]) < 3


# Initial weights: kept on purpose, or never


class OwnNetwork(nn.Linear):
    """A network with random initial weights."""

    def __init__(self, n_features, n_components):
        super().__init__(n_features, n_components)


class StartingNetwork(OwnNetwork):
    """A network that chooses its initial weights."""

    def initialize_from(self, X):
        nn.init.eye_(self.weight)


def plan_one_value_per_epoch(values):
    score = PlannedScore(values)
    score.values = [*values]
    return score


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize(
    ("values", "patience", "best", "n_epochs"),
    [
        ([0.9, 0.4, 0.3, 0.2, 0.1], 2, 1, 3),  # the initial weights score best
        ([0.1, 0.4, 0.6, 0.5, 0.6, 0.1, 0.1], 9, 4, 6),  # the last of two equal scores
        ([0.9, np.nan, np.nan, 0.6, 0.1, 0.1, 0.1], 9, 3, 6),
        ([np.nan] * 7, 9, 6, 6),
    ],
)
def test_own_network_keeps_one_of_its_epochs(values, patience, best, n_epochs, refit):
    options = {"max_epochs": 6, "random_state": 0, "lr": 0.01, "patience": patience}
    options |= {"scoring": plan_one_value_per_epoch(values), "refit": refit}
    learner = DeepTripletEmbedder(OwnNetwork, **options).fit(FEW, FEW_Y)
    assert (learner.best_epoch_, learner.best_share_) == (best, 1.0)
    assert_array_equal(learner.best_score_, values[best])
    assert_array_equal(learner.history_["plan"], values[1 : n_epochs + 1])
    if refit:
        whole = {"max_epochs": best, "random_state": 0, "lr": 0.01, "early_stopping": False}
        expected = DeepTripletEmbedder(OwnNetwork, **whole).fit(FEW, FEW_Y).transform(FEW)
        assert_array_equal(learner.transform(FEW), expected)


def test_loss_in_only_one_held_out_class_does_not_count(monkeypatch):
    planned = [[0.1, 0.1], [0.6, 0.6], [0.6, 0.3], [0.5, 0.45], [0.2, 0.2]]
    values = [np.tile(groups, (2, 1)) for groups in planned]
    monkeypatch.setattr(RetrievalScore, "__call__", lambda self, embed: values.pop(0))
    options = {"max_epochs": 4, "random_state": 0, "patience": 9, "refit": False}
    learner = DeepTripletEmbedder(OwnNetwork, **options).fit(MANY, MANY_Y)
    # Epoch 2 is 0 and .3 lower than epoch 1, in the two classes. Epoch 3 is .1 and .15 lower.
    assert learner.best_epoch_ == 2


def test_epoch_without_a_score_is_kept_rather_than_random_weights():
    class EndTraining(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 2:
                raise KeyboardInterrupt

    options = {"max_epochs": 60, "batch_size": 64, "callbacks": [EndTraining], "random_state": 0}
    learner = DeepTripletEmbedder(OwnNetwork, **options).fit(MANY, MANY_Y)
    assert learner.best_epoch_ == len(learner.history_["loss"]) == 2
    assert np.isnan(learner.history_["map_at_r"]).all()


def falling(*given):
    """A score that is best for the initial weights."""
    falling.value -= 0.1
    return falling.value


@pytest.fixture
def falling_options():
    falling.value = 0.9
    return {"max_epochs": 2, "random_state": 0, "patience": 9, "scoring": falling}


@pytest.mark.parametrize("Learner", [DeepEmbedder, DeepSiameseEmbedder, DeepProxyEmbedder])
@pytest.mark.parametrize(
    "network",
    [
        {"module": OwnNetwork},
        {"module": nn.Linear(6, 3)},
        {"module": nn.Linear(6, 6), "freeze": "module", "head": OwnNetwork},
    ],
)
def test_random_initial_weights_never_come_back(falling_options, Learner, network):
    learner = Learner(**network, **falling_options).fit(MANY, MANY_Y)
    assert learner.best_epoch_ == 1


@pytest.mark.parametrize("Learner", [DeepEmbedder, DeepTripletEmbedder, DeepProxyEmbedder])
@pytest.mark.parametrize("network", [{}, {"module": StartingNetwork}])
def test_kept_initial_weights_give_one_warning(falling_options, Learner, network):
    learner = Learner(**network, **falling_options)
    with pytest.warns(InitialWeightsWarning, match=r"held-out classes.*hold_out='rows'") as caught:
        learner.fit(MANY, MANY_Y)
    assert learner.best_epoch_ == 0
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("hold_out", ["auto", "rows"])
def test_warning_for_held_out_rows_advises_to_train_to_the_end(falling_options, hold_out):
    learner = DeepTripletEmbedder(**falling_options, hold_out=hold_out)
    with pytest.warns(InitialWeightsWarning, match=r"held-out data.*early_stopping=False"):
        learner.fit(FEW, FEW_Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner.set_params(early_stopping=False).fit(FEW, FEW_Y)
    assert learner.best_epoch_ == 2


def test_a_second_fit_may_keep_the_weights_of_the_first(falling_options):
    learner = DeepTripletEmbedder(OwnNetwork, warm_start=True, **falling_options)
    before = learner.fit(MANY, MANY_Y).transform(MANY)
    with pytest.warns(InitialWeightsWarning, match="weights of the last fit"):
        learner.fit(MANY, MANY_Y)
    assert_allclose(learner.transform(MANY), before, rtol=1e-6)


# The parameter hold_out


@pytest.mark.parametrize("n_classes", [4, 8])
@pytest.mark.parametrize("kind", ["auto", "rows", "classes"])
def test_hold_out_sets_what_is_held_out(n_classes, kind):
    codes = make_codes(n_classes)
    data = ArrayDataset(np.zeros((len(codes), 2), np.float32), codes)
    options = {"distance": "euclidean", "scoring": "map_at_r", "kind": kind}
    if kind == "classes" and n_classes == 4:
        with pytest.raises(ValueError, match=r"holds out 2 of the 4 classes.*hold_out='rows'"):
            hold_out(data, 0.2, np.random.default_rng(0), **options)
        return
    train, score = hold_out(data, 0.2, np.random.default_rng(0), **options)
    n_trained = len(np.unique(codes[train]))
    assert score.unseen_classes == (n_trained < n_classes)
    assert n_trained == (n_classes if kind == "rows" or n_classes == 4 else n_classes - 2)
    assert len(train) < len(codes)


def test_held_out_classes_keep_points_to_retrieve_if_there_are_very_many():
    codes = np.arange(400_000) // 2
    draw = split_labels(codes, 0.9, np.random.default_rng(0), "classes")
    assert np.bincount(codes[draw[1]]).max() == 2
    assert draw[3]


def test_hold_out_of_a_learner(falling_options):
    options = {**falling_options, "scoring": "map_at_r", "max_epochs": 1, "module": OwnNetwork}
    few = {"hold_out": "classes", **options}
    learner = DeepTripletEmbedder(**few)
    with pytest.raises(ValueError, match="hold_out='classes'"):
        learner.fit(FEW, FEW_Y)
    assert not hasattr(learner, "net_")
    learner.set_params(early_stopping=False).fit(FEW, FEW_Y)  # nothing is held out
    with pytest.raises(ValueError, match=r"hold_out='groups' is unknown.*'rows'"):
        learner.set_params(hold_out="groups").fit(MANY, MANY_Y)
    pairs = {**few, "supervision": "pairs"}
    with pytest.raises(ValueError, match=r"needs class labels.*pairs"):
        DeepSiameseEmbedder(**pairs).fit(MANY.reshape(-1, 2, 6), np.arange(60) % 2)


def test_proxy_learner_without_refit_holds_out_rows():
    options = {"max_epochs": 1, "random_state": 0, "refit": False, "module": OwnNetwork}
    with pytest.raises(ValueError, match=r"refit=False.*hold_out='rows'"):
        DeepProxyEmbedder(**options, hold_out="classes").fit(MANY, MANY_Y)
    auto = DeepProxyEmbedder(**options).fit(MANY, MANY_Y)
    rows = DeepProxyEmbedder(**options, hold_out="rows").fit(MANY, MANY_Y)
    assert_array_equal(auto.transform(MANY), rows.transform(MANY))


# The refit


@pytest.mark.parametrize("best", [0, 2])
def test_refit_trains_on_all_rows_up_to_the_best_epoch(best):
    values = np.where(np.arange(5) == best, 0.7, 0.5)
    options = {"lr": 0.01, "random_state": 0, "module__dropout": 0.2}
    stopped = {"max_epochs": 4, "patience": 9, "scoring": PlannedScore(values), **options}
    learner = DeepTripletEmbedder(**stopped).fit(MANY, MANY_Y)
    assert learner.best_epoch_ == best
    assert len(learner.history_["plan"]) == 4
    lr = options.pop("lr") if best else options.pop("lr") * 1e-30
    whole = DeepTripletEmbedder(max_epochs=max(best, 1), lr=lr, early_stopping=False, **options)
    Z = whole.fit(MANY, MANY_Y).transform(MANY)
    assert_allclose(learner.transform(MANY), Z, rtol=0, atol=0 if best else 1e-6)
    stopped["scoring"] = PlannedScore(values)
    without_refit = DeepTripletEmbedder(refit=False, **stopped).fit(MANY, MANY_Y)
    assert not np.allclose(without_refit.transform(MANY), Z, atol=1e-3)


class Failure(Exception):
    """An error that ends a fit."""


class RaiseInRefit(Callback):
    """Raise an error in the second epoch of a refit."""

    error = None

    def on_batch_begin(self, net, **kwargs):
        if RaiseInRefit.error and len(net.history) == 2 and net.callback(RetrievalStopping) is None:
            raise RaiseInRefit.error


@pytest.fixture
def refit_options():
    """Parameters of a fit whose last epoch scores highest, since the embedding spreads out."""
    yield {
        "lr": 0.01,
        "max_epochs": 3,
        "scoring": standard_deviation,
        "callbacks": [RaiseInRefit],
        "random_state": 0,
    }
    RaiseInRefit.error = None


def standard_deviation(embeddings, labels):
    return float(embeddings.std())


def test_killed_refit_resumes_and_gives_equal_results(tmp_path, refit_options):
    whole = DeepTripletEmbedder(**refit_options).fit(MANY, MANY_Y)
    learner = DeepTripletEmbedder(**refit_options, checkpoint=tmp_path)
    RaiseInRefit.error = Failure()
    with pytest.raises(Failure):
        learner.fit(MANY, MANY_Y)
    RaiseInRefit.error = None
    assert len([*tmp_path.iterdir()]) == 2
    learner.fit(MANY, MANY_Y)
    assert learner.best_epoch_ == whole.best_epoch_ == 3
    assert_array_equal(learner.transform(MANY), whole.transform(MANY))
    assert not [*tmp_path.iterdir()]


def test_ctrl_c_in_a_refit_keeps_the_network_of_the_first_training(refit_options):
    without_refit = DeepTripletEmbedder(**refit_options, refit=False).fit(MANY, MANY_Y)
    RaiseInRefit.error = KeyboardInterrupt()
    learner = DeepTripletEmbedder(**refit_options)
    with pytest.warns(UserWarning, match="Training was interrupted"):
        learner.fit(MANY, MANY_Y)
    assert_array_equal(learner.transform(MANY), without_refit.transform(MANY))
