"""One training: what it reads, where it starts, when it stops, and how it ended."""

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from skdml.deep.data.augmentation import AugmentedDataset
from skdml.deep.data.samplers import make_batch_sampler
from skdml.deep.networks.frozen import FrozenNetwork
from skdml.deep.settings import Settings
from skdml.deep.training.alarms import InitialWeightsWarning
from skdml.deep.training.build import build_backbone, build_net
from skdml.deep.training.checkpoint import (
    Checkpoint,
    SaveCheckpoint,
    find_checkpoint,
    set_generators,
)
from skdml.deep.training.held_out import hold_out
from skdml.deep.training.net import DivergenceError, EmbeddingNet, InterruptedTraining
from skdml.deep.training.stopping import ReplayedScores, RetrievalStopping, WeightsAtEpoch


class Training:
    """One training of a network.

    Parameters
    ----------
    settings : Settings
        The parameters of the settings.
    data : ArrayDataset or LabelledDataset
        What the trained network reads: points, or the outputs of a frozen backbone.
    feature_shape : tuple of int
        The shape of one point, before any backbone.
    seed : int
        Decides initial weights, batches and what is held out.
    device : str
        Where training takes place.
    previous : torch.nn.Module or None, default=None
        The network of an earlier fit, to train on; None builds a new one.
    backbone : FrozenNetwork or None, default=None
        The frozen module before the trained network.
    checkpoint : Checkpoint or None, default=None
        Where the state of training is kept.
    callbacks : list of (str, Callback), default=None
        Callbacks that run before all others.
    first : Training or None, default=None
        The training that found the best epoch, if this is its refit on all data.

    Attributes
    ----------
    trained_part : {"module", "head"}
        The parameter that names the network that is trained.
    input_shape : tuple of int
        The shape of one point, as that network reads it.
    rows : ndarray of int
        The rows to train on; all until `hold_out` is called.
    stopping : RetrievalStopping or None
        The callback that scores what was held out; None if nothing was.
    best : WeightsAtEpoch or None
        The callback that keeps the weights of the best epoch in a refit.
    n_classes : int or None
        Number of classes; None where targets are graded.
    net : EmbeddingNet or None
        The net; None until `start`.
    interruption : DivergenceError, InterruptedTraining or None
        What ended `run` too early.
    is_complete : bool
        Whether `run` came to its end, or in a refit past the best epoch.
    refit : Training or None
        The refit that followed.
    """

    def __init__(
        self,
        settings: Settings,
        data: Any,
        *,
        feature_shape: tuple[int, ...],
        seed: int,
        device: str,
        previous: torch.nn.Module | None = None,
        backbone: FrozenNetwork | None = None,
        checkpoint: Checkpoint | None = None,
        callbacks: list[tuple[str, Any]] | None = None,
        first: "Training | None" = None,
    ):
        self.settings = settings
        self.data = data
        self.feature_shape = feature_shape
        self.seed = seed
        self.device = device
        self.previous = previous
        self.backbone = backbone
        self.checkpoint = checkpoint
        self.callbacks = callbacks or []
        self.first = first
        # skorch calls the trained part its module, whichever it is.
        self.trained_part = "module" if backbone is None else "head"
        self.input_shape = feature_shape if backbone is None else (backbone.n_outputs,)
        self.stopping: Any = None
        self.best: Any = None
        self.refit: Training | None = None
        self.is_complete = False
        self.rows: NDArray[np.integer] = np.arange(len(data.targets))
        self.n_classes = None if data.kind == "targets" else int(data.targets.max()) + 1
        self.net: Any = None
        self.interruption: DivergenceError | InterruptedTraining | None = None

    def hold_out(self, kind: str | None = None) -> None:
        """Hold out some of the data to stop by, if the learner stops early.

        Parameters
        ----------
        kind : {"auto", "rows", "classes"} or None, default=None
            What to hold out. None is the parameter `hold_out` of the learner.
        """
        settings = self.settings
        if not settings.early_stopping:
            return
        self.rows, score = hold_out(
            self.data,
            settings.validation_fraction,
            np.random.default_rng(self.seed),
            distance=settings.distance,
            scoring=settings.scoring,
            kind=kind or settings.hold_out,
            augment=settings.augment,
        )
        if score is not None:
            self.stopping = RetrievalStopping(score, settings.patience, score.name)
            self.callbacks.append(("stopping", self.stopping))

    def start(self) -> None:
        """Build the net, or read the net of a training that was killed."""
        state = None if self.checkpoint is None else self.checkpoint.state
        if state is not None:
            self.net = self._resume(state)
            return
        if self.first is not None:
            torch.manual_seed(self.seed)
        self.net = build_net(self)
        if self.stopping is not None:
            chosen = hasattr(self.net.module_, "initialize_from") or self.previous is not None
            self.stopping.may_keep_start = chosen
        self.net.notify("on_train_begin", X=self.data, y=None)

    def start_from(self, net: EmbeddingNet) -> None:
        """Train on with a copy of a fitted net, so that a failure leaves the net intact."""
        self.net = copy.deepcopy(net)
        torch.manual_seed(self.seed + len(net.history))  # other dropout in each call
        self.net.check_monitors()
        self.net.empty_memory()

    def run_one_epoch(self) -> None:
        """Train for one epoch more; an epoch that Ctrl-C ends early counts for nothing.

        Raises
        ------
        DivergenceError
            If training diverged.
        """
        if self.net is None:
            self.start()
            torch.manual_seed(self.seed)
        self.run(len(self.net.history) + 1)
        if isinstance(self.interruption, DivergenceError):
            raise self.interruption

    def run(self, n_epochs: int) -> None:
        """Train until the net has had this many epochs, or until something stops it.

        An interruption is kept in `interruption`.

        Parameters
        ----------
        n_epochs : int
            The number of epochs, those before `run` included.

        Raises
        ------
        DivergenceError
            If training diverged before the first epoch was complete.
        KeyboardInterrupt
            If Ctrl-C came before the first epoch. In a refit it is an interruption.
        """
        data, settings = self.data, self.settings
        if settings.augment is not None:
            n_views = 2 if data.kind == "views" else 1
            data = AugmentedDataset(data, settings.augment, n_views=n_views)
        try:
            if self.net is None:
                self.start()
            n_before = len(self.net.history)
            sampler = make_batch_sampler(
                self.data,
                self.rows,
                settings.batch_size,
                n_per_class=settings.n_per_class,
                balanced=settings.balance_classes,
                group_batches=settings.group_batches,
                seed=self.seed,
            )
            sampler.epoch = n_before
            self.net.run(data, sampler, n_epochs - n_before)
        except (DivergenceError, InterruptedTraining) as interruption:
            self.interruption = interruption
        except KeyboardInterrupt as error:
            if self.first is None:
                raise
            self.interruption = InterruptedTraining(error)
        n_done = len(self.net.history) if self.net is not None else 0
        if self.first is None and isinstance(self.interruption, DivergenceError) and not n_done:
            raise self.interruption
        self.is_complete = self.interruption is None or (
            self.best is not None and n_done > self.best.epoch
        )

    @property
    def may_refit(self) -> bool:
        """Whether a refit on all data follows."""
        return self.settings.refit and self.stopping is not None and self.interruption is None

    def prepare_refit(self) -> "Training":
        """Return the training on all data that repeats this one, up to its best epoch."""
        stopping = self.stopping
        scores = ReplayedScores(self.net.history, stopping.name)
        self.refit = Training(
            self.settings,
            self.data,
            feature_shape=self.feature_shape,
            seed=self.seed,
            device=self.device,
            previous=self.previous,
            backbone=self.backbone,
            checkpoint=self.checkpoint and Checkpoint(self.checkpoint.refit_path),
            callbacks=[("scores", scores)],
            first=self,
        )
        self.refit.best = WeightsAtEpoch(stopping.best_epoch_, stopping.best_share_)
        self.refit.callbacks.append(("stopping", self.refit.best))
        return self.refit

    def release_net(self) -> EmbeddingNet:
        """Return the net, without what only training needs."""
        net = self.net
        if self.first is not None:
            net.history = self.first.net.history  # which has the scores
        done = (*[type(one) for _, one in self.callbacks], SaveCheckpoint)
        net.callbacks_ = [(name, one) for name, one in net.callbacks_ if not isinstance(one, done)]
        net.callbacks = [  # entries are callbacks, or (name, callback)
            entry
            for entry in net.callbacks
            if not isinstance(entry[1] if isinstance(entry, tuple) else entry, done)
        ]
        net.memory_ = None
        net.module_.eval()  # transform in several threads then need not switch the mode
        return net

    def history_table(self) -> dict[str, NDArray[np.floating]]:
        """Return what was recorded in each epoch, as arrays of shape (n_epochs,)."""
        names = {"train_loss": "loss", "active_share": "active_share", "spread": "spread"}
        names |= {"dur": "seconds"}
        if self.stopping is not None:
            names |= {key: key for key in (self.stopping.name, f"{self.stopping.name}_gain")}
        return {
            name: np.array([epoch.get(key, np.nan) for epoch in self.net.history])
            for key, name in names.items()
        }

    def _resume(self, state: dict[str, Any]) -> EmbeddingNet:
        """Return the net of a training that was killed, ready for its next epoch."""
        net = state["net"]
        net.verbose = self.settings.verbose
        if self.checkpoint is not None:  # the folder may have moved
            net.callback(SaveCheckpoint).path = self.checkpoint.path
        set_generators(state["generators"], net.device)
        if self.stopping is not None:
            score, self.stopping = self.stopping.score, net.callback(RetrievalStopping)
            self.stopping.score = score
        if self.best is not None:
            self.best = net.callback(WeightsAtEpoch)
        self.callbacks = [(name, net.callback(type(one))) for name, one in self.callbacks]
        return net


