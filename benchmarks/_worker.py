"""One process, one learner: fit, and print what it took. Runs in any environment with scikit-learn.

``python _worker.py JOB``, JOB a JSON object: "learner" ("module:class"), "params", "folds" (paths
of .npz files with X, y, X_test, y_test), "score" (whether to classify the test rows) and
"objective" (whether to compute NCA's). Prints a JSON object per fold.
"""

import importlib
import json
import resource
import sys
import time
import warnings

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

BLOCK = 500
SHORT, REPEATS = 0.05, 5  # a fit of so few seconds is mostly what first calls load: repeat it


def resident(field):
    """Resident memory in MiB: now ("VmRSS") or at its peak ("VmHWM")."""
    try:
        with open("/proc/self/status") as file:
            status = dict(line.split(":", 1) for line in file)
        return int(status[field].split()[0]) / 1024
    except OSError:  # no Linux: the peak is all that can be had, and a parent's counts in it
        unit = 1024**2 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def time_of(function):
    """Time of a call: "seconds", and "cpu", the processor seconds of all threads."""
    start, cpu = time.perf_counter(), time.process_time()
    function()
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


def nca_objective(Z, y):
    """Mean over the points of the probability that a random neighbour is of the same class."""
    Z = Z.astype(np.float64)
    norms, total = (Z**2).sum(axis=1), 0.0
    for start in range(0, len(Z), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(Z)))
        logits = 2 * Z[rows] @ Z.T - norms[rows, None] - norms
        logits[np.arange(len(rows)), rows] = -np.inf
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        same = y[rows, None] == y
        total += ((p * same).sum(axis=1) / p.sum(axis=1)).sum()
    return total / len(Z)


def fit_fold(kind, params, path, score, objective):
    """Fit on one fold: a dict of seconds, memory in MiB, accuracy."""
    with np.load(path) as fold:
        X, y = fold["X"], fold["y"]
        X_test, y_test = fold["X_test"], fold["y_test"]
    learner = kind(**params)
    found = {"before": resident("VmRSS")}
    found |= time_of(lambda: learner.fit(X, y))
    if found["seconds"] < SHORT:
        again = [time_of(lambda: learner.fit(X, y)) for _ in range(REPEATS)]
        found |= {key: float(np.median([times[key] for times in again])) for key in again[0]}
    found["peak"] = resident("VmHWM")
    found["n_iter"] = int(np.max(getattr(learner, "n_iter_", 0)))
    Z = learner.transform(X)
    if score:
        knn = KNeighborsClassifier(3).fit(Z, y)
        found["accuracy"] = knn.score(learner.transform(X_test), y_test)
    if objective:
        found["objective"] = nca_objective(Z, y)
    return found


def main():
    """Do the job."""
    job = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    module, name = job["learner"].split(":")
    kind = getattr(importlib.import_module(module), name)
    for path in job["folds"]:
        try:
            found = fit_fold(kind, job["params"], path, job["score"], job["objective"])
        except Exception as error:  # a learner that fails is a result
            found = {"error": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
