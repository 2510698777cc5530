"""Margin, angular and N-pairs loss against plain loops over Python floats."""

import math

import pytest
import torch
from helpers import batch_and_reference, literal_matrix, literal_rows, make_batch, mean

from skdml.deep._distances import pairwise_distance
from skdml.deep.losses import AngularLoss, MarginLoss, NPairsLoss
from skdml.distances import BASE_DISTANCES


def dot(u, v):
    return sum(a * b for a, b in zip(u, v, strict=True))


def literal_margin(d, rows, m, beta):
    terms = []
    for a, (positives, negatives) in enumerate(rows):
        for p in positives:
            for n in negatives:
                terms += [d[a][p] - beta[a] + m, beta[a] - d[a][n] + m]
    return mean(t for t in terms if t > 0)


def literal_angular(x, y, rows, alpha):
    x, y = ([[v / math.sqrt(dot(u, u)) for v in u] for u in z] for z in (x, y))
    t = math.tan(math.radians(alpha)) ** 2
    terms = []
    for a, (positives, negatives) in enumerate(rows):
        for p in positives if negatives else ():
            f = [
                4 * t * (dot(x[a], y[n]) + dot(y[p], y[n])) - 2 * (1 + t) * dot(x[a], y[p])
                for n in negatives
            ]
            terms.append(math.log1p(sum(map(math.exp, f))))
    return mean(terms)


def literal_listed_margin(d, triplets, m, beta):
    terms = []
    for a, p, n in triplets:
        terms += [d[a][p] - beta + m, beta - d[a][n] + m]
    return mean(t for t in terms if t > 0)


def literal_listed_angular(x, y, triplets, alpha):
    x, y = ([[v / math.sqrt(dot(u, u)) for v in u] for u in z] for z in (x, y))
    t = math.tan(math.radians(alpha)) ** 2
    odds = {}
    for a, p, n in triplets:
        f = 4 * t * (dot(x[a], y[n]) + dot(y[p], y[n])) - 2 * (1 + t) * dot(x[a], y[p])
        odds[a, p] = odds.get((a, p), 0) + math.exp(f)
    return mean(map(math.log1p, odds.values()))


def literal_n_pairs(x, y, rows):
    return mean(
        math.log1p(sum(math.exp(dot(x[i], y[n]) - dot(x[i], y[p])) for n in negatives))
        for i, (positives, negatives) in enumerate(rows)
        for p in (positives if negatives else ())
    )


@pytest.mark.parametrize("reference", [False, True])
def test_angular_and_n_pairs_equal_their_definitions(reference):
    x, labels, y, y_labels = batch_and_reference(reference)
    rows = literal_rows(labels, y_labels)
    a, b = x.tolist(), (x if y is None else y).tolist()
    for alpha in (10, 40, 60):
        got = AngularLoss(alpha)(x, labels, None, y, y_labels)
        assert got.item() == pytest.approx(literal_angular(a, b, rows, alpha), rel=1e-9)
    got = NPairsLoss()(x, labels, None, y, y_labels)
    assert got.item() == pytest.approx(literal_n_pairs(a, b, rows), rel=1e-9)


@pytest.mark.parametrize("reference", [False, True])
def test_listed_triplets_are_scored_as_they_are(reference):
    x, labels, y, y_labels = batch_and_reference(reference)
    columns = x if y is None else y
    every = literal_rows(labels, y_labels)
    triplets = [(a, p, n) for a, (ps, ns) in enumerate(every) for p in ps for n in ns]
    triplets = triplets[3::7] + triplets[:2] * 2  # anchors share positives, two triplets repeat
    indices = tuple(torch.tensor(triplets).T)
    d = literal_matrix(x, columns, "euclidean")
    margin = MarginLoss(0.3, boundary=1.1).double()
    expected = literal_listed_margin(d, triplets, 0.3, 1.1)
    assert margin(x, labels, indices, y, y_labels).item() == pytest.approx(expected, rel=1e-6)
    active = {t[0] for t in triplets if d[t[0]][t[1]] > 0.8 or d[t[0]][t[2]] < 1.4}
    assert margin.active_share.item() == pytest.approx(len(active) / len(x))
    expected = literal_listed_angular(x.tolist(), columns.tolist(), triplets, 40)
    got = AngularLoss(40)(x, labels, indices, y, y_labels)
    assert got.item() == pytest.approx(expected, rel=1e-9)


