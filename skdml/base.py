"""MetricLearner, the base class of all learners, and two helpers that learners share.

Every learner inherits what is defined here, so keep it small.
"""

from abc import ABCMeta, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from skdml.distances import LearnedDistance


class MetricLearner(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, metaclass=ABCMeta
):
    """Base class of learners: d(x, y) = d_e(f(x), f(y)).

    `fit` learns the embedding f, `transform` applies it, and `get_metric` returns the distance d.
    A subclass implements these three methods. The other methods are built on them.
    """

    @abstractmethod
    def transform(self, X: ArrayLike) -> NDArray[np.floating]:
        """Embed points.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Points.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            The embeddings f(X).
        """

    @abstractmethod
    def get_metric(self) -> "LearnedDistance":
        """Return the learned distance as a callable.

        Returns
        -------
        LearnedDistance
            The distance d. It has its own copy of f, so a later fit does not change it.
        """

    def pair_distance(self, pairs: ArrayLike) -> NDArray[np.floating]:
        """Compute the learned distance within each pair.

        Parameters
        ----------
        pairs : array-like of shape (n_pairs, 2, ...)
            Pairs of points.

        Returns
        -------
        ndarray of shape (n_pairs,)
            Distances, >= 0. A smaller distance means more similar points.

        Raises
        ------
        ValueError
            If `pairs` has another shape.
        """
        check_is_fitted(self)
        pairs = check_tuples(pairs, 2)
        return self.get_metric().paired(pairs[:, 0], pairs[:, 1])

    def pair_score(self, pairs: ArrayLike) -> NDArray[np.floating]:
        """Compute the similarity within each pair: the negative distance.

        Parameters
        ----------
        pairs : array-like of shape (n_pairs, 2, ...)
            Pairs of points.

        Returns
        -------
        ndarray of shape (n_pairs,)
            Scores, <= 0. A larger score means more similar points.
        """
        return -self.pair_distance(pairs)


def check_tuples(tuples: ArrayLike, size: int) -> NDArray[Any]:
    """Check the shape of tuples of points, and return them as an array.

    Parameters
    ----------
    tuples : array-like of shape (n_tuples, size, ...)
        Tuples of points.
    size : {2, 3, 4}
        Number of points in a tuple: 2 for pairs, 3 for triplets, 4 for quadruplets.

    Returns
    -------
    ndarray of shape (n_tuples, size, ...)
        The tuples.

    Raises
    ------
    ValueError
        If the array has another shape.

    Examples
    --------
    >>> from skdml.base import check_tuples
    >>> check_tuples([[[1.0, 2.0], [3.0, 4.0]]], 2).shape
    (1, 2, 2)
    """
    kind = {2: "pairs", 3: "triplets", 4: "quadruplets"}[size]
    tuples = np.asarray(tuples)
    if tuples.ndim < 3 or tuples.shape[1] != size:
        raise ValueError(
            f"{kind} need the shape (n_{kind}, {size}, n_features), with {size} points each; "
            f"got an array of shape {tuples.shape}."
        )
    return tuples


@contextmanager
def unchanged_on_error(learner: BaseEstimator) -> Iterator[None]:
    """Restore the attributes of a learner if the block raises.

    A failed fit then leaves no half-fitted learner, and an earlier fit is kept.

    Parameters
    ----------
    learner : estimator
        The learner that is fitted in the block.

    Examples
    --------
    >>> from skdml import MahalanobisMetric
    >>> from skdml.base import unchanged_on_error
    >>> learner = MahalanobisMetric()
    >>> try:
    ...     with unchanged_on_error(learner):
    ...         learner.components_ = "half"
    ...         raise ValueError
    ... except ValueError:
    ...     hasattr(learner, "components_")
    False
    """
    before = vars(learner).copy()
    try:
        yield
    except BaseException:
        vars(learner).clear()
        vars(learner).update(before)
        raise
