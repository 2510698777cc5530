"""Checks that every loss over all pairs of a batch must pass, whatever its formula."""

import copy
import pickle

import pytest
import torch
from helpers import make_batch

from skdml.deep import losses
from skdml.deep.losses._matrix import MatrixLoss, TripletMatrixLoss
from skdml.deep.miners import get_miner

PARAMETERS = {
    "NTXentLoss": [{}, {"distance": "euclidean"}],
    "SupConLoss": [{}],
    "NCALoss": [{}],
    "FastAPLoss": [{}, {"n_bins": 3, "distance": "angular"}],
    "SmoothAPLoss": [{"temperature": 0.1}, {"distance": "sqeuclidean"}],
    "HistogramLoss": [{"n_bins": 20}],
    "MultiSimilarityLoss": [{}, {"beta": 3.0, "distance": "euclidean"}],
    "CircleLoss": [{"scale": 8.0}, {"distance": "manhattan"}, {"distance": "sqeuclidean"}],
    "LiftedStructureLoss": [{}, {"smooth": True}, {"distance": "sqeuclidean"}],
    "IntraPairVarianceLoss": [{}],
    "SignalToNoiseRatioContrastiveLoss": [{}],
    "MarginLoss": [{}],
    "AngularLoss": [{}],
    "NPairsLoss": [{}],
}
CASES = [(name, options) for name, many in PARAMETERS.items() for options in many]
every_loss = pytest.mark.parametrize(
    "make",
    [lambda n=name, o=options: getattr(losses, n)(**o) for name, options in CASES],
    ids=[f"{name}-{'-'.join(map(str, options.values()))}" for name, options in CASES],
)
TAKE_ONE_KIND_OF_PAIRS = (
    losses.IntraPairVarianceLoss,
    losses.MultiSimilarityLoss,
    losses.SignalToNoiseRatioContrastiveLoss,
)
LABELS = torch.tensor([10, 0, 10, 20, 0, 20, 10, 20, 0, 10])  # no singletons


@every_loss
def test_gradients(make):
    loss = make().double()
    if isinstance(loss, losses.CircleLoss):
        pytest.skip("its weights have no gradient; another test checks them")
    x, labels = make_batch(width=4, sizes=(4, 3, 1))
    y, y_labels = make_batch(1, width=4, sizes=(2, 2))
    x.requires_grad_(), y.requires_grad_()
    assert torch.autograd.gradcheck(lambda u: loss(u, labels), (x,))
    assert torch.autograd.gradcheck(lambda u, v: loss(u, labels, None, v, y_labels), (x, y))


@every_loss
def test_loss_ignores_order_and_names_of_classes(make):
    x, labels = make_batch(width=4)
    y, y_labels = make_batch(1, width=4, sizes=(3, 2, 1, 4))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    loss = make().double()
    torch.testing.assert_close(loss(x[order], 1000 - 7 * labels[order]), loss(x, labels))
    expected = loss(x, labels, None, y, y_labels)
    torch.testing.assert_close(
        loss(x[order], 1 - 7 * labels[order], None, y.flip(0), 1 - 7 * y_labels.flip(0)), expected
    )


@every_loss
def test_loss_does_not_depend_on_the_block_size(make, monkeypatch):
    x, labels = make_batch(width=4)
    leaf = x.clone().requires_grad_()
    loss = make().double()
    expected = loss(leaf, labels)
    grad = torch.autograd.grad(expected, leaf)
    monkeypatch.setattr("skdml.deep._pairs._BLOCK_SIZE", 60)
    got = loss(leaf, labels)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, leaf), grad)
    with torch.no_grad():
        torch.testing.assert_close(loss(leaf, labels), expected.detach())


