"""Retrieval measures: each query ranks the reference points; matches should come first.

A match of a query is a reference point of its class. Without a reference, each point is a query and
all other points are the reference. Every measure is a function of the ranks of the matches.
Queries without a match are left out.

Distances are computed in blocks within scikit-learn's ``working_memory``.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skdml.metrics._ranking import Measure, RankedQueries

AVERAGES = ("query", "class", "per_class", None)


def recall_at_k(
    embeddings: ArrayLike,
    labels: ArrayLike,
    reference: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    *,
    k: int = 1,
    metric: str = "euclidean",
    average: str | None = "query",
    reference_includes_queries: bool = False,
) -> float | Any:
    r"""Share of the queries with a match among their k nearest reference points.

    The value of a query is

    .. math:: \mathrm{recall@k} = [r_1 \le k]

    where r is the sequence of the ranks of its matches. One match is enough. The measure is also
    called the cumulative match characteristic, or top-k accuracy.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        The class of each query.
    reference : array-like of shape (n_reference, n_components), default=None
        The points to search. None searches the queries: each query among all others.
    reference_labels : array-like of shape (n_reference,), default=None
        The class of each reference point. Required with `reference`.
    k : int, default=1
        Number of nearest points that count, at least 1 and at most the number of points to search.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance.
    average : {"query", "class", "per_class"} or None, default="query"
        "query" is the mean over all queries. "class" is the mean over the means of the classes.
        "per_class" returns the mean of each class. None returns the value of each query.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order. If True, no query finds
        itself.

    Returns
    -------
    float, dict of label to float, or ndarray of shape (n_queries,)
        Values in [0, 1]; `average` determines the type. Queries without a match have NaN, and are
        left out of means.

    Raises
    ------
    ValueError
        If no query has a match, k is too large, or labels are invalid.

    References
    ----------
    H. Jégou, M. Douze, C. Schmid, "Product Quantization for Nearest Neighbor Search", TPAMI 2011,
    section V.

    Examples
    --------
    >>> from skdml.metrics import recall_at_k
    >>> recall_at_k([[0.0], [0.1], [0.3], [0.9]], ["a", "a", "b", "b"])
    0.75
    """
    given = (embeddings, labels, reference, reference_labels, metric, reference_includes_queries)
    return _measure("recall_at_k", average, *given, k=k)


def precision_at_k(
    embeddings: ArrayLike,
    labels: ArrayLike,
    reference: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    *,
    k: int = 1,
    metric: str = "euclidean",
    average: str | None = "query",
    reference_includes_queries: bool = False,
) -> float | Any:
    r"""Share of matches among the k nearest reference points.

    The value of a query is

    .. math:: \mathrm{precision@k} = \frac1k \sum_{j=1}^{R} [r_j \le k]

    where r is the sequence of the ranks of its R matches. The divisor is k even if R < k; the value
    is then below 1. Precision at 1 equals recall at 1.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        The class of each query.
    reference : array-like of shape (n_reference, n_components), default=None
        The points to search. None searches the queries: each query among all others.
    reference_labels : array-like of shape (n_reference,), default=None
        The class of each reference point. Required with `reference`.
    k : int, default=1
        Number of nearest points that count, at least 1 and at most the number of points to search.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance.
    average : {"query", "class", "per_class"} or None, default="query"
        "query" is the mean over all queries. "class" is the mean over the means of the classes.
        "per_class" returns the mean of each class. None returns the value of each query.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order. If True, no query finds
        itself.

    Returns
    -------
    float, dict of label to float, or ndarray of shape (n_queries,)
        Values in [0, 1]; `average` determines the type. Queries without a match have NaN, and are
        left out of means.

    Raises
    ------
    ValueError
        If no query has a match, k is too large, or labels are invalid.

    References
    ----------
    C. D. Manning, P. Raghavan, H. Schütze, "Introduction to Information Retrieval", Cambridge
    University Press 2008, section 8.4.

    Examples
    --------
    >>> from skdml.metrics import precision_at_k
    >>> precision_at_k([[0.0], [0.1], [0.3], [0.9]], ["a", "a", "b", "b"])
    0.75
    """
    given = (embeddings, labels, reference, reference_labels, metric, reference_includes_queries)
    return _measure("precision_at_k", average, *given, k=k)


def r_precision(
    embeddings: ArrayLike,
    labels: ArrayLike,
    reference: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    *,
    metric: str = "euclidean",
    average: str | None = "query",
    reference_includes_queries: bool = False,
) -> float | Any:
    r"""Share of matches among the R nearest reference points, where R is the number of matches.

    The value of a query is

    .. math:: \mathrm{R\text{-}precision} = \frac1R \sum_{j=1}^{R} [r_j \le R]

    where r is the sequence of the ranks of its R matches.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        The class of each query.
    reference : array-like of shape (n_reference, n_components), default=None
        The points to search. None searches the queries: each query among all others.
    reference_labels : array-like of shape (n_reference,), default=None
        The class of each reference point. Required with `reference`.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance.
    average : {"query", "class", "per_class"} or None, default="query"
        "query" is the mean over all queries. "class" is the mean over the means of the classes.
        "per_class" returns the mean of each class. None returns the value of each query.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order. If True, no query finds
        itself.

    Returns
    -------
    float, dict of label to float, or ndarray of shape (n_queries,)
        Values in [0, 1]; `average` determines the type. Queries without a match have NaN, and are
        left out of means.

    Raises
    ------
    ValueError
        If no query has a match, or labels are invalid.

    References
    ----------
    K. Musgrave, S. Belongie, S.-N. Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.2.

    Examples
    --------
    >>> from skdml.metrics import r_precision
    >>> r_precision([[0.0], [0.1], [0.3], [0.9]], ["a", "a", "b", "b"])
    0.75
    """
    given = (embeddings, labels, reference, reference_labels, metric, reference_includes_queries)
    return _measure("r_precision", average, *given)


def map_at_r(
    embeddings: ArrayLike,
    labels: ArrayLike,
    reference: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    *,
    metric: str = "euclidean",
    average: str | None = "query",
    reference_includes_queries: bool = False,
) -> float | Any:
    r"""Mean average precision at R, where R is the number of matches of a query.

    The value of a query is

    .. math:: \mathrm{MAP@R} = \frac1R \sum_{j=1}^{R} \frac{j}{r_j} [r_j \le R]

    where r is the sequence of the ranks of its R matches; j / r(j) is the precision at the rank of
    the j-th match. The value is 1 only if all matches come before all other points.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        The class of each query.
    reference : array-like of shape (n_reference, n_components), default=None
        The points to search. None searches the queries: each query among all others.
    reference_labels : array-like of shape (n_reference,), default=None
        The class of each reference point. Required with `reference`.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance.
    average : {"query", "class", "per_class"} or None, default="query"
        "query" is the mean over all queries. "class" is the mean over the means of the classes.
        "per_class" returns the mean of each class. None returns the value of each query.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order. If True, no query finds
        itself.

    Returns
    -------
    float, dict of label to float, or ndarray of shape (n_queries,)
        Values in [0, 1]; `average` determines the type. Queries without a match have NaN, and are
        left out of means.

    Raises
    ------
    ValueError
        If no query has a match, or labels are invalid.

    References
    ----------
    K. Musgrave, S. Belongie, S.-N. Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.2.

    Examples
    --------
    >>> from skdml.metrics import map_at_r
    >>> map_at_r([[0.0], [0.1], [0.3], [0.9]], ["a", "a", "b", "b"])
    0.75
    """
    given = (embeddings, labels, reference, reference_labels, metric, reference_includes_queries)
    return _measure("map_at_r", average, *given)


def mean_average_precision(
    embeddings: ArrayLike,
    labels: ArrayLike,
    reference: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    *,
    metric: str = "euclidean",
    average: str | None = "query",
    reference_includes_queries: bool = False,
) -> float | Any:
    r"""Mean over all matches of the precision at the rank of the match.

    The value of a query is

    .. math:: \mathrm{MAP} = \frac1R \sum_{j=1}^{R} \frac{j}{r_j}

    where r is the sequence of the ranks of its R matches. All matches count, whatever their rank.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        The class of each query.
    reference : array-like of shape (n_reference, n_components), default=None
        The points to search. None searches the queries: each query among all others.
    reference_labels : array-like of shape (n_reference,), default=None
        The class of each reference point. Required with `reference`.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance.
    average : {"query", "class", "per_class"} or None, default="query"
        "query" is the mean over all queries. "class" is the mean over the means of the classes.
        "per_class" returns the mean of each class. None returns the value of each query.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order. If True, no query finds
        itself.

    Returns
    -------
    float, dict of label to float, or ndarray of shape (n_queries,)
        Values in [0, 1]; `average` determines the type. Queries without a match have NaN, and are
        left out of means.

    Raises
    ------
    ValueError
        If no query has a match, or labels are invalid.

    References
    ----------
    C. D. Manning, P. Raghavan, H. Schütze, "Introduction to Information Retrieval", Cambridge
    University Press 2008, section 8.4.

    Examples
    --------
    >>> from skdml.metrics import mean_average_precision
    >>> mean_average_precision([[0.0], [0.1], [0.3], [0.9]], ["a", "a", "b", "b"])
    0.8333333333333334
    """
    given = (embeddings, labels, reference, reference_labels, metric, reference_includes_queries)
    return _measure("mean_average_precision", average, *given)


def mean_reciprocal_rank(
    embeddings: ArrayLike,
    labels: ArrayLike,
    reference: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    *,
    metric: str = "euclidean",
    average: str | None = "query",
    reference_includes_queries: bool = False,
) -> float | Any:
    r"""Mean of the reciprocal rank of the nearest match.

    The value of a query is

    .. math:: \mathrm{MRR} = \frac{1}{r_1}

    where r(1) is the rank of its nearest match.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        The class of each query.
    reference : array-like of shape (n_reference, n_components), default=None
        The points to search. None searches the queries: each query among all others.
    reference_labels : array-like of shape (n_reference,), default=None
        The class of each reference point. Required with `reference`.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance.
    average : {"query", "class", "per_class"} or None, default="query"
        "query" is the mean over all queries. "class" is the mean over the means of the classes.
        "per_class" returns the mean of each class. None returns the value of each query.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order. If True, no query finds
        itself.

    Returns
    -------
    float, dict of label to float, or ndarray of shape (n_queries,)
        Values in [0, 1]; `average` determines the type. Queries without a match have NaN, and are
        left out of means.

    Raises
    ------
    ValueError
        If no query has a match, or labels are invalid.

    References
    ----------
    E. Voorhees, "The TREC-8 Question Answering Track Report", TREC 1999.

    Examples
    --------
    >>> from skdml.metrics import mean_reciprocal_rank
    >>> mean_reciprocal_rank([[0.0], [0.1], [0.3], [0.9]], ["a", "a", "b", "b"])
    0.8333333333333334
    """
    given = (embeddings, labels, reference, reference_labels, metric, reference_includes_queries)
    return _measure("mean_reciprocal_rank", average, *given)


def ndcg_at_k(
    embeddings: ArrayLike,
    labels: ArrayLike,
    reference: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    *,
    k: int | None = None,
    metric: str = "euclidean",
    average: str | None = "query",
    reference_includes_queries: bool = False,
) -> float | Any:
    r"""Normalised discounted cumulative gain of the k nearest reference points.

    The value of a query is

    .. math:: \mathrm{nDCG@k} = \sum_{j=1}^{R} \frac{[r_j \le k]}{\log_2(1 + r_j)} \Big/
              \sum_{i=1}^{\min(R, k)} \frac{1}{\log_2(1 + i)}

    where r is the sequence of the ranks of its R matches. The denominator is the largest possible
    numerator. A match has gain 1, any other point gain 0.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        The class of each query.
    reference : array-like of shape (n_reference, n_components), default=None
        The points to search. None searches the queries: each query among all others.
    reference_labels : array-like of shape (n_reference,), default=None
        The class of each reference point. Required with `reference`.
    k : int, default=None
        Number of nearest points that count, at least 1 and at most the number of points to search.
        None uses 10, or all points to search if there are fewer.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance.
    average : {"query", "class", "per_class"} or None, default="query"
        "query" is the mean over all queries. "class" is the mean over the means of the classes.
        "per_class" returns the mean of each class. None returns the value of each query.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order. If True, no query finds
        itself.

    Returns
    -------
    float, dict of label to float, or ndarray of shape (n_queries,)
        Values in [0, 1]; `average` determines the type. Queries without a match have NaN, and are
        left out of means.

    Raises
    ------
    ValueError
        If no query has a match, k is too large, or labels are invalid.

    References
    ----------
    K. Järvelin, J. Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 2002.

    Examples
    --------
    >>> from skdml.metrics import ndcg_at_k
    >>> ndcg_at_k([[0.0], [0.1], [0.3], [0.9]], ["a", "a", "b", "b"], k=3)
    0.875
    """
    given = (embeddings, labels, reference, reference_labels, metric, reference_includes_queries)
    return _measure("ndcg_at_k", average, *given, k=k, default_k=10)


def retrieval_report(
    embeddings: ArrayLike,
    labels: ArrayLike,
    reference: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    *,
    k: int | Iterable[int] | None = None,
    metric: str = "euclidean",
    average: str | None = "query",
    reference_includes_queries: bool = False,
) -> dict[str, Any]:
    """Compute all retrieval measures in one pass over the distances.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        The class of each query.
    reference : array-like of shape (n_reference, n_components), default=None
        The points to search. None searches the queries: each query among all others.
    reference_labels : array-like of shape (n_reference,), default=None
        The class of each reference point. Required with `reference`.
    k : int or iterable of int, default=None
        Number of nearest points that count, for recall, precision and nDCG at k. None uses those of
        1, 5 and 10 that are not larger than the number of points to search.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance.
    average : {"query", "class", "per_class"} or None, default="query"
        "query" is the mean over all queries. "class" is the mean over the means of the classes.
        "per_class" returns the mean of each class. None returns the value of each query.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order. If True, no query finds
        itself.

    Returns
    -------
    dict of str to float, dict or ndarray
        The value of each function of `skdml.metrics`, by its name. In names, k is replaced by its
        value, as in "recall_at_5". "n_queries" is the number of queries, and "n_without_match" the
        number of queries without a match.

    Raises
    ------
    ValueError
        If no query has a match, a value of k is too large, or labels are invalid.

    Examples
    --------
    >>> from skdml.metrics import retrieval_report
    >>> report = retrieval_report([[0.0], [0.1], [0.3], [0.9]], ["a", "a", "b", "c"], k=1)
    >>> report["recall_at_1"], report["n_without_match"]
    (1.0, 2)
    """
    queries = RankedQueries(
        embeddings, labels, reference, reference_labels, metric, reference_includes_queries
    )
    measures: dict[str, Measure] = {}
    if k is None:
        k = [value for value in _REPORTED_K if value <= queries.n_candidates]
    for value in k if isinstance(k, Iterable) else (k,):
        queries.check_k(value)
        for name in _AT_K:
            measures[f"{name.removesuffix('k')}{value}"] = partial(MEASURES[name], k=value)
    measures |= {name: measure for name, measure in MEASURES.items() if name not in _AT_K}
    scores = queries.score(measures)
    report = {name: _average(queries, values, average) for name, values in scores.items()}
    n_without = int((queries.n_matches == 0).sum())
    return report | {"n_queries": len(queries.n_matches), "n_without_match": n_without}


# The values of the measures for a block of queries. `ranks` (n_queries, n_most) holds the ranks of
# the matches of each query, in increasing order and filled up with infinity. `R` (n_queries,) is
# the number of matches.


def _recall(ranks: NDArray[Any], R: NDArray[Any], k: int) -> NDArray[np.floating]:
    return (ranks[:, 0] <= k).astype(float)


def _precision(ranks: NDArray[Any], R: NDArray[Any], k: int) -> NDArray[np.floating]:
    return (ranks[:, :k] <= k).sum(axis=1) / k


def _ndcg(ranks: NDArray[Any], R: NDArray[Any], k: int) -> NDArray[np.floating]:
    gain = np.where(ranks[:, :k] <= k, 1 / np.log2(1 + ranks[:, :k]), 0).sum(axis=1)
    ideal = np.cumsum(1 / np.log2(1 + np.arange(1, k + 1)))
    return gain / ideal[np.minimum(R, k) - 1]


def _r_precision(ranks: NDArray[Any], R: NDArray[Any]) -> NDArray[np.floating]:
    return (ranks <= R[:, None]).sum(axis=1) / R


def _precisions(ranks: NDArray[Any]) -> NDArray[np.floating]:
    """Return the precision at the rank of each match; 0 for the infinities."""
    return np.arange(1, ranks.shape[1] + 1) / ranks


def _map_at_r(ranks: NDArray[Any], R: NDArray[Any]) -> NDArray[np.floating]:
    return np.where(ranks <= R[:, None], _precisions(ranks), 0).sum(axis=1) / R


def _mean_average_precision(ranks: NDArray[Any], R: NDArray[Any]) -> NDArray[np.floating]:
    return _precisions(ranks).sum(axis=1) / R


def _reciprocal_rank(ranks: NDArray[Any], R: NDArray[Any]) -> NDArray[np.floating]:
    return 1 / ranks[:, 0]


MEASURES: dict[str, Measure] = {
    "recall_at_k": _recall,
    "precision_at_k": _precision,
    "ndcg_at_k": _ndcg,
    "r_precision": _r_precision,
    "map_at_r": _map_at_r,
    "mean_average_precision": _mean_average_precision,
    "mean_reciprocal_rank": _reciprocal_rank,
}
"""The values for each query, by the name of the public function that averages them."""

_REPORTED_K = (1, 5, 10)
_AT_K = ("recall_at_k", "precision_at_k", "ndcg_at_k")
_NEAREST_MATCH_ONLY = ("recall_at_k", "mean_reciprocal_rank")
_AT_R = ("r_precision", "map_at_r")


def _measure(
    name: str,
    average: str | None,
    *given: Any,
    k: int | None = None,
    default_k: int | None = None,
) -> float | Any:
    """Compute one measure, with only as many ranks as it needs.

    If k is None, it is `default_k`, or the number of points to search if that is smaller.
    """
    queries, measure = RankedQueries(*given), MEASURES[name]
    if k is None and default_k is not None:
        k = min(default_k, queries.n_candidates)
    depth: int | str | None = "R" if name in _AT_R else k
    n_first = 1 if name in _NEAREST_MATCH_ONLY else k
    if k is not None:
        queries.check_k(k)
        measure = partial(measure, k=k)
    scores = queries.score({name: measure}, depth, n_first)
    return _average(queries, scores[name], average)


def _average(
    queries: RankedQueries, scores: NDArray[np.floating], average: str | None
) -> float | Any:
    """Average the scores of the queries that have a match."""
    if average not in AVERAGES:
        raise ValueError(f"average={average!r} is unknown; choose one of {list(AVERAGES)}.")
    asked = queries.n_matches > 0
    if average == "query":
        return float(scores.mean())
    if average is None:
        values = np.full(len(asked), np.nan)
        values[asked] = scores
        return values
    present, codes = np.unique(queries.codes[asked], return_inverse=True)
    means = np.bincount(codes, scores) / np.bincount(codes)
    if average == "class":
        return float(means.mean())
    return dict(zip(queries.classes[present].tolist(), means.tolist(), strict=True))
