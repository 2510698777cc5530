"""How a deep learner builds its net: the network, the loss and the miner that were asked for."""

import copy

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
from skdml.deep.networks.initial import MAX_START_POINTS
from skdml.deep.networks.modules import ConvEmbedder, ResidualEmbedder
from skdml.deep.parameters import (
    NetParametersMixin,
    accepted_names,
    check_complete,
    own_params,
    required_names,
)
from skdml.deep.training.alarms import CollapseAlarm, IdleAlarm
from skdml.deep.training.checkpoint import SaveState
from skdml.deep.training.log import EpochLog
from skdml.deep.training.memory import check_accepts_references
from skdml.deep.training.net import EmbeddingNet, Width

DEFAULT_WIDTH = 64


WIDEST_TABLE = 768  # what most encoders give; less would lose what tells strangers apart


# The losses with margins that are distances, and what they call them.
MARGINS = {
    ContrastiveLoss: ("margin",),
    LiftedStructureLoss: ("margin",),
    MarginLoss: ("margin", "boundary"),
    MultiSimilarityLoss: ("base",),
    TripletLoss: ("margin",),
}


class NetBuilderMixin(NetParametersMixin):
    """What builds an `EmbeddingNet` from the parameters of an estimator.

    The estimator says which classes there are (``_n_classes``) and of which shape its points
    (``feature_shape_``).
    """

    def _set_backbone(self, former=None):
        """Set `backbone_`: none, or the frozen module, which a former network brings with it."""
        if self.freeze is None:
            self.backbone_ = None
        elif former is None:
            self.check_net_params(module=self.module)
            module, given = self._network("module")
            given.pop("n_components", None)  # a width of its own
            if not isinstance(module, torch.nn.Module):
                given |= self.params_of("module")
                check_complete("module", module, given)
                module = module(**given)
            shape = self.feature_shape_
            self.backbone_ = FrozenNetwork(_own(module), device=self._device(), feature_shape=shape)

    def _outputs_or_points(self, data):
        """Return what the network to train reads: outputs of a backbone, or the points."""
        return data if self.backbone_ is None else self.backbone_.embed_dataset(data)

    def _input_shape(self):
        return self.feature_shape_ if self.backbone_ is None else (self.backbone_.n_outputs,)

    def _build(self, data, rows, seed, former=None, first=(), path=None):
        """Return an initialised net that starts at Euclid, or where a former net ended.

        `first` are callbacks that come before those of the user.
        """
        trained = "module" if self.backbone_ is None else "head"
        module, module_given = self._network(trained)
        criterion, criterion_given = self._criterion(self._n_classes(data))
        parts = {"module": self.module, trained: module}
        self.check_net_params(**parts, criterion=criterion, optimizer=self.optimizer)
        given = {f"module__{name}": value for name, value in module_given.items()}
        given |= {f"criterion__{name}": value for name, value in criterion_given.items()}
        names = {trained: "module", "loss": "criterion", "criterion": "criterion"}
        names |= {name: name for name in ("optimizer", "iterator_train", "callbacks", "compile")}
        for prefix, name in names.items():
            params = self.params_of(prefix)
            given |= {f"{name}__{rest}": value for rest, value in params.items()}
        given.setdefault("callbacks__print_log", EpochLog())
        if former is not None:  # its network is built
            module = former
            given = {k: v for k, v in given.items() if not k.startswith("module__")}
        check_complete(trained, module, {k[8:] for k in given if k.startswith("module__")})
        check_complete("loss", criterion, {k[11:] for k in given if k.startswith("criterion__")})
        net = EmbeddingNet(
            _own(module),
            _own(criterion),
            normalize=self.normalize,
            miner=None if "miner" in criterion_given else self._miner(),
            supervision=data.kind,
            optimizer=self.optimizer,
            lr=self.lr,
            proxy_lr=self.proxy_lr,
            memory_size=self.memory_size,
            chunk_size=self.chunk_size,
            amp=self.amp,
            compile=self.compile,
            max_epochs=self.max_epochs,
            callbacks=self._callbacks(first, path, seed),
            train_split=None,
            device=self._device(),
            verbose=self.verbose,
            **given,
        ).initialize()
        self.check_callback_params(net.callback_names())
        net.check_monitors()
        self._start(net, data, rows, seed, new=not isinstance(module, torch.nn.Module))
        return net

    def _network(self, name):
        """Return what builds the module or the head, and the shapes to give to it."""
        module = getattr(self, name)
        shape = self.feature_shape_ if name == "module" else self._input_shape()
        widest = DEFAULT_WIDTH if name == "module" else np.inf
        if module is None:
            if len(shape) not in (1, 3):
                raise ValueError(
                    "module=None builds networks for tables (n_samples, n_features) and for images "
                    f"(n_samples, channels, height, width); for points of shape {shape} give a "
                    "module."
                )
            if len(shape) == 1:
                module, widest = ResidualEmbedder, max(widest, WIDEST_TABLE)
            else:
                module = ConvEmbedder
        if isinstance(module, torch.nn.Module):
            return module, {}
        if not callable(module):
            raise ValueError(
                f"{name}={module!r} is no network: give a torch.nn.Module, its class, or a "
                "function that returns one."
            )
        width = self.n_components or min(widest, int(np.prod(shape)))
        shapes = {"n_features": shape[0], "input_shape": shape, "n_components": width}
        taken, _ = accepted_names(module)
        return module, {name: value for name, value in shapes.items() if name in taken}

    def _criterion(self, n_classes):
        """Return the loss, and the parameters of the estimator that it takes."""
        loss = self._loss()
        if isinstance(loss, str):
            if loss not in LOSSES:
                raise ValueError(f"loss={loss!r} is unknown; choose one of {sorted(LOSSES)}.")
            loss = LOSSES[loss]
        if isinstance(loss, torch.nn.Module):
            if self.margin is not None:
                raise ValueError(
                    f"margin={self.margin} was given with a ready {type(loss).__name__}, which has "
                    "its own. Set it there, or give the class."
                )
            changed = any(name.startswith("loss__") for name in self._net_params)
            return (type(loss), own_params(loss)) if changed else (loss, {})
        if not callable(loss):
            raise ValueError(
                f"loss={loss!r} is no loss: give one of {sorted(LOSSES)}, a torch.nn.Module, or "
                "its class."
            )
        taken, _ = accepted_names(loss)
        # A name is left to the loss, which knows its distance.
        miner = self._built_miner() if self.params_of("miner") else self.miner
        given = {"distance": self.distance, "miner": miner}
        if self.margin is not None:
            if "margin" not in taken:
                raise ValueError(
                    f"margin={self.margin} was given, but the loss {loss!r} takes none. Its own "
                    "parameters are set by loss__*."
                )
            given["margin"] = self.margin
        if loss is VICRegLoss:  # as margins, in units of networks whose points start 1 apart
            given["std"] = None
        given = {name: value for name, value in given.items() if name in taken}
        width = Width(self._input_shape())
        asked = {"n_classes": n_classes, "n_components": width}
        asked |= {"num_classes": n_classes, "embedding_size": width}  # pytorch-metric-learning
        required = required_names(loss)
        return loss, given | {name: value for name, value in asked.items() if name in required}

    def _loss(self):
        return self.loss

    def _miner(self):
        """Return what mines for a loss that does not; from all it learns of itself."""
        miner = self._built_miner()
        return None if isinstance(miner, AllTripletsMiner) else miner

    def _built_miner(self):
        return get_miner(self.miner, self.distance, **self.params_of("miner"))

    def _callbacks(self, first, path, seed):
        """Return the callbacks of the user, copied since training changes them, and ours."""
        callbacks = [*first]  # what they record may be watched by the others
        for name in ("active_share", "spread"):
            averaged = PassthroughScoring(name, lower_is_better=None, on_train=True)
            callbacks.append((name, averaged))
        callbacks += copy.deepcopy([*(self.callbacks or ())])
        callbacks += [("collapse", CollapseAlarm()), ("idle", IdleAlarm())]
        if path is not None:
            callbacks.append(("state", SaveState(path, seed)))  # last: it saves the others
        return callbacks

    def _device(self):
        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.empty(0, device=torch.device(self.device))
        except (AssertionError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"device={self.device!r} cannot be used here: {str(error).splitlines()[0]} Give a "
                "torch device, or 'auto'."
            ) from error
        return self.device

    def _start(self, net, data, rows, seed, *, new):
        """Show a new network some training points, and see what it makes of them."""
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MAX_START_POINTS])
        points = next(batches_of_points(data.points(rows), MAX_START_POINTS)).to(net.device)
        if not torch.isfinite(points).all():
            raise ValueError(
                "Points have to be finite; the Dataset gives some with NaN or infinity. Leave them "
                "out, or fill in what is missing."
            )
        if new and hasattr(net.module_, "initialize_from"):
            taken, _ = accepted_names(net.module_.initialize_from)
            known = {"y": data.targets if data.kind == "labels" else None, "groups": data.groups}
            known = {k: v[rows] for k, v in known.items() if k in taken and v is not None}
            net.module_.initialize_from(points, **known)
        width = net.width(self._input_shape())
        if self.n_components not in (None, width):
            goes_on = self.warm_start and self.__sklearn_is_fitted__()
            former = " (with warm_start=True, that of the last fit)" if goes_on else ""
            raise ValueError(
                f"n_components={self.n_components}, but the module{former} gives embeddings of "
                f"width {width}."
            )
        net.check_call()
        if self.normalize:
            check_reach(net.criterion_, width)
        if self.memory_size:
            if data.groups is not None and self.group_batches == "apart":
                raise ValueError(
                    "group_batches='apart' compares within a group, and memory_size="
                    f"{self.memory_size} with earlier batches, of any group. Give one of the two."
                )
            check_accepts_references(net.compare, width, net.device)


def check_reach(loss, width):
    """Raise if a loss asks for a distance that two points of length 1 cannot have.

    Parameters
    ----------
    loss : callable
        The loss; those whose margin is a distance are checked.
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
                f"{name}={getattr(loss, name):g} cannot be reached: with normalize=True no two "
                f"points are further apart than {largest[loss.distance]:.3g} ({loss.distance})."
            )


def _own(part):
    """Copy what is ready-made: training must not change a parameter of the estimator."""
    return copy.deepcopy(part) if isinstance(part, torch.nn.Module) else part
