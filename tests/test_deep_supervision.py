"""How the deep learners are told what is alike: miners, groups, views and graded targets."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from skdml import DeepEmbedder, DeepSiameseEmbedder, DeepTripletEmbedder
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
    _, state, place, *_ = np.random.get_state()  # noqa: NPY002, the one that must not move
    return state.tolist(), place, torch.get_rng_state().tolist()


# Miners


@pytest.mark.parametrize("name", MINERS)
@pytest.mark.parametrize("loss", ["triplet", "contrastive", "multi_similarity"])
def test_every_miner_trains_and_random_state_decides_it(name, loss):
    before = global_states()
    learner = DeepEmbedder(loss=loss, miner=name, **QUICK)
    Z = learner.fit(X, y).transform(X)
    assert np.isfinite(Z).all()
    assert_array_equal(clone(learner).fit(X, y).transform(X), Z)
    assert global_states() == before


@pytest.mark.parametrize("Learner", [DeepSiameseEmbedder, DeepTripletEmbedder])
def test_miner_by_name_by_class_and_ready_is_the_same(Learner):
    ready = AngularMiner(40)
    by_name = Learner(miner="angular", miner__angle=40, **QUICK).fit(X, y)
    for miner, params in (
        (AngularMiner, {"miner__angle": 40}),
        (ready, {}),
        (AngularMiner(20), {"miner__angle": 40}),
    ):
        learner = clone(Learner(miner=miner, **params, **QUICK)).fit(X, y)
        assert learner.net_.criterion_.miner.angle == 40
        assert_array_equal(learner.transform(X), by_name.transform(X))
    other = Learner(miner="angular", **QUICK).fit(X, y)
    assert not np.array_equal(other.transform(X), by_name.transform(X))


def test_miner_of_a_loss_that_does_not_mine():
    learner = DeepEmbedder(loss="margin", miner="pair_margin", miner__pos_margin=0.5, **QUICK)
    learner.fit(X, y)
    assert repr(learner.net_.miner) == repr(PairMarginMiner(0.5))
    assert DeepEmbedder(loss="margin", **QUICK).fit(X, y).net_.miner is None
    cosine = DeepEmbedder(loss="margin", miner=BatchHardMiner, distance="cosine", **QUICK)
    assert cosine.fit(X, y).net_.miner.distance == "cosine"


def test_parameters_of_a_miner_are_parameters():
    learner = DeepTripletEmbedder(miner="multi_similarity", miner__epsilon=0.2)
    assert learner.get_params()["miner__epsilon"] == 0.2
    learner.set_params(miner__epsilon=0.3, **QUICK).fit(X, y)
    miner = clone(learner).fit(X, y).net_.criterion_.miner
    assert repr(miner) == repr(MultiSimilarityMiner(0.3, distance="euclidean"))


def test_search_for_a_miner():
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
        ({"miner": len, "miner__angle": 9}, "does not tell all the parameters|no parameter"),
    ],
)
def test_bad_miners_are_refused(params, message):
    learner = DeepTripletEmbedder(**params)
    with pytest.raises(ValueError, match=message):
        learner.fit(X, y)
    assert not [name for name in vars(learner) if name.endswith("_")]
