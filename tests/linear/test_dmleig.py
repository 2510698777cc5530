"""DML-eig: its objective equals plain loops, and its solution reaches the Frank-Wolfe bound."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import check_grad
from sklearn.datasets import load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from skdml import DMLEig
from skdml.constraints import draw_pairs
from skdml.linear.dmleig import dml_eig_loss, scale_different_pairs, soft_minimum, whitening

X, Y = load_wine(return_X_y=True)
X = StandardScaler().fit_transform(X)


@pytest.fixture
def problem():
    rng = np.random.RandomState(0)
    first, second, same = draw_pairs(np.arange(12) % 3, 20, rng)
    points = rng.normal(size=(12, 3))
    return (
        points,
        *scale_different_pairs(points, first[~same], second[~same]),
        rng.normal(size=(2, 3)),
    )


def reference_loss(L, points, first, second, mu, shrinkage):
    S = (1 - shrinkage) * L.T @ L / np.trace(L.T @ L) + shrinkage * np.eye(3) / 3
    total = 0.0
    for i, j in zip(first, second, strict=True):
        z = points[i] - points[j]
        total += np.exp(-(z @ S @ z) / mu)
    return mu * np.log(total / len(first))


@pytest.mark.parametrize(("mu", "shrinkage"), [(0.1, 0.5), (1.0, 0.0), (0.01, 0.9)])
def test_objective_equals_the_formula_of_the_docstring(problem, mu, shrinkage):
    _, pairs, baseline, L = problem
    graph = pairs.graph
    expected = reference_loss(L, pairs.X, graph.first, graph.second, mu, shrinkage)
    assert_allclose(dml_eig_loss(L, pairs, baseline, mu, shrinkage)[0], expected, rtol=1e-10)


@pytest.mark.parametrize(("mu", "shrinkage"), [(0.1, 0.5), (1.0, 0.0)])
def test_gradient_equals_finite_differences(problem, mu, shrinkage):
    _, pairs, baseline, L = problem

    def loss(flat):
        return dml_eig_loss(flat.reshape(2, 3), pairs, baseline, mu, shrinkage)

    gradient = loss(L.ravel())[1]
    error = check_grad(lambda x: loss(x)[0], lambda x: loss(x)[1].ravel(), L.ravel())
    assert error < 1e-6 * np.linalg.norm(gradient)


def test_soft_minimum_is_between_the_minimum_and_the_mean():
    values = np.array([3.0, 1.0, 2.0])
    assert_allclose(soft_minimum(values, 1e6)[0], 2, rtol=1e-5)
    assert_allclose(soft_minimum(values, 1e-3)[0], 1, atol=2e-3)
    assert_allclose(soft_minimum(values, 1e-4)[1], [0, 1, 0])
    value, weight = soft_minimum(values, 0.7)
    assert_allclose(value, -0.7 * np.log(np.mean(np.exp(-values / 0.7))))
    step = 1e-6 * np.eye(3)
    slopes = [(soft_minimum(values + s, 0.7)[0] - value) / 1e-6 for s in step]
    assert_allclose(weight, slopes, rtol=1e-5)


def test_scale_different_pairs_are_in_units_of_their_mean(problem):
    points, pairs, baseline, _ = problem
    graph = pairs.graph
    square = [
        ((points[i] - points[j]) ** 2).sum() for i, j in zip(graph.first, graph.second, strict=True)
    ]
    assert_allclose(pairs.graph.squared_distances(pairs.X) / 3, np.divide(square, np.mean(square)))
    assert_allclose(baseline.mean(), 1)
    assert_allclose(pairs(np.eye(3))[0] / 3, baseline)


def test_whitening_is_the_inverse_root_up_to_the_ridge():
    scatter = np.cov(np.random.RandomState(0).normal(size=(4, 30)) * [[1], [2], [3], [4]])
    A = whitening(scatter)
    ridged = 0.9 * scatter + 0.1 * np.trace(scatter) / 4 * np.eye(4)
    assert_allclose(A @ ridged @ A.T, np.eye(4), atol=1e-12)
    assert_allclose(whitening(np.zeros((2, 2))), np.eye(2))


# f is concave, so f(S) + largest eigenvalue of the gradient - <gradient, S> bounds its maximum.
@pytest.mark.parametrize("shrinkage", [0.0, 0.5])
def test_duality_gap_of_the_solution_is_small(shrinkage):
    options = {"tol": 1e-12, "max_iter": 5000, "prior_share": 0}
    learner = DMLEig(shrinkage=shrinkage, random_state=0, **options).fit(X, Y)
    first, second, same = draw_pairs(Y, 10 * len(X), np.random.RandomState(0))
    Z = X[first[same]] - X[second[same]]
    A = whitening(Z.T @ Z / len(Z))
    inverse = np.linalg.inv(A)
    S = inverse.T @ learner.get_mahalanobis_matrix() @ inverse
    assert_allclose(np.trace(S), 1)
    pairs, _ = scale_different_pairs(X @ A.T, first[~same], second[~same])
    Z = pairs.X[pairs.graph.first] - pairs.X[pairs.graph.second]
    value, weight = soft_minimum(np.einsum("ij,jk,ik->i", Z, S, Z), 0.1)
    assert_allclose(value, -learner.loss_curve_[-1])
    G = (Z.T * weight) @ Z
    free = (S - shrinkage * np.eye(13) / 13) / (1 - shrinkage)
    gap = (1 - shrinkage) * (np.linalg.eigvalsh(G)[-1] - (G * free).sum())
    assert 0 <= gap + 1e-9 < 1e-3 * value


def test_loss_curve_never_rises():
    learner = DMLEig(random_state=0).fit(X, Y)
    assert (np.diff(learner.loss_curve_) <= 0).all()
    assert len(learner.loss_curve_) == learner.n_iter_ + 1
    assert learner.n_iter_ > 1


def test_same_pairs_have_a_mean_squared_distance_of_one():
    learner = DMLEig(random_state=0, prior_share=0).fit(X, Y)
    first, second, same = draw_pairs(Y, 10 * len(X), np.random.RandomState(0))
    Z = X[first[same]] - X[second[same]]
    scatter = 0.9 * Z.T @ Z / len(Z)
    scatter += np.eye(13) * np.trace(scatter) / 9 / 13
    assert_allclose((learner.get_mahalanobis_matrix() * scatter).sum(), 1)


def test_shrinkage_of_one_whitens_the_same_pairs():
    learner = DMLEig(shrinkage=1.0, prior_share=0, random_state=0).fit(X, Y)
    first, second, same = draw_pairs(Y, 10 * len(X), np.random.RandomState(0))
    Z = X[first[same]] - X[second[same]]
    A = whitening(Z.T @ Z / len(Z))
    assert_allclose(learner.get_mahalanobis_matrix(), A.T @ A / 13, atol=1e-12)


def test_labels_equal_the_pairs_drawn_from_them():
    first, second, same = draw_pairs(Y, 10 * len(X), np.random.RandomState(3))
    pairs = np.stack([X[first], X[second]], axis=1)
    by_labels = DMLEig(random_state=3, prior_share=0).fit(X, Y).get_mahalanobis_matrix()
    for y in (same, np.where(same, 1, -1)):
        by_pairs = DMLEig(supervision="pairs").fit(pairs, y).get_mahalanobis_matrix()
        assert_allclose(by_pairs, by_labels, rtol=1e-9, atol=1e-12)


def test_distance_does_not_depend_on_the_unit():
    Z = DMLEig(random_state=0).fit_transform(X, Y)
    for unit in (1e-6, 1e6):
        scaled = DMLEig(random_state=0).fit_transform(unit * X, Y)
        assert_allclose(scaled @ scaled.T, Z @ Z.T, rtol=1e-3, atol=1e-3)


def test_n_components_and_float32():
    full = DMLEig(random_state=0).fit(X, Y).components_
    assert full.shape == (13, 13)
    assert_allclose(DMLEig(2, random_state=0).fit(X, Y).components_, full[:2])
    assert DMLEig(random_state=0).fit(X.astype(np.float32), Y).components_.dtype == np.float32


def test_equal_points_give_a_finite_map():
    with pytest.warns(UserWarning, match="All rows that DMLEig learned from are equal"):
        learner = DMLEig(random_state=0).fit(np.ones((6, 2)), [0, 0, 0, 1, 1, 1])
    assert np.isfinite(learner.components_).all()
    learner.fit(np.repeat([[0.0, 0.0], [1.0, 2.0]], 3, axis=0), [0, 0, 0, 1, 1, 1])
    assert np.isfinite(learner.components_).all()


def test_too_few_iterations_warn():
    with pytest.warns(ConvergenceWarning, match="DMLEig did not converge in max_iter=1"):
        DMLEig(max_iter=1, random_state=0).fit(X, Y)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mu", 0.0),
        ("shrinkage", -0.1),
        ("shrinkage", 1.1),
        ("n_components", 14),
        ("n_constraints", 0),
        ("max_iter", 0),
        ("tol", -1.0),
        ("supervision", "triplets"),
    ],
)
def test_invalid_parameters_raise(name, value):
    learner = DMLEig(**{name: value})
    with pytest.raises(ValueError, match=name):
        learner.fit(X, Y)
    assert not hasattr(learner, "components_")
