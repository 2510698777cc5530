"""Lifted structure loss: each positive pair against all negatives of both points."""

import torch

from skdml.deep.losses._batch import RowLoss
from skdml.deep.losses._checks import check_flag, check_margin
from skdml.deep.losses._exponentials import _FARTHEST, log_sum_exp
from skdml.deep.losses.intra_pair_variance import _LARGEST


def lifted(distance, positives, different, margin):
    r"""Terms of the lifted structure loss, one for each positive pair.

    .. math:: \max \Bigl(0, \log \Bigl( \sum_{n \in N(i)} e^{m - d_{in}} +
        \sum_{n \in N(j)} e^{m - d_{nj}} \Bigr) + d_{ij} \Bigr)

    Parameters
    ----------
    distance : Tensor of shape (n, m)
        Distances.
    positives : Positives
        Positive pairs.
    different : bool Tensor of shape (n, m)
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
    distance = distance.clamp(max=_LARGEST)
    near = torch.where(different, margin - distance, -_FARTHEST)
    either = torch.logaddexp(near.logsumexp(1)[row], near.logsumexp(0)[column])
    return row, (either + distance[row, column]).clamp(min=0)


class LiftedStructureLoss(RowLoss):
    r"""Lifted structure loss: positives against a soft minimum over the negatives.

    The original form is over positive pairs, each against the negatives of both its points:

    .. math:: L = \frac{1}{2 |P|} \sum_{(i, j) \in P} \max \Bigl(0, \log \Bigl(
        \sum_{n \in N(i)} e^{m - d_{in}} + \sum_{n \in N(j)} e^{m - d_{nj}} \Bigr) + d_{ij}
        \Bigr)^2

    The smooth, generalised form takes a soft maximum over the positives as well:

    .. math:: L = \operatorname{mean}_i \max \Bigl(0, \log \sum_p e^{d_{ip}} +
        \log \sum_n e^{m - d_{in}} \Bigr)

    whose mean is over the anchors with a positive and a negative. Time and memory are O(B^2) for
    both. With references, the negatives of a reference are the embeddings of other classes.

    Parameters
    ----------
    margin : float, default=1.0
        The margin m; >= 0, and at most 2 for cosine and 1 for angular distances.
    smooth : bool, default=False
        Whether to take the generalised form.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
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

    def __init__(self, margin=1.0, *, smooth=False, distance="euclidean"):
        super().__init__(distance)
        self.margin = check_margin(margin, distance, zero=True)
        self.smooth = check_flag("smooth", smooth)
        # In the original form an anchor without positives still is a negative of references.
        self.needs_same = self.needs_different = self.smooth

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"margin={self.margin:g}, smooth={self.smooth}, distance={self.distance!r}"

    def rows(self, near, distance, taken, different):
        """Losses of some anchors in the smooth form, of shape (rows,)."""
        apart = self.margin + log_sum_exp(distance, different, -1.0)
        return (log_sum_exp(near, taken) + apart).clamp(min=0)

    def compute(self, distance, positives, different):
        """Mean over anchors, or over positive pairs."""
        if self.smooth:
            return super().compute(distance, positives, different)
        row, term = lifted(distance, positives, different, self.margin)
        return term.square().sum() / (2 * max(1, len(term))), len(row[term > 0].unique())
