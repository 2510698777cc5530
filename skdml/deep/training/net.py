"""The skorch net inside a deep learner: its batches, its loss, and what it records."""

import copy
import inspect
import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNet
from skorch.exceptions import DeviceWarning
from torch.utils.data import DataLoader

from skdml.deep.data.reading import TUPLE_SIZES
from skdml.deep.data.samplers import RecordingBatchSampler
from skdml.deep.losses import compare_views, learns_from
from skdml.deep.networks.map import NetworkMap, embed_batch
from skdml.deep.scores import SCORINGS
from skdml.deep.training.chunks import backward_in_chunks
from skdml.deep.training.memory import CrossBatchMemory
from skdml.deep.training.stopping import ReplayedScores, RetrievalStopping, cpu_state_dict


class EmbeddingNet(NeuralNet):
    """A skorch net whose loss compares the points of a batch with each other.

    A batch sampler draws the batches. The loss gets labels (or tuples) and mined indices. The share
    of active pairs or triplets and the spread of the embeddings are recorded.

    Parameters
    ----------
    module, criterion : class, callable or torch.nn.Module
        As in skorch. The criterion is called ``criterion(embeddings, labels)``. It gets a third
        argument ``indices_tuple`` if there are mined indices or tuples.
    normalize : bool, default=False
        Whether embeddings are scaled to unit length.
    miner : callable or None, default=None
        Chooses pairs and triplets for a criterion that does not mine.
    supervision : {"labels", "targets", "views", "pairs", "triplets"}, default="labels"
        What a batch holds: points with classes or graded targets; all first views of points, then
        all second views; or the points of one tuple after the other.
    proxy_lr : float, default=None
        Learning rate of the parameters of the criterion. None is `lr`.
    memory_size : int, default=0
        Number of embeddings of earlier batches that a batch is compared with.
    chunk_size : int, default=None
        Number of points that pass through the network at once in training. None is the whole batch.
    amp : bool, default=False
        Whether the network computes in half precision while it trains.
    compile_training : bool, default=False
        Whether `torch.compile` runs the network while it trains. skorch's own `compile` would
        compile the network for good.
    **kwargs : dict
        As in `skorch.NeuralNet`.
    """

    def __init__(
        self,
        module,
        criterion,
        *,
        normalize=False,
        miner=None,
        supervision="labels",
        proxy_lr=None,
        memory_size=0,
        chunk_size=None,
        amp=False,
        compile_training=False,
        **kwargs,
    ):
        super().__init__(module, criterion, **kwargs)
        self.normalize = normalize
        self.miner = miner
        self.supervision = supervision
        self.proxy_lr = proxy_lr
        self.memory_size = memory_size
        self.chunk_size = chunk_size
        self.amp = amp
        self.compile_training = compile_training

    def initialize(self):
        """Build all parts, with an empty memory; see `skorch.NeuralNet`."""
        super().initialize()
        self.half_ = half_precision(self.device) if self.amp else None
        # Small gradients vanish in float16, so they are scaled. bfloat16 has the range of float32.
        scaled = self.half_ == torch.float16
        self.scaler_ = torch.amp.GradScaler(torch.device(self.device).type) if scaled else None
        self.empty_memory()
        self.mined_ = False  # whether the miner chose anything of the batch
        return self

    def empty_memory(self):
        """Forget the embeddings of earlier batches."""
        self.memory_ = CrossBatchMemory(self.memory_size) if self.memory_size else None
        if hasattr(self.criterion_, "reset_queue"):  # a memory of its own; labels may have changed
            self.criterion_.reset_queue()

    def get_params_for(self, prefix):
        """Return the parameters of a part, with `Width` replaced; see `skorch.NeuralNet`."""
        params = super().get_params_for(prefix)
        for name, value in params.items():
            if isinstance(value, Width):
                params[name] = self.map().width(value.points)
                setattr(self, f"{prefix}__{name}", params[name])  # the points are not needed again
        return params

    def get_params_for_optimizer(self, prefix, named_parameters):
        """Return the parameters of the optimizer; those of the loss are a group of their own."""
        of_network = {id(parameter) for parameter in self.module_.parameters()}
        all_named = list(named_parameters)
        of_loss = [parameter for _, parameter in all_named if id(parameter) not in of_network]
        named = [(name, parameter) for name, parameter in all_named if id(parameter) in of_network]
        trained = (parameter for part in self.trained_parts() for parameter in part.parameters())
        if not any(parameter.requires_grad for parameter in trained):
            raise ValueError(
                f"There is nothing to train: no parameter of {type(self.module_).__name__} or of "
                f"{type(self.criterion_).__name__} requires a gradient. To keep the network as it "
                "is and train a head, set freeze='module'."
            )
        (groups,), options = super().get_params_for_optimizer(prefix, named)
        if of_loss:
            rate = {} if self.proxy_lr is None else {"lr": self.proxy_lr}
            groups = [*groups, {"params": of_loss, **rate}]
        if not {"fused", "foreach"} & set(options):
            options |= fastest_step(
                self.optimizer, [p for group in groups for p in group["params"]]
            )
        return (groups,), options

    def trained_parts(self):
        """Return what training changes: the network, and the loss if it is a module."""
        parts = (self.module_, self.criterion_)
        return [part for part in parts if isinstance(part, torch.nn.Module)]

    def grow(self, n_classes):
        """Add classes to the loss; the optimizer keeps its state of the known classes.

        Parameters
        ----------
        n_classes : int
            Number of classes afterwards.
        """
        before = dict(self.criterion_.named_parameters())
        self.criterion_.grow(n_classes)
        after = dict(self.criterion_.named_parameters())
        renewed = {id(before[name]): after[name] for name in before}
        for group in self.optimizer_.param_groups:
            group["params"] = [renewed.get(id(old), old) for old in group["params"]]
        for name, old in before.items():
            state = self.optimizer_.state.pop(old, {})
            for key, value in state.items():
                if isinstance(value, torch.Tensor) and value.shape == old.shape:
                    grown = torch.zeros_like(after[name])
                    grown[: len(value)] = value
                    state[key] = grown
            if state:
                self.optimizer_.state[after[name]] = state

    def run(self, dataset, sampler, n_epochs):
        """Train the present weights for some more epochs.

        Parameters
        ----------
        dataset : ArrayDataset or LabelledDataset
            What to train on.
        sampler : iterable
            Its batches, as lists of rows.
        n_epochs : int
            The number of epochs. A callback, Ctrl-C or a loss that is not finite may end training
            earlier.

        Raises
        ------
        DivergenceError
            If loss or weights are no longer finite. Weights and history are then those of the last
            good epoch, if there was one.
        InterruptedTraining
            If Ctrl-C ended an epoch before its end.
        """
        good, ended, cut = [], None, False
        self.sampler_ = RecordingBatchSampler(sampler)
        if self.compile_training:
            self.network_ = torch.compile(self.module_, **self.get_params_for("compile")).__call__
        stopping = self.callback(RetrievalStopping)
        try:
            for _ in range(n_epochs):
                if stopping and stopping.stopped_:
                    break
                good = [*good[-1:], self._weights()]
                self.fit_loop(dataset, epochs=1)
            self._check_weights()  # a callback may have set them
        except DivergenceError as error:
            ended = error
            self._roll_back(good)
        except KeyboardInterrupt as error:  # callbacks end training so, too, after a whole epoch
            cut = len(self.history) > 0 and "train_loss" not in self.history[-1]
            if cut or (stopping and stopping.scoring_):
                ended = InterruptedTraining(error)
        finally:
            # The sampler holds the labels, and compiled code cannot be pickled.
            del self.sampler_
            vars(self).pop("network_", None)
        if n_epochs or self.history:  # otherwise there is no end that a callback could look at
            self.notify("on_train_end", X=dataset, y=None)
        if stopping:
            stopping.on_train_end(self)  # again, because a callback may have set the weights
        if cut:
            self.history.pop()
        if ended is not None:
            raise ended

    def _weights(self):
        if self.callback(RetrievalStopping):
            return None  # the callback keeps the best weights, and restores them
        return [cpu_state_dict(part) for part in self.trained_parts()]

    def _roll_back(self, good):
        """Restore the last good weights, and clear what is not finite in the optimizer."""
        epoch = self.history.pop()
        if good[-1] is not None:
            if not any("train_loss" in batch for batch in epoch["batches"]):
                # Not one batch had a finite loss, so the weights before this epoch are not good.
                good.pop()
                del self.history[-1:]
            if not good:
                del self.history[:]
            for part, weights in zip(self.trained_parts(), good[-1] if good else (), strict=False):
                part.load_state_dict(weights)
        for state in self.optimizer_.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor) and not torch.isfinite(value).all():
                    value.zero_()

    def on_epoch_end(self, net, **kwargs):
        """Check that the weights are finite, before a callback scores or saves them."""
        super().on_epoch_end(net, **kwargs)
        self._check_weights()

    def _check_weights(self):
        weights = [weight.detach() for part in self.trained_parts() for weight in part.parameters()]
        # The sum is finite only if all weights are. It is ten times faster than testing each.
        wide = (torch.promote_types(weight.dtype, torch.float32) for weight in weights)
        sums = (weight.sum(dtype=dtype) for weight, dtype in zip(weights, wide, strict=True))
        if not all(torch.isfinite(total) for total in sums):
            raise self._divergence("weights are no longer finite")

    def _divergence(self, seen):
        lr = self.optimizer_.param_groups[0]["lr"]
        half = " or amp=False," if self.amp else ""
        return DivergenceError(
            f"Training diverged in epoch {len(self.history)}, at a learning rate of {lr:g}: {seen}."
            f" Try lr={lr / 10:g}, callbacks=[skorch.callbacks.GradientNormClipping(1.0)],{half} or"
            " normalize=True. Check that features are scaled and the points of a Dataset finite."
        )

    def train_step(self, batch, **fit_params):
        """Take a step on a batch; see `skorch.NeuralNet.train_step`."""
        self.rows_ = self.sampler_.pending.popleft()
        self.mined_ = False
        take = super().train_step if self.scaler_ is None else self._scaled_step
        try:
            step = take(batch, **fit_params)
        except torch.cuda.OutOfMemoryError as error:
            raise type(error)(
                f"A batch of {len(batch[0])} points does not fit into the memory of {self.device}. "
                f"Set a smaller chunk_size (now {self.chunk_size}) to pass it through the network "
                f"in parts, or a smaller batch_size. {error}"
            ) from error
        loss = step["loss"].item()
        if not math.isfinite(loss):
            raise self._divergence(f"the loss is {loss}")
        self.history.record_batch("idle", loss == 0 and not self._has_tuples(batch[1]))
        return step

    def _has_tuples(self, targets):
        """Whether a batch held a pair or a triplet."""
        if self.supervision != "labels":
            return len(targets) > 0
        if self.miner is not None:
            return self.mined_
        counts = targets.unique(return_counts=True)[1]
        return len(counts) > 1 and bool(counts.max() > 1)

    def _scaled_step(self, batch, **fit_params):
        """Take a step with a scaled loss, unless its gradient overflows."""
        self.optimizer_.zero_grad()
        step = self.train_step_single(batch, **fit_params)
        self.scaler_.unscale_(self.optimizer_)
        named = list(self.get_all_learnable_params())
        self.notify("on_grad_computed", named_parameters=named, batch=batch, training=True)
        self.scaler_.step(self.optimizer_)
        self.scaler_.update()
        return step

    def train_step_single(self, batch, **fit_params):
        """Compute the loss of a batch and its gradient; see `skorch.NeuralNet`."""
        X, y = batch
        for part in self.trained_parts():
            part.train()

        def backward(embeddings):
            loss = self.get_loss(embeddings, y, X=X, training=True)
            check_loss(loss)
            (loss if self.scaler_ is None else self.scaler_.scale(loss)).backward()
            detach_state(self.criterion_)
            return loss.detach()

        n_pieces = 1 if self.chunk_size is None else -(-len(X) // self.chunk_size)
        if n_pieces == 1:
            embeddings = self.infer(X)
            loss = backward(embeddings)
        else:
            embeddings, loss = backward_in_chunks(
                self.infer, backward, X, n_pieces, self.module_, self.device
            )
        return {"loss": loss, "y_pred": embeddings}

    def callback(self, kind):
        """Return the callback of a class, or None."""
        return next((cb for _, cb in self.callbacks_ if isinstance(cb, kind)), None)

    def check_callback_params(self, net_params):
        """Raise if a parameter is for a callback that does not exist.

        Parameters
        ----------
        net_params : NetParams
            The parameters of the user.

        Raises
        ------
        ValueError
            If there is no callback of this name.
        """
        names = [name for name, _ in self._uniquely_named_callbacks()]  # those set to None as well
        for name in net_params.params:
            if name.startswith("callbacks__"):
                net_params.check_one(name, names)

    def check_monitors(self):
        """Raise if a callback monitors a score that is not recorded."""
        own = [callback for name, callback in self.callbacks_ if name != "valid_loss"]
        names = {getattr(callback, "name", None) for callback in own}
        scored = self.callback(RetrievalStopping) or self.callback(ReplayedScores)
        for callback in own:
            watched = getattr(callback, "monitor", None)
            name = watched.removesuffix("_best") if isinstance(watched, str) else None
            if name in {"valid_loss", *SCORINGS} - names:
                there = f"{scored.name!r} (larger is better), " if scored else ""
                raise ValueError(
                    f"{type(callback).__name__} monitors {watched!r}, which is not recorded. "
                    f"Recorded are {there}'train_loss', 'active_share' and 'spread'."
                )

    def map(self):
        """Return the network as it is now as a `NetworkMap`."""
        return NetworkMap(self.module_, normalize=self.normalize, device=self.device)

    def get_iterator(self, dataset, training=False):
        """Return the loader of a dataset; see `skorch.NeuralNet.get_iterator`."""
        # A loader without a generator would draw from the global one. This generator decides the
        # seeds of worker processes; they differ from epoch to epoch.
        seed = torch.initial_seed() + len(self.history)
        options = {
            "batch_sampler": self.sampler_,
            "collate_fn": dataset.collate,
            "generator": torch.Generator().manual_seed(seed),
        }
        return DataLoader(dataset, **options | self.get_params_for("iterator_train"))

    def infer(self, x, **fit_params):
        """Embed a batch; see `skorch.NeuralNet.infer`."""
        network = getattr(self, "network_", self.module_)  # compiled, or as it is
        half = self.half_ if self.module_.training else None
        return embed_batch(network, x.to(self.device), self.normalize, half)

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Return the loss of a batch; see `skorch.NeuralNet.get_loss`."""
        y_true = y_true.to(self.device)
        if learns_from(self.criterion_) == "views":
            one, other = y_pred.chunk(2)
            loss = compare_views(self.criterion_, one, other)
        elif self.supervision in TUPLE_SIZES:  # only the tuples count: each point is a class
            indices = self._indices(y_pred, y_true)
            own = torch.arange(len(y_pred), device=y_pred.device)
            loss = self.criterion_(y_pred, own, indices)
        else:
            loss = self.compare(y_pred, y_true)
        if training:
            active = self._active_share()
            if self.memory_ is not None:
                loss, active = self._look_back(loss, active, y_pred, y_true)
            self._record(y_pred.detach(), active)
        return loss

    def compare(self, embeddings, labels, *references):
        """Return the loss of a batch, among its points or against references.

        Parameters
        ----------
        embeddings : Tensor of shape (n, n_components)
            The batch.
        labels : int64 Tensor of shape (n,)
            Its classes.
        *references : Tensors of shape (m, n_components) and (m,)
            Embeddings to compare the batch with, and their classes.

        Returns
        -------
        Tensor of shape ()
            The loss.
        """
        mined = ()
        if self.miner is not None:
            mined = (self.miner(embeddings.detach(), labels, *references),)
            self.mined_ |= any(len(i) for i in mined[0])
        named = dict(zip(("ref_emb", "ref_labels"), references, strict=False))
        try:
            return self.criterion_(embeddings, labels, *mined, **named)
        except AssertionError as error:
            raise ValueError(
                f"{type(self.criterion_).__name__} cannot take a batch of {len(labels)} points: "
                f"{str(error) or 'an assertion failed'}. Change the batches or the loss."
            ) from error

    def check_call(self):
        """Raise if the loss does not take the arguments that it will be given."""
        called = {"embeddings": 0, "labels": 0}
        if self.supervision in TUPLE_SIZES or self.miner is not None:
            called["indices_tuple"] = 0
        is_module = isinstance(self.criterion_, torch.nn.Module)
        try:
            call = inspect.signature(self.criterion_.forward if is_module else self.criterion_)
            call.bind(*called.values())
        except TypeError as error:
            raise ValueError(
                f"The loss is called loss({', '.join(called)}), but "
                f"{type(self.criterion_).__name__} does not accept this: {error}. Wrap it in a "
                "torch.nn.Module that does."
            ) from error

    def _look_back(self, loss, active, embeddings, labels):
        """Return the mean of the loss within the batch and of the loss against the memory.

        The batch is then added to the memory. The first epoch only fills the memory, as in the
        paper, because embeddings change most at the beginning.
        """
        rows = torch.as_tensor(self.rows_, device=embeddings.device)
        self.memory_.forget(rows)
        if len(self.history) > 1 and len(self.memory_):
            back = self.compare(embeddings, labels, self.memory_.embeddings, self.memory_.labels)
            loss, active = (loss + back) / 2, (active + self._active_share()) / 2
        self.memory_.add(embeddings, labels, rows)
        return loss, active

    def _indices(self, embeddings, targets):
        if self.supervision == "triplets":
            return tuple(torch.arange(len(embeddings), device=embeddings.device).view(-1, 3).T)
        a, b = torch.arange(len(embeddings), device=embeddings.device).view(-1, 2).T
        same = targets == 1
        return a[same], b[same], a[~same], b[~same]

    def _active_share(self):
        return float(getattr(self.criterion_, "active_share", np.nan))

    def _record(self, embeddings, active):
        self.history.record_batch("active_share", active)
        centred = embeddings - embeddings.mean(dim=0)
        self.history.record_batch("spread", centred.square().sum(dim=1).mean().sqrt().item())

    def __getstate__(self):
        state = super().__getstate__()
        state.pop("network_", None)  # compiled code, which `run` makes anew
        return state

    def __setstate__(self, state):
        with warnings.catch_warnings():  # a net from a GPU may be loaded on a CPU
            warnings.simplefilter("ignore", DeviceWarning)
            super().__setstate__(state)
        # skorch pickles the optimizer apart from the callbacks. A scheduler would come back with a
        # copy of the optimizer, and would set a learning rate that nobody reads.
        for _, callback in self.callbacks_:
            if scheduler := getattr(callback, "lr_scheduler_", None):
                scheduler.optimizer = self.optimizer_

    def __deepcopy__(self, memo):
        # skorch copies by pickling, which fails for a network whose class is defined in a function.
        twin = memo[id(self)] = type(self).__new__(type(self))
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin


class DivergenceError(RuntimeError):
    """The loss or the weights are no longer finite."""


class InterruptedTraining(Exception):
    """Ctrl-C ended an epoch before its end."""


def check_loss(loss):
    """Raise unless the value of a loss is a scalar with a gradient.

    Parameters
    ----------
    loss : object
        What a loss returned for a batch.

    Raises
    ------
    ValueError
        If it is not a Tensor of shape (), or has no gradient.
    """
    got = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
    if got != "shape ()":
        raise ValueError(
            "The loss must return one number for a batch, a Tensor of shape (); it returned "
            f"{got}. Take the mean over the batch."
        )
    if not loss.requires_grad:
        raise ValueError(
            "The loss has no gradient. Compute it from the embeddings by operations of torch, "
            "without detach() or no_grad()."
        )


def detach_state(loss: Any) -> None:
    """Detach the tensors that a loss keeps from one batch to the next, like running statistics.

    Otherwise the next backward pass would go through the graph of the last batch.

    Parameters
    ----------
    loss : callable
        The loss.
    """
    for part in loss.modules() if isinstance(loss, torch.nn.Module) else ():
        for name, value in list(vars(part).items()):
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                setattr(part, name, value.detach())


def half_precision(device):
    """Return the half precision of a device: bfloat16, or float16 on GPUs without bfloat16."""
    device = torch.device(device)
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)
    return torch.float16 if old else torch.bfloat16


def fastest_step(
    optimizer: type[torch.optim.Optimizer], parameters: list[torch.nn.Parameter]
) -> dict[str, bool]:
    """Return the options with which an optimizer takes the shortest time for a step.

    On a CPU, Adam's default runs dozens of small operations for each parameter. This takes as long
    as a small network itself. A fused step is one operation.

    Parameters
    ----------
    optimizer : class
        The optimizer.
    parameters : list of Tensors
        What it trains.

    Returns
    -------
    dict
        Options; none to keep the default.
    """
    is_adam = optimizer in (torch.optim.Adam, torch.optim.AdamW)
    on_cpu = all(p.device.type == "cpu" and p.is_floating_point() for p in parameters)
    return {"fused": True} if is_adam and on_cpu else {}


class Width(NamedTuple):
    """Stands for the width of the embedding of points, which is known once the network is built."""

    points: NDArray[np.float32]
