"""Verification: are two points of one class? Judged from the distance alone.

A pair is accepted up to a threshold, the threshold itself included. FAR, the false-accept rate, is
the share of pairs of different classes (impostors) that are accepted; FRR, the false-reject rate,
the share of pairs of one class (genuine ones) that are not; TAR = 1 - FRR.
"""

from collections.abc import Iterable
from numbers import Real

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.utils import check_array, check_scalar

from skdml.constraints import check_same


def far_frr_curve(y_true, distance):
    """Both error rates at every threshold that makes a difference.

    Parameters
    ----------
    y_true : array-like of shape (n_pairs,)
        1 where the two points of a pair are of one class, else 0 (or -1).
    distance : array-like of shape (n_pairs,)
        The distance within each pair.

    Returns
    -------
    far : ndarray of shape (n_thresholds,)
        False-accept rates, from 0 to 1, never falling.
    frr : ndarray of shape (n_thresholds,)
        False-reject rates, from 1 to 0, never rising.
    thresholds : ndarray of shape (n_thresholds,)
        Minus infinity, which accepts nothing, then all distances that occur, in order.

    Raises
    ------
    ValueError
        If the pairs are all of one kind, or `y_true` holds other values.

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
    same, distance = _check_pairs(y_true, distance)
    far, tar, scores = roc_curve(same, -distance, drop_intermediate=False)
    return far, 1 - tar, -scores


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
        If the pairs are all of one kind, or `y_true` holds other values.

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


def tar_at_far(y_true, distance, far=0.01):
    """Largest share of genuine pairs that is accepted with at most `far` of the impostors.

    Only thresholds that occur are considered: nothing is read off between two of them.

    Parameters
    ----------
    y_true : array-like of shape (n_pairs,)
        1 where the two points of a pair are of one class, else 0 (or -1).
    distance : array-like of shape (n_pairs,)
        The distance within each pair.
    far : float, default=0.01
        The false-accept rate that is not exceeded, in (0, 1).

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If the pairs are all of one kind, `y_true` holds other values, or there are fewer than
        1 / `far` impostors.

    Examples
    --------
    >>> from skdml.metrics import tar_at_far
    >>> tar_at_far([1, 1, 0, 0], [0.1, 0.7, 0.6, 0.9], far=0.5)
    1.0
    """
    limits = {"min_val": 0, "max_val": 1, "include_boundaries": "neither"}
    check_scalar(far, "far", Real, **limits)
    same, distance = _check_pairs(y_true, distance)
    _check_enough((~same).sum(), far)
    rates, frr, _ = far_frr_curve(same, distance)
    return float(1 - frr[np.flatnonzero(rates <= far)[-1]])


def verification_report(y_true, distance, *, far=(0.1, 0.01, 0.001)):
    """Return the measures of verification.

    Parameters
    ----------
    y_true : array-like of shape (n_pairs,)
        1 where the two points of a pair are of one class, else 0 (or -1).
    distance : array-like of shape (n_pairs,)
        The distance within each pair.
    far : float or iterable of float, default=(0.1, 0.01, 0.001)
        The false-accept rates to give the true-accept rate at.

    Returns
    -------
    dict of str to float
        "roc_auc" (the share of genuine and impostor pairs of which the genuine one is nearer),
        "equal_error_rate", "accuracy" (at the threshold that is best for these pairs: an upper
        bound of what a threshold chosen elsewhere reaches), and "tar_at_far_0.01" and so on, NaN
        where there are too few impostors to tell. Besides, "n_same" and "n_different".

    Raises
    ------
    ValueError
        If the pairs are all of one kind, `y_true` holds other values, or a rate is out of range.

    Examples
    --------
    >>> from skdml.metrics import verification_report
    >>> report = verification_report([1, 1, 0, 0], [0.1, 0.7, 0.6, 0.9], far=0.5)
    >>> report["roc_auc"], report["tar_at_far_0.5"]
    (0.75, 1.0)
    """
    same, distance = _check_pairs(y_true, distance)
    n_same, n_different = int(same.sum()), int((~same).sum())
    rates, frr, _ = far_frr_curve(same, distance)
    errors = rates * n_different + frr * n_same
    report = {
        "roc_auc": float(roc_auc_score(same, -distance)),
        "equal_error_rate": equal_error_rate(same, distance),
        "accuracy": float(1 - errors.min() / len(same)),
    }
    for each in far if isinstance(far, Iterable) else (far,):
        told = not isinstance(each, Real) or each * n_different >= 1 or each <= 0
        report[f"tar_at_far_{each}"] = tar_at_far(same, distance, each) if told else np.nan
    return report | {"n_same": n_same, "n_different": n_different}


def _check_pairs(y_true, distance):
    distance = check_array(distance, ensure_2d=False, input_name="distance")
    if distance.ndim != 1:
        raise ValueError(f"distance needs the shape (n_pairs,); got {distance.shape}.")
    same = check_same(y_true, len(distance), both_kinds=False)
    if same.all() or not same.any():
        kind = "the same" if same.any() else "different"
        raise ValueError(f"Verification needs pairs of both kinds; all {len(same)} are {kind}.")
    return same, distance


def _check_enough(n_different, far):
    needed = int(np.ceil(1 / far))
    if n_different < needed:
        raise ValueError(
            f"far={far} cannot be told from {n_different} pairs that are different: at least "
            f"1 / {far} = {needed} are needed."
        )
