"""Every linear learner with its defaults on many kinds of difficult data.

The learners are those of skdml.linear.__all__, so a new one is tested at once.
"""

import functools
import inspect
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import REAL_TARGETS, linear_learners, name_of, seeded
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.metrics import pairwise_distances

# Warnings that a docstring documents, and the singular data that cause them.
DOCUMENTED = {"MahalanobisMetric": "The covariance is singular"}
SINGULAR = {"six rows", "fewer rows than columns", "constant column", "collinear columns"}


def target(learner, y):
    return np.unique(y, return_inverse=True)[1] * 1.0 if name_of(learner) in REAL_TARGETS else y


def make_data():
    """Return data sets by name."""
    X, y = load_iris(return_X_y=True)
    few, labels = X[::2], y[::2]
    rng = np.random.RandomState(0)
    wide = rng.normal(size=(20, 40))
    wide[:, 0] += np.arange(20) % 2
    return {
        "iris": (X, y),
        # In iris many distances are equal. The order of the rows then decides which is nearer.
        "without ties": (X + 0.01 * rng.normal(size=X.shape), y),
        "wine": load_wine(return_X_y=True),
        "labels -1 and 1": (X[50::2], np.where(y[50::2] == 1, -1, 1)),
        "strings": (few, np.array(["setosa", "versicolor", "virginica"])[labels]),
        "six rows": (X[[0, 1, 2, 50, 51, 52]], y[[0, 1, 2, 50, 51, 52]]),
        "fewer rows than columns": (wide, np.arange(20) % 2),
        # Each row three times, and once more with another label.
        "duplicates": (
            np.concatenate([np.repeat(X[::5], 3, axis=0), X[::5]]),
            np.concatenate([np.repeat(y[::5], 3), (y[::5] + 1) % 3]),
        ),
        "constant column": (np.column_stack([few, np.full(len(few), 3.7)]), labels),
        "collinear columns": (np.column_stack([few, few[:, 0] - 2 * few[:, 1]]), labels),
        "small unit": (few * 1e-6, labels),
        "large unit": (few * 1e6, labels),
        "unequal units": (few * np.array([1e-6, 1.0, 1e3, 1e6]), labels),
        "far from 0": (few + 1e6, labels),
        "class of a single row": (X[:101:2], y[:101:2]),
        "float32": (few.astype(np.float32), labels),
        "integers": ((few * 10).astype(int), labels),
    }


LEARNERS, DATA = linear_learners(), make_data()
every_learner = pytest.mark.parametrize("learner", LEARNERS, ids=name_of)


@functools.cache
def fit(learner, name, seed=0):
    """Fit a copy on named data and cache it. Any undocumented warning is an error."""
    return fit_again(learner, name, seed)


def fit_again(learner, name, seed=0):
    X, y = DATA[name]
    with warnings.catch_warnings():
        if name in SINGULAR and name_of(learner) in DOCUMENTED:
            warnings.filterwarnings("ignore", DOCUMENTED[name_of(learner)], UserWarning)
        return seeded(learner, seed).fit(X, target(learner, y))


def relative_distances(learner, X):
    """Return all distances divided by the largest."""
    D = pairwise_distances(learner.transform(X).astype(np.float64))
    return D / D.max()


@every_learner
@pytest.mark.parametrize("name", DATA)
def test_fits(learner, name):
    X = DATA[name][0]
    fitted = fit(learner, name)
    L, M = fitted.components_, fitted.get_mahalanobis_matrix()
    dtype = np.float32 if X.dtype == np.float32 else np.float64
    assert L.dtype == M.dtype == dtype
    assert L.ndim == 2
    assert L.shape[1] == X.shape[1] == fitted.n_features_in_
    assert np.isfinite(L).all()
    assert np.isfinite(getattr(fitted, "loss_curve_", [0.0])).all()
    assert_array_equal(M, M.T)
    spectrum = np.linalg.eigvalsh(M.astype(np.float64))
    assert spectrum[-1] > 0
    assert spectrum[0] >= -10 * np.finfo(dtype).eps * len(M) * spectrum[-1]


@every_learner
@pytest.mark.parametrize("name", ["iris", "unequal units", "float32"])
def test_transform_metric_and_matrix_agree(learner, name):
    X = DATA[name][0][::3]
    fitted = fit(learner, name)
    Z, d, M = fitted.transform(X), fitted.get_metric(), fitted.get_mahalanobis_matrix()
    assert Z.dtype == fitted.components_.dtype
    D = pairwise_distances(Z.astype(np.float64))
    rounding = (1e-3 if Z.dtype == np.float32 else 1e-7) * D.max()
    assert_allclose(d(X), D, rtol=1e-5, atol=rounding)
    apart = (X[:, None] - X).astype(np.float64)
    squared = np.einsum("ijk,kl,ijl->ij", apart, M.astype(np.float64), apart)
    assert_allclose(np.sqrt(np.maximum(squared, 0)), D, rtol=1e-5, atol=rounding)


