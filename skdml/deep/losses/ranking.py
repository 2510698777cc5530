"""Losses on the ranking that each anchor gives: FastAP, SmoothAP and the histogram loss."""

import torch
from torch.nn import functional as F

from skdml.deep._pairwise import row_blocks
from skdml.deep.miners import as_number

from ._base import _Weighted, check_choice
from ._matrix import (
    _BEYOND,
    _FARTHEST,
    _NOTHING,
    MatrixLoss,
    RowLoss,
    check_count,
    check_positive,
)

# Distances that have a largest value, so that bins can cover them all.
_RANGE = {"cosine": 2.0, "angular": 1.0}

_COPIES = 2  # numbers worked on for each distance: nodes are numbered in twice its memory


def nodes(distance, mask, n_bins, largest):
    r"""Node below each distance, and how far beyond it the distance lies.

    Parameters
    ----------
    distance : Tensor of shape (n, m)
        Distances in [0, largest].
    mask : bool Tensor of shape (n, m)
        Which to count; the others get the node n_bins + 1, which is beyond all.
    n_bins : int
        Number of intervals between the nodes.
    largest : float
        Largest distance.

    Returns
    -------
    node : int64 Tensor of shape (n, m)
        The nodes, 0, ..., n_bins + 1.
    beyond : Tensor of shape (n, m)
        How far beyond, as a share of an interval.
    """
    beyond = distance * (n_bins / largest)
    beyond.add_(as_number(~mask, beyond.dtype), alpha=n_bins + 1)
    # NaN must not index; it is in the counts all the same.
    node = beyond.long().clamp_(0, n_bins + 1)
    return node, beyond.frac_()


def soft_histogram(node, beyond, n_bins):
    r"""Histogram of each row: each distance is shared by the two nearest of the nodes.

    .. math:: h_{ik} = \sum_j m_{ij} \max(0, 1 - |d_{ij} / \Delta - k|), \quad
        \Delta = \mathrm{largest} / \mathrm{n\_bins}

    Parameters
    ----------
    node, beyond : Tensors of shape (n, m)
        As `nodes` gives them; `beyond` is spoilt.
    n_bins : int
        Number of intervals between the nodes.

    Returns
    -------
    Tensor of shape (n, n_bins + 1)
        The counts h.
    """
    counts = beyond.new_zeros(len(node), n_bins + 3)
    counts[:, 1:].scatter_add_(1, node, beyond)
    counts.scatter_add_(1, node, beyond.neg_().add_(1))
    return counts[:, : n_bins + 1]


def histogram_slope(of_counts, node, n_bins, largest):
    """Gradient by the distances, of that by the counts of `soft_histogram`, (n, n_bins + 1)."""
    slope = F.pad(of_counts.diff(dim=1).mul_(n_bins / largest), (0, 2))
    return slope.gather(1, node)


def from_behind(x):
    """Sum of each entry and all that follow it in its row."""
    return x.flip(1).cumsum(1).flip(1)


def fast_ap(near, distance, taken, different, n_bins, largest):
    r"""One minus the average precision of each row, of its histogram.

    .. math:: 1 - \frac{1}{|P|} \sum_k \frac{H^+_k h^+_k}{H_k}

    Parameters
    ----------
    near : Tensor of shape (n, p)
        Distances of the positives, in [0, largest].
    distance : Tensor of shape (n, m)
        All distances, in [0, largest].
    taken : bool Tensor of shape (n, p)
        Which places of `near` hold a positive; each row has one.
    different : bool Tensor of shape (n, m)
        Which of the distances are those of negatives.
    n_bins : int
        Number of intervals between the nodes.
    largest : float
        Largest distance.

    Returns
    -------
    losses : Tensor of shape (n,)
        Losses in [0, 1].
    of_near : Tensor of shape (n, p)
        Their gradient by `near`.
    of_distance : Tensor of shape (n, m)
        Their gradient by `distance`.
    """
    near_node, beyond = nodes(near, taken, n_bins, largest)
    positive = soft_histogram(near_node, beyond, n_bins)
    node, beyond = nodes(distance, different, n_bins, largest)
    below = positive.cumsum(1)
    every = below + soft_histogram(node, beyond, n_bins).cumsum(1)
    every = torch.where(every > 0, every, 1)
    weight = -1 / as_number(taken, near.dtype).sum(1, keepdim=True)
    precision = below / every
    losses = 1 + (precision * positive).sum(1) * weight[:, 0]
    # A count counts in all cumulative counts from its node on.
    share = positive / every
    of_every = from_behind(precision * share).mul_(-weight)
    of_positive = (precision + from_behind(share)).mul_(weight).add_(of_every)
    of_near = histogram_slope(of_positive, near_node, n_bins, largest)
    return losses, of_near, histogram_slope(of_every, node, n_bins, largest)


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


