"""Neighbours within a class and among strangers, and sums over pairs of points as matrix products.

Pairs are two arrays of row indices. No function here holds a matrix of all n x n distances: the
search is scikit-learn's, in blocks or by a tree, and pairs are worked off in blocks.
"""

import numpy as np
from scipy.sparse import csr_matrix, issparse

from skdml._threads import kneighbors

# Numbers in a block of differences between the points of pairs: they fit a processor's cache.
_BLOCK = 2**15


def nearest_mates(Z, codes, n_neighbors):
    """Nearest other rows of the same class.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Embedded points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    n_neighbors : int
        How many, fewer in a class that has not so many other rows.

    Returns
    -------
    ndarray of int, shape (n_samples, n_neighbors)
        Rows, the nearest first; -1 where there are none left.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._neighbors import nearest_mates
    >>> nearest_mates(np.array([[0.0], [1.0], [3.0], [9.0]]), np.array([0, 0, 0, 1]), 2)
    array([[ 1,  2],
           [ 0,  2],
           [ 1,  0],
           [-1, -1]])
    """
    found = np.full((len(Z), n_neighbors), -1, dtype=np.intp)
    order = np.argsort(codes, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        k = min(n_neighbors, len(own) - 1)
        if k > 0:
            # Without a query, scikit-learn leaves out each row itself, duplicates or not.
            found[own, :k] = own[kneighbors(Z[own], None, k)[1]]
    return found


def nearest_strangers(Z, codes, n_neighbors, radius=None):
    """Nearest rows of other classes, as pairs.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Embedded points.
    codes : ndarray of int, shape (n_samples,)
        Their classes.
    n_neighbors : int
        How many for each row, fewer where there are not so many.
    radius : ndarray of shape (n_samples,), default=None
        How far from each row at most, beyond which none are kept. A negative radius keeps none.

    Returns
    -------
    first, second : ndarray of int, shape (n_pairs,)
        A row and a stranger to it, by row, then from the nearest to the farthest.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._neighbors import nearest_strangers
    >>> Z, codes = np.array([[0.0], [1.0], [3.0], [9.0]]), np.array([0, 0, 1, 1])
    >>> first, second = nearest_strangers(Z, codes, 2, radius=np.array([5.0, 5.0, 2.5, 5.0]))
    >>> first.tolist(), second.tolist()
    ([0, 1, 2], [2, 2, 1])
    """
    radius = np.full(len(Z), np.inf) if radius is None else radius
    count = np.bincount(codes)
    small = count[codes] <= n_neighbors
    pairs = []
    if small.any():
        # Many small classes would be many searches. All points are searched at once instead, for
        # so many more neighbours that the mates among them can be left out.
        rows = np.flatnonzero(small & (radius >= 0))
        most = min(n_neighbors + count[codes[small]].max(), len(Z))
        pairs.append(_search(Z, rows, np.arange(len(Z)), most, codes, n_neighbors, radius))
    for code in np.flatnonzero(count > n_neighbors):
        rows = np.flatnonzero((codes == code) & (radius >= 0))
        others = np.flatnonzero(codes != code)
        most = min(n_neighbors, len(others))
        pairs.append(_search(Z, rows, others, most, codes, n_neighbors, radius))
    first, second = np.concatenate(pairs, axis=1)
    order = np.argsort(first, kind="stable")
    return first[order], second[order]


def _search(Z, rows, others, k, codes, n_neighbors, radius):
    """Pairs of `rows` with the nearest strangers among `others`, of which k are looked at."""
    if len(rows) == 0 or k == 0:
        return np.empty((2, 0), dtype=np.intp)
    distance, near = kneighbors(Z[others], Z[rows], k)
    near = others[near]
    kept = (codes[near] != codes[rows][:, None]) & (distance <= radius[rows][:, None])
    kept &= kept.cumsum(axis=1) <= n_neighbors
    return np.stack([np.repeat(rows, kept.sum(axis=1)), near[kept]])


class PairGraph:
    """Pairs of rows, for weighted sums of squared distances over them and their gradients.

    Parameters
    ----------
    first, second : ndarray of int, shape (n_pairs,)
        Rows, `first` in ascending order; a pair may be there more than once.
    n_samples : int
        How many rows there are.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._neighbors import PairGraph
    >>> graph = PairGraph(np.array([0, 2]), np.array([1, 0]), n_samples=3)
    >>> Z = np.array([[0.0], [1.0], [3.0]])
    >>> graph.squared_distances(Z)
    array([1., 9.])
    >>> graph.laplacian_product(np.array([1.0, -2.0]), Z)
    array([[ 5.],
           [ 1.],
           [-6.]])
    """

    def __init__(self, first, second, n_samples):
        self.first, self.second, self.n_samples = first, second, n_samples
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(first, minlength=n_samples))])
        # In the dtype scipy would bring them to, each time a matrix is made of them.
        dtype = np.int32 if max(n_samples, len(first)) < 2**31 else np.int64
        self._index = second.astype(dtype), self.starts.astype(dtype)

    def __len__(self):
        return len(self.first)

    def of(self, chosen):
        """Graph of some of the pairs.

        Parameters
        ----------
        chosen : ndarray of int, shape (n_chosen,)
            Places of the pairs, in ascending order.

        Returns
        -------
        PairGraph
            Theirs.
        """
        return PairGraph(self.first[chosen], self.second[chosen], self.n_samples)

    def squared_distances(self, Z):
        """Squared distance of each pair.

        Parameters
        ----------
        Z : ndarray of shape (n_samples, n_components)
            Embedded points.

        Returns
        -------
        ndarray of shape (n_pairs,)
            |z_i - z_j|², in the dtype of Z.
        """
        distance = np.empty(len(self), dtype=Z.dtype)
        step = min(max(1, _BLOCK // Z.shape[1]), max(1, len(self)))
        one, other = np.empty((2, step, Z.shape[1]), dtype=Z.dtype)
        for start in range(0, len(self), step):
            block = slice(start, min(start + step, len(self)))
            difference, subtrahend = one[: block.stop - start], other[: block.stop - start]
            # Into memory that is at hand; to check the rows would make a copy of them first.
            np.take(Z, self.first[block], axis=0, out=difference, mode="clip")
            np.take(Z, self.second[block], axis=0, out=subtrahend, mode="clip")
            difference -= subtrahend
            np.einsum("ij,ij->i", difference, difference, out=distance[block])
        return distance

    def laplacian_product(self, weight, Z):
        """Half the gradient, by Z, of the sum of weight * squared distance over the pairs.

        With the weights in a matrix W it is (diag(W1) + diag(Wᵀ1) - W - Wᵀ) Z. Where Z = X Lᵀ,
        2 (...)ᵀ X is the gradient of the sum by L, whether X is dense or sparse.

        Parameters
        ----------
        weight : ndarray of shape (n_pairs,)
            Weights of any sign.
        Z : ndarray of shape (n_samples, n_components)
            Embedded points.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            In each row i the sum over its pairs of weight * (z_i - z_j), in the dtype of Z.
        """
        shape = (self.n_samples, self.n_samples)
        W = csr_matrix((weight.astype(Z.dtype, copy=False), *self._index), shape)
        degree = np.bincount(self.first, weight, self.n_samples)
        degree += np.bincount(self.second, weight, self.n_samples)
        product = degree.astype(Z.dtype)[:, None] * Z
        product -= W @ Z
        product -= W.T @ Z
        return product


def in_own_order(X, codes):
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
    >>> from skdml.linear._neighbors import distinct_rows
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
