"""Fit one learner in one process and print its cost. Needs only scikit-learn and the learner.

Run ``python _worker.py JOB``. JOB is a JSON object with "learner" ("module:class"), "params",
"folds" (paths of .npz files with X, y, X_test, y_test), "score" (whether to classify the test rows)
and "objective" (whether to compute the objective of NCA). Prints a JSON object per fold.
"""

import importlib
import json
import resource
import sys
import time
import warnings

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

BLOCK_ROWS = 500
# The first call also loads code. A fit shorter than SHORT_SECONDS is therefore repeated.
SHORT_SECONDS, REPEATS = 0.05, 5


def resident_mib(field):
    """Return the resident memory in MiB: now ("VmRSS") or at its peak ("VmHWM")."""
    try:
        with open("/proc/self/status") as file:
            status = dict(line.split(":", 1) for line in file)
        return int(status[field].split()[0]) / 1024
    except OSError:  # not Linux: only the peak is known, and it includes the parent's
        unit = 1024**2 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure_time(function):
    """Time a call: "seconds" by the clock, and "cpu", the processor seconds of all threads."""
    start, cpu = time.perf_counter(), time.process_time()
    function()
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


def nca_objective(Z, y):
    """Return the mean probability that a random neighbour of a point is of its class."""
    Z = Z.astype(np.float64)
    norms, total = (Z**2).sum(axis=1), 0.0
    for start in range(0, len(Z), BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, len(Z)))
        logits = 2 * Z[rows] @ Z.T - norms[rows, None] - norms
        logits[np.arange(len(rows)), rows] = -np.inf
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        same = y[rows, None] == y
        total += ((p * same).sum(axis=1) / p.sum(axis=1)).sum()
    return total / len(Z)


def fit_fold(kind, params, path, score, objective):
    """Fit on one fold; return a dict of seconds, memory in MiB and accuracy."""
    with np.load(path) as fold:
        X, y = fold["X"], fold["y"]
        X_test, y_test = fold["X_test"], fold["y_test"]
    learner = kind(**params)
    result = {"before": resident_mib("VmRSS")}
    result |= measure_time(lambda: learner.fit(X, y))
    if result["seconds"] < SHORT_SECONDS:
        repeats = [measure_time(lambda: learner.fit(X, y)) for _ in range(REPEATS)]
        result |= {key: float(np.median([times[key] for times in repeats])) for key in repeats[0]}
    result["peak"] = resident_mib("VmHWM")
    result["n_iter"] = int(np.max(getattr(learner, "n_iter_", 0)))
    Z = learner.transform(X)
    if score:
        knn = KNeighborsClassifier(3).fit(Z, y)
        result["accuracy"] = knn.score(learner.transform(X_test), y_test)
    if objective:
        result["objective"] = nca_objective(Z, y)
    return result


def main():
    """Do the job given on the command line."""
    job = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    module, name = job["learner"].split(":")
    kind = getattr(importlib.import_module(module), name)
    for path in job["folds"]:
        try:
            result = fit_fold(kind, job["params"], path, job["score"], job["objective"])
        except Exception as error:  # a failure of a learner is a result, too
            result = {"error": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
