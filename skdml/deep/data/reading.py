"""What training reads: X and y checked, as datasets that give a batch at a time."""

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_consistent_length, validate_data
from torch.utils.data import Dataset

from skdml.base import check_tuples
from skdml.deep.data.datasets import ArrayDataset, LabelledDataset, point_of, writeable
from skdml.deep.data.samplers import check_labels_teach
from skdml.deep.losses import LOSSES, learns_from

TUPLE_SIZES = {"pairs": 2, "triplets": 3}


_POINTS = {"dtype": np.float32, "order": "C", "allow_nd": True, "ensure_min_samples": 2}


def read_training_data(learner, X, y, groups=None, *, kind, reset):
    """Check X, y and groups for a learner.

    Parameters
    ----------
    learner : DeepEmbedder
        Gets `n_features_in_`, `feature_names_in_` and `feature_shape_`, or is asked for them.
    X : array-like or torch Dataset
        Points, or tuples of points.
    y : array-like or None
        Labels, graded targets, or same/different.
    groups : array-like of shape (n_samples,) or None
        The group of each point.
    kind : {"labels", "targets", "views", "pairs", "triplets"}
        What y says: classes, graded targets, nothing (a point is alike to itself alone), or what
        the tuples are.
    reset : bool
        Whether to set the attributes of the learner; otherwise X has to agree with them.

    Returns
    -------
    ArrayDataset or LabelledDataset
        float32 points with targets: int64 classes, or as `graded_targets` gives them.

    Raises
    ------
    ValueError
        If X, y or groups are not what they have to be.
    """
    if kind in TUPLE_SIZES and groups is not None:
        raise ValueError(
            f"groups say which points share a batch, and supervision={kind!r} has tuples in its "
            "batches. Leave groups out."
        )
    read = _read_tuples if kind in TUPLE_SIZES else _read_points
    data = read(learner, X, y, kind, reset)
    data.kind = kind
    data.classes = _judging_classes(y, len(data)) if kind == "views" else None
    if groups is not None:
        check_consistent_length(X, groups)
        groups = check_array(column_or_1d(groups), dtype=None, ensure_2d=False, input_name="groups")
        data.groups = np.unique(groups, return_inverse=True)[1]
    return data


def _read_points(learner, X, y, kind, reset):
    if isinstance(X, Dataset):
        return _read_dataset(learner, X, y, kind, reset)
    _refuse_texts(learner, X)
    if not reset:
        check_dimensions(learner, X)
    if kind == "views":
        X = validate_data(learner, X, reset=reset, **_POINTS)
        targets = np.arange(len(X))
    else:
        if kind == "labels" and getattr(y, "ndim", 1) == 2 and y.shape[1] > 1:
            _check_classes(learner, y)  # which says more than that y has two dimensions
        graded = {"multi_output": True, "y_numeric": True} if kind == "targets" else {}
        X, y = validate_data(learner, X, y, reset=reset, **_POINTS, **graded)
        targets = _targets(learner, y, kind)
    check_feature_shape(learner, X.shape[1:], reset=reset)
    return ArrayDataset(writeable(X), targets)


def _refuse_texts(learner, X):
    column = isinstance(X, (list, tuple)) or getattr(X, "ndim", None) == 1
    if column and isinstance(next(iter(X), None), str):
        name = type(learner).__name__
        raise ValueError(
            f"{name} reads numbers, and X holds texts. Let a function come first that makes "
            f"vectors of them: make_pipeline(FunctionTransformer(encode), {name}(...))."
        )


def _targets(learner, y, kind):
    if kind == "targets":
        return graded_targets(y)
    _check_classes(learner, y)
    return _codes(y)


def _target_kind(y):
    """Return what scikit-learn takes y for, or raise if its labels are of several kinds."""
    try:
        return type_of_target(y, input_name="y")
    except TypeError as error:  # there is no order among them
        kinds = sorted({type(label).__name__ for label in y})
        raise ValueError(
            f"The labels in y have to be of one kind, all numbers or all strings; got {kinds}. "
            "Turn them into strings: [str(label) for label in y]."
        ) from error


def _check_classes(learner, y):
    target_kind = _target_kind(y)
    if target_kind not in ("binary", "multiclass"):
        losses = sorted(name for name in LOSSES if learns_from(name) == "targets")
        raise ValueError(
            f"Unknown label type: {target_kind}. {type(learner).__name__} learns from classes, a "
            f"label for each sample. Losses that learn from numbers, or from several labels at "
            f"once as rows of 0 and 1: {losses}."
        )


def _judging_classes(y, n_rows):
    """Return the classes that points of which views are alike are judged by, or None."""
    y = np.asarray(y)
    if y.ndim != 1 or _target_kind(y) not in ("binary", "multiclass"):  # None has no dimension
        return None
    if len(y) != n_rows:
        raise ValueError(f"y holds {len(y)} labels for {n_rows} points; give one for each.")
    classes, counts = np.unique(y, return_inverse=True, return_counts=True)[1:]
    return classes if np.count_nonzero(counts > 1) > 1 else None


