"""Angular miner: triplets with a large angle at the negative."""

import math
from numbers import Real

import torch
from sklearn.utils import check_scalar
from torch import Tensor

from skdml.deep._distances import pairwise_distance
from skdml.deep._pairs import label_masks, padded_slots, row_blocks
from skdml.deep.miners._base import Miner

_DISTANCES_WITH_ANGLES = ("euclidean", "sqeuclidean", "cosine", "angular")


def squared_euclidean(distance: Tensor, name: str) -> Tensor:
    """Convert distances to squared Euclidean distances.

    Cosine and angular distances give those of points scaled to length 1.
    """
    if name == "angular":
        return 4 * (distance * (math.pi / 2)).sin().square()
    return {"euclidean": torch.square, "cosine": lambda d: 2 * d}.get(name, torch.clone)(distance)


def mine_angular(
    square: Tensor, ref_square: Tensor, same: Tensor, different: Tensor, angle: float
) -> tuple[Tensor, ...]:
    r"""Triplets whose angle at the negative is larger than a given angle.

    .. math:: \frac{d_{ap}}{2 \, d_{nc}} > \tan \alpha, \quad
        d_{nc}^2 = \tfrac12 (d_{an}^2 + d_{pn}^2) - \tfrac14 d_{ap}^2

    c is the centre of a and p. Its distance to n is the length of a median of the triangle.

    Parameters
    ----------
    square : Tensor of shape (n, m)
        Squared Euclidean distances from the anchors to the references.
    ref_square : Tensor of shape (m, m)
        Squared Euclidean distances among the references.
    same, different : bool Tensor of shape (n, m)
        Masks of the positive pairs and of the negative pairs.
    angle : float
        The angle alpha in degrees.

    Returns
    -------
    a, p, n : tuple of int64 Tensors of shape (t,)
        The triplets.
    """
    row, column, slot, width = padded_slots(same)
    positive = torch.zeros(len(square), width, dtype=torch.long, device=square.device)
    positive[row, slot] = column
    valid = torch.zeros_like(positive, dtype=torch.bool)
    valid[row, slot] = True
    tan_squared = math.tan(math.radians(angle)) ** 2
    found = []
    for rows in row_blocks(len(square), square.shape[1] * max(1, width)):
        pos_square = square[rows].gather(1, positive[rows])[:, :, None]
        median = (square[rows, None] + ref_square[positive[rows]]) / 2 - pos_square / 4
        # The comparison is negated so that NaN passes: a batch with NaN then has a NaN loss.
        wide = ~(pos_square <= 4 * tan_squared * median)
        wide &= valid[rows, :, None] & different[rows, None]
        a, chosen, n = wide.nonzero(as_tuple=True)
        found.append((a + rows.start, positive[rows][a, chosen], n))
    none = torch.zeros(0, dtype=torch.long, device=square.device)
    return tuple(torch.cat(parts) for parts in zip(*found, (none,) * 3, strict=True))


class AngularMiner(Miner):
    r"""Triplets whose angle at the negative is too large.

    .. math:: \arctan \frac{\lVert a - p \rVert}{2 \lVert n - (a + p) / 2 \rVert} > \alpha

    Such a negative is near the anchor and the positive, compared with the distance between them.

    Parameters
    ----------
    angle : float, default=20.0
        The angle alpha in degrees, > 0 and < 90. Larger angles give fewer triplets.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular"}, default="euclidean"
        The geometry. The first two measure angles between the points. The others measure angles
        between the points scaled to length 1, as in the paper.

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

    def __init__(self, angle: float = 20.0, *, distance: str = "euclidean") -> None:
        super().__init__(distance)
        if distance not in _DISTANCES_WITH_ANGLES:
            raise ValueError(
                f"distance={distance!r} does not define angles; choose one of "
                f"{', '.join(_DISTANCES_WITH_ANGLES)}."
            )
        self.angle = check_scalar(
            angle, "angle", Real, min_val=0, max_val=90, include_boundaries="neither"
        )

    def mine(self, distance: Tensor, same: Tensor, different: Tensor) -> tuple[Tensor, ...]:
        """Choose from the distances within a batch; see `Miner.mine`."""
        square = squared_euclidean(distance, self.distance)
        return mine_angular(square, square, same, different, self.angle)

    def shares(self, distance: str, references: bool) -> bool:
        """Return False with references, because their distances to each other are needed too."""
        return super().shares(distance, references) and not references

    @torch.no_grad()
    def __call__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Choose from a batch; see `Miner`."""
        if ref_emb is None:
            return super().__call__(embeddings, labels)
        name = self.distance
        square = squared_euclidean(pairwise_distance(embeddings, ref_emb, name), name)
        ref_square = squared_euclidean(pairwise_distance(ref_emb, None, name), name)
        return mine_angular(square, ref_square, *label_masks(labels, ref_labels), self.angle)
