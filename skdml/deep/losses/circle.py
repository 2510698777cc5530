"""Circle loss: the weight of a pair is its distance from the optimum."""

from torch import Tensor
from torch.nn import functional as F

from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._exponentials import log_sum_exp
from skdml.deep.losses._limits import MAX_SQUARABLE
from skdml.deep.losses._matrix import RowLoss


def circle(
    pos_distance: Tensor,
    distance: Tensor,
    pos_mask: Tensor,
    neg_mask: Tensor,
    margin: float,
    scale: float,
) -> Tensor:
    r"""Circle loss of each row, as a function of distances.

    .. math:: \log \Bigl(1 + \sum_p e^{\gamma \alpha_p (d_{ip} - m)}
        \sum_n e^{\gamma \alpha_n (1 - m - d_{in})} \Bigr), \quad
        \alpha_p = [d_{ip} + m]_+, \; \alpha_n = [1 + m - d_{in}]_+

    The weights alpha have no gradient, as in the paper.

    Parameters
    ----------
    pos_distance : Tensor of shape (n, p)
        Distances of the positives.
    distance : Tensor of shape (n, m)
        All distances.
    pos_mask : bool Tensor of shape (n, p)
        Which entries of `pos_distance` are positives.
    neg_mask : bool Tensor of shape (n, m)
        Which entries of `distance` belong to negatives. Each row has positives and negatives.
    margin, scale : float
        The relaxation m and the scale gamma.

    Returns
    -------
    Tensor of shape (n,)
        Losses.
    """
    pos_weight, neg_weight = pos_distance.detach() + margin, 1 + margin - distance.detach()
    positive = pos_weight.clamp_(0, MAX_SQUARABLE).mul_(scale) * (pos_distance - margin)
    negative = neg_weight.clamp_(0, MAX_SQUARABLE).mul_(scale) * (1 - margin - distance)
    return F.softplus(log_sum_exp(positive, pos_mask) + log_sum_exp(negative, neg_mask))


class CircleLoss(RowLoss):
    r"""Circle loss: the farther a pair is from its optimum, the larger its weight.

    .. math:: L = \operatorname{mean}_i \; \log \Bigl(1 +
        \sum_p e^{\gamma [d_{ip} + m]_+ (d_{ip} - m)} \;
        \sum_n e^{\gamma [1 + m - d_{in}]_+ (1 - m - d_{in})} \Bigr)

    The factors :math:`[\cdot]_+` are weights without a gradient, as in the paper. The mean is over
    the anchors with a positive and a negative. With the cosine distance, d = 1 - s, this is the
    loss of the paper.

    Parameters
    ----------
    margin : float, default=0.4
        The relaxation m, > 0 and < 1. Positives should be nearer than m, negatives farther than
        1 - m.
    scale : float, default=80.0
        The scale gamma, > 0.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="cosine"
        Distance between embeddings.

    Attributes
    ----------
    active_share : Tensor of shape ()
        Share of the embeddings that were anchors with a loss > 0 in the last call.

    Raises
    ------
    ValueError
        If a parameter is outside its range. The message states the allowed values.

    References
    ----------
    Sun, Cheng, Zhang, Zhang, Zheng, Wang, Wei: Circle Loss: A Unified Perspective of Pair
    Similarity Optimization, CVPR 2020, section 3.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> loss = CircleLoss(margin=0.5, scale=2.0)(x, torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # log(1 + exp(-0.5) exp(-0.5))
    0.3133
    """

    def __init__(
        self, margin: float = 0.4, scale: float = 80.0, *, distance: str = "cosine"
    ) -> None:
        super().__init__(distance)
        self.margin = check_positive("margin", margin, below=1)
        self.scale = check_positive("scale", scale)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"margin={self.margin:g}, scale={self.scale:g}, distance={self.distance!r}"

    def anchor_losses(
        self, pos_distance: Tensor, distance: Tensor, pos_mask: Tensor, neg_mask: Tensor
    ) -> Tensor:
        """Compute the losses of a block of anchors."""
        return circle(pos_distance, distance, pos_mask, neg_mask, self.margin, self.scale)
