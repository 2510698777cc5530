"""A miner of any package, whose indices are checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skdml.deep._pairs import check_indices


class CheckedMiner:
    """Call a miner without gradients, and check the indices that it returns.

    The miner may be a `torch.nn.Module`, like those of pytorch-metric-learning. This object is no
    module, so a net can keep it beside its network and its loss.

    Parameters
    ----------
    miner : callable
        The miner, as `skdml.deep.miners.get_miner` returns it.

    Examples
    --------
    >>> import torch
    >>> from skdml.deep.miners import BatchHardMiner
    >>> from skdml.deep.miners._checked import CheckedMiner
    >>> CheckedMiner(BatchHardMiner())(torch.eye(3), torch.tensor([0, 0, 1]))
    (tensor([0, 1]), tensor([1, 0]), tensor([2, 2]))
    """

    def __init__(self, miner: Callable[..., Any]) -> None:
        self.miner = miner

    def __call__(self, embeddings: Tensor, labels: Tensor, *references: Tensor) -> tuple[Any, ...]:
        """Choose from a batch.

        Parameters
        ----------
        embeddings : Tensor of shape (n, d)
            Anchors.
        labels : int Tensor of shape (n,)
            Their classes.
        *references : Tensors of shape (m, d) and (m,)
            References and their classes, if there are any.

        Returns
        -------
        tuple of int64 Tensors
            Triplets (a, p, n) or pairs (a1, p, a2, n).

        Raises
        ------
        ValueError
            If the miner fails, or returns anything else.
        """
        name = type(self.miner).__name__
        try:
            with torch.no_grad():
                indices = self.miner(embeddings, labels, *references)
        except (AssertionError, TypeError) as error:
            raise ValueError(
                f"The miner {name} cannot choose from a batch of {len(labels)} points with class "
                f"labels: {str(error) or 'an assertion failed'}. Use another miner."
            ) from error
        try:
            return check_indices(indices, embeddings.device)
        except ValueError as error:
            raise ValueError(f"The miner {name} does not fit: {error}.") from error

    def __repr__(self) -> str:
        return f"CheckedMiner({self.miner!r})"
