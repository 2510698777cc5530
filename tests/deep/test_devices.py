"""What is to run on a GPU makes no tensor beside it: told where there is none, by a stand-in."""

import inspect
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.datasets import make_blobs
from torch.overrides import TorchFunctionMode

from skdml import DeepEmbedder, DeepProxyEmbedder
from skdml.deep.losses import LOSSES, learns_from
from skdml.deep.miners import MINERS, get_miner
from skdml.deep.training.stopping import cpu_state_dict

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MOVES = {"to", "copy_", "__set__", "_has_compatible_shallow_copy_type"}  # from place to place

X, Y = make_blobs(n_samples=96, centers=8, n_features=5, cluster_std=3, random_state=0)


class StandIn(TorchFunctionMode):
    """Computes on the CPU what is asked of a GPU, and raises where one call has tensors of both.

    It knows the tensors of each by their memory, and keeps them, so that no memory is used twice.
    """

    def __init__(self):
        super().__init__()
        self.places, self.kept = {}, []

    def place(self, tensor):
        """Return where a tensor passes for being; None where it came from outside of torch."""
        return self.places.get(tensor.untyped_storage().data_ptr())

    def put(self, place, *tensors):
        for tensor in tensors:
            self.kept.append(tensor)
            self.places[tensor.untyped_storage().data_ptr()] = place

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("_parse_to", "device"):  # these make nothing
            return func(*args, **kwargs)
        given = [*leaves((args, kwargs))]
        if func == torch.Tensor.device.__get__:
            return self.place(args[0]) or CPU
        places = [self.place(t) for t in given]
        if name not in MOVES:
            found = {p for t, p in zip(given, places, strict=True) if t.dim() and t.numel() and p}
            if len(found) > 1:
                raise RuntimeError(f"{name} has tensors of a CPU and of a GPU")
        place = self._place_of_result(name, args, kwargs, places)
        result = func(*self._on_cpu(args), **self._on_cpu(kwargs))
        if name in ("to", "cpu") and places[0] not in (None, place):
            result = result.clone()  # a move makes a copy
        if place is not None:
            self.put(place, *leaves(result))
        return result

    @staticmethod
    def _place_of_result(name, args, kwargs, places):
        asked = [a for a in (*args, *kwargs.values()) if isinstance(a, (torch.device, str))]
        asked = [torch.device(a) for a in asked if str(a).partition(":")[0] in ("cpu", "cuda")]
        if asked:
            return GPU if asked[0].type == "cuda" else CPU
        if name == "cpu":
            return CPU
        if name == "to" and len(places) > 1:
            return places[1]
        if name == "copy_":
            return places[0]
        if GPU in places:
            return GPU
        return CPU if CPU in places or not places else None

    def _on_cpu(self, value):
        if isinstance(value, dict):
            return {name: self._on_cpu(one) for name, one in value.items()}
        if type(value) in (tuple, list):
            return type(value)(self._on_cpu(one) for one in value)
        is_gpu = isinstance(value, (torch.device, str)) and str(value).startswith("cuda")
        return CPU if is_gpu else value


