"""The pairs of a batch: masks, positives in packed form, and blocks of rows."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Number of matrix entries that are processed at a time. 2**18 floats fit in a processor's cache, so
# a loss that passes over a block several times costs little more than one pass over memory.
_BLOCK_SIZE = 2**18


def different_mask(labels: Tensor, ref_labels: Tensor | None = None) -> Tensor:
    """Mask of the pairs of different classes, of shape (n, m)."""
    both = labels if ref_labels is None else torch.cat([labels, ref_labels])
    # Comparing floats into floats, and converting these to bool, is much faster than one step.
    codes = both.unique(return_inverse=True)[1].float()
    rows, columns = codes[: len(labels), None], codes[0 if ref_labels is None else len(labels) :]
    return torch.ne(rows, columns, out=codes.new_empty(len(rows), len(columns))).bool()


def label_masks(labels: Tensor, ref_labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Masks (n, m) of the pairs of the same class (no self pairs) and of different classes."""
    different = different_mask(labels, ref_labels)
    same = ~different
    if ref_labels is None:
        same.fill_diagonal_(False)
    return same, different


def as_number(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a mask to 0 and 1; the conversion from bytes is much faster than from bool."""
    return mask.view(torch.uint8).to(dtype)


def padded_slots(mask: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return (row, column, slot) of each true entry, and the largest number of them in a row.

    The slots of a row are 0, 1, ... So ``table[row, slot] = matrix[row, column]`` packs the few
    true entries of a wide matrix into a narrow one.
    """
    row, column = mask.nonzero(as_tuple=True)
    count = torch.bincount(row, minlength=len(mask))
    slot = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    return row, column, slot, int(count.max()) if len(count) else 0


@dataclass(frozen=True)
class Positives:
    """The positives of each anchor, in as few columns as the anchor with most positives needs.

    Attributes
    ----------
    index : int64 Tensor of shape (n, p)
        Column of each positive in the distance matrix; p is the largest number in a row.
    valid : bool Tensor of shape (n, p)
        Which entries of `index` are positives. The other entries are padding.
    count : int64 Tensor of shape (n,)
        Number of positives of each anchor.
    whole_class : bool
        Whether the positives of each anchor are all other points of its class.
    within_batch : bool
        Whether the columns are the anchors themselves. If False, they are references.
    """

    index: Tensor
    valid: Tensor
    count: Tensor
    whole_class: bool = False
    within_batch: bool = True

    def select_rows(self, rows: Tensor) -> "Positives":
        """Return the positives of some anchors."""
        parts = self.index[rows], self.valid[rows], self.count[rows]
        return Positives(*parts, self.whole_class, self.within_batch)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Return rows and columns of all positive pairs."""
        row, slot = self.valid.nonzero(as_tuple=True)
        return row, self.index[row, slot]

    def mask(self, n_columns: int) -> Tensor:
        """Return the mask of the positive pairs, of shape (n, n_columns)."""
        mask = self.valid.new_zeros(len(self.valid), n_columns)
        mask[self.pairs()] = True
        return mask

    @classmethod
    def from_mask(cls, mask: Tensor, within_batch: bool = True) -> "Positives":
        """Pack the true entries of a mask of shape (n, m)."""
        row, column, slot, width = padded_slots(mask)
        index = torch.zeros(len(mask), width, dtype=torch.long, device=mask.device)
        index[row, slot] = column
        valid = torch.zeros_like(index, dtype=torch.bool)
        valid[row, slot] = True
        return cls(index, valid, valid.sum(1), within_batch=within_batch)

    @classmethod
    def from_labels(cls, labels: Tensor, ref_labels: Tensor | None = None) -> "Positives":
        """Pack the points with the label of each anchor, without a matrix of all pairs."""
        within_batch = ref_labels is None
        labels = labels.long()
        columns = labels if ref_labels is None else ref_labels.long()
        ordered, order = columns.sort(stable=True)
        first = torch.searchsorted(ordered, labels)
        count = torch.searchsorted(ordered, labels, right=True) - first - int(within_batch)
        width = int(count.max()) if len(count) else 0
        slot = torch.arange(width, device=labels.device).expand(len(labels), width)
        valid = slot < count[:, None]
        place = first[:, None] + slot
        if within_batch:
            # A point is not a positive of itself: skip its own place in the order.
            own_place = torch.empty_like(order)
            own_place[order] = torch.arange(len(order), device=order.device)
            place = place + (place >= own_place[:, None])
        index = order[place.clamp_(max=max(0, len(order) - 1))]
        return cls(index, valid, count, whole_class=True, within_batch=within_batch)


def pairs_from_labels(labels: Tensor, ref_labels: Tensor | None = None) -> tuple[Positives, Tensor]:
    """Return positives and a mask of the negative pairs, as the labels define them."""
    return Positives.from_labels(labels, ref_labels), different_mask(labels, ref_labels)


def pairs_from_indices(
    indices: Sequence[Tensor], shape: Sequence[int], within_batch: bool = True
) -> tuple[Positives, Tensor]:
    """Return positives and a mask of the negative pairs, as given tuples define them.

    A triplet (a, p, n) stands for the pairs (a, p) and (a, n).
    """
    a, p, *rest = indices
    b, n = rest if len(rest) == 2 else (a, *rest)
    same, different = torch.zeros(2, *shape, dtype=torch.bool, device=a.device)
    same[a, p] = True
    different[b, n] = True
    return Positives.from_mask(same, within_batch), different


def row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Yield slices that split a matrix into blocks of rows, each of bounded size."""
    step = max(1, math.ceil(n_rows / max(1, round(n_rows * n_columns / _BLOCK_SIZE))))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def check_reference(ref_emb: Any, ref_labels: Any) -> None:
    """Raise a ValueError if only one of the references and their labels is given."""
    if (ref_emb is None) != (ref_labels is None):
        given = "ref_emb" if ref_labels is None else "ref_labels"
        raise ValueError(f"ref_emb and ref_labels must be given together; got only {given}")


def check_batch(
    embeddings: Any, labels: Any, ref_emb: Any, ref_labels: Any
) -> tuple[Tensor, Tensor | None]:
    """Check the tensors of a batch, and return both labels on the device of their embeddings."""
    check_reference(ref_emb, ref_labels)
    labels = _check_labels("labels", labels, "embeddings", embeddings)
    if ref_emb is None:
        return labels, None
    ref_labels = _check_labels("ref_labels", ref_labels, "ref_emb", ref_emb)
    if ref_emb.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"ref_emb must be as wide as embeddings, {embeddings.shape[1]}; got {ref_emb.shape[1]}"
        )
    return labels, ref_labels


