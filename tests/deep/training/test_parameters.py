"""Parameters of the deep learners: module, loss, optimizer, callbacks and others."""

import numpy as np
import pytest
import torch
from helpers import fitted_attributes
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback
from torch import nn

from skdml import DeepEmbedder, DeepSiameseEmbedder, DeepTripletEmbedder
from skdml.deep import ResidualEmbedder
from skdml.deep.losses import TripletLoss
from skdml.deep.training.net import fastest_step

# Eight classes: whole classes are held out. Three classes: rows of each class are held out.
MANY, MANY_Y = make_blobs(n_samples=120, centers=8, n_features=6, cluster_std=3, random_state=0)
FEW, FEW_Y = MANY[MANY_Y < 3], MANY_Y[MANY_Y < 3]

QUICK = {"max_epochs": 3, "random_state": 0, "module__n_hidden": 8}
NO_STOPPING = {**QUICK, "early_stopping": False}

siamese_and_triplet = pytest.mark.parametrize("Learner", [DeepSiameseEmbedder, DeepTripletEmbedder])


class RecordBatches(Callback):
    """Record the level and size of each batch, in a list that all copies share."""

    records = ()

    def __init__(self, level=0):
        self.level = level

    def on_batch_end(self, net, batch, **kwargs):
        self.touched_ = True
        RecordBatches.records.append((self.level, len(batch[0])))


@pytest.fixture
def records():
    RecordBatches.records = []
    return RecordBatches.records


# The module


def make_linear(n_features, n_components):
    return nn.Linear(n_features, n_components)


class LinearWithOptions(nn.Linear):
    """A linear map that passes other parameters on."""

    def __init__(self, n_features, n_components, **options):
        super().__init__(n_features, n_components, **options)


@pytest.mark.parametrize("module", [make_linear, LinearWithOptions])
def test_module_receives_the_shapes_that_it_accepts(module):
    learner = DeepEmbedder(module, n_components=3, max_epochs=1).fit(FEW, FEW_Y)
    assert learner.transform(FEW).shape == (len(FEW), 3)
    if module is LinearWithOptions:
        learner.set_params(module__bias=False).fit(FEW, FEW_Y)
        assert learner.net_.module_.bias is None


def test_default_network_with_trained_weights_keeps_them():
    first = DeepTripletEmbedder(**NO_STOPPING, lr=0.01).fit(FEW, FEW_Y)
    trained = first.net_.module_
    second = DeepTripletEmbedder(trained, max_epochs=1, lr=1e-30, early_stopping=False)
    second.fit(FEW * 5 + 3, FEW_Y)
    assert second.net_.module_ is not trained
    assert_allclose(second.transform(FEW), first.transform(FEW), rtol=1e-5, atol=1e-6)


def test_module_can_be_an_instance_of_a_default_network():
    net = ResidualEmbedder(6, 2, n_hidden=5)
    learner = DeepTripletEmbedder(net, **{k: QUICK[k] for k in ("max_epochs", "random_state")})
    assert learner.fit(MANY, MANY_Y).transform(MANY).shape == (120, 2)
    with pytest.raises(ValueError, match="'module__n_hidden' needs a class to build"):
        learner.set_params(module__n_hidden=3).fit(MANY, MANY_Y)


def test_instances_among_the_parameters_are_copied():
    class Net(nn.Module):
        def __init__(self, n_features, last):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(n_features, 2), last)

        def forward(self, X):
            return self.layers(X)

    last, loss, callback = nn.PReLU(), TripletLoss(0.5), RecordBatches()
    RecordBatches.records = []
    learner = DeepEmbedder(Net, loss=loss, module__last=last, callbacks=[callback], max_epochs=2)
    learner.set_params(early_stopping=False, lr=0.1).fit(FEW, FEW_Y)
    assert last.weight.item() == 0.25
    assert learner.net_.module_.layers[1].weight.item() != 0.25
    assert learner.net_.criterion_ is not loss
    assert not hasattr(callback, "touched_")
    assert RecordBatches.records


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
def test_module_that_returns_no_embedding_raises(module, message):
    learner = DeepTripletEmbedder(module, early_stopping=False)
    with pytest.raises(ValueError, match=message):
        learner.fit(FEW, FEW_Y)
    assert fitted_attributes(learner) == []


def test_module_must_return_n_components():
    with pytest.raises(ValueError, match=r"n_components=3, but the module .* width 2"):
        DeepTripletEmbedder(nn.Linear(6, 2), n_components=3).fit(FEW, FEW_Y)


# The loss


