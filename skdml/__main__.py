"""The demonstration, ``python -m skdml``: learned distances against Euclid on real data."""

import argparse
import csv
import sys
import time
from pathlib import Path

import joblib
import numpy as np
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
from skdml.metrics import equal_error_rate, map_at_r, recall_at_k

N_NEIGHBORS = 3

# All pairs of so many points of unseen classes are verified, two million and more.
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


def learners(seed):
    """Return what is compared, by name."""
    return {
        "Euclid": FunctionTransformer(),
        "MahalanobisMetric": MahalanobisMetric(covariance="ledoit_wolf"),
        "DeepSiameseEmbedder": DeepSiameseEmbedder(random_state=seed),
        "DeepTripletEmbedder": DeepTripletEmbedder(random_state=seed),
    }


def compare(name, X, y, preprocessor, seed):
    """Fit every learner twice, for held-out rows and for unseen classes, and judge it on those.

    Where all classes are known the deep learners train to the end; where others are to come they
    stop on classes that they do not train on, as is their default.

    Parameters
    ----------
    name : str
        What the data are called.
    X, y : ndarray of shape (n_samples, n_features) and (n_samples,)
        The data.
    preprocessor : transformer
        What comes before each learner.
    seed : int
        Decides everything.

    Returns
    -------
    dict of str to dict
        For each learner its scores, by column, and the fitted models: "rows", a k-NN pipeline, and
        "unseen", a pipeline that embeds.
    ndarray, ndarray
        The points of unseen classes and their classes, or None where there are too few classes.
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
        result = judge_rows(model, kept[1], kept[3])
        result["rows"] = model
        if unseen:
            result["unseen"] = embed.fit(*seen)
            result |= judge_unseen(result["unseen"], *unseen)
        result["fit s"] = time.perf_counter() - start
        print(f"{result['fit s']:.1f} s", file=sys.stderr, flush=True)
        results[learner_name] = result
    return results, unseen


def _without_stopping(learner):
    stops = "early_stopping" in learner.get_params()
    return clone(learner).set_params(early_stopping=False) if stops else clone(learner)


def judge_rows(model, X, y):
    """Judge a k-NN pipeline on held-out rows: its accuracy, and the clusters of its embedding."""
    Z = model[:-1].transform(X)
    clusters = KMeans(len(np.unique(y)), n_init=4, random_state=0).fit_predict(Z)
    return {"k-NN acc.": model.score(X, y), "AMI": adjusted_mutual_info_score(y, clusters)}


def judge_unseen(embed, X, y):
    """Judge an embedding on classes it was not shown: retrieval and verification."""
    Z = embed.transform(X)
    same, distance = pairs_of(Z, y)
    return {
        "recall@1": recall_at_k(Z, y),
        "MAP@R": map_at_r(Z, y),
        "AUC": roc_auc_score(same, -distance),
        "EER": equal_error_rate(same, distance),
    }


def pairs_of(Z, y):
    """Return for all pairs of points whether they are of one class, and their distance."""
    first, second = np.triu_indices(len(y), k=1)
    return y[first] == y[second], pdist(Z)


def split_classes(X, y, seed):
    """Split into the points of a random half of the classes, and those of the other half."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.unique(y))
    is_seen = np.isin(y, classes[len(classes) // 2 :])
    unseen = rng.permutation(np.flatnonzero(~is_seen))[:MAX_UNSEEN]
    if len(classes) < 4 or np.unique(y[unseen], return_counts=True)[1].max() < 2:
        return (X, y), None
    return (X[is_seen], y[is_seen]), (X[unseen], y[unseen])


def _strata(y):
    return y if np.unique(y, return_counts=True)[1].min() > 1 else None


def digits_in_uneven_light(seed, n_samples=3000):
    """Make an open-set task of scikit-learn's digits: in four turns, and unevenly lit.

    A digit turned by a quarter is a class of its own, which makes 40. Each picture has a random
    gradient of light over it: a nuisance that all classes share, as faces do.

    Parameters
    ----------
    seed : int
        Decides the light and the sample.
    n_samples : int, default=3000
        How many of the 7188 pictures to draw.

    Returns
    -------
    X : ndarray of shape (n_samples, 64)
        Pictures of 8 x 8 pixels.
    y : ndarray of str, shape (n_samples,)
        Digit and turn.
    """
    images, digit = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8)
    X = np.concatenate([np.rot90(images, turn, axes=(1, 2)) for turn in range(4)])
    y = np.concatenate([[f"{d} at {90 * turn}°" for d in digit] for turn in range(4)])
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(X), n_samples, replace=False)
    side = np.linspace(-1, 1, 8)
    plane = np.stack([np.ones((8, 8)), *np.meshgrid(side, side)])
    light = np.tensordot(rng.normal(scale=6, size=(n_samples, 3)), plane, axes=1)
    return (X[rows] + light).reshape(n_samples, -1), y[rows]


