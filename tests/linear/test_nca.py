"""NCA: the objective of the paper, its gradient, its three solvers, and sample weights."""

import numpy as np
import pytest
from helpers import BLOB_CODES, BLOBS, central_differences
from helpers import SMALL_L as L
from helpers import SMALL_ONES as ONES
from helpers import SMALL_WEIGHT as WEIGHT
from helpers import SMALL_X as X
from helpers import SMALL_Y as Y
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix
from sklearn.datasets import load_iris, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NeighborhoodComponentsAnalysis

from skdml import NCA
from skdml.linear import nca
from skdml.linear._prior import add_log_det_prior
from skdml.linear.nca import find_candidates, nca_candidate_loss, nca_loss

ORDER = np.argsort(Y, kind="stable")
XS, YS = X[ORDER], Y[ORDER]  # sorted by class


def literal_loss(L, X, codes):
    """Equation 3 of the paper, divided by -n."""
    total = 0.0
    for i in range(len(X)):
        k = [np.exp(-np.sum((L @ X[i] - L @ X[j]) ** 2)) for j in range(len(X))]
        k[i] = 0.0
        total += sum(k[j] for j in range(len(X)) if codes[j] == codes[i]) / sum(k)
    return -total / len(X)


def all_candidates(weight):
    return find_candidates(XS @ L.T, YS, weight, n_neighbors=30)


# The objective


def test_loss_is_that_of_the_paper():
    assert nca_loss(L, XS, YS, ONES)[0] == pytest.approx(literal_loss(L, X, Y), rel=1e-12)


def test_loss_and_gradient_are_those_of_scikit_learn():
    # From the private NeighborhoodComponentsAnalysis._loss_grad_lbfgs of scikit-learn 1.9.1.
    loss, gradient = nca_loss(L, XS, YS, ONES)
    assert 30 * loss == pytest.approx(-8.71827859783378, rel=1e-12)
    assert_allclose(
        30 * gradient,
        [[-0.1046319443, 0.5482978725, 0.737290588], [-0.4108723435, 1.2566469303, -1.7614496138]],
        rtol=1e-8,
    )


@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("weight", [ONES, WEIGHT, WEIGHT / 3], ids=["ones", "whole", "thirds"])
def test_gradient(size, weight):
    expected = central_differences(lambda L: nca_loss(L, XS, YS, weight)[0], size * L)
    gradient = nca_loss(size * L, XS, YS, weight)[1]
    assert_allclose(gradient, expected, atol=1e-6 * abs(expected).max())


def test_gradient_over_candidates():
    weight = WEIGHT
    few = find_candidates(XS @ L.T, YS, weight, n_neighbors=4)
    expected = central_differences(lambda L: nca_candidate_loss(L, XS, few, weight)[0], L)
    gradient = nca_candidate_loss(L, XS, few, weight)[1]
    assert_allclose(gradient, expected, atol=1e-6 * abs(expected).max())


@pytest.mark.parametrize("weight", [ONES, WEIGHT], ids=["ones", "whole"])
def test_with_all_rows_as_candidates_the_loss_is_exact(weight):
    exact = nca_loss(L, XS, YS, weight)
    found = nca_candidate_loss(L, XS, all_candidates(weight), weight)
    assert found[0] == pytest.approx(exact[0], rel=1e-12)
    assert_allclose(found[1], exact[1], atol=1e-12)


def test_candidates_are_the_nearest_rows():
    graph = find_candidates(XS @ L.T, YS, ONES, n_neighbors=4).graph
    D = ((XS[:, None] @ L.T - XS[None] @ L.T) ** 2).sum(axis=2)
    np.fill_diagonal(D, np.inf)
    assert_array_equal(graph.first, np.repeat(np.arange(30), 4))
    assert_array_equal(graph.second.reshape(30, 4), D.argsort(axis=1)[:, :4])


def test_whole_weights_are_repeated_rows_in_the_loss():
    rows = np.repeat(np.arange(30), WEIGHT.astype(int))
    weighted = nca_loss(L, XS, YS, WEIGHT)
    repeated = nca_loss(L, XS[rows], YS[rows], np.ones(len(rows)))
    assert weighted[0] == pytest.approx(repeated[0], rel=1e-12)
    assert_allclose(weighted[1], repeated[1], atol=1e-13)


