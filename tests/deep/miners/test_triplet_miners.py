"""Triplet miners against plain loops, and the distances of losses and miners."""

import math

import pytest
import torch
from helpers import TRIPLET_MINERS, as_list, literal_matrix, literal_triplets, make_batch

from skdml.deep._distances import paired_distance, pairwise_distance
from skdml.deep.miners import (
    AllTripletsMiner,
    BatchHardMiner,
    EasyPositiveMiner,
    SemiHardMiner,
    get_miner,
    triplet,
)
from skdml.distances import BASE_DISTANCES


@pytest.mark.parametrize("few", [0, 32])
@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("name", TRIPLET_MINERS)
def test_miner_equals_its_definition(name, reference, few, monkeypatch):
    monkeypatch.setattr(triplet, "_FEW_POSITIVES", few)
    for distance in BASE_DISTANCES:
        x, labels = make_batch()
        y, y_labels = make_batch(1, sizes=(5, 4, 0, 3, 2)) if reference else (None, None)
        d = literal_matrix(x, x if y is None else y, distance)
        expected = literal_triplets(
            name, d, labels.tolist(), None if y is None else y_labels.tolist()
        )
        got = get_miner(name, distance)(x, labels, y, y_labels)
        assert sorted(as_list(got)) == sorted(expected)
        assert all(i.dtype == torch.long for i in got)


@pytest.mark.parametrize("few", [0, 32])
@pytest.mark.parametrize("name", TRIPLET_MINERS)
def test_ties_take_the_lowest_index(name, few, monkeypatch):
    monkeypatch.setattr(triplet, "_FEW_POSITIVES", few)
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 3, (30, 1), generator=generator).double()
    labels = torch.randint(0, 4, (30,), generator=generator)
    d = literal_matrix(x, x, "manhattan")
    got = get_miner(name, "manhattan")(x, labels)
    assert sorted(as_list(got)) == sorted(literal_triplets(name, d, labels.tolist()))


@pytest.mark.parametrize("block", [1, 50])
def test_miners_do_not_depend_on_the_block_size(block, monkeypatch):
    x, labels = make_batch()
    expected = {name: as_list(get_miner(name)(x, labels)) for name in TRIPLET_MINERS}
    monkeypatch.setattr("skdml.deep._pairs._BLOCK_SIZE", block)
    assert expected == {name: as_list(get_miner(name)(x, labels)) for name in TRIPLET_MINERS}


@pytest.mark.parametrize("name", TRIPLET_MINERS)
@pytest.mark.parametrize("labels", [[1, 1, 1], [1, 2, 3], [1], []])
def test_batches_without_triplets(name, labels):
    labels = torch.tensor(labels, dtype=torch.long)
    indices = get_miner(name)(torch.randn(len(labels), 2), labels)
    assert [len(i) for i in indices] == [0, 0, 0]


def test_get_miner():
    assert isinstance(get_miner(None), AllTripletsMiner)
    assert isinstance(get_miner("hard"), BatchHardMiner)
    assert isinstance(get_miner("semihard"), SemiHardMiner)
    assert isinstance(get_miner("easy_positive"), EasyPositiveMiner)
    assert get_miner(len) is len
    for wrong in ("hardest", 3):
        with pytest.raises(ValueError, match=r"all, hard, semihard, easy_positive.*got"):
            get_miner(wrong)
    with pytest.raises(ValueError, match=r"distance='l2' is unknown; .*euclidean"):
        BatchHardMiner("l2")


def test_mining_needs_no_gradient():
    x, labels = make_batch()
    assert not any(i.requires_grad for i in BatchHardMiner()(x.requires_grad_(), labels))


@pytest.mark.parametrize("few", [0, 32])
@pytest.mark.parametrize("name", TRIPLET_MINERS)
def test_anchors_with_nan_are_not_left_out(name, few, monkeypatch):
    monkeypatch.setattr(triplet, "_FEW_POSITIVES", few)
    x, labels = make_batch()
    assert len(get_miner(name)(x * torch.nan, labels)[0])


# Distances of losses and miners


