"""Learning from the mean (x - y)(x - y)ᵀ of pairs of one class, and of pairs of two."""

from typing import NamedTuple

import numpy as np

from skdml.base import unchanged_on_error
from skdml.linear._moments import Moments, merge, moments_of, scatter_of
from skdml.linear._neighbors import nearest_mates, nearest_strangers
from skdml.linear.base import LinearMetricLearner, check_n_components, no_mates_message

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


def neighbor_pairs(X, codes, n_mates, n_strangers):
    """Pairs of each row with its nearest neighbours of its class, and with those of others.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes, one of two rows at least.
    n_mates, n_strangers : int
        How many neighbours of either kind, fewer where there are not so many.

    Returns
    -------
    same, different : tuple of two ndarray of int, shape (n_pairs,)
        A row and its neighbour.

    Raises
    ------
    ValueError
        If each class has a single row.
    """
    mates = nearest_mates(X, codes, n_mates)
    found = mates >= 0
    if not found.any():
        raise ValueError(no_mates_message(codes))
    same = np.nonzero(found)[0], mates[found]
    return same, nearest_strangers(X, codes, n_strangers)


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


class DifferenceLearner(LinearMetricLearner):
    """A learner with a closed form in the mean (x - y)(x - y)ᵀ of pairs alike and of pairs not.

    It implements `_check_parameters` and `_components(same, different, covariance)`, which makes L
    of those means and of the covariance of all points.
    """

    _supervisions = ("labels", "pairs")

    def fit(self, X, y=None):
        """Learn the distance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)
            Points, or with ``supervision="pairs"`` pairs of points.
        y : array-like of shape (n_samples,) or (n_pairs,)
            Class labels of any kind; or for each pair 1 if it is of one class, else 0 or -1.

        Returns
        -------
        self : object
            The fitted learner.

        Raises
        ------
        ValueError
            If X or y is not of its kind, y is of one class, no two points of one class differ, or
            a parameter is out of range.
        """
        with unchanged_on_error(self):
            return self._learn(None, *self._read(X, y))

    def partial_fit(self, X, y=None):
        """Learn from some more points or pairs, for data larger than memory.

        However they are cut into batches, the result is that of one `fit` on all of them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)
            More points, or more pairs.
        y : array-like of shape (n_samples,) or (n_pairs,)
            Their class labels, or for each pair whether it is of one class. Classes may show up
            in any batch; the first one needs two classes, or pairs of both kinds.

        Returns
        -------
        self : object
            The fitted learner.

        Raises
        ------
        ValueError
            As `fit` does.
        """
        with unchanged_on_error(self):
            seen = getattr(self, "_seen", None)
            if seen is not None and isinstance(seen, Moments) != (self.supervision == "labels"):
                raise ValueError(
                    f"The batches before were not of supervision={self.supervision!r}; call fit to "
                    "begin anew."
                )
            options = {"reset": seen is None, "ensure_min_samples": 1}
            if seen is not None:
                options["min_kinds"] = 1
            return self._learn(seen, *self._read(X, y, **options))

    def _read(self, X, y, **options):
        """Check points or pairs: their dtype, and their sums."""
        self._check_parameters()
        if self.supervision == "labels":
            X, codes, classes = self._read_labelled(X, y, **options)
            return X.dtype, moments_of(X.astype(np.float64), classes[codes])
        X, first, second, same = self._read_pairs(X, y, **options)
        X = X.astype(np.float64)
        sums = [scatter_of_differences(X, first[kind], second[kind]) for kind in (same, ~same)]
        return X.dtype, Differences(same.sum(), (~same).sum(), *sums)

    def _learn(self, seen, dtype, sums):
        if self.supervision == "labels":
            sums = merge(seen, sums)
            within, means_of = sums.scatter, all_differences
        else:
            sums = sums.plus(seen)
            within, means_of = sums.same, Differences.means
        check_n_components(self.n_components, len(within), "n_features")
        if not within.any():
            raise ValueError(
                "No two points known to be of one class differ: there is no spread within classes "
                "to learn from."
            )
        same, different, total = means_of(sums)
        L = self._components(same, different, total / 2)
        self._seen = sums
        self.components_ = L.astype(dtype, copy=False)
        return self
