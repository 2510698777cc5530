"""Verification measures, compared with plain loops and with scikit-learn."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import det_curve, roc_auc_score

from skdml.metrics import equal_error_rate, far_frr_curve, tar_at_far, verification_report


def literal_equal_error_rate(same, distance):
    """Return where the two error rates cross, with lines between the thresholds."""
    points = [(0.0, 1.0)]
    for t in sorted(set(distance)):
        accepted = distance <= t
        points.append((accepted[~same].mean(), 1 - accepted[same].mean()))
    for (far0, frr0), (far1, frr1) in pairwise(points):
        if frr1 <= far1:
            w = (frr0 - far0) / ((frr0 - far0) - (frr1 - far1))
            return far0 + w * (far1 - far0)
    return None


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_equal_error_rate_matches_a_plain_loop(seed, ties):
    rng = np.random.default_rng(seed)
    same = rng.random(50) < 0.3
    distance = rng.normal(size=50) - same
    distance = distance.round() if ties else distance
    expected = literal_equal_error_rate(same, distance)
    assert equal_error_rate(same.astype(int), distance) == pytest.approx(expected)
    assert equal_error_rate(np.where(same, 1, -1), distance) == pytest.approx(expected)


def test_equal_error_rate_of_extreme_cases():
    assert equal_error_rate([1, 1, 0], [0.1, 0.2, 0.3]) == 0
    assert equal_error_rate([0, 0, 1], [0.1, 0.2, 0.3]) == 1
    assert equal_error_rate([0, 1, 0, 1], [0.5] * 4) == 0.5
    with pytest.raises(ValueError, match="needs pairs of both kinds; all 2 are the same"):
        equal_error_rate([1, 1], [0.1, 0.2])


def pairs(ties=False):
    rng = np.random.default_rng(1)
    same = rng.random(400) < 0.3
    distance = rng.normal(size=400) - same
    return same, distance.round(1) if ties else distance


@pytest.mark.parametrize("ties", [False, True])
def test_rates_match_a_plain_loop_and_scikit_learn(ties):
    same, distance = pairs(ties)
    far, frr, thresholds = far_frr_curve(same, distance)
    values = np.unique(distance)
    assert thresholds[0] == -np.inf
    assert_allclose(thresholds[1:-1], values[:-1] + (values[1:] - values[:-1]) / 2)
    assert thresholds[-1] > values[-1]
    assert_allclose(far, [(distance[~same] <= t).mean() for t in thresholds])
    assert_allclose(frr, [(distance[same] > t).mean() for t in thresholds], atol=1e-15)
    theirs = dict(zip(*det_curve(same, -distance)[:2], strict=True))
    ours = dict(zip(far, frr, strict=True))  # keeps the smallest FRR for each FAR
    for rate in theirs:
        assert theirs[rate] >= ours[rate] - 1e-12
    assert len(theirs) > 20


def test_rates_are_ratios_of_counts():
    distance = np.r_[np.arange(1, 101.0), np.arange(1, 101) - 0.5]
    same = np.arange(200) < 100
    far, frr, _ = far_frr_curve(same, distance)
    for k in range(1, 100):
        assert k / 100 in far
        assert k / 100 in frr
    assert tar_at_far(~same, distance, 0.29) == 0.3


def test_distances_that_differ_by_rounding_are_not_separated():
    far, frr, thresholds = far_frr_curve([1, 0, 1], [1.0, 1 + 2e-15, 2.0])
    assert_array_equal(far, [0, 1, 1])
    assert_array_equal(frr, [1, 0.5, 0])
    assert thresholds[1] == pytest.approx(1.5)


@pytest.mark.parametrize("ties", [False, True])
def test_verification_report(ties):
    same, distance = pairs(ties)
    report = verification_report(same, distance, far=(0.1, 0.01, 0.001))
    nearer = distance[same][:, None] - distance[~same]
    auc = (nearer < 0).mean() + (nearer == 0).mean() / 2
    assert report["roc_auc"] == pytest.approx(auc)
    assert report["roc_auc"] == pytest.approx(roc_auc_score(same, -distance))
    assert report["equal_error_rate"] == equal_error_rate(same, distance)
    right = [((distance <= t) == same).mean() for t in [-9, *distance]]
    assert report["accuracy"] == pytest.approx(max(right))
    assert (report["n_same"], report["n_different"]) == (same.sum(), (~same).sum())
    for far in (0.1, 0.01):
        allowed = [t for t in [-9, *distance] if (distance[~same] <= t).mean() <= far]
        expected = max((distance[same] <= t).mean() for t in allowed)
        assert report[f"tar_at_far_{far}"] == pytest.approx(expected)
        assert tar_at_far(same, distance, far) == report[f"tar_at_far_{far}"]
    assert np.isnan(report["tar_at_far_0.001"])  # fewer than a thousand different pairs


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tar_at_far([1, 0, 0], [1.0, 2.0, 3.0], 0.1), "at least 1 / 0.1 = 10 are needed"),
        (lambda: tar_at_far([1, 0], [1.0, 2.0], 1.5), "far == 1.5"),
        (lambda: tar_at_far([1, 0], [1.0, 2.0], np.nan), "far == nan"),
        (lambda: verification_report([1, 0], [1.0, 2.0], far=-1), "far == -1"),
        (lambda: verification_report([1, 0], [1.0, 2.0], far=np.nan), "far == nan"),
        (lambda: far_frr_curve([0, 0], [1.0, 2.0]), "all 2 are different"),
        (lambda: far_frr_curve([1, 2], [1.0, 2.0]), "has to hold 1 .same. and 0"),
        (lambda: far_frr_curve([1, 0], [1.0, np.nan]), "NaN"),
        (lambda: far_frr_curve([1, 0, 0], [1.0, 2.0]), "one label for each of the 2 pairs"),
        (lambda: far_frr_curve([1, 0], [[1.0], [2.0]]), "needs the shape"),
    ],
)
def test_invalid_input_of_verification_measures(call, message):
    with pytest.raises(ValueError, match=message):
        call()
