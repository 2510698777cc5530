"""Relevant component analysis."""

from numbers import Real
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skdml._labels import read_labels
from skdml.base import unchanged_on_error
from skdml.linear._eigen import (
    check_embedding_type,
    inverse_root,
    leading_by_variance,
    mix_with_standardised,
    shrink,
)
from skdml.linear._moments import Moments, drop_zero_weights, merge, moments_of
from skdml.linear._psd import root
from skdml.linear.base import LinearMetricLearner, check_n_components

EMBEDDING_TYPES = ("weighted", "plain")


def rca_map(
    within: Moments, covariance: NDArray[np.floating], shrinkage: float, embedding_type: str
) -> NDArray[np.floating]:
    """L with LᵀL = C⁻¹ ("plain") or LᵀL = C⁻¹ Σ C⁻¹ ("weighted").

    Parameters
    ----------
    within : Moments
        Moments of the points in chunks, by chunk.
    covariance : ndarray of shape (n_features, n_features)
        Σ, the covariance of all points.
    shrinkage : float
        Share of the diagonal matrix in C, the covariance within chunks.
    embedding_type : {"weighted", "plain"}
        Form of M, as in `RCA`.

    Returns
    -------
    ndarray of shape (rank, n_features)
        L. "plain": by principal axes of C. "weighted": by Fisher's axes, with decreasing ratio of
        the total variance to the variance within chunks.
    """
    C = shrink(within.scatter / within.n_rows, covariance.diagonal(), shrinkage)
    L = inverse_root(C, len(C), "shrinkage > 0")
    # In the coordinates L x, C is I and the ratios are the eigenvalues of the covariance.
    return L if embedding_type == "plain" else root(L @ covariance @ L.T) @ L


def check_chunks(y: NDArray[Any]) -> NDArray[np.integer]:
    """Check that the chunk of each row is an integer.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Chunks.

    Returns
    -------
    ndarray of int, shape (n_samples,)
        The same chunks as integers.

    Raises
    ------
    ValueError
        If a chunk is not a whole number.
    """
    if y.dtype.kind not in "iufb" or (y != np.floor(y)).any():
        raise ValueError(
            'With supervision="chunks", y must hold the chunk of each row as an integer, negative '
            f"for rows in no chunk; got {np.unique(y)[:5].tolist()}."
        )
    return y.astype(np.int64)


class ChunkedRows(NamedTuple):
    """Rows and their chunks.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features)
        Points.
    chunks : ndarray of shape (n_samples,)
        Chunk of each row.
    chunked : ndarray of bool, shape (n_samples,)
        Whether each row is in a chunk.
    weight : ndarray of shape (n_samples,)
        Weight of each row.
    """

    X: NDArray[np.floating]
    chunks: NDArray[Any]
    chunked: NDArray[np.bool_]
    weight: NDArray[np.floating]


