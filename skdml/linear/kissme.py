"""KISSME: keep it simple and straightforward, a likelihood ratio of two Gaussians."""

from numbers import Real

import numpy as np

from skdml.linear._difference_learner import DifferenceLearner
from skdml.linear._eigen import (
    generalized_eigenvectors,
    leading_by_variance,
    mix_with_standardised,
    shrink,
)


def kissme(same, different, variance, shrinkage, contrast):
    """L with LᵀL = Σ_S⁻¹ - contrast Σ_D⁻¹, both shrunk, without what would make d² negative.

    Parameters
    ----------
    same, different : ndarray of shape (n_features, n_features)
        Mean of (x - y)(x - y)ᵀ over pairs of either kind: Σ_S and Σ_D.
    variance : ndarray of shape (n_features,)
        Variance of each column, its squared unit.
    shrinkage : float
        Share of a diagonal matrix in both.
    contrast : float
        In [0, 1].

    Returns
    -------
    ndarray of shape (rank of Σ_S, n_features)
        L. Its rows are the axes v of Σ_D v = λ Σ_S v by decreasing λ, of length vᵀ Σ_S v =
        1 - contrast / max(λ, 1).
    """
    S, D = shrink(same, variance, shrinkage), shrink(different, variance, shrinkage)
    values, axes = generalized_eigenvectors(D, S, len(S))
    # In these axes Σ_S is I and Σ_D is diag(values). Where the different are no further apart than
    # the same, the paper's weight would be negative; they count as equally far apart there.
    weight = 1 - contrast / np.maximum(values, 1)
    return axes * np.sqrt(weight)[:, None]


class KISSME(DifferenceLearner):
    """Keep it simple and straightforward metric learning.

    Differences of two points are taken for Gaussian with mean 0, those of pairs of one class with
    covariance Σ_S and those of two classes with Σ_D. d² is, but for a constant, the logarithm of
    how much more likely a difference is between two classes than within one [1]_::

        M = Σ_S⁻¹ - contrast Σ_D⁻¹

    projected to the positive semi-definite matrices, with a share of Euclid's. From labels, all
    pairs are used, by counts, means and the pooled scatter of the classes: exactly where all
    classes are equally large, and as if each had the pooled covariance otherwise.

    Parameters
    ----------
    n_components : int, default=None
        Number of rows of L: the axes along which L x varies most; with ``prior_share=0`` those
        along which Σ_D is largest as compared with Σ_S. None for n_features.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` is given: points and their classes, or pairs of points and whether each is of
        one class.
    shrinkage : float, default=0.3
        In [0, 1]. Share of a diagonal matrix in Σ_S and in Σ_D, namely of the variances of the
        columns times the mean quotient of the diagonal and those. 0 is the paper's M, and 1
        divides each column by its standard deviation.
    contrast : float, default=0.9
        In [0, 1]. 1 is the paper's M: blind to directions along which no class means differ, of
        which n_classes - 1 are all there are, if all classes have one covariance. 0 leaves
        the Mahalanobis distance within classes. In between, such directions keep the weight
        1 - contrast.
    prior_share : float, default=0.25
        In [0, 1]. Share of Euclid's distance on columns of unit variance in M: 0 is the paper's
        M, 1 divides each column by its standard deviation. Along axes that tell no classes apart
        by their means M has next to no weight, and what neighbours know of them would be lost.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L, with LᵀL = M; in the dtype of X if that is a float dtype, else float64.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    RCA : Σ_S⁻¹ alone.
    GMML : A mean of Σ_S⁻¹ and Σ_D in place of a difference of inverses.

    Notes
    -----
    The projection is made where Σ_S is I, so that M does not depend on the basis of X. A singular
    Σ_S, possible with ``shrinkage=0`` only, gives a pseudo-inverse and a UserWarning. Cost:
    O(n d²) time, O(n_classes d + d²) memory between batches.

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
        n_components=None,
        *,
        supervision="labels",
        shrinkage=0.3,
        contrast=0.9,
        prior_share=0.25,
    ):
        self.n_components = n_components
        self.supervision = supervision
        self.shrinkage = shrinkage
        self.contrast = contrast
        self.prior_share = prior_share

    def _check_parameters(self):
        in_unit = (Real, False, 0, 1, "both")
        self._check_ranges(shrinkage=in_unit, contrast=in_unit, prior_share=in_unit)

    def _components(self, same, different, covariance):
        L = kissme(same, different, covariance.diagonal(), self.shrinkage, self.contrast)
        if not L.any():
            raise ValueError(
                "Along no direction are the different further apart than the same, so that with "
                f"contrast={self.contrast} no distance is left; choose contrast < 1."
            )
        L = mix_with_standardised(L, covariance, self.prior_share)
        return leading_by_variance(L, covariance, self.n_components)
