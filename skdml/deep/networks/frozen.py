"""A frozen network; its outputs replace the points during training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from skdml.deep.data.datasets import ArrayDataset, LabelledDataset
from skdml.deep.networks.map import NetworkMap, first_points
from skdml.distances import distinct_points


class FrozenNetwork(NetworkMap):
    """A network that is not trained, as a picklable callable on arrays.

    It runs in evaluation mode and without gradients. Its weights and the statistics of its batch
    normalisation layers do not change.

    Parameters
    ----------
    module : torch.nn.Module
        The network. It is moved to the device and set to evaluation mode.
    device : str or torch.device
        The device to run on.
    feature_shape : tuple of int
        The shape of one point.

    Attributes
    ----------
    n_outputs : int
        The width of the outputs; 0 before the first call of `embed_dataset`.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from skdml.deep.networks.frozen import FrozenNetwork
    >>> halve = torch.nn.AvgPool1d(2)
    >>> FrozenNetwork(halve, device="cpu", feature_shape=(4,))(np.eye(4)[:2])
    array([[0.5, 0. ],
           [0.5, 0. ]], dtype=float32)
    """

    def __init__(
        self, module: nn.Module, *, device: str | torch.device, feature_shape: tuple[int, ...]
    ) -> None:
        module = module.to(device).eval()
        super().__init__(module, normalize=False, device=device, feature_shape=feature_shape)
        self.n_outputs = 0

    def embed_dataset(self, data: ArrayDataset | LabelledDataset) -> ArrayDataset:
        """Compute the outputs for all training points.

        Parameters
        ----------
        data : ArrayDataset or LabelledDataset
            The training data. A point that occurs in several tuples is computed once.

        Returns
        -------
        ArrayDataset
            The same rows, with outputs instead of points.

        Raises
        ------
        ValueError
            If the network does not return one vector for each point, or an output is not finite.
        """
        points: Any = data.points()
        tuples = getattr(data, "tuples", False)
        if self.n_outputs == 0:
            self.n_outputs = self.width(first_points(points))
        if tuples:
            points, point_numbers = distinct_points([points])
        Z = self.embed(points)
        if not np.isfinite(Z).all():
            raise ValueError(
                f"The frozen {type(self.module).__name__} returns outputs that are not finite, for "
                f"{(~np.isfinite(Z).all(axis=1)).sum()} of {len(Z)} points. Check that the points "
                "are finite, and scaled like the points that it was trained on."
            )
        if tuples:
            Z = Z[point_numbers].reshape(len(data), -1, self.n_outputs)
        outputs = ArrayDataset(Z, data.targets, tuples=tuples)
        outputs.kind, outputs.groups = data.kind, data.groups
        return outputs
