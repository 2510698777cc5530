"""Losses with proxies against plain loops, and their behaviour in special cases."""

import copy
import math
import pickle

import pytest
import torch

from skdml.deep.losses import (
    ArcFaceLoss,
    CenterLoss,
    CosFaceLoss,
    NormalizedSoftmaxLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
    SoftTripleLoss,
    SphereFaceLoss,
    SubCenterArcFaceLoss,
)
from skdml.deep.losses.arcface import add_angle
from skdml.deep.losses.soft_triple import proxy_spread
from skdml.deep.losses.sphereface import multiply_angle

SIZES = (8, 6, 1, 5, 3, 1, 0)  # uneven, with singletons and a class that is not in the batch
C, D = len(SIZES), 4
LABELS = torch.repeat_interleave(torch.arange(C), torch.tensor(SIZES))

MAKE = {
    "proxy_nca": lambda c=C: ProxyNCALoss(c, D, plus=False, temperature=1),
    "proxy_nca++": lambda c=C: ProxyNCALoss(c, D),
    "proxy_anchor": lambda c=C: ProxyAnchorLoss(c, D),
    "soft_triple": lambda c=C: SoftTripleLoss(c, D, n_proxies=3),
    "normalized_softmax": lambda c=C: NormalizedSoftmaxLoss(c, D),
    "cosface": lambda c=C: CosFaceLoss(c, D, scale=16.0),
    "arcface": lambda c=C: ArcFaceLoss(c, D, scale=16.0),
    "subcenter_arcface": lambda c=C: SubCenterArcFaceLoss(c, D, scale=16.0),
    "sphereface": lambda c=C: SphereFaceLoss(c, D, scale=1),
    "center": lambda c=C: CenterLoss(c, D, pull=0.7),
}

every_loss = pytest.mark.parametrize("name", MAKE)


def make(name, seed=0):
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return MAKE[name]().double()


def points(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(LABELS), D, generator=generator, dtype=torch.float64)


# The loss of one point, in Python floats.


def dot(a, b):
    return sum(s * t for s, t in zip(a, b, strict=True))


def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def softmax_loss(logits, own):
    return math.log(sum(math.exp(a) for a in logits)) - logits[own]


def with_margin(x, y, proxies, scale, margin_of_angle):
    logits = [scale * cosine(x, p) for p in proxies]
    logits[y] = scale * margin_of_angle(math.acos(cosine(x, proxies[y])))
    return softmax_loss(logits, y)


def arc(angle, margin=0.5):
    if angle <= math.pi - margin:
        return math.cos(angle + margin)
    return math.cos(angle) + math.cos(margin) - 1


def sphere(angle, margin=4):
    k = math.floor(margin * angle / math.pi)
    return (-1) ** k * math.cos(margin * angle) - 2 * k


def proxy_nca(x, y, p, parameters):
    far = [2 - 2 * cosine(x, q) for q in p]
    return far[y] + math.log(sum(math.exp(-f) for c, f in enumerate(far) if c != y))


def proxy_nca_plus(x, y, p, parameters):
    return softmax_loss([-9 * (2 - 2 * cosine(x, q)) for q in p], y)


def normalized_softmax(x, y, p, parameters):
    return softmax_loss([cosine(x, q) / 0.05 for q in p], y)


def cosface(x, y, p, parameters):
    return with_margin(x, y, p, 16.0, lambda angle: math.cos(angle) - 0.35)


def arcface(x, y, p, parameters):
    return with_margin(x, y, p, 16.0, arc)


def sphereface(x, y, p, parameters):
    return with_margin(x, y, p, math.sqrt(dot(x, x)), sphere)


def subcenter_arcface(x, y, p, parameters):
    nearest = [max(of_class, key=lambda q: cosine(x, q)) for of_class in p]
    return with_margin(x, y, nearest, 16.0, arc)


def center(x, y, p, parameters):
    logits = [dot(x, w) + b for w, b in zip(parameters["weight"], parameters["bias"], strict=True)]
    return softmax_loss(logits, y) + 0.35 * sum((s - t) ** 2 for s, t in zip(x, p[y], strict=True))


def soft_triple(x, y, p, parameters):
    logits = []
    for of_class in p:
        near = [cosine(x, q) for q in of_class]
        weights = [math.exp(s / 0.1) for s in near]
        logits.append(20 * dot(weights, near) / sum(weights))
    logits[y] -= 20 * 0.01
    apart = [
        math.sqrt(2 - 2 * cosine(of_class[k], of_class[m]))
        for of_class in p
        for k in range(3)
        for m in range(k)
    ]
    return softmax_loss(logits, y) + 0.2 * sum(apart) / (C * 3 * 2)


