"""The default networks: a linear map that starts as Euclid, plus a learned correction."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, pad

from skdml.deep.networks.initial import MAX_START_POINTS, choose_start, within_class_whitening

CHANNELS = (1, 3, 4)  # of grey, colour and colour with transparency


class EuclidPlusBranch(nn.Module):
    r"""A linear path that starts as an isometry, plus a nonlinear branch that starts at zero.

    .. math:: f(x) = W \, \frac{x - \mu}{s} + g(x)

    At the start the embedding is the Euclidean distance: W holds the principal axes, and the last
    layer of the branch g is zero. The scale s is the mean distance of two training points, so that
    two training points lie 1 apart on average and a margin means the same on every data set.

    If class labels are given, the start may be another linear map: W is then whitened by the
    scatter within classes. This is done only if cross-validation shows that it clearly improves
    the retrieval of left-out classes; see `skdml.deep.networks.initial`.

    Parameters
    ----------
    n_inputs : int
        The width of the input of the linear path.
    n_components : int
        The width of the embedding.
    branch : torch.nn.Sequential
        g. It takes the same input as the network and returns shape (n, n_components). It begins
        with a `Standardize` layer and ends with a `torch.nn.Linear`, which is set to zero.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, n_inputs: int, n_components: int, branch: nn.Sequential) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(n_components, n_inputs))
        self.register_buffer("location", torch.zeros(n_inputs))
        self.register_buffer("scale", torch.ones(()))
        self.branch = branch
        nn.init.zeros_(branch[-1].weight)  # type: ignore[arg-type]  # torch types layers as Module
        nn.init.zeros_(branch[-1].bias)  # type: ignore[arg-type]

    def linear_inputs(self, X: Tensor) -> Tensor:
        """Return the input of the linear path for a batch, shape (n, n_inputs)."""
        return X

    def start_slices(self, n_inputs: int) -> list[slice]:
        """Return the parts of the linear input that the start may use; the first is the default."""
        return [slice(0, n_inputs)]

    def forward(self, X: Tensor) -> Tensor:
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
        return self.linear_path(X) + self.branch(X)

    def linear_path(self, X: Tensor) -> Tensor:
        """Return the linear part of f, which is all of f before training."""
        return ((self.linear_inputs(X) - self.location) / self.scale) @ self.weight.T

    @torch.no_grad()
    def initialize_from(
        self,
        X: Tensor,
        y: NDArray[np.integer] | None = None,
        groups: NDArray[np.integer] | None = None,
    ) -> None:
        """Set the initial weights from training points; called once, before training.

        Parameters
        ----------
        X : Tensor of shape (n, ...)
            Training points.
        y : ndarray of int, shape (n,), default=None
            Their classes. None starts from the Euclidean distance.
        groups : ndarray of int, shape (n,), default=None
            Their groups. Cross-validation of the start then leaves out whole groups.
        """
        F = self.linear_inputs(X[:MAX_START_POINTS])
        self.location.copy_(F.double().mean(dim=0))
        # Scale to a size of 1, so that squares stay within the range of float32. A power of 2
        # scales without rounding.
        self.scale.copy_(2.0 ** torch.frexp((F - self.location).abs().max()).exponent)
        F = (F - self.location) / self.scale
        self.branch[0].initialize_from(X[:MAX_START_POINTS])  # type: ignore[operator]
        W, columns = self._choose_linear_map(F, y, groups)
        self.weight.zero_()
        self.weight[: len(W), columns] = W
        distances = torch.pdist(self.linear_path(X[: MAX_START_POINTS // 2]))
        if len(distances) and distances.mean() > 0:
            self.scale.mul_(distances.mean())

    def _choose_linear_map(
        self,
        F: Tensor,
        y: NDArray[np.integer] | None,
        groups: NDArray[np.integer] | None,
    ) -> tuple[Tensor, slice]:
        """Return the initial rows of W, and the columns of the linear input that they use."""
        slices = self.start_slices(F.shape[1])
        axes = [principal_axes(F[:, s], min(len(self.weight), s.stop - s.start)) for s in slices]
        if y is None:
            return axes[0], slices[0]
        points = [(F[:, s] @ W.T).double().cpu().numpy() for s, W in zip(slices, axes, strict=True)]
        codes = np.unique(y[:MAX_START_POINTS], return_inverse=True)[1]
        groups = None if groups is None else groups[:MAX_START_POINTS]
        index, shrinkage = choose_start(points, codes, np.random.default_rng(0), groups)
        W = axes[index]
        if np.isfinite(shrinkage):
            A = within_class_whitening(points[index], codes, shrinkage)
            W = torch.from_numpy(A).to(W) @ W
        return W, slices[index]


class ResidualEmbedder(EuclidPlusBranch):
    """The default network for tables: a linear path plus a multilayer perceptron.

    The network starts as the Euclidean distance, or as a whitening within classes; see
    `EuclidPlusBranch`. The perceptron reads standardised features. Constant columns are centred
    but not scaled.

    Parameters
    ----------
    n_features : int
        The number of columns of the table.
    n_components : int
        The width of the embedding.
    n_hidden : int, default=256
        The width of each hidden layer.
    n_layers : int, default=2
        The number of hidden layers, at least 1.
    dropout : float, default=0.0
        The probability, in [0, 1), that a hidden unit is set to zero in a training step.

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

    def __init__(
        self,
        n_features: int,
        n_components: int,
        *,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        layers: list[nn.Module] = [Standardize(n_features)]
        width = n_features
        for _ in range(n_layers):
            layers += [nn.Linear(width, n_hidden), nn.GELU(), nn.Dropout(dropout)]
            width = n_hidden
        layers.append(nn.Linear(width, n_components))
        super().__init__(n_features, n_components, nn.Sequential(*layers))


class ConvEmbedder(EuclidPlusBranch):
    """The default network for images: a linear path plus a small convolutional network.

    The linear path reads pixels and edges. At the start it uses the pixels, or the edges if they
    clearly improve the retrieval of left-out classes; see `EuclidPlusBranch`. Larger images are
    averaged down to `max_size` for the linear path. The convolutional network halves the image
    after each block and ends in a hidden layer.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width) of an image.
    n_components : int
        The width of the embedding.
    channels : tuple of int, default=(32, 64)
        The number of channels of each convolutional block.
    n_hidden : int, default=256
        The width of the hidden layer.
    dropout : float, default=0.0
        The probability, in [0, 1), that a hidden unit is set to zero in a training step.
    max_size : int, default=32
        The largest height and width, in pixels, of the image that the linear path reads.

    Raises
    ------
    ValueError
        If the channels seem to be the last axis of `input_shape`: it has a length of 1, 3 or 4, and
        the first has not.

    Examples
    --------
    >>> import torch
    >>> from skdml.deep.networks.modules import ConvEmbedder
    >>> ConvEmbedder((1, 8, 8), n_components=16)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 16])
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        n_components: int,
        *,
        channels: tuple[int, ...] = (32, 64),
        n_hidden: int = 256,
        dropout: float = 0.0,
        max_size: int = 32,
    ) -> None:
        check_channels_first(input_shape)
        width, *size = input_shape
        layers: list[nn.Module] = [Standardize((width, 1, 1))]
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
        linear_size = tuple(min(side, max_size) for side in size)
        n_pixels = input_shape[0] * math.prod(linear_size)
        n_edges = edges(torch.zeros(1, *input_shape[:1], *linear_size)).shape[1]
        super().__init__(n_pixels + n_edges, n_components, nn.Sequential(*layers))
        self.size = linear_size
        self.n_pixels = n_pixels

    def linear_inputs(self, X: Tensor) -> Tensor:
        """Return the pixels and edges of a batch, shape (n, n_inputs)."""
        if tuple(X.shape[2:]) != self.size:
            X = adaptive_avg_pool2d(X, self.size)  # type: ignore[arg-type]  # a pair
        return torch.cat([X.flatten(1), edges(X)], dim=1)

    def start_slices(self, n_inputs: int) -> list[slice]:
        """Return the columns of the pixels and of the edges."""
        return [slice(0, self.n_pixels), slice(self.n_pixels, n_inputs)]


