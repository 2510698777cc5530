"""Datasets that give a batch at a time."""

import math

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset, default_collate


def as_writable(X):
    """Return an array that torch may share: it warns about memory that it may not write to."""
    return X if X.flags.writeable else X.copy()


class ArrayDataset(Dataset):
    """An array in memory with a target for each row, sliced a batch at a time.

    Parameters
    ----------
    X : ndarray of float32, shape (n, ...) or, for tuples, (n, size, ...)
        Points, or tuples of points.
    targets : ndarray of shape (n,) or (n, k)
        A class, a graded target, or same/different, for each row.
    tuples : bool, default=False
        Whether the rows are tuples; a batch then is the flat list of their points.

    Attributes
    ----------
    kind : {"labels", "targets", "views", "pairs", "triplets"}
        What the targets say: classes, graded targets, nothing (a row is alike to itself alone), or
        what the tuples are.
    groups : ndarray of int64, shape (n,), or None
        The group of each row.
    classes : ndarray of int64, shape (n,), or None
        The class of each row where targets do not say it: what is held out is judged by it.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep.data.datasets import ArrayDataset
    >>> pairs = ArrayDataset(np.zeros((5, 2, 3), np.float32), np.zeros(5, int), tuples=True)
    >>> points, same = pairs.__getitems__([0, 4])
    >>> points.shape, same.shape
    (torch.Size([4, 3]), torch.Size([2]))
    """

    kind = "labels"
    groups = None
    classes = None

    def __init__(self, X, targets, *, tuples=False):
        self.X = X
        self.targets = targets
        self.tuples = tuples

    def __len__(self):
        """Return the number of rows."""
        return len(self.X)

    def __getitem__(self, row):
        """Return one row and its target."""
        return self.X[row], self.targets[row]

    def __getitems__(self, rows):
        """Return the points and the targets of a batch: torch asks for them all at once."""
        X = self.X[rows]
        if self.tuples:
            X = X.reshape(-1, *X.shape[2:])
        return torch.from_numpy(X), torch.from_numpy(self.targets[rows])

    @staticmethod
    def collate(batch):
        """Leave a batch as it is: it was never taken apart."""
        return batch

    def points(self, rows=None):
        """Return the points of some rows, or of all: ndarray of float32, shape (n, ...)."""
        X = self.X if rows is None else self.X[rows]
        return X.reshape(-1, *X.shape[2:]) if self.tuples else X


class LabelledDataset(Dataset):
    """A torch Dataset with labels given beside it, read as it is needed.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        Its items are points, or tuples that begin with a point.
    targets : ndarray of shape (n,) or (n, k)
        The class, or the graded target, of each item.
    """

    kind = "labels"
    groups = None
    classes = None
    collate = staticmethod(default_collate)

    def __init__(self, dataset, targets):
        self.dataset = dataset
        self.targets = targets

    def __len__(self):
        """Return the number of items."""
        return len(self.targets)

    def __getitem__(self, row):
        """Return one point and its label."""
        return as_point_tensor(self.dataset[int(row)]), self.targets[row]

    def points(self, rows=None):
        """Return the points of some rows, or of all, as a Dataset, read as it is needed."""
        return self.dataset if rows is None else Subset(self.dataset, np.asarray(rows).tolist())


class Points(Dataset):
    """The points of a torch Dataset, without whatever else its items hold."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        """Return the number of points."""
        return len(self.dataset)

    def __getitem__(self, row):
        """Return one point as a float32 tensor."""
        return as_point_tensor(self.dataset[row])


def as_point_tensor(item):
    """Return the point of a dataset's item as a float32 tensor.

    Parameters
    ----------
    item : Tensor, array-like, or tuple that begins with one
        What ``dataset[i]`` gave.

    Returns
    -------
    Tensor of float32
        The point.

    Raises
    ------
    ValueError
        If it is no array of numbers.
    """
    if isinstance(item, (tuple, list)) and not np.isscalar(item[0]):
        item = item[0]
    try:
        return torch.as_tensor(item, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            "An item of the Dataset has to be a point, an array of numbers, or a tuple that begins "
            f"with one; got {type(item).__name__}: {error}"
        ) from error


def batches_of_points(data, max_points, max_numbers=np.inf):
    """Yield points batch by batch, in order.

    Parameters
    ----------
    data : ndarray of float32, shape (n, ...), or torch Dataset
        The points.
    max_points : int
        Points a batch at most.
    max_numbers : int, default=np.inf
        Numbers a batch at most, unless a single point has more.

    Yields
    ------
    Tensor of float32, shape (n_batch, ...)
        A batch.
    """

    def batch_size(n_numbers):
        return max(1, int(min(max_points, max_numbers / max(1, n_numbers))))

    if isinstance(data, np.ndarray):
        yield from torch.from_numpy(as_writable(data)).split(batch_size(math.prod(data.shape[1:])))
        return
    batch = []
    # With a generator of its own, since a loader otherwise draws from the global one.
    for point in DataLoader(Points(data), batch_size=None, generator=torch.Generator()):
        if batch and point.shape != batch[0].shape:
            raise ValueError(
                "The points of a Dataset have to be of one shape; got "
                f"{tuple(batch[0].shape)} and {tuple(point.shape)}."
            )
        batch.append(point)
        if len(batch) == batch_size(point.numel()):
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)
