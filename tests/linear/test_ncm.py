"""NCMML and NCMC: the loss equals plain loops; gradient, prior, weights and predictions."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import approx_fprime
from scipy.sparse import csr_matrix
from sklearn.base import is_classifier
from sklearn.datasets import load_iris, load_wine, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import NearestCentroid

from skdml import NCMC, NCMML
from skdml.linear import ncm
from skdml.linear._points import centre_and_scale

X, Y = load_iris(return_X_y=True)
both = pytest.mark.parametrize("kind", [NCMML, NCMC])


def small_problem(seed=0):
    rng = np.random.RandomState(seed)
    points, codes = rng.normal(size=(12, 4)), np.arange(12) % 3
    centroids, centroid_codes = rng.normal(size=(6, 4)), np.array([0, 0, 0, 1, 2, 2])
    return rng.normal(size=(2, 4)), points, codes, centroids, centroid_codes, rng.rand(12)


def reference_posterior(L, x, centroids):
    d2 = [sum((L @ (x - m)) ** 2) for m in centroids]
    p = np.exp([-(d - min(d2)) / 2 for d in d2])
    return p / p.sum()


def reference_loss(L, points, codes, centroids, centroid_codes, weight):
    total = 0.0
    for x, code, w in zip(points, codes, weight, strict=True):
        p = reference_posterior(L, x, centroids)
        of_class = sum(p[j] for j in range(len(centroids)) if centroid_codes[j] == code)
        total -= w * np.log(of_class)
    return total / sum(weight)


def objective_of(learner, L, X, y):
    """Objective of the docstring by plain loops, for L in the unit of X."""
    points, scale = centre_and_scale(X)
    centroids = (learner.centroids_ - X.mean(axis=0)) / scale
    centroid_codes = getattr(learner, "centroid_classes_", learner.classes_)
    loss = reference_loss(L * scale, points, y, centroids, centroid_codes, np.ones(len(X)))
    away = L * scale - np.eye(*L.shape) * len(L) ** 0.25
    return loss + learner.alpha / (2 * len(X)) * (away**2).sum()


# The objective


def test_loss_equals_plain_loops():
    problem = small_problem()
    assert ncm.negative_log_likelihood(*problem)[0] == pytest.approx(
        reference_loss(*problem), 1e-12
    )


def test_posterior_equals_plain_loops():
    L, points, _, centroids, *_ = small_problem()
    found = np.exp(ncm.log_posterior(L, points, centroids))
    expected = [reference_posterior(L, x, centroids) for x in points]
    assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_gradient_equals_finite_differences(seed):
    L, *rest = small_problem(seed)

    def loss(flat):
        return ncm.negative_log_likelihood(flat.reshape(L.shape), *rest)[0]

    step = 1e-5
    central = [
        (loss(L.ravel() + step * e) - loss(L.ravel() - step * e)) / (2 * step) for e in np.eye(8)
    ]
    gradient = ncm.negative_log_likelihood(L, *rest)[1].ravel()
    assert_allclose(gradient, central, atol=1e-8 * abs(gradient).max(), rtol=1e-6)


def test_gradient_of_the_ridge_penalty():
    L, start = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    value, gradient = ncm.ridge_penalty(L, start, 0.3)
    assert value == pytest.approx(0.15 * sum((v - 1) ** 2 for v in range(6)))
    numeric = approx_fprime(L.ravel(), lambda f: ncm.ridge_penalty(f.reshape(2, 3), start, 0.3)[0])
    assert_allclose(gradient.ravel(), numeric, atol=1e-6)


def test_blocks_and_sparse_points_do_not_change_the_loss(monkeypatch):
    L, points, *rest = small_problem()
    value, gradient = ncm.negative_log_likelihood(L, points, *rest)
    monkeypatch.setattr(ncm, "_BLOCK", 30)  # five rows
    for X_again in (points, csr_matrix(points)):
        again, gradient_again = ncm.negative_log_likelihood(L, X_again, *rest)
        assert again == pytest.approx(value, 1e-13)
        assert_allclose(gradient_again, gradient, rtol=1e-10, atol=1e-14)


def test_unlikely_classes_do_not_overflow():
    L, points, *rest = small_problem()
    value, gradient = ncm.negative_log_likelihood(1e4 * L, points, *rest)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert value > 1e6


# The fit


@both
def test_loss_curve_is_the_objective_and_never_rises(kind):
    learner = kind(random_state=0).fit(X, Y)
    scale = centre_and_scale(X)[1]
    ends = [
        objective_of(learner, L, X, Y) for L in (np.eye(4) * 4**0.25 / scale, learner.components_)
    ]
    assert_allclose(learner.loss_curve_[[0, -1]], ends, rtol=1e-9)
    assert len(learner.loss_curve_) == learner.n_iter_ + 1
    assert (np.diff(learner.loss_curve_) <= 0).all()
    assert learner.loss_curve_[-1] < 0.5 * learner.loss_curve_[0]


def test_without_a_prior_every_start_reaches_the_global_minimum():
    points, y = make_blobs(120, n_features=3, centers=4, cluster_std=4.0, random_state=3)
    options = {"alpha": 0, "tol": 1e-12, "max_iter": 1000, "random_state": 0}
    ends = [NCMML(init=i, **options).fit(points, y).loss_curve_[-1] for i in ("identity", "random")]
    assert ends[0] == pytest.approx(ends[1], 1e-6)


def test_prior_bounds_the_map_of_separable_classes():
    rng = np.random.RandomState(0)
    points, y = rng.normal(size=(10, 30)), np.arange(10) % 2
    sizes = [
        np.linalg.norm(NCMML(alpha=alpha).fit(points, y).components_) for alpha in (1e-3, 1, 1e6)
    ]
    assert sizes[0] > sizes[1] > sizes[2]
    scale = centre_and_scale(points)[1]
    assert_allclose(
        NCMML(alpha=1e6).fit(points, y).components_ * scale, np.eye(30) * 30**0.25, atol=1e-4
    )


def test_one_centroid_per_class_equals_the_mean():
    one, mean = NCMC(n_centroids=1, alpha=1.0, random_state=0).fit(X, Y), NCMML().fit(X, Y)
    assert_allclose(one.components_, mean.components_, rtol=1e-10)
    assert_allclose(one.centroids_, mean.centroids_, rtol=1e-12)
    assert_allclose(mean.centroids_, NearestCentroid().fit(X, Y).centroids_, rtol=1e-12)


def test_several_centroids_find_the_groups_of_a_class():
    corners = np.array([[0.0, 0], [10, 10], [0, 10], [10, 0]])
    points, corner = make_blobs(200, centers=corners, cluster_std=1.5, random_state=0)
    learner = NCMC(n_centroids=2, random_state=0).fit(points, corner < 2)
    assert learner.centroid_classes_.tolist() == [False, False, True, True]
    found = learner.centroids_[[2, 3]]
    assert_allclose(found[found[:, 0].argsort()], corners[:2], atol=0.7)
    assert learner.score(points, corner < 2) > 0.97
    assert NCMML().fit(points, corner < 2).score(points, corner < 2) < 0.75


def test_fewer_distinct_points_than_centroids():
    points = np.array([[0.0, 0], [0, 0], [0, 0], [1, 5], [5, 1], [5, 5], [6, 6]])
    learner = NCMC(n_centroids=3, random_state=0).fit(points, [0, 0, 0, 1, 1, 2, 1])
    assert learner.centroid_classes_.tolist() == [0, 1, 1, 1, 2]


def test_random_state_decides_the_centroids():
    points, y = load_wine(return_X_y=True)
    fits = [NCMC(random_state=seed).fit(points, y).centroids_ for seed in (0, 0, 1)]
    assert_array_equal(fits[0], fits[1])
    assert not np.array_equal(fits[0], fits[2])


@both
@pytest.mark.parametrize("init", ["auto", "pca", "lda", "identity", "random"])
def test_two_components_classify_well_from_every_start(kind, init):
    learner = kind(2, init=init, random_state=0).fit(X, Y)
    assert learner.components_.shape == (2, 4)
    assert learner.score(X, Y) > 0.95


@pytest.mark.parametrize("sparse", [False, True])
def test_start_has_the_spread_of_independent_components(sparse):
    points = 5 + np.random.RandomState(0).normal(size=(2000, 6)) * [1, 2, 3, 4, 5, 6]
    L = np.diag(1 / np.arange(1.0, 7))[:4]
    given = csr_matrix(points) if sparse else points
    Z = points @ ncm.scale_for_softmax(L, given, np.ones(2000)).T
    squared = ((Z[::2] - Z[1::2]) ** 2).sum(axis=1)
    assert squared.mean() == pytest.approx(2 * 4**0.5, 0.05)
    assert squared.std() == pytest.approx(2 * 2**0.5, 0.1)


def test_warm_start_continues_from_the_earlier_fit():
    with pytest.warns(ConvergenceWarning, match="NCMML did not converge in max_iter=3"):
        learner = NCMML(max_iter=3, warm_start=True).fit(X, Y)
    halfway = learner.components_
    learner.set_params(max_iter=200, alpha=0.5).fit(X, Y)
    from_array = NCMML(init=halfway, alpha=0.5).fit(X, Y)
    assert_allclose(learner.components_, from_array.components_, rtol=1e-12)


# Weights


@pytest.mark.parametrize("init", ["identity", "pca", "lda"])
def test_integer_weights_equal_repeated_rows(init):
    rng = np.random.RandomState(0)
    weight = rng.randint(0, 4, size=len(X))
    rows = rng.permutation(np.repeat(np.arange(len(X)), weight))
    weighted = NCMML(2, init=init, tol=1e-10).fit(X, Y, sample_weight=weight)
    repeated = NCMML(2, init=init, tol=1e-10).fit(X[rows], Y[rows])
    assert_allclose(weighted.components_, repeated.components_, rtol=1e-4)
    assert_allclose(weighted.centroids_, repeated.centroids_, rtol=1e-12)
    assert_allclose(weighted.loss_curve_[[0, -1]], repeated.loss_curve_[[0, -1]], rtol=1e-9)


@pytest.mark.parametrize("sparse", [False, True])
def test_integer_weights_equal_repeated_rows_with_several_centroids(sparse):
    rng = np.random.RandomState(3)
    weight = rng.randint(0, 4, size=len(X))
    rows = rng.permutation(np.repeat(np.arange(len(X)), weight))
    points = csr_matrix(X) if sparse else X
    weighted = NCMC(random_state=0, tol=1e-10).fit(points, Y, sample_weight=weight)
    repeated = NCMC(random_state=0, tol=1e-10).fit(points[rows], Y[rows])
    assert_allclose(weighted.components_, repeated.components_, rtol=1e-4)
    assert_allclose(weighted.centroids_, repeated.centroids_, rtol=1e-12)
    assert_allclose(weighted.loss_curve_[[0, -1]], repeated.loss_curve_[[0, -1]], rtol=1e-9)
    plain = NCMC(random_state=0, tol=1e-10).fit(points, Y)
    assert not np.allclose(plain.centroids_, weighted.centroids_)


def test_class_of_weight_zero_is_left_out():
    learner = NCMML().fit(X, Y, sample_weight=Y > 0)
    assert learner.classes_.tolist() == [1, 2]
    assert_array_equal(learner.components_, NCMML().fit(X[50:], Y[50:]).components_)
    with pytest.raises(ValueError, match="all 50 labels are of one class"):
        NCMML().fit(X, Y, sample_weight=Y == 1)


# The classifier


def test_prediction_is_the_nearest_mean_in_the_learned_distance():
    learner = NCMML().fit(X, Y)
    d = learner.get_metric().pairwise(X, learner.centroids_)
    assert_array_equal(learner.predict(X), learner.classes_[d.argmin(axis=1)])
    likelihood = np.exp(-(d**2) / 2)
    expected = likelihood / likelihood.sum(axis=1, keepdims=True)
    assert_allclose(learner.predict_proba(X), expected, rtol=1e-9)


def test_probability_of_a_class_is_the_sum_over_its_centroids():
    names = np.array(["c", "a", "b"])[Y]
    learner = NCMC(random_state=0).fit(X, names)
    p = np.array([reference_posterior(learner.components_, x, learner.centroids_) for x in X])
    expected = [p[:, learner.centroid_classes_ == name].sum(axis=1) for name in "abc"]
    assert_allclose(learner.predict_proba(X), np.transpose(expected), rtol=1e-9)
    assert_array_equal(learner.predict(X), np.array(list("abc"))[np.argmax(expected, axis=0)])


@both
def test_learner_is_a_classifier(kind):
    assert is_classifier(kind())
    assert cross_val_score(kind(random_state=0), X, Y, cv=5).mean() > 0.95


@both
def test_points_far_from_the_origin_keep_their_probabilities(kind):
    near, far = (kind(random_state=0).fit(X + shift, Y) for shift in (0, 2.0**20))
    assert_allclose(far.predict_proba(X + 2.0**20), near.predict_proba(X), atol=1e-5)


@both
def test_float32_is_kept(kind):
    learner = kind(random_state=0).fit(X.astype(np.float32), Y)
    for found in (
        learner.components_,
        learner.centroids_,
        learner.predict_proba(X.astype(np.float32)),
    ):
        assert found.dtype == np.float32
    exact = kind(random_state=0).fit(X, Y)
    assert_allclose(learner.predict_proba(X), exact.predict_proba(X), atol=1e-2)


@both
def test_sparse_points_give_the_same_predictions(kind):
    rng = np.random.RandomState(0)
    points = rng.rand(90, 20) * (rng.rand(90, 20) < 0.2)
    y = points[:, :3].argmax(axis=1)
    dense = kind(4, init="pca", random_state=0).fit(points, y)
    sparse = kind(4, init="pca", random_state=0).fit(csr_matrix(points), y)
    found, expected = sparse.predict_proba(csr_matrix(points)), dense.predict_proba(points)
    assert found.shape == (90, 3)
    if kind is NCMML:
        assert_allclose(found, expected, atol=1e-2)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        (NCMML, {"alpha": -1.0}, "alpha == -1.0, must be >= 0"),
        (NCMC, {"n_centroids": 0}, "n_centroids == 0, must be >= 1"),
        (NCMML, {"max_iter": 0}, "max_iter == 0, must be >= 1"),
        (NCMML, {"tol": -1e-3}, "tol == -0.001, must be >= 0"),
        (NCMC, {"init": "best"}, "init='best' is unknown"),
        (NCMML, {"n_components": 5}, "n_components=5 has to be"),
    ],
)
def test_invalid_parameters_raise(kind, parameters, message):
    learner = kind(**parameters)
    with pytest.raises(ValueError, match=message):
        learner.fit(X, Y)
    assert not hasattr(learner, "components_")
    assert not hasattr(learner, "n_features_in_")