class Standardize(nn.Module):
    """Subtract a fixed mean and divide by a fixed standard deviation.

    Both are computed from training points before training.

    Parameters
    ----------
    shape : int or tuple of int
        The shape of the mean. A side of 1 shares one mean along that dimension.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, shape: int | tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("location", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    def forward(self, X: Tensor) -> Tensor:
        """Standardise a batch, shape (n, ...)."""
        return (X - self.location) / self.scale

    @torch.no_grad()
    def initialize_from(self, X: Tensor) -> None:
        """Compute mean and standard deviation from points, shape (n, ...)."""
        shared = [0, *(i for i, side in enumerate(self.location.shape, 1) if side == 1)]
        # In float64, where the variance of a constant float32 column is exactly zero.
        variance, mean = torch.var_mean(X.double(), dim=shared, correction=0)
        self.location.copy_(mean.reshape_as(self.location))
        deviation = variance.sqrt().reshape_as(self.scale)
        self.scale.copy_(torch.where(deviation > 0, deviation, torch.ones_like(deviation)))


def check_channels_first(input_shape: tuple[int, ...]) -> None:
    """Raise if the channels of images seem to be the last axis instead of the first.

    Parameters
    ----------
    input_shape : tuple of int
        The shape of one image.

    Raises
    ------
    ValueError
        If the last axis has a length of 1, 3 or 4, and the first axis has not.
    """
    if input_shape[-1] in CHANNELS and input_shape[0] not in CHANNELS:
        raise ValueError(
            f"Images of shape {tuple(input_shape)} seem to have their channels last, but "
            "ConvEmbedder takes (channels, height, width). Move the channels to the front: "
            "X.transpose(0, 3, 1, 2) for an array of images, X.transpose(0, 1, 4, 2, 3) for an "
            "array of pairs or triplets, image.permute(2, 0, 1) for each image of a Dataset. If "
            "the channels are first already, pass a module of your own."
        )


def edges(X: Tensor) -> Tensor:
    """Return rises and falls of brightness in four directions, averaged over overlapping cells.

    If the strokes of two images are shifted by one pixel, their pixels differ much, but their
    edges differ little. The cells are about an eighth of the image wide, as in N. Dalal, B. Triggs,
    "Histograms of Oriented Gradients for Human Detection", CVPR 2005, with four directions: left
    to right, right to left, top to bottom, bottom to top.

    Parameters
    ----------
    X : Tensor of shape (n, channels, height, width)
        Images.

    Returns
    -------
    Tensor of shape (n, n_edges)
        The means, >= 0, over each cell and over the channels.
    """
    around = pad(X, (1, 1, 1, 1), mode="replicate")
    across = around[:, :, 1:-1, 2:] - around[:, :, 1:-1, :-2]
    down = around[:, :, 2:, 1:-1] - around[:, :, :-2, 1:-1]
    rises = torch.stack([across, -across, down, -down], dim=1).clamp_min(0).mean(dim=2)
    radius = [max(1, side // 8) for side in X.shape[2:]]
    size = [2 * r + 1 for r in radius]
    return avg_pool2d(rises, size, radius, padding=radius, count_include_pad=False).flatten(1)


def principal_axes(X: Tensor, n_axes: int) -> Tensor:
    """Return orthonormal directions of the largest variance, computed in float64.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Centred points.
    n_axes : int
        The number of axes, at most d. Axes beyond the rank of X are an arbitrary orthonormal
        completion.

    Returns
    -------
    Tensor of shape (n_axes, d)
        The axes as rows. The largest entry of each is positive.
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