BY_POINT = {
    "proxy_nca": proxy_nca,
    "proxy_nca++": proxy_nca_plus,
    "soft_triple": soft_triple,
    "normalized_softmax": normalized_softmax,
    "cosface": cosface,
    "arcface": arcface,
    "subcenter_arcface": subcenter_arcface,
    "sphereface": sphereface,
    "center": center,
}


def literal_proxy_anchor(x, labels, proxies, margin=0.1, alpha=32.0):
    pulls, pushes = [], []
    for c, p in enumerate(proxies):
        near = [cosine(z, p) for z in x]
        pull = [s for s, y in zip(near, labels, strict=True) if y == c]
        push = [s for s, y in zip(near, labels, strict=True) if y != c]
        if pull:
            pulls.append(math.log1p(sum(math.exp(-alpha * (s - margin)) for s in pull)))
        pushes.append(math.log1p(sum(math.exp(alpha * (s + margin)) for s in push)))
    return sum(pulls) / len(pulls) + sum(pushes) / len(pushes)


def literal(name, loss, x):
    x, labels = x.tolist(), LABELS.tolist()
    parameters = {key: value.tolist() for key, value in loss.named_parameters()}
    proxies = parameters["proxies"]
    if name == "proxy_anchor":
        return literal_proxy_anchor(x, labels, proxies)
    terms = [BY_POINT[name](z, y, proxies, parameters) for z, y in zip(x, labels, strict=True)]
    return sum(terms) / len(terms)


@every_loss
@pytest.mark.parametrize("seed", [1, 2])
def test_equals_its_definition(name, seed):
    loss, x = make(name, seed), points(seed)
    assert len(x) == 24
    got = loss(x, LABELS)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(literal(name, loss, x), rel=1e-10)


@every_loss
def test_gradient_by_embeddings_and_proxies(name):
    loss, x = make(name), points().requires_grad_()

    def value(x, *parameters):
        named = dict(zip(dict(loss.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(loss, named, (x, LABELS))

    assert torch.autograd.gradcheck(value, (x, *loss.parameters()))


# Computed by pytorch-metric-learning 2.9.0 with float64 embeddings and the proxies below, with the
# defaults of its ProxyNCALoss, ProxyAnchorLoss, SoftTripleLoss, ... and margins in degrees. Its
# ArcFaceLoss is left out: some of the angles exceed pi - m, where it is another function.
PYTORCH_METRIC_LEARNING = [
    (lambda: ProxyNCALoss(5, 4, temperature=1), (5, 4), 2.5966727808586008),
    (lambda: ProxyAnchorLoss(5, 4), (5, 4), 54.938428442507636),
    (lambda: SoftTripleLoss(5, 4, tau=0), (5, 10, 4), 2.0932854081287906),
    (lambda: NormalizedSoftmaxLoss(5, 4), (5, 4), 17.454355350681624),
    (lambda: CosFaceLoss(5, 4), (5, 4), 77.68586296691349),
    (lambda: SubCenterArcFaceLoss(5, 4), (5, 3, 4), 41.41503102187061),
    (lambda: SphereFaceLoss(5, 4, scale=1), (5, 4), 6.607401759400126),
]


@pytest.mark.parametrize(("build", "shape", "expected"), PYTORCH_METRIC_LEARNING)
def test_equals_pytorch_metric_learning(build, shape, expected):
    loss = build()
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    loss.proxies.data = torch.cos(2.3 * steps).reshape(shape)
    x = torch.sin(1.7 * torch.arange(48, dtype=torch.float64)).reshape(12, 4)
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4])
    assert loss(x, labels).item() == pytest.approx(expected, rel=1e-6)


@every_loss
def test_order_of_the_batch_and_names_of_the_classes_do_not_matter(name):
    loss, x = make(name), points()
    before = loss(x, LABELS).item()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert loss(x[order], LABELS[order]).item() == pytest.approx(before, rel=1e-12)
    renamed = torch.randperm(C, generator=torch.Generator().manual_seed(1))
    for parameter in loss.parameters():
        parameter.data[renamed] = parameter.data.clone()
    assert loss(x, renamed[LABELS]).item() == pytest.approx(before, rel=1e-12)


@every_loss
def test_extreme_embeddings_and_proxies(name):
    base = points().float()
    for x in (base * 1e-30, base * 1e30, base * 0, base[:1].repeat(len(base), 1)):
        for scale in (1e-30, 1.0, 0.0):
            if name == "sphereface" and x.abs().max() * 1e-30 > scale > 0:
                continue  # the gradient by the proxies is too large for float32
            loss = make(name).float()
            loss.proxies.data *= scale
            z = x.clone().requires_grad_()
            value = loss(z, LABELS)
            value.backward()
            assert value.dtype == torch.float32
            assert value.isfinite()
            assert z.grad.isfinite().all()
            assert all(p.grad.isfinite().all() for p in loss.parameters())


@every_loss
@pytest.mark.parametrize("sign", [1, -1])
def test_points_on_their_proxy_and_opposite_to_it(name, sign):
    loss = make(name).float()
    proxies = loss.proxies.detach()
    on = proxies if proxies.dim() == 2 else proxies[:, 0]
    x = (sign * on).clone().requires_grad_()
    loss(x, torch.arange(C)).backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in loss.parameters())


