"""Invalid input of the deep learners raises a helpful error; unusual valid input works."""

import numpy as np
import pytest
import torch
from helpers import fitted_attributes
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_blobs
from torch import nn
from torch.utils.data import Dataset

from skdml import DeepEmbedder, DeepProxyEmbedder, DeepSiameseEmbedder, DeepTripletEmbedder
from skdml.deep import CollapseWarning
from skdml.deep.losses import ContrastiveLoss, TripletLoss

X, Y = make_blobs(n_samples=96, centers=4, n_features=5, cluster_std=3, random_state=0)
IMAGES = (
    np.random.default_rng(0).normal(size=(12, 1, 6, 6)) + np.arange(12)[:, None, None, None] % 3
)
OPTIONS = {"max_epochs": 2, "random_state": 0, "early_stopping": False}
LEARNERS = [DeepEmbedder, DeepSiameseEmbedder, DeepTripletEmbedder, DeepProxyEmbedder]


@pytest.fixture(autouse=True)
def same_start():
    """Build the same networks in each run, whatever ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def assert_fit_raises(learner, message, X=X, y=Y, **fit_params):
    with pytest.raises(ValueError, match=message):
        learner.fit(X, y, **fit_params)
    assert fitted_attributes(learner) == []


# Parameters


@pytest.mark.parametrize(
    ("Learner", "params", "message"),
    [
        (DeepSiameseEmbedder, {"loss": "triplet"}, "does not accept loss='triplet'; .*contrastive"),
        (DeepTripletEmbedder, {"loss": "contrastive"}, "does not accept loss='contrastive'"),
        (DeepTripletEmbedder, {"loss": ContrastiveLoss}, "does not accept loss=.*ContrastiveLoss"),
        (DeepSiameseEmbedder, {"loss": TripletLoss()}, r"does not accept loss=TripletLoss\("),
        (DeepProxyEmbedder, {"loss": "triplet"}, "does not accept loss='triplet'; .*arcface"),
        (DeepProxyEmbedder, {"memory_size": 64}, "memory_size=64 compares points with each other"),
        (DeepProxyEmbedder, {"miner": "hard"}, "miner='hard' compares points with each other"),
        (DeepProxyEmbedder, {"supervision": "pairs"}, "supervision='pairs' is unknown"),
        (DeepProxyEmbedder, {"loss": "proxy_nca", "margin": 0.1}, "'proxy_nca' has no margin"),
    ],
)
def test_losses_and_parameters_that_a_learner_does_not_accept_raise(Learner, params, message):
    assert_fit_raises(Learner(**OPTIONS, **params), message)
    assert_fit_raises(Learner(**OPTIONS).set_params(**params), message)
    assert_fit_raises(clone(Learner(**OPTIONS, **params)), message)


@pytest.mark.parametrize("name", ["lr", "proxy_lr", "validation_fraction"])
def test_nan_parameters_raise(name):
    assert_fit_raises(
        DeepEmbedder(**OPTIONS, **{name: np.nan}), f"{name} has to be a finite number; got nan"
    )


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"device": None}, "device=None cannot be used here"),
        ({"callbacks": "clip"}, "callbacks='clip' is no list"),
        ({"callbacks": [("rate", 0.1)]}, r"callbacks holds 0\.1, which is no callback"),
        ({"callbacks": [nn.Linear]}, "which is no callback"),
    ],
)
def test_invalid_devices_and_callbacks_raise(params, message):
    assert_fit_raises(DeepEmbedder(**OPTIONS, **params), message)


def test_n_components_must_equal_the_width_of_the_previous_network():
    learner = DeepEmbedder(**OPTIONS, warm_start=True).fit(X, Y)
    before = learner.transform(X)
    message = r"n_components=3, but the module of the last fit \(warm_start=True\) .* 5"
    with pytest.raises(ValueError, match=message):
        learner.set_params(n_components=3).fit(X, Y)
    assert_array_equal(learner.transform(X), before)


# Networks and losses


class LossOfEachPoint(nn.Module):
    """A loss with a value for each point instead of the batch."""

    def forward(self, embeddings, labels):
        return embeddings.square().sum(dim=1)


class FloatLoss(nn.Module):
    """A loss that returns a float instead of a tensor."""

    def forward(self, embeddings, labels):
        return embeddings.square().mean().item()


class DetachedLoss(nn.Module):
    """A loss without a gradient."""

    def forward(self, embeddings, labels):
        return embeddings.detach().square().mean()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (LossOfEachPoint, r"must return one number .* it returned shape \(96,\)\. Take the mean"),
        (FloatLoss, "a Tensor of shape .* it returned float"),
        (DetachedLoss, r"The loss has no gradient\. .* without detach\(\)"),
        (
            nn.TripletMarginLoss,
            r"called loss\(embeddings, labels\), but TripletMarginLoss does not accept .*negative",
        ),
        (
            nn.functional.cross_entropy,
            r"loss=cross_entropy is built with \['input', 'target'\]\. .* that calls it",
        ),
    ],
)
def test_invalid_losses_raise(loss, message):
    assert_fit_raises(DeepEmbedder(loss=loss, **OPTIONS), message)


def test_a_miner_needs_a_loss_that_accepts_tuples():
    message = (
        r"called loss\(embeddings, labels, indices_tuple\), but CrossEntropyLoss does not accept"
    )
    assert_fit_raises(DeepEmbedder(loss=nn.CrossEntropyLoss, miner="hard", **OPTIONS), message)


@pytest.mark.parametrize("freeze", [None, "module"])
@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Linear(7, 3),
            r"Linear cannot take a float32 batch of points of shape \(5,\): mat1",
        ),
        (nn.Linear(5, 3).double(), r"Linear cannot take .* same dtype"),
        (
            nn.Linear,
            r"module=Linear is built with \['in_features', 'out_features'\]\. Give module__",
        ),
    ],
)
def test_networks_that_do_not_accept_the_points_raise(module, message, freeze):
    assert_fit_raises(DeepEmbedder(module, freeze=freeze, **OPTIONS), message)


def test_a_network_without_trainable_weights_raises():
    frozen = nn.Linear(5, 3).requires_grad_(False)
    for module in (frozen, nn.Identity()):
        assert_fit_raises(
            DeepEmbedder(module, **OPTIONS), r"nothing to train: .* set freeze='module'"
        )
    assert DeepProxyEmbedder(frozen, **OPTIONS).fit(X, Y).transform(X).shape == (96, 3)


# Points, labels, groups


def test_labels_of_mixed_types_raise():
    mixed = np.array([1, "a", True, 2.5], dtype=object)[Y]
    for Learner in LEARNERS:
        assert_fit_raises(
            Learner(**OPTIONS),
            r"must be all numbers or all strings; got \['bool', 'str'\]",
            y=mixed,
        )


def test_new_classes_must_have_the_type_of_known_classes():
    learner = DeepProxyEmbedder(**OPTIONS).partial_fit(X, Y)
    with pytest.raises(
        ValueError, match="labels in earlier calls are numbers, but those in y are strings"
    ):
        learner.partial_fit(X, Y.astype("U1"))
    assert learner.partial_fit(X, Y + 1).classes_.tolist() == [0, 1, 2, 3, 4]


def test_nan_in_groups_raises():
    groups = np.where(Y == 0, np.nan, Y)
    assert_fit_raises(DeepEmbedder(**OPTIONS), "groups contains NaN", groups=groups)


def test_points_of_another_shape_raise():
    learner = DeepEmbedder(**OPTIONS).fit(IMAGES, np.arange(12) % 3)
    message = r"fitted on points of shape \(1, 6, 6\); got points of shape \(36,\)"
    for call in (learner.transform, lambda flat: learner.partial_fit(flat, np.arange(12) % 3)):
        with pytest.raises(ValueError, match=message):
            call(IMAGES.reshape(12, -1))
    learner = DeepEmbedder(**OPTIONS).fit(X, Y)
    with pytest.raises(ValueError, match=r"fitted on points of shape \(5,\); .* \(2, 5\)"):
        learner.transform(X.reshape(-1, 2, 5))


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e19, 1e36])
def test_features_of_any_scale_give_the_same_embedding(scale):
    plain = DeepTripletEmbedder(**OPTIONS).fit(X, Y)
    scaled = DeepTripletEmbedder(**OPTIONS).fit(X * scale, Y)
    assert_allclose(scaled.transform(X * scale), plain.transform(X), atol=0.01)
    assert abs(plain.transform(X)).max() > 1


@pytest.mark.parametrize("Learner", LEARNERS)
def test_equal_points_warn_of_collapse(Learner):
    with pytest.warns(CollapseWarning, match="all embeddings were equal in the first epoch"):
        learner = Learner(**OPTIONS).fit(np.ones_like(X), Y)
    assert np.isfinite(learner.transform(X)).all()


def test_read_only_and_strided_points():
    fixed = X.astype(np.float32)
    fixed.flags.writeable = False
    plain = DeepEmbedder(**OPTIONS).fit(X, Y).transform(X)
    for other in (fixed, np.asfortranarray(X), X[:, ::-1].copy()[:, ::-1], X.astype(">f8")):
        assert_array_equal(DeepEmbedder(**OPTIONS).fit(other, Y).transform(other), plain)


# Functions and Datasets of users


def first_triplet(embeddings, labels):
    """Mine one triplet: a miner of two arguments, as the documentation describes it."""
    a, p = (labels == labels[0]).nonzero()[:2, 0]
    (n,) = (labels != labels[0]).nonzero()[0]
    return a[None], p[None], n[None]


def test_a_miner_of_two_arguments():
    loss = TripletLoss(margin=9.0, miner=first_triplet)
    Z = torch.tensor([[0.0], [1.0], [3.0]])
    assert loss(Z, torch.tensor([0, 0, 1])).item() == 1 - 3 + 9
    learner = DeepTripletEmbedder(miner=first_triplet, **OPTIONS).fit(X, Y)
    assert np.isfinite(learner.history_["loss"]).all()


@pytest.mark.parametrize(
    ("returned", "message"),
    [(None, "NoneType"), ([0, 1, 2], "list"), (torch.arange(3), "shape")],
)
def test_a_miner_must_return_indices(returned, message):
    learner = DeepTripletEmbedder(miner=lambda embeddings, labels: returned, **OPTIONS)
    assert_fit_raises(learner, f"must be a tuple of tensors of indices; got {message}")


@pytest.mark.parametrize("returned", [None, "0.5", [0.5], np.arange(3.0)])
@pytest.mark.parametrize("n_classes", [2, 8])
def test_a_scoring_must_return_a_number(returned, n_classes):
    options = {**OPTIONS, "early_stopping": True}
    learner = DeepEmbedder(scoring=lambda *points: returned, **options)
    assert_fit_raises(learner, "scoring must return one number", y=np.arange(96) % n_classes)
    for score in (np.float32(0.5), 1, np.array(0.5)):
        learner.set_params(scoring=lambda *points, score=score: score).fit(X, Y)
        assert learner.start_score_ == score


class InfiniteNetwork(nn.Linear):
    def forward(self, X):
        return super().forward(X) / 0.0


def test_a_network_that_is_infinite_before_training_raises():
    learner = DeepEmbedder(InfiniteNetwork(5, 3), **{**OPTIONS, "early_stopping": True})
    assert_fit_raises(
        learner, "returns embeddings that are not finite. This happened before training"
    )


class FunctionDataset(Dataset):
    """A Dataset whose items are computed by a function of the row."""

    def __init__(self, item, size=96):
        self.item, self.size = item, size

    def __len__(self):
        return self.size

    def __getitem__(self, row):
        return self.item(row)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (lambda row: {"image": X[row]}, "must be a point .* got dict"),
        (lambda row: None, "got NoneType"),
        (lambda row: X[row, : 5 - (row == 50)], r"the same shape; got \(\d,\) and \(\d,\)"),
        (lambda row: X[row] * (np.nan if row == 50 else 1), "Points have to be finite"),
    ],
)
def test_items_that_are_not_points_raise(item, message):
    assert_fit_raises(DeepEmbedder(**OPTIONS), message, X=FunctionDataset(item))


def test_a_dataset_to_transform_must_be_finite_and_not_empty():
    learner = DeepEmbedder(**OPTIONS).fit(X, Y)
    with pytest.raises(ValueError, match="2 of 96 embeddings are not finite"):
        learner.transform(FunctionDataset(lambda row: X[row] * (np.nan if row in (5, 95) else 1)))
    with pytest.raises(ValueError, match="The Dataset is empty"):
        learner.transform(FunctionDataset(lambda row: X[row], size=0))
