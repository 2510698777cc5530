"""Few-shot and unknowns: signs enrolled from a few pictures each, and strangers turned away.

The pictures are scikit-learn's digits in four turns, each turn a class of its own, under light that
falls unevenly. The distance is learned on half of the classes. Of the others, some are enrolled,
without training anything, and the rest stay unknown.
"""

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import FunctionTransformer

from skdml import MahalanobisMetric
from skdml.__main__ import digits_in_uneven_light
from skdml.gallery import GalleryClassifier
from skdml.metrics import few_shot_score
from skdml.model_selection import ClassDisjointShuffleSplit

X, y = digits_in_uneven_light(seed=0)
splitter = ClassDisjointShuffleSplit(1, test_size=0.5, random_state=0)
((seen, unseen),) = splitter.split(X, y)
learner = MahalanobisMetric("oas", within_class=True).fit(X[seen], y[seen])
X, y = X[unseen], y[unseen]

# How well are classes told apart that are known by 1 picture, by 5?
for name, embedder in {"Euclid": FunctionTransformer(), "learned": learner}.items():
    for n_shot in (1, 5):
        found = few_shot_score(embedder, X, y, n_shot=n_shot, n_episodes=200, random_state=0)
        low, high = found.interval
        print(f"{name:8}{n_shot} shot, 5 classes: {found.mean:.3f} ({low:.3f} to {high:.3f})")

# Ten classes are enrolled by some thirty pictures each; beyond the distance that a tenth of the
# impostors keeps below, an answer is "unknown".
X_enrol, X_ask, y_enrol, y_ask = train_test_split(X, y, test_size=0.6, stratify=y, random_state=0)
names = np.unique(y)
first, joining = np.isin(y_enrol, names[:10]), y_enrol == names[10]
gallery = GalleryClassifier(FrozenEstimator(learner), reject_far=0.1)
gallery.fit(X_enrol[first], y_enrol[first])
gallery.partial_fit(X_enrol[joining], y_enrol[joining])
print(f"{len(gallery.classes_)} classes are enrolled, the last one by itself")

answer = gallery.predict(X_ask)
known, unknown = np.isin(y_ask, gallery.classes_), answer == "unknown"
print(f"enrolled: right {(answer == y_ask)[known].mean():.2f}, unknown {unknown[known].mean():.2f}")
print(f"strangers: unknown {unknown[~known].mean():.2f}")
gallery.remove(names[0])
print(f"{len(gallery.classes_)} classes remain")
