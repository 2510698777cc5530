"""Contrastive and triplet loss against plain loops, and their behaviour in special cases."""

import copy
import math
import pickle

import pytest
import torch
from helpers import (
    REDUCTIONS,
    TRIPLET_MINERS,
    as_list,
    batch_and_reference,
    literal_contrastive,
    literal_matrix,
    literal_pairs,
    literal_triplet,
    literal_triplets,
    make_batch,
)

from skdml.deep.losses import ContrastiveLoss, TripletLoss, triplet
from skdml.deep.miners import AllTripletsMiner, BatchHardMiner, get_miner
from skdml.distances import BASE_DISTANCES


def margin_of(distance):
    """Return a margin that some pairs violate and others do not."""
    return {"sqeuclidean": 3.0, "manhattan": 2.5, "angular": 0.4}.get(distance, 1.2)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("miner", TRIPLET_MINERS)
@pytest.mark.parametrize("distance", BASE_DISTANCES)
def test_contrastive_equals_its_definition(distance, miner, reference):
    x, labels, y, y_labels = batch_and_reference(reference)
    d = literal_matrix(x, x if y is None else y, distance)
    positives, negatives = literal_pairs(labels, y_labels)
    if miner != "all":
        ref_labels = None if y is None else y_labels.tolist()
        mined = literal_triplets(miner, d, labels.tolist(), ref_labels)
        positives, negatives = {(a, p) for a, p, _ in mined}, {(a, n) for a, _, n in mined}
    margin = margin_of(distance)
    for power in (1, 2):
        for reduction in REDUCTIONS:
            loss = ContrastiveLoss(
                margin, power, distance=distance, miner=miner, reduction=reduction
            )
            expected, share = literal_contrastive(d, positives, negatives, margin, power, reduction)
            got = loss(x, labels, None, y, y_labels)
            assert got.item() == pytest.approx(expected, rel=1e-9)
            assert loss.active_share.item() == pytest.approx(share)


@pytest.mark.parametrize("few", [0, 16])
@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("miner", TRIPLET_MINERS)
@pytest.mark.parametrize("distance", BASE_DISTANCES)
def test_triplet_equals_its_definition(distance, miner, reference, few, monkeypatch):
    monkeypatch.setattr(triplet, "_FEW_POSITIVES", few)
    x, labels, y, y_labels = batch_and_reference(reference)
    d = literal_matrix(x, x if y is None else y, distance)
    ref_labels = None if y is None else y_labels.tolist()
    triplets = literal_triplets(miner, d, labels.tolist(), ref_labels)
    margin = margin_of(distance) / 2
    for soft in (False, True):
        for reduction in REDUCTIONS:
            loss = TripletLoss(
                margin, distance=distance, soft=soft, miner=miner, reduction=reduction
            )
            expected, share = literal_triplet(d, triplets, margin, soft, reduction)
            got = loss(x, labels, None, y, y_labels)
            assert got.item() == pytest.approx(expected, rel=1e-8)
            assert loss.active_share.item() == pytest.approx(share)


@pytest.mark.parametrize("count", [5, 300])
@pytest.mark.parametrize("reference", [False, True])
def test_given_triplets(reference, count):
    x, labels, y, y_labels = batch_and_reference(reference)
    d = literal_matrix(x, x if y is None else y, "euclidean")
    ref_labels = None if y is None else y_labels.tolist()
    triplets = literal_triplets("all", d, labels.tolist(), ref_labels)[::2][:count]
    indices = tuple(torch.tensor(i) for i in zip(*triplets, strict=True))
    for reduction in REDUCTIONS:
        got = TripletLoss(0.5, miner="hard", reduction=reduction)(x, labels, indices, y, y_labels)
        expected, _ = literal_triplet(d, triplets, 0.5, False, reduction)
        assert got.item() == pytest.approx(expected, rel=1e-9)
        got = ContrastiveLoss(1.5, 2, reduction=reduction)(x, labels, indices, y, y_labels)
        positives, negatives = {(a, p) for a, p, _ in triplets}, {(a, n) for a, _, n in triplets}
        expected, _ = literal_contrastive(d, positives, negatives, 1.5, 2, reduction)
        assert got.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("reference", [False, True])
