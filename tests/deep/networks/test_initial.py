"""The initial weights of the default networks: Euclid, or a whitening within classes."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA

from skdml import DeepEmbedder
from skdml.deep import ConvEmbedder, ResidualEmbedder
from skdml.deep.networks import initial
from skdml.deep.networks.initial import (
    choose_start,
    leave_out_folds,
    span_coordinates,
    within_class_whitening,
)
from skdml.deep.networks.modules import edges
from skdml.metrics import map_at_r


def make_classes(n_classes, *, nuisance, n_per_class=12, n_features=6, seed=0):
    """Classes with standard deviation 1 in all directions but two, and `nuisance` in those two."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n_classes), n_per_class)
    scales = np.array([nuisance, nuisance, *[1] * (n_features - 2)])
    centres = 2 * rng.normal(size=(n_classes, n_features))
    X = centres[codes] + rng.normal(size=(len(codes), n_features)) * scales
    order = rng.permutation(len(codes))
    return X[order], codes[order]


def slow_whitening(X, codes, shrinkage):
    S = np.zeros((X.shape[1], X.shape[1]))
    for x, code in zip(X, codes, strict=True):
        residual = x - X[codes == code].mean(axis=0)
        S += np.outer(residual, residual) / len(X)
    M = S / np.linalg.norm(S, 2) + shrinkage * np.eye(len(S))
    return np.linalg.inv(M)  # A A


@pytest.mark.parametrize("shrinkage", [0.01, 1.0, 100.0])
def test_whitening_is_the_formula(shrinkage):
    X, codes = make_classes(4, nuisance=5)
    codes = codes * 3  # codes may have gaps
    A = within_class_whitening(X + 100, codes, shrinkage)
    assert_allclose(A, A.T, atol=1e-12)
    assert_allclose(A @ A, slow_whitening(X, codes, shrinkage), rtol=1e-8)


def test_classes_of_one_point_give_the_identity():
    X = np.random.default_rng(0).normal(size=(5, 3))
    assert_array_equal(within_class_whitening(X, np.arange(5), 0.1), np.eye(3))


@pytest.mark.parametrize("n_classes", [4, 7, 13])
def test_whole_classes_are_left_out_once(n_classes):
    codes = np.random.default_rng(0).permutation(np.repeat(np.arange(n_classes), 5))
    seen = []
    for train, queries, unseen_classes in leave_out_folds(codes, np.random.default_rng(0)):
        assert unseen_classes
        assert not np.isin(codes[queries], codes[train]).any()
        assert_array_equal(np.sort(np.concatenate([train, queries])), np.arange(len(codes)))
        classes = np.unique(codes[queries])
        assert len(classes) >= 2
        seen += [*classes]
    assert sorted(seen) == [*range(n_classes)]


def test_rows_are_left_out_once_if_classes_are_few():
    codes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], 7))
    seen = []
    for train, queries, unseen_classes in leave_out_folds(codes, np.random.default_rng(0)):
        assert not unseen_classes
        assert not np.isin(queries, train).any()
        assert np.isin(codes[queries], codes[train]).all()
        seen += [*queries]
    assert sorted(seen) == [*range(len(codes))]


def test_whole_groups_are_left_out():
    rng = np.random.default_rng(0)
    codes, groups = rng.integers(3, size=84), rng.integers(12, size=84)
    seen = []
    for train, queries, unseen_classes in leave_out_folds(codes, np.random.default_rng(0), groups):
        assert not unseen_classes
        assert not set(groups[queries]) & set(groups[train])
        assert_array_equal(np.sort(np.concatenate([train, queries])), np.arange(84))
        seen += [*np.unique(groups[queries])]
    assert sorted(seen) == [*range(12)]
    assert [
        *leave_out_folds(codes, np.random.default_rng(0), groups=codes)
    ] == []  # no class occurs in two groups


