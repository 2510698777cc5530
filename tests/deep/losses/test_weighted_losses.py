"""Losses with weights that depend on other pairs, against plain loops over Python floats."""

import math

import pytest
import torch
from helpers import (
    REDUCTIONS,
    batch_and_reference,
    literal_contrastive,
    literal_matrix,
    literal_pairs,
    literal_rows,
    make_batch,
    mean,
)

from skdml.deep.losses import (
    CircleLoss,
    IntraPairVarianceLoss,
    LiftedStructureLoss,
    MultiSimilarityLoss,
    SignalToNoiseRatioContrastiveLoss,
)


def literal_multi_similarity(d, rows, alpha, beta, base):
    return mean(
        math.log1p(sum(math.exp(alpha * (d[i][p] - base)) for p in positives)) / alpha
        + math.log1p(sum(math.exp(-beta * (d[i][n] - base)) for n in negatives)) / beta
        for i, (positives, negatives) in enumerate(rows)
    )


def literal_circle(d, rows, m, scale, d_weight=None):
    """Circle loss of distances d; the weights are functions of `d_weight` (default d)."""
    d_weight = d if d_weight is None else d_weight
    losses = []
    for i, (positives, negatives) in enumerate(rows):
        far = sum(math.exp(scale * max(0, d_weight[i][p] + m) * (d[i][p] - m)) for p in positives)
        near = sum(
            math.exp(scale * max(0, 1 + m - d_weight[i][n]) * (1 - m - d[i][n])) for n in negatives
        )
        if positives and negatives:
            losses.append(math.log1p(far * near))
    return mean(losses)


def literal_lifted(d, same, different, m, reference):
    terms = []
    for i, j in same:
        total = sum(math.exp(m - d[a][n]) for a, n in different if a == i)
        if reference:
            total += sum(math.exp(m - d[n][b]) for n, b in different if b == j)
        else:
            total += sum(math.exp(m - d[a][n]) for a, n in different if a == j)
        terms.append(max(0, math.log(total) + d[i][j]) ** 2 / 2 if total else 0)
    return mean(terms)


def literal_smooth_lifted(d, rows, m):
    return mean(
        max(
            0,
            math.log(sum(math.exp(d[i][p]) for p in positives))
            + math.log(sum(math.exp(m - d[i][n]) for n in negatives)),
        )
        for i, (positives, negatives) in enumerate(rows)
        if positives and negatives
    )


def literal_variance(cosine, same, different, pos_eps, neg_eps):
    near, far = (mean(cosine[i][j] for i, j in pairs) for pairs in (same, different))
    return mean(max(0, (1 - pos_eps) * near - cosine[i][j]) ** 2 for i, j in same) + mean(
        max(0, cosine[i][j] - (1 + neg_eps) * far) ** 2 for i, j in different
    )


def literal_noise(x, y):
    def var(values):
        return mean((v - mean(values)) ** 2 for v in values)

    return [[var([v - u for u, v in zip(a, b, strict=True)]) / var(a) for b in y] for a in x]


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("distance", ["cosine", "euclidean", "manhattan"])
def test_losses_equal_their_definitions(distance, reference):
    x, labels, y, y_labels = batch_and_reference(reference)
    d = literal_matrix(x, x if y is None else y, distance)
    rows, pairs = literal_rows(labels, y_labels), literal_pairs(labels, y_labels)
    for loss, expected in (
        (MultiSimilarityLoss(2, 5, 0.7), literal_multi_similarity(d, rows, 2, 5, 0.7)),
        (CircleLoss(0.3, 3), literal_circle(d, rows, 0.3, 3)),
        (LiftedStructureLoss(0.5), literal_lifted(d, *pairs, 0.5, reference)),
        (LiftedStructureLoss(0.5, smooth=True), literal_smooth_lifted(d, rows, 0.5)),
    ):
        loss.distance = distance
        got = loss(x, labels, None, y, y_labels)
        assert got.item() == pytest.approx(expected, rel=1e-9), loss


@pytest.mark.parametrize("reference", [False, True])
def test_intra_pair_variance_equals_its_definition(reference):
    x, labels, y, y_labels = batch_and_reference(reference)
    d = literal_matrix(x, x if y is None else y, "cosine")
    cosine = [[1 - value for value in row] for row in d]
    expected = literal_variance(cosine, *literal_pairs(labels, y_labels), 0.1, 0.2)
    got = IntraPairVarianceLoss(0.1, 0.2)(x, labels, None, y, y_labels)
    assert got.item() == pytest.approx(expected, rel=1e-9)


def test_multi_similarity_averages_over_anchors_without_positives():
    x = make_batch(width=3, sizes=(6,))[0]
    labels = torch.tensor([0, 0, 1, 2, 3, 4])
    d = literal_matrix(x, x, "cosine")
    expected = literal_multi_similarity(d, literal_rows(labels, None), 2, 50, 0.5)
    assert MultiSimilarityLoss()(x, labels).item() == pytest.approx(expected, rel=1e-9)
    few = tuple(torch.tensor(i) for i in ([0], [1], [0, 3], [2, 0]))
    rows = [([1], [2]), ([], []), ([], []), ([], [0]), ([], []), ([], [])]
    expected = literal_multi_similarity(d, rows, 2, 50, 0.5)
    assert MultiSimilarityLoss()(x, labels, few).item() == pytest.approx(expected, rel=1e-9)


