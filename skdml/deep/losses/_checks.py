"""Checks of the parameters of losses."""

import math
from numbers import Integral, Real

import torch

# The largest value of the bounded distances: beyond it a margin asks for the impossible.
_LARGEST = {"cosine": 2.0, "angular": 1.0}


def check_choice(name, value, choices):
    """Return the value, or raise a ValueError that lists the choices."""
    if isinstance(value, bool) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}")
    return value


def check_margin(margin, distance, *, zero, name="margin"):
    """Return the margin as a float, or raise a ValueError that says which are allowed."""
    largest = _LARGEST.get(distance, math.inf)
    allowed = f"a finite number {'>= 0' if zero else '> 0'}"
    if largest < math.inf:
        allowed += f" and <= {largest:g}, the largest {distance} distance"
    number = isinstance(margin, Real) and not isinstance(margin, bool)
    if not (number and math.isfinite(margin) and 0 <= margin <= largest and (zero or margin > 0)):
        raise ValueError(f"{name} must be {allowed}; got {margin!r}")
    return float(margin)


def check_positive(name, value, *, zero=False, below=math.inf):
    """Return the value as a float, or raise a ValueError that says which are allowed."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not (number and (0 < value < below or (zero and value == 0))):
        allowed = f"{'>=' if zero else '>'} 0" + (f" and < {below:g}" if below < math.inf else "")
        raise ValueError(f"{name} must be a finite number {allowed}; got {value!r}")
    return float(value)


def check_count(name, value, least=1):
    """Return the value as an int, or raise a ValueError that says which are allowed."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}; got {value!r}")
    return int(value)


def check_flag(name, value):
    """Return the value, or raise a ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False; got {value!r}")
    return value


def check_views(embeddings, indices_tuple, ref_emb):
    """Raise a ValueError unless the rows of the embeddings and of the references are pairs."""
    if indices_tuple is not None:
        raise ValueError("the pairs are given by the rows; indices_tuple must be None")
    if ref_emb is None:
        raise ValueError("ref_emb must be given: its row i is the partner of row i of embeddings")
    empty = [torch.zeros(len(t), dtype=torch.long) for t in (embeddings, ref_emb)]
    check_batch(embeddings, empty[0], ref_emb, empty[1])
    if len(embeddings) != len(ref_emb):
        raise ValueError(
            f"ref_emb must have as many rows as embeddings, {len(embeddings)}; got {len(ref_emb)}"
        )


def check_batch(embeddings, labels, ref_emb, ref_labels):
    if (ref_emb is None) != (ref_labels is None):
        given = "ref_emb" if ref_labels is None else "ref_labels"
        raise ValueError(f"ref_emb and ref_labels must be given together; got only {given}")
    checked = []
    for prefix, x, y in (("", embeddings, labels), ("ref_", ref_emb, ref_labels)):
        x_name = prefix + "emb" if prefix else "embeddings"
        if x is None and prefix:
            checked.append(None)
            continue
        if not isinstance(x, torch.Tensor) or x.dim() != 2 or not x.is_floating_point():
            raise ValueError(f"{x_name} must be a 2-D floating point tensor; got {_what(x)}")
        if not isinstance(y, torch.Tensor) or y.dim() != 1 or len(y) != len(x):
            raise ValueError(
                f"{prefix}labels must be a 1-D tensor of length {len(x)}, that of {x_name}; "
                f"got {_what(y)}"
            )
        if y.is_floating_point() or y.is_complex():
            raise ValueError(f"{prefix}labels must be integers; got {_what(y)}")
        checked.append(y.to(x.device))
    if ref_emb is not None and ref_emb.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"ref_emb must be as wide as embeddings, {embeddings.shape[1]}; got {ref_emb.shape[1]}"
        )
    return checked


def check_indices(indices, device):
    if not isinstance(indices, (tuple, list)) or not all(map(torch.is_tensor, indices)):
        raise ValueError(
            f"indices_tuple must be a tuple of tensors of indices; got {_what(indices)}"
        )
    lengths = [len(i) for i in indices]
    pairs = lengths[:1] * 2 + lengths[2:3] * 2
    if len(lengths) not in (3, 4) or lengths not in (lengths[:1] * 3, pairs):
        raise ValueError(
            "indices_tuple must be triplets (a, p, n) or pairs (a1, p, a2, n) of equally long "
            f"indices; got lengths {lengths}"
        )
    return tuple(i.to(device) for i in indices)


def _what(value):
    if isinstance(value, torch.Tensor):
        return f"shape {tuple(value.shape)} of {value.dtype}"
    return f"{type(value).__name__}"
