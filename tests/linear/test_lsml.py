"""LSML: its objective equals plain loops, and its minimum satisfies the optimality conditions."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import check_grad
from sklearn.datasets import load_iris

from skdml import LSML
from skdml.constraints import draw_quadruplets
from skdml.linear._pairs import PairDistances
from skdml.linear.lsml import lsml_objective, residual_loss

IRIS, SPECIES = load_iris(return_X_y=True)
POINTS = IRIS[::10, :3] - IRIS[::10, :3].mean(axis=0)
FIRST, SECOND = np.triu_indices(15, 1)
SAME = SPECIES[::10][FIRST] == SPECIES[::10][SECOND]
SAME_ROWS, DIFFERENT_ROWS = np.flatnonzero(SAME)[:25], np.flatnonzero(~SAME)[::3][:25]
# Different pairs first, so that nearly all comparisons are violated at the start.
ROWS = np.column_stack(
    [FIRST[DIFFERENT_ROWS], SECOND[DIFFERENT_ROWS], FIRST[SAME_ROWS], SECOND[SAME_ROWS]]
)
QUADRUPLETS = POINTS[ROWS]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def reference_objective(M, quadruplets, weight):
    total = np.trace(M) - np.log(np.linalg.det(M)) - len(M)
    for (a, b, c, d), w in zip(quadruplets, weight, strict=True):
        near, far = np.sqrt((a - b) @ M @ (a - b)), np.sqrt((c - d) @ M @ (c - d))
        total += w * max(0, near - far) ** 2
    return total


def all_pairs():
    return PairDistances(POINTS, *ROWS.T.reshape(2, 2, -1).swapaxes(0, 1).reshape(2, -1))


def learner_of_the_paper(weight=1.0, **options):
    """LSML with this weight for each quadruplet, in the unit of the points."""
    gamma = weight * len(QUADRUPLETS) / len(np.unique(ROWS))
    options = {"prior": np.eye(3), "tol": 0} | options
    return LSML(gamma=gamma, supervision="quadruplets", **options)


# The objective


def test_objective_equals_the_formula_of_the_paper(rng):
    A, weight = np.eye(3) + 0.3 * rng.normal(size=(3, 3)), rng.random(25)
    value, _ = lsml_objective(A, all_pairs(), weight)
    expected = reference_objective(A.T @ A, QUADRUPLETS, weight)
    assert value == pytest.approx(expected, rel=1e-12)


def test_gradient_equals_finite_differences(rng):
    pairs, weight = all_pairs(), rng.random(25)

    def parts(a):
        value, gradient = lsml_objective(a.reshape(3, 3), pairs, weight)
        return value, gradient.ravel()

    for _ in range(3):
        a = (np.eye(3) + 0.3 * rng.normal(size=(3, 3))).ravel()
        error = check_grad(lambda a: parts(a)[0], lambda a: parts(a)[1], a)
        assert error < 1e-6 * np.linalg.norm(parts(a)[1])


def test_distances_of_zero_have_finite_slopes():
    loss, *slopes = residual_loss(np.array([0.0, 4.0, 0.0]), np.array([1.0, 1.0, 0.0]))
    assert_allclose(loss, [0, 1, 0])
    assert_allclose(slopes[0], [0, 0.5, 0])
    assert_allclose(slopes[1], [0, -1, 0])


# The minimum


def test_gradient_with_respect_to_m_is_zero_at_the_minimum():
    learner = learner_of_the_paper().fit(QUADRUPLETS)
    M = learner.get_mahalanobis_matrix()
    gradient = np.eye(3) - np.linalg.inv(M)
    for a, b, c, d in QUADRUPLETS:
        near, far = np.sqrt((a - b) @ M @ (a - b)), np.sqrt((c - d) @ M @ (c - d))
        if near > far:
            gradient += (1 - far / near) * np.outer(a - b, a - b)
            gradient += (1 - near / far) * np.outer(c - d, c - d)
    assert abs(gradient).max() < 1e-4 * abs(np.linalg.inv(M)).max()


def test_minimum_is_near_that_of_metric_learn():
    # metric_learn 0.7.0 with scikit-learn 1.5.2: LSML(tol=1e-12, max_iter=100000).fit(
    # QUADRUPLETS[:, [2, 3, 0, 1]]). Its weights sum to 1, and its step sizes are on a coarse grid.
    M = [
        [1.00712945, -0.00636342, -0.01620321],
        [-0.00636342, 0.98727173, -0.0159109],
        [-0.01620321, -0.0159109, 0.98670958],
    ]
    learner = learner_of_the_paper(1 / 25).fit(QUADRUPLETS[:, [2, 3, 0, 1]])
    assert_allclose(learner.get_mahalanobis_matrix(), M, atol=1e-3)


def test_minimum_is_below_that_of_metric_learn():
    # The same with QUADRUPLETS unchanged: the line search of metric_learn stops after three steps.
    M = np.array(
        [
            [0.94877785, 0.06474734, -0.29182204],
            [0.06474734, 1.02152594, 0.10297342],
            [-0.29182204, 0.10297342, 0.19477703],
        ]
    )
    learner = learner_of_the_paper(1 / 25).fit(QUADRUPLETS)
    weight = np.full(25, 1 / 25)
    ours, theirs = (
        reference_objective(m, QUADRUPLETS, weight) for m in (learner.get_mahalanobis_matrix(), M)
    )
    assert ours == pytest.approx(learner.loss_curve_[-1], rel=1e-9)
    assert ours < theirs < learner.loss_curve_[0]


def test_loss_curve_falls_from_the_prior():
    learner = LSML(random_state=0).fit(IRIS, SPECIES)
    assert len(learner.loss_curve_) == learner.n_iter_ + 1
    assert (np.diff(learner.loss_curve_) <= 0).all()
    assert learner.loss_curve_[-1] < 0.9 * learner.loss_curve_[0]


def test_satisfied_comparisons_leave_the_prior_unchanged():
    points = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [0.0, 9.0]])
    learner = LSML(supervision="quadruplets", prior=np.eye(2)).fit([points])
    assert_allclose(learner.get_mahalanobis_matrix(), np.eye(2))
    assert learner.n_iter_ == 1
    assert learner.loss_curve_.tolist() == [0, 0]


# Quadruplets and their weights


def test_labels_equal_the_quadruplets_drawn_from_them():
    by_labels = LSML(random_state=0, n_constraints=300).fit(IRIS, SPECIES)
    rows = draw_quadruplets(SPECIES, 300, np.random.RandomState(0))[::-1]
    given = LSML(supervision="quadruplets").fit(IRIS[rows])
    assert_allclose(given.components_, by_labels.components_, rtol=1e-7, atol=1e-9)


def test_integer_weights_equal_repeated_quadruplets():
    weights = np.arange(25) % 3
    whole = learner_of_the_paper().fit(np.repeat(QUADRUPLETS, weights, axis=0))
    gamma = whole.gamma * 25 / weights.sum()
    used = len(np.unique(ROWS[weights > 0])) / len(np.unique(ROWS))
    whole = whole.set_params(gamma=gamma).fit(np.repeat(QUADRUPLETS, weights, axis=0))
    weighted = learner_of_the_paper().set_params(gamma=gamma * used)
    weighted.fit(QUADRUPLETS, weights=weights)
    assert_allclose(weighted.components_, whole.components_, rtol=1e-5, atol=1e-6)
    scaled = learner_of_the_paper().fit(QUADRUPLETS, weights=np.full(25, 7.0))
    assert_allclose(scaled.components_, learner_of_the_paper().fit(QUADRUPLETS).components_)


def test_quadruplets_with_equal_far_points_are_left_out():
    equal = QUADRUPLETS[:3].copy()
    equal[:, 3] = equal[:, 2]
    weights = (np.arange(25) % 3) / 0.96  # on average 1
    learner = learner_of_the_paper().fit(QUADRUPLETS, weights=weights)
    again = learner_of_the_paper().set_params(gamma=learner.gamma * 28 / 25)
    again.fit(np.concatenate([equal, QUADRUPLETS]), weights=np.append(np.ones(3), weights))
    assert_allclose(again.components_, learner.components_, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="all 3 pairs are equal"):
        learner_of_the_paper().fit(equal)


def test_distance_does_not_depend_on_the_unit():
    d = LSML(random_state=0).fit(IRIS, SPECIES).transform(IRIS)
    for unit in (1e-6, 1e6):
        other = LSML(random_state=0).fit(unit * IRIS, SPECIES).transform(unit * IRIS)
        assert_allclose(other, d, rtol=1e-5, atol=1e-6 * abs(d).max())


def test_n_components_keeps_the_leading_axes():
    whole = LSML(random_state=0).fit(IRIS, SPECIES)
    assert_allclose(LSML(2, random_state=0).fit(IRIS, SPECIES).components_, whole.components_[:2])


def test_float32_is_kept_and_gives_nearly_the_same_map():
    single = LSML(random_state=0).fit(IRIS.astype(np.float32), SPECIES)
    double = LSML(random_state=0).fit(IRIS, SPECIES)
    assert single.components_.dtype == np.float32
    assert_allclose(single.components_, double.components_, rtol=0.02, atol=0.01)


@pytest.mark.parametrize(
    ("parameters", "weights", "message"),
    [
        ({"gamma": 0.0}, None, "gamma == 0.0, must be > 0"),
        ({"prior": "unit"}, None, "prior='unit' is unknown"),
        ({"n_components": 4}, None, "from 1 to 3"),
        ({"supervision": "pairs"}, None, "unknown to LSML"),
        ({}, np.ones(24), r"for each of the 25 quadruplets, not all 0; got shape \(24,\)"),
        ({}, -np.ones(25), "one number >= 0"),
        ({}, np.zeros(25), "not all 0"),
    ],
)
def test_invalid_parameters_and_weights_raise(parameters, weights, message):
    with pytest.raises(ValueError, match=message):
        LSML(**{"supervision": "quadruplets"} | parameters).fit(QUADRUPLETS, weights=weights)


def test_weights_with_labels_raise():
    with pytest.raises(ValueError, match='weights need supervision="quadruplets"'):
        LSML().fit(IRIS, SPECIES, weights=np.ones(150))
