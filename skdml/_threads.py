"""Number of threads of compiled code: small products and searches are faster on one thread."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import ThreadpoolController

# Below this number of products, one thread finishes before several threads have started.
_MAX_PRODUCTS_OF_ONE_THREAD = 2**25


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    # Cached, because finding the libraries takes longer than some fits.
    return ThreadpoolController()


@contextmanager
def one_thread(user_api: str | None = None) -> Iterator[int]:
    """Limit compiled code in the block to one thread.

    Parameters
    ----------
    user_api : {"blas", "openmp"}, default=None
        The libraries to limit: "blas" for matrix products, "openmp" for OpenMP loops. None limits
        both.

    Yields
    ------
    int
        The number of threads before the block.

    Examples
    --------
    >>> from skdml._threads import one_thread
    >>> with one_thread("blas") as n_threads:
    ...     n_threads >= 1
    True
    """
    libraries = _controller()
    if user_api is not None:
        libraries = libraries.select(user_api=user_api)
    n_threads = max((library["num_threads"] for library in libraries.info()), default=1)
    with libraries.limit(limits=1):
        yield n_threads


def threads_for(n_products: int) -> AbstractContextManager[int | None]:
    """Limit compiled code in the block to one thread if there is little to compute.

    Parameters
    ----------
    n_products : int
        Approximate number of products of two numbers in one call. A large number leaves the number
        of threads as it is.

    Returns
    -------
    context manager
        `one_thread`, or a context manager that does nothing.

    Examples
    --------
    >>> from skdml._threads import threads_for
    >>> with threads_for(100) as n_threads_before:
    ...     n_threads_before >= 1
    True
    """
    return one_thread() if n_products < _MAX_PRODUCTS_OF_ONE_THREAD else nullcontext()


def kneighbors(
    points: Any, queries: Any, k: int
) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """Find the nearest points of each query with scikit-learn's search.

    Parameters
    ----------
    points : {ndarray, CSR matrix} of shape (n_points, n_features)
        The points to search.
    queries : {ndarray, CSR matrix} of shape (n_queries, n_features) or None
        The queries. None uses each point as a query and does not return the point itself.
    k : int
        Number of neighbours.

    Returns
    -------
    distance : ndarray of shape (n_queries, k)
        Distances, in increasing order.
    indices : ndarray of int, shape (n_queries, k)
        Indices of the neighbours in `points`.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml._threads import kneighbors
    >>> kneighbors(np.array([[0.0], [1.0], [3.0]]), None, 1)[1].ravel()
    array([1, 0, 1])
    """
    n_points, n_features = points.shape
    n_queries = n_points if queries is None else queries.shape[0]
    with threads_for(n_queries * n_points * n_features):
        return NearestNeighbors(n_neighbors=k).fit(points).kneighbors(queries)
