"""Labelled, weighted points: sorted, merged and scaled before a solver sees them."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix, issparse


class Points(NamedTuple):
    """Labelled, weighted points in the unit that a learner works in.

    Attributes
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,), or None
        The class of each row; None without class labels.
    weight : ndarray of shape (n_samples,)
        How many times each row counts.
    scale : float, default=1.0
        The points as given, divided by `scale`, are `X` up to a shift.
    """

    X: np.ndarray | csr_matrix
    codes: np.ndarray | None
    weight: np.ndarray
    scale: float = 1.0

    def centred_and_scaled(self):
        """Return the points with `X` centred and scaled by `centre_and_scale`."""
        X, scale = centre_and_scale(self.X, self.weight)
        return self._replace(X=X, scale=scale)


def centre_and_scale(X, weight=None):
    """Bring points to a mean of 0 and a mean square distance of 2, whatever their unit.

    Learners whose objective has a unit of its own (a margin of 1, exp(-d²)) work on such points
    and divide their L by `scale` in the end, so that they start equally well in every unit.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points. Sparse ones are not centred: no distance changes by that.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the rows.

    Returns
    -------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        The points, in the dtype they had.
    scale : float
        What they were divided by; 1 where all points are equal.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._points import centre_and_scale
    >>> centre_and_scale(np.array([[1000.0], [1002.0]]))
    (array([[-1.],
           [ 1.]]), 1.0)
    """
    weight = np.ones(X.shape[0]) if weight is None else weight.astype(np.float64)
    weight = weight / weight.sum()
    if issparse(X):
        mean = np.asarray(X.T @ weight).ravel()
        square = np.asarray(X.astype(np.float64).power(2).sum(axis=1)).ravel()
        variance = float(square @ weight - mean @ mean)
    else:
        # By differences to a row, so that rounding leaves no variance in equal points.
        X = X - X[0]
        X -= (weight @ X).astype(X.dtype)
        variance = float(weight @ np.einsum("ij,ij->i", X, X, dtype=np.float64))
    scale = np.sqrt(variance) if variance > 0 else 1.0
    # scipy makes float64 of the quotient of a sparse float32 matrix.
    return (X / X.dtype.type(scale)).astype(X.dtype, copy=False), float(scale)


def sort_rows(X, codes):
    """Sort rows, so that ties among neighbours fall alike in whatever order the rows came.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.

    Returns
    -------
    X, codes : ndarray
        The same, by the first column, then the second ..., then the class.
    """
    order = np.lexsort((codes, *X.T[::-1]))
    return X[order], codes[order]


def distinct_rows(X, codes, weight):
    """Merge equal rows of one class, and put the rows in an order that is theirs alone.

    What follows then does not depend on the order the rows came in, and takes a row that is there
    twice and a row of weight 2 for the same.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    weight : ndarray of shape (n_samples,)
        Weights of the rows; those of weight 0 are left out.

    Returns
    -------
    X : {ndarray, CSR matrix} of shape (n_distinct, n_features)
        The distinct points.
    codes : ndarray of int, shape (n_distinct,)
        Their classes.
    weight : ndarray of float64, shape (n_distinct,)
        Their weights: sums of those of equal rows.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._points import distinct_rows
    >>> distinct_rows(np.array([[2.0], [1.0], [2.0]]), np.array([0, 0, 0]), np.ones(3))
    (array([[1.],
           [2.]]), array([0, 0]), array([1., 2.]))
    """
    kept = np.flatnonzero(weight > 0)
    # Rows of a sparse matrix are told apart by two projections, which two different rows share
    # with a chance of about 1e-30.
    keys = X[kept]
    if issparse(X):
        keys = keys @ np.random.RandomState(0).normal(size=(X.shape[1], 2))
    order = np.lexsort([codes[kept], *keys.T[::-1]])
    keys, kept = keys[order], kept[order]
    is_new = np.ones(len(kept), dtype=bool)
    is_new[1:] = (codes[kept[1:]] != codes[kept[:-1]]) | (keys[1:] != keys[:-1]).any(axis=1)
    sums = np.bincount(is_new.cumsum() - 1, weight[kept])
    kept = kept[is_new]
    return X[kept], codes[kept], sums
