"""Thresholds between distances, and bounds on the false-accept rate of pairs.

A pair is accepted if its distance is at most the threshold. The pairs are not independent, because
an identity (a class, such as a person) takes part in many pairs.
"""

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.special import betainc, polygamma, psi
from scipy.stats import gamma, nct, norm, t
from sklearn.utils import check_scalar

# Distances of one pair, alone and in a batch, differ by a few units in the last place. Distances
# that are closer than this number of units count as equal, and no threshold lies between them.
_N_UNITS = 16
_SMALLEST_GAP = 1e-12  # relative; above 16 units of float64, which has room for larger errors

# The false-accept rates of single identities differ. The square of their coefficient of variation
# is taken to be at least this number.
_SQUARED_VARIATION = 0.5

# The tolerance factor barely changes beyond this number of observations.
_MOST_OBSERVATIONS = 200


class AcceptCounts(NamedTuple):
    """The number of accepted pairs at each threshold, in increasing order of the thresholds."""

    thresholds: NDArray[np.floating]
    same: NDArray[np.int_]
    different: NDArray[np.int_]


def count_accepts(same: NDArray[np.bool_], distance: NDArray[np.number]) -> AcceptCounts:
    """Count the accepted pairs at every threshold that makes a difference.

    Parameters
    ----------
    same : ndarray of bool, shape (n_pairs,)
        Whether a pair is of the same class.
    distance : ndarray of shape (n_pairs,)
        The distance within each pair.

    Returns
    -------
    AcceptCounts
        The first threshold is minus infinity and accepts no pair. Each further threshold lies
        halfway between two observed distances, and the last one lies above all of them. Distances
        that differ by rounding errors only are not separated.
    """
    order = np.argsort(distance, kind="stable")
    values = distance[order].astype(np.float64)
    exact = distance.dtype.kind != "f"
    units = 0.0 if exact else _N_UNITS * np.spacing(distance.dtype.type(1))
    gap = max(_SMALLEST_GAP, units) * np.maximum(abs(values), np.median(abs(values)))
    last = np.append(np.flatnonzero(np.diff(values) > gap[1:]), len(values) - 1)
    above = np.append(values[last[:-1] + 1], values[-1] + 2 * gap[-1])
    thresholds = np.append(-np.inf, values[last] + (above - values[last]) / 2)
    accepted = np.append(0, np.cumsum(same[order])[last])
    return AcceptCounts(thresholds, accepted, np.append(0, last + 1) - accepted)


def check_rate(value: Any, name: str) -> float:
    """Return a rate in (0, 1); raise a ValueError if it is out of range or NaN."""
    if value is None:
        raise ValueError(f"{name}=None is not a rate. Give a number in (0, 1).")
    check_scalar(value, name, Real, min_val=0, max_val=1, include_boundaries="neither")
    if np.isnan(value):
        raise ValueError(f"{name} == nan, must be a number in (0, 1).")
    return float(value)


def check_enough(rate: float, n_pairs: int, name: str, kind: str) -> None:
    """Raise a ValueError if a rate cannot be observed: with fewer than 1 / rate pairs."""
    if n_pairs == 0 or 1 / n_pairs > rate:
        raise ValueError(
            f"{name}={rate} cannot be estimated from {n_pairs} {kind} pairs: at least "
            f"1 / {rate} = {int(np.ceil(1 / rate))} are needed. Give ten times as many for a good "
            "estimate."
        )


def count_safe_accepts(
    identities: NDArray[np.integer], target: float, confidence: float
) -> tuple[int, float]:
    """Count the nearest different pairs that may be accepted at a false-accept rate.

    The upper bound of the rate is that of Clopper and Pearson, for the effective number of
    independent pairs. This number follows from the variance of the rate (Aronow 2015), as in Korn
    and Graubard (1998). It is the number of pairs if no identity is in two pairs.

    Parameters
    ----------
    identities : ndarray of int, shape (n_pairs, 2)
        The identity of each point of the different pairs, in increasing order of the distances.
    target : float
        The false-accept rate, in (0, 1).
    confidence : float
        The confidence of the bound, in (0, 1).

    Returns
    -------
    n_accepts : int
        The number of pairs. It is -1 if the bound exceeds the target even if none is accepted.
    n_observations : float
        The effective number of independent observations: that of the identities or that of the
        combinations of two identities, whichever is smaller.

    References
    ----------
    P. Aronow, C. Samii, V. Assenova, "Cluster-robust variance estimation for dyadic data",
    Political Analysis, 2015, equation 2. E. Korn, B. Graubard, "Confidence intervals for
    proportions with small expected number of positive counts estimated from survey data", Survey
    Methodology, 1998. C. Clopper, E. Pearson, "The use of confidence or fiducial limits",
    Biometrika, 1934.
    """
    n_pairs = len(identities)
    codes = np.unique(identities, return_inverse=True)[1].reshape(-1, 2)
    combinations = codes.min(axis=1) * (codes.max() + 1) + codes.max(axis=1)
    n_identities = _effective_number(identities.ravel())
    n_combinations = _effective_number(combinations)
    n_observations = min(n_identities, n_combinations)
    if n_observations < 2:
        return -1, n_observations
    rate = np.arange(1, n_pairs + 1) / n_pairs
    within, within_at_one = _squared_residuals(combinations[:, None], rate)
    total, total_at_one = _squared_residuals(identities, rate)
    between = (total - 2 * within) * n_identities / (n_identities - 1)
    # Few pairs show too little of the differences between identities.
    smallest = _SQUARED_VARIATION * (total_at_one - 2 * within_at_one)
    between = np.maximum(between, rate**2 * smallest)
    # This variance grows with the rate. A rate below the target shows too little of it.
    between *= np.clip(target / rate, 1, 2)
    variance = np.maximum((within + between) / n_pairs**2, np.finfo(np.float64).tiny)
    effective = np.minimum(n_combinations, rate * (1 - rate) / variance)
    effective = np.append(n_combinations, effective)  # at first, none is accepted
    effective *= (norm.ppf(confidence) / t.ppf(confidence, n_identities - 1)) ** 2
    rate = np.append(0, rate)
    hits, misses = effective * rate, np.maximum(effective * (1 - rate), 1e-9)
    safe = (betainc(hits + 1, misses, target) >= confidence) & (rate <= target)
    return int(np.argmin(safe)) - 1, n_observations


