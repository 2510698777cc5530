"""DeepEmbedder: a network trained by a loss that compares points, as a scikit-learn estimator."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags, get_tags
from sklearn.utils.validation import check_is_fitted
from torch.utils.data import Dataset

from skdml._columns import validate_data
from skdml.base import MetricLearner, unchanged_on_error
from skdml.deep.data.datasets import as_dataset_if_items, as_point_tensor
from skdml.deep.data.reading import (
    check_feature_shape,
    check_n_dims,
    point_dtype,
    read_training_data,
)
from skdml.deep.losses import LOSSES, get_loss, learns_from
from skdml.deep.networks.map import NetworkMap
from skdml.deep.parameters import NetParametersMixin
from skdml.deep.settings import Settings, check_settings
from skdml.deep.training.fitting import Training, begin_training, report_outcome
from skdml.deep.training.net import EmbeddingNet
from skdml.distances import LearnedDistance


class DeepEmbedder(NetParametersMixin, MetricLearner):
    """Deep learned distance: a network and a loss that compares the points of a batch.

    `fit` trains a network on batches of P classes with K points each. It stops when held-out data
    are no longer retrieved better, and keeps the best weights. `transform` passes points through
    the network. The parameters are those of the constructor, see `__init__`.

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The fitted net. ``net_.module_`` is the network, or the head of a frozen one.
    backbone_ : FrozenNetwork or None
        The frozen module as a callable on arrays; None without ``freeze``.
    n_components_ : int
        Width of the embedding.
    history_ : dict of str to ndarray of shape (n_epochs,)
        One value for each epoch before any refit: "loss"; "active_share", the share of pairs or
        triplets with a loss above 0; "spread", the root mean square distance to the centre of a
        batch; "seconds"; and the score under its name, NaN in epochs without a score (see
        `patience`).
    best_epoch_ : int
        The epoch whose weights were kept; 0 is the start.
    best_share_ : float
        Which share of the change in the weights was kept: 1.0 is all of it. 0.5 is halfway between
        the initial weights and those of the best epoch, where halfway was better.
    start_score_, best_score_ : float
        The score before training and at the best epoch; NaN without early stopping.
    feature_shape_ : tuple of int
        The shape of one point.
    origin_ : ndarray of float64, shape (n_features_in_,), or None
        What the default network for tables subtracts from float64 points before they are cast to
        float32: the median of each column that is far from zero compared with its spread. None if
        there is no such column, or for any other network. ``net_.module_`` reads points without
        the origin.
    n_features_in_ : int
        Number of features; for images, the number of channels.
    feature_names_in_ : ndarray of str of shape (n_features_in_,)
        Names of the columns, if X had names.

    See Also
    --------
    DeepSiameseEmbedder : Losses over pairs, the contrastive loss first of all.
    DeepTripletEmbedder : Losses over triplets, the triplet loss first of all.
    DeepProxyEmbedder : Proxies that start at the means of their classes, and a classifier.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skdml import DeepEmbedder
    >>> X, y = load_iris(return_X_y=True)
    >>> embedder = DeepEmbedder(max_epochs=5, random_state=0).fit(X, y)
    >>> embedder.transform(X).shape
    (150, 4)
    """

    _supervisions: tuple[str, ...] = ("labels",)
    _losses: tuple[str, ...] = tuple(LOSSES)
    # What None means.
    _defaults: ClassVar[dict[str, Any]] = {
        "loss": "contrastive",
        "normalize": False,
        "max_epochs": 100,
    }

    def __init__(
        self,
        module: Callable[..., torch.nn.Module] | torch.nn.Module | None = None,
        *,
        n_components: int | None = None,
        freeze: Literal["module"] | None = None,
        head: Callable[..., torch.nn.Module] | torch.nn.Module | None = None,
        normalize: bool | None = None,
        loss: str | Callable[..., Any] | None = None,
        margin: float | None = None,
        distance: str = "euclidean",
        miner: str | Callable[..., Any] | None = "all",
        memory_size: int = 0,
        supervision: str = "labels",
        batch_size: int = 128,
        n_per_class: int = 4,
        balance_classes: bool = False,
        group_batches: Literal["together", "apart"] | None = "together",
        augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
        max_epochs: int | None = None,
        lr: float = 3e-4,
        proxy_lr: float = 0.01,
        optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW,
        early_stopping: bool = True,
        hold_out: Literal["auto", "rows", "classes"] = "auto",
        validation_fraction: float = 0.2,
        scoring: str | Callable[..., float] = "map_at_r",
        patience: int | None = None,
        refit: bool = True,
        chunk_size: int | None = None,
        amp: bool = False,
        compile: bool = False,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        checkpoint: str | Path | None = None,
        callbacks: list[Any] | None = None,
        verbose: int = 0,
        **net_params: Any,
    ):
        """Set the parameters; `fit` checks them.

        All deep learners have these parameters. The default None of `loss`, `normalize` and
        `max_epochs` means what the class says.

        Parameters
        ----------
        Network

        module : class, callable, torch.nn.Module or None, default=None
            The network. None builds a `ResidualEmbedder` for tables and a `ConvEmbedder` for
            images of shape (channels, height, width). A class or a function is called with
            ``module__*``. It also gets `n_features` (or `input_shape`) and `n_components`, if it
            has parameters of these names. An instance is copied; it keeps its weights and is never
            trained in place. If a network that is built here has a method ``initialize_from(X)``,
            the method is called with training points before training. It also gets their classes
            and groups, if it has parameters `y` and `groups`.
        n_components : int, default=None
            Width of the embedding. None takes the width of a given module (or head). For the
            default network of tables, None is the number of features, at most 768. For the default
            head it is the width of the frozen module's output. For images, and for a module that
            has to be told, it is 64, or the number of features if that is smaller.
        freeze : {"module"} or None, default=None
            What is not trained. "module" keeps the given module as it is and trains a head on its
            outputs. The module runs in evaluation mode, once over all training points. `transform`
            passes points through both. The module returns a vector of any width for each point; a
            class is not told `n_components`.
        head : class, callable, torch.nn.Module or None, default=None
            The network that is trained on the outputs of a frozen module. It is given like
            `module`, with ``head__*``. None builds a `ResidualEmbedder`. Only with
            ``freeze="module"``.
        normalize : bool, default=None
            Whether embeddings are scaled to unit length. None is False, and True for
            `DeepProxyEmbedder`.

        Loss

        loss : str, class, torch.nn.Module or None, default=None
            A name (see `skdml.deep.losses.LOSSES`), a loss, or its class. None is "contrastive",
            "triplet" for `DeepTripletEmbedder` and "arcface" for `DeepProxyEmbedder`. The loss is
            called ``loss(embeddings, labels)``. It gets a third argument ``indices_tuple`` with
            tuples, or with a miner that the loss does not run itself. Losses of
            pytorch-metric-learning can be used. Parameters of the loss are set by ``loss__*``; an
            instance is then built anew. A loss is told the number of classes and the width of the
            embedding if it asks for them. "cosent" learns from graded targets; "info_nce" and
            "vicreg" learn from two views, made by `augment`. Your own loss says so by an attribute
            ``learns_from``, "targets" or "views".
        margin : float, default=None
            The margin of the loss, in units of `distance`. None is the default of the loss, 1.0
            for "contrastive" and 0.2 for "triplet". With the default networks two training points
            lie 1 apart on average at the start. A cosine distance is at most 2.
        distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, \
