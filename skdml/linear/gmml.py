"""Geometric mean metric learning."""

from numbers import Real

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from skdml.linear._difference_learner import DifferenceLearner
from skdml.linear._eigen import inverse_root
from skdml.linear._psd import root


def geodesic(
    S: NDArray[np.floating], D: NDArray[np.floating], t: float, n_samples: int
) -> NDArray[np.floating]:
    """S⁻¹ #_t D, the point at t on the geodesic from S⁻¹ (t = 0) to D (t = 1).

    Parameters
    ----------
    S, D : ndarray of shape (n_features, n_features)
        Symmetric positive definite matrices.
    t : float
        Position on the geodesic, in [0, 1].
    n_samples : int
        Number of rows that S and D were estimated from.

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
    # Any root L of S⁻¹ can replace S^-½: the two differ by a rotation, which cancels.
    L = inverse_root(S, n_samples, "reg > 0")
    L_inverse = np.linalg.pinv(L)
    values, axes = eigh(L_inverse.T @ D @ L_inverse)
    half = (axes * np.maximum(values, 0) ** (t / 2)).T @ L
    return half.T @ half


def regularise(matrix: NDArray[np.floating], reg: float) -> NDArray[np.floating]:
    """Mix a matrix with the multiple of I that has the same trace; `reg` is the share of I."""
    return (1 - reg) * matrix + reg * matrix.diagonal().mean() * np.eye(len(matrix))


class GMML(DifferenceLearner):
    """Geometric mean metric learning.

    Let S be the mean of (x - y)(x - y)ᵀ over same pairs, and D the mean over different pairs. GMML
    makes same pairs near under M and different pairs near under the inverse of M [1]_::

        min over M > 0 of  tr(M S) + tr(M⁻¹ D)

    The minimum satisfies M S M = D. It is the midpoint of the geodesic from S⁻¹ to D. The point at
    t in [0, 1] on this geodesic is S⁻¹ #_t D = S^-½ (S^½ D S^½)^t S^-½.

    With class labels, all pairs are used. They are not listed: S and D follow from the counts,
    the means and the pooled scatter of the classes. This is exact if all classes have the same
    size. Otherwise every class is treated as having the pooled covariance.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, from 1 to n_features. The leading axes of M are kept. None keeps all.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` reads. "labels": points and class labels. "pairs": pairs of points, each
        labelled same or different.
    t : float, default=0.25
        Position on the geodesic, in [0, 1]. 0 gives the Mahalanobis distance within classes. 0.5
        gives the minimum of the objective, which is Euclidean distance if S and D are
        proportional. Above 0.5, directions with a large variance get more weight. Increase it if
        the directions of largest variance separate the classes.
    reg : float, default=0.01
        Share of the prior in S and in D, in [0, 1]. The prior is the multiple of I with the same
        trace. 1 gives Euclidean distance. Increase it if there are few rows for the number of
        columns.

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
    KISSME : Uses the difference of S⁻¹ and D⁻¹ instead of a mean.
    RCA : Uses S⁻¹ alone.

    Notes
    -----
    M depends on the units of the columns, because S⁻¹ and D depend on them in opposite ways.
    Standardise columns of different kinds. If S is singular, its pseudo-inverse is used and a
    UserWarning is raised. This can happen with ``reg=0`` only.

    With n points and d features, a fit takes O(n d² + d³) time. Between batches it keeps
    O(n_classes d + d²) numbers in memory.

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

    def __init__(
        self,
        n_components: int | None = None,
        *,
        supervision: str = "labels",
        t: float = 0.25,
        reg: float = 0.01,
    ) -> None:
        self.n_components = n_components
        self.supervision = supervision
        self.t = t
        self.reg = reg

    def _check_parameters(self) -> None:
        share = (Real, False, 0, 1, "both")
        self._check_ranges(t=share, reg=share)

    def _components(
        self,
        same: NDArray[np.floating],
        different: NDArray[np.floating],
        covariance: NDArray[np.floating],
    ) -> NDArray[np.floating]:
        S, D = (regularise(matrix, self.reg) for matrix in (same, different))
        return root(geodesic(S, D, self.t, len(S)), self.n_components)
