"""Contrastive loss of the signal-to-noise ratio distance."""

import torch

from skdml.deep._distances import _full_precision, pairwise_distance
from skdml.deep.losses._base import _Weighted
from skdml.deep.losses._batch import MatrixLoss
from skdml.deep.losses.contrastive import ContrastiveLoss

# A row whose variance is a smaller share of the batch's largest is taken to have this share.
_LEAST_VARIANCE = 1e-6


class SignalToNoiseRatioContrastiveLoss(MatrixLoss):
    r"""Contrastive loss by the signal-to-noise distance.

    .. math:: d_{ij} = \frac{\operatorname{var}(x_j - x_i)}{\operatorname{var}(x_i)}, \quad
        \ell(i, j) = z_{ij} \, d_{ij} + (1 - z_{ij}) \max(0, m - d_{ij})

    The variances are over the features of a row. The distance is not symmetric: the anchor is the
    signal. It does not see the mean of a row, so the paper's regulariser, which pulls that mean
    to zero, is left out. As in `ContrastiveLoss`, each kind of pairs is reduced on its own.

    Parameters
    ----------
    margin : float, default=1.0
        Distance from which on negative pairs cost nothing; > 0.
    reduction : {"active", "mean", "sum"}, default="active"
        Mean over the pairs with a loss > 0, mean over all pairs, or sum, for each kind.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the negative pairs with a loss > 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range; the message says which values are allowed.

    References
    ----------
    Yuan, Deng, Tang, Tang, Chen: Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric
    Learning, CVPR 2019.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, -1.0], [2.0, -2.0], [0.5, -0.5]])
    >>> loss = SignalToNoiseRatioContrastiveLoss()
    >>> loss(x, torch.tensor([0, 0, 1])).item()  # (1 + 1/4) / 2 + (3/4 + 7/16) / 2
    1.21875
    """

    needs_same = needs_different = False

    def __init__(self, margin=1.0, *, reduction="active"):
        super().__init__("sqeuclidean")
        self.pairs = ContrastiveLoss(margin, distance="sqeuclidean", reduction=reduction)
        self.margin, self.reduction = self.pairs.margin, reduction

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"margin={self.margin:g}, reduction={self.reduction!r}"

    def measure(self, embeddings, labels, ref_emb):
        """Signal-to-noise distances."""
        given = [embeddings] if ref_emb is None else [embeddings, ref_emb]
        centred = [x - x.mean(1, keepdim=True) for x in _full_precision(*given)]
        # The ratio does not change with the scale, and squares of huge rows overflow.
        peak = max((x.detach().abs().max() for x in centred if x.numel()), default=1.0)
        centred = [x / (peak if peak > 0 else 1.0) for x in centred]
        power = centred[0].square().sum(1, keepdim=True)
        least = _LEAST_VARIANCE * power.detach().max() if power.numel() else 0.0
        power = power.clamp(min=least)
        distance = pairwise_distance(*centred, distance="sqeuclidean")
        return distance / torch.where(power > 0, power, 1)

    def compute(self, distance, positives, different):
        """Contrastive loss of the distances, and how many negatives have one."""
        with torch.no_grad():
            value, weights, active, used = self.pairs.compute_dense(distance, positives, different)
        value = _Weighted.apply(distance, weights, value)
        return value, len(distance) * active / used.clamp(min=1)
