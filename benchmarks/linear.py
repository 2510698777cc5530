"""Time, memory and accuracy of the linear learners, compared with released peers.

Run ``python -m benchmarks.linear``. Each fit runs in its own process with two threads. skdml and
the peers take turns, and medians are shown. A fit under 50 ms is repeated five times.

- ``--accuracy`` compares the accuracy over ten folds of ten sets.
- ``--mnist`` fits NCA and LMNN on all of MNIST.
- ``--large`` shows the memory at 50 000 rows.
"""

import argparse
import statistics

import numpy as np
from joblib import Parallel, delayed

from benchmarks._data import KINDS, N_FOLDS, TEN, load_keel, load_mnist, make_points
from benchmarks._learners import REAL_TARGETS, choose, learners
from benchmarks._peers import (
    CACHE,
    PEERS_OF,
    contender,
    fit_in_process,
    save_fold,
    temporary_folder,
)

DATA = ("wine", "vehicle", "segment", "satimage", "optdigits", "letter")
QUICK = ("wine", "vehicle")
MNIST = {"NCA": {"n_components": 64}, "LMNN": {"n_components": 64}}
LARGE = ("NCA", "MLKR", "LMNN")
LARGE_SHAPE = (50_000, 50)


def our_contenders():
    """Return the learners of skdml as contenders. NCA also with its exact solver."""
    contenders = {name: contender(name, estimator) for name, estimator in learners().items()}
    if "NCA" in contenders:
        nca = contenders["NCA"]
        exact = nca._replace(name="NCA exact", params=nca.params | {"solver": "exact"})
        contenders["NCA exact"] = exact
    return contenders


def peers_of(name):
    """Return the peers of a learner."""
    return PEERS_OF.get(name.removesuffix(" exact"), [])


def convert_targets(name, fold):
    """Return a fold with float targets for learners of real numbers, else unchanged."""
    X, y, X_test, y_test = fold
    if name in REAL_TARGETS:
        return X, y.astype(float), X_test, y_test
    return fold


def take_turns(contenders, path, repeats, timeout, **how):
    """Fit each contender in turns, each turn in the reverse order of the last.

    Returns
    -------
    list of dict
        For each contender the medians of the results of `fit_in_process`, or "error". After an
        error, a contender takes no more turns.
    """
    runs = [[] for _ in contenders]
    order = list(range(len(contenders)))
    for _ in range(repeats):
        for index in order:
            if not any("error" in run for run in runs[index]):
                runs[index] += fit_in_process(contenders[index], [path], timeout, **how)
        order.reverse()
    return [median_result(results) for results in runs]


def median_result(runs):
    """Return the median of each figure over the runs, or the first error."""
    for run in runs:
        if "error" in run:
            return run
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def format_result(result):
    """Return the figures of a contender as text."""
    if "error" in result:
        error = result["error"]
        return f">{error.split()[1]} s" if error.startswith("over ") else f"failed: {error[:60]}"
    text = f"{result['seconds']:9.3f} s {result['cpu']:9.3f} cpu {result['peak']:6.0f} MiB "
    text += f"({result['before']:.0f} before)"
    if "accuracy" in result:
        text += f"  {result['accuracy']:.4f}"
    if "objective" in result:
        text += f"  objective {result['objective']:.4f}"
    return text


def format_ratios(ours, peer, timeout):
    """Return time and memory of the peer, divided by ours, as text."""
    if "error" in ours:
        return ""
    if "error" in peer:
        over = peer["error"].startswith("over ")
        return f"time x >{timeout / ours['seconds']:.1f}" if over else ""
    time, cpu, memory = (peer[key] / ours[key] for key in ("seconds", "cpu", "peak"))
    return f"time x {time:.1f} (cpu {cpu:.1f}), memory x {memory:.2f}"


def print_row(label, contenders, results, timeout):
    """Print the result of a learner on a data set, then those of its peers with their ratios."""
    print(f"{label:40} {format_result(results[0])}", flush=True)
    for peer, result in zip(contenders[1:], results[1:], strict=True):
        indented = "  " + peer.name
        ratios = format_ratios(results[0], result, timeout)
        print(f"{indented:40} {format_result(result):62}  {ratios}")


def compare_speed(chosen, options):
    """Print time and memory of skdml and of the peers on each data set."""
    print(
        "fit: seconds, processor seconds, peak MiB (and MiB before the fit); 3-NN accuracy; "
        "x: peer / ours\n"
    )
    for data in options.data:
        fold = load_keel(data, 0, options.kind)
        shape = "{} x {}".format(*fold[0].shape)
        for name, ours in chosen.items():
            contenders = [ours, *([] if options.alone else peers_of(name))]
            with temporary_folder() as folder:
                path = save_fold(folder, data, convert_targets(name, fold))
                results = take_turns(
                    contenders,
                    path,
                    options.repeats,
                    options.timeout,
                    folder=options.cache,
                    objective=name.startswith("NCA"),
                )
            print_row(f"{name} {data} {shape}", contenders, results, options.timeout)


