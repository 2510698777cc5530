"""Losses and miners of pytorch-metric-learning, together with those of this package."""

import inspect

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

from skdml import DeepEmbedder, DeepSiameseEmbedder
from skdml.deep.losses import LOSSES, VICRegLoss, learns_from
from skdml.deep.miners import MINERS, get_miner
from skdml.deep.miners._checked import CheckedMiner
from skdml.deep.parameters import accepted_names

theirs = pytest.importorskip("pytorch_metric_learning.losses")
their_miners = pytest.importorskip("pytorch_metric_learning.miners")

IRIS, KINDS = load_iris(return_X_y=True)
POINTS = torch.randn(18, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(18) % 3
SIZES = {"num_classes": 3, "embedding_size": 4, "n_classes": 3, "n_components": 4}
QUICK = {"max_epochs": 1, "random_state": 0, "batch_size": 32}

# Losses that take indices of pairs or triplets.
OURS = [
    name
    for name, kind in LOSSES.items()
    if not hasattr(kind, "logits") and learns_from(kind) == "labels"
]
THEIRS = [
    *("AngularLoss", "CircleLoss", "ContrastiveLoss", "DynamicSoftMarginLoss"),
    *("GeneralizedLiftedStructureLoss", "IntraPairVarianceLoss", "LiftedStructureLoss"),
    *("MarginLoss", "MultiSimilarityLoss", "NCALoss", "NTXentLoss", "ProxyAnchorLoss"),
    *("ArcFaceLoss", "SignalToNoiseRatioContrastiveLoss", "SupConLoss", "TripletMarginLoss"),
    *("TupletMarginLoss", "ProxyNCALoss", "SoftTripleLoss", "FastAPLoss"),
]
THEIR_MINERS = [
    *("AngularMiner", "BatchEasyHardMiner", "BatchHardMiner", "DistanceWeightedMiner"),
    *("HDCMiner", "MultiSimilarityMiner", "PairMarginMiner", "TripletMarginMiner"),
]


def make_loss(name):
    kind = LOSSES.get(name) or getattr(theirs, name)
    taken = [p for owner in inspect.getmro(kind)[:3] for p in accepted_names(owner)[0]]
    return kind(**{size: value for size, value in SIZES.items() if size in taken})


@pytest.mark.parametrize("miner", [*MINERS, *THEIR_MINERS])
@pytest.mark.parametrize("loss", [*OURS, *THEIRS])
def test_every_miner_goes_with_every_loss(loss, miner):
    miner = CheckedMiner(get_miner(getattr(their_miners, miner, miner)))
    points = POINTS.clone().requires_grad_()
    indices = miner(points.detach(), LABELS)
    assert any(len(i) for i in indices)
    value = make_loss(loss)(points, LABELS, indices)
    (gradient,) = torch.autograd.grad(value, points)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", ["circle", "triplet", theirs.TripletMarginLoss])
@pytest.mark.parametrize(
    "miner", [their_miners.MultiSimilarityMiner(), their_miners.BatchHardMiner]
)
def test_learners_take_miners_that_are_modules(loss, miner):
    learner = DeepEmbedder(loss=loss, miner=miner, **QUICK).fit(IRIS, KINDS)
    assert np.isfinite(learner.transform(IRIS)).all()


def test_a_miner_that_does_not_fit_is_refused():
    packaged = their_miners.EmbeddingsAlreadyPackagedAsTriplets()
    with pytest.raises(ValueError, match=r"EmbeddingsAlreadyPackaged.* cannot choose from a batch"):
        CheckedMiner(packaged)(POINTS[:4], LABELS[:4])
    with pytest.raises(ValueError, match=r"function does not fit: indices_tuple must be"):
        CheckedMiner(lambda x, y: (y, y))(POINTS, LABELS)


@pytest.mark.parametrize("as_class", [True, False])
def test_cross_batch_memory(as_class):
    inner = theirs.ContrastiveLoss()
    if as_class:
        given = {"loss": theirs.CrossBatchMemory, "loss__loss": inner, "loss__memory_size": 64}
    else:
        given = {"loss": theirs.CrossBatchMemory(inner, embedding_size=4, memory_size=64)}
    learner = DeepEmbedder(**given, **QUICK).fit(IRIS, KINDS)
    assert learner.net_.criterion_.memory_size == 64
    given["batch_size"] = 64
    with pytest.warns(UserWarning, match="memory_size=64 of CrossBatchMemory is smaller"):
        DeepEmbedder(**{**QUICK, **given}, miner=their_miners.MultiSimilarityMiner).partial_fit(
            IRIS, KINDS
        ).partial_fit(IRIS, KINDS)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    "loss",
    [
        VICRegLoss,
        VICRegLoss(),
        theirs.VICRegLoss,
        theirs.SelfSupervisedLoss(theirs.NTXentLoss()),
        theirs.SelfSupervisedLoss(theirs.TripletMarginLoss(), symmetric=False),
    ],
    ids=["ours", "our_instance", "theirs", "self_supervised", "one_way"],
)
def test_view_losses_take_augment(loss, labelled):
    def jitter(points):
        return points + 0.1 * torch.randn_like(points)

    learner = DeepEmbedder(loss=loss, augment=jitter, **QUICK)
    learner.fit(IRIS, KINDS if labelled else None)
    assert np.isfinite(learner.history_["loss"]).all()
    with pytest.raises(ValueError, match="augment"):
        DeepEmbedder(loss=loss, **QUICK).fit(IRIS, KINDS)


def test_a_loss_that_keeps_statistics_with_a_graph():
    learner = DeepEmbedder(loss=theirs.DynamicSoftMarginLoss, **QUICK)
    learner.set_params(max_epochs=2).fit(IRIS, KINDS).partial_fit(IRIS, KINDS)


PAIRS = np.stack([IRIS[:60], IRIS[::-1][:60]], axis=1)
SAME = np.arange(60) % 2


@pytest.mark.parametrize("loss", ["margin", "circle", "lifted_structure", theirs.TripletMarginLoss])
def test_losses_that_learn_nothing_from_pairs_are_refused(loss):
    with pytest.raises(ValueError, match="learns nothing from supervision='pairs'"):
        DeepSiameseEmbedder(loss=loss, supervision="pairs", **QUICK).fit(PAIRS, SAME)


@pytest.mark.parametrize("loss", ["contrastive", "multi_similarity", theirs.ContrastiveLoss])
def test_losses_over_single_pairs_learn_from_pairs(loss):
    DeepSiameseEmbedder(loss=loss, supervision="pairs", **QUICK).fit(PAIRS, SAME)


def test_losses_with_classes_are_refused_for_pairs():
    with pytest.raises(ValueError, match="keeps parameters for each class"):
        DeepSiameseEmbedder(
            loss=theirs.ArcFaceLoss, loss__num_classes=2, supervision="pairs", **QUICK
        ).fit(PAIRS, SAME)
