"""MMC: its objective equals plain loops, and its minimum satisfies the optimality conditions."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import check_grad, minimize
from sklearn.datasets import load_iris

from skdml import MMC
from skdml.linear._neighbors import distinct_neighbor_pairs
from skdml.linear._pairs import PairDistances
from skdml.linear.mmc import mmc_objective, restrict_to_diagonal

IRIS, SPECIES = load_iris(return_X_y=True)
POINTS = IRIS[::10, :3] - IRIS[::10, :3].mean(axis=0)
CODES = SPECIES[::10]
FIRST, SECOND = np.triu_indices(15, 1)
SAME = CODES[FIRST] == CODES[SECOND]
PAIRS = np.stack([POINTS[FIRST], POINTS[SECOND]], axis=1)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# No ties among neighbours, because rounding and the order of rows decide them.
UNTIED = IRIS + np.random.default_rng(0).uniform(-0.05, 0.05, size=IRIS.shape)


def squares(M):
    return np.array([(x - y) @ M @ (x - y) for x, y in PAIRS])


def reference_objective(M, unit, weight):
    squared = squares(M)
    spread = np.mean([s for s, is_same in zip(squared, SAME, strict=True) if is_same])
    different_mean = np.mean(
        [np.sqrt(s) for s, is_same in zip(squared, SAME, strict=True) if not is_same]
    )
    divergence = np.trace(M) - np.log(np.linalg.det(M)) - len(M)
    return divergence + weight * (spread / unit - 2 * np.log(different_mean))


def separation(M):
    """Objective of the paper: distance of different pairs relative to that of same pairs."""
    squared = squares(M)
    return np.sqrt(squared[~SAME]).mean() / np.sqrt(squared[SAME].mean())


def in_the_unit_of_the_points(weight, **options):
    options = {"prior": np.eye(3), "tol": 0} | options
    return MMC(gamma=weight / len(POINTS), supervision="pairs", **options)


# The objective


def test_objective_equals_the_definition(rng):
    A = np.eye(3) + 0.3 * rng.normal(size=(3, 3))
    value, _ = mmc_objective(A, PairDistances(POINTS, FIRST, SECOND), SAME, 1.7, 0.6)
    assert value == pytest.approx(reference_objective(A.T @ A, 1.7, 0.6), rel=1e-12)


@pytest.mark.parametrize("diagonal", [False, True])
def test_gradient_equals_finite_differences(rng, diagonal):
    pairs = PairDistances(POINTS, FIRST, SECOND)

    def of_matrix(A):
        return mmc_objective(A, pairs, SAME, 1.7, 0.6)

    def parts(a):
        value, gradient = (
            restrict_to_diagonal(of_matrix)(a) if diagonal else of_matrix(a.reshape(3, 3))
        )
        return value, gradient.ravel()

    for _ in range(3):
        a = 1 + 0.3 * rng.normal(size=3)
        a = a if diagonal else (np.diag(a) + 0.3 * rng.normal(size=(3, 3))).ravel()
        error = check_grad(lambda a: parts(a)[0], lambda a: parts(a)[1], a)
        assert error < 1e-6 * np.linalg.norm(parts(a)[1])


# The minimum


def test_gradient_with_respect_to_m_is_zero_at_the_minimum():
    weight, unit = 4.0, squares(np.eye(3))[SAME].mean()
    learner = in_the_unit_of_the_points(weight).fit(PAIRS, SAME)
    M = learner.get_mahalanobis_matrix()
    # Undo the scaling of M. Among multiples t M, the minimum is at a zero of
    # trace(M) t - 3 + weight (t / unit - 1).
    M = M * (3 + weight) / (np.trace(M) + weight / unit)
    d = np.sqrt(squares(M))
    gradient = np.eye(3) - np.linalg.inv(M)
    for (x, y), is_same, length in zip(PAIRS, SAME, d, strict=True):
        share = 1 / (SAME.sum() * unit) if is_same else -1 / (length * d[~SAME].sum())
        gradient += weight * share * np.outer(x - y, x - y)
    assert abs(gradient).max() < 1e-4 * abs(np.linalg.inv(M)).max()


def test_large_gamma_gives_the_solution_of_the_paper():
    # metric_learn 0.7.0 with scikit-learn 1.5.2, MMC().fit(PAIRS, SAME as 1 and -1); tol=1e-10
    # gives the same.
    theirs = np.array(
        [
            [0.00082255, 0.00466249, -0.00675768],
            [0.00466249, 0.02642866, -0.03830496],
            [-0.00675768, -0.03830496, 0.05551813],
        ]
    )
    learner = in_the_unit_of_the_points(1e6, max_iter=10_000, tol=1e-14).fit(PAIRS, SAME)
    ours = separation(learner.get_mahalanobis_matrix())
    assert ours >= separation(theirs) * (1 - 1e-4)

    def of_root(a):
        L = a.reshape(3, 3)
        return -separation(L.T @ L)

    best = max(-minimize(of_root, np.eye(3).ravel() + s, tol=1e-9).fun for s in (0.0, 0.1))
    assert ours == pytest.approx(best, rel=1e-3)


def test_diagonal_matrix_minimises_the_objective():
    weight, unit = 4.0, squares(np.eye(3))[SAME].mean()
    learner = in_the_unit_of_the_points(weight, diagonal=True).fit(PAIRS, SAME)
    M = learner.get_mahalanobis_matrix()
    assert_array_equal(M, np.diag(M.diagonal()))
    best = minimize(
        lambda log: reference_objective(np.diag(np.exp(log)), unit, weight), np.zeros(3), tol=1e-12
    )
    expected = np.exp(best.x)
    assert_allclose(M.diagonal() / M.trace(), expected / expected.sum(), rtol=1e-4)
    assert learner.loss_curve_[-1] == pytest.approx(best.fun, rel=1e-9)


def test_large_gamma_gives_the_diagonal_solution_of_the_paper():
    # metric_learn 0.7.0: MMC(diagonal=True, tol=1e-10) puts all weight on the third feature.
    options = {"diagonal": True, "max_iter": 10_000, "tol": 1e-14}
    M = in_the_unit_of_the_points(1e6, **options).fit(PAIRS, SAME).get_mahalanobis_matrix()
    assert separation(M) == pytest.approx(separation(np.diag([0.0, 0.0, 1.0])), rel=1e-3)


@pytest.mark.parametrize("diagonal", [False, True])
def test_same_pairs_have_a_mean_squared_distance_of_one(diagonal):
    learner = MMC(supervision="pairs", diagonal=diagonal).fit(PAIRS, SAME)
    assert np.square(learner.pair_distance(PAIRS[SAME])).mean() == pytest.approx(1)


def test_loss_curve_falls_from_the_prior():
    learner = MMC().fit(IRIS, SPECIES)
    assert len(learner.loss_curve_) == learner.n_iter_ + 1
    assert (np.diff(learner.loss_curve_) <= 0).all()
    assert learner.loss_curve_[-1] < learner.loss_curve_[0]


# Pairs


def test_distinct_neighbor_pairs_equal_a_sort_of_all_distances(rng):
    X, codes = rng.normal(size=(30, 2)), rng.integers(3, size=30)
    codes[0] = 3  # the only point of its class
    expected = set()
    for i in range(30):
        d = np.linalg.norm(X - X[i], axis=1)
        for kind in (codes == codes[i], codes != codes[i]):
            others = [j for j in np.argsort(d) if kind[j] and j != i][:4]
            expected |= {(min(i, j), max(i, j), bool(codes[i] == codes[j])) for j in others}
    found = list(
        zip(*(part.tolist() for part in distinct_neighbor_pairs(X, codes, 4)), strict=True)
    )
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_labels_equal_the_pairs_of_neighbours():
    by_labels = MMC(n_neighbors=5, prior_share=0).fit(IRIS, SPECIES)
    first, second, same = distinct_neighbor_pairs(IRIS, SPECIES, 5)
    pairs = np.stack([IRIS[second], IRIS[first]], axis=1)[::-1]
    by_pairs = MMC(supervision="pairs").fit(pairs, same[::-1])
    assert_allclose(by_pairs.components_, by_labels.components_, rtol=1e-6, atol=1e-8)


def test_order_of_rows_does_not_matter(rng):
    order = rng.permutation(150)
    d = MMC().fit(UNTIED, SPECIES).get_mahalanobis_matrix()
    assert_allclose(MMC().fit(UNTIED[order], SPECIES[order]).get_mahalanobis_matrix(), d, rtol=1e-5)


def test_pairs_of_equal_points_are_left_out():
    equal = np.repeat(PAIRS[:5, :1], 2, axis=1)
    learner = in_the_unit_of_the_points(1.0).fit(PAIRS, SAME)
    more = np.concatenate([PAIRS, equal])
    again = in_the_unit_of_the_points(1.0).fit(more, np.append(SAME, [False] * 5))
    assert_allclose(again.components_, learner.components_, rtol=1e-5, atol=1e-7)
    like = in_the_unit_of_the_points(1.0).fit(
        np.concatenate([PAIRS[~SAME], equal]), [0] * 75 + [1] * 5
    )
    assert np.isfinite(like.components_).all()


def test_distance_does_not_depend_on_the_unit():
    d = MMC().fit(UNTIED, SPECIES).transform(UNTIED)
    for unit in (1e-6, 1e6):
        other = MMC().fit(unit * UNTIED, SPECIES).transform(unit * UNTIED)
        assert_allclose(other, d, rtol=1e-5, atol=1e-6 * abs(d).max())


def test_n_components_keeps_the_leading_axes():
    whole = MMC().fit(IRIS, SPECIES)
    assert_allclose(MMC(2).fit(IRIS, SPECIES).components_, whole.components_[:2])


def test_float32_is_kept_and_gives_nearly_the_same_map():
    single = MMC().fit(IRIS.astype(np.float32), SPECIES)
    double = MMC().fit(IRIS, SPECIES)
    assert single.components_.dtype == np.float32
    assert_allclose(single.components_, double.components_, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"gamma": 0.0}, "gamma == 0.0, must be > 0"),
        ({"prior": "unit"}, "prior='unit' is unknown"),
        ({"n_components": 4}, "from 1 to 3"),
        ({"n_neighbors": 0}, "n_neighbors == 0, must be >= 1"),
        ({"supervision": "triplets"}, "unknown to MMC"),
        ({"diagonal": True, "prior": "covariance"}, "needs a diagonal prior"),
    ],
)
def test_invalid_parameters_raise(parameters, message):
    with pytest.raises(ValueError, match=message):
        MMC(**{"supervision": "pairs"} | parameters).fit(PAIRS, SAME)


def test_different_pairs_of_equal_points_only_raise():
    pairs = np.concatenate([PAIRS[SAME], np.repeat(PAIRS[:5, :1], 2, axis=1)])
    with pytest.raises(ValueError, match="all 5 pairs are equal"):
        MMC(supervision="pairs").fit(pairs, [1] * SAME.sum() + [0] * 5)
