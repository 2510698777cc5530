"""How much of the prior's distance a learned one keeps: given, or chosen by the nearest rows."""

from numbers import Real

import numpy as np
from sklearn.utils import column_or_1d, gen_batches

from skdml.constraints import encode_labels
from skdml.linear._psd import root

# The shares that "auto" chooses from. M is the sum of two, so that their distances are found once.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


# How many rows at most are put to the test; all others are whom they may be near to.
_TESTED = 500


# Of how many of its nearest others a row asks the class. A count of seven tells more of a row than
# whether three outvote each other, which a change of one neighbour may turn. Of few rows, half.
_NEIGHBORS = 7


# Numbers in a block of distances.
_BLOCK = 2**20


def check_prior_share(prior_share):
    """Refuse a `prior_share` that is none.

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
    if not isinstance(prior_share, Real) or not 0 <= prior_share <= 1:
        raise ValueError(f'prior_share={prior_share!r} has to be "auto" or a number from 0 to 1.')


def mix_with_identity(A, share, unit):
    """Root of (1 - share) AᵀA + share * unit * I.

    Parameters
    ----------
    A : ndarray of shape (n_features, n_features)
        Root of M.
    share : float
        In [0, 1].
    unit : float
        Factor of the identity.

    Returns
    -------
    ndarray of shape (n_features, n_features)
        The root, whose rows are orthogonal, by decreasing length; A itself where the share is 0.

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


def choose_prior_share(Z, Z0, codes):
    """Share of the prior under which most of the rows' seven nearest others are of their class.

    Parameters
    ----------
    Z, Z0 : ndarray of shape (n_samples, n_components)
        Points by the learned map and by that of the prior, of equal total variance.
    codes : ndarray of int, shape (n_samples,)
        Their classes.

    Returns
    -------
    float
        One of `SHARES`, the least of those that are equally good.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear._prior_share import choose_prior_share
    >>> told, noise = np.array([0.0, 1, 2, 3, 10, 11, 12, 13]), np.cos(9 * np.arange(8.0))
    >>> codes = np.repeat([0, 1], 4)
    >>> choose_prior_share(told[:, None], noise[:, None], codes)
    0.0
    >>> choose_prior_share(noise[:, None], told[:, None] / 7, codes)
    0.75
    """
    k, mates = min(_NEIGHBORS, len(Z) // 2), np.zeros(len(SHARES))
    tested = min(len(Z), _TESTED)
    for rows in gen_batches(tested, max(1, _BLOCK // len(Z))):
        learned, prior = ranking_distances(Z, rows), ranking_distances(Z0, rows)
        for i, share in enumerate(SHARES):
            # In float32, equal distances are equal whatever the rounding of float64.
            D = ((1 - share) * learned + share * prior).astype(np.float32)
            mates[i] += count_same_class(D, rows, codes, k)
    return SHARES[mates.argmax()]


def ranking_distances(Z, rows):
    """Squared distances of rows to all, less what is the same for all others of a row.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Points.
    rows : slice
        Which of them.

    Returns
    -------
    ndarray of shape (n_rows, n_samples)
        |z_j|² - 2 z_i z_j.
    """
    D = Z[rows] @ Z.T
    D *= -2
    D += np.einsum("ij,ij->i", Z, Z)
    return D


def count_same_class(D, rows, codes, k):
    """Count, over all rows, how many of the k nearest others are of a row's class.

    Parameters
    ----------
    D : ndarray of shape (n_rows, n_samples)
        Distances, which are written over.
    rows : slice
        Which points the rows are.
    codes : ndarray of int, shape (n_samples,)
        Classes of all.
    k : int
        Below n_samples.

    Returns
    -------
    int
        The count. Of equally near points the first are taken.
    """
    row, count = np.arange(len(D)), 0
    D[row, row + rows.start] = np.inf
    for _ in range(k):
        nearest = D.argmin(axis=1)
        count += np.count_nonzero(codes[nearest] == codes[rows])
        D[row, nearest] = np.inf
    return count


def mix_with_prior(A, points, prior_share, y=None):
    """Mix a learned map with that of its prior.

    Parameters
    ----------
    A : ndarray of shape (n_features, n_features)
        Root of M, where the prior is a multiple of the identity.
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
    points = points - points[0]  # by differences to one of them: far from 0 no digits are lost
    points -= points.mean(axis=0, dtype=np.float64).astype(points.dtype)
    Z = points @ A.T.astype(points.dtype)
    learned, prior = (float(np.square(P, dtype=np.float64).sum()) for P in (Z, points))
    if not (learned > 0 and prior > 0):
        return A, 0.0
    if auto:
        codes = encode_labels(column_or_1d(y))[0]
        # In an order that is theirs, then by chance: who is tested, and which of two equally near
        # points is the nearer, follows from the points alone.
        order = np.lexsort((codes, *points.T[::-1]))
        order = order[np.random.RandomState(0).permutation(len(order))]
        Z, points = Z[order] / np.sqrt(learned), points[order] / np.sqrt(prior)
        share = choose_prior_share(Z, points, codes[order])
    return mix_with_identity(A, share, learned / prior), share
