"""Honest splits: classes that training never sees, pairs sharing no point; tuples from labels."""

from numbers import Integral

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import t as student_t
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import GroupKFold, GroupShuffleSplit, check_cv, cross_validate
from sklearn.neighbors import KNeighborsClassifier, NeighborhoodComponentsAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import check_consistent_length, check_random_state, check_scalar

from skdml.constraints import draw_pairs, draw_triplets, encode_labels


class _Splitter:
    """What scikit-learn asks of a splitter, beside `split`."""

    def get_n_splits(self, X=None, y=None, groups=None):
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

    def __repr__(self):
        params = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({params})"


class ClassDisjointKFold(_Splitter):
    """K folds that share no class: every class is judged by a model that never saw it.

    The classes are dealt to the folds so that these are of like size. Score with a retrieval or
    a verification scorer: a classifier knows no label of the test fold.

    Parameters
    ----------
    n_splits : int, default=5
        How many folds, at least 2 and at most the number of classes.
    shuffle : bool, default=False
        Whether to deal the classes in random order, in folds of like numbers of classes.
    random_state : int, RandomState instance or None, default=None
        Decides the order, with ``shuffle=True``.

    See Also
    --------
    ClassDisjointShuffleSplit : As many splits as wanted, drawn at random.
    PairGroupKFold : For pairs of points.

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

    def __init__(self, n_splits=5, *, shuffle=False, random_state=None):
        self.n_splits = n_splits
        self.shuffle = shuffle
        self.random_state = random_state

    def split(self, X, y, groups=None):
        """Yield the rows to train on and those to judge by.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Points; only their number is read.
        y : array-like of shape (n_samples,)
            Class labels.
        groups : object
            Ignored.

        Yields
        ------
        train, test : ndarray of int
            Rows; no class is in both.

        Raises
        ------
        ValueError
            If there are fewer classes than folds.
        """
        codes = _classes_for(self, X, y, self.n_splits)
        options = {"shuffle": self.shuffle, "random_state": self.random_state}
        options = options if self.shuffle else {}
        yield from GroupKFold(self.n_splits, **options).split(X, y, groups=codes)


class ClassDisjointShuffleSplit(_Splitter):
    """Random splits of the classes into those to train on and those to judge by.

    Parameters
    ----------
    n_splits : int, default=5
        How many splits.
    test_size, train_size : float, int or None, default=None
        The share, or the number, of classes; None is 0.2 for the test, and what is left to train.
    random_state : int, RandomState instance or None, default=None
        Decides the splits.

    See Also
    --------
    ClassDisjointKFold : Judges each class once.

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

    def __init__(self, n_splits=5, *, test_size=None, train_size=None, random_state=None):
        self.n_splits = n_splits
        self.test_size = test_size
        self.train_size = train_size
        self.random_state = random_state

    def split(self, X, y, groups=None):
        """Yield the rows to train on and those to judge by.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Points; only their number is read.
        y : array-like of shape (n_samples,)
            Class labels.
        groups : object
            Ignored.

        Yields
        ------
        train, test : ndarray of int
            Rows; no class is in both.

        Raises
        ------
        ValueError
            If there are fewer than two classes.
        """
        codes = _classes_for(self, X, y, 2)
        splitter = GroupShuffleSplit(
            self.n_splits,
            test_size=self.test_size,
            train_size=self.train_size,
            random_state=self.random_state,
        )
        yield from splitter.split(X, y, groups=codes)


def _classes_for(splitter, X, y, n_needed):
    if y is None:
        raise ValueError(f"{type(splitter).__name__} splits by class: give y.")
    check_consistent_length(X, y)
    codes, classes = encode_labels(y)
    if len(classes) < n_needed:
        raise ValueError(
            f"{type(splitter).__name__} needs at least {n_needed} classes; y has {len(classes)}."
        )
    return codes


