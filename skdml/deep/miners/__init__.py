"""Miners: which pairs and triplets of a batch to learn from.

A miner picks triplets (anchor, positive, negative), or pairs of both kinds, by their distances. Its
:meth:`~Miner.mine` is a function of a distance matrix, so that a loss shares its own matrix with
it.
"""

import inspect

from skdml.deep.miners._base import Miner, as_number, different_mask, label_masks, padded_slots
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

MINERS = {
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


def get_miner(miner="all", distance="euclidean", **params):
    """Return a miner, built from its name or class where it is not given ready.

    Parameters
    ----------
    miner : str, class, callable or None
        "all", "hard", "semihard", "easy_positive", "distance_weighted", "angular",
        "multi_similarity", "pair_margin" or "uniform"; None stands for "all". A class is built. Any
        other callable is returned as it is, or, where there are parameters, built anew with them.
    distance : str
        Distance of a miner given by name or class, where it takes one.
    **params : dict
        Parameters of the miner.

    Returns
    -------
    callable
        ``miner(embeddings, labels, ref_emb=None, ref_labels=None)`` gives a tuple of indices.

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
    if inspect.isclass(miner):
        names, takes_any = accepted_names(miner)
        given = {"distance": distance} if "distance" in names else {}
    elif not params:
        return miner
    else:
        given, miner = own_params(miner), type(miner)
        names, takes_any = list(given), False
    unknown = [name for name in params if name not in names]
    if unknown and not takes_any:
        raise ValueError(
            f"{miner.__name__} has no parameter {unknown[0]!r}; its parameters are {sorted(names)}"
        )
    return miner(**given | params)
