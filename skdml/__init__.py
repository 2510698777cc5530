"""Learned distances for scikit-learn: d(x, y) = d_e(f(x), f(y)), with f a matrix or a network.

Every public name is imported when it is first used, so that ``import skdml`` costs next to
nothing and torch is only loaded by those who use a deep learner.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "MetricLearner": "skdml.base",
    "LearnedDistance": "skdml.distances",
    "check_metric_axioms": "skdml.distances",
    "MahalanobisMetric": "skdml.linear",
    "LMNN": "skdml.linear",
    "MCML": "skdml.linear",
    "MLKR": "skdml.linear",
    "NCA": "skdml.linear",
    "NCMC": "skdml.linear",
    "NCMML": "skdml.linear",
    "SDML": "skdml.linear",
    "ITML": "skdml.linear",
    "LSML": "skdml.linear",
    "RCA": "skdml.linear",
    "KISSME": "skdml.linear",
    "GMML": "skdml.linear",
    "LFDA": "skdml.linear",
    "DMLMJ": "skdml.linear",
    "ANMM": "skdml.linear",
    "LDML": "skdml.linear",
    "MMC": "skdml.linear",
    "SCML": "skdml.linear",
    "DMLEig": "skdml.linear",
    "LEGO": "skdml.linear",
    "DeepEmbedder": "skdml.deep",
    "DeepSiameseEmbedder": "skdml.deep",
    "DeepTripletEmbedder": "skdml.deep",
}
_ROOMS = ("base", "deep", "distances", "linear", "metrics")

__all__ = [
    "ANMM",
    "DMLMJ",
    "GMML",
    "ITML",
    "KISSME",
    "LDML",
    "LEGO",
    "LFDA",
    "LMNN",
    "LSML",
    "MCML",
    "MLKR",
    "MMC",
    "NCA",
    "NCMC",
    "NCMML",
    "RCA",
    "SCML",
    "SDML",
    "DMLEig",
    "DeepEmbedder",
    "DeepSiameseEmbedder",
    "DeepTripletEmbedder",
    "LearnedDistance",
    "MahalanobisMetric",
    "MetricLearner",
    "__version__",
    "check_metric_axioms",
]

if TYPE_CHECKING:
    from skdml.base import MetricLearner
    from skdml.deep import DeepEmbedder, DeepSiameseEmbedder, DeepTripletEmbedder
    from skdml.distances import LearnedDistance, check_metric_axioms
    from skdml.linear import (
        ANMM,
        DMLMJ,
        GMML,
        ITML,
        KISSME,
        LDML,
        LEGO,
        LFDA,
        LMNN,
        LSML,
        MCML,
        MLKR,
        MMC,
        NCA,
        NCMC,
        NCMML,
        RCA,
        SCML,
        SDML,
        DMLEig,
        MahalanobisMetric,
    )


def __getattr__(name):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"skdml.{name}")
    raise AttributeError(f"module 'skdml' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_HOME, *_ROOMS})
