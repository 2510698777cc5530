"""Retrieval: each query ranks the reference points; those of its own class should come first.

All measures rank by increasing distance, equal distances by the place in the reference, and leave
out queries that have no match at all. Without a reference every point is a query against all
others. Distances are computed in blocks within scikit-learn's ``working_memory``.
"""

from numbers import Integral

import numpy as np
from sklearn.metrics import pairwise_distances_chunked
from sklearn.utils import check_array, check_consistent_length, check_scalar

from skdml.distances import check_distance


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
    """Share of the queries with a match among their k nearest reference points.

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
        How many of the nearest points count.
    metric : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance that ranks.
    average : {"query", "class"} or None, default="query"
        The mean over all queries, or over the means of the classes; None gives each query's.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order: no query then finds itself.

    Returns
    -------
    float or ndarray of shape (n_queries,)
        In [0, 1]; of a single query NaN where it has no match.

    Raises
    ------
    ValueError
        If no query has a match, or k is beyond the reference.

    Examples
    --------
    >>> from skdml.metrics import recall_at_k
    >>> recall_at_k([[0.0], [0.1], [0.3], [0.9]], ["a", "a", "b", "b"])
    0.75
    """
    blocks = _Blocks(
        embeddings, labels, reference, reference_labels, metric, reference_includes_queries
    )
    check_scalar(k, "k", Integral, min_val=1, max_val=blocks.n_candidates)
    hits = [hit.any(axis=1) for hit, _ in blocks.ranked(lambda n_matches: k)]
    return blocks.average(np.concatenate(hits), average)


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
    r"""Mean average precision at R, R being how many matches a query has in the reference.

    .. math:: \mathrm{MAP@R} = \frac1Q \sum_q \frac1{R_q} \sum_{i=1}^{R_q} P_q(i)\,[i \in q]

    P(i) is the precision among the i nearest, and [i in q] says that the i-th has the class of
    the query. It is 1 only if every query finds all its matches before anything else.

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
    average : {"query", "class"} or None, default="query"
        The mean over all queries, or over the means of the classes; None gives each query's.
    reference_includes_queries : bool, default=False
        Whether the reference begins with the queries, in their order: no query then finds itself.

    Returns
    -------
    float or ndarray of shape (n_queries,)
        In [0, 1]; of a single query NaN where it has no match.

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
    scores = []
    blocks = _Blocks(
        embeddings, labels, reference, reference_labels, metric, reference_includes_queries
    )
    for hit, n_matches in blocks.ranked(lambda n_matches: n_matches.max()):
        rank = np.arange(1, hit.shape[1] + 1)
        hit = hit & (rank <= n_matches[:, None])
        scores.append((hit * np.cumsum(hit, axis=1) / rank).sum(axis=1) / n_matches)
    return blocks.average(np.concatenate(scores), average)


class _Blocks:
    """Queries against a reference, a block of queries at a time."""

    def __init__(self, embeddings, labels, reference, reference_labels, metric, includes_queries):
        check_distance(metric)
        if (reference is None) != (reference_labels is None):
            raise ValueError("reference and reference_labels come together: one was missing.")
        self.metric = {"angular": "cosine"}.get(metric, metric)  # the same ranking
        self.queries = check_array(embeddings, dtype=[np.float64, np.float32])
        self.itself = includes_queries or reference is None
        self.reference = self.queries if reference is None else check_array(reference)
        reference_labels = labels if reference is None else reference_labels
        check_consistent_length(self.queries, labels)
        check_consistent_length(self.reference, reference_labels)
        self.n_candidates = len(self.reference) - self.itself
        codes = np.unique(np.concatenate([labels, reference_labels]), return_inverse=True)[1]
        self.codes, self.reference_codes = np.split(codes, [len(self.queries)])
        if includes_queries and not np.array_equal(
            self.codes, self.reference_codes[: len(self.codes)]
        ):
            raise ValueError("The reference does not begin with the queries: labels differ.")
        of_class = np.bincount(self.reference_codes, minlength=codes.max() + 1)
        self.n_matches = of_class[self.codes] - self.itself
        if not self.n_matches.any():
            raise ValueError(
                f"None of the {len(self.queries)} queries has a match: no reference point is of "
                "the same class."
            )

    def average(self, scores, average):
        """Average the scores of the queries that have a match."""
        asked = self.n_matches > 0
        if average == "query":
            return float(scores.mean())
        if average == "class":
            codes = np.unique(self.codes[asked], return_inverse=True)[1]
            return float(np.mean(np.bincount(codes, scores) / np.bincount(codes)))
        if average is not None:
            raise ValueError(f"average={average!r} is unknown; choose 'query', 'class' or None.")
        every = np.full(len(asked), np.nan)
        every[asked] = scores
        return every

    def ranked(self, depth):
        """Yield, per block, which of the `depth(n_matches)` nearest match, and n_matches."""
        chunks = pairwise_distances_chunked(self.queries, self.reference, metric=self.metric)
        start = 0
        for D in chunks:
            rows = np.arange(start, start + len(D))
            start += len(D)
            if self.itself:
                D[np.arange(len(D)), rows] = np.inf
            asked = self.n_matches[rows] > 0
            if not asked.any():
                continue
            n_matches = self.n_matches[rows][asked]
            nearest = _nearest(D[asked], depth(n_matches))
            yield self.reference_codes[nearest] == self.codes[rows][asked, None], n_matches


def _nearest(D, k):
    """Columns of the k smallest entries of each row, in order, equal ones by column."""
    if k >= D.shape[1] // 4:  # a partial sort would not pay
        return np.argsort(D, axis=1, kind="stable")[:, :k]
    # All that ties with the k-th is taken, so that which of the equals remain does not depend on
    # how the partial sort happened to move them.
    kth = np.partition(D, k - 1, axis=1)[:, [k - 1]]
    row, column = np.nonzero(kth >= D)
    order = np.lexsort((column, D[row, column], row))
    first = np.searchsorted(row, np.arange(len(D)))  # np.nonzero gives the rows in order
    return column[order][first[:, None] + np.arange(k)]
