"""Center loss: a softmax classifier plus the squared distance to the centre of the class."""

import torch
from torch import Tensor

from skdml.deep._distances import full_precision
from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._limits import MAX_SQUARABLE
from skdml.deep.losses._proxy import ProxyLoss, class_means, mean_cross_entropy


class CenterLoss(ProxyLoss):
    r"""Center loss: a softmax separates the classes, and each point is near its class center.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{w_{y_i}^T x_i + b_{y_i}}}
        {\sum_c e^{w_c^T x_i + b_c}} + \frac{\lambda}{2 n} \sum_i \lVert x_i - p_{y_i} \rVert^2

    Unlike the paper, the centers are learned by gradient descent, as the weights are. The update
    rule of the paper is a gradient step with another step length. Unlike the paper, which sums over
    the batch, the loss is the mean.

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2. Labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    pull : float, default=0.003
        The weight lambda of the distances to the centers, >= 0.

    Attributes
    ----------
    proxies : Parameter of shape (n_classes, n_components)
        The centers p.
    weight : Parameter of shape (n_classes, n_components)
        The weights w of the classifier.
    bias : Parameter of shape (n_classes,)
        The biases b of the classifier.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    References
    ----------
    Wen, Zhang, Li, Qiao: A Discriminative Feature Learning Approach for Deep Face Recognition,
    ECCV 2016, eq. 5.

    Examples
    --------
    >>> import torch
    >>> loss = CenterLoss(2, 1, pull=1)
    >>> zeros = [torch.nn.init.zeros_(parameter) for parameter in loss.parameters()]
    >>> round(loss(torch.tensor([[2.0]]), torch.tensor([0])).item(), 4)  # log 2 + 2**2 / 2
    2.6931
    """

    def __init__(self, n_classes: int, n_components: int, *, pull: float = 0.003) -> None:
        super().__init__(n_classes, n_components)
        self.pull = check_positive("pull", pull, zero=True)
        self.weight = self._random_parameter(self.n_classes, self.n_components)
        self.bias = self._random_parameter(self.n_classes)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"{super().extra_repr()}, pull={self.pull:g}"

    @torch.no_grad()
    def initialize_from(self, embeddings: Tensor, labels: Tensor) -> None:
        """Set the centers to the class means, and the classifier to the nearest center.

        Classes that do not occur keep their parameters.

        Parameters
        ----------
        embeddings : Tensor of shape (n, n_components)
            Embeddings.
        labels : int Tensor of shape (n,)
            Classes of the embeddings.
        """
        labels = self._check(embeddings, labels)
        means, found = class_means(embeddings.to(self.proxies.dtype), labels, self.n_classes)
        self.proxies[found] = self.weight[found] = means
        self.bias[found] = means.square().sum(1) / -2

    def logits(self, embeddings: Tensor) -> Tensor:
        """Logits of the classifier, of shape (n, n_classes)."""
        x, weight, bias = full_precision(embeddings, self.weight, self.bias)
        return x @ weight.T + bias

    def compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean over the batch."""
        x = embeddings.clamp(-MAX_SQUARABLE, MAX_SQUARABLE)
        to_center = (x - self.proxies[labels]).square().sum()
        factor = self.pull / 2
        return mean_cross_entropy(self.logits(x), labels) + factor * to_center / max(1, len(x))
