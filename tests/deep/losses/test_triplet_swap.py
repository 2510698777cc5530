"""The triplet loss with the anchor swap against a plain loop over triplets."""

import pytest
import torch
from helpers import (
    REDUCTIONS,
    TRIPLET_MINERS,
    literal_matrix,
    literal_reduce,
    literal_triplet,
    literal_triplets,
    make_batch,
)

from skdml.deep.losses import TripletLoss
from skdml.deep.miners import get_miner


def literal_swap(d, triplets, margin, soft, reduction):
    """Reduce the losses of single triplets, whose negative has the smaller of two distances."""
    terms = []
    for a, p, n in triplets:
        one = {a: {p: d[a][p], n: min(d[a][n], d[p][n])}}
        terms.append(literal_triplet(one, [(a, p, n)], margin, soft, "sum")[0])
    return literal_reduce(terms, reduction), sum(t > 0 for t in terms) / max(1, len(terms))


@pytest.mark.parametrize("miner", TRIPLET_MINERS)
@pytest.mark.parametrize("distance", ["euclidean", "cosine", "manhattan"])
def test_swap_equals_its_definition(distance, miner, monkeypatch):
    x, labels = make_batch(width=4)
    d = literal_matrix(x, x, distance)
    triplets = literal_triplets(miner, d, labels.tolist())
    for soft in (False, True):
        for reduction in REDUCTIONS:
            loss = TripletLoss(
                0.4, distance=distance, soft=soft, swap=True, miner=miner, reduction=reduction
            )
            expected, share = literal_swap(d, triplets, 0.4, soft, reduction)
            for block in (2**18, 60):
                monkeypatch.setattr("skdml.deep._pairs._BLOCK_SIZE", block)
                assert loss(x, labels).item() == pytest.approx(expected, rel=1e-9)
                assert loss.active_share.item() == pytest.approx(share)
            listed = loss(x, labels, get_miner(miner, distance)(x, labels))
            assert listed.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("soft", [False, True])
def test_gradients_of_the_swap(soft):
    x, labels = make_batch(width=3, sizes=(4, 3, 1))
    x.requires_grad_()
    for miner in TRIPLET_MINERS:
        loss = TripletLoss(0.6, soft=soft, swap=True, miner=miner)
        assert torch.autograd.gradcheck(lambda u, f=loss: f(u, labels), (x,))
    indices = get_miner("all")(x, labels)
    for given in (indices, [i[:2] for i in indices]):
        assert torch.autograd.gradcheck(lambda u, i=given: loss(u, labels, i), (x,))


def test_swap_of_extreme_rows_and_of_labels_without_triplets():
    loss = TripletLoss(swap=True)
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1e30, 1.0], [1e-30, 0.0]], requires_grad=True)
    value = loss(x, torch.tensor([0, 0, 1, 1]))
    (grad,) = torch.autograd.grad(value, x)
    assert not value.isnan()
    assert grad.isfinite().all()
    for labels in ([0, 1, 2, 3], [0, 0, 0, 0]):
        value = loss(x, torch.tensor(labels))
        (grad,) = torch.autograd.grad(value, x)
        assert value.item() == 0
        assert (grad == 0).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(x.detach().bfloat16(), torch.tensor([0, 0, 1, 1])).dtype == torch.float32


def test_swap_equals_the_loss_of_pytorch_metric_learning():
    # Computed by version 2.9.0 on sin(1), sin(2), ... in rows of three, with TripletMarginLoss(0.2,
    # swap=True, distance=LpDistance(normalize_embeddings=False)), then also smooth_loss=True.
    x = torch.arange(1, 25, dtype=torch.float64).sin().reshape(8, 3)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    assert TripletLoss(swap=True)(x, labels).item() == pytest.approx(2.043840621904612)
    soft = TripletLoss(soft=True, swap=True)(x, labels).item()
    assert soft == pytest.approx(1.8976328189618517)


def test_swap_with_references_raises():
    x, labels = make_batch()
    with pytest.raises(ValueError, match="swap=True takes no references"):
        TripletLoss(swap=True)(x, labels, None, x, labels)
    with pytest.raises(ValueError, match="swap must be True or False; got 1"):
        TripletLoss(swap=1)
