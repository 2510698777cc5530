"""Scorers of learned distances, for the parameter `scoring` of cross-validation and searches.

A scorer is a function of a fitted estimator, X and y. A larger score is better. The estimator is a
learner, another transformer, or a pipeline that ends in one. Its embeddings are compared by its
base distance (see `skdml.distances.base_distance_of`).
"""

from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.utils import check_scalar

from skdml._accept_rates import check_rate
from skdml._labels import read_labels
from skdml.distances import base_distance_of, paired_base_distance
from skdml.metrics import retrieval
from skdml.metrics.verification import equal_error_rate, tar_at_far, verification_report
from skdml.model_selection import make_pairs
from skdml.verification import pair_distances

VERIFICATION_MEASURES = ("eer", "roc_auc", "tar_at_far")


def make_retrieval_scorer(
    measure: str = "map_at_r", *, k: int | None = None, average: str = "query"
) -> Callable[[Any, ArrayLike, ArrayLike], float]:
    """Make a scorer from a retrieval measure.

    Each test point is a query, and all other test points are the reference. To score on unseen
    classes, use `skdml.model_selection.ClassDisjointKFold`.

    Parameters
    ----------
    measure : str, default="map_at_r"
        Name of a function of `skdml.metrics`: "recall_at_k", "precision_at_k", "ndcg_at_k",
        "r_precision", "map_at_r", "mean_average_precision" or "mean_reciprocal_rank".
    k : int, default=None
        Number of nearest points that count, at least 1, for the measures at k. None uses the
        default of the function.
    average : {"query", "class"}, default="query"
        "query" is the mean over all points. "class" is the mean over the means of the classes.

    Returns
    -------
    callable
        ``scorer(estimator, X, y)``, a float in [0, 1].

    Raises
    ------
    ValueError
        If `measure` or `average` is unknown, or if `k` is given for a measure without k.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import cross_val_score
    >>> from skdml import MahalanobisMetric
    >>> from skdml.metrics import make_retrieval_scorer
    >>> from skdml.model_selection import ClassDisjointKFold
    >>> X, y = load_digits(return_X_y=True)
    >>> cv = ClassDisjointKFold(2)
    >>> scorer = make_retrieval_scorer("recall_at_k", k=1)
    >>> scores = cross_val_score(MahalanobisMetric("oas"), X[::4], y[::4], cv=cv, scoring=scorer)
    >>> bool(scores.mean() > 0.9)
    True
    """
    if measure not in retrieval.MEASURES:
        raise ValueError(
            f"measure={measure!r} is unknown; choose one of {sorted(retrieval.MEASURES)}."
        )
    if average not in ("query", "class"):
        raise ValueError(f"average={average!r} gives no score; choose 'query' or 'class'.")
    options: dict[str, Any] = {"average": average}
    if k is not None:
        if not measure.endswith("_at_k"):
            raise ValueError(f"{measure} has no k; got k={k!r}. Leave k at None.")
        options["k"] = check_scalar(k, "k", Integral, min_val=1)
    return partial(_retrieval_score, getattr(retrieval, measure), options)


def _retrieval_score(
    measure: Callable[..., Any],
    options: dict[str, Any],
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike,
) -> float:
    labels = read_labels(y)
    return measure(embed(estimator, X), labels, metric=base_distance_of(estimator), **options)


