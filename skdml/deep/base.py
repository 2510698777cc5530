"""DeepEmbedder: a scikit-learn estimator around a skorch net that `fit` builds."""

import contextlib
import copy
import pickle
import warnings
from numbers import Integral, Real
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch.callbacks import Callback
from torch.utils.data import Dataset

from skdml.base import MetricLearner, unchanged_on_error
from skdml.deep.data.augmentation import AugmentedDataset
from skdml.deep.data.datasets import as_point_tensor
from skdml.deep.data.reading import check_feature_shape, check_n_dims, read_training_data
from skdml.deep.data.samplers import GROUP_BATCHES, make_batch_sampler
from skdml.deep.losses import learns_from
from skdml.deep.scores import SCORINGS
from skdml.deep.training.build import NetBuilderMixin
from skdml.deep.training.checkpoint import SaveState, load_state, set_generators, whole_path
from skdml.deep.training.held_out import hold_out
from skdml.deep.training.stopping import ReplayedScores, RetrievalStopping, WeightsAtEpoch
from skdml.distances import LearnedDistance, check_distance


class DeepEmbedder(NetBuilderMixin, MetricLearner):
    """Deep learned distance: a network and a loss that compares the samples of a batch.

    `fit` builds a skorch net around `module`, trains it on batches of P classes x K samples, stops
    on retrieval among what was held out, and keeps the best weights; the weights it starts from
    are a candidate, and so are those midway. `transform` passes points through the network.

    Parameters
    ----------
    module : class, callable, torch.nn.Module or None, default=None
        The network. None builds a `ResidualEmbedder` for tables and a `ConvEmbedder` for images of
        shape (channels, height, width). A class or a function is called with ``module__*``; where
        it has parameters `n_features` (or `input_shape`) and `n_components`, it is given these. An
        instance is copied, never trained in place, and keeps its weights. A network that is built
        here and has a method ``initialize_from(X)`` is shown training points before training; if
        the method takes ``y`` or ``groups``, their classes and groups, too.
    loss : str, class or torch.nn.Module, default="contrastive"
        A name (see `skdml.deep.losses.LOSSES`), a loss, or its class. It is called
        ``loss(embeddings, labels)``, with a third argument ``indices_tuple`` where there are
        tuples, or a miner that the loss does not run itself. Losses of pytorch-metric-learning
        fit. Its parameters are given by ``loss__*``, with which an instance is built anew. A loss
        that has to know the number of classes or the width of the embedding is told. Proxies start
        where the loss has them, at random. "cosent" learns from graded targets, and "info_nce" and
        "vicreg" from two views, which `augment` makes; a loss of your own says so by an attribute
        ``learns_from``, "targets" or "views".
    freeze : {"module"} or None, default=None
        What is not trained. "module": the given module is a backbone that stays as it is. It runs
        in evaluation mode, once over all points that `fit` is given; what is trained on its
        outputs is the head. `transform` passes points through both. The module then gives a
        vector of any width for each point, and a class is not told `n_components`.
    head : class, callable, torch.nn.Module or None, default=None
        The network that is trained on the outputs of a frozen module, given as `module` is, with
        ``head__*``; None builds a `ResidualEmbedder`. Only with ``freeze="module"``.
    n_components : int, default=None
        Width of the embedding. None is what a given module (or head) makes it; for the default
        network of tables the number of features, at most 768, and for the default head as many as
        the frozen module gives, so that nothing is lost at the start; for that of images, and for a
        module that has to be told, 64, or the number of features where that is less.
    margin : float, default=None
        The margin of the loss, in units of `distance`; None is the default of the loss. The
        default networks start with two training points 1 apart on average.
    distance : {"euclidean", "sqeuclidean", "cosine", "angular", "manhattan"}, default="euclidean"
        The base distance, in the loss and in `get_metric`.
    normalize : bool, default=False
        Bring embeddings to unit length.
    miner : str, class, callable or None, default="all"
        Which pairs and triplets of a batch the loss learns from: a name (see
        `skdml.deep.miners.MINERS`), a miner, or its class. A callable gets (embeddings, labels) and
        gives a tuple of indices, as the miners of pytorch-metric-learning do. None leaves it to
        the loss. Its parameters are given by ``miner__*``.
    n_per_class : int, default=4
        K: samples of a class that a batch keeps together, at least 2.
    batch_size : int, default=128
        P x K, samples a batch; with tuples, tuples a batch. A batch holds two classes at least.
    balance_classes : bool, default=False
        Draw every class equally often, for rare ones: of a frequent class some samples wait for
        other epochs, those of a rare one come again in later batches. False draws every sample
        once an epoch.
    group_batches : {"together", "apart"} or None, default="together"
        What the `groups` that `fit` is given do. "together": alike samples of a batch come from
        different groups as far as can be (a face seen by several cameras: what is learned is not
        the camera). "apart": each batch is of one group (sessions that differ in what is not of
        interest: a stranger is told by more than the session); groups without two classes, one of
        them twice, are left out. None pays them no regard.
    max_epochs : int, default=100
        Epochs at most.
    lr : float, default=3e-4
        Learning rate.
    proxy_lr : float, default=0.01
        Learning rate of what the loss itself learns: proxies, boundaries.
    optimizer : class, default=torch.optim.AdamW
        A torch optimizer; its parameters are given by ``optimizer__*``.
    early_stopping : bool, default=True
        Hold out classes (rows, where classes are few), stop when they are no longer found better,
        and restore the best weights. False trains to the end on everything. With too few rows to
        hold out any, training also runs to the end.
    validation_fraction : float, default=0.2
        The share of classes, rows or tuples to hold out, in (0, 1).
    scoring : {"map_at_r", "recall_at_1"} or callable, default="map_at_r"
        What stopping watches. A callable gets (embeddings, labels) of the held-out classes, or
        (embeddings, labels, reference, reference_labels) where rows were held out; larger is
        better. With pairs it is the area under the ROC curve, with triplets the share in order,
        with views of points without labels the mean reciprocal rank of one among others, with
        graded targets the rank correlation of distances in the two.
    patience : int, default=None
        Epochs without a new best score before training stops. None is 10; where an epoch has less
        than ten batches, only every so many epochs that these are ten are scored, and patience is
        for ten such scores.
    refit : bool, default=True
        After stopping, train anew on everything, what was held out included, for as many epochs as
        were best. False keeps the network that was stopped, in half the time.
    supervision : {"labels"}, default="labels"
        What `fit` is given; see the subclasses for pairs and triplets.
    memory_size : int, default=0
        Cross-batch memory: each batch is also compared with the embeddings of so many points of
        earlier batches, kept as they were, from the second epoch on. The loss is the mean of that
        within the batch and that by the memory. Needs ``supervision="labels"`` and a loss that
        takes references, as most over pairs and triplets do.
    chunk_size : int, default=None
        Pass a batch through the network in pieces of at most so many points. The memory is that
        of a piece, the loss and its gradient are those of the whole batch, and the time is that
        of one forward pass more. Batch normalisation takes its statistics from each piece. None
        passes the batch at once.
    amp : bool, default=False
        Train the network in automatic mixed precision: bfloat16, or float16 with a scaled gradient
        on a GPU that has no bfloat16. The loss gets float32. `transform`, and the scores to stop
        on, stay in full precision.
    compile : bool, default=False
        Run the network through `torch.compile` while it trains; its parameters are given by
        ``compile__*``. `transform` and pickles hold the network as it is.
    augment : callable, default=None
        Augments the points that training is shown: it gets a batch of them, a float32 Tensor of
        shape (n, ...), and gives another of the same shape, by draws from torch's generator. With
        ``y=None`` it takes the place of labels: two views of a point are alike, and those of
        different points are not (`batch_size` then counts points, not views). `transform` does not
        augment.
    device : str, default="auto"
        A torch device; "auto" is a GPU where there is one.
    random_state : int, RandomState instance or None, default=None
        Decides weights, batches and what is held out. torch's global generator is left alone.
    warm_start : bool, default=False
        Begin a further `fit` with the network of the last one. Where its backbone was frozen and
        `freeze` is now None, backbone and head are trained on together.
    checkpoint : str or Path, default=None
        A folder. After each epoch the state of training is written there; the same fit (same
        parameters, same data), begun again after it was killed, goes on from its last epoch and
        ends with the same bits. The file is removed when a fit ends. It is a pickle: load none
        that you do not trust.
    callbacks : list, default=None
        skorch callbacks, or (name, callback) pairs. They may watch "train_loss" and, by its name,
        the score of what is held out, for which then each epoch is scored; a refit repeats the
        scores for them.
    verbose : int, default=0
        1 prints a line for each epoch.
    **net_params : dict
        ``module__*``, ``head__*``, ``loss__*`` (or ``criterion__*``, skorch's name),
        ``miner__*``, ``optimizer__*``, ``iterator_train__*`` (of `torch.utils.data.DataLoader`),
        ``callbacks__*`` and ``compile__*``, as in skorch. They are parameters like all others:
        `get_params` shows them and a grid search can search them.

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The fitted net; ``net_.module_`` is the network, or the head of a frozen one.
    backbone_ : FrozenNetwork or None
        The frozen module as a callable on arrays; None without ``freeze``.
    n_components_ : int
        Width of the embedding.
    history_ : dict of str to ndarray of shape (n_epochs,)
        For each epoch, before any refit, "loss", "active_share" (of pairs or triplets with a loss),
        "spread" (root mean square distance to the centre of a batch), "seconds", and, by its name,
        the score (NaN where an epoch was not scored; see `patience`).
    best_epoch_ : int
        The epoch whose weights were kept; 0 is the start.
    best_share_ : float
        How much was kept of what training had changed in the network by then: all, 1.0, or, where
        that was better, half.
    start_score_, best_score_ : float
        The score before training, and at the best epoch; NaN without early stopping.
    feature_shape_ : tuple of int
        The shape of a point.
    n_features_in_ : int
        Number of features; for images, of channels.
    feature_names_in_ : ndarray of str of shape (n_features_in_,)
        Names of the columns, where X had some.

    See Also
    --------
    DeepSiameseEmbedder : The contrastive loss.
    DeepTripletEmbedder : The triplet loss.
    DeepProxyEmbedder : Proxies that start at the means of their classes, and classify.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skdml import DeepEmbedder
    >>> X, y = load_iris(return_X_y=True)
    >>> embedder = DeepEmbedder(max_epochs=5, random_state=0).fit(X, y)
    >>> embedder.transform(X).shape
    (150, 4)
    """

    _supervisions = ("labels",)
    _needs_classes = False  # whether none may be held out whole, and y never be lacking

    def __init__(
        self,
        module=None,
        *,
        freeze=None,
        head=None,
        loss="contrastive",
        n_components=None,
        margin=None,
        distance="euclidean",
        normalize=False,
        miner="all",
        n_per_class=4,
        batch_size=128,
        balance_classes=False,
        group_batches="together",
        max_epochs=100,
        lr=3e-4,
        proxy_lr=0.01,
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
        self.module = module
        self.freeze = freeze
        self.head = head
        self.loss = loss
        self.n_components = n_components
        self.margin = margin
        self.distance = distance
        self.normalize = normalize
        self.miner = miner
        self.n_per_class = n_per_class
        self.batch_size = batch_size
        self.balance_classes = balance_classes
        self.group_batches = group_batches
        self.max_epochs = max_epochs
        self.lr = lr
        self.proxy_lr = proxy_lr
        self.optimizer = optimizer
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.scoring = scoring
        self.patience = patience
        self.refit = refit
        self.supervision = supervision
        self.memory_size = memory_size
        self.chunk_size = chunk_size
        self.amp = amp
        self.compile = compile
        self.augment = augment
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.checkpoint = checkpoint
        self.callbacks = callbacks
        self.verbose = verbose
        self._net_params = net_params

    def fit(self, X, y=None, groups=None):
        """Learn the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or torch Dataset
            Points: a table, images as (n_samples, channels, height, width), or a Dataset that is
            read batch by batch. With ``supervision="pairs"`` or ``"triplets"`` tuples of points,
            of shape (n_tuples, 2, ...) or (n_tuples, 3, ...).
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels of any kind. For a loss that learns from graded targets numbers, or rows of
            0 and 1 for several labels at once. For pairs 1 (same) and 0 or -1 (different). None for
            triplets, and with `augment` for points without labels. To a loss that learns from views
            classes teach nothing; training stops on those that are held out.
        groups : array-like of shape (n_samples,), default=None
            The group of each point: a camera, a writer, a session. What becomes of it in batches
            says `group_batches`. Where rows of known classes are held out to stop on, these are
            whole groups, if each class has two rows left in others; and so are those that choose
            the start.

        Returns
        -------
        self
            The fitted learner.

        Raises
        ------
        ValueError
            If X or y cannot be learned from, or a parameter is out of range or unknown. The
            learner is as it was.
        RuntimeError
            If the loss or the weights are no longer finite. After at least one whole epoch the
            learner is fitted all the same, with its best weights, or without early stopping those
            of the last epoch that went well. Otherwise it is as it was.
        KeyboardInterrupt
            If Ctrl-C comes before the first epoch. The learner is as it was.

        Warns
        -----
        UserWarning
            If Ctrl-C ends training: the learner is fitted with its best weights so far, or
            without early stopping those of now. There is no refit then, and of one that is
            interrupted nothing is kept. A checkpoint stays where it is, and the same fit goes on.
        """
        with unchanged_on_error(self):
            self._check_params()
            former = self._former()
            kind, reset = self._kind(y), former is None
            data = read_training_data(self, X, y, groups, kind=kind, reset=reset)
            self._number_classes(data, y)
            path = self._checkpoint_path(data)
            state = load_state(path) if path else None
            with self._seeded(state) as seed:
                self._set_backbone(former)
                data = self._outputs_or_points(data)
                train, stopping = self._hold_out(data, seed)
                first = [] if stopping is None else [("stopping", stopping)]
                net, trouble = self._train(data, train, seed, former, first, path, state)
                if isinstance(trouble, RuntimeError) and not net.history:
                    raise trouble
                self._meet_held_out(net, data, train, seed)
                self._keep(net)
                if self.refit and stopping is not None and trouble is None:
                    trouble = self._refit(data, net, stopping.name, seed, former, path)
            if path and trouble is None:
                path.unlink(missing_ok=True)
                whole_path(path).unlink(missing_ok=True)
        if trouble is not None:
            kept = f"is fitted with its weights after epoch {self.best_epoch_} (0 is the start)."
            if isinstance(trouble, RuntimeError):
                raise RuntimeError(f"{trouble} The learner {kept}")
            warnings.warn(f"Training was interrupted. The learner {kept}", stacklevel=2)
        return self

    def partial_fit(self, X, y=None, groups=None):
        """Train for one epoch on the given data; the first call builds the network from it.

        Nothing is held out, and there is no early stopping. Network, loss and optimizer are those
        of the first call, or of the last `fit`: what is set since then on them, `lr` included, is
        for the next `fit`; what is set on batches counts at once.

        Parameters
        ----------
        X : array-like or torch Dataset
            As in `fit`.
        y : array-like of shape (n_samples,)
            As in `fit`; classes may come and go from call to call.
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
            if not first and self._knows_classes():
                raise ValueError(
                    f"{type(self).__name__} numbers the classes of each call anew, and so cannot "
                    f"tell which is which in {self.net_.criterion_}. Take DeepProxyEmbedder, which "
                    "remembers them."
                )
            data = read_training_data(self, X, y, groups, kind=self._kind(y), reset=first)
            self._train_once(data, first)
        return self

    def _train(self, data, rows, seed, former, first, path=None, state=None, n_epochs=None):
        """Train a net, or go on; return it, and what ended that too early, if anything did."""
        if state is None:
            net = self._build(data, rows, seed, former, first, path)
            self._start_loss(net, data, rows, seed)
            net.notify("on_train_begin", X=data, y=None)
        else:
            net = self._go_on(state, first, path)
        n_left = (self.max_epochs if n_epochs is None else n_epochs) - len(net.history)
        return net, net.run(self._shown(data), self._sampler(data, rows, seed, net), n_left)

    def _refit(self, data, stopped, score_name, seed, former, path):
        """Train on everything; return what ended that too early, and what was stopped is kept."""
        known = ReplayedScores(stopped.history, score_name)
        try:
            return self._train_on_all(data, stopped, known, seed, former, path)
        except KeyboardInterrupt as interrupt:  # before the first epoch
            return interrupt

    def _train_on_all(self, data, stopped, known, seed, former, path):
        """Train anew on what was held out, too, and keep the epoch that was best without it."""
        path = path and whole_path(path)
        state = load_state(path) if path else None
        if state is None:
            torch.manual_seed(seed)
        rows = np.arange(len(data))
        options = {"path": path, "state": state, "n_epochs": self._n_epochs_on_all()}
        kept = WeightsAtEpoch(self.best_epoch_, self.best_share_)
        first = [("scores", known), ("stopping", kept)]
        net, trouble = self._train(data, rows, seed, former, first, **options)
        if trouble is None or len(net.history) > self.best_epoch_:
            net.history = stopped.history  # it has the scores
            self._keep_net(net)
        return trouble

    def _train_once(self, data, first):
        """Train for one epoch: a new net, or a copy, for one that fails must not stay halfway."""
        rows = np.arange(len(data))
        with self._seeded() as seed:
            if first:
                self._set_backbone()
            data = self._outputs_or_points(data)
            net = self._build(data, rows, seed) if first else copy.deepcopy(self.net_)
            torch.manual_seed(seed + len(net.history))  # not the same dropout in each call
            if first:
                self._start_loss(net, data, rows, seed)
                net.notify("on_train_begin", X=data, y=None)
            else:
                net.check_monitors()
                self._make_room(net, data, seed)
                net.empty_memory()
            trouble = net.run(self._shown(data), self._sampler(data, rows, seed, net), 1)
        if isinstance(trouble, RuntimeError):
            raise trouble
        self._keep(net)

    def transform(self, X):
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
        return self._pass(X, self._map())

    def _pass(self, X, f):
        """Check points, and pass them through a network."""
        if isinstance(X, Dataset):
            if len(X) == 0:
                raise ValueError("The Dataset is empty; give one with at least one item.")
            shape = tuple(as_point_tensor(X[0]).shape)
            check_feature_shape(shape, self.feature_shape_, type(self).__name__)
            Z = f.embed(X)
            if n_bad := (~np.isfinite(Z)).any(axis=1).sum():
                raise ValueError(
                    f"{n_bad} of {len(Z)} embeddings are not finite; see that the points of the "
                    "Dataset are."
                )
            return Z
        check_n_dims(X, self.feature_shape_, type(self).__name__)
        X = validate_data(self, X, reset=False, dtype=np.float32, order="C", allow_nd=True)
        check_feature_shape(X.shape[1:], self.feature_shape_, type(self).__name__)
        return f.embed(X)

    def get_metric(self):
        """Return the learned distance as a callable.

        Returns
        -------
        LearnedDistance
            d, with a copy of the network. It embeds each distinct point once.
        """
        check_is_fitted(self)
        f = self._map()
        return LearnedDistance(f.with_module(copy.deepcopy(f.module)), self.distance, distinct=True)

    def _map(self):
        """Return f as it is now."""
        return self._map_of(self.net_)

    def _map_of(self, net):
        """Return the network of a net, behind the backbone, as a map of points."""
        f = net.map()
        f.feature_shape, f.backbone = self.feature_shape_, self.backbone_
        return f

    def _former(self):
        """Return the network of the last fit where training begins with it, or None."""
        if not self.warm_start or not self.__sklearn_is_fitted__():
            return None
        if self.backbone_ is not None and self.freeze is None:  # thawed
            return torch.nn.Sequential(self.backbone_.module, self._map().module)
        if self.backbone_ is None and self.freeze is not None:
            raise ValueError(
                "With warm_start=True freeze='module' goes on with the frozen backbone of the last "
                "fit, which had none. Give what it learned, net_.module_, to a new "
                f"{type(self).__name__} as its module."
            )
        return self._map().module

    def _kind(self, y):
        """Say what y is: that of tuples, or for points classes, graded targets or nothing."""
        kind = self.supervision
        if kind == "labels":
            given = self.params_of("criterion") | self.params_of("loss")
            kind = learns_from(self._loss(), **given)
        if kind == "views" and self.augment is None:
            raise ValueError(
                f"loss={self._loss()!r} compares two views of each point, and nothing makes them. "
                "Give augment, a callable that augments a batch of points."
            )
        if kind == "labels" and y is None and self._may_lack_y():
            kind = "views"
        if self.memory_size and kind != "labels":
            raise ValueError(
                f"memory_size={self.memory_size} needs classes, by which earlier points are "
                f"compared; {kind} have none. Take memory_size=0."
            )
        return kind

    def _may_lack_y(self):
        return self.augment is not None and not self._needs_classes

    def _knows_classes(self):
        """Whether the loss knows classes by their numbers; pytorch-metric-learning's do, too."""
        sizes = [getattr(self.net_.criterion_, name, None) for name in ("n_classes", "num_classes")]
        return any(size is not None for size in sizes)

    # What a learner that remembers its classes does in addition.

    def _number_classes(self, data, y):
        """Note what the classes are called."""

    def _n_classes(self, data):
        return None if data.kind == "targets" else int(data.targets.max()) + 1

    def _start_loss(self, net, data, rows, seed):
        """Let the loss begin where it knows the classes of some rows."""

    def _make_room(self, net, data, seed):
        """Let the loss know of classes that are new."""

    def _meet_held_out(self, net, data, train, seed):
        """Let the loss know of classes that it was not shown."""

    def _n_epochs_on_all(self):
        """Return how long to train on everything, once the best epoch is known."""
        return self.best_epoch_

    def _set_distance(self, net, weights):
        """Let the distance be that of these weights, those of the best epoch."""
        net.module_.load_state_dict(weights)

    def _go_on(self, state, first, path):
        """Return the net of a training that was killed, ready for its next epoch."""
        net = state["net"]
        net.verbose = self.verbose
        net.callback(SaveState).path = path  # the folder may have moved
        set_generators(state["generators"], net.device)
        if stopping := net.callback(RetrievalStopping):
            stopping.score = dict(first)["stopping"].score
        return net

    def _keep(self, net):
        """Set the fitted attributes, and drop what only training needs."""
        stopping = net.callback(RetrievalStopping)
        self.history_ = net.history_table()
        self.best_epoch_ = stopping.best_epoch_ if stopping else len(net.history)
        self.best_share_ = stopping.best_share_ if stopping else 1.0
        self.start_score_ = stopping.start_score_ if stopping else np.nan
        self.best_score_ = stopping.best_score_ if stopping else np.nan
        self._keep_net(net)

    def _keep_net(self, net):
        self.n_components_ = net.width(self._input_shape())
        if kept := net.callback(WeightsAtEpoch):
            self._set_distance(net, kept.weights_)
        net.drop_callbacks(RetrievalStopping, ReplayedScores, WeightsAtEpoch, SaveState)
        net.memory_ = None
        net.module_.eval()  # so that no thread that embeds has to switch it
        self.net_ = net

    def _hold_out(self, data, seed):
        """Return the rows to train on, and what ends training, if something is held out for it."""
        if not self.early_stopping:
            return np.arange(len(data)), None
        train, score = hold_out(
            data,
            self.validation_fraction,
            np.random.default_rng(seed),
            distance=self.distance,
            scoring=self.scoring,
            whole_classes=self.refit or not self._needs_classes,
            augment=self.augment,
        )
        return train, None if score is None else RetrievalStopping(score, self.patience)

    def _shown(self, data):
        """Return what the network is shown of the data while it trains."""
        if self.augment is None:
            return data
        return AugmentedDataset(data, self.augment, n_views=2 if data.kind == "views" else 1)

    def _sampler(self, data, rows, seed, net):
        """Return the batches of the epochs to come."""
        sampler = make_batch_sampler(
            data,
            rows,
            self.batch_size,
            n_per_class=self.n_per_class,
            balanced=self.balance_classes,
            group_batches=self.group_batches,
            seed=seed,
        )
        sampler.epoch = len(net.history)
        return sampler

    def _checkpoint_path(self, data):
        """Return the file of this very fit, told by its parameters and its data."""
        if self.checkpoint is None:
            return None
        silent = ("checkpoint", "verbose", "device")
        params = {k: v for k, v in self.get_params(deep=False).items() if k not in silent}
        points = data.X if hasattr(data, "X") else len(data)
        try:
            said = (data.targets, data.groups, data.classes)
            name = joblib.hash((type(self).__name__, params, points, *said))
        except (pickle.PicklingError, AttributeError) as error:
            raise ValueError(
                "checkpoint tells this very fit by its parameters, and one of them cannot be "
                f"pickled: {error.args[0]}. Define functions and classes in a module, by name."
            ) from error
        return Path(self.checkpoint) / f"{name}.fit"

    @contextlib.contextmanager
    def _seeded(self, state=None):
        """Seed torch from `random_state`, and leave its global generators as they were."""
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        if state is not None:  # without a random_state, a fit that goes on keeps its seed
            seed = state["seed"]
        device = torch.device(self._device())
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield seed

    def _check_params(self):
        for name, low in [
            ("batch_size", 2),
            ("n_per_class", 2),
            ("max_epochs", 1),
            ("memory_size", 0),
        ]:
            check_scalar(getattr(self, name), name, Integral, min_val=low)
        for name in (
            *("normalize", "balance_classes", "early_stopping", "refit"),
            *("amp", "compile", "warm_start"),
        ):
            check_scalar(getattr(self, name), name, (bool, np.bool_))
        for name in ("n_components", "chunk_size", "patience"):
            if getattr(self, name) is not None:
                check_scalar(getattr(self, name), name, Integral, min_val=1)
        check_scalar(self.verbose, "verbose", Integral)
        self._check_freeze()
        for name, high in [("lr", None), ("proxy_lr", None), ("validation_fraction", 1)]:
            value, bounds = getattr(self, name), {"min_val": 0, "max_val": high}
            check_scalar(value, name, Real, **bounds, include_boundaries="neither")
            if not np.isfinite(value):  # a NaN is within any bounds
                raise ValueError(f"{name} has to be a finite number; got {value}.")
        if self.augment is not None and not callable(self.augment):
            raise ValueError(
                f"augment={self.augment!r} is no callable, which gets a batch of points and gives "
                "as many of the same shape."
            )
        if not callable(self.optimizer):
            raise ValueError(
                f"optimizer={self.optimizer!r} is no optimizer: give a class, as torch.optim.AdamW."
            )
        if self.supervision not in self._supervisions:
            raise ValueError(
                f"supervision={self.supervision!r} is unknown to {type(self).__name__}; choose one "
                f"of {list(self._supervisions)}."
            )
        if self.group_batches not in GROUP_BATCHES:
            raise ValueError(
                f"group_batches={self.group_batches!r} is unknown; choose one of "
                f"{list(GROUP_BATCHES)}."
            )
        if not callable(self.scoring) and self.scoring not in SCORINGS:
            raise ValueError(
                f"scoring={self.scoring!r} is unknown; choose one of {sorted(SCORINGS)}, or give a "
                "callable."
            )
        self._check_callbacks()
        check_distance(self.distance)
        self._built_miner()
        if self.margin is not None:
            check_scalar(self.margin, "margin", Real)

    def _check_callbacks(self):
        if not isinstance(self.callbacks, (list, tuple, type(None))):
            raise ValueError(f"callbacks={self.callbacks!r} is no list; give a list of callbacks.")
        for one in self.callbacks or ():
            one = one[-1] if isinstance(one, tuple) and len(one) == 2 else one
            is_class = isinstance(one, type) and issubclass(one, Callback)
            if not (one is None or is_class or isinstance(one, Callback)):
                raise ValueError(
                    f"callbacks holds {one!r}, which is no callback; give those of "
                    "skorch.callbacks, or pairs (name, callback)."
                )

    def _check_freeze(self):
        if self.freeze not in (None, "module"):
            raise ValueError(f"freeze={self.freeze!r} is unknown; give None or 'module'.")
        if self.freeze is not None and self.module is None:
            raise ValueError(
                "freeze='module' with module=None would freeze a network that has learned nothing. "
                "Give the module that is to stay as it is."
            )
        if self.freeze is not None and self.augment is not None:
            raise ValueError(
                "augment makes other points for each epoch, and with freeze='module' points pass "
                "through the module once. Give one of the two."
            )
        for_head = ["head"] if self.head is not None else []
        for_head += [f"head__{name}" for name in self.params_of("head")]
        if self.freeze is None and for_head and not self.warm_start:
            raise ValueError(
                f"{for_head} were given, but there is no head without freeze='module': what is "
                "trained is the module."
            )

    @property
    def _n_features_out(self):
        return self.n_components_

    def __sklearn_is_fitted__(self):
        return hasattr(self, "net_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.supervision != "triplets" and not self._may_lack_y()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
