"""InfoNCE: each point finds its other view among all other views."""

from functools import partial

import torch

from skdml.deep._distances import pairwise_distance
from skdml.deep.losses._base import _Weighted
from skdml.deep.losses._batch import sum_of_rows
from skdml.deep.losses._checks import check_flag, check_positive, check_views
from skdml.deep.losses.nca import nca
from skdml.distances import check_distance


class InfoNCELoss(torch.nn.Module):
    r"""InfoNCE for given pairs: row i of the embeddings belongs to row i of the references.

    .. math:: L = \frac{1}{n} \sum_i -\log \frac{e^{-d_{ii} / \tau}}{\sum_j e^{-d_{ij} / \tau}}

    Two views of one thing, a question and its answer, an image and its caption: no labels are
    needed. All other references are negatives.

    Parameters
    ----------
    temperature : float, default=0.07
        The temperature tau; > 0.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="cosine"
        Distance between embeddings and references.
    symmetric : bool, default=True
        The mean of both directions: references find their embeddings, too.

    Attributes
    ----------
    active_share : Tensor of shape ()
        After a call: share of the embeddings with a loss > 0.

    Raises
    ------
    ValueError
        If a parameter is outside its range; the message says which values are allowed.

    References
    ----------
    van den Oord, Li, Vinyals: Representation Learning with Contrastive Predictive Coding, 2018,
    eq. 4.
    Radford et al.: Learning Transferable Visual Models From Natural Language Supervision, ICML
    2021, figure 3 (symmetric).

    Examples
    --------
    >>> import torch
    >>> x, y = torch.eye(2), torch.eye(2)
    >>> round(InfoNCELoss(temperature=1.0)(x, ref_emb=y).item(), 4)  # log(1 + exp(-1))
    0.3133
    """

    learns_from = "views"

    def __init__(self, temperature=0.07, *, distance="cosine", symmetric=True):
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.distance = check_distance(distance)
        self.symmetric = check_flag("symmetric", symmetric)
        self.active_share = torch.tensor(0.0)

    def extra_repr(self):
        """Parameters, for ``repr``."""
        return (
            f"temperature={self.temperature:g}, distance={self.distance!r}, "
            f"symmetric={self.symmetric}"
        )

    def forward(self, embeddings, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None):
        """Compute the loss of a batch of pairs.

        Parameters
        ----------
        embeddings : Tensor of shape (n, d)
            One side of the pairs, floating point.
        labels, indices_tuple, ref_labels : None
            Part of the call that all losses share; labels are not read, and there must be no
            indices, because the pairs are given by the rows.
        ref_emb : Tensor of shape (n, d)
            The other side of the pairs.

        Returns
        -------
        Tensor of shape ()
            The loss, >= 0; float64 for float64 embeddings, else float32.

        Raises
        ------
        ValueError
            If the two sides differ in shape, or indices are given.
        """
        check_views(embeddings, indices_tuple, ref_emb)
        with torch.autocast(embeddings.device.type, enabled=False):
            distance = pairwise_distance(embeddings, ref_emb, self.distance)
            value, active = self._one_way(distance)
            if self.symmetric:
                value = (value + self._one_way(distance.T)[0]) / 2
        self.active_share = (active / max(1, len(embeddings))).to(value.dtype)
        return value

    def _one_way(self, distance):
        n = len(distance)
        different = ~torch.eye(n, dtype=torch.bool, device=distance.device)
        total, active, slopes = sum_of_rows(
            partial(nca, temperature=self.temperature),
            (distance.diagonal()[:, None], distance),
            (torch.ones_like(different[:, :1]), different),
        )
        if slopes:
            own, weights = slopes
            weights.diagonal().add_(own[:, 0])
            total = _Weighted.apply(distance, weights, total)
        return total / max(1, n), active
