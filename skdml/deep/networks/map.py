"""The embedding f(x) = network(x) as a picklable callable on arrays."""

import copy

import numpy as np
import torch
from sklearn.utils import check_array
from torch.nn.functional import normalize as to_unit_length

from skdml.deep.data.datasets import batches_of_points

# Points that pass through the network at once where no gradient is kept; fewer, where they are
# large.
MAX_BATCH_POINTS = 2048


MAX_BATCH_NUMBERS = 2**22


class NetworkMap:
    """The embedding f(x) = network(x) as a picklable callable on arrays.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    normalize : bool
        Whether embeddings are brought to unit length.
    device : str or torch.device
        Where the network is.
    feature_shape : tuple of int, default=None
        The shape of one point, for points that come from outside and have to be checked.
    backbone : NetworkMap, default=None
        What points pass through first.
    """

    def __init__(self, module, *, normalize, device, feature_shape=None, backbone=None):
        self.module = module
        self.normalize = normalize
        self.device = device
        self.feature_shape = feature_shape
        self.backbone = backbone

    def __call__(self, X):
        """Check and embed points.

        Parameters
        ----------
        X : array-like of shape (n, ...)
            Points, each of shape `feature_shape` or flattened.

        Returns
        -------
        ndarray of float32, shape (n, n_components)
            f(X).
        """
        X = check_array(X, dtype=np.float32, order="C", allow_nd=True)
        if X.shape[1:] != self.feature_shape:
            if X.ndim != 2 or X.shape[1] != np.prod(self.feature_shape):
                raise ValueError(
                    f"The network was trained on points of shape {self.feature_shape}; got points "
                    f"of shape {X.shape[1:]}."
                )
            X = X.reshape(-1, *self.feature_shape)
        return self.embed(X)

    @torch.no_grad()
    def embed(self, data):
        """Embed points that are known to be well formed.

        Parameters
        ----------
        data : ndarray of float32, shape (n, ...), or torch Dataset
            Points.

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

    def with_module(self, module):
        """Return the same map by another network of the same shapes."""
        return NetworkMap(**(vars(self) | {"module": module}))

    def width(self, feature_shape):
        """Return the width of what becomes of points of a shape, or raise if it takes none such."""
        try:
            return self.embed(np.zeros((1, *feature_shape), np.float32)).shape[1]
        except (RuntimeError, TypeError, IndexError) as error:
            raise ValueError(
                f"{type(self.module).__name__} cannot take a batch of points of shape "
                f"{feature_shape}, as float32: {error}."
            ) from error

    def __getstate__(self):
        # Pickled without a trace of the GPU it may be on.
        state = self.__dict__.copy()
        if torch.device(self.device).type != "cpu":
            state |= {"module": copy.deepcopy(self.module).cpu(), "device": "cpu"}
        return state

    def __repr__(self):
        return f"NetworkMap({type(self.module).__name__})"


def embed_batch(module, X, normalize, half=None):
    """Pass a batch through a network.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    X : Tensor of shape (n, ...)
        Points.
    normalize : bool
        Whether embeddings are brought to unit length.
    half : torch.dtype, default=None
        The precision to compute in where that is enough; None leaves it to the network. What
        comes out is float32.

    Returns
    -------
    Tensor of shape (n, n_components)
        Embeddings.

    Raises
    ------
    ValueError
        If the network gives another shape.
    """
    if half is None:
        Z = module(X)
    else:
        with torch.autocast(X.device.type, dtype=half):
            Z = module(X)
    if not isinstance(Z, torch.Tensor):
        raise ValueError(
            f"The module has to give a tensor of shape ({len(X)}, n_components); it gave a "
            f"{type(Z).__name__}. Wrap it in a module that returns the embedding alone."
        )
    if Z.ndim != 2 or len(Z) != len(X):
        raise ValueError(
            f"The module has to give one embedding a sample, shape ({len(X)}, n_components); for a "
            f"batch of shape {tuple(X.shape)} it gave shape {tuple(Z.shape)}."
        )
    if half is not None:
        Z = Z.float()
    return to_unit_length(Z, dim=1) if normalize else Z
