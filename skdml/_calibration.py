"""Thresholds that keep a false-accept rate for unseen classes, with a stated confidence.

An unseen class is accepted if it lies near one of the enrolled classes. The observations are
therefore distances between *classes*: many samples of a few classes say little about the next
class. All functions are pure functions of arrays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc, gammaincinv, ndtr, ndtri

# With fewer classes, the lower tail of the distances between classes holds too few values, and a
# distribution of all of them is assumed.
N_CLASSES_OF_TAIL = 10

# Nearest other classes that are kept for each sample, if the lower tail is used.
N_NEAREST = 8

# The tail holds the smallest distances: about this number of independent pairs of classes, or
# fewer if there are few classes, and at least the given multiple of the accepted share.
_N_PAIRS_OF_TAIL = 60
_N_PAIRS_PER_CLASS = 1.0
_MULTIPLE_OF_RATE = 3

# Numbers of midpoints at which distributions are evaluated.
_N_QUANTILES = 400
_N_COARSE = 40


class ImpostorDistances(NamedTuple):
    """Distances of samples to classes other than their own; one entry for each.

    Attributes
    ----------
    query : ndarray of int, shape (n,)
        The class of the sample.
    other : ndarray of int, shape (n,)
        The class that it is compared with.
    distance : ndarray of shape (n,)
        The distance, >= 0.
    weight : ndarray of shape (n,)
        The weights. The sum of the weights up to a distance is the expected number of enrolled
        classes within that distance of a sample of an unseen class.
    """

    query: NDArray[np.integer]
    other: NDArray[np.integer]
    distance: NDArray[np.floating]
    weight: NDArray[np.floating]


def accepting_threshold(
    impostors: ImpostorDistances, n_classes: int, rate: float, confidence: float
) -> float:
    """Return a distance within which unseen classes lie at most at a given rate.

    Each enrolled class is held out in turn. The expected number of enrolled classes within a
    distance bounds the share of accepted impostors, also for dependent classes (Boole).

    - With 10 classes or more, the smallest distances t follow a power law, rate ~ t^k. The
      exponent is Hill's estimate. Rate and exponent have the gamma distributions of a power-law
      process (Crow 1974).
    - With fewer classes, t^(2/3) is assumed to be normal over pairs of classes, as the
      cube root of a chi-squared variable nearly is (Wilson and Hilferty 1931).

    Parameters
    ----------
    impostors : ImpostorDistances
        The distances. Those of all pairs of classes, if there are fewer than 10 classes;
        otherwise at least the smallest of each sample.
    n_classes : int
        Number of enrolled classes.
    rate : float
        The false-accept rate, in (0, 1).
    confidence : float
        Probability that the rate is kept, in (0, 1).

    Returns
    -------
    float
        The threshold. -1 if even a distance of 0 is too frequent.

    References
    ----------
    B. M. Hill, "A Simple General Approach to Inference About the Tail of a Distribution", 1975.
    L. H. Crow, "Reliability Analysis for Complex, Repairable Systems", 1974.
    I. Weissman, "Estimation of Parameters and Large Quantiles Based on the k Largest
    Observations", 1978.
    """
    at_zero = impostors.weight[impostors.distance == 0].sum()
    if at_zero > rate:
        return -1.0
    if n_classes < N_CLASSES_OF_TAIL:
        return _normal_threshold(impostors, n_classes, rate, confidence)
    return _tail_threshold(impostors, n_classes, rate, confidence)


def _tail_threshold(
    impostors: ImpostorDistances, n_classes: int, rate: float, confidence: float
) -> float:
    """Extrapolate the power law of the smallest distances to the rate."""
    order = np.argsort(impostors.distance, kind="stable")
    distance, weight = impostors.distance[order], impostors.weight[order]
    pair = _pair_numbers(impostors, n_classes)[order]
    cumulative = np.cumsum(weight)

    n_needed = min(_N_PAIRS_OF_TAIL, _N_PAIRS_PER_CLASS * n_classes)

    def suffices(size: int) -> bool:
        enough = cumulative[size - 1] >= _MULTIPLE_OF_RATE * rate
        return bool(enough and _n_independent(pair[:size], weight[:size]) >= n_needed)

    size = _first_true(suffices, len(distance))
    last, share = distance[size - 1], cumulative[size - 1]
    n_pairs = max(_n_independent(pair[:size], weight[:size]), 2.0)
    positive = np.maximum(distance[:size], np.finfo(float).tiny)
    spread = weight[:size] @ np.log(last / positive) if last > 0 else 0.0
    exponent = share / max(spread, 1e-6 * share)
    exponents = exponent * gammaincinv(n_pairs - 1, _midpoints(_N_QUANTILES)) / n_pairs

    def exceeded(log_ratio: float) -> float:
        """Return the probability that the rate is above the target at exp(log_ratio) * last."""
        growth = np.exp(np.clip(-log_ratio * exponents, 0, 700))
        return float(gammaincc(n_pairs, n_pairs * rate / share * growth).mean())

    return float(last * np.exp(_bisect(lambda s: exceeded(s) <= 1 - confidence, -50.0, 0.0)))


def _normal_threshold(
    impostors: ImpostorDistances, n_classes: int, rate: float, confidence: float
) -> float:
    """Choose the threshold by a normal distribution of t^(2/3) over pairs of classes."""
    x = impostors.distance ** (2 / 3)
    pair = np.unique(_pair_numbers(impostors, n_classes), return_inverse=True)[1]
    means = np.bincount(pair, x) / np.bincount(pair)
    within = np.quantile(x - means[pair], _midpoints(_N_COARSE // 2))
    # Pairs that share a class are not independent.
    n_pairs = max(min(len(means), 2 * n_classes), 3)
    # One pair has no spread. A quarter of the mean is the spread of distances in four dimensions.
    spread = means.std(ddof=1) if len(means) > 1 else means[0] / 4
    quantiles = _midpoints(_N_COARSE)
    half_dof = (n_pairs - 1) / 2
    sigma = spread * np.sqrt(half_dof / gammaincinv(half_dof, quantiles))[:, None]
    mu = means.mean() + sigma * ndtri(quantiles) / np.sqrt(n_pairs)
    sigma = np.maximum(sigma, np.finfo(float).tiny)

    def exceeded(t: float) -> float:
        z = (t - within - mu[..., None]) / sigma[..., None]
        return float((n_classes * ndtr(z).mean(axis=-1) > rate).mean())

    return float(_bisect(lambda t: exceeded(t) <= 1 - confidence, 0.0, x.max()) ** 1.5)


def _pair_numbers(impostors: ImpostorDistances, n_classes: int) -> NDArray[np.integer]:
    """Return the number of the unordered pair of classes of each entry."""
    first = np.minimum(impostors.query, impostors.other).astype(np.int64)
    return first * n_classes + np.maximum(impostors.query, impostors.other)


def _n_independent(pair: NDArray[np.integer], weight: NDArray[np.floating]) -> float:
    """Return the effective number of pairs of classes (Kish): (sum w)² / sum w²."""
    total = np.bincount(np.unique(pair, return_inverse=True)[1], weight)
    return float(total.sum() ** 2 / (total**2).sum())


def _midpoints(n: int) -> NDArray[np.floating]:
    return (np.arange(n) + 0.5) / n


def _first_true(holds: Callable[[int], bool], n: int) -> int:
    """Return the smallest number in 1, ..., n for which `holds` is true, or n."""
    low, high = 1, n
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _bisect(holds: Callable[[Any], bool], low: float, high: float) -> float:
    """Return the largest value, up to rounding, for which a condition holds from `low` on."""
    if holds(high):
        return high
    for _ in range(45):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
