"""Accuracy of 3-NN under each learner at its defaults: ten folds of KEEL's 43 balanced sets.

Run ``python -m benchmarks.accuracy``, with ``--quick`` for the small sets and three folds, or with
``--learners NCA,LMNN --sets iris,wine`` for some. Results are kept, and computed anew when the
source of the learner changes.
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
LISTED_LOSS = 0.02  # losses to Euclid beyond this are listed


def evaluate(estimator, name, fold, options):
    """Fit on a fold and classify its test rows.

    Returns
    -------
    dict
        "accuracy" and "seconds" (of the processor, for the fit), or "error".
    """
    X, y, X_test, y_test = load_keel(name, fold, options.kind)
    if options.max_rows and len(X) > options.max_rows:
        kept = np.random.default_rng(fold).permutation(len(X))[: options.max_rows]
        X, y = X[kept], y[kept]
    estimator = clone(estimator)
    try:
        start = time.process_time()  # of one thread: what else the machine does leaves no trace
        with time_limit(options.timeout):
            estimator.fit(X, y)
        seconds = time.process_time() - start
        knn = KNeighborsClassifier(3).fit(estimator.transform(X), y)
        accuracy = knn.score(estimator.transform(X_test), y_test)
    except Exception as error:  # a learner that fails is a result
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    return {"accuracy": accuracy, "seconds": seconds}


class time_limit:
    """Raise TimeoutError after some seconds of processor time, at the next step in Python."""

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
    """Results in a file of JSON lines; the last line of a key counts.

    Parameters
    ----------
    folder : path-like
        Where the file is; made if need be.
    name : str, default="accuracy.jsonl"
        The file.
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
    """Evaluate the folds of one set in a row, up to the first that takes too long."""
    results = []
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for key in keys:
            results.append((key, evaluate(estimator, name, key[-1], options)))
            if "TimeoutError" in results[-1][1].get("error", ""):
                break
    return results


def complete(chosen, sets, store, options):
    """Compute what the store lacks, small sets first; return the keys of all results."""
    size = {name: load_keel(name, 0, options.kind)[0].size for name in sets}
    about = {label: (repr(one), source_hash(one)) for label, one in chosen.items()}
    keys = {
        (label, name): [
            (*about[label], options.kind, options.max_rows, name, fold)
            for fold in range(options.folds)
        ]
        for name in sorted(sets, key=size.get)
        for label in chosen
    }
    todo = [
        (chosen[label], name, missing)
        for (label, name), folds in keys.items()
        if (missing := [key for key in folds if options.fresh or key not in store.results])
        and (options.fresh or not any(timed_out(store.results.get(key), options) for key in folds))
    ]
    parallel = Parallel(n_jobs=options.jobs, return_as="generator_unordered", batch_size=1)
    done = parallel(delayed(run)(*task, options) for task in todo)
    for count, results in enumerate(done, start=1):
        for key, result in results:
            store.add(key, result)
        print(f"{count} of {len(todo)}: {key[0]} on {key[-2]}", file=sys.stderr, flush=True)
    return keys


def timed_out(result, options):
    """Tell whether a result is a fit that already had as much time as there is now."""
    error = (result or {}).get("error", "")
    return error.startswith("TimeoutError") and float(error.split()[2]) >= options.timeout


def collect_results(keys, results):
    """Gather results: dicts of {(learner, set): ...} of mean accuracy, of seconds, of errors.

    A set counts for a learner if every fold went well.
    """
    accuracy, seconds, errors = {}, {}, {}
    for cell, folds in keys.items():
        found = [results[key] for key in folds if key in results]
        failed = [result["error"] for result in found if "error" in result]
        if failed:
            errors[cell] = failed[0]
        elif len(found) == len(folds):
            accuracy[cell] = float(np.mean([result["accuracy"] for result in found]))
            seconds[cell] = sum(result["seconds"] for result in found)
    return accuracy, seconds, errors


def mean_ranks(accuracy, names, sets):
    """Return the mean rank of each learner, 1 the best; equals share, a failure comes last."""
    ranks = [rankdata([-accuracy.get((name, s), -1) for name in names], "average") for s in sets]
    return dict(zip(names, np.mean(ranks, axis=0), strict=True))


def compare(accuracy, name, baseline, sets):
    """Compare a learner with a baseline on the sets that both finished.

    Returns
    -------
    dict
        "sets", "mean" and "base" (accuracies), "wins", "ties", "losses", and "gains": the
        differences by set, the worst first.
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
    """Print a row per learner, then whom each one hurts, then what failed."""
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
    print(f"\nSets that lose more than {100 * LISTED_LOSS:g} points to {EUCLID}:")
    for name in names:
        gains = compare(accuracy, name, EUCLID, sets)["gains"]
        hurt = [f"{s} {100 * gain:+.1f}" for s, gain in gains.items() if gain < -LISTED_LOSS]
        if hurt:
            print(f"{name:{width}} {', '.join(hurt)}")
    for (name, s), error in errors.items():
        print(f"failed: {name} on {s}: {error}")


def print_detail(keys, results, names, sets):
    """Print the accuracy of each learner on each set, in percent."""
    accuracy, *_ = collect_results(keys, results)
    print(f"\n{'':16}" + "".join(f"{name[:8]:>9}" for name in names))
    for s in sets:
        cells = [accuracy.get((name, s), np.nan) for name in names]
        print(f"{s:16}" + "".join(f"{100 * cell:9.2f}" for cell in cells))


def split_names(text):
    """Split a list of names."""
    return [name.strip() for name in text.split(",")]


def parse_setting(text):
    """Read NAME=VALUE, the value as Python."""
    name, value = text.split("=", 1)
    try:
        return name, ast.literal_eval(value)
    except ValueError:
        return name, value  # a bare word


def with_settings(chosen, settings):
    """Set parameters of the learners, those of them that have them all; the names tell."""
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
    parser.add_argument("--learners", type=split_names, help="names, by commas; all by default")
    parser.add_argument(
        "--set",
        type=parse_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the learners in place of its default; may be given several times",
    )
    parser.add_argument("--sets", type=split_names, help="names, by commas; all by default")
    parser.add_argument("--folds", type=int, default=None, help="how many of the ten; 10")
    parser.add_argument("--kind", choices=KINDS, default="raw", help="see benchmarks/_data.py")
    parser.add_argument("--max-rows", type=int, help="train on so many rows at most, for a look")
    parser.add_argument(
        "--timeout", type=float, default=300, help="processor seconds of a fit; 300"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each; 2")
    parser.add_argument("--cache", default=CACHE, help=f"folder of the results; {CACHE}")
    parser.add_argument("--fresh", action="store_true", help="compute all anew")
    parser.add_argument("--detail", action="store_true", help="print each set, too")
    parser.add_argument("--quick", action="store_true", help="twenty small sets, three folds")
    options = parser.parse_args()
    options.folds = options.folds or (3 if options.quick else N_FOLDS)
    if not 1 <= options.folds <= N_FOLDS:
        parser.error(f"--folds has to be from 1 to {N_FOLDS}")
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
    keys = complete(chosen, sets, store, options)
    rows = f", at most {options.max_rows} training rows" if options.max_rows else ""
    print(f"3-NN, {len(sets)} sets ({options.kind}), {options.folds} folds{rows}\n")
    print_tables(keys, store.results, list(chosen), sets)
    if options.detail:
        print_detail(keys, store.results, list(chosen), sets)


if __name__ == "__main__":
    main()
