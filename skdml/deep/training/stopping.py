"""skorch callbacks of the deep learners: stop on what is held out, warn of collapse."""

import copy
import math

import numpy as np
import torch
from skorch.callbacks import Callback

from skdml.deep._statistics import lower_bound

# What is scored after an epoch: the weights as trained, and midway to those of the start.
CANDIDATE_SHARES = (1.0, 0.5)


# An epoch of a small set is a batch or two, in which little is learned: it takes longer to score
# than to train. So many batches, or an epoch of more, lie between two scores.
BATCHES_PER_SCORE = 10


DEFAULT_PATIENCE = 10


class RetrievalStopping(Callback):
    """Score the net on what it does not train on; tell when to stop, and restore the best weights.

    The weights that training starts from are scored first and are a candidate like any other, as
    are those midway between them and the trained ones: the first half of the way gains most on
    strangers, the second forgets most. What is compared is the gain over the start, at its lower
    confidence bound (see `lower_bound`): a few held-out classes judge by chance, and a gain that
    one of them makes alone is none.

    Parameters
    ----------
    score : callable
        ``score(embed)`` -> ndarray of shape (n_views, n_groups), the larger the better; it has a
        `name` for the history.
    patience : int or None
        How many epochs in a row may fail to be the best before training stops; each is scored.
        None scores after epochs that make up `BATCHES_PER_SCORE` batches, and the last, and has
        patience for `DEFAULT_PATIENCE` scores. Each epoch is also scored where another callback
        watches the score, by its `monitor`.

    Attributes
    ----------
    start_score_, best_score_ : float
        The score of the start, and of the best epoch: means over the groups in the first view.
    best_epoch_ : int
        The epoch after which the weights were best; 0 is the start.
    best_share_ : float
        Which of `CANDIDATE_SHARES` of what training had changed by then was best.
    stopped_ : bool
        Whether patience has come to its end.
    scoring_ : bool
        Whether a score has begun and not ended: then Ctrl-C ended it.

    References
    ----------
    M. Wortsman et al., "Robust Fine-Tuning of Zero-Shot Models", CVPR 2022: the midway.
    """

    def __init__(self, score, patience):
        self.score = score
        self.patience = patience
        self.name = score.name

    def on_train_begin(self, net, **kwargs):
        """Score the start."""
        try:
            self.start_ = self._values(net)
        except FloatingPointError as error:
            raise ValueError(
                f"{error} That is before training: see what it does in evaluation mode with the "
                "weights it has, and that points are scaled as it needs them."
            ) from error
        self.start_weights_ = cpu_state_dict(net.module_)
        self.start_score_ = float(self.start_[0].mean())
        self.stopped_ = self.scoring_ = False
        self._keep(net, self.start_score_, gain=0.0, epoch=0, share=1.0)

    def on_epoch_end(self, net, **kwargs):
        """Score the net as it is, keep it if it is the best, stop if there was none for long."""
        epoch = len(net.history)
        if epoch % self._stride(net) and epoch < net.max_epochs and not self._is_watched(net):
            self._record(net, np.nan, np.nan, better=False)
            return
        self.scoring_ = True
        trained = cpu_state_dict(net.module_)
        found = []
        for share in CANDIDATE_SHARES:
            net.module_.load_state_dict(interpolate_weights(self.start_weights_, trained, share))
            found.append((*self._gain(net), share))
        gain, score, share = max(found, key=lambda one: one[0])
        better = gain > self.best_gain_
        self._record(net, score, gain, better)
        if better:
            net.module_.load_state_dict(interpolate_weights(self.start_weights_, trained, share))
            self._keep(net, score, gain, epoch, share)
        net.module_.load_state_dict(trained)
        self.scoring_ = False
        self.stopped_ = not better and epoch - self.best_epoch_ >= self._patience(net)

    def on_train_end(self, net, **kwargs):
        """Restore the best weights."""
        for part, weights in zip(net.trained_parts(), self.best_weights_, strict=True):
            part.load_state_dict(weights)

    def _gain(self, net):
        try:
            values = self._values(net)
        except FloatingPointError:  # training diverged: no weights are worse than these
            return -np.inf, np.nan
        return lower_bound(values - self.start_), float(values[0].mean())

    def _record(self, net, score, gain, better):
        net.history.record(self.name, score)
        net.history.record(f"{self.name}_gain", gain)
        for name in (self.name, f"{self.name}_gain"):
            net.history.record(f"{name}_best", better)

    def _stride(self, net):
        """Epochs from one score to the next."""
        if self.patience is not None:
            return 1
        return math.ceil(BATCHES_PER_SCORE / len(net.history[-1, "batches"]))

    def _is_watched(self, net):
        watched = [getattr(callback, "monitor", None) for _, callback in net.callbacks_]
        return any(isinstance(name, str) and name.startswith(self.name) for name in watched)

    def _patience(self, net):
        return DEFAULT_PATIENCE * self._stride(net) if self.patience is None else self.patience

    def _values(self, net):
        def embed(points):
            Z = net.map().embed(points)
            if not np.isfinite(Z).all():
                raise FloatingPointError("The network gives embeddings that are not finite.")
            return Z

        return self.score(embed)

    def _keep(self, net, score, gain, epoch, share):
        self.best_score_, self.best_gain_ = score, gain
        self.best_epoch_, self.best_share_ = epoch, share
        self.best_weights_ = [cpu_state_dict(part) for part in net.trained_parts()]

    def __getstate__(self):
        # What is held out is not part of the net: a checkpoint or a pickle is not to carry it.
        return {**self.__dict__, "score": None}