default="euclidean"
            The base distance, in the loss and in `get_metric`.
        miner : str, class, callable or None, default="all"
            Which pairs or triplets of a batch the loss uses: a name (see
            `skdml.deep.miners.MINERS`), a miner, or its class. A callable gets (embeddings, labels)
            and returns a tuple of indices, like the miners of pytorch-metric-learning. None leaves
            the choice to the loss. Parameters of the miner are set by ``miner__*``.
        memory_size : int, default=0
            Cross-batch memory: each batch is also compared with the embeddings of this many points
            of earlier batches, from the second epoch on. The loss is the mean of the loss within
            the batch and the loss against the memory. It needs ``supervision="labels"`` and a loss
            that takes references, like most losses over pairs and triplets.
        supervision : {"labels", "pairs", "triplets"}, default="labels"
            What `fit` is given: points with labels; pairs of shape (n_pairs, 2, ...) with 1 (same)
            and 0 or -1 (different), for `DeepSiameseEmbedder`; triplets (anchor, positive,
            negative) of shape (n_triplets, 3, ...), for `DeepTripletEmbedder`.

        Batches

        batch_size : int, default=128
            Number of points in a batch, or number of tuples. At least 2. A batch holds at least two
            classes.
        n_per_class : int, default=4
            How many points of one class a batch keeps together, at least 2.
        balance_classes : bool, default=False
            Whether all classes are drawn equally often. Then a rare class comes again in later
            batches of an epoch, and some points of a frequent class wait for later epochs. False
            draws every point once in an epoch.
        group_batches : {"together", "apart"} or None, default="together"
            How batches use the `groups` that `fit` is given. "together" takes the points of one
            class from different groups where possible: if groups are cameras, the network does not
            learn the camera. "apart" makes each batch from one group: if groups are sessions, no
            two classes are told apart by their session. Groups that do not hold two classes, one of
            them twice, are then left out. None ignores groups.
        augment : callable, default=None
            Augments training points. It gets a batch, a float32 Tensor of shape (n, ...), and
            returns a Tensor of the same shape. Random draws come from torch's generator. With
            ``y=None`` it replaces labels: two views of one point are alike, and views of different
            points are not. `batch_size` then counts points, not views. `transform` does not
            augment.

        Optimisation

        max_epochs : int, default=None
            The largest number of epochs. None is 100, and 30 for `DeepProxyEmbedder`.
        lr : float, default=3e-4
            Learning rate of the network.
        proxy_lr : float, default=0.01
            Learning rate of the parameters of the loss, like proxies and boundaries.
        optimizer : class, default=torch.optim.AdamW
            A torch optimizer. Its parameters are set by ``optimizer__*``.

        Stopping

        early_stopping : bool, default=True
            Whether to hold out some of the data, to stop when they are no longer retrieved better,
            and to restore the best weights. If the network has a method ``initialize_from``, like
            the default networks, or was trained by an earlier `fit`, its initial weights are a
            candidate. They are kept if no epoch is clearly better, with an
            `InitialWeightsWarning`. For any other network, given as an instance or not, one of the
            epochs is kept. False trains to the end on all data. If there are too few rows to hold
            some out, training also runs to the end.
        hold_out : {"auto", "rows", "classes"}, default="auto"
            What to hold out, and thus what early stopping protects. "classes" protects the
            retrieval of unseen classes. At least two classes are held out, and three with two rows
            or more must remain for training. "rows" protects the retrieval of known classes: rows
            of each class are held out, or tuples. "auto" is "classes" if there are enough of them,
            and otherwise "rows".
        validation_fraction : float, default=0.2
            The share of classes, rows or tuples to hold out, in (0, 1).
        scoring : {"map_at_r", "recall_at_1"} or callable, default="map_at_r"
            The score of held-out data. A callable gets (embeddings, labels) of held-out classes. If
            rows are held out it gets (embeddings, labels, reference, reference_labels). Larger is
            better. The score of pairs is always the area under the ROC curve. The score of triplets
            is the share in the right order. The score of views without labels is the mean
            reciprocal rank of the other view. The score of graded targets is the rank correlation
            of distances and differences of targets.
        patience : int, default=None
            Number of epochs without a new best score before training stops. None is 10. With None
            the score is computed once every ten batches if an epoch has fewer than ten, and
            patience counts ten scores.
        refit : bool, default=True
            Whether to train again on all data, held-out data included, for the best number of
            epochs. False keeps the network that was stopped, in half the time.

        Hardware

        chunk_size : int, default=None
            The largest number of points that pass through the network at once while it trains.
            Loss and gradient are those of the whole batch. Memory is that of one chunk, at the
            price of one more forward pass. Batch normalisation uses the statistics of each chunk.
            None passes the whole batch at once.
        amp : bool, default=False
            Whether the network trains in automatic mixed precision: bfloat16, or float16 with a
            scaled gradient on GPUs without bfloat16. The loss gets float32. `transform` and scores
            use full precision.
        compile : bool, default=False
            Whether `torch.compile` runs the network while it trains. Its parameters are set by
            ``compile__*``. `transform` and pickles use the network as it is.
        device : str, default="auto"
            A torch device. "auto" is a GPU if there is one.

        Running

        random_state : int, RandomState instance or None, default=None
            Decides initial weights, batches and what is held out. torch's global generator is left
            as it was.
        warm_start : bool, default=False
            Whether the next `fit` begins with the network of the last one. If the last fit froze
            its module and `freeze` is now None, module and head are trained on together.
        checkpoint : str or Path, default=None
            A folder. After each epoch the state of training is written there. If training is
            killed, the same fit (same parameters, same data) goes on after its last epoch and ends
            with the same bits. The file is removed when a fit ends. A damaged file, or one of
            another version of skdml, is named in a ValueError. The file holds a pickle: do not load
            one that you do not trust.
        callbacks : list, default=None
            skorch callbacks, or pairs (name, callback). They may watch "train_loss" and the score
            under its name. If a callback watches the score, it is computed in every epoch. A refit
            repeats the scores for them.
        verbose : int, default=0
            1 prints one line for each epoch.
        **net_params : dict
            ``module__*``, ``head__*``, ``loss__*`` (or ``criterion__*``, skorch's name),
            ``miner__*``, ``optimizer__*``, ``iterator_train__*`` (for
            `torch.utils.data.DataLoader`), ``callbacks__*`` and ``compile__*``, as in skorch. They
            are ordinary parameters: `get_params` lists them and a grid search can search them.
        """
        self.module = module
        self.n_components = n_components
        self.freeze = freeze
        self.head = head
        self.normalize = normalize
        self.loss = loss
        self.margin = margin
        self.distance = distance
        self.miner = miner
        self.memory_size = memory_size
        self.supervision = supervision
        self.batch_size = batch_size
        self.n_per_class = n_per_class
        self.balance_classes = balance_classes
        self.group_batches = group_batches
        self.augment = augment
        self.max_epochs = max_epochs
        self.lr = lr
        self.proxy_lr = proxy_lr
        self.optimizer = optimizer
        self.early_stopping = early_stopping
        self.hold_out = hold_out
        self.validation_fraction = validation_fraction
        self.scoring = scoring
        self.patience = patience
        self.refit = refit
        self.chunk_size = chunk_size
        self.amp = amp
        self.compile = compile
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.checkpoint = checkpoint
        self.callbacks = callbacks
        self.verbose = verbose
        self._net_params = net_params

    def fit(
        self, X: ArrayLike | Dataset, y: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> Self:
        """Learn the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or torch Dataset
            Points: a table, images of shape (n_samples, channels, height, width), or a Dataset that
            is read batch by batch. With ``supervision="pairs"`` or ``"triplets"``, tuples of points
            of shape (n_tuples, 2, ...) or (n_tuples, 3, ...).
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels of any kind. For a loss that learns from graded targets: numbers, or rows
            of 0 and 1 for several labels at once. For pairs: 1 (same), 0 or -1 (different). None
            for triplets, and with `augment` for points without labels. Losses that learn from views
            ignore class labels; early stopping uses them.
        groups : array-like of shape (n_samples,), default=None
            The group of each point, like its camera, writer or session. `group_batches` says how
            batches use it. If rows of known classes are held out, whole groups are held out, as
            long as each class keeps two rows in other groups. The choice of the initial weights
            also leaves out whole groups.

        Returns
        -------
        self
            The fitted learner.

        Raises
        ------
        ValueError
            If X or y cannot be learned from, or if a parameter is out of range or unknown. The
            learner is as it was before. Also if the checkpoint of this fit is damaged.
        OSError
            If a checkpoint cannot be read or written. The learner is as it was before.
        RuntimeError
            If the loss or the weights are no longer finite. After at least one complete epoch the
            learner is fitted all the same: with its best weights, or without early stopping with
            those of the last good epoch. Otherwise it is as it was before.
        KeyboardInterrupt
            If Ctrl-C comes before the first epoch. The learner is as it was before.

        Warns
        -----
        InitialWeightsWarning
            If no epoch is clearly better than the initial weights, and these are kept.
        UserWarning
            If Ctrl-C ends training. The learner is fitted with its best weights so far, or without
            early stopping with the present ones. A refit does not follow, and an interrupted refit
            is dropped. A checkpoint stays, and the same fit goes on from it.
        """
        with unchanged_on_error(self):
            settings = Settings.of(self)
            check_settings(settings)
            previous = self._previous(self._map_of(self.net_)) if self._continues() else {}
            data = self._read(settings, X, y, groups, reset=not previous)
            start = {"feature_shape": self.feature_shape_, "resumable": True, **previous}
            with begin_training(settings, data, **start) as training:
                training.hold_out()
                training.run(settings.max_epochs)
                self._keep(training)
                if training.may_refit:
                    training = training.prepare_refit()
                    training.run(self.best_epoch_)
                    if training.is_complete:
                        training.net.module_.load_state_dict(training.best.weights_)
                        self._keep_net(training)
        if training.interruption is not None or self.best_epoch_ == 0:
            report_outcome(training, self.best_epoch_)
        return self

    def partial_fit(
        self, X: ArrayLike | Dataset, y: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> Self:
        """Train for one epoch on the given data; the first call builds the network from it.

        Nothing is held out, and there is no early stopping. Network, loss and optimizer stay those
        of the first call, or of the last `fit`. Changes of their parameters, `lr` included, count
        from the next `fit` on. Changes of parameters of batches count at once.

        Parameters
        ----------
        X : array-like or torch Dataset
            As in `fit`.
        y : array-like of shape (n_samples,)
            As in `fit`. Classes may differ from call to call.
        groups : array-like of shape (n_samples,), default=None
            As in `fit`.

        Returns
        -------
        self
            The learner.
        """
        with unchanged_on_error(self):
            settings = Settings.of(self)
            check_settings(settings)
            fitted = self.__sklearn_is_fitted__()
            if fitted and knows_classes(self.net_.criterion_):
                raise ValueError(
                    f"{type(self).__name__} numbers the classes of each call anew, but "
                    f"{self.net_.criterion_} keeps one proxy for each number. Use "
                    "DeepProxyEmbedder, which remembers the classes."
                )
            data = self._read(settings, X, y, groups, reset=not fitted)
            start: dict[str, Any] = {}
            if fitted:
                start = {"net": self.net_, "backbone": self.backbone_}
            with begin_training(settings, data, self.feature_shape_, **start) as training:
                training.run_one_epoch()
            self._keep(training)
        return self

    def transform(self, X: ArrayLike | Dataset) -> NDArray[np.float32]:
        """Embed points.

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
        return self._embed(X, self._map_of(self.net_))

    def get_metric(self) -> LearnedDistance:
        """Return the learned distance as a callable.

        Returns
        -------
        LearnedDistance
            d, with a copy of the network. It embeds each distinct point once.
        """
        check_is_fitted(self)
        return self._metric_of(self._map_of(self.net_))

    def _continues(self) -> bool:
        """Whether `fit` begins with the network of the last fit."""
        return self.warm_start and self.__sklearn_is_fitted__()

    def _previous(self, f: NetworkMap) -> dict[str, Any]:
        """Return the network and the backbone to train on, given the embedding of the last fit."""
        if self.backbone_ is not None and self.freeze is None:  # train both on together
            return {"previous": torch.nn.Sequential(self.backbone_.module, f.module)}
        if self.backbone_ is None and self.freeze is not None:
            raise ValueError(
                "With warm_start=True, freeze='module' needs the frozen module of the last fit, "
                "which froze none. Pass the network that was learned, net_.module_, as module to a "
                f"new {type(self).__name__}."
            )
        return {"previous": f.module, "backbone": self.backbone_}

    def _read(self, settings: Settings, X: Any, y: Any, groups: Any, *, reset: bool) -> Any:
        """Return the training data; `reset` sets the attributes that describe points."""
        kind = self._supervision_kind(settings, y)
        # Other networks and `augment` get the points as they are.
        default = settings.module is None and settings.augment is None
        return read_training_data(
            self, X, y, groups, kind=kind, reset=reset, subtract_origin=default
        )

    def _supervision_kind(self, settings: Settings, y: Any) -> str:
        """Return what training learns from: "labels", "targets", "views", "pairs" or "triplets"."""
        needs_labels = get_tags(self).target_tags.required
        kind = settings.supervision
        if kind == "labels":
            loss = get_loss(settings.loss, settings.known_losses, settings.learner_name)
            own = settings.net_params.params
            graded = own.get("loss__graded", own.get("criterion__graded", True))
            kind = learns_from(loss, graded=graded)
        if kind == "views" and settings.augment is None:
            raise ValueError(
                f"loss={settings.loss!r} compares two views of each point, but nothing makes them. "
                "Pass augment, a callable that augments a batch of points."
            )
        if kind == "labels" and y is None and not needs_labels:
            kind = "views"
        if settings.memory_size and kind != "labels":
            raise ValueError(
                f"memory_size={settings.memory_size} needs class labels to compare a batch with "
                f"earlier points, and {kind} have none. Set memory_size=0."
            )
        return kind

    def _keep(self, training: Training) -> None:
        """Set the fitted attributes from a training."""
        self._keep_net(training)
        stopping = training.stopping
        self.history_ = training.history_table()
        self.best_epoch_ = stopping.best_epoch_ if stopping else len(training.net.history)
        self.best_share_ = stopping.best_share_ if stopping else 1.0
        self.start_score_ = stopping.start_score_ if stopping else np.nan
        self.best_score_ = stopping.best_score_ if stopping else np.nan

    def _keep_net(self, training: Training) -> None:
        """Keep the net of a training, without what only training needs."""
        self.net_ = training.release_net()
        self.n_components_ = self.net_.width_
        self.backbone_ = training.backbone

    def _map_of(self, net: EmbeddingNet) -> NetworkMap:
        """Return the network of a net, after the backbone, as a map of points."""
        f = net.map()
        f.feature_shape, f.backbone = self.feature_shape_, self.backbone_
        f.origin = self.origin_
        return f

    def _metric_of(self, f: NetworkMap) -> LearnedDistance:
        """Return the distance between points that a copy of f embeds."""
        return LearnedDistance(f.with_module(copy.deepcopy(f.module)), self.distance, distinct=True)

    def _embed(self, X: Any, f: NetworkMap) -> NDArray[np.float32]:
        """Check points, and embed them."""
        X = as_dataset_if_items(X)
        if isinstance(X, Dataset):
            if len(X) == 0:  # type: ignore[arg-type]  # torch declares no __len__
                raise ValueError("The Dataset is empty. Pass one with at least one item.")
            check_feature_shape(
                tuple(as_point_tensor(X[0]).shape), self.feature_shape_, type(self).__name__
            )
            Z = f.embed(f.prepare(X))
            if n_bad := (~np.isfinite(Z)).any(axis=1).sum():
                raise ValueError(
                    f"{n_bad} of {len(Z)} embeddings are not finite. Check that the points of the "
                    "Dataset are finite."
                )
            return Z
        check_n_dims(X, self.feature_shape_, type(self).__name__)
        X = validate_data(self, X, reset=False, dtype=point_dtype(X), order="C", allow_nd=True)
        check_feature_shape(X.shape[1:], self.feature_shape_, type(self).__name__)
        return f.embed(f.prepare(X))

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "net_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # Points without labels are compared with their augmented copies, but not classified.
        may_lack_labels = self.augment is not None and not isinstance(self, ClassifierMixin)
        tags.target_tags.required = self.supervision != "triplets" and not may_lack_labels
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def knows_classes(loss: Any) -> bool:
    """Whether a loss keeps something for each class, like a proxy.

    Parameters
    ----------
    loss : callable
        The loss, one of pytorch-metric-learning or any other.

    Returns
    -------
    bool
        Whether it has a number of classes.
    """
    return any(getattr(loss, name, None) is not None for name in ("n_classes", "num_classes"))
