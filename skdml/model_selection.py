"""Splits without shared classes or points, tuples drawn from labels, and a comparison of learners.

A score is an honest estimate for unseen classes only if training and test share no class. For pairs
of points, they must share no point.
"""

import warnings
from collections.abc import Callable, Collection, Iterator
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import t as student_t
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import accuracy_score, check_scoring, make_scorer
from sklearn.model_selection import GroupKFold, GroupShuffleSplit, check_cv, cross_validate
from sklearn.neighbors import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    NeighborhoodComponentsAnalysis,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import check_consistent_length, check_random_state, check_scalar

from skdml._labels import is_continuous, read_labels, read_values
from skdml.constraints import draw_pairs, draw_triplets, encode_labels
from skdml.preprocessing import TupleIndexer

# Scorers of this type, such as get_scorer("accuracy"), call `predict` or the like.
_PREDICTION_SCORER = type(make_scorer(accuracy_score))

# The training and the test rows of a split.
_Split = tuple[NDArray[np.integer], NDArray[np.integer]]


class _Splitter:
    """The methods of a splitter other than `split`."""

    n_splits: int

    def get_n_splits(self, X: object = None, y: object = None, groups: object = None) -> int:
        """Return the number of splits.

        Parameters
        ----------
        X, y, groups : object
            Ignored.

        Returns
        -------
        int
            The number of splits.
        """
        return self.n_splits

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({params})"


class ClassDisjointKFold(_Splitter):
    """K-fold cross-validation in which training and test share no class.

    Every class is in the test set once, and unseen in the training of that fold. Score with a
    retrieval or a verification scorer: a classifier cannot predict the unseen labels.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2 and at most the number of classes.
    shuffle : bool, default=False
        If False, the folds have similar numbers of rows. If True, the classes are assigned in
        random order, and the folds have similar numbers of classes.
    random_state : int, RandomState instance or None, default=None
        Seed of the random order. Only used if `shuffle` is True.

    See Also
    --------
    ClassDisjointShuffleSplit : Any number of random splits of the classes.
    PairGroupKFold : Folds for pairs of points.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.model_selection import ClassDisjointKFold
    >>> y = np.array(["a", "a", "b", "b", "c", "c"])
    >>> for train, test in ClassDisjointKFold(3).split(np.zeros((6, 1)), y):
    ...     print(y[train], y[test])
    ['a' 'a' 'b' 'b'] ['c' 'c']
    ['a' 'a' 'c' 'c'] ['b' 'b']
    ['b' 'b' 'c' 'c'] ['a' 'a']
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        shuffle: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_splits = n_splits
        self.shuffle = shuffle
        self.random_state = random_state

    def split(self, X: ArrayLike, y: ArrayLike, groups: object = None) -> Iterator[_Split]:
        """Yield the training and the test rows of each fold.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Points. Only their number is used.
        y : array-like of shape (n_samples,)
            Class labels.
        groups : object
            Ignored.

        Yields
        ------
        train, test : ndarray of int
            Indices of rows. No class is in both.

        Raises
        ------
        ValueError
            If there are fewer classes than folds.
        """
        codes = _check_classes(self, X, y, self.n_splits)
        options = {"shuffle": self.shuffle, "random_state": self.random_state}
        options = options if self.shuffle else {}
        yield from GroupKFold(self.n_splits, **options).split(X, y, groups=codes)


class ClassDisjointShuffleSplit(_Splitter):
    """Random splits in which training and test share no class.

    Parameters
    ----------
    n_splits : int, default=5
        Number of splits.
    test_size : float, int or None, default=None
        Share of the classes (float) or number of classes (int) in the test set. None is the
        complement of `train_size`, or 0.2 if `train_size` is None too.
    train_size : float, int or None, default=None
        Share of the classes (float) or number of classes (int) in the training set. None is the
        complement of `test_size`.
    random_state : int, RandomState instance or None, default=None
        Seed of the splits.

    See Also
    --------
    ClassDisjointKFold : Folds that test each class once.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.model_selection import ClassDisjointShuffleSplit
    >>> y = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    >>> split = ClassDisjointShuffleSplit(1, test_size=0.5, random_state=0)
    >>> ((train, test),) = split.split(np.zeros((8, 1)), y)
    >>> set(y[train]) & set(y[test])
    set()
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        test_size: float | int | None = None,
        train_size: float | int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_splits = n_splits
        self.test_size = test_size
        self.train_size = train_size
        self.random_state = random_state

    def split(self, X: ArrayLike, y: ArrayLike, groups: object = None) -> Iterator[_Split]:
        """Yield the training and the test rows of each fold.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Points. Only their number is used.
        y : array-like of shape (n_samples,)
            Class labels.
        groups : object
            Ignored.

        Yields
        ------
        train, test : ndarray of int
            Indices of rows. No class is in both.

        Raises
        ------
        ValueError
            If there are fewer than two classes.
        """
        codes = _check_classes(self, X, y, 2)
        splitter = GroupShuffleSplit(
            self.n_splits,
            test_size=self.test_size,
            train_size=self.train_size,
            random_state=self.random_state,
        )
        yield from splitter.split(X, y, groups=codes)


