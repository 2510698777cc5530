"""MCML: the objective of the paper, its gradient, and its single minimum."""

import numpy as np
import pytest
from helpers import BLOB_CODES, BLOBS, central_differences
from helpers import SMALL_L as L
from helpers import SMALL_ONES as ONES
from helpers import SMALL_WEIGHT as WEIGHT
from helpers import SMALL_X as X
from helpers import SMALL_Y as Y
from numpy.testing import assert_allclose
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning

from skdml import MCML
from skdml.linear.mcml import mcml_loss, row_shares, same_class_scatter, same_class_weight

ALONE = np.where(np.arange(30) == 7, 3, Y)  # one class has a single row


def loss_of(L, X, codes, weight):
    share = row_shares(same_class_weight(codes, weight), weight)
    return mcml_loss(L, X, codes, weight, same_class_scatter(X, codes, share, weight))


def literal_loss(L, X, codes):
    """Mean divergence from q_ij, equal for all other rows of the class, to p_ij."""
    divergences = []
    for i in range(len(X)):
        others = [j for j in range(len(X)) if j != i]
        k = {j: np.exp(-np.sum((L @ X[i] - L @ X[j]) ** 2)) for j in others}
        same = [j for j in others if codes[j] == codes[i]]
        q = 1 / len(same) if same else np.nan
        if same:
            divergences.append(sum(q * np.log(q / (k[j] / sum(k.values()))) for j in same))
    return np.mean(divergences)


@pytest.mark.parametrize("codes", [Y, ALONE], ids=["plain", "alone"])
def test_loss_is_that_of_the_paper(codes):
    assert loss_of(L, X, codes, ONES)[0] == pytest.approx(literal_loss(L, X, codes), rel=1e-12)


@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("weight", [ONES, WEIGHT, WEIGHT / 3], ids=["ones", "whole", "thirds"])
def test_gradient(size, weight):
    expected = central_differences(lambda L: loss_of(L, X, ALONE, weight)[0], size * L)
    gradient = loss_of(size * L, X, ALONE, weight)[1]
    assert_allclose(gradient, expected, atol=1e-6 * abs(expected).max())


def test_whole_weights_are_repeated_rows_in_the_loss():
    rows = np.repeat(np.arange(30), WEIGHT.astype(int))
    weighted = loss_of(L, X, ALONE, WEIGHT)
    repeated = loss_of(L, X[rows], ALONE[rows], np.ones(len(rows)))
    assert weighted[0] == pytest.approx(repeated[0], rel=1e-12)
    assert_allclose(weighted[1], repeated[1], atol=1e-12)


def test_scatter_is_the_mean_over_rows_of_the_same_class():
    share = row_shares(same_class_weight(ALONE, ONES), ONES)
    expected = np.zeros((3, 3))
    for i in np.flatnonzero(share):
        same = np.setdiff1d(np.flatnonzero(ALONE[i] == ALONE), [i])
        expected += share[i] * np.mean([np.outer(X[i] - X[j], X[i] - X[j]) for j in same], axis=0)
    assert_allclose(same_class_scatter(X, ALONE, share, ONES), expected)


@pytest.mark.parametrize("init", ["identity", "random", "lda"])
def test_every_start_leads_to_the_same_minimum(init):
    options = {"alpha": 0, "max_iter": 500, "tol": 1e-9, "random_state": 0}
    learner = MCML(init=init, n_components=3, **options).fit(X, Y)
    other = MCML(init=10 * np.eye(3), **options).fit(X, Y)
    assert learner.loss_curve_[-1] == pytest.approx(other.loss_curve_[-1], rel=1e-4)


def test_the_prior_keeps_all_directions():
    few = np.random.RandomState(0).normal(size=(12, 6))
    narrow, wide = (
        np.linalg.cond(MCML(alpha=alpha).fit(few, np.arange(12) % 2).components_)
        for alpha in (0, 0.5)
    )
    assert wide < narrow / 10


def test_loss_curve_falls():
    learner = MCML().fit(BLOBS, BLOB_CODES)
    assert (np.diff(learner.loss_curve_) <= 0).all()
    assert len(learner.loss_curve_) == learner.n_iter_ + 1


def test_whole_weights_are_repeated_rows():
    weight = np.random.RandomState(2).randint(0, 3, size=200)
    rows = np.random.RandomState(3).permutation(np.repeat(np.arange(200), weight))
    weighted = MCML().fit(BLOBS, BLOB_CODES, sample_weight=weight)
    repeated = MCML().fit(BLOBS[rows], BLOB_CODES[rows])
    assert_allclose(weighted.components_, repeated.components_, rtol=1e-9)


def test_spread_within_classes_shrinks_relative_to_that_between_classes():
    data, y = load_iris(return_X_y=True)
    learner = MCML().fit(data, y)
    means = np.array([data[y == c].mean(axis=0) for c in range(3)])
    within = learner.transform(data - means[y]).var(axis=0).sum()
    between = learner.transform(means).var(axis=0).sum()
    plain = means.var(axis=0).sum() / (data - means[y]).var(axis=0).sum()
    assert between / within > 2 * plain


def test_fewer_components_single_precision_and_warm_start():
    learner = MCML(2, warm_start=True).fit(BLOBS.astype(np.float32), BLOB_CODES)
    assert learner.components_.shape == (2, 4)
    assert learner.components_.dtype == np.float32
    end = learner.loss_curve_[-1]
    learner.fit(BLOBS.astype(np.float32), BLOB_CODES)
    assert learner.loss_curve_[0] == pytest.approx(end, rel=1e-4)


def test_classes_of_single_rows_are_refused():
    with pytest.raises(ValueError, match="has a single sample"):
        MCML().fit(X[:4], range(4))


def test_too_few_iterations_warn():
    with pytest.warns(ConvergenceWarning, match="MCML did not converge in max_iter=2"):
        MCML(max_iter=2, tol=0).fit(BLOBS, BLOB_CODES)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"init": "best"}, "init='best' is unknown"),
        ({"n_components": 9}, "n_components=9"),
        ({"max_iter": 0}, "max_iter == 0"),
        ({"alpha": -1}, "alpha == -1"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        MCML(**parameters).fit(BLOBS, BLOB_CODES)
