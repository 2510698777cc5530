"""What linear learners share: checks of the input, scale, start, L-BFGS and matrix roots."""

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import rosen, rosen_der
from scipy.spatial.distance import pdist
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning

from skdml.linear import LinearMap, LinearMetricLearner
from skdml.linear._init import INITS, discriminants, initial_components, principal_axes
from skdml.linear._points import Points, centre_and_scale
from skdml.linear._psd import root, with_positive_peak
from skdml.linear._solvers import minimize_lbfgs

IRIS, SPECIES = load_iris(return_X_y=True)


class Learner(LinearMetricLearner):
    """A learner that only checks its input."""

    _supervisions = ("labels", "pairs", "triplets", "quadruplets")

    def __init__(self, n_components=None, **params):
        self.n_components = n_components
        self.init, self.supervision, self.random_state = "auto", "labels", 0
        self.n_constraints, self.warm_start = None, False
        vars(self).update(params)

    def fit(self, X, y=None):
        return self


class SparseLearner(Learner):
    _sparse = True


@pytest.fixture
def rng():
    return np.random.RandomState(0)


# Checks of the input


def test_labelled_points_are_checked_and_encoded():
    X, codes, classes = Learner()._read_labelled(IRIS.tolist(), np.array(list("abc"))[SPECIES])
    assert_array_equal(X, IRIS)
    assert_array_equal(codes, SPECIES)
    assert classes.tolist() == list("abc")
    assert Learner()._read_labelled(IRIS.astype(np.float32), SPECIES)[0].dtype == np.float32
    assert Learner()._read_labelled(IRIS.astype(int), SPECIES)[0].dtype == np.float64


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "Learner requires y to be passed, but the target y is None"),
        (np.zeros(150), "at least two classes; all 150 labels are of one"),
        (IRIS[:, 0], "Unknown label type: continuous"),
        (SPECIES[:9], "inconsistent numbers of samples"),
    ],
)
def test_invalid_class_labels_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        Learner()._read_labelled(IRIS, y)


def test_pairs_from_labels_are_same_and_different():
    pairs = Learner(n_constraints=200)._read_pairs(IRIS, SPECIES)
    assert_array_equal(SPECIES[pairs.first] == SPECIES[pairs.second], pairs.same)
    assert pairs.same.sum() == 200
    assert len(pairs.same) == 400
    assert_array_equal(pairs.differences, IRIS[pairs.first] - IRIS[pairs.second])
    again = Learner(n_constraints=200)._read_pairs(IRIS, SPECIES)
    assert_array_equal(again.first, pairs.first)
    assert len(Learner()._read_pairs(IRIS, SPECIES).same) == 2 * 10 * 150


@pytest.mark.parametrize("labels", [(1, 0), (1, -1), (True, False)])
def test_given_pairs_are_read_as_points_and_rows(labels):
    tuples, y = np.stack([IRIS[:4], IRIS[4:8]], axis=1), np.array(labels)[[0, 1, 0, 1]]
    learner = Learner(supervision="pairs")
    pairs = learner._read_pairs(tuples, y)
    assert_array_equal(pairs.differences, IRIS[:4] - IRIS[4:8])
    assert pairs.same.tolist() == [True, False, True, False]
    assert learner.n_features_in_ == 4


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "Learning from pairs requires y to be passed"),
        ([1, 1, 1], "both kinds are needed to learn from; all 3 are the same"),
        ([-1, -1, -1], "both kinds are needed to learn from; all 3 are different"),
        ([0, 1, 2], r"has to hold 1 \(same\) and 0 \(different\), or 1 and -1; got"),
        ([0, 1, -1], "has to hold 1"),
        ([0, 1], "one label for each of the 3 pairs; got 2 labels"),
    ],
)
def test_bad_labels_of_pairs_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        Learner(supervision="pairs")._read_pairs(np.stack([IRIS[:3], IRIS[3:6]], axis=1), y)


