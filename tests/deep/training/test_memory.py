"""Cross-batch memory, batches in chunks, mixed precision and compiling."""

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback, GradientNormClipping
from torch import nn

from skdml import DeepEmbedder, DeepProxyEmbedder, DeepSiameseEmbedder, DeepTripletEmbedder
from skdml.deep.data.samplers import ClassBalancedBatches
from skdml.deep.losses import LOSSES, ContrastiveLoss, TripletLoss, learns_from
from skdml.deep.miners import BatchHardMiner
from skdml.deep.training.checkpoint import unpack_state
from skdml.deep.training.memory import CrossBatchMemory

X, Y = make_blobs(n_samples=96, centers=6, n_features=5, cluster_std=4, random_state=0)
OPTIONS = {"max_epochs": 3, "batch_size": 16, "early_stopping": False, "random_state": 0}
with torch.random.fork_rng():  # the same networks in each test run
    torch.manual_seed(0)
    SMALL = nn.Linear(5, 3)
    SMOOTH = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3, bias=False))


@pytest.fixture(autouse=True)
def same_start():
    """Build the same networks in each test, independent of earlier tests."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Stop(Exception):
    pass


class StopAfter(Callback):
    """Raise at the start of the third epoch, while `armed`."""

    armed = False

    def on_epoch_begin(self, net, **kwargs):
        if StopAfter.armed and len(net.history) == 3:  # the starting epoch has its row already
            raise Stop


@pytest.fixture
def killed():
    StopAfter.armed = True
    yield
    StopAfter.armed = False


# Memory


def test_memory_holds_the_latest_points_once():
    memory, rng, latest = CrossBatchMemory(7), np.random.default_rng(0), []
    for step in range(30):
        rows = rng.choice(12, size=4, replace=False)
        embeddings = torch.full((4, 2), float(step), requires_grad=True)
        memory.add(embeddings, torch.from_numpy(rows % 3), torch.from_numpy(rows))
        latest = [one for one in latest if one[0] not in rows] + [(row, step) for row in rows]
        latest = latest[-7:]
        assert memory.rows.tolist() == [row for row, _ in latest]
        assert memory.embeddings[:, 1].tolist() == [step for _, step in latest]
        assert memory.labels.tolist() == [row % 3 for row, _ in latest]
        assert not memory.embeddings.requires_grad
    memory.forget(torch.tensor([latest[0][0], 99]))
    assert memory.rows.tolist() == [row for row, _ in latest[1:]]
    assert pickle.loads(pickle.dumps(memory)).rows.tolist() == memory.rows.tolist()
    assert len(memory) == 6
    assert len(CrossBatchMemory(3)) == 0


def train_by_hand(loss, memory_size, miner=None):
    """Train a linear map with the memory as a list of (row, embedding, label), newest last."""
    seed = np.random.RandomState(0).randint(2**31 - 1)
    network = copy.deepcopy(SMALL)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    points, labels = torch.from_numpy(X.astype(np.float32)), torch.from_numpy(Y)
    sampler, memory = ClassBalancedBatches(Y, 16, seed=seed), []
    for epoch in range(3):
        for rows in sampler:
            z, y = network(points[rows]), labels[rows]
            others = [one for one in memory if one[0] not in rows]
            mined = () if miner is None else (miner(z.detach(), y),)
            value = loss(z, y, *mined)
            if epoch > 0 and others:
                reference = torch.stack([one[1] for one in others])
                classes = torch.stack([one[2] for one in others])
                mined = None if miner is None else miner(z.detach(), y, reference, classes)
                value = (value + loss(z, y, mined, reference, classes)) / 2
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            memory = others + list(zip(rows, z.detach(), y, strict=True))
            memory = memory[-memory_size:]
    return network


@pytest.mark.parametrize("memory_size", [1, 10, 30, 1000])
@pytest.mark.parametrize("name", ["triplet", "contrastive", "supcon"])
def test_training_with_a_memory_equals_the_definition(name, memory_size):
    options = {**OPTIONS, "optimizer": torch.optim.SGD, "lr": 0.01}
    learner = DeepEmbedder(SMALL, loss=name, memory_size=memory_size, **options).fit(X, Y)
    by_hand = train_by_hand(LOSSES[name](distance="euclidean"), memory_size)
    torch.testing.assert_close(learner.net_.module_.weight, by_hand.weight)
    without = DeepEmbedder(SMALL, loss=name, **options).fit(X, Y)
    assert not torch.equal(learner.net_.module_.weight, without.net_.module_.weight)
    assert learner.history_["loss"][0] == without.history_["loss"][0]


class TupleLoss(nn.Module):
    """A loss that needs the tuples of a miner."""

    def forward(self, embeddings, labels, indices_tuple, ref_emb=None, ref_labels=None):
        return TripletLoss()(embeddings, labels, indices_tuple, ref_emb, ref_labels)


def test_a_separate_miner_mines_in_the_memory():
    options = {**OPTIONS, "optimizer": torch.optim.SGD, "lr": 0.01, "memory_size": 40}
    learner = DeepEmbedder(SMALL, loss=TupleLoss, miner="hard", **options).fit(X, Y)
    by_hand = train_by_hand(TupleLoss(), 40, BatchHardMiner())
    torch.testing.assert_close(learner.net_.module_.weight, by_hand.weight)
    mined_inside = DeepTripletEmbedder(SMALL, miner="hard", **options).fit(X, Y)
    torch.testing.assert_close(mined_inside.net_.module_.weight, by_hand.weight)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_accepts_a_memory_or_raises(name):
    options = {**OPTIONS, "max_epochs": 2, "lr": 1e-4, "distance": "cosine"}
    learner = DeepEmbedder(SMALL, loss=name, memory_size=50, **options)
    if learns_from(name) != "labels":
        with pytest.raises(ValueError, match=r"needs class labels to compare .* have none"):
            learner.set_params(augment=torch.clone).fit(X, Y)
        return
    if hasattr(LOSSES[name], "logits"):  # proxies replace other points
        with pytest.raises(ValueError, match=r"memory_size > 0 needs .* compares points with prox"):
            learner.fit(X, Y)
        assert not hasattr(learner, "net_")
        return
    loss = learner.fit(X, Y).history_["loss"]
    without = DeepEmbedder(SMALL, loss=name, **options).fit(X, Y).history_["loss"]
    assert loss[0] == without[0]
    assert np.isfinite(loss).all()
    assert loss[1] != without[1]


class TwoArguments(nn.Module):
    def forward(self, embeddings, labels):
        return embeddings.square().mean()


def mine_within_batch(embeddings, labels):
    return BatchHardMiner()(embeddings, labels)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"loss": TwoArguments}, "unexpected keyword argument 'ref_emb'"),
        ({"loss": "triplet", "loss__swap": True}, "swap=True takes no references"),
        ({"loss": TupleLoss, "miner": mine_within_batch}, "positional arguments"),
        ({"memory_size": -1}, "memory_size == -1"),
        ({"chunk_size": 0}, "chunk_size == 0"),
        ({"compile__model": 1}, "no parameter 'compile__model'"),
        ({"compile__bakend": "eager"}, "compile__backend"),
    ],
)
def test_invalid_parameters_raise(params, message):
    learner = DeepEmbedder(**{**OPTIONS, "memory_size": 20, **params})
    with pytest.raises(ValueError, match=message):
        learner.fit(X, Y)
    assert not hasattr(learner, "net_")


def test_memory_with_pairs_raises():
    pairs = np.stack([X[:40], X[40:80]], axis=1)
    learner = DeepSiameseEmbedder(supervision="pairs", memory_size=20)
    with pytest.raises(ValueError, match="memory_size=20 needs class labels"):
        learner.fit(pairs, np.arange(40) % 2)


def test_memory_with_separate_groups_raises():
    learner = DeepTripletEmbedder(**OPTIONS, memory_size=20, group_batches="apart")
    learner.fit(X, Y)
    with pytest.raises(
        ValueError, match="memory_size=20 compares them with earlier batches of any group"
    ):
        learner.fit(X, Y, groups=np.arange(96) % 2)
    learner.set_params(group_batches="together").fit(X, Y, groups=np.arange(96) % 2)


@pytest.mark.parametrize("name", ["amp", "compile"])
def test_amp_and_compile_must_be_bool(name):
    with pytest.raises(TypeError, match=f"{name} must be an instance of"):
        DeepEmbedder(**{name: "yes"}).fit(X, Y)


def test_resumed_fit_continues_with_its_memory(tmp_path, killed):
    options = {**OPTIONS, "memory_size": 60, "lr": 0.01, "callbacks": [StopAfter]}
    with pytest.raises(Stop):
        DeepTripletEmbedder(**options, checkpoint=tmp_path).fit(X, Y)
    (file,) = tmp_path.iterdir()
    assert len(unpack_state(file.read_bytes(), file)["net"].memory_) == 60
    StopAfter.armed = False
    again = DeepTripletEmbedder(**options, checkpoint=tmp_path).fit(X, Y)
    whole = DeepTripletEmbedder(**options).fit(X, Y)
    assert_array_equal(again.transform(X), whole.transform(X))
    assert_array_equal(again.history_["loss"], whole.history_["loss"])


def test_memory_starts_empty_and_is_not_kept(monkeypatch):
    sizes = []

    class RecordingMemory(CrossBatchMemory):
        def add(self, embeddings, labels, rows):
            sizes.append(len(self))
            super().add(embeddings, labels, rows)

    monkeypatch.setattr("skdml.deep.training.net.CrossBatchMemory", RecordingMemory)
    learner = DeepTripletEmbedder(**OPTIONS, memory_size=60, lr=0.01)
    for train in (learner.fit, learner.fit, learner.partial_fit, learner.partial_fit):
        sizes.clear()
        train(X, Y)
        assert sizes[:4] == [0, 16, 32, 48]
        assert learner.net_.memory_ is None
    assert b"RecordingMemory" not in pickle.dumps(learner)


# Chunks


class RecordingNetwork(nn.Module):
    """A network that records its outputs during training."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.outputs = []

    def forward(self, X):
        Z = self.layers(X)
        if self.training:
            self.outputs.append((torch.is_grad_enabled(), Z.detach().clone()))
        return Z


