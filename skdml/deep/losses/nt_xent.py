"""NT-Xent: cross entropy over positive pairs, with a temperature."""

import torch
from torch import Tensor
from torch.nn import functional as F

from skdml.deep._pairs import Positives, as_number
from skdml.deep.losses._exponentials import exponentials, logit_gradient, logits
from skdml.deep.losses._softmax import SoftmaxLoss


@torch.no_grad()
def nt_xent(
    pos_distance: Tensor, distance: Tensor, pos_mask: Tensor, neg_mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Cross entropy of each positive against all negatives, summed over the positives of a row.

    .. math:: \sum_{p} -\log \frac{e^{s_{ip}}}{e^{s_{ip}} + \sum_{n} e^{s_{in}}}
        = \sum_{p} \operatorname{softplus}\Bigl(\log \sum_{n} e^{s_{in}} - s_{ip}\Bigr), \quad
        s_{ij} = -d_{ij} / \tau

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
    temperature : float
        The temperature tau.

    Returns
    -------
    losses : Tensor of shape (n,)
        The sums.
    pos_gradient, gradient : Tensors of shape (n, p) and (n, m)
        Gradients with respect to `pos_distance` and `distance`.
    """
    exps, scale, neg_log_sum = exponentials(distance, neg_mask, -1 / temperature)
    logit, weight = logits(pos_distance, temperature), as_number(pos_mask, pos_distance.dtype)
    gap = neg_log_sum[:, None] - logit
    odds = gap.sigmoid().mul_(weight)
    losses = torch.linalg.vecdot(F.softplus(gap), weight)
    gradient = exps.mul_((odds.sum(1) * scale)[:, None])
    return losses, odds.mul_(logit_gradient(logit, -temperature)), gradient


class NTXentLoss(SoftmaxLoss):
    r"""NT-Xent, normalised temperature-scaled cross entropy: each positive against all negatives.

    .. math:: L = \frac{1}{|P|} \sum_{(i, p) \in P} -\log
        \frac{e^{-d_{ip} / \tau}}{e^{-d_{ip} / \tau} + \sum_{n: y_n \ne y_i} e^{-d_{in} / \tau}}

    P are the positive pairs whose anchor has a negative. The other positives of the anchor are not
    in the denominator. Time and memory are O(B^2) for a batch of B points.

    With the cosine distance, 1 - d is the cosine. Unlike the paper by Chen et al., an anchor may
    have several positives; with two views of each point, the loss is that of the paper.

    Parameters
    ----------
    temperature : float, default=0.07
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

    See Also
    --------
    SupConLoss : The other positives are in the denominator as well.

    References
    ----------
    Sohn: Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NIPS 2016.
    Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual
    Representations, ICML 2020, eq. 1.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> loss = NTXentLoss(temperature=1.0)(x, torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # log(1 + exp(-1))
    0.3133
    """

    def __init__(self, temperature: float = 0.07, *, distance: str = "cosine") -> None:
        super().__init__(temperature, distance)

    def anchor_losses(
        self, pos_distance: Tensor, distance: Tensor, pos_mask: Tensor, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the losses of a block of anchors, and their gradients."""
        return nt_xent(pos_distance, distance, pos_mask, neg_mask, self.temperature)

    def divisor(self, positives: Positives) -> int:
        """Return the number of positive pairs."""
        return int(positives.count.sum())
