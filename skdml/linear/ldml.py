"""Logistic discriminant metric learning."""

from numbers import Real

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.utils.extmath import safe_sparse_dot

from skdml.base import unchanged_on_error
from skdml.linear._pairs import PairDistances
from skdml.linear._prior import log_det_divergence, map_by_prior
from skdml.linear._prior_share import check_prior_share, mix_with_prior
from skdml.linear._psd import leading_components
from skdml.linear._solvers import minimize_lbfgs
from skdml.linear.base import LinearMetricLearner, check_n_components


def ldml_objective(parameters, pairs, same, weight):
    """D(AᵀA, I) - weight Σ ln p: the objective on points mapped by the root of the prior.

    p is the probability of what is known of a pair: σ(b - d²) if it is the same, else σ(d² - b).

    Parameters
    ----------
    parameters : ndarray of shape (n_features**2 + 1,)
        A, row by row, with M = AᵀA; then b.
    pairs : PairDistances
        The pairs.
    same : ndarray of bool, shape (n_pairs,)
        Whether they are the same.
    weight : float
        Of each pair.

    Returns
    -------
    value : float
        At least 0.
    gradient : ndarray of shape (n_features**2 + 1,)
        By A and b.
    """
    n_features = pairs.X.shape[1]
    A, b = parameters[:-1].reshape(n_features, n_features), parameters[-1]
    squared, gradient_of = pairs(A)
    sign = np.where(same, 1.0, -1.0)
    margin = sign * (b - squared)
    slope = weight * sign * expit(-margin)
    divergence, gradient = log_det_divergence(A)
    value = divergence + weight * np.logaddexp(0, -margin).sum()
    return value, np.append(gradient + gradient_of(slope), -slope.sum())


def likeliest_bias(squared, same):
    """Bias b under which what is known of the pairs is likeliest, the distances being given.

    The derivative of the log-likelihood by b is 0: as many pairs are expected to be the same as
    are, Σ σ(b - d²) = Σ same.

    Parameters
    ----------
    squared : ndarray of shape (n_pairs,)
        d².
    same : ndarray of bool, shape (n_pairs,)
        Whether the pairs are the same; some are, and some are not.

    Returns
    -------
    float
        b.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.linear.ldml import likeliest_bias
    >>> round(likeliest_bias(np.array([1.0, 3.0]), np.array([True, False])), 6)
    2.0
    """
    far = 1 + np.log(len(squared))  # so far off, σ adds up to less than one pair
    return brentq(
        lambda b: expit(b - squared).sum() - same.sum(), squared.min() - far, squared.max() + far
    )


