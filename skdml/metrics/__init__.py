"""How good a learned distance is: retrieval over embeddings, verification over distances."""

from skdml.metrics.retrieval import map_at_r, recall_at_k
from skdml.metrics.verification import equal_error_rate

__all__ = ["equal_error_rate", "map_at_r", "recall_at_k"]
