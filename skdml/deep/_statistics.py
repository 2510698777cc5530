"""Small statistics shared by several parts of the deep learners."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t


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


def lower_bound(gains: NDArray[np.floating], confidence: float = 0.9) -> float:
    r"""Lower confidence bound of the mean gain over the groups.

    .. math:: \min_v \bar g_v - t_{n - 1} \, \max_v s_v / \sqrt n

    Here v runs over the views, and n is the number of groups. The bound combines the smallest mean
    and the largest standard deviation of all views. A few groups can agree by chance in one view;
    they rarely agree by chance in every view.

    Parameters
    ----------
    gains : ndarray of shape (n_views, n_groups)
        The gain of each group in each view. The groups are the same in all views.
    confidence : float, default=0.9
        The one-sided confidence level of Student's t, in (0, 1).

    Returns
    -------
    float
        The bound. With a single group it is the smallest gain over the views.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep._statistics import lower_bound
    >>> round(lower_bound(np.array([[0.2, 0.2, 0.2], [0.1, 0.2, 0.3]])), 2)
    0.09
    """
    n_groups = gains.shape[1]
    bound = gains.mean(axis=1).min()
    if n_groups > 1:
        error = gains.std(axis=1, ddof=1).max() / np.sqrt(n_groups)
        bound -= student_t.ppf(confidence, n_groups - 1) * error
    return float(bound)