def graded_targets(y):
    """Return targets that are more or less alike.

    Parameters
    ----------
    y : array-like or sparse matrix of shape (n,) or (n, k)
        Numbers; or rows of two values, the larger one for the labels that a sample has.

    Returns
    -------
    ndarray of float64 or bool, shape (n,) or (n, k)
        Numbers as float64, sets of labels as bool.

    Raises
    ------
    ValueError
        If they are neither, or all alike.

    Examples
    --------
    >>> from skdml.deep.data.reading import graded_targets
    >>> graded_targets([[1, 0, 1], [0, 0, 1]])
    array([[ True, False,  True],
           [False, False,  True]])
    """
    y = y.toarray() if issparse(y) else np.asarray(y)
    if y.dtype.kind not in "biuf":
        raise ValueError(
            "Graded targets are numbers, or rows of 0 and 1 for several labels at once; got "
            f"{y.dtype} {y.ravel()[:3].tolist()}. MultiLabelBinarizer makes such rows. "
            "For classes set loss__graded=False."
        )
    targets = y.astype(np.float64)
    if targets.ndim not in (1, 2):
        raise ValueError(f"Graded targets are of shape (n,) or (n, k); got {targets.shape}.")
    if (targets == targets[0]).all():
        raise ValueError(
            f"A distance is learned from targets that differ; all {len(targets)} are equal. Give "
            "samples with others."
        )
    sets = type_of_target(y, input_name="y") == "multilabel-indicator"
    return targets == targets.max() if sets else targets


def _read_dataset(learner, dataset, y, kind, reset):
    name = type(learner).__name__
    if y is None and kind != "views":
        raise ValueError(
            f"{name} requires y to be passed, but the target y is None. The labels of a Dataset "
            "are given beside it, so that batches can be drawn by class before it is read."
        )
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            f"{name} reads the items of a Dataset in an order of its own, so it needs one with "
            f"__len__; a {type(dataset).__name__} has none."
        )
    if kind == "views":
        targets = np.arange(len(dataset))
    else:
        y = y if issparse(y) else np.asarray(y)
        if y.shape[:1] != (len(dataset),) or (kind == "labels" and y.ndim > 1):
            raise ValueError(
                f"{name} needs a label for each of the {len(dataset)} items of the Dataset; got y "
                f"of shape {y.shape}."
            )
        targets = _targets(learner, y, kind)
    shape = tuple(point_of(dataset[0]).shape)
    if not shape:
        raise ValueError(
            "An item of the Dataset has to be a point, or a tuple that begins with one; the first "
            "item gives a single number."
        )
    check_feature_shape(learner, shape, reset=reset)
    if reset:
        learner.n_features_in_ = shape[0]
        vars(learner).pop("feature_names_in_", None)  # of an earlier table
    return LabelledDataset(dataset, targets)


def _read_tuples(learner, tuples, y, kind, reset):
    size = TUPLE_SIZES[kind]
    tuples = check_tuples(tuples, size)
    points = tuples.reshape(-1, *tuples.shape[2:])
    points = validate_data(learner, points, reset=reset, dtype=np.float32, allow_nd=True)
    check_feature_shape(learner, points.shape[1:], reset=reset)
    targets = np.zeros(len(tuples), np.int64) if size == 3 else _check_same(y, len(tuples))
    return ArrayDataset(writeable(points).reshape(tuples.shape), targets, tuples=True)


def check_feature_shape(learner, shape, *, reset=False):
    """Set the shape of a learner's points, or raise if it is another.

    Parameters
    ----------
    learner : DeepEmbedder
        The learner.
    shape : tuple of int
        The shape of a point.
    reset : bool, default=False
        Whether to set it.

    Raises
    ------
    ValueError
        If the learner was fitted on points of another shape.
    """
    if reset:
        learner.feature_shape_ = shape
    elif shape != learner.feature_shape_:
        raise ValueError(
            f"{type(learner).__name__} was fitted on points of shape {learner.feature_shape_}; got "
            f"points of shape {shape}."
        )


def check_dimensions(learner, X):
    """Raise if points have other dimensions than those a learner was fitted on.

    Their number of features would be compared first, and tell little: an image has its channels.

    Parameters
    ----------
    learner : DeepEmbedder
        The learner, fitted.
    X : array-like
        Points.

    Raises
    ------
    ValueError
        If a point is, say, a row and should be an image.
    """
    shape = (X.shape if hasattr(X, "shape") else np.asarray(X).shape)[1:]
    if shape and len(shape) != len(learner.feature_shape_):
        check_feature_shape(learner, shape)


def _codes(y):
    codes = np.unique(y, return_inverse=True)[1].astype(np.int64)
    check_labels_teach(codes)
    return codes


def _check_same(y, n_pairs):
    if y is None:
        raise ValueError(
            "supervision='pairs' requires y to be passed, but the target y is None: 1 for a pair "
            "of the same kind, 0 or -1 for a different one."
        )
    y = np.asarray(y)
    values = set(np.unique(y).tolist())
    if y.shape != (n_pairs,) or not (values <= {0, 1} or values <= {-1, 1}):
        raise ValueError(
            f"{n_pairs} pairs need {n_pairs} labels, 1 for same and 0 (or -1) for different; got y "
            f"of shape {y.shape} with the values {sorted(values)[:5]}."
        )
    if len(values) < 2:
        raise ValueError(
            f"A distance is learned from same and different pairs; all {n_pairs} have y = "
            f"{values.pop()}."
        )
    return (y == 1).astype(np.int64)
