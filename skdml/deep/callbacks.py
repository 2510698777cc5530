"""skorch callbacks of the deep learners: stop on what is held out, warn of collapse."""

import warnings

from skorch.callbacks import Callback


class CollapseWarning(UserWarning):
    """All points have met: the learned distance tells nothing apart any more."""


class RetrievalStopping(Callback):
    """Score the net on what it does not train on; stop, and restore the best weights.

    The weights that training starts from are scored first and are a candidate like any other.

    Parameters
    ----------
    score : callable
        ``score(embed)`` -> float, the larger the better; it has a `name` for the history.
    patience : int
        How many epochs in a row may fail to be the best before training stops.

    Attributes
    ----------
    start_score_, best_score_ : float
        The score of the start, and the best one.
    best_epoch_ : int
        The epoch after which the weights were best; 0 is the start.
    """

    def __init__(self, score, patience):
        self.score = score
        self.patience = patience

    def on_train_begin(self, net, **kwargs):
        """Score the start."""
        self.start_score_ = self.score(net.map().embed)
        self._keep(net, self.start_score_, 0)

    def on_epoch_end(self, net, **kwargs):
        """Score the net as it is, keep it if it is the best, stop if there was none for long."""
        score, epoch = self.score(net.map().embed), len(net.history)
        net.history.record(self.score.name, score)
        net.history.record(f"{self.score.name}_best", score > self.best_score_)
        if score > self.best_score_:
            self._keep(net, score, epoch)
        elif epoch - self.best_epoch_ >= self.patience:
            raise KeyboardInterrupt  # how a skorch callback ends training

    def on_train_end(self, net, **kwargs):
        """Restore the best weights."""
        net.module_.load_state_dict(self.best_weights_)

    def _keep(self, net, score, epoch):
        self.best_score_, self.best_epoch_ = score, epoch
        self.best_weights_ = {
            name: value.detach().clone() for name, value in net.module_.state_dict().items()
        }

    def __getstate__(self):
        # What is held out is not part of the net: a checkpoint or a pickle is not to carry it.
        return {**self.__dict__, "score": None}


class CollapseAlarm(Callback):
    """Warn, once, when all points have met or the loss stands at the margin.

    A loss over triplets or pairs that are all of distance 0 is exactly the margin; hard negatives
    and a high learning rate lead there, and no gradient leads out again.

    Parameters
    ----------
    spread : float, default=0.01
        Points have met when they spread by less than this share of what they did at first.
    tolerance : float, default=0.01
        The loss stands at the margin when it is off by less than this share of it.
    n_epochs : int, default=3
        How many epochs in a row it has to stand there.
    """

    def __init__(self, spread=0.01, tolerance=0.01, n_epochs=3):
        self.spread = spread
        self.tolerance = tolerance
        self.n_epochs = n_epochs

    def on_train_begin(self, net, **kwargs):
        """Forget an earlier training."""
        self.warned_ = False
        self.first_spread_ = None
        self.n_at_margin_ = 0

    def on_epoch_end(self, net, **kwargs):
        """Look at the spread and the loss of the epoch."""
        spread, loss = net.history[-1, "spread"], net.history[-1, "train_loss"]
        if self.first_spread_ is None:
            self.first_spread_ = spread
        margin = getattr(net.criterion_, "margin", None)
        stands = margin and abs(loss - margin) < self.tolerance * margin
        self.n_at_margin_ = self.n_at_margin_ + 1 if stands else 0
        if self.warned_:
            return
        if spread <= self.spread * self.first_spread_:
            seen = (
                f"the spread of the embeddings fell from {self.first_spread_:.3g} to {spread:.3g}"
            )
        elif self.n_at_margin_ >= self.n_epochs:
            seen = f"the loss stood at the margin {margin:g} for {self.n_epochs} epochs"
        else:
            return
        self.warned_ = True
        warnings.warn(
            f"The embedding collapsed by epoch {len(net.history)}: {seen}. Try a smaller lr, "
            "miner='semihard' or 'all' in place of 'hard', or normalize=True.",
            CollapseWarning,
            stacklevel=2,
        )
