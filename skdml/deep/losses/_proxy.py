"""The base of the losses that compare points with proxies, learned representatives of a class."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from skdml.deep._distances import directions, full_precision
from skdml.deep._pairs import check_batch
from skdml.deep.losses._checks import check_count, check_label_range


def cosines(x: Tensor, proxies: Tensor) -> Tensor:
    r"""Cosines of embeddings and proxies; 0 for a zero row.

    .. math:: s_{ij} = x_i^T p_j / (\lVert x_i \rVert \, \lVert p_j \rVert)

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Embeddings.
    proxies : Tensor of shape (c, d) or (c, k, d)
        One proxy or k proxies for each class.

    Returns
    -------
    Tensor of shape (n, c) or (n, c, k)
        The cosines.
    """
    x, proxies = full_precision(x, proxies)
    unit_proxies = directions(proxies.reshape(-1, proxies.shape[-1]))
    return (directions(x) @ unit_proxies.T).reshape(len(x), *proxies.shape[:-1])


def mean_cross_entropy(logit: Tensor, labels: Tensor) -> Tensor:
    """Mean of the cross entropy over a batch; zero for an empty batch."""
    return cross_entropy(logit, labels, reduction="sum") / max(1, len(labels))


def class_means(x: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return the mean row of each class that occurs, and the mask of these classes."""
    counts = torch.bincount(labels, minlength=n_classes)
    found = counts > 0
    sums = x.new_zeros(n_classes, x.shape[1]).index_add_(0, labels, x)
    return sums[found] / counts[found, None], found


class ProxyLoss(torch.nn.Module, ABC):
    """Base of the losses between embeddings and proxies.

    :meth:`forward` checks the call. A subclass defines the loss (:meth:`compute`) and the logit
    of each class for a point (:meth:`logits`).

    Parameters
    ----------
    n_classes : int
        Number of classes, >= 2. Labels are 0, ..., n_classes - 1.
    n_components : int
        Width of the embedding.
    n_proxies : int or None, default=None
        Number of proxies of each class. None means one proxy and no axis for it.

    Attributes
    ----------
    proxies : Parameter of shape (n_classes, n_components) or (n_classes, n_proxies, n_components)
        The proxies. They start in random directions.
    """

    def __init__(self, n_classes: int, n_components: int, n_proxies: int | None = None) -> None:
        super().__init__()
        self.n_classes = check_count("n_classes", n_classes, 2)
        self.n_components = check_count("n_components", n_components)
        self.n_proxies = None if n_proxies is None else check_count("n_proxies", n_proxies)
        per_class = () if self.n_proxies is None else (self.n_proxies,)
        self.proxies = self._random_parameter(self.n_classes, *per_class, self.n_components)

    def _random_parameter(self, *shape: int) -> torch.nn.Parameter:
        """Return a random parameter whose rows have length 1 on average."""
        return torch.nn.Parameter(torch.randn(shape) / math.sqrt(self.n_components))

    @abstractmethod
    def compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of checked embeddings in full precision."""

    @abstractmethod
    def logits(self, embeddings: Tensor) -> Tensor:
        """Compute the logits of the classes, of shape (n, n_classes); nearer classes have more."""

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Cosines with the proxies, of shape (n, n_classes) or (n, n_classes, n_proxies)."""
        return cosines(embeddings, self.proxies)

    @torch.no_grad()
    def initialize_from(self, embeddings: Tensor, labels: Tensor) -> None:
        """Set the proxies of each class that occurs to the mean direction of its points.

        Parameters
        ----------
        embeddings : Tensor of shape (n, n_components)
            Embeddings.
        labels : int Tensor of shape (n,)
            Classes of the embeddings.
        """
        labels = self._check(embeddings, labels)
        unit = directions(full_precision(embeddings)[0])
        means, found = class_means(unit, labels, self.n_classes)
        means = means.to(self.proxies.dtype)
        if self.n_proxies is not None:
            # Noise separates the proxies of a class; otherwise all of them would learn the same.
            noise = torch.randn(len(means), *self.proxies.shape[1:]).to(means)
            means = means[:, None] + 0.1 * noise / math.sqrt(self.n_components)
        self.proxies[found] = means

    @torch.no_grad()
    def grow(self, n_classes: int) -> None:
        """Add classes; the parameters of the existing classes do not change.

        Parameters
        ----------
        n_classes : int
            The new number of classes, at least the present one.
        """
        n_new = check_count("n_classes", n_classes, self.n_classes) - self.n_classes
        for name, old in list(self.named_parameters()):
            new = self._random_parameter(n_new, *old.shape[1:]).to(old)
            setattr(self, name, torch.nn.Parameter(torch.cat([old, new])))
        self.n_classes += n_new

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch.

        Parameters
        ----------
        embeddings : Tensor of shape (n, n_components)
            Embeddings, floating point.
        labels : int Tensor of shape (n,)
            Classes of the embeddings, 0, ..., n_classes - 1.
        indices_tuple, ref_emb, ref_labels : None
            Must be None, because points are compared with proxies only.

        Returns
        -------
        Tensor of shape ()
            The loss; float64 for float64 embeddings, float32 otherwise. For an empty batch, the
            loss and its gradient are zero, except for terms that depend on the proxies alone.

        Raises
        ------
        ValueError
            If shapes, types or labels do not fit, or if indices or references are given.
        """
        others = {"indices_tuple": indices_tuple, "ref_emb": ref_emb, "ref_labels": ref_labels}
        given = [name for name, value in others.items() if value is not None]
        if given:
            raise ValueError(
                f"{type(self).__name__} compares points with proxies, not with other points, and "
                f"takes no {' and no '.join(given)}. Leave out the miner and the memory, or choose "
                "a loss over pairs or triplets."
            )
        labels = self._check(embeddings, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.compute(full_precision(embeddings)[0], labels)

    def _check(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Check the embeddings and labels of a call, and return the labels as int64."""
        labels, _ = check_batch(embeddings, labels, None, None)
        if embeddings.shape[1] != self.n_components:
            raise ValueError(
                f"embeddings must be of width {self.n_components}, that of the proxies; got shape "
                f"{tuple(embeddings.shape)}"
            )
        check_label_range(labels, self.n_classes)
        return labels.long()

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return f"{self.n_classes}, {self.n_components}"
