"""Training on a GPU creates no tensor on the CPU by mistake; a simulated GPU checks this."""

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
# Operations that may use tensors of both devices.
MOVES = {"to", "copy_", "__set__", "_has_compatible_shallow_copy_type"}

X, Y = make_blobs(n_samples=96, centers=8, n_features=5, cluster_std=3, random_state=0)


class SimulatedGPU(TorchFunctionMode):
    """Runs GPU calls on the CPU, and raises if one call mixes tensors of both devices.

    It records the device of a tensor by the address of its memory, and keeps every tensor alive so
    that no address is used twice.
    """

    def __init__(self):
        super().__init__()
        self.devices, self.kept = {}, []

    def device_of(self, tensor):
        """Return the simulated device of a tensor; None if it came from outside of torch."""
        return self.devices.get(tensor.untyped_storage().data_ptr())

    def put(self, device, *tensors):
        for tensor in tensors:
            self.kept.append(tensor)
            self.devices[tensor.untyped_storage().data_ptr()] = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("_parse_to", "device"):  # these create no tensor
            return func(*args, **kwargs)
        inputs = [*tensors_in((args, kwargs))]
        if func == torch.Tensor.device.__get__:
            return self.device_of(args[0]) or CPU
        devices = [self.device_of(t) for t in inputs]
        if name not in MOVES:
            sized = (d for t, d in zip(inputs, devices, strict=True) if t.dim() and t.numel())
            if len({d for d in sized if d}) > 1:
                raise RuntimeError(f"{name} has tensors of a CPU and of a GPU")
        device = self._device_of_result(name, args, kwargs, devices)
        result = func(*self._on_cpu(args), **self._on_cpu(kwargs))
        if name in ("to", "cpu") and devices[0] not in (None, device):
            result = result.clone()  # a move between devices copies
        if device is not None:
            self.put(device, *tensors_in(result))
        return result

    @staticmethod
    def _device_of_result(name, args, kwargs, devices):
        requested = [a for a in (*args, *kwargs.values()) if isinstance(a, (torch.device, str))]
        requested = [
            torch.device(a) for a in requested if str(a).partition(":")[0] in ("cpu", "cuda")
        ]
        if requested:
            return GPU if torch.device(requested[0]).type == "cuda" else CPU
        if name == "cpu":
            return CPU
        if name == "to" and len(devices) > 1:
            return devices[1]
        if name == "copy_":
            return devices[0]
        if GPU in devices:
            return GPU
        return CPU if CPU in devices or not devices else None

    def _on_cpu(self, value):
        if isinstance(value, dict):
            return {name: self._on_cpu(one) for name, one in value.items()}
        if type(value) in (tuple, list):
            return type(value)(self._on_cpu(one) for one in value)
        is_gpu = isinstance(value, (torch.device, str)) and str(value).startswith("cuda")
        return CPU if is_gpu else value


