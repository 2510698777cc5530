"""Rotations of X, two threads: what docs/linear.md says of each learner."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import linear_learners, name_of, supervise
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group
from sklearn.base import clone
from sklearn.datasets import load_wine

ROOT = Path(__file__).parent.parent.parent
X, Y = load_wine(return_X_y=True)
# Columns of unequal variance, without ties.
X = X[:, :6] / X[:, :6].std(axis=0) * np.linspace(0.3, 3, 6)
X = X + 1e-3 * np.random.RandomState(0).normal(size=X.shape)
ROTATION = ortho_group.rvs(6, random_state=0)

# Parameters with which the learner does not depend on the axes; None if there are none.
REMEDY = {
    "DMLMJ": {"shrinkage": 0},
    "LFDA": {"shrinkage": 0},
    "KISSME": {"shrinkage": 0, "prior_share": 0},
    "RCA": {"shrinkage": 0, "prior_share": 0},
    "SDML": {"sparsity_param": 0},
    "NCMC": None,
    "SCML triplets": None,
}
FITS = {
    f"{name_of(default)} {supervision}".removesuffix(" labels"): clone(default).set_params(
        **({} if supervision == "labels" else {"supervision": supervision})
    )
    for default in linear_learners()
    for supervision in default._supervisions
}


def change_by_rotation(learner):
    """Return the largest change of a distance if X is rotated, relative to the largest."""
    before, after = (
        pdist(clone(learner).fit(*supervise(learner, points, Y)).transform(points))
        for points in (X, X @ ROTATION)
    )
    return abs(before / before.max() - after / after.max()).max()


@pytest.mark.parametrize("name", FITS)
def test_learners_that_depend_on_the_axes_are_those_of_the_table(name):
    learner = FITS[name]
    listed = next((key for key in (name, name.split()[0]) if key in REMEDY), None)
    if listed is None:
        assert change_by_rotation(learner) < 1e-6
        return
    if REMEDY[listed] is None:
        pytest.skip("depends on the axes through its random draws only")
    assert change_by_rotation(learner) > 1e-3
    assert change_by_rotation(clone(learner).set_params(**REMEDY[listed])) < 1e-6


def test_the_documentation_has_the_same_table():
    page = (ROOT / "docs" / "linear.md").read_text(encoding="utf-8")
    section = page.split("## Rotations of X")[1].split("\n## ")[0]
    listed = set(re.findall(r"`([A-Z]+)`", section))
    assert {name.split()[0] for name in REMEDY} <= listed


FIT = """

from sklearn.datasets import load_wine
from skdml import DMLEig, ITML, LMNN, NCA, NCMC, SCML
X, y = load_wine(return_X_y=True)
for kind in (DMLEig, ITML, LMNN, NCA, NCMC, SCML):
    learner = kind(random_state=0, max_iter=5) if kind is not LMNN else kind(max_iter=5)
    print(kind.__name__, learner.fit(X / X.std(axis=0), y).components_.round(6).tolist())
"""


def test_random_state_decides_the_draws_with_any_number_of_threads():
    printed = []
    for n_threads in ("1", "2"):
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), n_threads
        )
        command = [sys.executable, "-W", "ignore", "-c", FIT]
        done = subprocess.run(
            command, env=os.environ | threads, cwd=ROOT, capture_output=True, text=True, check=True
        )
        printed.append(re.findall(r"-?\d+\.\d+(?:e-?\d+)?", done.stdout))
    one, two = (np.array(numbers, dtype=float) for numbers in printed)
    assert np.allclose(one, two, rtol=1e-4, atol=1e-4)
