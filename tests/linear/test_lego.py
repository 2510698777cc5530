"""LEGO: its step solves the stated problem, and batches equal one fit."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize_scalar
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

from skdml import LEGO
from skdml.constraints import draw_pairs
from skdml.linear.lego import exact_step, update_in_place

X, Y = load_wine(return_X_y=True)
X = StandardScaler().fit_transform(X)
ROWS = np.random.RandomState(0).randint(len(X), size=(400, 2))
ROWS = ROWS[ROWS[:, 0] != ROWS[:, 1]]
PAIRS, SAME = X[ROWS], Y[ROWS[:, 0]] == Y[ROWS[:, 1]]


def spd(rng, d):
    Z = rng.normal(size=(2 * d, d))
    return Z.T @ Z / (2 * d) + 0.1 * np.eye(d)


@pytest.mark.parametrize("eta", [1e-12, 0.01, 0.7, 1e9])
@pytest.mark.parametrize("target", [1e-9, 0.5, 30.0])
def test_step_solves_the_implicit_equation(eta, target):
    for squared in (1e-6, 1.0, 7.0):
        after = exact_step(squared, target, eta)
        # 1 / after = 1 / squared + eta (after - target): A⁻¹ = A_t⁻¹ + eta (after - target) z zᵀ.
        terms = [1 / after, -1 / squared, eta * target, -eta * after]
        assert abs(sum(terms)) < 1e-9 * max(map(abs, terms))
        low, high = sorted([squared, target])
        assert low * (1 - 1e-9) <= after <= high * (1 + 1e-9)


@pytest.mark.parametrize("is_same", [True, False])
def test_step_minimises_divergence_and_loss(is_same):
    rng = np.random.RandomState(1)
    A, z, eta = spd(rng, 3), rng.normal(size=3), 0.3
    before, inverse = A.copy(), np.linalg.inv(A)
    squared = z @ A @ z
    unit = 4 * squared / (0.5 if is_same else 1.5) * (1 / 16 if is_same else 1)
    target = (0.5 if is_same else 1.5) * unit

    def cost(M):
        divergence = np.trace(M @ inverse) - np.linalg.slogdet(M @ inverse)[1] - 3
        return divergence + eta / unit**2 / 2 * (z @ M @ z - target) ** 2

    after = np.array(A, order="F")
    assert (
        update_in_place(after, np.zeros((3, 3), order="F"), z[None], [is_same], [unit], 0, 0.5, eta)
        == 1
    )
    assert_allclose(after, after.T, rtol=1e-12)
    for _ in range(20):  # the cost is stationary in random directions
        step = rng.normal(size=(3, 3))
        step += step.T
        slope = (cost(after + 1e-6 * step) - cost(after - 1e-6 * step)) / 2e-6
        assert abs(slope) < 1e-6
    Az = before @ z
    best = minimize_scalar(
        lambda c: cost(before + c * np.outer(Az, Az)),
        bounds=(-0.999 / squared, 1e3),
        method="bounded",
    )
    assert cost(after) <= best.fun + 1e-9
    assert cost(after) < cost(before)


def reference_lego(pairs, same, eta, margin):
    d = pairs.shape[2]
    A, matrices, squares, n_updates = np.eye(d), [], [], 0
    for (x, y), is_same in zip(pairs, same, strict=True):
        z = x - y
        squares.append(z @ z)
        unit = np.mean(squares)
        squared, target = z @ A @ z, (1 - margin if is_same else 1 + margin) * unit
        if (is_same and squared > target) or (not is_same and squared < target):
            step = eta / unit**2
            b = 1 - step * target * squared
            after = (np.sqrt(b**2 + 4 * step * squared**2) - b) / (2 * step * squared)
            change = step * (after - target) / (1 + step * (after - target) * squared)
            A = A - change * np.outer(A @ z, A @ z)
            n_updates += 1
        matrices.append(A)
    return np.mean(matrices, axis=0), n_updates


@pytest.mark.parametrize(("eta", "margin"), [(0.1, 0.5), (1.0, 0.0), (0.01, 0.9)])
def test_fit_equals_a_plain_loop_over_the_pairs(eta, margin):
    learner = LEGO(eta=eta, margin=margin, prior_share=0, supervision="pairs").fit(PAIRS, SAME)
    M, n_updates = reference_lego(PAIRS, SAME, eta, margin)
    assert_allclose(learner.get_mahalanobis_matrix(), M, rtol=1e-8, atol=1e-10)
    mixed = LEGO(eta=eta, margin=margin, prior_share=0.3, supervision="pairs").fit(PAIRS, SAME)
    M = 0.7 * M + 0.3 * np.eye(len(M))
    assert_allclose(mixed.get_mahalanobis_matrix(), M, rtol=1e-8, atol=1e-10)
    assert learner.n_updates_ == n_updates > 0
    assert learner.n_pairs_seen_ == len(PAIRS)


@pytest.mark.parametrize("cuts", [[200], [1, 2, 3], [7, 100, 350]])
def test_batches_of_pairs_equal_one_fit(cuts):
    whole = LEGO(supervision="pairs").fit(PAIRS, SAME)
    parts = LEGO(supervision="pairs")
    for pairs, same in zip(np.split(PAIRS, cuts), np.split(SAME, cuts), strict=True):
        parts.partial_fit(pairs, same)
    M = whole.get_mahalanobis_matrix()
    assert_allclose(parts.get_mahalanobis_matrix(), M, rtol=0, atol=1e-10 * abs(M).max())
    assert (parts.n_pairs_seen_, parts.n_updates_) == (whole.n_pairs_seen_, whole.n_updates_)


def test_block_size_does_not_change_the_result(monkeypatch):
    whole = LEGO(supervision="pairs").fit(PAIRS, SAME)
    monkeypatch.setattr("skdml.linear.lego._BLOCK", 50)
    blocks = LEGO(supervision="pairs").fit(PAIRS, SAME)
    assert_allclose(blocks.components_, whole.components_, atol=1e-12)


def test_labels_equal_pairs_drawn_in_random_order():
    rng = np.random.RandomState(5)
    pairs = draw_pairs(Y, 10 * len(X), rng)
    order = rng.permutation(len(pairs[0]))
    first, second, same = (part[order] for part in pairs)
    by_labels = LEGO(random_state=5).fit(X, Y)
    by_pairs = LEGO(supervision="pairs").fit(np.stack([X[first], X[second]], axis=1), same)
    M = by_labels.get_mahalanobis_matrix()
    assert_allclose(by_pairs.get_mahalanobis_matrix(), M, rtol=1e-9, atol=1e-12)


def test_stream_of_labels_is_repeatable_and_its_generator_continues():
    def stream(learner):
        return learner.partial_fit(X[::2], Y[::2]).partial_fit(X[::2], Y[::2])

    one, other = (stream(LEGO(random_state=0)) for _ in range(2))
    assert_array_equal(one.components_, other.components_)
    rng, by_pairs = np.random.RandomState(0), LEGO(supervision="pairs")
    for _ in range(2):
        drawn = draw_pairs(Y[::2], 10 * len(X[::2]), rng)
        order = rng.permutation(len(drawn[0]))
        first, second, same = (part[order] for part in drawn)
        by_pairs.partial_fit(np.stack([X[::2][first], X[::2][second]], axis=1), same)
    assert_allclose(one.get_mahalanobis_matrix(), by_pairs.get_mahalanobis_matrix(), atol=1e-10)
    assert one.n_pairs_seen_ == by_pairs.n_pairs_seen_
    once = LEGO(random_state=0).partial_fit(X[::2], Y[::2])
    resumed = pickle.loads(pickle.dumps(once)).partial_fit(X[::2], Y[::2])
    assert_array_equal(resumed.components_, one.components_)
    assert_array_equal(once.fit(X, Y).components_, LEGO(random_state=0).fit(X, Y).components_)


def test_batches_may_hold_one_kind_or_one_pair():
    learner = LEGO(supervision="pairs")
    learner.partial_fit(PAIRS[:1], [1]).partial_fit(PAIRS[1:5], [-1] * 4)
    assert learner.n_pairs_seen_ == 5
    by_labels = LEGO(random_state=0).partial_fit(X[:20], [0] * 20).partial_fit(X[:1], [3])
    assert by_labels.n_pairs_seen_ == 190
    for y in (np.ones(len(PAIRS)), np.zeros(len(PAIRS))):
        with pytest.raises(ValueError, match="both kinds"):
            LEGO(supervision="pairs").fit(PAIRS, y)


def test_failing_batch_changes_nothing():
    learner = LEGO(random_state=0).partial_fit(X, Y)
    before = learner.components_.copy()
    for points, labels in ((np.full_like(X, np.nan), Y), (X[:, :3], Y), (X, None)):
        with pytest.raises(ValueError, match=r"NaN|features|requires y"):
            learner.partial_fit(points, labels)
    assert_array_equal(learner.components_, before)
    again = LEGO(random_state=0).partial_fit(X, Y)
    assert_array_equal(learner.partial_fit(X, Y).components_, again.partial_fit(X, Y).components_)


def test_same_pairs_move_nearer_relative_to_different_pairs():
    learner = LEGO(prior_share=0, supervision="pairs").fit(PAIRS, SAME)
    before, after = np.linalg.norm(PAIRS[:, 0] - PAIRS[:, 1], axis=1), learner.pair_distance(PAIRS)
    ratio = [d[SAME].mean() / d[~SAME].mean() for d in (before, after)]
    assert ratio[1] < 0.9 * ratio[0]


def test_pairs_of_equal_points_are_ignored():
    pairs = np.concatenate([PAIRS, np.repeat(PAIRS[:3, :1], 2, axis=1)])
    learner = LEGO(supervision="pairs").fit(pairs, np.append(SAME, [True, False, False]))
    assert learner.n_updates_ == LEGO(supervision="pairs").fit(PAIRS, SAME).n_updates_
    with pytest.warns(UserWarning, match="All rows that LEGO learned from are equal"):
        flat = LEGO(random_state=0).fit(np.ones((6, 2)), [0, 0, 0, 1, 1, 1])
    assert_allclose(flat.get_mahalanobis_matrix(), np.eye(2))


def test_distance_does_not_depend_on_the_unit():
    M = LEGO(supervision="pairs").fit(PAIRS, SAME).get_mahalanobis_matrix()
    for unit in (1e-6, 1e6):
        scaled = LEGO(supervision="pairs").fit(unit * PAIRS, SAME).get_mahalanobis_matrix()
        assert_allclose(scaled, M, rtol=1e-6, atol=1e-9)


def test_matrix_stays_positive_definite_in_long_streams():
    rng = np.random.RandomState(0)
    learner = LEGO(eta=10.0, supervision="pairs")
    for _ in range(20):
        order = rng.permutation(len(PAIRS))
        learner.partial_fit(PAIRS[order], SAME[order])
    values = np.linalg.eigvalsh(learner.get_mahalanobis_matrix())
    assert values[0] > 0
    assert np.isfinite(values).all()


def test_n_components_and_float32():
    full = LEGO(random_state=0).fit(X, Y).components_
    assert_allclose(LEGO(2, random_state=0).fit(X, Y).components_, full[:2])
    assert LEGO(random_state=0).fit(X.astype(np.float32), Y).components_.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eta", 0.0),
        ("margin", 1.0),
        ("margin", -0.1),
        ("prior_share", 1.1),
        ("n_components", 14),
        ("n_constraints", 0),
        ("supervision", "triplets"),
    ],
)
def test_invalid_parameters_raise(name, value):
    learner = LEGO(**{name: value})
    for call in (learner.fit, clone(learner).partial_fit):
        with pytest.raises(ValueError, match=name):
            call(X, Y)
    assert not hasattr(learner, "components_")


def test_fit_refuses_classes_of_one_point():
    with pytest.raises(ValueError, match="single sample"):
        LEGO().fit(X[:3], [0, 1, 2])
