"""Pictures of a learned distance, as Display classes in scikit-learn's manner.

Each is made by ``from_estimator`` or ``from_predictions``, drawn by ``plot`` on the axes given or
on new ones, and keeps what it drew in attributes. matplotlib is asked for only when one is drawn.
Classes differ by marker as well as by colour, and the colours keep apart in grey and for
colour-blind eyes.
"""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import det_curve, roc_curve
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import check_is_fitted

from skdml.base import check_tuples
from skdml.constraints import check_same
from skdml.verification import pair_distances

# Okabe and Ito's colours, dark and light in turn, so that neighbours differ in grey, too; a grey
# stands for their yellow, which is lost on white.
COLOURS = ("#0072B2", "#E69F00", "#000000", "#56B4E9", "#D55E00", "#999999", "#009E73", "#CC79A7")
MARKERS = "osD^vPX*"

RIGHT, WRONG = "#0072B2", "#D55E00"

# What each epoch of a training records first; its scores follow.
_PANELS = {"loss": "loss", "active_share": "active share", "spread": "spread"}


def _axes(ax, **figure):
    """Return the axes to draw on."""
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Pictures need matplotlib: pip install matplotlib", name=error.name
        ) from error
    return plt.subplots(layout="constrained", **figure)[1] if ax is None else ax


