"""Means of (x - y)(x - y)ᵀ over pairs of one class and over pairs of two classes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skdml.linear._moments import Moments, scatter_of

# Numbers in a block of differences: they fit a processor's cache.
_BLOCK = 2**18

MeanMatrices = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]


def scatter_of_differences(
    X: NDArray[np.floating],
    first: NDArray[np.integer],
    second: NDArray[np.integer],
    weight: NDArray[np.floating] | None = None,
) -> NDArray[np.floating]:
    """Sum of (x - y)(x - y)ᵀ over pairs, in blocks.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    first, second : ndarray of int, shape (n_pairs,)
        The two rows of each pair.
    weight : ndarray of shape (n_pairs,), default=None
        Weights of the pairs.

    Returns
    -------
    ndarray of float64, shape (n_features, n_features)
        The sum, positive semi-definite.
    """
    total = np.zeros((X.shape[1], X.shape[1]))
    step = max(1, _BLOCK // X.shape[1])
    for start in range(0, len(first), step):
        block = slice(start, start + step)
        difference = X[first[block]] - X[second[block]]
        total += scatter_of(difference, None if weight is None else weight[block])
    return total


class Differences(NamedTuple):
    """Sums of (x - y)(x - y)ᵀ over pairs of one class, and over pairs of two classes.

    Attributes
    ----------
    n_same, n_different : int
        Number of pairs of one class, and of two classes.
    same, different : ndarray of shape (n_features, n_features)
        The two sums.
    """

    n_same: int
    n_different: int
    same: NDArray[np.floating]
    different: NDArray[np.floating]

    def plus(self, other: "Differences | None") -> "Differences":
        """Add the sums over other pairs; None stands for no pairs."""
        if other is None:
            return self
        return Differences(
            self.n_same + other.n_same,
            self.n_different + other.n_different,
            self.same + other.same,
            self.different + other.different,
        )

    def means(self) -> MeanMatrices:
        """Mean over pairs of one class, of two classes, and of all: three matrices."""
        n = self.n_same + self.n_different
        total = (self.same + self.different) / n
        return self.same / self.n_same, self.different / self.n_different, total


def all_differences(moments: Moments) -> MeanMatrices:
    """Mean of (x - y)(x - y)ᵀ over all pairs of one class and over all pairs of two classes.

    The means follow from the moments of the classes, without a loop over pairs. Every class is
    given the pooled covariance. If all classes have the same size, the result is exact.

    Parameters
    ----------
    moments : Moments
        Moments of labelled rows. They need two classes, and a class with two rows.

    Returns
    -------
    same, different, total : ndarray of shape (n_features, n_features)
        The means over pairs of one class, of two classes, and of both kinds.
    """
    counts = np.array([count for count, _ in moments.classes.values()])
    n = counts.sum()
    same = 2 * moments.scatter / (n - len(counts))
    # Classes c and k form n_c n_k pairs, and their means differ by Δ. The sum of n_c n_k Δ Δᵀ over
    # all pairs of classes is n times the scatter between classes.
    n_different = (n**2 - (counts**2).sum()) / 2
    different = 2 * moments.scatter / n + moments.between * n / n_different
    return same, different, 2 * (moments.scatter + moments.between) / n
