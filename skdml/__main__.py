"""The demonstration ``python -m skdml``: compare learned distances with the Euclidean distance."""

import argparse
import csv
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.impute import SimpleImputer
from sklearn.metrics import adjusted_mutual_info_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from skdml import DeepSiameseEmbedder, DeepTripletEmbedder, MahalanobisMetric
from skdml.deep import InitialWeightsWarning
from skdml.metrics import equal_error_rate, map_at_r, recall_at_k

N_NEIGHBORS = 3

# Largest number of points of unseen classes. All their pairs, about two million, are verified.
MAX_UNSEEN = 2000

COLUMNS = {
    "k-NN acc.": "{:.3f}",
    "AMI": "{:.3f}",
    "recall@1": "{:.3f}",
    "MAP@R": "{:.3f}",
    "AUC": "{:.3f}",
    "EER": "{:.3f}",
    "fit s": "{:.1f}",
}


# Points and their class labels.
_Data = tuple[NDArray[Any], NDArray[Any]]


def learners(seed: int) -> dict[str, Any]:
    """Return the transformers to compare, by name."""
    return {
        "Euclid": FunctionTransformer(),
        "MahalanobisMetric": MahalanobisMetric(covariance="ledoit_wolf"),
        "DeepSiameseEmbedder": DeepSiameseEmbedder(random_state=seed),
        "DeepTripletEmbedder": DeepTripletEmbedder(random_state=seed),
    }


def compare(
    name: str, X: NDArray[Any], y: NDArray[Any], preprocessor: Any, seed: int
) -> tuple[dict[str, dict[str, Any]], _Data | None]:
    """Fit and score every learner on two tasks: held-out rows, and unseen classes.

    For held-out rows, all classes are known, and the deep learners train without early stopping.
    For unseen classes, they stop early, which is their default.

    Parameters
    ----------
    name : str
        Name of the data.
    X : ndarray of shape (n_samples, n_features)
        Points.
    y : ndarray of shape (n_samples,)
        Class labels.
    preprocessor : transformer
        First step before each learner.
    seed : int
        Seed of all random draws.

    Returns
    -------
    results : dict of str to dict
        For each learner its scores, by column, and the fitted models: "rows" is a k-NN pipeline,
        and "unseen" is a pipeline that embeds.
    unseen : tuple of ndarray, or None
        The points of unseen classes and their labels. None if there are too few classes.
    """
    kept = train_test_split(X, y, test_size=0.3, random_state=seed, stratify=_strata(y))
    seen, unseen = split_classes(X, y, seed)
    results = {}
    for learner_name, learner in learners(seed).items():
        print(f"  {name}: {learner_name} ...", end=" ", file=sys.stderr, flush=True)
        start = time.perf_counter()
        embed = make_pipeline(clone(preprocessor), learner)
        to_the_end = make_pipeline(clone(preprocessor), _without_stopping(learner))
        model = make_pipeline(to_the_end, KNeighborsClassifier(N_NEIGHBORS)).fit(kept[0], kept[2])
        result = score_rows(model, kept[1], kept[3])
        result["rows"] = model
        if unseen:
            with warnings.catch_warnings():  # the line of this learner says it
                warnings.simplefilter("ignore", InitialWeightsWarning)
                result["unseen"] = embed.fit(*seen)
            if getattr(embed[-1], "best_epoch_", None) == 0:
                print("keeps its initial weights for unseen classes, ", end="", file=sys.stderr)
            result |= score_unseen(result["unseen"], *unseen)
        result["fit s"] = time.perf_counter() - start
        print(f"{result['fit s']:.1f} s", file=sys.stderr, flush=True)
        results[learner_name] = result
    return results, unseen


def _without_stopping(learner: Any) -> Any:
    can_stop = "early_stopping" in learner.get_params()
    return clone(learner).set_params(early_stopping=False) if can_stop else clone(learner)


def score_rows(model: Any, X: NDArray[Any], y: NDArray[Any]) -> dict[str, Any]:
    """Score a k-NN pipeline on held-out rows: the accuracy and the clusters of the embedding."""
    Z = model[:-1].transform(X)
    clusters = KMeans(len(np.unique(y)), n_init=4, random_state=0).fit_predict(Z)
    return {"k-NN acc.": model.score(X, y), "AMI": adjusted_mutual_info_score(y, clusters)}


def score_unseen(embed: Any, X: NDArray[Any], y: NDArray[Any]) -> dict[str, Any]:
    """Score an embedding on unseen classes: retrieval and verification."""
    Z = embed.transform(X)
    same, distance = pairs_of(Z, y)
    return {
        "recall@1": recall_at_k(Z, y),
        "MAP@R": map_at_r(Z, y),
        "AUC": roc_auc_score(same, -distance),
        "EER": equal_error_rate(same, distance),
    }


