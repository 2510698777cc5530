"""Few-shot accuracy: episodes with known results, and invalid parameters."""

import numpy as np
import pytest
from helpers import AngleOfSquares
from numpy.testing import assert_allclose
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_digits
from sklearn.preprocessing import FunctionTransformer

from skdml import MahalanobisMetric
from skdml.metrics import few_shot_score

X, y = load_digits(return_X_y=True)
X, y = X[:300], y[:300]


class FirstColumns(TransformerMixin, BaseEstimator):
    """A transformer that keeps the first two columns."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X[:, :2]


def test_accuracy_of_separate_and_of_mixed_classes():
    labels = np.repeat(np.arange(8), 20)
    rng = np.random.default_rng(0)
    apart = np.column_stack([10 * labels, np.zeros(160)]) + rng.random((160, 2))
    options = {"n_queries": 5, "n_episodes": 200, "random_state": 0}
    found = few_shot_score(FirstColumns(), apart, labels, **options)
    assert (found.mean, found.interval) == (1.0, (1.0, 1.0))
    assert found.accuracies.shape == (200,)
    mixed = few_shot_score(FirstColumns(), rng.random((160, 2)), labels, n_way=4, **options)
    assert mixed.interval[0] < 0.25 < mixed.interval[1]
    # 1.972 is the quantile of Student's t with 199 degrees of freedom.
    half = 1.972 * mixed.accuracies.std(ddof=1) / np.sqrt(200)
    assert_allclose(mixed.interval, [mixed.mean - half, mixed.mean + half], rtol=1e-4)
    again = few_shot_score(FirstColumns(), apart, labels, **options)
    assert (again.accuracies == found.accuracies).all()


def test_episodes_that_use_all_samples():
    # Every sample of both classes is drawn. Only the choice of the query is random.
    points = np.array([[0.0, 0], [1, 0], [2, 0], [9, 0], [11, 0], [5.4, 0]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    found = few_shot_score(FirstColumns(), points, labels, 2, 2, 1, n_episodes=400, random_state=0)
    expected = []
    for i in range(3):
        for j in range(3, 6):
            a, b = np.delete(points[:3, 0], i).mean(), np.delete(points[3:, 0], j - 3).mean()
            right = int(abs(points[i, 0] - a) < abs(points[i, 0] - b))
            expected.append((right + int(abs(points[j, 0] - b) < abs(points[j, 0] - a))) / 2)
    assert set(found.accuracies) == set(expected) == {0.5, 1.0}
    assert found.interval[0] - 0.02 < np.mean(expected) < found.interval[1] + 0.02


def test_more_shots_are_better_and_the_base_distance_of_the_learner_is_used():
    learner = MahalanobisMetric("oas", within_class=True).fit(X[y < 5], y[y < 5])
    options = {"n_queries": 10, "n_episodes": 60, "random_state": 0}
    one = few_shot_score(learner, X[y >= 5], y[y >= 5], **options)
    five = few_shot_score(learner, X[y >= 5], y[y >= 5], n_shot=5, **options)
    assert five.interval[0] > one.interval[1]
    # Each class is a ray from the origin, so all angles within a class are 0.
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 20)
    rays = rng.random((5, 64))[labels] * 10 ** rng.uniform(-1, 1, (100, 1))
    assert few_shot_score(AngleOfSquares().fit(rays), rays, labels, **options).mean == 1
    assert few_shot_score(FunctionTransformer(np.square), rays, labels, **options).mean < 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: few_shot_score(FirstColumns(), X, y, n_way=11),
            "n_way=11 .* 10 of the 10 classes",
        ),
        (
            lambda: few_shot_score(FirstColumns(), X, y, n_shot=30),
            "= 45 samples are needed, but 0 of the 10",
        ),
        (lambda: few_shot_score(FirstColumns(), X, y, n_way=1), "n_way == 1"),
        (lambda: few_shot_score(FirstColumns(), X, y, n_episodes=1), "n_episodes == 1"),
        (lambda: few_shot_score(FirstColumns(), X, y[:9]), "inconsistent numbers of samples"),
    ],
)
def test_invalid_parameters_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
