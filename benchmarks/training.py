"""Time of fit and transform, compared with a plain PyTorch loop: same network, batches and loss.

Run ``python -m benchmarks.training``. ``--quick`` takes short fits and few repetitions; ``--cpu``
measures processor seconds of one thread. Triplet losses are also compared with the same loop that
uses the loss and the miner of pytorch-metric-learning 2.9. ``--memory`` prints the peak memory of a
fit with `chunk_size`.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time

import numpy as np
import torch
from sklearn.datasets import load_digits, make_classification

from benchmarks import losses as loss_benchmark
from benchmarks._timing import median_ratio, medians, take_turns
from benchmarks._worker import measure_time, resident_mib
from skdml import DeepEmbedder, DeepProxyEmbedder, DeepSiameseEmbedder, DeepTripletEmbedder
from skdml.deep.data.samplers import ClassBalancedBatches
from skdml.deep.losses import ArcFaceLoss, ContrastiveLoss, TripletLoss
from skdml.deep.networks.initial import MAX_START_POINTS
from skdml.deep.networks.map import MAX_BATCH_POINTS
from skdml.deep.networks.modules import ResidualEmbedder

FIT_GOAL = 1.15
TRANSFORM_GOAL = 1.10
PEER_GOAL = 0.5
WIDTH = 64
PARAMS = {"batch_size": 128, "n_per_class": 4}
LR, PROXY_LR = 3e-4, 0.01

# Each learner, and a function that builds its loss from the number of classes.
LEARNERS = {
    DeepEmbedder: lambda n_classes: ContrastiveLoss(),
    DeepSiameseEmbedder: lambda n_classes: ContrastiveLoss(),
    DeepTripletEmbedder: lambda n_classes: TripletLoss(),
    DeepProxyEmbedder: lambda n_classes: ArcFaceLoss(n_classes, WIDTH),
}
# The name of our miner, and the peer's miner as an expression.
PEER_MINERS = {
    "all": "None",
    "semihard": "TripletMarginMiner(0.2, type_of_triplets='semihard', distance=D)",
    "hard": "BatchHardMiner(distance=D)",
}


def make_table(n_samples, n_classes):
    """Return X with 64 columns, and y."""
    return make_classification(
        n_samples, 64, n_informative=20, n_classes=n_classes, n_clusters_per_class=1, random_state=0
    )


def make_data():
    """Return the data sets: a dict of {name: (X, y)}. X is float32 with 64 columns."""
    sets = {
        "digits": load_digits(return_X_y=True),
        "synthetic": make_table(20_000, 20),
        "128 classes": make_table(6400, 128),
    }
    return {name: (X.astype(np.float32), y.astype(np.int64)) for name, (X, y) in sets.items()}


def make_learner(kind, n_epochs, **params):
    """Return an embedder that trains to the end on all data."""
    return kind(
        early_stopping=False, max_epochs=n_epochs, lr=LR, device="cpu", random_state=0, **params
    )


def seed_of_fit():
    """Return the seed that ``fit`` draws from ``random_state=0``."""
    return np.random.RandomState(0).randint(2**31 - 1)


def draw_batches(y, n_epochs, params):
    """Return the batches of every epoch, as tensors of row numbers."""
    sampler = ClassBalancedBatches(y, **params, seed=seed_of_fit())
    return [[torch.from_numpy(rows) for rows in sampler] for _ in range(n_epochs)]


def plain_loop(X, y, epochs, loss, *, mine=None, normalize=False):
    """Train the same network by hand, with batches drawn beforehand."""
    first = np.sort(np.random.default_rng(seed_of_fit()).permutation(len(X))[:MAX_START_POINTS])
    start = torch.from_numpy(X[first]), y[first]
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    torch.manual_seed(seed_of_fit())
    network = ResidualEmbedder(n_features=X.shape[1], n_components=WIDTH)
    network.initialize_from(*start)
    loss_params = {"params": [*loss.parameters()], "lr": PROXY_LR}
    optimizer = torch.optim.AdamW([{"params": network.parameters()}, loss_params], lr=LR)
    network.train()
    for batches in epochs:
        for rows in batches:
            optimizer.zero_grad()
            Z = network(X[rows])
            Z = torch.nn.functional.normalize(Z) if normalize else Z
            (loss(Z, y[rows], mine(Z, y[rows])) if mine else loss(Z, y[rows])).backward()
            optimizer.step()
    return network.eval()


def plain_forward(network, X):
    """Pass rows through a network, in batches as large as those of ``transform``."""
    with torch.no_grad():
        return torch.cat([network(b) for b in torch.from_numpy(X).split(MAX_BATCH_POINTS)]).numpy()


def compare_fits(kind, X, y, n_epochs, repeats, clock):
    """Return the seconds of a learner and of the plain loop, turn by turn."""
    learner = make_learner(kind, n_epochs, **PARAMS)
    epochs = draw_batches(y, n_epochs, PARAMS)
    loss = LEARNERS[kind](int(y.max()) + 1)
    return take_turns(
        {
            "skdml": lambda: learner.fit(X, y),
            "other": lambda: plain_loop(X, y, epochs, loss, normalize=learner.normalize),
        },
        repeats,
        clock,
    )


class FreeLoss(torch.nn.Module):
    """A loss that costs nothing: it measures the time of everything else in the loop."""

    def forward(self, Z, labels):
        """Return the sum of the embeddings, which has a gradient."""
        return Z.sum()


def compare_with_peer(miner, batch_size, X, y, n_epochs, repeats, clock):
    """Return the seconds of a triplet fit, of a loop with the peer's loss, and with no loss."""
    params = PARAMS | {"batch_size": batch_size}
    learner = make_learner(DeepTripletEmbedder, n_epochs, miner=miner, **params)
    epochs = draw_batches(y, n_epochs, params)
    names = loss_benchmark.load_peer()
    names |= vars(importlib.import_module("pytorch_metric_learning.miners"))
    names["D"] = eval(loss_benchmark.PLAIN, names)
    loss, mine = eval("TripletMarginLoss(0.2, distance=D)", names), eval(PEER_MINERS[miner], names)
    return take_turns(
        {
            "skdml": lambda: learner.fit(X, y),
            "other": lambda: plain_loop(X, y, epochs, loss, mine=mine),
            "none": lambda: plain_loop(X, y, epochs, FreeLoss()),
        },
        repeats,
        clock,
    )


