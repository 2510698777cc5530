"""Many negatives on a small machine: embeddings of earlier batches, a big batch in pieces."""

from collections import deque

import torch

from skdml.deep.resume import generators, set_generators


class CrossBatchMemory:
    """The last embeddings of training, for the loss to compare a batch with.

    A network drifts slowly: what it made of a point some batches ago is nearly what it would make
    of it now, and costs nothing more. So the batch is compared with many more points than pass
    through the network.

    A point is in the memory once, as it was seen last. No point of the batch is: its embedding of
    now is in the batch, and an old copy of it would be the easiest of positives.

    Parameters
    ----------
    size : int
        How many embeddings are kept, >= 1; the oldest are forgotten.

    References
    ----------
    Wang, Zhang, Huang, Scott: Cross-Batch Memory for Embedding Learning, CVPR 2020, algorithm 1.

    Examples
    --------
    >>> import torch
    >>> from skdml.deep.memory import CrossBatchMemory
    >>> memory = CrossBatchMemory(3)
    >>> memory.add(torch.eye(2), torch.tensor([5, 7]), rows=torch.tensor([0, 1]))
    >>> memory.add(torch.zeros(2, 2), torch.tensor([7, 5]), rows=torch.tensor([1, 2]))
    >>> memory.embeddings.tolist(), memory.labels.tolist(), memory.rows.tolist()
    ([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [5, 7, 5], [0, 1, 2])
    """

    def __init__(self, size):
        self.size = size
        self.embeddings = self.labels = self.rows = None

    def __len__(self):
        """Return how many embeddings there are."""
        return 0 if self.rows is None else len(self.rows)

    def forget(self, rows):
        """Remove the embeddings of some points.

        Parameters
        ----------
        rows : int64 Tensor of shape (n,)
            Which points.
        """
        if len(self):
            self._keep(~torch.isin(self.rows, rows.to(self.rows.device)))

    def add(self, embeddings, labels, rows):
        """Remember the points of a batch, in place of what was known of them.

        Parameters
        ----------
        embeddings : Tensor of shape (n, n_components)
            Their embeddings; they are kept without their graph.
        labels : int64 Tensor of shape (n,)
            Their classes.
        rows : int64 Tensor of shape (n,)
            Which points they are.
        """
        self.forget(rows)
        new = [part.detach().to(embeddings.device) for part in (embeddings, labels, rows)]
        if len(self):
            old = (self.embeddings, self.labels, self.rows)
            new = [torch.cat([a.to(b.device), b]) for a, b in zip(old, new, strict=True)]
        self.embeddings, self.labels, self.rows = new
        self._keep(slice(-self.size, None))

    def _keep(self, which):
        self.embeddings, self.labels, self.rows = (
            part[which] for part in (self.embeddings, self.labels, self.rows)
        )

    def __getstate__(self):
        # Pickled without a trace of the GPU it may be on; `add` brings it back there.
        state = self.__dict__.copy()
        return {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in state.items()}


class DrawnBatches:
    """The batches of a sampler, with a note of those that training has yet to see.

    A loader tells what is in a batch, and not which rows these are.

    Parameters
    ----------
    sampler : iterable
        Batches, as arrays of rows.

    Attributes
    ----------
    drawn : deque of ndarray
        The rows of the batches that were drawn; the first is the next to be trained on.
    """

    def __init__(self, sampler):
        self.sampler = sampler
        self.drawn = deque()

    def __iter__(self):
        """Yield the batches of the next epoch."""
        self.drawn.clear()
        for rows in self.sampler:
            self.drawn.append(rows)
            yield rows

    def __len__(self):
        """Return the number of batches in an epoch."""
        return len(self.sampler)


def check_takes_references(compare, width, device):
    """Raise unless a loss compares a batch with embeddings of other batches.

    Parameters
    ----------
    compare : callable
        ``compare(embeddings, labels, ref_emb, ref_labels)`` gives the loss.
    width : int
        Width of the embeddings.
    device : str
        Where they are.

    Raises
    ------
    ValueError
        If it does not, with what it said.
    """
    points = torch.linspace(-1, 1, 10 * width, device=device).view(10, width)
    labels = torch.arange(10, device=device) % 2
    try:
        with torch.no_grad():
            compare(points[:4], labels[:4], points[4:], labels[4:])
    except (TypeError, ValueError) as error:
        raise ValueError(
            "memory_size > 0 needs a loss, and a miner, that compare a batch with references. These"
            f" do not: {error}. Take memory_size=0, or a loss over pairs or triplets."
        ) from error


def backward_in_pieces(embed, backward, X, n_pieces, module, device):
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
