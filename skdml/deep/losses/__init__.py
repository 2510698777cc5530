"""Losses that learn a distance: from the pairs and triplets of a batch, or from all of it."""

from .graded import CoSENTLoss, VICRegLoss
from .margin_softmax import (
    ArcFaceLoss,
    CenterLoss,
    CosFaceLoss,
    NormalizedSoftmaxLoss,
    SphereFaceLoss,
    SubCenterArcFaceLoss,
)
from .pair import ContrastiveLoss
from .proxy import ProxyAnchorLoss, ProxyNCALoss, SoftTripleLoss
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
    "ArcFaceLoss",
    "CenterLoss",
    "CircleLoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
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
    "NormalizedSoftmaxLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "SignalToNoiseRatioContrastiveLoss",
    "SmoothAPLoss",
    "SoftTripleLoss",
    "SphereFaceLoss",
    "SubCenterArcFaceLoss",
    "SupConLoss",
    "TripletLoss",
    "VICRegLoss",
]

# The losses as a learner's `loss` names them.
LOSSES = {
    "angular": AngularLoss,
    "arcface": ArcFaceLoss,
    "center": CenterLoss,
    "circle": CircleLoss,
    "contrastive": ContrastiveLoss,
    "cosent": CoSENTLoss,
    "cosface": CosFaceLoss,
    "fastap": FastAPLoss,
    "histogram": HistogramLoss,
    "info_nce": InfoNCELoss,
    "intra_pair_variance": IntraPairVarianceLoss,
    "lifted_structure": LiftedStructureLoss,
    "margin": MarginLoss,
    "multi_similarity": MultiSimilarityLoss,
    "n_pairs": NPairsLoss,
    "nca": NCALoss,
    "normalized_softmax": NormalizedSoftmaxLoss,
    "nt_xent": NTXentLoss,
    "proxy_anchor": ProxyAnchorLoss,
    "proxy_nca": ProxyNCALoss,
    "signal_to_noise_ratio": SignalToNoiseRatioContrastiveLoss,
    "smooth_ap": SmoothAPLoss,
    "soft_triple": SoftTripleLoss,
    "sphereface": SphereFaceLoss,
    "subcenter_arcface": SubCenterArcFaceLoss,
    "supcon": SupConLoss,
    "triplet": TripletLoss,
    "vicreg": VICRegLoss,
}


def learns_from(loss, **params):
    """Say what a loss is told about points.

    Parameters
    ----------
    loss : str, class or callable
        A name in `LOSSES`, a loss, or its class.
    **params : dict
        Parameters that it is to be built with.

    Returns
    -------
    {"labels", "targets", "views"}
        Classes; numbers or sets of labels, which are more or less alike; or views, of which the
        rows of the references are those of the embeddings. It is what the attribute `learns_from`
        of a loss says, and classes where there is none or where targets are not to be graded.

    Examples
    --------
    >>> from skdml.deep.losses import learns_from
    >>> learns_from("triplet"), learns_from("cosent"), learns_from("vicreg")
    ('labels', 'targets', 'views')
    >>> learns_from("cosent", graded=False)
    'labels'
    """
    loss = LOSSES.get(loss) if isinstance(loss, str) else loss
    kind = getattr(loss, "learns_from", "labels")
    return "labels" if kind == "targets" and not params.get("graded", True) else kind
