"""Histogram loss: overlap of the distances of positive and negative pairs."""

import torch

from skdml.deep._distances import row_blocks
from skdml.deep.losses._base import _Weighted
from skdml.deep.losses._batch import MatrixLoss
from skdml.deep.losses._checks import check_choice, check_count
from skdml.deep.losses._histogram import (
    _COPIES,
    _RANGE,
    from_behind,
    histogram_slope,
    nodes,
    soft_histogram,
)


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
