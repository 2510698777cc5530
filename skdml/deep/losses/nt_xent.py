"""Normalised temperature-scaled cross entropy over positive pairs."""

import torch
from torch.nn import functional as F

from skdml.deep.losses._exponentials import exponentials, logits
from skdml.deep.losses._softmax import _SoftmaxLoss, slope_of_logits
from skdml.deep.miners import as_number


@torch.no_grad()
def nt_xent(near, distance, taken, different, temperature):
    r"""Sum over the positives of each row of the cross-entropy against all negatives.

    .. math:: \sum_{p} -\log \frac{e^{s_{ip}}}{e^{s_{ip}} + \sum_{n} e^{s_{in}}}
        = \sum_{p} \operatorname{softplus}\Bigl(\log \sum_{n} e^{s_{in}} - s_{ip}\Bigr), \quad
        s_{ij} = -d_{ij} / \tau

    Parameters
    ----------
    near : Tensor of shape (n, p)
        Distances of the positives.
    distance : Tensor of shape (n, m)
        All distances.
    taken : bool Tensor of shape (n, p)
        Which places of `near` hold a positive.
    different : bool Tensor of shape (n, m)
        Which of the distances are those of negatives; each row has both kinds.
    temperature : float
        The temperature tau.

    Returns
    -------
    losses : Tensor of shape (n,)
        The sums.
    of_near, of_distance : Tensors of shape (n, p) and (n, m)
        Their gradient.
    """
    share, scale, negatives = exponentials(distance, different, -1 / temperature)
    logit, taken = logits(near, temperature), as_number(taken, near.dtype)
    gap = negatives[:, None] - logit
    odds = gap.sigmoid().mul_(taken)
    losses = torch.linalg.vecdot(F.softplus(gap), taken)
    of_distance = share.mul_((odds.sum(1) * scale)[:, None])
    return losses, odds.mul_(slope_of_logits(logit, -temperature)), of_distance


class NTXentLoss(_SoftmaxLoss):
    r"""Normalised temperature-scaled cross-entropy: each positive against all negatives.

    .. math:: L = \frac{1}{|P|} \sum_{(i, p) \in P} -\log
        \frac{e^{-d_{ip} / \tau}}{e^{-d_{ip} / \tau} + \sum_{n: y_n \ne y_i} e^{-d_{in} / \tau}}

    P are the positive pairs whose anchor has a negative. By cosine distance this is the loss of
    the paper, because 1 - d is the cosine. Other positives of the anchor are in no denominator.
    Time and memory are O(B^2).

    Parameters
    ----------
    temperature : float, default=0.07
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

    See Also
    --------
    SupConLoss : Other positives are in the denominator too.

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

    def __init__(self, temperature=0.07, *, distance="cosine"):
        super().__init__(temperature, distance)

    def rows(self, near, distance, taken, different):
        """Losses of some anchors, and their slopes."""
        return nt_xent(near, distance, taken, different, self.temperature)

    def count(self, positives):
        """Divide the sum by the number of positive pairs."""
        return int(positives.count.sum())
