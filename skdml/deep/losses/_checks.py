"""Checks of the parameters of losses, and of the tensors in a call."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor

from skdml.deep._pairs import check_batch, describe

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


def check_views(embeddings: Any, indices_tuple: Any, ref_emb: Any) -> Tensor:
    """Check that row i of the embeddings and of the references can be a pair; return these."""
    if indices_tuple is not None:
        raise ValueError(
            "indices_tuple must be None, because row i of embeddings and row i of ref_emb are a "
            f"pair; got {describe(indices_tuple)}"
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
