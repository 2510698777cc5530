"""Datasets of training points, and points in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Subset, default_collate


@dataclass(eq=False)
class ArrayDataset(Dataset):
    """An array in memory with one target for each row. A batch is one slice.

    Parameters
    ----------
    X : ndarray of float32, shape (n, ...) or, for tuples, (n, size, ...)
        Points, or tuples of points.
    targets : ndarray of shape (n,) or (n, k)
        The target of each row: a class code, a graded target, or 1 and 0 for same and different
        pairs.
    tuples : bool, default=False
        Whether the rows are tuples. A batch is then the flat list of their points.

    kind : {"labels", "targets", "views", "pairs", "triplets"}, default="labels"
        What the rows and targets are: points with class labels, points with graded targets, points
        without labels, or tuples.
    groups : ndarray of int64, shape (n,), default=None
        The group of each row.
    classes : ndarray of int64, shape (n,), default=None
        The class of each row of points without labels, if known. It is used to score held-out
        points, not to train.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.data.datasets import ArrayDataset
    >>> pairs = ArrayDataset(np.zeros((5, 2, 3), np.float32), np.zeros(5, int), tuples=True)
    >>> points, same = pairs.__getitems__([0, 4])
    >>> points.shape, same.shape
    (torch.Size([4, 3]), torch.Size([2]))
    """

    X: NDArray[np.floating]
    targets: NDArray
    _: KW_ONLY
    tuples: bool = False
    kind: str = "labels"
    groups: NDArray[np.int64] | None = None
    classes: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.X)

    def __getitem__(self, row: int) -> tuple[NDArray[np.floating], Any]:
        """Return one row and its target."""
        return self.X[row], self.targets[row]

    def __getitems__(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the points and the targets of a batch; torch loaders call this once a batch."""
        X = self.X[rows]
        if self.tuples:
            X = X.reshape(-1, *X.shape[2:])
        return torch.from_numpy(X), torch.from_numpy(self.targets[rows])

    @staticmethod
    def collate(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the batch unchanged; `__getitems__` already returns whole batches."""
        return batch

    def points(self, rows: NDArray[np.integer] | None = None) -> NDArray[np.floating]:
        """Return the points of some rows, or of all: ndarray of float32, shape (n, ...)."""
        X = self.X if rows is None else self.X[rows]
        return X.reshape(-1, *X.shape[2:]) if self.tuples else X


@dataclass(eq=False)
class LabelledDataset(Dataset):
    """A torch Dataset with separate targets. An item is read when it is needed.

    The parameters `kind`, `groups` and `classes` are those of `ArrayDataset`.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        Its items are points, or tuples that begin with a point.
    targets : ndarray of shape (n,) or (n, k)
        The class code, or the graded target, of each item.
    origin : ndarray of float64, shape (n_features,), default=None
        What is subtracted from each point before it is cast to float32.
    """

    dataset: Dataset
    targets: NDArray
    _: KW_ONLY
    kind: str = "labels"
    groups: NDArray[np.int64] | None = None
    classes: NDArray[np.int64] | None = None
    origin: NDArray[np.float64] | None = None
    collate: ClassVar = staticmethod(default_collate)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, Any]:
        """Return one point and its target."""
        return as_point_tensor(self.dataset[int(row)], self.origin), self.targets[row]

    def points(self, rows: NDArray[np.integer] | None = None) -> Dataset:
        """Return a Dataset with the items of some rows, or of all."""
        data = self.dataset if rows is None else Subset(self.dataset, np.asarray(rows).tolist())
        return data if self.origin is None else PointDataset(data, self.origin)


class PointDataset(Dataset):
    """The points of a torch Dataset, without the other parts of its items.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        Its items are points, or tuples that begin with a point.
    origin : ndarray of float64, shape (n_features,), default=None
        What is subtracted from each point before it is cast to float32.
    """

    def __init__(self, dataset: Dataset, origin: NDArray[np.float64] | None = None) -> None:
        self.dataset = dataset
        self.origin = origin

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.dataset)  # type: ignore[arg-type]  # torch declares no __len__

    def __getitem__(self, row: int) -> Tensor:
        """Return one point as a float32 tensor."""
        return as_point_tensor(self.dataset[row], self.origin)


class ItemDataset(Dataset):
    """A list of items as a torch Dataset; a split of a Dataset by scikit-learn is such a list."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def __getitem__(self, row: int) -> Any:
        """Return one item."""
        return self.items[row]


def as_dataset_if_items(X: Any) -> Any:
    """Return a list of Dataset items (point, ...) as a Dataset, and anything else as it is.

    scikit-learn splits a Dataset into lists of its items. Only a tuple that begins with an array
    and goes on with something of another shape is taken for an item.
    """
    first = X[0] if isinstance(X, (list, tuple)) and len(X) else None
    if isinstance(first, tuple) and len(first) > 1 and getattr(first[0], "ndim", 0) > 0:
        shapes = [getattr(part, "shape", ()) for part in first]
        if any(tuple(shape) != tuple(shapes[0]) for shape in shapes[1:]):
            return ItemDataset(X)
    return X


def point_of_item(item: Any) -> Any:
    """Return the point of a Dataset's item: the item, or the first part of a tuple."""
    return item[0] if isinstance(item, (tuple, list)) and not np.isscalar(item[0]) else item


def as_point_tensor(item: Any, origin: NDArray[np.float64] | None = None) -> Tensor:
    """Return the point of a Dataset's item as a float32 tensor.

    Parameters
    ----------
    item : Tensor, array-like, or tuple that begins with one
        The item, as returned by ``dataset[i]``.
    origin : ndarray of float64, shape (n_features,), default=None
        What is subtracted, in float64, before the cast.

    Returns
    -------
    Tensor of float32
        The point.

    Raises
    ------
    ValueError
        If the point is not an array of numbers.
    """
    item = point_of_item(item)
    try:
        if origin is not None:
            return (torch.as_tensor(item, dtype=torch.float64) - torch.from_numpy(origin)).float()
        return torch.as_tensor(item, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            "Each item of the Dataset must be a point (an array of numbers), or a tuple that "
            f"begins with a point; got {type(item).__name__}: {error}"
        ) from error
