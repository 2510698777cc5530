"""Lifted structure loss: each positive pair against all negatives of both its points."""

import torch
from torch import Tensor

from skdml.deep._pairs import Positives
from skdml.deep.losses._checks import check_flag, check_margin
from skdml.deep.losses._exponentials import log_sum_exp
from skdml.deep.losses._limits import MAX_LOGIT, MAX_SQUARABLE
from skdml.deep.losses._matrix import RowLoss


def lifted(
    distance: Tensor, positives: Positives, neg_mask: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    r"""Terms of the lifted structure loss, one for each positive pair.

    .. math:: \max \Bigl(0, \log \Bigl( \sum_{n \in N(i)} e^{m - d_{in}} +
        \sum_{n \in N(j)} e^{m - d_{nj}} \Bigr) + d_{ij} \Bigr)

    N(i) are the points that row i pairs with i as negatives. N(j) are those of row j if j is in the
    batch. If j is a reference, they are the rows that pair j with themselves as a negative.

    Parameters
    ----------
    distance : Tensor of shape (n, m)
        Distances.
    positives : Positives
        Positive pairs.
    neg_mask : bool Tensor of shape (n, m)
        Negative pairs.
    margin : float
        The margin m.

    Returns
    -------
    row : int64 Tensor of shape (p,)
        The anchor of each positive pair.
    term : Tensor of shape (p,)
        The term of each positive pair.
    """
    row, column = positives.pairs()
    distance = distance.clamp(max=MAX_SQUARABLE)
    nearness = torch.where(neg_mask, margin - distance, -MAX_LOGIT)
    of_anchor = nearness.logsumexp(1)
    of_positive = of_anchor if positives.within_batch else nearness.logsumexp(0)
    log_sum = torch.logaddexp(of_anchor[row], of_positive[column])
    return row, (log_sum + distance[row, column]).clamp(min=0)


class LiftedStructureLoss(RowLoss):
    r"""Lifted structure loss: positives against a soft minimum over the negatives.

    The original form compares each positive pair with the negatives of both its points:

    .. math:: L = \frac{1}{2 |P|} \sum_{(i, j) \in P} \max \Bigl(0, \log \Bigl(
        \sum_{n \in N(i)} e^{m - d_{in}} + \sum_{n \in N(j)} e^{m - d_{nj}} \Bigr) + d_{ij}
        \Bigr)^2

    The smooth, generalised form takes a soft maximum over the positives as well:

    .. math:: L = \operatorname{mean}_i \max \Bigl(0, \log \sum_p e^{d_{ip}} +
        \log \sum_n e^{m - d_{in}} \Bigr)

    Its mean is over the anchors with a positive and a negative. Unlike the paper by Hermans et al.,
    which sums over the anchors, it is a mean. Both forms take O(B^2) time and
    memory for a batch of B points. With references, the negatives of a reference are the
    embeddings of other classes.

    Parameters
    ----------
    margin : float, default=1.0
        The margin m, >= 0. At most 2 for cosine and 1 for angular distances.
    smooth : bool, default=False
        If True, take the generalised form.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
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
    Song, Xiang, Jegelka, Savarese: Deep Metric Learning via Lifted Structured Feature Embedding,
    CVPR 2016, eq. 4.
    Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017
    (generalised).

    Examples
    --------
    >>> import torch
    >>> x, labels = torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([0, 0, 1])
    >>> round(LiftedStructureLoss()(x, labels).item(), 4)  # log(2)^2 / 2
    0.2402
    >>> LiftedStructureLoss(margin=1.5, smooth=True)(x, labels).item()
    0.5
    """

    def __init__(
        self, margin: float = 1.0, *, smooth: bool = False, distance: str = "euclidean"
    ) -> None:
        super().__init__(distance)
        self.margin = check_margin(margin, distance, zero=True)
        self.smooth = check_flag("smooth", smooth)
        # In the original form, an anchor without positives is still a negative of references.
        self.needs_positives = self.needs_negatives = self.smooth

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"margin={self.margin:g}, smooth={self.smooth}, distance={self.distance!r}"

    def anchor_losses(
        self, pos_distance: Tensor, distance: Tensor, pos_mask: Tensor, neg_mask: Tensor
    ) -> Tensor:
        """Compute the losses of a block of anchors in the smooth form."""
        negative = self.margin + log_sum_exp(distance, neg_mask, -1.0)
        return (log_sum_exp(pos_distance, pos_mask) + negative).clamp(min=0)

    def compute(
        self, distance: Tensor, positives: Positives, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor | int | float]:
        """Compute the mean over anchors (smooth form) or over positive pairs (original form)."""
        if self.smooth:
            return super().compute(distance, positives, neg_mask)
        row, term = lifted(distance, positives, neg_mask, self.margin)
        return term.square().sum() / (2 * max(1, len(term))), len(row[term > 0].unique())
