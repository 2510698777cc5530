"""Retrieval: each query ranks the reference points; those of its own class should come first.

Ranks begin at 1 and go by increasing distance, those of equal distances by the place in the
reference. Every measure is a function of the ranks of a query's matches, the reference points of
its class, and so all are read off in one pass. Queries that have no match at all are left out.
Without a reference every point is a query against all others.

Distances are computed in blocks within scikit-learn's ``working_memory``.
"""

from collections.abc import Iterable
from functools import partial
from numbers import Integral

import numpy as np
from scipy.spatial.distance import cdist
from sklearn import get_config
from sklearn.utils import (
    check_array,
    check_consistent_length,
    check_scalar,
    gen_batches,
)

from skdml.distances import check_distance, euclidean_form

AVERAGES = ("query", "class", "per_class", None)

# A larger block of distances makes nothing faster.
_BLOCK_MIB = 256

# Up to so many reference points, the nearest of many queries at once are found several times as
# fast as row by row; of so many distances, since that takes a few times their memory.
_FEW_POINTS = 2**14
_AT_ONCE = 2**20

_LARGEST = np.iinfo(np.int32).max

# From so many ties on, sorting a row is quicker than counting for each.
_MANY_TIES = 40


def recall_at_k(
    embeddings,
    labels,
    reference=None,
    reference_labels=None,
    *,
    k=1,
    metric="euclidean",
    average="query",
    reference_includes_queries=False,
):
    r"""Share of the queries with a match among their k nearest reference points.

    .. math:: \mathrm{recall@k} = [r_1 \le k]

    of a query, r being the ranks of its matches, in order. It asks for one match only, and is also
    called the cumulative match characteristic, or top-k accuracy.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        Their classes.
    reference : array-like of shape (n_reference, n_components), default=None
        What is searched; None searches the queries themselves, each without itself.
    reference_labels : array-like of shape (n_reference,), default=None
        The classes of the reference.
    k : int, default=1
        How many of the nearest points count, at most as many as there are to find.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance that ranks.
    average : {"query", "class", "per_class"} or None, default="query"
        The mean over all queries, or over the means of the classes; these themselves; or, with
        None, what each query has.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order: no query then finds itself.

    Returns
    -------
    float, dict of label to float, or ndarray of shape (n_queries,)
        In [0, 1], by `average`. Where a query has no match it is NaN, and left out of means.

    Raises
    ------
    ValueError
        If no query has a match, or k is beyond the reference.

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
    queries = _Queries(
        embeddings, labels, reference, reference_labels, metric, reference_includes_queries
    )
    return queries.measure("recall_at_k", average, k=k)


def precision_at_k(
    embeddings,
    labels,
    reference=None,
    reference_labels=None,
    *,
    k=1,
    metric="euclidean",
    average="query",
    reference_includes_queries=False,
):
    r"""Share of matches among the k nearest reference points.

    .. math:: \mathrm{precision@k} = \frac1k \sum_{j=1}^{R} [r_j \le k]

    of a query, r being the ranks of its R matches. It is divided by k also where R < k, and then
    cannot reach 1. At k = 1 it is recall@1.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        Their classes.
    reference : array-like of shape (n_reference, n_components), default=None
        What is searched; None searches the queries themselves, each without itself.
    reference_labels : array-like of shape (n_reference,), default=None
        The classes of the reference.
    k : int, default=1
        How many of the nearest points count, at most as many as there are to find.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance that ranks.
    average : {"query", "class", "per_class"} or None, default="query"
        The mean over all queries, or over the means of the classes; these themselves; or, with
        None, what each query has.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order: no query then finds itself.

    Returns
    -------
    float, dict of label to float, or ndarray of shape (n_queries,)
        In [0, 1], by `average`. Where a query has no match it is NaN, and left out of means.

    Raises
    ------
    ValueError
        If no query has a match, or k is beyond the reference.

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
    queries = _Queries(
        embeddings, labels, reference, reference_labels, metric, reference_includes_queries
    )
    return queries.measure("precision_at_k", average, k=k)


