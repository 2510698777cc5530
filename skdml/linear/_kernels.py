"""Gaussian kernels between all rows, a block of rows at a time: never an n x n array.

NCA, MLKR and MCML are sums over i of a function of row i of the kernel exp(-|z_i - z_j|²), and
their gradients are sums over pairs of weights on (z_i - z_j)(x_i - x_j)ᵀ. One pass over blocks of
rows yields both, with three matrix products and one exp for each pair.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from skdml.linear._init import initial_components

_ENTRIES = 2**20


_CHUNKS = 8


# Relative to the nearest neighbour, what is below exp of this is nothing, and is lifted to it: exp
# and products are many times slower on numbers that underflow.
_FLOOR = {np.dtype(np.float32): -40.0, np.dtype(np.float64): -100.0}


class Block(NamedTuple):
    """Some rows of the kernel.

    Attributes
    ----------
    rows : slice
        Which rows.
    kernel : ndarray of shape (n_rows, n_samples)
        K_ij = weight_j exp(shift_i - |z_i - z_j|²), and twins_i exp(shift_i) for i = j.
    total : ndarray of shape (n_rows,)
        Sums of the rows of K, from 1 to n_samples.
    shift : ndarray of shape (n_rows,)
        What makes the largest entry of each row 1.
    """

    rows: slice
    kernel: np.ndarray
    total: np.ndarray
    shift: np.ndarray


def kernel_sums(Z, work, *, weight=None, twins=None, n_threads=1):
    """Sum over all pairs what one row of the kernel at a time decides.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Embedded points. Products are in its dtype.
    work : callable
        ``work(block)`` -> (value, factor), arrays of shape (n_rows,). It may change
        ``block.kernel`` in place: the weights of the pairs are then V_ij = factor_i K_ij.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the rows as neighbours, all positive.
    twins : ndarray of shape (n_samples,), default=None
        Weight of each row as its own neighbour; None for 0.
    n_threads : int, default=1
        How many threads share the blocks. The result is the same for any number.

    Returns
    -------
    values : ndarray of float64, shape (n_samples,)
        The values that `work` returned.
    pull : ndarray of float64, shape (n_samples, n_components)
        (diag(V 1) + diag(Vᵀ 1) - V - Vᵀ) Z. If V_ij is the derivative of an objective by
        |z_i - z_j|², that by L is 2 pullᵀ X.

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
    twins = np.zeros(n_samples, dtype=Z.dtype) if twins is None else twins
    n_rows = min(max(_ENTRIES // n_samples, 64), n_samples)
    starts = np.arange(0, n_samples, n_rows)
    values, pull = np.empty(n_samples), np.empty((n_samples, n_components))

    def run(starts):
        kernel = np.empty((n_rows, n_samples), dtype=Z.dtype)
        across = np.zeros((n_samples, n_components + 1))
        for start in starts:
            rows = slice(start, min(start + n_rows, n_samples))
            block = _block(kernel[: rows.stop - start], left, right, twins, rows)
            value, factor = work(block)
            factor = factor.astype(Z.dtype, copy=False)[:, None]
            along = (block.kernel @ with_one).astype(np.float64) * factor
            across += block.kernel.T @ (factor * with_one[rows])
            values[rows] = value
            pull[rows] = along[:, -1:] * Z[rows] - along[:, :-1]
        return across

    runs = np.array_split(starts, min(_CHUNKS, len(starts)))
    across = sum(_map(run, runs, n_threads))
    pull += across[:, -1:] * Z - across[:, :-1]
    return values, pull


def initial_kernel_components(init, n_components, points, rng):
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


def square_factors(Z, weight=None):
    """Two arrays whose product is -|z_i - z_j|² + ln(weight_j): one matrix product, no more passes.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Points about 0, since rounding grows with |z|.
    weight : ndarray of shape (n_samples,), default=None
        Positive weights; None for 1.

    Returns
    -------
    left, right : ndarray of shape (n_samples, n_components + 2)
        ``left @ right.T`` is that, in the dtype of Z.

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


def scale_to_unit_variance(L, X, weight):
    """Scale L so that the variance along each direction that matters is 1, on average.

    A kernel exp(-d²) then has the nearest few neighbours in it. How many directions matter is
    told by the participation ratio of the variances v along the axes, (sum v)² / sum v².

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
        A multiple of L.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._kernels import scale_to_unit_variance
    >>> scale_to_unit_variance(np.eye(2), np.array([[3.0, 0.0], [-3.0, 0.0]]), np.ones(2)).round(3)
    array([[0.333, 0.   ],
           [0.   , 0.333]])
    """
    Z = (X @ L.T.astype(X.dtype)).astype(np.float64)
    covariance = np.atleast_2d(np.cov(Z.T, aweights=weight, bias=True))
    total = covariance.trace()
    if total <= 0:
        return L
    return L * np.sqrt(total / (covariance**2).sum())


def _block(kernel, left, right, twins, rows):
    """Compute rows of the kernel into an array."""
    np.matmul(left[rows], right.T, out=kernel)
    with np.errstate(divide="ignore"):
        kernel[np.arange(len(kernel)), np.arange(rows.start, rows.stop)] = np.log(twins[rows])
    shift = -kernel.max(axis=1)
    kernel += shift[:, None]
    np.maximum(kernel, _FLOOR[kernel.dtype], out=kernel)
    np.exp(kernel, out=kernel)
    return Block(rows, kernel, kernel.sum(axis=1), shift)


def _map(function, items, n_threads):
    """Apply a function to items by threads; results come in the order of the items."""
    if n_threads == 1 or len(items) == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(min(n_threads, len(items))) as pool:
        yield from pool.map(function, items)
