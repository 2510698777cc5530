"""MLKR: the objective of the paper, the numbers of metric-learn, and scikit-learn's checks."""

import numpy as np
import pytest
from helpers import SMALL_L as L
from helpers import SMALL_X as X
from helpers import central_differences
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix
from sklearn.datasets import make_friedman1
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

from skdml import MLKR
from skdml.linear.mlkr import mlkr_loss

# The numbers of metric-learn below are for these points.
RNG = np.random.RandomState(0)
RNG.normal(size=(30, 3))
Y = X[:, 0] ** 2 + X[:, 1] + 0.1 * RNG.normal(size=30)
WEIGHT = np.random.RandomState(1).randint(1, 4, size=30).astype(float)
ONES = np.ones(30)

DATA, TARGET = make_friedman1(120, 8, random_state=0)


def literal_loss(L, X, y):
    """Equation 2 of the paper, divided by n."""
    total = 0.0
    for i in range(len(X)):
        k = [np.exp(-np.sum((L @ X[i] - L @ X[j]) ** 2)) for j in range(len(X))]
        k[i] = 0.0
        total += (y[i] - sum(k[j] * y[j] for j in range(len(X))) / sum(k)) ** 2
    return total / len(X)


# scikit-learn's checks. They run here, because MLKR learns from numbers and is not among the
# learners of classes in helpers.make_learners.


