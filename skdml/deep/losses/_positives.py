"""The pairs of a batch, as the losses take them: packed positives, and a mask of the negatives."""

from dataclasses import dataclass

import torch

from skdml.deep.miners import different_mask, padded_slots


@dataclass(frozen=True)
class Positives:
    """The positives of each anchor, packed into the few columns that the most of them need.

    Attributes
    ----------
    index : int64 Tensor of shape (n, p)
        Columns of the positives of each row, p the most of a row.
    taken : bool Tensor of shape (n, p)
        Which places hold a positive; the index of the others means nothing.
    count : int64 Tensor of shape (n,)
        How many each row has.
    by_class : bool
        Whether they are all points of the anchor's class.
    """

    index: torch.Tensor
    taken: torch.Tensor
    count: torch.Tensor
    by_class: bool = False

    def of_rows(self, rows):
        """Those of some anchors."""
        return Positives(self.index[rows], self.taken[rows], self.count[rows], self.by_class)

    def pairs(self):
        """List the pairs: rows and columns."""
        row, place = self.taken.nonzero(as_tuple=True)
        return row, self.index[row, place]

    def mask(self, columns):
        """Mask of the pairs, of shape (n, columns)."""
        mask = self.taken.new_zeros(len(self.taken), columns)
        mask[self.pairs()] = True
        return mask

    @classmethod
    def of_mask(cls, mask):
        """Pack the true entries of a mask of shape (n, m)."""
        row, column, place, width = padded_slots(mask)
        index = torch.zeros(len(mask), width, dtype=torch.long, device=mask.device)
        index[row, place] = column
        taken = torch.zeros_like(index, dtype=torch.bool)
        taken[row, place] = True
        return cls(index, taken, taken.sum(1))

    @classmethod
    def of_labels(cls, labels, ref_labels=None):
        """Pack what has the label of the anchor, without looking at all pairs."""
        alone = ref_labels is None
        labels = labels.long()
        ordered, order = (labels if alone else ref_labels.long()).sort(stable=True)
        first = torch.searchsorted(ordered, labels)
        count = torch.searchsorted(ordered, labels, right=True) - first - int(alone)
        width = int(count.max()) if len(count) else 0
        place = torch.arange(width, device=labels.device).expand(len(labels), width)
        taken = place < count[:, None]
        place = first[:, None] + place
        if alone:  # a point is no positive of itself: the places from its own on move by one
            own = torch.empty_like(order)
            own[order] = torch.arange(len(order), device=order.device)
            place = place + (place >= own[:, None])
        return cls(order[place.clamp_(max=max(0, len(order) - 1))], taken, count, by_class=True)


def label_pairs(labels, ref_labels=None):
    """Positives and a mask of the negative pairs, by the labels."""
    return Positives.of_labels(labels, ref_labels), different_mask(labels, ref_labels)


def listed_pairs(indices, shape):
    """Positives and a mask of the negative pairs, by given tuples.

    Triplets (a, p, n) stand for the pairs (a, p) and (a, n).
    """
    a, p, *rest = indices
    b, n = rest if len(rest) == 2 else (a, *rest)
    same, different = torch.zeros(2, *shape, dtype=torch.bool, device=a.device)
    same[a, p] = True
    different[b, n] = True
    return Positives.of_mask(same), different
