"""The embedding f(x) = network(x) as a picklable callable on arrays."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from torch import Tensor, nn
from torch.nn.functional import normalize as to_unit_length
from torch.utils.data import DataLoader, Dataset

from skdml.deep.data.datasets import PointDataset
from skdml.deep.data.precision import to_float32
from skdml.deep.data.reading import point_dtype

# The largest batch without gradients, in points and in numbers (for large points).
MAX_BATCH_POINTS = 2048
MAX_BATCH_NUMBERS = 2**22


class NetworkMap:
    """The embedding f(x) = network(x) as a picklable callable on arrays.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    normalize : bool
        Whether embeddings are scaled to unit length.
    device : str or torch.device
        The device of the network.
    feature_shape : tuple of int, default=None
        The shape of one point. Calling the map checks points against it.
    backbone : NetworkMap, default=None
        A frozen network that is applied to the points first.
    origin : ndarray of float64, shape (n_features,), default=None
        What `prepare` subtracts from points before they are cast to float32.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        normalize: bool,
        device: str | torch.device,
        feature_shape: tuple[int, ...] | None = None,
        backbone: NetworkMap | None = None,
        origin: NDArray[np.float64] | None = None,
    ) -> None:
        self.module = module
        self.normalize = normalize
        self.device = device
        self.feature_shape = feature_shape
        self.backbone = backbone
        self.origin = origin

    def __call__(self, X: ArrayLike) -> NDArray[np.float32]:
        """Check and embed points.

        Parameters
        ----------
        X : array-like of shape (n, ...)
            Points, each of shape `feature_shape` or flattened.

        Returns
        -------
        ndarray of float32, shape (n, n_components)
            f(X).

        Raises
        ------
        ValueError
            If X is not a finite numeric array, or its points have another shape.
        """
        points: Any = check_array(X, dtype=point_dtype(X), order="C", allow_nd=True)
        shape = self.feature_shape
        if shape is not None and points.shape[1:] != shape:
            if points.ndim != 2 or points.shape[1] != np.prod(shape):
                raise ValueError(
                    f"The network was trained on points of shape {shape}; got points of shape "
                    f"{points.shape[1:]}."
                )
            points = points.reshape(-1, *shape)
        return self.embed(self.prepare(points))

    def prepare(self, data: NDArray[np.floating] | Dataset) -> Any:
        """Subtract the origin from points and cast them to float32, as `embed` takes them.

        Parameters
        ----------
        data : ndarray of shape (n, ...), or torch Dataset
            Points as the user has them.

        Returns
        -------
        ndarray of float32, shape (n, ...), or PointDataset
            Points as the network reads them.
        """
        if isinstance(data, Dataset):
            return PointDataset(data, self.origin)
        return to_float32(data, self.origin)

    @torch.no_grad()
    def embed(self, data: NDArray[np.float32] | Dataset) -> NDArray[np.float32]:
        """Embed points without checking them.

        Parameters
        ----------
        data : ndarray of float32, shape (n, ...), or torch Dataset
            Points as the network reads them; see `prepare`.

        Returns
        -------
        ndarray of float32, shape (n, n_components)
            f(X).
        """
        if self.backbone is not None:
            data = self.backbone.embed(data)
        was_training = self.module.training
        self.module.eval()
        try:
            batches = [
                embed_batch(self.module, batch.to(self.device), self.normalize).float().cpu()
                for batch in batches_of_points(data, MAX_BATCH_POINTS, MAX_BATCH_NUMBERS)
            ]
        finally:
            self.module.train(was_training)
        return torch.cat(batches).numpy()

    def with_module(self, module: nn.Module) -> NetworkMap:
        """Return the same map with another network of the same shapes."""
        return NetworkMap(**(vars(self) | {"module": module}))

    def width(self, points: NDArray[np.float32]) -> int:
        """Return the width of the embedding, found by embedding some points.

        Parameters
        ----------
        points : ndarray of float32, shape (n, ...)
            Training points. A network may fail on made-up points, like a sequence of zeros.

        Returns
        -------
        int
            The width.

        Raises
        ------
        ValueError
            If the network cannot embed such points.
        """
        try:
            return self.embed(points).shape[1]
        except (RuntimeError, TypeError, IndexError) as error:
            raise ValueError(
                f"{type(self.module).__name__} cannot take a float32 batch of points of shape "
                f"{points.shape[1:]}: {error}."
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        # A pickle must also load on a machine without the GPU.
        state = self.__dict__.copy()
        if torch.device(self.device).type != "cpu":
            state |= {"module": copy.deepcopy(self.module).cpu(), "device": "cpu"}
        return state

    def __repr__(self) -> str:
        return f"NetworkMap({type(self.module).__name__})"


def embed_batch(
    module: nn.Module, X: Tensor, normalize: bool, half: torch.dtype | None = None
) -> Tensor:
    """Embed one batch.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    X : Tensor of shape (n, ...)
        Points.
    normalize : bool
        Whether embeddings are scaled to unit length.
    half : torch.dtype, default=None
        The half precision for automatic mixed precision; the embeddings are converted back to
        float32. None computes in the precision of the network.

    Returns
    -------
    Tensor of shape (n, n_components)
        Embeddings.

    Raises
    ------
    ValueError
        If the network does not return a tensor of shape (n, n_components).
    """
    if half is None:
        Z = module(X)
    else:
        with torch.autocast(X.device.type, dtype=half):
            Z = module(X)
    if not isinstance(Z, Tensor):
        raise ValueError(
            f"The module must return a tensor of shape ({len(X)}, n_components); it returned a "
            f"{type(Z).__name__}. Wrap it in a module that returns only the embedding."
        )
    if Z.ndim != 2 or len(Z) != len(X):
        raise ValueError(
            "The module must return one embedding for each point, a tensor of shape "
            f"({len(X)}, n_components); for a batch of shape {tuple(X.shape)} it returned shape "
            f"{tuple(Z.shape)}."
        )
    if half is not None:
        Z = Z.float()
    return to_unit_length(Z, dim=1) if normalize else Z


def first_points(data: NDArray[np.floating] | Dataset, n_points: int = 1) -> NDArray[np.float32]:
    """Return the first points of some data, to try a network on them.

    Parameters
    ----------
    data : ndarray of float32, shape (n, ...), or torch Dataset
        The points.
    n_points : int, default=1
        How many, at most.

    Returns
    -------
    ndarray of float32, shape (n_points, ...)
        The points.
    """
    return next(batches_of_points(data, n_points)).numpy()


def batches_of_points(
    data: NDArray[np.floating] | Dataset, max_points: int, max_numbers: float = np.inf
) -> Iterator[Tensor]:
    """Yield points batch by batch, in order.

    Parameters
    ----------
    data : ndarray of float32, shape (n, ...), or torch Dataset
        The points.
    max_points : int
        The maximal number of points in a batch.
    max_numbers : float, default=np.inf
        The maximal number of values in a batch. A batch holds at least one point, even if the
        point has more values.

    Yields
    ------
    Tensor of float32, shape (n_batch, ...)
        A batch.

    Raises
    ------
    ValueError
        If the points of a Dataset differ in shape.
    """

    def batch_size(numbers_per_point: int) -> int:
        return max(1, int(min(max_points, max_numbers / max(1, numbers_per_point))))

    if isinstance(data, np.ndarray):
        points = torch.from_numpy(np.require(data, requirements="W"))  # torch shares its memory
        yield from points.split(batch_size(math.prod(data.shape[1:])))
        return
    batch: list[Tensor] = []
    # A loader without its own generator would draw from torch's global generator.
    for point in DataLoader(PointDataset(data), batch_size=None, generator=torch.Generator()):
        if batch and point.shape != batch[0].shape:
            raise ValueError(
                "All points of a Dataset must have the same shape; got "
                f"{tuple(batch[0].shape)} and {tuple(point.shape)}."
            )
        batch.append(point)
        if len(batch) == batch_size(point.numel()):
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)
