"""Distances between the rows of tensors: the ground every deep loss and miner stands on."""

import math

import torch
from torch.autograd.function import once_differentiable

from skdml.distances import check_distance

# Elements of a distance matrix worked on at a time. 2**18 floats stay in a processor's cache, so
# that the several passes of a loss over a block cost little more than one pass over memory.
_BLOCK = 2**18


# Below this share of the squared norm, |x|^2 + |y|^2 - 2 x.y has lost about four of float32's
# seven digits to cancellation, and the distances of such rows are computed by differences.
_CANCELLED = 1e-4


# Norms from here to its inverse have squares well inside the range of the numbers.
_SAFE = {torch.float32: 1e-15, torch.float64: 1e-150}


_HALF = math.sqrt(0.5)  # of rows of this length the squared distance is 1 - cos


def row_blocks(rows, columns):
    """Yield slices that cut a matrix into even blocks of rows of bounded size."""
    step = max(1, math.ceil(rows / max(1, round(rows * columns / _BLOCK))))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def largest_entry(*tensors):
    """Return the largest absolute value of all entries, as a float; 0 if there are none."""
    return max((t.detach().abs().max().item() for t in tensors if t.numel()), default=0.0)


def _power_of_two(*tensors):
    """Scale that brings the largest entry near 1; 1.0 where squares are safe without it."""
    peak = largest_entry(*tensors)
    safe = _SAFE[tensors[0].dtype]
    if peak == 0 or not math.isfinite(peak) or safe < peak < 1 / safe:
        return 1.0
    return 2.0 ** (math.frexp(peak)[1] - 1)  # a power of two: dividing by it loses no digit


class _Euclidean(torch.autograd.Function):
    """Euclidean (or squared) distances by matrix products, forward and backward.

    With W = dL/dd / d, the gradient of x_i is sum_j W_ij (x_i - y_j) = (W 1)_i x_i - (W y)_i.
    """

    @staticmethod
    def forward(ctx, x, y, squared, ceiling):
        alone = y is None
        given = (x,) if alone else (x, y)
        scale = _power_of_two(*given) if ceiling == torch.inf else 1.0  # these are directions
        if scale != 1.0:
            x, y = x / scale, None if alone else y / scale
        # Distances do not change under translation, rounding errors do: they grow with the norms.
        centre = (x if alone else y).mean(0)
        x = x - centre
        y = x if alone else y - centre
        x_norm = x.square().sum(1)
        d = torch.addmm(x_norm if alone else y.square().sum(1), x, y.T, alpha=-2)
        d += x_norm[:, None]
        if alone:
            d.fill_diagonal_(torch.inf)  # known to be zero, so no sign of cancellation
        near = (d.amin(1) <= _CANCELLED * x_norm).nonzero().squeeze(1) if d.numel() else []
        if not squared:
            d.sqrt_()
        if len(near):
            exact = torch.cdist(x[near], y, compute_mode="donot_use_mm_for_euclid_dist")
            d[near] = exact.square_() if squared else exact
        if alone:
            d.fill_diagonal_(0)
        ctx.squared, ctx.scale, ctx.alone, ctx.touching = squared, scale, alone, len(near) > 0
        ctx.save_for_backward(x, y, None if squared else d)
        if scale != 1.0:
            d = d * scale
            if squared:
                d *= scale
            ceiling = min(ceiling, torch.finfo(d.dtype).max)  # saturate: inf - inf would be NaN
        return d.clamp_max_(ceiling) if ceiling < torch.inf else d

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, y, d = ctx.saved_tensors
        factor = 2 * ctx.scale if ctx.squared else 1.0
        with torch.autocast(x.device.type, enabled=False):
            if ctx.alone:
                return factor * _pull(grad, d, x, x, ctx), None, None, None
            grad_x = factor * _pull(grad, d, x, y, ctx) if ctx.needs_input_grad[0] else None
            other = d if d is None else d.T
            grad_y = factor * _pull(grad.T, other, y, x, ctx) if ctx.needs_input_grad[1] else None
        return grad_x, grad_y, None, None


def _pull(grad, d, x, y, ctx):
    """Sum of W_ij (x_i - y_j) over j; among the rows of x alone, of (W_ij + W_ji) (x_i - x_j).

    There a second product is faster than to add the transposed matrix, of 1024 rows by half.
    """
    pull, total = torch.zeros_like(x), x.new_zeros(len(x))
    for rows in row_blocks(len(x), len(y)):
        w = grad[rows]
        if d is not None:
            # At d = 0 the root has no gradient; zero is the subgradient of least norm.
            w = w / d[rows]
            if ctx.alone:
                w.diagonal(rows.start).zero_()
            if ctx.touching:
                w.masked_fill_(d[rows] == 0, 0)
        total[rows] += w.sum(1)
        pull[rows].addmm_(w, y, alpha=-1)
        if ctx.alone:
            total += w.sum(0)
            pull.addmm_(w.T, x[rows], alpha=-1)
    return pull.addcmul_(total[:, None], x)


