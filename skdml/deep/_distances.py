"""Distances between the rows of tensors, as all deep losses and miners compute them."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skdml.deep._pairs import row_blocks
from skdml.distances import check_distance

# |x|^2 + |y|^2 - 2 x.y loses about four of float32's seven digits to cancellation when it is below
# this share of |x|^2. The distances of such rows are computed from differences.
CANCELLATION_SHARE = 1e-4

# The squares of norms between this number and its inverse neither overflow nor underflow.
_SMALLEST_SAFE_NORM = {torch.float32: 1e-15, torch.float64: 1e-150}

# The squared Euclidean distance of two rows of this length is 1 - cos.
_COSINE_LENGTH = math.sqrt(0.5)


def largest_entry(*tensors: Tensor) -> float:
    """Return the largest absolute value of all entries; 0 if there are no entries."""
    return max((t.detach().abs().max().item() for t in tensors if t.numel()), default=0.0)


def _safe_scale(*tensors: Tensor) -> float:
    """Return a scale that brings the largest entry near 1, or 1.0 if squares are safe as they are.

    The scale is a power of two, so dividing by it loses no digits.
    """
    peak = largest_entry(*tensors)
    safe = _SMALLEST_SAFE_NORM[tensors[0].dtype]
    if peak == 0 or not math.isfinite(peak) or safe < peak < 1 / safe:
        return 1.0
    return 2.0 ** (math.frexp(peak)[1] - 1)


class _Euclidean(torch.autograd.Function):
    """Euclidean (or squared) distances by matrix products, forward and backward.

    With W = dL/dd / d, the gradient of x_i is sum_j W_ij (x_i - y_j) = (W 1)_i x_i - (W y)_i.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor | None, squared: bool, max_distance: float
    ) -> Tensor:
        within = y is None  # all pairs are pairs of rows of x
        given = (x,) if y is None else (x, y)
        # A finite max_distance means unit rows, which need no scale.
        scale = _safe_scale(*given) if max_distance == torch.inf else 1.0
        if scale != 1.0:
            x, y = x / scale, None if y is None else y / scale
        # A translation does not change the distances, but rounding errors grow with the norms.
        centre = (x if y is None else y).mean(0)
        x = x - centre
        y = x if y is None else y - centre
        x_norm = x.square().sum(1)
        d = torch.addmm(x_norm if within else y.square().sum(1), x, y.T, alpha=-2)
        d += x_norm[:, None]
        if within:
            d.fill_diagonal_(torch.inf)  # a self distance of 0 is not a sign of cancellation
        close = torch.empty(0)
        if d.numel():
            close = (d.amin(1) <= CANCELLATION_SHARE * x_norm).nonzero().squeeze(1)
        if not squared:
            d.sqrt_()
        if len(close):
            exact = torch.cdist(x[close], y, compute_mode="donot_use_mm_for_euclid_dist")
            d[close] = exact.square_() if squared else exact
        if within:
            d.fill_diagonal_(0)
        ctx.squared, ctx.scale, ctx.within, ctx.has_zeros = squared, scale, within, len(close) > 0
        ctx.save_for_backward(x, y, None if squared else d)
        if scale != 1.0:
            d = d * scale
            if squared:
                d *= scale
            # Clip to the largest finite number, because inf - inf would be NaN.
            max_distance = min(max_distance, torch.finfo(d.dtype).max)
        return d.clamp_max_(max_distance) if max_distance < torch.inf else d

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, d = ctx.saved_tensors
        factor = 2 * ctx.scale if ctx.squared else 1.0
        with torch.autocast(x.device.type, enabled=False):
            if ctx.within:
                return factor * _row_gradient(grad, d, x, x, ctx), None, None, None
            grad_x = grad_y = None
            if ctx.needs_input_grad[0]:
                grad_x = factor * _row_gradient(grad, d, x, y, ctx)
            if ctx.needs_input_grad[1]:
                transposed = d if d is None else d.T
                grad_y = factor * _row_gradient(grad.T, transposed, y, x, ctx)
        return grad_x, grad_y, None, None