def step_of(learner, points, targets, double=True):
    """Return the gradient and the result of one training step of a fitted learner, and its net."""
    net = copy.deepcopy(learner.net_)
    if double:
        net.module_.double()
        points = points.double()
    net.history.new_epoch(), net.history.new_epoch()  # the first epoch uses no memory
    net.history.new_batch()
    net.optimizer_.zero_grad()
    if learner.get_params().get("memory_size"):
        net.empty_memory()
        rows = torch.arange(len(X))
        net.memory_.add(torch.from_numpy(X[:, :3]).to(points.dtype), torch.from_numpy(Y), rows)
    net.rows_ = np.arange(len(targets))
    step = net.train_step_single((points, targets))
    return [p.grad for _, p in net.get_all_learnable_params()], step, net


CASES = {
    "triplet": (DeepTripletEmbedder, {}),
    "hard": (DeepTripletEmbedder, {"miner": "hard", "normalize": True}),
    "mined": (DeepEmbedder, {"loss": TupleLoss, "miner": "semihard"}),
    "proxies": (DeepProxyEmbedder, {"loss": "proxy_anchor"}),
    "memory": (DeepEmbedder, {"loss": "contrastive", "memory_size": 99}),
    "pairs": (DeepSiameseEmbedder, {"supervision": "pairs"}),
    "triplets": (DeepTripletEmbedder, {"supervision": "triplets"}),
    "views": (DeepEmbedder, {"loss": "vicreg", "augment": torch.neg}),
}