class _Angle(torch.autograd.Function):
    """Angle, as a share of pi, from the cosine distance c: arccos(1 - c) = 2 arcsin sqrt(c / 2)."""

    @staticmethod
    def forward(ctx, cosine):
        ctx.save_for_backward(cosine)
        half = (cosine / 2).clamp_(0, 1)
        return half.sqrt_().asin_().mul_(2 / math.pi)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (cosine,) = ctx.saved_tensors
        # sin(angle)^2 = c (2 - c); the slope is infinite at both ends, where zero is given.
        sine = (cosine * (2 - cosine)).clamp_min_(0).sqrt_()
        return (grad / sine.mul_(math.pi)).masked_fill_(sine == 0, 0)


class _Directions(torch.autograd.Function):
    """Rows scaled to a given length r, and which are zero; None if none is.

    With u = r x / |x|, the gradient of x is (r / |x|) (g - (u.g) u / r^2).
    """

    @staticmethod
    def forward(ctx, x, length):
        norm, zero = torch.linalg.vector_norm(x, dim=1, keepdim=True), None
        least = _SAFE[x.dtype]
        if x.numel() and not (norm.amin() > least and norm.amax() < 1 / least):
            # Scaled by powers of their largest entry, so that no square leaves the range.
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
    def backward(ctx, grad, _):
        unit, scale = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, unit)[:, None] * (-1 / ctx.length**2)
        return torch.addcmul(grad, along, unit).mul_(scale), None


def directions(x, length=1.0):
    r"""Rows scaled to a given length; zero rows stay as they are.

    With the length sqrt(1/2) the squared Euclidean distance of two rows is 1 - cos.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Rows, of single or double precision.
    length : float
        The length.

    Returns
    -------
    Tensor of shape (n, d)
        The scaled rows.
    """
    return _Directions.apply(x, length)[0]


def _full_precision(*tensors):
    """Half precision to float32, and mixed precisions to the wider of the two."""
    dtype = torch.float32
    for t in tensors:
        dtype = torch.promote_types(dtype, t.dtype)
    return [t.to(dtype) for t in tensors]


def pairwise_distance(x, y=None, distance="euclidean"):
    r"""Distances between all rows of x and all rows of y.

    .. math:: d_{ij} = \lVert x_i - y_j \rVert_2, \quad \lVert x_i - y_j \rVert_2^2, \quad
        1 - \cos(x_i, y_j), \quad \arccos(\cos(x_i, y_j)) / \pi, \quad \lVert x_i - y_j \rVert_1

    Half precision is computed in float32, inside ``torch.autocast`` as well. Rows whose nearest
    neighbour is so near that the matrix product loses digits are computed by differences, so
    duplicates have distance 0. Where a distance has no gradient (duplicates), its gradient is 0.
    The gradient is that of first order only.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Rows, floating point.
    y : Tensor of shape (m, d), optional
        Rows; left out, x itself, and then the diagonal is exactly zero.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        In this order, the formulas above. Cosine lies in [0, 2] and angular in [0, 1]; the
        cosine with a zero row is taken to be 0.

    Returns
    -------
    Tensor of shape (n, m)
        float64 where an input is float64, else float32.

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
    x, *other = _full_precision(x) if y is None else _full_precision(x, y)
    y = other[0] if other else None
    with torch.autocast(x.device.type, enabled=False):
        if distance == "manhattan":
            return torch.cdist(x, x if y is None else y, p=1)
        if distance in ("euclidean", "sqeuclidean"):
            return _Euclidean.apply(x, y, distance == "sqeuclidean", torch.inf)
        x, zero = _Directions.apply(x, _HALF)
        y, y_zero = (None, zero) if y is None else _Directions.apply(y, _HALF)
        d = _Euclidean.apply(x, y, True, 2.0)
        # A zero row lies 1/2 from every direction; the other half makes the cosine 0.
        if zero is not None:
            d = d + zero.to(d.dtype)[:, None] / 2
        if y_zero is not None:
            d = d + y_zero.to(d.dtype) / 2
        if y is None and zero is not None:
            d = d - torch.diag(zero.to(d.dtype))
        return d if distance == "cosine" else _Angle.apply(d)


def paired_distance(x, y, distance="euclidean"):
    """Distances between the rows of x and the rows of y, one to one.

    Parameters
    ----------
    x, y : Tensor of shape (n, d)
        Rows, floating point.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}
        As in :func:`pairwise_distance`.

    Returns
    -------
    Tensor of shape (n,)
        float64 where an input is float64, else float32.

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
    x, y = _full_precision(x, y)
    with torch.autocast(x.device.type, enabled=False):
        if distance == "manhattan":
            return (x - y).abs().sum(1)
        if distance == "sqeuclidean":
            return (x - y).square().sum(1)
        if distance == "euclidean":
            difference = x - y
            scale = difference.detach().abs().amax(1) if x.shape[1] else x.new_zeros(len(x))
            scale = scale.masked_fill(scale == 0, 1)  # squares of huge differences would overflow
            return scale * torch.linalg.vector_norm(difference / scale[:, None], dim=1)
        (x, x_zero), (y, y_zero) = _Directions.apply(x, _HALF), _Directions.apply(y, _HALF)
        d = (x - y).square().sum(1)
        for zero in (x_zero, y_zero):
            d = d if zero is None else d + zero.to(d.dtype) / 2
        d = d.clamp(max=2)
        return d if distance == "cosine" else _Angle.apply(d)