def compare_transforms(n_rows, repeats, clock):
    """Return the seconds of ``transform`` and of a plain forward pass."""
    X, y = make_data()["synthetic"]
    learner = make_learner(DeepTripletEmbedder, 1, **PARAMS).fit(X, y)
    network = learner.net_.module_.eval()
    rows = np.random.default_rng(0).standard_normal((n_rows, X.shape[1]), dtype=np.float32)
    return take_turns(
        {"skdml": lambda: learner.transform(rows), "other": lambda: plain_forward(network, rows)},
        repeats,
        clock,
    )


def fit_images(chunk_size):
    """Fit on two batches of 1024 images; return added MiB, processor seconds and loss."""
    torch.set_num_threads(1)
    X = np.random.default_rng(0).normal(size=(2048, 1, 28, 28)).astype(np.float32)
    y = np.arange(2048) % 64
    options = {"max_epochs": 1, "early_stopping": False, "device": "cpu", "random_state": 0}
    DeepTripletEmbedder(batch_size=16, **options).fit(X[:64], y[:64] % 8)  # loads the code of a fit
    options |= {"batch_size": 1024, "n_per_class": 16, "chunk_size": chunk_size}
    learner, before = DeepTripletEmbedder(**options), resident_mib("VmHWM")
    seconds = measure_time(lambda: learner.fit(X, y))["cpu"]
    return resident_mib("VmHWM") - before, seconds, float(learner.history_["loss"][0])


def show_memory():
    """Print peak memory and time for each chunk size, each in its own process."""
    print("batches of 1024 images, 28 x 28; chunk_size: added peak MiB, processor s, loss")
    for chunk_size in (None, 256, 64):
        command = [sys.executable, "-m", "benchmarks.training", "--fit", json.dumps(chunk_size)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(
            f"{chunk_size!s:>6}" + "{:8.0f}{:8.2f}{:13.8f}".format(*json.loads(output)), flush=True
        )


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short fits, few repetitions")
    parser.add_argument("--cpu", action="store_true", help="processor seconds of one thread")
    parser.add_argument("--memory", action="store_true", help="print peak memory by chunk_size")
    parser.add_argument("--fit", type=json.loads, default=False, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fit is not False:
        print(json.dumps(fit_images(options.fit)))
    elif options.memory:
        show_memory()
    else:
        show_times(options.quick, options.cpu)


def show_times(quick, cpu):
    """Print the seconds of skdml and of plain loops."""
    torch.set_num_threads(1 if cpu else 2)
    repeats, clock = (3 if quick else 9), (time.process_time if cpu else time.perf_counter)
    unit = "processor seconds of one thread" if cpu else "seconds on two threads"
    print(f"median {unit}; the ratio is the median over the turns")
    print(f"{'':52}{'skdml':>9}{'other':>9}{'ratio':>8}{'goal':>7}")

    n_epochs = {"digits": 5, "synthetic": 1} if quick else {"digits": 20, "synthetic": 4}
    sets = make_data()
    for name in n_epochs:
        X, y = sets[name]
        for kind in LEARNERS:
            print_row(
                f"{kind.__name__}, {name}",
                compare_fits(kind, X, y, n_epochs[name], repeats, clock),
                FIT_GOAL,
            )
    X, y = sets["128 classes"]
    for miner in PEER_MINERS:
        for batch_size in (128, 512):
            seconds = compare_with_peer(miner, batch_size, X, y, 1 if quick else 5, 3, clock)
            title = f"triplets, {miner}, batches of {batch_size}; other: peer"
            print_row(title, seconds, PEER_GOAL)
            print_row("  the loop without a loss; other: peer", seconds, PEER_GOAL, "none")
    n_rows = 100_000 if quick else 1_000_000
    seconds = compare_transforms(n_rows, min(repeats, 5), clock)
    print_row(f"transform {n_rows} x {WIDTH}", seconds, TRANSFORM_GOAL)


def print_row(title, seconds, goal, name="skdml"):
    """Print a line of the table."""
    median, ratio = medians(seconds), median_ratio(seconds, name, "other")
    print(f"{title:52}{median[name]:9.3f}{median['other']:9.3f}{ratio:8.3f}{goal:7.2f}", flush=True)


if __name__ == "__main__":
    main()