class PairGroupKFold(_Splitter):
    """K folds of pairs that share no point, so that no test pair holds a point of training.

    The points are dealt to the folds, those that pairs join together as far as folds of like size
    allow. A fold is judged by the pairs that lie in it, after training on those that lie outside;
    a pair that lies across is left out, in that split.

    Parameters
    ----------
    n_splits : int, default=5
        How many folds, at least 2.
    random_state : int, RandomState instance or None, default=None
        Decides who goes where.

    See Also
    --------
    ClassDisjointKFold : For points and their classes.

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

    def __init__(self, n_splits=5, *, random_state=None):
        self.n_splits = n_splits
        self.random_state = random_state

    def split(self, X, y=None, groups=None):
        """Yield the pairs to train on and those to judge by.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2) or (n_pairs, 2, ...)
            Pairs of indices, or of points; equal points are one point.
        y : object
            Ignored.
        groups : array-like of shape (n_pairs, 2), default=None
            Whom each point belongs to (a person, a patient). Then it is groups that are kept in
            one fold, instead of points.

        Yields
        ------
        train, test : ndarray of int
            Pairs.

        Raises
        ------
        ValueError
            If there are too few points for so many folds.
        """
        check_scalar(self.n_splits, "n_splits", Integral, min_val=2)
        ends = _ends(X if groups is None else groups)
        fold = self._fold_of(ends)[ends]
        within = fold[:, 0] == fold[:, 1]
        for k in range(self.n_splits):
            test = np.flatnonzero(within & (fold[:, 0] == k))
            train = np.flatnonzero((fold != k).all(axis=1))
            if len(test) == 0 or len(train) == 0:
                raise ValueError(
                    f"n_splits={self.n_splits} is too much for {len(ends)} pairs of "
                    f"{ends.max() + 1} points: a fold that shares no point with the others is "
                    "left without pairs. Take fewer folds."
                )
            yield train, test

    def _fold_of(self, ends):
        """Return the fold of each point."""
        n_points = ends.max() + 1
        joined = coo_matrix((np.ones(len(ends)), ends.T), shape=(n_points, n_points))
        unit = connected_components(joined, directed=False)[1]
        # What is joined stays together, unless it is too large for a fold.
        too_large = np.bincount(unit)[unit] > -(-n_points // self.n_splits)
        unit = np.where(too_large, unit.max() + 1 + np.arange(n_points), unit)
        unit = np.unique(unit, return_inverse=True)[1]
        if unit.max() + 1 < self.n_splits:
            raise ValueError(
                f"n_splits={self.n_splits} folds cannot be made of {n_points} points that are "
                f"joined to {unit.max() + 1} groups."
            )
        order = check_random_state(self.random_state).permutation(unit.max() + 1)
        fold = np.empty(n_points, dtype=np.intp)
        folds = GroupKFold(self.n_splits).split(unit, groups=order[unit])
        for k, (_, points) in enumerate(folds):
            fold[points] = k
        return fold


def _ends(pairs):
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


def make_pairs(X, y, n_pairs=1000, *, indices=False, random_state=None):
    """Draw pairs from labelled points, half of the same class and half of two classes.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...)
        Points.
    y : array-like of shape (n_samples,)
        Class labels.
    n_pairs : int, default=1000
        How many; fewer where there are no more. None is there twice.
    indices : bool, default=False
        Whether to return rows of X in place of points, for `skdml.preprocessing.TupleIndexer`.
    random_state : int, RandomState instance or None, default=None
        Decides the draw.

    Returns
    -------
    pairs : ndarray of shape (n_pairs, 2, ...), or (n_pairs, 2) of int
        The pairs, in random order.
    same : ndarray of int, shape (n_pairs,)
        1 for the same class, 0 for different ones.

    Raises
    ------
    ValueError
        If y has one class only.

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
    order = rng.permutation(len(rows))  # any splitter then finds both kinds in each fold
    rows, same = rows[order], same[order]
    return rows if indices else np.asarray(X)[rows], same


