"""Smooth-AP: average precision with a sigmoid in place of each step."""

import torch

from skdml.deep.losses._batch import RowLoss
from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._exponentials import _BEYOND, _FARTHEST, _NOTHING
from skdml.deep.miners import as_number


def smooth_ap(near, distance, taken, different, temperature):
    r"""One minus the average precision of each row, of ranks made smooth by a sigmoid.

    .. math:: 1 - \frac{1}{|P|} \sum_{p \in P} \frac{r_p}{r_p + c_p}, \quad
        r_p = 1 + \sum_{j \in P, j \ne p} \sigma((d_p - d_j) / \tau), \quad
        c_p = \sum_{n \in N} \sigma((d_p - d_n) / \tau)

    Parameters
    ----------
    near : Tensor of shape (n, p)
        Distances of the positives.
    distance : Tensor of shape (n, m)
        All distances.
    taken : bool Tensor of shape (n, p)
        Which places of `near` hold a positive; each row has one.
    different : bool Tensor of shape (n, m)
        Which of the distances are those of negatives.
    temperature : float
        The temperature tau.

    Returns
    -------
    losses : Tensor of shape (n,)
        Losses in [0, 1); the memory is that of n p m numbers.
    of_near : Tensor of shape (n, p)
        Their gradient by `near`.
    of_distance : Tensor of shape (n, m)
        Their gradient by `distance`.
    """
    limit = (near / temperature).clamp_(max=_FARTHEST)
    among = smooth_steps(limit, near, taken, temperature)
    before = smooth_steps(limit, distance, different, temperature)
    # A positive is half before itself, by the sigmoid, and first is 1.
    rank, count = among.sum(2) + 0.5, before.sum(2)
    share = as_number(taken, near.dtype) / taken.sum(1, keepdim=True)
    precision = rank / (rank + count)
    losses = 1 - torch.linalg.vecdot(share, precision)
    # Their slopes: first by the sums, then by what is in the sigmoids.
    weight = share / (temperature * (rank + count))
    by_count, by_rank = weight * precision, weight * (precision - 1)
    for sigmoid in (before, among):
        sigmoid.addcmul_(sigmoid, sigmoid, value=-1)  # s (1 - s)
    among.mul_(by_rank[:, :, None])
    of_near = by_count * before.sum(2) + among.sum(2) - among.sum(1)
    of_distance = (-by_count[:, None, :] @ before)[:, 0]
    return losses, of_near, of_distance


def smooth_steps(limit, distance, mask, temperature):
    """Sigmoids of limits less masked distances over the temperature, of shape (n, p, m)."""
    scaled = (distance / temperature).clamp_(max=_FARTHEST)
    scaled.add_(as_number(~mask, scaled.dtype), alpha=_BEYOND)
    return (limit[:, :, None] - scaled[:, None, :]).clamp_(-_NOTHING, _NOTHING).sigmoid_()


class SmoothAPLoss(RowLoss):
    r"""Smooth-AP: one minus average precision, with a sigmoid in place of each comparison.

    .. math:: L = \operatorname{mean}_i \Bigl( 1 - \frac{1}{|P(i)|} \sum_{p \in P(i)}
        \frac{1 + \sum_{j \in P(i), j \ne p} \sigma((d_{ip} - d_{ij}) / \tau)}
        {1 + \sum_{j \in P(i) \cup N(i), j \ne p} \sigma((d_{ip} - d_{ij}) / \tau)} \Bigr)

    The mean is over the anchors with a positive and a negative; classes may be of any size and in
    any order. Perfect clusters, well apart, have a loss of zero. Memory is O(B^2), and the time is
    that times the size of the largest class.

    Parameters
    ----------
    temperature : float, default=0.01
        The temperature tau; > 0. The smaller, the nearer to the true ranks and the fewer pairs
        have a gradient.
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

    def __init__(self, temperature=0.01, *, distance="cosine"):
        super().__init__(distance)
        self.temperature = check_positive("temperature", temperature)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"temperature={self.temperature:g}, distance={self.distance!r}"

    @torch.no_grad()
    def rows(self, near, distance, taken, different):
        """Losses of some anchors, and their slopes."""
        return smooth_ap(near, distance, taken, different, self.temperature)

    def work(self, positives):
        """Compare each distance with those of all positives of the anchor."""
        return max(1, positives.taken.shape[1])
