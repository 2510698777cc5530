"""Time and memory of retrieval measures, beside scikit-learn's brute-force neighbours.

Run ``python -m benchmarks.retrieval``: 100 000 points of 128 components against themselves, or with
``--quick`` 2000 of them against all. The points lie in classes of 100, once well apart, once wholly
mixed, which is the worst case: the last match of a query then is as far as anything.
"""

import argparse
import statistics
from functools import partial

import numpy as np
from sklearn.neighbors import NearestNeighbors

from benchmarks._worker import resident_mib, measure_time
from skdml.metrics import map_at_r, recall_at_k, retrieval_report

N_POINTS, N_COMPONENTS, N_PER_CLASS, K = 100_000, 128, 100, 10
# Standard deviation within a class, where that of the centres is 1.
SPREADS = {"apart": 1.5, "mixed": 100.0}


def points(spread, n_points=N_POINTS):
    """Make embeddings and their classes, as a function of the numbers alone."""
    rng = np.random.default_rng(0)
    labels = np.arange(n_points) // N_PER_CLASS
    centres = rng.normal(size=(labels[-1] + 1, N_COMPONENTS))
    noise = rng.normal(scale=spread, size=(n_points, N_COMPONENTS))
    return (centres[labels] + noise).astype(np.float32), labels


def ways_of(Z, labels, n_queries):
    """Return what is timed, a dict of {name: callable}; scikit-learn's neighbours first."""
    chosen = slice(n_queries)
    call = (Z[chosen], labels[chosen], Z, labels)

    def neighbors():  # a query finds itself, and so asks for one more
        return NearestNeighbors(n_neighbors=K + 1, algorithm="brute").fit(Z).kneighbors(Z[chosen])

    ours = {
        "recall_at_k": partial(recall_at_k, k=K),
        "map_at_r": map_at_r,
        "retrieval_report": partial(retrieval_report, k=(1, 5, K)),
    }
    return {"neighbors": neighbors} | {
        name: partial(measure, *call, reference_includes_queries=True)
        for name, measure in ours.items()
    }


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2000 queries")
    parser.add_argument("--repeats", type=int, default=3, help="turns of which to take the median")
    args = parser.parse_args()
    n_queries = 2000 if args.quick else N_POINTS
    print(f"{n_queries} queries x {N_POINTS} points x {N_COMPONENTS}, float32, top {K}")
    print(
        f"{'points':8}{'what':18}{'seconds':>9}{'ratio':>7}{'cpu':>9}{'ratio':>7}{'peak MiB':>10}"
    )
    for kind, spread in SPREADS.items():
        Z, labels = points(spread)
        ways = ways_of(Z, labels, n_queries)
        times = {name: [] for name in ways}
        peak = {}
        for _ in range(args.repeats):
            for name, way in ways.items():
                times[name].append(measure_time(way))
                peak.setdefault(name, resident_mib("VmHWM"))  # so far: the largest comes last
        for name, found in times.items():
            line = f"{kind:8}{name:18}"
            for unit in ("seconds", "cpu"):
                middle = statistics.median(each[unit] for each in found)
                pairs = zip(found, times["neighbors"], strict=True)
                ratio = statistics.median(a[unit] / b[unit] for a, b in pairs)
                line += f"{middle:9.2f}{ratio:7.2f}"
            print(f"{line}{peak[name]:10.0f}", flush=True)


if __name__ == "__main__":
    main()
