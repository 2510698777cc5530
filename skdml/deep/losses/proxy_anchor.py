"""Proxy anchor loss: each proxy is an anchor for the points of a batch."""

import torch
from torch import Tensor

from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._proxy import ProxyLoss


def proxy_anchor(cosine: Tensor, labels: Tensor, margin: float, alpha: float) -> Tensor:
    r"""Proxy anchor loss of cosines of shape (n, c); see :class:`ProxyAnchorLoss`."""
    same = labels[:, None] == torch.arange(cosine.shape[1], device=labels.device)
    positive = torch.where(same, -alpha * (cosine - margin), -torch.inf)
    negative = torch.where(same, -torch.inf, alpha * (cosine + margin))
    one = cosine.new_zeros(1, cosine.shape[1])  # the 1 of log(1 + ...), as a logarithm
    positive, negative = (torch.cat([one, part]).logsumexp(0) for part in (positive, negative))
    return positive.sum() / same.any(0).sum().clamp(min=1) + negative.mean()


class ProxyAnchorLoss(ProxyLoss):
    r"""Proxy anchor loss: each proxy is near the points of its class and far from all others.

    .. math:: L = \frac{1}{|P^+|} \sum_{p \in P^+} \log \Bigl( 1 + \sum_{x \in X_p}
        e^{-\alpha (s(x, p) - \delta)} \Bigr) + \frac{1}{|P|} \sum_{p \in P} \log \Bigl( 1 +
        \sum_{x \notin X_p} e^{\alpha (s(x, p) + \delta)} \Bigr)

    s are cosines. P are all proxies, P+ the proxies whose class is in the batch, and X_p the
    points of the class of p. The hardest points of a batch have the largest weights.

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2. Labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    margin : float, default=0.1
        The margin delta of the cosine, >= 0 and < 1.
    alpha : float, default=32.0
        Sharpness, > 0. Larger values give the hardest points more weight.

    Attributes
    ----------
    proxies : Parameter of shape (n_classes, n_components)
        The proxies.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    References
    ----------
    Kim, Kim, Cho, Kwak: Proxy Anchor Loss for Deep Metric Learning, CVPR 2020, eq. 4.

    Examples
    --------
    >>> import torch
    >>> loss = ProxyAnchorLoss(2, 2, margin=0, alpha=1)
    >>> loss.proxies.data = torch.eye(2)
    >>> x = torch.tensor([[1.0, 0.0]])
    >>> round(loss(x, torch.tensor([0])).item(), 4)  # log(1 + exp(-1)) + log(1 + exp(0)) / 2
    0.6598
    """

    def __init__(
        self, n_classes: int, n_components: int, *, margin: float = 0.1, alpha: float = 32.0
    ) -> None:
        super().__init__(n_classes, n_components)
        self.margin = check_positive("margin", margin, zero=True, below=1)
        self.alpha = check_positive("alpha", alpha)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"{super().extra_repr()}, margin={self.margin:g}, alpha={self.alpha:g}"

    def logits(self, embeddings: Tensor) -> Tensor:
        """Scaled cosines, of shape (n, n_classes)."""
        return self.alpha * self.cosines(embeddings)

    def compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the sum of the two means over proxies; zero for an empty batch."""
        return proxy_anchor(self.cosines(embeddings), labels, self.margin, self.alpha)
