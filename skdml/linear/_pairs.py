"""Pairs of points: their distances under L, and gradients of sums over pairs.

Pairs are two arrays of row indices. They are worked through in blocks, and sums over pairs are
matrix products; no function here holds a matrix of all n x n distances.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

# Numbers in a block of differences between the points of pairs: they fit a processor's cache.
_BLOCK = 2**15


class PairGraph:
    """Pairs of rows, for weighted sums of squared distances over them and their gradients.

    Parameters
    ----------
    first, second : ndarray of int, shape (n_pairs,)
        Rows, `first` in ascending order. A pair may occur more than once.
    n_samples : int
        Number of rows.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._pairs import PairGraph
    >>> graph = PairGraph(np.array([0, 2]), np.array([1, 0]), n_samples=3)
    >>> Z = np.array([[0.0], [1.0], [3.0]])
    >>> graph.squared_distances(Z)
    array([1., 9.])
    >>> graph.laplacian_product(np.array([1.0, -2.0]), Z)
    array([[ 5.],
           [ 1.],
           [-6.]])
    """

    def __init__(
        self, first: NDArray[np.integer], second: NDArray[np.integer], n_samples: int
    ) -> None:
        self.first, self.second, self.n_samples = first, second, n_samples
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(first, minlength=n_samples))])
        # The dtype that scipy needs; otherwise it would convert the indices of every matrix.
        dtype = np.int32 if max(n_samples, len(first)) < 2**31 else np.int64
        self._index = second.astype(dtype), self.starts.astype(dtype)

    def __len__(self) -> int:
        return len(self.first)

    def subset(self, chosen: NDArray[np.integer]) -> "PairGraph":
        """Graph of some of the pairs.

        Parameters
        ----------
        chosen : ndarray of int, shape (n_chosen,)
            Positions of the pairs, in ascending order.

        Returns
        -------
        PairGraph
            The graph of these pairs.
        """
        return PairGraph(self.first[chosen], self.second[chosen], self.n_samples)

    def squared_distances(self, Z: NDArray[np.floating]) -> NDArray[np.floating]:
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
            # Both write into existing memory. The default mode would buffer the output.
            np.take(Z, self.first[block], axis=0, out=difference, mode="clip")
            np.take(Z, self.second[block], axis=0, out=subtrahend, mode="clip")
            difference -= subtrahend
            np.einsum("ij,ij->i", difference, difference, out=distance[block])
        return distance

    def laplacian_product(
        self, weight: NDArray[np.floating], Z: NDArray[np.floating]
    ) -> NDArray[np.floating]:
        """Half the gradient, by Z, of the sum of weight * squared distance over the pairs.

        With the weights in a matrix W it is (diag(W1) + diag(Wᵀ1) - W - Wᵀ) Z. If Z = X Lᵀ, the
        gradient of the sum by L is 2 (...)ᵀ X, for dense and for sparse X.

        Parameters
        ----------
        weight : ndarray of shape (n_pairs,)
            Weights of any sign.
        Z : ndarray of shape (n_samples, n_components)
            Embedded points.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            Row i is the sum of weight * (z_i - z_j) over its pairs, in the dtype of Z.
        """
        shape = (self.n_samples, self.n_samples)
        W = csr_matrix((weight.astype(Z.dtype, copy=False), *self._index), shape)
        degree = np.bincount(self.first, weight, self.n_samples)
        degree += np.bincount(self.second, weight, self.n_samples)
        product = degree.astype(Z.dtype)[:, None] * Z
        product -= W @ Z
        product -= W.T @ Z
        return product


class PairDistances:
    """d² = |L x - L y|² of fixed pairs, and its gradients by L.

    Each point is mapped once, however many pairs it belongs to. With ten pairs a point this takes
    a tenth of the time and memory of mapping the differences.

    Parameters
    ----------
    X : ndarray of shape (n_points, n_features)
        Points.
    first, second : ndarray of int, shape (n_pairs,)
        The two rows of each pair.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._pairs import PairDistances
    >>> pairs = PairDistances(np.array([[0.0], [1.0], [3.0]]), np.array([1, 0]), np.array([0, 2]))
    >>> squared, gradient_of = pairs(np.array([[2.0]]))
    >>> squared
    array([ 4., 36.])
    >>> gradient_of(np.array([1.0, 0.0]))
    array([[4.]])
    """

    def __init__(
        self,
        X: NDArray[np.floating],
        first: NDArray[np.integer],
        second: NDArray[np.integer],
    ) -> None:
        self.X, self.order = X, np.argsort(first, kind="stable")
        self.graph = PairGraph(first[self.order], second[self.order], len(X))

    def __len__(self) -> int:
        return len(self.order)

    def __call__(
        self, L: NDArray[np.floating]
    ) -> tuple[NDArray[np.floating], Callable[[NDArray[np.floating]], NDArray[np.floating]]]:
        """Measure the pairs under L.

        Parameters
        ----------
        L : ndarray of shape (n_components, n_features)
            The map.

        Returns
        -------
        squared : ndarray of float64, shape (n_pairs,)
            d².
        gradient_of : callable
            ``gradient_of(weight)`` takes a weight for each pair and returns the gradient of
            weight @ d² by L, 2 L Σ weight (x - y)(x - y)ᵀ.
        """
        Z = self.X @ L.T.astype(self.X.dtype)
        squared = np.empty(len(self.order))
        squared[self.order] = self.graph.squared_distances(Z)

        def gradient_of(weight: NDArray[np.floating]) -> NDArray[np.floating]:
            product = self.graph.laplacian_product(weight[self.order], Z)
            return 2 * (self.X.T @ product).T.astype(np.float64)

        return squared, gradient_of


def constrained_points(X: NDArray[np.floating], *rows: NDArray[np.integer]) -> tuple[NDArray, ...]:
    """Distinct points that occur in constraints.

    The order of the points and their duplicates then make no difference. Constraints drawn from
    labels and the same constraints given as tuples are one problem.

    Parameters
    ----------
    X : ndarray of shape (n_points, n_features)
        Points. Some may be equal.
    *rows : ndarray of int, shape (n_constraints,)
        Rows of X: the first, the second and so on of each constraint.

    Returns
    -------
    points : ndarray of shape (n_distinct, n_features)
        The points, sorted.
    *rows : ndarray of int, shape (n_constraints,)
        The same rows, as positions among `points`.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._pairs import constrained_points
    >>> constrained_points(
    ...     np.array([[5.0], [1.0], [7.0], [5.0]]), np.array([3, 0]), np.array([1, 1])
    ... )
    (array([[1.],
           [5.]]), array([1, 1]), array([0, 0]))
    """
    is_used = np.zeros(len(X), dtype=bool)
    for column in rows:
        is_used[column] = True
    used = np.flatnonzero(is_used)
    used = used[np.lexsort(X[used].T[::-1])]
    is_new = np.ones(len(used), dtype=bool)
    is_new[1:] = (X[used[1:]] != X[used[:-1]]).any(axis=1)
    position = np.empty(len(X), dtype=np.intp)
    position[used] = is_new.cumsum() - 1
    return X[used[is_new]], *(position[column] for column in rows)


def points_differ(
    X: NDArray[np.floating], first: NDArray[np.integer], second: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Tell which pairs have two different points, up to rounding.

    Parameters
    ----------
    X : ndarray of shape (n_points, n_features)
        Points, centred.
    first, second : ndarray of int, shape (n_pairs,)
        The two rows of each pair.

    Returns
    -------
    ndarray of bool, shape (n_pairs,)
        False where the two points are equal up to the rounding of their dtype.

    Raises
    ------
    ValueError
        If the two points are equal in every pair.
    """
    squared = PairDistances(X, first, second)(np.eye(X.shape[1]))[0]
    differ = squared > (100 * np.finfo(X.dtype).eps) ** 2 * squared.mean()
    if not differ.any():
        raise ValueError(
            f"The points of all {len(first)} pairs are equal, so there is nothing to learn from. "
            "Give pairs of different points."
        )
    return differ
