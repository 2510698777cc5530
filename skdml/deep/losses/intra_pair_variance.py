"""Losses over pairs that weigh the pairs of an anchor, or of the batch, against each other."""

import torch

from skdml.deep.losses._base import _Weighted
from skdml.deep.losses._batch import MatrixLoss
from skdml.deep.losses._checks import check_positive
from skdml.deep.miners import as_number

_LARGEST = 1e15  # squares of larger terms, and their gradients, would overflow


def variance_excess(distance, mask, share, far):
    r"""Mean square of how far pairs lie beyond a share of their mean, and its gradient.

    .. math:: \operatorname{mean} \, [\pm (d_{ij} - s \mu)]_+^2, \quad
        \mu = \operatorname{mean} \, d_{ij}

    Parameters
    ----------
    distance : Tensor of shape (n, m)
        Distances.
    mask : Tensor of shape (n, m)
        1 for the pairs, else 0.
    share : float
        The share s.
    far : bool
        Whether pairs farther than that count, or nearer ones.

    Returns
    -------
    value : Tensor of shape ()
        The mean.
    slope : Tensor of shape (n, m)
        Its gradient.
    excess : Tensor of shape (n,)
        Sum over each row of the excess.
    """
    weight = 1 / mask.sum().clamp(min=1)
    # Weighted before they are summed, because a sum of huge distances may overflow.
    mean = torch.linalg.vecdot(distance * weight, mask).sum()
    sign = 1 if far else -1
    excess = (distance - share * mean).mul_(sign).clamp_(0, _LARGEST).mul_(mask)
    rows = excess.sum(1)
    value = weight * torch.linalg.vecdot(excess, excess).sum()
    slope = torch.lt(excess, _LARGEST, out=torch.empty_like(excess))  # what is cut has none
    slope.mul_(excess).mul_(2 * sign * weight)
    # The mean moves with every pair.
    return value, slope.addcmul_(mask, share * weight * slope.sum(), value=-1), rows


class IntraPairVarianceLoss(MatrixLoss):
    r"""Intra-pair variance: no positive much farther, no negative much nearer than their means.

    .. math:: L = \operatorname{mean}_{P} [d_{ij} - (1 + \epsilon_p) \mu_P]_+^2 +
        \operatorname{mean}_{N} [(1 - \epsilon_n) \mu_N - d_{ij}]_+^2

    with the means mu of the distances of all positive and of all negative pairs. It says nothing
    about the means themselves and is meant to be added to a loss that does. The paper says the
    same of cosines.

    Parameters
    ----------
    pos_eps, neg_eps : float, default=0.01
        Deviations that are free, as a share of the mean; >= 0 and < 1.
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
    Yu, Tao: Deep Metric Learning with Tuplet Margin Loss, ICCV 2019 (intra-pair variance).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [10.0], [13.0]])
    >>> loss = IntraPairVarianceLoss(0.0, 0.5, distance="euclidean")
    >>> loss(x, torch.tensor([0, 0, 1, 1])).item()  # distances 1 and 3, of mean 2
    0.5
    """

    needs_same = needs_different = False

    def __init__(self, pos_eps=0.01, neg_eps=0.01, *, distance="cosine"):
        super().__init__(distance)
        self.pos_eps = check_positive("pos_eps", pos_eps, zero=True, below=1)
        self.neg_eps = check_positive("neg_eps", neg_eps, zero=True, below=1)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"pos_eps={self.pos_eps:g}, neg_eps={self.neg_eps:g}, distance={self.distance!r}"

    def compute(self, distance, positives, different):
        """Sum of the two means, and the number of anchors with a loss."""
        with torch.no_grad():
            near = distance.gather(1, positives.index)
            kept, lost = (as_number(m, distance.dtype) for m in (positives.taken, different))
            far = variance_excess(near, kept, 1 + self.pos_eps, far=True)
            close = variance_excess(distance, lost, 1 - self.neg_eps, far=False)
            weights = close[1].scatter_add_(1, positives.index, far[1])
            active = far[2] + close[2] > 0
        return _Weighted.apply(distance, weights, far[0] + close[0]), active.sum()
