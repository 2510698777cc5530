"""SCML: its objective equals plain loops; bases, and optimality conditions of the solution."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdml import SCML
from skdml.constraints import draw_triplets, neighbor_triplets
from skdml.linear.scml import (
    TripletPairs,
    local_discriminants,
    reduce_and_scale,
    scml_loss,
    smooth_hinge,
    triplet_directions,
)

X, Y = load_wine(return_X_y=True)
X = StandardScaler().fit_transform(X)


def reference_loss(w, X, basis, triplets, beta):
    total = 0.0
    for a, p, n in triplets:
        margin = 1.0
        for weight, b in zip(w, basis, strict=True):
            margin += weight * (b @ (X[a] - X[p])) ** 2 - weight * (b @ (X[a] - X[n])) ** 2
        total += 0 if margin < 0 else margin**2 / 2 if margin < 1 else margin - 0.5
    return total / len(triplets) + beta * sum(w)


@pytest.fixture
def problem():
    rng = np.random.RandomState(0)
    points, codes = rng.normal(size=(15, 4)), np.arange(15) % 3
    triplets = draw_triplets(codes, 40, rng)
    return points, rng.normal(size=(6, 4)), triplets, rng.uniform(size=6)


def test_objective_equals_the_formula_of_the_paper(problem):
    points, basis, triplets, w = problem
    value, _ = scml_loss(w, points, basis, TripletPairs(triplets, 15), 0.1)
    assert_allclose(value, reference_loss(w, points, basis, triplets, 0.1), rtol=1e-12)


def test_gradient_equals_finite_differences(problem):
    points, basis, triplets, w = problem
    triplet_pairs = TripletPairs(triplets, 15)
    step, slopes = 1e-6, []
    for i in range(6):
        ends = [
            scml_loss(w + sign * step * np.eye(6)[i], points, basis, triplet_pairs, 0.1)[0]
            for sign in (-1, 1)
        ]
        slopes.append((ends[1] - ends[0]) / (2 * step))
    assert_allclose(
        scml_loss(w, points, basis, triplet_pairs, 0.1)[1], slopes, rtol=1e-6, atol=1e-9
    )


def test_smooth_hinge():
    value, slope = smooth_hinge(np.array([-1.0, 0.0, 0.5, 1.0, 3.0]))
    assert_allclose(value, [0, 0, 0.125, 0.5, 2.5])
    assert_allclose(slope, [0, 0, 0.5, 1, 1])


def test_triplet_pairs_list_each_pair_once():
    triplets = np.array([[0, 1, 2], [0, 1, 3], [1, 0, 2], [0, 2, 3]])
    triplet_pairs = TripletPairs(triplets, 4)
    graph = triplet_pairs.graph
    pairs = list(zip(graph.first.tolist(), graph.second.tolist(), strict=True))
    assert pairs == [(0, 1), (0, 2), (0, 3), (1, 2)]
    assert [pairs[i] for i in triplet_pairs.positive_pair] == [(0, 1), (0, 1), (0, 1), (0, 2)]
    assert [pairs[i] for i in triplet_pairs.negative_pair] == [(0, 2), (0, 3), (1, 2), (0, 3)]


def test_solution_satisfies_the_optimality_conditions():
    learner = SCML(n_basis=30, beta=1e-3, tol=1e-12, random_state=0).fit(X, Y)
    triplets = neighbor_triplets(X, Y, 3, 10)
    points, _, unit = reduce_and_scale(X, triplets)
    w = learner.weights_ * unit**2
    value, gradient = scml_loss(w, points, learner.basis_, TripletPairs(triplets, len(X)), 1e-3)
    assert_allclose(value, learner.loss_curve_[-1])
    assert (w >= 0).all()
    assert_allclose(gradient[w > 0], 0, atol=1e-5)
    assert (gradient > -1e-5).all()
    assert 0 < (w == 0).sum() < len(w)


def test_fitted_attributes_are_consistent():
    learner = SCML(random_state=0).fit(X, Y)
    B, w = learner.basis_, learner.weights_
    assert_allclose(np.linalg.norm(B, axis=1), 1)
    assert_allclose(learner.get_mahalanobis_matrix(), (B.T * w) @ B, atol=1e-10)
    assert_allclose(learner.loss_curve_[0], 0.5)
    assert (np.diff(learner.loss_curve_) <= 0).all()
    assert len(learner.loss_curve_) == learner.n_iter_ + 1


def test_unit_is_the_distance_between_anchors_and_negatives():
    triplets = neighbor_triplets(X, Y, 3, 10)
    points, axes, unit = reduce_and_scale(X, triplets)
    square = [((points[a] - points[n]) ** 2).sum() for a, _, n in triplets]
    assert_allclose(np.mean(square), 1)
    assert_array_equal(axes, np.eye(13))
    assert_allclose(points * unit, X - X.mean(axis=0), atol=1e-12)


def test_fewer_rows_than_columns_are_mapped_to_their_span():
    rng = np.random.RandomState(0)
    wide, codes = rng.normal(size=(12, 30)), np.arange(12) % 2
    triplets = neighbor_triplets(wide, codes, 3, 10)
    points, axes, unit = reduce_and_scale(wide, triplets)
    assert points.shape == (12, 12)
    assert_allclose(points @ axes * unit, wide - wide.mean(axis=0), atol=1e-10)
    assert_allclose(axes @ axes.T, np.eye(12), atol=1e-12)
    learner = SCML(random_state=0).fit(wide, codes)
    assert learner.components_.shape == (30, 30)
    assert np.isfinite(learner.components_).all()


def test_bases_find_the_column_that_separates_the_classes():
    rng = np.random.RandomState(0)
    points, codes = rng.normal(size=(200, 5)), np.arange(200) % 2
    points[:, 2] += 8 * codes
    found = local_discriminants(points, codes, 12, rng)
    assert found.shape[0] >= 12
    assert abs(found[:, 2]).min() > 0.8
    triplets = draw_triplets(codes, 2000, rng)
    found = triplet_directions(points, triplets, 15, rng)
    assert abs(found[4::5, 2]).mean() > 0.7  # the last of the five directions of a region leads


def test_labels_equal_the_triplets_of_neighbours():
    rows = neighbor_triplets(X, Y, 3, 10)
    basis = np.vstack([np.eye(13), np.ones((1, 13))])
    by_labels = SCML(basis=basis, tol=1e-9).fit(X, Y)
    by_triplets = SCML(basis=basis, tol=1e-9, supervision="triplets").fit(X[rows])
    M = by_labels.get_mahalanobis_matrix()
    assert_allclose(by_triplets.get_mahalanobis_matrix(), M, atol=1e-4 * abs(M).max())
    assert_allclose(by_triplets.loss_curve_[-1], by_labels.loss_curve_[-1], rtol=1e-6)


def test_random_triplets_suffice():
    rows = draw_triplets(Y, 1000, np.random.RandomState(0))
    learner = SCML(supervision="triplets", random_state=0).fit(X[rows])
    near, far = (learner.pair_distance(X[rows[:, [0, i]]]) for i in (1, 2))
    assert (near < far).mean() > 0.95
    assert not learner.__sklearn_tags__().target_tags.required


def test_n_constraints_draws_a_subset_of_the_triplets():
    assert_array_equal(
        SCML(n_constraints=10**6, random_state=0).fit(X, Y).components_,
        SCML(random_state=0).fit(X, Y).components_,
    )
    few = SCML(n_constraints=50, random_state=0).fit(X, Y)
    assert not np.allclose(few.components_, SCML(random_state=0).fit(X, Y).components_)


def test_distance_does_not_depend_on_the_unit():
    M = SCML(random_state=0, tol=1e-10).fit(X, Y).get_mahalanobis_matrix()
    for unit in (2.0**-20, 2.0**20):
        scaled = SCML(random_state=0, tol=1e-10).fit(unit * X, Y).get_mahalanobis_matrix()
        assert_allclose(scaled * unit**2, M, atol=1e-3 * abs(M).max())


def test_n_components_and_float32():
    full = SCML(random_state=0).fit(X, Y).components_
    assert_allclose(SCML(2, random_state=0).fit(X, Y).components_, full[:2])
    assert SCML(random_state=0).fit(X.astype(np.float32), Y).components_.dtype == np.float32


# Accuracy of 3-NN in five folds on iris and wine, standardised, with metric-learn 0.7.0's
# SCML_Supervised at its defaults with random_state=0, on scikit-learn 1.5.2.
@pytest.mark.parametrize(("load", "peer"), [(load_iris, 0.96), (load_wine, 0.9832)])
def test_accuracy_is_not_below_that_of_metric_learn(load, peer):
    model = make_pipeline(StandardScaler(), SCML(random_state=0), KNeighborsClassifier(3))
    accuracy = cross_val_score(model, *load(return_X_y=True), cv=5).mean()
    assert accuracy > peer - 0.01  # one or two points of slack


def test_inseparable_classes_give_euclidean_distance():
    # The negatives of each point coincide with it, and its positives are far away.
    points = np.repeat([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], 2, axis=0)
    learner = SCML(random_state=0).fit(points, [0, 1] * 4)
    assert not learner.weights_.any()
    M = learner.get_mahalanobis_matrix()
    assert M[0, 0] > 0
    assert_allclose(M, M[0, 0] * np.eye(2), atol=1e-12)


def test_too_few_iterations_warn():
    with pytest.warns(ConvergenceWarning, match="SCML did not converge in max_iter=1"):
        SCML(max_iter=1, random_state=0).fit(X, Y)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta", -1.0),
        ("n_basis", 0),
        ("n_neighbors", 0),
        ("n_impostors", 0),
        ("n_constraints", 0),
        ("max_iter", 0),
        ("tol", -1.0),
        ("basis", "pca"),
        ("basis", np.ones((2, 3))),
        ("n_components", 14),
        ("supervision", "pairs"),
    ],
)
def test_invalid_parameters_raise(name, value):
    learner = SCML(**{name: value})
    with pytest.raises(ValueError, match=name):
        learner.fit(X, Y)
    assert not hasattr(learner, "components_")


def test_basis_lda_needs_labels():
    with pytest.raises(ValueError, match="only with labels"):
        SCML(basis="lda", supervision="triplets").fit(X[:9].reshape(3, 3, 13))


def test_classes_of_one_point_raise():
    with pytest.raises(ValueError, match="single sample"):
        SCML().fit(X[:3], [0, 1, 2])
