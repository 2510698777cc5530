"""The gradient of a large batch, computed chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from skdml.deep.training.checkpoint import generator_states, set_generators


def backward_in_chunks(
    embed: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor], Tensor],
    X: Tensor,
    n_chunks: int,
    module: nn.Module,
    device: str | torch.device,
) -> tuple[Tensor, Tensor]:
    r"""Compute the gradient of a loss over a whole batch with one chunk at a time in the network.

    .. math:: \frac{\partial L}{\partial \theta} = \sum_{\text{chunks}}
        \frac{\partial L}{\partial Z_{\text{chunk}}} \,
        \frac{\partial Z_{\text{chunk}}}{\partial \theta}

    First, all chunks pass through the network without a graph. The loss of all embeddings gives the
    gradient with respect to the embeddings. Then each chunk passes through the network again, with
    a graph, and its part of that gradient is propagated to the weights.

    The second pass starts with the same buffers and random generators as the first. It therefore
    repeats the first pass exactly: it draws the same dropout, and running statistics count each
    chunk once. Batch normalisation uses the statistics of each chunk, not of the whole batch.

    Parameters
    ----------
    embed : callable
        ``embed(points)`` passes points through the network.
    backward : callable
        ``backward(embeddings)`` takes the embeddings of the whole batch, computes the loss and its
        gradient, and returns the loss.
    X : Tensor of shape (n, ...)
        The batch.
    n_chunks : int
        The number of chunks; their sizes differ by at most 1.
    module : torch.nn.Module
        The network.
    device : str or torch.device
        The device of the network.

    Returns
    -------
    embeddings : Tensor of shape (n, n_components)
        The embeddings of the batch, without a graph.
    loss : Tensor of shape ()
        The result of `backward`.

    References
    ----------
    Gao, Zhang, Han, Callan: Scaling Deep Contrastive Learning Batch Size under Memory Limited
    Setup, RepL4NLP 2021, section 3.
    """
    chunks = X.tensor_split(n_chunks)
    buffers = [buffer.clone() for buffer in module.buffers()]
    before = generator_states(device)
    with torch.no_grad():
        Z = torch.cat([embed(chunk) for chunk in chunks])
    Z.requires_grad_()
    loss = backward(Z)
    after = generator_states(device)  # the loss may have drawn random numbers, too

    with torch.no_grad():
        for buffer, start in zip(module.buffers(), buffers, strict=True):
            buffer.copy_(start)
    set_generators(before, device)
    gradients = Z.grad.tensor_split(n_chunks)  # type: ignore[union-attr]  # set by `backward`
    for chunk, gradient in zip(chunks, gradients, strict=True):
        part = embed(chunk)
        if part.requires_grad:  # False if only the loss has parameters to train
            part.backward(gradient)
    set_generators(after, device)
    return Z.detach(), loss
