"""Values and gradients of the losses, against those of pytorch-metric-learning."""

import math

import pytest
import torch

from skdml.deep import losses as ours

theirs = pytest.importorskip("pytorch_metric_learning.losses")
distances = pytest.importorskip("pytorch_metric_learning.distances")
reducers = pytest.importorskip("pytorch_metric_learning.reducers")

N_CLASSES, WIDTH = 5, 6
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 3, 3, 0, 1, 4, 2])
DEGREES = math.degrees(0.5)


def plain(power=1):
    return distances.LpDistance(normalize_embeddings=False, power=power)


# Pairs of losses with the same definition.
OF_PAIRS = {
    "angular": lambda: (ours.AngularLoss(40), theirs.AngularLoss(40)),
    "circle": lambda: (ours.CircleLoss(0.4, 80), theirs.CircleLoss(0.4, 80)),
    "contrastive": lambda: (ours.ContrastiveLoss(), theirs.ContrastiveLoss(distance=plain())),
    "fastap": lambda: (ours.FastAPLoss(), theirs.FastAPLoss()),
    "intra_pair_variance": lambda: (ours.IntraPairVarianceLoss(), theirs.IntraPairVarianceLoss()),
    "lifted": lambda: (ours.LiftedStructureLoss(), theirs.LiftedStructureLoss(distance=plain())),
    "margin": lambda: (
        ours.MarginLoss(0.3, boundary=1.1),
        theirs.MarginLoss(0.3, beta=1.1, learn_beta=True, distance=plain()),
    ),
    "multi_similarity": lambda: (ours.MultiSimilarityLoss(), theirs.MultiSimilarityLoss()),
    "nca": lambda: (ours.NCALoss(), theirs.NCALoss(distance=plain(2))),
    "nt_xent": lambda: (ours.NTXentLoss(), theirs.NTXentLoss()),
    "signal_to_noise": lambda: (
        ours.SignalToNoiseRatioContrastiveLoss(),
        theirs.SignalToNoiseRatioContrastiveLoss(
            distance=distances.SNRDistance(normalize_embeddings=False)
        ),
    ),
    "supcon": lambda: (ours.SupConLoss(), theirs.SupConLoss()),
    "triplet": lambda: (ours.TripletLoss(), theirs.TripletMarginLoss(0.2, distance=plain())),
    "triplet_soft": lambda: (
        ours.TripletLoss(soft=True, reduction="mean"),
        theirs.TripletMarginLoss(
            0.2, smooth_loss=True, distance=plain(), reducer=reducers.MeanReducer()
        ),
    ),
    "triplet_swap": lambda: (
        ours.TripletLoss(swap=True),
        theirs.TripletMarginLoss(0.2, swap=True, distance=plain()),
    ),
}
OF_PROXIES = {
    "arcface": lambda *a: (ours.ArcFaceLoss(*a), theirs.ArcFaceLoss(*a, margin=DEGREES)),
    "cosface": lambda *a: (ours.CosFaceLoss(*a), theirs.CosFaceLoss(*a)),
    "normalized_softmax": lambda *a: (
        ours.NormalizedSoftmaxLoss(*a),
        theirs.NormalizedSoftmaxLoss(*a),
    ),
    "proxy_anchor": lambda *a: (ours.ProxyAnchorLoss(*a), theirs.ProxyAnchorLoss(*a)),
    "proxy_nca": lambda *a: (ours.ProxyNCALoss(*a, temperature=1), theirs.ProxyNCALoss(*a)),
    "soft_triple": lambda *a: (ours.SoftTripleLoss(*a, tau=0), theirs.SoftTripleLoss(*a)),
    "sphereface": lambda *a: (ours.SphereFaceLoss(*a, scale=1), theirs.SphereFaceLoss(*a)),
    "subcenter_arcface": lambda *a: (
        ours.SubCenterArcFaceLoss(*a),
        theirs.SubCenterArcFaceLoss(
            num_classes=a[0], embedding_size=a[1], margin=DEGREES, sub_centers=3
        ),
    ),
}


def make_points(seed=0, n=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, WIDTH, generator=generator, dtype=torch.float64)


def value_and_gradient(loss, points, *args):
    leaf = points.clone().requires_grad_()
    value = loss.double()(leaf, *args)
    return value, torch.autograd.grad(value, leaf)[0]


def assert_equal(pair, points, *args):
    ours, theirs = (value_and_gradient(loss, points, *args) for loss in pair)
    torch.testing.assert_close(ours[0], theirs[0].squeeze(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", OF_PAIRS)
def test_losses_of_pairs(name):
    points = make_points()
    if name == "angular":  # theirs does not scale the negatives to length 1
        points = torch.nn.functional.normalize(points)
        assert OF_PAIRS[name]()[0](points, LABELS).item() == pytest.approx(
            OF_PAIRS[name]()[1](points, LABELS).item(), rel=1e-9
        )
        return
    assert_equal(OF_PAIRS[name](), points, LABELS)


@pytest.mark.parametrize(
    "name", sorted(set(OF_PAIRS) - {"angular", "fastap", "nca"})
)  # which use labels
def test_losses_of_listed_pairs_and_triplets(name):
    triplets = tuple(torch.tensor(i) for i in ([0, 0, 3, 4, 6], [3, 8, 8, 1, 7], [1, 2, 4, 0, 5]))
    assert_equal(OF_PAIRS[name](), make_points(1), LABELS, triplets)
    pairs = tuple(torch.tensor(i) for i in ([0, 0, 6], [3, 8, 7], [0, 0, 6, 7], [1, 2, 0, 3]))
    assert_equal(OF_PAIRS[name](), make_points(2), LABELS, pairs)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize("name", OF_PROXIES)
def test_losses_of_proxies(name):
    mine, other = OF_PROXIES[name](N_CLASSES, WIDTH)
    proxies = make_points(3, mine.proxies[..., 0].numel())
    mine.proxies.data = proxies.reshape(mine.proxies.shape)
    if name in ("proxy_anchor", "proxy_nca"):
        other.proxies.data = proxies.clone()
    else:
        (weight,) = other.parameters()
        weight.data = proxies.T.clone()
    assert_equal((mine, other), make_points(), LABELS)


def test_views():
    views = make_points(), make_points(4)
    info_nce = ours.InfoNCELoss(symmetric=False)(views[0], ref_emb=views[1])
    expected = theirs.SelfSupervisedLoss(theirs.NTXentLoss(), symmetric=False)(*views)
    torch.testing.assert_close(info_nce, expected)
    # As in the code of the authors, theirs takes half of the variance terms.
    expected = theirs.VICRegLoss()(views[0], ref_emb=views[1])
    torch.testing.assert_close(
        ours.VICRegLoss(variance=12.5)(*views[:1], ref_emb=views[1]), expected
    )
