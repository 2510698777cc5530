"""NCA: neighbourhood components analysis as a loss of a batch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from skdml.deep.losses._exponentials import exponentials
from skdml.deep.losses._softmax import SoftmaxLoss


@torch.no_grad()
def nca(
    pos_distance: Tensor, distance: Tensor, pos_mask: Tensor, neg_mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Negative log probability that a neighbour of each row, drawn by softmax, is a positive.

    .. math:: -\log \frac{\sum_{p \in P(i)} e^{s_{ip}}}{\sum_{a \ne i} e^{s_{ia}}}
        = \operatorname{softplus} \Bigl( \log \sum_n e^{s_{in}} - \log \sum_p e^{s_{ip}} \Bigr),
        \quad s_{ij} = -d_{ij} / \tau

    Parameters
    ----------
    pos_distance, distance, pos_mask, neg_mask, temperature
        As in `nt_xent`. A row may have no negative.

    Returns
    -------
    losses : Tensor of shape (n,)
        The negative logarithms.
    pos_gradient, gradient : Tensors of shape (n, p) and (n, m)
        Gradients with respect to `pos_distance` and `distance`.
    """
    pos_gradient, pos_scale, pos_log_sum = exponentials(pos_distance, pos_mask, -1 / temperature)
    gradient, neg_scale, neg_log_sum = exponentials(distance, neg_mask, -1 / temperature)
    gap = neg_log_sum - pos_log_sum
    odds = gap.sigmoid()
    pos_gradient.mul_((pos_scale * -odds)[:, None])
    return F.softplus(gap), pos_gradient, gradient.mul_((neg_scale * odds)[:, None])


class NCALoss(SoftmaxLoss):
    r"""Neighbourhood components analysis: a neighbour drawn by softmax is of the same class.

    .. math:: L = \operatorname{mean}_i \; -\log
        \frac{\sum_{p \in P(i)} e^{-d_{ip} / \tau}}{\sum_{a \ne i} e^{-d_{ia} / \tau}}

    The mean is over the anchors with a positive.

    Unlike the paper, which sums over all training points, the loss is the mean over a batch, and a
    neighbour is drawn from the batch.

    Parameters
    ----------
    temperature : float, default=1.0
        The temperature tau, > 0.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance between embeddings; default="sqeuclidean", the distance of the paper.

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
    Goldberger, Roweis, Hinton, Salakhutdinov: Neighbourhood Components Analysis, NIPS 2004,
    section 2: the objective with the logarithm.

    Examples
    --------
    >>> import torch
    >>> loss = NCALoss()(torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # log(1 + exp(-1))
    0.3133
    """

    needs_negatives = False

    def __init__(self, temperature: float = 1.0, *, distance: str = "sqeuclidean") -> None:
        super().__init__(temperature, distance)

    def anchor_losses(
        self, pos_distance: Tensor, distance: Tensor, pos_mask: Tensor, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the losses of a block of anchors, and their gradients."""
        return nca(pos_distance, distance, pos_mask, neg_mask, self.temperature)
