"""How many threads compiled code takes: many small products are quicker on one."""

from contextlib import contextmanager
from functools import lru_cache

from threadpoolctl import ThreadpoolController


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
    >>> from skdml.linear._threads import one_thread
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
