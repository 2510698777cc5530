"""Normalised softmax: a softmax over the cosines with one proxy for each class."""

from torch import Tensor

from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._proxy import ProxyLoss, mean_cross_entropy


class NormalizedSoftmaxLoss(ProxyLoss):
    r"""Normalised softmax: cross entropy of the cosines with the proxies.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{s_{i y_i} / T}}{\sum_c e^{s_{ic} / T}}

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2. Labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    temperature : float, default=0.05
        The temperature T, > 0.

    Attributes
    ----------
    proxies : Parameter of shape (n_classes, n_components)
        The proxies, which are the weights of the classifier.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    References
    ----------
    Zhai, Wu: Classification is a Strong Baseline for Deep Metric Learning, BMVC 2019.

    Examples
    --------
    >>> import torch
    >>> loss = NormalizedSoftmaxLoss(2, 2, temperature=1)
    >>> loss.proxies.data = torch.eye(2)
    >>> round(loss(torch.tensor([[5.0, 0.0]]), torch.tensor([0])).item(), 4)  # log(1 + exp(-1))
    0.3133
    """

    def __init__(self, n_classes: int, n_components: int, *, temperature: float = 0.05) -> None:
        super().__init__(n_classes, n_components)
        self.temperature = check_positive("temperature", temperature)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"{super().extra_repr()}, temperature={self.temperature:g}"

    def logits(self, embeddings: Tensor) -> Tensor:
        """Cosines divided by the temperature, of shape (n, n_classes)."""
        return self.cosines(embeddings) / self.temperature

    def compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean over the batch."""
        return mean_cross_entropy(self.logits(embeddings), labels)
