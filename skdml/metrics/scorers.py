"""Scorers: measures of a learned distance in the form that cross-validation and searches take.

A scorer is a function of a fitted estimator, X and y, of which larger is better. The estimator is a
learner, any other transformer, or a pipeline that ends in one; its embeddings are compared by the
base distance that goes with them.
"""

from functools import partial
from numbers import Integral

import numpy as np
from scipy.stats import t as student_t
from sklearn.utils import Bunch, check_consistent_length, check_random_state, check_scalar

from skdml.constraints import encode_labels
from skdml.distances import base_distance_of, paired_base_distance, pairwise_base_distance
from skdml.metrics import retrieval
from skdml.metrics.verification import equal_error_rate, tar_at_far, verification_report
from skdml.model_selection import make_pairs
from skdml.verification import pair_distances

VERIFICATION_MEASURES = ("eer", "roc_auc", "tar_at_far")


def make_retrieval_scorer(measure="map_at_r", *, k=None, average="query"):
    """Make a scorer by which each judged point looks for its class among the others.

    With `skdml.model_selection.ClassDisjointKFold` the classes are ones that training never saw.

    Parameters
    ----------
    measure : str, default="map_at_r"
        "recall_at_k", "precision_at_k", "ndcg_at_k", "r_precision", "map_at_r",
        "mean_average_precision" or "mean_reciprocal_rank": the function of that name in
        `skdml.metrics`.
    k : int, default=None
        For those at k; None is the default of the function.
    average : {"query", "class"}, default="query"
        The mean over all points, or over the means of the classes.

    Returns
    -------
    callable
        ``scorer(estimator, X, y)``, a float in [0, 1].

    Raises
    ------
    ValueError
        If there is no such measure or average, or a measure that has no k is given one.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import cross_val_score
    >>> from skdml import MahalanobisMetric
    >>> from skdml.metrics import make_retrieval_scorer
    >>> from skdml.model_selection import ClassDisjointKFold
    >>> X, y = load_digits(return_X_y=True)
    >>> cv = ClassDisjointKFold(2)
    >>> scorer = make_retrieval_scorer("recall_at_k", k=1)
    >>> scores = cross_val_score(MahalanobisMetric("oas"), X[::4], y[::4], cv=cv, scoring=scorer)
    >>> bool(scores.mean() > 0.9)
    True
    """
    if measure not in retrieval.MEASURES:
        raise ValueError(
            f"measure={measure!r} is unknown; choose one of {sorted(retrieval.MEASURES)}."
        )
    if average not in ("query", "class"):
        raise ValueError(f"average={average!r} makes no score; choose 'query' or 'class'.")
    options = {"average": average}
    if k is not None:
        if not measure.endswith("_at_k"):
            raise ValueError(f"{measure} has no k; got k={k!r}.")
        options["k"] = check_scalar(k, "k", Integral, min_val=1)
    return partial(_retrieval_score, getattr(retrieval, measure), options)


def _retrieval_score(measure, options, estimator, X, y):
    return measure(_embed(estimator, X), y, metric=base_distance_of(estimator), **options)


def make_verification_scorer(
    measure="eer", *, far=0.01, supervision="labels", n_pairs=10_000, random_state=0
):
    """Make a scorer that tells pairs of one class from pairs of two by their distance.

    Parameters
    ----------
    measure : {"eer", "roc_auc", "tar_at_far"}, default="eer"
        Minus the equal error rate, since larger is better; the area under the ROC curve; or the
        share of genuine pairs accepted at the false-accept rate `far`.
    far : float, default=0.01
        For "tar_at_far", in (0, 1).
    supervision : {"labels", "pairs"}, default="labels"
        Whether X is points and y their classes, so that pairs are drawn, or X is pairs and y says
        which are the same. With "pairs" the estimator may also be a
        :class:`~skdml.verification.PairVerifier`, or a pipeline that ends in one.
    n_pairs : int, default=10_000
        With "labels": how many pairs to draw, half of each kind; fewer where there are no more.
    random_state : int, RandomState instance or None, default=0
        Decides the draw. An int judges all candidates of a search by the same pairs.

    Returns
    -------
    callable
        ``scorer(estimator, X, y)``, a float.

    Raises
    ------
    ValueError
        If `measure` or `supervision` is unknown.

    See Also
    --------
    skdml.model_selection.PairGroupKFold : Folds of pairs that share no point.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import cross_val_score
    >>> from skdml import MahalanobisMetric
    >>> from skdml.metrics import make_verification_scorer
    >>> from skdml.model_selection import ClassDisjointKFold
    >>> X, y = load_digits(return_X_y=True)
    >>> cv = ClassDisjointKFold(2)
    >>> scorer = make_verification_scorer("roc_auc", n_pairs=1000)
    >>> scores = cross_val_score(MahalanobisMetric("oas"), X[::4], y[::4], cv=cv, scoring=scorer)
    >>> bool(scores.mean() > 0.7)
    True
    """
    if measure not in VERIFICATION_MEASURES:
        raise ValueError(
            f"measure={measure!r} is unknown; choose one of {list(VERIFICATION_MEASURES)}."
        )
    if supervision not in ("labels", "pairs"):
        raise ValueError(f"supervision={supervision!r} is unknown; choose 'labels' or 'pairs'.")
    draw = {"n_pairs": n_pairs, "random_state": random_state} if supervision == "labels" else None
    return partial(_verification_score, measure, far, draw)


