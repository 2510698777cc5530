"""Losses of deep metric learning, usable in any torch code.

Each loss has its own file: first its formula as pure functions, named as in the paper, then the
class. What a loss sums over decides its base class:

- pairs or triplets that a miner may choose: `PairwiseLoss` in ``_pairwise.py``. A subclass defines
  ``compute_dense``, ``compute_listed`` and ``convert_indices``.
- anchors, each with its positives and negatives: `RowLoss` in ``_matrix.py``. A subclass defines
  ``anchor_losses``. For a softmax with a temperature, `SoftmaxLoss` in ``_softmax.py``.
- all pairs of a batch together: `MatrixLoss` in ``_matrix.py``. A subclass defines ``compute``.
- points and the proxies of classes: `ProxyLoss` in ``_proxy.py``. A subclass defines ``compute``
  and ``logits``. For a softmax over cosines with a margin, `MarginSoftmaxLoss` in
  ``_margin_softmax.py``, whose subclasses define ``apply_margin``.
- pairs of views, or graded targets: `torch.nn.Module`, with the attribute ``learns_from`` set to
  "views" or "targets".

To add a loss, write its file, import the class here, and add it to ``__all__`` and `LOSSES`.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from skdml.deep.losses.angular import AngularLoss
from skdml.deep.losses.arcface import ArcFaceLoss, SubCenterArcFaceLoss
from skdml.deep.losses.center import CenterLoss
from skdml.deep.losses.circle import CircleLoss
from skdml.deep.losses.contrastive import ContrastiveLoss
from skdml.deep.losses.cosent import CoSENTLoss
from skdml.deep.losses.cosface import CosFaceLoss
from skdml.deep.losses.fast_ap import FastAPLoss
from skdml.deep.losses.histogram import HistogramLoss
from skdml.deep.losses.info_nce import InfoNCELoss
from skdml.deep.losses.intra_pair_variance import IntraPairVarianceLoss
from skdml.deep.losses.lifted_structure import LiftedStructureLoss
from skdml.deep.losses.margin import MarginLoss
from skdml.deep.losses.multi_similarity import MultiSimilarityLoss
from skdml.deep.losses.n_pairs import NPairsLoss
from skdml.deep.losses.nca import NCALoss
from skdml.deep.losses.normalized_softmax import NormalizedSoftmaxLoss
from skdml.deep.losses.nt_xent import NTXentLoss
from skdml.deep.losses.proxy_anchor import ProxyAnchorLoss
from skdml.deep.losses.proxy_nca import ProxyNCALoss
from skdml.deep.losses.signal_to_noise_ratio import SignalToNoiseRatioContrastiveLoss
from skdml.deep.losses.smooth_ap import SmoothAPLoss
from skdml.deep.losses.soft_triple import SoftTripleLoss
from skdml.deep.losses.sphereface import SphereFaceLoss
from skdml.deep.losses.supcon import SupConLoss
from skdml.deep.losses.triplet import TripletLoss
from skdml.deep.losses.vicreg import VICRegLoss

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

# The names of the losses, for the parameter `loss` of a learner.
LOSSES: dict[str, type] = {
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


def get_loss(
    loss: Any, accepted: Sequence[str] = tuple(LOSSES), owner: str = "This learner"
) -> Any:
    """Return a loss, its class, or its function, where a name may be given.

    Parameters
    ----------
    loss : str, class, callable or torch.nn.Module
        A name in `LOSSES`, a loss, or its class.
    accepted : sequence of str, default=tuple(LOSSES)
        The names of the losses of this package that may be given. Any other class, function or
        module is taken as it is.
    owner : str, default="This learner"
        Who accepts the loss, for the message.

    Returns
    -------
    class, callable or torch.nn.Module
        The loss.

    Raises
    ------
    ValueError
        If the name is unknown, if the loss is not accepted, or if it is no loss.

    Examples
    --------
    >>> from skdml.deep.losses import get_loss
    >>> get_loss("triplet").__name__
    'TripletLoss'
    """
    given = loss
    if isinstance(given, str):
        loss = LOSSES.get(given)
        if loss is None:
            raise ValueError(f"loss={given!r} is unknown; choose one of {sorted(accepted)}.")
    kind = loss if inspect.isclass(loss) else type(loss)
    if kind in LOSSES.values() and kind not in [LOSSES[name] for name in accepted]:
        raise ValueError(
            f"{owner} does not accept loss={given!r}; choose one of {sorted(accepted)}. "
            "DeepEmbedder accepts any loss."
        )
    if not callable(loss):
        raise ValueError(
            f"loss={given!r} is no loss. Pass one of {sorted(accepted)}, a torch.nn.Module, or its "
            "class."
        )
    return loss


# Losses of pytorch-metric-learning that compare two views. They have no attribute that says so.
VIEW_LOSSES_OF_PEERS = ("SelfSupervisedLoss", "VICRegLoss")


def is_view_loss_of_peer(loss: Any) -> bool:
    """Whether this is a loss of pytorch-metric-learning, or its class, that compares two views."""
    kind = loss if inspect.isclass(loss) else type(loss)
    return any(
        one.__name__ in VIEW_LOSSES_OF_PEERS
        and one.__module__.startswith("pytorch_metric_learning")
        for one in inspect.getmro(kind)
    )


def compare_views(loss: Any, one: Tensor, other: Tensor) -> Tensor:
    """Compute a loss that learns from views.

    Parameters
    ----------
    loss : callable
        The loss. It is called ``loss(one, None, ref_emb=other)``, or ``loss(one, other)`` if it
        takes no labels.
    one, other : Tensor of shape (n, d)
        The two views. Row i of both belongs to the same point.

    Returns
    -------
    Tensor of shape ()
        The loss.
    """
    is_module = isinstance(loss, torch.nn.Module)
    names = inspect.signature(loss.forward if is_module else loss).parameters
    return loss(one, None, ref_emb=other) if "labels" in names else loss(one, other)


def learns_from(loss: Any, **params: Any) -> str:
    """Return the kind of supervision that a loss needs.

    Parameters
    ----------
    loss : str, class or callable
        A name in `LOSSES`, a loss, or its class.
    **params : dict
        Parameters with which the loss will be built.

    Returns
    -------
    {"labels", "targets", "views"}
        "labels" for classes; "targets" for numbers or sets of labels, which are more or less
        similar; "views" for two views, where row i of the references belongs to row i of the
        embeddings. It is the attribute `learns_from` of the loss. Without this attribute, or with
        ``graded=False``, it is "labels". `SelfSupervisedLoss` and `VICRegLoss` of
        pytorch-metric-learning learn from views.

    Examples
    --------
    >>> from skdml.deep.losses import learns_from
    >>> learns_from("triplet"), learns_from("cosent"), learns_from("vicreg")
    ('labels', 'targets', 'views')
    >>> learns_from("cosent", graded=False)
    'labels'
    """
    loss = LOSSES.get(loss) if isinstance(loss, str) else loss
    if is_view_loss_of_peer(loss):
        return "views"
    kind = getattr(loss, "learns_from", "labels")
    return "labels" if kind == "targets" and not params.get("graded", True) else kind
