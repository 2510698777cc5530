"""The line that `verbose=1` prints for each epoch."""

from skorch.callbacks import PrintLog


class EpochLog(PrintLog):
    """skorch's table of the epochs, which is not drawn up where nobody reads it.

    Of an epoch of a few small batches the line takes as long as a batch.
    """

    def on_epoch_end(self, net, **kwargs):
        """Print a line, if the net is verbose or the lines go elsewhere."""
        if net.verbose or self.sink is not print:
            super().on_epoch_end(net, **kwargs)