def r_precision(
    embeddings,
    labels,
    reference=None,
    reference_labels=None,
    *,
    metric="euclidean",
    average="query",
    reference_includes_queries=False,
):
    r"""Share of matches among the R nearest, R being how many matches there are.

    .. math:: \mathrm{R\text{-}precision} = \frac1R \sum_{j=1}^{R} [r_j \le R]

    of a query, r being the ranks of its R matches.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        Their classes.
    reference : array-like of shape (n_reference, n_components), default=None
        What is searched; None searches the queries themselves, each without itself.
    reference_labels : array-like of shape (n_reference,), default=None
        The classes of the reference.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance that ranks.
    average : {"query", "class", "per_class"} or None, default="query"
        The mean over all queries, or over the means of the classes; these themselves; or, with
        None, what each query has.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order: no query then finds itself.

    Returns
    -------
    float, dict of label to float, or ndarray of shape (n_queries,)
        In [0, 1], by `average`. Where a query has no match it is NaN, and left out of means.

    Raises
    ------
    ValueError
        If no query has a match.

    References
    ----------
    K. Musgrave, S. Belongie, S.-N. Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.2.

    Examples
    --------
    >>> from skdml.metrics import r_precision
    >>> r_precision([[0.0], [0.1], [0.3], [0.9]], ["a", "a", "b", "b"])
    0.75
    """
    queries = _Queries(
        embeddings, labels, reference, reference_labels, metric, reference_includes_queries
    )
    return queries.measure("r_precision", average)


def map_at_r(
    embeddings,
    labels,
    reference=None,
    reference_labels=None,
    *,
    metric="euclidean",
    average="query",
    reference_includes_queries=False,
):
    r"""Mean average precision at R, R being how many matches a query has.

    .. math:: \mathrm{MAP@R} = \frac1R \sum_{j=1}^{R} \frac{j}{r_j} [r_j \le R]

    of a query, r being the ranks of its R matches, in order: j / r(j) is the precision where the
    j-th is found. It is 1 only if all matches are found before anything else.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        Their classes.
    reference : array-like of shape (n_reference, n_components), default=None
        What is searched; None searches the queries themselves, each without itself.
    reference_labels : array-like of shape (n_reference,), default=None
        The classes of the reference.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance that ranks.
    average : {"query", "class", "per_class"} or None, default="query"
        The mean over all queries, or over the means of the classes; these themselves; or, with
        None, what each query has.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order: no query then finds itself.

    Returns
    -------
    float, dict of label to float, or ndarray of shape (n_queries,)
        In [0, 1], by `average`. Where a query has no match it is NaN, and left out of means.

    Raises
    ------
    ValueError
        If no query has a match.

    References
    ----------
    K. Musgrave, S. Belongie, S.-N. Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.2.

    Examples
    --------
    >>> from skdml.metrics import map_at_r
    >>> map_at_r([[0.0], [0.1], [0.3], [0.9]], ["a", "a", "b", "b"])
    0.75
    """
    queries = _Queries(
        embeddings, labels, reference, reference_labels, metric, reference_includes_queries
    )
    return queries.measure("map_at_r", average)


