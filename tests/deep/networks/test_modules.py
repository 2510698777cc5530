"""The default networks start as the Euclidean distance on principal axes; their branch is zero."""

import numpy as np
import pytest
import torch
from helpers import CountingDataset
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA
from torch import nn

from skdml import DeepSiameseEmbedder, DeepTripletEmbedder
from skdml.deep import ConvEmbedder, ResidualEmbedder
from skdml.deep.networks.modules import principal_axes


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def initialized(net, X):
    net.initialize_from(X)
    return net.eval()


def distances(X):
    return torch.pdist(torch.as_tensor(X, dtype=torch.float64).flatten(1))


TABLES = {
    "tall": random(60, 5) * torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0]),
    "wide": random(7, 30),
    "far away": random(60, 5) + 100,
    "constant columns": torch.cat([random(60, 3), torch.full((60, 2), 0.1)], 1),
    "duplicates": random(6, 4).repeat(5, 1),
}


@pytest.mark.parametrize("n_extra", [0, 4])
@pytest.mark.parametrize("X", TABLES.values(), ids=TABLES)
def test_table_start_is_an_isometry_with_mean_distance_one(X, n_extra):
    net = initialized(ResidualEmbedder(X.shape[1], X.shape[1] + n_extra, n_hidden=8), X)
    assert not net.branch(X).any()
    Z = net(X).detach()
    assert Z.shape == (len(X), X.shape[1] + n_extra)
    assert distances(Z).mean() == pytest.approx(1, rel=1e-4)
    expected = distances(X)
    assert_allclose(distances(Z), expected / expected.mean(), atol=1e-4)


def test_narrow_start_is_the_pca_projection():
    X = TABLES["tall"] + 5
    Z = initialized(ResidualEmbedder(5, 2), X)(X).detach()
    expected = distances(PCA(2).fit_transform(X.double().numpy()))
    assert_allclose(distances(Z), expected / expected.mean(), rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (4, 1, 1)])
def test_image_start_is_an_isometry(shape):
    X = random(40, *shape)
    net = initialized(ConvEmbedder(shape, int(np.prod(shape)), channels=(4,), n_hidden=8), X)
    assert not net.branch(X).any()
    expected = distances(X)
    assert_allclose(distances(net(X).detach()), expected / expected.mean(), rtol=1e-4)


def test_large_images_are_averaged_down_on_the_linear_path():
    X = random(20, 1, 24, 16)
    net = initialized(ConvEmbedder((1, 24, 16), 10, channels=(4, 4), n_hidden=8, max_size=8), X)
    assert net.weight.shape == (10, 64 + 4 * 64)  # pixels, and four edge directions
    assert net(X).shape == (20, 10)


def test_a_constant_column_is_not_scaled():
    X = TABLES["constant columns"]
    net = initialized(ResidualEmbedder(5, 5, n_hidden=8), X)
    assert_allclose(net.branch[0].scale[3:], 1)
    X = X.clone()
    X[:, 4] = 0.2
    assert net.branch[0](X).abs().max() < 10


def test_branch_reads_standardised_features_and_channels():
    scale = torch.tensor([1.0, 10.0, 0.1])
    for net, X, shared in [
        (ResidualEmbedder(3, 2, n_hidden=8), random(60, 3) * scale + 5, 0),
        (
            ConvEmbedder((3, 5, 7), 2, channels=(4,), n_hidden=8),
            random(40, 3, 5, 7) * scale[:, None, None] + 5,
            (0, 2, 3),
        ),
    ]:
        standardised = initialized(net, X).branch[0](X).double()
        assert_allclose(standardised.mean(shared), 0, atol=1e-4)
        assert_allclose(standardised.std(shared, correction=0), 1, rtol=1e-4)


def test_equal_points_give_a_finite_start():
    for net, X in [
        (ResidualEmbedder(3, 3), torch.ones(9, 3)),
        (ResidualEmbedder(3, 3), torch.ones(1, 3)),
        (ConvEmbedder((1, 4, 4), 3), torch.ones(9, 1, 4, 4)),
    ]:
        assert not initialized(net, X)(X).any()


