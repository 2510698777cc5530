"""SDML: its objective equals plain loops, and its solver equals that of scikit-learn."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import check_grad
from sklearn.covariance import graphical_lasso
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from skdml import SDML
from skdml.constraints import draw_pairs
from skdml.linear.base import Pairs
from skdml.linear.sdml import (
    balance_pairs,
    duality_gap,
    minimise_objective,
    pair_scatters,
    scale_to_unit_variance,
    sdml_objective,
)

X, Y = load_wine(return_X_y=True)
X = StandardScaler().fit_transform(X)


def some_pairs(rng, shift=0.0):
    points = rng.normal(size=(12, 3)) * [1, 2, 3] + shift
    first, second, same = draw_pairs(np.arange(12) % 3, 9, rng)
    return Pairs(points, first, second, same)


def spd(rng, d):
    A = rng.normal(size=(2 * d, d))
    return A.T @ A / (2 * d) + 0.1 * np.eye(d)


def test_scatters_equal_scaled_mean_outer_products():
    pairs = some_pairs(np.random.RandomState(0), shift=100.0)
    same, different, scale = scale_to_unit_variance(*pair_scatters(pairs))
    sums, count = np.zeros((2, 3, 3)), np.zeros(2)
    for i, j, is_same in zip(pairs.first, pairs.second, pairs.same, strict=True):
        z = pairs.X[i] - pairs.X[j]
        for a in range(3):
            for b in range(3):
                sums[int(is_same), a, b] += z[a] * z[b]
        count[int(is_same)] += 1
    different_, same_ = sums / count[:, None, None]
    assert_allclose(same * scale**2, same_, rtol=1e-10, atol=1e-10)
    assert_allclose(different * scale**2, different_, rtol=1e-10, atol=1e-10)
    assert_allclose(np.trace(same + different) / 6, 1)


def test_objective_equals_the_formula_of_the_paper():
    rng = np.random.RandomState(0)
    P, M = spd(rng, 3), spd(rng, 3)
    value = -np.log(np.linalg.det(M))
    for i in range(3):
        for j in range(3):
            value += P[i, j] * M[j, i] + (0.3 * abs(M[i, j]) if i != j else 0)
    assert_allclose(sdml_objective(M, P, 0.3), value)
    assert sdml_objective(np.diag([1.0, -1.0, -1.0]), P, 0.3) == np.inf


def test_gradient_of_the_smooth_part():
    rng = np.random.RandomState(1)
    P, M = spd(rng, 3), spd(rng, 3)

    def symmetric(m):
        return (m.reshape(3, 3) + m.reshape(3, 3).T) / 2

    def gradient(m):
        return (P - np.linalg.inv(symmetric(m))).ravel()

    error = check_grad(lambda m: sdml_objective(symmetric(m), P, 0), gradient, M.ravel())
    assert error < 1e-6 * np.linalg.norm(gradient(M.ravel()))


@pytest.mark.parametrize("sparsity_param", [0.0, 0.01, 0.1, 0.5])
def test_solver_equals_the_graphical_lasso_of_scikit_learn(sparsity_param):
    P = spd(np.random.RandomState(2), 6)
    state = np.random.get_state()  # noqa: NPY002, scikit-learn changes it
    _, expected = graphical_lasso(P, sparsity_param, tol=1e-10, enet_tol=1e-12)
    np.random.set_state(state)  # noqa: NPY002
    M, curve = minimise_objective(P, sparsity_param, max_iter=1000, tol=1e-12)
    assert_allclose(M, expected, atol=1e-6)
    assert_array_equal(M == 0, abs(expected) < 1e-12)
    assert (np.diff(curve) <= 1e-10).all()
    assert_allclose(curve[-1], sdml_objective(M, P, sparsity_param))


def test_solution_satisfies_the_optimality_conditions():
    P = spd(np.random.RandomState(3), 5)
    M, _ = minimise_objective(P, 0.05, max_iter=5000, tol=1e-14)
    pull = np.linalg.inv(M) - P  # = sparsity_param * sign(M) off the diagonal, 0 on it
    off = ~np.eye(5, dtype=bool)
    assert_allclose(pull.diagonal(), 0, atol=1e-6)
    assert_allclose(pull[off & (M != 0)], 0.05 * np.sign(M)[off & (M != 0)], atol=1e-6)
    assert (abs(pull) <= 0.05 + 1e-6).all()
    assert 0 < (M == 0).sum() < off.sum()


def test_duality_gap_bounds_the_distance_to_the_minimum():
    rng = np.random.RandomState(4)
    P = spd(rng, 4)
    M, curve = minimise_objective(P, 0.1, max_iter=5000, tol=1e-13)
    for _ in range(20):
        other = M + 0.1 * spd(rng, 4)
        gap = duality_gap(other, np.linalg.inv(other), P, 0.1)
        assert gap >= sdml_objective(other, P, 0.1) - curve[-1] - 1e-10


def test_balance_is_lowered_only_if_needed():
    rng = np.random.RandomState(5)
    prior, scatter = spd(rng, 4), spd(rng, 4)
    P, balance = balance_pairs(prior, scatter, 3.0)
    assert balance == 3.0
    assert_allclose(P, prior + 3 * scatter)
    P, balance = balance_pairs(prior, -scatter, 50.0)
    assert 0 < balance < 50
    assert_allclose(np.linalg.eigvalsh(P - prior / 2)[0], 0, atol=1e-12)
    assert_allclose(P, prior - balance * scatter)


def test_fit_minimises_the_objective_of_the_docstring():
    learner = SDML(n_constraints=10 * len(X), random_state=0, tol=1e-10).fit(X, Y)
    first, second, same = draw_pairs(Y, 10 * len(X), np.random.RandomState(0))
    Z = X[first] - X[second]
    S, D = (Z[kind].T @ Z[kind] / kind.sum() for kind in (same, ~same))
    unit = (np.trace(S) + np.trace(D)) / (2 * 13)
    S, D = S / unit, D / unit
    P = 0.1 * (S + D) + 0.8 * np.eye(13) + learner.balance_ * (S - D)
    state = np.random.get_state()  # noqa: NPY002, scikit-learn changes it
    expected = graphical_lasso(P, 0.01, tol=1e-9, enet_tol=1e-12)[1]
    np.random.set_state(state)  # noqa: NPY002
    M = learner.get_mahalanobis_matrix() * unit
    assert_allclose(M, expected, atol=1e-5)
    assert_allclose(learner.loss_curve_[-1], sdml_objective(M, P, 0.01))
    assert len(learner.loss_curve_) == learner.n_iter_ + 1


def test_larger_sparsity_param_gives_more_zeros():
    zeros = [
        (
            abs(SDML(sparsity_param=s, random_state=0).fit(X, Y).get_mahalanobis_matrix()) < 1e-9
        ).sum()
        for s in (0.0, 0.05, 0.2, 10.0)
    ]
    assert zeros[0] == 0
    assert zeros == sorted(zeros)
    assert zeros[-1] == 13 * 12  # all entries off the diagonal


def test_no_weight_of_pairs_and_full_shrinkage_give_euclidean_distance():
    learner = SDML(balance_param=0, shrinkage=1, random_state=0).fit(X, Y)
    M = learner.get_mahalanobis_matrix()
    assert_allclose(M, M[0, 0] * np.eye(13), atol=1e-10)


def test_default_n_constraints_uses_all_pairs():
    points, labels = load_iris(return_X_y=True)  # classes of equal size
    points, labels = points[::5], labels[::5]
    first, second = np.triu_indices(len(points), 1)
    pairs = np.stack([points[first], points[second]], axis=1)
    by_pairs = SDML(supervision="pairs").fit(pairs, labels[first] == labels[second])
    by_labels = SDML().fit(points, labels)
    assert_allclose(by_labels.components_, by_pairs.components_, rtol=1e-7, atol=1e-10)


def test_labels_equal_the_pairs_drawn_from_them():
    first, second, same = draw_pairs(Y, 10 * len(X), np.random.RandomState(3))
    pairs = np.stack([X[first], X[second]], axis=1)
    by_labels = SDML(n_constraints=10 * len(X), random_state=3).fit(X, Y)
    for y in (same, np.where(same, 1, -1), same.astype(int)):
        by_pairs = SDML(supervision="pairs").fit(pairs, y)
        assert_allclose(
            by_pairs.get_mahalanobis_matrix(),
            by_labels.get_mahalanobis_matrix(),
            rtol=1e-9,
            atol=1e-9,
        )


def test_distance_does_not_depend_on_the_unit():
    M = SDML(random_state=0).fit(X, Y).get_mahalanobis_matrix()
    for unit in (1e-6, 1e6):
        scaled = SDML(random_state=0).fit(unit * X, Y).get_mahalanobis_matrix()
        assert_allclose(scaled * unit**2, M, rtol=1e-6, atol=1e-6)


def test_n_components_keeps_the_leading_axes():
    full = SDML(random_state=0).fit(X, Y).components_
    assert_allclose(SDML(3, random_state=0).fit(X, Y).components_, full[:3])
    for wrong in (0, 14, 2.0):
        with pytest.raises(ValueError, match="n_components"):
            SDML(wrong).fit(X, Y)


def test_unscaled_iris_and_wine_in_float32():
    for load in (load_iris, load_wine):
        points, labels = load(return_X_y=True)
        learner = SDML(random_state=0).fit(points.astype(np.float32), labels)
        assert learner.components_.dtype == np.float32
        exact = SDML(random_state=0).fit(points, labels).get_mahalanobis_matrix()
        tolerance = 1e-3 * abs(exact).max()
        assert_allclose(learner.get_mahalanobis_matrix(), exact, atol=tolerance)


def test_equal_points_give_a_finite_map():
    with pytest.warns(UserWarning, match="All rows that SDML learned from are equal"):
        learner = SDML(random_state=0).fit(np.ones((6, 2)), [0, 0, 0, 1, 1, 1])
    assert np.isfinite(learner.components_).all()


def test_too_few_steps_warn():
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        learner = SDML(max_iter=2, tol=1e-12, random_state=0).fit(X, Y)
    assert learner.n_iter_ == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("balance_param", -1.0),
        ("sparsity_param", -0.1),
        ("shrinkage", 0.0),
        ("shrinkage", 1.5),
        ("tol", 0.0),
        ("max_iter", 0),
        ("supervision", "triplets"),
    ],
)
def test_invalid_parameters_raise(name, value):
    learner = SDML(**{name: value})
    with pytest.raises(ValueError, match=name):
        learner.fit(X, Y)
    assert not hasattr(learner, "components_")


def test_verbose_prints_a_line_per_step(capsys):
    learner = SDML(random_state=0, verbose=1).fit(X, Y)
    assert len(capsys.readouterr().out.splitlines()) == learner.n_iter_
