"""Augmented views of training points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from skdml.deep.data.datasets import ArrayDataset, LabelledDataset


class AugmentedDataset(Dataset):
    """Training data with augmented points; each batch is augmented when it is read.

    Parameters
    ----------
    data : ArrayDataset or LabelledDataset
        The training data.
    augment : callable
        ``augment(points)`` takes a Tensor of shape (n, ...) and returns one of the same shape.
    n_views : int, default=1
        The number of views of each point. A batch holds the first view of all its points, then
        the second view of all its points, and so on.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from skdml.deep.data.datasets import ArrayDataset
    >>> from skdml.deep.data.augmentation import AugmentedDataset
    >>> data = ArrayDataset(np.ones((5, 2), np.float32), np.arange(5))
    >>> views = AugmentedDataset(data, torch.neg, n_views=2)
    >>> points, targets = views.collate(views.__getitems__([0, 3]))
    >>> points.shape, targets.tolist()
    (torch.Size([4, 2]), [0, 3, 0, 3])
    """

    def __init__(
        self,
        data: ArrayDataset | LabelledDataset,
        augment: Callable[[Tensor], Tensor],
        n_views: int = 1,
    ) -> None:
        self.data = data
        self.augment = augment
        self.n_views = n_views

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.data)

    def __getitems__(self, rows: Sequence[int]) -> Any:
        """Return the given rows of the training data, not augmented yet."""
        if hasattr(self.data, "__getitems__"):
            return self.data.__getitems__(rows)
        return [self.data[row] for row in rows]

    def collate(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the augmented points and the targets of a batch."""
        points, targets = self.data.collate(batch)
        views = [augmented_view(points, self.augment) for _ in range(self.n_views)]
        return torch.cat(views), torch.cat([targets] * self.n_views)


@torch.no_grad()
def augmented_view(points: Tensor, augment: Callable[[Tensor], Tensor]) -> Tensor:
    """Augment a copy of some points and check the result.

    Parameters
    ----------
    points : Tensor of float32, shape (n, ...)
        The points. They are not changed.
    augment : callable
        ``augment(points)`` takes a Tensor of shape (n, ...) and returns one of the same shape.

    Returns
    -------
    Tensor of float32, shape (n, ...)
        The augmented points.

    Raises
    ------
    ValueError
        If `augment` does not return a Tensor of the same shape.
    """
    view = augment(points.clone())
    if not isinstance(view, Tensor) or view.shape != points.shape:
        got = f"shape {tuple(view.shape)}" if isinstance(view, Tensor) else type(view).__name__
        raise ValueError(
            f"augment was called with a batch of points of shape {tuple(points.shape)} and must "
            f"return a Tensor of the same shape; it returned {got}."
        )
    return view.to(points.dtype)
