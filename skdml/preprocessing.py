"""Pairs, triplets and quadruplets in a Pipeline: scikit-learn's transformers, applied to tuples."""

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted


class TupleIndexer(TransformerMixin, BaseEstimator):
    """Turn tuples of indices into tuples of points.

    Pairs of a million photographs are two million numbers, not two million photographs: keep the
    points once, split and search over the indices, and let the pipeline look the points up.

    Parameters
    ----------
    points : array-like of shape (n_points, ...)
        The points that indices refer to.

    See Also
    --------
    OnTuples : Applies a transformer to the points of tuples.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.preprocessing import TupleIndexer
    >>> TupleIndexer(np.array([[0.0], [1.0], [2.0]])).transform([[0, 2]])
    array([[[0.],
            [2.]]])
    """

    def __init__(self, points):
        self.points = points

    def fit(self, X=None, y=None):
        """Do nothing: there is nothing to learn.

        Parameters
        ----------
        X, y : object
            Ignored.

        Returns
        -------
        self : TupleIndexer
            The transformer.
        """
        return self

    def transform(self, X):
        """Look points up.

        Parameters
        ----------
        X : array-like of int, shape (n_tuples, size)
            Indices, >= 0.

        Returns
        -------
        ndarray of shape (n_tuples, size, ...)
            The points.

        Raises
        ------
        ValueError
            If X does not hold indices of points.
        """
        points, X = np.asarray(self.points), np.asarray(X)
        if X.ndim != 2 or X.dtype.kind not in "iu":
            raise ValueError(
                "TupleIndexer takes tuples of indices, whole numbers of shape (n_tuples, size); "
                f"got {X.dtype} of shape {X.shape}."
            )
        if X.size and not (X.min() >= 0 and X.max() < len(points)):
            raise ValueError(
                f"Indices have to be from 0 to {len(points) - 1}, there being {len(points)} "
                f"points; got {X.min()} to {X.max()}."
            )
        return points[X]

    def __sklearn_is_fitted__(self):
        return True

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


class OnTuples(MetaEstimatorMixin, TransformerMixin, BaseEstimator):
    """Apply a transformer of points to the points of tuples.

    Fitted on the distinct points of all tuples, so that a point in many tuples counts once.

    Parameters
    ----------
    transformer : transformer
        Any transformer of points, such as ``StandardScaler()`` or ``PCA(10)``. It is cloned.

    Attributes
    ----------
    transformer_ : transformer
        The fitted transformer.

    See Also
    --------
    TupleIndexer : Looks the points of tuples of indices up.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skdml.preprocessing import OnTuples
    >>> pairs = np.array([[[1.0], [3.0]], [[3.0], [1.0]]])
    >>> OnTuples(StandardScaler()).fit_transform(pairs)[..., 0]
    array([[-1.,  1.],
           [ 1., -1.]])
    """

    def __init__(self, transformer):
        self.transformer = transformer

    def fit(self, X, y=None):
        """Fit the transformer on the distinct points of the tuples.

        Parameters
        ----------
        X : array-like of shape (n_tuples, size, ...)
            Tuples of points.
        y : object
            Ignored: the labels of tuples are not those of points.

        Returns
        -------
        self : OnTuples
            The fitted transformer.

        Raises
        ------
        ValueError
            If X does not hold tuples of points.
        """
        points, _ = _points_of(X)
        self.transformer_ = clone(self.transformer).fit(np.unique(points, axis=0))
        return self

    def transform(self, X):
        """Transform the points of tuples.

        Parameters
        ----------
        X : array-like of shape (n_tuples, size, ...)
            Tuples of points.

        Returns
        -------
        ndarray of shape (n_tuples, size, ...)
            Tuples of transformed points.
        """
        check_is_fitted(self)
        points, shape = _points_of(X)
        points = np.asarray(self.transformer_.transform(points))
        return points.reshape(*shape, *points.shape[1:])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags


def _points_of(tuples):
    """Return the points of tuples, one after the other, and (n_tuples, size)."""
    tuples = np.asarray(tuples)
    if tuples.ndim < 3:
        raise ValueError(
            "OnTuples takes tuples of points, shape (n_tuples, size, n_features); got an array of "
            f"shape {tuples.shape}. Tuples of indices go through TupleIndexer(points) first."
        )
    return tuples.reshape(-1, *tuples.shape[2:]), tuples.shape[:2]