class LDML(LinearMetricLearner):
    """Logistic discriminant metric learning: a probability of being the same, from the distance.

    LDML [1]_ takes σ(b - d²(x, y)), with σ(t) = 1 / (1 + exp(-t)), for the probability that x and
    y are of the same class, and looks for the M and the bias b under which what is known of the
    pairs is likeliest. With a prior M₀, towards which few pairs are to leave M, it minimises

        D(M, M₀) - c Σᵢ ln p(sameᵢ | xᵢ, yᵢ)
        with D(M, M₀) = tr(M M₀⁻¹) - ln det(M M₀⁻¹) - n_features.

    That is convex and smooth in M and b, and is minimised by L-BFGS.

    Parameters
    ----------
    n_components : int, default=None
        Keep the so many leading axes of M. None keeps all n_features. Of sparse X, so many
        principal axes are taken first, and M is sought within them.
    gamma : float, default=0.2
        How much the pairs count against the prior, > 0: c is ``gamma * n_points / n_pairs``,
        n_points being the number of distinct points in the pairs, as more pairs of the same points
        tell little that is new. [1]_ has no prior, which is the limit of a large gamma; M then
        fits the pairs too well where n_features is not far below n_points.
    prior : {"identity", "covariance"} or array-like of shape (n_features, n_features), \
            default="identity"
        M₀: the identity, in a unit in which the mean square distance of points is 2; the inverse
        of their covariance (its pseudo-inverse where it is singular: M is then blind where it
        is); or a positive definite matrix.
    prior_share : "auto" or float, default="auto"
        Share of the prior's distance in M, in [0, 1], in a unit in which points are as far apart
        by it as by what was learned. 0 is the paper's M. "auto" takes the one of 0, ¼, ½, ¾ and 1
        by which most of the seven nearest others of the points (of 500 at most) are of the class
        of these, the least if several are equal; without labels it is 0.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` is given: points and their classes, from which pairs are drawn, or pairs and
        whether they are the same.
    n_constraints : int, default=None
        How many pairs of the same class to draw from labels, and as many of different ones. None
        draws ten for each row, 100 000 at most.
    max_iter : int, default=1000
        Iterations at most.
    tol : float, default=1e-4
        Relative tolerance: iteration ends when the objective falls by less than this share of its
        value at the start, or its gradient is this share of what it was.
    random_state : int, RandomState instance or None, default=None
        Decides the pairs drawn.
    verbose : int, default=0
        1 prints a line for each iteration.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        L with LᵀL = M: the axes of M, by decreasing eigenvalue. float32 if X is, else float64.
    bias_ : float
        b: the squared distance at which same and different are equally likely, for M with all its
        axes. Where M has a share of the prior's, the likeliest for that M.
    prior_share_ : float
        The share of the prior's distance in M.
    n_iter_ : int
        Number of iterations.
    loss_curve_ : ndarray of shape (n_iter_ + 1,)
        The objective at the prior and after each iteration.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names that are all strings.

    See Also
    --------
    ITML : The same prior; distances are held to bounds.

    Notes
    -----
    There is no `init`: the minimum is the same from any start, and the search begins at the prior
    with b the mean squared distance of the pairs. An evaluation takes O(n_points n_features² +
    n_pairs n_features) time and O(n_points n_features + n_pairs) memory.

    References
    ----------
    .. [1] M. Guillaumin, J. Verbeek & C. Schmid, "Is that you? Metric learning approaches for face
       identification", ICCV 2009, section 3.1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdml import LDML
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(LDML(random_state=0), KNeighborsClassifier(3))
    >>> round(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]), 2)
    0.97
    """

    _sparse = True
    _supervisions = ("labels", "pairs")

    def __init__(
        self,
        n_components=None,
        *,
        gamma=0.2,
        prior="identity",
        prior_share="auto",
        supervision="labels",
        n_constraints=None,
        max_iter=1000,
        tol=1e-4,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.gamma = gamma
        self.prior = prior
        self.prior_share = prior_share
        self.supervision = supervision
        self.n_constraints = n_constraints
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None):
        """Learn the distance.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or array-like of shape \
                (n_pairs, 2, n_features)
            Points, or with ``supervision="pairs"`` pairs of points.
        y : array-like of shape (n_samples,) or (n_pairs,)
            Class labels of any kind, or for each pair 1 if it is the same and 0 or -1 if not.

        Returns
        -------
        self : LDML
            The fitted learner.

        Raises
        ------
        ValueError
            If X is not of that shape or not finite, if all labels or pairs are of one kind, if no
            class has two samples, or if a parameter is out of range.
        """
        with unchanged_on_error(self):
            self._check_ranges(gamma=(Real, False, 0, None, "neither"))
            check_prior_share(self.prior_share)
            X, first, second, same = self._read_pairs(X, y)
            n_components = check_n_components(self.n_components, X.shape[1], "n_features")
            points, L0, first, second = map_by_prior(self.prior, n_components, X, first, second)
            pairs, prior = PairDistances(points, first, second), np.eye(len(L0))
            weight = self.gamma * len(points) / len(pairs)
            found, self.loss_curve_, self.n_iter_ = minimize_lbfgs(
                lambda parameters: ldml_objective(parameters, pairs, same, weight),
                np.append(prior, pairs(prior)[0].mean()),
                max_iter=self.max_iter,
                tol=self.tol,
                name="LDML",
                verbose=self.verbose,
            )
            A, b = found[:-1].reshape(prior.shape), found[-1]
            mapped = safe_sparse_dot(X, L0.T.astype(X.dtype), dense_output=True)
            A, self.prior_share_ = mix_with_prior(
                A, mapped, self.prior_share, y if self.supervision == "labels" else None
            )
            self.bias_ = float(likeliest_bias(pairs(A)[0], same) if self.prior_share_ else b)
            self.components_ = leading_components(A @ L0, n_components).astype(X.dtype)
            return self
