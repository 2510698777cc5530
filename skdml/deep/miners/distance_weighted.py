"""Distance-weighted miner: negatives drawn by the inverse density of their distance."""

from numbers import Real

import torch
from sklearn.utils import check_scalar
from torch import Tensor

from skdml.deep._distances import pairwise_distance
from skdml.deep._pairs import label_masks, padded_slots
from skdml.deep.miners._base import Miner
from skdml.deep.miners.angular import squared_euclidean


def log_weights(distance: Tensor, n_dims: int, cutoff: float) -> Tensor:
    r"""Logarithm of the inverse density of distances between points on a sphere, plus a constant.

    .. math:: -\log q(d) = (2 - D) \log d - \tfrac{D - 3}{2} \log (1 - d^2 / 4)

    Parameters
    ----------
    distance : Tensor
        Euclidean distances between points on the unit sphere, < 2.
    n_dims : int
        The dimension D of the space.
    cutoff : float
        Smaller distances have the weight of this distance, so that a few noisy pairs do not take
        all the weight.

    Returns
    -------
    Tensor
        The logarithms.
    """
    distance = distance.clamp(min=cutoff)
    return (2 - n_dims) * distance.log() - (n_dims - 3) / 2 * (1 - distance.square() / 4).log()


def mine_distance_weighted(
    distance: Tensor,
    same: Tensor,
    different: Tensor,
    n_dims: int,
    cutoff: float,
    nonzero_loss_cutoff: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a negative for each positive pair, by the inverse density of its distance.

    Parameters
    ----------
    distance : Tensor of shape (n, m)
        Euclidean distances between points on the unit sphere.
    same, different : bool Tensor of shape (n, m)
        Masks of the positive pairs and of the negative pairs.
    n_dims : int
        The dimension of the space.
    cutoff, nonzero_loss_cutoff : float
        Distances below `cutoff` have its weight. Distances from `nonzero_loss_cutoff` on have
        weight 0.

    Returns
    -------
    a, p, n : tuple of int64 Tensors of shape (t,)
        The triplets.
    """
    # The comparison is negated so that NaN passes: a batch with NaN then has a NaN loss.
    drawable = different & ~(distance >= nonzero_loss_cutoff)
    row, column, slot, n_draws = padded_slots(same & drawable.any(1, keepdim=True))
    anchors, anchor_index = row.unique(return_inverse=True)
    if len(anchors) == 0:
        return row, column, column
    # Farther entries are not drawn, but without the limit their weight could be infinite.
    limited = distance[anchors].clamp(max=nonzero_loss_cutoff)
    logit = log_weights(limited, n_dims, cutoff).nan_to_num(0.0)
    logit = torch.where(drawable[anchors], logit, -torch.inf)
    drawn = logit.softmax(1).multinomial(n_draws, replacement=True)
    negative = drawn[anchor_index, slot]
    # A rounding error in the sum of the weights can draw an entry of weight 0.
    keep = drawable[row, negative]
    return row[keep], column[keep], negative[keep]


class DistanceWeightedMiner(Miner):
    r"""For each positive pair, a negative drawn evenly over the distances from the anchor.

    .. math:: P(n \mid a) \propto \min(\lambda, q(d(a, n))^{-1}), \quad
        q(d) \propto d^{D - 2} (1 - d^2 / 4)^{(D - 3) / 2}

    q is the density of the distance between two points on the unit sphere in D dimensions. Nearly
    all such distances are about sqrt(2), and so is that of a negative drawn without weights.

    Only the directions of the points count, not their lengths; normalise the embeddings. Anchors
    without a negative nearer than `nonzero_loss_cutoff` are left out. The draws use torch's global
    random generator.

    Parameters
    ----------
    cutoff : float, default=0.5
        Nearer negatives have the weight of this distance, > 0. It sets the bound lambda.
    nonzero_loss_cutoff : float, default=1.4
        Negatives from this distance on are not drawn, because they have no loss; > cutoff and < 2.
    distance : str, default="euclidean"
        Not used for the choice. Accepted, because all miners take it.

    Raises
    ------
    ValueError
        If the name of the distance is unknown, or a parameter is out of range.

    References
    ----------
    Wu, Manmatha, Smola, Krähenbühl: Sampling Matters in Deep Embedding Learning, ICCV 2017 (the
    distance weighted sampling).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.1, 0.0], [0.6, 0.8, 0.0], [-1.0, 0.0, 0.0]])
    >>> a, p, n = DistanceWeightedMiner()(x, torch.tensor([0, 0, 1, 1]))
    >>> a.tolist(), p.tolist()  # the last point has no negative nearer than 1.4
    ([0, 1, 2], [1, 0, 3])
    >>> n[:2].tolist()
    [2, 2]
    """

    def __init__(
        self,
        cutoff: float = 0.5,
        nonzero_loss_cutoff: float = 1.4,
        *,
        distance: str = "euclidean",
    ) -> None:
        super().__init__(distance)
        self.nonzero_loss_cutoff = check_scalar(
            nonzero_loss_cutoff,
            "nonzero_loss_cutoff",
            Real,
            min_val=0,
            max_val=2,
            include_boundaries="neither",
        )
        self.cutoff = check_scalar(
            cutoff,
            "cutoff",
            Real,
            min_val=0,
            max_val=nonzero_loss_cutoff,
            include_boundaries="neither",
        )

    def shares(self, distance: str, references: bool) -> bool:
        """Return False, because the density depends on the dimension of the embeddings."""
        return False

    @torch.no_grad()
    def __call__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Choose from a batch; see `Miner`."""
        square = squared_euclidean(pairwise_distance(embeddings, ref_emb, "cosine"), "cosine")
        return mine_distance_weighted(
            square.sqrt(),
            *label_masks(labels, ref_labels),
            embeddings.shape[1],
            self.cutoff,
            self.nonzero_loss_cutoff,
        )
