"""Learned distances for scikit-learn: d(x, y) = d_e(f(x), f(y)), where f is a matrix or a network.

Public names are imported when they are first used. ``import skdml`` is therefore fast, and torch is
loaded only when a deep learner is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

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


_SUBMODULES = (
    *("base", "constraints", "deep", "distances", "gallery", "linear", "metrics"),
    *("model_selection", "plotting", "preprocessing", "verification"),
)

# The modules of the public names that are not learners. See `_module_of` for the learners.
_MODULES = {
    "GalleryClassifier": "gallery",
    "LearnedDistance": "distances",
    "MetricLearner": "base",
    "PairVerifier": "verification",
    "check_metric_axioms": "distances",
}


def _module_of(name: str) -> str:
    """Return the module of a public name. The names of deep learners begin with "Deep"."""
    return _MODULES.get(name, "deep" if name.startswith("Deep") else "linear")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"skdml.{name}")
    if name in __all__:
        return getattr(importlib.import_module(f"skdml.{_module_of(name)}"), name)
    raise AttributeError(f"module 'skdml' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