def compare_accuracy(chosen, options):
    """Print the mean accuracy of skdml and of the peers over ten sets."""
    folds = range(2 if options.quick else N_FOLDS)
    with temporary_folder() as folder:
        paths = {}
        for data in options.data:
            for fold in folds:
                parts = load_keel(data, fold, options.kind)
                for real in (False, True):
                    labelled = convert_targets(next(iter(REAL_TARGETS)) if real else "", parts)
                    paths.setdefault((data, real), []).append(
                        save_fold(folder, f"{data}-{fold}-{real}", labelled)
                    )
        print(f"mean 3-NN accuracy over {len(options.data)} sets, {len(folds)} folds\n")
        for name, ours in chosen.items():
            contenders = [ours, *peers_of(name)]
            tasks = [
                (one, paths[data, name in REAL_TARGETS])
                for one in contenders
                for data in options.data
            ]
            results = Parallel(n_jobs=2, prefer="threads")(
                delayed(fit_in_process)(one, files, options.timeout, folder=options.cache)
                for one, files in tasks
            )
            accuracy = np.array([[r.get("accuracy", np.nan) for r in one] for one in results])
            shape = len(contenders), len(options.data), len(folds)
            print_means(contenders, accuracy.reshape(shape), options.data)


def standard_error(gains):
    """Return the standard error of the mean over sets, from the spread between the folds.

    Parameters
    ----------
    gains : ndarray of shape (n_sets, n_folds)
        Difference of two accuracies in each fold. The difficulty of a fold cancels out.

    Returns
    -------
    float
        The error for these sets. The choice of the sets is not part of it.
    """
    of_means = gains.var(axis=1, ddof=1) / gains.shape[1]
    return float(np.sqrt(of_means.sum()) / len(gains))


def print_means(contenders, accuracy, data):
    """Print our mean, and for each peer the means over the sets that both finished."""
    finished = np.isfinite(accuracy).all(axis=2)
    mine = accuracy[0][finished[0]].mean() if finished[0].any() else np.nan
    print(f"{contenders[0].name:22} {mine:.4f} on {finished[0].sum()} sets", flush=True)
    for peer, theirs, peer_finished in zip(contenders[1:], accuracy[1:], finished[1:], strict=True):
        both = peer_finished & finished[0]
        if both.any():
            a, b = accuracy[0][both].mean(), theirs[both].mean()
            error = standard_error(accuracy[0][both] - theirs[both])
            text = (
                f"{b:.4f}, ours {a:.4f} ({100 * (a - b):+.2f} points, standard error "
                f"{100 * error:.2f}) on {both.sum()} sets"
            )
        else:
            text = "finished no set"
        missing = [name for name, ok in zip(data, peer_finished, strict=True) if not ok]
        print(f"  {peer.name:20} {text}{'; failed: ' if missing else ''}{' '.join(missing)}")


def print_large_fit(chosen, fold, label, options, **how):
    """Print the figures of skdml without peers, on one large data set."""
    for name, ours in chosen.items():
        with temporary_folder() as folder:
            path = save_fold(folder, "data", convert_targets(name, fold))
            (result,) = fit_in_process(ours, [path], options.timeout, **how)
        print(f"{name} {label}: {format_result(result)}", flush=True)


def parse():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learners", help="names separated by commas; default: all")
    parser.add_argument("--data", help=f"sets separated by commas; default: {','.join(DATA)}")
    parser.add_argument("--repeats", type=int, help="number of fits; default: 3")
    parser.add_argument("--timeout", type=float, help="limit of a fit in seconds; default: 150")
    parser.add_argument("--kind", choices=KINDS, default="raw", help="see benchmarks/_data.py")
    parser.add_argument("--alone", action="store_true", help="without the peers")
    parser.add_argument("--quick", action="store_true", help="two small sets, one fit, 30 s")
    parser.add_argument("--cache", default=CACHE, help=f"folder of the peers; default: {CACHE}")
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--accuracy", action="store_true", help="mean accuracy over ten sets")
    task.add_argument("--mnist", action="store_true", help="NCA and LMNN on all of MNIST")
    task.add_argument("--large", action="store_true", help="memory at 50 000 x 50")
    options = parser.parse_args()
    sets = TEN.split() if options.accuracy else (QUICK if options.quick else DATA)
    options.data = options.data.split(",") if options.data else list(sets)
    options.repeats = options.repeats or (1 if options.quick else 3)
    alone = options.mnist or options.large
    options.timeout = options.timeout or (1200 if alone else 30 if options.quick else 150)
    return options


def main():
    """Print the requested table."""
    options = parse()
    known = our_contenders()
    names = options.learners.split(",") if options.learners else list(known)
    if options.mnist:
        names = [name for name in MNIST if name in names]
        chosen = {
            name: known[name]._replace(params=known[name].params | MNIST[name]) for name in names
        }
        X, y, X_test, y_test = load_mnist()
        print_large_fit(chosen, (X, y, X_test, y_test), "MNIST 60000 x 784", options)
    elif options.large:
        chosen = choose([name for name in LARGE if name in names], known)
        X, y = make_points(*LARGE_SHAPE)
        label = "{} x {}".format(*LARGE_SHAPE)
        print_large_fit(chosen, (X, y, X[:1], y[:1]), label, options, score=False)
    elif options.accuracy:
        compare_accuracy(choose([n for n in names if n != "NCA exact"], known), options)
    else:
        compare_speed(choose(names, known), options)


if __name__ == "__main__":
    main()
