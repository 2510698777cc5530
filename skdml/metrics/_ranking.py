"""Rank the reference points for each query, and find the ranks of its matches.

A match of a query is a reference point of its class. Ranks begin at 1 and follow increasing
distance. Reference points at equal distances are ranked by their index.
"""

from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from sklearn import get_config
from sklearn.utils import check_array, check_consistent_length, check_scalar, gen_batches

from skdml._labels import join_labels, read_labels
from skdml.distances import check_distance, euclidean_form

# Largest size of a block of distances, in MiB. Larger blocks are not faster.
_MAX_BLOCK_MIB = 256

# Up to this number of reference points, ranking many queries at once is several times as fast as
# ranking one query at a time.
_MAX_POINTS_AT_ONCE = 2**14

# Number of distances that are ranked at once. Ranking needs a few times their memory.
_DISTANCES_AT_ONCE = 2**20

_LARGEST_INT32 = np.iinfo(np.int32).max

# From this number of ties in a row, sorting the row is faster than counting for each tie.
_MANY_TIES = 40


# Gets the ranks of the matches of some queries, and their numbers of matches.
Measure = Callable[..., NDArray[np.floating]]


class RankedQueries:
    """Queries and the reference points that are ranked for them.

    Parameters
    ----------
    embeddings, labels, reference, reference_labels
        As in the functions of `skdml.metrics.retrieval`.
    metric : str
        The base distance.
    includes_queries : bool
        Whether the reference begins with the queries.

    Attributes
    ----------
    classes : ndarray of shape (n_classes,)
        The distinct labels of queries and reference points.
    codes : ndarray of int, shape (n_queries,)
        The class of each query.
    n_matches : ndarray of int, shape (n_queries,)
        Number of matches of each query.
    n_candidates : int
        Number of reference points that are ranked for a query.
    """

    def __init__(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike,
        reference: ArrayLike | None,
        reference_labels: ArrayLike | None,
        metric: str,
        includes_queries: bool,
    ) -> None:
        check_distance(metric)
        if (reference is None) != (reference_labels is None):
            missing = "reference" if reference is None else "reference_labels"
            raise ValueError(
                f"reference and reference_labels come together, but {missing} is None. Give both "
                "or neither."
            )
        # Whether a query is itself a reference point, which it must not find.
        self.excludes_itself = includes_queries or reference is None
        queries: NDArray[Any] = check_array(embeddings, dtype=[np.float64, np.float32])
        points: NDArray[Any] = queries if reference is None else check_array(reference)
        self._set_classes(queries, labels, points, reference_labels)
        if queries.shape[1] != points.shape[1]:
            raise ValueError(
                f"Queries have {queries.shape[1]} components, the reference has {points.shape[1]}. "
                "Embed both with the same learner."
            )
        n_queries = len(queries)
        if includes_queries and not np.array_equal(self.codes, self.reference_codes[:n_queries]):
            raise ValueError(
                "reference_includes_queries=True, but the reference does not begin with the "
                "queries: their labels differ."
            )
        self.manhattan = metric == "manhattan"
        self.queries, self.reference = _comparable(queries, points, metric)

    def _set_classes(
        self,
        queries: NDArray[Any],
        labels: ArrayLike,
        points: NDArray[Any],
        reference_labels: ArrayLike | None,
    ) -> None:
        """Encode the labels, and count the matches of each query."""
        names = "labels", "reference_labels"
        labels = searched = read_labels(labels, names[0], column=False)
        if reference_labels is not None:
            searched = read_labels(reference_labels, names[1], column=False)
        check_consistent_length(queries, labels)
        check_consistent_length(points, searched)
        if labels.dtype == searched.dtype and labels.dtype.kind in "biu":
            both = np.concatenate([labels, searched])
        else:
            both = join_labels(labels, searched, names)
        self.classes, codes = np.unique(both, return_inverse=True)
        self.codes, self.reference_codes = np.split(codes, [len(queries)])
        self.n_candidates = len(points) - self.excludes_itself
        class_sizes = np.bincount(self.reference_codes, minlength=len(self.classes))
        self.n_matches = class_sizes[self.codes] - self.excludes_itself
        if not self.n_matches.any():
            raise ValueError(
                f"None of the {len(queries)} queries has a match: no reference point is of "
                "the same class."
            )
        by_class = np.argsort(self.reference_codes, kind="stable")
        self.members = np.split(by_class, np.cumsum(class_sizes)[:-1])

    def check_k(self, k: int) -> None:
        """Raise unless k is from 1 to the number of candidates."""
        check_scalar(k, "k", Integral, min_val=1)
        if k > self.n_candidates:
            raise ValueError(
                f"k={k} is more than the {self.n_candidates} points to search. Take a smaller k."
            )

    def score(
        self,
        measures: dict[str, Measure],
        depth: int | str | None = None,
        n_first: int | None = None,
    ) -> dict[str, NDArray[np.floating]]:
        """Compute measures for each query that has a match; see `ranks` for the arguments."""
        blocks: dict[str, list[NDArray[np.floating]]] = {name: [] for name in measures}
        for ranks, R in self.ranks(depth, n_first):
            for name, measure in measures.items():
                blocks[name].append(measure(ranks, R))
        return {name: np.concatenate(parts) for name, parts in blocks.items()}

    def ranks(
        self, depth: int | str | None = None, n_first: int | None = None
    ) -> Iterator[tuple[NDArray[np.floating], NDArray[np.integer]]]:
        """Yield the ranks of the matches for blocks of the queries that have a match.

        Parameters
        ----------
        depth : int, "R" or None, default=None
            Ranks up to `depth` are exact; larger ranks may be too large. "R" stands for the number
            of matches of each query. With None, all ranks are exact.
        n_first : int, default=None
            Return the ranks of this number of nearest matches. None returns all.

        Yields
        ------
        ranks : ndarray of shape (n_queries, n_most)
            The ranks of the matches of each query, in increasing order. Infinity fills the rows of
            queries with fewer matches.
        R : ndarray of int, shape (n_queries,)
            Number of matches of each query.
        """
        asked = np.flatnonzero(self.n_matches)
        mib = min(get_config()["working_memory"], _MAX_BLOCK_MIB)
        n_rows = min(len(asked), max(1, int(mib * 2**20 / (8 * len(self.reference)))))
        # One buffer for all blocks, because allocating new memory is slow.
        buffer = np.empty((n_rows, len(self.reference)))
        # Blocks run one after another: threads are no faster, because memory and the interpreter
        # lock limit the speed.
        for block in gen_batches(len(asked), n_rows):
            rows = asked[block]
            D, R = self._distances(rows, buffer[: len(rows)]), self.n_matches[rows]
            n_ranked = R if n_first is None else np.minimum(R, n_first)
            n_exact = R if depth == "R" else np.full(len(R), depth or self.n_candidates)
            ranks = np.full((len(rows), n_ranked.max()), np.inf)
            left: NDArray[np.integer] = np.arange(len(rows))
            if depth is not None and D.shape[1] <= _MAX_POINTS_AT_ONCE:
                left = self._rank_at_once(n_exact.max(), D, self.codes[rows], n_ranked, ranks)
            for i in left:
                members = self.members[self.codes[rows[i]]]
                found = _rank_in_row(D[i], members, n_ranked[i], n_exact[i])
                ranks[i, : len(found)] = found
            yield ranks, R

    def _rank_at_once(
        self,
        depth: int,
        D: NDArray[np.floating],
        codes: NDArray[np.integer],
        n_ranked: NDArray[np.integer],
        ranks: NDArray[np.floating],
    ) -> NDArray[np.integer]:
        """Fill in the ranks up to `depth` of all queries without ties; return the other queries."""
        tied = np.empty(len(D), bool)
        for block in gen_batches(len(D), max(1, _DISTANCES_AT_ONCE // D.shape[1])):
            near, nearest = _nearest(D[block], depth + 1)
            match = self.reference_codes[near] == codes[block, None]
            match &= nearest < np.inf  # infinity marks the query itself
            # A tie between two matches changes nothing. A tie at the last position may continue
            # beyond it.
            differ = match[:, 1:] != match[:, :-1]
            differ[:, depth - 1 :] = True
            tied[block] = (differ & (nearest[:, 1:] == nearest[:, :-1])).any(axis=1)
            row, position = np.nonzero(match[:, :depth])
            found = np.bincount(row, minlength=len(match))
            nth = np.arange(len(row)) - (np.cumsum(found) - found)[row]
            kept = nth < n_ranked[block][row]
            ranks[block][row[kept], nth[kept]] = position[kept] + 1
        return np.flatnonzero(tied)

    def _distances(
        self, rows: NDArray[np.integer], out: NDArray[np.floating]
    ) -> NDArray[np.floating]:
        """Return numbers that order the reference points by distance, for some queries."""
        if self.manhattan:
            D = cdist(self.queries[rows], self.reference, "cityblock", out=out)
        else:  # |r|² - 2 q·r, which is the squared distance minus |q|²
            D = np.matmul(self.queries[rows], self.reference.T, out=out)
        if self.excludes_itself:
            D[np.arange(len(rows)), rows] = np.inf
        return D


def _comparable(
    queries: NDArray[Any], reference: NDArray[Any], metric: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both as float64, so that distances (Manhattan) or products order the reference."""
    same_array = queries is reference
    queries, reference = (
        euclidean_form(Z.astype(np.float64, copy=False), metric) for Z in (queries, reference)
    )
    # The order does not depend on the origin or the unit. An origin among the points keeps digits
    # if all points are far from zero. A unit that is a power of two rounds nothing.
    origin = reference[0]
    queries = queries - origin
    reference = queries if same_array else reference - origin
    largest = max(abs(queries).max(), abs(reference).max())
    unit = 2.0 ** np.frexp(largest)[1] if largest > 0 else 1.0
    queries, reference = queries / unit, reference / unit
    if metric == "manhattan":
        return queries, reference
    square = np.einsum("ij,ij->i", reference, reference)
    ones = np.ones(len(queries))
    return np.column_stack([-2 * queries, ones]), np.column_stack([reference, square])


def _nearest(
    D: NDArray[np.floating], n_nearest: int
) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
    """Return the columns of the smallest entries of each row, in order, and the entries."""
    if n_nearest < D.shape[1]:
        near = np.argpartition(D, n_nearest - 1, axis=1)[:, :n_nearest]
    else:
        near = np.broadcast_to(np.arange(D.shape[1]), D.shape)
    nearest = np.take_along_axis(D, near, axis=1)
    order = np.argsort(nearest, axis=1)
    return np.take_along_axis(near, order, axis=1), np.take_along_axis(nearest, order, axis=1)


def _rank_in_row(
    row: NDArray[np.floating], columns: NDArray[np.integer], n_ranked: int, depth: int
) -> NDArray[np.integer]:
    """Return the ranks in a row of the `n_ranked` smallest entries in `columns` (increasing).

    Entries are rounded to 31 bits, which makes sorting twice as fast. Rounding keeps the order but
    creates ties. All ties are then resolved in float64.
    """
    matches = row[columns]
    order = np.argsort(matches, kind="stable")[:n_ranked]
    exact = matches[order]
    near = np.compress(row <= exact[-1], row)  # twice as fast as indexing by a mask
    lowest = near.min()
    span = float(exact[-1] - lowest)
    scale = min(_LARGEST_INT32 / span, 1e300) if span > 0 else 0.0
    rounded, near = (((d - lowest) * scale).astype(np.int32) for d in (exact, near))
    if len(near) > depth:
        near = np.compress(near <= np.partition(near, depth - 1)[depth - 1], near)
    near.sort()
    before, through = near.searchsorted(rounded), near.searchsorted(rounded, "right")
    first = rounded.searchsorted(rounded)
    ranks = before + np.arange(1, n_ranked + 1) - first
    tied = np.flatnonzero(through - before > rounded.searchsorted(rounded, "right") - first)
    if len(tied) > _MANY_TIES:
        all_ranks = np.empty(len(row), dtype=np.intp)
        all_ranks[np.argsort(row, kind="stable")] = np.arange(1, len(row) + 1)
        return all_ranks[columns[order]]
    for i in tied:
        column = columns[order[i]]
        nearer = np.count_nonzero(row < exact[i])
        ranks[i] = nearer + np.count_nonzero(row[:column] == exact[i]) + 1
    return ranks
