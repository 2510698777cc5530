"""Miners, groups and balanced classes in the batches of the deep learners."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback

from skdml import DeepEmbedder, DeepProxyEmbedder, DeepSiameseEmbedder, DeepTripletEmbedder
from skdml.deep.miners import (
    MINERS,
    AngularMiner,
    BatchHardMiner,
    MultiSimilarityMiner,
    PairMarginMiner,
)

X, y = make_blobs(n_samples=120, centers=8, n_features=6, cluster_std=3, random_state=0)
QUICK = {"max_epochs": 2, "random_state": 0, "module__n_hidden": 8, "early_stopping": False}


def global_states():
    _, state, position, *_ = np.random.get_state()  # noqa: NPY002, it must not change
    return state.tolist(), position, torch.get_rng_state().tolist()


# Miners


@pytest.mark.parametrize("name", MINERS)
@pytest.mark.parametrize("loss", ["triplet", "contrastive", "multi_similarity"])
def test_every_miner_trains_reproducibly(name, loss):
    before = global_states()
    learner = DeepEmbedder(loss=loss, miner=name, **QUICK)
    Z = learner.fit(X, y).transform(X)
    assert np.isfinite(Z).all()
    assert_array_equal(clone(learner).fit(X, y).transform(X), Z)
    assert global_states() == before


@pytest.mark.parametrize("Learner", [DeepSiameseEmbedder, DeepTripletEmbedder])
def test_miner_by_name_class_or_instance_is_the_same(Learner):
    instance = AngularMiner(40)
    by_name = Learner(miner="angular", miner__angle=40, **QUICK).fit(X, y)
    for miner, params in (
        (AngularMiner, {"miner__angle": 40}),
        (instance, {}),
        (AngularMiner(20), {"miner__angle": 40}),
    ):
        learner = clone(Learner(miner=miner, **params, **QUICK)).fit(X, y)
        assert learner.net_.criterion_.miner.angle == 40
        assert_array_equal(learner.transform(X), by_name.transform(X))
    other = Learner(miner="angular", **QUICK).fit(X, y)
    assert not np.array_equal(other.transform(X), by_name.transform(X))


def test_miner_for_a_loss_without_miner():
    learner = DeepEmbedder(loss="margin", miner="pair_margin", miner__pos_margin=0.5, **QUICK)
    learner.fit(X, y)
    assert repr(learner.net_.miner.miner) == repr(PairMarginMiner(0.5))
    assert DeepEmbedder(loss="margin", **QUICK).fit(X, y).net_.miner is None
    cosine = DeepEmbedder(loss="margin", miner=BatchHardMiner, distance="cosine", **QUICK)
    assert cosine.fit(X, y).net_.miner.miner.distance == "cosine"


def test_miner_parameters_are_learner_parameters():
    learner = DeepTripletEmbedder(miner="multi_similarity", miner__epsilon=0.2)
    assert learner.get_params()["miner__epsilon"] == 0.2
    learner.set_params(miner__epsilon=0.3, **QUICK).fit(X, y)
    miner = clone(learner).fit(X, y).net_.criterion_.miner
    assert repr(miner) == repr(MultiSimilarityMiner(0.3, distance="euclidean"))


def test_grid_search_over_miners():
    model = make_pipeline(DeepTripletEmbedder(**QUICK), KNeighborsClassifier())
    grid = [
        {"deeptripletembedder__miner": ["all", "semihard"]},
        {
            "deeptripletembedder__miner": ["angular"],
            "deeptripletembedder__miner__angle": [20, 40],
        },
    ]
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X, y)
    assert len(search.cv_results_["params"]) == 4


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"miner": "hardest"}, "miner must be one of all, hard, .*uniform, or callable"),
        ({"miner": "angular", "miner__angel": 3}, "AngularMiner has no parameter 'angel'"),
        ({"miner": "angular", "miner__angle": 99}, "angle == 99, must be < 90"),
        ({"miner": len, "miner__angle": 9}, "does not keep all the parameters|no parameter"),
    ],
)
def test_invalid_miners_raise(params, message):
    learner = DeepTripletEmbedder(**params)
    with pytest.raises(ValueError, match=message):
        learner.fit(X, y)
    assert not [name for name in vars(learner) if name.endswith("_")]


# Groups


GROUPS = np.arange(len(X)) % 3


class RecordLabels(Callback):
    """Record the labels of each batch in a list of the class, which copies share."""

    batches = ()

    def on_batch_end(self, net, batch, training, **kwargs):
        RecordLabels.batches.append(batch[1].numpy().ravel())


@pytest.fixture
def batches():
    RecordLabels.batches = []
    return RecordLabels.batches


@pytest.mark.parametrize("group_batches", ["together", "apart", None])
def test_groups_change_the_batches(group_batches):
    learner = DeepTripletEmbedder(group_batches=group_batches, batch_size=16, **QUICK)
    by_group = learner.fit(X, y, groups=[f"session {g}" for g in GROUPS]).transform(X)
    without = clone(learner).fit(X, y).transform(X)
    assert np.array_equal(by_group, without) == (group_batches is None)


def test_batches_of_separate_groups_hold_one_group(batches):
    labels = 10 * GROUPS + y % 4  # a label identifies its group
    options = {**QUICK, "batch_size": 16, "callbacks": [RecordLabels()]}
    DeepTripletEmbedder(group_batches="apart", **options).fit(X, labels, groups=GROUPS)
    codes = np.unique(labels)
    assert len(batches) > 8
    for batch in batches:
        assert len(np.unique(codes[batch] // 10)) == 1


def test_balanced_classes_are_drawn_equally_often(batches):
    labels = np.repeat([0, 1, 2], [100, 12, 8])
    options = {**QUICK, "batch_size": 12, "callbacks": [RecordLabels()]}
    DeepTripletEmbedder(balance_classes=True, **options).fit(X, labels)
    counts = np.bincount(np.concatenate(batches))
    assert counts.max() < 1.5 * counts.min()
    batches.clear()
    DeepTripletEmbedder(**options).fit(X, labels)
    assert np.bincount(np.concatenate(batches))[0] >= 200


def test_groups_are_routed_as_metadata():
    with config_context(enable_metadata_routing=True):
        learner = DeepTripletEmbedder(group_batches="apart", **QUICK).set_fit_request(groups=True)
        model = make_pipeline(learner, KNeighborsClassifier())
        lone = np.arange(len(X))  # groups of one point have no pairs
        with pytest.raises(ValueError, match="none of the 120 groups to train on holds two"):
            model.fit(X, y, groups=lone)
        model.fit(X, y, groups=GROUPS)
        unset = DeepTripletEmbedder(group_batches="apart", **QUICK)
        with pytest.raises(UnsetMetadataPassedError):
            make_pipeline(unset, KNeighborsClassifier()).fit(X, y, groups=GROUPS)


def test_proxy_learner_and_partial_fit_accept_groups():
    learner = DeepProxyEmbedder(group_batches="apart", max_epochs=1, random_state=0)
    assert learner.fit(X, y, groups=GROUPS).score(X, y) > 0
    first = learner.predict_proba(X)
    assert not np.array_equal(learner.partial_fit(X, y, groups=GROUPS).predict_proba(X), first)
    triplet = DeepTripletEmbedder(group_batches="apart").partial_fit(X, y, groups=GROUPS)
    assert triplet.transform(X).shape == (120, 6)
    for one in (learner, triplet):
        with pytest.raises(ValueError, match="none of the 120 groups"):
            one.partial_fit(X, y, groups=np.arange(len(X)))


@pytest.mark.parametrize(
    ("params", "groups", "message"),
    [
        ({"group_batches": "mixed"}, None, r"'mixed' is unknown; choose one of \['together'"),
        ({"balance_classes": "yes"}, None, "balance_classes must be an instance of"),
        ({}, GROUPS[:5], "inconsistent numbers of samples"),
        ({}, np.ones((120, 2)), "1d array"),
    ],
)
def test_invalid_groups_raise(params, groups, message):
    learner = DeepTripletEmbedder(**params)
    with pytest.raises((ValueError, TypeError), match=message):
        learner.fit(X, y, groups=groups)
    assert not [name for name in vars(learner) if name.endswith("_")]


def test_groups_with_tuples_raise():
    pairs = X.reshape(60, 2, 6)
    with pytest.raises(ValueError, match="groups cannot be used with supervision='pairs'"):
        DeepSiameseEmbedder(supervision="pairs").fit(pairs, np.arange(60) % 2, groups=GROUPS[:60])


def test_groups_work_with_a_frozen_module():
    options = {**QUICK, "freeze": "module", "group_batches": "apart"}
    options = {k: v for k, v in options.items() if k != "module__n_hidden"}
    learner = DeepTripletEmbedder(torch.nn.Linear(6, 3), **options)
    with pytest.raises(ValueError, match="none of the 120 groups"):
        learner.fit(X, y, groups=np.arange(len(X)))
