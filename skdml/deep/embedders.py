"""`DeepEmbedder` with a loss of its own, or a family of losses: pairs, triplets, proxies."""

import torch

from skdml.deep.base import DeepEmbedder
from skdml.deep.losses import ContrastiveLoss, TripletLoss


class DeepSiameseEmbedder(DeepEmbedder):
    r"""Siamese network: both points of a pair pass through one network (the contrastive loss).

    .. math:: \ell(x, y) = z\,d(x, y) + (1 - z)\,\max(0, m - d(x, y))

    z is 1 where x and y are of one class. The pairs are those of a batch, or given ones.

    Parameters
    ----------
    module : class, callable, torch.nn.Module or None, default=None
        The network; None builds one for tables or images. See `DeepEmbedder`.
    margin : float, default=1.0
        Different points are pushed until they are this far apart, > 0. The default networks start
        with two training points 1 apart on average. A cosine distance never exceeds 2.
    miner : str, class, callable or None, default="all"
        Which pairs of a batch count: all, or those that a miner names; see `DeepEmbedder`.
    supervision : {"labels", "pairs"}, default="labels"
        What `fit` is given: points and their classes, or pairs of shape (n_pairs, 2, ...) and
        whether they are the same (1) or different (0 or -1).
    freeze, head, n_components, distance, normalize, n_per_class, batch_size, \
balance_classes, group_batches, max_epochs, lr, optimizer, early_stopping, \
validation_fraction, scoring, patience, refit, augment, memory_size, chunk_size, amp, \
compile, device, random_state, warm_start, checkpoint, callbacks, verbose
        As in `DeepEmbedder`.
    **net_params : dict
        ``module__*``, ``head__*``, ``miner__*``, ``optimizer__*``, ``iterator_train__*``,
        ``callbacks__*`` as in `DeepEmbedder`, and ``criterion__*`` of
        `skdml.deep.losses.ContrastiveLoss`: power=2 squares both terms.

    Attributes
    ----------
    net_, backbone_, n_components_, history_, best_epoch_, best_share_, start_score_, best_score_, \
feature_shape_, n_features_in_, feature_names_in_
        As in `DeepEmbedder`.

    See Also
    --------
    DeepTripletEmbedder : Compares distances instead of measuring them by a margin.

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

    def __init__(
        self,
        module=None,
        *,
        freeze=None,
        head=None,
        margin=1.0,
        n_components=None,
        distance="euclidean",
        normalize=False,
        miner="all",
        n_per_class=4,
        batch_size=128,
        balance_classes=False,
        group_batches="together",
        max_epochs=100,
        lr=3e-4,
        optimizer=torch.optim.AdamW,
        early_stopping=True,
        validation_fraction=0.2,
        scoring="map_at_r",
        patience=None,
        refit=True,
        supervision="labels",
        memory_size=0,
        chunk_size=None,
        amp=False,
        compile=False,
        augment=None,
        device="auto",
        random_state=None,
        warm_start=False,
        checkpoint=None,
        callbacks=None,
        verbose=0,
        **net_params,
    ):
        super().__init__(
            module,
            freeze=freeze,
            head=head,
            margin=margin,
            n_components=n_components,
            distance=distance,
            normalize=normalize,
            miner=miner,
            n_per_class=n_per_class,
            batch_size=batch_size,
            balance_classes=balance_classes,
            group_batches=group_batches,
            max_epochs=max_epochs,
            lr=lr,
            optimizer=optimizer,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            scoring=scoring,
            patience=patience,
            refit=refit,
            supervision=supervision,
            memory_size=memory_size,
            chunk_size=chunk_size,
            amp=amp,
            compile=compile,
            augment=augment,
            device=device,
            random_state=random_state,
            warm_start=warm_start,
            checkpoint=checkpoint,
            callbacks=callbacks,
            verbose=verbose,
        )
        self._net_params = net_params  # not to the base: it has parameters that this class lacks
        del self.loss  # what a subclass is made for is no parameter

    def _loss(self):
        return ContrastiveLoss


class DeepTripletEmbedder(DeepEmbedder):
    r"""Triplet network: an anchor nearer to its own class than to another one, by a margin.

    .. math:: \ell(a, p, n) = \max(0, d(a, p) - d(a, n) + m)

    The triplets are those of a batch, or given ones.

    Parameters
    ----------
    module : class, callable, torch.nn.Module or None, default=None
        The network; None builds one for tables or images. See `DeepEmbedder`.
    margin : float, default=0.2
        By how much a negative has to be further away than a positive, >= 0. The default networks
        start with two training points 1 apart on average. A cosine distance never exceeds 2.
    miner : str, class, callable or None, default="all"
        Which triplets of a batch count; see `DeepEmbedder`.
    supervision : {"labels", "triplets"}, default="labels"
        What `fit` is given: points and their classes, or triplets (anchor, positive, negative) of
        shape (n_triplets, 3, ...).
    freeze, head, n_components, distance, normalize, n_per_class, batch_size, \
balance_classes, group_batches, max_epochs, lr, optimizer, early_stopping, \
validation_fraction, scoring, patience, refit, augment, memory_size, chunk_size, amp, \
compile, device, random_state, warm_start, checkpoint, callbacks, verbose
        As in `DeepEmbedder`.
    **net_params : dict
        ``module__*``, ``head__*``, ``miner__*``, ``optimizer__*``, ``iterator_train__*``,
        ``callbacks__*`` as in `DeepEmbedder`, and ``criterion__*`` of
        `skdml.deep.losses.TripletLoss`: soft=True replaces the hinge by softplus.

    Attributes
    ----------
    net_, backbone_, n_components_, history_, best_epoch_, best_share_, start_score_, best_score_, \
feature_shape_, n_features_in_, feature_names_in_
        As in `DeepEmbedder`.

    See Also
    --------
    DeepSiameseEmbedder : Measures distances by a margin instead of comparing them.

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

    def __init__(
        self,
        module=None,
        *,
        freeze=None,
        head=None,
        margin=0.2,
        n_components=None,
        distance="euclidean",
        normalize=False,
        miner="all",
        n_per_class=4,
        batch_size=128,
        balance_classes=False,
        group_batches="together",
        max_epochs=100,
        lr=3e-4,
        optimizer=torch.optim.AdamW,
        early_stopping=True,
        validation_fraction=0.2,
        scoring="map_at_r",
        patience=None,
        refit=True,
        supervision="labels",
        memory_size=0,
        chunk_size=None,
        amp=False,
        compile=False,
        augment=None,
        device="auto",
        random_state=None,
        warm_start=False,
        checkpoint=None,
        callbacks=None,
        verbose=0,
        **net_params,
    ):
        super().__init__(
            module,
            freeze=freeze,
            head=head,
            margin=margin,
            n_components=n_components,
            distance=distance,
            normalize=normalize,
            miner=miner,
            n_per_class=n_per_class,
            batch_size=batch_size,
            balance_classes=balance_classes,
            group_batches=group_batches,
            max_epochs=max_epochs,
            lr=lr,
            optimizer=optimizer,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            scoring=scoring,
            patience=patience,
            refit=refit,
            supervision=supervision,
            memory_size=memory_size,
            chunk_size=chunk_size,
            amp=amp,
            compile=compile,
            augment=augment,
            device=device,
            random_state=random_state,
            warm_start=warm_start,
            checkpoint=checkpoint,
            callbacks=callbacks,
            verbose=verbose,
        )
        self._net_params = net_params  # not to the base: it has parameters that this class lacks
        del self.loss  # what a subclass is made for is no parameter

    def _loss(self):
        return TripletLoss
