"""Miners of triplets that know more than which distance is less: angles, and density."""

import math
from numbers import Real

import torch
from sklearn.utils import check_scalar

from skdml.deep._distances import pairwise_distance, row_blocks
from skdml.deep.miners._base import Miner, label_masks, padded_slots


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
