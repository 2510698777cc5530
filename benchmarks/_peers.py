"""Peers: released packages in virtual environments, and fits in separate processes.

metric-learn 0.7.0 fails on scikit-learn 1.8 and newer. Its SDML fails on 1.5 and newer, so it has
an environment of its own. With the default ``balance_param`` of 0.5, SDML fails on iris and wine
even there: the matrix for the graphical lasso is indefinite. The benchmarks therefore use 1e-5.
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
SECONDS_BESIDES_FIT = 60  # imports, reading, 3-NN


class Contender(NamedTuple):
    """A learner and the environment in which it runs.

    Attributes
    ----------
    name : str
        The name in the table.
    environment : str
        `OURS` is the Python that runs the benchmark. Else a key of `REQUIREMENTS`.
    path : str
        "module:class".
    params : dict
        The parameters that are not at their default.
    """

    name: str
    environment: str
    path: str
    params: dict


def _metric_learn(name, environment=PEERS, **params):
    return Contender("metric-learn", environment, f"metric_learn:{name}", params)


PEERS_OF = {
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
    """Return a learner of skdml as a contender."""
    kind = type(estimator)
    default, params = kind().get_params(deep=False), estimator.get_params(deep=False)
    changed = {key: value for key, value in params.items() if value is not default[key]}
    return Contender(name, OURS, f"{kind.__module__}:{kind.__qualname__}", changed)


def python_of_environment(environment, folder=CACHE):
    """Return the Python of an environment. Build the environment if it does not exist.

    Parameters
    ----------
    environment : str
        `OURS` or a key of `REQUIREMENTS`.
    folder : path-like
        The folder of the environments.

    Returns
    -------
    str
        Path of the interpreter.

    Raises
    ------
    RuntimeError
        If pip finds no wheels for this Python.
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
                f"{sys.version.split()[0]}; run the benchmark with Python 3.10 to 3.12."
            )
        done.touch()
    return str(python)


def fit_in_process(contender, folds, timeout, *, folder=CACHE, score=True, objective=False):
    """Fit a contender in a new process with two threads.

    Parameters
    ----------
    contender : Contender
        The learner.
    folds : list of path-like
        Files written by `save_fold`.
    timeout : float
        Seconds for each fit.
    folder : path-like
        The folder of the environments of the peers.
    score : bool, default=True
        Whether to classify the test rows by 3-NN.
    objective : bool, default=False
        Whether to compute the objective of NCA.

    Returns
    -------
    list of dict
        For each fold "seconds", "cpu" (processor seconds of all threads), "before" and "peak"
        (MiB), "n_iter", "accuracy" and "objective"; or "error".
    """
    job = {
        "learner": contender.path,
        "params": contender.params,
        "folds": [str(path) for path in folds],
        "score": score,
        "objective": objective,
    }
    limit = timeout * len(folds) + SECONDS_BESIDES_FIT
    try:
        command = [python_of_environment(contender.environment, folder), WORKER, json.dumps(job)]
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=limit,
            env=_environment_variables(contender),
        )
        lines, error = ended.stdout, ended.stderr.strip()[-200:] or f"exit {ended.returncode}"
    except subprocess.TimeoutExpired as stopped:
        lines, error = (stopped.stdout or b"").decode(), f"over {timeout:g} s"
    except RuntimeError as unavailable:
        lines, error = "", str(unavailable)
    results = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    results = [
        {"error": f"over {timeout:g} s"} if result.get("seconds", 0) > timeout else result
        for result in results
    ]
    return results + [{"error": error}] * (len(folds) - len(results))


def save_fold(folder, name, fold):
    """Write X_train, y_train, X_test and y_test to a file for a worker; return its path."""
    path = Path(folder) / f"{name}.npz"
    np.savez(path, **dict(zip(("X", "y", "X_test", "y_test"), fold, strict=True)))
    return path


def temporary_folder():
    """Return a folder that is removed at the end of its ``with`` block."""
    return tempfile.TemporaryDirectory(prefix="skdml-benchmark-")


def _environment_variables(contender):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    variables = os.environ | dict.fromkeys(names, str(THREADS))
    if contender.environment == OURS:  # use this copy of skdml even if another one is installed
        variables["PYTHONPATH"] = str(WORKER.parents[1])
    return variables
