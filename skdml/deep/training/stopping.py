"""skorch callbacks that score held-out data, stop training and keep weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback
from torch import nn

from skdml.deep.scores import Score, lower_bound

if TYPE_CHECKING:
    from skdml.deep.training.net import EmbeddingNet

# The candidates after an epoch: the trained weights, and the weights halfway between the initial
# and the trained weights.
CANDIDATE_SHARES = (1.0, 0.5)

# With few batches an epoch teaches little and takes less time than a score. Two scores are
# therefore at least this many batches apart.
BATCHES_PER_SCORE = 10

DEFAULT_PATIENCE = 10  # in scores

Weights: TypeAlias = dict[str, Any]


@dataclass(eq=False)
class RetrievalStopping(Callback):
    """Early stopping: score held-out data, stop without a gain, and restore the best weights.

    The initial weights are scored first. After each scored epoch there are two candidates: the
    trained weights, and the weights halfway between the initial and the trained weights. Retrieval
    of unseen classes often gains most in the first half and loses in the second.

    There are two kinds of initial weights:

    - Chosen ones, by a method ``initialize_from`` of the network or by an earlier fit. They are a
      candidate like the weights of any epoch. Candidates are compared by the lower confidence
      bound of their gain over the initial weights (see `lower_bound`). With few held-out classes
      chance differences are large. A gain in only one class does not count.
    - Those of any other network, which may be random. Neither they nor the weights halfway are
      candidates. The last epoch is kept whose score is not clearly lower than the best mean score:
      the lower confidence bound of the loss is at most zero. A loss in only one class thus does not
      count either. Until the first score the weights of the last epoch are kept.

    Parameters
    ----------
    score : Score
        ``score(embed)`` returns an ndarray of shape (n_views, n_groups), larger is better. Its
        attribute `name` is the key in the history.
    patience : int or None
        The number of epochs in a row without a new best score before training stops. Every epoch is
        scored. With None, a score is computed once in `BATCHES_PER_SCORE` batches, and after the
        last epoch, and training stops after `DEFAULT_PATIENCE` scores without a new best. Every
        epoch is also scored if another callback watches the score by its parameter `monitor`.
    may_keep_start : bool, default=True
        Whether the initial weights are a candidate.

    Attributes
    ----------
    start_score_, best_score_ : float
        The scores of the initial and of the best weights: means over the groups in the first view.
    best_epoch_ : int
        The epoch with the best weights; 0 stands for the initial weights.
    peak_epoch_ : int
        The epoch with the best score, from which `patience` counts. It is `best_epoch_` if the
        initial weights are a candidate.
    best_share_ : float
        1.0 if the trained weights of that epoch were best, and 0.5 if those halfway were best.
    stopped_ : bool
        Whether training should stop.
    scoring_ : bool
        Whether a score is being computed. It stays True if Ctrl-C interrupts the computation.

    References
    ----------
    M. Wortsman et al., "Robust Fine-Tuning of Zero-Shot Models", CVPR 2022, for the weights
    halfway.
    """

    score: Score
    patience: int | None
    name: str
    may_keep_start: bool = True

    def on_train_begin(self, net: EmbeddingNet, **kwargs: Any) -> None:
        """Score the initial weights."""
        try:
            self.start_ = self._values(net)
        except FloatingPointError as error:
            raise ValueError(
                f"{error} This happened before training. Check what the network computes in "
                "evaluation mode with its initial weights, and scale the points as it needs them."
            ) from error
        self.start_weights_ = cpu_state_dict(net.module_)
        self.start_score_ = float(self.start_[0].mean())
        self.stopped_ = self.scoring_ = False
        self.best_gain_, self.peak_epoch_ = 0.0, 0
        self.peak_: NDArray[np.floating] | None = None
        self._keep(net, self.start_score_, epoch=0, share=1.0)

    def on_epoch_end(self, net: EmbeddingNet, **kwargs: Any) -> None:
        """Score the candidates of this epoch, keep them if best, and decide whether to stop."""
        epoch, patience = len(net.history), self._patience_in_epochs(net)
        if epoch % self._stride(net) and epoch < net.max_epochs and not self._is_watched(net):
            self._record(net, np.nan, np.nan, better=False)
            if not self.may_keep_start and self.peak_ is None:
                self._keep(net, np.nan, epoch, share=1.0)
            return
        self.scoring_ = True
        trained = cpu_state_dict(net.module_)
        candidates = []
        for share in CANDIDATE_SHARES if self.may_keep_start else CANDIDATE_SHARES[:1]:
            net.module_.load_state_dict(interpolate_weights(self.start_weights_, trained, share))
            values = self._finite_values(net)
            candidates.append((self._gain(values), values, share))
        gain, values, share = max(candidates, key=lambda candidate: candidate[0])
        score = np.nan if values is None else float(values[0].mean())
        better = self._is_better(gain, values, epoch)
        self._record(net, score, gain, better)
        if better:
            net.module_.load_state_dict(interpolate_weights(self.start_weights_, trained, share))
            self._keep(net, score, epoch, share)
        net.module_.load_state_dict(trained)
        self.scoring_ = False
        self.stopped_ = epoch - self.peak_epoch_ >= patience

    def on_train_end(self, net: EmbeddingNet, **kwargs: Any) -> None:
        """Restore the best weights."""
        for part, weights in zip(net.trained_parts(), self.best_weights_, strict=True):
            part.load_state_dict(weights)

    def _gain(self, values: NDArray[np.floating] | None) -> float:
        """Return the gain over the initial weights by which candidates are compared."""
        if values is None:  # training diverged: no other weights are worse
            return -np.inf
        gains = values - self.start_
        return lower_bound(gains) if self.may_keep_start else float(gains.mean())

    def _is_better(self, gain: float, values: NDArray[np.floating] | None, epoch: int) -> bool:
        """Return whether to keep the weights of this epoch, and update the best score."""
        if self.may_keep_start:
            if better := gain > self.best_gain_:
                self.best_gain_, self.peak_epoch_ = gain, epoch
            return better
        if values is None:
            return False
        if self.peak_ is None or not values.mean() <= self.peak_.mean():
            self.peak_, self.peak_epoch_ = values, epoch
        return not lower_bound(self.peak_ - values) > 0

    def _finite_values(self, net: EmbeddingNet) -> NDArray[np.floating] | None:
        """Return the values of the score, or None if the embeddings are not finite."""
        try:
            return self._values(net)
        except FloatingPointError:
            return None

    def _record(self, net: EmbeddingNet, score: float, gain: float, better: bool) -> None:
        net.history.record(self.name, score)
        net.history.record(f"{self.name}_gain", gain)
        for name in (self.name, f"{self.name}_gain"):
            net.history.record(f"{name}_best", better)

    def _stride(self, net: EmbeddingNet) -> int:
        """Return the number of epochs from one score to the next."""
        if self.patience is not None:
            return 1
        return math.ceil(BATCHES_PER_SCORE / len(net.history[-1, "batches"]))

    def _is_watched(self, net: EmbeddingNet) -> bool:
        """Return whether another callback monitors the score."""
        watched = [getattr(callback, "monitor", None) for _, callback in net.callbacks_]
        return any(isinstance(name, str) and name.startswith(self.name) for name in watched)

    def _patience_in_epochs(self, net: EmbeddingNet) -> int:
        return DEFAULT_PATIENCE * self._stride(net) if self.patience is None else self.patience

    def _values(self, net: EmbeddingNet) -> NDArray[np.floating]:
        def embed(points: Any) -> NDArray[np.float32]:
            Z = net.map().embed(points)
            if not np.isfinite(Z).all():
                raise FloatingPointError("The network returns embeddings that are not finite.")
            return Z

        return self.score(embed)

    def _keep(self, net: EmbeddingNet, score: float, epoch: int, share: float) -> None:
        self.best_score_, self.best_epoch_, self.best_share_ = score, epoch, share
        self.best_weights_ = [cpu_state_dict(part) for part in net.trained_parts()]

    def __getstate__(self) -> dict[str, Any]:
        # The held-out data is not part of the net: checkpoints and pickles do not contain it.
        return {**self.__dict__, "score": None}


class ReplayedScores(Callback):
    """Record the scores of an earlier training again, for callbacks that watch them.

    A refit trains on all data and has nothing held out to score. A callback that watches the score,
    for example a learning rate schedule, thus does the same in the refit as in the first training.
    After the last epoch of the first training its last scores are repeated.

    Parameters
    ----------
    history : skorch.history.History
        The history of the earlier training.
    name : str
        The key of the score.
    """

    def __init__(self, history: Iterable[dict[str, Any]], name: str) -> None:
        names = [name, f"{name}_gain", f"{name}_best", f"{name}_gain_best"]
        self.scores = [{name: epoch[name] for name in names if name in epoch} for epoch in history]
        self.name = name

    def on_epoch_end(self, net: EmbeddingNet, **kwargs: Any) -> None:
        """Record the scores of the same epoch."""
        for name, value in self.scores[min(len(net.history), len(self.scores)) - 1].items():
            net.history.record(name, value)


class WeightsAtEpoch(Callback):
    """Keep the weights after a given epoch, or weights between those and the initial weights.

    If another callback ends training before that epoch, the last weights are kept.

    Parameters
    ----------
    epoch : int
        The epoch; 0 stands for the initial weights.
    share : float
        How far the kept weights are from the initial weights, in (0, 1]; 1 keeps the trained
        weights.

    Attributes
    ----------
    weights_ : dict of str to Tensor or None
        The state of the network. It is None until the epoch is reached.
    """

    def __init__(self, epoch: int, share: float) -> None:
        self.epoch = epoch
        self.share = share

    def on_train_begin(self, net: EmbeddingNet, **kwargs: Any) -> None:
        """Store the initial weights."""
        self.weights_: Weights | None = None
        self.start_weights_ = cpu_state_dict(net.module_)
        self._keep_if_reached(net)

    def on_epoch_end(self, net: EmbeddingNet, **kwargs: Any) -> None:
        """Keep the weights if this is the epoch."""
        self._keep_if_reached(net)

    def on_train_end(self, net: EmbeddingNet, **kwargs: Any) -> None:
        """Keep the last weights if the epoch was not reached."""
        if self.weights_ is None:
            self._keep(net)

    def _keep_if_reached(self, net: EmbeddingNet) -> None:
        if len(net.history) == self.epoch:
            self._keep(net)

    def _keep(self, net: EmbeddingNet) -> None:
        trained = cpu_state_dict(net.module_)
        self.weights_ = interpolate_weights(self.start_weights_, trained, self.share)


def cpu_state_dict(module: nn.Module) -> Weights:
    """Copy the state of a module to the CPU.

    The copy takes no GPU memory, and a checkpoint of it also loads on a machine without a GPU.

    Parameters
    ----------
    module : torch.nn.Module
        The module.

    Returns
    -------
    dict of str to Tensor
        A copy of its ``state_dict()``.
    """
    state = module.state_dict()
    for name, value in state.items():
        is_tensor = isinstance(value, torch.Tensor)
        state[name] = value.to("cpu", copy=True) if is_tensor else copy.deepcopy(value)
    return state


def interpolate_weights(start: Weights, end: Weights, share: float) -> Weights:
    """Return weights on the straight line between two states of a network.

    Parameters
    ----------
    start, end : dict of str to Tensor
        The states, as returned by ``state_dict()``. Values that are not floating point numbers, for
        example a count of batches, are taken from `end`.
    share : float
        The position on the line: 0 is the start, 1 the end.

    Returns
    -------
    dict of str to Tensor
        The weights.

    Examples
    --------
    >>> import torch
    >>> from skdml.deep.training.stopping import interpolate_weights
    >>> interpolate_weights({"weight": torch.zeros(2)}, {"weight": torch.ones(2)}, 0.25)
    {'weight': tensor([0.2500, 0.2500])}
    """
    if share == 1:
        return end
    return {
        name: torch.lerp(start[name], last, share) if last.is_floating_point() else last
        for name, last in end.items()
    }
