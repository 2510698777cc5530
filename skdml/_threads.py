"""How many threads compiled code takes: small products and searches are quicker on one."""

from contextlib import contextmanager, nullcontext
from functools import lru_cache

from sklearn.neighbors import NearestNeighbors
from threadpoolctl import ThreadpoolController

# Below so many products one thread is done before several have begun.
_SMALL = 2**25


@lru_cache(maxsize=1)
def _controller():
    # Kept, because finding the libraries takes longer than some fits.
    return ThreadpoolController()


@contextmanager
def one_thread(user_api=None):
    """Take one thread for each call of compiled code inside.

    Parameters
    ----------
    user_api : {"blas", "openmp"}, default=None
        Of which libraries: those of matrix products, those of OpenMP loops, or both.

    Yields
    ------
    int
        How many threads they had before.

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


def threads_for(n_products):
    """Take one thread for compiled code inside where there is little to do, else as many as set.

    Parameters
    ----------
    n_products : int
        About how many products of two numbers a call is to make.

    Returns
    -------
    context manager
        `one_thread`, or one that does nothing.

    Examples
    --------
    >>> from skdml._threads import threads_for
    >>> with threads_for(100) as n_threads_before:
    ...     n_threads_before >= 1
    True
    """
    return one_thread() if n_products < _SMALL else nullcontext()


def kneighbors(points, queries, k):
    """Nearest points of queries, by scikit-learn's search.

    Parameters
    ----------
    points : {ndarray, CSR matrix} of shape (n_points, n_features)
        What is searched.
    queries : {ndarray, CSR matrix} of shape (n_queries, n_features) or None
        None is each point, without itself.
    k : int
        How many.

    Returns
    -------
    distance : ndarray of shape (n_queries, k)
        Distances, increasing.
    place : ndarray of int, shape (n_queries, k)
        Which points.

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
