"""Measures of a learned distance: retrieval, verification and few-shot accuracy, and scorers."""

from skdml.metrics.few_shot import few_shot_score
from skdml.metrics.retrieval import (
    map_at_r,
    mean_average_precision,
    mean_reciprocal_rank,
    ndcg_at_k,
    precision_at_k,
    r_precision,
    recall_at_k,
    retrieval_report,
)
from skdml.metrics.scorers import (
    equal_error_rate_scorer,
    make_retrieval_scorer,
    make_verification_scorer,
    map_at_r_scorer,
    recall_at_1_scorer,
)
from skdml.metrics.verification import (
    equal_error_rate,
    far_frr_curve,
    tar_at_far,
    verification_report,
)

__all__ = [
    "equal_error_rate",
    "equal_error_rate_scorer",
    "far_frr_curve",
    "few_shot_score",
    "make_retrieval_scorer",
    "make_verification_scorer",
    "map_at_r",
    "map_at_r_scorer",
    "mean_average_precision",
    "mean_reciprocal_rank",
    "ndcg_at_k",
    "precision_at_k",
    "r_precision",
    "recall_at_1_scorer",
    "recall_at_k",
    "retrieval_report",
    "tar_at_far",
    "verification_report",
]
