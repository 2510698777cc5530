"""Losses that compare each point with a learned stand-in for each class: a proxy."""

import math
from abc import ABC, abstractmethod

import torch
from torch.nn.functional import cross_entropy

from skdml.deep._distances import _full_precision, directions
from skdml.deep.losses._checks import check_batch, check_count


def cosines(x, proxies):
    r"""Cosines of embeddings and proxies, 0 where one of them is zero.

    .. math:: s_{ij} = x_i^T p_j / (\lVert x_i \rVert \, \lVert p_j \rVert)

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Embeddings.
    proxies : Tensor of shape (c, d) or (c, k, d)
        Proxies, one or k of each class.

    Returns
    -------
    Tensor of shape (n, c) or (n, c, k)
        The cosines.
    """
    x, proxies = _full_precision(x, proxies)
    units = directions(proxies.reshape(-1, proxies.shape[-1]))
    return (directions(x) @ units.T).reshape(len(x), *proxies.shape[:-1])


def mean_cross_entropy(logit, labels):
    """Mean of the cross entropy over a batch; zero for an empty one."""
    return cross_entropy(logit, labels, reduction="sum") / max(1, len(labels))


class ProxyLoss(torch.nn.Module, ABC):
    """Base of the losses between embeddings and proxies.

    :meth:`forward` checks; a subclass says what the loss is (``compute``), and how near a point is
    to each class (``logits``).

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2; labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    n_proxies : int or None, default=None
        Proxies of each class; None is one, without an axis of its own.

    Attributes
    ----------
    proxies : Parameter of shape (n_classes, n_components) or (n_classes, n_proxies, n_components)
        The proxies. They start in random directions.
    """

    def __init__(self, n_classes, n_components, n_proxies=None):
        super().__init__()
        self.n_classes = check_count("n_classes", n_classes, 2)
        self.n_components = check_count("n_components", n_components)
        self.n_proxies = None if n_proxies is None else check_count("n_proxies", n_proxies)
        each = () if n_proxies is None else (self.n_proxies,)
        self.proxies = self._start(self.n_classes, *each, self.n_components)

    def _start(self, *shape):
        """Return a parameter at random whose rows are of length 1 on average."""
        return torch.nn.Parameter(torch.randn(shape) / math.sqrt(self.n_components))

    @abstractmethod
    def compute(self, embeddings, labels):
        """Loss of checked embeddings, in full precision."""

    @abstractmethod
    def logits(self, embeddings):
        """Logits of the classes, of shape (n, n_classes), larger where a class is nearer."""

    def cosines(self, embeddings):
        """Cosines with the proxies, of shape (n, n_classes) or (n, n_classes, n_proxies)."""
        return cosines(embeddings, self.proxies)

    @torch.no_grad()
    def initialize_from(self, embeddings, labels):
        """Set the proxies of the classes that occur to the mean directions of their points.

        Parameters
        ----------
        embeddings : Tensor of shape (n, n_components)
            Embeddings.
        labels : int Tensor of shape (n,)
            Their classes.
        """
        labels = self._check(embeddings, labels)
        unit = directions(*_full_precision(embeddings))
        means, found = class_means(unit, labels, self.n_classes)
        means = means.to(self.proxies.dtype)
        if self.n_proxies is not None:
            # A little apart, or the proxies of a class would all learn the same.
            noise = torch.randn(len(means), *self.proxies.shape[1:]).to(means)
            means = means[:, None] + 0.1 * noise / math.sqrt(self.n_components)
        self.proxies[found] = means

    @torch.no_grad()
    def grow(self, n_classes):
        """Make room for further classes; those that are there stay as they are.

        Parameters
        ----------
        n_classes : int
            Number of classes from now on, not less than before.
        """
        more = check_count("n_classes", n_classes, self.n_classes) - self.n_classes
        for name, old in list(self.named_parameters()):
            new = self._start(more, *old.shape[1:]).to(old)
            setattr(self, name, torch.nn.Parameter(torch.cat([old, new])))
        self.n_classes += more

    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        """Compute the loss of a batch.

        Parameters
        ----------
        embeddings : Tensor of shape (n, n_components)
            Embeddings, floating point.
        labels : int Tensor of shape (n,)
            Their classes, 0, ..., n_classes - 1.
        indices_tuple, ref_emb, ref_labels : None
            No other points are compared with.

        Returns
        -------
        Tensor of shape ()
            The loss; float64 for float64 embeddings, else float32. For an empty batch it is zero,
            with a gradient of zero, but for what concerns the proxies alone.

        Raises
        ------
        ValueError
            If shapes, types or labels do not fit, or tuples or references are given.
        """
        other = {"indices_tuple": indices_tuple, "ref_emb": ref_emb, "ref_labels": ref_labels}
        given = [name for name, value in other.items() if value is not None]
        if given:
            raise ValueError(
                f"{type(self).__name__} compares points with proxies, not with other points, and "
                f"takes no {' and no '.join(given)}. Leave the miner and the memory out, or take "
                "a loss over pairs or triplets."
            )
        labels = self._check(embeddings, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.compute(*_full_precision(embeddings), labels)

    def _check(self, embeddings, labels):
        labels, _ = check_batch(embeddings, labels, None, None)
        if embeddings.shape[1] != self.n_components:
            raise ValueError(
                f"embeddings must be of width {self.n_components}, that of the proxies; got shape "
                f"{tuple(embeddings.shape)}"
            )
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.n_classes):
            raise ValueError(
                f"labels must lie in 0, ..., {self.n_classes - 1}, because n_classes="
                f"{self.n_classes}; got {labels.min().item()} to {labels.max().item()}"
            )
        return labels.long()

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return f"{self.n_classes}, {self.n_components}"


def class_means(x, labels, n_classes):
    """Means of the rows of each class that occurs, and a mask of these classes."""
    counts = torch.bincount(labels, minlength=n_classes)
    found = counts > 0
    sums = x.new_zeros(n_classes, x.shape[1]).index_add_(0, labels, x)
    return sums[found] / counts[found, None], found
