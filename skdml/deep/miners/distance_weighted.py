"""Mines negatives by the inverse density of their distance."""

from numbers import Real

import torch
from sklearn.utils import check_scalar

from skdml.deep._distances import pairwise_distance
from skdml.deep.miners._base import Miner, label_masks, padded_slots
from skdml.deep.miners.angular import squared_euclidean


def log_weights(distance, width, cutoff):
    r"""Logarithm of the inverse density of distances between points on a sphere, plus a constant.

    .. math:: -\log q(d) = (2 - D) \log d - \tfrac{D - 3}{2} \log (1 - d^2 / 4)

    Parameters
    ----------
    distance : Tensor
        Euclidean distances between points on the unit sphere, < 2.
    width : int
        The dimension D of the space.
    cutoff : float
        Lesser distances weigh as this one, so that few noisy pairs do not take all the weight.

    Returns
    -------
    Tensor
        The logarithms.
    """
    distance = distance.clamp(min=cutoff)
    return (2 - width) * distance.log() - (width - 3) / 2 * (1 - distance.square() / 4).log()


def mine_distance_weighted(distance, same, different, width, cutoff, nonzero_loss_cutoff):
    """Per positive pair a negative of its anchor, drawn by the inverse density of its distance.

    Parameters
    ----------
    distance : Tensor of shape (n, m)
        Euclidean distances between points on the unit sphere.
    same, different : bool Tensor of shape (n, m)
        Which pairs are positive and which negative.
    width : int
        The dimension of the space.
    cutoff, nonzero_loss_cutoff : float
        Lesser distances weigh as `cutoff`; from the other on they weigh nothing.

    Returns
    -------
    a, p, n : tuple of int64 Tensors of shape (t,)
        The triplets.
    """
    within = different & ~(distance >= nonzero_loss_cutoff)  # NaN passes, to give a NaN loss
    row, column, place, n_draws = padded_slots(same & within.any(1, keepdim=True))
    anchors, of_anchor = row.unique(return_inverse=True)
    if len(anchors) == 0:
        return row, column, column
    # What lies beyond is not drawn, but its weight may be infinite.
    near = distance[anchors].clamp(max=nonzero_loss_cutoff)
    logit = log_weights(near, width, cutoff).nan_to_num(0.0)
    logit = torch.where(within[anchors], logit, -torch.inf)
    drawn = logit.softmax(1).multinomial(n_draws, replacement=True)
    negative = drawn[of_anchor, place]
    # By a rounding error of the sum of all weights an entry without weight may be drawn.
    keep = within[row, negative]
    return row[keep], column[keep], negative[keep]


class DistanceWeightedMiner(Miner):
    r"""Per positive pair a negative drawn evenly over the distances from the anchor.

    .. math:: P(n \mid a) \propto \min(\lambda, q(d(a, n))^{-1}), \quad
        q(d) \propto d^{D - 2} (1 - d^2 / 4)^{(D - 3) / 2}

    q is the density of the distance of two points on the unit sphere in D dimensions: nearly all
    lie the square root of 2 apart, and a negative drawn without weights does, too. Points are
    taken as directions, whatever their length; normalise the embeddings. Anchors without a
    negative nearer than `nonzero_loss_cutoff` are left out. Draws come from torch's generator.

    Parameters
    ----------
    cutoff : float, default=0.5
        Nearer negatives weigh as those at this distance; > 0. It sets the bound lambda.
    nonzero_loss_cutoff : float, default=1.4
        Negatives from this distance on are not drawn: they cost nothing; > cutoff and < 2.
    distance : str
        Not needed to choose; part of the call that all miners share.

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
    >>> a.tolist(), p.tolist()  # the last is opposite to all, and too far from them
    ([0, 1, 2], [1, 0, 3])
    >>> n[:2].tolist()
    [2, 2]
    """

    def __init__(self, cutoff=0.5, nonzero_loss_cutoff=1.4, *, distance="euclidean"):
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

    def shares(self, distance, references):
        """Return False: the density depends on the dimension."""
        return False

    @torch.no_grad()
    def __call__(self, embeddings, labels, ref_emb=None, ref_labels=None):
        """Choose from a batch; see `Miner`."""
        square = squared_euclidean(pairwise_distance(embeddings, ref_emb, "cosine"), "cosine")
        return mine_distance_weighted(
            square.sqrt(),
            *label_masks(labels, ref_labels),
            embeddings.shape[1],
            self.cutoff,
            self.nonzero_loss_cutoff,
        )