def test_given_pairs(reference, soft):
    x, labels, y, y_labels = batch_and_reference(reference)
    d = literal_matrix(x, x if y is None else y, "euclidean")
    positives, negatives = literal_pairs(labels, y_labels)
    positives, negatives = positives[::2], negatives[::3]
    indices = [
        torch.tensor(i) for pairs in (positives, negatives) for i in zip(*pairs, strict=True)
    ]
    triplets = [(a, p, n) for a, p in positives for b, n in negatives if a == b]
    for reduction in REDUCTIONS:
        got = TripletLoss(0.5, soft=soft, reduction=reduction)(x, labels, indices, y, y_labels)
        expected, _ = literal_triplet(d, triplets, 0.5, soft, reduction)
        assert got.item() == pytest.approx(expected, rel=1e-8)
        got = ContrastiveLoss(1.5, reduction=reduction)(x, labels, indices, y, y_labels)
        expected, _ = literal_contrastive(d, positives, negatives, 1.5, 1, reduction)
        assert got.item() == pytest.approx(expected, rel=1e-9)


def test_callable_miner_and_miner_of_another_distance():
    x, labels = make_batch(width=4)
    calls = []

    def mine(*args):
        calls.append(args)
        return get_miner("hard", "cosine")(*args)

    expected = TripletLoss(0.5)(x, labels, BatchHardMiner("cosine")(x, labels))
    for miner in (mine, BatchHardMiner("cosine")):
        assert TripletLoss(0.5, miner=miner)(x, labels) == expected
    TripletLoss(0.5, miner=mine)(x[:9], labels[:9], ref_emb=x[9:], ref_labels=labels[9:])
    assert [len(args) for args in calls] == [2, 4]  # references are passed only if there are some
    assert TripletLoss(0.5, miner=None)(x, labels) == TripletLoss(0.5)(x, labels)
    assert TripletLoss(0.5, miner="hard")(x, labels) != expected


def every_loss(distances=("euclidean",), miners=TRIPLET_MINERS):
    for distance in distances:
        for miner in miners:
            options = {"distance": distance, "miner": miner}
            for power in (1, 2):
                yield ContrastiveLoss(margin_of(distance), power, **options)
            for soft in (False, True):
                yield TripletLoss(margin_of(distance) / 2, soft=soft, **options)


@pytest.mark.parametrize("few", [0, 16])
@pytest.mark.parametrize("distance", BASE_DISTANCES)
def test_gradients(distance, few, monkeypatch):
    monkeypatch.setattr(triplet, "_FEW_POSITIVES", few)
    x, labels = make_batch(width=3, sizes=(4, 3, 1))
    y, y_labels = make_batch(1, width=3, sizes=(2, 2))
    x.requires_grad_(), y.requires_grad_()
    for loss in every_loss((distance,)):
        assert torch.autograd.gradcheck(lambda u, f=loss: f(u, labels), (x,), fast_mode=True), loss
        assert torch.autograd.gradcheck(
            lambda u, v, f=loss: f(u, labels, None, v, y_labels), (x, y), fast_mode=True
        ), loss


def test_gradients_of_given_tuples():
    x, labels = make_batch(width=3, sizes=(4, 3, 1))
    x.requires_grad_()
    triplets = get_miner("all")(x, labels)
    pairs = (triplets[0], triplets[1], triplets[0], triplets[2])
    for loss in every_loss(miners=("all",)):
        for indices in (triplets, [i[:1] for i in triplets], pairs):
            assert torch.autograd.gradcheck(lambda u, f=loss, i=indices: f(u, labels, i), (x,))


