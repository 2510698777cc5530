"""Small statistics that several parts of the deep learners share."""

import numpy as np
from scipy.stats import t as student_t


def rank_within_class(codes):
    """Return how many rows of its class come before each row.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each row.

    Returns
    -------
    ndarray of int, shape (n,)
        0 for the first row of a class, 1 for the second, and so on.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.deep._statistics import rank_within_class
    >>> rank_within_class(np.array([1, 0, 1, 1, 0]))
    array([0, 0, 1, 2, 1])
    """
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    place = np.empty(len(codes), int)
    place[order] = np.arange(len(codes)) - (np.cumsum(counts) - counts)[codes[order]]
    return place


def lower_bound(gains, confidence=0.9):
    r"""Lower confidence bound of the mean gain over the groups, in the worst view.

    .. math:: \min_v \bar g_v - t_{n - 1} \, \max_v s_v / \sqrt n

    The groups are the same in each view. Two or three tell little of how much they differ, and if
    they agree by chance in one view they often do not in another.

    Parameters
    ----------
    gains : ndarray of shape (n_views, n_groups)
        What was gained, group by group.
    confidence : float, default=0.9
        Of Student's t, one-sided.

    Returns
    -------
    float
        The bound; with a single group its gain.

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
