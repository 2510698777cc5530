"""Columns of any scale: every learner gives a finite result, or names the column and its range."""

import warnings

import numpy as np
import pandas as pd
import pytest
from helpers import linear_learners, name_of, supervise
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import StandardScaler

from skdml import GMML, KISSME, LEGO, LMNN, MLKR, NCA, RCA, MahalanobisMetric
from skdml.linear._ranges import LIMITS, check_embeddings, check_ranges, column_ranges

# Without ties, so that rounding does not decide which neighbour is nearer.
X = load_iris().data[::3] + 0.01 * np.random.RandomState(0).normal(size=(50, 4))
Y = load_iris().target[::3]
DTYPES = (np.float64, np.float32)

# L of s X is L / s**power. The learners that are not listed have the power 1: their distances do
# not depend on the unit. M stays near the identity for ANMM and LEGO; GMML has the power 1 - 2 t.
POWER = {"ANMM": 0.0, "LEGO": 0.0, "GMML": 0.5}


def make_fits():
    """Return (learner, method, container) of every way to fit a learner, by name."""
    found = {}
    for default in linear_learners():
        for supervision in default._supervisions:
            learner = clone(default)
            if supervision != "labels":
                learner.set_params(supervision=supervision)
            methods = ["fit", "partial_fit"] if hasattr(learner, "partial_fit") else ["fit"]
            for method in methods:
                name = f"{name_of(learner)} {supervision} {method}"
                found[name] = learner, method, np.asarray
                if learner._sparse and supervision == "labels":
                    found[f"{name} sparse"] = learner, method, csr_matrix
    return found


FITS = make_fits()
every_fit = pytest.mark.parametrize("name", FITS)
every_learner = pytest.mark.parametrize("learner", linear_learners(), ids=name_of)


def fit(name, points):
    """Fit a copy of a learner; return it and the points in their container."""
    learner, method, container = FITS[name]
    learner, points = clone(learner), container(points)
    getattr(learner, method)(*supervise(learner, points, Y))
    return learner, points


@every_fit
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_common_factor_scales_the_map_by_a_known_power(name, dtype):
    points = X.astype(dtype)
    L = fit(name, points)[0].components_.astype(np.float64)
    power = POWER.get(name.split()[0], 1.0)
    exponents = (-200, 200) if dtype == np.float64 else (-40, 40)
    for exponent in exponents:
        learner, scaled = fit(name, points * dtype(2.0**exponent))
        found = learner.components_ * 2.0 ** (power * exponent)
        assert_allclose(found, L, rtol=1e-4, atol=1e-4 * abs(L).max())
        Z = learner.transform(scaled).astype(np.float64)
        d = learner.get_metric()
        expected = np.linalg.norm(Z[:-1] - Z[1:], axis=1)
        assert_allclose(d.paired(scaled[:-1], scaled[1:]), expected, rtol=1e-3)
        assert np.isfinite(learner.get_mahalanobis_matrix()).all()


BAD_SCALES = [
    (np.float64, scale) for scale in (1e-300, 1e-200, 1e-155, 1e-75, 1e75, 1e155, 1e200, 1e300)
] + [(np.float32, scale) for scale in (1e-40, 1e-30, 1e-18, 1e18, 1e30, 1e37)]


@every_fit
def test_scales_whose_squares_cannot_be_computed_are_refused(name):
    for dtype, scale in BAD_SCALES:
        with pytest.raises(ValueError, match=r"^Column [0-3] of X ranges from .+ to .+\. Squares"):
            fit(name, (X * scale).astype(dtype))


@every_fit
@pytest.mark.parametrize("value", [1e155, -1e155, 1e200, 1e300])
def test_a_huge_cell_is_refused(name, value):
    points = X.copy()
    points[7, 2] = value
    # Pairs leave some rows out; each of the three values below is in one of them.
    points[[8, 9], 2] = value
    text = f"{abs(value):g}".replace("+", r"\+")
    with pytest.raises(ValueError, match=rf"Column 2 of X ranges from .*{text}"):
        fit(name, points)


@every_fit
def test_a_tiny_column_is_refused(name):
    for dtype, factor in ((np.float64, 1e-160), (np.float32, 1e-40)):
        points = X.astype(dtype)
        points[:, 1] *= dtype(factor)
        with pytest.raises(ValueError, match=r"Column 1 of X ranges from .*Remove it"):
            fit(name, points)