@pytest.mark.parametrize(
    ("estimator", "check"),
    list(estimator_checks_generator(MLKR(tol=1e-2))),
    ids=lambda value: value.func.__name__ if hasattr(value, "func") else "MLKR",
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# The objective


def test_loss_is_that_of_the_paper():
    assert mlkr_loss(L, X, Y, ONES)[0] == pytest.approx(literal_loss(L, X, Y), rel=1e-12)


def test_loss_and_gradient_are_those_of_metric_learn():
    # From MLKR._loss of metric-learn 0.7.0 with scikit-learn 1.5.2.
    loss, gradient = mlkr_loss(L, X, Y, ONES)
    assert 30 * loss == pytest.approx(105.92668787543975, rel=1e-12)
    assert_allclose(
        30 * gradient,
        [
            [-83.3194585498, 4.979164206, -36.0687918951],
            [19.1312003489, -8.6544628311, -22.2267509833],
        ],
        rtol=1e-8,
    )


def test_minimum_is_as_low_as_that_of_metric_learn():
    # MLKR(init=np.eye(3), max_iter=500, tol=1e-10) of metric-learn 0.7.0 ends at 14.936.
    learner = MLKR(init=np.eye(3), alpha=0, max_iter=500, tol=1e-9).fit(X, Y)
    assert 30 * learner.loss_curve_[-1] < 14.94
    assert literal_loss(learner.components_, X, Y) == pytest.approx(learner.loss_curve_[-1])


@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("weight", [ONES, WEIGHT, WEIGHT / 3], ids=["ones", "whole", "thirds"])
def test_gradient(size, weight):
    expected = central_differences(lambda L: mlkr_loss(L, X, Y, weight)[0], size * L)
    gradient = mlkr_loss(size * L, X, Y, weight)[1]
    assert_allclose(gradient, expected, atol=1e-6 * abs(expected).max())


def test_whole_weights_are_repeated_rows_in_the_loss():
    rows = np.repeat(np.arange(30), WEIGHT.astype(int))
    weighted = mlkr_loss(L, X, Y, WEIGHT)
    repeated = mlkr_loss(L, X[rows], Y[rows], np.ones(len(rows)))
    assert weighted[0] == pytest.approx(repeated[0], rel=1e-12)
    assert_allclose(weighted[1], repeated[1], atol=1e-13)


# The learner


def test_informative_features_have_the_largest_weights_and_help_to_predict():
    # The first five features are informative.
    M = MLKR().fit(DATA, TARGET).get_mahalanobis_matrix()
    assert M.diagonal()[:2].min() > 2 * M.diagonal()[5:].max()
    euclid = cross_val_score(KNeighborsRegressor(3), DATA, TARGET).mean()
    learned = cross_val_score(make_pipeline(MLKR(), KNeighborsRegressor(3)), DATA, TARGET).mean()
    assert learned > euclid + 0.1


def test_loss_curve_falls():
    learner = MLKR(alpha=0).fit(DATA, TARGET)
    assert (np.diff(learner.loss_curve_) <= 0).all()
    assert len(learner.loss_curve_) == learner.n_iter_ + 1
    end = mlkr_loss(learner.components_, DATA, TARGET, np.ones(120))[0]
    assert end == pytest.approx(learner.loss_curve_[-1], rel=1e-9)


def test_whole_weights_are_repeated_rows():
    weight = np.random.RandomState(2).randint(0, 3, size=120)
    rows = np.random.RandomState(3).permutation(np.repeat(np.arange(120), weight))
    weighted = MLKR().fit(DATA, TARGET, sample_weight=weight)
    repeated = MLKR().fit(DATA[rows], TARGET[rows])
    assert_allclose(weighted.components_, repeated.components_, rtol=1e-9)


@pytest.mark.parametrize("shift", [0.0, 1e9])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_result_is_independent_of_the_unit_of_the_target(unit, shift):
    plain = MLKR(tol=1e-2).fit(DATA, TARGET)
    other = MLKR(tol=1e-2).fit(DATA, unit * (TARGET + shift * (unit == 1)))
    assert_allclose(other.components_, plain.components_, rtol=1e-3, atol=1e-4)


def test_a_constant_target_returns_the_start():
    learner = MLKR().fit(DATA, np.full(120, 3.0))
    assert learner.loss_curve_[-1] == pytest.approx(0, abs=1e-20)
    assert_allclose(learner.components_, learner.components_[0, 0] * np.eye(8), atol=1e-9)


def test_sparse_and_single_precision():
    data = DATA * (np.random.RandomState(0).uniform(size=DATA.shape) > 0.2)
    options = {"init": "identity", "tol": 1e-2}
    dense = MLKR(**options).fit(data, TARGET)
    sparse = MLKR(**options).fit(csr_matrix(data), TARGET)
    assert_allclose(sparse.loss_curve_[-1], dense.loss_curve_[-1], rtol=0.1)
    single = MLKR(**options).fit(data.astype(np.float32), TARGET)
    assert single.components_.dtype == np.float32
    assert_allclose(single.loss_curve_[0], dense.loss_curve_[0], rtol=1e-4)


def test_fewer_components_and_warm_start():
    learner = MLKR(2, warm_start=True).fit(DATA, TARGET)
    assert learner.components_.shape == (2, 8)
    end = learner.loss_curve_[-1]
    learner.fit(DATA, TARGET)
    assert learner.loss_curve_[0] == pytest.approx(end, rel=1e-6)


def test_fits_are_equal_bit_for_bit():
    one, two = (MLKR(init="random", random_state=0).fit(DATA, TARGET) for _ in range(2))
    assert_array_equal(one.components_, two.components_)


def test_too_few_iterations_warn():
    with pytest.warns(ConvergenceWarning, match="MLKR did not converge in max_iter=2"):
        MLKR(max_iter=2, tol=0).fit(DATA, TARGET)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed"),
        (np.where(np.arange(120) == 3, np.nan, TARGET), "contains NaN"),
        (np.array(["a", "b"] * 60), "could not convert|dtype='numeric' is not compatible"),
        (TARGET[:-1], "inconsistent numbers of samples"),
    ],
)
def test_invalid_targets_are_refused(y, message):
    learner = MLKR()
    with pytest.raises(ValueError, match=message):
        learner.fit(DATA, y)
    assert not hasattr(learner, "n_features_in_")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"init": "lda"}, "init='lda' needs"),
        ({"init": "best"}, "init='best' is unknown"),
        ({"n_components": 9}, "n_components=9"),
        ({"max_iter": 0}, "max_iter == 0"),
        ({"alpha": -1}, "alpha == -1"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        MLKR(**parameters).fit(DATA, TARGET)
