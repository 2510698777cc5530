"""Losses over triplets and tuples beside the triplet loss: margin, angular and N-pairs."""

import math

import torch

from skdml.deep._distances import _full_precision, directions, largest_entry, row_blocks
from skdml.deep.losses._base import _Weighted
from skdml.deep.losses._batch import MatrixLoss, some
from skdml.deep.losses._checks import check_positive
from skdml.deep.miners import as_number

_STEEPEST = 60  # degrees; beyond it the exponentials would leave the range of single precision


_APART = 8  # blocks of listed pairs are the smaller, the fewer points they have in common


def angular(own, other, between, same, slope):
    r"""Angular loss of anchors a and points p of some groups, and its gradient.

    .. math:: \log \Bigl( 1 + \sum_n e^{4 t (x_a + x_p)^T x_n - 2 (1 + t) x_a^T x_p} \Bigr),
        \quad t = \tan^2 \alpha

    The sum over n of a product of exponentials is a matrix product: no triplet is listed.

    Parameters
    ----------
    own : Tensor of shape (g, k, m)
        Exponentials of 4 t times the cosines of the anchors with all points; 0 for what is no
        negative of the anchor. Each has one.
    other : Tensor of shape (g, l, m)
        Exponentials of 4 t times the cosines of the points p with all points.
    between : Tensor of shape (g, k, l)
        Cosines of the anchors with the points p.
    same : bool Tensor of shape (g, k, l)
        The positive pairs (a, p).
    slope : float
        The squared tangent t.

    Returns
    -------
    total : Tensor of shape ()
        Sum of the loss.
    of_reach : Tensor of shape (g, k, l)
        Its gradient by the products of `own` and `other`, times 4 t.
    of_between : Tensor of shape (g, k, l)
        Its gradient by `between`, apart from these.
    """
    reach = own @ other.mT
    odds = (between * (-2 * (1 + slope))).exp_().mul_(reach).mul_(as_number(same, own.dtype))
    share = odds / (1 + odds)
    return odds.log1p().sum(), 4 * slope * share / reach, -2 * (1 + slope) * share


def class_keys(anchors, positives, alone):
    """Return for each anchor a point that anchors of its class share: the first of their positives.

    Without references (`alone`) that may be the anchor itself.
    """
    first = positives.index[anchors, :1].sum(1)  # a sum of one, or of none
    return torch.minimum(first, anchors) if alone else first


def groups_of_classes(anchors, positives, alone):
    """Yield anchors (g, k) and points (g, l) of g classes at a time, which are of the same sizes.

    Without references (`alone`) the points are the anchors themselves.
    """
    key, order = class_keys(anchors, positives, alone).sort(stable=True)
    anchors = anchors[order]
    size = key.unique_consecutive(return_counts=True)[1]
    size, count = size.repeat_interleave(size), positives.count[anchors]
    for k, width in sorted(set(zip(size.tolist(), count.tolist(), strict=True))):
        a = anchors[(size == k) & (count == width)].view(-1, k)
        yield a, a if alone else positives.index[a[:, 0], :width]


def cut_entries(x, largest):
    """Cut what is beyond a limit, and give it no gradient; seldom there is anything."""
    return x.clamp(-largest, largest) if largest_entry(x) > largest else x


class AngularLoss(MatrixLoss):
    r"""Angular loss: the angle at the negative of each triplet is at most alpha.

    .. math:: L = \operatorname{mean}_{(a, p) \in P} \; \log \Bigl( 1 + \sum_n
        e^{4 \tan^2 \alpha \, (x_a + x_p)^T x_n - 2 (1 + \tan^2 \alpha) \, x_a^T x_p} \Bigr)

    of embeddings scaled to length 1, over all positive pairs whose anchor has a negative, each with
    all negatives of its anchor: one matrix product, and memory O(B^2). Given tuples with a
    common anchor are joined: each of its positives meets each of its negatives.

    Parameters
    ----------
    alpha : float, default=45.0
        The largest angle, in degrees; > 0 and <= 60.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the embeddings that are anchors with a positive and a negative.

    Raises
    ------
    ValueError
        If alpha is outside its range.

    References
    ----------
    Wang, Zhou, Wen, Liu, Lin: Deep Metric Learning with Angular Loss, ICCV 2017.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> loss = AngularLoss(45)(x, torch.tensor([0, 0, 1]))
    >>> round(loss.item(), 4)  # log(1 + exp(-4))
    0.0181
    """

    needs_same = needs_different = False  # of the rows some are references

    def __init__(self, alpha=45.0):
        super().__init__("cosine")
        self.alpha = check_positive("alpha", alpha)
        if self.alpha > _STEEPEST:
            raise ValueError(f"alpha must be <= {_STEEPEST} degrees; got {alpha!r}")

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"alpha={self.alpha:g}"

    def measure(self, embeddings, labels, ref_emb):
        """Cosines with the references: of the anchors and, below them, of the references."""
        given = [embeddings] if ref_emb is None else [embeddings, ref_emb]
        unit = [directions(x) for x in _full_precision(*given)]
        return torch.cat(unit) @ unit[-1].T

    def compute(self, cosine, positives, different):
        """Mean over the positive pairs, and the number of anchors."""
        anchors = ((positives.count > 0) & some(different)).nonzero().squeeze(1)
        slope = math.tan(math.radians(self.alpha)) ** 2
        columns = cosine.shape[1]
        first = len(cosine) - columns  # row of the first point; 0 without references
        given, same = cosine.detach(), positives.mask(columns)
        weights, total = torch.zeros_like(given), given.new_zeros(())
        for a, p in self._groups(anchors, positives, same, first):
            own, negative = (t.index_select(0, a.flatten()) for t in (given, different))
            own = own.mul_(4 * slope).exp_().mul_(as_number(negative, own.dtype))
            own = own.view(*a.shape, columns)
            pairs = a[:, :, None], p[:, None, :]
            if a is p:
                # Points of a class have the same negatives, so that both sides are masked alike.
                part, of_reach, of_between = angular(own, own, given[pairs], same[pairs], slope)
                of_own = ((of_reach + of_reach.mT) @ own).mul_(own)
            else:
                other = given.index_select(0, first + p.flatten()).mul_(4 * slope).exp_()
                other = other.view(*p.shape, columns)
                part, of_reach, of_between = angular(own, other, given[pairs], same[pairs], slope)
                of_own = (of_reach @ other).mul_(own)
                of_other = (of_reach.mT @ own).mul_(other)
                weights.index_add_(0, first + p.flatten(), of_other.flatten(0, 1))
            total += part
            weights.index_add_(0, a.flatten(), of_own.flatten(0, 1))
            weights.index_put_(pairs, of_between, accumulate=True)
        share = 1 / max(1, int(positives.count[anchors].sum()))
        return _Weighted.apply(cosine, weights.mul_(share), total * share), len(anchors)

    @staticmethod
    def _groups(anchors, positives, same, first):
        """Yield anchors and points, (g, k) and (g, l), that hold all positive pairs once."""
        columns = same.shape[1]
        if positives.by_class:
            for a, p in groups_of_classes(anchors, positives, alone=first == 0):
                for block in row_blocks(len(a), (a.shape[1] + p.shape[1]) * columns):
                    yield (a[block],) * 2 if a is p else (a[block], p[block])
            return
        # Anchors of a class have positives in common, so that a block of them has few.
        key = class_keys(anchors, positives, alone=first == 0)
        anchors = anchors[key.argsort(stable=True)]
        for block in row_blocks(len(anchors), _APART * columns):
            a = anchors[block]
            yield a[None], same[a].any(0).nonzero().T
