"""Proxy-NCA: neighbourhood components among proxies."""

import torch

from skdml.deep.losses._checks import check_flag, check_positive
from skdml.deep.losses._proxy import ProxyLoss, mean_cross_entropy


def cross_entropy_of_others(logit, labels):
    r"""Mean of -a_y + log of the sum of exp(a_j) over all j but y; zero for an empty batch."""
    own = logit.gather(1, labels[:, None])
    others = logit.scatter(1, labels[:, None], -torch.inf)
    return (others.logsumexp(1, keepdim=True) - own).sum() / max(1, len(labels))


class ProxyNCALoss(ProxyLoss):
    r"""Proxy NCA and proxy NCA++: a softmax over the distances to the proxies.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{-d(x_i, p_{y_i})}}{\sum_{j} e^{-d(x_i, p_j)}},
        \quad d(x, p) = \frac1T \Bigl\lVert \frac{x}{\lVert x \rVert} - \frac{p}{\lVert p \rVert}
        \Bigr\rVert^2

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2; labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    plus : bool, default=True
        Whether j runs over all proxies (proxy NCA++) or over those of other classes (proxy NCA,
        whose loss can fall below zero).
    temperature : float, default=1/9
        T, > 0. 1/9 is that of proxy NCA++, 1 that of proxy NCA.

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
    Movshovitz-Attias, Toshev, Leung, Ioffe, Singh: No Fuss Distance Metric Learning using Proxies,
    ICCV 2017.
    Teh, DeVries, Taylor: ProxyNCA++: Revisiting and Revitalizing Proxy Neighborhood Component
    Analysis, ECCV 2020.

    Examples
    --------
    >>> import torch
    >>> loss = ProxyNCALoss(2, 2, temperature=1)
    >>> loss.proxies.data = torch.eye(2)
    >>> round(loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).item(), 4)  # log(1 + exp(-2))
    0.1269
    """

    def __init__(self, n_classes, n_components, *, plus=True, temperature=1 / 9):
        super().__init__(n_classes, n_components)
        self.plus = check_flag("plus", plus)
        self.temperature = check_positive("temperature", temperature)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"{super().extra_repr()}, plus={self.plus}, temperature={self.temperature:g}"

    def logits(self, embeddings):
        """Minus the distances, of shape (n, n_classes)."""
        return (self.cosines(embeddings) - 1) * (2 / self.temperature)

    def compute(self, embeddings, labels):
        """Mean over the batch."""
        loss = mean_cross_entropy if self.plus else cross_entropy_of_others
        return loss(self.logits(embeddings), labels)