def test_two_backward_passes_add_up():
    x, labels = make_batch()
    for loss in every_loss():
        leaf = x.clone().requires_grad_()
        value = loss(leaf, labels)
        value.backward(retain_graph=True)
        once = leaf.grad.clone()
        (2 * value).backward()
        torch.testing.assert_close(leaf.grad, 3 * once)


def test_loss_ignores_order_and_names_of_classes():
    x, labels = make_batch()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    for loss in every_loss(BASE_DISTANCES):
        expected = loss(x, labels)
        torch.testing.assert_close(loss(x[order], 1000 - 7 * labels[order]), expected)


@pytest.mark.parametrize("few", [0, 16])
def test_loss_does_not_depend_on_the_block_size(few, monkeypatch):
    monkeypatch.setattr(triplet, "_FEW_POSITIVES", few)
    x, labels = make_batch()
    leaf = x.clone().requires_grad_()
    for loss in every_loss():
        monkeypatch.setattr("skdml.deep._pairs._BLOCK_SIZE", 2**20)
        expected = loss(leaf, labels)
        grad = torch.autograd.grad(expected, leaf)
        monkeypatch.setattr("skdml.deep._pairs._BLOCK_SIZE", 60)
        got = loss(leaf, labels)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(torch.autograd.grad(got, leaf), grad)


@pytest.mark.parametrize("labels", [[1, 1, 1, 1], [1, 2, 3, 4], [1], []])
def test_loss_without_valid_tuples_is_zero_with_zero_gradient(labels):
    labels = torch.tensor(labels, dtype=torch.long)
    for loss in every_loss(BASE_DISTANCES):
        if isinstance(loss, ContrastiveLoss) and isinstance(loss.miner, AllTripletsMiner):
            continue  # one kind of pairs is enough for a loss
        x = torch.randn(len(labels), 3, requires_grad=True)
        value = loss(x, labels)
        value.backward()
        assert value.item() == 0
        assert (x.grad == 0).all()
        assert loss.active_share == 0


def test_contrastive_with_one_kind_of_pairs():
    x = torch.tensor([[0.0], [0.5]], requires_grad=True)
    assert ContrastiveLoss()(x, torch.tensor([1, 1])).item() == 0.5
    assert ContrastiveLoss()(x, torch.tensor([1, 2])).item() == 0.5
    value = ContrastiveLoss()(x[:1], torch.tensor([1]))
    value.backward()
    assert value.item() == 0
    assert (x.grad == 0).all()


@pytest.mark.parametrize("few", [0, 16])
def test_degenerate_rows_give_finite_gradients(few, monkeypatch):
    monkeypatch.setattr(triplet, "_FEW_POSITIVES", few)
    rows = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [1.0, 2.0], [1e11, 0], [-1e11, 1]])
    x = torch.cat([rows, rows]).requires_grad_()
    labels = torch.arange(12) // 3
    for loss in every_loss(BASE_DISTANCES):
        value = loss(x, labels)
        (grad,) = torch.autograd.grad(value, x)
        assert not value.isnan(), loss
        assert grad.isfinite().all(), loss


def test_nan_embeddings_give_a_loss_that_is_not_finite():
    x, labels = make_batch()
    for loss in every_loss():
        assert not loss(x * torch.nan, labels).isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inside_autocast(dtype):
    x, labels = make_batch(width=8)
    for loss in every_loss(BASE_DISTANCES):
        leaf = x.to(dtype).requires_grad_()
        expected = loss(leaf.detach().float(), labels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(leaf, labels)
            value.backward()
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected)
        assert leaf.grad.dtype == dtype
        assert leaf.grad.isfinite().all()


def test_many_positives_in_single_precision():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 16, generator=generator)
    labels = torch.arange(400) % 2
    for reduction in REDUCTIONS:
        loss = TripletLoss(0.2, reduction=reduction)
        grads = []
        for dtype in (torch.float32, torch.float64):
            leaf = x.to(dtype).requires_grad_()
            value = loss(leaf, labels)
            grads.append((value.double().detach(), torch.autograd.grad(value, leaf)[0].double()))
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4 * grads[1][1].abs().max().item())
        assert loss.active_share > 0.5


