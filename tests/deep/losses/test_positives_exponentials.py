"""Shared steps of the losses over all pairs: packed positives, and logarithms of sums."""

import math

import pytest
import torch
from helpers import make_batch

from skdml.deep._pairs import Positives, label_masks, pairs_from_indices
from skdml.deep.losses._exponentials import log_sum_exp


def assert_same(positives, mask):
    """Check that the positives are the true entries of a mask, in the order of the columns."""
    expected = Positives.from_mask(mask)
    assert torch.equal(positives.valid, expected.valid)
    assert torch.equal(positives.index[positives.valid], expected.index[expected.valid])
    assert torch.equal(positives.mask(mask.shape[1]), mask)


@pytest.mark.parametrize("sizes", [(8, 6, 1, 5, 3, 1), (1, 1, 1), (4,), (0,)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_positives_from_labels_equal_those_from_the_mask(sizes, dtype):
    labels = make_batch(sizes=sizes)[1].to(dtype)
    assert_same(Positives.from_labels(labels), label_masks(labels)[0])
    others = make_batch(1, sizes=(2, 5, 0, 3))[1].to(dtype)
    for rows, columns in ((labels, others), (others, labels), (labels, labels)):
        assert_same(Positives.from_labels(rows, columns), label_masks(rows, columns)[0])


def test_rows_and_pairs_of_positives():
    labels = make_batch()[1]
    positives, same = Positives.from_labels(labels), label_masks(labels)[0]
    for got, expected in zip(positives.pairs(), same.nonzero(as_tuple=True), strict=True):
        assert torch.equal(got, expected)
    rows = torch.tensor([5, 2, 0])
    assert torch.equal(positives.select_rows(rows).mask(len(labels)), same[rows])


def test_given_triplets_stand_for_their_pairs():
    a, p, n = torch.tensor([[0, 0, 3], [1, 1, 2], [2, 4, 4]])
    positives, different = pairs_from_indices((a, p, n), (5, 5))
    assert positives.mask(5).nonzero().tolist() == [[0, 1], [3, 2]]
    assert different.nonzero().tolist() == [[0, 2], [0, 4], [3, 4]]


def test_log_sum_exp_equals_its_definition():
    value = 5 * make_batch(width=6)[0]
    mask = make_batch(3, width=6)[0] > 0
    mask[3] = False
    got = log_sum_exp(value, mask, -1.5)
    for i, row in enumerate(value.tolist()):
        total = sum(math.exp(-1.5 * v) for v, m in zip(row, mask[i], strict=True) if m)
        assert got[i].item() == pytest.approx(math.log(total) if total else -1e32, rel=1e-12)
    leaf = value[:5].requires_grad_()
    assert torch.autograd.gradcheck(lambda v: log_sum_exp(v, mask[:5], -1.5), (leaf,))


def test_log_sum_exp_clips_huge_values_which_have_no_gradient():
    value = torch.tensor([[1e38, 1e38, 0.0], [1e38, 2.0, 0.0], [-1e38, 0, 0]], requires_grad=True)
    got = log_sum_exp(value, torch.tensor([True, True, False]).expand(3, 3), -10.0)
    assert got.tolist() == [-torch.tensor(1e30).item(), -20.0, torch.tensor(1e30).item()]
    (grad,) = torch.autograd.grad(got.sum(), value)
    expected = torch.tensor([[0.0, 0, 0], [0, -10, 0], [0, 0, 0]])
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-20)
