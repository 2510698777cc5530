"""Accuracy of 3-NN under each learner at its defaults: ten folds of KEEL's 43 balanced sets.

Run ``python -m benchmarks.accuracy``. ``--quick`` takes the small sets and three folds;
``--learners NCA,LMNN --sets iris,wine`` selects learners and sets. Results are stored, and computed
again when the source of the learner changes.
"""

import argparse
import ast
import json
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from scipy.stats import rankdata
from sklearn.base import clone
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from benchmarks._data import KINDS, N_FOLDS, STUDY, keel_names, load_keel
from benchmarks._learners import (
    EUCLID,
    REAL_TARGETS,
    baselines,
    choose,
    deep_learners,
    learners,
    source_hash,
)

CACHE = Path.home() / ".cache" / "skdml-benchmarks"
QUICK = """
bupa breast hayes-roth heart housevotes ionosphere iris led7digit mammographic monk-2
movement_libras pima saheart sonar tae vehicle vowel wdbc wine wisconsin
"""
LISTED_LOSS = 0.02  # larger losses to Euclid are listed


def evaluate(estimator, name, fold, options):
    """Fit on a fold and classify its test rows.

    Returns
    -------
    dict
        "accuracy" and "seconds" (processor seconds of the fit), or "error".
    """
    X, y, X_test, y_test = load_keel(name, fold, options.kind)
    if options.max_rows and len(X) > options.max_rows:
        kept = np.random.default_rng(fold).permutation(len(X))[: options.max_rows]
        X, y = X[kept], y[kept]
    estimator = clone(estimator)
    try:
        start = time.process_time()  # processor time of one thread: independent of the load
        with time_limit(options.timeout):
            estimator.fit(X, y)
        seconds = time.process_time() - start
        knn = KNeighborsClassifier(3).fit(estimator.transform(X), y)
        accuracy = knn.score(estimator.transform(X_test), y_test)
    except Exception as error:  # a failure of a learner is a result, too
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    return {"accuracy": accuracy, "seconds": seconds}