@pytest.mark.parametrize(("size", "kind"), [(3, "triplets"), (4, "quadruplets")])
def test_triplets_and_quadruplets_given_and_drawn(size, kind):
    learner = Learner(supervision=kind)
    tuples = IRIS[: 5 * size].reshape(5, size, 4)
    X, rows = getattr(learner, f"_read_{kind}")(tuples, None)
    assert_array_equal(X[rows], tuples)
    assert not learner.__sklearn_tags__().target_tags.required
    X, rows = getattr(Learner(), f"_read_{kind}")(IRIS, SPECIES)
    assert rows.shape == (1500, size)
    code = SPECIES[rows]
    assert (code[:, 0] == code[:, 1]).all()
    assert (code[:, -1] != code[:, size - 3 if size == 3 else 2]).all()


def test_tuples_of_another_shape_are_refused():
    learner = Learner(supervision="pairs")
    with pytest.raises(ValueError, match=r"pairs need the shape \(n_pairs, 2, n_features\)"):
        learner._read_pairs(IRIS, [1, 0])
    with pytest.raises(ValueError, match="points that are vectors"):
        learner._read_pairs(np.zeros((3, 2, 2, 2)), [1, 0, 1])
    with pytest.raises(ValueError, match="NaN"):
        learner._read_pairs(np.full((3, 2, 2), np.nan), [1, 0, 1])


def test_classes_of_a_single_row_are_refused():
    for read in (Learner()._read_pairs, Learner()._read_triplets, Learner()._read_quadruplets):
        with pytest.raises(ValueError, match="Each of the 5 classes has a single sample"):
            read(IRIS[:5], np.arange(5))


def test_unknown_supervision_and_ranges_are_refused():
    with pytest.raises(ValueError, match="supervision='chunks' is unknown to Learner"):
        Learner(supervision="chunks")._check_ranges()
    for name, value in [("max_iter", 0), ("tol", -1.0), ("n_constraints", 0), ("n_neighbors", 0)]:
        with pytest.raises(ValueError, match=f"{name} == {value}, must be >="):
            Learner(**{name: value})._check_ranges()
    with pytest.raises(TypeError, match="max_iter must be an instance of"):
        Learner(max_iter=1.5)._check_ranges()
    Learner(max_iter=3, tol=0.0, n_constraints=None, verbose=0, warm_start=True)._check_ranges()


