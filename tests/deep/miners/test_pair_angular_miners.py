"""Pair, angular and distance-weighted miners against plain loops."""

import math
import warnings

import numpy as np
import pytest
import torch
from helpers import as_list, literal_matrix, literal_pairs, make_batch
from scipy.stats import chisquare

from skdml.deep.losses import ContrastiveLoss, MarginLoss, MultiSimilarityLoss, TripletLoss
from skdml.deep.miners import (
    MINERS,
    AllTripletsMiner,
    AngularMiner,
    BatchHardMiner,
    DistanceWeightedMiner,
    MultiSimilarityMiner,
    PairMarginMiner,
    UniformMiner,
    get_miner,
)
from skdml.deep.miners.distance_weighted import log_weights
from skdml.deep.miners.uniform import draw_by_bin
from skdml.distances import BASE_DISTANCES

NAMES = ("distance_weighted", "angular", "multi_similarity", "pair_margin", "uniform")
PAIR_MINERS = NAMES[2:]
RANDOM_MINERS = ("distance_weighted", "uniform")
with_and_without_references = pytest.mark.parametrize("reference", [False, True])


def batch(reference):
    x, labels = make_batch()
    y, y_labels = make_batch(1, sizes=(5, 4, 0, 3, 2)) if reference else (None, None)
    return x, labels, y, y_labels


def pairs_of(indices):
    a1, p, a2, n = indices
    return as_list((a1, p)), as_list((a2, n))


# Pairs


@with_and_without_references
@pytest.mark.parametrize("distance", BASE_DISTANCES)
def test_multi_similarity_pairs(distance, reference):
    x, labels, y, y_labels = batch(reference)
    d = literal_matrix(x, x if y is None else y, distance)
    same, different = literal_pairs(labels, y_labels)
    for epsilon in (0.0, 0.1, 0.7):
        got = MultiSimilarityMiner(epsilon, distance=distance)(x, labels, y, y_labels)
        near = {a: min(d[a][n] for b, n in different if b == a) for a, _ in different}
        far = {a: max(d[a][p] for b, p in same if b == a) for a, _ in same}
        hard_same = [(a, p) for a, p in same if a in near and d[a][p] > near[a] - epsilon]
        hard_different = [(a, n) for a, n in different if a in far and d[a][n] < far[a] + epsilon]
        assert hard_same
        assert hard_different
        assert pairs_of(got) == (hard_same, hard_different)


@with_and_without_references
@pytest.mark.parametrize("distance", BASE_DISTANCES)
def test_pair_margin_pairs(distance, reference):
    x, labels, y, y_labels = batch(reference)
    d = literal_matrix(x, x if y is None else y, distance)
    same, different = literal_pairs(labels, y_labels)
    for margins in ((0.2, 0.8), (1.0, 2.0), (0.0, 0.1)):
        got = PairMarginMiner(*margins, distance=distance)(x, labels, y, y_labels)
        far = [(i, j) for i, j in same if d[i][j] > margins[0]]
        near = [(i, j) for i, j in different if d[i][j] < margins[1]]
        assert pairs_of(got) == (far, near)


@with_and_without_references
def test_uniform_draws_from_each_bin(reference):
    x, labels, y, y_labels = batch(reference)
    d = literal_matrix(x, x if y is None else y, "euclidean")
    kinds = literal_pairs(labels, y_labels)
    got = pairs_of(UniformMiner(10, 3, 2)(x, labels, y, y_labels))
    for pairs, drawn, per_bin in zip(kinds, got, (3, 2), strict=True):
        low, high = min(d[i][j] for i, j in pairs), max(d[i][j] for i, j in pairs)
        counts = np.zeros((2, 10), int)
        for row, chosen in enumerate((pairs, drawn)):
            for i, j in chosen:
                counts[row, min(9, int((d[i][j] - low) / (high - low) * 10))] += 1
        assert (counts[1] == np.minimum(counts[0], per_bin)).all()
        assert set(drawn) <= set(pairs)
        assert len(set(drawn)) == len(drawn)


def test_entries_of_a_bin_are_drawn_equally_often():
    torch.manual_seed(0)
    values = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.9, 1.0])
    counts = torch.zeros(6)
    for _ in range(1000):
        counts[draw_by_bin(values, 2, 2)] += 1
    assert counts[4:].tolist() == [1000, 1000]
    assert chisquare(counts[:4].numpy()).pvalue > 0.01


def test_bins_of_equal_values_and_of_nan():
    assert len(draw_by_bin(torch.ones(20), 5, 3)) == 3
    assert draw_by_bin(torch.tensor([torch.nan, 0.0, 1.0]), 5, 3).tolist() == [0, 1, 2]
    assert draw_by_bin(torch.full((4,), torch.nan), 5, 3).numel() == 3
    assert draw_by_bin(torch.zeros(0), 5, 3).numel() == 0


# Angles


