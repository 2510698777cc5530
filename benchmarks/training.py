"""Time of fit and transform beside a plain PyTorch loop with the same network, batches and loss.

Run ``python -m benchmarks.training``, or with ``--quick`` for short fits and few repetitions.
"""

import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits, make_classification

from benchmarks._timing import median_ratio, medians, take_turns
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


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short fits, few repetitions")
    quick = parser.parse_args().quick
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
