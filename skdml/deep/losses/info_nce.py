"""InfoNCE: each point is to find its other view among all other views."""

from functools import partial

import torch
from torch import Tensor

from skdml.deep._distances import attach_gradient, pairwise_distance
from skdml.deep.losses._checks import check_flag, check_positive, check_views
from skdml.deep.losses._gradient import sum_over_rows
from skdml.deep.losses.nca import nca
from skdml.distances import check_distance


class InfoNCELoss(torch.nn.Module):
    r"""InfoNCE for given pairs: row i of the embeddings belongs to row i of the references.

    .. math:: L = \frac{1}{n} \sum_i -\log \frac{e^{-d_{ii} / \tau}}{\sum_j e^{-d_{ij} / \tau}}

    A pair can be two views of one thing, a question and its answer, or an image and its caption.
    No labels are needed: all other references are negatives.

    Unlike the paper by Radford et al., the temperature is not learned.

    Parameters
    ----------
    temperature : float, default=0.07
        The temperature tau, > 0.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="cosine"
        Distance between embeddings and references.
    symmetric : bool, default=True
        If True, take the mean of both directions: embeddings find their references, and
        references find their embeddings.

    Attributes
    ----------
    active_share : Tensor of shape ()
        Share of the embeddings with a loss > 0 in the last call.

    Raises
    ------
    ValueError
        If a parameter is outside its range. The message states the allowed values.

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

    def __init__(
        self, temperature: float = 0.07, *, distance: str = "cosine", symmetric: bool = True
    ) -> None:
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.distance = check_distance(distance)
        self.symmetric = check_flag("symmetric", symmetric)
        self.active_share = torch.tensor(0.0)

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        return (
            f"temperature={self.temperature:g}, distance={self.distance!r}, "
            f"symmetric={self.symmetric}"
        )

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch of pairs.

        Parameters
        ----------
        embeddings : Tensor of shape (n, d)
            First side of the pairs, floating point.
        labels, ref_labels : ignored
            Not used. Accepted, because all losses have the same call.
        indices_tuple : None
            Must be None, because the rows define the pairs.
        ref_emb : Tensor of shape (n, d)
            Second side of the pairs.

        Returns
        -------
        Tensor of shape ()
            The loss, >= 0; float64 for float64 embeddings, float32 otherwise.

        Raises
        ------
        ValueError
            If the two sides differ in shape, or indices are given.
        """
        ref_emb = check_views(embeddings, indices_tuple, ref_emb)
        with torch.autocast(embeddings.device.type, enabled=False):
            distance = pairwise_distance(embeddings, ref_emb, self.distance)
            value, n_active = self._one_way(distance)
            if self.symmetric:
                value = (value + self._one_way(distance.T)[0]) / 2
        self.active_share = (n_active / max(1, len(embeddings))).to(value.dtype)
        return value

    def _one_way(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of the rows, each of which finds its column, and the active rows."""
        n = len(distance)
        neg_mask = ~torch.eye(n, dtype=torch.bool, device=distance.device)
        total, n_active, gradients = sum_over_rows(
            partial(nca, temperature=self.temperature),
            (distance.diagonal()[:, None], distance),
            (torch.ones_like(neg_mask[:, :1]), neg_mask),
        )
        if gradients:
            pos_gradient, gradient = gradients
            gradient.diagonal().add_(pos_gradient[:, 0])
            total = attach_gradient(total, distance, gradient)
        return total / max(1, n), n_active
