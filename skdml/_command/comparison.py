"""Fit and score the learners on a task: on held-out rows, and on unseen classes."""

import contextlib
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_mutual_info_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skdml import DeepSiameseEmbedder, DeepTripletEmbedder, MahalanobisMetric
from skdml._command.progress import CountEpochs, Progress, one_line
from skdml._command.tasks import Task
from skdml.metrics import equal_error_rate, map_at_r, recall_at_k

N_NEIGHBORS = 3

# Largest number of points of unseen classes. All their pairs, about two million, are verified.
MAX_UNSEEN = 2000

# The work of scores and of learners without epochs, as a number of epochs of a deep learner.
_EPOCHS_OF_SCORES = 5

# Points and their class labels.
Data = tuple[NDArray[Any], NDArray[Any]]

# Scores by column, and the fitted models "rows" (a k-NN pipeline) and "unseen" (it embeds).
Result = dict[str, Any]


@dataclass
class Splits:
    """The points of a task, as they are divided for training and scoring.

    Parameters
    ----------
    train, test : tuple of ndarray
        Points and labels: the rows to train on, and held-out rows of the same classes.
    seen : tuple of ndarray
        Points of the classes to train on.
    unseen : tuple of ndarray, or None
        Points of all other classes. None if there are too few classes.
    """

    train: Data
    test: Data
    seen: Data
    unseen: Data | None

    @classmethod
    def of(cls, task: Task, seed: int) -> "Splits":
        """Divide the points of a task."""
        X, y = task.X, task.y
        n_test = max(int(np.ceil(0.3 * len(y))), len(np.unique(y)))
        strata = y if np.unique(y, return_counts=True)[1].min() > 1 else None
        kept = train_test_split(X, y, test_size=n_test, random_state=seed, stratify=strata)
        return cls((kept[0], kept[2]), (kept[1], kept[3]), *split_classes(X, y, seed))


def learners(seed: int) -> dict[str, Any]:
    """Return the transformers to compare, by name."""
    return {
        "Euclid": FunctionTransformer(),
        "MahalanobisMetric": MahalanobisMetric(covariance="ledoit_wolf"),
        "DeepSiameseEmbedder": DeepSiameseEmbedder(random_state=seed),
        "DeepTripletEmbedder": DeepTripletEmbedder(random_state=seed),
    }


def compare(
    task: Task, splits: Splits, candidates: dict[str, Any], progress: Progress
) -> dict[str, Result]:
    """Fit and score every learner on held-out rows, and on unseen classes if there are any.

    For held-out rows, all classes are known, and the deep learners train without early stopping.
    For unseen classes, they stop early, which is their default. A learner that cannot be fitted on
    these points is left out, with a note on stderr.

    Parameters
    ----------
    task : Task
        Name, points and preprocessor.
    splits : Splits
        The points as they are divided.
    candidates : dict of str to transformer
        The learners by name.
    progress : Progress
        Shows what is done.

    Returns
    -------
    dict of str to dict
        For each learner its scores, by column, and the fitted models: "rows" is a k-NN pipeline,
        and "unseen" is a pipeline that embeds.
    """
    results = {}
    for name, learner in candidates.items():
        progress.begin(f"{task.name}: {name}", planned_work(learner, splits))
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            try:
                results[name] = _fit_and_score(task, splits, learner, progress)
            except (ValueError, RuntimeError, ArithmeticError) as error:
                progress.note(f"{name} is left out, because it failed: {error}")
            else:
                results[name]["fit s"] = time.perf_counter() - start
        for text in dict.fromkeys(one_line(warning.message) for warning in caught):
            progress.note(f"{name} warns: {text}")
        progress.end()
    return results


def _fit_and_score(task: Task, splits: Splits, learner: Any, progress: Progress) -> Result:
    to_the_end = _without_stopping(learner)
    embed = make_pipeline(clone(task.preprocessor), to_the_end)
    model = make_pipeline(embed, KNeighborsClassifier(min(N_NEIGHBORS, len(splits.train[1]))))
    with counted_epochs(to_the_end, progress, len(splits.train[1])):
        model.fit(*splits.train)
    result = {"rows": model, **score_rows(model, *splits.test)}
    progress.work(_EPOCHS_OF_SCORES * len(splits.train[1]))
    if splits.unseen is not None:
        stops_early = clone(learner)
        result["unseen"] = make_pipeline(clone(task.preprocessor), stops_early)
        with counted_epochs(stops_early, progress, len(splits.seen[1])):
            result["unseen"].fit(*splits.seen)
        result |= score_unseen(result["unseen"], *splits.unseen)
        progress.work(_EPOCHS_OF_SCORES * len(splits.seen[1]))
    return result


def planned_work(learner: Any, splits: Splits) -> int:
    """Return the largest work of a learner: epochs times training points, scores included."""
    n_epochs = 0
    if "callbacks" in learner.get_params():
        n_epochs = learner.max_epochs or 100
    work = (n_epochs + _EPOCHS_OF_SCORES) * len(splits.train[1])
    if splits.unseen is not None:  # trained once with early stopping, and once again on all data
        work += (2 * n_epochs + _EPOCHS_OF_SCORES) * len(splits.seen[1])
    return work


@contextlib.contextmanager
def counted_epochs(learner: Any, progress: Progress, amount: int) -> Iterator[None]:
    """Count each epoch of the fits in the block. Nothing of this stays with the learner.

    Parameters
    ----------
    learner : transformer
        The learner that is fitted in the block. One without epochs is left alone.
    progress : Progress
        Counts the work.
    amount : int
        The work of one epoch.
    """
    if "callbacks" not in learner.get_params():
        yield
        return
    learner.set_params(callbacks=[CountEpochs(progress, amount)])
    try:
        yield
    finally:
        learner.set_params(callbacks=None)
        if net := getattr(learner, "net_", None):
            net.callbacks = [one for one in net.callbacks if not isinstance(one, CountEpochs)]
            net.callbacks_ = [one for one in net.callbacks_ if not isinstance(one[1], CountEpochs)]


def _without_stopping(learner: Any) -> Any:
    can_stop = "early_stopping" in learner.get_params()
    return clone(learner).set_params(early_stopping=False) if can_stop else clone(learner)


def score_rows(model: Any, X: NDArray[Any], y: NDArray[Any]) -> dict[str, Any]:
    """Score a k-NN pipeline on held-out rows: the accuracy and the clusters of the embedding."""
    Z = model[:-1].transform(X)
    with warnings.catch_warnings():  # of fewer distinct points than classes
        warnings.simplefilter("ignore", ConvergenceWarning)
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


def split_classes(X: NDArray[Any], y: NDArray[Any], seed: int) -> tuple[Data, Data | None]:
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


def best_of(results: dict[str, Result]) -> str:
    """Return the name of the learner with the highest MAP@R, or k-NN accuracy if there is none.

    Euclid is the best only where no learner could be fitted.
    """
    learned = [name for name in results if name != "Euclid"] or list(results)
    score = "MAP@R" if "MAP@R" in results[learned[0]] else "k-NN acc."
    return max(learned, key=lambda name: results[name][score])
