"""The base of the losses that are a softmax over the distances of each anchor."""

from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._matrix import RowLoss


class SoftmaxLoss(RowLoss):
    """Base of NT-Xent, SupCon and NCA: a `RowLoss` with a temperature.

    Parameters
    ----------
    temperature : float
        Distances are divided by it; > 0.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance between embeddings.
    """

    def __init__(self, temperature: float, distance: str) -> None:
        super().__init__(distance)
        self.temperature = check_positive("temperature", temperature)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"temperature={self.temperature:g}, distance={self.distance!r}"
