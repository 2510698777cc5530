"""Margin loss: a learned boundary between positive and negative distances."""

import torch

from skdml.deep.losses._base import _Weighted
from skdml.deep.losses._batch import MatrixLoss
from skdml.deep.losses._checks import check_count, check_margin
from skdml.deep.miners import as_number

# Where the paper's boundary of 1.2, a Euclidean distance of points of length 1, lies by the others:
# 1.2^2, 1.2^2 / 2 and 2 arcsin(1.2 / 2) / pi.
_BOUNDARY = {"sqeuclidean": 1.44, "cosine": 0.72, "angular": 0.41}


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
