"""SphereFace: a softmax over cosines in which the angle to the own class is multiplied."""

import math

import torch
from torch import Tensor

from skdml.deep.losses._checks import check_count
from skdml.deep.losses._margin_softmax import MarginSoftmaxLoss


def multiply_angle(cosine: Tensor, factor: int) -> Tensor:
    r"""Cosine of a multiple of an angle, continued so that it always falls with the angle.

    .. math:: \psi(\theta) = (-1)^k \cos(m \theta) - 2 k, \quad
        k = \lfloor m \theta / \pi \rfloor

    The cosine of a multiple is a polynomial of the cosine, so its gradient is finite.
    """
    cosine = cosine.clamp(-1, 1)
    previous, multiple = torch.ones_like(cosine), cosine
    for _ in range(factor - 1):
        previous, multiple = multiple, 2 * cosine * multiple - previous
    k = (cosine.detach().acos() * (factor / math.pi)).floor().clamp(max=factor - 1)
    return (1 - 2 * (k % 2)) * multiple - 2 * k


def row_norms(x: Tensor) -> Tensor:
    """Norm of each row, of shape (n, 1), without overflow."""
    peak = x.detach().abs().amax(1, keepdim=True)
    peak = peak.masked_fill(peak == 0, 1)
    return peak * torch.linalg.vector_norm(x / peak, dim=1, keepdim=True)


class SphereFaceLoss(MarginSoftmaxLoss):
    r"""SphereFace: a softmax over cosines that multiplies the angle to the own class.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{a \lVert x_i \rVert \psi(\theta_{i y_i})}}
        {e^{a \lVert x_i \rVert \psi(\theta_{i y_i})} + \sum_{c \ne y_i}
        e^{a \lVert x_i \rVert \cos \theta_{ic}}}, \quad
        \psi(\theta) = (-1)^k \cos(m \theta) - 2k, \quad k = \lfloor m \theta / \pi \rfloor

    Embeddings are not scaled to length 1; their length is the confidence of the classifier.

    Unlike the paper, which has no scale and long embeddings, the logits are scaled by a. The
    embeddings of `skdml.deep` have a length of about 1 at first; without a scale, a softmax over
    them hardly separates the classes.

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2. Labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    margin : int, default=4
        The multiple m of the angle, >= 1.
    scale : float, default=30.0
        The factor a, > 0. 1 is the loss of the paper.

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
    Liu, Wen, Yu, Li, Raj, Song: SphereFace: Deep Hypersphere Embedding for Face Recognition, CVPR
    2017 (the A-softmax loss).
    Liu, Wen, Raj, Singh, Weller: SphereFace Revived: Unifying Hyperspherical Face Recognition,
    IEEE TPAMI 2022 (the scale).

    Examples
    --------
    >>> import torch
    >>> loss = SphereFaceLoss(2, 2, margin=2, scale=1)
    >>> loss.proxies.data = torch.eye(2)
    >>> x = torch.tensor([[0.0, 3.0]])  # at 90 degrees: cos(180 degrees) = -1 replaces 0
    >>> round(loss(x, torch.tensor([0])).item(), 3)  # log(1 + exp(3 + 3))
    6.002
    """

    margin: int

    def __init__(
        self, n_classes: int, n_components: int, *, margin: int = 4, scale: float = 30.0
    ) -> None:
        super().__init__(n_classes, n_components, scale=scale)
        self.margin = check_count("margin", margin)

    def logit_scale(self, embeddings: Tensor) -> Tensor:
        """Scaled lengths of the embeddings, of shape (n, 1)."""
        return self.scale * row_norms(embeddings)

    def apply_margin(self, cosine: Tensor) -> Tensor:
        """Multiply the angle."""
        return multiply_angle(cosine, self.margin)
