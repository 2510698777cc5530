"""The siamese and the triplet learner: `DeepEmbedder` with the losses of one family."""

from skdml.deep.base import DeepEmbedder


class DeepSiameseEmbedder(DeepEmbedder):
    r"""Siamese network: both points of a pair pass through one network (the contrastive loss).

    .. math:: \ell(x, y) = z\,d(x, y) + (1 - z)\,\max(0, m - d(x, y))

    z is 1 if x and y are of one class, else 0. Different points are pushed apart until their
    distance is m. The pairs are those of a batch, or given ones.

    All parameters are those of `DeepEmbedder`, see `__init__`. The `loss` is one over pairs:
    "contrastive" (None, the default, with ``margin`` 1.0; ``loss__power=2`` squares both terms),
    "circle", "intra_pair_variance", "lifted_structure", "margin", "multi_similarity",
    "signal_to_noise_ratio", or a loss of your own. The `supervision` is "labels" or "pairs".

    Attributes
    ----------
    net_, backbone_, n_components_, history_, best_epoch_, best_share_, start_score_, best_score_, \
feature_shape_, n_features_in_, feature_names_in_
        As in `DeepEmbedder`.

    See Also
    --------
    DeepTripletEmbedder : Compares two distances, where this learner compares one with a margin.

    References
    ----------
    R. Hadsell, S. Chopra, Y. LeCun, "Dimensionality Reduction by Learning an Invariant Mapping",
    CVPR 2006, equation 4 (which squares both terms).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skdml import DeepSiameseEmbedder
    >>> X, y = load_iris(return_X_y=True)
    >>> embedder = DeepSiameseEmbedder(max_epochs=10, random_state=0)
    >>> model = make_pipeline(StandardScaler(), embedder, KNeighborsClassifier())
    >>> model.fit(X, y).score(X, y) > 0.9
    True
    """

    _supervisions = ("labels", "pairs")
    _losses = (
        *("contrastive", "circle", "intra_pair_variance", "lifted_structure", "margin"),
        *("multi_similarity", "signal_to_noise_ratio"),
    )


class DeepTripletEmbedder(DeepEmbedder):
    r"""Triplet network: an anchor lies nearer to its own class than to another, by a margin.

    .. math:: \ell(a, p, n) = \max(0, d(a, p) - d(a, n) + m)

    The anchor a and the positive p are of one class, the negative n is of another. The triplets are
    those of a batch, or given ones.

    All parameters are those of `DeepEmbedder`, see `__init__`. The `loss` is one over triplets:
    "triplet" (None, the default, with ``margin`` 0.2; ``loss__soft=True`` replaces the hinge by
    softplus), "angular", "margin", or a loss of your own. The `supervision` is "labels" or
    "triplets".

    Attributes
    ----------
    net_, backbone_, n_components_, history_, best_epoch_, best_share_, start_score_, best_score_, \
feature_shape_, n_features_in_, feature_names_in_
        As in `DeepEmbedder`.

    See Also
    --------
    DeepSiameseEmbedder : Compares a distance with a margin, where this learner compares two.

    References
    ----------
    F. Schroff, D. Kalenichenko, J. Philbin, "FaceNet: A Unified Embedding for Face Recognition and
    Clustering", CVPR 2015, equation 3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skdml import DeepTripletEmbedder
    >>> X, y = load_iris(return_X_y=True)
    >>> embedder = DeepTripletEmbedder(max_epochs=10, random_state=0).fit(X, y)
    >>> d = embedder.get_metric()
    >>> d(X[0], X[1]) < d(X[0], X[100])
    True
    """

    _supervisions = ("labels", "triplets")
    _losses = ("triplet", "angular", "margin")
    _defaults = DeepEmbedder._defaults | {"loss": "triplet"}