@pytest.mark.parametrize("seed", range(3))
def test_left_out_groups_give_a_better_start_than_left_out_rows(seed):
    # Two classes of 20 persons with 10 points each. Persons of a class differ in 40 directions,
    # more than there are known persons.
    rng = np.random.default_rng(seed)
    class_of_person = np.repeat([0, 1], 20)
    centres = 1.5 * rng.normal(size=(2, 40))[class_of_person] + 3 * rng.normal(size=(40, 40))
    groups = np.repeat(np.arange(40), 10)
    codes = class_of_person[groups]
    X = centres[groups] + 0.3 * rng.normal(size=(400, 40))
    known = groups % 20 < 4
    found = {}
    for name, given in {"groups": groups[known], "rows": None}.items():
        _, shrinkage = choose_start([X[known]], codes[known], np.random.default_rng(0), given)
        A = within_class_whitening(X[known], codes[known], shrinkage)
        found[name] = map_at_r(X[~known] @ A, codes[~known], X[known] @ A, codes[known])
    euclid = map_at_r(X[~known], codes[~known], X[known], codes[known])
    assert found["groups"] > found["rows"] + 0.03
    assert found["groups"] > euclid + 0.03


@pytest.mark.parametrize("n_features", [5, 12, 30])
def test_span_coordinates_keep_inner_products(n_features):
    X = np.random.default_rng(0).normal(size=(12, n_features))
    coordinates = span_coordinates(X)
    assert coordinates.shape == (12, min(12, n_features))
    assert_allclose(coordinates @ coordinates.T, X @ X.T, atol=1e-12)


def test_more_columns_of_the_same_rank_do_not_change_the_choice():
    X, codes = make_classes(8, nuisance=20)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(200, 200)))[0]
    wide = X @ rotation[:6]
    choice = choose_start([X], codes, np.random.default_rng(0))
    assert choice != initial.EUCLID
    assert choose_start([wide], codes, np.random.default_rng(0)) == choice


@pytest.mark.parametrize("n_classes", [2, 8])
def test_a_large_variance_within_all_classes_is_whitened(n_classes):
    X, codes = make_classes(n_classes, nuisance=20, n_per_class=40)
    index, shrinkage = choose_start([X], codes, np.random.default_rng(0))
    assert index == 0
    assert shrinkage < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_without_a_clear_gain_the_start_is_euclid(seed):
    rng = np.random.default_rng(seed)
    noise, codes = rng.normal(size=(30, 40)), np.arange(30) % 10
    assert choose_start([noise, noise[:, ::-1]], codes, np.random.default_rng(0)) == initial.EUCLID


@pytest.mark.parametrize("codes", [[0, 0, 1, 2], [0, 1, 2, 3], [0, 0, 1, 1]])
def test_tiny_data_sets_have_a_start(codes):
    X = np.random.default_rng(0).normal(size=(4, 2))
    assert choose_start([X], np.array(codes), np.random.default_rng(0))[1] > 0


def test_the_network_starts_at_the_chosen_map(monkeypatch):
    X, codes = make_classes(8, nuisance=20)
    monkeypatch.setattr("skdml.deep.networks.modules.choose_start", lambda *args: (0, 0.1))
    net = ResidualEmbedder(6, 6)
    net.initialize_from(torch.from_numpy(X).float(), codes)
    Z = net(torch.from_numpy(X).float()).detach()
    expected = torch.pdist(torch.from_numpy(X @ within_class_whitening(X, codes, 0.1)))
    assert_allclose(torch.pdist(Z), expected / expected.mean(), rtol=1e-3)


def test_images_start_from_edges_if_these_are_chosen(monkeypatch):
    monkeypatch.setattr("skdml.deep.networks.modules.choose_start", lambda *args: (1, 0.3))
    X = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 2, 9, 7))).float()
    codes = np.arange(60) % 6
    net = ConvEmbedder((2, 9, 7), 300, channels=(4,), n_hidden=8)
    net.initialize_from(X, codes)
    E = edges(X).double().numpy()
    P = PCA(59).fit_transform(E)  # keeps the distances of the edges
    expected = torch.pdist(torch.from_numpy(P @ within_class_whitening(P, codes, 0.3)))
    assert_allclose(torch.pdist(net(X)).detach(), expected / expected.mean(), rtol=1e-3)
    assert not net.weight[:, : 2 * 9 * 7].any()