class FastAPLoss(RowLoss):
    r"""FastAP: one minus average precision, of a histogram of distances.

    .. math:: L = \operatorname{mean}_i \Bigl( 1 - \frac{1}{|P(i)|}
        \sum_k \frac{H^+_{ik} \, h^+_{ik}}{H_{ik}} \Bigr)

    The range of the distance is cut by n_bins + 1 nodes, and each distance counts for the two
    nodes beside it, in proportion. :math:`h^+` are the counts of the positives, :math:`H^+` their
    cumulative counts from the nearest node on, and H those of all others. The mean is over the
    anchors with a positive and a negative.

    Parameters
    ----------
    n_bins : int, default=10
        Number of intervals; >= 1.
    distance : {"cosine", "angular"}, default="cosine"
        Distance between embeddings, one that has a largest value.

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
    Cakir, He, Xia, Kulis, Sclaroff: Deep Metric Learning to Rank, CVPR 2019.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> loss = FastAPLoss()
    >>> loss(x, torch.tensor([0, 0, 1, 1])).item()
    0.0
    >>> round(loss(x, torch.tensor([0, 1, 0, 1])).item(), 4)  # a positive behind two negatives
    0.6667
    """

    def __init__(self, n_bins=10, *, distance="cosine"):
        super().__init__(check_choice("distance", distance, tuple(_RANGE)))
        self.n_bins = check_count("n_bins", n_bins)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"n_bins={self.n_bins}, distance={self.distance!r}"

    @torch.no_grad()
    def rows(self, near, distance, taken, different):
        """Losses of some anchors, and their slopes."""
        return fast_ap(near, distance, taken, different, self.n_bins, _RANGE[self.distance])

    def work(self, positives):
        """Nodes are worked on beside the distances."""
        return _COPIES


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


class HistogramLoss(MatrixLoss):
    r"""Histogram loss: how likely a negative pair is nearer than a positive pair.

    .. math:: L = \sum_k h^-_k \sum_{l \ge k} h^+_l

    with the shares h of the positive and of the negative pairs of the batch at each of n_bins + 1
    nodes; each distance counts for the two nodes beside it, in proportion. No margin is needed.

    Parameters
    ----------
    n_bins : int, default=100
        Number of intervals; >= 1.
    distance : {"cosine", "angular"}, default="cosine"
        Distance between embeddings, one that has a largest value.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the embeddings that are anchors, or 0 for a loss of 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range; the message says which values are allowed.

    References
    ----------
    Ustinova, Lempitsky: Learning Deep Embeddings with Histogram Loss, NIPS 2016.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> loss = HistogramLoss()
    >>> loss(x, torch.tensor([0, 0, 1, 1])).item()
    0.0
    >>> round(loss(x, torch.tensor([0, 1, 0, 1])).item(), 2)  # no negative is farther
    1.0
    """

    needs_same = needs_different = False

    def __init__(self, n_bins=100, *, distance="cosine"):
        super().__init__(check_choice("distance", distance, tuple(_RANGE)))
        self.n_bins = check_count("n_bins", n_bins)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"n_bins={self.n_bins}, distance={self.distance!r}"

    def compute(self, distance, positives, different):
        """Likelihood over all pairs, and the number of anchors."""
        with torch.no_grad():
            value, weights = self._likelihood(distance, positives, different)
        value = _Weighted.apply(distance, weights, value)
        return value, (positives.count > 0).sum() * (value.detach() > 0)

    def _likelihood(self, distance, positives, different):
        """Return the loss and its gradient by the distances."""
        bins = self.n_bins, _RANGE[self.distance]
        near_node, beyond = nodes(distance.gather(1, positives.index), positives.taken, *bins)
        near = soft_histogram(near_node, beyond, self.n_bins).sum(0)
        far, places = torch.zeros_like(near), []
        for rows in row_blocks(len(distance), _COPIES * distance.shape[1]):
            node, beyond = nodes(distance[rows], different[rows], *bins)
            far += soft_histogram(node, beyond, self.n_bins).sum(0)
            places.append((rows, node))
        n_near, n_far = (mask.count_nonzero().clamp(min=1) for mask in (positives.taken, different))
        # The shares of the positives at a node or beyond it, and of the negatives up to a node.
        beyond, below = from_behind(near[None]) / n_near, far[None].cumsum(1) / n_far
        weights = torch.empty_like(distance)
        of_far = beyond / n_far
        for rows, node in places:
            slopes = histogram_slope(of_far.expand(len(node), -1), node, *bins)
            weights[rows] = slopes
        of_near = (below / n_near).expand(len(near_node), -1)
        weights.scatter_add_(1, positives.index, histogram_slope(of_near, near_node, *bins))
        return torch.dot(far, beyond[0]) / n_far, weights