def test_losses_copy_and_pickle():
    x, labels = make_batch()
    for loss in every_loss():
        value = loss(x.clone().requires_grad_(), labels)
        assert not loss.active_share.requires_grad
        for copied in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
            assert copied(x, labels) == value.detach()
        assert f"margin={loss.margin:g}" in repr(loss)


def test_mined_indices_give_the_loss_with_that_miner():
    x, labels = make_batch()
    for name in TRIPLET_MINERS:
        indices = get_miner(name)(x, labels)
        assert as_list(indices)
        torch.testing.assert_close(
            TripletLoss(0.4)(x, labels, indices), TripletLoss(0.4, miner=name)(x, labels)
        )


@pytest.mark.parametrize("loss", [ContrastiveLoss, TripletLoss])
def test_parameters_outside_their_range_raise(loss):
    for margin in (-0.1, math.inf, math.nan, True, "1", None, torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"margin must be a finite number >=? 0; got "):
            loss(margin)
    for distance, margin in (("cosine", 2), ("angular", 1)):
        loss(margin, distance=distance)
        with pytest.raises(ValueError, match=rf"margin must .* <= {margin}, .*{distance}.*got"):
            loss(margin + 0.1, distance=distance)
    with pytest.raises(ValueError, match=r"distance='l2' is unknown; choose one of .*euclidean"):
        loss(distance="l2")
    with pytest.raises(ValueError, match=r"reduction must be one of active, mean, sum; got None"):
        loss(reduction=None)
    with pytest.raises(ValueError, match=r"miner must be one of all, hard.*; got 'none'"):
        loss(miner="none")


def test_parameters_of_a_single_loss_outside_their_range_raise():
    TripletLoss(0)
    with pytest.raises(ValueError, match="margin must be a finite number > 0; got 0"):
        ContrastiveLoss(0)
    for power in (3, 0, True, "1"):
        with pytest.raises(ValueError, match="power must be one of 1, 2; got"):
            ContrastiveLoss(power=power)
    with pytest.raises(ValueError, match="soft must be True or False; got 1"):
        TripletLoss(soft=1)


@pytest.mark.parametrize("loss", [ContrastiveLoss(), TripletLoss()])
def test_invalid_calls_raise(loss):
    x, labels = torch.randn(4, 3), torch.tensor([0, 0, 1, 1])
    for wrong in (x[0], x.long(), x.tolist()):
        with pytest.raises(
            ValueError, match=r"embeddings must be a 2-D floating point tensor; got"
        ):
            loss(wrong, labels)
    for wrong in (labels[:3], labels[:, None], [0, 0, 1, 1]):
        with pytest.raises(ValueError, match=r"labels must be a 1-D tensor of length 4, .*; got"):
            loss(x, wrong)
    with pytest.raises(ValueError, match=r"labels must be integers; got .*float32"):
        loss(x, labels.float())
    with pytest.raises(ValueError, match="given together; got only ref_emb"):
        loss(x, labels, None, x)
    with pytest.raises(ValueError, match="given together; got only ref_labels"):
        loss(x, labels, None, None, labels)
    with pytest.raises(ValueError, match="ref_emb must be as wide as embeddings, 3; got 2"):
        loss(x, labels, None, x[:, :2], labels)
    with pytest.raises(ValueError, match="ref_labels must be a 1-D tensor of length 4"):
        loss(x, labels, None, x, labels[:2])
    one = torch.tensor([0])
    for wrong in ((), (one,), (one, one), (one, one, labels), (one, labels, one, one), (one,) * 5):
        with pytest.raises(ValueError, match=r"indices_tuple must be triplets .*; got lengths"):
            loss(x, labels, wrong)