def _verification_score(measure, far, draw, estimator, X, y):
    if draw is None:
        same, distance = y, _distances(estimator, X)
    else:
        Z = _embed(estimator, X)
        pairs, same = make_pairs(Z, y, indices=True, **draw)
        distance = paired_base_distance(*Z[pairs.T], base_distance_of(estimator))
    if measure == "eer":
        return -equal_error_rate(same, distance)
    if measure == "tar_at_far":
        return tar_at_far(same, distance, far)
    return verification_report(same, distance, far=())["roc_auc"]


def _distances(estimator, pairs):
    """Return the distance within pairs; of a verifier in a pipeline up to its threshold."""
    if hasattr(estimator, "pair_distance") or hasattr(estimator, "transform"):
        return pair_distances(estimator, np.asarray(pairs))
    if hasattr(estimator, "decision_function"):
        return -estimator.decision_function(pairs)
    raise ValueError(
        f"{type(estimator).__name__} has none of pair_distance, transform and decision_function, "
        "so that it cannot verify pairs."
    )


def _embed(estimator, X):
    if not hasattr(estimator, "transform"):
        raise ValueError(
            f"{type(estimator).__name__} has no transform, so that there are no embeddings to "
            "score. Give a learner, or a pipeline that ends in one."
        )
    return np.asarray(estimator.transform(X))


map_at_r_scorer = make_retrieval_scorer("map_at_r")
"""Scores by MAP@R of each point among the others."""

recall_at_1_scorer = make_retrieval_scorer("recall_at_k", k=1)
"""Scores by the share of points whose nearest other is of their class."""

equal_error_rate_scorer = make_verification_scorer("eer")
"""Scores by minus the equal error rate of 10 000 pairs drawn by class."""


def few_shot_score(
    estimator, X, y, n_way=5, n_shot=1, n_queries=15, n_episodes=600, random_state=None
):
    """Accuracy with classes known by a few samples only, over episodes drawn at random.

    An episode draws `n_way` classes, and of each `n_shot` samples to know it by and `n_queries`
    others to recognise: a query is of the class whose prototype, the mean of its samples, is
    nearest in the learned distance. Classes with fewer samples than that take no part.

    Parameters
    ----------
    estimator : estimator
        A fitted learner, any other fitted transformer, or a pipeline that ends in one.
    X : array-like of shape (n_samples, ...)
        Points, of classes that the learner has not seen, for an honest score.
    y : array-like of shape (n_samples,)
        Their classes.
    n_way, n_shot, n_queries : int, default=5, 1, 15
        How many classes, and how many samples of each: n_way >= 2, the others >= 1.
    n_episodes : int, default=600
        How many episodes, at least 2.
    random_state : int, RandomState instance or None, default=None
        Decides the episodes.

    Returns
    -------
    Bunch
        ``mean`` (the mean accuracy, in [0, 1]; 1 / n_way is chance), ``interval`` (two floats: its
        95 % confidence interval over episodes by Student's t, the classes and samples given) and
        ``accuracies`` (an ndarray of shape (n_episodes,)).

    Raises
    ------
    ValueError
        If fewer than `n_way` classes have `n_shot` + `n_queries` samples, or a number is out of
        range.

    References
    ----------
    O. Vinyals et al., "Matching Networks for One Shot Learning", NIPS 2016, section 4.1 (the
    episodes). J. Snell, K. Swersky, R. Zemel, "Prototypical Networks for Few-shot Learning", NIPS
    2017 (the prototypes).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skdml import MahalanobisMetric
    >>> from skdml.metrics import few_shot_score
    >>> X, y = load_digits(return_X_y=True)
    >>> metric = MahalanobisMetric("oas", within_class=True).fit(X[y < 5], y[y < 5])
    >>> strangers = X[y >= 5], y[y >= 5]
    >>> found = few_shot_score(metric, *strangers, n_episodes=100, random_state=0)
    >>> bool(0.5 < found.interval[0] < found.mean < found.interval[1])  # chance is 0.2
    True
    """
    least = {"n_way": 2, "n_shot": 1, "n_queries": 1, "n_episodes": 2}
    given = (n_way, n_shot, n_queries, n_episodes)
    for value, (name, min_val) in zip(given, least.items(), strict=True):
        check_scalar(value, name, Integral, min_val=min_val)
    check_consistent_length(X, y)
    codes, classes = encode_labels(y)
    n_drawn = n_shot + n_queries
    members = [np.flatnonzero(codes == c) for c in range(len(classes))]
    members = [rows for rows in members if len(rows) >= n_drawn]
    if len(members) < n_way:
        raise ValueError(
            f"n_way={n_way} classes with n_shot + n_queries = {n_drawn} samples are needed; "
            f"{len(members)} of the {len(classes)} classes have as many."
        )
    Z, metric = _embed(estimator, X), base_distance_of(estimator)
    rng = check_random_state(random_state)
    accuracies = np.empty(n_episodes)
    for episode in range(n_episodes):
        chosen = rng.choice(len(members), n_way, replace=False)
        rows = np.array([rng.choice(members[c], n_drawn, replace=False) for c in chosen])
        accuracies[episode] = _episode(Z[rows], n_shot, metric)
    mean = accuracies.mean()
    half = student_t.ppf(0.975, n_episodes - 1) * accuracies.std(ddof=1) / np.sqrt(n_episodes)
    interval = (float(mean - half), float(mean + half))
    return Bunch(mean=float(mean), interval=interval, accuracies=accuracies)


def _episode(Z, n_shot, metric):
    """Accuracy on samples (n_way, n_shot + n_queries, n_components), the first of each known."""
    prototypes = Z[:, :n_shot].mean(axis=1)
    queries = Z[:, n_shot:].reshape(-1, Z.shape[2])
    nearest = pairwise_base_distance(queries, prototypes, metric).argmin(axis=1)
    return (nearest.reshape(len(Z), -1) == np.arange(len(Z))[:, None]).mean()
