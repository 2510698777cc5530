"""Checks of the parameters of losses, and of the tensors in a call."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# The largest value of each bounded distance. A margin cannot exceed it.
MAX_DISTANCE = {"cosine": 2.0, "angular": 1.0}


def check_choice(name: str, value: T, choices: Sequence[T]) -> T:
    """Return the value, or raise a ValueError that lists the choices."""
    if isinstance(value, bool) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}")
    return value


def check_margin(margin: Any, distance: str, *, zero: bool, name: str = "margin") -> float:
    """Return the margin as a float, or raise a ValueError that states the allowed range."""
    largest = MAX_DISTANCE.get(distance, math.inf)
    allowed = f"a finite number {'>= 0' if zero else '> 0'}"
    if largest < math.inf:
        allowed += f" and <= {largest:g}, the largest {distance} distance"
    number = isinstance(margin, Real) and not isinstance(margin, bool)
    if not (number and math.isfinite(margin) and 0 <= margin <= largest and (zero or margin > 0)):
        raise ValueError(f"{name} must be {allowed}; got {margin!r}")
    return float(margin)


def check_positive(name: str, value: Any, *, zero: bool = False, below: float = math.inf) -> float:
    """Return the value as a float, or raise a ValueError that states the allowed range."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not (number and (0 < value < below or (zero and value == 0))):
        allowed = f"{'>=' if zero else '>'} 0" + (f" and < {below:g}" if below < math.inf else "")
        raise ValueError(f"{name} must be a finite number {allowed}; got {value!r}")
    return float(value)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return the value as an int, or raise a ValueError that states the allowed range."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}; got {value!r}")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """Return the value, or raise a ValueError if it is not a bool."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False; got {value!r}")
    return value


def check_label_range(labels: Tensor, n_classes: int) -> None:
    """Raise a ValueError unless all labels are 0, ..., n_classes - 1."""
    if len(labels) and not (labels.min() >= 0 and labels.max() < n_classes):
        raise ValueError(
            f"labels must lie in 0, ..., {n_classes - 1}, because n_classes="
            f"{n_classes}; got {labels.min().item()} to {labels.max().item()}"
        )


def check_reference(ref_emb: Any, ref_labels: Any) -> None:
    """Raise a ValueError if only one of the references and their labels is given."""
    if (ref_emb is None) != (ref_labels is None):
        given = "ref_emb" if ref_labels is None else "ref_labels"
        raise ValueError(f"ref_emb and ref_labels must be given together; got only {given}")


def check_views(embeddings: Any, indices_tuple: Any, ref_emb: Any) -> Tensor:
    """Check that row i of the embeddings and of the references can be a pair; return these."""
    if indices_tuple is not None:
        raise ValueError(
            "indices_tuple must be None, because row i of embeddings and row i of ref_emb are a "
            f"pair; got {_describe(indices_tuple)}"
        )
    if ref_emb is None:
        raise ValueError(
            "ref_emb must be given: its row i is the other view of row i of embeddings; got None"
        )
    unlabelled = [torch.zeros(len(t), dtype=torch.long) for t in (embeddings, ref_emb)]
    check_batch(embeddings, unlabelled[0], ref_emb, unlabelled[1])
    if len(embeddings) != len(ref_emb):
        raise ValueError(
            f"ref_emb must have as many rows as embeddings, {len(embeddings)}; got {len(ref_emb)}"
        )
    return ref_emb


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
            f"{embeddings_name} must be a 2-D floating point tensor; got {_describe(x)}"
        )
    if not isinstance(y, Tensor) or y.dim() != 1 or len(y) != len(x):
        raise ValueError(
            f"{name} must be a 1-D tensor of length {len(x)}, that of {embeddings_name}; "
            f"got {_describe(y)}"
        )
    if y.is_floating_point() or y.is_complex():
        raise ValueError(f"{name} must be integers; got {_describe(y)}")
    return y.to(x.device)


def check_indices(indices: Any, device: torch.device) -> tuple[Tensor, ...]:
    """Check the indices of triplets or pairs, and return them on a device."""
    if not isinstance(indices, (tuple, list)) or not all(map(torch.is_tensor, indices)):
        raise ValueError(
            f"indices_tuple must be a tuple of tensors of indices; got {_describe(indices)}"
        )
    lengths = [len(i) for i in indices]
    pairs = lengths[:1] * 2 + lengths[2:3] * 2
    if len(lengths) not in (3, 4) or lengths not in (lengths[:1] * 3, pairs):
        raise ValueError(
            "indices_tuple must be triplets (a, p, n) or pairs (a1, p, a2, n) of equally long "
            f"indices; got lengths {lengths}"
        )
    return tuple(i.to(device) for i in indices)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)} of {value.dtype}"
    return f"{type(value).__name__}"