@every_loss
def test_autocast_and_half_precision(name):
    loss, x = make(name).float(), points().bfloat16()
    expected = loss(x.float(), LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(x, LABELS)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.1, 0.01])  # below 1 / 60 the exponents are shifted
@pytest.mark.parametrize("block", [2**18, 100])
def test_soft_triple_is_the_cross_entropy_of_its_logits(gamma, block, monkeypatch):
    monkeypatch.setattr("skdml.deep._pairs._BLOCK_SIZE", block)
    loss = SoftTripleLoss(C, D, n_proxies=3, gamma=gamma, margin=0.2, tau=0).double()
    x = points().requires_grad_()
    logits = loss.logits(x)
    own = torch.nn.functional.one_hot(LABELS, C)
    expected = torch.nn.functional.cross_entropy(logits - own * 0.2 * loss.scale, LABELS)
    got = loss(x, LABELS)
    torch.testing.assert_close(got, expected)
    leaves = (x, loss.proxies)
    for one, other in zip(*(torch.autograd.grad(v, leaves) for v in (got, expected)), strict=True):
        torch.testing.assert_close(one, other)


def test_equal_proxies_have_no_spread_and_no_gradient():
    loss = SoftTripleLoss(2, 3, n_proxies=3).double()
    loss.proxies.data[0] = torch.tensor([1.0, 2.0, 3.0])
    loss.proxies.data[1] = torch.eye(3) + 1e-9 * torch.ones(3)
    unit = torch.nn.functional.normalize(loss.proxies, dim=2)
    assert proxy_spread(unit).item() == pytest.approx(math.sqrt(2) / 2, rel=1e-7)
    (grad,) = torch.autograd.grad(proxy_spread(unit), loss.proxies)
    assert (grad[0] == 0).all()
    assert grad.isfinite().all()
    near = torch.tensor([[[1.0, 0.0], [math.cos(1e-5), math.sin(1e-5)]]])
    assert proxy_spread(near).item() == pytest.approx(1e-5, rel=1e-3)


@every_loss
def test_loss_of_an_empty_batch_depends_on_proxies_alone(name):
    loss, x = make(name), points()[:0].requires_grad_()
    value = loss(x, LABELS[:0])
    value.backward()
    assert x.grad.shape == (0, D)
    if name != "soft_triple":
        assert value.item() == 0
        assert all(p.grad is None or not p.grad.any() for p in loss.parameters())


