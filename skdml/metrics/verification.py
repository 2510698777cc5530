"""Verification: are two points of one class? Judged from the distance alone."""

import numpy as np
from sklearn.metrics import roc_curve


def equal_error_rate(y_true, distance):
    """Error rate at the threshold where as many impostors pass as genuine pairs are refused.

    The false-accept and the false-reject rate are read as straight lines between the thresholds
    that occur, and cross once.

    Parameters
    ----------
    y_true : array-like of shape (n_pairs,)
        1 where the two points of a pair are of one class, else 0 (or -1).
    distance : array-like of shape (n_pairs,)
        The distance within each pair.

    Returns
    -------
    float
        In [0, 1]; 0.5 is chance.

    Raises
    ------
    ValueError
        If the pairs are all of one kind.

    Examples
    --------
    >>> from skdml.metrics import equal_error_rate
    >>> equal_error_rate([1, 1, 0, 0], [0.1, 0.7, 0.6, 0.9])
    0.5
    """
    y_true = np.asarray(y_true)
    if len(kinds := np.unique(y_true)) < 2:
        raise ValueError(
            f"The equal error rate needs same and different pairs; all of y_true is {kinds[0]}."
        )
    far, tar, _ = roc_curve(y_true, -np.asarray(distance), drop_intermediate=False)
    gap = (1 - tar) - far  # falls from 1 to -1
    after = np.flatnonzero(gap <= 0)[0]
    before = after - 1
    weight = gap[before] / (gap[before] - gap[after])
    return float(far[before] + weight * (far[after] - far[before]))
