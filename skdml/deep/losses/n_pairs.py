"""N-pairs loss: one positive pair of each class against the others."""

from skdml.deep._distances import _full_precision
from skdml.deep.losses._batch import RowLoss
from skdml.deep.losses.angular import cut_entries
from skdml.deep.losses.nt_xent import nt_xent

_LARGEST_ENTRY = 1e15  # dot products of larger entries would leave it


class NPairsLoss(RowLoss):
    r"""N-pairs loss: each positive against all negatives, by dot products.

    .. math:: L = \frac{1}{|P|} \sum_{(i, p) \in P} \log \Bigl( 1 +
        \sum_{n: y_n \ne y_i} e^{x_i^T x_n - x_i^T x_p} \Bigr)

    The paper draws one pair of each class, and takes the second points of the other pairs as
    negatives. Here P are all positive pairs whose anchor has a negative, and all points of other
    classes are negatives, so the loss does not depend on the order of the batch. Dot products
    reward long embeddings: decay the weights of the network, or normalise its output.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the embeddings that are anchors with a loss > 0.

    See Also
    --------
    NTXentLoss : The same by cosines and with a temperature.

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

    def __init__(self):
        super().__init__("euclidean")  # not used: dot products are no distance

    def measure(self, embeddings, labels, ref_emb):
        """Dot products."""
        given = [embeddings] if ref_emb is None else [embeddings, ref_emb]
        given = [cut_entries(x, _LARGEST_ENTRY) for x in _full_precision(*given)]
        return given[0] @ given[-1].T

    def rows(self, near, distance, taken, different):
        """Losses of some anchors, and their slopes."""
        return nt_xent(near, distance, taken, different, -1.0)  # larger is nearer

    def count(self, positives):
        """Divide the sum by the number of positive pairs."""
        return int(positives.count.sum())