class VerificationDisplay:
    """Distances of same and of different pairs, or the curve of errors that they make.

    Parameters
    ----------
    same : ndarray of bool, shape (n_pairs,)
        Whether the two points of a pair are of one class.
    distance : ndarray of shape (n_pairs,)
        Their distance.
    threshold : float, default=None
        The largest distance that is accepted, to be marked.
    name : str, default=None
        What is judged, for the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        What was drawn on.
    figure_ : matplotlib Figure
        Its figure.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from skdml.plotting import VerificationDisplay
    >>> display = VerificationDisplay.from_predictions([1, 1, 0, 0], [0.1, 0.4, 0.3, 0.9])
    >>> display.ax_.get_xlabel()
    'distance'
    """

    def __init__(self, same, distance, *, threshold=None, name=None):
        self.same = same
        self.distance = distance
        self.threshold = threshold
        self.name = name

    @classmethod
    def from_estimator(cls, estimator, X, y, *, kind="histogram", name=None, ax=None, **options):
        """Measure pairs by a learner or a verifier, and draw.

        Parameters
        ----------
        estimator : estimator
            Fitted; a verifier's threshold is marked.
        X : array-like of shape (n_pairs, 2, ...)
            Pairs of points.
        y : array-like of shape (n_pairs,)
            1 for pairs of the same class, 0 or -1 for different ones.
        kind : {"histogram", "roc", "det"}, default="histogram"
            See `plot`.
        name : str, default=None
            None is the name of the class of the estimator.
        ax : matplotlib Axes, default=None
            What to draw on; None makes a figure.
        **options : dict
            For matplotlib, see `plot`.

        Returns
        -------
        VerificationDisplay
            The display, drawn.
        """
        threshold = getattr(estimator, "threshold_", None)
        name = type(estimator).__name__ if name is None else name
        distance = pair_distances(estimator, check_tuples(X, 2))
        display = cls(check_same(y, len(distance)), distance, threshold=threshold, name=name)
        return display.plot(kind=kind, ax=ax, **options)

    @classmethod
    def from_predictions(
        cls, y_true, distance, *, threshold=None, kind="histogram", name=None, ax=None, **options
    ):
        """Draw distances that are known already.

        Parameters
        ----------
        y_true : array-like of shape (n_pairs,)
            1 for pairs of the same class, 0 or -1 for different ones.
        distance : array-like of shape (n_pairs,)
            Their distances.
        threshold : float, default=None
            The largest distance that is accepted, to be marked.
        kind : {"histogram", "roc", "det"}, default="histogram"
            See `plot`.
        name : str, default=None
            For the legend.
        ax : matplotlib Axes, default=None
            What to draw on; None makes a figure.
        **options : dict
            For matplotlib, see `plot`.

        Returns
        -------
        VerificationDisplay
            The display, drawn.
        """
        distance = check_array(distance, ensure_2d=False, input_name="distance")
        display = cls(check_same(y_true, len(distance)), distance, threshold=threshold, name=name)
        return display.plot(kind=kind, ax=ax, **options)

    def plot(self, *, kind="histogram", ax=None, **options):
        """Draw.

        Parameters
        ----------
        kind : {"histogram", "roc", "det"}, default="histogram"
            The distances of both kinds of pairs, or the curve of true accepts over false accepts,
            or that of false rejects over false accepts (both axes logarithmic).
        ax : matplotlib Axes, default=None
            What to draw on; None makes a figure.
        **options : dict
            For ``ax.hist`` or ``ax.plot``.

        Returns
        -------
        VerificationDisplay
            The display.

        Raises
        ------
        ValueError
            If `kind` is unknown.
        """
        draw = {"histogram": self._histogram, "roc": self._roc, "det": self._det}.get(kind)
        if draw is None:
            raise ValueError(f"kind={kind!r} is unknown; choose 'histogram', 'roc' or 'det'.")
        self.ax_ = _axes(ax)
        self.figure_ = self.ax_.figure
        draw(self.ax_, options)
        if self.ax_.get_legend_handles_labels()[1]:
            self.ax_.legend()
        return self

    def _histogram(self, ax, options):
        options = {"bins": 60, "density": True, "range": (0, self.distance.max())} | options
        ax.hist(self.distance[self.same], color=RIGHT, alpha=0.55, label="same class", **options)
        edge = {"histtype": "step", "color": "black", "linewidth": 1.5}
        ax.hist(self.distance[~self.same], label="different classes", **edge, **options)
        if self.threshold is not None:
            far = (self.distance[~self.same] <= self.threshold).mean()
            frr = (self.distance[self.same] > self.threshold).mean()
            label = f"threshold {self.threshold:.3g}:\nfalse accepts {far:.2%}, rejects {frr:.2%}"
            ax.axvline(self.threshold, color=WRONG, linestyle="--", label=label)
        ax.margins(y=0.4)  # room for the legend
        ax.set(xlabel="distance", ylabel="density", title=self.name or "")

    def _roc(self, ax, options):
        far, tar, _ = roc_curve(self.same, -self.distance)
        ax.plot(far, tar, **{"label": self.name} | options)
        self._mark(ax, lambda far, frr: (far, 1 - frr))
        ax.set(xlabel="false-accept rate", ylabel="true-accept rate", xlim=(0, 1), ylim=(0, 1.01))

    def _det(self, ax, options):
        far, frr, _ = det_curve(self.same, -self.distance)
        seen = (far > 0) & (frr > 0)  # what a logarithmic axis can show
        ax.plot(far[seen], frr[seen], **{"label": self.name} | options)
        self._mark(ax, lambda far, frr: (far, frr))
        ax.set(xscale="log", yscale="log")
        ax.set(xlabel="false-accept rate", ylabel="false-reject rate")

    def _mark(self, ax, place):
        if self.threshold is not None:
            far = (self.distance[~self.same] <= self.threshold).mean()
            frr = (self.distance[self.same] > self.threshold).mean()
            label = f"threshold {self.threshold:.3g}"
            ax.plot(*place(far, frr), color=WRONG, marker="o", linestyle="", label=label)


