"""Miners of triplets that know more than which distance is less: angles, and density."""

import math
from numbers import Real

import torch
from sklearn.utils import check_scalar

from skdml.deep._pairwise import pairwise_distance, row_blocks

from ._base import Miner, label_masks, padded_slots


def squared_euclidean(distance, name):
    """Squared Euclidean distances of points, or of directions, from distances of that name."""
    if name == "angular":
        return 4 * (distance * (math.pi / 2)).sin().square()
    return {"euclidean": torch.square, "cosine": lambda d: 2 * d}.get(name, torch.clone)(distance)


def mine_angular(square, among, same, different, angle):
    r"""Triplets with a larger angle at the negative than a given one.

    .. math:: \frac{d_{ap}}{2 \, d_{nc}} > \tan \alpha, \quad
        d_{nc}^2 = \tfrac12 (d_{an}^2 + d_{pn}^2) - \tfrac14 d_{ap}^2

    c is the centre of a and p; its distance to n is that of a median in the triangle.

    Parameters
    ----------
    square : Tensor of shape (n, m)
        Squared Euclidean distances from the anchors to the references.
    among : Tensor of shape (m, m)
        Those among the references.
    same, different : bool Tensor of shape (n, m)
        Which pairs are positive and which negative.
    angle : float
        The angle alpha, in degrees.

    Returns
    -------
    a, p, n : tuple of int64 Tensors of shape (t,)
        The triplets.
    """
    row, column, place, width = padded_slots(same)
    positive = torch.zeros(len(square), width, dtype=torch.long, device=square.device)
    positive[row, place] = column
    taken = torch.zeros_like(positive, dtype=torch.bool)
    taken[row, place] = True
    slope = math.tan(math.radians(angle)) ** 2
    found = []
    for rows in row_blocks(len(square), square.shape[1] * max(1, width)):
        near = square[rows].gather(1, positive[rows])[:, :, None]
        median = (square[rows, None] + among[positive[rows]]) / 2 - near / 4
        # Negated, so that NaN passes: a broken batch gives a NaN loss, not none.
        wide = ~(near <= 4 * slope * median) & taken[rows, :, None] & different[rows, None]
        a, slot, n = wide.nonzero(as_tuple=True)
        found.append((a + rows.start, positive[rows][a, slot], n))
    none = torch.zeros(0, dtype=torch.long, device=square.device)
    return tuple(torch.cat(parts) for parts in zip(*found, (none,) * 3, strict=True))


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


class AngularMiner(Miner):
    r"""Triplets whose negative sees anchor and positive at too wide an angle.

    .. math:: \arctan \frac{\lVert a - p \rVert}{2 \lVert n - (a + p) / 2 \rVert} > \alpha

    Such a negative is near the two, measured by how far apart these are.

    Parameters
    ----------
    angle : float, default=20.0
        The angle alpha in degrees; > 0 and < 90. The larger, the fewer triplets.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular"}
        The geometry: with the first two the angles are those between points, with the others
        those between points scaled to length 1, as in the paper.

    Raises
    ------
    ValueError
        If the distance has no angles, or the angle is out of range.

    References
    ----------
    Wang, Zhou, Wen, Liu, Lin: Deep Metric Learning with Angular Loss, ICCV 2017.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 1.5], [1.0, 9.0]])
    >>> a, p, n = AngularMiner(angle=30)(x, torch.tensor([0, 0, 1, 2]))
    >>> list(zip(a.tolist(), p.tolist(), n.tolist()))  # arctan(2 / 3) is 33.7 degrees
    [(0, 1, 2), (1, 0, 2)]
    """

    def __init__(self, angle=20.0, *, distance="euclidean"):
        super().__init__(distance)
        if distance == "manhattan":
            raise ValueError(
                "distance='manhattan' knows no angles; choose one of euclidean, sqeuclidean, "
                "cosine, angular."
            )
        self.angle = check_scalar(
            angle, "angle", Real, min_val=0, max_val=90, include_boundaries="neither"
        )

    def mine(self, distance, same, different):
        """Choose from the distances within a batch; see `Miner`."""
        square = squared_euclidean(distance, self.distance)
        return mine_angular(square, square, same, different, self.angle)

    def shares(self, distance, references):
        """Return False with references: angles need the distances among these as well."""
        return super().shares(distance, references) and not references

    @torch.no_grad()
    def __call__(self, embeddings, labels, ref_emb=None, ref_labels=None):
        """Choose from a batch; see `Miner`."""
        if ref_emb is None:
            return super().__call__(embeddings, labels)
        square, among = (
            squared_euclidean(pairwise_distance(*points, self.distance), self.distance)
            for points in ((embeddings, ref_emb), (ref_emb, None))
        )
        return mine_angular(square, among, *label_masks(labels, ref_labels), self.angle)


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
