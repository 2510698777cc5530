"""Time of k-NN on a learned distance: by a pipeline, by the callable, by scikit-learn's own.

Run ``python -m benchmarks.neighbors``, or with ``--quick`` for few repetitions.
"""

import argparse

import numpy as np
import torch
from sklearn.datasets import make_classification
from sklearn.neighbors import KNeighborsClassifier

from benchmarks._timing import median_ratio, medians, take_turns
from skdml import DeepTripletEmbedder, MahalanobisMetric

N_TRAIN, N_QUERY, WIDTH = 2000, 500, 20


def ways_of(learner, train, y, query):
    """Return the ways to classify the queries: a dict of {name: callable}."""

    def pipeline():
        model = KNeighborsClassifier().fit(learner.transform(train), y)
        return model.predict(learner.transform(query))

    def callable_():
        return KNeighborsClassifier(metric=learner.get_metric()).fit(train, y).predict(query)

    ways = {"pipeline": pipeline, "callable": callable_}
    if hasattr(learner, "get_mahalanobis_matrix"):
        params = {"metric": "mahalanobis", "algorithm": "brute"}
        params["metric_params"] = {"VI": learner.get_mahalanobis_matrix()}
        ways["VI, brute"] = lambda: KNeighborsClassifier(**params).fit(train, y).predict(query)
    return ways


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    repeats = 1 if parser.parse_args().quick else 5
    torch.set_num_threads(2)
    X, y = make_classification(
        N_TRAIN + N_QUERY, WIDTH, n_informative=12, n_redundant=0, n_classes=5, random_state=0
    )
    train, y, query = X[:N_TRAIN], y[:N_TRAIN], X[N_TRAIN:]
    print(f"5-NN, {N_TRAIN} train x {N_QUERY} query x {WIDTH}; median seconds; predictions agree")
    print(f"{'':22}{'way':12}{'seconds':>9}{'ratio':>8}{'agree':>8}")
    deep = DeepTripletEmbedder(max_epochs=3, random_state=0)
    for learner in (MahalanobisMetric(), deep):
        ways = ways_of(learner.fit(train, y), train, y, query)
        expected = ways["pipeline"]()
        seconds = take_turns(ways, repeats)
        for way, middle in medians(seconds).items():
            ratio = median_ratio(seconds, way, "pipeline")
            agree = np.mean(ways[way]() == expected)
            print(f"{type(learner).__name__:22}{way:12}{middle:9.3f}{ratio:8.1f}{agree:8.3f}")


if __name__ == "__main__":
    main()
