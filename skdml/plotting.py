"""Plots of a learned distance, as Display classes in the style of scikit-learn.

A display is created by ``from_estimator`` or ``from_predictions`` and drawn by ``plot``, on given
axes or on new ones. Its attributes hold the plotted data, the axes and the figure. Drawing needs
matplotlib; importing this module does not.

Classes differ by marker and by colour. The colours differ in greyscale and for colour-blind
readers.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import det_curve, roc_curve
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import check_is_fitted

from skdml._labels import check_same_kind, join_labels, read_labels
from skdml.base import check_tuples
from skdml.constraints import check_same
from skdml.verification import pair_distances

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The palette of Okabe and Ito, with grey instead of yellow, because yellow is hard to see on white.
# Dark and light colours alternate, so that consecutive classes also differ in greyscale.
COLOURS = ("#0072B2", "#E69F00", "#000000", "#56B4E9", "#D55E00", "#999999", "#009E73", "#CC79A7")
MARKERS = "osD^vPX*"

_BLUE, _ORANGE = "#0072B2", "#D55E00"

# The first panels of a training history. Panels of the scores follow.
_FIRST_PANELS = {"loss": "loss", "active_share": "active share", "spread": "spread"}


def _axes(ax: Any, **figure: Any) -> Any:
    """Return the given axes, or the axes of a new figure."""
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Plots need matplotlib. Install it with: pip install matplotlib", name=error.name
        ) from error
    return plt.subplots(layout="constrained", **figure)[1] if ax is None else ax


class VerificationDisplay:
    """Plot the distances of same and different pairs, their ROC curve or their DET curve.

    Parameters
    ----------
    same : ndarray of bool, shape (n_pairs,)
        Whether the two points of a pair are of the same class.
    distance : ndarray of shape (n_pairs,)
        The distance within each pair.
    threshold : float, default=None
        The largest accepted distance. If given, the plot marks it.
    name : str, default=None
        Name of the distance: the title of a histogram, and the legend entry of a curve.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes that `plot` drew on.
    figure_ : matplotlib Figure
        The figure of the axes.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from skdml.plotting import VerificationDisplay
    >>> display = VerificationDisplay.from_predictions([1, 1, 0, 0], [0.1, 0.4, 0.3, 0.9])
    >>> display.ax_.get_xlabel()
    'distance'
    """

    def __init__(
        self,
        same: NDArray[np.bool_],
        distance: NDArray[np.floating],
        *,
        threshold: float | None = None,
        name: str | None = None,
    ) -> None:
        if threshold is not None and np.isnan(threshold):
            raise ValueError("threshold=nan is not a distance. Give a number, or None.")
        self.same = same
        self.distance = distance
        self.threshold = threshold
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        kind: str = "histogram",
        name: str | None = None,
        ax: "Axes | None" = None,
        **options: Any,
    ) -> Self:
        """Compute the distances within pairs by a learner or a verifier, and plot them.

        Parameters
        ----------
        estimator : estimator
            Fitted learner or verifier. The plot marks the threshold of a verifier.
        X : array-like of shape (n_pairs, 2, ...)
            Pairs of points.
        y : array-like of shape (n_pairs,)
            1 for pairs of the same class, 0 or -1 for pairs of different classes.
        kind : {"histogram", "roc", "det"}, default="histogram"
            See `plot`.
        name : str, default=None
            Name of the distance. None uses the class name of the estimator.
        ax : matplotlib Axes, default=None
            Axes to draw on. None creates a figure.
        **options : dict
            Options of matplotlib. See `plot`.

        Returns
        -------
        VerificationDisplay
            The drawn display.
        """
        threshold = getattr(estimator, "threshold_", None)
        name = type(estimator).__name__ if name is None else name
        distance = pair_distances(estimator, check_tuples(X, 2))
        display = cls(check_same(y, len(distance)), distance, threshold=threshold, name=name)
        return display.plot(kind=kind, ax=ax, **options)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        distance: ArrayLike,
        *,
        threshold: float | None = None,
        kind: str = "histogram",
        name: str | None = None,
        ax: "Axes | None" = None,
        **options: Any,
    ) -> Self:
        """Plot given distances.

        Parameters
        ----------
        y_true : array-like of shape (n_pairs,)
            1 for pairs of the same class, 0 or -1 for pairs of different classes.
        distance : array-like of shape (n_pairs,)
            The distance within each pair.
        threshold : float, default=None
            The largest accepted distance. If given, the plot marks it.
        kind : {"histogram", "roc", "det"}, default="histogram"
            See `plot`.
        name : str, default=None
            Name of the distance.
        ax : matplotlib Axes, default=None
            Axes to draw on. None creates a figure.
        **options : dict
            Options of matplotlib. See `plot`.

        Returns
        -------
        VerificationDisplay
            The drawn display.
        """
        checked: NDArray[Any] = check_array(distance, ensure_2d=False, input_name="distance")
        display = cls(check_same(y_true, len(checked)), checked, threshold=threshold, name=name)
        return display.plot(kind=kind, ax=ax, **options)

    def plot(self, *, kind: str = "histogram", ax: "Axes | None" = None, **options: Any) -> Self:
        """Draw the plot.

        Parameters
        ----------
        kind : {"histogram", "roc", "det"}, default="histogram"
            "histogram" plots the distances of same and of different pairs, "roc" the true-accept
            rate over the false-accept rate, and "det" the false-reject rate over the false-accept
            rate, both on logarithmic axes.
        ax : matplotlib Axes, default=None
            Axes to draw on. None creates a figure.
        **options : dict
            Options of ``ax.hist`` or ``ax.plot``.

        Returns
        -------
        VerificationDisplay
            The drawn display.

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

    def _histogram(self, ax: Any, options: dict[str, Any]) -> None:
        options = {"bins": 60, "density": True, "range": (0, self.distance.max())} | options
        ax.hist(self.distance[self.same], color=_BLUE, alpha=0.55, label="same class", **options)
        edge = {"histtype": "step", "color": "black", "linewidth": 1.5}
        ax.hist(self.distance[~self.same], label="different classes", **edge, **options)
        if self.threshold is not None:
            far, frr = self._error_rates(self.threshold)
            label = f"threshold {self.threshold:.3g}:\nfalse accepts {far:.2%}, rejects {frr:.2%}"
            ax.axvline(self.threshold, color=_ORANGE, linestyle="--", label=label)
        ax.margins(y=0.4)  # room for the legend
        ax.set(xlabel="distance", ylabel="density", title=self.name or "")

    def _roc(self, ax: Any, options: dict[str, Any]) -> None:
        far, tar, _ = roc_curve(self.same, -self.distance)
        ax.plot(far, tar, **{"label": self.name} | options)
        self._mark_threshold(ax, lambda far, frr: (far, 1 - frr))
        ax.set(xlabel="false-accept rate", ylabel="true-accept rate", xlim=(0, 1), ylim=(0, 1.01))

    def _det(self, ax: Any, options: dict[str, Any]) -> None:
        far, frr, _ = det_curve(self.same, -self.distance)
        positive = (far > 0) & (frr > 0)  # a logarithmic axis cannot show 0
        ax.plot(far[positive], frr[positive], **{"label": self.name} | options)
        self._mark_threshold(ax, lambda far, frr: (far, frr))
        ax.set(xscale="log", yscale="log")
        ax.set(xlabel="false-accept rate", ylabel="false-reject rate")

    def _mark_threshold(
        self, ax: Any, point: Callable[[float, float], tuple[float, float]]
    ) -> None:
        """Mark the threshold on a curve; `point` maps its error rates to coordinates."""
        if self.threshold is not None:
            x, y = point(*self._error_rates(self.threshold))
            label = f"threshold {self.threshold:.3g}"
            ax.plot(x, y, color=_ORANGE, marker="o", linestyle="", label=label)

    def _error_rates(self, threshold: float) -> tuple[float, float]:
        """Return the false-accept and the false-reject rate."""
        far = (self.distance[~self.same] <= threshold).mean()
        frr = (self.distance[self.same] > threshold).mean()
        return far, frr