@pytest.mark.filterwarnings("ignore:A covariance is singular")
@every_fit
def test_columns_of_very_different_scales_give_a_finite_result(name):
    for dtype, factors in (
        (np.float64, [1e-34, 1.0, 1e33, 1e5]),
        (np.float32, [1e-14, 1e3, 1e13, 1.0]),
        (np.float32, [1.0, 1e-30, 1.0, 1.0]),
    ):
        learner, points = fit(name, (X * factors).astype(dtype))
        Z, L = learner.transform(points), learner.components_
        assert np.isfinite(L).all()
        assert np.isfinite(learner.get_metric()(Z @ np.zeros((Z.shape[1], 4), dtype))).all()
        assert L.any()
        d = learner.get_metric()(points if isinstance(points, np.ndarray) else points.toarray())
        assert np.isfinite(d).all()
        assert d.any()


@every_learner
def test_points_far_beyond_the_training_rows_are_embedded_or_refused(learner):
    learner = clone(learner).fit(*supervise(learner, X, Y))
    d = learner.get_metric()
    for value in (1e100, 1e140):
        far = np.full((1, 4), value)
        assert np.isfinite(learner.transform(far)).all()
        assert np.isfinite(d(far[0], X[0]))
        assert np.isfinite(d(far, X)).all()
    for value in (1e160, 1e300):
        far = X[:3].copy()
        far[1] = value
        calls = (
            lambda far=far: learner.transform(far),
            lambda far=far: d(far, X),
            lambda far=far: d(far[1], X[0]),
            lambda far=far: learner.pair_distance(np.stack([far, X[:3]], axis=1)),
        )
        for call in calls:
            with pytest.raises(ValueError, match=r"Column [0-3] of X ranges from .*overflow"):
                call()


def test_the_message_has_the_name_of_the_column():
    table = pd.DataFrame(X.copy(), columns=["a", "b", "c", "d"])
    table.loc[3, "c"] = 1e300
    with pytest.raises(ValueError, match=r"Column 2 of X \('c'\) ranges from .* to 1e\+300"):
        LMNN().fit(table, Y)


