"""Losses that are a softmax over the batch: NT-Xent, SupCon, NCA and InfoNCE."""

from skdml.deep.losses._batch import RowLoss
from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._exponentials import _FARTHEST


def slope_of_logits(logit, temperature):
    """Gradient of -d / temperature by d; none where it was cut."""
    return (logit.abs() < _FARTHEST).to(logit.dtype).mul_(-1 / temperature)


class _SoftmaxLoss(RowLoss):
    def __init__(self, temperature, distance):
        super().__init__(distance)
        self.temperature = check_positive("temperature", temperature)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"temperature={self.temperature:g}, distance={self.distance!r}"
