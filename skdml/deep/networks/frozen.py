"""A network that stays as it is, and the outputs that training reads in its place."""

import numpy as np

from skdml.deep.data.datasets import ArrayDataset
from skdml.deep.networks.map import NetworkMap
from skdml.distances import distinct_points


class FrozenNetwork(NetworkMap):
    """A network that stays as it is, as a picklable callable on arrays.

    It runs in evaluation mode and without gradients: its weights and the statistics of its batch
    norms do not change.

    Parameters
    ----------
    module : torch.nn.Module
        The network; it is moved to the device and set to evaluation mode.
    device : str or torch.device
        Where it runs.
    feature_shape : tuple of int
        The shape of a point.

    Attributes
    ----------
    n_outputs : int
        Width of what it gives.

    Raises
    ------
    ValueError
        If it does not give a vector for each point.

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

    def __init__(self, module, *, device, feature_shape):
        module = module.to(device).eval()
        super().__init__(module, normalize=False, device=device, feature_shape=feature_shape)
        self.n_outputs = self.width(feature_shape)

    def embed_dataset(self, data):
        """Compute the outputs for all training points.

        Parameters
        ----------
        data : ArrayDataset or LabelledDataset
            The training data. Points that occur in several tuples pass through the network once.

        Returns
        -------
        ArrayDataset
            The outputs in place of the points.

        Raises
        ------
        ValueError
            If an output is not finite.
        """
        points, tuples = data.points(), getattr(data, "tuples", False)
        if tuples:
            points, places = distinct_points([points])
        Z = self.embed(points)
        if not np.isfinite(Z).all():
            raise ValueError(
                f"The frozen {type(self.module).__name__} gives outputs that are not finite, for "
                f"{(~np.isfinite(Z).all(axis=1)).sum()} of {len(Z)} points. See that the points "
                "are finite, and scaled as those it was trained on."
            )
        if tuples:
            Z = Z[places].reshape(len(data), -1, self.n_outputs)
        outputs = ArrayDataset(Z, data.targets, tuples=tuples)
        outputs.kind, outputs.groups = data.kind, data.groups
        return outputs