# The learner


# scikit-learn 1.6 passes options that newer versions of scipy have deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_minimum_is_as_low_as_that_of_scikit_learn_from_the_same_start():
    data, y = load_iris(return_X_y=True)
    options = {"init": np.eye(4), "max_iter": 300, "tol": 1e-9}
    ours = NCA(alpha=0, **options).fit(data[50:], y[50:])
    theirs = NeighborhoodComponentsAnalysis(**options).fit(data[50:], y[50:])
    loss = [nca_loss(L.components_, data[50:], y[50:] - 1, np.ones(100))[0] for L in (ours, theirs)]
    assert loss[0] == pytest.approx(ours.loss_curve_[-1], rel=1e-9)
    assert loss[0] <= loss[1] + 0.02  # many local minima are nearly equal


@pytest.mark.parametrize("solver", ["exact", "neighbors"])
def test_whole_weights_are_repeated_rows(solver):
    weight = np.random.RandomState(2).randint(0, 3, size=200)
    rows = np.random.RandomState(3).permutation(np.repeat(np.arange(200), weight))
    weighted = NCA(solver=solver).fit(BLOBS, BLOB_CODES, sample_weight=weight)
    repeated = NCA(solver=solver).fit(BLOBS[rows], BLOB_CODES[rows])
    assert_array_equal(weighted.components_, repeated.components_)


