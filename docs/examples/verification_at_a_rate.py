"""Verification: the same sign, or not? At a false-accept rate of 1 %, of signs never trained on.

The pictures are scikit-learn's digits in four turns, each turn a class of its own, under light that
falls unevenly. The distance is learned on half of the classes. The threshold is chosen on pairs of
the others, and the promise is checked on pairs of further pictures. The question is that of a door:
two pictures, one answer, and at most one impostor in a hundred may pass.
"""

import numpy as np
from scipy.stats import binomtest
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import FunctionTransformer

from skdml import MahalanobisMetric
from skdml.__main__ import digits_in_uneven_light
from skdml.metrics import verification_report
from skdml.model_selection import ClassDisjointShuffleSplit, make_pairs
from skdml.verification import PairVerifier

X, y = digits_in_uneven_light(seed=0)
splitter = ClassDisjointShuffleSplit(1, test_size=0.5, random_state=0)
((seen, unseen),) = splitter.split(X, y)
to_choose, to_check = train_test_split(unseen, stratify=y[unseen], test_size=0.5, random_state=0)
pairs, same = make_pairs(X[to_choose], y[to_choose], 20_000, random_state=0)
fresh_pairs, fresh_same = make_pairs(X[to_check], y[to_check], 20_000, random_state=1)
impostor = fresh_same == 0

learners = {"Euclid": FunctionTransformer(), "learned": MahalanobisMetric("oas", within_class=True)}
for name, learner in learners.items():
    frozen = FrozenEstimator(learner.fit(X[seen], y[seen]))
    verifier = PairVerifier(frozen, threshold="far", target_far=0.01).fit(pairs, same)
    accepted = verifier.predict(fresh_pairs) == 1
    passed = int(accepted[impostor].sum())
    low, high = binomtest(passed, int(impostor.sum())).proportion_ci(0.95)
    print(f"{name}: accepts up to {verifier.threshold_:.2f}")
    print(f"  impostors {passed / impostor.sum():.2%} (95 %: {low:.2%} to {high:.2%})")
    print(f"  genuine   {accepted[~impostor].mean():.1%}")
    report = verification_report(fresh_same, verifier.pair_distance(fresh_pairs))
    for measure in ("roc_auc", "equal_error_rate", "tar_at_far_0.01"):
        print(f"  {measure:18}{report[measure]:.3f}")
    assert np.isclose(verifier.score(fresh_pairs, fresh_same), report["roc_auc"])
