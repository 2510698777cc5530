"""CoSENT and VICReg against plain loops over Python floats."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from helpers import literal_matrix, make_batch, mean

from skdml.deep.losses import CoSENTLoss, VICRegLoss, cosent, learns_from

KINDS = ("number", "classes", "several labels")


def make_targets(kind, n, seed=2):
    generator = torch.Generator().manual_seed(seed)
    if kind == "number":
        return torch.rand(n, generator=generator)
    if kind == "classes":
        return torch.randint(3, (n, 1), generator=generator)
    return torch.randint(2, (n, 5), generator=generator)


def literal_cosent(d, t, temperature, alone):
    losses = []
    for i in range(len(d)):
        others = [j for j in range(len(d[i])) if not (alone and i == j)]
        total = sum(
            math.exp((d[i][j] - d[i][k]) / temperature)
            for j in others
            for k in others
            if t[i][j] < t[i][k]
        )
        losses.append(math.log1p(total))
    return mean(losses)


@pytest.fixture(params=["by sums", "by logarithms"])
def path(request, monkeypatch):
    """Both ways to sum the exponentials; the second is for logits with a large range."""
    if request.param == "by logarithms":
        monkeypatch.setattr(cosent, "_MAX_LOGIT_RANGE", dict.fromkeys(cosent._MAX_LOGIT_RANGE, 0.0))
    else:
        monkeypatch.setattr(cosent, "cosent_by_logarithms", None)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_cosent_equals_its_definition(distance, kind, reference, path):
    x, y = make_batch(width=4)[0], make_batch(1, width=4)[0][:15]
    tx, ty = make_targets(kind, 24), make_targets(kind, 15, 3)
    loss = CoSENTLoss(0.3, distance=distance)
    if reference:
        got = loss(x, tx, None, y, ty)
    else:
        y, ty = x, tx
        got = loss(x, tx)
    t = literal_matrix(tx.reshape(24, -1), ty.reshape(len(ty), -1), "manhattan")
    expected = literal_cosent(literal_matrix(x, y, distance), t, 0.3, not reference)
    assert got.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("reference", [False, True])
def test_cosent_of_classes_has_two_grades(reference, path):
    x, y = make_batch(width=4)[0], make_batch(1, width=4)[0][:15]
    tx, ty = (7 * make_targets("classes", n)[:, 0] for n in (24, 15))
    loss = CoSENTLoss(0.3, graded=False)
    if reference:
        got = loss(x, tx, None, y, ty)
    else:
        y, ty = x, tx
        got = loss(x, tx)
    t = (tx[:, None] != ty).int().tolist()
    expected = literal_cosent(literal_matrix(x, y, "cosine"), t, 0.3, not reference)
    assert got.item() == pytest.approx(expected, rel=1e-9)


def test_supervision_that_cosent_needs():
    assert (
        learns_from("cosent") == learns_from(CoSENTLoss) == learns_from(CoSENTLoss()) == "targets"
    )
    assert learns_from(CoSENTLoss(graded=False)) == "labels"
    assert learns_from("cosent", graded=False) == learns_from(CoSENTLoss, graded=False) == "labels"


def test_cosent_in_single_precision_with_a_large_range_of_logits():
    # A range of 140 temperatures is summed directly, a range of 300 by logarithms.
    x, t = make_batch(width=4)[0], make_targets("number", 24)
    for scale in (1.0, 70, 150):
        results = []
        for dtype in (torch.float32, torch.float64):
            leaf = x.to(dtype).requires_grad_()
            value = CoSENTLoss(1 / scale)(leaf, t)
            (grad,) = torch.autograd.grad(value, leaf)
            results.append([value.double().detach(), grad.double() / scale])
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_equal_numbers_share_a_rank():
    rows = torch.tensor([[3.0, 1.0, 1.0, 2.0], [0.5, 0.5, 0.5, 0.5]])
    assert cosent.dense_ranks(rows).tolist() == [[2, 0, 0, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind, path):
    loss = CoSENTLoss(0.3)
    x, y = make_batch(width=3)[0][:8].requires_grad_(), make_batch(1)[0][:6].requires_grad_()
    tx, ty = make_targets(kind, 8), make_targets(kind, 6, 3)
    assert torch.autograd.gradcheck(lambda u: loss(u, tx), (x,))
    assert torch.autograd.gradcheck(lambda u, v: loss(u, tx, None, v, ty), (x, y))
    vic = VICRegLoss()
    assert torch.autograd.gradcheck(lambda u, v: vic(0.3 * u[:6], ref_emb=v), (x, y))


def test_cosent_does_not_depend_on_order_blocks_or_units(monkeypatch):
    x, t, loss = make_batch(width=4)[0], make_targets("number", 24), CoSENTLoss()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    expected = loss(x, t)
    torch.testing.assert_close(loss(x[order], 8 * t[order] - 1), expected)
    monkeypatch.setattr("skdml.deep._pairs._BLOCK_SIZE", 60)
    torch.testing.assert_close(loss(x, t), expected)


def test_cosent_is_small_for_the_right_order():
    t = torch.arange(9.0)
    loss = CoSENTLoss(0.01, distance="euclidean")
    right = t[:, None].clone().requires_grad_()
    assert loss(right, t) < 1e-9
    assert loss(right, t.flip(0)) < 1e-9
    assert loss(right, t.roll(4)) > 10
    assert loss.active_share > 0.5


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_loss_of_equal_targets_is_zero_with_zero_gradient(rows):
    x = torch.randn(rows, 3, requires_grad=True)
    loss = CoSENTLoss()
    value = loss(x, torch.ones(rows))
    value.backward()
    assert value.item() == 0
    assert (x.grad == 0).all()
    assert loss.active_share == 0


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e11, 1e30])
def test_cosent_of_extreme_rows(scale):
    rows = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [1.0, 2.0], [3.0, 0], [-1.0, 1]])
    x = (scale * rows).requires_grad_()
    for distance in ("cosine", "euclidean", "sqeuclidean"):
        value = CoSENTLoss(distance=distance)(x, torch.tensor([0.0, 3.0, 1.0, 1.0, 5.0, 2.0]))
        (grad,) = torch.autograd.grad(value, x)
        assert not value.isnan()
        assert grad.isfinite().all()


def test_half_precision_inside_autocast():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    t = torch.arange(6)
    for loss in (lambda z: CoSENTLoss()(z, t), lambda z: VICRegLoss()(z, ref_emb=z.flip(0))):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(x)
        assert value.dtype == torch.float32
        assert value == loss(x.float())


def test_vicreg_equals_its_definition():
    x, y = make_batch(width=4)[0].numpy(), make_batch(1, width=4)[0].numpy()
    expected = 3 * ((x - y) ** 2).mean()
    for z in (x, y):
        cov = np.cov(z, rowvar=False)
        expected += 5 * np.maximum(0, 1 - np.sqrt(np.diag(cov) + 0.01)).mean()
        expected += 7 * ((cov**2).sum() - (np.diag(cov) ** 2).sum()) / 4
    got = VICRegLoss(3, 5, 7, eps=0.01)(torch.tensor(x), ref_emb=torch.tensor(y))
    assert got.item() == pytest.approx(expected, rel=1e-9)


def test_vicreg_in_units_of_a_standard_deviation():
    x, y = make_batch(width=8)[0], make_batch(1, width=8)[0]
    expected = VICRegLoss()(4 * x, ref_emb=4 * y)
    for std in (0.25, None):  # 1 / sqrt(2 * 8)
        torch.testing.assert_close(VICRegLoss(std=std)(x, ref_emb=y), expected)
    with pytest.raises(ValueError, match="std must be a finite number > 0; got 0"):
        VICRegLoss(std=0)


def test_vicreg_equals_the_loss_of_pytorch_metric_learning():
    # Computed by version 2.9.0 on sin(1), sin(2), ... and sin(30), sin(31), ... in rows of three.
    # That package halves v(Z) + v(Z'), unlike eq. 6 of the paper, so the weight is halved here.
    x, y = (torch.arange(s, s + 24, dtype=torch.float64).sin().reshape(8, 3) for s in (1, 30))
    assert VICRegLoss(variance=12.5)(x, ref_emb=y).item() == pytest.approx(52.99839027107393)


def test_vicreg_of_extreme_rows():
    x = torch.tensor([[1e30, 0.0], [-1e30, 1e-30], [1e30, 1e30]], requires_grad=True)
    value = VICRegLoss()(x, ref_emb=x.detach().flip(0))
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()


def test_vicreg_of_too_few_rows():
    for rows in (0, 1):
        x = torch.randn(rows, 3, requires_grad=True)
        value = VICRegLoss()(x, ref_emb=x.detach() + 1)
        value.backward()
        assert value.item() == 0
        assert (x.grad == 0).all()


def test_losses_copy_and_pickle():
    for loss in (CoSENTLoss(), VICRegLoss()):
        assert repr(pickle.loads(pickle.dumps(copy.deepcopy(loss)))) == repr(loss)


def test_invalid_calls_raise():
    x, t = torch.randn(4, 2), torch.arange(4)
    with pytest.raises(ValueError, match="indices_tuple must be None"):
        CoSENTLoss()(x, t, (t, t, t))
    with pytest.raises(ValueError, match="given together; got only ref_emb"):
        CoSENTLoss()(x, t, None, x)
    for wrong in (t[:3], [0, 1, 2, 3], torch.zeros(4, 2, 2)):
        with pytest.raises(ValueError, match=r"labels must be a tensor of 4 targets, .*; got"):
            CoSENTLoss()(x, wrong)
    with pytest.raises(ValueError, match="as many rows as embeddings, 4; got 3"):
        VICRegLoss()(x, ref_emb=x[:3])
    with pytest.raises(ValueError, match="temperature must be a finite number > 0; got 0"):
        CoSENTLoss(0)
    with pytest.raises(ValueError, match="graded must be True or False; got 1"):
        CoSENTLoss(graded=1)
    for name in ("invariance", "variance", "covariance", "eps"):
        with pytest.raises(ValueError, match=f"{name} must be a finite number >=? 0; got -1"):
            VICRegLoss(**{name: -1})