def pairs_of(Z: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
    """Return for all pairs of points whether they are of the same class, and their distance."""
    first, second = np.triu_indices(len(y), k=1)
    return y[first] == y[second], pdist(Z)


def split_classes(X: NDArray[Any], y: NDArray[Any], seed: int) -> tuple[_Data, _Data | None]:
    """Split the points into two random halves of the classes: seen and unseen.

    With too few classes, all are seen and the second value is None.
    """
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.unique(y))
    is_seen = np.isin(y, classes[len(classes) // 2 :])
    unseen = rng.permutation(np.flatnonzero(~is_seen))[:MAX_UNSEEN]
    if len(classes) < 4 or np.unique(y[unseen], return_counts=True)[1].max() < 2:
        return (X, y), None
    return (X[is_seen], y[is_seen]), (X[unseen], y[unseen])


def _strata(y: NDArray[Any]) -> NDArray[Any] | None:
    """Return the labels to stratify by, or None if a class has a single row."""
    return y if np.unique(y, return_counts=True)[1].min() > 1 else None


def digits_in_uneven_light(seed: int, n_samples: int = 3000) -> _Data:
    """Make a task with 40 classes: scikit-learn's digits, rotated and with a gradient of light.

    Each digit is rotated by 0, 90, 180 and 270 degrees, and each rotation is a class of its own.
    A random linear gradient of brightness is added to each image. It says nothing about the class,
    like the light on photographs of faces.

    Parameters
    ----------
    seed : int
        Seed of the gradients and of the sample.
    n_samples : int, default=3000
        Number of images to draw from the 7188.

    Returns
    -------
    X : ndarray of shape (n_samples, 64)
        Images of 8 x 8 pixels.
    y : ndarray of str, shape (n_samples,)
        Digit and angle of rotation.
    """
    images, digits = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8)
    X = np.concatenate([np.rot90(images, turn, axes=(1, 2)) for turn in range(4)])
    y = np.concatenate([[f"{d} at {90 * turn}°" for d in digits] for turn in range(4)])
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(X), n_samples, replace=False)
    side = np.linspace(-1, 1, 8)
    plane = np.stack([np.ones((8, 8)), *np.meshgrid(side, side)])
    light = np.tensordot(rng.normal(scale=6, size=(n_samples, 3)), plane, axes=1)
    return (X[rows] + light).reshape(n_samples, -1), y[rows]