@pytest.mark.parametrize(("n", "d"), [(50, 6), (4, 20), (1, 5)])
def test_principal_axes_are_orthonormal_and_signed(n, d):
    axes = principal_axes(random(n, d), d)
    assert_allclose(axes @ axes.T, np.eye(d), atol=1e-5)
    assert (axes.gather(1, axes.abs().argmax(1, keepdim=True)) > 0).all()


def test_options_set_the_layers():
    net = ResidualEmbedder(4, 2, n_hidden=7, n_layers=3, dropout=0.3)
    widths = [layer.out_features for layer in net.branch if isinstance(layer, torch.nn.Linear)]
    assert widths == [7, 7, 7, 2]
    assert [layer.p for layer in net.branch if isinstance(layer, torch.nn.Dropout)] == [0.3] * 3
    net = ConvEmbedder((1, 8, 8), 2, channels=(3, 5), n_hidden=7, dropout=0.3)
    widths = [layer.out_channels for layer in net.branch if isinstance(layer, torch.nn.Conv2d)]
    assert widths == [3, 5]
    assert net.branch[-1].in_features == 7


def linear(n_features, n_components):
    return torch.nn.Linear(n_features, n_components)


@pytest.mark.parametrize(
    ("shape", "module", "expected"),
    [
        *[((5,), None, 5), ((70,), None, 70), ((800,), None, 768)],
        *[((1, 9, 9), None, 64), ((70,), linear, 64), ((5,), linear, 5)],
    ],
)
def test_default_width_is_768_for_tables_and_64_otherwise(shape, module, expected):
    X, y = np.random.default_rng(0).normal(size=(12, *shape)), np.arange(12) % 3
    options = {} if module else {"module__n_hidden": 4}
    learner = DeepTripletEmbedder(module, max_epochs=1, **options).fit(X, y)
    assert learner.transform(X).shape == (12, expected)
    assert learner.n_components_ == expected


def test_n_components_sets_the_width():
    X, y = np.random.default_rng(0).normal(size=(12, 70)), np.arange(12) % 3
    learner = DeepTripletEmbedder(max_epochs=1, n_components=3, module__n_hidden=4).fit(X, y)
    assert learner.transform(X).shape == (12, 3)


@pytest.mark.parametrize("shape", [(24, 24, 3), (8, 9, 1), (2, 8, 4)])
def test_images_with_channels_last_are_refused_with_the_transposition(shape):
    X = np.zeros((8, *shape), np.float32)
    learner = DeepTripletEmbedder(max_epochs=1)
    with pytest.raises(ValueError, match=r"channels last.*X\.transpose\(0, 3, 1, 2\)"):
        learner.fit(X, np.arange(8) % 2)
    assert not hasattr(learner, "feature_shape_")
    with pytest.raises(ValueError, match=r"image\.permute\(2, 0, 1\)"):
        learner.fit(CountingDataset(X), np.arange(8) % 2)
    pairs = X.reshape(4, 2, *shape)
    with pytest.raises(ValueError, match=r"X\.transpose\(0, 1, 4, 2, 3\)"):
        DeepSiameseEmbedder(supervision="pairs", max_epochs=1).fit(pairs, [0, 1, 0, 1])
    assert ConvEmbedder(np.moveaxis(X, 3, 1).shape[1:], 2)  # the transposition mends it


@pytest.mark.parametrize("shape", [(1, 6, 3), (3, 5, 1), (4, 5, 3), (2, 6, 6)])
def test_images_whose_first_axis_may_be_channels_are_accepted(shape):
    assert ConvEmbedder(shape, 2)(torch.zeros(2, *shape)).shape == (2, 2)


def test_a_network_of_ones_own_may_read_channels_last():
    X = np.random.default_rng(0).normal(size=(20, 6, 6, 3)).astype(np.float32)
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    options = {"max_epochs": 1, "early_stopping": False, "random_state": 0}
    assert DeepTripletEmbedder(network, **options).fit(X, np.arange(20) % 2).n_components_ == 2
