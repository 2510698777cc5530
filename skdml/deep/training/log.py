"""The line that `verbose=1` prints for each epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skorch.callbacks import PrintLog

if TYPE_CHECKING:
    from skdml.deep.training.net import EmbeddingNet


class EpochLog(PrintLog):
    """skorch's table of the epochs; lines are built only if they are printed.

    Building a line takes as long as training on a small batch.
    """

    def on_epoch_end(self, net: EmbeddingNet, **kwargs: Any) -> None:
        """Print a line, if the net is verbose or the log has another sink than `print`."""
        if net.verbose or self.sink is not print:
            super().on_epoch_end(net, **kwargs)