@every_loss
def test_training_makes_the_own_logit_the_largest(name):
    loss, x = make(name), points().requires_grad_()
    if name == "sphereface":  # with a fourfold angle, only long embeddings are confident
        x = (3 * x.detach()).requires_grad_()
    optimizer = torch.optim.Adam([x, *loss.parameters()], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss(x, LABELS).backward()
        optimizer.step()
    logits = loss.logits(x)
    assert logits.shape == (24, C)
    assert (logits.argmax(1) == LABELS).float().mean() > 0.9


@every_loss
def test_initialization_from_class_means(name):
    loss, x = make(name), points()
    x = x + 8 * torch.eye(C, D, dtype=torch.float64)[LABELS]
    absent = loss.proxies[-1].clone()
    keep = LABELS < D  # classes with directions of their own
    loss.initialize_from(x[keep], LABELS[keep])
    logits = loss.logits(x[keep])[:, :D]
    assert (logits.argmax(1) == LABELS[keep]).float().mean() > 0.9
    assert torch.equal(loss.proxies[-1], absent)


@every_loss
def test_growth_keeps_the_existing_classes(name):
    loss, x = make(name), points()
    before, proxies = loss.logits(x), loss.proxies.detach().clone()
    loss.grow(C + 2)
    assert loss.logits(x).shape == (24, C + 2)
    assert torch.allclose(loss.logits(x)[:, :C], before, rtol=1e-12, atol=1e-12)
    assert torch.equal(loss.proxies[:C], proxies)
    assert loss(x, LABELS + 2).isfinite()
    assert all(len(p) == C + 2 and p.requires_grad for p in loss.parameters())
    with pytest.raises(ValueError, match="n_classes must be an integer >= 9; got 3"):
        loss.grow(3)


@every_loss
def test_copies_and_pickles(name):
    loss, x = make(name), points()
    for copied in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(copied(x, LABELS), loss(x, LABELS))
        assert repr(copied) == repr(loss)


@every_loss
def test_invalid_calls_raise(name):
    loss, x = make(name), points()
    triplet = (torch.tensor([0]), torch.tensor([1]), torch.tensor([9]))
    with pytest.raises(ValueError, match="takes no indices_tuple"):
        loss(x, LABELS, triplet)
    with pytest.raises(ValueError, match="takes no ref_emb and no ref_labels"):
        loss(x, LABELS, None, x, LABELS)
    with pytest.raises(ValueError, match=r"labels must lie in 0, ..., 6, .*; got 2 to 7"):
        loss(x, LABELS + 2)
    with pytest.raises(ValueError, match="width 4"):
        loss(x[:, :3], LABELS)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ProxyNCALoss(1, 2), "n_classes must be an integer >= 2; got 1"),
        (lambda: ProxyNCALoss(2, 0), "n_components must be an integer >= 1; got 0"),
        (lambda: ProxyNCALoss(2, 2, plus=1), "plus must be True or False; got 1"),
        (lambda: ProxyNCALoss(2, 2, temperature=0), "temperature must be .* > 0; got 0"),
        (lambda: ProxyAnchorLoss(2, 2, margin=1), "margin must be .*>= 0 and < 1; got 1"),
        (lambda: ProxyAnchorLoss(2, 2, alpha=-1), "alpha must be .* > 0; got -1"),
        (lambda: SoftTripleLoss(2, 2, n_proxies=0), "n_proxies must be an integer >= 1; got 0"),
        (lambda: SoftTripleLoss(2, 2, n_proxies=None), "n_proxies must be an integer >= 1"),
        (lambda: SoftTripleLoss(2, 2, tau=-1), "tau must be .*>= 0; got -1"),
        (lambda: SoftTripleLoss(2, 2, gamma=0), "gamma must be .* > 0; got 0"),
        (lambda: NormalizedSoftmaxLoss(2, 2, temperature=0), "temperature must be .* > 0; got 0"),
        (lambda: CosFaceLoss(2, 2, margin=2), "margin must be .*>= 0 and < 2; got 2"),
        (lambda: CosFaceLoss(2, 2, scale=0), "scale must be .* > 0; got 0"),
        (lambda: ArcFaceLoss(2, 2, margin=28.6), "margin must be .*and < 3.14159; got 28.6"),
        (lambda: SubCenterArcFaceLoss(2, 2, margin=-1), "margin must be .*; got -1"),
        (lambda: SphereFaceLoss(2, 2, margin=1.5), "margin must be an integer >= 1; got 1.5"),
        (lambda: CenterLoss(2, 2, pull=-1), "pull must be .*>= 0; got -1"),
    ],
)
def test_parameters_outside_their_range_raise(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.5, 3.0])
def test_added_angle_is_decreasing_and_continuous(margin):
    angle = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    value = add_angle(angle.cos(), margin)
    step = value.diff()
    assert (step <= 1e-12).all()
    assert step.abs().max() < 2e-3
    plain = angle <= math.pi - margin
    assert torch.allclose(value[plain], (angle[plain] + margin).cos(), atol=1e-7)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5])
def test_multiple_of_an_angle_is_decreasing_and_continuous(factor):
    angle = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    step = multiply_angle(angle.cos(), factor).diff()
    assert (step <= 1e-9).all()
    assert step.abs().max() < 2e-3 * factor