def read_table(
    path: str | Path, target: str
) -> tuple[NDArray[Any], NDArray[Any], ColumnTransformer]:
    """Read a CSV file with a header.

    Parameters
    ----------
    path : str or Path
        The file.
    target : str
        Name of the column of class labels.

    Returns
    -------
    X : ndarray of object, shape (n_samples, n_features)
        Columns of numbers as floats, with NaN for empty cells. Other columns as strings.
    y : ndarray of str, shape (n_samples,)
        Class labels.
    preprocessor : ColumnTransformer
        Standardises columns of numbers and one-hot encodes columns of strings.

    Raises
    ------
    ValueError
        If the file has no such column, no rows, or rows with a wrong number of cells.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if target not in header:
        raise ValueError(f"{path} has no column {target!r}; its columns are {header}.")
    ragged = [i for i, row in enumerate(rows, 2) if len(row) != len(header)]
    if ragged or not rows:
        raise ValueError(
            f"{path} has {len(rows)} rows and {len(header)} columns; "
            f"lines with another number of cells: {ragged[:5]}."
        )
    cells = np.array(rows, dtype=object)
    column = header.index(target)
    y = cells[:, column].astype(str)
    X = np.delete(cells, column, axis=1)
    return X, y, _preprocessor(*_parse_numbers(X))


def _parse_numbers(X: NDArray[Any]) -> tuple[list[int], list[int]]:
    """Convert columns of numbers in place. Return the columns of numbers and those of strings."""
    numbers, strings = [], []
    for column in range(X.shape[1]):
        try:
            X[:, column] = [float(cell) if cell.strip() else np.nan for cell in X[:, column]]
            numbers.append(column)
        except ValueError:
            strings.append(column)
    return numbers, strings


def _preprocessor(numbers: list[int], strings: list[int]) -> ColumnTransformer:
    scale = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False, max_categories=20)
    return ColumnTransformer([("n", scale, numbers), ("s", encode, strings)])


def table(title: str, results: dict[str, dict[str, Any]]) -> str:
    """Format results as a Markdown table with a title."""
    shown = {c: form for c, form in COLUMNS.items() if c in next(iter(results.values()))}
    rows = [["distance", *shown]]
    for name, result in results.items():
        rows.append([name, *(form.format(result[column]) for column, form in shown.items())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = [f"{'-' * (width - 1)}{':' if i else '-'}" for i, width in enumerate(widths)]
    lines = []
    for row in [rows[0], rule, *rows[1:]]:
        cells = [
            c.rjust(w) if i else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([title, "", *lines])


def best_of(results: dict[str, dict[str, Any]]) -> str:
    """Return the name of the learner with the highest MAP@R, or k-NN accuracy if there is none."""
    score = "MAP@R" if "MAP@R" in results["Euclid"] else "k-NN acc."
    return max((name for name in results if name != "Euclid"), key=lambda n: results[n][score])


def draw(path: Path, results: dict[str, dict[str, Any]], unseen: _Data, best: str) -> None:
    """Plot unseen classes by the Euclidean distance and by a learned distance.

    The upper row shows the points in two dimensions; the lower row shows the distances within and
    between classes.

    Parameters
    ----------
    path : Path
        The image file to write.
    results : dict
        The results of `compare`.
    unseen : tuple of ndarray
        The points of unseen classes and their labels.
    best : str
        Name of the learner to compare with the Euclidean distance.
    """
    from matplotlib.figure import Figure

    X, y = unseen
    shown = np.unique(y)[:8]
    X, y = X[np.isin(y, shown)][:800], y[np.isin(y, shown)][:800]
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    axes: Any = figure.subplots(2, 2)
    for (upper, lower), name in zip(axes.T, ["Euclid", best], strict=True):
        Z = results[name]["unseen"].transform(X)
        _draw_points(upper, Z, y, shown)
        upper.set(title=f"{name}: unseen classes", xticks=[], yticks=[])
        _draw_distances(lower, Z, y)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(shown), fontsize="small")
    axes[1, 0].legend()
    figure.savefig(path, dpi=120)


def _draw_points(ax: Any, Z: NDArray[Any], y: NDArray[Any], classes: NDArray[Any]) -> None:
    from sklearn.manifold import TSNE

    flat = TSNE(init="pca", random_state=0).fit_transform(Z)
    for i, name in enumerate(classes):
        style = {"marker": "osD^vPX*"[i], "color": f"C{i}", "alpha": 0.7, "s": 14}
        ax.scatter(*flat[y == name].T, label=str(name), linewidths=0, **style)


def _draw_distances(ax: Any, Z: NDArray[Any], y: NDArray[Any]) -> None:
    same, distance = pairs_of(Z, y)
    bins = np.linspace(0, distance.max(), 60)
    ax.hist(distance[same], bins, density=True, alpha=0.6, label="same class", color="C0")
    edge = {"histtype": "step", "color": "black", "label": "different classes"}
    ax.hist(distance[~same], bins, density=True, **edge)
    rate = equal_error_rate(same, distance)
    ax.set(title=f"equal error rate {rate:.3f}", xlabel="distance", yticks=[])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m skdml",
        description="Compare learned distances with the Euclidean distance. Held-out rows are "
        "scored by k-NN accuracy and by the AMI of k-means clusters. Classes that are unseen in "
        "training are scored by recall@1, MAP@R, and verification (AUC and equal error rate). "
        "Without --data, the data are scikit-learn's digits, and the same digits, rotated and with "
        "a gradient of light. Writes a plot and the best model to a folder.",
    )
    parser.add_argument("--data", metavar="FILE.csv", help="a table of your own, with a header")
    parser.add_argument("--target", metavar="COLUMN", help="the column of class labels in --data")
    parser.add_argument("--out", metavar="FOLDER", default="skdml-demo", help="default: skdml-demo")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random draws; default: 0")
    return parser


def _read_tasks(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    """Return the points, labels and preprocessor of each task, by name."""
    if (args.data is None) != (args.target is None):
        parser.error("--data and --target come together: give both or neither")
    if args.data:
        try:
            return {Path(args.data).name: read_table(args.data, args.target)}
        except (OSError, ValueError) as error:
            parser.error(str(error))
    as_is = FunctionTransformer()
    return {
        "digits": (*load_digits(return_X_y=True), as_is),
        "digits, turned and unevenly lit": (*digits_in_uneven_light(args.seed), as_is),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the demonstration. See ``python -m skdml --help``."""
    parser = _parser()
    args = parser.parse_args(argv)
    tasks = _read_tasks(parser, args)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    for name, (X, y, preprocessor) in tasks.items():
        results, unseen = compare(name, X, y, preprocessor, args.seed)
        n_classes = len(np.unique(y))
        title = f"{name}: {len(X)} rows, {n_classes} classes"
        if unseen is None:
            title += " (too few classes to leave any unseen)"
        else:
            title += f", {len(np.unique(unseen[1]))} of them unseen in the last columns"
        print(f"\n{table(title, results)}\n", flush=True)
    best = best_of(results)
    joblib.dump(results[best]["rows"], out / "model.joblib")
    print(f"best model ({best} with {N_NEIGHBORS}-NN, fitted): {out / 'model.joblib'}")
    if unseen is not None:
        try:
            draw(out / "unseen.png", results, unseen, best)
            print(f"plot of the unseen classes: {out / 'unseen.png'}")
        except ModuleNotFoundError as error:
            print(f"no plot: {error.name} is not installed (pip install matplotlib)")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
