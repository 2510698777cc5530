"""The base class of GMML and KISSME, which learn from means of (x - y)(x - y)ᵀ over pairs."""

from abc import abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skdml.base import unchanged_on_error
from skdml.linear._differences import Differences, all_differences, scatter_of_differences
from skdml.linear._moments import Moments, merge, moments_of
from skdml.linear.base import LinearMetricLearner, check_n_components


class DifferenceLearner(LinearMetricLearner):
    """A learner with a closed form in the means of (x - y)(x - y)ᵀ over pairs.

    One mean is over pairs of the same class, the other over pairs of different classes. A subclass
    implements `_check_parameters` and `_components`.
    """

    _supervisions = ("labels", "pairs")

    @abstractmethod
    def _check_parameters(self) -> None:
        """Refuse parameters out of range."""

    @abstractmethod
    def _components(
        self,
        same: NDArray[np.floating],
        different: NDArray[np.floating],
        covariance: NDArray[np.floating],
    ) -> NDArray[np.floating]:
        """Return L, given the two means and the covariance of all points."""

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Learn the distance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)
            Points, or with ``supervision="pairs"`` pairs of points.
        y : array-like of shape (n_samples,) or (n_pairs,)
            Class labels of any kind. With ``supervision="pairs"``: 1 for a pair of the same class,
            0 or -1 for a pair of different classes.

        Returns
        -------
        self : object
            The fitted learner.

        Raises
        ------
        ValueError
            If X or y is invalid, if y has a single class, if all points of each class are equal,
            or if a parameter is out of range.
        """
        with unchanged_on_error(self):
            return self._learn(None, *self._read(X, y))

    def partial_fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Learn from more points or pairs, for data larger than memory.

        The result is that of one `fit` on all batches together, however they are cut.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)
            More points, or more pairs.
        y : array-like of shape (n_samples,) or (n_pairs,)
            Their class labels, or for each pair whether it is of the same class. The first batch
            needs two classes, or pairs of both kinds. Later batches may add classes.

        Returns
        -------
        self : object
            The fitted learner.

        Raises
        ------
        ValueError
            As `fit` does, and if `supervision` was changed since the earlier batches.
        """
        with unchanged_on_error(self):
            seen = getattr(self, "_seen", None)
            if seen is not None and isinstance(seen, Moments) != (self.supervision == "labels"):
                raise ValueError(
                    f"The earlier batches were not learned with supervision={self.supervision!r}; "
                    "call fit to start again."
                )
            options: dict[str, Any] = {"reset": seen is None, "ensure_min_samples": 1}
            if seen is not None:
                options["min_kinds"] = 1
            return self._learn(seen, *self._read(X, y, **options))

    def _read(self, X: Any, y: Any, **options: Any) -> tuple[np.dtype, Moments | Differences]:
        """Check points or pairs; return their dtype and their sums."""
        self._check_parameters()
        if self.supervision == "labels":
            X, codes, classes = self._read_labelled(X, y, **options)
            return X.dtype, moments_of(X.astype(np.float64), classes[codes])
        X, first, second, same = self._read_pairs(X, y, **options)
        X = X.astype(np.float64)
        sums = [scatter_of_differences(X, first[kind], second[kind]) for kind in (same, ~same)]
        return X.dtype, Differences(same.sum(), (~same).sum(), *sums)

    def _learn(self, seen: Any, dtype: np.dtype, sums: Any) -> Self:
        """Add the sums to those seen before, and learn L from all of them."""
        if self.supervision == "labels":
            sums = merge(seen, sums)
            within = sums.scatter
        else:
            sums = sums.plus(seen)
            within = sums.same
        check_n_components(self.n_components, len(within), "n_features")
        if not within.any():
            raise ValueError(
                "No two points of one class differ, so there is no spread within classes to learn "
                "from. Give a class with at least two different points."
            )
        labelled = isinstance(sums, Moments)
        same, different, total = all_differences(sums) if labelled else sums.means()
        L = self._components(same, different, total / 2)
        self._seen = sums
        self._set_components(L, dtype)
        return self
