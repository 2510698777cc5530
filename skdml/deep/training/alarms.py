"""Warnings when training fails: a collapse, batches with nothing to compare, and no gain."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from skorch.callbacks import Callback

from skdml.deep.losses import ContrastiveLoss

if TYPE_CHECKING:
    from skdml.deep.training.net import EmbeddingNet


class CollapseWarning(UserWarning):
    """The embedding collapsed: all points are mapped to nearly the same point."""


class IdleBatchesWarning(UserWarning):
    """Many batches hold no pair or triplet to learn from."""


class InitialWeightsWarning(UserWarning):
    """The initial weights were kept: no epoch retrieved held-out data clearly better."""


@dataclass(eq=False)
class CollapseAlarm(Callback):
    """Warn once if the embedding collapses, or if the loss stays at its margin.

    If all distances are 0, a loss over triplets equals its margin exactly, and its gradient is
    zero: training cannot recover. Hard negatives with a high learning rate cause this. The
    contrastive loss is not checked against its margin, because it may equal the margin at the
    start of a normal training.

    Parameters
    ----------
    spread : float, default=0.01
        The embedding has collapsed if its spread is at most this share of the spread in the first
        epoch.
    tolerance : float, default=0.01
        The loss is at its margin if it differs from the margin by less than this share of it.
    n_epochs : int, default=3
        The number of consecutive epochs at the margin before the warning.
    """

    spread: float = 0.01
    tolerance: float = 0.01
    n_epochs: int = 3
    warned_: bool = field(default=False, init=False)
    first_spread_: float | None = field(default=None, init=False)
    n_at_margin_: int = field(default=0, init=False)

    def on_epoch_end(self, net: EmbeddingNet, **kwargs: Any) -> None:
        """Check the spread and the loss of the epoch."""
        spread, loss = net.history[-1, "spread"], net.history[-1, "train_loss"]
        if self.first_spread_ is None:
            self.first_spread_ = spread
        # The loss of a classifier may pass its margin while it decreases, and the contrastive
        # loss may start there.
        may_pass = hasattr(net.criterion_, "logits") or isinstance(net.criterion_, ContrastiveLoss)
        margin = None if may_pass else getattr(net.criterion_, "margin", None)
        at_margin = margin and abs(loss - margin) < self.tolerance * margin
        self.n_at_margin_ = self.n_at_margin_ + 1 if at_margin else 0
        if self.warned_:
            return
        if self.first_spread_ == 0:
            symptom = "all embeddings were equal in the first epoch; check that the points differ"
        elif spread <= self.spread * self.first_spread_:
            symptom = (
                f"the spread of the embeddings fell from {self.first_spread_:.3g} to {spread:.3g}"
            )
        elif self.n_at_margin_ >= self.n_epochs:
            symptom = f"the loss stayed at the margin {margin:g} for {self.n_epochs} epochs"
        else:
            return
        self._warn(net, symptom)

    def _warn(self, net: EmbeddingNet, symptom: str) -> None:
        self.warned_ = True
        warnings.warn(
            f"The embedding collapsed by epoch {len(net.history)}: {symptom}. Try a smaller lr, "
            "miner='semihard' or 'all' instead of 'hard', or normalize=True.",
            CollapseWarning,
            stacklevel=2,
        )


@dataclass(eq=False)
class IdleAlarm(Callback):
    """Warn once if too many batches of an epoch have nothing to compare.

    The loss of such a batch is 0, because no two of its points share a class, all of its points
    share a class, or the miner chose no pair or triplet. A loss of 0 because every margin is
    satisfied does not count.

    Parameters
    ----------
    share : float, default=0.05
        The largest share of such batches without a warning.
    """

    share: float = 0.05
    warned_: bool = field(default=False, init=False)

    def on_epoch_end(self, net: EmbeddingNet, **kwargs: Any) -> None:
        """Count the batches of the epoch without a pair or triplet."""
        idle = net.history[-1, "batches", :, "idle"]
        if self.warned_ or sum(idle) <= self.share * len(idle):
            return
        self.warned_ = True
        warnings.warn(
            f"{sum(idle)} of the {len(idle)} batches of epoch {len(net.history)} had nothing to "
            "learn from: no two of their points share a class, all of them do, or the miner chose "
            "no pair or triplet. Check the miner, or use a larger batch_size or n_per_class.",
            IdleBatchesWarning,
            stacklevel=2,
        )
