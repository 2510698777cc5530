"""Neighbourhood components analysis as a loss of a batch."""

import torch
from torch.nn import functional as F

from skdml.deep.losses._exponentials import exponentials
from skdml.deep.losses._softmax import _SoftmaxLoss


@torch.no_grad()
def nca(near, distance, taken, different, temperature):
    r"""Negative log probability that a neighbour of each row, drawn by softmax, is a positive.

    .. math:: -\log \frac{\sum_{p \in P(i)} e^{s_{ip}}}{\sum_{a \ne i} e^{s_{ia}}}
        = \operatorname{softplus} \Bigl( \log \sum_n e^{s_{in}} - \log \sum_p e^{s_{ip}} \Bigr),
        \quad s_{ij} = -d_{ij} / \tau

    Parameters
    ----------
    near, distance, taken, different, temperature
        As in `nt_xent`; a row may have no negative.

    Returns
    -------
    losses : Tensor of shape (n,)
        The negative logarithms.
    of_near, of_distance : Tensors of shape (n, p) and (n, m)
        Their gradient.
    """
    of_near, near_scale, positives = exponentials(near, taken, -1 / temperature)
    of_distance, scale, negatives = exponentials(distance, different, -1 / temperature)
    gap = negatives - positives
    odds = gap.sigmoid()
    of_near.mul_((near_scale * -odds)[:, None])
    return F.softplus(gap), of_near, of_distance.mul_((scale * odds)[:, None])


class NCALoss(_SoftmaxLoss):
    r"""Neighbourhood component analysis: a neighbour drawn by softmax is of the same class.

    .. math:: L = \operatorname{mean}_i \; -\log
        \frac{\sum_{p \in P(i)} e^{-d_{ip} / \tau}}{\sum_{a \ne i} e^{-d_{ia} / \tau}}

    The mean is over the anchors with a positive.

    Parameters
    ----------
    temperature : float, default=1.0
        The temperature tau; > 0.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance between embeddings; default "sqeuclidean", that of the paper.

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
    Goldberger, Roweis, Hinton, Salakhutdinov: Neighbourhood Components Analysis, NIPS 2004,
    section 2: the objective with the logarithm.

    Examples
    --------
    >>> import torch
    >>> loss = NCALoss()(torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # log(1 + exp(-1))
    0.3133
    """

    needs_different = False

    def __init__(self, temperature=1.0, *, distance="sqeuclidean"):
        super().__init__(temperature, distance)

    def rows(self, near, distance, taken, different):
        """Losses of some anchors, and their slopes."""
        return nca(near, distance, taken, different, self.temperature)
