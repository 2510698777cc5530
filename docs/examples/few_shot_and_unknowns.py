"""Few-shot recognition: enrol unseen classes from a few images, and reject unknown queries.

The images are scikit-learn's digits, turned by 0, 90, 180 or 270 degrees and unevenly lit. Each
turn of a digit is a class of its own: 40 classes. The distance is learned on half of the classes.
Some of the other classes are enrolled in a gallery, without further training. The rest stay
unknown.
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

# Accuracy on tasks of 5 unseen classes, with 1 or 5 images of each class.
for name, embedder in {"Euclid": FunctionTransformer(), "learned": learner}.items():
    for n_shot in (1, 5):
        score = few_shot_score(embedder, X, y, n_shot=n_shot, n_episodes=200, random_state=0)
        low, high = score.interval
        print(f"{name:8}{n_shot} shot, 5 classes: {score.mean:.3f} ({low:.3f} to {high:.3f})")

# Enrol 14 classes with about thirty images each, then one more. reject_far=0.1 accepts at most a
# tenth of the impostors: queries at a greater distance get the answer "unknown". So few classes say
# little about such a rate; the gallery warns, and rejects more than it has to. A confidence of 0.8
# instead of 0.95 accepts more genuine queries, at a greater risk that the rate is exceeded.
X_enrol, X_query, y_enrol, y_query = train_test_split(
    X, y, test_size=0.6, stratify=y, random_state=0
)
classes = np.unique(y)
first, added = np.isin(y_enrol, classes[:14]), y_enrol == classes[14]
gallery = GalleryClassifier(FrozenEstimator(learner), reject_far=0.1, confidence=0.8)
gallery.fit(X_enrol[first], y_enrol[first])
gallery.partial_fit(X_enrol[added], y_enrol[added])
print(f"{len(gallery.classes_)} classes are enrolled, the last one by partial_fit")

print(f"Expected share of accepted genuine queries: {gallery.genuine_acceptance_:.2f}")
answer = gallery.predict(X_query)
enrolled, unknown = np.isin(y_query, gallery.classes_), answer == "unknown"
correct = answer == y_query
print("Share of the queries, by their class:")
print(f"enrolled: correct {correct[enrolled].mean():.2f}, unknown {unknown[enrolled].mean():.2f}")
print(f"not enrolled: unknown {unknown[~enrolled].mean():.2f}")
gallery.remove(classes[0])
print(f"{len(gallery.classes_)} classes remain")