@pytest.mark.parametrize("solver", ["exact", "neighbors"])
def test_result_is_independent_of_the_order_of_rows_and_the_names_of_classes(solver):
    rows = np.random.RandomState(0).permutation(200)
    plain = NCA(solver=solver).fit(BLOBS, BLOB_CODES)
    other = NCA(solver=solver).fit(BLOBS[rows], (3 - BLOB_CODES)[rows])
    assert_allclose(
        other.get_mahalanobis_matrix(), plain.get_mahalanobis_matrix(), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("solver", ["exact", "neighbors", "sgd"])
@pytest.mark.parametrize("n_components", [None, 2])
def test_every_solver_lowers_the_exact_loss(solver, n_components):
    learner = NCA(n_components, solver=solver, batch_size=100, random_state=0)
    learner.fit(BLOBS, BLOB_CODES)
    order = np.argsort(BLOB_CODES)

    def loss(L):
        return nca_loss(L, BLOBS[order], BLOB_CODES[order], np.ones(200))[0]

    start = NCA(n_components, max_iter=1, tol=1e9).fit(BLOBS, BLOB_CODES)
    best = NCA(n_components).fit(BLOBS, BLOB_CODES)
    assert loss(learner.components_) < loss(start.components_) - 0.02
    assert loss(learner.components_) < loss(best.components_) + 0.05
    assert learner.components_.shape == (n_components or 4, 4)


def test_loss_curve_falls_from_the_loss_at_the_start():
    learner = NCA(init="identity").fit(BLOBS, BLOB_CODES)
    assert (np.diff(learner.loss_curve_) <= 0).all()
    assert len(learner.loss_curve_) == learner.n_iter_ + 1


@pytest.mark.parametrize("alpha", [0, 2.0])
def test_loss_curve_ends_at_the_objective(alpha):
    start = 0.3 * np.eye(4)
    learner = NCA(init=start, alpha=alpha).fit(BLOBS, BLOB_CODES)
    order, found = np.argsort(BLOB_CODES), learner.components_
    loss = nca_loss(found, BLOBS[order], BLOB_CODES[order], np.ones(200))[0]
    A = found @ found.T
    divergence = 4 * np.log(A.trace() / 4) - np.log(np.linalg.det(A))
    objective = loss + alpha * 4 / 200 * divergence
    assert objective == pytest.approx(learner.loss_curve_[-1], rel=1e-6)


@pytest.mark.parametrize("unit", [None, 0.7])
def test_gradient_of_the_prior(unit):
    def nothing(L):
        return 0.0, np.zeros_like(L)

    prior = add_log_det_prior(nothing, 3.0, unit)
    expected = central_differences(lambda L: prior(L)[0], L)
    assert_allclose(prior(L)[1], expected, atol=1e-6 * abs(expected).max())
    isometry = 0.7 * np.eye(2, 3)
    assert prior(isometry)[0] == pytest.approx(0, abs=1e-6)
    assert (prior(1.1 * isometry)[0] > 0.01) == (unit is not None)
    assert prior(isometry * [[1.0], [1.3]])[0] > 0.01
    assert np.isfinite(prior(np.zeros((2, 3)))[0])
    assert add_log_det_prior(nothing, 0) is nothing


def test_a_strong_prior_gives_the_euclidean_distance():
    M = NCA(alpha=1e6).fit(BLOBS, BLOB_CODES).get_mahalanobis_matrix()
    assert_allclose(M / M[0, 0], np.eye(4), atol=1e-3)


def test_candidates_are_searched_again(monkeypatch):
    found = []

    def count(*arguments):
        found.append(find_candidates(*arguments))
        return found[-1]

    monkeypatch.setattr(nca, "find_candidates", count)
    NCA(solver="neighbors", n_neighbors=5).fit(BLOBS, BLOB_CODES)
    assert len(found) > 1
    assert not np.array_equal(found[0].graph.second, found[-1].graph.second)


def test_auto_chooses_by_the_number_of_rows(monkeypatch):
    monkeypatch.setattr(nca, "_EXACT", 50)
    monkeypatch.setattr(nca, "_NEIGHBORS", 100)
    for n, solver in ((50, "exact"), (100, "neighbors"), (200, "sgd")):
        auto, named = (
            NCA(solver=name, max_iter=30, tol=1e-2, random_state=0).fit(BLOBS[:n], BLOB_CODES[:n])
            for name in ("auto", solver)
        )
        assert_array_equal(auto.components_, named.components_)


@pytest.mark.parametrize("solver", ["exact", "neighbors", "sgd"])
def test_sparse_and_single_precision(solver):
    data = BLOBS * (np.random.RandomState(0).uniform(size=BLOBS.shape) > 0.2)
    options = {"solver": solver, "init": "identity", "random_state": 0, "max_iter": 20, "tol": 1e-2}
    dense = NCA(**options).fit(data, BLOB_CODES)
    sparse = NCA(**options).fit(csr_matrix(data), BLOB_CODES)
    assert_allclose(sparse.transform(csr_matrix(data)), dense.transform(data), atol=0.5)
    single = NCA(**options).fit(data.astype(np.float32), BLOB_CODES)
    assert single.components_.dtype == np.float32
    assert_allclose(single.loss_curve_[0], dense.loss_curve_[0], rtol=1e-4)


def test_warm_start_starts_at_the_last_fit():
    learner = NCA(warm_start=True).fit(BLOBS, BLOB_CODES)
    end = learner.loss_curve_[-1]
    learner.fit(BLOBS, BLOB_CODES)
    assert learner.loss_curve_[0] == pytest.approx(end, rel=1e-6)


@pytest.mark.parametrize("solver", ["exact", "neighbors"])
def test_too_few_iterations_warn(solver):
    with pytest.warns(ConvergenceWarning, match="NCA did not converge in max_iter=2"):
        learner = NCA(solver=solver, max_iter=2, tol=0).fit(BLOBS, BLOB_CODES)
    assert learner.n_iter_ == 2


def test_informative_features_have_the_largest_weights():
    data, y = make_classification(
        300, 10, n_informative=3, n_redundant=0, shuffle=False, random_state=0
    )
    M = NCA().fit(data, y).get_mahalanobis_matrix()
    assert M.diagonal()[:3].min() > M.diagonal()[3:].max()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"solver": "fast"}, "solver='fast' is unknown"),
        ({"n_neighbors": 0}, "n_neighbors == 0"),
        ({"batch_size": 0}, "batch_size == 0"),
        ({"init": "best"}, "init='best' is unknown"),
        ({"n_components": 9}, "n_components=9"),
        ({"tol": -1}, "tol == -1"),
        ({"alpha": -1}, "alpha == -1"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, message):
    learner = NCA(**parameters)
    with pytest.raises(ValueError, match=message):
        learner.fit(BLOBS, BLOB_CODES)
    assert not hasattr(learner, "n_features_in_")


def test_one_class_by_weight_is_refused():
    with pytest.raises(ValueError, match="one class"):
        NCA().fit(X, Y, sample_weight=(Y == 1) * 1.0)
