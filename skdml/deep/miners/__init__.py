"""Miners, which choose the pairs or triplets of a batch that a loss learns from.

A miner chooses triplets (anchor, positive, negative), or positive and negative pairs, by their
distances. Its method :meth:`~Miner.mine` takes a distance matrix, so a loss can pass its own. Most
miners have their own file: first the rule as a pure function, then the class.

To add a miner, write its file, import the class here, and add it to ``__all__`` and `MINERS`.
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from skdml.deep._pairs import as_number, different_mask, label_masks, padded_slots
from skdml.deep.miners._base import Miner
from skdml.deep.miners.angular import AngularMiner
from skdml.deep.miners.distance_weighted import DistanceWeightedMiner
from skdml.deep.miners.multi_similarity import MultiSimilarityMiner
from skdml.deep.miners.pair_margin import PairMarginMiner
from skdml.deep.miners.triplet import (
    AllTripletsMiner,
    BatchHardMiner,
    EasyPositiveMiner,
    SemiHardMiner,
)
from skdml.deep.miners.uniform import UniformMiner
from skdml.deep.parameters import accepted_names, own_params

__all__ = [
    "AllTripletsMiner",
    "AngularMiner",
    "BatchHardMiner",
    "DistanceWeightedMiner",
    "EasyPositiveMiner",
    "Miner",
    "MultiSimilarityMiner",
    "PairMarginMiner",
    "SemiHardMiner",
    "UniformMiner",
    "as_number",
    "different_mask",
    "get_miner",
    "label_masks",
    "padded_slots",
]

# The names of the miners, for the parameter `miner` of a loss or a learner.
MINERS: dict[str, type[Miner]] = {
    "all": AllTripletsMiner,
    "hard": BatchHardMiner,
    "semihard": SemiHardMiner,
    "easy_positive": EasyPositiveMiner,
    "distance_weighted": DistanceWeightedMiner,
    "angular": AngularMiner,
    "multi_similarity": MultiSimilarityMiner,
    "pair_margin": PairMarginMiner,
    "uniform": UniformMiner,
}


def get_miner(
    miner: str | type | Callable[..., Any] | None = "all",
    distance: str = "euclidean",
    **params: Any,
) -> Callable[..., tuple[Tensor, ...]]:
    """Return a miner, and build it first if it is given by name or class.

    Parameters
    ----------
    miner : str, class, callable or None, default="all"
        "all", "hard", "semihard", "easy_positive", "distance_weighted", "angular",
        "multi_similarity", "pair_margin" or "uniform"; None means "all". A class is built. Any
        other callable is returned as it is; with `params`, a new one is built with them.
    distance : str, default="euclidean"
        Distance of a miner given by name or class, if it takes one.
    **params : dict
        Parameters of the miner. They replace those of a miner that is already built.

    Returns
    -------
    callable
        ``miner(embeddings, labels, ref_emb=None, ref_labels=None)`` returns a tuple of indices.

    Raises
    ------
    ValueError
        If the name is unknown, or a parameter is unknown or out of range.

    Examples
    --------
    >>> get_miner("hard", "cosine")
    BatchHardMiner(distance='cosine')
    >>> get_miner("multi_similarity", "cosine", epsilon=0.2)
    MultiSimilarityMiner(epsilon=0.2, distance='cosine')
    """
    if miner is None:
        miner = "all"
    if isinstance(miner, str) and miner in MINERS:
        miner = MINERS[miner]
    if isinstance(miner, str) or not callable(miner):
        raise ValueError(f"miner must be one of {', '.join(MINERS)}, or callable; got {miner!r}")
    kind: Any = miner
    if inspect.isclass(kind):
        names, takes_any = accepted_names(kind)
        given = {"distance": distance} if "distance" in names else {}
    elif not params:
        return kind
    else:
        given, kind = own_params(kind), type(kind)
        names, takes_any = list(given), False
    unknown = [name for name in params if name not in names]
    if unknown and not takes_any:
        raise ValueError(
            f"{kind.__name__} has no parameter {unknown[0]!r}; its parameters are {sorted(names)}"
        )
    return kind(**given | params)
