"""The base of the losses that are a softmax over cosines with a margin for the own class."""

from abc import abstractmethod

from torch import Tensor

from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._proxy import ProxyLoss, mean_cross_entropy


class MarginSoftmaxLoss(ProxyLoss):
    r"""Base of the losses that lower the logit of the own class by a margin.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{a_i \psi(s_{i y_i})}}
        {e^{a_i \psi(s_{i y_i})} + \sum_{c \ne y_i} e^{a_i s_{ic}}}

    A subclass defines psi in :meth:`apply_margin`.

    Parameters
    ----------
    n_classes, n_components, n_proxies
        As in :class:`ProxyLoss`.
    scale : float
        The factor a, > 0.
    """

    margin: float

    def __init__(
        self, n_classes: int, n_components: int, *, scale: float, n_proxies: int | None = None
    ) -> None:
        super().__init__(n_classes, n_components, n_proxies)
        self.scale = check_positive("scale", scale)

    @abstractmethod
    def apply_margin(self, cosine: Tensor) -> Tensor:
        """Return psi of the cosines with the own classes; it is never larger than the cosine."""

    def class_cosines(self, embeddings: Tensor) -> Tensor:
        """Cosines with the classes, of shape (n, n_classes)."""
        return self.cosines(embeddings)

    def logit_scale(self, embeddings: Tensor) -> float | Tensor:
        """Return the factor a_i of the cosines, a number or a tensor of shape (n, 1)."""
        return self.scale

    def logits(self, embeddings: Tensor) -> Tensor:
        """Scaled cosines without a margin, of shape (n, n_classes)."""
        return self.logit_scale(embeddings) * self.class_cosines(embeddings)

    def compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean over the batch."""
        cosine, own = self.class_cosines(embeddings), labels[:, None]
        with_margin = cosine.scatter(1, own, self.apply_margin(cosine.gather(1, own)))
        return mean_cross_entropy(self.logit_scale(embeddings) * with_margin, labels)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"{super().extra_repr()}, margin={self.margin:g}, scale={self.scale:g}"