@with_and_without_references
@pytest.mark.parametrize("block", [1, 50, 2**18])
def test_angular_triplets(reference, block, monkeypatch):
    monkeypatch.setattr("skdml.deep._pairs._BLOCK_SIZE", block)
    x, labels, y, y_labels = batch(reference)
    same, different = literal_pairs(labels, y_labels)
    for distance in ("euclidean", "sqeuclidean", "cosine", "angular"):
        rows, ref = (z.numpy() for z in (x, x if y is None else y))
        if distance in ("cosine", "angular"):
            rows, ref = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (rows, ref))
        for angle in (20, 50):
            expected = []
            for a, p in same:
                for n in (n for b, n in different if b == a):
                    centre = (rows[a] + ref[p]) / 2
                    wide = math.atan2(
                        np.linalg.norm(rows[a] - ref[p]), 2 * np.linalg.norm(ref[n] - centre)
                    )
                    if wide > math.radians(angle):
                        expected.append((a, p, n))
            got = AngularMiner(angle, distance=distance)(x, labels, y, y_labels)
            assert expected
            assert as_list(got) == expected


# Densities of distances


def test_weights_are_the_inverse_density():
    for width in (2, 3, 8):
        for d in (0.1, 0.5, 1.0, 1.3):
            d = max(d, 0.4)
            density = d ** (width - 2) * (1 - d * d / 4) ** ((width - 3) / 2)
            got = log_weights(torch.tensor(d, dtype=torch.float64), width, cutoff=0.4)
            assert got.item() == pytest.approx(-math.log(density))


@with_and_without_references
def test_distance_weighted_draws_by_the_density(reference):
    x, labels, y, y_labels = batch(reference)
    miner = DistanceWeightedMiner(cutoff=0.6, nonzero_loss_cutoff=1.3)
    torch.manual_seed(0)
    counts = np.zeros((len(x), len(x if y is None else y)))
    n_calls = 400
    for _ in range(n_calls):
        for a, _, n in as_list(miner(x, labels, y, y_labels)):
            counts[a, n] += 1
    unit = [
        z.numpy() / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, x if y is None else y)
    ]
    same, different = literal_pairs(labels, y_labels)
    pvalues = []
    for a in range(len(x)):
        n_positives = sum(b == a for b, _ in same)
        weights = np.zeros(counts.shape[1])
        for b, n in different:
            d = np.linalg.norm(unit[0][a] - unit[1][n])
            if b == a and d < 1.3:
                d = max(d, 0.6)
                weights[n] = 1 / (d ** (3 - 2) * (1 - d * d / 4) ** 0)
        assert (counts[a][weights == 0] == 0).all()
        if n_positives and weights.any():
            assert counts[a].sum() == n_positives * n_calls
            likely = weights > 0
            expected = weights[likely] / weights.sum() * counts[a].sum()
            pvalues.append(chisquare(counts[a][likely], expected).pvalue if likely.sum() > 1 else 1)
        else:
            assert counts[a].sum() == 0
    assert len(pvalues) > 10
    assert min(pvalues) > 0.01 / len(pvalues)


def test_each_positive_pair_gets_a_negative():
    x, labels = make_batch()
    a, p, n = DistanceWeightedMiner(nonzero_loss_cutoff=1.99)(x, labels)
    same, _ = literal_pairs(labels, None)
    assert as_list((a, p)) == same
    assert (labels[a] != labels[n]).all()


# All miners


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("labels", [[1, 1, 1], [1, 2, 3], [1], []])
def test_batches_without_tuples(name, labels):
    labels = torch.tensor(labels, dtype=torch.long)
    indices = get_miner(name)(torch.ones(len(labels), 2), labels)
    assert len(indices) == (4 if name in PAIR_MINERS else 3)
    assert all(i.dtype == torch.long for i in indices)
    if name not in ("uniform", "pair_margin"):  # these choose each kind of pairs separately
        assert [len(i) for i in indices] == [0] * len(indices)


@pytest.mark.parametrize("name", NAMES)
def test_batches_with_nan_give_a_nan_loss(name):
    x, labels = make_batch()
    x[3] = torch.nan
    for loss in (ContrastiveLoss(miner=name), TripletLoss(miner=name, reduction="mean")):
        assert loss(x * torch.nan, labels).isnan()
        if name != "uniform":  # it may not draw a pair with NaN
            assert loss(x, labels).isnan()


@pytest.mark.parametrize("name", NAMES)
@with_and_without_references
def test_losses_accept_mined_indices(name, reference):
    x, labels, y, y_labels = batch(reference)
    miner = get_miner(name)
    for make in (ContrastiveLoss, TripletLoss):
        torch.manual_seed(0)
        by_miner = make(miner=miner)(x, labels, None, y, y_labels)
        torch.manual_seed(0)
        by_indices = make()(x, labels, miner(x, labels, y, y_labels), y, y_labels)
        torch.testing.assert_close(by_miner, by_indices)
        assert by_miner > 0
    for loss in (MarginLoss(), MultiSimilarityLoss()):
        assert loss(x, labels, miner(x, labels, y, y_labels), y, y_labels) > 0