def _row_gradient(grad: Tensor, d: Tensor | None, x: Tensor, y: Tensor, ctx: Any) -> Tensor:
    """Return sum_j W_ij (x_i - y_j), or sum_j (W_ij + W_ji) (x_i - x_j) for pairs of rows of x.

    The second case takes a second matrix product, because adding the transposed matrix is slower
    (by half for 1024 rows).
    """
    gradient, total = torch.zeros_like(x), x.new_zeros(len(x))
    for rows in row_blocks(len(x), len(y)):
        w = grad[rows]
        if d is not None:
            # The root has no gradient at d = 0; zero is the subgradient of least norm.
            w = w / d[rows]
            if ctx.within:
                w.diagonal(rows.start).zero_()
            if ctx.has_zeros:
                w.masked_fill_(d[rows] == 0, 0)
        total[rows] += w.sum(1)
        gradient[rows].addmm_(w, y, alpha=-1)
        if ctx.within:
            total += w.sum(0)
            gradient.addmm_(w.T, x[rows], alpha=-1)
    return gradient.addcmul_(total[:, None], x)


class _Angle(torch.autograd.Function):
    """Angle as a share of pi, from the cosine distance c: arccos(1 - c) = 2 arcsin sqrt(c / 2)."""

    @staticmethod
    def forward(ctx: Any, cosine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine)
        half = (cosine / 2).clamp_(0, 1)
        return half.sqrt_().asin_().mul_(2 / math.pi)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (cosine,) = ctx.saved_tensors
        # sin(angle)^2 = c (2 - c). The gradient is infinite at both ends; zero is used there.
        sine = (cosine * (2 - cosine)).clamp_min_(0).sqrt_()
        return (grad / sine.mul_(math.pi)).masked_fill_(sine == 0, 0)


