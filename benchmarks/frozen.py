"""Time of a fit with a backbone: frozen and run once, run in every epoch, or trained.

Run ``python -m benchmarks.frozen``, or add ``--quick`` for few epochs and one repetition.
"""

import argparse
import copy
import time

import torch
from sklearn.datasets import load_digits

from benchmarks._timing import median_ratio, medians, take_turns
from skdml import DeepTripletEmbedder
from skdml.deep import ResidualEmbedder

SIDE = 28
WIDTH = 128


def make_data():
    """Return the digits as images of 28 x 28, and their classes."""
    X, y = load_digits(return_X_y=True)
    images = torch.tensor(X / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    return torch.nn.functional.interpolate(images, size=(SIDE, SIDE)).numpy(), y


def make_backbone():
    """Return a small convolution net that maps (n, 1, 28, 28) to (n, 128)."""
    torch.manual_seed(0)
    layers, width = [], 1
    for n_channels in (32, 64, WIDTH):
        layers += [
            torch.nn.Conv2d(width, n_channels, 3, padding=1),
            torch.nn.BatchNorm2d(n_channels),
        ]
        layers += [torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
        width = n_channels
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


class UntrainedBackbone(torch.nn.Module):
    """A backbone that is not trained and runs in every epoch."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone.requires_grad_(False)

    def train(self, mode=True):
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, X):
        """Pass a batch through the backbone."""
        with torch.no_grad():
            return self.backbone(X)


def make_learners(n_epochs, early_stopping):
    """Return the three learners by name."""
    options = {"max_epochs": n_epochs, "early_stopping": early_stopping, "random_state": 0}
    backbone = make_backbone()
    head = ResidualEmbedder(WIDTH, WIDTH)
    joined = torch.nn.Sequential(UntrainedBackbone(copy.deepcopy(backbone)), head)
    return {
        "run once": DeepTripletEmbedder(backbone, freeze="module", patience=n_epochs, **options),
        "every epoch": DeepTripletEmbedder(joined, patience=n_epochs, **options),
        "trained": DeepTripletEmbedder(
            torch.nn.Sequential(backbone, head), patience=n_epochs, **options
        ),
    }


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few epochs, one repetition")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    X, y = make_data()
    n_epochs = 3 if quick else 10
    print(f"{len(X)} images of {SIDE} x {SIDE}, {n_epochs} epochs; processor seconds, one thread")
    print(f"{'':20}{'run once':>12}{'every epoch':>13}{'ratio':>8}{'trained':>10}{'ratio':>8}")
    for early_stopping in (False, True):
        learners = make_learners(n_epochs, early_stopping)
        fits = {
            name: lambda learner=learner: learner.fit(X, y) for name, learner in learners.items()
        }
        seconds = take_turns(fits, 1 if quick else 2, time.process_time)
        once, every, trained = medians(seconds).values()
        ratios = [median_ratio(seconds, name, "run once") for name in ("every epoch", "trained")]
        print(
            f"{'early stopping' if early_stopping else 'to the end':20}{once:12.2f}{every:13.2f}"
            f"{ratios[0]:8.1f}{trained:10.2f}{ratios[1]:8.1f}"
        )


if __name__ == "__main__":
    main()
