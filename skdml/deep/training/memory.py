"""Many negatives on a small machine: embeddings of earlier batches, a big batch in pieces."""

from collections import deque

import torch


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
    >>> from skdml.deep.training.memory import CrossBatchMemory
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


class RecordingBatchSampler:
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
        self.pending = deque()

    def __iter__(self):
        """Yield the batches of the next epoch."""
        self.pending.clear()
        for rows in self.sampler:
            self.pending.append(rows)
            yield rows

    def __len__(self):
        """Return the number of batches in an epoch."""
        return len(self.sampler)


def check_accepts_references(compare, width, device):
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
