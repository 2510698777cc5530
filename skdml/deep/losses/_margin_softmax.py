"""Classifiers that learn a metric: a softmax over cosines, with a margin for the own class."""

import math
from abc import abstractmethod

import torch

from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._proxy import ProxyLoss, mean_cross_entropy


def add_angle(cosine, margin):
    r"""Cosine of an angle with a margin added; beyond pi it falls on as the cosine itself does.

    .. math:: \psi(\theta) = \cos(\theta + m) \text{ for } \theta \le \pi - m, \quad
        \cos \theta + \cos m - 1 \text{ beyond}

    Continuous, and falling all the way. At the cosines 1 and -1, where the angle has no gradient,
    that of the sine is taken to be 0.
    """
    cosine = cosine.clamp(-1, 1)
    square = 1 - cosine.square()
    inside = square > 4 * torch.finfo(cosine.dtype).eps
    sine = torch.where(inside, torch.where(inside, square, 1).sqrt(), 0)
    moved = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine >= -math.cos(margin), moved, cosine + (math.cos(margin) - 1))


def length(x):
    """Norm of each row, of shape (n, 1), safe from overflow."""
    peak = x.detach().abs().amax(1, keepdim=True)
    peak = peak.masked_fill(peak == 0, 1)
    return peak * torch.linalg.vector_norm(x / peak, dim=1, keepdim=True)


class MarginSoftmaxLoss(ProxyLoss):
    r"""Base of the losses that make the softmax harder for the own class.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{a_i \psi(s_{i y_i})}}
        {e^{a_i \psi(s_{i y_i})} + \sum_{c \ne y_i} e^{a_i s_{ic}}}

    A subclass says what psi (``harden``) is.

    Parameters
    ----------
    n_classes, n_components, n_proxies
        As in :class:`ProxyLoss`.
    scale : float
        The factor a, > 0.
    """

    def __init__(self, n_classes, n_components, *, scale, n_proxies=None):
        super().__init__(n_classes, n_components, n_proxies)
        self.scale = check_positive("scale", scale)

    @abstractmethod
    def harden(self, cosine):
        """Return what stands for the cosine with the own class, which is never more."""

    def class_cosines(self, embeddings):
        """Cosines with the classes, of shape (n, n_classes)."""
        return self.cosines(embeddings)

    def factor(self, embeddings):
        """By what the cosines are multiplied, a number or of shape (n, 1)."""
        return self.scale

    def logits(self, embeddings):
        """Scaled cosines without a margin, of shape (n, n_classes)."""
        return self.factor(embeddings) * self.class_cosines(embeddings)

    def compute(self, embeddings, labels):
        """Mean over the batch."""
        cosine, own = self.class_cosines(embeddings), labels[:, None]
        harder = cosine.scatter(1, own, self.harden(cosine.gather(1, own)))
        return mean_cross_entropy(self.factor(embeddings) * harder, labels)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"{super().extra_repr()}, margin={self.margin:g}, scale={self.scale:g}"
