"""LMNN: its objective against loops over the paper's sums, its optimum, its weights, its limits."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from sklearn.covariance import ledoit_wolf
from sklearn.datasets import load_iris, make_blobs
from sklearn.decomposition import KernelPCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdml import LMNN
from skdml.linear._points import Points
from skdml.linear.lmnn import (
    _outside_margin,
    find_impostors,
    half_whitened_start,
    lmnn_loss,
    merge_impostors,
    solve,
    target_neighbors,
)

# Wide overlapping blobs: many impostors, and no equal distances.
X, Y = make_blobs(n_samples=60, n_features=4, centers=3, cluster_std=4.0, random_state=0)
ALL = len(X)


def distances(Z):
    return ((Z[:, None] - Z[None]) ** 2).sum(axis=-1)


def literal_targets(D, y, k):
    """List the k nearest other rows of the class of each row."""
    targets = []
    for i in range(len(y)):
        others = [j for j in range(len(y)) if y[j] == y[i] and j != i]
        targets.append(sorted(others, key=lambda j: D[i, j])[:k])
    return targets


def literal_loss(D, y, targets, mu, n_impostors):
    """The objective of the docstring, term by term, from squared distances."""
    loss = 0.0
    for i in range(len(y)):
        impostors = sorted((m for m in range(len(y)) if y[m] != y[i]), key=lambda m: D[i, m])
        for j in targets[i]:
            push = sum(max(0.0, 1 + D[i, j] - D[i, m]) ** 2 for m in impostors[:n_impostors])
            loss += (1 - mu) * D[i, j] + mu * push
    return loss / sum(len(js) for js in targets)


def make_problem(X, y, weight=None, **params):
    """Return the problem of `fit` on unscaled points, with Euclidean target neighbours."""
    weight = np.ones(len(X)) if weight is None else weight
    return LMNN(**params)._make_problem(Points(X, y, weight), np.eye(X.shape[1]))


# The objective


@pytest.mark.parametrize("n_impostors", [2, ALL])
@pytest.mark.parametrize("n_components", [2, 4])
def test_objective_is_that_of_the_docstring(n_impostors, n_components):
    problem = make_problem(X, Y, mu=0.3, n_impostors=n_impostors)
    targets = literal_targets(distances(X), Y, 3)
    for scale in (0.03, 0.3, 3):
        L = scale * np.random.RandomState(0).normal(size=(n_components, 4))
        impostors = find_impostors(problem, problem.embed(L))
        expected = literal_loss(distances(X @ L.T), Y, targets, 0.3, n_impostors)
        assert lmnn_loss(L, problem, impostors)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sparse", [False, True])
def test_gradient(sparse):
    weight = np.random.RandomState(1).uniform(0.2, 3, size=len(X))
    problem = make_problem(csr_matrix(X) if sparse else X, Y, weight, mu=0.7, n_impostors=9)
    L = 0.2 * np.random.RandomState(0).normal(size=(3, 4))
    impostors = find_impostors(problem, problem.embed(L))
    assert len(impostors.pairs) > len(X)

    def loss(flat):
        return lmnn_loss(flat.reshape(L.shape), problem, impostors)[0]

    numeric = [
        (loss(L.ravel() + 1e-5 * e) - loss(L.ravel() - 1e-5 * e)) / 2e-5 for e in np.eye(L.size)
    ]
    gradient = lmnn_loss(L, problem, impostors)[1]
    assert_allclose(gradient.ravel(), numeric, rtol=1e-6, atol=1e-8 * abs(gradient).max())


def test_loss_curve_is_the_objective_at_the_start_and_at_the_end():
    learner = LMNN(init="identity", tol=1e-6).fit(X, Y)
    targets = literal_targets(distances(X), Y, 3)
    D = distances(learner.transform(X))
    assert learner.loss_curve_[-1] == pytest.approx(literal_loss(D, Y, targets, 0.5, 20), rel=1e-9)
    given = LMNN(init=np.eye(4)[:2], max_iter=9).fit(X, Y)
    first = distances(X[:, :2])
    targets = literal_targets(first, Y, 3)
    assert given.loss_curve_[0] == pytest.approx(literal_loss(first, Y, targets, 0.5, 20), rel=1e-9)
    for fitted in (learner, given):
        assert (np.diff(fitted.loss_curve_) <= 0).all()
        assert len(fitted.loss_curve_) == fitted.n_iter_ + 1
        assert fitted.loss_curve_[-1] < 0.95 * fitted.loss_curve_[0]


def test_start_has_the_best_scale():
    curves = [LMNN(init="identity").fit(unit * X, Y).loss_curve_ for unit in (1e-6, 1, 1e6)]
    assert_allclose(curves[0], curves[1], rtol=1e-6)
    assert_allclose(curves[2], curves[1], rtol=1e-6)
    targets, D = literal_targets(distances(X), Y, 3), distances(X)
    best = min(literal_loss(s * D, Y, targets, 0.5, 20) for s in np.geomspace(1e-4, 0.3, 60))
    assert curves[1][0] == pytest.approx(best, rel=5e-3)


def test_half_whitened_start():
    weight = np.random.RandomState(0).randint(1, 4, size=len(X))
    L = half_whitened_start(X, Y, weight.astype(float))
    rows = np.repeat(
        X - np.array([X[c == Y].T @ weight[c == Y] / weight[c == Y].sum() for c in Y]),
        weight,
        axis=0,
    )
    S, shrinkage = ledoit_wolf(rows, assume_centered=True)
    assert shrinkage > 0.01
    M = L.T @ L
    assert_allclose(M @ M @ S, np.eye(4), atol=1e-10)
    assert_array_equal(half_whitened_start(np.zeros((6, 2)), Y[:6], np.ones(6)), np.eye(2))


# The objective is convex in M = LᵀL, so with a square L every start must end at the same value.
def test_optimum_is_that_over_all_impostors():
    problem = make_problem(X, Y, n_impostors=ALL)
    everyone = find_impostors(problem, np.zeros_like(X))
    assert len(everyone.pairs) == 2 * ALL**2 // 3
    ends = []
    for seed in range(3):
        start = np.random.RandomState(seed).normal(size=(4, 4))
        L, curve = solve(problem, start, max_iter=200, tol=1e-9)
        assert curve[-1] == pytest.approx(lmnn_loss(L, problem, everyone)[0], rel=1e-12)
        ends.append(curve[-1])

    def loss(flat):
        value, gradient = lmnn_loss(flat.reshape(4, 4), problem, everyone)
        return value, gradient.ravel()

    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9}
    best = minimize(loss, np.eye(4).ravel() / 5, jac=True, method="L-BFGS-B", options=options).fun
    assert_allclose(ends, best, rtol=1e-6)


def test_merged_impostors_have_the_larger_weight():
    problem = make_problem(X, Y, np.full(len(X), 2.0), n_impostors=3)
    a, b = (find_impostors(problem, problem.embed(s * np.eye(4))) for s in (0.1, 0.02))
    both = merge_impostors(a, b)
    weights = {}
    for s in (a, b):
        for i, m, w in zip(s.pairs.first, s.pairs.second, s.weight, strict=True):
            weights[i, m] = max(w, weights.get((i, m), 0))
    assert set(a.weight) == {1.0, 2.0}
    assert list(zip(both.pairs.first, both.pairs.second, strict=True)) == sorted(weights)
    assert_array_equal(both.weight, [weights[key] for key in sorted(weights)])


def test_impostors_outside_the_margin_do_not_change_the_objective():
    problem = make_problem(X, Y, n_impostors=3)
    known = find_impostors(problem, problem.embed(0.02 * np.eye(4)))
    L = np.diag([0.5, 0.1, 0.1, 0.1])
    Z = problem.embed(L)
    found = find_impostors(problem, Z)
    both = merge_impostors(found, _outside_margin(problem, known, Z))
    assert len(both.pairs) > len(found.pairs)
    assert lmnn_loss(L, problem, both)[0] == pytest.approx(lmnn_loss(L, problem, found)[0])
    with_known = lmnn_loss(L, problem, merge_impostors(found, known))[0]
    assert with_known > lmnn_loss(L, problem, found)[0] + 1e-3


# Weights and the order of rows


@pytest.mark.parametrize("kind", [np.array, csr_matrix])
def test_weights_are_repeated_rows(kind):
    weight = np.random.RandomState(0).randint(0, 6, size=len(X))
    weighted = LMNN().fit(kind(X), Y, sample_weight=weight)
    repeated = LMNN().fit(kind(np.repeat(X, weight, axis=0)), np.repeat(Y, weight))
    assert_array_equal(weighted.components_, repeated.components_)
    assert not np.allclose(weighted.components_, LMNN().fit(kind(X), Y).components_)


# Repeated rows are merged first. This test shows that they still count as in the sums of the paper.
def test_merged_rows_count_as_in_the_sums_over_all_rows():
    weight = np.random.RandomState(0).randint(1, 6, size=len(X))
    learner = LMNN(n_impostors=7, init="identity").fit(X, Y, sample_weight=weight)
    many, y = np.repeat(X, weight, axis=0), np.repeat(Y, weight)
    D, targets = distances(learner.transform(many)), literal_targets(distances(many), y, 3)
    expected = literal_loss(D, y, targets, 0.5, 7)
    assert learner.loss_curve_[-1] == pytest.approx(expected, rel=1e-9)


def test_target_neighbors_with_weights():
    Z = np.array([[0.0], [1.0], [3.0], [7.0], [8.0]])
    codes, weight = np.array([0, 0, 0, 0, 1]), np.array([3.0, 1.5, 1.0, 9.0, 1.0])
    second, count = target_neighbors(Z, codes, weight, 3)
    found = [
        {j: c for j, c in zip(js, cs, strict=True) if c}
        for js, cs in zip(second, count, strict=True)
    ]
    # A weight of 1.5 is two rows of 0.75 each.
    assert found == [{0: 2, 1: 0.75}, {1: 0.75, 0: 2}, {1: 1.5, 0: 1}, {3: 3}, {}]


def test_result_is_independent_of_the_order_of_rows_and_the_names_of_classes():
    mixed = np.random.RandomState(0).permutation(len(X))
    names = np.array(["z", "a", "m"])
    for data in (X, load_iris().data[::3]):  # iris is full of ties
        y = Y if data is X else load_iris().target[::3]
        mixed = np.random.RandomState(0).permutation(len(data))
        L = LMNN().fit(data, y).components_
        assert_array_equal(LMNN().fit(data[mixed], y[mixed]).components_, L)
        M, N = L.T @ L, LMNN().fit(data, names[y]).get_mahalanobis_matrix()
        assert_allclose(N, M, rtol=1e-6, atol=1e-9 * abs(M).max())


# Input


def test_sparse_points_give_the_result_of_dense_points():
    rng = np.random.RandomState(0)
    counts = rng.poisson(0.7, size=(80, 12)) * rng.uniform(size=(80, 12))
    y = (counts[:, 0] > counts[:, 1]).astype(int)
    for dtype in (np.float64, np.float32):
        dense = LMNN(init="identity", tol=1e-4).fit(counts.astype(dtype), y)
        sparse = LMNN(init="identity", tol=1e-4).fit(csr_matrix(counts.astype(dtype)), y)
        assert dense.components_.dtype == sparse.components_.dtype == dtype
        assert sparse.loss_curve_[-1] == pytest.approx(dense.loss_curve_[-1], rel=1e-3)
    low = LMNN(3).fit(csr_matrix(counts), y)
    assert low.components_.shape == (3, 12)
    assert low.transform(csr_matrix(counts)).shape == (80, 3)


def test_float32_gives_nearly_the_result_of_float64():
    single, double = (LMNN().fit(X.astype(t), Y) for t in (np.float32, np.float64))
    assert single.loss_curve_[-1] == pytest.approx(double.loss_curve_[-1], rel=2e-3)


def test_learns_to_ignore_noise():
    rng = np.random.RandomState(0)
    signal, y = make_blobs(200, 2, centers=3, cluster_std=1.0, random_state=1)
    noisy = np.hstack([signal, 8 * rng.normal(size=(200, 3))])
    model = make_pipeline(LMNN(), KNeighborsClassifier(3)).fit(noisy[:150], y[:150])
    plain = KNeighborsClassifier(3).fit(noisy[:150], y[:150])
    assert plain.score(noisy[150:], y[150:]) < 0.9
    assert model.score(noisy[150:], y[150:]) > 0.95
    M = model[0].get_mahalanobis_matrix()
    assert M[2:, 2:].trace() < 0.2 * M.trace()


def test_warm_start_starts_at_the_last_fit():
    learner = LMNN(warm_start=True, tol=1e-6).fit(X, Y)
    last = learner.loss_curve_[-1]
    again = learner.fit(X, Y)
    # The target neighbours are those of the new start.
    assert again.loss_curve_[0] != LMNN().fit(X, Y).loss_curve_[0]
    assert again.loss_curve_[0] < 2 * last
    fresh = learner.set_params(warm_start=False).fit(X, Y)
    assert fresh.loss_curve_[0] == LMNN().fit(X, Y).loss_curve_[0]


@pytest.mark.parametrize("init", ["pca", "lda", "identity", "random"])
def test_every_init_lowers_the_objective(init):
    learner = LMNN(2, init=init, random_state=0).fit(X, Y)
    assert learner.components_.shape == (2, 4)
    assert learner.loss_curve_[-1] < learner.loss_curve_[0]


# Few rows, no impostors


def test_classes_with_fewer_rows_than_target_neighbours():
    kept = np.concatenate([np.flatnonzero(Y == 0), np.flatnonzero(Y == 1)[:2], [np.argmax(Y == 2)]])
    learner = LMNN(n_neighbors=5, init="identity").fit(X[kept], Y[kept])
    D = distances(learner.transform(X[kept]))
    targets = literal_targets(distances(X[kept]), Y[kept], 5)
    assert sorted({len(js) for js in targets}) == [0, 1, 5]
    expected = literal_loss(D, Y[kept], targets, 0.5, 20)
    assert learner.loss_curve_[-1] == pytest.approx(expected, rel=1e-9)


def test_no_impostor_at_the_start():
    apart = np.array([[0.0, 0.0], [0.1, 0.0], [50.0, 0.0], [50.1, 0.0]])
    learner = LMNN(init=np.eye(2)).fit(apart, [0, 0, 1, 1])
    assert learner.loss_curve_[-1] < learner.loss_curve_[0]
    assert learner.get_metric()(apart[0], apart[2]) > learner.get_metric()(apart[0], apart[1])


def test_duplicated_rows():
    duplicated = np.repeat(X[:6], 2, axis=0)
    learner = LMNN().fit(duplicated, np.repeat([0, 1, 0, 1, 0, 1], 2))
    assert np.isfinite(learner.components_).all()
    points = LMNN().fit(np.repeat([[0.0], [1.0]], 3, axis=0), [0, 0, 0, 1, 1, 1])
    assert points.loss_curve_[-1] == pytest.approx(0, abs=1e-12)
    with pytest.warns(UserWarning, match="All rows that LMNN learned from are equal"):
        same = LMNN().fit(np.zeros((6, 2)), [0, 0, 0, 1, 1, 1])
    assert np.isfinite(same.components_).all()


# Errors


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors"),
        ({"mu": 0}, "mu"),
        ({"mu": 1.0}, "mu"),
        ({"n_impostors": 0}, "n_impostors"),
        ({"n_components": 5}, "n_components"),
        ({"max_iter": 0}, "max_iter"),
        ({"tol": -1.0}, "tol"),
        ({"init": "euclid"}, "init"),
        ({"init": np.eye(3)}, "init"),
    ],
)
def test_parameters_out_of_range_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        LMNN(**params).fit(X, Y)


def test_invalid_data_are_refused():
    with pytest.raises(ValueError, match="at least two classes"):
        LMNN().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="at least two classes"):
        LMNN().fit(X, Y, sample_weight=Y == 1)
    with pytest.raises(ValueError, match="Each of the 3 classes has a single sample"):
        LMNN().fit(X[:3], [0, 1, 2])
    with pytest.raises(ValueError, match="one weight for each of the 60 rows"):
        LMNN().fit(X, Y, sample_weight=[1.0])
    learner = LMNN().fit(X, Y)
    L = learner.components_
    with pytest.raises(ValueError, match="at least two classes"):
        learner.fit(X[:9, :3], np.zeros(9))
    assert_array_equal(learner.components_, L)
    assert learner.n_features_in_ == 4


def test_too_few_rounds_warn():
    with pytest.warns(ConvergenceWarning, match="LMNN did not converge in max_iter=1"):
        LMNN(max_iter=1, tol=0).fit(X, Y)


def test_verbose_prints_a_line_for_each_round(capsys):
    learner = LMNN(verbose=1).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == learner.n_iter_
    assert lines[0].startswith("[LMNN] round 1: ")


# Kernels


def literal_kernel_loss(A, K, y, targets):
    """The objective of kernel LMNN, and its gradient: f(x_i) = A k_i, k_i a column of K."""
    n, scale = len(y), sum(len(js) for js in targets)
    Z, G, loss = K @ A.T, np.zeros((n, len(A))), 0.0
    for i in range(n):
        others = np.flatnonzero(y != y[i])
        for j in targets[i]:
            near = ((Z[i] - Z[j]) ** 2).sum()
            violation = np.maximum(1 + near - ((Z[i] - Z[others]) ** 2).sum(axis=1), 0)
            loss += 0.5 * near + 0.5 * (violation**2).sum()
            pull = (1 + 2 * violation.sum()) * (Z[i] - Z[j])
            push = 2 * violation[:, None] * (Z[i] - Z[others])
            G[i] += pull - push.sum(axis=0)
            G[j] -= pull
            G[others] += push
    return loss / scale, G.T @ K / scale


def test_kernel_pca_and_lmnn_are_kernel_lmnn():
    points, y = make_blobs(30, 2, centers=3, cluster_std=3.0, random_state=0)
    points = StandardScaler().fit_transform(points)
    K = polynomial_kernel(points, degree=2, gamma=1, coef0=1)
    model = make_pipeline(
        KernelPCA(kernel="poly", degree=2, gamma=1, coef0=1, eigen_solver="dense"),
        LMNN(n_impostors=len(K), init="identity", tol=1e-7, max_iter=300),
    ).fit(points, y)
    targets = literal_targets(K.diagonal()[:, None] + K.diagonal() - 2 * K, y, 3)
    # The rows of L = A Φ lie in the span of the points in the feature space of the kernel. It has 6
    # dimensions here. A is given in the basis of that span that kernel PCA uses.
    values, axes = np.linalg.eigh(K)
    basis = (axes[:, -6:] / np.sqrt(values[-6:])).T
    assert values[-7] < 1e-12 * values[-1]

    def loss(B):
        value, gradient = literal_kernel_loss(B.reshape(6, 6) @ basis, K, y, targets)
        return value, (gradient @ basis.T).ravel()

    options = {"maxiter": 2000, "ftol": 1e-13, "gtol": 1e-8}
    found = minimize(loss, np.eye(6).ravel() / 3, jac=True, method="L-BFGS-B", options=options)
    expected = distances(K @ basis.T @ found.x.reshape(6, 6).T)
    assert model[-1].loss_curve_[-1] == pytest.approx(found.fun, rel=1e-5)
    assert_allclose(distances(model.transform(points)), expected, atol=0.01 * expected.max())