class EmbeddingDisplay:
    """Plot points in two dimensions, before and after a learned map.

    Parameters
    ----------
    views : dict of str to ndarray of shape (n_samples, 2)
        The points of each panel, by its title.
    labels : ndarray of shape (n_samples,)
        The class of each point.
    unseen : ndarray of bool, shape (n_samples,), default=None
        Whether the class of a point is unseen in training. Such points are drawn as hollow markers.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, shape (n_views,)
        The axes that `plot` drew on.
    figure_ : matplotlib Figure
        The figure of the axes.

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

    def __init__(
        self,
        views: dict[str, NDArray[np.floating]],
        labels: NDArray[Any],
        *,
        unseen: NDArray[np.bool_] | None = None,
    ) -> None:
        self.views = views
        self.labels = labels
        self.unseen = unseen

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        unseen_labels: Sequence[Any] = (),
        projector: Any = None,
        axes: "Sequence[Axes] | None" = None,
    ) -> Self:
        """Plot points and their embeddings by a learner.

        Parameters
        ----------
        estimator : estimator
            Fitted estimator with a method `transform`.
        X : array-like of shape (n_samples, ...)
            Points.
        y : array-like of shape (n_samples,)
            The class of each point.
        unseen_labels : sequence, default=()
            Classes that are unseen in training.
        projector : transformer, default=None
            Its method `fit_transform` maps points to two dimensions. None uses ``PCA(2)``. To show
            which points are neighbours, use ``TSNE(random_state=0)``.
        axes : sequence of two matplotlib Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        EmbeddingDisplay
            The drawn display.
        """
        Z = np.asarray(estimator.transform(X))
        points: NDArray[Any] = check_array(X, allow_nd=True).reshape(len(Z), -1)
        labels = read_labels(y, continuous=True)
        views = {
            "before": _project(points, projector),
            f"after {type(estimator).__name__}": _project(Z, projector),
        }
        return cls(views, labels, unseen=_is_listed(labels, unseen_labels)).plot(axes=axes)

    @classmethod
    def from_predictions(
        cls,
        embeddings: ArrayLike,
        y: ArrayLike,
        *,
        unseen_labels: Sequence[Any] = (),
        projector: Any = None,
        axes: "Sequence[Axes] | None" = None,
    ) -> Self:
        """Plot given embeddings.

        Parameters
        ----------
        embeddings : array-like of shape (n_samples, n_components)
            Embedded points.
        y : array-like of shape (n_samples,)
            The class of each point.
        unseen_labels : sequence, default=()
            Classes that are unseen in training.
        projector : transformer, default=None
            See `from_estimator`.
        axes : sequence of one matplotlib Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        EmbeddingDisplay
            The drawn display.
        """
        points: NDArray[Any] = check_array(embeddings)
        labels = read_labels(y, continuous=True)
        check_consistent_length(points, labels)
        views = {"": _project(points, projector)}
        return cls(views, labels, unseen=_is_listed(labels, unseen_labels)).plot(axes=axes)

    def plot(self, *, axes: "Sequence[Axes] | None" = None, **options: Any) -> Self:
        """Draw the plot.

        Parameters
        ----------
        axes : sequence of matplotlib Axes, default=None
            One for each panel. None creates a figure.
        **options : dict
            Options of ``ax.scatter``.

        Returns
        -------
        EmbeddingDisplay
            The drawn display.
        """
        n_views = len(self.views)
        size = {"ncols": n_views, "figsize": (1 + 4 * n_views, 4.2), "squeeze": False}
        self.axes_ = np.ravel(_axes(axes, **size))
        self.figure_ = self.axes_[0].figure
        unseen = np.zeros(len(self.labels), bool) if self.unseen is None else self.unseen
        for ax, (title, points) in zip(self.axes_, self.views.items(), strict=True):
            for i, name in enumerate(np.unique(self.labels)):
                colour, rows = COLOURS[i % len(COLOURS)], self.labels == name
                hollow = unseen[rows].any()
                style = {"marker": MARKERS[(i + i // 8) % 8], "s": 18, "edgecolors": colour}
                style |= {"facecolors": "none" if hollow else colour, "linewidths": 0.9}
                label = f"{name} (unseen)" if hollow else str(name)
                ax.scatter(*points[rows].T, label=label, **style | options)
            ax.set(title=title, xticks=[], yticks=[])
        n_classes = len(np.unique(self.labels))
        if n_classes <= 12:
            self.axes_[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
        return self


def _is_listed(labels: NDArray[Any], listed: Sequence[Any]) -> NDArray[np.bool_]:
    """Whether each label is one of `unseen_labels`."""
    unseen = read_labels(list(listed), "unseen_labels", continuous=True)
    both = join_labels(labels, unseen, ("y", "unseen_labels"))
    codes = np.unique(both, return_inverse=True)[1]
    return np.isin(codes[: len(labels)], codes[len(labels) :])


def _project(X: NDArray[Any], projector: Any) -> NDArray[np.floating]:
    """Map points to two dimensions."""
    projector = PCA(2, random_state=0) if projector is None else projector
    if X.shape[1] < 2:
        return np.column_stack([X, np.zeros(len(X))])
    return np.asarray(projector.fit_transform(X))[:, :2]


class RetrievalDisplay:
    """Plot queries and their nearest neighbours.

    Neighbours of the class of the query have a solid frame and a check mark; the others have a
    dotted frame and a cross.

    Parameters
    ----------
    queries : ndarray of shape (n_queries, ...)
        Points. Images, (channels, height, width) or (height, width), are shown as images; other
        points are shown as their label.
    query_labels : ndarray of shape (n_queries,)
        The class of each query.
    neighbors : ndarray of shape (n_queries, n_neighbors, ...)
        The neighbours of each query.
    neighbor_labels : ndarray of shape (n_queries, n_neighbors)
        The class of each neighbour.
    distance : ndarray of shape (n_queries, n_neighbors)
        The distance between each neighbour and its query.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, shape (n_queries, n_neighbors + 1)
        The axes that `plot` drew on.
    figure_ : matplotlib Figure
        The figure of the axes.

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

    def __init__(
        self,
        queries: NDArray[Any],
        query_labels: NDArray[Any],
        neighbors: NDArray[Any],
        neighbor_labels: NDArray[Any],
        distance: NDArray[np.floating],
    ) -> None:
        self.queries = queries
        self.query_labels = query_labels
        self.neighbors = neighbors
        self.neighbor_labels = neighbor_labels
        self.distance = distance

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        reference: ArrayLike | None = None,
        reference_labels: ArrayLike | None = None,
        *,
        n_queries: int = 5,
        n_neighbors: int = 6,
        image_shape: tuple[int, ...] | None = None,
        axes: Any = None,
    ) -> Self:
        """Find the neighbours of queries by a learner, and plot them.

        Parameters
        ----------
        estimator : estimator
            Fitted estimator with a method `transform`. Neighbours are found by the Euclidean
            distance between embeddings.
        X : array-like of shape (n_samples, ...)
            Points. The first `n_queries` are the queries.
        y : array-like of shape (n_samples,)
            The class of each point.
        reference : array-like of shape (n_reference, ...), default=None
            The points to search. None searches X, without the query itself.
        reference_labels : array-like of shape (n_reference,), default=None
            The class of each reference point. Required with `reference`.
        n_queries : int, default=5
            Number of queries.
        n_neighbors : int, default=6
            Number of neighbours of each query.
        image_shape : tuple of int, default=None
            Shape of the image in each row of X: (height, width) or (channels, height, width). None
            keeps the shape of the points.
        axes : array of matplotlib Axes, shape (n_queries, n_neighbors + 1), default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        RetrievalDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If `n_neighbors` is more than the number of points to search.
        """
        points, labels = np.asarray(X), read_labels(y)
        check_consistent_length(points, labels)
        excludes_itself = reference is None
        searched = points if reference is None else np.asarray(reference)
        searched_labels = labels
        if reference is not None:
            searched_labels = read_labels(reference_labels, "reference_labels")
        check_consistent_length(searched, searched_labels)
        check_same_kind(labels, searched_labels, ("y", "reference_labels"))
        if n_neighbors + excludes_itself > len(searched):
            raise ValueError(
                f"n_neighbors={n_neighbors} is more than the {len(searched) - excludes_itself} "
                "points to search. Take fewer neighbours."
            )
        Z, queries = np.asarray(estimator.transform(searched)), slice(0, n_queries)
        asked = Z[queries] if excludes_itself else np.asarray(estimator.transform(points[queries]))
        search = NearestNeighbors(n_neighbors=n_neighbors + excludes_itself).fit(Z)
        distance, found = search.kneighbors(asked)
        if excludes_itself:
            found, distance = _without_itself(found, distance)
        shape = searched.shape[1:] if image_shape is None else tuple(image_shape)
        return cls(
            points[queries].reshape(-1, *shape),
            labels[queries],
            searched[found].reshape(*found.shape, *shape),
            searched_labels[found],
            distance,
        ).plot(axes=axes)

    @classmethod
    def from_predictions(
        cls,
        queries: ArrayLike,
        query_labels: ArrayLike,
        neighbors: ArrayLike,
        neighbor_labels: ArrayLike,
        distance: ArrayLike,
        *,
        axes: Any = None,
    ) -> Self:
        """Plot given neighbours.

        Parameters
        ----------
        queries : array-like of shape (n_queries, ...)
            Points.
        query_labels : array-like of shape (n_queries,)
            The class of each query.
        neighbors : array-like of shape (n_queries, n_neighbors, ...)
            The neighbours of each query.
        neighbor_labels : array-like of shape (n_queries, n_neighbors)
            The class of each neighbour.
        distance : array-like of shape (n_queries, n_neighbors)
            The distance between each neighbour and its query.
        axes : array of matplotlib Axes, shape (n_queries, n_neighbors + 1), default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        RetrievalDisplay
            The drawn display.
        """
        given = (queries, query_labels, neighbors, neighbor_labels, distance)
        return cls(*map(np.asarray, given)).plot(axes=axes)

    def plot(self, *, axes: Any = None, **options: Any) -> Self:
        """Draw the plot.

        Parameters
        ----------
        axes : array of matplotlib Axes, shape (n_queries, n_neighbors + 1), default=None
            Axes to draw on. None creates a figure.
        **options : dict
            Options of ``ax.imshow``.

        Returns
        -------
        RetrievalDisplay
            The drawn display.
        """
        n_queries, n_neighbors = self.neighbor_labels.shape
        size = {"nrows": n_queries, "ncols": n_neighbors + 1, "squeeze": False}
        size |= {"figsize": (1.15 * (n_neighbors + 1), 1.35 * n_queries)}
        self.axes_ = np.asarray(_axes(axes, **size))
        self.figure_ = self.axes_[0, 0].figure
        for row, name in zip(range(n_queries), self.query_labels, strict=True):
            _show_point(self.axes_[row, 0], self.queries[row], name, options)
            self.axes_[row, 0].set_title("query", fontsize="small")
            for column in range(n_neighbors):
                ax, label = self.axes_[row, column + 1], self.neighbor_labels[row, column]
                _show_point(ax, self.neighbors[row, column], label, options)
                _frame_neighbor(ax, label == name, self.distance[row, column])
        return self


