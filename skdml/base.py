"""The contract every learner keeps. Think twice before adding to it: all learners carry it."""

from abc import ABCMeta, abstractmethod
from contextlib import contextmanager

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted


class MetricLearner(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, metaclass=ABCMeta
):
    """A learned distance d(x, y) = d_e(f(x), f(y)): `fit` learns f, `transform` is f.

    A learner implements `fit`, `transform` and `get_metric`. The rest follows from them.
    """

    @abstractmethod
    def transform(self, X):
        """Embed points.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Points.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            f(X).
        """

    @abstractmethod
    def get_metric(self):
        """Return the learned distance as a callable.

        Returns
        -------
        LearnedDistance
            d. It keeps its own copy of f, so that fitting again does not change it.
        """

    def pair_distance(self, pairs):
        """Learned distance within each pair.

        Parameters
        ----------
        pairs : array-like of shape (n_pairs, 2, ...)
            Pairs of points.

        Returns
        -------
        ndarray of shape (n_pairs,)
            Distances, >= 0; the smaller, the more alike.

        Raises
        ------
        ValueError
            If `pairs` is not of that shape.
        """
        check_is_fitted(self)
        pairs = check_tuples(pairs, 2)
        return self.get_metric().paired(pairs[:, 0], pairs[:, 1])

    def pair_score(self, pairs):
        """Return how alike the two points of each pair are: the distance with its sign turned.

        Parameters
        ----------
        pairs : array-like of shape (n_pairs, 2, ...)
            Pairs of points.

        Returns
        -------
        ndarray of shape (n_pairs,)
            Scores, <= 0; the larger, the more alike.
        """
        return -self.pair_distance(pairs)


def check_tuples(tuples, size):
    """Return tuples of points as an array, or raise.

    Parameters
    ----------
    tuples : array-like of shape (n_tuples, size, ...)
        Pairs (size 2), triplets (3) or quadruplets (4) of points.
    size : int
        How many points make a tuple.

    Returns
    -------
    ndarray of shape (n_tuples, size, ...)
        The tuples.

    Raises
    ------
    ValueError
        If the shape is another.

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
            f"{kind} need the shape (n_{kind}, {size}, n_features), {size} points each; "
            f"got an array of shape {tuples.shape}."
        )
    return tuples


@contextmanager
def unchanged_on_error(learner):
    """Leave a learner as it was if the block fails: nothing half-fitted, no earlier fit lost.

    Parameters
    ----------
    learner : MetricLearner
        The learner that the block fits.

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