def leaves(value):
    """Yield the tensors in a nest of lists and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from leaves(one)
    elif isinstance(value, dict):
        yield from leaves([*value.values()])


@pytest.fixture
def gpu(monkeypatch):
    """A stand-in; the generators are those of the CPU."""
    fork = torch.random.fork_rng
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices=(): fork(devices=[]))
    for name, of_cpu in [
        ("get_rng_state", torch.get_rng_state),
        ("set_rng_state", torch.set_rng_state),
    ]:
        monkeypatch.setattr(torch.cuda, name, lambda *args, of_cpu=of_cpu: of_cpu(*args[:-1]))
    return StandIn()


class Beside(torch.nn.Module):
    """A loss that makes a tensor beside the GPU."""

    def forward(self, embeddings, labels):
        return (embeddings - torch.ones(embeddings.shape[1])).square().mean()


def test_what_is_made_beside_the_gpu_is_found(gpu):
    x = torch.zeros(4, 3)
    gpu.put(GPU, x)
    with gpu, pytest.raises(RuntimeError, match="sub has tensors of a CPU and of a GPU"):
        Beside()(x, None)
    with gpu:
        here, there = torch.ones(3), torch.ones(3, device=x.device)
        assert [gpu.place(t) for t in (here, there, x.cpu(), here.to(x), 2 * there)] == [
            *(CPU, GPU, CPU),
            *(GPU, GPU),
        ]
    with gpu, pytest.raises(RuntimeError, match="sub has tensors"):
        DeepEmbedder(loss=Beside, device="cuda", max_epochs=1).fit(X, Y)


# Losses and miners


def build(Loss, **params):
    """Build a loss, with proxies for nine classes where it has some."""
    names = inspect.signature(Loss).parameters
    sizes = {"n_classes": 9, "n_components": 6}
    needed = {n: v for n, v in sizes.items() if n in names and names[n].default is inspect._empty}
    torch.manual_seed(0)
    return Loss(**needed, **params)


def loss_and_gradient(loss, given, gpu=None):
    """Compute the value, and the gradient by the embeddings, on the CPU or on the stand-in."""
    given = {name: value.clone() for name, value in given.items()}
    x = given.pop("embeddings").requires_grad_()
    tuples = given.pop("tuples", None)
    if gpu is not None:
        of_loss = [*loss.parameters(), *loss.buffers()]
        gpu.put(GPU, x, *given.values(), *of_loss, *([] if tuples is None else tuples))
    torch.manual_seed(0)  # some miners draw
    with nullcontext() if gpu is None else gpu:
        args = () if tuples is None else (tuple(tuples),)
        value = loss(x, given.pop("labels", None), *args, **given)
        assert gpu is None or gpu.place(value) == GPU
        value.backward()
    return value.detach(), x.grad


CODES = torch.arange(24) % 5
Z = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
REFERENCES = {"ref_emb": 0.9 * Z.flip(0), "ref_labels": CODES.flip(0)}
TRIPLETS = torch.randint(24, (3, 40), generator=torch.Generator().manual_seed(0))
BY_LABELS = [k for k, v in LOSSES.items() if learns_from(v) == "labels"]
OF_POINTS = [name for name in BY_LABELS if not hasattr(LOSSES[name], "logits")]


def cases():
    """Losses with what they are given: (name, parameters, arguments)."""
    batch = {"embeddings": Z, "labels": CODES}
    yield from ((name, {}, batch) for name in BY_LABELS)
    yield from ((name, {}, batch | REFERENCES) for name in OF_POINTS)
    triplets = batch | {"labels": torch.arange(24), "tuples": TRIPLETS}
    yield from ((name, {}, triplets) for name in OF_POINTS)
    yield "cosent", {}, batch | {"labels": CODES.double()}
    for name in ("info_nce", "vicreg"):
        yield name, {}, {"embeddings": Z, "ref_emb": REFERENCES["ref_emb"]}
    for name in ("contrastive", "triplet"):
        yield from ((name, {"miner": miner}, batch) for miner in MINERS)
        for distance in ("sqeuclidean", "cosine", "angular", "manhattan"):
            yield name, {"distance": distance}, batch
    yield "triplet", {"swap": True}, batch
    yield "triplet", {"soft": True}, batch


@pytest.mark.parametrize(("name", "params", "given"), [*cases()])
def test_losses_stay_where_their_embeddings_are(name, params, given, gpu):
    here = loss_and_gradient(build(LOSSES[name], **params), given)
    there = loss_and_gradient(build(LOSSES[name], **params), given, gpu)
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", [name for name in BY_LABELS if hasattr(LOSSES[name], "logits")])
def test_proxies_stay_where_they_are(name, gpu):
    loss, x, labels = build(LOSSES[name]), Z.clone(), CODES.clone()
    gpu.put(GPU, x, labels, *loss.parameters(), *loss.buffers())
    with gpu:
        loss.initialize_from(x, labels)
        assert gpu.place(loss.logits(x)) == GPU
        loss.grow(12)
        assert {gpu.place(parameter) for parameter in loss.parameters()} == {GPU}
        assert gpu.place(loss(x, labels + 7)) == GPU


@pytest.mark.parametrize("references", [(), (REFERENCES["ref_emb"], REFERENCES["ref_labels"])])
@pytest.mark.parametrize("name", sorted(MINERS))
def test_miners_stay_where_their_embeddings_are(name, references, gpu):
    given = [part.clone() for part in (Z, CODES, *references)]
    gpu.put(GPU, *given)
    with gpu:
        chosen = get_miner(name, "euclidean")(*given)
        assert {gpu.place(indices) for indices in chosen} == {GPU}


# Fits


def noisy(points):
    return points + 0.1 * torch.randn_like(points)


BACKBONE = torch.nn.Linear(5, 4)


@pytest.mark.parametrize(
    ("Learner", "params"),
    [
        (DeepEmbedder, {}),
        (DeepEmbedder, {"normalize": True, "early_stopping": False}),
        (DeepEmbedder, {"memory_size": 64, "loss": "triplet", "miner": "angular"}),
        (DeepEmbedder, {"chunk_size": 8, "module__dropout": 0.2}),
        (DeepEmbedder, {"freeze": "module", "module": BACKBONE}),
        (DeepEmbedder, {"augment": noisy, "loss": "nt_xent"}),
        (DeepProxyEmbedder, {}),
        (DeepProxyEmbedder, {"loss": "soft_triple", "refit": False}),
    ],
)
def test_a_fit_on_a_gpu_is_that_on_the_cpu(Learner, params, gpu):
    options = {"max_epochs": 2, "batch_size": 32, "random_state": 0, **params}
    # The optimizer's steps of a CPU differ from those of a GPU by their rounding.
    here = Learner(**options, optimizer__fused=False).fit(X, Y)
    there = Learner(**options, device="cuda")
    with gpu:
        there.fit(X, Y)
        assert {gpu.place(weight) for weight in there.net_.module_.state_dict().values()} == {GPU}
        assert_array_equal(there.transform(X), here.transform(X))
        d = there.get_metric()
        assert d(X[0], X[1]) == here.get_metric()(X[0], X[1])
        if Learner is DeepProxyEmbedder:
            assert_array_equal(there.predict_proba(X), here.predict_proba(X))
            there.partial_fit(X, Y + 3)
            assert set(there.predict(X)) <= {*range(11)}


def test_images_on_a_gpu(gpu):
    images = np.random.default_rng(0).normal(size=(24, 1, 6, 6))
    options = {"max_epochs": 1, "random_state": 0}
    with gpu:
        there = DeepEmbedder(**options, device="cuda").fit(images, np.arange(24) % 3)
        Z = there.transform(images)
    here = DeepEmbedder(**options).fit(images, np.arange(24) % 3)
    assert_array_equal(Z, here.transform(images))


def test_weights_that_are_remembered_take_no_room_on_a_gpu(gpu):
    """So that a checkpoint is also read where there is none."""
    module = torch.nn.BatchNorm1d(3)
    with gpu:
        module.to("cuda")
        state = cpu_state_dict(module)
        assert {gpu.place(weight) for weight in state.values()} == {CPU}
        assert {gpu.place(weight) for weight in module.state_dict().values()} == {GPU}
    module.weight.data.fill_(7)
    assert (state["weight"] == 1).all()
