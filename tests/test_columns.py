"""Columns of X that hold strings or dates are named in the error, whatever the kind of table."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import fitted_attributes, make_learners

from skdml import MLKR, NCA, DeepTripletEmbedder, MahalanobisMetric

KIND = np.repeat([0, 1, 2], 8)
NUMBERS = np.array([[0.0, 0], [4, 1], [0, 5]])[KIND] + np.random.default_rng(0).normal(size=(24, 2))
COLOURS = np.array(["red", "green", "blue"])[KIND]
FRAME = pd.DataFrame({"size": NUMBERS[:, 0], "colour": COLOURS, "weight": NUMBERS[:, 1]})
NAMED = "Column 'colour' of X holds strings, such as 'red'.*OneHotEncoder"
NUMBERED = "Column 1 of X holds strings, such as 'red'.*OneHotEncoder"

TABLES = {
    "pandas": (FRAME, NAMED),
    "pandas category": (FRAME.astype({"colour": "category"}), NAMED),
    "pandas string": (FRAME.convert_dtypes(), NAMED),
    "pandas with missing strings": (FRAME.assign(colour=[None, *COLOURS[1:]]), NAMED),
    "polars": (pl.DataFrame(FRAME.to_dict("list")), NAMED),
    "polars category": (
        pl.DataFrame(FRAME.to_dict("list"), schema_overrides={"colour": pl.Categorical}),
        NAMED,
    ),
    "object array": (FRAME.to_numpy(), NUMBERED),
    "list": (FRAME.to_numpy().tolist(), NUMBERED),
    "array of strings": (NUMBERS.astype(str), None),
    "dates": (
        FRAME.assign(colour=pd.Timestamp("2020-01-01")),
        "Column 'colour' of X holds dates, such as .* Turn dates into numbers",
    ),
    "several": (
        pd.concat([FRAME, FRAME.add_prefix("other ")], axis=1),
        r"Column 'colour' .* Other such columns: \['other colour'\]",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_error_names_the_column_and_an_encoder(name):
    table, message = TABLES[name]
    for learner in (NCA(), MahalanobisMetric(), DeepTripletEmbedder(max_epochs=1)):
        if message is None:  # strings that are numbers are converted, as scikit-learn does
            learner.fit(table, KIND)
            continue
        with pytest.raises(ValueError, match=message):
            learner.fit(table, KIND)
        assert fitted_attributes(learner) == []


@pytest.mark.parametrize("learner", [*make_learners(), MLKR()], ids=repr)
def test_all_learners_name_the_column(learner):
    with pytest.raises(ValueError, match=NAMED.replace("red", "green")):
        learner.fit(FRAME[::-1][8:], KIND[::-1][8:])


@pytest.mark.parametrize("learner", [NCA(tol=0.1), DeepTripletEmbedder(max_epochs=1)])
def test_a_fitted_learner_names_the_column(learner):
    learner.fit(NUMBERS, KIND)
    table = FRAME[["size", "colour"]].to_numpy()
    with pytest.raises(ValueError, match=NUMBERED):
        learner.transform(table)


def test_a_linear_distance_names_the_column():
    distance = MahalanobisMetric().fit(NUMBERS).get_metric()
    with pytest.raises(ValueError, match=NUMBERED):
        distance.pairwise(FRAME[["size", "colour"]].to_numpy())


def test_other_errors_stay_as_they_are():
    table = NUMBERS.astype(object)
    table[3, 0] = {"a": 1}
    with pytest.raises(TypeError, match="not 'dict'"):
        NCA().fit(table, KIND)
    with pytest.raises(ValueError, match="X contains NaN"):
        NCA().fit(np.full((24, 2), np.nan), KIND)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        NCA().fit(NUMBERS, KIND[1:])
