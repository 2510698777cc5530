"""Labels of all kinds: what is read, what is refused, and that learners and measures agree."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import fitted_attributes, make_learners
from numpy.testing import assert_array_equal
from scipy.sparse import csr_matrix, issparse
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning
from sklearn.preprocessing import FunctionTransformer

from skdml import (
    NCA,
    RCA,
    DeepEmbedder,
    DeepProxyEmbedder,
    DeepSiameseEmbedder,
    MahalanobisMetric,
)
from skdml._labels import join_labels, read_labels
from skdml.constraints import check_same, encode_labels
from skdml.metrics import (
    few_shot_score,
    make_retrieval_scorer,
    make_verification_scorer,
    map_at_r,
    recall_at_k,
)
from skdml.model_selection import (
    ClassDisjointKFold,
    ClassDisjointShuffleSplit,
    PairGroupKFold,
    make_pairs,
    make_triplets,
)
from skdml.plotting import EmbeddingDisplay, RetrievalDisplay

HUGE = 2**62
DATES = [datetime.datetime(2020, 1, day) for day in (2, 1, 2)]

VALID = {
    "list of int": [7, 3, 7],
    "list of str": ["b", "a", "b"],
    "list of bool": [True, False, True],
    "tuple": (7, 3, 7),
    "range": range(3),
    "whole floats": [2.0, 1.0, 2.0],
    "bool": np.array([True, False, True]),
    "uint8": np.array([255, 0, 255], dtype=np.uint8),
    "uint64": np.array([2**64 - 1, 2**64 - 2, 0], dtype=np.uint64),
    "str": np.array(["b", "a", "b"]),
    "object of str": np.array(["b", "a", "b"], dtype=object),
    "object of int": np.array([7, 3, 7], dtype=object),
    "object of bool": np.array([True, False, True], dtype=object),
    "numbers beyond int64": [2**63 + 1, -1, 2**63],
    "int64 and uint64": [np.int64(HUGE + 1), np.uint64(HUGE + 2), np.int64(HUGE + 1)],
    "int and float": [HUGE + 1, 1.0, HUGE],
    "strings that numpy would merge": ["a", "a\0", "a"],
    "dates": np.array(DATES, dtype="datetime64[D]"),
    "tensor": torch.tensor([1, 0, 1]),
    "list of tensors": [torch.tensor(1), torch.tensor(0)],
    "pandas category of str": pd.Series(["b", "a", "b"], dtype="category"),
    "pandas category of int": pd.Series([7, 3, 7], dtype="category"),
    "pandas nullable Int64": pd.Series([HUGE + 1, HUGE, 0], dtype="Int64"),
    "pandas nullable boolean": pd.Series([True, False, True], dtype="boolean"),
    "pandas nullable string": pd.Series(["b", "a", "b"], dtype="string", index=[5, 6, 7]),
    "pandas dates": pd.Series(pd.to_datetime(DATES)),
    "polars Int64": pl.Series([7, 3, 7]),
    "polars String": pl.Series(["b", "a", "b"]),
    "polars Boolean": pl.Series([True, False, True]),
    "polars Categorical": pl.Series(["b", "a", "b"], dtype=pl.Categorical),
    "polars UInt64": pl.Series([2**63 + 1, 2**63, 0], dtype=pl.UInt64),
}


@pytest.mark.parametrize("name", VALID)
def test_labels_keep_their_values(name):
    y = VALID[name]
    plain = [label.item() if isinstance(label, torch.Tensor) else label for label in list(y)]
    codes, classes = encode_labels(y)
    distinct = sorted(set(plain))
    assert classes.tolist() == np.array(distinct, dtype=classes.dtype).tolist()
    assert [distinct[code] for code in codes] == plain


MISSING = {
    "NaN": [0.0, 1.0, np.nan],
    "NaN beside strings": ["a", "b", np.nan],
    "None beside strings": ["a", "b", None],
    "None beside numbers": [0, 1, None],
    "only None": [None, None, None],
    "NaN in an object array": np.array(["a", "b", np.nan], dtype=object),
    "NaT": np.array(["2020-01-01", "2020-01-02", "NaT"], dtype="datetime64[D]"),
    "NaN of Decimal": [Decimal(1), Decimal(2), Decimal("NaN")],
    "masked": np.ma.masked_array([0, 1, 2], [False, False, True]),
    "pandas str": pd.Series(["a", "b", None]),
    "pandas string": pd.Series(["a", "b", pd.NA], dtype="string"),
    "pandas Int64": pd.Series([0, 1, None], dtype="Int64"),
    "pandas boolean": pd.Series([True, False, None], dtype="boolean"),
    "pandas category of str": pd.Series(["a", "b", None], dtype="category"),
    "pandas category of int": pd.Series([0, 1, None], dtype="category"),
    "pandas dates": pd.Series(pd.to_datetime(["2020-01-01", "2020-01-02", None])),
    "polars Int64": pl.Series([0, 1, None]),
    "polars String": pl.Series(["a", "b", None]),
    "polars Boolean": pl.Series([True, False, None]),
    "polars Categorical": pl.Series(["a", "b", None], dtype=pl.Categorical),
}
INVALID = {name: (y, r"Input \w+ contains NaN: . of 3 labels") for name, y in MISSING.items()} | {
    "infinity": ([0.0, 1.0, np.inf], "contains infinity"),
    "numbers and strings": (["a", 1, "a"], r"all numbers or all strings; got \['int', 'str'\]"),
    "mixed objects": (np.array([1, "1", 1], dtype=object), r"got \['int', 'str'\]"),
    "booleans and strings": ([True, "a", False], r"got \['bool', 'str'\]"),
    "fractions": ([0.5, 1.0, 2.0], "Unknown label type: continuous"),
    "fractions of Decimal": ([Decimal("0.5"), 1, 2], "Unknown label type: continuous"),
    "bytes": ([b"a", b"b", b"a"], "Unknown label type: bytes"),
    "complex": (np.array([1j, 2j, 1j]), "Complex data not supported: the labels"),
    "objects": ([{}, {}, {}], "Unknown label type: dict"),
    "lists of different lengths": ([[1, 2], [1], [2]], "Unknown label type: list"),
    "several labels": (np.eye(3, dtype=int), "1d array|multilabel"),
    "sparse": (csr_matrix([[1, 0, 1]]), "sparse|multilabel"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_labels_are_refused(name):
    y, message = INVALID[name]
    with pytest.raises(ValueError, match=message):
        read_labels(y)


@pytest.mark.parametrize("y", ["abc", 3, None, np.zeros((2, 1, 1))])
def test_labels_that_are_no_vector_are_refused(y):
    with pytest.raises(ValueError, match=r"labels? (for|are needed)"):
        read_labels(y)


@pytest.mark.parametrize(
    "y", [[[7], [3]], np.array([["b"], ["a"]]), pd.DataFrame({"y": [7, 3]}), pl.DataFrame([[7, 3]])]
)
def test_a_column_becomes_a_vector_with_a_warning(y):
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
        assert encode_labels(y)[0].tolist() == [1, 0]


# Labels from two places


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.array([HUGE, -1]), np.array([HUGE + 1, 2**63 + 1], dtype=np.uint64)),
        (np.array([HUGE, 0]), np.array([HUGE + 1], dtype=np.uint64)),
        (np.array([HUGE + 1]), np.array([float(HUGE), 1.0])),
        (np.array([True, False]), np.array([1, 2])),
        (np.array(["a"]), np.array(["a", "bcd"], dtype=object)),
        (np.array([3]), np.array([])),
    ],
)
def test_joined_labels_keep_their_values(first, second):
    joined = join_labels(first, second, ("a", "b"))
    assert joined.tolist() == [*first.tolist(), *second.tolist()]
    distinct = set(first.tolist()) | set(second.tolist())
    assert len(np.unique(joined)) == len(distinct)


def test_numbers_and_strings_are_not_joined():
    with pytest.raises(ValueError, match="in a are numbers, but those in b are strings"):
        join_labels(np.array([1]), np.array(["1"]), ("a", "b"))


def test_close_large_labels_of_queries_and_reference_do_not_match():
    Z = np.arange(6.0)[:, None]
    labels = 2**60 + np.arange(0, 1200, 200)
    assert map_at_r(Z, labels, Z, labels.astype(np.uint64)) == 1
    with pytest.raises(ValueError, match="None of the 6 queries has a match"):
        recall_at_k(Z, labels, Z, labels.astype(np.uint64) + np.uint64(1))


@pytest.mark.parametrize("name", INVALID)
def test_measures_refuse_invalid_labels(name):
    y, message = INVALID[name]
    Z = np.arange(3.0)[:, None]
    with pytest.raises(ValueError, match=message):
        recall_at_k(Z, y)
    with pytest.raises(ValueError, match=message):
        recall_at_k(Z, ["a", "b", "a"], Z, y)


def test_measures_refuse_columns_and_other_kinds():
    Z = np.arange(4.0)[:, None]
    with pytest.raises(ValueError, match="labels should be a 1d array"):
        recall_at_k(Z, [[0], [1], [0], [1]])
    with pytest.raises(ValueError, match="labels are numbers, but those in reference_labels are"):
        recall_at_k(Z, [0, 1, 0, 1], Z, ["0", "1", "0", "1"])


# Estimators, scorers and splitters

KIND = np.repeat([0, 1, 2], 8)
X = np.array([[0.0, 0], [4, 1], [0, 5]])[KIND] + np.random.default_rng(0).normal(size=(24, 2))


def repeat(y):
    """Repeat the three labels, eight times each."""
    if isinstance(y, list):
        return [y[kind] for kind in KIND]
    return y.iloc[KIND] if isinstance(y, pd.Series) else y[KIND.tolist()]


BAD = {name: repeat(y) for name, (y, _) in INVALID.items() if not issparse(y)}
MESSAGE = "y contains|labels in y|Unknown label type|1d array"


@pytest.mark.parametrize("learner", make_learners(), ids=repr)
def test_learners_refuse_invalid_labels(learner):
    if not learner.__sklearn_tags__().target_tags.required:
        return
    for y in BAD.values():
        with pytest.raises(ValueError, match=MESSAGE):
            learner.fit(X, y)
        assert fitted_attributes(learner) == []


@pytest.mark.parametrize(
    "use",
    [
        lambda y: next(ClassDisjointKFold(2).split(X, y)),
        lambda y: next(ClassDisjointShuffleSplit(2).split(X, y)),
        lambda y: make_pairs(X, y, 4),
        lambda y: make_triplets(X, y, 4),
        lambda y: few_shot_score(FunctionTransformer(), X, y, 2, 1, 1, 2),
        lambda y: make_retrieval_scorer()(FunctionTransformer(), X, y),
        lambda y: make_verification_scorer()(FunctionTransformer(), X, y),
        lambda y: EmbeddingDisplay.from_estimator(FunctionTransformer(), X, y),
        lambda y: EmbeddingDisplay.from_predictions(X, y),
        lambda y: RetrievalDisplay.from_estimator(FunctionTransformer(), X, y),
    ],
)
def test_splitters_scorers_and_plots_read_labels_alike(use):
    allows_fractions = "EmbeddingDisplay" in use.__code__.co_names
    for name, y in BAD.items():
        if not (allows_fractions and "fractions" in name):
            with pytest.raises(ValueError, match=MESSAGE):
                use(y)
    with pytest.warns(DataConversionWarning):
        use(KIND[:, None])


@pytest.mark.parametrize(
    "y",
    [
        pd.Series(KIND, dtype="Int64"),
        pd.Series(KIND, dtype="category"),
        pl.Series(KIND),
        KIND.astype(object),
        np.array(["a", "b", "c"])[KIND],
        pl.Series(list("abc"), dtype=pl.Categorical)[KIND.tolist()],
    ],
)
def test_learners_learn_the_same_from_labels_of_every_type(y):
    for learner in (NCA(tol=0.01), DeepProxyEmbedder(max_epochs=1, random_state=0)):
        expected = clone(learner).fit(X, KIND).transform(X)
        assert_array_equal(learner.fit(X, y).transform(X), expected)


def test_groups_are_read_like_labels():
    learner = DeepEmbedder(max_epochs=1, random_state=0)
    for groups in (["a", 1] * 12, ["a", None] * 12, [0.0, np.nan] * 12):
        with pytest.raises(ValueError, match="groups"):
            learner.fit(X, KIND, groups=groups)
    pairs = make_pairs(X, KIND, 20, indices=True, random_state=0)[0]
    for groups in ([["a", 1]] * 20, [["a", None]] * 20, np.full((20, 2), np.nan)):
        with pytest.raises(ValueError, match="groups"):
            next(PairGroupKFold(2).split(pairs, groups=groups))
    with pytest.raises(ValueError, match="inconsistent numbers"):
        next(PairGroupKFold(2).split(pairs, groups=pairs[:10]))


@pytest.mark.parametrize("y", [["1", "0"], [1, None], [1, np.nan], ["a", 1], pd.array([1, None])])
def test_invalid_labels_of_pairs_are_refused(y):
    with pytest.raises(ValueError, match=r"y of pairs|y contains NaN|labels in y"):
        check_same(y, 2)
    with pytest.raises(ValueError, match=r"labels in y|y contains NaN"):
        DeepSiameseEmbedder(supervision="pairs").fit(np.zeros((2, 2, 3)), y)


def test_chunks_are_read_like_labels():
    for chunks in ([0, None] * 12, [0.0, np.nan] * 12, ["a", 1] * 12):
        with pytest.raises(ValueError, match="labels"):
            RCA(supervision="chunks").fit(X, chunks)
    nullable = pd.Series(KIND, dtype="Int64")
    plain = RCA(supervision="chunks").fit(X, KIND).components_
    assert_array_equal(RCA(supervision="chunks").fit(X, nullable).components_, plain)


@pytest.mark.parametrize(
    "learner", [MahalanobisMetric(within_class=True), RCA(), DeepProxyEmbedder(max_epochs=1)]
)
def test_batches_with_labels_of_different_kinds_are_refused(learner):
    learner.partial_fit(X, KIND)
    before = learner.transform(X)
    with pytest.raises(ValueError, match=r"earlier .* are numbers, but those in y are strings"):
        learner.partial_fit(X, KIND.astype(str))
    assert_array_equal(learner.transform(X), before)


def test_batches_may_hold_int64_and_uint64():
    large = np.int64(2**60) + KIND
    learner = DeepProxyEmbedder(max_epochs=1, random_state=0).partial_fit(X, large)
    learner.partial_fit(X, large.astype(np.uint64) + np.uint64(1))
    assert learner.classes_.tolist() == [2**60, 2**60 + 1, 2**60 + 2, 2**60 + 3]


def test_unseen_labels_of_a_plot_are_of_the_kind_of_the_labels():
    with pytest.raises(ValueError, match="in y are numbers, but those in unseen_labels are"):
        EmbeddingDisplay.from_predictions(X, KIND, unseen_labels=["1"])
    with pytest.raises(ValueError, match="in y are numbers, but those in reference_labels are"):
        RetrievalDisplay.from_estimator(FunctionTransformer(), X, KIND, X, KIND.astype(str))
