"""Relevant component analysis: the inverse of the spread within chunks."""

from numbers import Real

import numpy as np
from sklearn.utils.validation import validate_data

from skdml.base import unchanged_on_error
from skdml.linear._eigen import (
    check_embedding_type,
    inverse_root,
    leading_by_variance,
    mix_with_standardised,
    shrink,
)
from skdml.linear._moments import drop_zero_weights, merge, moments_of
from skdml.linear._psd import root
from skdml.linear.base import LinearMetricLearner, check_n_components

EMBEDDING_TYPES = ("weighted", "plain")


def rca(within, covariance, shrinkage, embedding_type):
    """L with LᵀL = C⁻¹, or C⁻¹ Σ C⁻¹.

    Parameters
    ----------
    within : Moments
        Those of the points in chunks, by chunk.
    covariance : ndarray of shape (n_features, n_features)
        Σ, that of all points.
    shrinkage : float
        Share of the diagonal matrix mixed into C, the covariance within chunks.
    embedding_type : {"weighted", "plain"}
        See `RCA`.

    Returns
    -------
    ndarray of shape (rank, n_features)
        L, by principal axes of C if plain; else by Fisher's axes, the one with the largest
        quotient of total and within-chunk variance first.
    """
    C = shrink(within.scatter / within.n_rows, covariance.diagonal(), shrinkage)
    L = inverse_root(C, len(C), "shrinkage > 0")
    # In the coordinates L x, C is I and the quotients are the eigenvalues of the covariance.
    return L if embedding_type == "plain" else root(L @ covariance @ L.T) @ L


