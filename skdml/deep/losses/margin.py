"""Margin loss: a learned boundary between the distances of positives and negatives."""

import torch
from torch import Tensor

from skdml.deep._distances import attach_gradient
from skdml.deep._pairs import Positives, as_number
from skdml.deep.losses._checks import check_count, check_label_range, check_margin
from skdml.deep.losses._matrix import TripletMatrixLoss

# The boundary of the paper, 1.2, is a Euclidean distance of points of length 1. The same boundary
# in other distances is 1.2^2, 1.2^2 / 2 and 2 arcsin(1.2 / 2) / pi.
_BOUNDARY = {"sqeuclidean": 1.44, "cosine": 0.72, "angular": 0.41}


def mean_of_terms(
    pos_term: Tensor, neg_term: Tensor, n_negatives: Tensor, n_positives: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Mean of the terms > 0 of all triplets, and its gradients.

    .. math:: \sum_{a, p, n} (f_{ap} + g_{an}) \Big/ \sum_{a, p, n} ([f_{ap} > 0] + [g_{an} > 0])

    A positive pair is in as many triplets as its anchor has negatives, and a negative pair is in
    as many triplets as its anchor has positives.

    Parameters
    ----------
    pos_term : Tensor of shape (n, p)
        Terms f of the positive pairs, >= 0; 0 in padded entries. The gradient overwrites them.
    neg_term : Tensor of shape (n, m)
        Terms g of the negative pairs, >= 0; 0 for other pairs. The gradient overwrites them.
    n_negatives, n_positives : Tensor of shape (n,)
        Number of negatives and of positives of each anchor.

    Returns
    -------
    value : Tensor of shape ()
        The mean; zero if no term is > 0.
    pos_gradient, neg_gradient : Tensors of shape (n, p) and (n, m)
        Gradients with respect to the terms.
    """
    total = n_negatives @ pos_term.sum(1) + n_positives @ neg_term.sum(1)
    pos_sign, neg_sign = pos_term.sign_(), neg_term.sign_()
    count = (n_negatives @ pos_sign.sum(1) + n_positives @ neg_sign.sum(1)).clamp(min=1)
    return (
        total / count,
        pos_sign.mul_(n_negatives[:, None] / count),
        neg_sign.mul_(n_positives[:, None] / count),
    )


class MarginLoss(TripletMatrixLoss):
    r"""Margin loss: positives within a learned boundary, negatives beyond it, each by a margin.

    .. math:: \ell(a, p, n) = [d_{ap} - \beta_a + m]_+ + [\beta_a - d_{an} + m]_+

    The boundary beta is a parameter of the loss and is learned with the network. With n_classes,
    each class of anchors has a boundary of its own.

    The loss is the sum over all triplets, divided by the number of terms [...] that are > 0. So
    beta moves to where the share of positives with a term > 0 equals that of negatives. Given
    triplets are scored as they are. Of given pairs, each positive of an anchor is combined with
    each of its negatives.

    Unlike the paper, which draws one negative for each positive pair, all triplets of the batch
    count if none are given; the miner "distance_weighted" draws as in the paper. Unlike the paper,
    the loss has no regulariser of beta and no beta for each point.

    Parameters
    ----------
    margin : float, default=0.2
        The margin m, >= 0. At most 2 for cosine and 1 for angular distances.
    boundary : float or None, default=None
        Start of beta, > 0. At most 2 for cosine and 1 for angular distances. None means the
        boundary of the paper, 1.2 for points of length 1. That is 1.44 for sqeuclidean, 0.72 for
        cosine and 0.41 for angular distances.
    n_classes : int or None, default=None
        Number of classes with a boundary of their own; labels are then 0, ..., n_classes - 1.
        None means one boundary for all.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        Distance between embeddings.

    Attributes
    ----------
    beta : Parameter of shape () or (n_classes,)
        The boundaries.
    active_share : Tensor of shape ()
        Share of the embeddings that were anchors with a loss > 0 in the last call.

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

    def __init__(
        self,
        margin: float = 0.2,
        *,
        boundary: float | None = None,
        n_classes: int | None = None,
        distance: str = "euclidean",
    ) -> None:
        super().__init__(distance)
        self.margin = check_margin(margin, distance, zero=True)
        boundary = _BOUNDARY.get(distance, 1.2) if boundary is None else boundary
        self.boundary = check_margin(boundary, distance, zero=False, name="boundary")
        self.n_classes = None if n_classes is None else check_count("n_classes", n_classes)
        shape = () if self.n_classes is None else (self.n_classes,)
        self.beta = torch.nn.Parameter(torch.full(shape, self.boundary))

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return (
            f"margin={self.margin:g}, boundary={self.boundary:g}, n_classes={self.n_classes}, "
            f"distance={self.distance!r}"
        )

    def measure(self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None) -> Tensor:
        """Compute the distances minus the boundary of the anchor."""
        distance = super().measure(embeddings, labels, ref_emb)
        if self.n_classes is None:
            return distance - self.beta
        check_label_range(labels, self.n_classes)
        return distance - self.beta[labels.long()][:, None]

    def compute_listed(
        self, matrix: Tensor, a: Tensor, p: Tensor, n: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the mean of the terms > 0 of listed triplets, and count the active anchors."""
        terms = torch.stack([matrix[a, p] + self.margin, self.margin - matrix[a, n]]).clamp(min=0)
        n_terms = (terms > 0).sum().clamp(min=1)
        active = torch.zeros_like(matrix[:, 0]).index_add(0, a, terms.detach().sum(0))
        return terms.sum() / n_terms, (active > 0).sum()

    def compute(
        self, distance: Tensor, positives: Positives, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the mean of the terms, and count the anchors with a loss > 0."""
        with torch.no_grad():
            pos, neg = (as_number(m, distance.dtype) for m in (positives.valid, neg_mask))
            pos_distance = distance.gather(1, positives.index)
            pos_term = (pos_distance + self.margin).clamp_(min=0).mul_(pos)
            neg_term = (self.margin - distance).clamp_(min=0).mul_(neg)
            n_active = (pos_term.sum(1) + neg_term.sum(1) > 0).sum()
            value, pos_gradient, neg_gradient = mean_of_terms(
                pos_term, neg_term, neg.sum(1), pos.sum(1)
            )
            gradient = neg_gradient.neg_().scatter_add_(1, positives.index, pos_gradient)
        return attach_gradient(value, distance, gradient), n_active