class EmbeddingDisplay:
    """Points in two dimensions, before and after a learned map.

    Parameters
    ----------
    views : dict of str to ndarray of shape (n_samples, 2)
        For each title the points.
    labels : ndarray of shape (n_samples,)
        Their classes.
    unseen : ndarray of bool, shape (n_samples,), default=None
        Whether a point is of a class that training never saw: drawn hollow.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, shape (n_views,)
        What was drawn on.
    figure_ : matplotlib Figure
        Its figure.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_iris
    >>> from skdml import MahalanobisMetric
    >>> from skdml.plotting import EmbeddingDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> learner = MahalanobisMetric(within_class=True).fit(X, y)
    >>> len(EmbeddingDisplay.from_estimator(learner, X, y).axes_)
    2
    """

    def __init__(self, views, labels, *, unseen=None):
        self.views = views
        self.labels = labels
        self.unseen = unseen

    @classmethod
    def from_estimator(cls, estimator, X, y, *, unseen_labels=(), projector=None, axes=None):
        """Draw points as they are and as a learner maps them.

        Parameters
        ----------
        estimator : estimator
            Fitted, with `transform`.
        X : array-like of shape (n_samples, ...)
            Points.
        y : array-like of shape (n_samples,)
            Their classes.
        unseen_labels : sequence, default=()
            Classes that training never saw.
        projector : transformer, default=None
            Brings points to two dimensions, by `fit_transform`; None is ``PCA(2)``. For a map that
            keeps neighbours give ``TSNE(random_state=0)``.
        axes : sequence of two matplotlib Axes, default=None
            What to draw on; None makes a figure.

        Returns
        -------
        EmbeddingDisplay
            The display, drawn.
        """
        Z = np.asarray(estimator.transform(X))
        X, y = check_array(X, allow_nd=True).reshape(len(Z), -1), np.asarray(y)
        views = {
            "before": _flat(X, projector),
            f"after {type(estimator).__name__}": _flat(Z, projector),
        }
        return cls(views, y, unseen=np.isin(y, list(unseen_labels))).plot(axes=axes)

    @classmethod
    def from_predictions(cls, embeddings, y, *, unseen_labels=(), projector=None, axes=None):
        """Draw points that are embedded already.

        Parameters
        ----------
        embeddings : array-like of shape (n_samples, n_components)
            Points.
        y : array-like of shape (n_samples,)
            Their classes.
        unseen_labels : sequence, default=()
            Classes that training never saw.
        projector : transformer, default=None
            As in `from_estimator`.
        axes : sequence of one matplotlib Axes, default=None
            What to draw on; None makes a figure.

        Returns
        -------
        EmbeddingDisplay
            The display, drawn.
        """
        embeddings, y = check_array(embeddings), np.asarray(y)
        check_consistent_length(embeddings, y)
        views = {"": _flat(embeddings, projector)}
        return cls(views, y, unseen=np.isin(y, list(unseen_labels))).plot(axes=axes)

    def plot(self, *, axes=None, **options):
        """Draw.

        Parameters
        ----------
        axes : sequence of matplotlib Axes, default=None
            One for each view; None makes a figure.
        **options : dict
            For ``ax.scatter``.

        Returns
        -------
        EmbeddingDisplay
            The display.
        """
        n_views = len(self.views)
        size = {"ncols": n_views, "figsize": (1 + 4 * n_views, 4.2), "squeeze": False}
        self.axes_ = np.ravel(_axes(axes, **size))
        self.figure_ = self.axes_[0].figure
        unseen = np.zeros(len(self.labels), bool) if self.unseen is None else self.unseen
        for ax, (title, points) in zip(self.axes_, self.views.items(), strict=True):
            for place, name in enumerate(np.unique(self.labels)):
                colour, of = COLOURS[place % len(COLOURS)], self.labels == name
                hollow = unseen[of].any()
                style = {"marker": MARKERS[(place + place // 8) % 8], "s": 18, "edgecolors": colour}
                style |= {"facecolors": "none" if hollow else colour, "linewidths": 0.9}
                label = f"{name} (unseen)" if hollow else str(name)
                ax.scatter(*points[of].T, label=label, **style | options)
            ax.set(title=title, xticks=[], yticks=[])
        n_classes = len(np.unique(self.labels))
        if n_classes <= 12:
            self.axes_[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
        return self


def _flat(X, projector):
    projector = PCA(2, random_state=0) if projector is None else projector
    if X.shape[1] < 2:
        return np.column_stack([X, np.zeros(len(X))])
    return np.asarray(projector.fit_transform(X))[:, :2]


class RetrievalDisplay:
    """Queries and their nearest neighbours, the right ones framed and the wrong ones crossed.

    Parameters
    ----------
    queries : ndarray of shape (n_queries, ...)
        Points as they came: images (channels, height, width) or (height, width) are shown, others
        stand as their label.
    query_labels : ndarray of shape (n_queries,)
        Their classes.
    neighbors : ndarray of shape (n_queries, n_neighbors, ...)
        What was found for each.
    neighbor_labels : ndarray of shape (n_queries, n_neighbors)
        Their classes.
    distance : ndarray of shape (n_queries, n_neighbors)
        How far each is.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, shape (n_queries, n_neighbors + 1)
        What was drawn on.
    figure_ : matplotlib Figure
        Its figure.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_digits
    >>> from skdml import MahalanobisMetric
    >>> from skdml.plotting import RetrievalDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> learner = MahalanobisMetric("oas").fit(X)
    >>> shown = RetrievalDisplay.from_estimator(learner, X[:100], y[:100], image_shape=(8, 8))
    >>> shown.axes_.shape
    (5, 7)
    """

    def __init__(self, queries, query_labels, neighbors, neighbor_labels, distance):
        self.queries = queries
        self.query_labels = query_labels
        self.neighbors = neighbors
        self.neighbor_labels = neighbor_labels
        self.distance = distance

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y,
        reference=None,
        reference_labels=None,
        *,
        n_queries=5,
        n_neighbors=6,
        image_shape=None,
        axes=None,
    ):
        """Search by a learner, and draw.

        Parameters
        ----------
        estimator : estimator
            Fitted, with `transform`; Euclid measures after it.
        X : array-like of shape (n_samples, ...)
            Points; the first `n_queries` are looked for.
        y : array-like of shape (n_samples,)
            Their classes.
        reference : array-like of shape (n_reference, ...), default=None
            What is searched; None searches X, without the query itself.
        reference_labels : array-like of shape (n_reference,), default=None
            The classes of the reference.
        n_queries, n_neighbors : int, default=5 and 6
            How many rows and columns to show.
        image_shape : tuple of int, default=None
            (height, width) or (channels, height, width) of rows that are images.
        axes : array of matplotlib Axes, shape (n_queries, n_neighbors + 1), default=None
            What to draw on; None makes a figure.

        Returns
        -------
        RetrievalDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If there are fewer points to find than `n_neighbors`.
        """
        X, y = np.asarray(X), np.asarray(y)
        check_consistent_length(X, y)
        alone = reference is None
        reference = X if alone else np.asarray(reference)
        reference_labels = y if alone else np.asarray(reference_labels)
        check_consistent_length(reference, reference_labels)
        if n_neighbors + alone > len(reference):
            raise ValueError(
                f"n_neighbors={n_neighbors} is more than there are among {len(reference)} points."
            )
        Z, queries = np.asarray(estimator.transform(reference)), slice(0, n_queries)
        asked = Z[queries] if alone else np.asarray(estimator.transform(X[queries]))
        search = NearestNeighbors(n_neighbors=n_neighbors + alone).fit(Z)
        distance, found = search.kneighbors(asked)
        if alone:
            found, distance = _without_itself(found, distance)
        shape = reference.shape[1:] if image_shape is None else tuple(image_shape)
        return cls(
            X[queries].reshape(-1, *shape),
            y[queries],
            reference[found].reshape(*found.shape, *shape),
            reference_labels[found],
            distance,
        ).plot(axes=axes)

    @classmethod
    def from_predictions(
        cls, queries, query_labels, neighbors, neighbor_labels, distance, *, axes=None
    ):
        """Draw what was found already.

        Parameters
        ----------
        queries : array-like of shape (n_queries, ...)
            Points.
        query_labels : array-like of shape (n_queries,)
            Their classes.
        neighbors : array-like of shape (n_queries, n_neighbors, ...)
            What was found for each.
        neighbor_labels : array-like of shape (n_queries, n_neighbors)
            Their classes.
        distance : array-like of shape (n_queries, n_neighbors)
            How far each is.
        axes : array of matplotlib Axes, shape (n_queries, n_neighbors + 1), default=None
            What to draw on; None makes a figure.

        Returns
        -------
        RetrievalDisplay
            The display, drawn.
        """
        given = (queries, query_labels, neighbors, neighbor_labels, distance)
        return cls(*map(np.asarray, given)).plot(axes=axes)

    def plot(self, *, axes=None, **options):
        """Draw.

        Parameters
        ----------
        axes : array of matplotlib Axes, shape (n_queries, n_neighbors + 1), default=None
            What to draw on; None makes a figure.
        **options : dict
            For ``ax.imshow``.

        Returns
        -------
        RetrievalDisplay
            The display.
        """
        n_queries, n_neighbors = self.neighbor_labels.shape
        size = {"nrows": n_queries, "ncols": n_neighbors + 1, "squeeze": False}
        size |= {"figsize": (1.15 * (n_neighbors + 1), 1.35 * n_queries)}
        self.axes_ = np.asarray(_axes(axes, **size))
        self.figure_ = self.axes_[0, 0].figure
        for row, name in zip(range(n_queries), self.query_labels, strict=True):
            _show(self.axes_[row, 0], self.queries[row], name, options)
            self.axes_[row, 0].set_title("query", fontsize="small")
            for column in range(n_neighbors):
                ax, label = self.axes_[row, column + 1], self.neighbor_labels[row, column]
                _show(ax, self.neighbors[row, column], label, options)
                right = label == name
                ax.set_title(
                    f"{'✓' if right else '✗'} {self.distance[row, column]:.2f}",
                    fontsize="small",
                    color=RIGHT if right else WRONG,
                )
                for side in ax.spines.values():
                    side.set(
                        color=RIGHT if right else WRONG,
                        linewidth=2,
                        linestyle="-" if right else ":",
                    )
        return self


def _without_itself(found, distance):
    """Drop each query from what it found, or else the last: an equal point may have come first."""
    keep = found != np.arange(len(found))[:, None]
    keep[keep.all(axis=1), -1] = False
    shape = (len(found), -1)
    return found[keep].reshape(shape), distance[keep].reshape(shape)


def _show(ax, point, label, options):
    """Show an image, or else the label of a point."""
    ax.set(xticks=[], yticks=[])
    if point.ndim == 3 and point.shape[0] in (1, 3):
        point = point[0] if point.shape[0] == 1 else np.moveaxis(point, 0, -1)
    if point.ndim >= 2:
        low, high = point.min(), point.max()
        image = (point - low) / (high - low if high > low else 1)
        ax.imshow(image, **{"cmap": "gray"} | options)
        ax.set_xlabel(str(label), fontsize="small", labelpad=1)
    else:
        ax.text(0.5, 0.5, str(label), ha="center", va="center", transform=ax.transAxes)


class TrainingHistoryDisplay:
    """How the training of a deep learner went, epoch by epoch.

    Parameters
    ----------
    history : dict of str to ndarray of shape (n_epochs,)
        What was recorded, as the attribute `history_` holds it.
    best_epoch : int, default=None
        The epoch whose weights were kept, to be marked.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        What was drawn on, a panel each for the loss, the active share, the spread and the score.
    figure_ : matplotlib Figure
        Its figure.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from skdml.plotting import TrainingHistoryDisplay
    >>> shown = TrainingHistoryDisplay({"loss": [0.5, 0.3], "map_at_r": [0.6, 0.7]}).plot()
    >>> len(shown.axes_)
    2
    """

    def __init__(self, history, *, best_epoch=None):
        self.history = history
        self.best_epoch = best_epoch

    @classmethod
    def from_estimator(cls, estimator, *, axes=None, **options):
        """Draw the history of a fitted deep learner.

        Parameters
        ----------
        estimator : estimator
            Fitted, with `history_` and `best_epoch_`.
        axes : sequence of matplotlib Axes, default=None
            One a panel; None makes a figure.
        **options : dict
            For ``ax.plot``.

        Returns
        -------
        TrainingHistoryDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If the estimator has no history.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "history_"):
            raise ValueError(
                f"{type(estimator).__name__} keeps no history_; only deep learners do."
            )
        best = getattr(estimator, "best_epoch_", None)
        return cls(estimator.history_, best_epoch=best).plot(axes=axes, **options)

    def plot(self, *, axes=None, **options):
        """Draw.

        Parameters
        ----------
        axes : sequence of matplotlib Axes, default=None
            One a panel; None makes a figure.
        **options : dict
            For ``ax.plot``.

        Returns
        -------
        TrainingHistoryDisplay
            The display.
        """
        panels = {key: title for key, title in _PANELS.items() if key in self.history}
        panels |= {
            key: key.replace("_", " ")
            for key in self.history
            if key not in panels and key != "seconds" and not key.endswith("_gain")
        }
        size = {"ncols": len(panels), "figsize": (3.2 * len(panels), 3), "squeeze": False}
        self.axes_ = np.ravel(_axes(axes, **size))
        self.figure_ = self.axes_[0].figure
        for ax, (key, title) in zip(self.axes_, panels.items(), strict=True):
            values = np.asarray(self.history[key], dtype=float)
            epochs = np.arange(1, len(values) + 1)
            ax.plot(epochs, values, **{"color": RIGHT, "marker": "."} | options)
            if self.best_epoch:
                label = f"kept: epoch {self.best_epoch}"
                ax.axvline(self.best_epoch, color=WRONG, linestyle="--", label=label)
            ax.set(title=title, xlabel="epoch")
        if self.best_epoch:
            self.axes_[0].legend(fontsize="small")
        return self


class MetricDisplay:
    """What a linear metric does: the features it stretches, its matrix, its spectrum.

    Parameters
    ----------
    matrix : ndarray of shape (n_features, n_features)
        The Mahalanobis matrix M.
    feature_names : sequence of str, default=None
        Names of the features; None is x0, x1, ...

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, shape (3,)
        What was drawn on.
    figure_ : matplotlib Figure
        Its figure.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_iris
    >>> from skdml import MahalanobisMetric
    >>> from skdml.plotting import MetricDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> shown = MetricDisplay.from_estimator(MahalanobisMetric().fit(X))
    >>> shown.axes_.shape
    (3,)
    """

    def __init__(self, matrix, *, feature_names=None):
        self.matrix = matrix
        self.feature_names = feature_names

    @classmethod
    def from_estimator(cls, estimator, *, feature_names=None, max_features=20, axes=None):
        """Draw the metric of a fitted linear learner.

        Parameters
        ----------
        estimator : estimator
            Fitted, with `get_mahalanobis_matrix`.
        feature_names : sequence of str, default=None
            None is `feature_names_in_`, or x0, x1, ...
        max_features : int, default=20
            How many bars to show, the longest.
        axes : sequence of three matplotlib Axes, default=None
            What to draw on; None makes a figure.

        Returns
        -------
        MetricDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If the learner has no such matrix.
        """
        if not hasattr(estimator, "get_mahalanobis_matrix"):
            raise ValueError(
                f"{type(estimator).__name__} has no Mahalanobis matrix; only linear learners have."
            )
        if feature_names is None:
            feature_names = getattr(estimator, "feature_names_in_", None)
        display = cls(estimator.get_mahalanobis_matrix(), feature_names=feature_names)
        return display.plot(max_features=max_features, axes=axes)

    def plot(self, *, max_features=20, axes=None):
        """Draw.

        Parameters
        ----------
        max_features : int, default=20
            How many bars to show, the longest.
        axes : sequence of three matplotlib Axes, default=None
            What to draw on; None makes a figure.

        Returns
        -------
        MetricDisplay
            The display.
        """
        M = self.matrix
        names = (
            [f"x{i}" for i in range(len(M))] if self.feature_names is None else self.feature_names
        )
        self.axes_ = np.ravel(_axes(axes, ncols=3, figsize=(12, 3.8)))
        self.figure_ = self.axes_[0].figure
        stretch, matrix, spectrum = self.axes_
        longest = np.argsort(-M.diagonal(), kind="stable")[:max_features][::-1]
        stretch.barh([str(names[i]) for i in longest], np.sqrt(M.diagonal()[longest]), color=RIGHT)
        stretch.set(title="stretch along each feature", xlabel="√M$_{ii}$")
        peak = abs(M).max() or 1.0
        shown = matrix.imshow(M, cmap="RdBu_r", vmin=-peak, vmax=peak)
        matrix.figure.colorbar(shown, ax=matrix, shrink=0.8)
        matrix.set(title="M", xlabel="feature", ylabel="feature")
        values = np.maximum(np.linalg.eigvalsh(M)[::-1], 0)
        spectrum.plot(np.arange(1, len(M) + 1), values, "o-", color="black", markersize=4)
        share = values / (values.sum() or 1.0)
        rank = np.exp(-(share[share > 0] * np.log(share[share > 0])).sum())
        spectrum.set(title=f"spectrum of M\neffective rank {rank:.1f}", xlabel="axis")
        spectrum.set(ylabel="eigenvalue")
        return self
