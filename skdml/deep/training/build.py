"""From the parameters of a learner to its skorch net: network, loss, miner and callbacks."""

import copy
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from skorch.callbacks import PassthroughScoring

from skdml.deep.data.datasets import batches_of_points
from skdml.deep.losses import (
    LOSSES,
    ContrastiveLoss,
    LiftedStructureLoss,
    MarginLoss,
    MultiSimilarityLoss,
    TripletLoss,
    VICRegLoss,
)
from skdml.deep.miners import AllTripletsMiner, get_miner
from skdml.deep.networks.frozen import FrozenNetwork
from skdml.deep.networks.initial import MAX_POINTS
from skdml.deep.networks.modules import ConvEmbedder, ResidualEmbedder
from skdml.deep.parameters import (
    accepted_names,
    check_complete,
    own_params,
    required_names,
)
from skdml.deep.training.alarms import CollapseAlarm, IdleAlarm
from skdml.deep.training.checkpoint import SaveCheckpoint
from skdml.deep.training.log import EpochLog
from skdml.deep.training.memory import check_takes_references
from skdml.deep.training.net import EmbeddingNet, Width

if TYPE_CHECKING:
    from skdml.deep.base import DeepEmbedder
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


def build_net(training: "Training") -> EmbeddingNet:
    """Return an initialised net for a training.

    Parameters
    ----------
    training : Training
        What to train: its learner gives the parameters, its data the shapes and the classes. The
        network of an earlier fit, if there is one, is trained on.

    Returns
    -------
    EmbeddingNet
        The net.

    Raises
    ------
    ValueError
        If a parameter is unknown, lacking or out of range.
    """
    learner, trained = training.learner, training.trained_part
    network, network_given = choose_network(learner, trained, training.input_shape)
    loss, loss_given = choose_loss(learner, training.n_classes, training.input_shape)
    parts = {"module": learner.module, trained: network}
    learner.check_net_params(**parts, criterion=loss, optimizer=learner.optimizer)
    given = {f"module__{name}": value for name, value in network_given.items()}
    given |= {f"criterion__{name}": value for name, value in loss_given.items()}
    given |= skorch_params(learner, trained)
    if training.previous is not None:  # it is built already
        network = training.previous
        given = {name: value for name, value in given.items() if not name.startswith("module__")}
    check_complete(trained, network, names_after("module__", given))
    check_complete("loss", loss, names_after("criterion__", given))
    net = EmbeddingNet(
        copy_of_module(network),
        copy_of_module(loss),
        normalize=learner._resolve("normalize"),
        miner=None if "miner" in loss_given else miner_for_net(learner),
        supervision=training.data.kind,
        optimizer=learner.optimizer,
        lr=learner.lr,
        proxy_lr=learner.proxy_lr,
        memory_size=learner.memory_size,
        chunk_size=learner.chunk_size,
        amp=learner.amp,
        compile=learner.compile,
        max_epochs=learner._resolve("max_epochs"),
        callbacks=list_callbacks(training),
        train_split=None,
        device=resolve_device(learner.device),
        verbose=learner.verbose,
        **given,
    ).initialize()
    learner.check_callback_params(net.callback_names())
    net.check_monitors()
    show_points(net, training, new=not isinstance(network, torch.nn.Module))
    return net


def skorch_params(learner: "DeepEmbedder", trained: str) -> dict[str, Any]:
    """Return the net's own parameters under the names that skorch gives them.

    Parameters
    ----------
    learner : DeepEmbedder
        The learner.
    trained : {"module", "head"}
        The part that is trained; skorch calls it the module.

    Returns
    -------
    dict
        Names and values.
    """
    names = {trained: "module", "loss": "criterion", "criterion": "criterion"}
    names |= {name: name for name in ("optimizer", "iterator_train", "callbacks", "compile")}
    given = {
        f"{name}__{rest}": value
        for prefix, name in names.items()
        for rest, value in learner.params_of(prefix).items()
    }
    given.setdefault("callbacks__print_log", EpochLog())
    return given


def names_after(prefix: str, params: dict[str, Any]) -> set[str]:
    """Return the names of the parameters with a prefix, without the prefix."""
    return {name.removeprefix(prefix) for name in params if name.startswith(prefix)}


