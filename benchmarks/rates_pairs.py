"""False-accept rates that pair verifiers keep on new identities.

Run ``python -m benchmarks.rates_pairs``. The identities are normal in eight dimensions, with
centres that spread three times as far as samples. Each verifier chooses its threshold on pairs of
some identities; the rates are those of pairs of new identities, by the known distribution or by a
large draw. Options select fewer seeds, identities, rates and settings; ``--quick`` takes 20 seeds.

Settings:

- groups: `groups` tells the identities;
- links: points that are linked by same pairs tell them;
- frozen: a Mahalanobis distance, fitted on other identities, with 20 columns of noise;
- folds: the distance is learned from the same pairs (KISSME), and the threshold out of fold;
- imbalanced: one identity in five has ten times as many samples;
- spread: identities lie in regions of different density (log-normal scales), and groups tell them.

Columns: the mean false-accept rate reached, the share of verifiers above the target, the share of
same pairs accepted, that share at the ideal threshold, and the share of verifiers that warned that
the rate is extrapolated.
"""

import argparse
import warnings
from typing import NamedTuple

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import FunctionTransformer

from skdml import KISSME, MahalanobisMetric
from skdml.model_selection import make_pairs
from skdml.verification import PairVerifier, pair_distances

SETTINGS = ("groups", "links", "frozen", "folds", "imbalanced", "spread")
N_FEATURES, N_NOISE, N_SAMPLES = 8, 20, 10
N_NEW = 100_000  # pairs of each kind


class Result(NamedTuple):
    """What one verifier reached on new identities."""

    far: float
    accepted: float
    ideal: float
    extrapolated: bool


def draw_centres(n_identities, setting, rng):
    """Return the centres of identities."""
    scale = np.exp(rng.normal(size=(n_identities, 1)) / 2) if setting == "spread" else 1.0
    return 3 * scale * rng.normal(size=(n_identities, N_FEATURES))


def draw_samples(centres, setting, rng):
    """Return one sample of each centre."""
    samples = centres + rng.normal(size=centres.shape)
    if setting not in ("frozen", "folds"):
        return samples
    return np.hstack([samples, 3 * rng.normal(size=(len(samples), N_NOISE))])


def draw_new_pairs(setting, rng):
    """Return different pairs and same pairs of new identities."""
    first, second = (draw_centres(N_NEW, setting, rng) for _ in range(2))
    samples = [draw_samples(centres, setting, rng) for centres in (first, second, first)]
    return np.stack(samples[:2], axis=1), np.stack(samples[::2], axis=1)


def draw_gallery(n_identities, setting, rng):
    """Return samples of some identities, and who they are."""
    sizes = np.full(n_identities, N_SAMPLES)
    if setting == "imbalanced":
        sizes[::5] *= 10
    who = np.repeat(np.arange(n_identities), sizes)
    return draw_samples(draw_centres(n_identities, setting, rng)[who], setting, rng), who


def make_estimator(setting, X, rng):
    """Return the learner, frozen or to be fitted by the verifier."""
    if setting == "folds":
        return KISSME(supervision="pairs")
    if setting == "frozen":
        learner = MahalanobisMetric("oas", within_class=True)
        return FrozenEstimator(learner.fit(*draw_gallery(50, setting, rng)))
    return FrozenEstimator(FunctionTransformer().fit(X))


def run_seed(n_identities, setting, target, n_pairs, new_pairs, seed):
    """Fit one verifier, and measure it on new pairs."""
    rng = np.random.default_rng(seed)
    X, who = draw_gallery(n_identities, setting, rng)
    rows, same = make_pairs(X, who, n_pairs, indices=True, random_state=seed)
    verifier = PairVerifier(
        make_estimator(setting, X, rng),
        threshold="far",
        target_far=target,
        cv=5 if n_identities > 10 else 2,  # a fold needs pairs of different identities
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        verifier.fit(X[rows], same, groups=None if setting == "links" else who[rows])
    different, genuine = (pair_distances(verifier.estimator_, pairs) for pairs in new_pairs)
    return Result(
        (different <= verifier.threshold_).mean(),
        (genuine <= verifier.threshold_).mean(),
        (genuine <= np.quantile(different, target)).mean(),
        any("extrapolated" in str(warning.message) for warning in caught),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--identities", type=int, nargs="+", default=[5, 20, 50, 200])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.05])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS)
    parser.add_argument("--pairs", type=int, default=20_000, help="pairs to choose a threshold on")
    parser.add_argument("--quick", action="store_true", help="20 seeds")
    options = parser.parse_args()
    seeds = 20 if options.quick else options.seeds
    print("setting     identities  asked  reached  above  accepted  ideal  extrapolated")
    for setting in options.settings:
        new_pairs = draw_new_pairs(setting, np.random.default_rng(10**6))
        for n_identities in options.identities:
            for rate in options.rates:
                table = [
                    run_seed(n_identities, setting, rate, options.pairs, new_pairs, seed)
                    for seed in range(seeds)
                ]
                far, accepted, ideal, extrapolated = np.mean(table, axis=0)
                above = np.mean([result.far > rate for result in table])
                print(
                    f"{setting:11} {n_identities:10} {rate:6.1%} {far:8.2%} {above:6.1%} "
                    f"{accepted:9.1%} {ideal:6.1%} {extrapolated:13.0%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
