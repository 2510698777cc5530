"""The bases of the losses over all pairs of a batch, as a whole or anchor by anchor."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from skdml.deep._distances import attach_gradient, pairwise_distance
from skdml.deep._pairs import (
    Positives,
    as_number,
    check_batch,
    check_indices,
    pairs_from_indices,
    pairs_from_labels,
)
from skdml.deep.losses._gradient import sum_over_rows
from skdml.distances import check_distance


def any_in_row(mask: Tensor) -> Tensor:
    """Whether each row has a true entry; a sum of numbers is much faster than ``mask.any``."""
    return as_number(mask, torch.float32).sum(1) > 0


class MatrixLoss(torch.nn.Module, ABC):
    """Base of the losses over all pairs of a batch at once.

    :meth:`forward` checks the call, computes the distance matrix and the pairs, and leaves out
    anchors without the pairs they need. A subclass defines the loss in :meth:`compute`.

    Parameters
    ----------
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance between embeddings.

    Attributes
    ----------
    active_share : Tensor of shape ()
        Share of the embeddings that were anchors with a loss > 0 in the last call, detached.
    """

    # Whether an anchor must have a positive and a negative. Rows without them are left out.
    needs_positives, needs_negatives = True, True

    def __init__(self, distance: str) -> None:
        super().__init__()
        self.distance = check_distance(distance)
        self.active_share = torch.tensor(0.0)

    def measure(self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None) -> Tensor:
        """Compute the matrix from which the loss is computed."""
        return pairwise_distance(embeddings, ref_emb, self.distance)

    @abstractmethod
    def compute(
        self, distance: Tensor, positives: Positives, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor | int | float]:
        """Compute the loss of the anchors that have the pairs they need.

        Returns the value and the number of anchors with a loss > 0.
        """

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch.

        Parameters
        ----------
        embeddings : Tensor of shape (n, d)
            Anchors, floating point. Without references, all pairs are inside the batch.
        labels : int Tensor of shape (n,)
            Classes of the embeddings.
        indices_tuple : tuple of int64 Tensors, default=None
            Pairs (a1, p, a2, n), or triplets (a, p, n), which stand for their pairs. If given,
            only these pairs are used.
        ref_emb : Tensor of shape (m, d), default=None
            References. Pairs consist of an embedding and a reference; no pair is a self pair.
        ref_labels : int Tensor of shape (m,), default=None
            Classes of the references.

        Returns
        -------
        Tensor of shape ()
            The loss; float64 for float64 embeddings, float32 otherwise. If no anchor has the pairs
            it needs, the loss and its gradient are zero.

        Raises
        ------
        ValueError
            If shapes or types do not fit, or only one of ref_emb and ref_labels is given.
        """
        labels, ref_labels = check_batch(embeddings, labels, ref_emb, ref_labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            matrix = self.measure(embeddings, labels, ref_emb)
            if indices_tuple is None:
                positives, neg_mask = pairs_from_labels(labels, ref_labels)
                n_others = (len(labels) - 1) if ref_labels is None else len(ref_labels)
                has_negative = positives.count < n_others
            else:
                indices = check_indices(indices_tuple, labels.device)
                shape = len(labels), matrix.shape[1]
                positives, neg_mask = pairs_from_indices(indices, shape, ref_emb is None)
                has_negative = any_in_row(neg_mask)
            rows = self._rows_with_pairs(matrix, positives, neg_mask, has_negative)
            value, n_active = self.compute(*rows)
        share = torch.as_tensor(n_active / max(1, len(embeddings)), device=value.device)
        self.active_share = share.detach().to(value.dtype)
        return value

    def _rows_with_pairs(
        self, matrix: Tensor, positives: Positives, neg_mask: Tensor, has_negative: Tensor
    ) -> tuple[Tensor, Positives, Tensor]:
        """Leave out the anchors without the positives or negatives they need."""
        keep = positives.count > 0 if self.needs_positives else torch.ones_like(has_negative)
        if self.needs_negatives:
            keep &= has_negative
        if keep.all():
            return matrix, positives, neg_mask
        return matrix[keep], positives.select_rows(keep), neg_mask[keep]


class TripletMatrixLoss(MatrixLoss):
    """Base of the matrix losses that are defined by triplets.

    Triplets in a call are scored as they are given: a positive is compared only with the negatives
    that are listed with it, and a repeated triplet counts each time. A subclass defines their loss
    in :meth:`compute_listed`. In a call with pairs, each positive of an anchor is combined with
    each of its negatives.

    Parameters
    ----------
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance between embeddings.

    Attributes
    ----------
    active_share : Tensor of shape ()
        Share of the embeddings that were anchors with a loss > 0 in the last call, detached.
    """

    @abstractmethod
    def compute_listed(
        self, matrix: Tensor, a: Tensor, p: Tensor, n: Tensor
    ) -> tuple[Tensor, Tensor | int]:
        """Compute the loss of listed triplets from the matrix of :meth:`measure`.

        Returns the value and the number of anchors with a loss > 0.
        """

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch; see `MatrixLoss.forward`."""
        if indices_tuple is None or len(indices_tuple) != 3:
            return super().forward(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        labels, _ = check_batch(embeddings, labels, ref_emb, ref_labels)
        a, p, n = check_indices(indices_tuple, labels.device)
        with torch.autocast(embeddings.device.type, enabled=False):
            matrix = self.measure(embeddings, labels, ref_emb)
            value, n_active = self.compute_listed(matrix, a, p, n)
        share = torch.as_tensor(n_active / max(1, len(embeddings)), device=value.device)
        self.active_share = share.detach().to(value.dtype)
        return value


class RowLoss(MatrixLoss):
    """Base of the losses that are a mean over anchors.

    The loss of an anchor depends on its own distances only. A subclass defines it in
    :meth:`anchor_losses`.

    Parameters
    ----------
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance between embeddings.

    Attributes
    ----------
    active_share : Tensor of shape ()
        Share of the embeddings that were anchors with a loss > 0 in the last call, detached.
    """

    @abstractmethod
    def anchor_losses(
        self, pos_distance: Tensor, distance: Tensor, pos_mask: Tensor, neg_mask: Tensor
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Compute the losses of a block of anchors.

        Parameters
        ----------
        pos_distance : Tensor of shape (k, p)
            Distances of the positives, packed into the first columns of each row.
        distance : Tensor of shape (k, m)
            All distances.
        pos_mask : bool Tensor of shape (k, p)
            Which entries of `pos_distance` are positives; the others are padding.
        neg_mask : bool Tensor of shape (k, m)
            Which entries of `distance` belong to negatives.

        Returns
        -------
        Tensor of shape (k,), or tuple of Tensors
            The losses; or the losses and their gradients with respect to `pos_distance` and
            `distance`, if these are computed by hand.
        """

    def divisor(self, positives: Positives) -> int:
        """Return the number that divides the sum over anchors."""
        return len(positives.valid)

    def work_per_distance(self, positives: Positives) -> int:
        """Return how many numbers :meth:`anchor_losses` keeps for each distance."""
        return 1

    def compute(
        self, distance: Tensor, positives: Positives, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor | int | float]:
        """Compute the mean over the anchors."""
        pos_distance = distance.detach().gather(1, positives.index)
        inputs, constants = (pos_distance, distance), (positives.valid, neg_mask)
        total, n_active, gradients = sum_over_rows(
            self.anchor_losses, inputs, constants, self.work_per_distance(positives)
        )
        factor = 1 / max(1, self.divisor(positives))
        if gradients:
            pos_gradient, gradient = gradients
            gradient.scatter_add_(1, positives.index, pos_gradient).mul_(factor)
            return attach_gradient(total * factor, distance, gradient), n_active
        return total * factor, n_active
