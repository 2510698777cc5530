"""From the parameters of a learner to its skorch net: network, loss, miner and callbacks."""

import copy
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import PassthroughScoring

from skdml.deep.data.reading import TUPLE_SIZES
from skdml.deep.losses import (
    LOSSES,
    ContrastiveLoss,
    LiftedStructureLoss,
    MarginLoss,
    MultiSimilarityLoss,
    TripletLoss,
    VICRegLoss,
    get_loss,
)
from skdml.deep.miners import AllTripletsMiner, get_miner
from skdml.deep.miners._checked import CheckedMiner
from skdml.deep.networks.frozen import FrozenNetwork
from skdml.deep.networks.initial import MAX_START_POINTS
from skdml.deep.networks.map import batches_of_points, first_points
from skdml.deep.networks.modules import ConvEmbedder, ResidualEmbedder
from skdml.deep.parameters import Part, accepted_names, own_params
from skdml.deep.settings import Settings
from skdml.deep.training.alarms import CollapseAlarm, IdleAlarm
from skdml.deep.training.checkpoint import SaveCheckpoint
from skdml.deep.training.memory import check_accepts_references, enlarge_queue
from skdml.deep.training.net import EmbeddingNet, Width, check_loss

if TYPE_CHECKING:
    from skdml.deep.training.fitting import Training

DEFAULT_WIDTH = 64
WIDEST_TABLE = 768  # the width of most encoders; a narrower embedding would lose unseen classes

# Losses whose margins are distances, and the names of these margins.
MARGINS = {
    ContrastiveLoss: ("margin",),
    LiftedStructureLoss: ("margin",),
    MarginLoss: ("margin", "boundary"),
    MultiSimilarityLoss: ("base",),
    TripletLoss: ("margin",),
}


# Parameters of a learner that the net has under the same name.
SHARED = (
    *("normalize", "optimizer", "lr", "proxy_lr", "memory_size", "chunk_size", "amp"),
    *("max_epochs", "verbose"),
)


def build_net(training: "Training") -> EmbeddingNet:
    """Return an initialised net for a training.

    A new network with a method ``initialize_from`` is shown training points, by which it chooses
    its initial weights.

    Parameters
    ----------
    training : Training
        What to train. Its settings are the parameters of the net, its data give shapes and classes.
        The network of an earlier fit, if there is one, is trained on.

    Returns
    -------
    EmbeddingNet
        The net.

    Raises
    ------
    ValueError
        If a parameter is unknown, missing or out of range, or if points are not finite.
    """
    net = assemble_net(training)
    data, rows = training.data, np.random.default_rng(training.seed).permutation(training.rows)
    rows = np.sort(rows[:MAX_START_POINTS])
    points = next(batches_of_points(data.points(rows), MAX_START_POINTS)).to(net.device)
    if not torch.isfinite(points).all():
        raise ValueError(
            "Points have to be finite, but the Dataset returns NaN or infinity. Leave such points "
            "out, or fill in the missing values."
        )
    is_new = not isinstance(net.module, torch.nn.Module)
    if is_new and hasattr(net.module_, "initialize_from"):
        taken, _ = accepted_names(net.module_.initialize_from)
        known = {"y": data.targets if data.kind == "labels" else None, "groups": data.groups}
        known = {k: v[rows] for k, v in known.items() if k in taken and v is not None}
        net.module_.initialize_from(points, **known)
    return net


def assemble_net(training: "Training") -> EmbeddingNet:
    """Return a net of the parts that the settings name, and check that they fit together.

    Parameters
    ----------
    training : Training
        What to train.

    Returns
    -------
    EmbeddingNet
        The net, initialised, before it has seen points.

    Raises
    ------
    ValueError
        If a parameter is unknown, missing or out of range.
    """
    settings, trained = training.settings, training.trained_part
    callbacks = list_callbacks(training)
    given = skorch_params(settings)
    network = network_of(settings, trained, training.input_shape)
    loss = loss_of(training)
    parts = {"module": settings.module, trained: network.target, "optimizer": settings.optimizer}
    settings.net_params.check(criterion=loss.target, loss=loss.target, **parts)
    if training.previous is not None:
        network = Part(trained, training.previous)
    module_params = network.params(settings.net_params.of(trained))
    loss_params = loss.params(settings.net_params.of("loss") | settings.net_params.of("criterion"))
    net = EmbeddingNet(
        network.copy_if_built(),
        loss.copy_if_built(),
        **{name: getattr(settings, name) for name in SHARED},
        **{f"module__{name}": value for name, value in module_params.items()},
        **{f"criterion__{name}": value for name, value in loss_params.items()},
        **given,
        miner=None if "miner" in loss_params else miner_for_net(settings),
        supervision=training.data.kind,
        compile_training=settings.compile,
        callbacks=callbacks,
        train_split=None,
        device=training.device,
    ).initialize()
    net.check_callback_params(settings.net_params)
    net.check_monitors()
    net.check_call()
    if hasattr(net.criterion_, "reset_queue"):  # a memory of its own
        enlarge_queue(net.criterion_, settings.batch_size + 3 * (settings.n_per_class + 1))
    width = net.width_ = net.map().width(sample_points(training))
    if settings.n_components not in (None, width):
        previous = " of the last fit (warm_start=True)" if training.previous is not None else ""
        raise ValueError(
            f"n_components={settings.n_components}, but the module{previous} returns embeddings of "
            f"width {width}."
        )
    if settings.normalize:
        check_margin_in_range(net.criterion_, width)
    if settings.memory_size:
        check_memory(net, training, width)
    if training.data.kind in TUPLE_SIZES:
        check_accepts_tuples(net, training.data.kind, width)
    return net


