"""Smooth-AP: average precision with a sigmoid in place of each comparison."""

import torch
from torch import Tensor

from skdml.deep._pairs import Positives, as_number
from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._limits import MASKED_LOGIT, MAX_EXPONENT, MAX_LOGIT
from skdml.deep.losses._matrix import RowLoss


def smooth_ap(
    pos_distance: Tensor, distance: Tensor, pos_mask: Tensor, neg_mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    r"""One minus the average precision of each row, from ranks smoothed by a sigmoid.

    .. math:: 1 - \frac{1}{|P|} \sum_{p \in P} \frac{r_p}{r_p + c_p}, \quad
        r_p = 1 + \sum_{j \in P, j \ne p} \sigma((d_p - d_j) / \tau), \quad
        c_p = \sum_{n \in N} \sigma((d_p - d_n) / \tau)

    Memory is that of n p m numbers.

    Parameters
    ----------
    pos_distance : Tensor of shape (n, p)
        Distances of the positives.
    distance : Tensor of shape (n, m)
        All distances.
    pos_mask : bool Tensor of shape (n, p)
        Which entries of `pos_distance` are positives. Each row has a positive.
    neg_mask : bool Tensor of shape (n, m)
        Which entries of `distance` belong to negatives.
    temperature : float
        The temperature tau.

    Returns
    -------
    losses : Tensor of shape (n,)
        Losses in [0, 1).
    pos_gradient, gradient : Tensors of shape (n, p) and (n, m)
        Gradients with respect to `pos_distance` and `distance`.
    """
    scaled = (pos_distance / temperature).clamp_(max=MAX_LOGIT)
    pos_steps = smooth_steps(scaled, pos_distance, pos_mask, temperature)
    neg_steps = smooth_steps(scaled, distance, neg_mask, temperature)
    # The sigmoid of a positive's own distance is 0.5, and its rank among positives starts at 1.
    rank, count = pos_steps.sum(2) + 0.5, neg_steps.sum(2)
    share = as_number(pos_mask, pos_distance.dtype) / pos_mask.sum(1, keepdim=True)
    precision = rank / (rank + count)
    losses = 1 - torch.linalg.vecdot(share, precision)
    # Gradients with respect to the sums, then with respect to the arguments of the sigmoids.
    weight = share / (temperature * (rank + count))
    count_gradient, rank_gradient = weight * precision, weight * (precision - 1)
    for sigmoid in (neg_steps, pos_steps):
        sigmoid.addcmul_(sigmoid, sigmoid, value=-1)  # s (1 - s)
    pos_steps.mul_(rank_gradient[:, :, None])
    pos_gradient = count_gradient * neg_steps.sum(2) + pos_steps.sum(2) - pos_steps.sum(1)
    gradient = (-count_gradient[:, None, :] @ neg_steps)[:, 0]
    return losses, pos_gradient, gradient


def smooth_steps(scaled: Tensor, distance: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Sigmoids of the scaled distances of positives minus others, of shape (n, p, m)."""
    others = (distance / temperature).clamp_(max=MAX_LOGIT)
    others.add_(as_number(~mask, others.dtype), alpha=MASKED_LOGIT)
    gap = scaled[:, :, None] - others[:, None, :]
    return gap.clamp_(-MAX_EXPONENT, MAX_EXPONENT).sigmoid_()


class SmoothAPLoss(RowLoss):
    r"""Smooth-AP: one minus average precision, with a sigmoid in place of each comparison.

    .. math:: L = \operatorname{mean}_i \Bigl( 1 - \frac{1}{|P(i)|} \sum_{p \in P(i)}
        \frac{1 + \sum_{j \in P(i), j \ne p} \sigma((d_{ip} - d_{ij}) / \tau)}
        {1 + \sum_{j \in P(i) \cup N(i), j \ne p} \sigma((d_{ip} - d_{ij}) / \tau)} \Bigr)

    The mean is over the anchors with a positive and a negative. Classes may be of any size and in
    any order. Compact, well separated classes have a loss of zero. Memory is O(B^2) for a batch of
    B points. Time is O(B^2) times the size of the largest class.

    Parameters
    ----------
    temperature : float, default=0.01
        The temperature tau, > 0. With smaller values, the ranks are closer to the true ranks, but
        fewer pairs have a gradient.
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
    Brown, Xie, Kalogeiton, Zisserman: Smooth-AP: Smoothing the Path Towards Large-Scale Image
    Retrieval, ECCV 2020.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> loss = SmoothAPLoss()
    >>> loss(x, torch.tensor([0, 0, 1, 1])).item()
    0.0
    >>> round(loss(x, torch.tensor([0, 1, 0, 1])).item(), 4)  # 1 - 1 / (1 + 1 + 0.5)
    0.6
    """

    def __init__(self, temperature: float = 0.01, *, distance: str = "cosine") -> None:
        super().__init__(distance)
        self.temperature = check_positive("temperature", temperature)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"temperature={self.temperature:g}, distance={self.distance!r}"

    @torch.no_grad()
    def anchor_losses(
        self, pos_distance: Tensor, distance: Tensor, pos_mask: Tensor, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the losses of a block of anchors, and their gradients."""
        return smooth_ap(pos_distance, distance, pos_mask, neg_mask, self.temperature)

    def work_per_distance(self, positives: Positives) -> int:
        """Count the positives, each of which is compared with all distances."""
        return max(1, positives.valid.shape[1])