def arguments(case):
    """Return the arguments of `fit` and the batch of a step."""
    points = torch.from_numpy(X.astype(np.float32))
    if case == "pairs":
        same = np.arange(48) % 2
        return (X.reshape(48, 2, 5), same), (points, torch.from_numpy(same))
    if case == "triplets":
        return (X.reshape(32, 3, 5),), (points, torch.zeros(32, dtype=torch.long))
    if case == "views":
        return (X,), (points[:50], torch.arange(25).repeat(2))
    return (X, Y), (points[:50], torch.from_numpy(Y[:50]))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunk_size", [1, 7, 49])
def test_gradient_in_chunks_equals_that_of_the_whole_batch(case, chunk_size):
    Learner, params = CASES[case]
    options = {**OPTIONS, "max_epochs": 1, **params}
    data, batch = arguments(case)
    whole = Learner(SMOOTH, **options).fit(*data)
    chunks = Learner(SMOOTH, **options, chunk_size=chunk_size).fit(*data)
    chunks.net_.module_.load_state_dict(whole.net_.module_.state_dict())
    if case == "proxies":
        chunks.net_.criterion_.load_state_dict(whole.net_.criterion_.state_dict())
    for double, tolerance in ((True, 1e-12), (False, 1e-5)):
        expected, found = (step_of(one, *batch, double) for one in (whole, chunks))
        assert all(grad.abs().max() > 0 for grad in expected[0])
        largest = max(grad.abs().max() for grad in expected[0])
        for a, b in zip(expected[0], found[0], strict=True):
            torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance * largest)
        torch.testing.assert_close(found[1]["loss"], expected[1]["loss"])
        assert found[1]["y_pred"].shape == expected[1]["y_pred"].shape