@every_loss
@pytest.mark.parametrize("labels", [[1, 2, 3, 4], [1], []])
def test_loss_without_positives_is_zero_with_zero_gradient(make, labels):
    loss = make()
    if isinstance(loss, TAKE_ONE_KIND_OF_PAIRS) and len(labels) > 1:
        pytest.skip("negatives alone give it a loss")
    labels = torch.tensor(labels, dtype=torch.long)
    x = torch.randn(len(labels), 3, requires_grad=True)
    value = loss(x, labels)
    value.backward()
    assert value.item() == 0
    assert (x.grad == 0).all()
    assert loss.active_share == 0


@every_loss
def test_one_class_gives_a_finite_loss(make):
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = make()(x, torch.zeros(5, dtype=torch.long))
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()


@every_loss
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e11, 1e30])
def test_extreme_rows_give_no_nan(make, scale):
    rows = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [1.0, 2.0], [3.0, 0], [-1.0, 1]])
    x = (scale * torch.cat([rows, rows])).requires_grad_()
    labels = torch.arange(12) // 3
    value = make()(x, labels)
    (grad,) = torch.autograd.grad(value, x)
    assert not value.isnan()
    assert grad.isfinite().all()


@every_loss
def test_nan_embeddings_give_a_loss_that_is_not_finite(make):
    x, labels = make_batch(width=4)
    assert not make()(x * torch.nan, labels).isfinite()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inside_autocast(make, dtype):
    x, labels = make_batch(width=8)
    loss = make()
    leaf = x.to(dtype).requires_grad_()
    expected = loss(leaf.detach().float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(leaf, labels)
        value.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)
    assert leaf.grad.dtype == dtype
    assert leaf.grad.isfinite().all()
    assert loss.double()(x, labels).dtype == torch.float64


@every_loss
def test_listed_pairs_give_the_loss_of_the_labels(make):
    x = make_batch(width=4, sizes=(10,))[0]
    loss = make().double()
    a, p, n = get_miner("all")(x, LABELS)
    expected = loss(x, LABELS)
    torch.testing.assert_close(loss(x, LABELS, (a, p, n)), expected)
    torch.testing.assert_close(loss(x, LABELS, (a, p, a, n)), expected)
    few = [i[:7] for i in (a, p, n)]
    # All of these have the first anchor, so its positives and negatives can be references.
    assert (few[0] == 0).all()
    others = torch.cat([few[1].unique(), few[2].unique()])
    by_reference = loss(x[:1], LABELS[:1], None, x[others], LABELS[others])
    if isinstance(loss, losses.MultiSimilarityLoss):  # a mean over all anchors of the batch
        by_reference = by_reference / len(x)
    torch.testing.assert_close(loss(x, LABELS, (*few[:2], few[0], few[2])), by_reference)
    if not isinstance(loss, TripletMatrixLoss):  # which scores the triplets as they are
        torch.testing.assert_close(loss(x, LABELS, few), by_reference)
    assert loss(x, LABELS, few) != expected
    torch.testing.assert_close(loss(x, 0 * LABELS, few), loss(x, LABELS, few))


@every_loss
def test_losses_copy_and_pickle(make):
    x, labels = make_batch(width=4)
    loss = make()
    value = loss(x.clone().requires_grad_(), labels)
    assert not loss.active_share.requires_grad
    assert 0 < loss.active_share <= 1
    for copied in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert copied(x, labels) == value.detach()
    assert type(loss).__name__ in repr(loss)


@every_loss
def test_invalid_calls_raise(make):
    x, labels, loss = torch.randn(4, 3), torch.tensor([0, 0, 1, 1]), make()
    with pytest.raises(ValueError, match="labels must be a 1-D tensor of length 4"):
        loss(x, labels[:3])
    with pytest.raises(ValueError, match="given together; got only ref_emb"):
        loss(x, labels, None, x)
    with pytest.raises(ValueError, match=r"indices_tuple must be triplets .*; got lengths"):
        loss(x, labels, (labels, labels))


def test_every_matrix_loss_is_checked_here():
    kinds = {name: getattr(losses, name) for name in losses.__all__}
    assert set(PARAMETERS) == {name for name, kind in kinds.items() if issubclass(kind, MatrixLoss)}
