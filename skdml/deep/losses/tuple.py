"""Losses over triplets and tuples beside the triplet loss: margin, angular and N-pairs."""

import math

import torch

from skdml.deep._pairwise import _full_precision, directions, largest_entry, row_blocks
from skdml.deep.miners import as_number

from ._base import _Weighted, check_margin
from ._matrix import MatrixLoss, RowLoss, check_count, check_positive, some
from .softmax import nt_xent

_STEEPEST = 60  # degrees; beyond it the exponentials would leave the range of single precision
_APART = 8  # blocks of listed pairs are the smaller, the fewer points they have in common
# Where the paper's boundary of 1.2, a Euclidean distance of points of length 1, lies by the others:
# 1.2^2, 1.2^2 / 2 and 2 arcsin(1.2 / 2) / pi.
_BOUNDARY = {"sqeuclidean": 1.44, "cosine": 0.72, "angular": 0.41}
_LARGEST_ENTRY = 1e15  # dot products of larger entries would leave it


def mean_of_terms(far, near, n_negatives, n_positives):
    r"""Mean of the terms > 0 of all triplets, and its gradient, which takes their place.

    .. math:: \sum_{a, p, n} (f_{ap} + g_{an}) \Big/ \sum_{a, p, n} ([f_{ap} > 0] + [g_{an} > 0])

    A positive pair is in as many triplets as its anchor has negatives, and the other way round.

    Parameters
    ----------
    far : Tensor of shape (n, p)
        Terms of the positive pairs, >= 0; 0 where there is none.
    near : Tensor of shape (n, m)
        Terms of the negative pairs.
    n_negatives, n_positives : Tensor of shape (n,)
        How many each anchor has.

    Returns
    -------
    value : Tensor of shape ()
        The mean; zero if no term is > 0.
    of_far, of_near : Tensors
        Its gradient.
    """
    total = n_negatives @ far.sum(1) + n_positives @ near.sum(1)
    far, near = far.sign_(), near.sign_()
    count = (n_negatives @ far.sum(1) + n_positives @ near.sum(1)).clamp(min=1)
    return (
        total / count,
        far.mul_(n_negatives[:, None] / count),
        near.mul_(n_positives[:, None] / count),
    )


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


class MarginLoss(MatrixLoss):
    r"""Margin loss: positives within a learned boundary, negatives beyond it, each by a margin.

    .. math:: \ell(a, p, n) = [d_{ap} - \beta_a + m]_+ + [\beta_a - d_{an} + m]_+

    The boundary beta is a parameter of the loss and is learned with the network; with n_classes
    there is one for each class of anchors. The paper draws a negative for each positive pair; here
    all triplets count, and the loss is their sum over how many of the terms [...] are > 0. So beta
    moves to where as many positives as negatives are off, by their share. Given tuples with a
    common anchor are joined: each of its positives meets each of its negatives.

    Parameters
    ----------
    margin : float, default=0.2
        The margin m; >= 0, and at most 2 for cosine and 1 for angular distances.
    boundary : float or None, default=None
        Where beta starts; > 0, and at most 2 for cosine and 1 for angular distances. None is the
        paper's 1.2, a distance of points of length 1: 1.44 for sqeuclidean, 0.72 for cosine and
        0.41 for angular distances.
    n_classes : int or None, default=None
        Number of classes with a boundary of their own; labels are then 0, ..., n_classes - 1.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance between embeddings.

    Attributes
    ----------
    beta : Parameter of shape () or (n_classes,)
        The boundaries.
    active_share : Tensor of shape ()
        After a call: share of the embeddings that are anchors with a loss > 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range, or a label has no boundary.

    References
    ----------
    Wu, Manmatha, Smola, Krähenbühl: Sampling Matters in Deep Embedding Learning, ICCV 2017 (the
    margin based loss).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [2.0], [1.0]])
    >>> loss = MarginLoss(margin=0.5, boundary=1.0)
    >>> loss(x, torch.tensor([0, 0, 1])).item()  # the mean of 2 - 1 + 0.5 and 1 - 1 + 0.5
    1.0
    """

    def __init__(self, margin=0.2, *, boundary=None, n_classes=None, distance="euclidean"):
        super().__init__(distance)
        self.margin = check_margin(margin, distance, zero=True)
        boundary = _BOUNDARY.get(distance, 1.2) if boundary is None else boundary
        self.boundary = check_margin(boundary, distance, zero=False, name="boundary")
        self.n_classes = None if n_classes is None else check_count("n_classes", n_classes)
        shape = () if n_classes is None else (self.n_classes,)
        self.beta = torch.nn.Parameter(torch.full(shape, self.boundary))

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return (
            f"margin={self.margin:g}, boundary={self.boundary:g}, n_classes={self.n_classes}, "
            f"distance={self.distance!r}"
        )

    def measure(self, embeddings, labels, ref_emb):
        """Distances, less the boundary of the anchor."""
        distance = super().measure(embeddings, labels, ref_emb)
        if self.n_classes is None:
            return distance - self.beta
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.n_classes):
            raise ValueError(
                f"labels must lie in 0, ..., {self.n_classes - 1}, because n_classes="
                f"{self.n_classes}; got {labels.min().item()} to {labels.max().item()}"
            )
        return distance - self.beta[labels.long()][:, None]

    def compute(self, distance, positives, different):
        """Mean over the terms, and the number of anchors with a loss."""
        with torch.no_grad():
            kept, lost = (as_number(m, distance.dtype) for m in (positives.taken, different))
            far = (distance.gather(1, positives.index) + self.margin).clamp_(min=0).mul_(kept)
            near = (self.margin - distance).clamp_(min=0).mul_(lost)
            active = (far.sum(1) + near.sum(1) > 0).sum()
            value, of_far, of_near = mean_of_terms(far, near, lost.sum(1), kept.sum(1))
            weights = of_near.neg_().scatter_add_(1, positives.index, of_far)
        return _Weighted.apply(distance, weights, value), active


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
