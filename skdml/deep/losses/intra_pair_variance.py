"""Intra-pair variance: a regulariser of the spread of distances around their means."""

import torch
from torch import Tensor

from skdml.deep._distances import attach_gradient
from skdml.deep._pairs import Positives, as_number
from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._limits import MAX_SQUARABLE
from skdml.deep.losses._matrix import MatrixLoss


def variance_excess(
    distance: Tensor, mask: Tensor, share: float, far: bool
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Mean squared excess of distances over a share of their mean, and its gradient.

    .. math:: \operatorname{mean} \, [\pm (d_{ij} - s \mu)]_+^2, \quad
        \mu = \operatorname{mean} \, d_{ij}

    Parameters
    ----------
    distance : Tensor of shape (n, m)
        Distances.
    mask : Tensor of shape (n, m)
        1 for the pairs, 0 otherwise.
    share : float
        The share s.
    far : bool
        If True, distances above s mu have an excess. If False, distances below it have one.

    Returns
    -------
    value : Tensor of shape ()
        The mean.
    gradient : Tensor of shape (n, m)
        Its gradient.
    row_excess : Tensor of shape (n,)
        Sum of the excess over each row.
    """
    weight = 1 / mask.sum().clamp(min=1)
    # Weight the distances before the sum, because a sum of huge distances may overflow.
    mean = torch.linalg.vecdot(distance * weight, mask).sum()
    sign = 1 if far else -1
    excess = (distance - share * mean).mul_(sign).clamp_(0, MAX_SQUARABLE).mul_(mask)
    row_excess = excess.sum(1)
    value = weight * torch.linalg.vecdot(excess, excess).sum()
    # Clipped entries have no gradient.
    gradient = torch.lt(excess, MAX_SQUARABLE, out=torch.empty_like(excess))
    gradient.mul_(excess).mul_(2 * sign * weight)
    # The mean depends on every pair.
    gradient = gradient.addcmul_(mask, share * weight * gradient.sum(), value=-1)
    return value, gradient, row_excess


class IntraPairVarianceLoss(MatrixLoss):
    r"""Intra-pair variance: positives not much farther, negatives not much nearer than average.

    .. math:: L = \operatorname{mean}_{P} [d_{ij} - (1 + \epsilon_p) \mu_P]_+^2 +
        \operatorname{mean}_{N} [(1 - \epsilon_n) \mu_N - d_{ij}]_+^2

    mu are the mean distances of all positive pairs and of all negative pairs. The loss does not
    constrain the means themselves. Add it to a loss that does.

    Unlike the paper, which takes cosines, the loss takes distances.

    Parameters
    ----------
    pos_eps, neg_eps : float, default=0.01
        Deviation that costs nothing, as a share of the mean, >= 0 and < 1.
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
    Yu, Tao: Deep Metric Learning with Tuplet Margin Loss, ICCV 2019 (intra-pair variance).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [10.0], [13.0]])
    >>> loss = IntraPairVarianceLoss(0.0, 0.5, distance="euclidean")
    >>> loss(x, torch.tensor([0, 0, 1, 1])).item()  # distances 1 and 3, with mean 2
    0.5
    """

    needs_positives = needs_negatives = False

    def __init__(
        self, pos_eps: float = 0.01, neg_eps: float = 0.01, *, distance: str = "cosine"
    ) -> None:
        super().__init__(distance)
        self.pos_eps = check_positive("pos_eps", pos_eps, zero=True, below=1)
        self.neg_eps = check_positive("neg_eps", neg_eps, zero=True, below=1)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"pos_eps={self.pos_eps:g}, neg_eps={self.neg_eps:g}, distance={self.distance!r}"

    def compute(
        self, distance: Tensor, positives: Positives, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the sum of the two means, and count the anchors with a loss > 0."""
        with torch.no_grad():
            pos_distance = distance.gather(1, positives.index)
            pos, neg = (as_number(m, distance.dtype) for m in (positives.valid, neg_mask))
            pos_value, pos_gradient, pos_excess = variance_excess(
                pos_distance, pos, 1 + self.pos_eps, far=True
            )
            neg_value, gradient, neg_excess = variance_excess(
                distance, neg, 1 - self.neg_eps, far=False
            )
            gradient.scatter_add_(1, positives.index, pos_gradient)
            active = pos_excess + neg_excess > 0
        return attach_gradient(pos_value + neg_value, distance, gradient), active.sum()
