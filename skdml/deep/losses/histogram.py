"""Histogram loss: overlap of the distances of positive pairs and negative pairs."""

import torch
from torch import Tensor

from skdml.deep._distances import attach_gradient
from skdml.deep._pairs import Positives, row_blocks
from skdml.deep.losses._checks import MAX_DISTANCE, check_choice, check_count
from skdml.deep.losses._histogram import (
    WORK_PER_DISTANCE,
    histogram_gradient,
    lower_node,
    reverse_cumsum,
    soft_histogram,
)
from skdml.deep.losses._matrix import MatrixLoss


def histogram_overlap(
    distance: Tensor, positives: Positives, neg_mask: Tensor, n_bins: int, largest: float
) -> tuple[Tensor, Tensor]:
    r"""Probability that a negative pair is nearer than a positive pair, and its gradient.

    .. math:: \sum_k h^-_k \sum_{l \ge k} h^+_l

    Parameters
    ----------
    distance : Tensor of shape (n, m)
        Distances in [0, largest].
    positives : Positives
        Positive pairs.
    neg_mask : bool Tensor of shape (n, m)
        Negative pairs.
    n_bins : int
        Number of intervals between the nodes.
    largest : float
        Largest distance.

    Returns
    -------
    value : Tensor of shape ()
        The probability.
    gradient : Tensor of shape (n, m)
        Its gradient with respect to the distances.
    """
    bins = n_bins, largest
    pos_distance = distance.gather(1, positives.index)
    pos_node, fraction = lower_node(pos_distance, positives.valid, *bins)
    pos_count = soft_histogram(pos_node, fraction, n_bins).sum(0)
    neg_count, blocks = torch.zeros_like(pos_count), []
    for rows in row_blocks(len(distance), WORK_PER_DISTANCE * distance.shape[1]):
        node, fraction = lower_node(distance[rows], neg_mask[rows], *bins)
        neg_count += soft_histogram(node, fraction, n_bins).sum(0)
        blocks.append((rows, node))
    n_pos, n_neg = (mask.count_nonzero().clamp(min=1) for mask in (positives.valid, neg_mask))
    # Share of positives at each node or above it, and share of negatives at it or below it.
    pos_above = reverse_cumsum(pos_count[None]) / n_pos
    neg_below = neg_count[None].cumsum(1) / n_neg
    gradient = torch.empty_like(distance)
    neg_gradient = pos_above / n_neg
    for rows, node in blocks:
        gradient[rows] = histogram_gradient(neg_gradient.expand(len(node), -1), node, *bins)
    pos_gradient = (neg_below / n_pos).expand(len(pos_node), -1)
    pos_gradient = histogram_gradient(pos_gradient, pos_node, *bins)
    gradient.scatter_add_(1, positives.index, pos_gradient)
    return torch.dot(neg_count, pos_above[0]) / n_neg, gradient


class HistogramLoss(MatrixLoss):
    r"""Histogram loss: the probability that a negative pair is nearer than a positive pair.

    .. math:: L = \sum_k h^-_k \sum_{l \ge k} h^+_l

    h are the shares of the positive and of the negative pairs of the batch at each of n_bins + 1
    nodes. Each distance is shared by the two nearest nodes, in proportion. The loss has no margin.

    Parameters
    ----------
    n_bins : int, default=100
        Number of intervals, >= 1.
    distance : {"cosine", "angular"}, default="cosine"
        Distance between embeddings. It must be bounded.

    Attributes
    ----------
    active_share : Tensor of shape ()
        Share of the embeddings that were anchors in the last call; 0 if the loss was 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range. The message states the allowed values.

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

    needs_positives = needs_negatives = False

    def __init__(self, n_bins: int = 100, *, distance: str = "cosine") -> None:
        super().__init__(check_choice("distance", distance, tuple(MAX_DISTANCE)))
        self.n_bins = check_count("n_bins", n_bins)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"n_bins={self.n_bins}, distance={self.distance!r}"

    def compute(
        self, distance: Tensor, positives: Positives, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the probability over all pairs, and count the anchors."""
        bins = self.n_bins, MAX_DISTANCE[self.distance]
        with torch.no_grad():
            value, gradient = histogram_overlap(distance, positives, neg_mask, *bins)
        value = attach_gradient(value, distance, gradient)
        return value, (positives.count > 0).sum() * (value.detach() > 0)
