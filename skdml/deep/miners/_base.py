"""The base class of the miners, and masks of the pairs of a batch."""

import inspect

import torch
from torch import Tensor

from skdml.deep._distances import pairwise_distance
from skdml.deep._pairs import label_masks
from skdml.distances import check_distance


def nearest_distance(distance: Tensor, mask: Tensor) -> Tensor:
    """Smallest distance among the true entries of each row, (n, 1); infinity if there are none."""
    if not distance.shape[1]:
        return distance.new_full((len(distance), 1), torch.inf)
    return torch.where(mask, distance, torch.inf).amin(1, keepdim=True)


def farthest_distance(distance: Tensor, mask: Tensor) -> Tensor:
    """Largest distance among the true entries of each row, (n, 1); -infinity if there are none."""
    return -nearest_distance(-distance, mask)


class Miner:
    """Base class of the miners. A subclass defines :meth:`mine`.

    Parameters
    ----------
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        Distance by which pairs and triplets are chosen.

    Raises
    ------
    ValueError
        If the name of the distance is unknown.
    """

    def __init__(self, distance: str = "euclidean") -> None:
        self.distance = check_distance(distance)

    def __repr__(self) -> str:
        names = inspect.signature(type(self)).parameters
        given = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({given})"

    def mine(self, distance: Tensor, same: Tensor, different: Tensor) -> tuple[Tensor, ...]:
        """Choose from a distance matrix.

        Parameters
        ----------
        distance : Tensor of shape (n, m)
            Distances from the anchors to the references.
        same, different : bool Tensor of shape (n, m)
            Masks of the positive pairs and of the negative pairs.

        Returns
        -------
        tuple of int64 Tensors
            Triplets (a, p, n) of shape (t,): rows of the anchors, columns of the positives and
            columns of the negatives. Or pairs (a1, p, a2, n): positive pairs (a1, p) of shape (s,)
            and negative pairs (a2, n) of shape (t,).
        """
        raise NotImplementedError(
            f"{type(self).__name__} cannot choose from distances alone, because it needs the "
            "embeddings; call the miner instead of mine"
        )

    def shares(self, distance: str, references: bool) -> bool:
        """Whether a loss can pass its distance matrix to `mine`.

        Parameters
        ----------
        distance : str
            The distance of the loss.
        references : bool
            Whether the columns of the matrix are references.

        Returns
        -------
        bool
            If False, the loss calls the miner with the embeddings.
        """
        return distance == self.distance

    @torch.no_grad()
    def __call__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Choose from a batch.

        Parameters
        ----------
        embeddings : Tensor of shape (n, d)
            Anchors. Without references, they are also the positives and negatives.
        labels : int Tensor of shape (n,)
            Classes of the embeddings.
        ref_emb : Tensor of shape (m, d), default=None
            References, from which positives and negatives are taken.
        ref_labels : int Tensor of shape (m,), default=None
            Classes of the references.

        Returns
        -------
        tuple of int64 Tensors
            Triplets (a, p, n) or pairs (a1, p, a2, n). The indices of anchors refer to the
            embeddings, those of positives and negatives to the references. Anchors without a
            positive or without a negative are in no triplet. Of equal distances, the one with the
            lowest index is taken.
        """
        distance = pairwise_distance(embeddings, ref_emb, self.distance)
        return self.mine(distance, *label_masks(labels, ref_labels))