class RCA(LinearMetricLearner):
    """Relevant component analysis.

    A chunk is a set of points that are known to belong to the same class. The class itself need
    not be known. Directions in which the points of a chunk differ are irrelevant to the classes
    and get little weight [1]_::

        M = C⁻¹,    C = 1/n Σⱼ Σᵢ (xⱼᵢ - mⱼ)(xⱼᵢ - mⱼ)ᵀ

    The sum is over the n points i in chunks j with means mⱼ. With a mean squared distance of 1
    within chunks, this M maximises the information that L x keeps about X. It treats two
    directions alike if they vary equally within chunks, even if one of them is only noise. Unlike
    the paper, ``embedding_type="weighted"`` therefore multiplies the weight of each of Fisher's
    axes by the ratio of the total variance to the variance within chunks::

        M = C⁻¹ Σ C⁻¹,    Σ the covariance of all points

    M is then mixed with Euclidean distance.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, from 1 to n_features. The axes along which L x varies most are kept.
        With ``prior_share=0`` these are Fisher's axes, along which all points vary most relative
        to the points of a chunk. None keeps all.
    supervision : {"labels", "chunks"}, default="labels"
        What y in `fit` holds. "labels": the class of each row; each class is a chunk. "chunks":
        the chunk of each row as an integer, negative for rows in no chunk.
    embedding_type : {"weighted", "plain"}, default="weighted"
        Form of M. "weighted": C⁻¹ Σ C⁻¹. "plain": C⁻¹, as in the paper.
    shrinkage : float, default=0.2
        Share of a diagonal matrix in C, in [0, 1]. The diagonal matrix holds the variances of all
        rows, scaled to the size of C. 0 gives the C of the paper. 1 divides each column by its
        standard deviation. Increase it if there are few rows for the number of columns.
    prior_share : float, default=0.25
        Share of Euclidean distance on columns of unit variance in M, in [0, 1]. 0 gives the M of
        the paper. Increase it if near neighbours along directions with little weight in M are
        still informative.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M. It has the dtype of X if that is float32 or float64, otherwise float64.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    MahalanobisMetric : With ``within_class=True`` it is C⁻¹ without shrinkage.
    KISSME : Weighs Fisher's axes by the likelihood of a difference.

    Notes
    -----
    If C is singular, its pseudo-inverse is used and a UserWarning is raised. This can happen with
    ``shrinkage=0`` only.

    The diagonal matrix of `shrinkage` is c diag(variance), with c the mean over the columns of
    the diagonal of C divided by the variance of all rows.

    With n points and d features, a fit takes O(n d²) time. Between batches it keeps
    O(n_chunks d + d²) numbers in memory.

    References
    ----------
    .. [1] N. Shental, T. Hertz, D. Weinshall & M. Pavel, "Adjustment learning and relevant
       component analysis", ECCV 2002; equations 1 and 5.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import RCA
    >>> X, y = load_wine(return_X_y=True)
    >>> model = make_pipeline(RCA(), KNeighborsClassifier(3)).fit(X[::2], y[::2])
    >>> round(model.score(X[1::2], y[1::2]), 2)
    0.94
    """

    _supervisions = ("labels", "chunks")

    def __init__(
        self,
        n_components: int | None = None,
        *,
        supervision: str = "labels",
        embedding_type: str = "weighted",
        shrinkage: float = 0.2,
        prior_share: float = 0.25,
    ) -> None:
        self.n_components = n_components
        self.supervision = supervision
        self.embedding_type = embedding_type
        self.shrinkage = shrinkage
        self.prior_share = prior_share

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn the distance; earlier calls are forgotten.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Points.
        y : array-like of shape (n_samples,)
            Class labels of any kind, or chunks: see `supervision`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row, >= 0. A row of weight 2 counts as two rows, a row of weight 0 is
            left out. None gives every row the weight 1.

        Returns
        -------
        self : RCA
            The fitted learner.

        Raises
        ------
        ValueError
            If X or y is invalid; if y has a single class; if no two rows of a chunk differ; or if
            a parameter or a weight is out of range.
        """
        with unchanged_on_error(self):
            return self._learn(None, self._read(X, y, sample_weight))

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn from more rows, for data larger than memory.

        The result does not depend on how the rows are divided into batches. It equals the result
        of one `fit` on all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            More points. The first batch needs two rows that differ within a chunk.
        y : array-like of shape (n_samples,)
            Class labels, or chunks. A chunk may continue or begin in any batch.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row, as in `fit`.

        Returns
        -------
        self : RCA
            The fitted learner.

        Raises
        ------
        ValueError
            As in `fit`, except that a batch may have a single class.
        """
        with unchanged_on_error(self):
            seen = getattr(self, "_moments", None)
            options = {"reset": seen is None, "ensure_min_samples": 1}
            rows = self._read(X, y, sample_weight, min_classes=1, **options)
            return self._learn(seen, rows)

    def _read(
        self,
        X: ArrayLike,
        y: ArrayLike | None,
        sample_weight: ArrayLike | None,
        min_classes: int = 2,
        **options: Any,
    ) -> ChunkedRows:
        """Check parameters, points, chunks and weights."""
        share = (Real, False, 0, 1, "both")
        self._check_ranges(shrinkage=share, prior_share=share)
        check_embedding_type(self.embedding_type, EMBEDDING_TYPES)
        if self.supervision == "labels":
            points, codes, classes = self._read_labelled(X, y, min_classes, **options)
            chunks, chunked = classes[codes], np.ones(len(points), dtype=bool)
        else:
            y = y if y is None else read_labels(y, continuous=True)
            points, chunks = self._validate(X, y, **self._input() | options)
            chunks = check_chunks(chunks)
            chunked = chunks >= 0
        return ChunkedRows(points, chunks, chunked, self._read_weight(sample_weight, points))

    def _learn(self, seen: tuple[Moments, Moments] | None, rows: ChunkedRows) -> Self:
        """Add the moments of new rows to those of earlier batches, and compute L from both."""
        X, chunks, chunked, weight = rows
        check_n_components(self.n_components, X.shape[1], "n_features")
        within, total = seen or (None, None)
        total = merge(total, moments_of(*drop_zero_weights(X, None, weight)))
        chunked = chunked & (weight > 0)
        if chunked.any():
            in_chunks = drop_zero_weights(X[chunked], chunks[chunked], weight[chunked])
            within = merge(within, moments_of(*in_chunks))
        if within is None or not within.scatter.any():
            raise ValueError(
                "No two rows of one chunk differ, so there is no spread within chunks to learn "
                'from. With supervision="labels" each class is a chunk. Give at least one chunk '
                "two different rows."
            )

        covariance = total.scatter / total.n_rows
        L = rca_map(within, covariance, self.shrinkage, self.embedding_type)
        L = mix_with_standardised(L, covariance, self.prior_share)
        if self.n_components is not None:
            L = leading_by_variance(L, covariance, self.n_components)
        self._moments = within, total
        self._set_components(L, X.dtype)
        return self
