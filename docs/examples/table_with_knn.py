"""k-NN on a table, with and without a learned distance.

The table has 13 measurements of 178 wines, in different units. Proline has the largest numbers and
dominates the Euclidean distance. Scaling the columns helps; a distance learned from the labels
helps further.
"""

import numpy as np
from sklearn.datasets import load_wine
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdml import NCA, MahalanobisMetric

X, y = load_wine(return_X_y=True)
steps_before_knn = {
    "raw": [],
    "scaled": [StandardScaler()],
    "whitened, MahalanobisMetric()": [MahalanobisMetric("oas")],
    "whitened within classes": [MahalanobisMetric("oas", within_class=True)],
    "NCA, in 3 dimensions": [StandardScaler(), NCA(n_components=3, random_state=0)],
}
folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=2, random_state=0)
for name, steps in steps_before_knn.items():
    model = make_pipeline(*steps, KNeighborsClassifier(3))
    accuracy = cross_val_score(model, X, y, cv=folds)
    print(f"{name:32}{accuracy.mean():.3f} ± {accuracy.std():.3f}")

# The diagonal of M = LᵀL is the weight of each feature, in units of its standard deviation.
metric = make_pipeline(StandardScaler(), MahalanobisMetric("oas", within_class=True)).fit(X, y)[-1]
weight = metric.get_mahalanobis_matrix().diagonal()
names = np.array(load_wine().feature_names)
print("largest weights:", ", ".join(names[np.argsort(weight)[::-1][:3]]))
