"""Counts, means and scatter of rows: all that a learner with a closed form keeps of them."""

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

from skdml._labels import check_same_kind

ClassMeans: TypeAlias = dict[object, tuple[float, NDArray[np.floating]]]
"""The number of rows of each class, or the sum of their weights, and their mean."""


class Moments(NamedTuple):
    """Counts and means of each class, and the scatter within classes.

    Without class labels all rows form one class.

    Attributes
    ----------
    classes : dict of {label: (float, ndarray of shape (n_features,))}
        Number of rows of each class, or the sum of their weights, and their mean.
    scatter : ndarray of shape (n_features, n_features)
        Sum of (x - mean)(x - mean)ᵀ over all rows, with the mean of the class of x.
    """

    classes: ClassMeans
    scatter: NDArray[np.floating]

    @property
    def n_rows(self) -> float:
        """Number of rows, or the sum of their weights."""
        return sum(count for count, _ in self.classes.values())

    @property
    def mean(self) -> NDArray[np.floating]:
        """Mean of all rows, of shape (n_features,)."""
        return mean_of(self.classes)

    @property
    def between(self) -> NDArray[np.floating]:
        """Sum of (class mean - mean)(class mean - mean)ᵀ over all rows."""
        counts, means = zip(*self.classes.values(), strict=True)
        rows = np.array(means) - self.mean
        return (rows.T * np.array(counts)) @ rows


def drop_zero_weights(
    X: NDArray[np.floating], y: NDArray | None, weight: NDArray[np.floating] | None
) -> tuple[NDArray[np.floating], NDArray | None, NDArray[np.floating] | None]:
    """Convert rows to float64, and drop those of weight 0.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.
    y : ndarray of shape (n_samples,) or None
        Class labels.
    weight : ndarray of shape (n_samples,) or None
        Weights of the rows, >= 0.

    Returns
    -------
    X : ndarray of float64, shape (n_kept, n_features)
        The rows.
    y : ndarray of shape (n_kept,) or None
        Their class labels.
    weight : ndarray of float64, shape (n_kept,), or None
        Their weights; None if all are 1, because counts then stay whole numbers.
    """
    if weight is None or (weight == 1).all():
        return X.astype(np.float64, copy=False), y, None
    kept = weight > 0
    y = None if y is None else y[kept]
    return X[kept].astype(np.float64, copy=False), y, weight[kept].astype(np.float64)


def moments_of(
    X: NDArray[np.floating], y: ArrayLike | None = None, weight: NDArray[np.floating] | None = None
) -> Moments:
    """Moments of rows.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows, float64.
    y : ndarray of shape (n_samples,), default=None
        Class labels; None puts all rows in one class.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the rows, > 0; None counts each row once.

    Returns
    -------
    Moments
        The moments.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._moments import moments_of
    >>> moments = moments_of(np.array([[1.0], [3.0], [7.0]]), np.array([0, 0, 1]))
    >>> moments.n_rows, moments.scatter.tolist(), moments.between.round(9).tolist()
    (3, [[2.0]], [[16.666666667]])
    """
    rows, classes = centre(X, y, weight)
    return Moments(classes, scatter_of(rows, weight))


def scatter_of(
    rows: NDArray[np.floating], weight: NDArray[np.floating] | None = None
) -> NDArray[np.floating]:
    """Sum of x xᵀ over rows.

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
        Rows.
    weight : ndarray of shape (n_samples,), default=None
        Their weights.

    Returns
    -------
    ndarray of shape (n_features, n_features)
        The sum.
    """
    if weight is not None:
        rows = rows * np.sqrt(weight)[:, None]
    return rows.T @ rows


def mean_of(classes: ClassMeans) -> NDArray[np.floating]:
    """Mean of all rows, from the counts and means of classes.

    Parameters
    ----------
    classes : dict of {label: (float, ndarray of shape (n_features,))}
        Counts and means.

    Returns
    -------
    ndarray of shape (n_features,)
        The mean.
    """
    counts, means = zip(*classes.values(), strict=True)
    # The mean of differences, added to one mean: equal means then give exactly that mean.
    return means[0] + np.array(counts) @ (np.array(means) - means[0]) / sum(counts)


def centre(
    X: NDArray[np.floating], y: ArrayLike | None = None, weight: NDArray[np.floating] | None = None
) -> tuple[NDArray[np.floating], ClassMeans]:
    """Subtract from each row the mean of its class.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows, float64.
    y : ndarray of shape (n_samples,), default=None
        Class labels; None puts all rows in one class.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the rows, > 0; None counts each row once.

    Returns
    -------
    rows : ndarray of shape (n_samples, n_features)
        The centred rows. A column that is constant within a class is exactly 0 there.
    classes : dict of {label: (float, ndarray of shape (n_features,))}
        Counts, or sums of weights, and means.
    """
    if y is None:
        share = np.ones(len(X)) if weight is None else weight
        # C order: the same rows as a data frame then give the same bits.
        rows = np.subtract(X, X[0], order="C")
        shift = share @ rows / share.sum()
        rows -= shift
        return rows, {0.0: (len(X) if weight is None else float(share.sum()), X[0] + shift)}
    labels, first, codes, counts = np.unique(
        y,
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    if weight is not None:
        counts = np.bincount(codes, weight)
    # The mean of the differences from one row of the class: rounding then leaves no variance in a
    # constant column.
    start = X[first]
    rows = X - start[codes]
    share = np.ones(len(X)) if weight is None else weight
    member = csr_matrix((share, (codes, np.arange(len(X)))))
    shift = (member @ rows) / counts[:, None]
    rows -= shift[codes]
    return rows, dict(
        zip(labels.tolist(), zip(counts.tolist(), start + shift, strict=True), strict=True)
    )


def merge(a: Moments | None, b: Moments) -> Moments:
    """Moments of the union of two sets of rows (Chan, Golub & LeVeque 1979).

    Parameters
    ----------
    a : Moments or None
        Moments of one set; None for no rows.
    b : Moments
        Moments of the other set.

    Returns
    -------
    Moments
        Moments of both.

    Raises
    ------
    ValueError
        If the classes of one are strings and those of the other are numbers.
    """
    if a is None:
        return b
    known, new = (np.array(list(m.classes)[:1]) for m in (a, b))
    check_same_kind(known, new, ("earlier batches", "y"))
    classes, steps = dict(a.classes), []
    for label, (m, mean) in b.classes.items():
        n, other = classes.get(label, (0, mean))
        step = mean - other
        steps.append(step * np.sqrt(n * m / (n + m)))
        classes[label] = n + m, other + step * (m / (n + m))
    return Moments(classes, a.scatter + b.scatter + scatter_of(np.array(steps)))
