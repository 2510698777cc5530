"""LDML: its objective equals plain loops, and its minimum satisfies the optimality conditions."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import check_grad
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from skdml import LDML
from skdml.constraints import draw_pairs
from skdml.linear._pairs import PairDistances
from skdml.linear.ldml import ldml_objective, most_likely_bias

IRIS, SPECIES = load_iris(return_X_y=True)
POINTS = IRIS[::10, :3] - IRIS[::10, :3].mean(axis=0)
FIRST, SECOND = np.triu_indices(15, 1)
SAME = SPECIES[::10][FIRST] == SPECIES[::10][SECOND]
PAIRS = np.stack([POINTS[FIRST], POINTS[SECOND]], axis=1)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def reference_objective(M, b, pairs, same, weight):
    total = np.trace(M) - np.log(np.linalg.det(M)) - len(M)
    for (x, y), is_same in zip(pairs, same, strict=True):
        p = 1 / (1 + np.exp(-(b - (x - y) @ M @ (x - y))))
        total -= weight * np.log(p if is_same else 1 - p)
    return total


def learner_of_the_paper(weight=1.0, **options):
    """LDML with this weight for each pair, in the unit of the points."""
    gamma = weight * len(PAIRS) / len(POINTS)
    return LDML(**{"prior": np.eye(3), "tol": 0} | options, gamma=gamma, supervision="pairs")


def test_objective_equals_the_formula_of_the_paper(rng):
    A = np.eye(3) + 0.3 * rng.normal(size=(3, 3))
    pairs = PairDistances(POINTS, FIRST, SECOND)
    value, _ = ldml_objective(np.append(A, 1.3), pairs, SAME, 0.7)
    assert value == pytest.approx(reference_objective(A.T @ A, 1.3, PAIRS, SAME, 0.7), rel=1e-12)


def test_gradient_equals_finite_differences(rng):
    pairs = PairDistances(POINTS, FIRST, SECOND)
    for _ in range(3):
        at = np.append(np.eye(3) + 0.3 * rng.normal(size=(3, 3)), rng.normal())
        gradient = ldml_objective(at, pairs, SAME, 0.7)[1]
        error = check_grad(
            lambda p: ldml_objective(p, pairs, SAME, 0.7)[0],
            lambda p: ldml_objective(p, pairs, SAME, 0.7)[1],
            at,
        )
        assert error < 1e-6 * np.linalg.norm(gradient)


def test_distant_pairs_do_not_overflow():
    pairs = PairDistances(1e3 * POINTS, FIRST, SECOND)
    value, gradient = ldml_objective(np.append(np.eye(3), 0.0), pairs, SAME, 1.0)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_gradient_with_respect_to_m_and_b_is_zero_at_the_minimum():
    learner = learner_of_the_paper().fit(PAIRS, SAME)
    M, b = learner.get_mahalanobis_matrix(), learner.bias_
    gradient, slope = np.eye(3) - np.linalg.inv(M), 0.0
    for (x, y), is_same in zip(PAIRS, SAME, strict=True):
        p = 1 / (1 + np.exp(-(b - (x - y) @ M @ (x - y))))
        gradient += (float(is_same) - p) * np.outer(x - y, x - y)
        slope += float(is_same) - p
    assert abs(gradient).max() < 1e-4 * abs(np.linalg.inv(M)).max()
    assert abs(slope) < 1e-4 * len(PAIRS)


def test_one_feature_without_a_prior_equals_logistic_regression(rng):
    # In one dimension M is the weight of d². With a large gamma the prior has no effect.
    x = rng.normal(size=(400, 2, 1))
    squared = np.square(x[:, 0] - x[:, 1])
    same = rng.random(400) < 1 / (1 + np.exp(squared[:, 0] - 1))
    learner = LDML(supervision="pairs", gamma=1e6, tol=1e-12).fit(x, same)
    model = LogisticRegression(C=1e8, tol=1e-8, solver="newton-cg").fit(-squared, same)
    assert learner.get_mahalanobis_matrix()[0, 0] == pytest.approx(model.coef_[0, 0], rel=1e-3)
    assert learner.bias_ == pytest.approx(model.intercept_[0], rel=1e-3)


def test_loss_curve_falls_from_the_prior():
    learner = LDML(random_state=0).fit(IRIS, SPECIES)
    assert len(learner.loss_curve_) == learner.n_iter_ + 1
    assert (np.diff(learner.loss_curve_) <= 0).all()
    assert learner.loss_curve_[-1] < 0.9 * learner.loss_curve_[0]


def test_bias_separates_same_from_different_pairs():
    learner = LDML(random_state=0).fit(IRIS, SPECIES)
    first, second, same = draw_pairs(SPECIES, 500, np.random.RandomState(1))
    squared = learner.get_metric().paired(IRIS[first], IRIS[second]) ** 2
    assert ((squared < learner.bias_) == same).mean() > 0.8


def test_bias_maximises_the_likelihood(rng):
    squared, same = rng.exponential(size=50), rng.random(50) < 0.3
    b = most_likely_bias(squared, same)
    least, before, after = (
        reference_objective(np.eye(1), at, np.sqrt(squared)[:, None, None] * [[1], [0]], same, 1)
        for at in (b, b - 1e-3, b + 1e-3)
    )
    assert least < min(before, after)
    # One different pair, much nearer than all same pairs.
    assert np.isfinite(most_likely_bias(np.array([0.0, 1e6, 1e6]), np.array([False, True, True])))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_bias_fits_the_distance_that_contains_a_share_of_the_prior(share):
    learner = LDML(random_state=0, prior_share=share).fit(IRIS, SPECIES)
    first, second, same = draw_pairs(SPECIES, 1500, np.random.RandomState(0))
    squared = learner.get_metric().paired(IRIS[first], IRIS[second]) ** 2
    assert learner.bias_ == pytest.approx(most_likely_bias(squared, same), rel=1e-6)
    assert ((squared < learner.bias_) == same).mean() > 0.75


def test_small_gamma_keeps_the_prior():
    M = learner_of_the_paper(1e-9).fit(PAIRS, SAME).get_mahalanobis_matrix()
    assert_allclose(M, np.eye(3), atol=1e-6)


def test_labels_equal_the_pairs_drawn_from_them():
    by_labels = LDML(random_state=0, n_constraints=300).fit(IRIS, SPECIES)
    first, second, same = draw_pairs(SPECIES, 300, np.random.RandomState(0))
    pairs = np.stack([IRIS[second], IRIS[first]], axis=1)[::-1]
    by_pairs = LDML(supervision="pairs").fit(pairs, np.where(same, 1, 0)[::-1])
    assert_allclose(by_pairs.components_, by_labels.components_, rtol=1e-6, atol=1e-8)
    assert by_pairs.bias_ == pytest.approx(by_labels.bias_, rel=1e-6)


def test_distance_does_not_depend_on_the_unit():
    d = LDML(random_state=0).fit(IRIS, SPECIES).transform(IRIS)
    for unit in (1e-6, 1e6):
        other = LDML(random_state=0).fit(unit * IRIS, SPECIES).transform(unit * IRIS)
        assert_allclose(other, d, rtol=1e-5, atol=1e-6 * abs(d).max())


def test_n_components_keeps_the_leading_axes():
    whole = LDML(random_state=0).fit(IRIS, SPECIES)
    assert_allclose(LDML(2, random_state=0).fit(IRIS, SPECIES).components_, whole.components_[:2])


def test_float32_is_kept_and_gives_nearly_the_same_map():
    single = LDML(random_state=0).fit(IRIS.astype(np.float32), SPECIES)
    double = LDML(random_state=0).fit(IRIS, SPECIES)
    assert single.components_.dtype == np.float32
    assert_allclose(single.components_, double.components_, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"gamma": 0.0}, "gamma == 0.0, must be > 0"),
        ({"prior": "unit"}, "prior='unit' is unknown"),
        ({"n_components": 4}, "from 1 to 3"),
        ({"supervision": "triplets"}, "unknown to LDML"),
        ({"tol": -1.0}, "tol == -1.0, must be >= 0"),
    ],
)
def test_invalid_parameters_raise(parameters, message):
    with pytest.raises(ValueError, match=message):
        LDML(**{"supervision": "pairs"} | parameters).fit(PAIRS, SAME)
