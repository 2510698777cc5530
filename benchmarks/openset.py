"""Learners on unseen classes: MAP@R, recall@1, equal error rate.

Run ``python -m benchmarks.openset``. ``--quick`` takes only the learners at their defaults;
``--only letter "supcon"`` selects tasks and learners by words of their names.

Tasks:

- letter: KEEL's letters, 13 classes for training and 13 unseen classes, three random splits;
- mnist, images: MNIST as rows and as images, digits 0 to 4 for training, 5 to 9 unseen.

Learners:

- baselines, and the deep learners at their defaults;
- "loss ...": `DeepEmbedder` with each loss, otherwise at its defaults (with early stopping);
- "fixed ...": the same for a fixed number of epochs on all training data;
- "peer ...": the same with the loss of pytorch-metric-learning 2.9.

Results are stored, and computed again when the source of the learner changes.
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
N_TRAIN = {"letter": 20_000, "mnist": 6000, "images": 6000}  # at most this many rows
N_SCORED = 3000
N_NCA = 2000  # rows; scikit-learn's NCA holds several n x n matrices and takes minutes beyond
EPOCHS = 5  # in "fixed" and "peer"
SINGLE_LOSS_PREFIXES = ("loss ", "fixed ", "peer ")
SCORES = ("MAP@R", "recall@1", "EER")

# For each loss of skdml, the key of the peer's loss in benchmarks/losses.py. Both are at their own
# defaults and use the same distance.
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
# For losses with proxies or class weights, the peer's class. It gets the number of classes and the
# width of the embedding.
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
    """Make a view of standardised points: add noise with standard deviation 0.2."""
    return points + 0.2 * torch.randn_like(points)


# Further parameters that a loss needs, to learn from classes or at all.
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
        Training points and labels; points of unseen classes and their labels.
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
    """Return the rows of y in the given classes, and the rows of y_test in other classes."""
    return np.flatnonzero(np.isin(y, classes)), np.flatnonzero(~np.isin(y_test, classes))


def score_embedding(Z, y):
    """Return the scores of an embedding: a dict of {name: float}."""
    first, second = np.triu_indices(len(y), k=1)
    return {
        "MAP@R": float(map_at_r(Z, y)),
        "recall@1": float(recall_at_k(Z, y)),
        "EER": float(equal_error_rate(y[first] == y[second], pdist(Z))),
    }


def learners():
    """Return all learners to compare: a dict of {name: estimator}."""
    everything = baselines() | {f"{name}()": one for name, one in deep_learners().items()}
    default = DeepEmbedder(random_state=0)
    fixed = DeepEmbedder(early_stopping=False, max_epochs=EPOCHS, random_state=0)
    for kind, embedder in (("loss", default), ("fixed", fixed)):
        for name in LOSSES:
            chosen = clone(embedder).set_params(loss=name, **EXTRA_PARAMS.get(name, {}))
            everything[f"{kind} {name}"] = chosen
    for name in LOSSES:
        if name in PEER_OF or name in PEER_CLASSES:
            everything[f"peer {name}"] = clone(fixed)  # evaluate sets its loss
    return everything


def peer_loss(name):
    """Return a loss of pytorch-metric-learning: an instance, or a class if it needs the data."""
    expression = PEER_CLASSES.get(name) or loss_benchmark.LOSSES[PEER_OF[name]][1]
    return eval(expression, loss_benchmark.load_peer())


def evaluate(name, estimator, task, split, timeout):
    """Fit on the training classes of a split and score on its unseen classes.

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
    except Exception as error:  # a failure of a learner is a result, too
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    epochs = [estimator.best_epoch_] if hasattr(estimator, "best_epoch_") else []
    return result | {"seconds": seconds, "epochs": epochs}


def compute_missing(names, tasks, store, options):
    """Compute the results missing in the store, one by one; return the keys of all."""
    known = learners()
    keys = {
        (name, task, split): (name, source_hash(known[name]), task, split)
        for task in tasks
        for split in splits_of(task, options)
        for name in names
    }
    missing = [cell for cell, key in keys.items() if options.fresh or key not in store.results]
    for count, (name, task, split) in enumerate(missing, start=1):
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = evaluate(name, known[name], task, split, options.timeout)
        store.add(keys[name, task, split], result)
        print(f"{count} of {len(missing)}: {name} on {task} {split}", file=sys.stderr, flush=True)
    return keys


def splits_of(task, options):
    """Return the requested splits of a task."""
    return range(min(SPLITS[task], options.splits))


def rows_of(task, splits, names, keys, results):
    """Collect the results of a task: for each learner a dict, or the text of its error.

    Returns
    -------
    dict of {str: dict or str}
        Means of the scores and the seconds over the splits; "worst", the smallest gain in MAP@R
        over Euclid in any split; "epochs", the epochs that were kept.
    """
    rows = {}
    euclid = [results[keys[EUCLID, task, split]] for split in splits]
    for name in names:
        stored = [results[keys[name, task, split]] for split in splits]
        errors = [result["error"] for result in stored if "error" in result]
        if errors:
            rows[name] = errors[0]
            continue
        rows[name] = {s: float(np.mean([one[s] for one in stored])) for s in (*SCORES, "seconds")}
        gains = [one["MAP@R"] - base["MAP@R"] for one, base in zip(stored, euclid, strict=True)]
        rows[name]["worst"] = min(gains)
        rows[name]["epochs"] = [*itertools.chain(*(one["epochs"] for one in stored))]
    return rows


def print_table(task, rows):
    """Print a line for each learner: scores, gains over Euclid, seconds and epochs."""
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
    """Return the names that contain one of the words; all names if none does."""
    return [name for name in names if any(word in name for word in words)] or list(names)


def parse():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="skip the single losses")
    parser.add_argument(
        "--splits", type=int, default=3, help="number of splits of the letters; default: 3"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="words of tasks, learners"
    )
    parser.add_argument(
        "--timeout", type=float, default=600, help="limit of a fit, processor s; default: 600"
    )
    parser.add_argument("--cache", default=CACHE, help=f"folder of the results; default: {CACHE}")
    parser.add_argument("--fresh", action="store_true", help="compute all results again")
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
    keys = compute_missing(names, tasks, store, options)
    print(f"Unseen classes: {N_SCORED} points scored; at most {N_TRAIN} training rows")
    for task in tasks:
        splits = splits_of(task, options)
        print_table(task, rows_of(task, splits, names, keys, store.results))


if __name__ == "__main__":
    main()
