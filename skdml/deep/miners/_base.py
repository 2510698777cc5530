"""What the miners share: masks of pairs, and the call."""

import inspect

import torch

from skdml.deep._distances import pairwise_distance
from skdml.distances import check_distance


def different_mask(labels, ref_labels=None):
    """Mask of the pairs of different classes, of shape (n, m)."""
    every = labels if ref_labels is None else torch.cat([labels, ref_labels])
    # Floats compared into floats, and those turned into a mask: far quicker than in one step.
    codes = every.unique(return_inverse=True)[1].float()
    rows, columns = codes[: len(labels), None], codes[0 if ref_labels is None else len(labels) :]
    return torch.ne(rows, columns, out=codes.new_empty(len(rows), len(columns))).bool()


def label_masks(labels, ref_labels=None):
    """Two (n, m) masks: the pairs of the same class (no self pairs) and of different classes."""
    different = different_mask(labels, ref_labels)
    same = ~different
    if ref_labels is None:
        same.fill_diagonal_(False)
    return same, different


def as_number(mask, dtype):
    """0 and 1 in place of false and true; by way of bytes, which is far quicker."""
    return mask.view(torch.uint8).to(dtype)


def padded_slots(mask):
    """Return (row, column, place in the row) of the true entries, and the most per row.

    ``table[row, place] = matrix[row, column]`` packs the few true entries of a wide matrix into a
    narrow one.
    """
    row, column = mask.nonzero(as_tuple=True)
    count = torch.bincount(row, minlength=len(mask))
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    return row, column, place, int(count.max()) if len(count) else 0


def nearest(distance, mask):
    """Distance of the nearest true entry of each row, (n, 1); infinity where there is none."""
    values = torch.where(mask, distance, torch.inf)
    return (
        values.amin(1, keepdim=True)
        if values.shape[1]
        else values.new_full((len(values), 1), torch.inf)
    )


def farthest(distance, mask):
    """Distance of the farthest true entry of each row, (n, 1); -infinity where there is none."""
    return -nearest(-distance, mask)


class Miner:
    """Base class of the miners.

    Parameters
    ----------
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        Distance by which pairs and triplets are chosen.

    Raises
    ------
    ValueError
        If the name of the distance is unknown.
    """

    def __init__(self, distance="euclidean"):
        self.distance = check_distance(distance)

    def __repr__(self):
        names = inspect.signature(type(self)).parameters
        given = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({given})"

    def mine(self, distance, same, different):
        """Choose from a distance matrix.

        Parameters
        ----------
        distance : Tensor of shape (n, m)
            Distances from the anchors to the references.
        same, different : bool Tensor of shape (n, m)
            Which pairs are positive and which negative.

        Returns
        -------
        tuple of int64 Tensors
            Triplets (a, p, n) of shape (t,): rows of the anchors, columns of the positives and of
            the negatives. Or pairs (a1, p, a2, n): positive pairs (a1, p) of shape (s,) and
            negative pairs (a2, n) of shape (t,).
        """
        raise NotImplementedError(f"{type(self).__name__} chooses by more than distances; call it")

    def shares(self, distance, references):
        """Whether `mine` can choose by the matrix that a loss has computed.

        Parameters
        ----------
        distance : str
            The distance of the loss.
        references : bool
            Whether the columns of the matrix are other points than its rows.

        Returns
        -------
        bool
            If not, the miner has to be called.
        """
        return distance == self.distance

    @torch.no_grad()
    def __call__(self, embeddings, labels, ref_emb=None, ref_labels=None):
        """Choose from a batch.

        Parameters
        ----------
        embeddings : Tensor of shape (n, d)
            Anchors; without references the positives and negatives as well.
        labels : int Tensor of shape (n,)
            Classes of the embeddings.
        ref_emb : Tensor of shape (m, d), optional
            References, from which positives and negatives are taken.
        ref_labels : int Tensor of shape (m,), optional
            Classes of the references.

        Returns
        -------
        tuple of int64 Tensors
            Triplets (a, p, n) or pairs (a1, p, a2, n): indices of the anchors in the embeddings,
            and of the positives and the negatives in the references. Anchors without a positive or
            without a negative are in no triplet; among equal distances the lowest index is taken.
        """
        distance = pairwise_distance(embeddings, ref_emb, self.distance)
        return self.mine(distance, *label_masks(labels, ref_labels))
