"""Distances judged on classes that training never saw: MAP@R, recall@1, equal error rate.

Run ``python -m benchmarks.openset``, with ``--quick`` for the learners at their defaults alone, or
with ``--only letter "supcon"`` for the tasks and learners with these words in their names. Tasks:

- letter: three random splits of KEEL's letters, 13 classes to train on, 13 to be judged on;
- mnist, images: MNIST as rows and as images, digits 0 to 4 to train on, 5 to 9 to be judged on.

Learners: baselines; the deep learners at their defaults; `DeepEmbedder` with each loss ("loss ..."
at its other defaults, stopping included, "fixed ..." after a fixed number of epochs on everything),
and with the losses of pytorch-metric-learning 2.9 in the same network and budget ("peer ..."). Each
result is kept as soon as it is there, and computed anew when the source of the learner changes.
"""

import argparse
import itertools
import sys
import time
import warnings
from functools import lru_cache

import numpy as np
import torch
from scipy.spatial.distance import pdist
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks import losses as loss_benchmark
from benchmarks._data import load_mnist, read_keel
from benchmarks._learners import EUCLID, baselines, deep_learners, source_hash
from benchmarks.accuracy import CACHE, Store, time_limit
from skdml.deep import DeepEmbedder
from skdml.deep.losses import LOSSES
from skdml.metrics import equal_error_rate, map_at_r, recall_at_k

SPLITS = {"letter": 3, "mnist": 1, "images": 1}
N_TRAIN = {"letter": 20_000, "mnist": 6000, "images": 6000}  # rows at most
N_SCORED = 3000
N_NCA = 2000  # scikit-learn's NCA holds several n x n matrices and takes minutes for more
EPOCHS = 5  # of "fixed" and "peer"
SINGLE_LOSS_PREFIXES = ("loss ", "fixed ", "peer ")
SCORES = ("MAP@R", "recall@1", "EER")

# The peer's counterparts of `LOSSES`, as expressions on its names. A class is told the number of
# classes and the width. Ours and theirs are at their own defaults, in the same geometry.
PEER_OF = {
    "angular": "angular",
    "circle": "circle",
    "contrastive": "contrastive",
    "fastap": "fast-ap",
    "histogram": "histogram",
    "intra_pair_variance": "intra-pair variance",
    "lifted_structure": "lifted",
    "margin": "margin",
    "multi_similarity": "multi-similarity",
    "n_pairs": "n-pairs",
    "nca": "nca",
    "nt_xent": "nt-xent",
    "signal_to_noise_ratio": "signal-to-noise",
    "smooth_ap": "smooth-ap",
    "supcon": "supcon",
    "triplet": "triplet all",
}
PEER_CLASSES = {
    "arcface": "ArcFaceLoss",
    "cosface": "CosFaceLoss",
    "normalized_softmax": "NormalizedSoftmaxLoss",
    "proxy_anchor": "ProxyAnchorLoss",
    "proxy_nca": "ProxyNCALoss",
    "soft_triple": "SoftTripleLoss",
    "sphereface": "SphereFaceLoss",
    "subcenter_arcface": "SubCenterArcFaceLoss",
}


def add_noise(points):
    """Make a view of standardised points: noise added, of a fifth of their deviation."""
    return points + 0.2 * torch.randn_like(points)


# What a loss needs beside its name to learn from classes, or to learn at all.
EXTRA_PARAMS = {
    "cosent": {"loss__graded": False},
    "fastap": {"distance": "cosine"},
    "histogram": {"distance": "cosine"},
    "info_nce": {"augment": add_noise},
    "vicreg": {"augment": add_noise},
}


@lru_cache(maxsize=1)
def load(task, split):
    """Load a task.

    Parameters
    ----------
    task : {"letter", "mnist", "images"}
        Its name.
    split : int
        Which of its splits of the classes.

    Returns
    -------
    X, y, X_unseen, y_unseen : ndarray
        Training points and labels; points of other classes to be judged on, and their labels.
    """
    if task == "letter":
        X, y = read_keel("letter")
        seen, unseen = split_classes(y, y, np.random.default_rng(split).permutation(26)[:13])
        scaler = StandardScaler().fit(X[seen])
        X_test, y_test, X = scaler.transform(X), y, scaler.transform(X)
    else:
        X, y, X_test, y_test = load_mnist()
        seen, unseen = split_classes(y, y_test, range(5))
        if task == "images":
            X, X_test = X.reshape(-1, 1, 28, 28), X_test.reshape(-1, 1, 28, 28)
    rng = np.random.default_rng(split)
    seen = rng.permutation(seen)[: N_TRAIN[task]]
    unseen = rng.permutation(unseen)[:N_SCORED]
    return X[seen], y[seen], X_test[unseen], y_test[unseen]


def split_classes(y, y_test, classes):
    """Return the rows of some classes, and the rows of a second set that are of others."""
    return np.flatnonzero(np.isin(y, classes)), np.flatnonzero(~np.isin(y_test, classes))


def score_embedding(Z, y):
    """Scores of an embedding on its own: a dict of {name: float}."""
    first, second = np.triu_indices(len(y), k=1)
    return {
        "MAP@R": float(map_at_r(Z, y)),
        "recall@1": float(recall_at_k(Z, y)),
        "EER": float(equal_error_rate(y[first] == y[second], pdist(Z))),
    }


def learners():
    """Return everything that is compared: a dict of {name: estimator}."""
    everything = baselines() | {f"{name}()": one for name, one in deep_learners().items()}
    default = DeepEmbedder(random_state=0)
    fixed = DeepEmbedder(early_stopping=False, max_epochs=EPOCHS, random_state=0)
    for kind, embedder in (("loss", default), ("fixed", fixed)):
        for name in LOSSES:
            chosen = clone(embedder).set_params(loss=name, **EXTRA_PARAMS.get(name, {}))
            everything[f"{kind} {name}"] = chosen
    for name in LOSSES:
        if name in PEER_OF or name in PEER_CLASSES:
            everything[f"peer {name}"] = clone(fixed)  # its loss is set when it is needed
    return everything


