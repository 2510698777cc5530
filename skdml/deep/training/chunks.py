"""Gradients of a large batch, computed a part at a time."""

import torch

from skdml.deep.training.checkpoint import generators, set_generators


def backward_in_chunks(embed, backward, X, n_pieces, module, device):
    r"""Gradient of a loss over a whole batch, with one piece of it in the network at a time.

    .. math:: \frac{\partial L}{\partial \theta} = \sum_{\text{pieces}}
        \frac{\partial L}{\partial Z_{\text{piece}}} \,
        \frac{\partial Z_{\text{piece}}}{\partial \theta}

    All pieces pass through the network without a graph; the loss of all embeddings gives the
    gradient by the embeddings; then each piece passes again, with a graph, and hands its part of
    that gradient on. The second pass begins with the buffers and the random generators that the
    first began with, so it repeats it to the bit: the same dropout, and running statistics are
    what one pass makes of them. Batch normalisation takes its statistics from each piece.

    Parameters
    ----------
    embed : callable
        Passes points through the network.
    backward : callable
        Gets the embeddings of the whole batch, computes the loss and its gradient, and returns
        the loss.
    X : Tensor of shape (n, ...)
        The batch.
    n_pieces : int
        Into how many pieces of about equal size it is cut.
    module : torch.nn.Module
        The network.
    device : str
        Where it is.

    Returns
    -------
    embeddings : Tensor of shape (n, n_components)
        Of the batch, without a graph.
    loss : Tensor of shape ()
        What `backward` returned.

    References
    ----------
    Gao, Zhang, Han, Callan: Scaling Deep Contrastive Learning Batch Size under Memory Limited
    Setup, RepL4NLP 2021, section 3.
    """
    pieces = X.tensor_split(n_pieces)
    buffers = [buffer.clone() for buffer in module.buffers()]
    before = generators(device)
    with torch.no_grad():
        Z = torch.cat([embed(piece) for piece in pieces])
    Z.requires_grad_()
    loss = backward(Z)
    after = generators(device)  # the loss may have drawn as well

    with torch.no_grad():
        for buffer, start in zip(module.buffers(), buffers, strict=True):
            buffer.copy_(start)
    set_generators(before, device)
    for piece, gradient in zip(pieces, Z.grad.tensor_split(n_pieces), strict=True):
        part = embed(piece)
        if part.requires_grad:  # not where the network is frozen, and the loss alone learns
            part.backward(gradient)
    set_generators(after, device)
    return Z.detach(), loss