def mean_average_precision(
    embeddings,
    labels,
    reference=None,
    reference_labels=None,
    *,
    metric="euclidean",
    average="query",
    reference_includes_queries=False,
):
    r"""Mean over all matches of the precision where each is found.

    .. math:: \mathrm{MAP} = \frac1R \sum_{j=1}^{R} \frac{j}{r_j}

    of a query, r being the ranks of its R matches, in order. All matches count, however late.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        Their classes.
    reference : array-like of shape (n_reference, n_components), default=None
        What is searched; None searches the queries themselves, each without itself.
    reference_labels : array-like of shape (n_reference,), default=None
        The classes of the reference.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance that ranks.
    average : {"query", "class", "per_class"} or None, default="query"
        The mean over all queries, or over the means of the classes; these themselves; or, with
        None, what each query has.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order: no query then finds itself.

    Returns
    -------
    float, dict of label to float, or ndarray of shape (n_queries,)
        In [0, 1], by `average`. Where a query has no match it is NaN, and left out of means.

    Raises
    ------
    ValueError
        If no query has a match.

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
    queries = _Queries(
        embeddings, labels, reference, reference_labels, metric, reference_includes_queries
    )
    return queries.measure("mean_average_precision", average)


def mean_reciprocal_rank(
    embeddings,
    labels,
    reference=None,
    reference_labels=None,
    *,
    metric="euclidean",
    average="query",
    reference_includes_queries=False,
):
    r"""One over the rank of the first match.

    .. math:: \mathrm{MRR} = \frac{1}{r_1}

    of a query, r(1) being the rank of its nearest match.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        Their classes.
    reference : array-like of shape (n_reference, n_components), default=None
        What is searched; None searches the queries themselves, each without itself.
    reference_labels : array-like of shape (n_reference,), default=None
        The classes of the reference.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance that ranks.
    average : {"query", "class", "per_class"} or None, default="query"
        The mean over all queries, or over the means of the classes; these themselves; or, with
        None, what each query has.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order: no query then finds itself.

    Returns
    -------
    float, dict of label to float, or ndarray of shape (n_queries,)
        In [0, 1], by `average`. Where a query has no match it is NaN, and left out of means.

    Raises
    ------
    ValueError
        If no query has a match.

    References
    ----------
    E. Voorhees, "The TREC-8 Question Answering Track Report", TREC 1999.

    Examples
    --------
    >>> from skdml.metrics import mean_reciprocal_rank
    >>> mean_reciprocal_rank([[0.0], [0.1], [0.3], [0.9]], ["a", "a", "b", "b"])
    0.8333333333333334
    """
    queries = _Queries(
        embeddings, labels, reference, reference_labels, metric, reference_includes_queries
    )
    return queries.measure("mean_reciprocal_rank", average)


def ndcg_at_k(
    embeddings,
    labels,
    reference=None,
    reference_labels=None,
    *,
    k=10,
    metric="euclidean",
    average="query",
    reference_includes_queries=False,
):
    r"""Discounted gain of the matches among the k nearest, over the best possible.

    .. math:: \mathrm{nDCG@k} = \sum_{j=1}^{R} \frac{[r_j \le k]}{\log_2(1 + r_j)} \Big/
              \sum_{i=1}^{\min(R, k)} \frac{1}{\log_2(1 + i)}

    of a query, r being the ranks of its R matches. A match gains 1, whatever else 0.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        Their classes.
    reference : array-like of shape (n_reference, n_components), default=None
        What is searched; None searches the queries themselves, each without itself.
    reference_labels : array-like of shape (n_reference,), default=None
        The classes of the reference.
    k : int, default=10
        How many of the nearest points count, at most as many as there are to find.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance that ranks.
    average : {"query", "class", "per_class"} or None, default="query"
        The mean over all queries, or over the means of the classes; these themselves; or, with
        None, what each query has.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order: no query then finds itself.

    Returns
    -------
    float, dict of label to float, or ndarray of shape (n_queries,)
        In [0, 1], by `average`. Where a query has no match it is NaN, and left out of means.

    Raises
    ------
    ValueError
        If no query has a match, or k is beyond the reference.

    References
    ----------
    K. Järvelin, J. Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 2002.

    Examples
    --------
    >>> from skdml.metrics import ndcg_at_k
    >>> ndcg_at_k([[0.0], [0.1], [0.3], [0.9]], ["a", "a", "b", "b"], k=3)
    0.875
    """
    queries = _Queries(
        embeddings, labels, reference, reference_labels, metric, reference_includes_queries
    )
    return queries.measure("ndcg_at_k", average, k=k)


def retrieval_report(
    embeddings,
    labels,
    reference=None,
    reference_labels=None,
    *,
    k=(1, 5, 10),
    metric="euclidean",
    average="query",
    reference_includes_queries=False,
):
    """Return all measures of retrieval, in one pass over the distances.

    Parameters
    ----------
    embeddings : array-like of shape (n_queries, n_components)
        The queries.
    labels : array-like of shape (n_queries,)
        Their classes.
    reference : array-like of shape (n_reference, n_components), default=None
        What is searched; None searches the queries themselves, each without itself.
    reference_labels : array-like of shape (n_reference,), default=None
        The classes of the reference.
    k : int or iterable of int, default=(1, 5, 10)
        How many of the nearest points count, for recall, precision and nDCG at k.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance that ranks.
    average : {"query", "class", "per_class"} or None, default="query"
        The mean over all queries, or over the means of the classes; these themselves; or, with
        None, what each query has.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order: no query then finds itself.

    Returns
    -------
    dict of str to float, dict or ndarray
        Each measure by its name, with the number in place of the k ("recall_at_5"): what the
        function of that name returns. Besides, "n_queries" and "n_without_match": how many queries
        there are, and how many have no match and count for nothing.

    Raises
    ------
    ValueError
        If no query has a match, or a k is beyond the reference.

    Examples
    --------
    >>> from skdml.metrics import retrieval_report
    >>> report = retrieval_report([[0.0], [0.1], [0.3], [0.9]], ["a", "a", "b", "c"], k=1)
    >>> report["recall_at_1"], report["n_without_match"]
    (1.0, 2)
    """
    queries = _Queries(
        embeddings, labels, reference, reference_labels, metric, reference_includes_queries
    )
    measures = {}
    for each in k if isinstance(k, Iterable) else (k,):
        queries.check_k(each)
        for name in _AT_K:
            measures[f"{name.removesuffix('k')}{each}"] = partial(MEASURES[name], k=each)
    measures |= {name: measure for name, measure in MEASURES.items() if name not in _AT_K}
    report = {
        name: queries.average(scores, average) for name, scores in queries.score(measures).items()
    }
    n_without = int((queries.n_matches == 0).sum())
    return report | {"n_queries": len(queries.n_matches), "n_without_match": n_without}


# The measures of a block of queries: `ranks` (n_queries, n_most) are those of the matches of each,
# in order, infinite where it has no more; `R` (n_queries,) is how many there are.


def _recall(ranks, R, k):
    return (ranks[:, 0] <= k).astype(float)


def _precision(ranks, R, k):
    return (ranks[:, :k] <= k).sum(axis=1) / k


def _ndcg(ranks, R, k):
    gain = np.where(ranks[:, :k] <= k, 1 / np.log2(1 + ranks[:, :k]), 0).sum(axis=1)
    ideal = np.cumsum(1 / np.log2(1 + np.arange(1, k + 1)))
    return gain / ideal[np.minimum(R, k) - 1]


def _r_precision(ranks, R):
    return (ranks <= R[:, None]).sum(axis=1) / R


def _precisions(ranks):
    return np.arange(1, ranks.shape[1] + 1) / ranks  # 0 where there is no more


def _map_at_r(ranks, R):
    return np.where(ranks <= R[:, None], _precisions(ranks), 0).sum(axis=1) / R


def _mean_average_precision(ranks, R):
    return _precisions(ranks).sum(axis=1) / R


def _reciprocal_rank(ranks, R):
    return 1 / ranks[:, 0]


MEASURES = {
    "recall_at_k": _recall,
    "precision_at_k": _precision,
    "ndcg_at_k": _ndcg,
    "r_precision": _r_precision,
    "map_at_r": _map_at_r,
    "mean_average_precision": _mean_average_precision,
    "mean_reciprocal_rank": _reciprocal_rank,
}
"""The measures of one query, by the name of the function that averages them."""

_AT_K = ("recall_at_k", "precision_at_k", "ndcg_at_k")
_FIRST_ONLY = ("recall_at_k", "mean_reciprocal_rank")  # need the nearest match, not the others
_AT_R = ("r_precision", "map_at_r")


class _Queries:
    """Queries against a reference."""

    def __init__(self, embeddings, labels, reference, reference_labels, metric, includes_queries):
        check_distance(metric)
        if (reference is None) != (reference_labels is None):
            raise ValueError("reference and reference_labels come together: one was missing.")
        self.itself = includes_queries or reference is None
        queries = check_array(embeddings, dtype=[np.float64, np.float32])
        given = queries if reference is None else check_array(reference)
        reference_labels = labels if reference is None else reference_labels
        check_consistent_length(queries, labels)
        check_consistent_length(given, reference_labels)
        if queries.shape[1] != given.shape[1]:
            raise ValueError(
                f"Queries have {queries.shape[1]} components, the reference has {given.shape[1]}."
            )
        self.n_candidates = len(given) - self.itself
        codes = np.unique(np.concatenate([labels, reference_labels]), return_inverse=True)
        self.classes, codes = codes
        self.codes, reference_codes = np.split(codes, [len(queries)])
        self.reference_codes = reference_codes
        if includes_queries and not np.array_equal(self.codes, reference_codes[: len(self.codes)]):
            raise ValueError("The reference does not begin with the queries: labels differ.")
        of_class = np.bincount(reference_codes, minlength=len(self.classes))
        self.n_matches = of_class[self.codes] - self.itself
        if not self.n_matches.any():
            raise ValueError(
                f"None of the {len(queries)} queries has a match: no reference point is of "
                "the same class."
            )
        by_class = np.argsort(reference_codes, kind="stable")
        self.members = np.split(by_class, np.cumsum(of_class)[:-1])
        self.manhattan = metric == "manhattan"
        self.queries, self.reference = _comparable(queries, given, metric)

    def check_k(self, k):
        """Check that there are k points to find."""
        check_scalar(k, "k", Integral, min_val=1, max_val=self.n_candidates)

    def measure(self, name, average, k=None):
        """One measure, averaged."""
        measure, depth, n_first = MEASURES[name], None, None
        if k is not None:
            self.check_k(k)
            measure, depth, n_first = partial(measure, k=k), k, k
        if name in _AT_R:
            depth = "R"
        if name in _FIRST_ONLY:
            n_first = 1
        return self.average(self.score({name: measure}, depth, n_first)[name], average)

    def score(self, measures, depth=None, n_first=None):
        """Measures of each query that has a match: a dict of {name: scores}."""
        scores = {name: [] for name in measures}
        for ranks, R in self.ranks(depth, n_first):
            for name, measure in measures.items():
                scores[name].append(measure(ranks, R))
        return {name: np.concatenate(parts) for name, parts in scores.items()}

    def average(self, scores, average):
        """Average the scores of the queries that have a match."""
        if average not in AVERAGES:
            raise ValueError(f"average={average!r} is unknown; choose one of {list(AVERAGES)}.")
        asked = self.n_matches > 0
        if average == "query":
            return float(scores.mean())
        if average is None:
            every = np.full(len(asked), np.nan)
            every[asked] = scores
            return every
        present, codes = np.unique(self.codes[asked], return_inverse=True)
        means = np.bincount(codes, scores) / np.bincount(codes)
        if average == "class":
            return float(means.mean())
        return dict(zip(self.classes[present].tolist(), means.tolist(), strict=True))

    def ranks(self, depth=None, n_first=None):
        """Yield, per block of queries with a match, the ranks of their matches and their number.

        Ranks are those of the `n_first` nearest matches (None: of all), in order. They are exact
        up to `depth` ("R": up to the number of matches; None: all), and greater beyond.
        """
        asked = np.flatnonzero(self.n_matches)
        mib = min(get_config()["working_memory"], _BLOCK_MIB)
        n_rows = min(len(asked), max(1, int(mib * 2**20 / (8 * len(self.reference)))))
        held = np.empty((n_rows, len(self.reference)))  # once: fresh memory is slow to get
        # On one thread: two are no faster, since memory and Python's lock bind them.
        for block in gen_batches(len(asked), n_rows):
            rows = asked[block]
            D, R = self._distances(rows, held[: len(rows)]), self.n_matches[rows]
            n_ranked = R if n_first is None else np.minimum(R, n_first)
            n_deep = R if depth == "R" else np.full(len(R), depth or self.n_candidates)
            ranks, left = np.full((len(rows), n_ranked.max()), np.inf), range(len(rows))
            if depth is not None and D.shape[1] <= _FEW_POINTS:
                left = self._ranks_up_to(n_deep.max(), D, self.codes[rows], n_ranked, ranks)
            for i in left:
                found = _ranks_of(D[i], self.members[self.codes[rows[i]]], n_ranked[i], n_deep[i])
                ranks[i, : len(found)] = found
            yield ranks, R

    def _ranks_up_to(self, depth, D, codes, n_ranked, ranks):
        """Fill in the ranks up to a depth of all queries but those with ties, which it returns."""
        tied = np.empty(len(D), bool)
        for block in gen_batches(len(D), max(1, _AT_ONCE // D.shape[1])):
            near, nearest = _nearest(D[block], depth + 1)
            match = self.reference_codes[near] == codes[block, None]
            match &= nearest < np.inf  # which is the query itself
            # Among matches a tie changes nothing; one at the last place may reach beyond it.
            differ = match[:, 1:] != match[:, :-1]
            differ[:, depth - 1 :] = True
            tied[block] = (differ & (nearest[:, 1:] == nearest[:, :-1])).any(axis=1)
            row, place = np.nonzero(match[:, :depth])
            found = np.bincount(row, minlength=len(match))
            nth = np.arange(len(row)) - (np.cumsum(found) - found)[row]
            kept = nth < n_ranked[block][row]
            ranks[block][row[kept], nth[kept]] = place[kept] + 1
        return np.flatnonzero(tied)

    def _distances(self, rows, out):
        """Return what ranks the reference for some queries: the farther, the greater."""
        if self.manhattan:
            D = cdist(self.queries[rows], self.reference, "cityblock", out=out)
        else:  # |r|² - 2 q·r: with |q|² it would be the square distance
            D = np.matmul(self.queries[rows], self.reference.T, out=out)
        if self.itself:
            D[np.arange(len(rows)), rows] = np.inf
        return D


def _comparable(queries, reference, metric):
    """Return both as float64, so that distances (Manhattan) or products rank them."""
    itself = queries is reference
    queries, reference = (
        euclidean_form(Z.astype(np.float64, copy=False), metric) for Z in (queries, reference)
    )
    # The ranking is the same from any origin, in any unit. A point of the cloud for the origin
    # saves the digits of clouds far from zero; a power of two for the unit loses none.
    origin = reference[0]
    queries = queries - origin
    reference = queries if itself else reference - origin
    largest = max(abs(queries).max(), abs(reference).max())
    unit = 2.0 ** np.frexp(largest)[1] if largest > 0 else 1.0
    queries, reference = queries / unit, reference / unit
    if metric == "manhattan":
        return queries, reference
    square = np.einsum("ij,ij->i", reference, reference)
    ones = np.ones(len(queries))
    return np.column_stack([-2 * queries, ones]), np.column_stack([reference, square])


def _nearest(D, n_nearest):
    """Columns of the smallest entries of each row and these entries, in order."""
    if n_nearest < D.shape[1]:
        near = np.argpartition(D, n_nearest - 1, axis=1)[:, :n_nearest]
    else:
        near = np.broadcast_to(np.arange(D.shape[1]), D.shape)
    nearest = np.take_along_axis(D, near, axis=1)
    order = np.argsort(nearest, axis=1)
    return np.take_along_axis(near, order, axis=1), np.take_along_axis(nearest, order, axis=1)


def _ranks_of(row, columns, n_ranked, depth):
    """Ranks of the `n_ranked` smallest of the entries in `columns` (increasing) of a row.

    Rounding to 31 bits keeps the order but for ties, and makes sorting twice as fast. Ties, of
    whatever origin, are then told apart in float64.
    """
    matches = row[columns]
    order = np.argsort(matches, kind="stable")[:n_ranked]
    exact = matches[order]
    near = np.compress(row <= exact[-1], row)  # twice as fast as row[...]
    lowest = near.min()
    span = float(exact[-1] - lowest)
    scale = min(_LARGEST / span, 1e300) if span > 0 else 0.0
    rounded, near = (((d - lowest) * scale).astype(np.int32) for d in (exact, near))
    if len(near) > depth:
        near = np.compress(near <= np.partition(near, depth - 1)[depth - 1], near)
    near.sort()
    before, through = near.searchsorted(rounded), near.searchsorted(rounded, "right")
    first = rounded.searchsorted(rounded)
    ranks = before + np.arange(1, n_ranked + 1) - first
    tied = np.flatnonzero(through - before > rounded.searchsorted(rounded, "right") - first)
    if len(tied) > _MANY_TIES:
        place = np.empty(len(row), dtype=np.intp)
        place[np.argsort(row, kind="stable")] = np.arange(1, len(row) + 1)
        return place[columns[order]]
    for i in tied:
        column = columns[order[i]]
        nearer = np.count_nonzero(row < exact[i])
        ranks[i] = nearer + np.count_nonzero(row[:column] == exact[i]) + 1
    return ranks