@every_learner
@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])
def test_result_is_independent_of_the_unit(learner, factor):
    X, y = DATA["iris"]
    # Scaling by a power of two is exact, so the search for L takes the same steps.
    scaled = seeded(learner, 0).fit(X * factor, target(learner, y))
    expected = relative_distances(fit(learner, "iris"), X)
    assert_allclose(relative_distances(scaled, X * factor), expected, rtol=1e-6, atol=1e-8)


@every_learner
def test_two_fits_are_equal_bit_for_bit(learner):
    for name in ("wine", "duplicates"):
        first, second = fit(learner, name), fit_again(learner, name)
        assert_array_equal(first.components_, second.components_)


@every_learner
def test_deterministic_learners_do_not_depend_on_the_order_of_rows_or_the_names_of_classes(learner):
    X, y = DATA["without ties"]
    fitted = fit(learner, "without ties")
    if not np.array_equal(fitted.components_, fit(learner, "without ties", 1).components_):
        pytest.skip("random")
    expected = relative_distances(fitted, X)
    order = np.random.RandomState(0).permutation(len(X))
    shuffled = seeded(learner, 0).fit(X[order], target(learner, y)[order])
    assert_allclose(relative_distances(shuffled, X), expected, atol=1e-3)
    if name_of(learner) not in REAL_TARGETS:
        renamed = seeded(learner, 0).fit(X, np.array(["c", "a", "b"])[y])
        assert_allclose(relative_distances(renamed, X), expected, atol=1e-3)


@every_learner
def test_points_that_are_not_finite_are_refused(learner):
    X, y = DATA["iris"]
    for value in (np.nan, np.inf, -np.inf):
        bad = X.copy()
        bad[7, 1] = value
        with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
            clone(learner).fit(bad, target(learner, y))


@every_learner
def test_one_class_is_refused(learner):
    if name_of(learner) in REAL_TARGETS or not learner.__sklearn_tags__().target_tags.required:
        pytest.skip("needs no classes")
    X, _ = DATA["iris"]
    with pytest.raises(ValueError, match=r"one class"):
        clone(learner).fit(X, np.zeros(len(X)))
    assert not hasattr(learner, "components_")


@every_learner
def test_few_components(learner):
    X, y = DATA["wine"]
    fitted = seeded(learner, 0).set_params(n_components=2).fit(X, target(learner, y))
    assert fitted.components_.shape == (2, X.shape[1])
    assert np.isfinite(fitted.components_).all()
    assert np.linalg.matrix_rank(fitted.transform(X)) == 2
    for n_components in (0, X.shape[1] + 1, 1.5):
        with pytest.raises(ValueError, match="n_components"):
            clone(learner).set_params(n_components=n_components).fit(X, target(learner, y))


@every_learner
def test_loss_curve_has_the_start_and_falls(learner):
    fitted = fit(learner, "wine")
    assert hasattr(fitted, "loss_curve_") == hasattr(fitted, "n_iter_")
    if not hasattr(fitted, "n_iter_"):
        pytest.skip("has a closed form")
    assert fitted.n_iter_ >= 1
    assert fitted.loss_curve_.shape == (fitted.n_iter_ + 1,)
    assert fitted.loss_curve_[-1] < fitted.loss_curve_[0]


@every_learner
def test_documentation_lists_the_input_of_each_learner(learner):
    page = (Path(__file__).parent.parent.parent / "docs" / "linear.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split("|") for line in page.splitlines() if line.startswith("| `")]
    (costs, takes) = (
        [cell.strip() for cell in row] for row in rows if row[0].strip() == f"`{name_of(learner)}`"
    )
    if name_of(learner) not in REAL_TARGETS | {"MahalanobisMetric"}:
        assert costs[1] == ", ".join(learner._supervisions)
    fit_parameters = inspect.signature(learner.fit).parameters
    assert takes[1:5] == [
        "yes" if there else ""
        for there in (
            learner.__sklearn_tags__().input_tags.sparse,
            "sample_weight" in fit_parameters,
            hasattr(learner, "partial_fit"),
            hasattr(learner, "warm_start"),
        )
    ]
