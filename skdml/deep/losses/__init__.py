"""Losses that learn a distance: from the pairs and triplets of a batch, or from all of it."""

from .pair import ContrastiveLoss
from .ranking import FastAPLoss, HistogramLoss, SmoothAPLoss
from .softmax import InfoNCELoss, NCALoss, NTXentLoss, SupConLoss
from .triplet import TripletLoss
from .tuple import AngularLoss, MarginLoss, NPairsLoss
from .weighted import (
    CircleLoss,
    IntraPairVarianceLoss,
    LiftedStructureLoss,
    MultiSimilarityLoss,
    SignalToNoiseRatioContrastiveLoss,
)

__all__ = [
    "AngularLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "FastAPLoss",
    "HistogramLoss",
    "InfoNCELoss",
    "IntraPairVarianceLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NCALoss",
    "NPairsLoss",
    "NTXentLoss",
    "SignalToNoiseRatioContrastiveLoss",
    "SmoothAPLoss",
    "SupConLoss",
    "TripletLoss",
]
