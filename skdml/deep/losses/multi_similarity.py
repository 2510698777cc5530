"""Multi-similarity loss: soft weights for the positives and negatives of each anchor."""

from torch import Tensor
from torch.nn import functional as F

from skdml.deep.losses._checks import check_margin, check_positive
from skdml.deep.losses._exponentials import log_sum_exp
from skdml.deep.losses._matrix import RowLoss


def multi_similarity(
    pos_distance: Tensor,
    distance: Tensor,
    pos_mask: Tensor,
    neg_mask: Tensor,
    alpha: float,
    beta: float,
    base: float,
) -> Tensor:
    r"""Soft maximum of the distances of positives, plus soft maximum of the nearness of negatives.

    .. math:: \frac{1}{\alpha} \log \Bigl(1 + \sum_p e^{\alpha (d_{ip} - b)}\Bigr) +
        \frac{1}{\beta} \log \Bigl(1 + \sum_n e^{-\beta (d_{in} - b)}\Bigr)

    Parameters
    ----------
    pos_distance : Tensor of shape (n, p)
        Distances of the positives.
    distance : Tensor of shape (n, m)
        All distances.
    pos_mask : bool Tensor of shape (n, p)
        Which entries of `pos_distance` are positives.
    neg_mask : bool Tensor of shape (n, m)
        Which entries of `distance` belong to negatives.
    alpha, beta, base : float
        As in the formula; base is b.

    Returns
    -------
    Tensor of shape (n,)
        Losses.
    """
    positive = log_sum_exp(pos_distance, pos_mask, alpha) - alpha * base
    negative = log_sum_exp(distance, neg_mask, -beta) + beta * base
    return F.softplus(positive) / alpha + F.softplus(negative) / beta


class MultiSimilarityLoss(RowLoss):
    r"""Multi-similarity loss: weights of pairs depend on the other pairs of the anchor.

    .. math:: L = \operatorname{mean}_i \; \Bigl[
        \frac{1}{\alpha} \log \Bigl(1 + \sum_{p} e^{\alpha (d_{ip} - b)}\Bigr) +
        \frac{1}{\beta} \log \Bigl(1 + \sum_{n} e^{-\beta (d_{in} - b)}\Bigr) \Bigr]

    The mean is over all anchors of the batch. An anchor without a positive has only the second
    term, and an anchor without a negative has only the first. With the cosine distance and
    b = 1 - lambda, this is the loss of the paper.

    Parameters
    ----------
    alpha, beta : float, default=2.0 and 50.0
        Sharpness for positive pairs and for negative pairs, > 0.
    base : float, default=0.5
        The distance b that should separate positives from negatives, > 0. At most 2 for cosine
        and 1 for angular distances.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="cosine"
        Distance between embeddings.

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
    Wang, Han, Huang, Dong, Scott: Multi-Similarity Loss with General Pair Weighting for Deep
    Metric Learning, CVPR 2019, eq. 15.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> loss = MultiSimilarityLoss()(x, torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # 2/3 of log(1 + exp(-1)) / 2, plus negligible terms
    0.1044
    """

    needs_positives = needs_negatives = False

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        *,
        distance: str = "cosine",
    ) -> None:
        super().__init__(distance)
        self.alpha = check_positive("alpha", alpha)
        self.beta = check_positive("beta", beta)
        self.base = check_margin(base, distance, zero=False, name="base")

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return (
            f"alpha={self.alpha:g}, beta={self.beta:g}, base={self.base:g}, "
            f"distance={self.distance!r}"
        )

    def anchor_losses(
        self, pos_distance: Tensor, distance: Tensor, pos_mask: Tensor, neg_mask: Tensor
    ) -> Tensor:
        """Compute the losses of a block of anchors."""
        sharpness = self.alpha, self.beta, self.base
        return multi_similarity(pos_distance, distance, pos_mask, neg_mask, *sharpness)
