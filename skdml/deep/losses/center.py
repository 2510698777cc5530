"""Center loss: softmax plus the distance to the centre of the class."""

import torch

from skdml.deep._distances import _full_precision
from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._proxy import ProxyLoss, class_means, mean_cross_entropy

_LARGEST_ENTRY = 1e15  # squares of larger entries would leave the range of single precision


class CenterLoss(ProxyLoss):
    r"""Center loss: a softmax tells classes apart, and points are drawn to the center of theirs.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{w_{y_i}^T x_i + b_{y_i}}}
        {\sum_c e^{w_c^T x_i + b_c}} + \frac{\lambda}{2 n} \sum_i \lVert x_i - p_{y_i} \rVert^2

    Centers and weights are learned by gradient. (The paper moves a center by a rule of its own,
    which is a gradient step of another length.)

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2; labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    pull : float, default=0.003
        The weight lambda of the pull to the centers, >= 0.

    Attributes
    ----------
    proxies : Parameter of shape (n_classes, n_components)
        The centers p.
    weight : Parameter of shape (n_classes, n_components)
        The weights w of the classifier.
    bias : Parameter of shape (n_classes,)
        Its biases b.

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

    def __init__(self, n_classes, n_components, *, pull=0.003):
        super().__init__(n_classes, n_components)
        self.pull = check_positive("pull", pull, zero=True)
        self.weight = self._start(self.n_classes, self.n_components)
        self.bias = self._start(self.n_classes)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"{super().extra_repr()}, pull={self.pull:g}"

    @torch.no_grad()
    def initialize_from(self, embeddings, labels):
        """Set the centers to the means of the classes that occur, and each point to the nearest.

        Parameters
        ----------
        embeddings : Tensor of shape (n, n_components)
            Embeddings.
        labels : int Tensor of shape (n,)
            Their classes.
        """
        labels = self._check(embeddings, labels)
        means, found = class_means(embeddings.to(self.proxies.dtype), labels, self.n_classes)
        self.proxies[found] = self.weight[found] = means
        self.bias[found] = means.square().sum(1) / -2

    def logits(self, embeddings):
        """Logits of the classifier, of shape (n, n_classes)."""
        x, weight, bias = _full_precision(embeddings, self.weight, self.bias)
        return x @ weight.T + bias

    def compute(self, embeddings, labels):
        """Mean over the batch."""
        x = embeddings.clamp(-_LARGEST_ENTRY, _LARGEST_ENTRY)
        apart = (x - self.proxies[labels]).square().sum()
        return mean_cross_entropy(self.logits(x), labels) + self.pull / 2 * apart / max(1, len(x))