def _without_itself(
    found: NDArray[np.integer], distance: NDArray[np.floating]
) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
    """Drop each query from its neighbours.

    If equal points came before it, the query may be missing. Then the last neighbour is dropped.
    """
    keep = found != np.arange(len(found))[:, None]
    keep[keep.all(axis=1), -1] = False
    shape = (len(found), -1)
    return found[keep].reshape(shape), distance[keep].reshape(shape)


def _show_point(ax: Any, point: NDArray[Any], label: Any, options: dict[str, Any]) -> None:
    """Show a point as an image, or as its label."""
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


def _frame_neighbor(ax: Any, correct: bool, distance: float) -> None:
    """Show whether a neighbour is of the class of the query, and its distance."""
    colour = _BLUE if correct else _ORANGE
    ax.set_title(f"{'✓' if correct else '✗'} {distance:.2f}", fontsize="small", color=colour)
    for side in ax.spines.values():
        side.set(color=colour, linewidth=2, linestyle="-" if correct else ":")


class TrainingHistoryDisplay:
    """Plot the training of a deep learner by epoch.

    Parameters
    ----------
    history : dict of str to ndarray of shape (n_epochs,)
        Values for each epoch, as in the attribute `history_` of deep learners.
    best_epoch : int, default=None
        The epoch whose weights were kept. If given, the plot marks it.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        The axes that `plot` drew on: one panel for each of the loss, the active share, the spread
        and the scores.
    figure_ : matplotlib Figure
        The figure of the axes.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from skdml.plotting import TrainingHistoryDisplay
    >>> shown = TrainingHistoryDisplay({"loss": [0.5, 0.3], "map_at_r": [0.6, 0.7]}).plot()
    >>> len(shown.axes_)
    2
    """

    def __init__(self, history: dict[str, Any], *, best_epoch: int | None = None) -> None:
        self.history = history
        self.best_epoch = best_epoch

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, axes: "Sequence[Axes] | None" = None, **options: Any
    ) -> Self:
        """Plot the history of a fitted deep learner.

        Parameters
        ----------
        estimator : estimator
            Fitted deep learner, with the attributes `history_` and `best_epoch_`.
        axes : sequence of matplotlib Axes, default=None
            One for each panel. None creates a figure.
        **options : dict
            Options of ``ax.plot``.

        Returns
        -------
        TrainingHistoryDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If the estimator has no attribute `history_`.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "history_"):
            raise ValueError(
                f"{type(estimator).__name__} has no history_. Give a fitted deep learner."
            )
        best = getattr(estimator, "best_epoch_", None)
        return cls(estimator.history_, best_epoch=best).plot(axes=axes, **options)

    def plot(self, *, axes: "Sequence[Axes] | None" = None, **options: Any) -> Self:
        """Draw the plot.

        Parameters
        ----------
        axes : sequence of matplotlib Axes, default=None
            One for each panel. None creates a figure.
        **options : dict
            Options of ``ax.plot``.

        Returns
        -------
        TrainingHistoryDisplay
            The drawn display.
        """
        panels = {key: title for key, title in _FIRST_PANELS.items() if key in self.history}
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
            ax.plot(epochs, values, **{"color": _BLUE, "marker": "."} | options)
            if self.best_epoch:
                label = f"kept: epoch {self.best_epoch}"
                ax.axvline(self.best_epoch, color=_ORANGE, linestyle="--", label=label)
            ax.set(title=title, xlabel="epoch")
        if self.best_epoch:
            self.axes_[0].legend(fontsize="small")
        return self


class MetricDisplay:
    """Plot a linear metric: how it stretches each feature, its matrix and its spectrum.

    Parameters
    ----------
    matrix : ndarray of shape (n_features, n_features)
        The Mahalanobis matrix M.
    feature_names : sequence of str, default=None
        Names of the features. None uses x0, x1, ...

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, shape (3,)
        The axes that `plot` drew on.
    figure_ : matplotlib Figure
        The figure of the axes.

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

    def __init__(
        self, matrix: NDArray[np.floating], *, feature_names: Sequence[str] | None = None
    ) -> None:
        self.matrix = matrix
        self.feature_names = feature_names

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        feature_names: Sequence[str] | None = None,
        max_features: int = 20,
        axes: "Sequence[Axes] | None" = None,
    ) -> Self:
        """Plot the metric of a fitted linear learner.

        Parameters
        ----------
        estimator : estimator
            Fitted linear learner, with a method `get_mahalanobis_matrix`.
        feature_names : sequence of str, default=None
            Names of the features. None uses `feature_names_in_` if there is one, or x0, x1, ...
        max_features : int, default=20
            Largest number of features in the bar plot. Features with the longest bars are shown.
        axes : sequence of three matplotlib Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        MetricDisplay
            The drawn display.

        Raises
        ------
        ValueError
            If the estimator has no Mahalanobis matrix.
        """
        if not hasattr(estimator, "get_mahalanobis_matrix"):
            raise ValueError(
                f"{type(estimator).__name__} has no Mahalanobis matrix. Give a linear learner."
            )
        if feature_names is None:
            feature_names = getattr(estimator, "feature_names_in_", None)
        display = cls(estimator.get_mahalanobis_matrix(), feature_names=feature_names)
        return display.plot(max_features=max_features, axes=axes)

    def plot(self, *, max_features: int = 20, axes: "Sequence[Axes] | None" = None) -> Self:
        """Draw the plot.

        Parameters
        ----------
        max_features : int, default=20
            Largest number of features in the bar plot. Features with the longest bars are shown.
        axes : sequence of three matplotlib Axes, default=None
            Axes to draw on. None creates a figure.

        Returns
        -------
        MetricDisplay
            The drawn display.
        """
        M = self.matrix
        names = (
            [f"x{i}" for i in range(len(M))] if self.feature_names is None else self.feature_names
        )
        self.axes_ = np.ravel(_axes(axes, ncols=3, figsize=(12, 3.8)))
        self.figure_ = self.axes_[0].figure
        stretch, matrix, spectrum = self.axes_
        longest = np.argsort(-M.diagonal(), kind="stable")[:max_features][::-1]
        stretch.barh([str(names[i]) for i in longest], np.sqrt(M.diagonal()[longest]), color=_BLUE)
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
