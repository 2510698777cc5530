"""Histograms of distances in which each distance is shared by the two nearest nodes."""

from torch import Tensor
from torch.nn import functional as F

from skdml.deep._pairs import as_number

# Memory for each distance, in numbers: the index of a node takes twice the memory of a float.
WORK_PER_DISTANCE = 2


def lower_node(
    distance: Tensor, mask: Tensor, n_bins: int, largest: float
) -> tuple[Tensor, Tensor]:
    r"""Histogram node below each distance, and the distance's position above this node.

    Parameters
    ----------
    distance : Tensor of shape (n, m)
        Distances in [0, largest].
    mask : bool Tensor of shape (n, m)
        Distances to count. All others get node n_bins + 1, which lies above the histogram.
    n_bins : int
        Number of intervals between the nodes.
    largest : float
        Largest distance.

    Returns
    -------
    node : int64 Tensor of shape (n, m)
        The nodes, 0, ..., n_bins + 1.
    fraction : Tensor of shape (n, m)
        Position above the node, as a share of an interval.
    """
    fraction = distance * (n_bins / largest)
    fraction.add_(as_number(~mask, fraction.dtype), alpha=n_bins + 1)
    # The node of NaN is clipped to a valid index; its fraction still makes the counts NaN.
    node = fraction.long().clamp_(0, n_bins + 1)
    return node, fraction.frac_()


def soft_histogram(node: Tensor, fraction: Tensor, n_bins: int) -> Tensor:
    r"""Histogram of each row; each distance is shared by the two nearest nodes.

    .. math:: h_{ik} = \sum_j m_{ij} \max(0, 1 - |d_{ij} / \Delta - k|), \quad
        \Delta = \mathrm{largest} / \mathrm{n\_bins}

    Parameters
    ----------
    node, fraction : Tensors of shape (n, m)
        From `lower_node`. `fraction` is overwritten.
    n_bins : int
        Number of intervals between the nodes.

    Returns
    -------
    Tensor of shape (n, n_bins + 1)
        The counts h.
    """
    counts = fraction.new_zeros(len(node), n_bins + 3)
    counts[:, 1:].scatter_add_(1, node, fraction)
    counts.scatter_add_(1, node, fraction.neg_().add_(1))
    return counts[:, : n_bins + 1]


def histogram_gradient(count_gradient: Tensor, node: Tensor, n_bins: int, largest: float) -> Tensor:
    """Gradient with respect to the distances, from the gradient with respect to the counts.

    Parameters
    ----------
    count_gradient : Tensor of shape (n, n_bins + 1)
        Gradient with respect to the counts of `soft_histogram`.
    node : int64 Tensor of shape (n, m)
        From `lower_node`.
    n_bins : int
        Number of intervals between the nodes.
    largest : float
        Largest distance.

    Returns
    -------
    Tensor of shape (n, m)
        The gradient.
    """
    slope = F.pad(count_gradient.diff(dim=1).mul_(n_bins / largest), (0, 2))
    return slope.gather(1, node)


def reverse_cumsum(x: Tensor) -> Tensor:
    """Sum of each entry and all entries after it in its row."""
    return x.flip(1).cumsum(1).flip(1)
