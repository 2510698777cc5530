"""Time and memory of the retrieval measures, compared with scikit-learn's brute-force neighbours.

Run ``python -m benchmarks.retrieval``. All 100 000 points of 128 components are queries, or 2000 of
them with ``--quick``. There are 100 points per class. The classes are well separated ("apart") or
completely mixed ("mixed"). Mixed classes are the worst case: the last match of a query can be at
any rank.
"""

import argparse
import statistics
from functools import partial

import numpy as np
from sklearn.neighbors import NearestNeighbors

from benchmarks._worker import measure_time, resident_mib
from skdml.metrics import map_at_r, recall_at_k, retrieval_report

N_POINTS, N_COMPONENTS, N_PER_CLASS, K = 100_000, 128, 100, 10
# Standard deviation within a class. That of the class centres is 1.
SPREADS = {"apart": 1.5, "mixed": 100.0}


def make_embeddings(spread, n_points=N_POINTS):
    """Return embeddings and their classes. The same arguments give the same embeddings."""
    rng = np.random.default_rng(0)
    labels = np.arange(n_points) // N_PER_CLASS
    centres = rng.normal(size=(labels[-1] + 1, N_COMPONENTS))
    noise = rng.normal(scale=spread, size=(n_points, N_COMPONENTS))
    return (centres[labels] + noise).astype(np.float32), labels


def make_methods(Z, labels, n_queries):
    """Return the functions to time, scikit-learn's neighbours first: a dict of {name: callable}."""
    chosen = slice(n_queries)
    call = (Z[chosen], labels[chosen], Z, labels)

    def neighbors():  # one more neighbour, because a query finds itself
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
    parser.add_argument(
        "--repeats", type=int, default=3, help="number of turns; the median is printed"
    )
    args = parser.parse_args()
    n_queries = 2000 if args.quick else N_POINTS
    print(f"{n_queries} queries x {N_POINTS} points x {N_COMPONENTS}, float32, top {K}")
    print(
        f"{'points':8}{'method':18}{'seconds':>9}{'ratio':>7}{'cpu':>9}{'ratio':>7}{'peak MiB':>10}"
    )
    for layout, spread in SPREADS.items():
        Z, labels = make_embeddings(spread)
        methods = make_methods(Z, labels, n_queries)
        times = {name: [] for name in methods}
        peak = {}
        for _ in range(args.repeats):
            for name, method in methods.items():
                times[name].append(measure_time(method))
                # The peak so far. Methods that need more memory come later.
                peak.setdefault(name, resident_mib("VmHWM"))
        for name, turns in times.items():
            line = f"{layout:8}{name:18}"
            for unit in ("seconds", "cpu"):
                median = statistics.median(turn[unit] for turn in turns)
                pairs = zip(turns, times["neighbors"], strict=True)
                ratio = statistics.median(a[unit] / b[unit] for a, b in pairs)
                line += f"{median:9.2f}{ratio:7.2f}"
            print(f"{line}{peak[name]:10.0f}", flush=True)


if __name__ == "__main__":
    main()
