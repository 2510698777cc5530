"""Learned distances for scikit-learn: d(x, y) = d_e(f(x), f(y)), with f a matrix or a network.

Every public name is imported when it is first used, so that ``import skdml`` costs next to
nothing and torch is only loaded by those who use a deep learner.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_ROOMS = {
    "base": ["MetricLearner"],
    "distances": ["LearnedDistance", "check_metric_axioms"],
    "linear": [
        *["ANMM", "DMLEig", "DMLMJ", "GMML", "ITML", "KISSME", "LDML", "LEGO", "LFDA", "LMNN"],
        *["LSML", "MCML", "MLKR", "MMC", "MahalanobisMetric", "NCA", "NCMC", "NCMML", "RCA"],
        *["SCML", "SDML"],
    ],
    "deep": [
        *["DeepEmbedder", "DeepProxyEmbedder", "DeepSiameseEmbedder", "DeepTripletEmbedder"],
    ],
    "verification": ["PairVerifier"],
    "gallery": ["GalleryClassifier"],
    "metrics": [],
    "model_selection": [],
    "preprocessing": [],
    "plotting": [],
}
_HOME = {name: f"skdml.{room}" for room, names in _ROOMS.items() for name in names}

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
    "DeepProxyEmbedder",
    "DeepSiameseEmbedder",
    "DeepTripletEmbedder",
    "GalleryClassifier",
    "LearnedDistance",
    "MahalanobisMetric",
    "MetricLearner",
    "PairVerifier",
    "__version__",
    "check_metric_axioms",
]

if TYPE_CHECKING:
    from skdml.base import MetricLearner
    from skdml.deep import (
        DeepEmbedder,
        DeepProxyEmbedder,
        DeepSiameseEmbedder,
        DeepTripletEmbedder,
    )
    from skdml.distances import LearnedDistance, check_metric_axioms
    from skdml.gallery import GalleryClassifier
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
    from skdml.verification import PairVerifier


def __getattr__(name):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"skdml.{name}")
    raise AttributeError(f"module 'skdml' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_HOME, *_ROOMS})
