"""Few-shot accuracy: recognise classes from a few samples each."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t
from sklearn.utils import Bunch, check_consistent_length, check_random_state, check_scalar

from skdml.constraints import encode_labels
from skdml.distances import base_distance_of, pairwise_base_distance
from skdml.metrics.scorers import embed


def few_shot_score(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike,
    n_way: int = 5,
    n_shot: int = 1,
    n_queries: int = 15,
    n_episodes: int = 600,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Estimate the accuracy on classes that are known from a few samples each.

    Each episode draws `n_way` classes at random. For each class it draws `n_shot` samples, whose
    mean is the prototype, and `n_queries` other samples as queries. A query is assigned to the
    class with the nearest prototype by the learned distance. Classes with fewer than `n_shot` +
    `n_queries` samples are not drawn.

    Parameters
    ----------
    estimator : estimator
        A fitted learner, any other fitted transformer, or a pipeline that ends in one.
    X : array-like of shape (n_samples, ...)
        Points. Use classes that are unseen in training.
    y : array-like of shape (n_samples,)
        Class labels.
    n_way : int, default=5
        Number of classes in an episode, at least 2.
    n_shot : int, default=1
        Number of samples of each prototype, at least 1.
    n_queries : int, default=15
        Number of queries of each class, at least 1.
    n_episodes : int, default=600
        Number of episodes, at least 2.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.

    Returns
    -------
    Bunch
        The result:

        - ``mean``: the mean accuracy over episodes, in [0, 1]; chance is 1 / `n_way`;
        - ``interval``: the 95 % confidence interval of the mean as two floats, by Student's t over
          episodes; it does not account for the choice of classes and samples in X;
        - ``accuracies``: the accuracy of each episode, an ndarray of shape (n_episodes,).

    Raises
    ------
    ValueError
        If a number is out of range, or if fewer than `n_way` classes have `n_shot` + `n_queries`
        samples.

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
    >>> X_unseen, y_unseen = X[y >= 5], y[y >= 5]
    >>> found = few_shot_score(metric, X_unseen, y_unseen, n_episodes=100, random_state=0)
    >>> bool(0.5 < found.interval[0] < found.mean < found.interval[1])  # chance is 0.2
    True
    """
    least = {"n_way": 2, "n_shot": 1, "n_queries": 1, "n_episodes": 2}
    given = (n_way, n_shot, n_queries, n_episodes)
    for value, (name, min_val) in zip(given, least.items(), strict=True):
        check_scalar(value, name, Integral, min_val=min_val)
    check_consistent_length(X, y)
    n_drawn = n_shot + n_queries
    members = _large_classes(y, n_way, n_drawn)
    Z, metric = embed(estimator, X), base_distance_of(estimator)
    rng = check_random_state(random_state)
    accuracies = np.empty(n_episodes)
    for episode in range(n_episodes):
        chosen = rng.choice(len(members), n_way, replace=False)
        rows = np.array([rng.choice(members[c], n_drawn, replace=False) for c in chosen])
        accuracies[episode] = _episode_accuracy(Z[rows], n_shot, metric)
    mean = accuracies.mean()
    half = student_t.ppf(0.975, n_episodes - 1) * accuracies.std(ddof=1) / np.sqrt(n_episodes)
    interval = (float(mean - half), float(mean + half))
    return Bunch(mean=float(mean), interval=interval, accuracies=accuracies)


def _large_classes(y: ArrayLike, n_way: int, n_drawn: int) -> list[NDArray[np.intp]]:
    """Return the rows of each class with at least `n_drawn` samples; `n_way` are needed."""
    codes, classes = encode_labels(y)
    members = [np.flatnonzero(codes == c) for c in range(len(classes))]
    members = [rows for rows in members if len(rows) >= n_drawn]
    if len(members) < n_way:
        raise ValueError(
            f"n_way={n_way} classes with n_shot + n_queries = {n_drawn} samples are needed, but "
            f"{len(members)} of the {len(classes)} classes have as many. Give more samples, or "
            "smaller numbers."
        )
    return members


def _episode_accuracy(Z: NDArray[Any], n_shot: int, metric: str) -> float:
    """Return the accuracy on samples (n_way, n_shot + n_queries, n_components).

    The first `n_shot` samples of each class form its prototype; the others are queries.
    """
    prototypes = Z[:, :n_shot].mean(axis=1)
    queries = Z[:, n_shot:].reshape(-1, Z.shape[2])
    nearest = pairwise_base_distance(queries, prototypes, metric).argmin(axis=1)
    return (nearest.reshape(len(Z), -1) == np.arange(len(Z))[:, None]).mean()