def _effective_number(codes: NDArray[np.integer]) -> float:
    """Return the number of distinct codes, or fewer if their frequencies differ (Kish 1965)."""
    counts = np.unique(codes, return_counts=True)[1]
    return float(counts.sum() ** 2 / (counts**2).sum())


def _squared_residuals(
    codes: NDArray[np.integer], rate: NDArray[np.floating]
) -> tuple[NDArray[np.floating], float]:
    """Return the sum over units of (accepted pairs - rate * pairs) squared, for each rate.

    Parameters
    ----------
    codes : ndarray of int, shape (n_pairs, n_units_per_pair)
        The units that each pair belongs to.
    rate : ndarray of shape (n_pairs,)
        The accepted share after each pair.

    Returns
    -------
    sums : ndarray of shape (n_pairs,)
        The sum after each pair. It is updated from pair to pair: if a unit has a accepted pairs,
        the next one adds 2 a + 1 to the square.
    squared_pairs : float
        The sum of the squared number of pairs.
    """
    flat = np.unique(codes, return_inverse=True)[1].ravel()
    n_pairs = np.bincount(flat).astype(np.float64)
    order = np.argsort(flat, kind="stable")
    before = np.empty(len(flat))  # accepted pairs of the unit before this one
    before[order] = np.arange(len(flat)) - np.searchsorted(flat[order], flat[order])
    squares = np.cumsum((2 * before + 1).reshape(codes.shape).sum(axis=1))
    products = np.cumsum(n_pairs[flat].reshape(codes.shape).sum(axis=1))
    squared_pairs = float((n_pairs**2).sum())
    return squares - 2 * rate * products + rate**2 * squared_pairs, squared_pairs


def extrapolate_distance(
    distance: NDArray[np.number], n_observations: float, target: float, confidence: float
) -> float:
    """Return a distance below which at most a share `target` of the distances is expected.

    The squared distance is taken to follow a gamma distribution, as it does for normal classes.
    The margin below the mean of its logarithm is the one-sided tolerance factor for
    `n_observations`, times the ratio of the gamma quantile to the normal quantile.

    Parameters
    ----------
    distance : ndarray of shape (n_pairs,)
        Distances of different pairs.
    n_observations : float
        The number of independent observations that they are worth.
    target : float
        The share, in (0, 1).
    confidence : float
        The confidence, in (0, 1).

    Returns
    -------
    float
        The distance. It is -1 if there are fewer than two observations.

    References
    ----------
    G. Hahn, W. Meeker, "Statistical Intervals", 1991, section 4.6 (tolerance factor).
    """
    if n_observations < 2:
        return -1.0
    n = min(n_observations, _MOST_OBSERVATIONS)
    logarithm = 2 * np.log(np.maximum(distance, np.finfo(np.float64).tiny))
    mean, spread = logarithm.mean(), max(logarithm.std(ddof=1), 1e-6)
    # The variance of the logarithm of a gamma variable is the trigamma function of its shape.
    shape = np.exp(brentq(lambda log: polygamma(1, np.exp(log)) - spread**2, -40, 40))
    smallest = np.finfo(np.float64).tiny
    quantile = (np.log(max(gamma.ppf(target, shape), smallest)) - psi(shape)) / spread
    normal = max(norm.ppf(1 - target), 1e-3)
    factor = nct.ppf(confidence, n - 1, normal * np.sqrt(n)) / np.sqrt(n)
    return float(np.exp((mean - factor * spread * max(1.0, -quantile / normal)) / 2))


def find_identities(pairs: NDArray[Any], same: NDArray[np.bool_]) -> NDArray[np.integer]:
    """Find the identity of each point: points that are linked by same pairs are of one identity.

    Parameters
    ----------
    pairs : ndarray of shape (n_pairs, 2, ...)
        Pairs of points, or of the groups of points. Equal points count as one point.
    same : ndarray of bool, shape (n_pairs,)
        Whether a pair is of the same class.

    Returns
    -------
    ndarray of int, shape (n_pairs, 2)
        The identities. A point that is in no same pair is an identity of its own. If links
        contradict a different pair, the labels do not tell identities, and each point is one.
    """
    points = np.ascontiguousarray(pairs).reshape(2 * len(pairs), -1)
    if points.dtype.kind == "f":
        points = points + 0.0  # makes -0.0 and 0.0 equal
    known: dict[Any, int] = {}
    keys = (row.tobytes() if row.dtype != object else tuple(row) for row in points)
    rows = np.array([known.setdefault(key, len(known)) for key in keys]).reshape(-1, 2)
    links = coo_matrix((np.ones(same.sum()), rows[same].T), shape=(len(known), len(known)))
    identities = connected_components(links, directed=False)[1][rows]
    contradiction = (identities[:, 0] == identities[:, 1]) & ~same
    return rows if contradiction.any() else identities
