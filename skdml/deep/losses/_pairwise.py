"""The base of the losses over pairs or triplets that a miner may choose."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skdml.deep._distances import BatchDistances, attach_gradient
from skdml.deep._pairs import Positives, check_batch, check_indices, label_masks, pairs_from_labels
from skdml.deep.losses._checks import check_choice
from skdml.deep.miners import AllTripletsMiner, Miner, get_miner
from skdml.deep.miners._checked import CheckedMiner
from skdml.distances import check_distance

REDUCTIONS = ("active", "mean", "sum")

Indices = tuple[Tensor, ...]
Pairs = tuple[Positives, Tensor]


class PairwiseLoss(torch.nn.Module, ABC):
    """Base of the losses over pairs or triplets that a miner may choose.

    :meth:`forward` checks the call, mines, and computes distances. A subclass defines the loss
    twice: :meth:`compute_dense` for all tuples of a set of pairs, with a gradient computed by
    hand, and :meth:`compute_listed` for listed tuples. :meth:`convert_indices` decides which of
    the two is used for given indices.

    Parameters
    ----------
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance between embeddings.
    miner : str, class, callable or None
        Chooses the tuples if a call gives no indices. See `skdml.deep.miners.get_miner`.
    reduction : {"active", "mean", "sum"}
        Mean over the tuples with a loss > 0, mean over all valid tuples, or sum.

    Attributes
    ----------
    active_share : Tensor of shape ()
        Share of the tuples in the last call that had a loss > 0, detached.
    """

    def __init__(self, distance: str, miner: Any, reduction: str) -> None:
        super().__init__()
        self.distance = check_distance(distance)
        self.miner: Any = get_miner(miner, distance)
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.active_share = torch.tensor(0.0)

    @abstractmethod
    def compute_dense(
        self, distance: Tensor, positives: Positives, neg_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the loss over all tuples of some pairs, without a graph.

        Returns the value, its gradient with respect to the distances, the number of tuples with a
        loss > 0, and the number of tuples.
        """

    @abstractmethod
    def compute_listed(
        self, distance_of: Callable[[Tensor, Tensor], Tensor], indices: Indices
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the loss over listed tuples.

        ``distance_of(i, j)`` gives the distances of listed pairs. Returns the value, the number
        of tuples with a loss > 0, and the number of tuples.
        """

    @abstractmethod
    def convert_indices(
        self, indices: Indices, shape: tuple[int, int]
    ) -> tuple[Indices | None, Pairs | None]:
        """Convert given or mined indices to the tuples of this loss.

        Returns (indices, None) for listed tuples, or (None, pairs) for all tuples of some pairs.
        """

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Indices | None = None,
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
            Triplets (a, p, n), or pairs (a1, p, a2, n): positive pairs (a1, p) and negative
            pairs (a2, n). If given, only these tuples are used and nothing is mined.
        ref_emb : Tensor of shape (m, d), default=None
            References. Pairs consist of an embedding and a reference; no pair is a self pair.
        ref_labels : int Tensor of shape (m,), default=None
            Classes of the references.

        Returns
        -------
        Tensor of shape ()
            The loss, >= 0; float64 for float64 embeddings, float32 otherwise. Without a valid
            tuple, the loss and its gradient are zero.

        Raises
        ------
        ValueError
            If shapes or types do not fit, or only one of ref_emb and ref_labels is given.
        """
        labels, ref_labels = check_batch(embeddings, labels, ref_emb, ref_labels)
        distances = BatchDistances(embeddings, ref_emb, self.distance)
        indices: Any = None
        pairs: Pairs | None = None
        if indices_tuple is None and isinstance(self.miner, AllTripletsMiner):
            pairs = pairs_from_labels(labels, ref_labels)
        else:
            if indices_tuple is None:
                indices_tuple = self._mine(distances, labels, ref_labels)
            indices = check_indices(indices_tuple, embeddings.device)
            indices, pairs = self.convert_indices(indices, distances.shape)
        with torch.autocast(embeddings.device.type, enabled=False):
            if pairs is None:
                value, active, used = self.compute_listed(distances.of_pairs, indices)
            else:
                matrix = distances.matrix
                with torch.no_grad():
                    value, gradient, active, used = self.compute_dense(matrix, *pairs)
                value = attach_gradient(value, matrix, gradient)
        self.active_share = (active / used.clamp(min=1)).detach().to(value.dtype)
        return value

    def _mine(
        self, distances: BatchDistances, labels: Tensor, ref_labels: Tensor | None
    ) -> Indices:
        """Return the tuples that the miner chooses, by the distances of the loss if they serve."""
        references = () if distances.ref_emb is None else (distances.ref_emb, ref_labels)
        # A miner of skdml that chooses by the distance of the loss shares its matrix.
        if isinstance(self.miner, Miner) and self.miner.shares(
            self.distance, references=bool(references)
        ):
            with torch.autocast(distances.embeddings.device.type, enabled=False):
                masks = label_masks(labels, ref_labels)
                return self.miner.mine(distances.matrix.detach(), *masks)
        return CheckedMiner(self.miner)(distances.embeddings, labels, *references)
