"""The base class of GMML and KISSME, which learn from mean squared differences of pairs."""

import numpy as np

from skdml.base import unchanged_on_error
from skdml.linear._differences import Differences, all_differences, scatter_of_differences
from skdml.linear._moments import Moments, merge, moments_of
from skdml.linear.base import LinearMetricLearner, check_n_components


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
