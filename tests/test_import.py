"""Importing skdml costs no torch, and where torch is missing the linear part still works."""

import subprocess
import sys

import skdml


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_import_leaves_torch_alone():
    done = run(
        "import sys, skdml; from skdml import MahalanobisMetric; "
        "assert 'torch' not in sys.modules and 'skorch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_without_torch_linear_works_and_deep_says_what_to_install():
    done = run(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import numpy as np, skdml\n"
        "skdml.MahalanobisMetric().fit(np.random.default_rng(0).normal(size=(9, 2)))\n"
        "try: skdml.DeepTripletEmbedder\n"
        "except ImportError as error: print(error)\n"
    )
    assert "pip install torch skorch" in done.stdout, done.stderr


def test_all_names_are_there():
    for name in skdml.__all__:
        assert getattr(skdml, name) is not None
    assert set(skdml.__all__) <= set(dir(skdml))