def test_miner_of_the_same_distance_shares_the_matrix_of_the_loss(monkeypatch):
    x, labels = make_batch()
    y, y_labels = make_batch(1)
    called = []
    for kind in (AllTripletsMiner, AngularMiner, BatchHardMiner, MultiSimilarityMiner):
        call = kind.__call__

        def record(self, *args, call=call):
            called.append(type(self).__name__)
            return call(self, *args)

        monkeypatch.setattr(kind, "__call__", record)
    for name in ("all", "hard", "angular", "multi_similarity"):
        ContrastiveLoss(miner=name)(x, labels)
    assert called == []
    ContrastiveLoss(miner="angular")(x, labels, None, y, y_labels)
    ContrastiveLoss(miner=MultiSimilarityMiner())(x, labels)  # its distance is cosine
    assert called == ["AngularMiner", "MultiSimilarityMiner"]


@pytest.mark.parametrize("name", RANDOM_MINERS)
def test_draws_use_the_generator_of_torch(name):
    x, labels = make_batch(width=8, sizes=(20, 20, 20))
    miner = get_miner(name)
    torch.manual_seed(0)
    first, second = miner(x, labels), miner(x, labels)
    torch.manual_seed(0)
    assert as_list(miner(x, labels)[:2]) == as_list(first[:2])
    assert first[-1].tolist() != second[-1].tolist()


# Agreement with pytorch-metric-learning


def test_sums_of_indices_equal_those_of_pytorch_metric_learning():
    x = torch.sin(torch.arange(36.0, dtype=torch.float64) ** 2).view(12, 3)
    x = x / x.norm(dim=1, keepdim=True)
    labels = torch.arange(12) % 3
    sums = {
        name: [int(i.sum()) for i in get_miner(name, **params)(x, labels)]
        for name, params in {
            "multi_similarity": {"epsilon": 0.1, "distance": "cosine"},
            "angular": {"angle": 40},
            "pair_margin": {"pos_margin": 0.4, "neg_margin": 0.8},
        }.items()
    }
    assert sums == SUMS


# Computed by version 2.9.
SUMS = {
    "multi_similarity": [193, 190, 417, 436],
    "angular": [414, 414, 376],
    "pair_margin": [187, 187, 65, 65],
}


# Parameters


@pytest.mark.parametrize("name", MINERS)
def test_repr_of_miners_and_miners_given_as_object_or_class(name):
    miner = get_miner(name, "cosine")
    assert get_miner(miner, "euclidean") is miner
    assert "distance='cosine'" in repr(miner)
    assert repr(get_miner(type(miner), "cosine")) == repr(miner)


def test_parameters_of_a_miner():
    assert get_miner("angular", angle=30).angle == 30
    assert get_miner(AngularMiner, "cosine", angle=30).distance == "cosine"
    changed = get_miner(AngularMiner(30, distance="cosine"), angle=40)
    assert (changed.angle, changed.distance) == (40, "cosine")
    with pytest.raises(ValueError, match=r"AngularMiner has no parameter 'angel'; .*'angle'"):
        get_miner("angular", angel=30)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AngularMiner(90), "angle == 90, must be < 90"),
        (lambda: AngularMiner(0), "angle == 0, must be > 0"),
        (
            lambda: AngularMiner(distance="manhattan"),
            "distance='manhattan' does not define angles; choose one of eucl",
        ),
        (lambda: MultiSimilarityMiner(-0.1), "epsilon == -0.1, must be >= 0"),
        (lambda: PairMarginMiner(-1), "pos_margin == -1, must be >= 0"),
        (lambda: PairMarginMiner(0.2, 0), "neg_margin == 0, must be > 0"),
        (lambda: UniformMiner(0), "n_bins == 0, must be >= 1"),
        (lambda: UniformMiner(neg_per_bin=0), "neg_per_bin == 0"),
        (lambda: DistanceWeightedMiner(0), "cutoff == 0, must be > 0"),
        (lambda: DistanceWeightedMiner(1.5), "cutoff == 1.5, must be < 1.4"),
        (lambda: DistanceWeightedMiner(0.5, 2), "nonzero_loss_cutoff == 2, must be < 2"),
    ],
)
def test_parameters_out_of_range_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_distance_weighted_mining_by_distances_alone_raises():
    with pytest.raises(
        NotImplementedError, match="DistanceWeightedMiner cannot choose from distances alone"
    ):
        DistanceWeightedMiner().mine(None, None, None)


def test_opposite_points_give_no_warning():
    x = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0.9, 0.1, 0, 0], [0.8, 0, 0.6, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a, _, n = DistanceWeightedMiner()(x, torch.tensor([0, 1, 0, 1]))
    assert (x[a] * x[n]).sum(1).gt(-0.9).all()