def test_weights_are_checked():
    read = Learner()._read_weight
    assert_array_equal(read(None, IRIS), np.ones(150))
    assert read(None, IRIS.astype(np.float32)).dtype == np.float32
    assert_array_equal(read([2] * 150, IRIS), np.full(150, 2.0))
    for bad, message in [
        (np.ones(3), r"one weight for each of the 150 rows, shape \(150,\); got shape \(3,\)"),
        (np.zeros(150), "at least one non-zero weight"),
        (-np.ones(150), "non-negative"),
        (np.full(150, np.nan), "sample_weight contains NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            read(bad, IRIS)


def test_sparse_points_are_accepted_if_a_learner_takes_them():
    sparse = sp.csr_matrix(IRIS)
    X, _, _ = SparseLearner()._read_labelled(sparse.tocsc(), SPECIES)
    assert X.format == "csr"
    with pytest.raises(TypeError, match="dense data is required"):
        Learner()._read_labelled(sparse, SPECIES)
    learner = SparseLearner()
    learner._read_labelled(sparse, SPECIES)
    learner.components_ = np.eye(4)[:2]
    assert_array_equal(learner.transform(sparse), IRIS[:, :2])
    assert_array_equal(LinearMap(np.eye(4)[:2])(sparse), IRIS[:, :2])
    assert_allclose(learner.get_metric()(sparse[:3]), learner.get_metric()(IRIS[:3]))


# Scale and start


@pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_scaled_points_have_a_mean_squared_distance_of_two(make, unit, rng):
    weight = rng.randint(0, 3, size=150).astype(float)
    X, scale = centre_and_scale(make(IRIS * unit), weight)
    repeated = np.repeat(IRIS * unit, weight.astype(int), axis=0)
    square = pdist(repeated, "sqeuclidean").sum() * 2 / len(repeated) ** 2
    assert_allclose(2 * scale**2, square)
    dense = X.toarray() if sp.issparse(X) else X
    assert_allclose(pdist(dense), pdist(IRIS * unit) / scale)


def test_scaling_keeps_the_dtype_and_accepts_equal_points():
    X, _scale = centre_and_scale(IRIS.astype(np.float32))
    assert X.dtype == np.float32
    assert_allclose(X.mean(axis=0), 0, atol=1e-6)
    assert centre_and_scale(np.full((4, 2), 0.1))[1] == 1.0


def start(X, codes, rng, scale=1.0, **params):
    learner = Learner(**params)
    points = Points(X, codes, np.ones(X.shape[0]), scale)
    return initial_components(learner._init_or_last_fit(), learner.n_components, points, rng)


def test_named_starts(rng):
    X, _scale = centre_and_scale(IRIS)
    assert_array_equal(start(X, SPECIES, rng, init="identity"), np.eye(4))
    assert_array_equal(start(X, SPECIES, rng, init="identity", n_components=2), np.eye(4)[:2])
    axes = start(X, SPECIES, rng, init="pca", n_components=2)
    assert_allclose(abs(axes), abs(PCA(2).fit(X).components_))
    lda = start(X, SPECIES, rng, init="lda", n_components=2)
    reference = LinearDiscriminantAnalysis().fit(X, SPECIES).scalings_[:, :2].T
    # The ridge changes the axes a little. Their directions are those of Fisher.
    cosine = abs((lda * reference).sum(axis=1))
    assert_allclose(
        cosine, np.linalg.norm(lda, axis=1) * np.linalg.norm(reference, axis=1), rtol=0.05
    )
    given = np.arange(8.0).reshape(2, 4)
    assert_array_equal(start(X, SPECIES, rng, init=given, scale=2.0), 2 * given)
    assert start(X, SPECIES, rng, init="random", n_components=3).shape == (3, 4)


def test_auto_chooses_the_start_as_scikit_learn_does(rng):
    X, _ = centre_and_scale(IRIS)
    for n_components, init in [(None, "identity"), (4, "identity"), (3, "pca"), (2, "lda")]:
        options = {"n_components": n_components}
        auto = start(X, SPECIES, rng, **options)
        assert_array_equal(auto, start(X, SPECIES, rng, init=init, **options))
    assert_array_equal(start(X, None, rng, n_components=2), principal_axes(X, 2))


def test_warm_start_starts_at_the_last_fit(rng):
    options = {"scale": 10.0, "warm_start": True, "components_": np.full((2, 4), 3.0)}
    assert_array_equal(start(IRIS, SPECIES, rng, **options), np.full((2, 4), 30.0))
    with pytest.raises(ValueError, match=r"n_features is 3, but init .* has the shape \(2, 4\)"):
        start(IRIS[:, :3], SPECIES, rng, **options)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"init": "best"}, "init='best' is unknown; choose one of"),
        ({"init": np.eye(3)}, r"has the shape \(3, 3\)"),
        ({"init": np.eye(4), "n_components": 2}, r"n_components is 2 and n_features is 4"),
        ({"init": np.ones((5, 4))}, r"has the shape \(5, 4\)"),
        ({"init": [[np.nan] * 4]}, "init contains NaN"),
        ({"n_components": 5}, "n_components=5 has to be None or an int from 1 to 4"),
    ],
)
def test_bad_starts_are_refused(params, message, rng):
    with pytest.raises(ValueError, match=message):
        start(IRIS, SPECIES, rng, **params)


def test_lda_needs_classes_and_dense_points(rng):
    for X, codes in [(IRIS, None), (sp.csr_matrix(IRIS), SPECIES)]:
        with pytest.raises(ValueError, match="init='lda' needs dense points and class labels"):
            start(X, codes, rng, init="lda")


@pytest.mark.parametrize("init", [init for init in INITS if init != "random"])
def test_whole_weights_are_repeated_rows_in_the_start(init, rng):
    weight = rng.randint(0, 3, size=150)
    X, _ = centre_and_scale(IRIS)
    rows = np.repeat(np.arange(150), weight)
    weighted, repeated = (
        initial_components(init, 3, points, rng)
        for points in (
            Points(X, SPECIES, weight.astype(float)),
            Points(X[rows], SPECIES[rows], np.ones(len(rows))),
        )
    )
    assert_allclose(weighted, repeated, atol=1e-7)


