"""Views: augmented copies of training points, which say what is alike without a label."""

import torch
from torch.utils.data import Dataset


class AugmentedDataset(Dataset):
    """Training data whose points are augmented, a batch at a time.

    Parameters
    ----------
    data : ArrayDataset or LabelledDataset
        The training data.
    augment : callable
        Gets a batch of points, a Tensor of shape (n, ...), and gives one of the same shape.
    n_views : int, default=1
        Views of each point: the batch is the first views of all its points, then the second views.

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

    def __init__(self, data, augment, n_views=1):
        self.data = data
        self.augment = augment
        self.n_views = n_views

    def __len__(self):
        """Return the number of rows."""
        return len(self.data)

    def __getitems__(self, rows):
        """Return what the training data makes of a batch."""
        if hasattr(self.data, "__getitems__"):
            return self.data.__getitems__(rows)
        return [self.data[row] for row in rows]

    def collate(self, batch):
        """Return the augmented points and the targets of a batch."""
        points, targets = self.data.collate(batch)
        views = [augmented_view(points, self.augment) for _ in range(self.n_views)]
        return torch.cat(views), torch.cat([targets] * self.n_views)


@torch.no_grad()
def augmented_view(points, augment):
    """Augment points, and see that they are still such points.

    Parameters
    ----------
    points : Tensor of float32, shape (n, ...)
        The points; they are not changed.
    augment : callable
        Gets the points and gives as many of the same shape.

    Returns
    -------
    Tensor of float32, shape (n, ...)
        The augmented points.

    Raises
    ------
    ValueError
        If it gives something else.
    """
    view = augment(points.clone())
    if not isinstance(view, torch.Tensor) or view.shape != points.shape:
        got = tuple(view.shape) if isinstance(view, torch.Tensor) else type(view).__name__
        raise ValueError(
            f"augment has to give a Tensor of the shape it gets, {tuple(points.shape)}, a batch of "
            f"points; it gave {got}."
        )
    return view.to(points.dtype)
