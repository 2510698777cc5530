"""SupCon: the supervised contrastive loss."""

import torch
from torch import Tensor

from skdml.deep._pairs import as_number
from skdml.deep.losses._exponentials import exponentials, logit_gradient, logits
from skdml.deep.losses._softmax import SoftmaxLoss


@torch.no_grad()
def sup_con(
    pos_distance: Tensor, distance: Tensor, pos_mask: Tensor, neg_mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Cross entropy of each positive against all others, averaged over the positives of a row.

    .. math:: \frac{1}{|P(i)|} \sum_{p \in P(i)}
        -\log \frac{e^{s_{ip}}}{\sum_{a \ne i} e^{s_{ia}}}, \quad s_{ij} = -d_{ij} / \tau

    Parameters
    ----------
    pos_distance, distance, pos_mask, neg_mask, temperature
        As in `nt_xent`. A row may have no negative.

    Returns
    -------
    losses : Tensor of shape (n,)
        The means.
    pos_gradient, gradient : Tensors of shape (n, p) and (n, m)
        Gradients with respect to `pos_distance` and `distance`.
    """
    pos_gradient, pos_scale, pos_log_sum = exponentials(pos_distance, pos_mask, -1 / temperature)
    gradient, neg_scale, neg_log_sum = exponentials(distance, neg_mask, -1 / temperature)
    log_sum = torch.logaddexp(pos_log_sum, neg_log_sum)
    logit, weight = logits(pos_distance, temperature), as_number(pos_mask, pos_distance.dtype)
    weight /= weight.sum(1, keepdim=True)
    losses = log_sum - torch.linalg.vecdot(logit, weight)
    pos_gradient.mul_((pos_scale * (pos_log_sum - log_sum).exp_())[:, None])
    pos_gradient.sub_(weight.mul_(logit_gradient(logit, temperature)))
    gradient.mul_((neg_scale * (neg_log_sum - log_sum).exp_())[:, None])
    return losses, pos_gradient, gradient


class SupConLoss(SoftmaxLoss):
    r"""Supervised contrastive loss: the positives of an anchor against all other points.

    .. math:: L = \operatorname{mean}_i \; \frac{1}{|P(i)|} \sum_{p \in P(i)} -\log
        \frac{e^{-d_{ip} / \tau}}{\sum_{a \ne i} e^{-d_{ia} / \tau}}

    The mean is over the anchors with a positive. With the cosine distance, 1 - d is the cosine.

    Unlike the paper, which sums over the anchors, the loss is their mean.

    Parameters
    ----------
    temperature : float, default=0.1
        The temperature tau, > 0.
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
    Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan: Supervised Contrastive
    Learning, NeurIPS 2020, eq. 2 ("out").

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> loss = SupConLoss(temperature=1.0)(x, torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # log(1 + exp(-1))
    0.3133
    """

    needs_negatives = False

    def __init__(self, temperature: float = 0.1, *, distance: str = "cosine") -> None:
        super().__init__(temperature, distance)

    def anchor_losses(
        self, pos_distance: Tensor, distance: Tensor, pos_mask: Tensor, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the losses of a block of anchors, and their gradients."""
        return sup_con(pos_distance, distance, pos_mask, neg_mask, self.temperature)
