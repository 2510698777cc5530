"""Geometric mean metric learning: between the inverse of what is near and what is far apart."""

from numbers import Real

import numpy as np
from scipy.linalg import eigh

from skdml.linear._difference_learner import DifferenceLearner
from skdml.linear._eigen import inverse_root
from skdml.linear._psd import root


def geodesic(S, D, t, n_samples):
    """S⁻¹ #_t D, the point at t on the geodesic from S⁻¹ (t = 0) to D (t = 1).

    Parameters
    ----------
    S, D : ndarray of shape (n_features, n_features)
        Symmetric positive definite matrices.
    t : float
        In [0, 1].
    n_samples : int
        How many rows they were estimated from.

    Returns
    -------
    ndarray of shape (n_features, n_features)
        S^-½ (S^½ D S^½)^t S^-½.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear.gmml import geodesic
    >>> geodesic(np.diag([1.0, 4.0]), np.diag([4.0, 4.0]), 0.5, n_samples=9).round(9) + 0.0
    array([[2., 0.],
           [0., 1.]])
    """
    # Any root L of S⁻¹ will do in place of S^-½, since a turn of it drops out.
    L = inverse_root(S, n_samples, "reg > 0")
    back = np.linalg.pinv(L)
    values, axes = eigh(back.T @ D @ back)
    half = (axes * np.maximum(values, 0) ** (t / 2)).T @ L
    return half.T @ half


class GMML(DifferenceLearner):
    """Geometric mean metric learning.

    With S and D the mean of (x - y)(x - y)ᵀ over pairs of one class and of two, M makes pairs of
    one class near by itself, and pairs of two classes near by its inverse [1]_::

        min over M > 0 of  tr(M S) + tr(M⁻¹ D)

    The minimum, the M with M S M = D, is the midpoint of the geodesic between S⁻¹ and D. The point
    at t in [0, 1] on it is S⁻¹ #_t D = S^-½ (S^½ D S^½)^t S^-½. From labels, all pairs are used,
    by counts, means and the pooled scatter of the classes: exactly where all classes are equally
    large, and as if each had the pooled covariance otherwise.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L: the leading axes of M. None for n_features.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` is given: points and their classes, or pairs of points and whether each is of
        one class.
    t : float, default=0.25
        In [0, 1]. 0 leaves the Mahalanobis distance within classes. Where S and D are alike, 0.5
        gives Euclid's distance, and more the opposite of Mahalanobis': what varies most counts
        most.
    reg : float, default=0.01
        In [0, 1]. Share in S and in D of the prior, a multiple of I of the same trace. 1 is
        Euclid's distance.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L, the root of M; in the dtype of X if that is a float dtype, else float64.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    KISSME : A difference of S⁻¹ and D⁻¹ in place of a mean.
    RCA : S⁻¹ alone.

    Notes
    -----
    M depends on the units of the columns, since S⁻¹ and D do so in opposite ways: standardise
    columns of different kinds. A singular S, possible with ``reg=0`` only, gives a pseudo-inverse
    and a UserWarning. Cost: O(n d² + d³) time, O(n_classes d + d²) memory between batches.

    References
    ----------
    .. [1] P. Zadeh, R. Hosseini & S. Sra, "Geometric mean metric learning", ICML 2016; equations
       7, 12 and 16.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import GMML
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(GMML(), KNeighborsClassifier(3)).fit(X[::2], y[::2])
    >>> round(model.score(X[1::2], y[1::2]), 2)
    0.96
    """

    def __init__(self, n_components=None, *, supervision="labels", t=0.25, reg=0.01):
        self.n_components = n_components
        self.supervision = supervision
        self.t = t
        self.reg = reg

    def _check_parameters(self):
        in_unit = (Real, False, 0, 1, "both")
        self._check_ranges(t=in_unit, reg=in_unit)

    def _components(self, same, different, covariance):
        S, D = (_with_prior(second, self.reg) for second in (same, different))
        return root(geodesic(S, D, self.t, len(S)), self.n_components)


def _with_prior(second, reg):
    return (1 - reg) * second + reg * second.diagonal().mean() * np.eye(len(second))
