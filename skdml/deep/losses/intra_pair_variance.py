"""Intra-pair variance: a regulariser of the spread of cosines around their means."""

import torch
from torch import Tensor

from skdml.deep._distances import attach_gradient, directions, full_precision
from skdml.deep._pairs import Positives, as_number
from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._matrix import MatrixLoss


def variance_excess(
    cosine: Tensor, mask: Tensor, share: float, below: bool
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Mean squared excess of cosines over a share of their mean, and its gradient.

    .. math:: \operatorname{mean} \, [\pm (s_{ij} - c \mu)]_+^2, \quad
        \mu = \operatorname{mean} \, s_{ij}

    Parameters
    ----------
    cosine : Tensor of shape (n, m)
        Cosines s.
    mask : Tensor of shape (n, m)
        1 for the pairs, 0 otherwise.
    share : float
        The share c.
    below : bool
        If True, cosines below c mu have an excess. If False, cosines above it have one.

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
    mean = weight * torch.linalg.vecdot(cosine, mask).sum()
    sign = -1 if below else 1
    excess = (cosine - share * mean).mul_(sign).clamp_(min=0).mul_(mask)
    row_excess = excess.sum(1)
    value = weight * torch.linalg.vecdot(excess, excess).sum()
    gradient = excess.mul_(2 * sign * weight)
    # The mean depends on every pair.
    gradient = gradient.addcmul_(mask, share * weight * gradient.sum(), value=-1)
    return value, gradient, row_excess


class IntraPairVarianceLoss(MatrixLoss):
    r"""Intra-pair variance: positives not much farther, negatives not much nearer than average.

    .. math:: L = \operatorname{mean}_{P} [(1 - \epsilon_p) \mu_P - s_{ij}]_+^2 +
        \operatorname{mean}_{N} [s_{ij} - (1 + \epsilon_n) \mu_N]_+^2

    s are the cosines of the embeddings. mu are the mean cosines of all positive pairs and of all
    negative pairs. The loss does not constrain the means themselves. Add it to a loss that does.

    Parameters
    ----------
    pos_eps, neg_eps : float, default=0.01
        Deviation that costs nothing, as a share of the mean, >= 0 and < 1.

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
    Yu, Tao: Deep Metric Learning with Tuplet Margin Loss, ICCV 2019, the intra-pair variance loss
    of section 3.3.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    >>> loss = IntraPairVarianceLoss(0.0, 0.0)
    >>> # The positives have cosines 1.0 and 0.8, and the negatives 0.0 and 0.6, twice each.
    >>> round(loss(x, torch.tensor([0, 0, 1, 1])).item(), 4)  # (0.1^2 + 0.3^2) / 2
    0.05
    """

    needs_positives = needs_negatives = False

    def __init__(self, pos_eps: float = 0.01, neg_eps: float = 0.01) -> None:
        super().__init__("cosine")
        self.pos_eps = check_positive("pos_eps", pos_eps, zero=True, below=1)
        self.neg_eps = check_positive("neg_eps", neg_eps, zero=True, below=1)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"pos_eps={self.pos_eps:g}, neg_eps={self.neg_eps:g}"

    def measure(self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None) -> Tensor:
        """Compute the cosines."""
        given = [embeddings] if ref_emb is None else [embeddings, ref_emb]
        unit = [directions(x) for x in full_precision(*given)]
        return unit[0] @ unit[-1].T

    def compute(
        self, distance: Tensor, positives: Positives, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the sum of the two means, and count the anchors with a loss > 0.

        `distance` holds the cosines of :meth:`measure`.
        """
        with torch.no_grad():
            pos_cosine = distance.gather(1, positives.index)
            pos, neg = (as_number(m, distance.dtype) for m in (positives.valid, neg_mask))
            pos_value, pos_gradient, pos_excess = variance_excess(
                pos_cosine, pos, 1 - self.pos_eps, below=True
            )
            neg_value, gradient, neg_excess = variance_excess(
                distance, neg, 1 + self.neg_eps, below=False
            )
            gradient.scatter_add_(1, positives.index, pos_gradient)
            active = pos_excess + neg_excess > 0
        return attach_gradient(pos_value + neg_value, distance, gradient), active.sum()
