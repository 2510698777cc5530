"""Measure whether galleries keep the false-accept rate that is asked for.

Many galleries of synthetic identities are enrolled. Samples of fresh identities give the
false-accept rate of each gallery, fresh samples of enrolled identities its genuine acceptance. The
ideal threshold has exactly the rate that is asked for, known only to the benchmark.
"""

import argparse
import sys
import warnings

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import FunctionTransformer
from threadpoolctl import threadpool_limits

from skdml import LMNN, MahalanobisMetric
from skdml.gallery import GalleryClassifier

SIZES = (5, 20, 50, 200)
RATE = 0.05
CONFIDENCE = 0.95
N_UNKNOWN = 2000  # fresh identities, one sample each
N_INFORMATIVE = 8
SPREAD = 5.0  # standard deviation of the identities, in units of that of their samples


def make_samples(rng, identities, n_noise, n_samples=None):
    """Draw samples of identities; `n_noise` further columns say nothing about them.

    Returns
    -------
    X : ndarray of shape (n, n_informative + n_noise)
        Samples.
    y : ndarray of int, shape (n,)
        The identity of each sample.
    """
    n_samples = np.ones(len(identities), int) if n_samples is None else n_samples
    y = np.repeat(np.arange(len(identities)), n_samples)
    X = identities[y] + rng.normal(size=(len(y), identities.shape[1]))
    return np.hstack([X, SPREAD * rng.normal(size=(len(y), n_noise))]), y


def draw_identities(rng, n):
    """Draw the centres of n identities."""
    return SPREAD * rng.normal(size=(n, N_INFORMATIVE))


def frozen_learner(rng, n_noise):
    """Fit a Mahalanobis metric on other identities, and freeze it."""
    X, y = make_samples(rng, draw_identities(rng, 30), n_noise, np.full(30, 10))
    return FrozenEstimator(MahalanobisMetric("oas", within_class=True).fit(X, y))


def plain(rng, n_noise):
    """Return the Euclidean distance."""
    return FunctionTransformer()


def fitted(learner):
    """Return a function that makes an unfitted learner, to be fitted on the gallery."""
    return lambda rng, n_noise: clone(learner)


# For each setting: a function of (rng, n_noise) that makes the learner, parameters of the gallery,
# the number of columns of noise, and whether identities differ in their number of samples.
_MAHALANOBIS = MahalanobisMetric("oas", within_class=True)
_LMNN = LMNN(max_iter=30, n_impostors=5)
SETTINGS = {
    "prototype": (plain, {}, 0, False),
    "knn": (plain, {"mode": "knn"}, 0, False),
    "imbalanced": (plain, {}, 0, True),
    "imbalanced knn": (plain, {"mode": "knn"}, 0, True),
    "frozen": (frozen_learner, {}, 0, False),
    "frozen, noise": (frozen_learner, {}, 8, False),
    "fitted": (fitted(_MAHALANOBIS), {}, 0, False),
    "fitted, noise": (fitted(_MAHALANOBIS), {}, 8, False),
    "LMNN": (fitted(_LMNN), {}, 0, False),
    "LMNN, noise": (fitted(_LMNN), {}, 8, False),
}


def one_gallery(setting, n_classes, seed):
    """Enrol a gallery and measure it.

    Returns
    -------
    rate, genuine, ideal, expected : float
        False-accept rate; acceptance of genuine samples at the threshold and at the ideal one; and
        the acceptance that the gallery expects.
    """
    make_learner, params, n_noise, imbalanced = SETTINGS[setting]
    rng = np.random.default_rng([seed, n_classes])
    identities = draw_identities(rng, n_classes)
    n_samples = rng.geometric(0.15, n_classes) + 1 if imbalanced else np.full(n_classes, 10)
    X, y = make_samples(rng, identities, n_noise, n_samples)
    learner = make_learner(rng, n_noise)
    gallery = GalleryClassifier(learner, reject_far=RATE, confidence=CONFIDENCE, **params)
    with warnings.catch_warnings():
        # A few identities give a warning; from 50 on, it would be an error of the gallery.
        warnings.simplefilter("error" if n_classes >= 50 else "ignore")
        gallery.fit(X, y)
    unknown = make_samples(rng, draw_identities(rng, N_UNKNOWN), n_noise)[0]
    own = make_samples(rng, identities, n_noise, np.full(n_classes, max(2, 400 // n_classes)))[0]
    strange, known = (gallery.kneighbors(points, 1)[0][:, 0] for points in (unknown, own))
    ideal = np.quantile(strange, RATE)
    threshold = gallery.threshold_
    return (
        np.mean(strange <= threshold),
        np.mean(known <= threshold),
        np.mean(known <= ideal),
        gallery.genuine_acceptance_,
    )


def print_row(setting, n_classes, results):
    """Print the figures of a setting."""
    rate, genuine, ideal, expected = np.mean(results, axis=0)
    above = np.mean([one[0] > RATE for one in results])
    print(
        f"{setting:16} {n_classes:6} {rate:8.4f} {above:8.3f} {genuine:8.3f} {expected:8.3f} "
        f"{ideal:8.3f} {genuine / ideal:8.3f}",
        flush=True,
    )


def parse():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=500, help="galleries of each kind")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="identities")
    parser.add_argument(
        "--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING",
        help=f"settings: {', '.join(SETTINGS)}",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="20 galleries of each kind")
    return parser.parse_args()


def main():
    """Compute and print the table."""
    options = parse()
    n_seeds = 20 if options.quick else options.seeds
    print(f"Asked for: false-accept rate {RATE}, confidence {CONFIDENCE}; {n_seeds} galleries each")
    print(
        f"{'setting':16} {'number':>6} {'rate':>8} {'above':>8} {'genuine':>8} {'expected':>8} "
        f"{'ideal':>8} {'relative':>8}"
    )
    with threadpool_limits(1):
        for setting in options.only:
            for n_classes in options.sizes:
                results = [one_gallery(setting, n_classes, seed) for seed in range(n_seeds)]
                print_row(setting, n_classes, results)


if __name__ == "__main__":
    sys.exit(main())