def build_backbone(learner: "DeepEmbedder") -> FrozenNetwork | None:
    """Return the frozen module of a learner, or None if it freezes nothing.

    Parameters
    ----------
    learner : DeepEmbedder
        The learner; it knows the shape of its points.

    Returns
    -------
    FrozenNetwork or None
        The frozen module.
    """
    if learner.freeze is None:
        return None
    learner.check_net_params(module=learner.module)
    module, given = choose_network(learner, "module", learner.feature_shape_)
    given.pop("n_components", None)  # the width of the embedding is that of the head
    if not isinstance(module, torch.nn.Module):
        given |= learner.params_of("module")
        check_complete("module", module, set(given))
        module = module(**given)
    device, shape = resolve_device(learner.device), learner.feature_shape_
    return FrozenNetwork(copy_of_module(module), device=device, feature_shape=shape)


def choose_network(
    learner: "DeepEmbedder", part: str, shape: tuple[int, ...]
) -> tuple[Any, dict[str, Any]]:
    """Return the network, its class or its function, and the shapes that are passed to it.

    Parameters
    ----------
    learner : DeepEmbedder
        The learner.
    part : {"module", "head"}
        The parameter that names the network.
    shape : tuple of int
        The shape of one point, as the network reads it.

    Returns
    -------
    network : class, callable or torch.nn.Module
        The network.
    given : dict
        Of "n_features", "input_shape" and "n_components" those that it takes.

    Raises
    ------
    ValueError
        If there is no default network for points of this shape, or if the network is none.
    """
    network = getattr(learner, part)
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
        return network, {}
    if not callable(network):
        raise ValueError(
            f"{part}={network!r} is no network. Pass a torch.nn.Module, its class, or a function "
            "that returns one."
        )
    width = learner.n_components or min(widest, int(np.prod(shape)))
    shapes = {"n_features": shape[0], "input_shape": shape, "n_components": width}
    taken, _ = accepted_names(network)
    return network, {name: value for name, value in shapes.items() if name in taken}


def choose_loss(
    learner: "DeepEmbedder", n_classes: int | None, input_shape: tuple[int, ...]
) -> tuple[Any, dict[str, Any]]:
    """Return the loss or its class, and the parameters of the learner that it takes.

    Parameters
    ----------
    learner : DeepEmbedder
        The learner.
    n_classes : int or None
        Number of classes; None where targets are graded.
    input_shape : tuple of int
        The shape of one point, as the trained network reads it.

    Returns
    -------
    loss : class, callable or torch.nn.Module
        The loss.
    given : dict
        Its parameters.

    Raises
    ------
    ValueError
        If the loss is unknown, or does not take a parameter that was set.
    """
    loss = find_loss(learner)
    if isinstance(loss, torch.nn.Module):
        if learner.margin is not None:
            raise ValueError(
                f"margin={learner.margin} was given together with a {type(loss).__name__} instance,"
                " which has its own margin. Set the margin on the instance, or pass its class."
            )
        changed = bool(learner.params_of("loss"))
        return (type(loss), own_params(loss)) if changed else (loss, {})
    taken, _ = accepted_names(loss)
    # The loss builds a miner from its name, because it knows the distance.
    miner = built_miner(learner) if learner.params_of("miner") else learner.miner
    given = {"distance": learner.distance, "miner": miner}
    if learner.margin is not None:
        if "margin" not in taken:
            raise ValueError(
                f"margin={learner.margin} was given, but the loss {learner._resolve('loss')!r} has "
                "no margin. Its parameters are set by loss__*."
            )
        given["margin"] = learner.margin
    if loss is VICRegLoss:  # in units of networks whose points lie 1 apart at the start
        given["std"] = None
    given = {name: value for name, value in given.items() if name in taken}
    width = Width(input_shape)
    sizes = {"n_classes": n_classes, "n_components": width}
    sizes |= {"num_classes": n_classes, "embedding_size": width}  # pytorch-metric-learning
    required = required_names(loss)
    return loss, given | {name: value for name, value in sizes.items() if name in required}


def find_loss(learner: "DeepEmbedder") -> Any:
    """Return the loss of a learner as a class, a function or an instance.

    Parameters
    ----------
    learner : DeepEmbedder
        The learner. A loss of this package has to be one of the losses the learner accepts; any
        other class, function or module is taken as it is.

    Returns
    -------
    class, callable or torch.nn.Module
        The loss.

    Raises
    ------
    ValueError
        If the name is unknown, if the learner does not accept the loss, or if it is no loss.
    """
    given, accepted = learner._resolve("loss"), learner._losses
    loss = LOSSES.get(given) if isinstance(given, str) else given
    kind = loss if inspect.isclass(loss) else type(loss)
    if kind in LOSSES.values() and kind not in [LOSSES[name] for name in accepted]:
        raise ValueError(
            f"{type(learner).__name__} does not accept loss={given!r}; choose one of "
            f"{sorted(accepted)}. DeepEmbedder accepts any loss."
        )
    if isinstance(given, str) and loss is None:
        raise ValueError(f"loss={given!r} is unknown; choose one of {sorted(accepted)}.")
    if not callable(loss):
        raise ValueError(
            f"loss={given!r} is no loss. Pass one of {sorted(accepted)}, a torch.nn.Module, or its "
            "class."
        )
    return loss


