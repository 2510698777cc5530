"""Time of fit and transform beside a plain PyTorch loop with the same network, batches and loss.

Run ``python -m benchmarks.training``, or with ``--quick`` for short fits and few repetitions.
``--memory`` prints the peak memory of a fit whose batches pass through the network in pieces.
"""

import argparse
import json
import subprocess
import sys

import numpy as np
import torch
from sklearn.datasets import load_digits, make_classification

from benchmarks._timing import median_ratio, medians, take_turns
from benchmarks._worker import resident, time_of
from skdml import DeepTripletEmbedder
from skdml.deep.losses import TripletLoss
from skdml.deep.modules import ResidualEmbedder
from skdml.deep.net import POINTS_AT_ONCE
from skdml.deep.samplers import ClassBalancedBatches
from skdml.deep.start import MAX_POINTS

FIT_GOAL = 1.15
TRANSFORM_GOAL = 1.10
WIDTH = 64
PARAMS = {"batch_size": 128, "n_per_class": 4}
LR = 3e-4


def make_data():
    """Return the data sets: a dict of {name: (X, y)}, X float32 of 64 columns."""
    digits = load_digits(return_X_y=True)
    table = make_classification(
        20_000, 64, n_informative=20, n_classes=20, n_clusters_per_class=1, random_state=0
    )
    sets = {"digits": digits, "synthetic": table}
    return {name: (X.astype(np.float32), y.astype(np.int64)) for name, (X, y) in sets.items()}


def make_learner(n_epochs):
    """Return an embedder that trains to the end on everything."""
    return DeepTripletEmbedder(
        early_stopping=False, max_epochs=n_epochs, lr=LR, device="cpu", random_state=0, **PARAMS
    )


def seed_of_fit():
    """Return the seed that ``fit`` draws from ``random_state=0``."""
    return np.random.RandomState(0).randint(2**31 - 1)


def draw_batches(y, n_epochs):
    """Return the batches of every epoch, as tensors of rows."""
    sampler = ClassBalancedBatches(y, **PARAMS, seed=seed_of_fit())
    return [[torch.from_numpy(rows) for rows in sampler] for _ in range(n_epochs)]


def plain_loop(X, y, epochs):
    """Train the same network by hand; the batches have been drawn beforehand."""
    first = np.sort(np.random.default_rng(seed_of_fit()).permutation(len(X))[:MAX_POINTS])
    start = torch.from_numpy(X[first]), y[first]
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    torch.manual_seed(seed_of_fit())
    network = ResidualEmbedder(n_features=X.shape[1], n_components=WIDTH)
    network.initialize_from(*start)
    loss = TripletLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR)
    network.train()
    for batches in epochs:
        for rows in batches:
            optimizer.zero_grad()
            loss(network(X[rows]), y[rows]).backward()
            optimizer.step()
    return network.eval()


def bare_forward(network, X):
    """Pass rows through a network, in the batches that ``transform`` takes."""
    with torch.no_grad():
        return torch.cat([network(b) for b in torch.from_numpy(X).split(POINTS_AT_ONCE)]).numpy()


def compare_fits(X, y, n_epochs, repeats):
    """Return seconds of both, their ratio, and how far the two embeddings are apart."""
    learner, epochs = make_learner(n_epochs), draw_batches(y, n_epochs)
    seconds = take_turns(
        {"skdml": lambda: learner.fit(X, y), "plain": lambda: plain_loop(X, y, epochs)}, repeats
    )
    apart = abs(learner.transform(X) - bare_forward(plain_loop(X, y, epochs), X)).max()
    return medians(seconds), median_ratio(seconds, "skdml", "plain"), apart


def compare_transforms(n_rows, repeats):
    """Return the same of ``transform`` and of a bare forward pass."""
    X, y = make_data()["synthetic"]
    learner = make_learner(1).fit(X, y)
    network = learner.net_.module_.eval()
    rows = np.random.default_rng(0).standard_normal((n_rows, X.shape[1]), dtype=np.float32)
    seconds = take_turns(
        {"skdml": lambda: learner.transform(rows), "plain": lambda: bare_forward(network, rows)},
        repeats,
    )
    apart = abs(learner.transform(rows) - bare_forward(network, rows)).max()
    return medians(seconds), median_ratio(seconds, "skdml", "plain"), apart


def fit_images(chunk_size):
    """Fit on two batches of 1024 images: MiB that this adds, processor seconds, and the loss."""
    torch.set_num_threads(1)
    X = np.random.default_rng(0).normal(size=(2048, 1, 28, 28)).astype(np.float32)
    y = np.arange(2048) % 64
    options = {"max_epochs": 1, "early_stopping": False, "device": "cpu", "random_state": 0}
    DeepTripletEmbedder(batch_size=16, **options).fit(X[:64], y[:64] % 8)  # loads what fits need
    options |= {"batch_size": 1024, "n_per_class": 16, "chunk_size": chunk_size}
    learner, before = DeepTripletEmbedder(**options), resident("VmHWM")
    seconds = time_of(lambda: learner.fit(X, y))["cpu"]
    return resident("VmHWM") - before, seconds, float(learner.history_["loss"][0])


def show_memory():
    """Print peak memory and time by the size of the pieces, each in a process of its own."""
    print("batches of 1024 images, 28 x 28, in pieces: peak MiB of the fit, processor s, loss")
    for chunk_size in (None, 256, 64):
        command = [sys.executable, "-m", "benchmarks.training", "--fit", json.dumps(chunk_size)]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(
            f"{chunk_size!s:>6}" + "{:8.0f}{:8.2f}{:13.8f}".format(*json.loads(found)), flush=True
        )


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short fits, few repetitions")
    parser.add_argument("--memory", action="store_true", help="memory of batches in pieces")
    parser.add_argument("--fit", type=json.loads, default=False, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fit is not False:
        print(json.dumps(fit_images(given.fit)))
    elif given.memory:
        show_memory()
    else:
        show_times(given.quick)


def show_times(quick):
    """Print seconds beside those of a plain loop."""
    torch.set_num_threads(2)

    lines = []
    n_epochs = {"digits": 5, "synthetic": 1} if quick else {"digits": 20, "synthetic": 4}
    for name, (X, y) in make_data().items():
        result = compare_fits(X, y, n_epochs[name], 3 if quick else 9)
        title = f"fit {name}, {len(X)} x {X.shape[1]}, {n_epochs[name]} epochs"
        lines.append((title, *result, FIT_GOAL))
    n_rows = 100_000 if quick else 1_000_000
    result = compare_transforms(n_rows, 3 if quick else 5)
    lines.append((f"transform {n_rows} x {WIDTH}", *result, TRANSFORM_GOAL))

    print("median seconds on two threads; ratio: median over turns; apart: largest difference")
    print(f"{'':40}{'skdml':>9}{'plain':>9}{'ratio':>8}{'goal':>7}{'apart':>10}")
    for title, seconds, ratio, apart, goal in lines:
        numbers = f"{seconds['skdml']:9.3f}{seconds['plain']:9.3f}{ratio:8.3f}{goal:7.2f}"
        print(f"{title:40}{numbers}{apart:10.1e}")


if __name__ == "__main__":
    main()
