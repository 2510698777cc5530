"""Learning from the mean (x - y)(x - y)ᵀ of pairs of one class, and of pairs of two."""

from typing import NamedTuple

import numpy as np

from skdml.linear._moments import scatter_of

# Numbers in a block of differences: they fit a processor's cache.
_BLOCK = 2**18


def scatter_of_differences(X, first, second, weight=None):
    """Sum of (x - y)(x - y)ᵀ over pairs, in blocks.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    first, second : ndarray of int, shape (n_pairs,)
        The rows that make a pair.
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
    """Sums over pairs of points: of those of one class, and of those of two.

    Attributes
    ----------
    n_same, n_different : int
        How many pairs of each kind.
    same, different : ndarray of shape (n_features, n_features)
        Sum of (x - y)(x - y)ᵀ over them.
    """

    n_same: int
    n_different: int
    same: np.ndarray
    different: np.ndarray

    def plus(self, other):
        """Add the sums over other pairs; None is for no pairs."""
        return self if other is None else Differences(*map(sum, zip(self, other, strict=True)))

    def means(self):
        """Mean of (x - y)(x - y)ᵀ over pairs of one class, of two, and of all: three matrices."""
        n = self.n_same + self.n_different
        total = (self.same + self.different) / n
        return self.same / self.n_same, self.different / self.n_different, total


def all_differences(moments):
    """Mean of (x - y)(x - y)ᵀ over all pairs of one class, and of two, from classes' moments.

    Every class counts as having the pooled covariance; where all are equally large, that makes no
    difference to the result.

    Parameters
    ----------
    moments : Moments
        Those of rows by class, at least two classes and a class of two rows.

    Returns
    -------
    same, different, total : ndarray of shape (n_features, n_features)
        The means over pairs of one class, of two, and of both kinds.
    """
    counts = np.array([count for count, _ in moments.classes.values()])
    n = counts.sum()
    same = 2 * moments.scatter / (n - len(counts))
    # Pairs of classes c and k are n_c n_k, and their means differ by Δ: the sum of n_c n_k Δ Δᵀ
    # over all two classes is n times the scatter between classes.
    n_different = (n**2 - (counts**2).sum()) / 2
    different = 2 * moments.scatter / n + moments.between * n / n_different
    return same, different, 2 * (moments.scatter + moments.between) / n