def make_triplets(X, y, n_triplets=1000, *, indices=False, random_state=None):
    """Draw triplets (anchor, positive, negative) from labelled points.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...)
        Points.
    y : array-like of shape (n_samples,)
        Class labels.
    n_triplets : int, default=1000
        How many; fewer where there are no more. None is there twice.
    indices : bool, default=False
        Whether to return rows of X in place of points, for `skdml.preprocessing.TupleIndexer`.
    random_state : int, RandomState instance or None, default=None
        Decides the draw.

    Returns
    -------
    ndarray of shape (n_triplets, 3, ...), or (n_triplets, 3) of int
        The triplets.

    Raises
    ------
    ValueError
        If y has one class only, or no class has two points.

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
        raise ValueError("No class has two points, so there is no anchor with a positive.")
    return rows if indices else np.asarray(X)[rows]


def compare_learners(
    learners, X, y, *, cv=None, scoring=None, baselines=True, n_neighbors=3, n_jobs=None
):
    """Compare learned distances with Euclid and each other, fold by fold.

    Parameters
    ----------
    learners : estimator, list of estimators, or dict of str to estimator
        What to compare; the keys, or the names of the classes, name the rows. Learners, or
        pipelines that end in one.
    X : array-like of shape (n_samples, ...)
        Points.
    y : array-like of shape (n_samples,)
        Their classes.
    cv : int or splitter, default=None
        As scikit-learn takes it, for a classifier; None is ten stratified folds. With
        `ClassDisjointKFold` the classes judged by were never seen: give a retrieval scorer, too.
    scoring : callable, default=None
        ``scoring(learner, X, y)`` of a fitted learner, larger is better. None is the accuracy of
        k-NN after it.
    baselines : bool, default=True
        Whether to compare with PCA (whitened), LDA and scikit-learn's NCA. Euclid always is there.
    n_neighbors : int, default=3
        Neighbours of the k-NN.
    n_jobs : int, default=None
        Processes, over the folds.

    Returns
    -------
    pandas.DataFrame, or dict of str to list where pandas is missing
        A row for each distance, Euclid first, with the columns "mean" and "std" of the score over
        the folds, "gain" (the mean difference to Euclid), "p" (of no gain, two-sided, by Student's
        t with the variance corrected for overlapping training sets; NaN for Euclid), "wins" (folds
        better than Euclid), "fit s" (mean seconds) and "folds" (the differences, fold by fold).

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
    rows = {"Euclid": FunctionTransformer()}
    if baselines:
        rows |= {
            "PCA": PCA(whiten=True, random_state=0),
            "LDA": LinearDiscriminantAnalysis(),
            "sklearn NCA": NeighborhoodComponentsAnalysis(random_state=0),
        }
    rows |= _named(learners)
    cv = check_cv(10 if cv is None else cv, y, classifier=True)
    splits = list(cv.split(X, y))
    ratio = np.mean([len(test) / len(train) for train, test in splits])
    columns = {name: [] for name in ("mean", "std", "gain", "p", "wins", "fit s", "folds")}
    euclid = None
    for learner in rows.values():
        after = KNeighborsClassifier(n_neighbors)
        model = learner if scoring is not None else make_pipeline(learner, after)
        options = {"scoring": scoring, "n_jobs": n_jobs, "error_score": "raise"}
        found = cross_validate(model, X, y, cv=splits, **options)
        scores = found["test_score"]
        euclid = scores if euclid is None else euclid
        gains = scores - euclid
        measures = (
            scores.mean(),
            scores.std(),
            gains.mean(),
            np.nan if learner is rows["Euclid"] else p_of_no_gain(gains, ratio),
            int((gains > 0).sum()),
            found["fit_time"].mean(),
            gains,
        )
        for column, value in zip(columns.values(), measures, strict=True):
            column.append(value)
    try:
        import pandas as pd
    except ModuleNotFoundError:
        return {"distance": list(rows), **columns}
    return pd.DataFrame(columns, index=pd.Index(list(rows), name="distance"))


def p_of_no_gain(gains, ratio):
    r"""Two-sided p of a mean gain of zero over folds, by the corrected resampled t-test.

    .. math:: t = \bar g \Big/ \sqrt{(1 / k + n_\mathrm{test} / n_\mathrm{train}) \, s^2}

    Parameters
    ----------
    gains : ndarray of shape (k,)
        The gain on each fold.
    ratio : float
        n_test / n_train: folds that share training rows vary less than new samples would.

    Returns
    -------
    float
        In [0, 1]; 1 where no fold differs, NaN for a single fold.

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


def _named(learners):
    """Return learners by name; of two of one class, the later ones are numbered."""
    if isinstance(learners, dict):
        return learners
    named = {}
    for learner in learners if isinstance(learners, list | tuple) else [learners]:
        kind = type(learner).__name__
        taken = sum(name == kind or name.startswith(f"{kind}-") for name in named)
        named[f"{kind}-{taken + 1}" if taken else kind] = learner
    return named
