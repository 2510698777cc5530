"""Verification of unseen classes at a false-accept rate of 1 %: same class or different?

The images are scikit-learn's digits, turned by 0, 90, 180 or 270 degrees and unevenly lit. Each
turn of a digit is a class of its own: 40 classes. The distance is learned on half of the classes.
The threshold is chosen on pairs of the other classes and checked on pairs of further images. At
most one impostor pair in a hundred should be accepted. An impostor pair is a pair of different
classes. The new pairs are of the same 20 classes, so ``confidence=None`` takes the observed rate.
For pairs of new classes, leave `confidence` at its default and give pairs of 50 or more classes.
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
choose, check = train_test_split(unseen, stratify=y[unseen], test_size=0.5, random_state=0)
pairs, same = make_pairs(X[choose], y[choose], 20_000, random_state=0)
check_pairs, check_same = make_pairs(X[check], y[check], 20_000, random_state=1)
impostor = check_same == 0

learners = {"Euclid": FunctionTransformer(), "learned": MahalanobisMetric("oas", within_class=True)}
for name, learner in learners.items():
    frozen = FrozenEstimator(learner.fit(X[seen], y[seen]))
    verifier = PairVerifier(frozen, threshold="far", target_far=0.01, confidence=None)
    verifier.fit(pairs, same)
    accepted = verifier.predict(check_pairs) == 1
    n_accepted = int(accepted[impostor].sum())
    low, high = binomtest(n_accepted, int(impostor.sum())).proportion_ci(0.95)
    print(f"{name}: accepts pairs up to the distance {verifier.threshold_:.2f}")
    rate = n_accepted / impostor.sum()
    print(f"  accepted impostors {rate:.2%} (95 % interval: {low:.2%} to {high:.2%})")
    print(f"  accepted genuine   {accepted[~impostor].mean():.1%}")
    report = verification_report(check_same, verifier.pair_distance(check_pairs))
    for measure in ("roc_auc", "equal_error_rate", "tar_at_far_0.01"):
        print(f"  {measure:18}{report[measure]:.3f}")
    assert np.isclose(verifier.score(check_pairs, check_same), report["roc_auc"])