@contextlib.contextmanager
def begin_training(
    settings: Settings,
    data: Any,
    feature_shape: tuple[int, ...],
    *,
    previous: torch.nn.Module | None = None,
    backbone: FrozenNetwork | None = None,
    net: EmbeddingNet | None = None,
    resumable: bool = False,
) -> Iterator[Training]:
    """Seed torch and give a training; afterwards torch's generators are as before.

    Parameters
    ----------
    settings : Settings
        The parameters of the learner.
    data : ArrayDataset or LabelledDataset
        The training data.
    feature_shape : tuple of int
        The shape of one point.
    previous : torch.nn.Module or None, default=None
        The network of an earlier fit, for a new net.
    backbone : FrozenNetwork or None, default=None
        The frozen module of an earlier fit.
    net : EmbeddingNet or None, default=None
        A fitted net, to train on with its optimizer.
    resumable : bool, default=False
        Whether to look for the checkpoint of this fit.

    Yields
    ------
    Training
        The training, started only if a net was given.
    """
    device = resolve_device(settings.device)
    checkpoint = None
    if resumable and settings.checkpoint is not None:
        checkpoint = find_checkpoint(settings, data)
    seed = check_random_state(settings.random_state).randint(2**31 - 1)
    if checkpoint is not None and checkpoint.state is not None:
        seed = checkpoint.state["seed"]  # without a random_state, the seed of the killed fit
    with torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        if settings.freeze is not None and previous is None and net is None:
            backbone = build_backbone(settings, feature_shape, device)
        training = Training(
            settings,
            data if backbone is None else backbone.embed_dataset(data),
            feature_shape=feature_shape,
            seed=seed,
            device=device,
            previous=previous,
            backbone=backbone,
            checkpoint=checkpoint,
        )
        if net is not None:
            training.start_from(net)
        yield training
    last = training.refit or training
    if checkpoint is not None and last.interruption is None:
        checkpoint.remove()


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