def test_gradients_by_listed_triplets():
    x, labels = make_batch(width=4, sizes=(3, 3, 2))
    x.requires_grad_()
    a, p, n = (torch.tensor(i) for i in ([0, 0, 4, 4], [1, 1, 5, 5], [2, 3, 6, 6]))
    for loss in (MarginLoss(0.3, boundary=1.1).double(), AngularLoss(40)):
        assert torch.autograd.gradcheck(lambda u, loss=loss: loss(u, labels, (a, p, n)), (x,))
        none = tuple(i[:0] for i in (a, p, n))
        value = loss(x, labels, none)
        (gradient,) = torch.autograd.grad(value, x)
        assert value == 0
        assert (gradient == 0).all()


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_margin_equals_its_definition(distance, reference):
    x, labels, y, y_labels = batch_and_reference(reference)
    d = literal_matrix(x, x if y is None else y, distance)
    rows = literal_rows(labels, y_labels)
    loss = MarginLoss(0.3, boundary=0.9, distance=distance).double()
    got = loss(x, labels, None, y, y_labels)
    assert got.item() == pytest.approx(
        literal_margin(d, rows, 0.3, [loss.beta.item()] * len(d)), rel=1e-9
    )
    loss = MarginLoss(0.3, n_classes=51, distance=distance).double()
    with torch.no_grad():
        loss.beta.copy_(1 + 0.01 * torch.arange(51))
    beta = loss.beta[labels].tolist()
    got = loss(x, labels, None, y, y_labels)
    assert got.item() == pytest.approx(literal_margin(d, rows, 0.3, beta), rel=1e-9)


@pytest.mark.parametrize("n_classes", [None, 6])
def test_boundaries_are_learned(n_classes):
    x, labels = make_batch()
    labels = labels // 10
    loss = MarginLoss(0.4, boundary=1.0, n_classes=n_classes).double()
    loss(x, labels).backward()
    (name, beta), *more = loss.named_parameters()
    assert name == "beta"
    assert not more
    grad = beta.grad.clone().reshape(-1)
    assert grad.abs().max() > 0.01
    for k in range(len(grad)):
        ends = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                moved = beta.clone().reshape(-1)
                moved[k] += step
                values = torch.func.functional_call(
                    loss, {"beta": moved.reshape(beta.shape)}, (x, labels)
                )
            ends.append(values.item())
        assert grad[k].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)


def test_boundary_converges_to_equal_shares_of_active_positives_and_negatives():
    x, labels = make_batch()
    loss = MarginLoss(0.1, boundary=0.1).double()
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        loss(x, labels).backward()
        optimizer.step()
    beta, rows = loss.beta.item(), literal_rows(labels, None)
    d = literal_matrix(x, x, "euclidean")
    triplets = [(a, p, n) for a, (P, N) in enumerate(rows) for p in P for n in N]
    far = mean(d[a][p] > beta - 0.1 for a, p, n in triplets)
    near = mean(d[a][n] < beta + 0.1 for a, p, n in triplets)
    assert far == pytest.approx(near, abs=0.05)
    assert 0.2 < far < 0.8


@pytest.mark.parametrize("distance", BASE_DISTANCES)
def test_boundary_starts_at_the_value_of_the_paper(distance):
    angle = 2 * math.asin(1.2 / 2)
    pair = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    expected = 1.2 if distance == "manhattan" else pairwise_distance(pair, None, distance)[0, 1]
    loss = MarginLoss(distance=distance)
    assert loss.beta.item() == pytest.approx(float(expected), abs=1e-3)
    assert loss.boundary == pytest.approx(loss.beta.item())
    largest = {"cosine": 2.0, "angular": 1.0}.get(distance)
    if largest:
        assert MarginLoss(boundary=largest, distance=distance).boundary == largest
        with pytest.raises(ValueError, match=rf"boundary must .* <= {largest:g}, .*got {largest}1"):
            MarginLoss(boundary=largest + 0.01, distance=distance)


def test_labels_without_a_boundary_raise():
    x, labels = make_batch()
    for wrong in (labels, labels - 60):
        with pytest.raises(ValueError, match=r"labels must lie in 0, ..., 9, .*n_classes=10; got"):
            MarginLoss(n_classes=10)(x, wrong)


def test_losses_equal_those_of_pytorch_metric_learning():
    # Computed by version 2.9.0 on sin(1), sin(2), ... in eight rows of three. The rows were scaled
    # to length 1 first, because that package does not scale the negatives.
    x = torch.arange(1, 25, dtype=torch.float64).sin().reshape(8, 3)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    assert AngularLoss(40)(x, labels).item() == pytest.approx(4.5312223591167635, rel=1e-9)
    # MarginLoss(0.3, beta=1.1, learn_beta=True) by LpDistance(normalize_embeddings=False)
    loss = MarginLoss(0.3, boundary=1.1).double()
    value = loss(x, labels)
    value.backward()
    assert value.item() == pytest.approx(1.371200498594536, rel=1e-7)
    assert loss.beta.grad.item() == pytest.approx(-0.2571, abs=1e-4)


def test_parameters_outside_their_range_raise():
    for kind, name, zero in ((MarginLoss, "margin", "="), (MarginLoss, "boundary", "")):
        for value in (-0.1, math.inf, math.nan, True, "1"):
            with pytest.raises(ValueError, match=f"{name} must be a finite number >{zero} 0; got"):
                kind(**{name: value})
    for n_classes in (0, -1, 1.5, True, "1"):
        with pytest.raises(ValueError, match="n_classes must be an integer >= 1; got"):
            MarginLoss(n_classes=n_classes)
    for alpha in (0, -1, math.nan, None):
        with pytest.raises(ValueError, match="alpha must be a finite number > 0; got"):
            AngularLoss(alpha)
    with pytest.raises(ValueError, match="alpha must be <= 60 degrees; got 61"):
        AngularLoss(61)
