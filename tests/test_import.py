"""What importing skdml loads, what works without torch, and which part may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import skdml

PACKAGE = Path(skdml.__file__).parent
WITHOUT_TORCH = [
    "skdml.base",
    "skdml.constraints",
    "skdml.distances",
    "skdml.gallery",
    "skdml.linear",
    "skdml.metrics",
    "skdml.model_selection",
    "skdml.plotting",
    "skdml.preprocessing",
    "skdml.verification",
]
HIDE_TORCH = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_import_does_not_load_torch():
    done = run(
        "import sys, skdml; from skdml import MahalanobisMetric; "
        "assert 'torch' not in sys.modules and 'skorch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_modules_outside_deep_do_not_load_torch():
    done = run(
        f"import sys, importlib\nfor name in {WITHOUT_TORCH}: importlib.import_module(name)\n"
        "assert 'torch' not in sys.modules and 'skorch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_without_torch_linear_works_and_deep_says_what_to_install():
    done = run(
        HIDE_TORCH + "import numpy as np, skdml\n"
        "skdml.MahalanobisMetric().fit(np.random.default_rng(0).normal(size=(9, 2)))\n"
        "try: skdml.DeepTripletEmbedder\n"
        "except ImportError as error: print(error)\n"
    )
    assert "pip install torch skorch" in done.stdout, done.stderr


def test_all_public_names_exist():
    for name in skdml.__all__:
        assert getattr(skdml, name) is not None
    assert set(skdml.__all__) <= set(dir(skdml))


def imported_modules(path):
    """Return the modules that a file imports at run time; `if TYPE_CHECKING:` is left out."""
    modules, nodes = set(), [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes += node.orelse
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        else:
            nodes += ast.iter_child_nodes(node)
    return modules


@pytest.mark.parametrize(
    ("importer", "imported"),
    [("linear", "torch"), ("linear", "skorch"), ("linear", "skdml.deep"), ("deep", "skdml.linear")],
)
def test_no_import_from(importer, imported):
    files = sorted((PACKAGE / importer).rglob("*.py"))
    assert files
    found = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in files
        for name in imported_modules(path)
        if f"{name}.".startswith(f"{imported}.")
    ]
    assert not found
