"""Time of k-NN on a learned distance: by pipeline, callable, or scikit-learn's Mahalanobis.

Run ``python -m benchmarks.neighbors``, or add ``--quick`` for few repetitions.
"""

import argparse

import numpy as np
import torch
from sklearn.datasets import make_classification
from sklearn.neighbors import KNeighborsClassifier

from benchmarks._timing import median_ratio, medians, take_turns
from skdml import DeepTripletEmbedder, MahalanobisMetric

N_TRAIN, N_QUERY, WIDTH = 2000, 500, 20


def make_methods(learner, train, y, query):
    """Return the methods to classify the queries: a dict of {name: callable}."""

    def pipeline():
        model = KNeighborsClassifier().fit(learner.transform(train), y)
        return model.predict(learner.transform(query))

    def callable_():
        return KNeighborsClassifier(metric=learner.get_metric()).fit(train, y).predict(query)

    methods = {"pipeline": pipeline, "callable": callable_}
    if hasattr(learner, "get_mahalanobis_matrix"):
        params = {"metric": "mahalanobis", "algorithm": "brute"}
        params["metric_params"] = {"VI": learner.get_mahalanobis_matrix()}
        methods["VI, brute"] = lambda: KNeighborsClassifier(**params).fit(train, y).predict(query)
    return methods


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
    print(f"5-NN, {N_TRAIN} train x {N_QUERY} query x {WIDTH}; median seconds, equal predictions")
    print(f"{'':22}{'method':12}{'seconds':>9}{'ratio':>8}{'equal':>8}")
    deep = DeepTripletEmbedder(max_epochs=3, random_state=0)
    for learner in (MahalanobisMetric(), deep):
        methods = make_methods(learner.fit(train, y), train, y, query)
        expected = methods["pipeline"]()
        seconds = take_turns(methods, repeats)
        for name, median in medians(seconds).items():
            ratio = median_ratio(seconds, name, "pipeline")
            equal = np.mean(methods[name]() == expected)
            print(f"{type(learner).__name__:22}{name:12}{median:9.3f}{ratio:8.1f}{equal:8.3f}")


if __name__ == "__main__":
    main()