class time_limit:
    """Raise TimeoutError after some processor seconds, at the next Python instruction."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        signal.signal(signal.SIGPROF, self._stop)
        signal.setitimer(signal.ITIMER_PROF, self.seconds)

    def __exit__(self, *error):
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _stop(self, *signal_):
        raise TimeoutError(f"over {self.seconds:g} s")


class Store:
    """Results in a file of JSON lines. The last line of a key is valid.

    Parameters
    ----------
    folder : path-like
        Folder of the file. It is made if it does not exist.
    name : str, default="accuracy.jsonl"
        Name of the file.
    """

    def __init__(self, folder, name="accuracy.jsonl"):
        self.path = Path(folder) / name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        lines = self.path.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        self.results = {tuple(record["key"]): record["result"] for record in records}

    def add(self, key, result):
        self.results[key] = result
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "result": result}) + "\n")


def run(estimator, name, keys, options):
    """Evaluate the folds of one set one after the other. Stop at the first timeout."""
    results = []
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for key in keys:
            results.append((key, evaluate(estimator, name, key[-1], options)))
            if "TimeoutError" in results[-1][1].get("error", ""):
                break
    return results


def compute_missing(chosen, sets, store, options):
    """Compute the results missing in the store, small sets first; return the keys of all."""
    size = {name: load_keel(name, 0, options.kind)[0].size for name in sets}
    identity = {label: (repr(one), source_hash(one)) for label, one in chosen.items()}
    keys = {
        (label, name): [
            (*identity[label], options.kind, options.max_rows, name, fold)
            for fold in range(options.folds)
        ]
        for name in sorted(sets, key=size.get)
        for label in chosen
    }
    tasks = [
        (chosen[label], name, missing)
        for (label, name), folds in keys.items()
        if (missing := [key for key in folds if options.fresh or key not in store.results])
        and (options.fresh or not any(timed_out(store.results.get(key), options) for key in folds))
    ]
    parallel = Parallel(n_jobs=options.jobs, return_as="generator_unordered", batch_size=1)
    finished = parallel(delayed(run)(*task, options) for task in tasks)
    for count, results in enumerate(finished, start=1):
        for key, result in results:
            store.add(key, result)
        print(f"{count} of {len(tasks)}: {key[0]} on {key[-2]}", file=sys.stderr, flush=True)
    return keys


def timed_out(result, options):
    """Return whether a fit timed out with a limit at least as long as the present one."""
    error = (result or {}).get("error", "")
    return error.startswith("TimeoutError") and float(error.split()[2]) >= options.timeout


def collect_results(keys, results):
    """Collect mean accuracy, seconds and errors: three dicts of {(learner, set): value}.

    A set counts for a learner if every fold succeeded.
    """
    accuracy, seconds, errors = {}, {}, {}
    for cell, folds in keys.items():
        stored = [results[key] for key in folds if key in results]
        failed = [result["error"] for result in stored if "error" in result]
        if failed:
            errors[cell] = failed[0]
        elif len(stored) == len(folds):
            accuracy[cell] = float(np.mean([result["accuracy"] for result in stored]))
            seconds[cell] = sum(result["seconds"] for result in stored)
    return accuracy, seconds, errors


def mean_ranks(accuracy, names, sets):
    """Return the mean rank of each learner. 1 is best, ties share a rank, failures are last."""
    ranks = [rankdata([-accuracy.get((name, s), -1) for name in names], "average") for s in sets]
    return dict(zip(names, np.mean(ranks, axis=0), strict=True))


def compare(accuracy, name, baseline, sets):
    """Compare a learner with a baseline on the sets that both finished.

    Returns
    -------
    dict
        "sets", "mean" and "base" (mean accuracies), "wins", "ties", "losses", and "gains": the
        difference on each set, smallest first.
    """
    common = [s for s in sets if (name, s) in accuracy and (baseline, s) in accuracy]
    gains = {s: accuracy[name, s] - accuracy[baseline, s] for s in common}
    signs = [0 if abs(gain) < 1e-9 else np.sign(gain) for gain in gains.values()]
    return {
        "sets": len(common),
        "mean": np.mean([accuracy[name, s] for s in common]) if common else np.nan,
        "base": np.mean([accuracy[baseline, s] for s in common]) if common else np.nan,
        "wins": signs.count(1),
        "ties": signs.count(0),
        "losses": signs.count(-1),
        "gains": dict(sorted(gains.items(), key=lambda item: item[1])),
    }


def print_tables(keys, results, names, sets):
    """Print a row per learner, then the sets on which it loses, then the failures."""
    accuracy, seconds, errors = collect_results(keys, results)
    ranks = mean_ranks(accuracy, names, sets)
    width = max(map(len, names))
    print(
        f"{'':{width}} {'sets':>4} {'mean':>6} {'Euclid':>6} {'study':>6} {'Euclid':>6} "
        f"{'rank':>5} {'W/T/L':>9} {'seconds':>8}  worst"
    )
    for name in sorted(names, key=ranks.get):
        row = compare(accuracy, name, EUCLID, sets)
        study = compare(accuracy, name, EUCLID, [s for s in sets if s in STUDY.split()])
        wins = f"{row['wins']}/{row['ties']}/{row['losses']}"
        worst, gain = next(iter(row["gains"].items()), ("", np.nan))
        total = sum(seconds.get((name, s), 0) for s in sets)
        print(
            f"{name:{width}} {row['sets']:4} {row['mean']:6.4f} {row['base']:6.4f} "
            f"{study['mean']:6.4f} {study['base']:6.4f} {ranks[name]:5.2f} {wins:>9} {total:8.1f}  "
            f"{100 * gain:+.1f} {worst}"
        )
    print(f"\nSets on which a learner loses more than {100 * LISTED_LOSS:g} points to {EUCLID}:")
    for name in names:
        gains = compare(accuracy, name, EUCLID, sets)["gains"]
        lost = [f"{s} {100 * gain:+.1f}" for s, gain in gains.items() if gain < -LISTED_LOSS]
        if lost:
            print(f"{name:{width}} {', '.join(lost)}")
    for (name, s), error in errors.items():
        print(f"failed: {name} on {s}: {error}")


def print_detail(keys, results, names, sets):
    """Print the accuracy of each learner on each set, in per cent."""
    accuracy, *_ = collect_results(keys, results)
    print(f"\n{'':16}" + "".join(f"{name[:8]:>9}" for name in names))
    for s in sets:
        cells = [accuracy.get((name, s), np.nan) for name in names]
        print(f"{s:16}" + "".join(f"{100 * cell:9.2f}" for cell in cells))


def split_names(text):
    """Split names separated by commas."""
    return [name.strip() for name in text.split(",")]


def parse_setting(text):
    """Parse NAME=VALUE; the value is a Python literal or a plain string."""
    name, value = text.split("=", 1)
    try:
        return name, ast.literal_eval(value)
    except ValueError:
        return name, value  # a plain string


def with_settings(chosen, settings):
    """Keep the learners that have all given parameters, set these, and name each by its repr."""
    if not settings:
        return chosen
    varied = {}
    for estimator in chosen.values():
        if settings.keys() <= estimator.get_params().keys():
            estimator = clone(estimator).set_params(**settings)
            varied[repr(estimator)] = estimator
    if not varied:
        raise SystemExit(f"No learner chosen has all of {', '.join(settings)}.")
    return varied


def parse():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--learners", type=split_names, help="names separated by commas; default: all"
    )
    parser.add_argument(
        "--set",
        type=parse_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a parameter of the learners; may be given several times",
    )
    parser.add_argument("--sets", type=split_names, help="names separated by commas; default: all")
    parser.add_argument("--folds", type=int, default=None, help="number of folds; default: 10")
    parser.add_argument("--kind", choices=KINDS, default="raw", help="see benchmarks/_data.py")
    parser.add_argument("--max-rows", type=int, help="train on at most this many rows")
    parser.add_argument(
        "--timeout",
        type=float,
        default=300,
        help="limit of a fit in processor seconds; default: 300",
    )
    parser.add_argument(
        "--jobs", type=int, default=2, help="number of processes, one thread each; default: 2"
    )
    parser.add_argument("--cache", default=CACHE, help=f"folder of the results; default: {CACHE}")
    parser.add_argument("--fresh", action="store_true", help="compute all results again")
    parser.add_argument("--detail", action="store_true", help="also print the accuracy on each set")
    parser.add_argument("--quick", action="store_true", help="twenty small sets, three folds")
    options = parser.parse_args()
    options.folds = options.folds or (3 if options.quick else N_FOLDS)
    if not 1 <= options.folds <= N_FOLDS:
        parser.error(f"--folds={options.folds} must be between 1 and {N_FOLDS}")
    return options


def main():
    """Compute and print the tables."""
    options = parse()
    known = baselines() | learners() | deep_learners()
    default = [name for name in known if name not in REAL_TARGETS]
    chosen = choose(options.learners or default, known)
    chosen = {EUCLID: known[EUCLID]} | with_settings(chosen, dict(options.set))
    all_sets = keel_names()
    sets = list(
        choose(
            options.sets or (QUICK.split() if options.quick else all_sets), dict.fromkeys(all_sets)
        )
    )
    store = Store(options.cache)
    keys = compute_missing(chosen, sets, store, options)
    rows = f", at most {options.max_rows} training rows" if options.max_rows else ""
    print(f"3-NN, {len(sets)} sets ({options.kind}), {options.folds} folds{rows}\n")
    print_tables(keys, store.results, list(chosen), sets)
    if options.detail:
        print_detail(keys, store.results, list(chosen), sets)


if __name__ == "__main__":
    main()