def _check_labels(name: str, labels: Any, embeddings_name: str, embeddings: Any) -> Tensor:
    """Check embeddings and their labels, and return the labels on the embeddings' device."""
    x, y = embeddings, labels
    if not isinstance(x, Tensor) or x.dim() != 2 or not x.is_floating_point():
        raise ValueError(
            f"{embeddings_name} must be a 2-D floating point tensor; got {describe(x)}"
        )
    if not isinstance(y, Tensor) or y.dim() != 1 or len(y) != len(x):
        raise ValueError(
            f"{name} must be a 1-D tensor of length {len(x)}, that of {embeddings_name}; "
            f"got {describe(y)}"
        )
    if y.is_floating_point() or y.is_complex():
        raise ValueError(f"{name} must be integers; got {describe(y)}")
    return y.to(x.device)


def check_indices(indices: Any, device: torch.device) -> tuple[Tensor, ...]:
    """Check the indices of triplets or pairs, and return them on a device."""
    if not isinstance(indices, (tuple, list)) or not all(map(torch.is_tensor, indices)):
        raise ValueError(
            f"indices_tuple must be a tuple of tensors of indices; got {describe(indices)}"
        )
    lengths = [len(i) for i in indices]
    pairs = lengths[:1] * 2 + lengths[2:3] * 2
    if len(lengths) not in (3, 4) or lengths not in (lengths[:1] * 3, pairs):
        raise ValueError(
            "indices_tuple must be triplets (a, p, n) or pairs (a1, p, a2, n) of equally long "
            f"indices; got lengths {lengths}"
        )
    return tuple(i.to(device) for i in indices)


def describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)} of {value.dtype}"
    return f"{type(value).__name__}"


def reduce_sum(total: Tensor, n_active: Tensor, n_used: Tensor, reduction: str) -> Tensor:
    """Return a sum over tuples, or its mean over the active or over all tuples.

    Parameters
    ----------
    total : Tensor of shape ()
        The sum.
    n_active, n_used : Tensor of shape ()
        Number of tuples with a loss > 0, and number of tuples.
    reduction : {"active", "mean", "sum"}
        What is returned.

    Returns
    -------
    Tensor of shape ()
        The sum or the mean.
    """
    if reduction == "sum":
        return total
    return total / (n_active if reduction == "active" else n_used).clamp(min=1)
