"""Supervised contrastive loss."""

import torch

from skdml.deep.losses._exponentials import exponentials, logits
from skdml.deep.losses._softmax import _SoftmaxLoss, slope_of_logits
from skdml.deep.miners import as_number


@torch.no_grad()
def sup_con(near, distance, taken, different, temperature):
    r"""Mean over the positives of each row of the cross-entropy against all others.

    .. math:: \frac{1}{|P(i)|} \sum_{p \in P(i)}
        -\log \frac{e^{s_{ip}}}{\sum_{a \ne i} e^{s_{ia}}}, \quad s_{ij} = -d_{ij} / \tau

    Parameters
    ----------
    near, distance, taken, different, temperature
        As in `nt_xent`; a row may have no negative.

    Returns
    -------
    losses : Tensor of shape (n,)
        The means.
    of_near, of_distance : Tensors of shape (n, p) and (n, m)
        Their gradient.
    """
    of_near, near_scale, positives = exponentials(near, taken, -1 / temperature)
    of_distance, scale, negatives = exponentials(distance, different, -1 / temperature)
    total = torch.logaddexp(positives, negatives)
    logit, weight = logits(near, temperature), as_number(taken, near.dtype)
    weight /= weight.sum(1, keepdim=True)
    losses = total - torch.linalg.vecdot(logit, weight)
    of_near.mul_((near_scale * (positives - total).exp_())[:, None])
    of_near.sub_(weight.mul_(slope_of_logits(logit, temperature)))
    return losses, of_near, of_distance.mul_((scale * (negatives - total).exp_())[:, None])


class SupConLoss(_SoftmaxLoss):
    r"""Supervised contrastive loss: the positives of an anchor against all other points.

    .. math:: L = \operatorname{mean}_i \; \frac{1}{|P(i)|} \sum_{p \in P(i)} -\log
        \frac{e^{-d_{ip} / \tau}}{\sum_{a \ne i} e^{-d_{ia} / \tau}}

    The mean is over the anchors with a positive. By cosine distance this is the loss of the paper.

    Parameters
    ----------
    temperature : float, default=0.1
        The temperature tau; > 0.
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

    needs_different = False

    def __init__(self, temperature=0.1, *, distance="cosine"):
        super().__init__(temperature, distance)

    def rows(self, near, distance, taken, different):
        """Losses of some anchors, and their slopes."""
        return sup_con(near, distance, taken, different, self.temperature)