@pytest.mark.parametrize("shape", [(60, 5), (6, 20), (2, 3)])
def test_principal_axes_of_dense_and_sparse_points(shape, rng):
    X = rng.normal(size=shape) * np.arange(1, shape[1] + 1)
    for n_components in range(1, shape[1] + 1):
        axes = principal_axes(X, n_components)
        kept = min(n_components, shape[0] - 1, shape[1])
        assert_allclose(axes[:kept], with_positive_peak(PCA(kept).fit(X).components_), atol=1e-8)
        sparse = principal_axes(sp.csr_matrix(X), n_components)
        kept = min(kept, min(shape) - 1)
        assert_allclose(sparse[:kept], axes[:kept], atol=1e-6)


def test_discriminants_whiten_within_classes(rng):
    X, _ = centre_and_scale(IRIS)
    Z = X @ discriminants(X, SPECIES, 4).T
    within = sum(np.cov(Z[c == SPECIES].T, bias=True) for c in range(3)) / 3
    # Equal up to the ridge, which changes the smallest variance most.
    assert_allclose(within, np.eye(4) / 4, atol=0.02)
    between = np.ptp([Z[c == SPECIES].mean(axis=0) for c in range(3)], axis=0)
    assert_allclose(between[2:], 0, atol=1e-3)
    assert between[0] > between[1] > 0.1


# Solvers and matrices


def test_lbfgs_finds_the_minimum_and_its_curve_falls():
    L, curve, n_iter = minimize_lbfgs(
        lambda L: (rosen(L.ravel()), rosen_der(L.ravel()).reshape(L.shape)),
        np.zeros((2, 2)),
        max_iter=200,
        tol=1e-12,
        name="Test",
    )
    assert_allclose(L, 1, atol=1e-4)
    assert len(curve) == n_iter + 1
    assert curve[0] == rosen(np.zeros(4))
    assert (np.diff(curve) <= 0).all()


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
def test_lbfgs_has_relative_tolerances(unit):
    def objective(L):
        return unit * (1 + ((L - 3) ** 4).sum()), unit * 4 * (L - 3) ** 3

    found = [
        minimize_lbfgs(objective, np.zeros(2), max_iter=99, tol=tol, name="Test")
        for tol in (1e-3, 1e-9)
    ]
    assert found[0][2] < found[1][2] < 99
    assert_allclose(found[1][0], 3, atol=0.05)


def test_lbfgs_warns_if_it_runs_out_of_iterations():
    def objective(L):
        return rosen(L), rosen_der(L)

    with pytest.warns(ConvergenceWarning, match="Test did not converge in max_iter=3"):
        _, curve, n_iter = minimize_lbfgs(objective, np.zeros(4), max_iter=3, tol=0, name="Test")
    assert n_iter == 3
    assert len(curve) == 4


def test_monitor_ends_lbfgs(capsys):
    seen = []

    def monitor(L, value):
        seen.append((L, value))
        return len(seen) == 4

    L, curve, n_iter = minimize_lbfgs(
        lambda L: (rosen(L), rosen_der(L)),
        np.zeros(4),
        max_iter=99,
        tol=0,
        name="Test",
        monitor=monitor,
        verbose=1,
    )
    assert n_iter == 4
    assert_array_equal(L, seen[-1][0])
    assert_array_equal(curve[1:], [value for _, value in seen])
    assert capsys.readouterr().out.count("[Test] iteration") == 4


def test_lbfgs_respects_bounds():
    L, _, _ = minimize_lbfgs(
        lambda w: (((w + 1) ** 2).sum(), 2 * (w + 1)),
        np.ones(3),
        max_iter=50,
        tol=1e-9,
        name="Test",
        bounds=[(0, None)] * 3,
    )
    assert_array_equal(L, 0)


def test_root(rng):
    A = rng.normal(size=(5, 5))
    M = A @ A.T
    assert_allclose(root(M).T @ root(M), M)
    values = np.linalg.eigvalsh(M)[::-1]
    low = root(M, 2)
    assert_allclose(low @ low.T, np.diag(values[:2]), atol=1e-10)
    assert (np.take_along_axis(low, abs(low).argmax(axis=1)[:, None], axis=1) > 0).all()
