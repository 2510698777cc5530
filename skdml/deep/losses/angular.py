"""Angular loss: the angle at the negative of each triplet is bounded."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from skdml.deep._distances import attach_gradient, directions, full_precision
from skdml.deep._pairs import Positives, as_number, row_blocks
from skdml.deep.losses._checks import check_positive
from skdml.deep.losses._matrix import TripletMatrixLoss, any_in_row

_MAX_ALPHA = 60  # degrees; beyond it the exponentials would leave the range of single precision

# Assumed number of distinct positives for each anchor of a block, if the pairs are listed. Anchors
# of a block share most of their positives.
_POSITIVES_PER_ANCHOR = 8


def angular(
    anchor_exp: Tensor, pos_exp: Tensor, cosine: Tensor, same: Tensor, tan_squared: float
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Angular loss of groups of anchors a and points p, and its gradients.

    .. math:: \log \Bigl( 1 + \sum_n e^{4 t (x_a + x_p)^T x_n - 2 (1 + t) x_a^T x_p} \Bigr),
        \quad t = \tan^2 \alpha

    The sum over n of a product of exponentials is a matrix product, so no triplet is listed.

    Parameters
    ----------
    anchor_exp : Tensor of shape (g, k, m)
        Exponentials of 4 t times the cosines of the anchors with all points; 0 where the point is
        not a negative of the anchor. Each anchor has a negative.
    pos_exp : Tensor of shape (g, l, m)
        Exponentials of 4 t times the cosines of the points p with all points.
    cosine : Tensor of shape (g, k, l)
        Cosines of the anchors with the points p.
    same : bool Tensor of shape (g, k, l)
        The positive pairs (a, p).
    tan_squared : float
        The squared tangent t.

    Returns
    -------
    total : Tensor of shape ()
        Sum of the loss.
    product_gradient : Tensor of shape (g, k, l)
        Gradient with respect to the products of `anchor_exp` and `pos_exp`, times 4 t.
    cosine_gradient : Tensor of shape (g, k, l)
        Gradient with respect to `cosine`, for fixed products.
    """
    product = anchor_exp @ pos_exp.mT
    odds = (cosine * (-2 * (1 + tan_squared))).exp_().mul_(product)
    odds.mul_(as_number(same, anchor_exp.dtype))
    share = odds / (1 + odds)
    total = odds.log1p().sum()
    return total, 4 * tan_squared * share / product, -2 * (1 + tan_squared) * share


def class_keys(anchors: Tensor, positives: Positives, within_batch: bool) -> Tensor:
    """Return for each anchor a point that the anchors of its class share.

    The point is the first positive. Without references (`within_batch`), it may be the anchor.
    """
    first = positives.index[anchors, :1].sum(1)  # the sum of one entry, or of none
    return torch.minimum(first, anchors) if within_batch else first


