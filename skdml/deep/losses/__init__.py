"""Losses that learn a distance: from the pairs and triplets of a batch, or from all of it."""

from .pair import ContrastiveLoss
from .ranking import FastAPLoss, HistogramLoss, SmoothAPLoss
from .softmax import InfoNCELoss, NCALoss, NTXentLoss, SupConLoss
from .triplet import TripletLoss

__all__ = [
    "ContrastiveLoss",
    "FastAPLoss",
    "HistogramLoss",
    "InfoNCELoss",
    "NCALoss",
    "NTXentLoss",
    "SmoothAPLoss",
    "SupConLoss",
    "TripletLoss",
]
