"""Proxy NCA and proxy NCA++: neighbourhood components analysis with proxies as neighbours."""

import torch
from torch import Tensor

from skdml.deep.losses._checks import check_flag, check_positive
from skdml.deep.losses._proxy import ProxyLoss, mean_cross_entropy


def cross_entropy_of_others(logit: Tensor, labels: Tensor) -> Tensor:
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
        Number of classes, >= 2. Labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    plus : bool, default=True
        If True, j runs over all proxies (proxy NCA++). If False, j runs over the proxies of other
        classes (proxy NCA); the loss can then be negative.
    temperature : float, default=1/9
        The temperature T, > 0. Proxy NCA++ uses 1/9 and proxy NCA uses 1.

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

    def __init__(
        self, n_classes: int, n_components: int, *, plus: bool = True, temperature: float = 1 / 9
    ) -> None:
        super().__init__(n_classes, n_components)
        self.plus = check_flag("plus", plus)
        self.temperature = check_positive("temperature", temperature)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"{super().extra_repr()}, plus={self.plus}, temperature={self.temperature:g}"

    def logits(self, embeddings: Tensor) -> Tensor:
        """Negative distances to the proxies, of shape (n, n_classes)."""
        return (self.cosines(embeddings) - 1) * (2 / self.temperature)

    def compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean over the batch."""
        loss = mean_cross_entropy if self.plus else cross_entropy_of_others
        return loss(self.logits(embeddings), labels)