class ReplayedScores(Callback):
    """Record what was scored in an earlier training, for the callbacks that watch it.

    A training on everything has nothing left to score by. What a learning rate, say, was made of
    before, it is made of again; after the end of the earlier training the last score stands.

    Parameters
    ----------
    history : skorch.history.History
        Of the earlier training.
    name : str
        The name of the score.
    """

    def __init__(self, history, name):
        names = [name, f"{name}_gain", f"{name}_best", f"{name}_gain_best"]
        self.scores = [{name: epoch[name] for name in names if name in epoch} for epoch in history]
        self.name = name

    def on_epoch_end(self, net, **kwargs):
        """Record the scores of the same epoch."""
        for name, value in self.scores[min(len(net.history), len(self.scores)) - 1].items():
            net.history.record(name, value)


class WeightsAtEpoch(Callback):
    """Keep the network as it is after an epoch, or a share of what training has changed by then.

    Where a callback ends training before that epoch, its end is kept.

    Parameters
    ----------
    epoch : int
        The epoch; 0 is the start.
    share : float
        The share, in (0, 1].

    Attributes
    ----------
    weights_ : dict of str to Tensor or None
        The state of the network; None as long as there is none.
    """

    def __init__(self, epoch, share):
        self.epoch = epoch
        self.share = share

    def on_train_begin(self, net, **kwargs):
        """Remember the start."""
        self.weights_ = None
        self.start_weights_ = cpu_state_dict(net.module_)
        self._look(net)

    def on_epoch_end(self, net, **kwargs):
        """Keep the weights, if this is the epoch."""
        self._look(net)

    def on_train_end(self, net, **kwargs):
        """Keep the weights, if there are none so far."""
        if self.weights_ is None:
            self._take(net)

    def _look(self, net):
        if len(net.history) == self.epoch:
            self._take(net)

    def _take(self, net):
        self.weights_ = interpolate_weights(
            self.start_weights_, cpu_state_dict(net.module_), self.share
        )


def cpu_state_dict(module):
    """Copy the state of a module to the CPU, where it takes no room from training on a GPU.

    A checkpoint written on a GPU can also be read where there is none.

    Parameters
    ----------
    module : torch.nn.Module
        The module.

    Returns
    -------
    dict of str to Tensor
        What its ``state_dict()`` gives, copied.
    """
    state = module.state_dict()
    for name, value in state.items():
        is_tensor = isinstance(value, torch.Tensor)
        state[name] = value.to("cpu", copy=True) if is_tensor else copy.deepcopy(value)
    return state


def interpolate_weights(start, end, share):
    """Return weights on the straight line between two states of a network.

    Parameters
    ----------
    start, end : dict of str to Tensor
        The states, as `state_dict` gives them. What is no floating point number, a count of
        batches, is taken from the end.
    share : float
        How far from the start: 0 is the start, 1 the end.

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
