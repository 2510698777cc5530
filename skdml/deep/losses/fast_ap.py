"""FastAP: average precision from soft histograms of distances."""

import torch
from torch import Tensor

from skdml.deep._pairs import Positives, as_number
from skdml.deep.losses._checks import MAX_DISTANCE, check_choice, check_count
from skdml.deep.losses._histogram import (
    WORK_PER_DISTANCE,
    histogram_gradient,
    lower_node,
    reverse_cumsum,
    soft_histogram,
)
from skdml.deep.losses._matrix import RowLoss


def fast_ap(
    pos_distance: Tensor,
    distance: Tensor,
    pos_mask: Tensor,
    neg_mask: Tensor,
    n_bins: int,
    largest: float,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""One minus the average precision of each row, from its histogram.

    .. math:: 1 - \frac{1}{|P|} \sum_k \frac{H^+_k h^+_k}{H_k}

    Parameters
    ----------
    pos_distance : Tensor of shape (n, p)
        Distances of the positives, in [0, largest].
    distance : Tensor of shape (n, m)
        All distances, in [0, largest].
    pos_mask : bool Tensor of shape (n, p)
        Which entries of `pos_distance` are positives. Each row has a positive.
    neg_mask : bool Tensor of shape (n, m)
        Which entries of `distance` belong to negatives.
    n_bins : int
        Number of intervals between the nodes.
    largest : float
        Largest distance.

    Returns
    -------
    losses : Tensor of shape (n,)
        Losses in [0, 1].
    pos_gradient, gradient : Tensors of shape (n, p) and (n, m)
        Gradients with respect to `pos_distance` and `distance`.
    """
    pos_node, fraction = lower_node(pos_distance, pos_mask, n_bins, largest)
    pos_count = soft_histogram(pos_node, fraction, n_bins)
    node, fraction = lower_node(distance, neg_mask, n_bins, largest)
    pos_below = pos_count.cumsum(1)
    all_below = pos_below + soft_histogram(node, fraction, n_bins).cumsum(1)
    all_below = torch.where(all_below > 0, all_below, 1)
    weight = -1 / as_number(pos_mask, pos_distance.dtype).sum(1, keepdim=True)
    precision = pos_below / all_below
    losses = 1 + (precision * pos_count).sum(1) * weight[:, 0]
    # A count enters the cumulative counts of its own node and of all nodes after it.
    share = pos_count / all_below
    count_gradient = reverse_cumsum(precision * share).mul_(-weight)
    pos_count_gradient = (precision + reverse_cumsum(share)).mul_(weight).add_(count_gradient)
    pos_gradient = histogram_gradient(pos_count_gradient, pos_node, n_bins, largest)
    return losses, pos_gradient, histogram_gradient(count_gradient, node, n_bins, largest)


class FastAPLoss(RowLoss):
    r"""FastAP: one minus average precision, from a histogram of distances.

    .. math:: L = \operatorname{mean}_i \Bigl( 1 - \frac{1}{|P(i)|}
        \sum_k \frac{H^+_{ik} \, h^+_{ik}}{H_{ik}} \Bigr)

    The range of the distance has n_bins + 1 nodes at equal intervals. Each distance is shared by
    the two nearest nodes, in proportion. :math:`h^+` are the counts of the positives, :math:`H^+`
    their cumulative counts from the nearest node on, and H the cumulative counts of all other
    points. The mean is over the anchors with a positive and a negative.

    Parameters
    ----------
    n_bins : int, default=10
        Number of intervals, >= 1.
    distance : {"cosine", "angular"}, default="cosine"
        Distance between embeddings. It must be bounded.

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

    def __init__(self, n_bins: int = 10, *, distance: str = "cosine") -> None:
        super().__init__(check_choice("distance", distance, tuple(MAX_DISTANCE)))
        self.n_bins = check_count("n_bins", n_bins)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"n_bins={self.n_bins}, distance={self.distance!r}"

    @torch.no_grad()
    def anchor_losses(
        self, pos_distance: Tensor, distance: Tensor, pos_mask: Tensor, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the losses of a block of anchors, and their gradients."""
        largest = MAX_DISTANCE[self.distance]
        return fast_ap(pos_distance, distance, pos_mask, neg_mask, self.n_bins, largest)

    def work_per_distance(self, positives: Positives) -> int:
        """Count the nodes, which are kept beside the distances."""
        return WORK_PER_DISTANCE
