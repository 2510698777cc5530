"""Losses that learn a distance: from pairs and from triplets of a batch."""

from .pair import ContrastiveLoss
from .triplet import TripletLoss

__all__ = ["ContrastiveLoss", "TripletLoss"]
