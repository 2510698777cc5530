"""Deep learned distances: f(x) = network(x), trained with torch through skorch."""

try:
    import skorch  # noqa: F401
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("torch", "skorch"):
        raise
    raise ImportError(
        f"The deep learners of skdml need torch and skorch, and {error.name} is not installed. "
        "Install both with: pip install torch skorch"
    ) from error

from skdml.deep.base import DeepEmbedder
from skdml.deep.embedders import DeepSiameseEmbedder, DeepTripletEmbedder
from skdml.deep.networks.modules import ConvEmbedder, ResidualEmbedder
from skdml.deep.proxy_embedder import DeepProxyEmbedder
from skdml.deep.training.alarms import (
    CollapseWarning,
    IdleBatchesWarning,
    InitialWeightsWarning,
)

__all__ = [
    "CollapseWarning",
    "ConvEmbedder",
    "DeepEmbedder",
    "DeepProxyEmbedder",
    "DeepSiameseEmbedder",
    "DeepTripletEmbedder",
    "IdleBatchesWarning",
    "InitialWeightsWarning",
    "ResidualEmbedder",
]