def test_lifted_structure_takes_the_listed_negatives_of_both_points():
    x = make_batch(width=3, sizes=(6,))[0]
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    same, different = [(0, 1), (2, 1)], [(1, 3), (0, 4), (5, 2)]
    pairs = (*torch.tensor(same).T, *torch.tensor(different).T)
    d = literal_matrix(x, x, "euclidean")
    expected = literal_lifted(d, same, different, 0.5, reference=False)
    assert LiftedStructureLoss(0.5)(x, labels, pairs).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_signal_to_noise_equals_its_definition(reduction, reference):
    x, labels, y, y_labels = batch_and_reference(reference)
    d = literal_noise(x.tolist(), (x if y is None else y).tolist())
    pairs = literal_pairs(labels, y_labels)
    loss = SignalToNoiseRatioContrastiveLoss(1.5, reduction=reduction)
    for scale in (1, 1e-20, 1e20):  # the ratio does not depend on the scale
        got = loss(scale * x, labels, None, None if y is None else scale * y, y_labels)
        expected, share = literal_contrastive(d, *pairs, 1.5, 1, reduction)
        assert got.item() == pytest.approx(expected, rel=1e-9)
        assert loss.active_share.item() == pytest.approx(share)


def test_signal_to_noise_of_constant_rows():
    x = torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.0, 3.0]], requires_grad=True)
    value = SignalToNoiseRatioContrastiveLoss()(x, torch.tensor([0, 0, 1]))
    (grad,) = torch.autograd.grad(value, x)
    assert value.isfinite()
    assert grad.isfinite().all()


def test_gradient_of_the_circle_loss_treats_weights_as_constants():
    x, labels = make_batch(width=3, sizes=(4, 3, 1))
    x.requires_grad_()
    loss = CircleLoss(0.3, 3, distance="manhattan")
    (grad,) = torch.autograd.grad(loss(x, labels), x)
    rows = literal_rows(labels, None)
    fixed = literal_matrix(x.detach(), x.detach(), "manhattan")
    for i, j in ((0, 0), (2, 1), (5, 2)):
        step = torch.zeros_like(x)
        step[i, j] = 1e-6
        up, down = (
            literal_circle(literal_matrix(z, z, "manhattan"), rows, 0.3, 3, fixed)
            for z in ((x + step).detach(), (x - step).detach())
        )
        assert grad[i, j].item() == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-8)


def test_losses_equal_those_of_pytorch_metric_learning():
    # Computed by version 2.9.0 on sin(1), sin(2), ... in rows of three. Where distance is
    # "euclidean", it had LpDistance(normalize_embeddings=False). SNRDistance did not normalise.
    x = torch.arange(1, 25, dtype=torch.float64).sin().reshape(8, 3)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    for loss, expected in (
        (CircleLoss(), 364.04390496280297),
        (CircleLoss(0.25, 32), 152.09645379621693),
        (LiftedStructureLoss(), 9.724509371663146),
        (SignalToNoiseRatioContrastiveLoss(), 3.6963272357417036),
    ):
        assert loss(x, labels).item() == pytest.approx(expected, rel=1e-9), loss
    # That package also counts anchors without positives; the first seven rows have none.
    loss = LiftedStructureLoss(smooth=True)(x[:7], labels[:7])
    assert loss.item() == pytest.approx(4.0579542128091814, rel=1e-9)


def test_parameters_outside_their_range_raise():
    for name in ("alpha", "beta", "base"):
        for value in (0, -1.0, math.inf, math.nan, True, "1", None):
            with pytest.raises(ValueError, match=f"{name} must be a finite number > 0"):
                MultiSimilarityLoss(**{name: value})
    with pytest.raises(ValueError, match=r"base must be .* <= 2, the largest cosine distance"):
        MultiSimilarityLoss(base=2.1)
    for margin in (0, 1, -1, math.nan, None):
        with pytest.raises(ValueError, match="margin must be a finite number > 0 and < 1; got"):
            CircleLoss(margin)
    with pytest.raises(ValueError, match="scale must be a finite number > 0; got 0"):
        CircleLoss(scale=0)
    with pytest.raises(ValueError, match="margin must be a finite number >= 0; got -1"):
        LiftedStructureLoss(-1)
    with pytest.raises(ValueError, match="smooth must be True or False; got 1"):
        LiftedStructureLoss(smooth=1)
    for name in ("pos_eps", "neg_eps"):
        for value in (-0.1, 1, math.nan, None):
            with pytest.raises(ValueError, match=f"{name} must be a finite number >= 0 and < 1"):
                IntraPairVarianceLoss(**{name: value})
    with pytest.raises(ValueError, match="margin must be a finite number > 0; got 0"):
        SignalToNoiseRatioContrastiveLoss(0)
