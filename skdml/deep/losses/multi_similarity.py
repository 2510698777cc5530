"""Multi-similarity loss: soft weights for positives and negatives of each anchor."""

from torch.nn import functional as F

from skdml.deep.losses._batch import RowLoss
from skdml.deep.losses._checks import check_margin, check_positive
from skdml.deep.losses._exponentials import log_sum_exp


def multi_similarity(near, distance, taken, different, alpha, beta, base):
    r"""Soft maximum of how far the positives of each row lie, and of how near the negatives.

    .. math:: \frac{1}{\alpha} \log \Bigl(1 + \sum_p e^{\alpha (d_{ip} - b)}\Bigr) +
        \frac{1}{\beta} \log \Bigl(1 + \sum_n e^{-\beta (d_{in} - b)}\Bigr)

    Parameters
    ----------
    near : Tensor of shape (n, p)
        Distances of the positives.
    distance : Tensor of shape (n, m)
        All distances.
    taken : bool Tensor of shape (n, p)
        Which places of `near` hold a positive.
    different : bool Tensor of shape (n, m)
        Which of the distances are those of negatives.
    alpha, beta, base : float
        As in the formula.

    Returns
    -------
    Tensor of shape (n,)
        Losses.
    """
    far = log_sum_exp(near, taken, alpha) - alpha * base
    close = log_sum_exp(distance, different, -beta) + beta * base
    return F.softplus(far) / alpha + F.softplus(close) / beta


class MultiSimilarityLoss(RowLoss):
    r"""Multi-similarity loss: pairs weighted by themselves and by the other pairs of the anchor.

    .. math:: L = \operatorname{mean}_i \;
        \frac{1}{\alpha} \log \Bigl(1 + \sum_{p} e^{\alpha (d_{ip} - b)}\Bigr) +
        \frac{1}{\beta} \log \Bigl(1 + \sum_{n} e^{-\beta (d_{in} - b)}\Bigr)

    The mean is over the anchors with a positive. By cosine distance this is the loss of the paper,
    with b = 1 - lambda.

    Parameters
    ----------
    alpha, beta : float, default=2.0 and 50.0
        Sharpness for positive and for negative pairs; > 0.
    base : float, default=0.5
        Distance b that should part positives from negatives; > 0, and at most 2 for cosine and 1
        for angular distances.
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
    Wang, Han, Huang, Dong, Scott: Multi-Similarity Loss with General Pair Weighting for Deep
    Metric Learning, CVPR 2019.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> loss = MultiSimilarityLoss()(x, torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # log(1 + exp(-1)) / 2, and next to nothing
    0.1566
    """

    needs_different = False

    def __init__(self, alpha=2.0, beta=50.0, base=0.5, *, distance="cosine"):
        super().__init__(distance)
        self.alpha = check_positive("alpha", alpha)
        self.beta = check_positive("beta", beta)
        self.base = check_margin(base, distance, zero=False, name="base")

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return (
            f"alpha={self.alpha:g}, beta={self.beta:g}, base={self.base:g}, "
            f"distance={self.distance!r}"
        )

    def rows(self, near, distance, taken, different):
        """Losses of some anchors, of shape (rows,)."""
        sharpness = self.alpha, self.beta, self.base
        return multi_similarity(near, distance, taken, different, *sharpness)