def peer_loss(name):
    """Return a loss of pytorch-metric-learning: an instance, or a class to be told of the data."""
    expression = PEER_CLASSES.get(name) or loss_benchmark.LOSSES[PEER_OF[name]][1]
    return eval(expression, loss_benchmark.load_peer())


def evaluate(name, estimator, task, split, timeout):
    """Fit on the classes of a split and score_embedding on its others.

    Returns
    -------
    dict
        The scores, "seconds" (of the processor, for the fit) and "epoch" (whose weights were
        kept), or "error".
    """
    X, y, X_unseen, y_unseen = load(task, split)
    estimator = clone(estimator)
    if not isinstance(estimator, DeepEmbedder):
        X, X_unseen = X.reshape(len(X), -1), X_unseen.reshape(len(X_unseen), -1)
    if name == "sklearn NCA":
        X, y = X[:N_NCA], y[:N_NCA]
    try:
        if name.startswith("peer "):
            estimator.set_params(loss=peer_loss(name.removeprefix("peer ")))
        start = time.process_time()
        with time_limit(timeout):
            estimator.fit(X, y)
        seconds = time.process_time() - start
        result = score_embedding(estimator.transform(X_unseen), y_unseen)
    except Exception as error:  # a learner that fails is a result
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    epochs = [estimator.best_epoch_] if hasattr(estimator, "best_epoch_") else []
    return result | {"seconds": seconds, "epochs": epochs}


def complete(names, tasks, store, options):
    """Compute what the store lacks, one fit after the other; return the keys of all results."""
    known = learners()
    keys = {
        (name, task, split): (name, source_hash(known[name]), task, split)
        for task in tasks
        for split in splits_of(task, options)
        for name in names
    }
    todo = [cell for cell, key in keys.items() if options.fresh or key not in store.results]
    for count, (name, task, split) in enumerate(todo, start=1):
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = evaluate(name, known[name], task, split, options.timeout)
        store.add(keys[name, task, split], result)
        print(f"{count} of {len(todo)}: {name} on {task} {split}", file=sys.stderr, flush=True)
    return keys


def splits_of(task, options):
    """Return the splits of a task that are asked for."""
    return range(min(SPLITS[task], options.splits))


def rows_of(task, splits, names, keys, results):
    """Gather the results of a task: for each learner a dict, or the text of its error.

    Returns
    -------
    dict of {str: dict or str}
        Means over the splits of the scores and the seconds; "worst", the smallest gain in MAP@R
        over Euclid in any split; "epochs", those kept.
    """
    rows = {}
    euclid = [results[keys[EUCLID, task, split]] for split in splits]
    for name in names:
        found = [results[keys[name, task, split]] for split in splits]
        errors = [result["error"] for result in found if "error" in result]
        if errors:
            rows[name] = errors[0]
            continue
        rows[name] = {s: float(np.mean([one[s] for one in found])) for s in (*SCORES, "seconds")}
        gains = [one["MAP@R"] - base["MAP@R"] for one, base in zip(found, euclid, strict=True)]
        rows[name]["worst"] = min(gains)
        rows[name]["epochs"] = [*itertools.chain(*(one["epochs"] for one in found))]
    return rows


def print_table(task, rows):
    """Print a line for each learner: scores, the change against Euclid, and what it took."""
    width = max(map(len, rows))
    print(
        f"\n{task:{width}}  {'MAP@R':>6} {'gain':>6} {'worst':>6} {'rec@1':>6} {'gain':>6} "
        f"{'EER':>6} {'seconds':>8}  epochs"
    )
    base = rows[EUCLID]
    for name, row in rows.items():
        if isinstance(row, str):
            print(f"{name:{width}}  {row}")
            continue
        gain, gain_recall = (row[score] - base[score] for score in ("MAP@R", "recall@1"))
        print(
            f"{name:{width}}  {row['MAP@R']:6.3f} {gain:+6.3f} {row['worst']:+6.3f} "
            f"{row['recall@1']:6.3f} {gain_recall:+6.3f} {row['EER']:6.3f} {row['seconds']:8.1f}  "
            f"{' '.join(map(str, row['epochs']))}"
        )


def select(names, words):
    """Return those names that have one of the words in them; all, if no word is in any."""
    return [name for name in names if any(word in name for word in words)] or list(names)


def parse():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="no losses one by one")
    parser.add_argument("--splits", type=int, default=3, help="of the letters, at most; 3")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="tasks and learners")
    parser.add_argument("--timeout", type=float, default=600, help="processor seconds a fit; 600")
    parser.add_argument("--cache", default=CACHE, help=f"folder of the results; {CACHE}")
    parser.add_argument("--fresh", action="store_true", help="compute all anew")
    return parser.parse_args()


def main():
    """Compute and print the tables."""
    options = parse()
    torch.set_num_threads(1)
    tasks = select(SPLITS, options.only)
    names = [
        name for name in learners() if not (options.quick and name.startswith(SINGLE_LOSS_PREFIXES))
    ]
    names = select(names, options.only)
    names = [EUCLID, *(name for name in names if name != EUCLID)]
    store = Store(options.cache, "openset.jsonl")
    keys = complete(names, tasks, store, options)
    print(f"Unseen classes; {N_SCORED} points judged, at most {N_TRAIN} to train on")
    for task in tasks:
        splits = splits_of(task, options)
        print_table(task, rows_of(task, splits, names, keys, store.results))


if __name__ == "__main__":
    main()
