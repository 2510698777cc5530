"""Labelled, weighted points: how they are sorted, merged and scaled before a solver sees them."""

from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

Matrix: TypeAlias = NDArray[np.floating] | csr_matrix
"""Points, one a row: dense, or sparse in CSR format."""


class Points(NamedTuple):
    """Labelled, weighted points in the unit that a learner works in.

    Attributes
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,), or None
        Class of each row; None without class labels.
    weight : ndarray of shape (n_samples,)
        How many times each row counts.
    scale : float, default=1.0
        What the given points were divided by to get `X`.
    """

    X: Matrix
    codes: Any
    weight: NDArray[np.floating]
    scale: float = 1.0

    def centred_and_scaled(self) -> Self:
        """Return the points with `X` and `scale` as `centre_and_scale` gives them."""
        X, scale = centre_and_scale(self.X, self.weight)
        return self._replace(X=X, scale=scale)


def centre_and_scale(X: Matrix, weight: NDArray[np.floating] | None = None) -> tuple[Matrix, float]:
    """Bring points to a mean of 0 and a mean squared distance of 2, whatever their unit.

    Some objectives have a unit of their own (a margin of 1, exp(-d²)). Their learners work on
    points scaled by this function and divide the learned L by `scale`. The start is then equally
    good in every unit of X.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points. Sparse points are scaled but not centred; centring changes no distance.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the rows.

    Returns
    -------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        The points, in their dtype.
    scale : float
        What they were divided by; 1 if all points are equal.

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
        squares = X.astype(np.float64).power(2)  # type: ignore[union-attr]  # X is sparse here
        square = np.asarray(squares.sum(axis=1)).ravel()
        variance = float(square @ weight - mean @ mean)
    else:
        # Differences from one row first: rounding then leaves no variance in equal points.
        X = X - X[0]
        X -= (weight @ X).astype(X.dtype)
        variance = float(weight @ np.einsum("ij,ij->i", X, X, dtype=np.float64))
    scale = np.sqrt(variance) if variance > 0 else 1.0
    # scipy turns the quotient of a sparse float32 matrix into float64.
    return (X / X.dtype.type(scale)).astype(X.dtype, copy=False), float(scale)


def sort_rows(
    X: NDArray[np.floating], codes: NDArray[np.integer]
) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """Sort rows, so that ties among neighbours do not depend on the order of the rows.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        The points, sorted by the first column, then by the second and so on, then by class.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    """
    order = np.lexsort((codes, *X.T[::-1]))
    return X[order], codes[order]


def distinct_rows(
    X: Matrix, codes: NDArray[np.integer], weight: NDArray[np.floating]
) -> tuple[Matrix, NDArray[np.integer], NDArray[np.floating]]:
    """Merge equal rows of one class and sort the rows.

    What follows then does not depend on the order of the rows, and a row of weight 2 gives the
    same result as the same row given twice.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    weight : ndarray of shape (n_samples,)
        Weights of the rows. Rows of weight 0 are dropped.

    Returns
    -------
    X : {ndarray, CSR matrix} of shape (n_distinct, n_features)
        The distinct points.
    codes : ndarray of int, shape (n_distinct,)
        Their classes.
    weight : ndarray of float64, shape (n_distinct,)
        The summed weights of the equal rows.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._points import distinct_rows
    >>> distinct_rows(np.array([[2.0], [1.0], [2.0]]), np.array([0, 0, 0]), np.ones(3))
    (array([[1.],
           [2.]]), array([0, 0]), array([1., 2.]))
    """
    kept = np.flatnonzero(weight > 0)
    # Two projections identify a sparse row: two different rows share both with a probability of
    # about 1e-30.
    keys = X[kept]
    if issparse(X):
        keys = keys @ np.random.RandomState(0).normal(size=(X.shape[1], 2))
    order = np.lexsort([codes[kept], *keys.T[::-1]])
    keys, kept = keys[order], kept[order]
    is_new = np.ones(len(kept), dtype=bool)
    is_new[1:] = (codes[kept[1:]] != codes[kept[:-1]]) | (keys[1:] != keys[:-1]).any(axis=1)
    sums = np.bincount(is_new.cumsum() - 1, weight[kept]).astype(np.float64, copy=False)
    kept = kept[is_new]
    return X[kept], codes[kept], sums