def test_a_scaler_mends_what_was_refused():
    scaled = StandardScaler().fit_transform(X * 1e-100)
    expected = NCA().fit(StandardScaler().fit_transform(X), Y).components_
    assert_allclose(NCA().fit(scaled, Y).components_, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits_are_inclusive(dtype):
    largest, narrowest = LIMITS[np.dtype(dtype)]
    up = np.nextafter
    for low, high in (
        ([-largest, 0.0], [largest, 10.0]),
        ([0.0, 0.0], [1 / largest, narrowest]),
        ([3.0, 7.0], [3.0, 7.0]),
        ([0.0, 0.0], [1.0, narrowest]),
    ):
        check_ranges(np.array([low, high]), np.dtype(dtype))
    for low, high, column in (
        ([0.0, -up(largest, np.inf)], [1.0, 0.0], 1),
        ([0.0, 0.0], [1.0, up(narrowest, 0)], 1),
        ([0.0, 0.0], [up(1 / largest, 0), 0.0], 0),
        ([0.0, 0.0], [1e3, 999 * narrowest], 1),
    ):
        with pytest.raises(ValueError, match=f"Column {column} of X"):
            check_ranges(np.array([low, high]), np.dtype(dtype))


def test_ranges_of_sparse_columns_count_the_zeros():
    points = np.array([[0.0, -2.0, 5.0], [3.0, -1.0, 5.0]])
    expected = [[0.0, -2.0, 5.0], [3.0, -1.0, 5.0]]
    assert_array_equal(column_ranges(points), expected)
    assert_array_equal(column_ranges(csr_matrix(points)), expected)


def test_embeddings_are_refused_where_their_squared_distance_may_overflow():
    L = np.array([[2.0, 0.0], [0.0, 1.0]])
    limit = np.sqrt(np.finfo(float).max / 8)  # |z - z'|² <= 2 (2 limit)²
    points = np.array([[1.0, limit / 2]])
    Z = points @ L.T
    assert check_embeddings(Z, L, points) is Z
    assert np.isfinite(np.sum((Z * [1, 2]) ** 2))
    for z in (2 * limit, np.nan, np.inf, -2 * limit):
        with pytest.raises(ValueError, match="Column 1 of X"):
            check_embeddings(np.array([[1.0, z]]), L, points)


@pytest.mark.parametrize("kind", [MahalanobisMetric, RCA, KISSME, GMML, LEGO])
def test_the_rule_is_for_all_batches_together(kind):
    learner = kind()
    learner.partial_fit(X[::2], Y[::2])
    before = learner.components_.copy()
    bad = X[1::2].copy()
    bad[0, 3] = 1e200
    with pytest.raises(ValueError, match="Column 3 of X"):
        learner.partial_fit(bad, Y[1::2])
    assert_array_equal(learner.components_, before)
    # A column may be nearly constant within a batch, if it varies between batches.
    narrow = X[1::2].copy()
    narrow[:, 3] = 0.0
    narrow[0, 3] = 1e-200
    learner.partial_fit(narrow, Y[1::2])
    assert np.isfinite(learner.components_).all()
    with pytest.raises(ValueError, match="Column 3 of X"):
        kind().fit(narrow, Y[1::2])


def test_a_matrix_that_overflows_float32_is_refused():
    points = X.astype(np.float32)
    points[:, 1] *= np.float32(1e-30)
    learner = MahalanobisMetric().fit(points)
    assert np.isfinite(learner.transform(points)).all()
    with pytest.raises(ValueError, match=r"M overflows float32.*Column 1 of X ranges"):
        learner.get_mahalanobis_matrix()
    M = MahalanobisMetric().fit(points.astype(np.float64)).get_mahalanobis_matrix()
    assert M[1, 1] == pytest.approx(
        MahalanobisMetric().fit(X).get_mahalanobis_matrix()[1, 1] * 1e60, rel=1e-3
    )


REFUSES_EQUAL_ROWS = {"GMML", "ITML", "KISSME", "LSML", "MMC", "MahalanobisMetric", "RCA"}


@every_fit
def test_equal_rows_warn_or_are_refused(name):
    kind = name.split()[0]
    for value in (0.0, 3.7):
        if kind in REFUSES_EQUAL_ROWS:
            with pytest.raises(ValueError, match=r"equal|differ"):
                fit(name, np.full_like(X, value))
            continue
        with pytest.warns(UserWarning, match=f"All rows that {kind} learned from are equal"):
            learner, points = fit(name, np.full_like(X, value))
        assert np.isfinite(learner.components_).all()
        assert_array_equal(learner.get_metric()(points[:2]), np.zeros((2, 2)))


@every_learner
def test_equal_sparse_rows_have_no_principal_axes(learner):
    if not learner._sparse:
        pytest.skip("takes dense points")
    learner = clone(learner).set_params(n_components=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        given = supervise(learner, csr_matrix(np.full_like(X, 3.7)), Y)
        if name_of(learner) in REFUSES_EQUAL_ROWS:
            with pytest.raises(ValueError, match="equal"):
                learner.fit(*given)
            return
        learner.fit(*given)
    assert learner.components_.shape == (2, 4)
    assert np.isfinite(learner.components_).all()


def test_a_pair_far_nearer_than_the_others_changes_nothing():
    pairs = np.array([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]])
    near = np.array([[[0.0, 0.0], [1e-100, 0.0]]])
    learner = LEGO(supervision="pairs").fit(np.concatenate([pairs, near]), [1, 0, 0])
    assert learner.n_updates_ == LEGO(supervision="pairs").fit(pairs, [1, 0]).n_updates_


TARGET = X[:, 0]


def bad_targets():
    """Return targets that are refused, and the message, by name."""
    missing, infinite, text, na = (TARGET.astype(object) for _ in range(4))
    missing[3], infinite[3], text[3], na[3] = None, -np.inf, "much", pd.NA
    with_nan = np.where(np.arange(50) == 3, np.nan, TARGET)
    return {
        "None": (missing, "Input y contains NaN"),
        "inf as object": (infinite, "Input y contains infinity"),
        "nan": (with_nan, "Input y contains NaN"),
        "nan as object": (with_nan.astype(object), "Input y contains NaN"),
        "inf": (np.where(np.arange(50) == 3, np.inf, TARGET), "Input y contains infinity"),
        "series with None": (pd.Series(missing), "Input y contains NaN"),
        "pandas.NA": (na, "y has to hold real numbers|Input y contains NaN"),
        "Float64 with NA": (pd.Series(with_nan).astype("Float64"), "Input y contains NaN"),
        "list": (missing.tolist(), "Input y contains NaN"),
        "text": (text, "could not convert string to float: 'much'"),
        "strings": (np.full(50, "a"), "could not convert|not compatible"),
        "complex": (TARGET + 1j, "Complex data not supported"),
        "huge": (TARGET * 1e100, "y ranges from"),
        "tiny": (TARGET * 1e-100, "y ranges from"),
    }


@pytest.mark.parametrize("name", bad_targets())
def test_targets_that_are_not_finite_numbers_are_refused(name):
    y, message = bad_targets()[name]
    learner = MLKR()
    with pytest.raises(ValueError, match=message):
        learner.fit(X[:, 1:], y)
    with pytest.raises(NotFittedError):
        learner.transform(X[:, 1:])


def test_targets_of_any_numeric_type_give_the_same_map():
    whole = (10 * TARGET).round()
    expected = MLKR().fit(X[:, 1:], whole).components_
    for y in (
        whole.astype(int),
        whole.astype(object),
        whole.tolist(),
        pd.Series(whole).astype("Int64"),
        whole.astype(np.float32),
    ):
        assert_array_equal(MLKR().fit(X[:, 1:], y).components_, expected)
