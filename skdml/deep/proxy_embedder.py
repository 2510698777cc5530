"""The proxy learner: one learned point for each class, a classifier and a distance."""

import copy
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import Callback
from torch.utils.data import Dataset

from skdml._labels import join_labels, read_labels, read_values
from skdml.base import unchanged_on_error
from skdml.deep._statistics import rank_within_class
from skdml.deep.base import DeepEmbedder
from skdml.deep.losses import LOSSES, get_loss
from skdml.deep.networks.map import NetworkMap
from skdml.deep.settings import Settings, check_settings
from skdml.deep.training.fitting import Training, begin_training, report_outcome
from skdml.deep.training.net import EmbeddingNet
from skdml.distances import LearnedDistance

# A proxy starts at the mean of this many points of its class, or of all if there are fewer.
POINTS_PER_PROXY = 32


class DeepProxyEmbedder(ClassifierMixin, DeepEmbedder):
    r"""Deep learned distance from proxies: one learned point for each class. It also classifies.

    .. math:: \hat y(x) = \operatorname{argmax}_c \; a_c(f(x)), \quad
        P(c \mid x) \propto e^{a_c(f(x))}

    The logit a_c is larger the nearer the proxy of class c is. Each point is compared with proxies,
    not with other points, so the loss does not depend on how batches are drawn. Proxies are
    parameters of the fitted net. They start at the means of their classes.

    A classifier has to train to the end, but a network that trains to the end retrieves unseen
    classes badly. One `fit` therefore keeps two networks. `predict` uses the network and the
    proxies after the last epoch. `transform` and `get_metric` use the network of the epoch (0 is
    the start) at which held-out classes were retrieved best. If Ctrl-C ends training before the
    refit, the classifier was not trained on the held-out classes; their proxies are the means of
    their points.

    All parameters are those of `DeepEmbedder`, see `__init__`. Here None means: `loss` "arcface",
    `normalize` True and `max_epochs` 30. The `loss` is a proxy or margin softmax loss:
    "proxy_anchor", "proxy_nca", "soft_triple", "normalized_softmax", "arcface", "cosface",
    "sphereface", "subcenter_arcface", "center", such a loss, or its class. The `supervision` is
    "labels"; `miner` and `memory_size` keep their defaults, because no two points of a batch are
    compared. With ``early_stopping=False`` the last network is used for both purposes; do so if
    only known classes are compared. With ``refit=False`` rows of every class are held out, never
    whole classes, because each class needs its proxy; ``hold_out="classes"`` is then refused. The
    network that was stopped then serves both purposes, and training may end before the proxies have
    learned to classify.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes, sorted. Classes that `partial_fit` meets later follow after them.
    distance_network_ : NetworkMap or None
        The network of the distance, as a callable on arrays. None if it is ``net_.module_``. A warm
        start begins with it.
    net_, backbone_, n_components_, history_, best_epoch_, best_share_, start_score_, best_score_, \
feature_shape_, n_features_in_, feature_names_in_
        As in `DeepEmbedder`. ``net_.module_`` is the network of the classifier and
        ``net_.criterion_.proxies`` are its proxies. Epochs and scores are those of the distance.

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

    _losses = tuple(name for name, loss in LOSSES.items() if hasattr(loss, "logits"))
    _defaults: ClassVar[dict[str, Any]] = {"loss": "arcface", "normalize": True, "max_epochs": 30}

    def fit(
        self, X: ArrayLike | Dataset, y: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> Self:
        """Learn the network of the classifier, its proxies, and the network of the distance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or torch Dataset
            Points, as in `DeepEmbedder.fit`.
        y : array-like of shape (n_samples,)
            Class labels of any kind.
        groups : array-like of shape (n_samples,), default=None
            The group of each point, as in `DeepEmbedder.fit`.

        Returns
        -------
        self
            The fitted learner.

        Raises
        ------
        ValueError, RuntimeError, KeyboardInterrupt
            As in `DeepEmbedder.fit`.

        Warns
        -----
        InitialWeightsWarning
            If the initial weights are kept for the distance, as in `DeepEmbedder.fit`.
        UserWarning
            If Ctrl-C ends training, as in `DeepEmbedder.fit`.
        """
        with unchanged_on_error(self):
            settings = Settings.of(self)
            check_proxy_settings(settings)
            previous = self._previous(self._distance_map()) if self._continues() else {}
            data = self._read(settings, X, y, groups, reset=not previous)
            self.classes_ = np.unique(
                read_values(y, "y").ravel()
            )  # data.targets are rank_within_class in it
            start = {"feature_shape": self.feature_shape_, "resumable": True, **previous}
            with begin_training(settings, data, **start) as training:
                training.hold_out(settings.hold_out if settings.refit else "rows")
                training.callbacks.insert(0, ("proxies", StartProxies(training)))
                training.run(settings.max_epochs)
                start_proxies_of_held_out_classes(training)
                self._keep(training)
                self.distance_network_ = None
                if training.may_refit:
                    training = training.prepare_refit()
                    training.callbacks.insert(0, ("proxies", StartProxies(training)))
                    training.run(settings.max_epochs)  # the classifier trains to the end
                    if training.is_complete:
                        self._keep_net(training)
                        self.distance_network_ = self._map_with(training.best.weights_)
        if training.interruption is not None or self.best_epoch_ == 0:
            report_outcome(training, self.best_epoch_)
        return self

    def partial_fit(  # type: ignore[override]  # `classes` as in scikit-learn's classifiers
        self,
        X: ArrayLike | Dataset,
        y: ArrayLike | None = None,
        classes: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch on the given data; the first call builds the network from it.

        New classes get proxies at the means of their points. What was learned of other classes is
        kept. After a `fit` with early stopping, the classifier learns and the distance stays as it
        is.

        Parameters
        ----------
        X : array-like or torch Dataset
            As in `fit`.
        y : array-like of shape (n_samples,)
            Class labels.
        classes : array-like of shape (n_classes,), default=None
            Classes that later calls will bring. No call needs them.
        groups : array-like of shape (n_samples,), default=None
            As in `fit`.

        Returns
        -------
        self
            The learner.
        """
        with unchanged_on_error(self):
            settings = Settings.of(self)
            check_proxy_settings(settings)
            fitted = self.__sklearn_is_fitted__()
            data = self._read(settings, X, y, groups, reset=not fitted)
            known = self.classes_ if fitted else None
            self.classes_, data.targets = number_classes(y, known=known, more=classes)
            distance = self.distance_network_ if fitted else None
            start: dict[str, Any] = {}
            if fitted:
                start = {"net": self.net_, "backbone": self.backbone_}
            with begin_training(settings, data, self.feature_shape_, **start) as training:
                training.n_classes = len(self.classes_)
                if fitted:
                    add_classes(training)
                else:
                    training.callbacks.append(("proxies", StartProxies(training)))
                training.run_one_epoch()
            self._keep(training)
            self.distance_network_ = distance
        return self

    def transform(self, X: ArrayLike | Dataset) -> NDArray[np.float32]:
        """Embed points by the network of the distance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or torch Dataset
            Points.

        Returns
        -------
        ndarray of float32, shape (n_samples, n_components)
            f(X).
        """
        check_is_fitted(self)
        return self._embed(X, self._distance_map())

    def get_metric(self) -> LearnedDistance:
        """Return the learned distance as a callable.

        Returns
        -------
        LearnedDistance
            d, with a copy of the network of the distance. It embeds each distinct point once.
        """
        check_is_fitted(self)
        return self._metric_of(self._distance_map())

    def predict_proba(self, X: ArrayLike | Dataset) -> NDArray[np.float64]:
        """Estimate the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or torch Dataset
            Points.

        Returns
        -------
        ndarray of float64, shape (n_samples, n_classes)
            Probabilities in the order of `classes_`: the softmax of the logits of the loss.
        """
        check_is_fitted(self)
        Z = torch.from_numpy(self._embed(X, self._map_of(self.net_)))
        Z = Z.to(self.net_.device, torch.float64)
        with torch.no_grad():
            return self.net_.criterion_.logits(Z).softmax(1).cpu().numpy()

    def predict(self, X: ArrayLike | Dataset) -> NDArray[Any]:
        """Return the most probable class of each point.

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

    def _distance_map(self) -> NetworkMap:
        if self.distance_network_ is None:
            return self._map_of(self.net_)
        return self.distance_network_

    def _map_with(self, weights: dict[str, torch.Tensor]) -> NetworkMap:
        """Return the embedding by a copy of the network with other weights."""
        network = copy.deepcopy(self.net_.module_).eval()
        network.load_state_dict(weights)
        return self._map_of(self.net_).with_module(network)


def check_proxy_settings(settings: Settings) -> None:
    """Raise unless parameters have values that they may have here.

    Parameters
    ----------
    settings : Settings
        The parameters of the learner.

    Raises
    ------
    ValueError, TypeError
        If one has not.
    """
    check_settings(settings)
    for name, allowed in (("miner", ("all", None)), ("memory_size", (0,))):
        if (value := getattr(settings, name)) not in allowed:
            raise ValueError(
                f"{name}={value!r} compares points with each other, but DeepProxyEmbedder compares "
                f"them with proxies. Leave {name} at its default, or use DeepEmbedder."
            )
    if settings.early_stopping and not settings.refit and settings.hold_out == "classes":
        raise ValueError(
            "hold_out='classes' with refit=False would leave the held-out classes without trained "
            "proxies. Use refit=True, or hold_out='rows'."
        )
    if not hasattr(get_loss(settings.loss, settings.known_losses, settings.learner_name), "logits"):
        raise ValueError(
            f"loss={settings.loss!r} has no proxies and cannot classify; choose one of "
            f"{sorted(settings.known_losses)}. DeepEmbedder accepts any loss."
        )


class StartProxies(Callback):
    """Start proxies at the means of their classes, unless the loss was given as an instance.

    Parameters
    ----------
    training : Training
        The training whose rows are averaged.
    """

    def __init__(self, training: Training):
        self.rows = training.rows
        self.seed = training.seed

    def on_train_begin(self, net: EmbeddingNet, X: Any, **kwargs: Any) -> None:
        """Set the proxies."""
        is_ready = isinstance(net.criterion, torch.nn.Module)
        if hasattr(net.criterion_, "initialize_from") and not is_ready:
            start_proxies(net, X, self.rows, self.seed)


def start_proxies(net: EmbeddingNet, data: Any, rows: NDArray[np.integer], seed: int) -> None:
    """Set the proxies of the classes of some rows to the means of their embeddings.

    Parameters
    ----------
    net : EmbeddingNet
        The net; its loss has the proxies.
    data : ArrayDataset or LabelledDataset
        The training data.
    rows : ndarray of int
        The rows.
    seed : int
        Decides which points of a large class are averaged.
    """
    rows = np.random.default_rng(seed).permutation(rows)
    rows = rows[rank_within_class(data.targets[rows]) < POINTS_PER_PROXY]
    Z = torch.from_numpy(net.map().embed(data.points(rows))).to(net.device)
    net.criterion_.initialize_from(Z, torch.from_numpy(data.targets[rows]).to(net.device))


def start_proxies_of_held_out_classes(training: Training) -> None:
    """Set the proxies of classes that were not trained on, for a classifier without a refit."""
    data, trained = training.data, training.data.targets[training.rows]
    held_out = np.flatnonzero(~np.isin(data.targets, trained))
    is_ready = isinstance(training.net.criterion, torch.nn.Module)
    if len(held_out) and hasattr(training.net.criterion_, "initialize_from") and not is_ready:
        start_proxies(training.net, data, held_out, training.seed)


def add_classes(training: Training) -> None:
    """Give classes that are new to a fitted net their proxies."""
    net, data = training.net, training.data
    n_known = net.criterion_.n_classes
    if training.n_classes > n_known:
        net.grow(training.n_classes)
        start_proxies(net, data, np.flatnonzero(data.targets >= n_known), training.seed)


def number_classes(
    y: Any, *, known: NDArray[Any] | None = None, more: Any = None
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return all classes, and the place of each label among them.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Class labels.
    known : ndarray of shape (n_known,), default=None
        Classes that have their rank_within_class already. New classes follow after them.
    more : array-like of shape (n_more,), default=None
        Further classes.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        The classes.
    codes : ndarray of int, shape (n_samples,)
        The place of each label in `classes`.

    Raises
    ------
    ValueError
        If known classes are numbers and labels are strings, or the other way round.
    """
    labels = read_values(y, "y").ravel()
    seen = (
        labels
        if more is None
        else join_labels(labels, read_labels(more, "classes"), ("y", "classes"))
    )
    classes = np.unique(seen)
    if known is not None:
        both = join_labels(known, classes, ("earlier calls", "y"))
        classes = both[np.sort(np.unique(both, return_index=True)[1])]
    rank = np.unique(join_labels(classes, labels, ("classes", "y")), return_inverse=True)[1]
    order = np.argsort(classes)
    return classes, order[rank[len(classes) :]]