def _check_classes(
    splitter: _Splitter, X: ArrayLike, y: ArrayLike | None, n_needed: int
) -> NDArray[np.intp]:
    """Return the class labels as codes; raise if there are fewer than `n_needed` classes."""
    if y is None:
        raise ValueError(
            f"{type(splitter).__name__} splits by class, but y is None. Give the class labels as y."
        )
    check_consistent_length(X, y)
    codes, classes = encode_labels(y)
    if len(classes) < n_needed:
        raise ValueError(
            f"{type(splitter).__name__} needs at least {n_needed} classes; y has {len(classes)}."
        )
    return codes


class PairGroupKFold(_Splitter):
    """K-fold cross-validation of pairs in which training and test share no point.

    The points are divided into folds of similar size. Points that are connected by pairs go into
    the same fold if it is not too large for one fold. In each split, the test pairs are those with
    both points in one fold, and the training pairs are those with both points outside it. The
    remaining pairs are not used in that split.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    random_state : int, RandomState instance or None, default=None
        Seed of the division of the points.

    See Also
    --------
    ClassDisjointKFold : Folds for points and their classes.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.model_selection import PairGroupKFold
    >>> pairs = np.array([[0, 1], [1, 2], [3, 4], [4, 5]])
    >>> for train, test in PairGroupKFold(2, random_state=0).split(pairs):
    ...     print(pairs[train].tolist(), pairs[test].tolist())
    [[3, 4], [4, 5]] [[0, 1], [1, 2]]
    [[0, 1], [1, 2]] [[3, 4], [4, 5]]
    """

    def __init__(
        self, n_splits: int = 5, *, random_state: int | np.random.RandomState | None = None
    ) -> None:
        self.n_splits = n_splits
        self.random_state = random_state

    def split(
        self, X: ArrayLike, y: object = None, groups: ArrayLike | None = None
    ) -> Iterator[_Split]:
        """Yield the training and the test pairs of each fold.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2) or (n_pairs, 2, ...)
            Pairs of indices or of points. Equal points count as one point.
        y : object
            Ignored.
        groups : array-like of shape (n_pairs, 2), default=None
            The group of each point, such as a person or a patient. If given, training and test
            share no group.

        Yields
        ------
        train, test : ndarray of int
            Indices of pairs.

        Raises
        ------
        ValueError
            If there are too few points for `n_splits` folds, or a group is missing.
        """
        check_scalar(self.n_splits, "n_splits", Integral, min_val=2)
        points = _point_indices(X)
        if groups is not None:
            check_consistent_length(X, groups)
            points = _point_indices(read_values(groups, "groups"))
        fold = self._assign_folds(points)[points]
        within = fold[:, 0] == fold[:, 1]
        for k in range(self.n_splits):
            test = np.flatnonzero(within & (fold[:, 0] == k))
            train = np.flatnonzero((fold != k).all(axis=1))
            if len(test) == 0 or len(train) == 0:
                raise ValueError(
                    f"n_splits={self.n_splits} is too large for {len(points)} pairs of "
                    f"{points.max() + 1} points: a fold has no training or no test pairs that "
                    "share no point. Take fewer folds."
                )
            yield train, test

    def _assign_folds(self, pairs: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return the fold of each point."""
        n_points = pairs.max() + 1
        connected = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(n_points, n_points))
        unit = connected_components(connected, directed=False)[1]
        # Connected points stay in one fold unless there are too many of them.
        too_large = np.bincount(unit)[unit] > -(-n_points // self.n_splits)
        unit = np.where(too_large, unit.max() + 1 + np.arange(n_points), unit)
        unit = np.unique(unit, return_inverse=True)[1]
        if unit.max() + 1 < self.n_splits:
            raise ValueError(
                f"n_splits={self.n_splits} is too large for {n_points} points in "
                f"{unit.max() + 1} connected groups. Take fewer folds."
            )
        order = check_random_state(self.random_state).permutation(unit.max() + 1)
        fold = np.empty(n_points, dtype=np.intp)
        folds = GroupKFold(self.n_splits).split(unit, groups=order[unit])
        for k, (_, points) in enumerate(folds):
            fold[points] = k
        return fold


def _point_indices(pairs: ArrayLike) -> NDArray[np.integer]:
    """Return pairs as indices of their distinct points, shape (n_pairs, 2)."""
    pairs = np.asarray(pairs)
    if pairs.ndim < 2 or pairs.shape[1] != 2 or len(pairs) == 0:
        raise ValueError(
            "pairs need the shape (n_pairs, 2) of indices or (n_pairs, 2, n_features) of points; "
            f"got an array of shape {pairs.shape}."
        )
    if pairs.ndim == 2:
        return np.unique(pairs, return_inverse=True)[1].reshape(-1, 2)
    points = pairs.reshape(2 * len(pairs), -1)
    return np.unique(points, axis=0, return_inverse=True)[1].reshape(-1, 2)


def make_pairs(
    X: ArrayLike,
    y: ArrayLike,
    n_pairs: int = 1000,
    *,
    indices: bool = False,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray[Any], NDArray[np.int_]]:
    """Draw pairs from labelled points: half of the same class, half of different classes.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, ...)
        Points.
    y : array-like of shape (n_samples,)
        Class labels.
    n_pairs : int, default=1000
        Number of pairs, at least 2. Fewer are returned if fewer exist. No pair occurs twice.
    indices : bool, default=False
        Whether to return indices of rows of X instead of points. Use them with
        `skdml.preprocessing.TupleIndexer`.
    random_state : int, RandomState instance or None, default=None
        Seed of the draw.

    Returns
    -------
    pairs : ndarray of shape (n_pairs, 2, ...), or (n_pairs, 2) of int
        The pairs, in random order.
    same : ndarray of int, shape (n_pairs,)
        1 for pairs of the same class, 0 for pairs of different classes.

    Raises
    ------
    ValueError
        If y has a single class.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skdml.model_selection import make_pairs
    >>> X, y = load_iris(return_X_y=True)
    >>> pairs, same = make_pairs(X, y, 100, random_state=0)
    >>> pairs.shape, int(same.sum())
    ((100, 2, 4), 50)
    """
    check_consistent_length(X, y)
    check_scalar(n_pairs, "n_pairs", Integral, min_val=2)
    codes, _ = encode_labels(y)
    rng = check_random_state(random_state)
    first, second, same = draw_pairs(codes, -(-n_pairs // 2), rng)
    rows, same = np.column_stack([first, second])[:n_pairs], same[:n_pairs].astype(int)
    order = rng.permutation(len(rows))  # so that folds of consecutive pairs contain both kinds
    rows, same = rows[order], same[order]
    return rows if indices else TupleIndexer(X).transform(rows), same


def make_triplets(
    X: ArrayLike,
    y: ArrayLike,
    n_triplets: int = 1000,
    *,
    indices: bool = False,
    random_state: int | np.random.RandomState | None = None,
) -> NDArray[Any]:
    """Draw triplets (anchor, positive, negative) from labelled points.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, ...)
        Points.
    y : array-like of shape (n_samples,)
        Class labels.
    n_triplets : int, default=1000
        Number of triplets, at least 1. Fewer are returned if fewer exist. No triplet occurs twice.
    indices : bool, default=False
        Whether to return indices of rows of X instead of points. Use them with
        `skdml.preprocessing.TupleIndexer`.
    random_state : int, RandomState instance or None, default=None
        Seed of the draw.

    Returns
    -------
    ndarray of shape (n_triplets, 3, ...), or (n_triplets, 3) of int
        The triplets.

    Raises
    ------
    ValueError
        If y has a single class, or no class has two points.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skdml.model_selection import make_triplets
    >>> X, y = load_iris(return_X_y=True)
    >>> make_triplets(X, y, 100, random_state=0).shape
    (100, 3, 4)
    """
    check_consistent_length(X, y)
    check_scalar(n_triplets, "n_triplets", Integral, min_val=1)
    codes, _ = encode_labels(y)
    rows = draw_triplets(codes, n_triplets, check_random_state(random_state))
    if len(rows) == 0:
        raise ValueError(
            "No class in y has two points, but a triplet needs an anchor and a positive."
        )
    return rows if indices else TupleIndexer(X).transform(rows)


def compare_learners(
    learners: Any,
    X: ArrayLike,
    y: ArrayLike,
    *,
    cv: Any = None,
    scoring: str | Callable[[Any, Any, Any], float] | None = None,
    baselines: bool = True,
    n_neighbors: int = 3,
    n_jobs: int | None = None,
) -> Any:
    """Compare learned distances with the Euclidean distance by cross-validation.

    Parameters
    ----------
    learners : estimator, list of estimators, or dict of str to estimator
        Learners to compare, or pipelines that end in one. The keys of a dict name the rows of the
        table; otherwise the class names do.
    X : array-like of shape (n_samples, ...)
        Points.
    y : array-like of shape (n_samples,)
        Class labels, or numbers for learners such as `MLKR`. Numbers that are not all integers are
        predicted by a k-nearest-neighbour regressor instead of a classifier.
    cv : int or splitter, default=None
        Cross-validation, as in scikit-learn for a classifier. None uses ten stratified folds. With
        `ClassDisjointKFold`, the test classes are unseen in training; then give a retrieval or
        verification scorer too.
    scoring : str or callable, default=None
        The score; larger is better.

        - None, a name of scikit-learn such as "f1_macro" or "neg_log_loss", or the result of
          `sklearn.metrics.make_scorer`: the score of a k-nearest-neighbour classifier on the
          embeddings. None is the accuracy (R² for numbers).
        - Any other callable ``scoring(learner, X, y)``, such as the scorers of `skdml.metrics`: the
          score of the fitted learner itself.
    baselines : bool, default=True
        Whether to add rows for whitened PCA, LDA and scikit-learn's NCA (for numbers as y: PCA
        only). The Euclidean distance is always included.
    n_neighbors : int, default=3
        Number of neighbours of the classifier or regressor.
    n_jobs : int, default=None
        Number of processes over the folds. None uses one.

    Returns
    -------
    pandas.DataFrame, or dict of str to list if pandas is not installed
        One row for each distance, with the Euclidean distance first. The columns are:

        - "mean" and "std" of the score over the folds;
        - "gain", the mean difference from the Euclidean distance;
        - "p", the two-sided p-value of a gain of zero, by the corrected t-test of `p_of_no_gain`
          (NaN for the Euclidean distance);
        - "wins", the number of folds with a better score than the Euclidean distance;
        - "fit s", the mean training time in seconds;
        - "folds", the difference from the Euclidean distance in each fold.

        A fold that fails has the score NaN, and so has a mean over it.

    Raises
    ------
    ValueError
        If `y` or `scoring` is invalid, `scoring` gives several scores, or all distances fail in
        all folds.

    Warns
    -----
    FitFailedWarning
        If a learner fails in a fold. The other learners are compared all the same.

    References
    ----------
    C. Nadeau, Y. Bengio, "Inference for the Generalization Error", Machine Learning 52, 2003.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skdml import MahalanobisMetric
    >>> from skdml.model_selection import compare_learners
    >>> X, y = load_wine(return_X_y=True)
    >>> within = MahalanobisMetric(within_class=True)
    >>> table = compare_learners(within, X, y, cv=5, baselines=False)
    >>> float(table["gain"].iloc[1].round(2))
    0.28
    """
    labels = read_labels(y, continuous=True)
    if not (scoring is None or isinstance(scoring, str) or callable(scoring)):
        raise ValueError(
            f"scoring has to be one name or one callable; got {scoring!r}. To compare by several "
            "scores, call compare_learners once for each."
        )
    check_scoring(KNeighborsClassifier(), scoring=scoring)  # names and functions that do not score
    rows = _reference_distances(baselines, is_continuous(labels))
    rows |= _named(learners, rows)
    splits = list(check_cv(10 if cv is None else cv, labels, classifier=True).split(X, labels))
    ratio = float(np.mean([len(test) / len(train) for train, test in splits]))
    columns: dict[str, list[Any]] = {}
    results = {}
    for name, learner in rows.items():
        model = learner
        if scoring is None or isinstance(scoring, str | _PREDICTION_SCORER):
            kind = KNeighborsRegressor if is_continuous(labels) else KNeighborsClassifier
            model = make_pipeline(learner, kind(n_neighbors))
        results[name] = _score_folds(name, model, X, labels, splits, scoring, n_jobs)
        row = _compare_folds(results[name], results["Euclid"]["test_score"], ratio)
        row["p"] = np.nan if name == "Euclid" else row["p"]
        for column, value in row.items():
            columns.setdefault(column, []).append(value)
    if all(np.isnan(result["test_score"]).all() for result in results.values()):
        raise ValueError(
            "Every distance failed in every fold, the Euclidean distance too. The warnings show "
            "the errors. Check X, y and scoring."
        )
    try:
        import pandas as pd
    except ModuleNotFoundError:
        return {"distance": list(rows), **columns}
    return pd.DataFrame(columns, index=pd.Index(list(rows), name="distance"))


def _reference_distances(baselines: bool, continuous: bool) -> dict[str, BaseEstimator]:
    """Return the distances that learners are compared with; two baselines need classes."""
    rows = {"Euclid": FunctionTransformer()}
    if baselines:
        rows["PCA"] = PCA(whiten=True, random_state=0)
    if baselines and not continuous:
        rows["LDA"] = LinearDiscriminantAnalysis()
        rows["sklearn NCA"] = NeighborhoodComponentsAnalysis(random_state=0)
    return rows


def _score_folds(
    name: str,
    model: Any,
    X: Any,
    y: NDArray[Any],
    splits: list[_Split],
    scoring: Any,
    n_jobs: int | None,
) -> dict[str, Any]:
    """Return the result of `cross_validate`; NaN and a warning for folds that fail."""
    options = {"scoring": scoring, "n_jobs": n_jobs, "error_score": np.nan}
    try:
        result = cross_validate(model, X, y, cv=splits, **options)
    except Exception as error:  # scikit-learn raises if all folds fail
        warnings.warn(
            f"{name} failed in all {len(splits)} folds, so its scores are NaN. {error}",
            FitFailedWarning,
            stacklevel=3,
        )
        return dict.fromkeys(("test_score", "fit_time"), np.full(len(splits), np.nan))
    if "test_score" not in result:
        found = [key.removeprefix("test_") for key in result if key.startswith("test_")]
        raise ValueError(
            f"scoring has to return one number; it returned several: {found}. To compare by "
            "several scores, call compare_learners once for each."
        )
    return result


def _compare_folds(
    result: dict[str, Any], reference: NDArray[np.floating], ratio: float
) -> dict[str, Any]:
    """Return a row of the table of `compare_learners` from a result of `cross_validate`."""
    scores = result["test_score"]
    gains = scores - reference
    return {
        "mean": scores.mean(),
        "std": scores.std(),
        "gain": gains.mean(),
        "p": p_of_no_gain(gains, ratio),
        "wins": int((gains > 0).sum()),
        "fit s": result["fit_time"].mean(),
        "folds": gains,
    }


def p_of_no_gain(gains: NDArray[np.floating], ratio: float) -> float:
    r"""Two-sided p-value of a mean gain of zero over folds, by the corrected resampled t-test.

    .. math:: t = \bar g \Big/ \sqrt{(1 / k + n_\mathrm{test} / n_\mathrm{train}) \, s^2}

    The correction accounts for training sets that overlap: their scores vary less than the scores
    of independent samples would.

    Parameters
    ----------
    gains : ndarray of shape (k,)
        The gain in each fold.
    ratio : float
        Number of test rows divided by the number of training rows.

    Returns
    -------
    float
        p-value in [0, 1]. It is 1 if all gains are 0, and NaN for a single fold.

    References
    ----------
    C. Nadeau, Y. Bengio, "Inference for the Generalization Error", Machine Learning 52, 2003,
    section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml.model_selection import p_of_no_gain
    >>> round(p_of_no_gain(np.array([0.02, 0.03, 0.01, 0.02]), 1 / 3), 3)
    0.049
    """
    if not gains.any():
        return 1.0
    if len(gains) < 2:
        return np.nan
    error = np.sqrt((1 / len(gains) + ratio) * gains.var(ddof=1))
    return float(2 * student_t.sf(abs(gains.mean()) / max(error, 1e-300), len(gains) - 1))


def _named(learners: Any, taken: Collection[str]) -> dict[str, BaseEstimator]:
    """Return learners by name. If several have the same class, the later ones are numbered."""
    if isinstance(learners, dict):
        if used := sorted(set(learners) & set(taken)):
            raise ValueError(
                f"The names {used} of learners are those of rows that compare_learners adds. Give "
                "the learners other names."
            )
        return learners
    named: dict[str, BaseEstimator] = {}
    for learner in learners if isinstance(learners, list | tuple) else [learners]:
        kind = type(learner).__name__
        n_same = sum(name == kind or name.startswith(f"{kind}-") for name in [*taken, *named])
        named[f"{kind}-{n_same + 1}" if n_same else kind] = learner
    return named
