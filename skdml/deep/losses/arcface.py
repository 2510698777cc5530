"""ArcFace and sub-center ArcFace: a softmax over cosines with a margin added to the angle."""

import math

import torch
from torch import Tensor

from skdml.deep.losses._checks import check_count, check_positive
from skdml.deep.losses._margin_softmax import MarginSoftmaxLoss
from skdml.deep.losses._proxy import cosines


def add_angle(cosine: Tensor, margin: float) -> Tensor:
    r"""Cosine of an angle plus a margin, continued so that it always falls with the angle.

    .. math:: \psi(\theta) = \cos(\theta + m) \text{ for } \theta \le \pi - m, \quad
        \cos \theta + \cos m - 1 \text{ beyond}

    The function is continuous and decreasing. At the cosines 1 and -1 the angle has no gradient;
    the gradient of its sine is set to 0 there.
    """
    cosine = cosine.clamp(-1, 1)
    square = 1 - cosine.square()
    inside = square > 4 * torch.finfo(cosine.dtype).eps
    sine = torch.where(inside, torch.where(inside, square, 1).sqrt(), 0)
    moved = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine >= -math.cos(margin), moved, cosine + (math.cos(margin) - 1))


class ArcFaceLoss(MarginSoftmaxLoss):
    r"""ArcFace: a softmax over scaled cosines, with a margin added to the angle to the own class.

    .. math:: L = -\frac1n \sum_i \log \frac{e^{a \psi(\theta_{i y_i})}}
        {e^{a \psi(\theta_{i y_i})} + \sum_{c \ne y_i} e^{a \cos \theta_{ic}}}, \quad
        \psi(\theta) = \cos(\theta + m)

    Unlike the paper's equation, psi continues as cos(theta) + cos(m) - 1 beyond an angle of
    pi - m, where cos(theta + m) would rise again. So psi is continuous and always falls with the
    angle.

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2. Labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    margin : float, default=0.5
        The margin m of the angle in radians, >= 0 and < pi.
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

    def __init__(
        self, n_classes: int, n_components: int, *, margin: float = 0.5, scale: float = 64.0
    ) -> None:
        super().__init__(n_classes, n_components, scale=scale)
        self.margin = check_positive("margin", margin, zero=True, below=math.pi)

    def apply_margin(self, cosine: Tensor) -> Tensor:
        """Add the margin to the angle."""
        return add_angle(cosine, self.margin)


class SubCenterArcFaceLoss(MarginSoftmaxLoss):
    r"""Sub-center ArcFace: ArcFace with the nearest of several proxies of each class.

    .. math:: \cos \theta_{ic} = \max_k \frac{x_i^T p_{ck}}
        {\lVert x_i \rVert \, \lVert p_{ck} \rVert}

    Mislabelled points gather around one proxy of the class, and the other proxies stay clean.

    Unlike the paper, psi continues beyond an angle of pi - m, as in `ArcFaceLoss`.

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2. Labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    n_proxies : int, default=3
        Number of proxies of each class, >= 1.
    margin : float, default=0.5
        The margin of the angle in radians, >= 0 and < pi.
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
    ArcFaceLoss : The loss as a function of the angles.

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

    def __init__(
        self,
        n_classes: int,
        n_components: int,
        *,
        n_proxies: int = 3,
        margin: float = 0.5,
        scale: float = 64.0,
    ) -> None:
        n_proxies = check_count("n_proxies", n_proxies)
        super().__init__(n_classes, n_components, n_proxies=n_proxies, scale=scale)
        self.margin = check_positive("margin", margin, zero=True, below=math.pi)

    def class_cosines(self, embeddings: Tensor) -> Tensor:
        """Cosines with the nearest proxy of each class, of shape (n, n_classes)."""
        # The classes are the last axis: a maximum along the last, short axis of proxies is slower.
        return cosines(embeddings, self.proxies.transpose(0, 1)).amax(1)

    def apply_margin(self, cosine: Tensor) -> Tensor:
        """Add the margin to the angle."""
        return add_angle(cosine, self.margin)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"{super().extra_repr()}, n_proxies={self.n_proxies}"