class RCA(LinearMetricLearner):
    """Relevant component analysis.

    Points of a chunk are known to be of one class, whichever. Along directions in which they
    still differ, differences tell little and count for little [1]_::

        M = C⁻¹,    C = 1/n Σⱼ Σᵢ (xⱼᵢ - mⱼ)(xⱼᵢ - mⱼ)ᵀ

    over the n points i in chunks j with means mⱼ. M maximises the information about X that L x
    keeps, for a mean squared distance of 1 within chunks. To M all directions are alike that
    differ as much within chunks, be they all noise. With ``embedding_type="weighted"`` each of
    Fisher's axes counts by how much more all points differ along it than those of a chunk do::

        M = C⁻¹ Σ C⁻¹,    Σ the covariance of all points

    and a share of M is Euclid's.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L: the axes along which L x varies most; with ``prior_share=0`` Fisher's,
        along which all points differ most as compared with those of a chunk. None keeps all.
    supervision : {"labels", "chunks"}, default="labels"
        What y in `fit` says: the class of each row, each class being a chunk, or the chunk of each
        row as an integer, a negative one for rows in no chunk.
    embedding_type : {"weighted", "plain"}, default="weighted"
        M = C⁻¹ Σ C⁻¹, or the paper's C⁻¹.
    shrinkage : float, default=0.2
        In [0, 1]. Share of a diagonal matrix in C, namely of the variances of all rows, times the
        mean quotient of a variance within chunks and one of all rows. 0 is the paper's C, and 1
        divides each column by its standard deviation.
    prior_share : float, default=0.25
        In [0, 1]. Share of Euclid's distance on columns of unit variance in M; 0 is the paper's.
        It keeps what neighbours know of directions that count for little in M.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M; in the dtype of X if that is a float dtype, else float64.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    MahalanobisMetric : With ``within_class=True`` C⁻¹ without shrinkage.
    KISSME : Weighs Fisher's axes by the likelihood of a difference.

    Notes
    -----
    A singular C, possible with ``shrinkage=0`` only, gives its pseudo-inverse and a UserWarning.
    Cost: O(n d²) time, O((number of chunks) d + d²) memory between batches.

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
        n_components=None,
        *,
        supervision="labels",
        embedding_type="weighted",
        shrinkage=0.2,
        prior_share=0.25,
    ):
        self.n_components = n_components
        self.supervision = supervision
        self.embedding_type = embedding_type
        self.shrinkage = shrinkage
        self.prior_share = prior_share

    def fit(self, X, y=None, sample_weight=None):
        """Learn the distance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Points.
        y : array-like of shape (n_samples,)
            Class labels of any kind, or chunks: see `supervision`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, >= 0: a row of weight 2 counts as two rows, one of weight 0 as
            none. None counts each row once.

        Returns
        -------
        self : RCA
            The fitted learner.

        Raises
        ------
        ValueError
            If X or y is not of its kind, y is of one class, no two rows of a chunk differ, or a
            parameter is out of range.
        """
        with unchanged_on_error(self):
            return self._learn(None, *self._read(X, y, sample_weight))

    def partial_fit(self, X, y=None, sample_weight=None):
        """Learn from some more rows, for data larger than memory.

        However the rows are cut into batches, the result is that of one `fit` on all of them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            More points. The first batch needs two rows that differ within a chunk.
        y : array-like of shape (n_samples,)
            Their class labels, or chunks. A chunk may go on in any batch, or begin in it.
        sample_weight : array-like of shape (n_samples,), default=None
            Their weights. None counts each row once.

        Returns
        -------
        self : RCA
            The fitted learner.

        Raises
        ------
        ValueError
            As `fit` does.
        """
        with unchanged_on_error(self):
            seen = getattr(self, "_moments", None)
            options = {"reset": seen is None, "ensure_min_samples": 1}
            return self._learn(seen, *self._read(X, y, sample_weight, min_classes=1, **options))

    def _read(self, X, y, sample_weight, min_classes=2, **options):
        """Check points and their chunks: X, the chunk of each row, whether in any, weights."""
        in_unit = (Real, False, 0, 1, "both")
        self._check_ranges(shrinkage=in_unit, prior_share=in_unit)
        check_embedding_type(self.embedding_type, EMBEDDING_TYPES)
        if self.supervision == "labels":
            X, codes, classes = self._read_labelled(X, y, min_classes, **options)
            chunks, chunked = classes[codes], np.ones(len(X), dtype=bool)
        else:
            X, chunks = validate_data(self, X, y, **self._input() | options)
            chunks = as_chunks(chunks)
            chunked = chunks >= 0
        return X, chunks, chunked, self._read_weight(sample_weight, X)

    def _learn(self, seen, X, chunks, chunked, weight):
        within, total = seen or (None, None)
        check_n_components(self.n_components, X.shape[1], "n_features")
        total = merge(total, moments_of(*drop_zero_weights(X, None, weight)))
        chunked &= weight > 0
        if chunked.any():
            rows = drop_zero_weights(X[chunked], chunks[chunked], weight[chunked])
            within = merge(within, moments_of(*rows))
        if within is None or not within.scatter.any():
            raise ValueError(
                "No two rows of one chunk differ (classes are chunks where y holds labels): there "
                "is no spread within chunks to learn from."
            )
        covariance = total.scatter / total.n_rows
        L = rca(within, covariance, self.shrinkage, self.embedding_type)
        L = mix_with_standardised(L, covariance, self.prior_share)
        if self.n_components is not None:
            L = leading_by_variance(L, covariance, self.n_components)
        self._moments = within, total
        self.components_ = L.astype(X.dtype, copy=False)
        return self


def as_chunks(y):
    """Check the chunk of each row: integers.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Chunks.

    Returns
    -------
    ndarray of int, shape (n_samples,)
        The same.

    Raises
    ------
    ValueError
        If any is no whole number.
    """
    if y.dtype.kind not in "iufb" or (y != np.floor(y)).any():
        raise ValueError(
            "y has to hold the chunk of each row as an integer, negative for rows in no chunk; got "
            f"{np.unique(y)[:5].tolist()}."
        )
    return y.astype(np.int64)
