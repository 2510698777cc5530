"""NT-Xent, SupCon, NCA and InfoNCE against plain loops over Python floats."""

import copy
import math
import pickle

import pytest
import torch
from helpers import (
    batch_and_reference,
    literal_matrix,
    literal_rows,
    make_batch,
    mean,
)

from skdml.deep.losses import InfoNCELoss, NCALoss, NTXentLoss, SupConLoss


def literal_nt_xent(d, rows, t):
    terms = []
    for i, (positives, negatives) in enumerate(rows):
        for p in positives if negatives else ():
            own = math.exp(-d[i][p] / t)
            terms.append(-math.log(own / (own + sum(math.exp(-d[i][n] / t) for n in negatives))))
    return mean(terms)


def literal_sup_con(d, rows, t):
    terms = []
    for i, (positives, negatives) in enumerate(rows):
        total = sum(math.exp(-d[i][j] / t) for j in positives + negatives)
        if positives:
            terms.append(mean(-math.log(math.exp(-d[i][p] / t) / total) for p in positives))
    return mean(terms)


def literal_nca(d, rows, t):
    terms = []
    for i, (positives, negatives) in enumerate(rows):
        total = sum(math.exp(-d[i][j] / t) for j in positives + negatives)
        if positives:
            terms.append(-math.log(sum(math.exp(-d[i][p] / t) for p in positives) / total))
    return mean(terms)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("distance", ["cosine", "sqeuclidean", "manhattan"])
@pytest.mark.parametrize(
    ("kind", "literal"),
    [(NTXentLoss, literal_nt_xent), (SupConLoss, literal_sup_con), (NCALoss, literal_nca)],
)
def test_losses_equal_their_definitions(kind, literal, distance, reference):
    x, labels, y, y_labels = batch_and_reference(reference)
    d = literal_matrix(x, x if y is None else y, distance)
    expected = literal(d, literal_rows(labels, y_labels), 0.5)
    got = kind(0.5, distance=distance)(x, labels, None, y, y_labels)
    assert got.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_info_nce_equals_its_definition(distance, symmetric):
    (x, _), (y, _) = make_batch(width=4), make_batch(1, width=4)
    d = literal_matrix(x, y, distance)
    ways = [d, list(zip(*d, strict=True))] if symmetric else [d]
    expected = mean(
        mean(
            -math.log(math.exp(-row[i] / 0.5) / sum(math.exp(-v / 0.5) for v in row))
            for i, row in enumerate(way)
        )
        for way in ways
    )
    loss = InfoNCELoss(0.5, distance=distance, symmetric=symmetric)
    assert loss(x, ref_emb=y).item() == pytest.approx(expected, rel=1e-9)
    assert loss(x, torch.arange(24), None, y).item() == pytest.approx(expected, rel=1e-9)
    assert loss.active_share == 1
    leaves = x[:5].requires_grad_(), y[:5].requires_grad_()
    assert torch.autograd.gradcheck(lambda u, v: loss(u, None, None, v), leaves)


def test_info_nce_of_extreme_few_and_half_precision_rows():
    loss = InfoNCELoss()
    x = torch.tensor([[0.0, 0.0], [1e30, 1.0], [1e-30, 1e-30]], requires_grad=True)
    for distance in ("cosine", "euclidean", "sqeuclidean"):
        value = InfoNCELoss(distance=distance)(x, ref_emb=x.detach().flip(0))
        (grad,) = torch.autograd.grad(value, x)
        assert not value.isnan()
        assert grad.isfinite().all()
    for rows in (0, 1):
        leaf = torch.randn(rows, 2, requires_grad=True)
        value = loss(leaf, ref_emb=leaf.detach() + 1)
        value.backward()
        assert value.item() == 0
        assert (leaf.grad == 0).all()
    half = torch.randn(6, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, ref_emb=half.flip(0))
    assert value.dtype == torch.float32
    assert value == loss(half.float(), ref_emb=half.flip(0).float())
    copied = pickle.loads(pickle.dumps(copy.deepcopy(loss)))
    assert repr(copied) == "InfoNCELoss(temperature=0.07, distance='cosine', symmetric=True)"


def test_info_nce_without_pairs_raises():
    x = torch.randn(3, 2)
    with pytest.raises(ValueError, match="ref_emb must be given"):
        InfoNCELoss()(x)
    with pytest.raises(ValueError, match="as many rows as embeddings, 3; got 2"):
        InfoNCELoss()(x, ref_emb=x[:2])
    with pytest.raises(ValueError, match="indices_tuple must be None"):
        InfoNCELoss()(x, indices_tuple=(torch.arange(3),) * 3, ref_emb=x)
    with pytest.raises(ValueError, match="ref_emb must be as wide as embeddings, 2; got 1"):
        InfoNCELoss()(x, ref_emb=x[:, :1])
    with pytest.raises(ValueError, match="symmetric must be True or False; got 1"):
        InfoNCELoss(symmetric=1)


@pytest.mark.parametrize("kind", [NTXentLoss, SupConLoss, NCALoss, InfoNCELoss])
def test_parameters_outside_their_range_raise(kind):
    for temperature in (0, -1.0, math.inf, math.nan, True, "1", None):
        with pytest.raises(ValueError, match="temperature must be a finite number > 0; got"):
            kind(temperature)
    with pytest.raises(ValueError, match="distance='l2' is unknown"):
        kind(distance="l2")


def test_losses_equal_those_of_pytorch_metric_learning():
    # Computed by version 2.9.0 on sin(1), sin(2), ... in eight rows of three. Its NCALoss had the
    # distance LpDistance(normalize_embeddings=False, power=2).
    x = torch.arange(1, 25, dtype=torch.float64).sin().reshape(8, 3)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    for loss, expected in (
        (NTXentLoss(0.5), 4.020815770014929),
        (SupConLoss(0.5), 4.350739498559578),
        (NCALoss(), 5.194570741504978),
    ):
        assert loss(x, labels).item() == pytest.approx(expected, rel=1e-9)