def make_verification_scorer(
    measure: str = "eer",
    *,
    far: float = 0.01,
    supervision: str = "labels",
    n_pairs: int = 10_000,
    random_state: int | np.random.RandomState | None = 0,
) -> Callable[[Any, ArrayLike, ArrayLike], float]:
    """Make a scorer from a verification measure.

    The scorer compares the distances of same pairs with the distances of different pairs.

    Parameters
    ----------
    measure : {"eer", "roc_auc", "tar_at_far"}, default="eer"
        "eer" is the negative equal error rate (larger is better), "roc_auc" the area under the ROC
        curve, and "tar_at_far" the true-accept rate at the false-accept rate `far`.
    far : float, default=0.01
        The false-accept rate for "tar_at_far", in (0, 1).
    supervision : {"labels", "pairs"}, default="labels"
        What X and y are. With "labels", X holds points and y their classes, and pairs are drawn.
        With "pairs", X holds pairs, and y is 1 for same pairs and 0 or -1 for different pairs. The
        estimator may then also be a :class:`~skdml.verification.PairVerifier`, or a pipeline that
        ends in one.
    n_pairs : int, default=10_000
        Number of pairs to draw with "labels", half of each kind. Fewer are drawn if fewer exist.
    random_state : int, RandomState instance or None, default=0
        Seed of the draw. With an int, all candidates of a search are scored on the same pairs.

    Returns
    -------
    callable
        ``scorer(estimator, X, y)``, a float.

    Raises
    ------
    ValueError
        If `measure` or `supervision` is unknown, or `far` is out of range.

    See Also
    --------
    skdml.model_selection.PairGroupKFold : Folds of pairs without shared points.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import cross_val_score
    >>> from skdml import MahalanobisMetric
    >>> from skdml.metrics import make_verification_scorer
    >>> from skdml.model_selection import ClassDisjointKFold
    >>> X, y = load_digits(return_X_y=True)
    >>> cv = ClassDisjointKFold(2)
    >>> scorer = make_verification_scorer("roc_auc", n_pairs=1000)
    >>> scores = cross_val_score(MahalanobisMetric("oas"), X[::4], y[::4], cv=cv, scoring=scorer)
    >>> bool(scores.mean() > 0.7)
    True
    """
    if measure not in VERIFICATION_MEASURES:
        raise ValueError(
            f"measure={measure!r} is unknown; choose one of {list(VERIFICATION_MEASURES)}."
        )
    if supervision not in ("labels", "pairs"):
        raise ValueError(f"supervision={supervision!r} is unknown; choose 'labels' or 'pairs'.")
    check_rate(far, "far")
    options = {"n_pairs": n_pairs, "random_state": random_state}
    drawing = options if supervision == "labels" else None
    return partial(_verification_score, measure, far, drawing)


def _verification_score(
    measure: str,
    far: float,
    drawing: dict[str, Any] | None,
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike,
) -> float:
    same: ArrayLike
    if drawing is None:
        same, distance = y, _distances(estimator, X)
    else:
        Z = embed(estimator, X)
        pairs, same = make_pairs(Z, y, indices=True, **drawing)
        first, second = Z[pairs.T]
        distance = paired_base_distance(first, second, base_distance_of(estimator))
    if measure == "eer":
        return -equal_error_rate(same, distance)
    if measure == "tar_at_far":
        return tar_at_far(same, distance, far)
    return verification_report(same, distance, far=())["roc_auc"]


def _distances(estimator: Any, pairs: ArrayLike) -> NDArray[np.floating]:
    """Return the distance within pairs. For a verifier in a pipeline, subtract its threshold."""
    if hasattr(estimator, "pair_distance") or hasattr(estimator, "transform"):
        return pair_distances(estimator, np.asarray(pairs))
    if hasattr(estimator, "decision_function"):
        return -estimator.decision_function(pairs)
    raise ValueError(
        f"{type(estimator).__name__} has none of pair_distance, transform and decision_function. "
        "Give a learner, a PairVerifier, or a pipeline that ends in one."
    )


def embed(estimator: Any, X: ArrayLike) -> NDArray[Any]:
    """Return the embeddings of points by a fitted estimator, or raise if it has no `transform`."""
    if not hasattr(estimator, "transform"):
        raise ValueError(
            f"{type(estimator).__name__} has no transform, so there are no embeddings to score. "
            "Give a learner, or a pipeline that ends in one."
        )
    Z = estimator.transform(X)
    return Z.toarray() if issparse(Z) else np.asarray(Z)


map_at_r_scorer = make_retrieval_scorer("map_at_r")
"""Scorer by MAP@R, with each test point as a query among the others."""

recall_at_1_scorer = make_retrieval_scorer("recall_at_k", k=1)
"""Scorer by the share of test points whose nearest other point is of their class."""

equal_error_rate_scorer = make_verification_scorer("eer")
"""Scorer by the negative equal error rate of 10 000 pairs, drawn from class labels."""