def sample_points(training: "Training") -> NDArray[np.float32]:
    """Return a training point, as an array of shape (1, ...), to try the network on it."""
    return first_points(training.data.points(training.rows[:1]))


def skorch_params(settings: Settings) -> dict[str, Any]:
    """Return the parameters of the net that go to skorch as they are."""
    prefixes = ("optimizer", "iterator_train", "callbacks", "compile")
    own = settings.net_params.params.items()
    given = {name: copy.deepcopy(v) for name, v in own if name.partition("__")[0] in prefixes}
    # For small batches, drawing up the table that nobody reads would take as long as a batch.
    if not settings.verbose and not any(name.startswith("callbacks__print_log") for name in given):
        given["callbacks__print_log"] = None
    return given


def list_callbacks(training: "Training") -> list[Any]:
    """Return the callbacks of a net: ours, and copies of the user's, which training changes."""
    # Ours come first, so that the user's callbacks may watch what they record.
    callbacks: list[Any] = []
    for name in ("active_share", "spread"):
        averaged = PassthroughScoring(name, lower_is_better=None, on_train=True)
        callbacks.append((name, averaged))
    callbacks += [("collapse", CollapseAlarm()), ("idle", IdleAlarm()), *training.callbacks]
    callbacks += copy.deepcopy([*(training.settings.callbacks or ())])
    if training.checkpoint is not None:  # last, because it saves all others
        save = SaveCheckpoint(training.checkpoint.path, training.seed)
        callbacks.append(("state", save))
    return callbacks


def network_of(settings: Settings, part: str, shape: tuple[int, ...]) -> Part:
    """Return the module or the head of a learner, with the shapes that it is built with.

    Parameters
    ----------
    settings : Settings
        The parameters of the learner.
    part : {"module", "head"}
        The parameter that names the network.
    shape : tuple of int
        The shape of one point, as the network reads it.

    Returns
    -------
    Part
        The network. Of "n_features", "input_shape" and "n_components" it is given those that it
        takes.

    Raises
    ------
    ValueError
        If there is no default network for points of this shape, or if the network is none.
    """
    network = getattr(settings, part)
    widest = DEFAULT_WIDTH if part == "module" else np.inf
    if network is None:
        if len(shape) not in (1, 3):
            raise ValueError(
                "module=None builds networks for tables (n_samples, n_features) and for images "
                f"(n_samples, channels, height, width). For points of shape {shape} pass a module."
            )
        if len(shape) == 1:
            network, widest = ResidualEmbedder, max(widest, WIDEST_TABLE)
        else:
            network = ConvEmbedder
    if isinstance(network, torch.nn.Module):
        return Part(part, network)
    if not callable(network):
        raise ValueError(
            f"{part}={network!r} is no network. Pass a torch.nn.Module, its class, or a function "
            "that returns one."
        )
    width = settings.n_components or min(widest, int(np.prod(shape)))
    shapes = {"n_features": shape[0], "input_shape": shape, "n_components": width}
    return Part(part, network, shapes)


def build_backbone(
    settings: Settings, feature_shape: tuple[int, ...], device: str
) -> FrozenNetwork:
    """Return the frozen module of a learner.

    Parameters
    ----------
    settings : Settings
        The parameters of the learner.
    feature_shape : tuple of int
        The shape of one point.
    device : str
        Where the module runs.

    Returns
    -------
    FrozenNetwork
        The frozen module.
    """
    settings.net_params.check(module=settings.module)
    module = network_of(settings, "module", feature_shape)
    # The width of the embedding is that of the head.
    shapes = {name: value for name, value in module.offered.items() if name != "n_components"}
    params = module._replace(offered=shapes).params(settings.net_params.of("module"))
    network = module.copy_if_built() if module.is_built else module.target(**params)
    return FrozenNetwork(network, device=device, feature_shape=feature_shape)