def test_at_most_a_chunk_is_in_the_network():
    learner = DeepTripletEmbedder(RecordingNetwork(nn.Linear(5, 3)), **OPTIONS, chunk_size=5).fit(
        X, Y
    )
    outputs = learner.net_.module_.outputs
    with_graph = [len(Z) for graph, Z in outputs if graph]
    assert with_graph == [len(Z) for graph, Z in outputs if not graph]
    assert max(with_graph) == 4  # 16 points in four equal chunks, not in 5 + 5 + 5 + 1
    assert sum(with_graph) == 3 * 96


def test_both_passes_draw_the_same_dropout():
    network = RecordingNetwork(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    learner = DeepTripletEmbedder(network, **OPTIONS, chunk_size=7).fit(X, Y)
    outputs = learner.net_.module_.outputs
    for first in range(0, len(outputs), 6):
        assert [graph for graph, _ in outputs[first : first + 6]] == [False] * 3 + [True] * 3
        for (_, once), (_, again) in zip(
            outputs[first : first + 3], outputs[first + 3 :], strict=False
        ):
            assert torch.equal(once, again)
    masks = torch.cat([Z for graph, Z in outputs if graph])
    assert len(masks.unique(dim=0)) > 96

    points, labels = (torch.from_numpy(a[:50]) for a in (X.astype(np.float32), Y))
    torch.manual_seed(5)
    found, step, _ = step_of(learner, points, labels)
    after = torch.rand(1)
    torch.manual_seed(5)
    module = copy.deepcopy(learner.net_.module_).double().train()
    Z = torch.cat([module(chunk) for chunk in points.double().tensor_split(8)])
    loss = TripletLoss()(Z, labels)
    loss.backward()
    assert torch.equal(torch.rand(1), after)  # the generator advanced only once
    torch.testing.assert_close(step["loss"], loss.detach())
    for parameter, grad in zip(module.parameters(), found, strict=True):
        torch.testing.assert_close(grad, parameter.grad)


class RandomLoss(TripletLoss):
    """A loss that draws random numbers, like a loss with a random miner."""

    drawn = ()

    def forward(self, *args):
        RandomLoss.drawn += (torch.rand(()).item(),)
        return super().forward(*args)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_random_numbers_of_a_loss_are_not_repeated(dropout):
    RandomLoss.drawn = ()
    network = nn.Sequential(nn.Linear(5, 3), nn.Dropout(dropout))
    DeepEmbedder(network, loss=RandomLoss, chunk_size=7, **OPTIONS).fit(X, Y)
    assert len(set(RandomLoss.drawn)) == len(RandomLoss.drawn) == 18


def test_running_statistics_count_each_chunk_once():
    network = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    learner = DeepTripletEmbedder(network, **OPTIONS, chunk_size=8).fit(X, Y)
    start = copy.deepcopy(learner.net_.module_[1])
    assert start.num_batches_tracked == 3 * 6 * 2
    points, labels = torch.from_numpy(X[:32].astype(np.float32)), torch.from_numpy(Y[:32])
    _, _, net = step_of(learner, points, labels, double=False)
    with torch.no_grad():
        for chunk in points.split(8):
            start.train()(learner.net_.module_[0](chunk))
    torch.testing.assert_close(net.module_[1].state_dict(), start.state_dict())


def test_proxies_learn_on_a_network_without_gradients_in_chunks():
    frozen = nn.Linear(5, 3).requires_grad_(False)
    options = {**OPTIONS, "proxy_lr": 0.1}
    one = DeepProxyEmbedder(frozen, **options).fit(X, Y)
    two = DeepProxyEmbedder(frozen, **options, chunk_size=4).fit(X, Y)
    torch.testing.assert_close(two.net_.criterion_.proxies, one.net_.criterion_.proxies)
    assert torch.equal(two.net_.module_.weight, frozen.weight)


# Mixed precision


class RecordTypes(nn.Module):
    """A loss that records the types of its arguments."""

    types = ()

    def forward(self, embeddings, labels):
        RecordTypes.types += ((embeddings.dtype, torch.is_autocast_enabled("cpu")),)
        return (embeddings - 1).square().mean()


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_half_precision_only_inside_the_network(chunk_size):
    RecordTypes.types = ()
    network = RecordingNetwork(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    options = {**OPTIONS, "optimizer": torch.optim.SGD, "lr": 0.01, "chunk_size": chunk_size}
    learner = DeepEmbedder(network, loss=RecordTypes, amp=True, **options).fit(X, Y)
    assert {Z.dtype for _, Z in learner.net_.module_.outputs} == {torch.bfloat16}
    assert set(RecordTypes.types) == {(torch.float32, False)}
    assert learner.history_["loss"][-1] < learner.history_["loss"][0]
    Z = learner.transform(X)
    assert Z.dtype == np.float32
    with torch.no_grad():
        expected = learner.net_.module_(torch.from_numpy(X.astype(np.float32)))
    assert_array_equal(Z, expected.numpy())
    full = DeepEmbedder(network, loss=RecordTypes, **options).fit(X, Y)
    assert not np.array_equal(Z, full.transform(X))
    assert_allclose(Z, full.transform(X), atol=0.05 * np.abs(Z).max())


class RecordNorms(Callback):
    """Record the norm of the gradient that callbacks receive."""

    norms = ()

    def on_grad_computed(self, net, named_parameters, **kwargs):
        squares = sum(p.grad.square().sum().item() for _, p in named_parameters)
        RecordNorms.norms += (squares**0.5,)


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_float16_scales_the_gradient(monkeypatch, chunk_size):
    options = {**OPTIONS, "lr": 1e-30, "callbacks": [RecordNorms], "chunk_size": chunk_size}
    RecordNorms.norms = ()
    DeepTripletEmbedder(SMALL, **options).fit(X, Y)
    expected, RecordNorms.norms = RecordNorms.norms, ()
    monkeypatch.setattr("skdml.deep.training.net.half_precision", lambda device: torch.float16)
    half = DeepTripletEmbedder(SMALL, amp=True, **options).fit(X, Y)
    assert half.net_.scaler_.get_scale() > 1
    norms = np.array(RecordNorms.norms)
    steps = np.isfinite(norms)  # the first steps overflow and lower the scale
    assert 12 <= steps.sum() < 18
    assert_allclose(norms[steps], np.array(expected)[steps], rtol=0.05)
    half.set_params(lr=0.01).fit(X, Y)
    moved = half.net_.module_.weight - SMALL.weight
    assert 0.01 < moved.abs().max() < 0.5
    pickle.loads(pickle.dumps(half)).partial_fit(X, Y)


# Compiling, gradient clipping and grid search


COMPILED = []


def forget_compiled():
    COMPILED.clear()
    torch.compiler.reset()


def backend(graph, inputs):
    """A compiler backend that returns the graph unchanged and records the call."""
    COMPILED.append(len(inputs))
    return graph


def test_network_is_compiled_while_it_trains(tmp_path, killed):
    forget_compiled()
    options = {**OPTIONS, "lr": 0.01, "callbacks": [StopAfter], "checkpoint": tmp_path}
    compiled = {"compile": True, "compile__backend": backend}
    learner = clone(DeepTripletEmbedder(**options, **compiled))
    with pytest.raises(Stop):
        learner.fit(X, Y)
    assert COMPILED
    (file,) = tmp_path.iterdir()
    assert "network_" not in vars(unpack_state(file.read_bytes(), file)["net"])
    StopAfter.armed = False
    forget_compiled()
    Z = learner.fit(X, Y).transform(X)  # continues from the checkpoint
    assert COMPILED
    forget_compiled()
    plain = DeepTripletEmbedder(**{**options, "checkpoint": None}).fit(X, Y)
    assert_array_equal(Z, plain.transform(X))
    again = pickle.loads(pickle.dumps(learner))
    assert type(again.net_.module_) is type(plain.net_.module_)
    assert_array_equal(again.transform(X), Z)
    assert not COMPILED
    assert_array_equal(again.partial_fit(X, Y).transform(X), plain.partial_fit(X, Y).transform(X))
    assert COMPILED


def test_gradient_clipping():
    options = {**OPTIONS, "optimizer": torch.optim.SGD, "lr": 1.0, "max_epochs": 1}
    for chunk_size in (None, 5):
        clip = GradientNormClipping(1e-4)
        learner = DeepTripletEmbedder(SMALL, **options, callbacks=[clip], chunk_size=chunk_size)
        weights = learner.fit(X, Y).net_.module_.state_dict()
        moved = sum((weights[k] - v).square().sum() for k, v in SMALL.state_dict().items()).sqrt()
        assert 1e-4 <= moved <= 6.001e-4  # six steps


def test_grid_search_over_training_options():
    model = make_pipeline(DeepTripletEmbedder(**OPTIONS), KNeighborsClassifier())
    grid = {
        "deeptripletembedder__memory_size": [0, 30],
        "deeptripletembedder__chunk_size": [None, 7],
        "deeptripletembedder__amp": [False, True],
    }
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X, Y)
    assert len(search.cv_results_["params"]) == 8
    best = search.best_estimator_[0]
    assert clone(best).get_params() == best.get_params()


def test_proxy_learner_has_no_memory():
    with pytest.raises(ValueError, match="memory_size=9 compares points with each other"):
        DeepProxyEmbedder(memory_size=9, **OPTIONS).fit(X, Y)
    options = {**OPTIONS, "chunk_size": 5, "amp": True}
    learner = DeepProxyEmbedder(**options).fit(X, Y)
    assert learner.score(X, Y) > 0.6
    assert clone(learner).get_params()["chunk_size"] == 5


def test_contrastive_loss_with_memory_has_no_self_pairs():
    x, y = torch.from_numpy(X[:8]), torch.from_numpy(Y[:8])
    memory = CrossBatchMemory(99)
    memory.add(x, y, torch.arange(8))
    memory.forget(torch.arange(4))
    value = ContrastiveLoss()(x[:4], y[:4], None, memory.embeddings, memory.labels)
    torch.testing.assert_close(value, ContrastiveLoss()(x[:4], y[:4], None, x[4:], y[4:]))
