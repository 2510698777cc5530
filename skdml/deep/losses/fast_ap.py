"""FastAP: average precision by soft histograms of distances."""

import torch

from skdml.deep.losses._batch import RowLoss
from skdml.deep.losses._checks import check_choice, check_count
from skdml.deep.losses._histogram import (
    _COPIES,
    _RANGE,
    from_behind,
    histogram_slope,
    nodes,
    soft_histogram,
)
from skdml.deep.miners import as_number


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
