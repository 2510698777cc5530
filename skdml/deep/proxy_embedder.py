"""The proxy learner: one learned point for each class."""

import copy

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_is_fitted

from skdml.base import unchanged_on_error
from skdml.deep._statistics import rank_within_class
from skdml.deep.base import DeepEmbedder
from skdml.deep.data.reading import read_training_data
from skdml.deep.losses import LOSSES

# Proxies start at the mean of so many points of their class, or of all it has.
POINTS_PER_PROXY = 32


class DeepProxyEmbedder(ClassifierMixin, DeepEmbedder):
    r"""Deep learned distance from proxies: a learned point for each class, which also classifies.

    .. math:: \hat y(x) = \operatorname{argmax}_c \; a_c(f(x)), \quad
        P(c \mid x) \propto e^{a_c(f(x))}

    where the logit a_c is the larger the nearer the proxy of class c is. Each point is compared
    with proxies instead of with other points, so that nothing depends on how a batch is drawn.
    Proxies are parameters of the fitted net; they start at the means of their classes.

    To know the classes that it is shown a network trains to the end, and there it has forgotten
    those it is not shown. So one training gives two networks: `predict` runs the last, to which
    the proxies belong, `transform` and `get_metric` that of the epoch (0 being the start) at which
    held-out classes were found best. Where Ctrl-C ends the first training, the classifier was not
    shown the held-out classes: it knows them by the means of their points, which are their proxies.

    Parameters
    ----------
    module : class, callable, torch.nn.Module or None, default=None
        The network; None builds one for tables or images. See `DeepEmbedder`.
    loss : str, class or torch.nn.Module, default="arcface"
        A proxy or margin softmax loss of `skdml.deep.losses`: "proxy_anchor", "proxy_nca",
        "soft_triple", "normalized_softmax", "arcface", "cosface", "sphereface",
        "subcenter_arcface", "center", such a loss, or its class. Its parameters are given by
        ``loss__*``.
    normalize : bool, default=True
        Bring embeddings to unit length, where Euclidean distances rank as cosines do; these are
        what most of the losses see.
    max_epochs : int, default=30
        How many epochs the classifier is trained, and the distance at most.
    proxy_lr : float, default=0.01
        Learning rate of the proxies.
    early_stopping : bool, default=True
        Train once without some of the classes (rows, where classes are few), to see which epoch
        finds them best, and then on everything, up to `max_epochs`. False trains on everything
        alone, and takes the last network for both: where only known classes are ever compared.
    refit : bool, default=True
        Train on everything, too. False holds out rows of each class, never whole classes, since
        each needs its proxy, and keeps the one network that was stopped, for both: training may
        end before the proxies have learned to classify.
    freeze, head, n_components, distance, n_per_class, batch_size, balance_classes, \
group_batches, lr, optimizer, validation_fraction, scoring, patience, augment, chunk_size, amp, \
compile, device, random_state, warm_start, checkpoint, callbacks, verbose
        As in `DeepEmbedder`.
    **net_params : dict
        ``module__*``, ``head__*``, ``loss__*``, ``optimizer__*``, ``iterator_train__*``,
        ``callbacks__*`` as in `DeepEmbedder`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes, sorted; those that `partial_fit` met later follow after them.
    distance_network_ : NetworkMap or None
        The network of the distance, as a callable on arrays; None where that is ``net_.module_``.
        A warm start begins with it.
    net_, backbone_, n_components_, history_, best_epoch_, best_share_, start_score_, best_score_, \
feature_shape_, n_features_in_, feature_names_in_
        As in `DeepEmbedder`. ``net_.module_`` is the network of the classifier, and
        ``net_.criterion_.proxies`` are its proxies; epochs and scores are those of the distance.

    See Also
    --------
    DeepTripletEmbedder : Compares the points of a batch with each other.

    References
    ----------
    Y. Movshovitz-Attias et al., "No Fuss Distance Metric Learning using Proxies", ICCV 2017.
    S. Kim et al., "Proxy Anchor Loss for Deep Metric Learning", CVPR 2020.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skdml import DeepProxyEmbedder
    >>> X, y = load_iris(return_X_y=True)
    >>> embedder = DeepProxyEmbedder(random_state=0).fit(X, y)
    >>> embedder.transform(X).shape
    (150, 4)
    >>> embedder.score(X, y) > 0.9
    True
    """

    _needs_classes = True

    def __init__(
        self,
        module=None,
        *,
        freeze=None,
        head=None,
        loss="arcface",
        n_components=None,
        distance="euclidean",
        normalize=True,
        n_per_class=4,
        batch_size=128,
        balance_classes=False,
        group_batches="together",
        max_epochs=30,
        lr=3e-4,
        proxy_lr=0.01,
        optimizer=torch.optim.AdamW,
        early_stopping=True,
        validation_fraction=0.2,
        scoring="map_at_r",
        patience=None,
        refit=True,
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
            loss=loss,
            n_components=n_components,
            distance=distance,
            normalize=normalize,
            n_per_class=n_per_class,
            batch_size=batch_size,
            balance_classes=balance_classes,
            group_batches=group_batches,
            max_epochs=max_epochs,
            lr=lr,
            proxy_lr=proxy_lr,
            optimizer=optimizer,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            scoring=scoring,
            patience=patience,
            refit=refit,
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

    def partial_fit(self, X, y=None, classes=None, groups=None):
        """Train for one epoch on the given data; the first call builds the network from it.

        Classes that were not seen before get proxies, at the means of their points. What was
        learned of the others is kept. After a `fit` that was stopped, the classifier learns and
        the distance stays as it is.

        Parameters
        ----------
        X : array-like or torch Dataset
            As in `fit`.
        y : array-like of shape (n_samples,)
            Class labels.
        classes : array-like of shape (n_classes,), default=None
            Classes that are known to come; needed by no call.
        groups : array-like of shape (n_samples,), default=None
            As in `fit`.

        Returns
        -------
        self
            The learner.
        """
        with unchanged_on_error(self):
            self._check_params()
            first = not self.__sklearn_is_fitted__()
            data = read_training_data(self, X, y, groups, kind=self._kind(y), reset=first)
            known = () if first else self.classes_
            self._number_classes(data, y, known, () if classes is None else classes)
            distance = None if first else self.distance_network_
            self._train_once(data, first)
            self.distance_network_ = distance
        return self

    def predict_proba(self, X):
        """Estimate how probable each class is.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or torch Dataset
            Points.

        Returns
        -------
        ndarray of float64, shape (n_samples, n_classes)
            Probabilities, in the order of `classes_`: the softmax of the logits of the loss.
        """
        check_is_fitted(self)
        Z = self._pass(X, self._map_of(self.net_))
        Z = torch.from_numpy(Z).to(self.net_.device, torch.float64)
        with torch.no_grad():
            return self.net_.criterion_.logits(Z).softmax(1).cpu().numpy()

    def predict(self, X):
        """Name the most probable class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or torch Dataset
            Points.

        Returns
        -------
        ndarray of shape (n_samples,)
            Classes.
        """
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]

    def _criterion(self, n_classes):
        loss, given = super()._criterion(n_classes)
        if not hasattr(loss, "logits"):
            names = sorted(name for name, one in LOSSES.items() if hasattr(one, "logits"))
            raise ValueError(
                f"loss={self.loss!r} has no proxies, and so tells no classes apart; choose one of "
                f"{names}. DeepEmbedder takes any loss."
            )
        return loss, given

    def _number_classes(self, data, y, known=(), more=()):
        """Set `classes_`, and the targets to places in it; new classes follow the known ones."""
        y = column_or_1d(y)
        seen = np.union1d(y, more) if len(more) else np.unique(y)
        if len(known) and _is_number(seen) != _is_number(known):
            raise ValueError(
                f"The classes so far are {known.dtype}, and those in y are {seen.dtype}. Name them "
                "as before, all by numbers or all by strings."
            )
        new = np.setdiff1d(seen, known) if len(known) else seen
        self.classes_ = np.concatenate([known, new]) if len(known) else new
        order = np.argsort(self.classes_)
        data.targets = order[np.searchsorted(self.classes_, y, sorter=order)]

    def _n_classes(self, data):
        return len(self.classes_)

    def _start_loss(self, net, data, rows, seed):
        """Let proxies start at the means of their classes, unless they came with the loss."""
        ready = isinstance(net.criterion, torch.nn.Module)
        if hasattr(net.criterion_, "initialize_from") and not ready:
            self._start_proxies(net, data, rows, seed)

    def _start_proxies(self, net, data, rows, seed):
        rows = np.random.default_rng(seed).permutation(rows)
        rows = rows[rank_within_class(data.targets[rows]) < POINTS_PER_PROXY]
        Z = torch.from_numpy(net.map().embed(data.points(rows))).to(net.device)
        net.criterion_.initialize_from(Z, torch.from_numpy(data.targets[rows]).to(net.device))

    def _make_room(self, net, data, seed):
        n_known = net.criterion_.n_classes
        if len(self.classes_) > n_known:
            net.grow(len(self.classes_))
            self._start_proxies(net, data, np.flatnonzero(data.targets >= n_known), seed)

    def _meet_held_out(self, net, data, train, seed):
        held = ~np.isin(data.targets, data.targets[train])
        if held.any():
            self._start_loss(net, data, np.flatnonzero(held), seed)

    def _map(self):
        return super()._map() if self.distance_network_ is None else self.distance_network_

    def _n_epochs_on_all(self):
        return self.max_epochs  # the classifier is trained to the end

    def _keep_net(self, net):
        self.distance_network_ = None
        super()._keep_net(net)

    def _set_distance(self, net, weights):
        network = copy.deepcopy(net.module_).eval()
        network.load_state_dict(weights)
        self.distance_network_ = self._map_of(net).with_module(network)


def _is_number(classes):
    return classes.dtype.kind in "biuf"
