"""FastAP, Smooth-AP and the histogram loss against plain loops over Python floats."""

import math

import pytest
import torch
from helpers import batch_and_reference, literal_matrix, literal_pairs, literal_rows, mean

from skdml.deep.losses import FastAPLoss, HistogramLoss, SmoothAPLoss

LARGEST = {"cosine": 2.0, "angular": 1.0}


def pulse(d, node, n_bins, largest):
    return max(0.0, 1 - abs(d / (largest / n_bins) - node))


def literal_fast_ap(d, rows, n_bins, largest):
    losses = []
    for i, (positives, negatives) in enumerate(rows):
        if not positives or not negatives:
            continue
        near = [
            sum(pulse(d[i][p], k, n_bins, largest) for p in positives) for k in range(n_bins + 1)
        ]
        every = [
            sum(pulse(d[i][j], k, n_bins, largest) for j in positives + negatives)
            for k in range(n_bins + 1)
        ]
        ap = 0.0
        for k in range(n_bins + 1):
            if sum(every[: k + 1]) > 0:
                ap += sum(near[: k + 1]) * near[k] / sum(every[: k + 1])
        losses.append(1 - ap / len(positives))
    return mean(losses)


def literal_smooth_ap(d, rows, t):
    losses = []
    for i, (positives, negatives) in enumerate(rows):
        if not positives or not negatives:
            continue
        shares = []
        for p in positives:
            before = {
                j: 1 / (1 + math.exp(-(d[i][p] - d[i][j]) / t))
                for j in positives + negatives
                if j != p
            }
            among = 1 + sum(before[j] for j in positives if j != p)
            shares.append(among / (1 + sum(before.values())))
        losses.append(1 - mean(shares))
    return mean(losses)


def literal_histogram(d, same, different, n_bins, largest):
    near = [mean(pulse(d[i][j], k, n_bins, largest) for i, j in same) for k in range(n_bins + 1)]
    far = [
        mean(pulse(d[i][j], k, n_bins, largest) for i, j in different) for k in range(n_bins + 1)
    ]
    return sum(far[k] * near[m] for k in range(n_bins + 1) for m in range(k, n_bins + 1))


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("n_bins", [1, 7, 30])
@pytest.mark.parametrize("distance", LARGEST)
def test_histograms_equal_their_definitions(distance, n_bins, reference):
    x, labels, y, y_labels = batch_and_reference(reference)
    d = literal_matrix(x, x if y is None else y, distance)
    expected = literal_fast_ap(d, literal_rows(labels, y_labels), n_bins, LARGEST[distance])
    got = FastAPLoss(n_bins, distance=distance)(x, labels, None, y, y_labels)
    assert got.item() == pytest.approx(expected, rel=1e-8)
    same, different = literal_pairs(labels, y_labels)
    expected = literal_histogram(d, same, different, n_bins, LARGEST[distance])
    got = HistogramLoss(n_bins, distance=distance)(x, labels, None, y, y_labels)
    assert got.item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_smooth_ap_equals_its_definition(distance, reference):
    x, labels, y, y_labels = batch_and_reference(reference)
    d = literal_matrix(x, x if y is None else y, distance)
    expected = literal_smooth_ap(d, literal_rows(labels, y_labels), 0.1)
    got = SmoothAPLoss(0.1, distance=distance)(x, labels, None, y, y_labels)
    assert got.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sizes", [(4, 4, 4), (2,) * 8, (8, 8), (7, 3, 2, 1)])
@pytest.mark.parametrize("loss", [SmoothAPLoss(), FastAPLoss(), HistogramLoss()])
def test_perfect_clusters_of_any_size_and_order_have_no_loss(loss, sizes):
    labels = torch.cat([torch.full((s,), c) for c, s in enumerate(sizes)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    x = torch.eye(len(sizes), dtype=torch.float64)[labels]
    assert loss(x, labels).item() == pytest.approx(0, abs=1e-12)
    assert loss(x, labels.roll(1)).item() > 0.3


def test_losses_equal_those_of_pytorch_metric_learning():
    # Computed by version 2.9.0, with its HistogramLoss(n_bins=20), on sin(1), sin(2), ... in eight
    # rows of three. Its bins are in single precision.
    x = torch.arange(1, 25, dtype=torch.float64).sin().reshape(8, 3)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    for loss, expected in (
        (FastAPLoss(10), 0.7649595020336983),
        (HistogramLoss(20), 0.8291513591083985),
    ):
        assert loss(x, labels).item() == pytest.approx(expected, rel=1e-6)


def test_parameters_outside_their_range_raise():
    for kind in (FastAPLoss, HistogramLoss):
        for n_bins in (0, -1, 1.5, True, "1", None):
            with pytest.raises(ValueError, match="n_bins must be an integer >= 1; got"):
                kind(n_bins)
        with pytest.raises(ValueError, match="distance must be one of cosine, angular; got 'euc"):
            kind(distance="euclidean")
    for temperature in (0, -1.0, math.inf, math.nan, True, "1", None):
        with pytest.raises(ValueError, match="temperature must be a finite number > 0; got"):
            SmoothAPLoss(temperature)
