"""Transformers of tuples: use pairs, triplets and quadruplets in a Pipeline."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, MetaEstimatorMixin, TransformerMixin, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted


class TupleIndexer(TransformerMixin, BaseEstimator):
    """Replace tuples of indices by tuples of points.

    Tuples of indices need far less memory than tuples of points: a million pairs of images are two
    million integers. Split the data and search parameters on the indices. This transformer, as the
    first step of a pipeline, looks up the points.

    Parameters
    ----------
    points : {array-like, sparse matrix} of shape (n_points, ...)
        The points that the indices refer to. If they are sparse, only the points of the tuples
        become dense.

    See Also
    --------
    OnTuples : Apply a transformer to the points of tuples.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.preprocessing import TupleIndexer
    >>> TupleIndexer(np.array([[0.0], [1.0], [2.0]])).transform([[0, 2]])
    array([[[0.],
            [2.]]])
    """

    def __init__(self, points: Any) -> None:
        self.points = points

    def fit(self, X: object = None, y: object = None) -> Self:
        """Do nothing. There is nothing to learn.

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

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Look up the points of tuples.

        Parameters
        ----------
        X : array-like of int, shape (n_tuples, size)
            Indices, from 0 to n_points - 1.

        Returns
        -------
        ndarray of shape (n_tuples, size, ...)
            The points.

        Raises
        ------
        ValueError
            If X does not contain valid indices.
        """
        points = self.points.tocsr() if issparse(self.points) else np.asarray(self.points)
        X, n_points = np.asarray(X), points.shape[0]
        if X.ndim != 2 or X.dtype.kind not in "iu":
            raise ValueError(
                "X of TupleIndexer needs integer indices of shape (n_tuples, size); "
                f"got {X.dtype} of shape {X.shape}."
            )
        if X.size and not (X.min() >= 0 and X.max() < n_points):
            raise ValueError(
                f"The indices in X have to be from 0 to {n_points - 1}, because there are "
                f"{n_points} points; got {X.min()} to {X.max()}."
            )
        if issparse(points):
            return points[X.ravel()].toarray().reshape(*X.shape, points.shape[1])
        return points[X]

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


class OnTuples(MetaEstimatorMixin, TransformerMixin, BaseEstimator):
    """Apply a transformer of points to the points of tuples.

    The transformer is fitted on the distinct points of all tuples. A point that occurs in many
    tuples therefore counts once.

    Parameters
    ----------
    transformer : transformer
        A transformer of points, such as ``StandardScaler()`` or ``PCA(10)``. It is cloned before
        it is fitted.

    Attributes
    ----------
    transformer_ : transformer
        The fitted transformer.

    See Also
    --------
    TupleIndexer : Replace tuples of indices by tuples of points.

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

    def __init__(self, transformer: TransformerMixin) -> None:
        self.transformer = transformer

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Fit the transformer on the distinct points of the tuples.

        Parameters
        ----------
        X : array-like of shape (n_tuples, size, ...)
            Tuples of points.
        y : object
            Ignored. Labels of tuples are not labels of points.

        Returns
        -------
        self : OnTuples
            The fitted transformer.

        Raises
        ------
        ValueError
            If X has fewer than three dimensions.
        """
        points, _ = _flatten_tuples(X)
        self.transformer_ = clone(self.transformer).fit(np.unique(points, axis=0))
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
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
        points, shape = _flatten_tuples(X)
        points = self.transformer_.transform(points)
        points = points.toarray() if issparse(points) else np.asarray(points)
        return points.reshape(*shape, *points.shape[1:])

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags


def _flatten_tuples(tuples: ArrayLike) -> tuple[NDArray[Any], tuple[int, ...]]:
    """Return the points of tuples as one list of points, and the shape (n_tuples, size)."""
    tuples = np.asarray(tuples)
    if tuples.ndim < 3:
        raise ValueError(
            "X of OnTuples needs tuples of points, shape (n_tuples, size, n_features); got an "
            f"array of shape {tuples.shape}. For tuples of indices, put TupleIndexer(points) "
            "before OnTuples."
        )
    return tuples.reshape(-1, *tuples.shape[2:]), tuples.shape[:2]
