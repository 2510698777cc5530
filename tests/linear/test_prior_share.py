"""The share of the prior in M: its choice against loops, and the mixture against its sum."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

from skdml import ITML, LDML, MMC, DMLEig
from skdml.linear import _prior_share
from skdml.linear._prior_share import (
    SHARES,
    choose_prior_share,
    count_same_class,
    mix_with_identity,
    mix_with_prior,
)

X, Y = load_wine(return_X_y=True)
X = StandardScaler().fit_transform(X)
LEARNERS = [DMLEig(random_state=0), ITML(random_state=0), LDML(random_state=0), MMC()]

each = pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: type(learner).__name__)


@pytest.fixture
def noisy():
    """Points whose first column shows the class, and a map that gives it little weight."""
    rng = np.random.RandomState(1)
    codes = rng.randint(3, size=90)
    points = rng.normal(size=(90, 3)) + 1.5 * codes[:, None] * [1, 0, 0]
    points -= points.mean(axis=0)
    Z = points * [0.1, 1.0, 2.0]
    return Z / np.sqrt((Z**2).sum()), points / np.sqrt((points**2).sum()), codes


def literal_count(Z, Z0, codes, share, n_tested):
    """Count the same-class rows among the seven nearest other rows of each row."""
    count = 0
    for i in range(n_tested):
        squared = [
            (1 - share) * ((Z[i] - Z[j]) ** 2).sum() + share * ((Z0[i] - Z0[j]) ** 2).sum()
            for j in range(len(Z))
        ]
        near = [codes[j] for j in np.argsort(squared) if j != i][:7]
        count += near.count(codes[i])
    return count


@pytest.mark.parametrize("tested", [500, 40])
@pytest.mark.parametrize("block", [2**20, 700])
def test_choice_is_the_smallest_of_the_best_shares(noisy, tested, block, monkeypatch):
    monkeypatch.setattr(_prior_share, "_TESTED", tested)
    monkeypatch.setattr(_prior_share, "_BLOCK", block)
    counts = [literal_count(*noisy, share, min(tested, 90)) for share in SHARES]
    assert choose_prior_share(*noisy) == SHARES[np.argmax(counts)] > 0
    Z, Z0, codes = noisy
    counts = [literal_count(Z0, Z, codes, share, min(tested, 90)) for share in SHARES]
    assert choose_prior_share(Z0, Z, codes) == SHARES[np.argmax(counts)] < 1
    assert choose_prior_share(Z, Z, codes) == 0


@pytest.mark.parametrize("seed", range(8))
def test_seven_neighbours_decide(seed):
    rng = np.random.RandomState(seed)
    codes, Z, Z0 = rng.randint(2, size=30), rng.normal(size=(30, 4)), rng.normal(size=(30, 4))
    counts = [literal_count(Z, Z0, codes, share, 30) for share in SHARES]
    assert choose_prior_share(Z, Z0, codes) == SHARES[np.argmax(counts)]


def test_same_class_rows_are_counted_among_the_nearest_others():
    D = np.array([[0.0, 1.0, 2.0, 3.0], [9.0, 0.0, 1.0, 1.0]])
    codes = np.array([0, 0, 1, 0])
    # Rows 1 and 2 are nearest to row 0, and rows 2 and 3 to row 1: one of each has the same class.
    assert count_same_class(D.copy(), slice(0, 2), codes, 2) == 2
    # Two rows are equally near to row 1. The first is of another class.
    assert count_same_class(D[1:].copy(), slice(1, 2), codes, 1) == 0


@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_points_use_fewer_neighbours(n):
    Z = np.arange(n, dtype=float)[:, None]
    assert choose_prior_share(Z, Z, np.arange(n) % 2) == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixture_is_the_sum_of_both(share):
    A = np.random.RandomState(0).normal(size=(4, 4))
    L = mix_with_identity(A, share, 0.7)
    assert_allclose(L.T @ L, (1 - share) * A.T @ A + share * 0.7 * np.eye(4), atol=1e-12)


@each
@pytest.mark.parametrize("prior", [None, "covariance"])
def test_learned_matrix_has_the_share_of_its_prior(learner, prior):
    learner = clone(learner)
    M0 = np.eye(13)
    if prior:
        if isinstance(learner, DMLEig):
            pytest.skip("its prior is the Euclidean distance")
        learner.set_params(prior=prior)
        # The covariance of all points, because with labels each point is in some pair.
        M0 = np.linalg.inv(np.cov(X.T, bias=True))
    M, mixed = (
        clone(learner).set_params(prior_share=share).fit(X, Y).get_mahalanobis_matrix()
        for share in (0, 0.25)
    )
    T = np.cov(X.T, bias=True)
    expected = 0.75 * M + 0.25 * M0 * np.trace(M @ T) / np.trace(M0 @ T)
    # MMC scales M after mixing.
    assert_allclose(mixed / np.trace(mixed), expected / np.trace(expected), atol=1e-9)


@each
def test_chosen_share_is_kept_and_can_be_given(learner):
    rng = np.random.RandomState(0)
    noise = np.column_stack([X, rng.normal(size=(len(X), 3))])
    fitted = clone(learner).fit(noise, Y)
    assert fitted.prior_share_ in SHARES
    given = clone(learner).set_params(prior_share=fitted.prior_share_).fit(noise, Y)
    assert_array_equal(given.components_, fitted.components_)


@each
def test_auto_is_0_for_pairs(learner):
    rows = np.random.RandomState(0).randint(len(X), size=(300, 2))
    rows = rows[rows[:, 0] != rows[:, 1]]
    pairs, same = X[rows], Y[rows[:, 0]] == Y[rows[:, 1]]
    fitted = clone(learner).set_params(supervision="pairs").fit(pairs, same)
    assert fitted.prior_share_ == 0
    given = clone(fitted).set_params(prior_share=0.5).fit(pairs, same)
    assert given.prior_share_ == 0.5
    assert not np.allclose(given.components_, fitted.components_)


def test_equal_points_are_not_mixed():
    A = np.diag([2.0, 1.0])
    assert mix_with_prior(A, np.ones((5, 2)), "auto", [0, 0, 0, 1, 1])[0] is A
    assert mix_with_prior(0 * A, X[:, :2], "auto", Y)[1] == 0


@pytest.mark.parametrize(
    "learner", [ITML(5, random_state=0), LDML(5, random_state=0), MMC(5)], ids=repr
)
def test_sparse_points_are_mixed_within_their_principal_axes(learner):
    sparse = csr_matrix(np.where(abs(X) > 1, X, 0))
    fitted = learner.set_params(prior_share=0.5).fit(sparse, Y)
    assert np.linalg.matrix_rank(fitted.components_) == 5


@each
@pytest.mark.parametrize("share", [-0.1, 1.5, "half", None, np.nan])
def test_bad_shares_are_refused(learner, share):
    learner = clone(learner).set_params(prior_share=share)
    with pytest.raises(ValueError, match=r"prior_share=.* has to be \"auto\" or a number"):
        learner.fit(X, Y)
    assert not hasattr(learner, "components_")
