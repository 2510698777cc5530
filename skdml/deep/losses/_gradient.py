"""Gradients that are computed together with the loss, without a recorded graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from skdml.deep._pairs import row_blocks


def _as_tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def sum_over_rows(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    constants: Sequence[Tensor],
    work: int = 1,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    r"""Sum of a loss over rows, and its gradients, computed block by block.

    The loss of a row depends on that row only. So forward and backward pass of a block run
    together, while the block is in the processor's cache. Only the gradient of a block is kept.

    Parameters
    ----------
    function : callable
        ``function(*inputs, *constants)`` receives a block of rows of each tensor and returns the
        losses of these rows. It may also return a tuple of the losses and their gradients, one for
        each input; then no graph is recorded.
    inputs : sequence of Tensors of shape (n, ...)
        Tensors with a gradient; the widest is the last.
    constants : sequence of Tensors of shape (n, ...)
        Tensors without a gradient.
    work : int, default=1
        Numbers that the function keeps for each entry of the widest input. Larger values make
        smaller blocks.

    Returns
    -------
    total : Tensor of shape ()
        The sum, detached.
    n_active : Tensor of shape ()
        Number of rows with a loss > 0.
    gradients : list of Tensors
        Gradients with respect to the inputs; empty if no input requires one.
    """
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    inputs = [x.detach() for x in inputs]
    gradients: list[Tensor] = []
    sums = []
    for rows in row_blocks(len(inputs[-1]), inputs[-1].shape[1] * work):
        block = [x[rows].requires_grad_(wanted) for x in inputs]
        losses, *known = _as_tuple(function(*block, *(c[rows] for c in constants)))
        if wanted and known and len(losses) == len(inputs[-1]):
            gradients = known
        elif wanted:
            gradients = gradients or [torch.empty_like(x) for x in inputs]
            block_gradients = known or torch.autograd.grad(losses.sum(), block)
            for gradient, block_gradient in zip(gradients, block_gradients, strict=True):
                gradient[rows] = block_gradient
        losses = losses.detach()
        sums.append((losses.sum(), (losses > 0).sum()))
    if not sums:
        total, n_active = inputs[-1].new_zeros(2)
        return total, n_active, [torch.empty_like(x) for x in inputs if wanted]
    totals, counts = zip(*sums, strict=True)
    return sum(totals), sum(counts), gradients
