"""Verification measures: decide from the distance whether two points are of the same class.

A pair is accepted if its distance is at most the threshold. A same pair has two points of the same
class, a different pair has points of two classes.

- FAR, the false-accept rate: share of different pairs that are accepted.
- FRR, the false-reject rate: share of same pairs that are rejected.
- TAR, the true-accept rate: 1 - FRR.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from skdml._accept_rates import check_enough, check_rate, count_accepts
from skdml.verification import check_pair_distances


def far_frr_curve(
    y_true: ArrayLike, distance: ArrayLike
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Compute the false-accept rate and the false-reject rate at every threshold.

    Parameters
    ----------
    y_true : array-like of shape (n_pairs,)
        1 for pairs of the same class, 0 or -1 for pairs of different classes.
    distance : array-like of shape (n_pairs,)
        The distance within each pair.

    Returns
    -------
    far : ndarray of shape (n_thresholds,)
        False-accept rates, from 0 to 1, in increasing order.
    frr : ndarray of shape (n_thresholds,)
        False-reject rates, from 1 to 0, in decreasing order.
    thresholds : ndarray of shape (n_thresholds,)
        In increasing order: minus infinity, which accepts no pair; the values halfway between
        neighbouring distances; and a value above all distances. Distances that differ by rounding
        errors only are not separated, so a pair gets the same answer alone and in a batch.

    Raises
    ------
    ValueError
        If all pairs are of one kind, or `y_true` contains other values.

    References
    ----------
    ISO/IEC 19795-1:2021, "Biometric performance testing and reporting, Part 1".

    Examples
    --------
    >>> from skdml.metrics import far_frr_curve
    >>> far, frr, thresholds = far_frr_curve([1, 1, 0, 0], [0.1, 0.7, 0.6, 0.9])
    >>> far.tolist(), frr.tolist()
    ([0.0, 0.0, 0.5, 0.5, 1.0], [1.0, 0.5, 0.5, 0.0, 0.0])
    """
    counts = count_accepts(*check_pair_distances(y_true, distance))
    n_same, n_different = counts.same[-1], counts.different[-1]
    return counts.different / n_different, (n_same - counts.same) / n_same, counts.thresholds


def equal_error_rate(y_true: ArrayLike, distance: ArrayLike) -> float:
    """Compute the error rate at which the false-accept and the false-reject rate are equal.

    Both rates are interpolated linearly between the thresholds of `far_frr_curve`.

    Parameters
    ----------
    y_true : array-like of shape (n_pairs,)
        1 for pairs of the same class, 0 or -1 for pairs of different classes.
    distance : array-like of shape (n_pairs,)
        The distance within each pair.

    Returns
    -------
    float
        In [0, 1]; 0.5 is chance.

    Raises
    ------
    ValueError
        If all pairs are of one kind, or `y_true` contains other values.

    Examples
    --------
    >>> from skdml.metrics import equal_error_rate
    >>> equal_error_rate([1, 1, 0, 0], [0.1, 0.7, 0.6, 0.9])
    0.5
    """
    far, frr, _ = far_frr_curve(y_true, distance)
    gap = frr - far  # falls from 1 to -1
    after = np.flatnonzero(gap <= 0)[0]
    before = after - 1
    weight = gap[before] / (gap[before] - gap[after])
    return float(far[before] + weight * (far[after] - far[before]))


def tar_at_far(y_true: ArrayLike, distance: ArrayLike, far: float = 0.01) -> float:
    """Compute the largest true-accept rate with a false-accept rate of at most `far`.

    Only the thresholds of `far_frr_curve` are considered, without interpolation.

    Parameters
    ----------
    y_true : array-like of shape (n_pairs,)
        1 for pairs of the same class, 0 or -1 for pairs of different classes.
    distance : array-like of shape (n_pairs,)
        The distance within each pair.
    far : float, default=0.01
        The largest false-accept rate, in (0, 1).

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If all pairs are of one kind, `y_true` contains other values, or there are fewer than
        1 / `far` different pairs.

    Examples
    --------
    >>> from skdml.metrics import tar_at_far
    >>> tar_at_far([1, 1, 0, 0], [0.1, 0.7, 0.6, 0.9], far=0.5)
    1.0
    """
    far = check_rate(far, "far")
    same, checked = check_pair_distances(y_true, distance)
    check_enough(far, int((~same).sum()), "far", "different")
    counts = count_accepts(same, checked)
    last = np.flatnonzero(counts.different / counts.different[-1] <= far)[-1]
    return float(counts.same[last] / counts.same[-1])


def verification_report(
    y_true: ArrayLike,
    distance: ArrayLike,
    *,
    far: float | Iterable[float] = (0.1, 0.01, 0.001),
) -> dict[str, float]:
    """Compute all verification measures.

    Parameters
    ----------
    y_true : array-like of shape (n_pairs,)
        1 for pairs of the same class, 0 or -1 for pairs of different classes.
    distance : array-like of shape (n_pairs,)
        The distance within each pair.
    far : float or iterable of float, default=(0.1, 0.01, 0.001)
        The false-accept rates at which the true-accept rate is computed, each in (0, 1).

    Returns
    -------
    dict of str to float
        The measures:

        - "roc_auc": the area under the ROC curve, which is the probability that a same pair has a
          smaller distance than a different pair;
        - "equal_error_rate": see `equal_error_rate`;
        - "accuracy": the accuracy at the best threshold for these pairs; a threshold that is chosen
          on other pairs cannot do better;
        - "tar_at_far_0.01" and so on, for each rate: see `tar_at_far`; NaN if there are fewer
          different pairs than 1 / rate;
        - "n_same" and "n_different": the number of pairs of each kind.

    Raises
    ------
    ValueError
        If all pairs are of one kind, `y_true` contains other values, or a rate is out of range.

    Examples
    --------
    >>> from skdml.metrics import verification_report
    >>> report = verification_report([1, 1, 0, 0], [0.1, 0.7, 0.6, 0.9], far=0.5)
    >>> report["roc_auc"], report["tar_at_far_0.5"]
    (0.75, 1.0)
    """
    same, checked = check_pair_distances(y_true, distance)
    n_same, n_different = int(same.sum()), int((~same).sum())
    rates, frr, _ = far_frr_curve(same, checked)
    errors = rates * n_different + frr * n_same
    report = {
        "roc_auc": float(roc_auc_score(same, -checked)),
        "equal_error_rate": equal_error_rate(same, checked),
        "accuracy": float(1 - errors.min() / len(same)),
    }
    for rate in far if isinstance(far, Iterable) else (far,):
        enough = 1 / n_different <= check_rate(rate, "far")
        report[f"tar_at_far_{rate}"] = tar_at_far(same, checked, rate) if enough else np.nan
    return report | {"n_same": n_same, "n_different": n_different}
