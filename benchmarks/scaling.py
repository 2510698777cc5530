"""Growth of processor seconds and memory of each learner with the rows: 1k to 64k, 20 features.

Run ``python -m benchmarks.scaling``, or add ``--quick`` for at most 8k rows. Iterative learners
stop after a few iterations, so the cost of one iteration is measured. The costs in the docstring of
the class are printed under the measured exponents.
"""

import argparse

import numpy as np

from benchmarks._data import make_points
from benchmarks._learners import REAL_TARGETS, choose, learners
from benchmarks._peers import contender, fit_in_process, save_fold, temporary_folder

N_FEATURES = 20
SMALLEST, LARGEST, QUICK = 1000, 64_000, 8000
MAX_ITER = 5
MIN_SECONDS, MIN_MIB = 0.02, 4  # smaller costs are mostly noise
N_SIZES_FITTED = 4  # the exponent is fitted to this many of the largest n


def sizes(largest):
    """Return 1000, 2000, 4000, ... up to the largest."""
    return [SMALLEST * 2**i for i in range(int(np.log2(largest / SMALLEST)) + 1)]


def exponent(n, cost, min_cost):
    """Fit cost = c nᵉ to the largest n.

    Parameters
    ----------
    n, cost : sequence of float
        Number of rows, increasing, and the cost at each.
    min_cost : float
        Smaller costs are left out.

    Returns
    -------
    float
        e, by least squares on logarithms over the last `N_SIZES_FITTED` costs. NaN if fewer than
        two costs are at least `min_cost`.
    """
    n, cost = np.asarray(n, float), np.asarray(cost, float)
    used = cost >= min_cost
    if used.sum() < 2:
        return np.nan
    return np.polyfit(np.log(n[used][-N_SIZES_FITTED:]), np.log(cost[used][-N_SIZES_FITTED:]), 1)[0]


def documented_costs(doc):
    """Return the costs in a docstring, as "O(...), O(...)"."""
    costs = []
    text = " ".join((doc or "").split())
    start = text.find("O(")
    while start >= 0:
        depth, end = 0, start + 1
        while end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
            if depth == 0:
                break
        costs.append(text[start:end])
        start = text.find("O(", end)
    return ", ".join(dict.fromkeys(costs))


def measure(name, estimator, largest, timeout):
    """Fit on more and more rows. Stop after the first fit that fails or takes too long.

    Returns
    -------
    n : list of int
        Number of rows of each fit.
    results : list of dict
        The results of `fit_in_process`.
    """
    entry = contender(name, estimator)
    if "max_iter" in estimator.get_params():
        entry = entry._replace(params=entry.params | {"max_iter": MAX_ITER})
    n, results = [], []
    for rows in sizes(largest):
        X, y = make_points(rows, N_FEATURES)
        y = y.astype(float) if name in REAL_TARGETS else y
        with temporary_folder() as folder:
            path = save_fold(folder, "data", (X, y, X[:1], y[:1]))
            n.append(rows)
            results += fit_in_process(entry, [path], timeout, score=False)
        if "error" in results[-1]:
            break
    return n, results


def print_row(name, doc, n, results, all_sizes):
    """Print processor seconds and memory of a learner, and the exponent of each."""
    successful = [(rows, r) for rows, r in zip(n, results, strict=True) if "error" not in r]
    fitted_rows = [rows for rows, _ in successful]
    costs = {
        "cpu s": ([r["cpu"] for _, r in successful], MIN_SECONDS, "{:8.3f}"),
        "MiB": ([max(r["peak"] - r["before"], 0) for _, r in successful], MIN_MIB, "{:8.0f}"),
    }
    for unit, (cost, min_cost, form) in costs.items():
        cells = "".join(form.format(value) for value in cost) + 8 * " " * (
            len(all_sizes) - len(cost)
        )
        e = exponent(fitted_rows, cost, min_cost)
        growth = "too small to fit" if np.isnan(e) else f"n^{e:.2f}"
        print(f"{name:20} {unit:8}{cells}  {growth}", flush=True)
    print(f"{'':20} documented: {documented_costs(doc) or 'no costs'}")
    if "error" in results[-1]:
        print(f"{'':20} stopped at n = {n[-1]}: {results[-1]['error']}")


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learners", help="names separated by commas; default: all")
    parser.add_argument("--largest", type=int, help=f"largest number of rows; default: {LARGEST}")
    parser.add_argument(
        "--timeout", type=float, default=120, help="limit of a fit in seconds; default: 120"
    )
    parser.add_argument("--quick", action="store_true", help=f"at most {QUICK} rows")
    options = parser.parse_args()
    largest = options.largest or (QUICK if options.quick else LARGEST)
    known = learners()
    chosen = choose(options.learners.split(",") if options.learners else list(known), known)
    print(f"at most {MAX_ITER} iterations, {N_FEATURES} features; memory is what the fit adds")
    print(f"{'':29}" + "".join(f"{n // 1000:7}k" for n in sizes(largest)))
    for name, estimator in chosen.items():
        n, results = measure(name, estimator, largest, options.timeout)
        print_row(name, type(estimator).__doc__, n, results, sizes(largest))


if __name__ == "__main__":
    main()