def built_miner(learner: "DeepEmbedder") -> Callable[..., Any]:
    """Return the miner of a learner, built with its ``miner__*`` parameters."""
    return get_miner(learner.miner, learner.distance, **learner.params_of("miner"))


def miner_for_net(learner: "DeepEmbedder") -> Callable[..., Any] | None:
    """Return the miner that the net runs for a loss that does not mine; None means no mining."""
    miner = built_miner(learner)
    return None if isinstance(miner, AllTripletsMiner) else miner


def list_callbacks(training: "Training") -> list[Any]:
    """Return the callbacks of a net: ours, and copies of the user's, which training changes."""
    # Ours come first, so that the user's callbacks may watch what they record.
    callbacks = [*training.callbacks]
    for name in ("active_share", "spread"):
        averaged = PassthroughScoring(name, lower_is_better=None, on_train=True)
        callbacks.append((name, averaged))
    callbacks += copy.deepcopy([*(training.learner.callbacks or ())])
    callbacks += [("collapse", CollapseAlarm()), ("idle", IdleAlarm())]
    if training.checkpoint is not None:  # last, because it saves all others
        save = SaveCheckpoint(training.checkpoint.path, training.seed)
        callbacks.append(("state", save))
    return callbacks


def resolve_device(device: str) -> str:
    """Return the torch device for the parameter `device`.

    Parameters
    ----------
    device : str
        A torch device, or "auto": a GPU if there is one.

    Returns
    -------
    str
        The device.

    Raises
    ------
    ValueError
        If the device cannot be used.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=torch.device(device))
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={device!r} cannot be used here: {str(error).splitlines()[0]} Pass a torch "
            "device, or 'auto'."
        ) from error
    return device


def show_points(net: EmbeddingNet, training: "Training", *, new: bool) -> None:
    """Show training points to a network before training, and check what it returns.

    Parameters
    ----------
    net : EmbeddingNet
        The net.
    training : Training
        Its training.
    new : bool
        Whether the network was built here. A new network with a method ``initialize_from`` chooses
        its initial weights by these points.

    Raises
    ------
    ValueError
        If points are not finite, or network and loss do not fit the parameters.
    """
    data = training.data
    rows = np.sort(np.random.default_rng(training.seed).permutation(training.rows)[:MAX_POINTS])
    points = next(batches_of_points(data.points(rows), MAX_POINTS)).to(net.device)
    if not torch.isfinite(points).all():
        raise ValueError(
            "Points have to be finite, but the Dataset returns NaN or infinity. Leave such points "
            "out, or fill in the missing values."
        )
    if new and hasattr(net.module_, "initialize_from"):
        taken, _ = accepted_names(net.module_.initialize_from)
        known = {"y": data.targets if data.kind == "labels" else None, "groups": data.groups}
        known = {k: v[rows] for k, v in known.items() if k in taken and v is not None}
        net.module_.initialize_from(points, **known)
    check_net(net, training)


def check_net(net: EmbeddingNet, training: "Training") -> None:
    """Raise unless the network and the loss fit the parameters of the learner."""
    learner, width = training.learner, net.width(training.input_shape)
    if learner.n_components not in (None, width):
        previous = " of the last fit (warm_start=True)" if training.previous is not None else ""
        raise ValueError(
            f"n_components={learner.n_components}, but the module{previous} returns embeddings of "
            f"width {width}."
        )
    net.check_call()
    if learner._resolve("normalize"):
        check_margin_in_range(net.criterion_, width)
    if learner.memory_size:
        if training.data.groups is not None and learner.group_batches == "apart":
            raise ValueError(
                "group_batches='apart' compares points of one group, and memory_size="
                f"{learner.memory_size} compares them with earlier batches of any group. Use only "
                "one of the two."
            )
        check_takes_references(net.compare, width, net.device)


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


def copy_of_module(part: Any) -> Any:
    """Copy an instance, because training must not change a parameter of the learner."""
    return copy.deepcopy(part) if isinstance(part, torch.nn.Module) else part
