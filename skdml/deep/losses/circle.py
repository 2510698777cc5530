"""Circle loss: similarities weighted by their distance from an optimum."""

from torch.nn import functional as F

from skdml.deep.losses._batch import RowLoss
from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._exponentials import log_sum_exp
from skdml.deep.losses.intra_pair_variance import _LARGEST


def circle(near, distance, taken, different, margin, scale):
    r"""Circle loss of each row, by distances.

    .. math:: \log \Bigl(1 + \sum_p e^{\gamma \alpha_p (d_{ip} - m)}
        \sum_n e^{\gamma \alpha_n (1 - m - d_{in})} \Bigr), \quad
        \alpha_p = [d_{ip} + m]_+, \; \alpha_n = [1 + m - d_{in}]_+

    The weights alpha are constants to the gradient, as in the paper.

    Parameters
    ----------
    near : Tensor of shape (n, p)
        Distances of the positives.
    distance : Tensor of shape (n, m)
        All distances.
    taken : bool Tensor of shape (n, p)
        Which places of `near` hold a positive.
    different : bool Tensor of shape (n, m)
        Which of the distances are those of negatives; each row has both.
    margin, scale : float
        The relaxation m and the scale gamma.

    Returns
    -------
    Tensor of shape (n,)
        Losses.
    """
    far, close = near.detach() + margin, 1 + margin - distance.detach()
    pull = far.clamp_(0, _LARGEST).mul_(scale) * (near - margin)
    push = close.clamp_(0, _LARGEST).mul_(scale) * (1 - margin - distance)
    return F.softplus(log_sum_exp(pull, taken) + log_sum_exp(push, different))


class CircleLoss(RowLoss):
    r"""Circle loss: each pair pulled or pushed the harder, the farther it is from its optimum.

    .. math:: L = \operatorname{mean}_i \; \log \Bigl(1 +
        \sum_p e^{\gamma [d_{ip} + m]_+ (d_{ip} - m)} \;
        \sum_n e^{\gamma [1 + m - d_{in}]_+ (1 - m - d_{in})} \Bigr)

    The factors :math:`[\cdot]_+` are weights, constants to the gradient, as in the paper. The
    mean is over the anchors with a positive and a negative. By cosine distance, d = 1 - s, this is
    the loss of the paper.

    Parameters
    ----------
    margin : float, default=0.4
        The relaxation m; > 0 and < 1. Positives should lie within m, negatives beyond 1 - m.
    scale : float, default=80.0
        The scale gamma; > 0.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="cosine"
        Distance between embeddings.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the embeddings that are anchors with a loss > 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range; the message says which values are allowed.

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

    def __init__(self, margin=0.4, scale=80.0, *, distance="cosine"):
        super().__init__(distance)
        self.margin = check_positive("margin", margin, below=1)
        self.scale = check_positive("scale", scale)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"margin={self.margin:g}, scale={self.scale:g}, distance={self.distance!r}"

    def rows(self, near, distance, taken, different):
        """Losses of some anchors, of shape (rows,)."""
        return circle(near, distance, taken, different, self.margin, self.scale)
