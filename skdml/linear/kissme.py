"""KISSME (keep it simple and straightforward metric): a likelihood ratio of two Gaussians."""

from numbers import Real

import numpy as np
from numpy.typing import NDArray

from skdml.linear._difference_learner import DifferenceLearner
from skdml.linear._eigen import (
    generalized_eigenvectors,
    leading_by_variance,
    mix_with_standardised,
    shrink,
)


def likelihood_ratio_map(
    same: NDArray[np.floating],
    different: NDArray[np.floating],
    variance: NDArray[np.floating],
    shrinkage: float,
    contrast: float,
) -> NDArray[np.floating]:
    """L with LᵀL = Σ_S⁻¹ - contrast Σ_D⁻¹, with both matrices shrunk and negative parts removed.

    Parameters
    ----------
    same, different : ndarray of shape (n_features, n_features)
        Mean of (x - y)(x - y)ᵀ over same pairs, Σ_S, and over different pairs, Σ_D.
    variance : ndarray of shape (n_features,)
        Variance of each column.
    shrinkage : float
        Share of a diagonal matrix in both.
    contrast : float
        Factor of Σ_D⁻¹, in [0, 1].

    Returns
    -------
    ndarray of shape (rank of Σ_S, n_features)
        L. Its rows are the axes v of Σ_D v = λ Σ_S v by decreasing λ, with vᵀ Σ_S v =
        1 - contrast / max(λ, 1).
    """
    S, D = shrink(same, variance, shrinkage), shrink(different, variance, shrinkage)
    values, axes = generalized_eigenvectors(D, S, len(S))
    # In these axes Σ_S is I and Σ_D is diag(values). If different pairs are nearer than same pairs
    # along an axis, the paper's weight can be negative. Here they count as equally far apart.
    weight = 1 - contrast / np.maximum(values, 1)
    return axes * np.sqrt(weight)[:, None]


class KISSME(DifferenceLearner):
    """Keep it simple and straightforward metric learning.

    The differences x - y are modelled as Gaussian with mean 0. Their covariance is Σ_S for same
    pairs and Σ_D for different pairs. With ``contrast=1``, d² is, up to a constant, twice the
    logarithm of a likelihood ratio: how much more likely the difference is for a different pair
    than for a same pair [1]_::

        M = Σ_S⁻¹ - contrast Σ_D⁻¹

    M is projected onto the positive semi-definite matrices and then mixed with Euclidean distance.

    With class labels, all pairs are used. They are not listed: Σ_S and Σ_D follow from the counts,
    the means and the pooled scatter of the classes. This is exact if all classes have the same
    size. Otherwise every class is treated as having the pooled covariance.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L, from 1 to n_features. The axes along which L x varies most are kept.
        With ``prior_share=0`` these are the axes along which Σ_D is largest relative to Σ_S. None
        keeps all.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` reads. "labels": points and class labels. "pairs": pairs of points, each
        labelled same or different.
    shrinkage : float, default=0.3
        Share of a diagonal matrix in Σ_S and in Σ_D, in [0, 1]. The diagonal matrix holds the
        variances of the columns, scaled to the size of Σ_S or Σ_D. 0 gives the M of the paper. 1
        divides each column by its standard deviation. Increase it if there are few rows for the
        number of columns.
    contrast : float, default=0.9
        Factor of Σ_D⁻¹, in [0, 1]. 1 gives the M of the paper. If all classes have the same
        covariance, that M is 0 along every direction in which the class means do not differ, and
        at most n_classes - 1 directions remain. 0 gives the Mahalanobis distance within classes.
        In between, directions in which the class means do not differ keep the weight
        1 - contrast.
    prior_share : float, default=0.25
        Share of Euclidean distance on columns of unit variance in M, in [0, 1]. 0 gives the M of
        the paper. 1 divides each column by its standard deviation. M has almost no weight along
        directions in which the class means do not differ. Increase `prior_share` if near
        neighbours along such directions are still informative.

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
    RCA : Uses Σ_S⁻¹ alone.
    GMML : Uses a mean of Σ_S⁻¹ and Σ_D instead of a difference of inverses.

    Notes
    -----
    The projection is made in a basis in which Σ_S is I. M therefore does not depend on the basis
    of X. If Σ_S is singular, its pseudo-inverse is used and a UserWarning is raised. This can
    happen with ``shrinkage=0`` only.

    The diagonal matrix of `shrinkage` is c diag(variance), with c the mean over the columns of
    the diagonal of Σ_S (or Σ_D) divided by the variance.

    With n points and d features, a fit takes O(n d²) time. Between batches it keeps
    O(n_classes d + d²) numbers in memory.

    References
    ----------
    .. [1] M. Köstinger, M. Hirzer, P. Wohlhart, P. M. Roth & H. Bischof, "Large scale metric
       learning from equivalence constraints", CVPR 2012; equation 17.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import KISSME
    >>> X, y = load_wine(return_X_y=True)
    >>> model = make_pipeline(KISSME(), KNeighborsClassifier(3)).fit(X[::2], y[::2])
    >>> round(model.score(X[1::2], y[1::2]), 2)
    0.96
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        supervision: str = "labels",
        shrinkage: float = 0.3,
        contrast: float = 0.9,
        prior_share: float = 0.25,
    ) -> None:
        self.n_components = n_components
        self.supervision = supervision
        self.shrinkage = shrinkage
        self.contrast = contrast
        self.prior_share = prior_share

    def _check_parameters(self) -> None:
        share = (Real, False, 0, 1, "both")
        self._check_ranges(shrinkage=share, contrast=share, prior_share=share)

    def _components(
        self,
        same: NDArray[np.floating],
        different: NDArray[np.floating],
        covariance: NDArray[np.floating],
    ) -> NDArray[np.floating]:
        variance = covariance.diagonal()
        L = likelihood_ratio_map(same, different, variance, self.shrinkage, self.contrast)
        if not L.any():
            raise ValueError(
                f"contrast={self.contrast} leaves no distance: along no direction are different "
                "pairs farther apart than same pairs. Choose contrast < 1."
            )
        L = mix_with_standardised(L, covariance, self.prior_share)
        return leading_by_variance(L, covariance, self.n_components)
