"""The share of the prior in a learned M: given, or chosen by the classes of nearest neighbours."""

from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import gen_batches

from skdml._labels import read_values
from skdml.constraints import encode_labels
from skdml.linear._psd import root

# The shares that "auto" chooses from. M is a sum of two matrices, and so is each squared distance:
# the distances under both are computed once for all shares.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)

# At most this many rows are scored. Their neighbours are searched among all rows.
_TESTED = 500

# How many nearest neighbours of a row are compared with its class; half of the rows if there are
# few. Counting seven is more stable than a vote of three, which a single neighbour can turn.
_NEIGHBORS = 7

# Numbers in a block of distances.
_BLOCK = 2**20


def check_prior_share(prior_share: object) -> None:
    """Refuse an invalid `prior_share`.

    Parameters
    ----------
    prior_share : object
        The parameter.

    Raises
    ------
    ValueError
        If it is neither "auto" nor a number in [0, 1].
    """
    if isinstance(prior_share, str) and prior_share == "auto":
        return
    if not isinstance(prior_share, Real) or not 0 <= float(prior_share) <= 1:
        raise ValueError(f'prior_share={prior_share!r} has to be "auto" or a number from 0 to 1.')


def mix_with_prior(
    A: NDArray[np.floating],
    points: NDArray[np.floating],
    prior_share: float | str,
    y: ArrayLike | None = None,
) -> tuple[NDArray[np.floating], float]:
    """Mix a learned M with its prior.

    Parameters
    ----------
    A : ndarray of shape (n_features, n_features)
        Root of M. The prior is a multiple of the identity.
    points : ndarray of shape (n_samples, n_features)
        The points that `fit` was given.
    prior_share : float or "auto"
        Share of the prior, in [0, 1]. "auto" lets `choose_prior_share` choose by the class
        labels, and is 0 without them.
    y : array-like of shape (n_samples,), default=None
        Class labels of the points. Only "auto" reads them.

    Returns
    -------
    A : ndarray of shape (n_features, n_features)
        Root of the mixture. The total variance of the points is the same as under M.
    share : float
        Share of the prior.
    """
    auto = isinstance(prior_share, str)
    share = 0.0 if auto else float(prior_share)
    if share == 0 and (not auto or y is None):
        return A, share
    points = points - points[0]  # differences first: points far from 0 then lose no digits
    points -= points.mean(axis=0, dtype=np.float64).astype(points.dtype)
    Z = points @ A.T.astype(points.dtype)
    learned, prior = (float(np.square(P, dtype=np.float64).sum()) for P in (Z, points))
    if not (learned > 0 and prior > 0):
        return A, 0.0
    if auto:
        codes = encode_labels(read_values(y, "y").ravel())[0]
        # Sorted, then shuffled with a fixed seed: which rows are scored, and which of two equally
        # near points counts as nearer, does not depend on the order of the rows.
        order = np.lexsort((codes, *points.T[::-1]))
        order = order[np.random.RandomState(0).permutation(len(order))]
        Z, points = Z[order] / np.sqrt(learned), points[order] / np.sqrt(prior)
        share = choose_prior_share(Z, points, codes[order])
    return mix_with_identity(A, share, learned / prior), share


def mix_with_identity(A: NDArray[np.floating], share: float, unit: float) -> NDArray[np.floating]:
    """Root of (1 - share) AᵀA + share * unit * I.

    Parameters
    ----------
    A : ndarray of shape (n_features, n_features)
        Root of M.
    share : float
        Share of the identity, in [0, 1].
    unit : float
        Factor of the identity.

    Returns
    -------
    ndarray of shape (n_features, n_features)
        The root with orthogonal rows, by decreasing length; A itself if the share is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._prior_share import mix_with_identity
    >>> mix_with_identity(np.diag([1.0, 0.0]), 0.5, 0.5) ** 2
    array([[0.75, 0.  ],
           [0.  , 0.25]])
    """
    if share == 0:
        return A
    return root((1 - share) * A.T @ A + share * unit * np.eye(len(A)))


def choose_prior_share(
    Z: NDArray[np.floating], Z0: NDArray[np.floating], codes: NDArray[np.integer]
) -> float:
    """Share of the prior for which most of the seven nearest neighbours have the class of the row.

    Parameters
    ----------
    Z, Z0 : ndarray of shape (n_samples, n_components)
        Points under the learned map and under that of the prior, with the same total variance.
    codes : ndarray of int, shape (n_samples,)
        Their classes.

    Returns
    -------
    float
        One of `SHARES`; the smallest of those that are equally good.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._prior_share import choose_prior_share
    >>> signal, noise = np.array([0.0, 1, 2, 3, 10, 11, 12, 13]), np.cos(9 * np.arange(8.0))
    >>> codes = np.repeat([0, 1], 4)
    >>> choose_prior_share(signal[:, None], noise[:, None], codes)
    0.0
    >>> choose_prior_share(noise[:, None], signal[:, None] / 7, codes)
    0.75
    """
    k, counts = min(_NEIGHBORS, len(Z) // 2), np.zeros(len(SHARES))
    n_tested = min(len(Z), _TESTED)
    for rows in gen_batches(n_tested, max(1, _BLOCK // len(Z))):
        learned, prior = ranking_distances(Z, rows), ranking_distances(Z0, rows)
        for i, share in enumerate(SHARES):
            # In float32, equal distances stay equal whatever the rounding in float64.
            D = ((1 - share) * learned + share * prior).astype(np.float32)
            counts[i] += count_same_class(D, rows, codes, k)
    return SHARES[counts.argmax()]


def ranking_distances(Z: NDArray[np.floating], rows: slice) -> NDArray[np.floating]:
    """Squared distances from rows to all points, up to a constant for each row.

    The constant |z_i|² does not change which points are nearest to row i.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Points.
    rows : slice
        The rows.

    Returns
    -------
    ndarray of shape (n_rows, n_samples)
        |z_j|² - 2 z_i z_j.
    """
    D = Z[rows] @ Z.T
    D *= -2
    D += np.einsum("ij,ij->i", Z, Z)
    return D


def count_same_class(
    D: NDArray[np.floating], rows: slice, codes: NDArray[np.integer], k: int
) -> int:
    """Count how many of the k nearest neighbours have the class of their row, over all rows.

    Parameters
    ----------
    D : ndarray of shape (n_rows, n_samples)
        Distances. They are overwritten.
    rows : slice
        Positions of the rows among the points.
    codes : ndarray of int, shape (n_samples,)
        Classes of all points.
    k : int
        Number of neighbours, below n_samples.

    Returns
    -------
    int
        The count. Of equally near points the first are taken.
    """
    row, count = np.arange(len(D)), 0
    D[row, row + rows.start] = np.inf
    for _ in range(k):
        nearest = D.argmin(axis=1)
        count += int(np.count_nonzero(codes[nearest] == codes[rows]))
        D[row, nearest] = np.inf
    return count
