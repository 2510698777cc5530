"""Cross-batch memory: a batch is also compared with the embeddings of earlier batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class CrossBatchMemory:
    """The latest embeddings of training, as references for the loss.

    The weights change slowly, so the embedding of a point a few batches ago is close to its present
    embedding, and costs no further computation. A batch can thus be compared with many more points
    than pass through the network.

    The memory holds each point once, with its latest embedding. Before a batch is compared with the
    memory, the points of the batch are removed from it: an older embedding of the same point would
    be a trivial positive.

    Parameters
    ----------
    size : int
        The number of embeddings to keep, >= 1. The oldest are dropped.

    Attributes
    ----------
    embeddings : Tensor of shape (n, n_components) or None
        The embeddings, oldest first. All three are None while the memory is empty.
    labels : int64 Tensor of shape (n,) or None
        Their classes.
    rows : int64 Tensor of shape (n,) or None
        Their row numbers.

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

    embeddings: Any
    labels: Any
    rows: Any

    def __init__(self, size: int) -> None:
        self.size = size
        self.embeddings = self.labels = self.rows = None

    def __len__(self) -> int:
        """Return the number of embeddings in the memory."""
        return 0 if self.rows is None else len(self.rows)

    def forget(self, rows: Tensor) -> None:
        """Remove the embeddings of some points.

        Parameters
        ----------
        rows : int64 Tensor of shape (n,)
            The row numbers of the points.
        """
        if len(self):
            self._keep(~torch.isin(self.rows, rows.to(self.rows.device)))

    def add(self, embeddings: Tensor, labels: Tensor, rows: Tensor) -> None:
        """Add the points of a batch; they replace older embeddings of the same points.

        Parameters
        ----------
        embeddings : Tensor of shape (n, n_components)
            Their embeddings. They are stored without their graph.
        labels : int64 Tensor of shape (n,)
            Their classes.
        rows : int64 Tensor of shape (n,)
            Their row numbers.
        """
        self.forget(rows)
        new = [part.detach().to(embeddings.device) for part in (embeddings, labels, rows)]
        if len(self):
            old = (self.embeddings, self.labels, self.rows)
            new = [torch.cat([a.to(b.device), b]) for a, b in zip(old, new, strict=True)]
        self.embeddings, self.labels, self.rows = new
        self._keep(slice(-self.size, None))

    def _keep(self, selection: Tensor | slice) -> None:
        self.embeddings, self.labels, self.rows = (
            part[selection] for part in (self.embeddings, self.labels, self.rows)
        )

    def __getstate__(self) -> dict[str, Any]:
        # A pickle must also load on a machine without the GPU; `add` moves the memory back.
        state = self.__dict__.copy()
        return {k: v.cpu() if isinstance(v, Tensor) else v for k, v in state.items()}


def enlarge_queue(loss: Any, n_points: int) -> None:
    """Let the memory inside a loss hold at least one batch.

    `CrossBatchMemory` of pytorch-metric-learning cannot take a batch that is larger than its
    memory.

    Parameters
    ----------
    loss : callable
        The loss. Losses without a queue are left as they are.
    n_points : int
        The largest number of points in a batch.

    Warns
    -----
    UserWarning
        If the memory had to be enlarged.
    """
    if hasattr(loss, "reset_queue") and loss.memory_size < n_points:
        warnings.warn(
            f"memory_size={loss.memory_size} of {type(loss).__name__} is smaller than a batch; "
            f"{n_points} is used. Set memory_size to several batches, or take a smaller "
            "batch_size.",
            stacklevel=2,
        )
        loss.memory_size = n_points
        loss.reset_queue()


def check_accepts_references(
    compare: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    width: int,
    device: str | torch.device,
) -> None:
    """Raise unless a loss can compare a batch with the embeddings of other batches.

    The loss is called once on made-up embeddings.

    Parameters
    ----------
    compare : callable
        ``compare(embeddings, labels, ref_emb, ref_labels)`` returns the loss.
    width : int
        The width of the embeddings.
    device : str or torch.device
        Their device.

    Raises
    ------
    ValueError
        If the call fails. The message quotes the error of the loss.
    """
    points = torch.linspace(-1, 1, 10 * width, device=device).view(10, width)
    labels = torch.arange(10, device=device) % 2
    try:
        with torch.no_grad():
            compare(points[:4], labels[:4], points[4:], labels[4:])
    except (TypeError, ValueError) as error:
        raise ValueError(
            "memory_size > 0 needs a loss, and a miner, that accept reference embeddings. These do "
            f"not: {error}. Set memory_size=0, or use a loss over pairs or triplets."
        ) from error