def loss_of(training: "Training") -> Part:
    """Return the loss, with the parameters of the learner that it takes.

    Parameters
    ----------
    training : Training
        The training that asks for a loss.

    Returns
    -------
    Part
        The loss.

    Raises
    ------
    ValueError
        If the loss is unknown, or does not take a parameter that was set.
    """
    settings = training.settings
    loss = get_loss(settings.loss, settings.known_losses, settings.learner_name)
    if isinstance(loss, torch.nn.Module):
        if settings.margin is not None:
            raise ValueError(
                f"margin={settings.margin} was given together with a {type(loss).__name__} "
                "instance, which has its own margin. Set the margin on the instance, or pass its "
                "class."
            )
        if any(name.startswith("loss__") for name in settings.net_params.params):
            return Part("loss", type(loss), own_params(loss))
        return Part("loss", loss)
    # The loss builds a miner from its name, because it knows the distance.
    is_set = any(name.startswith("miner__") for name in settings.net_params.params)
    miner = built_miner(settings) if is_set else settings.miner
    ours = not inspect.isclass(loss) or loss in LOSSES.values()
    # Losses of other packages know no names of miners.
    offered = {"distance": settings.distance, "miner": miner if ours else miner_for_net(settings)}
    if settings.margin is not None:
        offered["margin"] = settings.margin
        if "margin" not in inspect.signature(loss).parameters:
            raise ValueError(
                f"margin={settings.margin} was given, but the loss {settings.loss!r} has no margin."
                " Its parameters are set by loss__*."
            )
    if loss is VICRegLoss:  # in units of networks whose points lie 1 apart at the start
        offered["std"] = None
    width = Width(sample_points(training))
    sizes = {"n_classes": training.n_classes, "n_components": width}
    sizes |= {"num_classes": training.n_classes, "embedding_size": width}  # of other packages
    sizes |= {"descriptors_dim": width}
    return Part("loss", loss, offered, if_required=sizes)


def built_miner(settings: Settings) -> Callable[..., Any]:
    """Return the miner of a learner, built with its ``miner__*`` parameters."""
    return get_miner(settings.miner, settings.distance, **settings.net_params.of("miner"))


def miner_for_net(settings: Settings) -> Callable[..., Any] | None:
    """Return the miner that the net runs for a loss that does not mine; None means no mining."""
    miner = built_miner(settings)
    return None if isinstance(miner, AllTripletsMiner) else CheckedMiner(miner)


def check_accepts_tuples(net: EmbeddingNet, kind: str, width: int) -> None:
    """Raise unless the loss can learn from given pairs or triplets.

    No two given pairs share a point. A loss that compares the positives of an anchor with its
    negatives therefore learns nothing from pairs.

    Parameters
    ----------
    net : EmbeddingNet
        The net. Its loss is called once on random embeddings.
    kind : {"pairs", "triplets"}
        The supervision.
    width : int
        Width of the embedding.

    Raises
    ------
    ValueError
        If the loss keeps something for each class, or has no gradient.
    """
    name = type(net.criterion_).__name__
    if any(getattr(net.criterion_, one, None) is not None for one in ("n_classes", "num_classes")):
        raise ValueError(
            f"{name} keeps parameters for each class, but supervision={kind!r} has no classes. "
            "Choose a loss over pairs or triplets, or supervision='labels'."
        )
    if kind != "pairs":
        return
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(32, width, generator=generator).to(net.device).requires_grad_()
    loss = net.get_loss(points, torch.arange(16) % 2)
    check_loss(loss)
    (gradient,) = torch.autograd.grad(loss, points, allow_unused=True)
    if width > 1 and (gradient is None or not gradient.any()):
        raise ValueError(
            f"{name} compares the positives of an anchor with its negatives, and learns nothing "
            "from supervision='pairs', where no two pairs share a point. Use a loss over single "
            "pairs, like 'contrastive', or supervision='labels' or 'triplets'."
        )


def check_memory(net: EmbeddingNet, training: "Training", width: int) -> None:
    """Raise unless the loss can compare a batch with the embeddings of earlier batches."""
    settings = training.settings
    if training.data.groups is not None and settings.group_batches == "apart":
        raise ValueError(
            "group_batches='apart' compares points of one group, and memory_size="
            f"{settings.memory_size} compares them with earlier batches of any group. Use only "
            "one of the two."
        )
    check_accepts_references(net.compare, width, net.device)


def check_margin_in_range(loss: Any, width: int) -> None:
    """Raise if a margin is larger than any distance between two points of length 1.

    Parameters
    ----------
    loss : callable
        The loss. Only losses whose margin is a distance are checked.
    width : int
        Width of the embedding.

    Raises
    ------
    ValueError
        If the margin is larger than the largest distance.
    """
    largest = {"euclidean": 2.0, "sqeuclidean": 4.0, "manhattan": 2 * np.sqrt(width)}
    for name in next((names for kind, names in MARGINS.items() if isinstance(loss, kind)), ()):
        if getattr(loss, name) > largest.get(loss.distance, np.inf):
            raise ValueError(
                f"{name}={getattr(loss, name):g} cannot be reached: with normalize=True two points "
                f"are at most {largest[loss.distance]:.3g} apart ({loss.distance})."
            )
