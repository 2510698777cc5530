"""Classifiers that learn a metric: a softmax over cosines, with a margin for the own class."""

import math
from abc import abstractmethod

import torch

from skdml.deep._pairwise import _full_precision

from ._matrix import check_count, check_positive
from .proxy import ProxyLoss, class_means, cosines, mean_cross_entropy

_LARGEST_ENTRY = 1e15  # squares of larger entries would leave the range of single precision


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


def length(x):
    """Norm of each row, of shape (n, 1), safe from overflow."""
    peak = x.detach().abs().amax(1, keepdim=True)
    peak = peak.masked_fill(peak == 0, 1)
    return peak * torch.linalg.vector_norm(x / peak, dim=1, keepdim=True)


class NormalizedSoftmaxLoss(ProxyLoss):
    r"""Normalised softmax: cross entropy of the cosines with the proxies.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{s_{i y_i} / T}}{\sum_c e^{s_{ic} / T}}

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2; labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    temperature : float, default=0.05
        The temperature T, > 0.

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
    Zhai, Wu: Classification is a Strong Baseline for Deep Metric Learning, BMVC 2019.

    Examples
    --------
    >>> import torch
    >>> loss = NormalizedSoftmaxLoss(2, 2, temperature=1)
    >>> loss.proxies.data = torch.eye(2)
    >>> round(loss(torch.tensor([[5.0, 0.0]]), torch.tensor([0])).item(), 4)  # log(1 + exp(-1))
    0.3133
    """

    def __init__(self, n_classes, n_components, *, temperature=0.05):
        super().__init__(n_classes, n_components)
        self.temperature = check_positive("temperature", temperature)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"{super().extra_repr()}, temperature={self.temperature:g}"

    def logits(self, embeddings):
        """Cosines over the temperature, of shape (n, n_classes)."""
        return self.cosines(embeddings) / self.temperature

    def compute(self, embeddings, labels):
        """Mean over the batch."""
        return mean_cross_entropy(self.logits(embeddings), labels)


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


class CosFaceLoss(MarginSoftmaxLoss):
    r"""CosFace: a softmax over scaled cosines, less a margin for the own class.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{a (s_{i y_i} - m)}}
        {e^{a (s_{i y_i} - m)} + \sum_{c \ne y_i} e^{a s_{ic}}}

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2; labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    margin : float, default=0.35
        The margin m of the cosine, >= 0 and < 2.
    scale : float, default=64.0
        The factor a, > 0.

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
    Wang, Wang, Zhou, Ji, Gong, Zhou, Li, Liu: CosFace: Large Margin Cosine Loss for Deep Face
    Recognition, CVPR 2018, eq. 4.

    Examples
    --------
    >>> import torch
    >>> loss = CosFaceLoss(2, 2, margin=1, scale=1)
    >>> loss.proxies.data = torch.eye(2)
    >>> round(loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).item(), 4)  # log(1 + exp(0))
    0.6931
    """

    def __init__(self, n_classes, n_components, *, margin=0.35, scale=64.0):
        super().__init__(n_classes, n_components, scale=scale)
        self.margin = check_positive("margin", margin, zero=True, below=2)

    def harden(self, cosine):
        """Subtract the margin."""
        return cosine - self.margin


class ArcFaceLoss(MarginSoftmaxLoss):
    r"""ArcFace: a softmax over scaled cosines, with a margin added to the angle to the own class.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{a \psi(\theta_{i y_i})}}
        {e^{a \psi(\theta_{i y_i})} + \sum_{c \ne y_i} e^{a \cos \theta_{ic}}}, \quad
        \psi(\theta) = \cos(\theta + m)

    Beyond an angle of pi - m, where cos(theta + m) would rise again, psi is
    cos(theta) + cos(m) - 1: it goes on without a jump and falls to the end.

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2; labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    margin : float, default=0.5
        The margin m of the angle, in radians; >= 0 and < pi.
    scale : float, default=64.0
        The factor a, > 0.

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
    Deng, Guo, Xue, Zafeiriou: ArcFace: Additive Angular Margin Loss for Deep Face Recognition,
    CVPR 2019, eq. 3.

    Examples
    --------
    >>> import math, torch
    >>> loss = ArcFaceLoss(2, 2, margin=math.pi / 2, scale=1)
    >>> loss.proxies.data = torch.eye(2)
    >>> round(loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).item(), 4)  # log(1 + exp(0))
    0.6931
    """

    def __init__(self, n_classes, n_components, *, margin=0.5, scale=64.0):
        super().__init__(n_classes, n_components, scale=scale)
        self.margin = check_positive("margin", margin, zero=True, below=math.pi)

    def harden(self, cosine):
        """Add the margin to the angle."""
        return add_angle(cosine, self.margin)


class SubCenterArcFaceLoss(MarginSoftmaxLoss):
    r"""Sub-center ArcFace: ArcFace with the nearest of several proxies of each class.

    .. math:: \cos \theta_{ic} = \max_k \frac{x_i^T p_{ck}}
        {\lVert x_i \rVert \, \lVert p_{ck} \rVert}

    Mislabelled points gather around a proxy of their own and leave the others clean.

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2; labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    n_proxies : int, default=3
        Proxies of each class, >= 1.
    margin : float, default=0.5
        The margin of the angle, in radians; >= 0 and < pi.
    scale : float, default=64.0
        The factor of the cosines, > 0.

    Attributes
    ----------
    proxies : Parameter of shape (n_classes, n_proxies, n_components)
        The proxies.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    See Also
    --------
    ArcFaceLoss : The loss of these angles.

    References
    ----------
    Deng, Guo, Liu, Gong, Zafeiriou: Sub-center ArcFace: Boosting Face Recognition by Large-Scale
    Noisy Web Faces, ECCV 2020.

    Examples
    --------
    >>> import math, torch
    >>> loss = SubCenterArcFaceLoss(2, 2, n_proxies=2, margin=math.pi / 2, scale=1)
    >>> loss.proxies.data = torch.eye(2)[:, None] * torch.tensor([[[1.0], [-1.0]]])
    >>> round(loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).item(), 4)  # log(1 + exp(0))
    0.6931
    """

    def __init__(self, n_classes, n_components, *, n_proxies=3, margin=0.5, scale=64.0):
        n_proxies = check_count("n_proxies", n_proxies)
        super().__init__(n_classes, n_components, n_proxies=n_proxies, scale=scale)
        self.margin = check_positive("margin", margin, zero=True, below=math.pi)

    def class_cosines(self, embeddings):
        """Cosines with the nearest proxies of the classes, of shape (n, n_classes)."""
        # The classes last: along the few proxies of a class it would take longer.
        return cosines(embeddings, self.proxies.transpose(0, 1)).amax(1)

    def harden(self, cosine):
        """Add the margin to the angle."""
        return add_angle(cosine, self.margin)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"{super().extra_repr()}, n_proxies={self.n_proxies}"


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