def report_outcome(training: Training, epoch: int) -> None:
    """Tell the user of a training that ended too early, or brought no gain.

    The learner is fitted all the same.

    Parameters
    ----------
    training : Training
        The last training of the fit.
    epoch : int
        The epoch whose weights the learner has; 0 is the start.

    Raises
    ------
    DivergenceError
        If loss or weights were no longer finite.

    Warns
    -----
    UserWarning
        If Ctrl-C ended training.
    InitialWeightsWarning
        If the training came to its end, and the learner has its initial weights.
    """
    if training.interruption is None:
        if epoch == 0:
            warn_of_initial_weights(training)
        return
    kept = f"is fitted with its weights after epoch {epoch} (0 is the start)."
    if isinstance(training.interruption, DivergenceError):
        raise DivergenceError(f"{training.interruption} The learner {kept}")
    warnings.warn(f"Training was interrupted. The learner {kept}", stacklevel=3)


def warn_of_initial_weights(training: Training) -> None:
    """Warn that the initial weights were kept. The text of the warning has no figures.

    Python then shows it once where many fits run in one place, like a grid search.
    """
    stopping = (training.first or training).stopping
    unseen = getattr(stopping.score, "unseen_classes", False)
    start = "initial weights"
    if training.previous is not None:
        start = "weights of the last fit (warm_start=True)"
    advice = "early_stopping=False trains to the end on all data."
    if unseen:
        advice = (
            "If only known classes will be compared, set hold_out='rows', or early_stopping=False "
            "to train to the end."
        )
    warnings.warn(
        f"No epoch retrieved the held-out {'classes' if unseen else 'data'} clearly better than "
        f"the {start}. The distance therefore uses the {start} (best_epoch_=0). {advice} Otherwise "
        "try more data, a larger lr, or another loss.",
        InitialWeightsWarning,
        stacklevel=4,
    )
