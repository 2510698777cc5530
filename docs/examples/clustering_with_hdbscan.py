"""Clustering with HDBSCAN: clusters that follow what the labels of other rows have taught.

Half of the digits have labels, and teach the distance. The others are clustered without, once by
Euclid and once by the learned distance. HDBSCAN leaves out what it finds no cluster for, so the
share of the rows it places counts, too.
"""

from sklearn.cluster import HDBSCAN
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.model_selection import train_test_split

from skdml import LFDA

X, y = load_digits(return_X_y=True)
X_labelled, X_new, y_labelled, y_new = train_test_split(
    X, y, test_size=0.5, stratify=y, random_state=0
)
learner = LFDA(n_components=9).fit(X_labelled, y_labelled)
embedded = {
    "Euclid": X_new,
    "learned": learner.transform(X_new),
}
for name, Z in embedded.items():
    clusters = HDBSCAN(min_cluster_size=15, copy=True).fit_predict(Z)
    agreement = adjusted_mutual_info_score(y_new, clusters)
    placed = (clusters >= 0).mean()
    print(
        f"{name:8}{clusters.max() + 1:3} clusters, {placed:.0%} of the rows in them, "
        f"AMI {agreement:.3f}"
    )

# HDBSCAN takes the distance itself as well, point by point: the clusters are the same.
some = X_new[:200]
by_callable = HDBSCAN(min_cluster_size=5, metric=learner.get_metric(), copy=True).fit_predict(some)
by_points = HDBSCAN(min_cluster_size=5, copy=True).fit_predict(learner.transform(some))
print(f"callable and points agree: {adjusted_mutual_info_score(by_callable, by_points):.3f}")