@pytest.mark.parametrize("loss", ["hinge", 5, nn.MSELoss])
def test_unknown_losses_and_missing_margins_raise(loss):
    with pytest.raises(ValueError, match=r"loss=.* is (unknown|no loss)|has no margin"):
        DeepEmbedder(loss=loss, margin=0.3).fit(FEW, FEW_Y)
    with pytest.raises(
        ValueError, match=r"margin=0.3 was given together with a TripletLoss instance"
    ):
        DeepEmbedder(loss=TripletLoss(), margin=0.3).fit(FEW, FEW_Y)


def test_loss_of_two_arguments():
    class Loss(nn.Module):
        def forward(self, embeddings, labels):
            return (embeddings - labels[:, None]).square().mean()

    learner = DeepEmbedder(**NO_STOPPING, loss=Loss).fit(FEW, FEW_Y)
    assert np.isfinite(learner.history_["loss"]).all()
    assert np.isnan(learner.history_["active_share"]).all()


def test_loss_instance_keeps_its_miner():
    loss = TripletLoss(miner="hard")
    by_loss = DeepEmbedder(**NO_STOPPING, loss=loss).fit(MANY, MANY_Y)
    by_name = DeepEmbedder(**NO_STOPPING, loss="triplet", miner="hard").fit(MANY, MANY_Y)
    assert_array_equal(by_loss.transform(MANY), by_name.transform(MANY))


def test_miner_given_by_name_uses_the_distance_of_the_learner():
    given = []

    class Loss(nn.Module):
        def forward(self, embeddings, labels, indices_tuple=None):
            given.append((embeddings.detach(), labels, indices_tuple))
            return embeddings.square().mean()

    options = {**NO_STOPPING, "max_epochs": 1, "loss": Loss}
    DeepEmbedder(**options).fit(FEW, FEW_Y)
    assert given[0][2] is None  # a loss uses all tuples by default
    given.clear()
    DeepEmbedder(**options, miner="hard", distance="cosine").fit(FEW - 20, FEW_Y)
    embeddings, labels, (a, p, _) = given[0]
    similar = nn.functional.cosine_similarity(embeddings[:, None], embeddings, dim=2)
    for i, j in zip(a.tolist(), p.tolist(), strict=True):
        same = (labels == labels[i]).nonzero().ravel()
        assert similar[i, j] <= similar[i, same].min() + 1e-6


# All parameters


@siamese_and_triplet
def test_parameters_of_the_net_are_passed_on(Learner, records):
    learner = Learner(
        **NO_STOPPING,
        callbacks=[("count", RecordBatches)],
        callbacks__count__level=7,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.5,
        iterator_train__num_workers=1,
        criterion__reduction="sum",
    )
    learner = clone(learner).fit(FEW, FEW_Y)
    assert {level for level, _ in records} == {7}
    assert learner.net_.optimizer_.param_groups[0]["momentum"] == 0.5
    assert learner.net_.get_iterator.__self__.get_params_for("iterator_train") == {"num_workers": 1}
    assert learner.net_.criterion_.reduction == "sum"
    assert clone(learner).get_params() == learner.get_params()
    learner.set_params(iterator_train__num_workers=0)
    Z = learner.transform(FEW)
    assert_array_equal(learner.fit(FEW, FEW_Y).transform(FEW), Z)


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
    options = {**NO_STOPPING, "n_components": 4, "batch_size": 32}
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
def test_errors_of_bad_parameters_state_what_is_allowed(params, message):
    learner = DeepTripletEmbedder(**{"early_stopping": False, **params})
    with pytest.raises(ValueError, match=message):
        learner.fit(FEW, FEW_Y)
    assert fitted_attributes(learner) == []


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
def test_parameters_of_a_wrong_type_raise(params):
    with pytest.raises(TypeError, match=rf"{next(iter(params))} must be an instance of"):
        DeepTripletEmbedder(**params).fit(FEW, FEW_Y)


def test_adam_is_fused_on_a_cpu_by_default():
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


def test_verbose_prints_each_epoch(capsys):
    DeepTripletEmbedder(**NO_STOPPING).fit(FEW, FEW_Y)
    assert not capsys.readouterr().out
    learner = DeepTripletEmbedder(**NO_STOPPING, verbose=1).fit(FEW, FEW_Y)
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


@siamese_and_triplet
def test_grid_search_in_two_processes(Learner):
    model = make_pipeline(Learner(**QUICK), KNeighborsClassifier())
    name = Learner.__name__.lower()
    grid = {f"{name}__margin": [0.1, 0.8], f"{name}__module__n_hidden": [4, 9]}
    search = GridSearchCV(model, grid, cv=2, n_jobs=2, error_score="raise").fit(FEW, FEW_Y)
    best = search.best_params_[f"{name}__module__n_hidden"]
    assert search.best_estimator_[0].net_.module_.branch[1].out_features == best
    assert len(search.cv_results_["params"]) == 4
