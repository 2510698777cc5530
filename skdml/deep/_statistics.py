"""Small statistics shared by several parts of the deep learners."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rank_within_class(codes: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the rank of each row in its class: 0 for the first row, 1 for the second.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each row.

    Returns
    -------
    ndarray of int, shape (n,)
        For each row, the number of earlier rows of the same class.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep._statistics import rank_within_class
    >>> rank_within_class(np.array([1, 0, 1, 1, 0]))
    array([0, 0, 1, 2, 1])
    """
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    rank = np.empty(len(codes), int)
    rank[order] = np.arange(len(codes)) - (np.cumsum(counts) - counts)[codes[order]]
    return rank
