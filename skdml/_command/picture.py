"""The picture that a run writes: points and distances, by Euclid and by a learned distance."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skdml._command.comparison import Data, pairs_of
from skdml.metrics import equal_error_rate

MAX_CLASSES = 8
MAX_POINTS = 800


def draw(path: Path, embeddings: dict[str, Any], points: Data, what: str) -> None:
    """Plot points by several distances, one column of two plots for each.

    The upper row shows the points in two dimensions; the lower row shows the distances within and
    between classes.

    Parameters
    ----------
    path : Path
        The image file to write.
    embeddings : dict of str to transformer
        The fitted embeddings by name.
    points : tuple of ndarray
        Points and their labels. The first eight classes are shown.
    what : str
        What the points are, for the titles.
    """
    from matplotlib.figure import Figure

    X, y = points
    shown = np.unique(y)[:MAX_CLASSES]
    X, y = X[np.isin(y, shown)][:MAX_POINTS], y[np.isin(y, shown)][:MAX_POINTS]
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    axes: Any = figure.subplots(2, len(embeddings), squeeze=False)
    for (upper, lower), (name, embedding) in zip(axes.T, embeddings.items(), strict=True):
        Z = embedding.transform(X)
        _draw_points(upper, Z, y, shown)
        upper.set(title=f"{name}: {what}", xticks=[], yticks=[])
        _draw_distances(lower, Z, y)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    axes[1, 0].legend()
    figure.savefig(path, dpi=120)


def flatten(Z: NDArray[Any]) -> NDArray[np.floating]:
    """Return points in two dimensions: as they are, or by t-SNE from more than two dimensions.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_components)
        Points.

    Returns
    -------
    ndarray of shape (n_samples, 2)
        Points in a plane. A missing second dimension is zero.
    """
    if Z.shape[1] <= 2:
        return np.pad(Z, ((0, 0), (0, 2 - Z.shape[1])))
    centred = Z - Z.mean(axis=0)
    plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    # t-SNE begins at the plane of the largest variance, and needs some points, not all the same.
    if len(Z) < 10 or np.allclose(plane[:, 0], 0):
        return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    from sklearn.manifold import TSNE

    perplexity = min(30, (len(Z) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(Z)


def _draw_points(ax: Any, Z: NDArray[Any], y: NDArray[Any], classes: NDArray[Any]) -> None:
    flat = flatten(Z)
    for i, name in enumerate(classes):
        style = {"marker": "osD^vPX*"[i], "color": f"C{i}", "alpha": 0.7, "s": 14}
        ax.scatter(*flat[y == name].T, label=_label(name), linewidths=0, **style)


def _label(name: object) -> str:
    """Return a class label as matplotlib shows it: short, without formulas or a hidden start."""
    text = str(name).replace("$", r"\$")
    text = text if len(text) <= 24 else f"{text[:23]}…"
    return f" {text}" if text.startswith("_") else text


def _draw_distances(ax: Any, Z: NDArray[Any], y: NDArray[Any]) -> None:
    same, distance = pairs_of(Z, y)
    bins = np.linspace(0, distance.max() or 1, 60)
    fill = {"alpha": 0.6, "label": "same class", "color": "C0"}
    edge = {"histtype": "step", "color": "black", "label": "different classes"}
    for pairs, style in ((same, fill), (~same, edge)):
        if pairs.any():
            ax.hist(distance[pairs], bins, density=True, **style)
    title = "distances of all pairs"
    if same.any() and not same.all():
        title = f"equal error rate {equal_error_rate(same, distance):.3f}"
    ax.set(title=title, xlabel="distance", yticks=[])
