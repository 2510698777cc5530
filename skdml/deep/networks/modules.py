"""Ready networks: Euclid plus a correction that has to be learned."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, pad

from skdml.deep.networks.initial import MAX_START_POINTS, choose_start, within_class_whitening


class EuclidPlusBranch(nn.Module):
    r"""A linear path that begins as an isometry, and a nonlinear branch that begins at zero.

    .. math:: f(x) = W \, \frac{x - \mu}{s} + g(x)

    A plain network forgets the classes it is not shown. This one begins as Euclid: W holds the
    principal axes, s is the mean distance of two training points (so that they lie 1 apart, and a
    margin means the same on every data set), and the last layer of the branch g is zero. Where
    another linear map surely finds classes that it was not made from better, it begins as that: W
    is whitened by the scatter within the classes, more or less (see `skdml.deep.networks.initial`).

    Parameters
    ----------
    n_inputs : int
        Width of what the linear path reads.
    n_components : int
        Width of the embedding.
    branch : torch.nn.Module
        g: takes what the network takes, gives shape (n, n_components). Its last layer, a
        `torch.nn.Linear`, is set to zero.
    """

    def __init__(self, n_inputs, n_components, branch):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(n_components, n_inputs))
        self.register_buffer("location", torch.zeros(n_inputs))
        self.register_buffer("scale", torch.ones(()))
        self.branch = branch
        *_, last = (layer for layer in branch.modules() if isinstance(layer, nn.Linear))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def flat(self, X):
        """Return what the linear path reads of a batch, shape (n, n_inputs)."""
        return X

    def views(self, n_inputs):
        """Return what the linear path may begin with: slices of what it reads, Euclid first."""
        return [slice(0, n_inputs)]

    def forward(self, X):
        """Embed a batch.

        Parameters
        ----------
        X : Tensor of shape (n, ...)
            Points.

        Returns
        -------
        Tensor of shape (n, n_components)
            f(X).
        """
        return self.start(X) + self.branch(X)

    def start(self, X):
        """Return the linear path, which is f before training: shape (n, n_components)."""
        return ((self.flat(X) - self.location) / self.scale) @ self.weight.T

    @torch.no_grad()
    def initialize_from(self, X, y=None, groups=None):
        """Set the start from training points; called once, before training.

        Parameters
        ----------
        X : Tensor of shape (n, ...)
            Training points.
        y : ndarray of int, shape (n,), default=None
            Their classes; None where these are not known, and the start is Euclid.
        groups : ndarray of int, shape (n,), default=None
            Their groups, where there are some: none then judges by its own points.
        """
        F = self.flat(X[:MAX_START_POINTS])
        self.location.copy_(F.double().mean(dim=0))
        # To the size of 1, so that no square leaves float32's range; by a power of 2, exactly.
        self.scale.copy_(2.0 ** torch.frexp((F - self.location).abs().max()).exponent)
        F = (F - self.location) / self.scale
        views = self.views(F.shape[1])
        axes = [principal_axes(F[:, v], min(len(self.weight), v.stop - v.start)) for v in views]
        view, A = 0, None
        if y is not None:
            points = [
                (F[:, v] @ W.T).double().cpu().numpy() for v, W in zip(views, axes, strict=True)
            ]
            codes = np.unique(y[:MAX_START_POINTS], return_inverse=True)[1]
            groups = None if groups is None else groups[:MAX_START_POINTS]
            view, shrinkage = choose_start(points, codes, np.random.default_rng(0), groups)
            if np.isfinite(shrinkage):
                A = within_class_whitening(points[view], codes, shrinkage)
        W = axes[view] if A is None else torch.from_numpy(A).to(axes[view]) @ axes[view]
        self.weight.zero_()
        self.weight[: len(W), views[view]] = W
        distances = torch.pdist(self.start(X[: MAX_START_POINTS // 2]))
        if len(distances) and distances.mean() > 0:
            self.scale.mul_(distances.mean())


class ResidualEmbedder(EuclidPlusBranch):
    """The default network for tables: `EuclidPlusBranch` with a multilayer perceptron as branch.

    The branch reads standardised features; what tells nothing at the start (a constant column) is
    left unscaled.

    Parameters
    ----------
    n_features : int
        Width of the table.
    n_components : int
        Width of the embedding.
    n_hidden : int, default=256
        Width of the hidden layers of the branch.
    n_layers : int, default=2
        How many hidden layers, at least 1.
    dropout : float, default=0.0
        Probability in [0, 1) of a hidden unit to be silent in a training step.

    Examples
    --------
    >>> import torch
    >>> from skdml.deep.networks.modules import ResidualEmbedder
    >>> net = ResidualEmbedder(n_features=4, n_components=4)
    >>> X = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> net.initialize_from(X)
    >>> round(torch.pdist(net(X)).mean().item(), 3)
    1.0
    """

    def __init__(self, n_features, n_components, *, n_hidden=256, n_layers=2, dropout=0.0):
        layers = [Standardize(n_features)]
        width = n_features
        for _ in range(n_layers):
            layers += [nn.Linear(width, n_hidden), nn.GELU(), nn.Dropout(dropout)]
            width = n_hidden
        layers.append(nn.Linear(width, n_components))
        super().__init__(n_features, n_components, nn.Sequential(*layers))

    def initialize_from(self, X, y=None, groups=None):
        """Set the start from training points; called once, before training.

        Parameters
        ----------
        X : Tensor of shape (n, n_features)
            Training points.
        y : ndarray of int, shape (n,), default=None
            Their classes, where these are known.
        groups : ndarray of int, shape (n,), default=None
            Their groups, where there are some.
        """
        super().initialize_from(X, y, groups)
        self.branch[0].initialize_from(X[:MAX_START_POINTS])


class ConvEmbedder(EuclidPlusBranch):
    """The default network for images: `EuclidPlusBranch` with a small convolution net as branch.

    The linear path reads pixels and edges, and begins with the one or the other; an image wider or
    higher than `max_size` is averaged down to it there. The branch halves the image after each
    block and ends in a hidden layer.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width) of an image.
    n_components : int
        Width of the embedding.
    channels : tuple of int, default=(32, 64)
        Width of each block of the branch.
    n_hidden : int, default=256
        Width of the hidden layer.
    dropout : float, default=0.0
        Probability in [0, 1) of a hidden unit to be silent in a training step.
    max_size : int, default=32
        Side in pixels of the image that the linear path reads.

    Examples
    --------
    >>> import torch
    >>> from skdml.deep.networks.modules import ConvEmbedder
    >>> ConvEmbedder((1, 8, 8), n_components=16)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 16])
    """

    def __init__(
        self,
        input_shape,
        n_components,
        *,
        channels=(32, 64),
        n_hidden=256,
        dropout=0.0,
        max_size=32,
    ):
        width, *size = input_shape
        layers = [Standardize((width, 1, 1))]
        pooled = list(size)
        for n_channels in channels:
            layers += [nn.Conv2d(width, n_channels, 3, padding=1), nn.GELU()]
            layers += [nn.MaxPool2d(2, ceil_mode=True)]
            pooled = [math.ceil(side / 2) for side in pooled]
            width = n_channels
        pooled = [min(side, 4) for side in pooled]
        layers += [nn.AdaptiveAvgPool2d(tuple(pooled)), nn.Flatten()]
        layers += [nn.Linear(width * math.prod(pooled), n_hidden), nn.GELU(), nn.Dropout(dropout)]
        layers.append(nn.Linear(n_hidden, n_components))
        self_size = tuple(min(side, max_size) for side in size)
        n_pixels = input_shape[0] * math.prod(self_size)
        n_edges = edges(torch.zeros(1, *input_shape[:1], *self_size)).shape[1]
        super().__init__(n_pixels + n_edges, n_components, nn.Sequential(*layers))
        self.size = self_size
        self.n_pixels = n_pixels

    def flat(self, X):
        """Return the pixels and the edges that the linear path reads, shape (n, n_inputs)."""
        if tuple(X.shape[2:]) != self.size:
            X = adaptive_avg_pool2d(X, self.size)
        return torch.cat([X.flatten(1), edges(X)], dim=1)

    def views(self, n_inputs):
        """Return the places of the pixels and of the edges."""
        return [slice(0, self.n_pixels), slice(self.n_pixels, n_inputs)]

    def initialize_from(self, X, y=None, groups=None):
        """Set the start from training images; called once, before training.

        Parameters
        ----------
        X : Tensor of shape (n, channels, height, width)
            Training images.
        y : ndarray of int, shape (n,), default=None
            Their classes, where these are known.
        groups : ndarray of int, shape (n,), default=None
            Their groups, where there are some.
        """
        super().initialize_from(X, y, groups)
        self.branch[0].initialize_from(X[:MAX_START_POINTS])


class Standardize(nn.Module):
    """Subtract a fixed mean, divide by a fixed deviation; both are set before training.

    Parameters
    ----------
    shape : int or tuple of int
        The shape of the features that have a mean of their own; 1 where they share one.
    """

    def __init__(self, shape):
        super().__init__()
        self.register_buffer("location", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    def forward(self, X):
        """Standardise a batch, shape (n, ...)."""
        return (X - self.location) / self.scale

    @torch.no_grad()
    def initialize_from(self, X):
        """Take mean and deviation from points, shape (n, ...)."""
        shared = [0, *(i for i, side in enumerate(self.location.shape, 1) if side == 1)]
        # In float64, where the variance of a constant float32 column is exactly zero.
        variance, mean = torch.var_mean(X.double(), dim=shared, correction=0)
        self.location.copy_(mean.reshape_as(self.location))
        deviation = variance.sqrt().reshape_as(self.scale)
        self.scale.copy_(torch.where(deviation > 0, deviation, torch.ones_like(deviation)))


def edges(X):
    """Brightness that rises and falls from left to right and from top to bottom, cell by cell.

    Where the strokes of two pictures differ by a pixel, their pixels are far apart, while these
    are near: they are means over overlapping cells, about an eighth of the picture apart, as in
    N. Dalal, B. Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005, in four
    directions.

    Parameters
    ----------
    X : Tensor of shape (n, channels, height, width)
        Pictures.

    Returns
    -------
    Tensor of shape (n, n_edges)
        Nonnegative means, over the channels, too.
    """
    around = pad(X, (1, 1, 1, 1), mode="replicate")
    across = around[:, :, 1:-1, 2:] - around[:, :, 1:-1, :-2]
    down = around[:, :, 2:, 1:-1] - around[:, :, :-2, 1:-1]
    rises = torch.stack([across, -across, down, -down], dim=1).clamp_min(0).mean(dim=2)
    radius = [max(1, side // 8) for side in X.shape[2:]]
    size = [2 * r + 1 for r in radius]
    return avg_pool2d(rises, size, radius, padding=radius, count_include_pad=False).flatten(1)


def principal_axes(X, n_axes):
    """Orthonormal directions of the largest variance, computed in float64.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Centred points.
    n_axes : int
        How many, at most d. Beyond the rank of X any orthonormal completion will do.

    Returns
    -------
    Tensor of shape (n_axes, d)
        The axes as rows, each with its largest entry positive.
    """
    X = X.double()
    if X.shape[0] >= X.shape[1]:
        axes = torch.linalg.eigh(X.T @ X)[1].T.flip(0)[:n_axes]
    else:
        axes = torch.linalg.svd(X, full_matrices=False)[2][:n_axes]
        missing = n_axes - len(axes)
        if missing:
            more = torch.randn(missing, X.shape[1], dtype=X.dtype).to(X)
            axes = torch.linalg.qr(torch.cat([axes, more]).T)[0].T
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    return (axes * torch.where(largest < 0, -1.0, 1.0)).float()
