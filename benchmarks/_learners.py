"""The learners that the benchmarks run, and a hash of the source behind each result."""

import hashlib
import inspect
import re
from importlib.util import find_spec, resolve_name
from pathlib import Path

from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NeighborhoodComponentsAnalysis

import skdml.deep
import skdml.linear
from skdml.linear import LinearMetricLearner, MahalanobisMetric

EUCLID = "Euclid"
# Learners of real numbers. Class codes would impose an arbitrary order.
REAL_TARGETS = {"MLKR"}


class Euclid(TransformerMixin, BaseEstimator):
    """The plain distance: points stay unchanged."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X


def baselines():
    """Return the baselines: a dict of {name: estimator}."""
    return {
        EUCLID: Euclid(),
        "PCA whitened": PCA(whiten=True, random_state=0),
        "LDA": LinearDiscriminantAnalysis(),
        "sklearn NCA": NeighborhoodComponentsAnalysis(random_state=0),
    }


def learners():
    """Return every public linear learner at its defaults: a dict of {name: estimator}."""
    public = [getattr(skdml.linear, name) for name in skdml.linear.__all__]
    concrete = [
        kind
        for kind in public
        if inspect.isclass(kind)
        and issubclass(kind, LinearMetricLearner)
        and kind is not LinearMetricLearner
    ]
    found = {kind.__name__: seeded(kind()) for kind in concrete}
    return found | {"Mahalanobis within": MahalanobisMetric(within_class=True)}


def deep_learners():
    """Return every deep learner at its defaults: a dict of {name: estimator}."""
    names = [name for name in skdml.deep.__all__ if name.startswith("Deep")]
    return {name: seeded(getattr(skdml.deep, name)()) for name in names}


def seeded(estimator):
    """Return the estimator, with `random_state=0` if it has that parameter."""
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=0)
    return estimator


def choose(names, among):
    """Return the named items in the given order; raise SystemExit for an unknown name."""
    unknown = sorted(set(names) - set(among))
    if unknown:
        raise SystemExit(f"Unknown: {', '.join(unknown)}. There are: {', '.join(among)}.")
    return {name: among[name] for name in names}


def source_hash(estimator):
    """Return a hash of the skdml source files that an estimator depends on.

    These are the file of its class and, recursively, all skdml modules that it imports. A stored
    result is valid as long as this hash stays the same.
    """
    files, modules = {}, [type(estimator).__module__]
    while modules:
        module = modules.pop()
        if module.startswith("skdml.") and module not in files:
            spec = find_spec(module)
            files[module] = Path(spec.origin).read_text(encoding="utf-8")
            names = re.findall(r"^from (skdml\.\S+|\.\w+) import", files[module], re.MULTILINE)
            modules += [resolve_name(name, spec.parent) for name in names]
    text = "".join(files[module] for module in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
