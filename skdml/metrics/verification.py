"""Verification measures: decide from the distance whether two points are of the same class.

A pair is accepted if its distance is at most the threshold. A same pair has two points of the same
class, a different pair has points of two classes.

- FAR, the false-accept rate: share of different pairs that are accepted.
- FRR, the false-reject rate: share of same pairs that are rejected.
- TAR, the true-accept rate: 1 - FRR.
"""

from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.utils import check_array, check_scalar

from skdml.constraints import check_same


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
        Minus infinity, which accepts no pair, and then all distinct distances, in increasing order.

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
    same, checked = _check_pairs(y_true, distance)
    far, tar, scores = roc_curve(same, -checked, drop_intermediate=False)
    return far, 1 - tar, -scores


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
    limits = {"min_val": 0, "max_val": 1, "include_boundaries": "neither"}
    check_scalar(far, "far", Real, **limits)
    same, checked = _check_pairs(y_true, distance)
    _check_enough((~same).sum(), far)
    rates, frr, _ = far_frr_curve(same, checked)
    return float(1 - frr[np.flatnonzero(rates <= far)[-1]])


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
    same, checked = _check_pairs(y_true, distance)
    n_same, n_different = int(same.sum()), int((~same).sum())
    rates, frr, _ = far_frr_curve(same, checked)
    errors = rates * n_different + frr * n_same
    report = {
        "roc_auc": float(roc_auc_score(same, -checked)),
        "equal_error_rate": equal_error_rate(same, checked),
        "accuracy": float(1 - errors.min() / len(same)),
    }
    for rate in far if isinstance(far, Iterable) else (far,):
        # Rates that are out of range are passed on, because `tar_at_far` refuses them.
        enough = not isinstance(rate, Real) or rate * n_different >= 1 or rate <= 0
        report[f"tar_at_far_{rate}"] = tar_at_far(same, checked, rate) if enough else np.nan
    return report | {"n_same": n_same, "n_different": n_different}


def _check_pairs(y_true: ArrayLike, distance: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    checked: NDArray[Any] = check_array(distance, ensure_2d=False, input_name="distance")
    if checked.ndim != 1:
        raise ValueError(f"distance needs the shape (n_pairs,); got {checked.shape}.")
    same = check_same(y_true, len(checked), both_kinds=False)
    if same.all() or not same.any():
        kind = "the same" if same.any() else "different"
        raise ValueError(f"Verification needs pairs of both kinds; all {len(same)} are {kind}.")
    return same, checked


def _check_enough(n_different: int, far: float) -> None:
    needed = int(np.ceil(1 / far))
    if n_different < needed:
        raise ValueError(
            f"far={far} cannot be estimated from {n_different} different pairs: at least "
            f"1 / {far} = {needed} are needed."
        )
