"""ITML: its minimum equals that of the cyclic projections of the paper."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import check_grad
from sklearn.datasets import load_iris

from skdml import ITML
from skdml.constraints import draw_pairs
from skdml.linear._pairs import PairDistances, constrained_points, points_differ
from skdml.linear._prior import log_det_divergence
from skdml.linear._psd import leading_components
from skdml.linear.itml import itml_objective, slack_loss

IRIS, SPECIES = load_iris(return_X_y=True)
POINTS = IRIS[::10, :3] - IRIS[::10, :3].mean(axis=0)
FIRST, SECOND = np.triu_indices(15, 1)
SAME = SPECIES[::10][FIRST] == SPECIES[::10][SECOND]
PAIRS = np.stack([POINTS[FIRST], POINTS[SECOND]], axis=1)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def cyclic_projections(pairs, same, bounds, gamma, prior, sweeps):
    """Algorithm 1 of the paper, line by line; alpha makes d² equal to the updated slack."""
    M, xi = prior.copy(), np.where(same, *np.square(bounds))
    dual = np.zeros(len(pairs))
    for _ in range(sweeps):
        for k, (x, y) in enumerate(pairs):
            v = M @ (x - y)
            p, delta = (x - y) @ v, 1 if same[k] else -1
            alpha = min(dual[k], delta * gamma / (gamma + 1) * (1 / p - 1 / xi[k]))
            beta = delta * alpha / (1 - delta * alpha * p)
            xi[k] = gamma * xi[k] / (gamma + delta * alpha * xi[k])
            dual[k] -= alpha
            M += beta * np.outer(v, v)
    return M


def reference_objective(M, pairs, same, bounds, weight):
    d = len(M)
    total = np.trace(M) - np.log(np.linalg.det(M)) - d
    for (x, y), is_same in zip(pairs, same, strict=True):
        squared, bound = (x - y) @ M @ (x - y), bounds[0 if is_same else 1] ** 2
        xi = squared if (squared > bound if is_same else squared < bound) else bound
        total += weight * (xi / bound - np.log(xi / bound) - 1)
    return total


def learner_of_the_paper(gamma, **options):
    """ITML with c = gamma, in the unit of the points."""
    share = gamma * len(PAIRS) / len(POINTS)
    return ITML(gamma=share, supervision="pairs", bounds=(1.0, 2.0), tol=0, **options)


# The objective


def test_objective_equals_the_formula_of_the_paper(rng):
    A = np.eye(3) + 0.3 * rng.normal(size=(3, 3))
    pairs = PairDistances(POINTS, FIRST, SECOND)
    value, _ = itml_objective(A, pairs, SAME, np.where(SAME, 1.0, 4.0), 0.7)
    assert value == pytest.approx(reference_objective(A.T @ A, PAIRS, SAME, (1, 2), 0.7), rel=1e-12)


def test_gradient_equals_finite_differences(rng):
    pairs = PairDistances(POINTS, FIRST, SECOND)
    bound = np.where(SAME, 1.0, 4.0)

    def parts(a):
        value, gradient = itml_objective(a.reshape(3, 3), pairs, SAME, bound, 0.7)
        return value, gradient.ravel()

    for _ in range(3):
        a = (np.eye(3) + 0.3 * rng.normal(size=(3, 3))).ravel()
        error = check_grad(lambda a: parts(a)[0], lambda a: parts(a)[1], a)
        assert error < 1e-6 * np.linalg.norm(parts(a)[1])


def test_slack_is_the_cheapest_that_satisfies_the_constraint():
    xi = np.linspace(1e-3, 9, 200_001)
    cost = xi / 2 - np.log(xi / 2) - 1
    for squared in (0.1, 1.9, 2.0, 2.5, 7.0):
        for same, feasible in ((True, xi >= squared), (False, xi <= squared)):
            loss, _ = slack_loss(np.array([squared]), np.array([same]), np.array([2.0]))
            assert loss[0] == pytest.approx(cost[feasible].min(), abs=1e-3)


def test_divergence_equals_the_definition_and_is_finite_for_a_singular_matrix(rng):
    A = rng.normal(size=(4, 4))
    M = A.T @ A
    expected = np.trace(M) - np.linalg.slogdet(M)[1] - 4
    assert log_det_divergence(A)[0] == pytest.approx(expected, rel=1e-12)
    value, gradient = log_det_divergence(np.diag([1.0, 0.0]))
    assert value > 30
    assert np.isfinite(gradient).all()
    assert gradient[1, 1] < -1e6


# The minimum


@pytest.mark.parametrize("gamma", [0.1, 1.0])
def test_minimum_equals_the_limit_of_cyclic_projections(gamma):
    learner = learner_of_the_paper(gamma, prior=np.eye(3)).fit(PAIRS, SAME)
    M = cyclic_projections(PAIRS, SAME, (1.0, 2.0), gamma, np.eye(3), sweeps=80)
    assert_allclose(learner.get_mahalanobis_matrix(), M, atol=2e-5 * M.max())


def test_minimum_equals_that_of_metric_learn():
    # metric_learn 0.7.0 with scikit-learn 1.5.2: ITML(gamma=1.0, max_iter=100000, tol=1e-12)
    # .fit(PAIRS, SAME as 1 and -1, bounds=[1.0, 4.0]); its bounds are squared distances.
    M = [
        [0.76224516, -0.22766111, -0.34682274],
        [-0.22766111, 0.703383, -0.54011524],
        [-0.34682274, -0.54011524, 1.97380688],
    ]
    learner = learner_of_the_paper(1.0, prior=np.eye(3)).fit(PAIRS, SAME)
    assert_allclose(learner.get_mahalanobis_matrix(), M, atol=1e-5)


@pytest.mark.parametrize("prior", ["identity", "covariance", np.diag([2.0, 1.0, 0.5]) + 0.1])
def test_gradient_with_respect_to_m_is_zero_at_the_minimum(prior):
    learner = learner_of_the_paper(1.0, prior=prior).fit(PAIRS, SAME)
    M = learner.get_mahalanobis_matrix()
    if isinstance(prior, str):
        variance = np.cov(POINTS.T, bias=True)
        prior = {"identity": np.eye(3) / np.trace(variance), "covariance": np.linalg.inv(variance)}[
            prior
        ]
    gradient = np.linalg.inv(prior) - np.linalg.inv(M)
    for (x, y), is_same in zip(PAIRS, SAME, strict=True):
        squared, bound = (x - y) @ M @ (x - y), 1.0 if is_same else 4.0
        if squared > bound if is_same else squared < bound:
            gradient += (1 / bound - 1 / squared) * np.outer(x - y, x - y)
    assert abs(gradient).max() < 1e-4 * abs(np.linalg.inv(M)).max()


def test_loss_curve_falls_from_the_prior():
    learner = ITML(random_state=0).fit(IRIS, SPECIES)
    assert len(learner.loss_curve_) == learner.n_iter_ + 1
    assert (np.diff(learner.loss_curve_) <= 0).all()
    assert learner.loss_curve_[-1] < 0.9 * learner.loss_curve_[0]


def test_small_gamma_keeps_the_prior_and_large_gamma_the_bounds():
    prior = np.eye(3)
    small = learner_of_the_paper(1e-9, prior=prior).fit(PAIRS, SAME)
    assert_allclose(small.get_mahalanobis_matrix(), prior, atol=1e-6)

    def violation(learner):
        d = learner.pair_distance(PAIRS)
        return np.maximum(d[SAME] - 1, 0).mean() + np.maximum(2 - d[~SAME], 0).mean()

    large = learner_of_the_paper(100.0, prior=prior).fit(PAIRS, SAME)
    assert (
        violation(large)
        < violation(learner_of_the_paper(1.0, prior=prior).fit(PAIRS, SAME))
        < violation(small)
    )


# Pairs, bounds and priors


def test_labels_equal_the_pairs_drawn_from_them():
    by_labels = ITML(random_state=0, n_constraints=300, prior_share=0).fit(IRIS, SPECIES)
    first, second, same = draw_pairs(SPECIES, 300, np.random.RandomState(0))
    pairs = np.stack([IRIS[second], IRIS[first]], axis=1)[::-1]
    by_pairs = ITML(supervision="pairs").fit(pairs, np.where(same, 1, -1)[::-1])
    assert_allclose(by_pairs.components_, by_labels.components_, rtol=1e-7, atol=1e-9)


def test_default_bounds_are_percentiles_of_the_distances_under_the_prior():
    learner = ITML(supervision="pairs", prior=np.eye(3)).fit(PAIRS, SAME)
    squared = np.square(PAIRS[:, 0] - PAIRS[:, 1]).sum(axis=1)
    assert_allclose(learner.bounds_, np.sqrt(np.percentile(squared, [5, 95])))
    assert learner_of_the_paper(1.0).fit(PAIRS, SAME).bounds_ == (1.0, 2.0)


def test_pairs_of_equal_points_are_left_out():
    equal = np.repeat(PAIRS[:5, :1], 2, axis=1)
    learner = learner_of_the_paper(1.0, prior=np.eye(3)).fit(PAIRS, SAME)
    more = np.concatenate([PAIRS, equal])
    again = learner_of_the_paper(1.0, prior=np.eye(3)).fit(more, np.append(SAME, [False] * 5))
    assert_allclose(again.components_, learner.components_, rtol=1e-6)
    with pytest.raises(ValueError, match="all 5 pairs are equal"):
        learner_of_the_paper(1.0).fit(equal, [0, 1, 0, 1, 0])
    points = np.array([[1.0], [1 + 1e-15], [2.0]])
    assert points_differ(points, np.array([0, 0]), np.array([1, 2])).tolist() == [False, True]


def test_distance_does_not_depend_on_the_unit():
    d = ITML(random_state=0).fit(IRIS, SPECIES).transform(IRIS)
    for unit in (1e-6, 1e6):
        other = ITML(random_state=0).fit(unit * IRIS, SPECIES).transform(unit * IRIS)
        assert_allclose(other, d, rtol=1e-5, atol=1e-6 * abs(d).max())


def test_covariance_prior_is_invariant_to_the_basis_and_ignores_constant_columns(rng):
    learner = ITML(prior="covariance", random_state=0, tol=1e-12).fit(IRIS, SPECIES)
    B = rng.normal(size=(4, 4))
    other = ITML(prior="covariance", random_state=0, tol=1e-12).fit(IRIS @ B, SPECIES)
    d, e = (m.get_metric()(Z[:20]) for m, Z in ((learner, IRIS), (other, IRIS @ B)))
    assert_allclose(e, d, rtol=1e-3, atol=1e-4)
    flat = np.column_stack([IRIS, np.ones(150)])
    learner = ITML(prior="covariance", random_state=0).fit(flat, SPECIES)
    assert learner.components_.shape == (4, 5)
    assert_array_equal(learner.components_[:, 4], 0)


def test_n_components_keeps_the_leading_axes():
    whole = ITML(random_state=0).fit(IRIS, SPECIES)
    part = ITML(2, random_state=0).fit(IRIS, SPECIES)
    assert_allclose(part.components_, whole.components_[:2])
    M = whole.get_mahalanobis_matrix()
    values, axes = np.linalg.eigh(M)
    expected = (axes[:, 2:] * values[2:]) @ axes[:, 2:].T
    assert_allclose(part.get_mahalanobis_matrix(), expected, rtol=1e-7, atol=1e-9)


def test_float32_is_kept_and_gives_nearly_the_same_map():
    single = ITML(random_state=0).fit(IRIS.astype(np.float32), SPECIES)
    double = ITML(random_state=0).fit(IRIS, SPECIES)
    assert single.components_.dtype == np.float32
    assert_allclose(single.components_, double.components_, rtol=0.02, atol=0.01)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"gamma": 0.0}, "gamma == 0.0, must be > 0"),
        ({"prior": "unit"}, "prior='unit' is unknown"),
        ({"prior": np.eye(4)}, r"shape \(3, 3\); got one of shape \(4, 4\)"),
        ({"prior": np.diag([1.0, 0.0, 1.0])}, "has to be positive definite"),
        ({"prior": np.triu(np.ones((3, 3)))}, "has to be a symmetric matrix"),
        ({"bounds": (0.0, 1.0)}, "two distances above 0"),
        ({"bounds": (1.0,)}, "two distances above 0"),
        ({"n_components": 4}, "from 1 to 3"),
        ({"supervision": "triplets"}, "unknown to ITML"),
        ({"max_iter": 0}, "max_iter == 0, must be >= 1"),
    ],
)
def test_invalid_parameters_raise(parameters, message):
    with pytest.raises(ValueError, match=message):
        ITML(**{"supervision": "pairs"} | parameters).fit(PAIRS, SAME)


# Shared functions


def test_pair_distances_and_their_gradient(rng):
    X, L = rng.normal(size=(8, 4)), rng.normal(size=(3, 4))
    first, second = rng.integers(8, size=(2, 30))
    squared, gradient_of = PairDistances(X, first, second)(L)
    weight = rng.normal(size=30)
    expected = np.zeros((3, 4))
    for i, j, w, value in zip(first, second, weight, squared, strict=True):
        z = X[i] - X[j]
        assert value == pytest.approx(z @ L.T @ L @ z, rel=1e-12)
        expected += 2 * w * L @ np.outer(z, z)
    assert_allclose(gradient_of(weight), expected, rtol=1e-10, atol=1e-12)


def test_constrained_points_are_the_distinct_points_in_use():
    X = np.array([[3.0], [1.0], [9.0], [3.0], [2.0]])
    points, first, second = constrained_points(X, np.array([0, 3]), np.array([1, 4]))
    assert_array_equal(points, [[1], [2], [3]])
    assert_array_equal(points[first], X[[0, 3]])
    assert_array_equal(points[second], X[[1, 4]])


def test_leading_components_keep_all_distances(rng):
    L = rng.normal(size=(5, 4))
    turned = leading_components(L, 4)
    assert_allclose(turned.T @ turned, L.T @ L, rtol=1e-10)
    assert (np.diff(np.linalg.norm(turned, axis=1)) <= 0).all()