def read_table(path, target):
    """Read a CSV file with a header.

    Parameters
    ----------
    path : str
        The file.
    target : str
        The column of the classes.

    Returns
    -------
    X : ndarray of object, shape (n_samples, n_features)
        Floats in columns of numbers, with NaN where a cell is empty, else strings.
    y : ndarray of str, shape (n_samples,)
        The classes.
    preprocessor : ColumnTransformer
        Standardises numbers and encodes strings.

    Raises
    ------
    ValueError
        If the file has no such column, or no rows.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if target not in header:
        raise ValueError(f"{path} has no column {target!r}; it has {header}.")
    ragged = [i for i, row in enumerate(rows, 2) if len(row) != len(header)]
    if ragged or not rows:
        raise ValueError(
            f"{path} has {len(rows)} rows under {len(header)} columns; "
            f"rows of another length: {ragged[:5]}."
        )
    cells = np.array(rows, dtype=object)
    place = header.index(target)
    y = cells[:, place].astype(str)
    X = np.delete(cells, place, axis=1)
    numbers, strings = [], []
    for column in range(X.shape[1]):
        try:
            X[:, column] = [float(cell) if cell.strip() else np.nan for cell in X[:, column]]
            numbers.append(column)
        except ValueError:
            strings.append(column)
    as_numbers = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    as_classes = OneHotEncoder(handle_unknown="ignore", sparse_output=False, max_categories=20)
    return X, y, ColumnTransformer([("n", as_numbers, numbers), ("s", as_classes, strings)])


def table(title, results):
    """Return results as the lines of a table in Markdown."""
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


def best_of(results):
    """Return the name of the learner, not Euclid, that is best where classes are unseen."""
    score = "MAP@R" if "MAP@R" in results["Euclid"] else "k-NN acc."
    return max((name for name in results if name != "Euclid"), key=lambda n: results[n][score])


def draw(path, results, unseen, best):
    """Draw points of unseen classes, and the distances within and between them, by two distances.

    Parameters
    ----------
    path : Path
        The picture to write.
    results : dict
        Of `compare`.
    unseen : tuple of ndarray
        Points of unseen classes, and their classes.
    best : str
        The learner to set beside Euclid.
    """
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE

    X, y = unseen
    shown = np.unique(y)[:8]
    X, y = X[np.isin(y, shown)][:800], y[np.isin(y, shown)][:800]
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    axes = figure.subplots(2, 2)
    for (above, below), name in zip(axes.T, ["Euclid", best], strict=True):
        Z = results[name]["unseen"].transform(X)
        flat = TSNE(init="pca", random_state=0).fit_transform(Z)
        for place, one in enumerate(shown):
            style = {"marker": "osD^vPX*"[place], "color": f"C{place}", "alpha": 0.7, "s": 14}
            above.scatter(*flat[y == one].T, label=str(one), linewidths=0, **style)
        above.set(title=f"{name}: classes it never saw", xticks=[], yticks=[])
        same, distance = pairs_of(Z, y)
        bins = np.linspace(0, distance.max(), 60)
        below.hist(distance[same], bins, density=True, alpha=0.6, label="same class", color="C0")
        options = {"density": True, "histtype": "step", "color": "black", "label": "different"}
        below.hist(distance[~same], bins, **options)
        rate = equal_error_rate(same, distance)
        below.set(title=f"equal error rate {rate:.3f}", xlabel="distance", yticks=[])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(shown), fontsize="small")
    axes[1, 0].legend()
    figure.savefig(path, dpi=120)


def main(argv=None):
    """Run the demonstration; see ``python -m skdml --help``."""
    parser = argparse.ArgumentParser(
        prog="python -m skdml",
        description="Compare learned distances with Euclid: on held-out rows (k-NN accuracy, AMI of"
        " k-means clusters) and on classes that were never seen in training (recall@1, MAP@R, and "
        "verification by AUC and equal error rate). Without --data: on scikit-learn's digits, and "
        "on those digits turned and unevenly lit. Writes a picture and the best model.",
    )
    parser.add_argument("--data", metavar="FILE.csv", help="your own table, with a header")
    parser.add_argument("--target", metavar="COLUMN", help="its column of classes")
    parser.add_argument("--out", metavar="FOLDER", default="skdml-demo", help="default: skdml-demo")
    parser.add_argument("--seed", type=int, default=0, help="decides everything; default: 0")
    args = parser.parse_args(argv)
    if (args.data is None) != (args.target is None):
        parser.error("--data and --target come together")
    tasks = {}
    if args.data:
        try:
            tasks[Path(args.data).name] = read_table(args.data, args.target)
        except (OSError, ValueError) as error:
            parser.error(str(error))
    else:
        as_is = FunctionTransformer()
        tasks["digits"] = (*load_digits(return_X_y=True), as_is)
        tasks["digits, turned and unevenly lit"] = (*digits_in_uneven_light(args.seed), as_is)
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
    print(f"best model, {best} with {N_NEIGHBORS}-NN, fitted: {out / 'model.joblib'}")
    if unseen is not None:
        try:
            draw(out / "unseen.png", results, unseen, best)
            print(f"picture of the unseen classes: {out / 'unseen.png'}")
        except ModuleNotFoundError as error:
            print(f"no picture: {error.name} is not installed (pip install matplotlib)")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
