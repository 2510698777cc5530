"""Texts: a pipeline encodes them before a deep learner."""

import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from skdml import DeepProxyEmbedder, DeepTripletEmbedder

WORDS = {"fruit": "apple pear plum quince", "tool": "hammer saw wrench chisel"}
TEXTS = [f"{a} and {b}" for words in WORDS.values() for a in words.split() for b in words.split()]
y = np.repeat(list(WORDS), 16)


class Encoder(nn.Module):
    """A module with the method `encode` of a SentenceTransformer."""

    n_texts = 0

    def encode(self, texts):
        assert isinstance(texts, list)
        Encoder.n_texts += len(texts)
        counts = [[text.count(letter) for letter in "acehilmnpqrstuw"] for text in texts]
        return np.array(counts, dtype=np.float32)


encoder = Encoder()


def encode(texts):
    return encoder.encode(list(texts))


def shuffled(texts):
    return pd.Series(texts, name="text").sample(frac=1, random_state=0)


@pytest.mark.parametrize(
    "column",
    [list, np.array, lambda texts: np.array(texts, dtype=object), pd.Series, shuffled],
    ids=["list", "array", "objects", "series", "shuffled"],
)
def test_pipeline_accepts_columns_of_texts(column):
    texts = column(TEXTS)
    labels = y[texts.index] if isinstance(texts, pd.Series) else y
    learner = DeepProxyEmbedder(random_state=0, max_epochs=5)
    model = make_pipeline(FunctionTransformer(encode), learner).fit(texts, labels)
    expected = DeepProxyEmbedder(random_state=0, max_epochs=5).fit(encode(texts), labels)
    assert_array_equal(model.transform(TEXTS), expected.transform(encode(TEXTS)))
    assert list(model.predict(["pear or plum", "saw or wrench"])) == ["fruit", "tool"]
    unpickled = pickle.loads(pickle.dumps(model))
    assert_array_equal(unpickled.transform(TEXTS), model.transform(TEXTS))


def test_text_column_beside_numeric_columns():
    table = pd.DataFrame({"text": TEXTS, "weight": np.linspace(0, 1, 32)})
    columns = ColumnTransformer(
        [("text", FunctionTransformer(encode), "text"), ("others", "passthrough", ["weight"])]
    )
    model = make_pipeline(columns, DeepTripletEmbedder(max_epochs=1)).fit(table, y)
    assert model[-1].n_features_in_ == 16


def test_cached_search_encodes_each_text_once_per_fold(tmp_path):
    model = make_pipeline(
        FunctionTransformer(encode),
        DeepTripletEmbedder(max_epochs=1, random_state=0),
        KNeighborsClassifier(3),
        memory=str(tmp_path),
    )
    Encoder.n_texts = 0
    grid = {"deeptripletembedder__margin": [0.1, 0.3, 0.5]}
    GridSearchCV(model, grid, cv=2, refit=False).fit(TEXTS, y)
    n_train, n_scored = 2 * 16, 3 * 2 * 16
    assert Encoder.n_texts == n_train + n_scored


@pytest.mark.parametrize("texts", [TEXTS, np.array(TEXTS), pd.Series(TEXTS)])
def test_texts_raise_an_error_with_advice(texts):
    for params in ({}, {"module": encoder, "freeze": "module"}):
        with pytest.raises(ValueError, match=r"needs numbers, but X holds texts. Put a function"):
            DeepTripletEmbedder(**params).fit(texts, y)
