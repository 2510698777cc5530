"""Losses on the ranking that each anchor gives: FastAP, SmoothAP and the histogram loss."""

from torch.nn import functional as F

from skdml.deep.miners import as_number

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
