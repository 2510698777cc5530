"""N-pairs loss: each positive against all negatives, by dot products."""

from torch import Tensor

from skdml.deep._distances import full_precision, largest_entry
from skdml.deep._pairs import Positives
from skdml.deep.losses._limits import MAX_SQUARABLE
from skdml.deep.losses._matrix import RowLoss
from skdml.deep.losses.nt_xent import nt_xent


def clip_entries(x: Tensor, largest: float) -> Tensor:
    """Clip entries beyond a limit; clipped entries have no gradient."""
    # Most batches have nothing to clip, and to look is cheaper than to clip.
    return x.clamp(-largest, largest) if largest_entry(x) > largest else x


class NPairsLoss(RowLoss):
    r"""N-pairs loss: each positive against all negatives, by dot products.

    .. math:: L = \frac{1}{|P|} \sum_{(i, p) \in P} \log \Bigl( 1 +
        \sum_{n: y_n \ne y_i} e^{x_i^T x_n - x_i^T x_p} \Bigr)

    P are all positive pairs whose anchor has a negative.

    Unlike the paper, which draws one pair of each class and takes the second points of the other
    pairs as negatives, all positive pairs and all negatives of the batch are used. So the loss
    does not depend on the order of the batch.

    Unlike the paper, the loss does not penalise the length of embeddings. Dot products reward long
    embeddings. Use weight decay for the network, or normalise its output.

    Attributes
    ----------
    active_share : Tensor of shape ()
        Share of the embeddings that were anchors with a loss > 0 in the last call.

    See Also
    --------
    NTXentLoss : The same loss with distances and a temperature.

    References
    ----------
    Sohn: Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NIPS 2016.

    Examples
    --------
    >>> import torch
    >>> loss = NPairsLoss()(torch.tensor([[1.0], [2.0], [2.0]]), torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # log(1 + exp(0)), and log(1 + exp(4 - 2))
    1.41
    """

    def __init__(self) -> None:
        super().__init__("euclidean")  # not used, because dot products are not a distance

    def measure(self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None) -> Tensor:
        """Compute the dot products."""
        given = [embeddings] if ref_emb is None else [embeddings, ref_emb]
        given = [clip_entries(x, MAX_SQUARABLE) for x in full_precision(*given)]
        return given[0] @ given[-1].T

    def anchor_losses(
        self, pos_distance: Tensor, distance: Tensor, pos_mask: Tensor, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the losses of a block of anchors, and their gradients."""
        # The temperature is negative, because a larger dot product means a nearer point.
        return nt_xent(pos_distance, distance, pos_mask, neg_mask, -1.0)

    def divisor(self, positives: Positives) -> int:
        """Return the number of positive pairs."""
        return int(positives.count.sum())
