"""Base distances and LearnedDistance: formulas, axioms, agreement of all methods, errors."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import chebyshev, euclidean
from sklearn.datasets import load_iris
from sklearn.metrics import pairwise_distances

from skdml import LearnedDistance, MahalanobisMetric, check_metric_axioms, distances
from skdml.distances import (
    BASE_DISTANCES,
    METRIC_DISTANCES,
    check_distance,
    paired_base_distance,
    pairwise_base_distance,
)

IRIS, _ = load_iris(return_X_y=True)

every_distance = pytest.mark.parametrize("distance", BASE_DISTANCES)
by_hypothesis = settings(derandomize=True, deadline=None, max_examples=50, database=None)


@pytest.fixture
def iris_distance():
    return MahalanobisMetric().fit(IRIS).get_metric()


class Counting:
    """An embedding that counts its rows."""

    def __init__(self):
        self.rows = 0

    def __call__(self, X):
        self.rows += len(X)
        return np.asarray(X, dtype=float).reshape(len(X), -1) * 2


def identity(X):
    return np.asarray(X, dtype=float)


def literal(x, y, distance):
    """Compute one distance from its definition."""
    x, y = [float(v) for v in x], [float(v) for v in y]
    difference = [u - v for u, v in zip(x, y, strict=True)]
    if distance == "manhattan":
        return math.fsum(abs(v) for v in difference)
    if distance == "euclidean":
        return math.sqrt(math.fsum(v * v for v in difference))
    if distance == "sqeuclidean":
        return math.fsum(v * v for v in difference)
    lengths = math.hypot(*x), math.hypot(*y)
    if lengths == (0, 0):
        angle = 0.0
    elif 0 in lengths:
        angle = math.pi / 2
    else:
        # Kahan's formula is accurate also for nearly equal or opposite vectors.
        u, v = ([c / n for c in p] for p, n in zip((x, y), lengths, strict=True))
        minus = math.hypot(*(a - b for a, b in zip(u, v, strict=True)))
        plus = math.hypot(*(a + b for a, b in zip(u, v, strict=True)))
        angle = 2 * math.atan2(minus, plus)
    return angle / math.pi if distance == "angular" else 2 * math.sin(angle / 2) ** 2


@st.composite
def points(draw, smallest=1e-100, largest=1e100):
    """Draw rows of similar or different magnitudes, with zero rows, duplicates and multiples."""
    shape = draw(array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6))
    magnitude = st.floats(smallest, largest, allow_subnormal=False)
    plain = st.floats(1e-3, 1e3)
    size = draw(st.sampled_from([magnitude, plain]))
    X = draw(
        arrays(np.float64, shape, elements=st.one_of(st.just(0.0), size, size.map(float.__neg__)))
    )
    rows = st.integers(0, len(X) - 1)
    for factor in draw(st.lists(st.sampled_from([0.0, 1.0, 1.0, 3.0, -1.0]), max_size=3)):
        X[draw(rows)] = factor * X[draw(rows)]
    return X


HARD = np.array([[0, 0], [0, 1e-100], [0, -1], [3e-9, 4e-9], [1e100, -1e100], [0, 1]], dtype=float)

# Base distances


@every_distance
@given(X=points())
@example(X=HARD)
@by_hypothesis
def test_pairwise_paired_and_single_distances_match_the_formula(distance, X):
    d = LearnedDistance(identity, distance)
    expected = np.array([[literal(x, y, distance) for y in X] for x in X])
    # Tolerances for rounding. The rounding error of an angle is absolute.
    close = {"rtol": 1e-12, "atol": 1e-14 if distance in ("angular", "cosine") else 0}
    assert_allclose(pairwise_base_distance(X, X, distance), expected, **close)
    assert_allclose(pairwise_base_distance(X, distance=distance), expected, **close)
    assert_allclose(d(X), expected, **close)
    assert_allclose([[d(x, y) for y in X] for x in X], expected, **close)
    for k in range(len(X)):
        shifted = np.roll(X, k, axis=0)
        assert_allclose(
            paired_base_distance(X, shifted, distance),
            [literal(x, y, distance) for x, y in zip(X, shifted, strict=True)],
            **close,
        )


@pytest.mark.parametrize("distance", METRIC_DISTANCES)
@given(X=points())
@example(X=HARD)
@by_hypothesis
def test_metrics_satisfy_all_axioms(distance, X):
    d = LearnedDistance(identity, distance)
    assert d.is_metric
    report = check_metric_axioms(d, X)
    assert report.negativity == report.identity == report.asymmetry == 0
    assert report.triangle <= 1e-14 * max(1, report.scale) * X.shape[1]
    assert (d(X) <= report.scale).all()


@pytest.mark.parametrize("distance", ["sqeuclidean", "cosine"])
@given(X=points())
@example(X=HARD)
@by_hypothesis
def test_semimetrics_satisfy_all_axioms_except_the_triangle_inequality(distance, X):
    d = LearnedDistance(identity, distance)
    assert not d.is_metric
    report = check_metric_axioms(d, X)
    assert report.negativity == report.identity == report.asymmetry == 0


@every_distance
def test_only_metrics_satisfy_the_triangle_inequality(distance):
    turn = np.deg2rad([0, 40, 80])
    X = np.column_stack([np.cos(turn), np.sin(turn)])
    triangle = check_metric_axioms(LearnedDistance(identity, distance), X).triangle
    if distance in METRIC_DISTANCES:
        assert triangle <= 1e-15
    else:
        assert triangle > 0.3


@every_distance
@given(X=points(smallest=1e-10, largest=1e10))
@example(X=np.clip(HARD, -1e10, 1e10))
@by_hypothesis
def test_float32_input_gives_float32_close_to_float64(distance, X):
    X = X.astype(np.float32)
    A, B = X[:-1], X[1:]
    wide = paired_base_distance(A.astype(np.float64), B.astype(np.float64), distance)
    close = {"rtol": 1e-4, "atol": 1e-3 if distance in ("angular", "cosine") else 1e-35}
    for narrow in (
        paired_base_distance(A, B, distance),
        pairwise_base_distance(A, B, distance).diagonal(),
    ):
        assert narrow.dtype == np.float32
        assert_allclose(narrow, wide, **close)


@pytest.mark.parametrize("distance", ["angular", "cosine"])
@given(X=points(), power=st.integers(-60, 60))
@example(X=HARD, power=-50)
@by_hypothesis
def test_angles_do_not_depend_on_lengths(distance, X, power):
    D = pairwise_base_distance(X, distance=distance)
    assert_allclose(pairwise_base_distance(X * 2.0**power, X, distance), D, atol=1e-14)
    assert D.min() >= 0
    assert D.max() <= {"angular": 1, "cosine": 2}[distance] + 1e-15


def test_angles_of_0_90_and_180_degrees():
    X = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0], [5.0, 0.0]])
    angular = pairwise_base_distance(X[:1], X, "angular")
    assert_allclose(angular, [[0.0, 0.5, 1.0, 0.5, 0.0]], atol=1e-16)
    cosine = pairwise_base_distance(X[:1], X, "cosine")
    assert_allclose(cosine, [[0.0, 1.0, 2.0, 1.0, 0.0]], atol=1e-15)


@pytest.mark.parametrize("turn", [1e-9, 1e-7, np.pi - 1e-7, np.pi - 1e-9])
def test_angles_near_0_and_180_degrees_are_accurate(turn):
    x, y = np.array([[1.0, 0.0]]), np.array([[math.cos(turn), math.sin(turn)]])
    for D in (
        pairwise_base_distance(x, y, "angular")[0],
        paired_base_distance(x, y, "angular"),
    ):
        assert D[0] * np.pi == pytest.approx(turn, rel=1e-9)
        assert (1 - D[0]) * np.pi == pytest.approx(np.pi - turn, rel=1e-6)


@pytest.mark.parametrize("name", ["l2", "", None, 3, ["euclidean"]])
def test_unknown_distances_are_refused(name):
    for call in (
        lambda: check_distance(name),
        lambda: LearnedDistance(identity, name),
        lambda: pairwise_base_distance(IRIS, distance=name),
        lambda: paired_base_distance(IRIS, IRIS, name),
    ):
        with pytest.raises(ValueError, match=r"distance=.* is unknown; choose one of \['angular'"):
            call()


# LearnedDistance


def test_all_methods_agree(iris_distance):
    d, X, Y = iris_distance, IRIS[:12], IRIS[60:70]
    D = d(X, Y)
    assert D.shape == (12, 10)
    assert_allclose(d.pairwise(X, Y), D)
    assert_allclose(d(X), d(X, X.copy()), atol=1e-12)
    assert_allclose(d.paired(X[:10], Y), D[:10].diagonal())
    assert_allclose([[d(x, y) for y in Y] for x in X], D)
    assert_allclose(pairwise_distances(X, Y, metric=d), D)
    assert_allclose(d(X.tolist(), Y.tolist()), D)
    assert isinstance(d(X[0], Y[0]), float)
    assert d(X[0].tolist(), Y[0].tolist()) == d(X[0], Y[0])


def test_distance_of_a_learner_satisfies_the_axioms(iris_distance):
    report = check_metric_axioms(iris_distance, IRIS)
    assert report.negativity == report.identity == report.asymmetry == 0
    assert report.triangle < 1e-13
    assert 0 < report.smallest < 1 < report.scale


@every_distance
def test_pickle_and_repr(distance):
    d = LearnedDistance(MahalanobisMetric().fit(IRIS).get_metric().embed, distance)
    d(IRIS[0], IRIS[1])
    again = pickle.loads(pickle.dumps(d))
    assert again._cache == {}
    assert again.distance == distance
    assert_array_equal(again(IRIS), d(IRIS))
    assert again(IRIS[0], IRIS[1]) == d(IRIS[0], IRIS[1])
    assert repr(d) == f"LearnedDistance(LinearMap(4 x 4), distance={distance!r})"


def test_cache_embeds_points_once_and_is_bounded(monkeypatch):
    monkeypatch.setattr(distances, "MAX_CACHED_POINTS", 10)
    embed = Counting()
    d = LearnedDistance(embed)
    for _ in range(3):
        for x in IRIS[:5]:
            assert d(x, x + 1) == pytest.approx(4.0)
    assert embed.rows == 10
    for x in IRIS:
        d(x, IRIS[0])
    assert len(d._cache) == 10


def test_cache_distinguishes_dtypes():
    d = LearnedDistance(identity)
    one = np.array([1], dtype=np.int64)
    same_bytes = np.frombuffer(one.tobytes(), dtype=np.float64)
    assert d(one, one) == 0
    assert d(one, same_bytes) == 1


def test_cache_distinguishes_object_arrays():
    d = LearnedDistance(identity)
    for k in range(200):  # a new float may reuse the address of a deleted one
        x = np.array([k + 0.5, k + 1.5], dtype=object)
        assert d(x, np.zeros(2)) == pytest.approx(math.hypot(*x))
        del x


@pytest.mark.parametrize("distinct", [False, True])
def test_distinct_embeds_equal_rows_once(distinct):
    embed = Counting()
    d = LearnedDistance(embed, distinct=distinct)
    X = np.repeat(IRIS[:3], 4, axis=0)
    D = d(X, X[:6])
    assert embed.rows == (3 if distinct else 18)
    assert_array_equal(D, LearnedDistance(Counting())(X, X[:6]))
    d(X)
    assert embed.rows == (6 if distinct else 30)
    assert_array_equal(d.paired(X, X[::-1]), LearnedDistance(Counting()).paired(X, X[::-1]))
    assert embed.rows == (9 if distinct else 54)


def test_distinct_accepts_points_of_any_shape():
    images = np.arange(24.0).reshape(4, 2, 3)[[0, 1, 0, 3, 2]]
    embed = Counting()
    d = LearnedDistance(embed, distinct=True)
    assert_allclose(d(images), 2 * pairwise_distances(images.reshape(5, 6)), atol=1e-12)
    assert embed.rows == 4


def test_distinct_refuses_sets_of_different_shapes():
    d = LearnedDistance(identity, distinct=True)
    with pytest.raises(ValueError, match="differ in shape"):
        d(np.ones((2, 3)), np.ones((2, 4)))


def test_invalid_points_are_refused(iris_distance):
    d, x = iris_distance, IRIS[0]
    for call, message in [
        (lambda: d(x), "A distance needs two points"),
        (lambda: d(x[:3], x), "X has 3 features, but the distance was learned on 4"),
        (lambda: d(x, x[:3]), "X has 3 features, but the distance was learned on 4"),
        (lambda: d(x, x * np.nan), "contains NaN"),
        (lambda: d(x, x * np.inf), "contains infinity"),
        (lambda: d(IRIS, IRIS[:, :2]), "X has 2 features, but the distance was learned on 4"),
        (lambda: d.paired(IRIS, IRIS[:9]), "inconsistent numbers of samples"),
        (lambda: d(IRIS * np.nan), "contains NaN"),
        (lambda: d(np.empty((0, 4))), r"0 sample\(s\)"),
        (lambda: d(1.0, 2.0), "Expected 2D array, got scalar"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


# check_metric_axioms


LINE = np.arange(5.0)[:, None]


@pytest.mark.parametrize(
    ("d", "axiom", "size"),
    [
        (lambda x, y: -euclidean(x, y), "negativity", 4.0),
        (lambda x, y: euclidean(x, y) + 0.5, "identity", 0.5),
        (lambda x, y: max(0.0, float(x[0] - y[0])), "asymmetry", 4.0),
        (lambda x, y: euclidean(x, y) ** 2, "triangle", 8.0),
    ],
)
def test_violations_are_measured(d, axiom, size):
    report = check_metric_axioms(d, LINE)
    assert report[axiom] == size
    if axiom != "negativity":  # a negative metric also violates the triangle inequality
        others = {"negativity", "identity", "asymmetry", "triangle"} - {axiom}
        assert [report[name] for name in others] == [0, 0, 0]


def test_a_metric_has_no_violations():
    report = check_metric_axioms(chebyshev, LINE)
    assert [report[name] for name in ("negativity", "identity", "asymmetry", "triangle")] == [0] * 4
    assert (report.smallest, report.scale) == (1.0, 4.0)


def test_smallest_is_0_if_different_points_have_equal_embeddings():
    blind = LearnedDistance(lambda X: identity(X)[:, :1])
    X = np.array([[0.0, 1.0], [0.0, 2.0], [1.0, 1.0]])
    assert check_metric_axioms(blind, X).smallest == 0
    assert np.isnan(check_metric_axioms(blind, X[[0, 0]]).smallest)


def test_max_points_limits_the_work_and_random_state_draws_the_points():
    calls = []

    def d(x, y):
        calls.append(x[0])
        return euclidean(x, y)

    X = np.arange(100.0)[:, None]
    check_metric_axioms(d, X, max_points=7, random_state=0)
    assert len(calls) == 49
    first = set(calls)
    for seed, same in [(0, True), (1, False)]:
        calls.clear()
        check_metric_axioms(d, X, max_points=7, random_state=seed)
        assert (set(calls) == first) is same


def test_axioms_need_two_points():
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        check_metric_axioms(euclidean, LINE[:1])


class Flatten:
    """An embedding of images that says which shape a point has."""

    feature_shape = (1, 2, 3)

    def __call__(self, X):
        return np.asarray(X, dtype=float).reshape(len(X), 6)


def test_two_points_of_the_training_shape_have_one_distance():
    d = LearnedDistance(Flatten())
    images = np.random.default_rng(0).normal(size=(3, 1, 2, 3))
    expected = np.linalg.norm(images[0] - images[1])
    assert isinstance(d(images[0], images[1]), float)
    assert d(images[0], images[1]) == pytest.approx(expected)
    assert d(images[0].tolist(), images[1].ravel()) == pytest.approx(expected)
    assert d(images[:1], images[1:]).shape == (1, 2)
    with pytest.raises(ValueError, match="needs two points"):
        d(images[0])
    with pytest.raises(ValueError, match=r"X is a single point, of shape \(1, 2, 3\)"):
        d(images[0], images)