class _Directions(torch.autograd.Function):
    """Rows scaled to a given length r, and a mask of the zero rows (None if there is none).

    With u = r x / |x|, the gradient of x is (r / |x|) (g - (u.g) u / r^2).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, length: float) -> tuple[Tensor, Tensor | None]:
        norm, zero = torch.linalg.vector_norm(x, dim=1, keepdim=True), None
        safe = _SMALLEST_SAFE_NORM[x.dtype]
        if x.numel() and not (norm.amin() > safe and norm.amax() < 1 / safe):
            # Divide each row by its largest entry, so that its squares stay in range.
            peak = x.abs().amax(1, keepdim=True)
            zero = peak == 0
            peak = peak.masked_fill(zero, 1)
            x = x / peak
            norm = torch.linalg.vector_norm(x, dim=1, keepdim=True).masked_fill(zero, 1)
            scale = length / norm
            unit, scale, zero = x * scale, scale / peak, zero.squeeze(1)
            ctx.mark_non_differentiable(zero)
        else:
            scale = length / norm
            unit = x * scale
        ctx.length = length
        ctx.save_for_backward(unit, scale)
        return unit, zero

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
        unit, scale = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, unit)[:, None] * (-1 / ctx.length**2)
        return torch.addcmul(grad, along, unit).mul_(scale), None


def directions(x: Tensor, length: float = 1.0) -> Tensor:
    r"""Rows scaled to a given length; zero rows stay zero.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Rows, in single or double precision.
    length : float, default=1.0
        Length of each scaled row. With sqrt(1/2), the squared Euclidean distance of two rows is
        1 - cos.

    Returns
    -------
    Tensor of shape (n, d)
        The scaled rows.
    """
    return _Directions.apply(x, length)[0]


def full_precision(*tensors: Tensor) -> list[Tensor]:
    """Convert half precision to float32, and mixed precisions to the widest of them."""
    dtype = torch.float32
    for t in tensors:
        dtype = torch.promote_types(dtype, t.dtype)
    return [t.to(dtype) for t in tensors]


def pairwise_distance(x: Tensor, y: Tensor | None = None, distance: str = "euclidean") -> Tensor:
    r"""Distances between all rows of x and all rows of y.

    .. math:: d_{ij} = \lVert x_i - y_j \rVert_2, \quad \lVert x_i - y_j \rVert_2^2, \quad
        1 - \cos(x_i, y_j), \quad \arccos(\cos(x_i, y_j)) / \pi, \quad \lVert x_i - y_j \rVert_1

    Half precision is computed in float32, also inside ``torch.autocast``. If the nearest neighbour
    of a row is so near that a matrix product loses digits, the distances of that row are computed
    from differences, so duplicates have distance 0. Where a distance is not differentiable
    (duplicates), the gradient is 0. There is no second-order gradient.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Rows, floating point.
    y : Tensor of shape (m, d), default=None
        Rows. None means x itself; the diagonal is then exactly zero.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        Names of the formulas above, in this order. Cosine lies in [0, 2] and angular in [0, 1].
        The cosine with a zero row is defined as 0.

    Returns
    -------
    Tensor of shape (n, m)
        Distances, in float64 if an input is float64 and in float32 otherwise.

    Raises
    ------
    ValueError
        If the name of the distance is unknown.

    Examples
    --------
    >>> import torch
    >>> pairwise_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([[0., 5.],
            [5., 0.]])
    """
    check_distance(distance)
    x, *rest = full_precision(x) if y is None else full_precision(x, y)
    y = rest[0] if rest else None
    with torch.autocast(x.device.type, enabled=False):
        if distance == "manhattan":
            return torch.cdist(x, x if y is None else y, p=1)
        if distance in ("euclidean", "sqeuclidean"):
            return _Euclidean.apply(x, y, distance == "sqeuclidean", torch.inf)
        x, zero = _Directions.apply(x, _COSINE_LENGTH)
        y, y_zero = (None, zero) if y is None else _Directions.apply(y, _COSINE_LENGTH)
        d = _Euclidean.apply(x, y, True, 2.0)
        # The distance of a zero row to each direction is 1/2; adding 1/2 makes the cosine 0.
        if zero is not None:
            d = d + zero.to(d.dtype)[:, None] / 2
        if y_zero is not None:
            d = d + y_zero.to(d.dtype) / 2
        if y is None and zero is not None:
            d = d - torch.diag(zero.to(d.dtype))
        return d if distance == "cosine" else _Angle.apply(d)


def paired_distance(x: Tensor, y: Tensor, distance: str = "euclidean") -> Tensor:
    """Distances between row i of x and row i of y.

    Parameters
    ----------
    x, y : Tensor of shape (n, d)
        Rows, floating point.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        As in :func:`pairwise_distance`.

    Returns
    -------
    Tensor of shape (n,)
        Distances, in float64 if an input is float64 and in float32 otherwise.

    Raises
    ------
    ValueError
        If the name of the distance is unknown.

    Examples
    --------
    >>> import torch
    >>> paired_distance(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    tensor([5.])
    """
    check_distance(distance)
    x, y = full_precision(x, y)
    with torch.autocast(x.device.type, enabled=False):
        if distance == "manhattan":
            return (x - y).abs().sum(1)
        if distance == "sqeuclidean":
            return (x - y).square().sum(1)
        if distance == "euclidean":
            difference = x - y
            scale = difference.detach().abs().amax(1) if x.shape[1] else x.new_zeros(len(x))
            # Divide by the largest entry first: squares of huge differences would overflow.
            scale = scale.masked_fill(scale == 0, 1)
            return scale * torch.linalg.vector_norm(difference / scale[:, None], dim=1)
        x, x_zero = _Directions.apply(x, _COSINE_LENGTH)
        y, y_zero = _Directions.apply(y, _COSINE_LENGTH)
        d = (x - y).square().sum(1)
        for zero in (x_zero, y_zero):
            d = d if zero is None else d + zero.to(d.dtype) / 2
        d = d.clamp(max=2)
        return d if distance == "cosine" else _Angle.apply(d)


class _KnownGradient(torch.autograd.Function):
    """A value that was computed elsewhere, with a known gradient with respect to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        # Spare a product of matrices where possible. On other devices item() would wait for them.
        if grad.device.type == "cpu" and grad.item() == 1:
            return gradient, None, None
        return gradient * grad, None, None


def attach_gradient(value: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
    """Return the value with `gradient` as its gradient with respect to x."""
    return _KnownGradient.apply(x, gradient, value)


@dataclass
class BatchDistances:
    """Distances from embeddings to references, or among embeddings, computed when needed."""

    embeddings: Tensor
    ref_emb: Tensor | None
    distance: str

    @property
    def columns(self) -> Tensor:
        """The embeddings that distances are measured to."""
        return self.embeddings if self.ref_emb is None else self.ref_emb

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of `matrix`."""
        return len(self.embeddings), len(self.columns)

    @cached_property
    def matrix(self) -> Tensor:
        """All distances, of shape (n, m)."""
        return pairwise_distance(self.embeddings, self.ref_emb, self.distance)

    def of_pairs(self, i: Tensor, j: Tensor) -> Tensor:
        """Distances of listed pairs of rows and columns."""
        # For few pairs, the gradient is much cheaper without the whole matrix.
        if 2 * len(i) * self.embeddings.shape[1] <= math.prod(self.shape):
            x, y = self.embeddings.index_select(0, i), self.columns.index_select(0, j)
            return paired_distance(x, y, self.distance)
        return self.matrix[i, j]
