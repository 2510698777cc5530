"""Proxy-Anchor: each proxy is an anchor for the points of a batch."""

import torch

from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._proxy import ProxyLoss


def proxy_anchor(cosine, labels, margin, alpha):
    r"""Proxy anchor loss of cosines of shape (n, c); see :class:`ProxyAnchorLoss`."""
    same = labels[:, None] == torch.arange(cosine.shape[1], device=labels.device)
    pull = torch.where(same, -alpha * (cosine - margin), -torch.inf)
    push = torch.where(same, -torch.inf, alpha * (cosine + margin))
    one = cosine.new_zeros(1, cosine.shape[1])  # the 1 of log(1 + ...), as a logarithm
    pull, push = (torch.cat([one, part]).logsumexp(0) for part in (pull, push))
    return pull.sum() / same.any(0).sum().clamp(min=1) + push.mean()


class ProxyAnchorLoss(ProxyLoss):
    r"""Proxy anchor loss: each proxy is an anchor that looks for its class in the batch.

    .. math:: L = \frac{1}{|P^+|} \sum_{p \in P^+} \log \Bigl( 1 + \sum_{x \in X_p}
        e^{-\alpha (s(x, p) - \delta)} \Bigr) + \frac{1}{|P|} \sum_{p \in P} \log \Bigl( 1 +
        \sum_{x \notin X_p} e^{\alpha (s(x, p) + \delta)} \Bigr)

    with cosines s, all proxies P, those P+ whose class is in the batch, and the points X_p of the
    class of p. The hardest points of a batch weigh most.

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2; labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    margin : float, default=0.1
        The margin delta of the cosine, >= 0 and < 1.
    alpha : float, default=32.0
        How much the hardest points weigh, > 0.

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

    def __init__(self, n_classes, n_components, *, margin=0.1, alpha=32.0):
        super().__init__(n_classes, n_components)
        self.margin = check_positive("margin", margin, zero=True, below=1)
        self.alpha = check_positive("alpha", alpha)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"{super().extra_repr()}, margin={self.margin:g}, alpha={self.alpha:g}"

    def logits(self, embeddings):
        """Scaled cosines, of shape (n, n_classes)."""
        return self.alpha * self.cosines(embeddings)

    def compute(self, embeddings, labels):
        """Sum of the two means over proxies; nothing for an empty batch."""
        return proxy_anchor(self.cosines(embeddings), labels, self.margin, self.alpha)