def tensors_in(value):
    """Yield the tensors in nested lists and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors_in(one)
    elif isinstance(value, dict):
        yield from tensors_in([*value.values()])


@pytest.fixture
def gpu(monkeypatch):
    """A simulated GPU with the random generators of the CPU."""
    fork = torch.random.fork_rng
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices=(): fork(devices=[]))
    for name, of_cpu in [
        ("get_rng_state", torch.get_rng_state),
        ("set_rng_state", torch.set_rng_state),
    ]:
        monkeypatch.setattr(torch.cuda, name, lambda *args, of_cpu=of_cpu: of_cpu(*args[:-1]))
    return SimulatedGPU()


class CPUTensorLoss(torch.nn.Module):
    """A loss that creates a tensor on the CPU."""

    def forward(self, embeddings, labels):
        return (embeddings - torch.ones(embeddings.shape[1])).square().mean()


def test_simulated_gpu_detects_mixed_devices(gpu):
    x = torch.zeros(4, 3)
    gpu.put(GPU, x)
    with gpu, pytest.raises(RuntimeError, match="sub has tensors of a CPU and of a GPU"):
        CPUTensorLoss()(x, None)
    with gpu:
        on_cpu, on_gpu = torch.ones(3), torch.ones(3, device=x.device)
        assert [gpu.device_of(t) for t in (on_cpu, on_gpu, x.cpu(), on_cpu.to(x), 2 * on_gpu)] == [
            *(CPU, GPU, CPU),
            *(GPU, GPU),
        ]
    with gpu, pytest.raises(RuntimeError, match="sub has tensors"):
        DeepEmbedder(loss=CPUTensorLoss, device="cuda", max_epochs=1).fit(X, Y)


# Losses and miners


def build(Loss, **params):
    """Build a loss, with proxies for nine classes if it has proxies."""
    names = inspect.signature(Loss).parameters
    sizes = {"n_classes": 9, "n_components": 6}
    needed = {n: v for n, v in sizes.items() if n in names and names[n].default is inspect._empty}
    torch.manual_seed(0)
    return Loss(**needed, **params)


def loss_and_gradient(loss, given, gpu=None):
    """Compute a loss and its gradient by the embeddings, on the CPU or on the simulated GPU."""
    given = {name: value.clone() for name, value in given.items()}
    x = given.pop("embeddings").requires_grad_()
    tuples = given.pop("tuples", None)
    if gpu is not None:
        of_loss = [*loss.parameters(), *loss.buffers()]
        gpu.put(GPU, x, *given.values(), *of_loss, *([] if tuples is None else tuples))
    torch.manual_seed(0)  # some miners are random
    with nullcontext() if gpu is None else gpu:
        args = () if tuples is None else (tuple(tuples),)
        value = loss(x, given.pop("labels", None), *args, **given)
        assert gpu is None or gpu.device_of(value) == GPU
        value.backward()
    return value.detach(), x.grad


CODES = torch.arange(24) % 5
Z = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
REFERENCES = {"ref_emb": 0.9 * Z.flip(0), "ref_labels": CODES.flip(0)}
TRIPLETS = torch.randint(24, (3, 40), generator=torch.Generator().manual_seed(0))
BY_LABELS = [k for k, v in LOSSES.items() if learns_from(v) == "labels"]
OF_POINTS = [name for name in BY_LABELS if not hasattr(LOSSES[name], "logits")]


def cases():
    """Yield losses with their arguments: (name, parameters, arguments)."""
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
def test_losses_use_the_device_of_their_embeddings(name, params, given, gpu):
    on_cpu = loss_and_gradient(build(LOSSES[name], **params), given)
    on_gpu = loss_and_gradient(build(LOSSES[name], **params), given, gpu)
    for a, b in zip(on_cpu, on_gpu, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", [name for name in BY_LABELS if hasattr(LOSSES[name], "logits")])
def test_proxies_stay_on_their_device(name, gpu):
    loss, x, labels = build(LOSSES[name]), Z.clone(), CODES.clone()
    gpu.put(GPU, x, labels, *loss.parameters(), *loss.buffers())
    with gpu:
        loss.initialize_from(x, labels)
        assert gpu.device_of(loss.logits(x)) == GPU
        loss.grow(12)
        assert {gpu.device_of(parameter) for parameter in loss.parameters()} == {GPU}
        assert gpu.device_of(loss(x, labels + 7)) == GPU


@pytest.mark.parametrize("references", [(), (REFERENCES["ref_emb"], REFERENCES["ref_labels"])])
@pytest.mark.parametrize("name", sorted(MINERS))
def test_miners_use_the_device_of_their_embeddings(name, references, gpu):
    given = [part.clone() for part in (Z, CODES, *references)]
    gpu.put(GPU, *given)
    with gpu:
        chosen = get_miner(name, "euclidean")(*given)
        assert {gpu.device_of(indices) for indices in chosen} == {GPU}


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
def test_a_fit_on_a_gpu_equals_a_fit_on_the_cpu(Learner, params, gpu):
    options = {"max_epochs": 2, "batch_size": 32, "random_state": 0, **params}
    # The fused optimizer of the CPU rounds differently from the one of the GPU.
    on_cpu = Learner(**options, optimizer__fused=False).fit(X, Y)
    on_gpu = Learner(**options, device="cuda")
    with gpu:
        on_gpu.fit(X, Y)
        assert {gpu.device_of(weight) for weight in on_gpu.net_.module_.state_dict().values()} == {
            GPU
        }
        assert_array_equal(on_gpu.transform(X), on_cpu.transform(X))
        d = on_gpu.get_metric()
        assert d(X[0], X[1]) == on_cpu.get_metric()(X[0], X[1])
        if Learner is DeepProxyEmbedder:
            assert_array_equal(on_gpu.predict_proba(X), on_cpu.predict_proba(X))
            on_gpu.partial_fit(X, Y + 3)
            assert set(on_gpu.predict(X)) <= {*range(11)}


def test_images_on_a_gpu(gpu):
    images = np.random.default_rng(0).normal(size=(24, 1, 6, 6))
    options = {"max_epochs": 1, "random_state": 0}
    with gpu:
        on_gpu = DeepEmbedder(**options, device="cuda").fit(images, np.arange(24) % 3)
        Z = on_gpu.transform(images)
    on_cpu = DeepEmbedder(**options).fit(images, np.arange(24) % 3)
    assert_array_equal(Z, on_cpu.transform(images))


def test_stored_weights_are_on_the_cpu(gpu):
    """A checkpoint must also load on a machine without a GPU."""
    module = torch.nn.BatchNorm1d(3)
    with gpu:
        module.to("cuda")
        state = cpu_state_dict(module)
        assert {gpu.device_of(weight) for weight in state.values()} == {CPU}
        assert {gpu.device_of(weight) for weight in module.state_dict().values()} == {GPU}
    module.weight.data.fill_(7)
    assert (state["weight"] == 1).all()
