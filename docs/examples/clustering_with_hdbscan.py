"""Clustering with HDBSCAN, using a distance learned from labels of other rows.

The distance is learned from half of the digits and their labels. The other half is clustered
without labels, once with Euclid and once with the learned distance. HDBSCAN leaves some rows in no
cluster, so the share of rows in clusters is printed too.
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
        f"{name:8}{clusters.max() + 1:3} clusters with {placed:.0%} of the rows, "
        f"AMI {agreement:.3f}"
    )

# HDBSCAN also takes the distance as a function. The clusters are the same.
X_part = X_new[:200]
with_function = HDBSCAN(min_cluster_size=5, metric=learner.get_metric(), copy=True)
with_points = HDBSCAN(min_cluster_size=5, copy=True)
clusters = with_function.fit_predict(X_part)
same_clusters = with_points.fit_predict(learner.transform(X_part))
agreement = adjusted_mutual_info_score(clusters, same_clusters)
print(f"function and embedded points agree: AMI {agreement:.3f}")
