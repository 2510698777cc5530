"""Warnings of training that goes wrong: collapse, and batches that teach nothing."""

import warnings

from skorch.callbacks import Callback

from skdml.deep.losses import ContrastiveLoss


class CollapseWarning(UserWarning):
    """All points have met: the learned distance tells nothing apart any more."""


class IdleBatchesWarning(UserWarning):
    """Many batches teach nothing: they hold no pair or triplet to learn from."""


class CollapseAlarm(Callback):
    """Warn, once, when all points have met, or the loss stands at the margin.

    A loss over triplets that are all of distance 0 is exactly the margin; hard negatives and a high
    learning rate lead there, and no gradient leads out again. So is the contrastive loss, but that
    also where pairs of a class lie as far apart as others, as they may at the start.

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
        # The loss of a classifier passes its margin on the way down, and that of pairs may begin
        # there.
        passes = hasattr(net.criterion_, "logits") or isinstance(net.criterion_, ContrastiveLoss)
        margin = None if passes else getattr(net.criterion_, "margin", None)
        stands = margin and abs(loss - margin) < self.tolerance * margin
        self.n_at_margin_ = self.n_at_margin_ + 1 if stands else 0
        if self.warned_:
            return
        if self.first_spread_ == 0:
            seen = "no two embeddings differed in the first epoch, as no two points may do"
        elif spread <= self.spread * self.first_spread_:
            seen = (
                f"the spread of the embeddings fell from {self.first_spread_:.3g} to {spread:.3g}"
            )
        elif self.n_at_margin_ >= self.n_epochs:
            seen = f"the loss stood at the margin {margin:g} for {self.n_epochs} epochs"
        else:
            return
        self._warn(net, seen)

    def _warn(self, net, seen):
        self.warned_ = True
        warnings.warn(
            f"The embedding collapsed by epoch {len(net.history)}: {seen}. Try a smaller lr, "
            "miner='semihard' or 'all' in place of 'hard', or normalize=True.",
            CollapseWarning,
            stacklevel=2,
        )


class IdleAlarm(Callback):
    """Warn, once, when too many batches of an epoch teach nothing, for lack of what to compare.

    Their loss is 0 because no two of their points are of one class, or all are, or the miner
    chooses none. A loss of 0 that is success, each margin kept, is none of this.

    Parameters
    ----------
    share : float, default=0.05
        How many batches may be idle.
    """

    def __init__(self, share=0.05):
        self.share = share

    def on_train_begin(self, net, **kwargs):
        """Forget an earlier training."""
        self.warned_ = False

    def on_epoch_end(self, net, **kwargs):
        """Count the idle batches of the epoch."""
        idle = net.history[-1, "batches", :, "idle"]
        if self.warned_ or sum(idle) <= self.share * len(idle):
            return
        self.warned_ = True
        warnings.warn(
            f"{sum(idle)} of the {len(idle)} batches of epoch {len(net.history)} taught nothing: "
            "no two of their points are of one class, or all are, or the miner chose none. See "
            "what the miner chooses, or take a larger batch_size or n_per_class.",
            IdleBatchesWarning,
            stacklevel=2,
        )
