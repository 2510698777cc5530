"""The peers as released, each in a virtual environment of its own, and processes that fit.

metric-learn 0.7.0 fails on scikit-learn 1.8 and newer, and its SDML on 1.5 and newer; that one has
an environment of its own. With the default ``balance_param`` of 0.5 it fails there, too (iris,
wine: the matrix handed to the graphical lasso is indefinite), so it runs with 1e-5.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import NamedTuple

import numpy as np

CACHE = Path.home() / ".cache" / "skdml-benchmarks"
OURS = "ours"
PEERS, OLD_PEERS = "metric-learn", "metric-learn, old scikit-learn"
REQUIREMENTS = {
    PEERS: ["metric-learn==0.7.0", "scikit-learn==1.5.2"],
    OLD_PEERS: ["metric-learn==0.7.0", "scikit-learn==1.4.2", "numpy<2"],
}
THREADS = 2
WORKER = Path(__file__).with_name("_worker.py")
SLACK = 60  # seconds for all but the fit: imports, reading, 3-NN


class Contender(NamedTuple):
    """A learner and where it runs.

    Attributes
    ----------
    name : str
        For the table.
    environment : str
        `OURS`, for the Python that runs the benchmark, or a key of `REQUIREMENTS`.
    path : str
        "module:class".
    params : dict
        What is not at its default.
    """

    name: str
    environment: str
    path: str
    params: dict


def _metric_learn(name, environment=PEERS, **params):
    return Contender("metric-learn", environment, f"metric_learn:{name}", params)


RIVALS = {
    "NCA": [
        _metric_learn("NCA", random_state=0),
        Contender(
            "scikit-learn",
            OURS,
            "sklearn.neighbors:NeighborhoodComponentsAnalysis",
            {"random_state": 0},
        ),
    ],
    "LMNN": [_metric_learn("LMNN", random_state=0)],
    "LFDA": [_metric_learn("LFDA")],
    "MLKR": [_metric_learn("MLKR", random_state=0)],
    "ITML": [_metric_learn("ITML_Supervised", random_state=0)],
    "MMC": [_metric_learn("MMC_Supervised", random_state=0)],
    "SDML": [_metric_learn("SDML_Supervised", OLD_PEERS, random_state=0, balance_param=1e-5)],
    "SCML": [_metric_learn("SCML_Supervised", random_state=0)],
    "LSML": [_metric_learn("LSML_Supervised", random_state=0)],
    "RCA": [_metric_learn("RCA_Supervised", random_state=0)],
    "MahalanobisMetric": [_metric_learn("Covariance")],
}


def contender(name, estimator):
    """Return one of our learners as a contender."""
    kind = type(estimator)
    default, params = kind().get_params(deep=False), estimator.get_params(deep=False)
    changed = {key: value for key, value in params.items() if value is not default[key]}
    return Contender(name, OURS, f"{kind.__module__}:{kind.__qualname__}", changed)


def python_of(environment, folder=CACHE):
    """Return the Python of an environment, which is built once.

    Parameters
    ----------
    environment : str
        `OURS` or a key of `REQUIREMENTS`.
    folder : path-like
        Where the environments are.

    Returns
    -------
    str
        Path of the interpreter.

    Raises
    ------
    RuntimeError
        If pip finds no built packages for this Python.
    """
    if environment == OURS:
        return sys.executable
    requirements = REQUIREMENTS[environment]
    home = Path(folder) / "-".join(requirements).replace("==", "-").replace("<", "-below-")
    python, done = home / "bin" / "python", home / "installed"
    if not done.exists():
        print(f"building {home}", file=sys.stderr, flush=True)
        venv.create(home, clear=True, with_pip=True)
        command = [python, "-m", "pip", "install", "-q", "--only-binary=:all:", *requirements]
        if subprocess.run(command, stdout=sys.stderr).returncode:
            raise RuntimeError(
                f"pip cannot install {' '.join(requirements)} for Python "
                f"{sys.version.split()[0]}; run the benchmark with one from 3.10 to 3.12."
            )
        done.touch()
    return str(python)


def fit_in_process(who, folds, timeout, *, folder=CACHE, score=True, objective=False):
    """Fit a contender in a fresh process of two threads.

    Parameters
    ----------
    who : Contender
        The learner.
    folds : list of path-like
        Files written by `save_fold`.
    timeout : float
        Seconds for each fit.
    folder : path-like
        Where the environments of the peers are.
    score : bool, default=True
        Whether to classify the test rows by 3-NN.
    objective : bool, default=False
        Whether to compute the objective of NCA.

    Returns
    -------
    list of dict
        Per fold "seconds", "cpu" (processor seconds of all threads), "before" and "peak" (MiB),
        "n_iter", "accuracy", "objective", or "error".
    """
    job = {
        "learner": who.path,
        "params": who.params,
        "folds": [str(path) for path in folds],
        "score": score,
        "objective": objective,
    }
    limit = timeout * len(folds) + SLACK
    try:
        command = [python_of(who.environment, folder), WORKER, json.dumps(job)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, env=_variables(who)
        )
        lines, error = done.stdout, done.stderr.strip()[-200:] or f"exit {done.returncode}"
    except subprocess.TimeoutExpired as stopped:
        lines, error = (stopped.stdout or b"").decode(), f"over {timeout:g} s"
    except RuntimeError as unavailable:
        lines, error = "", str(unavailable)
    found = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    found = [
        {"error": f"over {timeout:g} s"} if result.get("seconds", 0) > timeout else result
        for result in found
    ]
    return found + [{"error": error}] * (len(folds) - len(found))


def save_fold(folder, name, fold):
    """Write X_train, y_train, X_test, y_test to a file that a process can read; return its path."""
    path = Path(folder) / f"{name}.npz"
    np.savez(path, **dict(zip(("X", "y", "X_test", "y_test"), fold, strict=True)))
    return path


def scratch():
    """Return a folder that goes when its block ends."""
    return tempfile.TemporaryDirectory(prefix="skdml-benchmark-")


def _variables(who):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    variables = os.environ | dict.fromkeys(names, str(THREADS))
    if who.environment == OURS:  # this copy of the package, even where another is installed
        variables["PYTHONPATH"] = str(WORKER.parents[1])
    return variables
