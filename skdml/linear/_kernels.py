"""Gaussian kernels between all rows, a block of rows at a time: never an n x n array.

NCA, MLKR and MCML are sums over i of a function of row i of the kernel exp(-|z_i - z_j|²). Their
gradients are sums over pairs of weights on (z_i - z_j)(x_i - x_j)ᵀ. One pass over blocks of rows
computes both, with three matrix products and one exp for each pair.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skdml.linear._init import initial_components
from skdml.linear._points import Matrix, Points

# Entries of a block of the kernel.
_ENTRIES = 2**20

# The blocks are summed in this many chunks, whatever the number of threads. The result is then
# the same for any number of them.
_CHUNKS = 8

# Exponents below this, relative to the nearest neighbour, are raised to it: exp and products are
# many times slower on numbers that underflow.
_FLOOR = {np.dtype(np.float32): -40.0, np.dtype(np.float64): -100.0}


class KernelBlock(NamedTuple):
    """Some rows of the kernel.

    Attributes
    ----------
    rows : slice
        Which rows.
    kernel : ndarray of shape (n_rows, n_samples)
        K_ij = weight_j exp(shift_i - |z_i - z_j|²) for i != j, and self_weight_i exp(shift_i)
        for i = j.
    total : ndarray of shape (n_rows,)
        Sums of the rows of K, from 1 to n_samples.
    shift : ndarray of shape (n_rows,)
        Shifts that make the largest entry of each row 1.
    """

    rows: slice
    kernel: NDArray[np.floating]
    total: NDArray[np.floating]
    shift: NDArray[np.floating]


RowTerms = Callable[[KernelBlock], tuple[NDArray[np.floating], NDArray[np.floating]]]


def kernel_sums(
    Z: NDArray[np.floating],
    row_terms: RowTerms,
    *,
    weight: NDArray[np.floating] | None = None,
    self_weight: NDArray[np.floating] | None = None,
    n_threads: int = 1,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Sum terms over all pairs, where each term depends on one row of the kernel.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Embedded points. Products are computed in its dtype.
    row_terms : callable
        ``row_terms(block)`` -> (value, factor), two arrays of shape (n_rows,). It may change
        ``block.kernel`` in place. The weights of the pairs are then V_ij = factor_i K_ij.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the rows as neighbours, all positive. None for 1.
    self_weight : ndarray of shape (n_samples,), default=None
        Weight of each row as its own neighbour. None for 0.
    n_threads : int, default=1
        How many threads share the blocks. The result is the same for any number.

    Returns
    -------
    values : ndarray of float64, shape (n_samples,)
        The values that `row_terms` returned.
    product : ndarray of float64, shape (n_samples, n_components)
        (diag(V 1) + diag(Vᵀ 1) - V - Vᵀ) Z. If V_ij is the derivative of an objective by
        |z_i - z_j|², its derivative by L is 2 productᵀ X.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._kernels import kernel_sums
    >>> Z = np.array([[0.0], [1.0], [3.0]])
    >>> def density(block):
    ...     return block.total * np.exp(-block.shift), 1 / block.total
    >>> values, _ = kernel_sums(Z, density)
    >>> values.round(3)  # exp(-1) + exp(-9), exp(-1) + exp(-4), exp(-9) + exp(-4)
    array([0.368, 0.386, 0.018])
    """
    n_samples, n_components = Z.shape
    Z = Z - Z.mean(axis=0, dtype=np.float64).astype(Z.dtype)  # rounding grows with |z|
    left, right = square_factors(Z, weight)
    with_one = np.column_stack([Z, np.ones(n_samples, dtype=Z.dtype)])
    self_weight = np.zeros(n_samples, dtype=Z.dtype) if self_weight is None else self_weight
    n_rows = min(max(_ENTRIES // n_samples, 64), n_samples)
    starts = np.arange(0, n_samples, n_rows)
    values, product = np.empty(n_samples), np.empty((n_samples, n_components))

    def sum_blocks(starts: NDArray[np.integer]) -> NDArray[np.floating]:
        kernel = np.empty((n_rows, n_samples), dtype=Z.dtype)
        column_sums = np.zeros((n_samples, n_components + 1))
        for start in starts:
            rows = slice(start, min(start + n_rows, n_samples))
            block = _block(kernel[: rows.stop - start], left, right, self_weight, rows)
            value, factor = row_terms(block)
            factor = factor.astype(Z.dtype, copy=False)[:, None]
            row_sums = (block.kernel @ with_one).astype(np.float64) * factor
            column_sums += block.kernel.T @ (factor * with_one[rows])
            values[rows] = value
            product[rows] = row_sums[:, -1:] * Z[rows] - row_sums[:, :-1]
        return column_sums

    chunks = np.array_split(starts, min(_CHUNKS, len(starts)))
    column_sums = sum(_map_in_threads(sum_blocks, chunks, n_threads))
    product += column_sums[:, -1:] * Z - column_sums[:, :-1]
    return values, product


def initial_kernel_components(
    init: str | ArrayLike, n_components: int | None, points: Points, rng: np.random.RandomState
) -> NDArray[np.floating]:
    """L at the start of a search whose objective is a sum of Gaussian kernels.

    Parameters
    ----------
    init, n_components, points, rng
        As in `initial_components`.

    Returns
    -------
    ndarray of shape (n_components, n_features)
        L. A named start is scaled by `scale_to_unit_variance`; an array is kept as it is.
    """
    start = initial_components(init, n_components, points, rng)
    if isinstance(init, str):
        return scale_to_unit_variance(start, points.X, points.weight)
    return start


def square_factors(
    Z: NDArray[np.floating], weight: NDArray[np.floating] | None = None
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Two arrays whose product is -|z_i - z_j|² + ln(weight_j).

    All pairs then take a single matrix product, without further passes over the result.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Points, centred, because rounding grows with |z|.
    weight : ndarray of shape (n_samples,), default=None
        Positive weights; None for 1.

    Returns
    -------
    left, right : ndarray of shape (n_samples, n_components + 2)
        The factors of ``left @ right.T``, in the dtype of Z.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._kernels import square_factors
    >>> left, right = square_factors(np.array([[0.0], [1.0], [3.0]]))
    >>> left[:1] @ right.T
    array([[ 0., -1., -9.]])
    """
    square = np.einsum("ij,ij->i", Z, Z, dtype=np.float64)
    offset = -square if weight is None else np.log(weight, dtype=np.float64) - square
    one = np.ones(len(Z))
    left, right = np.column_stack([2 * Z, one, -square]), np.column_stack([Z, offset, one])
    return left.astype(Z.dtype, copy=False), right.astype(Z.dtype, copy=False)


def scale_to_unit_variance(
    L: NDArray[np.floating], X: Matrix, weight: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Scale L so that the variance along its effective directions is 1, on average.

    The kernel exp(-d²) is then large for the few nearest neighbours only. With the variances v
    along the axes, the number of effective directions is their participation ratio,
    (sum v)² / sum v².

    Parameters
    ----------
    L : ndarray of shape (n_components, n_features)
        L.
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        Points.
    weight : ndarray of shape (n_samples,)
        Weights of the rows.

    Returns
    -------
    ndarray of shape (n_components, n_features)
        A multiple of L; L itself if all points are equal under it.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._kernels import scale_to_unit_variance
    >>> X = np.array([[3.0, 0.0], [-3.0, 0.0]])
    >>> scale_to_unit_variance(np.eye(2), X, np.ones(2)).round(3)
    array([[0.333, 0.   ],
           [0.   , 0.333]])
    """
    Z = (X @ L.T.astype(X.dtype)).astype(np.float64)
    covariance = np.atleast_2d(np.cov(Z.T, aweights=weight, bias=True))
    total = covariance.trace()
    if total <= 0:
        return L
    return L * np.sqrt(total / (covariance**2).sum())


def _block(kernel, left, right, self_weight, rows):
    """Compute rows of the kernel into an array."""
    np.matmul(left[rows], right.T, out=kernel)
    with np.errstate(divide="ignore"):
        kernel[np.arange(len(kernel)), np.arange(rows.start, rows.stop)] = np.log(self_weight[rows])
    shift = -kernel.max(axis=1)
    kernel += shift[:, None]
    np.maximum(kernel, _FLOOR[kernel.dtype], out=kernel)
    np.exp(kernel, out=kernel)
    return KernelBlock(rows, kernel, kernel.sum(axis=1), shift)


def _map_in_threads(
    function: Callable[[Any], Any], items: Sequence[Any], n_threads: int
) -> Iterator[Any]:
    """Apply a function to items in threads; results come in the order of the items."""
    if n_threads == 1 or len(items) == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(min(n_threads, len(items))) as pool:
        yield from pool.map(function, items)
