"""SphereFace: a multiplicative angular margin."""

import math

import torch

from skdml.deep.losses._checks import check_count
from skdml.deep.losses._margin_softmax import MarginSoftmaxLoss, length


def multiply_angle(cosine, factor):
    r"""Cosine of a multiple of an angle, made to fall all the way.

    .. math:: \psi(\theta) = (-1)^k \cos(m \theta) - 2 k, \quad
        k = \lfloor m \theta / \pi \rfloor

    The cosine of a multiple is a polynomial of the cosine, whose gradient is finite.
    """
    cosine = cosine.clamp(-1, 1)
    before, multiple = torch.ones_like(cosine), cosine
    for _ in range(factor - 1):
        before, multiple = multiple, 2 * cosine * multiple - before
    k = (cosine.detach().acos() * (factor / math.pi)).floor().clamp(max=factor - 1)
    return (1 - 2 * (k % 2)) * multiple - 2 * k


class SphereFaceLoss(MarginSoftmaxLoss):
    r"""SphereFace: a softmax in which the angle to the own class counts several times.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{a \lVert x_i \rVert \psi(\theta_{i y_i})}}
        {e^{a \lVert x_i \rVert \psi(\theta_{i y_i})} + \sum_{c \ne y_i}
        e^{a \lVert x_i \rVert \cos \theta_{ic}}}, \quad
        \psi(\theta) = (-1)^k \cos(m \theta) - 2k, \quad k = \lfloor m \theta / \pi \rfloor

    Embeddings keep their length, which is how sure the classifier is.

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2; labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    margin : int, default=4
        How many times the angle counts, m >= 1.
    scale : float, default=30.0
        The factor a, > 0. The paper has 1 and embeddings that are long; a softmax over embeddings
        of about length 1, which those of `skdml.deep` are at first, hardly tells classes apart
        without it.

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
    >>> x = torch.tensor([[0.0, 3.0]])  # at 90 degrees: cos(180 degrees) = -1 in place of 0
    >>> round(loss(x, torch.tensor([0])).item(), 3)  # log(1 + exp(3 + 3))
    6.002
    """

    def __init__(self, n_classes, n_components, *, margin=4, scale=30.0):
        super().__init__(n_classes, n_components, scale=scale)
        self.margin = check_count("margin", margin)

    def factor(self, embeddings):
        """Scaled lengths of the embeddings, of shape (n, 1)."""
        return self.scale * length(embeddings)

    def harden(self, cosine):
        """Multiply the angle."""
        return multiply_angle(cosine, self.margin)
