"""Learned distances with a linear f: d(x, y) = |L x - L y|, with M = LᵀL a Mahalanobis matrix."""

from skdml.linear.base import LinearMap, LinearMetricLearner
from skdml.linear.covariance import MahalanobisMetric

__all__ = ["LinearMap", "LinearMetricLearner", "MahalanobisMetric"]
