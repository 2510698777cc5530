"""Contrastive loss with the signal-to-noise ratio as the distance."""

import torch
from torch import Tensor

from skdml.deep._distances import attach_gradient, full_precision, pairwise_distance
from skdml.deep._pairs import Positives
from skdml.deep.losses._matrix import MatrixLoss
from skdml.deep.losses.contrastive import ContrastiveLoss

# The variance of a row is at least this share of the batch's largest variance.
_SMALLEST_VARIANCE = 1e-6


class SignalToNoiseRatioContrastiveLoss(MatrixLoss):
    r"""Contrastive loss with the signal-to-noise distance.

    .. math:: d_{ij} = \frac{\operatorname{var}(x_j - x_i)}{\operatorname{var}(x_i)}, \quad
        \ell(i, j) = z_{ij} \, d_{ij} + (1 - z_{ij}) \max(0, m - d_{ij})

    z is 1 for pairs of the same class and 0 otherwise. The variances are over the features of a
    row. The distance is not symmetric: the anchor is the signal. As in `ContrastiveLoss`, positive
    and negative pairs are reduced separately.

    Unlike the paper, the loss has no regulariser that moves the mean of each row to zero, because
    the distance does not depend on that mean.

    Parameters
    ----------
    margin : float, default=1.0
        Distance from which negative pairs cost nothing, > 0.
    reduction : {"active", "mean", "sum"}, default="active"
        Mean over the pairs with a loss > 0, mean over all pairs, or sum; for each kind of pairs.

    Attributes
    ----------
    active_share : Tensor of shape ()
        Share of the negative pairs with a loss > 0 in the last call.

    Raises
    ------
    ValueError
        If a parameter is outside its range. The message states the allowed values.

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

    needs_positives = needs_negatives = False

    def __init__(self, margin: float = 1.0, *, reduction: str = "active") -> None:
        super().__init__("sqeuclidean")
        self.pairs = ContrastiveLoss(margin, distance="sqeuclidean", reduction=reduction)
        self.margin, self.reduction = self.pairs.margin, reduction

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"margin={self.margin:g}, reduction={self.reduction!r}"

    def measure(self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None) -> Tensor:
        """Compute the signal-to-noise distances."""
        given = [embeddings] if ref_emb is None else [embeddings, ref_emb]
        centred = [x - x.mean(1, keepdim=True) for x in full_precision(*given)]
        # The ratio does not depend on the scale, but the squares of huge rows would overflow.
        peak = max((x.detach().abs().max() for x in centred if x.numel()), default=1.0)
        centred = [x / (peak if peak > 0 else 1.0) for x in centred]
        power = centred[0].square().sum(1, keepdim=True)
        smallest = _SMALLEST_VARIANCE * power.detach().max() if power.numel() else 0.0
        power = power.clamp(min=smallest)
        others = None if ref_emb is None else centred[1]
        distance = pairwise_distance(centred[0], others, "sqeuclidean")
        return distance / torch.where(power > 0, power, 1)

    def compute(
        self, distance: Tensor, positives: Positives, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the contrastive loss, and the share of active negatives times the rows."""
        with torch.no_grad():
            value, gradient, n_active, n_used = self.pairs.compute_dense(
                distance, positives, neg_mask
            )
        value = attach_gradient(value, distance, gradient)
        return value, len(distance) * n_active / n_used.clamp(min=1)
