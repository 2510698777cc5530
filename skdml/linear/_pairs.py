"""What learners of pairs and quadruplets share: points, distances of pairs, the LogDet prior."""

import numpy as np
from scipy.sparse import csr_matrix

# Numbers in a block of differences between the points of pairs: they fit a processor's cache.
_BLOCK = 2**15


def constrained_points(X, *rows):
    """Distinct points that constraints are about.

    How often a point is listed, and in what order, then makes no difference: constraints drawn
    from labels and the same ones given as tuples are one problem.

    Parameters
    ----------
    X : ndarray of shape (n_points, n_features)
        Points, of which some may be equal.
    *rows : ndarray of int, shape (n_constraints,)
        Rows of X, the first, the second ... of each constraint.

    Returns
    -------
    points : ndarray of shape (n_distinct, n_features)
        The points, sorted.
    *rows : ndarray of int, shape (n_constraints,)
        Where among them those of the constraints are.

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
    used = np.zeros(len(X), dtype=bool)
    for column in rows:
        used[column] = True
    used = np.flatnonzero(used)
    used = used[np.lexsort(X[used].T[::-1])]
    is_new = np.ones(len(used), dtype=bool)
    is_new[1:] = (X[used[1:]] != X[used[:-1]]).any(axis=1)
    place = np.empty(len(X), dtype=np.intp)
    place[used] = is_new.cumsum() - 1
    return X[used[is_new]], *(place[column] for column in rows)


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


class PairDistances:
    """d² = |L x - L y|² of fixed pairs, and its gradients by L.

    Points are mapped once, however many pairs they are in: with ten pairs a point this takes a
    tenth of the time and memory that mapping the differences would.

    Parameters
    ----------
    X : ndarray of shape (n_points, n_features)
        Points.
    first, second : ndarray of int, shape (n_pairs,)
        The rows that make a pair.

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

    def __init__(self, X, first, second):
        self.X, self.order = X, np.argsort(first, kind="stable")
        self.graph = PairGraph(first[self.order], second[self.order], len(X))

    def __len__(self):
        return len(self.order)

    def __call__(self, L):
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
            ``gradient_of(weight)``, with a weight for each pair, is the gradient of weight @ d²
            by L, 2 L Σ weight (x - y)(x - y)ᵀ.
        """
        Z = self.X @ L.T.astype(self.X.dtype)
        squared = np.empty(len(self.order))
        squared[self.order] = self.graph.squared_distances(Z)

        def gradient_of(weight):
            pull = self.graph.laplacian_product(weight[self.order], Z)
            return 2 * (self.X.T @ pull).T.astype(np.float64)

        return squared, gradient_of


def points_differ(X, first, second):
    """Tell which pairs are of two points, as far as the precision of the points goes.

    Parameters
    ----------
    X : ndarray of shape (n_points, n_features)
        Points, centred.
    first, second : ndarray of int, shape (n_pairs,)
        The rows that make a pair.

    Returns
    -------
    ndarray of bool, shape (n_pairs,)
        False where the points are equal but for rounding.

    Raises
    ------
    ValueError
        If all are.
    """
    squared = PairDistances(X, first, second)(np.eye(X.shape[1]))[0]
    apart = squared > (100 * np.finfo(X.dtype).eps) ** 2 * squared.mean()
    if not apart.any():
        raise ValueError(
            f"The points of all {len(first)} pairs are equal: there is nothing to learn from."
        )
    return apart