def class_groups(
    anchors: Tensor, positives: Positives, within_batch: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield anchors (g, k) and points (g, l) of g classes at a time that have the same sizes.

    Without references (`within_batch`), the points are the anchors themselves.
    """
    key, order = class_keys(anchors, positives, within_batch).sort(stable=True)
    anchors = anchors[order]
    size = key.unique_consecutive(return_counts=True)[1]
    size, count = size.repeat_interleave(size), positives.count[anchors]
    for k, width in sorted(set(zip(size.tolist(), count.tolist(), strict=True))):
        a = anchors[(size == k) & (count == width)].view(-1, k)
        yield a, a if within_batch else positives.index[a[:, 0], :width]


def positive_blocks(
    anchors: Tensor, positives: Positives, same: Tensor, within_batch: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield anchors (g, k) and points (g, l) that together hold each positive pair once."""
    n_columns = same.shape[1]
    if positives.whole_class:
        for a, p in class_groups(anchors, positives, within_batch):
            for block in row_blocks(len(a), (a.shape[1] + p.shape[1]) * n_columns):
                yield (a[block],) * 2 if a is p else (a[block], p[block])
        return
    # Anchors of a class share positives, so a block sorted by class has few distinct positives.
    key = class_keys(anchors, positives, within_batch)
    anchors = anchors[key.argsort(stable=True)]
    for block in row_blocks(len(anchors), _POSITIVES_PER_ANCHOR * n_columns):
        a = anchors[block]
        yield a[None], same[a].any(0).nonzero().T


class AngularLoss(TripletMatrixLoss):
    r"""Angular loss: the angle at the negative of each triplet is at most alpha.

    .. math:: L = \operatorname{mean}_{(a, p) \in P} \; \log \Bigl( 1 + \sum_n
        e^{4 \tan^2 \alpha \, (x_a + x_p)^T x_n - 2 (1 + \tan^2 \alpha) \, x_a^T x_p} \Bigr)

    The embeddings are scaled to length 1. P are all positive pairs whose anchor has a negative,
    and n runs over all negatives of the anchor. Given triplets are scored as they are: n runs over
    the negatives that are listed with (a, p). Of given pairs, each positive of an anchor is
    combined with each of its negatives. The loss takes one matrix product and O(B^2) memory for a
    batch of B points.

    Unlike the paper, which draws one pair of each class, all positive pairs of the batch count.

    Parameters
    ----------
    alpha : float, default=45.0
        The largest angle in degrees, > 0 and <= 60.

    Attributes
    ----------
    active_share : Tensor of shape ()
        Share of the embeddings that were anchors with a positive and a negative in the last call.

    Raises
    ------
    ValueError
        If alpha is outside its range.

    References
    ----------
    Wang, Zhou, Wen, Liu, Lin: Deep Metric Learning with Angular Loss, ICCV 2017, eqs. 7 and 8.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> loss = AngularLoss(45)(x, torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # log(1 + exp(-4))
    0.0181
    """

    # Some rows of the matrix are references, so rows without pairs are not left out beforehand.
    needs_positives = needs_negatives = False

    def __init__(self, alpha: float = 45.0) -> None:
        super().__init__("cosine")
        self.alpha = check_positive("alpha", alpha)
        if self.alpha > _MAX_ALPHA:
            raise ValueError(f"alpha must be <= {_MAX_ALPHA} degrees; got {alpha!r}")

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"alpha={self.alpha:g}"

    def measure(self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None) -> Tensor:
        """Compute the cosines with the references, of the anchors and then of the references."""
        given = [embeddings] if ref_emb is None else [embeddings, ref_emb]
        unit = [directions(x) for x in full_precision(*given)]
        return torch.cat(unit) @ unit[-1].T

    def compute_listed(self, matrix: Tensor, a: Tensor, p: Tensor, n: Tensor) -> tuple[Tensor, int]:
        """Compute the mean over the listed positive pairs, and count the anchors."""
        n_columns = matrix.shape[1]
        t = math.tan(math.radians(self.alpha)) ** 2
        from_positive = matrix[len(matrix) - n_columns + p, n]
        exponent = 4 * t * (matrix[a, n] + from_positive) - 2 * (1 + t) * matrix[a, p]
        pairs, pair = (a * n_columns + p).unique(return_inverse=True)
        odds = exponent.new_zeros(len(pairs)).index_add(0, pair, exponent.exp())
        return odds.log1p().sum() / max(1, len(pairs)), len(a.unique())

    def compute(
        self, distance: Tensor, positives: Positives, neg_mask: Tensor
    ) -> tuple[Tensor, int]:
        """Compute the mean over the positive pairs, and count the anchors.

        `distance` holds the cosines of :meth:`measure`.
        """
        anchors = ((positives.count > 0) & any_in_row(neg_mask)).nonzero().squeeze(1)
        t = math.tan(math.radians(self.alpha)) ** 2
        n_columns = distance.shape[1]
        first_point = len(distance) - n_columns  # 0 without references
        cosine, same = distance.detach(), positives.mask(n_columns)
        gradient, total = torch.zeros_like(cosine), cosine.new_zeros(())
        for a, p in positive_blocks(anchors, positives, same, within_batch=first_point == 0):
            anchor_exp, negative = (z.index_select(0, a.flatten()) for z in (cosine, neg_mask))
            anchor_exp = anchor_exp.mul_(4 * t).exp_().mul_(as_number(negative, anchor_exp.dtype))
            anchor_exp = anchor_exp.view(*a.shape, n_columns)
            pairs = a[:, :, None], p[:, None, :]
            if a is p:
                # Points of a class have the same negatives, so one mask serves both factors.
                part, of_product, of_cosine = angular(
                    anchor_exp, anchor_exp, cosine[pairs], same[pairs], t
                )
                of_anchor = ((of_product + of_product.mT) @ anchor_exp).mul_(anchor_exp)
            else:
                p_rows = first_point + p.flatten()
                pos_exp = cosine.index_select(0, p_rows).mul_(4 * t).exp_()
                pos_exp = pos_exp.view(*p.shape, n_columns)
                part, of_product, of_cosine = angular(
                    anchor_exp, pos_exp, cosine[pairs], same[pairs], t
                )
                of_anchor = (of_product @ pos_exp).mul_(anchor_exp)
                of_pos = (of_product.mT @ anchor_exp).mul_(pos_exp)
                gradient.index_add_(0, p_rows, of_pos.flatten(0, 1))
            total += part
            gradient.index_add_(0, a.flatten(), of_anchor.flatten(0, 1))
            gradient.index_put_(pairs, of_cosine, accumulate=True)
        factor = 1 / max(1, int(positives.count[anchors].sum()))
        return attach_gradient(total * factor, distance, gradient.mul_(factor)), len(anchors)
