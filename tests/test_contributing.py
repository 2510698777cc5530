"""CONTRIBUTING.md: its example of a new loss works as written, and its paths exist."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
CREATED = re.findall(r"Create `([^`]+)`", TEXT)  # the file of the loss and the file of its tests
TRAIN = """
import numpy as np
from skdml import DeepEmbedder
from skdml.deep.losses import ExponentialLoss

rng = np.random.default_rng(0)
y = np.repeat(np.arange(6), 12)
X = rng.normal(size=(len(y), 4)) + 3 * rng.normal(size=(6, 4))[y]
for loss in ("exponential", ExponentialLoss):
    learner = DeepEmbedder(loss=loss, loss__scale=0.5, max_epochs=1, random_state=0).fit(X, y)
    assert type(learner.net_.criterion_) is ExponentialLoss
    assert learner.net_.criterion_.scale == 0.5
    assert np.isfinite(learner.history_["loss"]).all()
    assert np.isfinite(learner.transform(X)).all()
"""


def code_block(name):
    """Return the code block after the comment with this name."""
    (code,) = re.findall(rf"<!-- {name} -->\n```python\n(.*?)```", TEXT, flags=re.DOTALL)
    return code


def insert_after(path, line, new):
    """Insert lines after the first line of a file that equals `line`."""
    before, found, after = path.read_text().partition(f"\n{line}\n")
    assert found, f"{path.name} has no line {line!r}"
    path.write_text(f"{before}{found}{new}\n{after}")


@pytest.fixture(scope="module")
def copy_with_loss(tmp_path_factory):
    """Copy the package and the common tests of losses, and add the loss of the example."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "skdml", folder / "skdml", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests/deep/losses").mkdir(parents=True)
    common = "tests/deep/losses/test_common.py"
    for name in ("setup.cfg", "tests/conftest.py", "tests/helpers.py", common):
        shutil.copy(ROOT / name, folder / name)
    for name, block in zip(CREATED, ("loss", "test"), strict=True):
        (folder / name).write_text(code_block(block))
    losses = folder / "skdml/deep/losses/__init__.py"
    insert_after(losses, "LOSSES: dict[str, type] = {", code_block("entry"))
    insert_after(losses, "__all__ = [", '"ExponentialLoss",')
    module = Path(CREATED[0]).stem
    first_import = "from skdml.deep.losses.angular import AngularLoss"
    insert_after(losses, first_import, f"from skdml.deep.losses.{module} import ExponentialLoss")
    (entry,) = re.findall(r"Add `([^`]+)` to `PARAMETERS`", TEXT)
    insert_after(folder / common, "PARAMETERS = {", f"{entry},")
    return folder


def run(folder, *arguments):
    """Run Python in a folder. Return the end of its output, and whether it succeeded."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    return (done.stdout + done.stderr)[-3000:], done.returncode == 0


def test_new_loss_passes_its_own_and_the_common_tests(copy_with_loss):
    # The module with the docstring comes last. If it came first, pytest would import it twice.
    files = ["tests/deep/losses/test_common.py", *reversed(CREATED)]
    printed, passed = run(copy_with_loss, "-m", "pytest", "-q", "-k", "xponential", *files)
    assert passed, printed
    assert int(re.search(r"(\d+) passed", printed)[1]) > 20


def test_learners_train_with_the_new_loss(copy_with_loss):
    printed, succeeded = run(copy_with_loss, "-c", TRAIN)
    assert succeeded, printed


def test_named_paths_exist():
    paths = re.findall(r"`((?:skdml|tests|benchmarks|docs|\.ci)/[^`\s]*)`", TEXT)
    assert len(paths) > 20
    assert not [path for path in paths if path not in CREATED and not (ROOT / path).exists()]
    assert not [path for path in CREATED if (ROOT / path).exists()]


def test_commands_name_the_tools_of_the_gate():
    (commands,) = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
    assert "-c constraints.txt" in commands
    for tool in ("pytest", "ruff check", "ruff format", "mypy"):
        assert tool in commands