@pytest.mark.parametrize("distance", BASE_DISTANCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_equal_their_formulas(distance, dtype):
    x, _ = make_batch(width=5)
    y, _ = make_batch(1, width=5, sizes=(7,))
    x[3], y[2] = x[4], x[5]  # duplicates
    x, y = x.to(dtype), y.to(dtype)
    tolerance = {"atol": 1e-12, "rtol": 1e-12} if dtype == torch.float64 else {}
    if distance == "angular":  # the arccosine of the expected values is steep
        tolerance = {"atol": 1e-7 if dtype == torch.float64 else 1e-4, "rtol": 1e-5}
    for first, second, other in ((x, x, None), (x, y, y)):
        expected = torch.tensor(literal_matrix(first, second, distance), dtype=dtype)
        got = pairwise_distance(first, other, distance)
        torch.testing.assert_close(got, expected, **tolerance)
        paired = paired_distance(first[:7], second[:7], distance)
        torch.testing.assert_close(paired, expected.diag()[:7], **tolerance)
    alone = pairwise_distance(x, distance=distance)
    assert (alone.diag() == 0).all()
    assert alone[3, 4] == 0


def test_translation_loses_no_digits():
    x, _ = make_batch(width=8)
    x = (x * 1024).round() / 1024  # so that single precision holds the shifted rows exactly
    expected = pairwise_distance(x)
    for other in (None, x.float() + 30):
        shifted = pairwise_distance(x.float() + 30, other)
        torch.testing.assert_close(shifted.double(), expected, atol=2e-6, rtol=2e-6)


def test_near_duplicates_lose_no_digits():
    x, _ = make_batch(width=8)
    x[1] = x[0] + 1e-4
    d = pairwise_distance(x.float())
    assert d[0, 1].item() == pytest.approx(1e-4 * math.sqrt(8), rel=1e-2)


@pytest.mark.parametrize("distance", BASE_DISTANCES)
@pytest.mark.parametrize("block", [7, 2**20])
def test_distance_gradients(distance, block, monkeypatch):
    monkeypatch.setattr("skdml.deep._pairs._BLOCK_SIZE", block)
    x, _ = make_batch(width=3, sizes=(5,))
    y, _ = make_batch(1, width=3, sizes=(4,))
    x.requires_grad_(), y.requires_grad_()
    off = ~torch.eye(5, dtype=torch.bool)  # the diagonal is constant, its gradient defined as 0
    check = torch.autograd.gradcheck
    assert check(lambda u: pairwise_distance(u, None, distance)[off], (x,))
    assert check(lambda u, v: pairwise_distance(u, v, distance), (x, y))
    assert check(lambda u, v: paired_distance(u, v, distance), (x[:4], y))


@pytest.mark.parametrize("distance", BASE_DISTANCES)
def test_distances_of_degenerate_rows(distance):
    for dtype, huge in ((torch.float32, 1e25), (torch.float64, 1e200)):
        rows = [[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [1.0, 2.0], [-1.0, -2.0]]
        rows += [[huge, 1.0], [huge, 1.0], [-huge, huge], [1 / huge, 0.0]]
        x = torch.tensor(rows, dtype=dtype, requires_grad=True)
        for d in (
            pairwise_distance(x, None, distance),
            pairwise_distance(x, x.detach().clone(), distance),
            paired_distance(x, x.flip(0), distance),
        ):
            assert not d.isnan().any()
            assert (d >= 0).all()
            assert d.max() <= {"cosine": 2, "angular": 1}.get(distance, math.inf)
            (grad,) = torch.autograd.grad(d.clamp(max=1e30).sum(), x)
            assert not grad.isnan().any()


@pytest.mark.parametrize("distance", ["euclidean", "manhattan"])
def test_huge_and_tiny_rows_scale(distance):
    x, _ = make_batch(width=4)
    expected = pairwise_distance(x.float(), None, distance)
    for scale in (2.0**100, 2.0**-100):
        got = pairwise_distance(x.float() * scale, None, distance)
        torch.testing.assert_close(got / scale, expected)


@pytest.mark.parametrize("distance", ["euclidean", "sqeuclidean"])
def test_gradient_scales(distance):
    x, _ = make_batch(width=4)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(pairwise_distance(x, None, distance).sum(), x)
    (got,) = torch.autograd.grad(pairwise_distance(x * 2.0**600, None, distance).sum() * 1.0, x)
    power = 1200 if distance == "sqeuclidean" else 600
    if power < 1000:
        torch.testing.assert_close(got / 2.0**power, expected)
    assert not got.isnan().any()


def test_duplicates_have_no_gradient():
    x = torch.ones(4, 3, requires_grad=True)
    pairwise_distance(x).sum().backward()
    assert (x.grad == 0).all()


@pytest.mark.parametrize("distance", BASE_DISTANCES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_distances_in_half_precision(distance, dtype):
    x, _ = make_batch(width=4)
    x = x.to(dtype).requires_grad_()
    expected = pairwise_distance(x.detach().float(), None, distance)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        d = pairwise_distance(x, None, distance)
        d.sum().backward()
    assert d.dtype == torch.float32
    torch.testing.assert_close(d, expected)
    assert x.grad.dtype == dtype
    assert x.grad.isfinite().all()


def test_unknown_distance_raises():
    for function in (pairwise_distance, paired_distance):
        with pytest.raises(
            ValueError, match=r"distance='l2' is unknown; choose one of .*euclidean"
        ):
            function(torch.ones(2, 2), torch.ones(2, 2), "l2")