def test_the_representation_with_the_best_retrieval_is_chosen():
    X, codes = make_classes(8, nuisance=1, n_per_class=40)
    noise = np.random.default_rng(1).normal(size=X.shape)
    assert choose_start([noise, X], codes, np.random.default_rng(0))[0] == 1
    assert choose_start([X, noise], codes, np.random.default_rng(0))[0] == 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 9, 17), (3, 28, 28)])
def test_edges_are_means_over_cells(shape):
    X = np.random.default_rng(0).normal(size=(2, *shape))
    channels, height, width = shape
    rises = np.zeros((2, 4, height, width))
    for i, j in np.ndindex(height, width):
        up, low = max(i - 1, 0), min(i + 1, height - 1)
        left, right = max(j - 1, 0), min(j + 1, width - 1)
        for c in range(channels):
            across = X[:, c, i, right] - X[:, c, i, left]
            down = X[:, c, low, j] - X[:, c, up, j]
            for k, rise in enumerate((across, -across, down, -down)):
                rises[:, k, i, j] += np.maximum(rise, 0) / channels
    r, s = max(1, height // 8), max(1, width // 8)
    cells = [
        rises[:, k, max(i - r, 0) : i + r + 1, max(j - s, 0) : j + s + 1].mean(axis=(1, 2))
        for k in range(4)
        for i in range(0, height, r)
        for j in range(0, width, s)
    ]
    found = edges(torch.from_numpy(X))
    assert_allclose(found, np.stack(cells, axis=1), atol=1e-12)


def test_a_learner_passes_classes_to_networks_that_accept_them():
    class AcceptsClasses(torch.nn.Linear):
        def __init__(self, n_features, n_components):
            super().__init__(n_features, n_components)

        def initialize_from(self, X, y):
            received.append((X.numpy(), y))

    class IgnoresClasses(AcceptsClasses):
        def initialize_from(self, X):
            received.append((X.numpy(), None))

    X, codes = make_classes(8, nuisance=1)
    X = X.astype(np.float32)
    options = {"max_epochs": 1, "random_state": 0, "refit": False}
    received = []
    for module in (AcceptsClasses, IgnoresClasses):
        DeepEmbedder(module, **options).fit(X, codes)
    (points, classes), (same_points, none) = received
    assert none is None
    assert_array_equal(points, same_points)
    rows = [np.flatnonzero((point == X).all(axis=1))[0] for point in points]
    assert_array_equal(codes[rows], classes)
    assert len(np.unique(classes)) < 8  # without the held-out classes


def test_a_learner_passes_groups_to_its_network(monkeypatch):
    X, codes = make_classes(3, nuisance=1)
    groups = np.random.default_rng(0).integers(9, size=len(codes))
    received = []

    def choose(points, codes, rng, groups):
        received.append((codes, groups))
        return initial.EUCLID

    monkeypatch.setattr("skdml.deep.networks.modules.choose_start", choose)
    options = {"max_epochs": 1, "random_state": 0, "early_stopping": False}
    DeepEmbedder(**options).fit(X, codes, groups=groups)
    DeepEmbedder(**options).fit(X, codes)
    (codes_with, grouped), (codes_without, none) = received
    assert none is None
    assert_array_equal(codes_with, codes_without)
    assert sorted(zip(codes_with, grouped, strict=True)) == sorted(zip(codes, groups, strict=True))


def test_a_subset_of_points_gives_the_same_choice(monkeypatch):
    X, codes = make_classes(8, nuisance=20, n_per_class=40)
    from_all = choose_start([X], codes, np.random.default_rng(0))
    monkeypatch.setattr(initial, "MAX_SCORED_POINTS", 160)
    assert choose_start([X], codes, np.random.default_rng(0)) == from_all
