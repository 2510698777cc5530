"""The README's and the guide's Python runs as it stands, and their commands name what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/guide.md", "docs/kernels.md", "docs/linear.md"]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page, capsys):
    code = blocks(page, "python")
    assert code
    names = {}
    for block in code:
        exec(compile(block, page, "exec"), names)
    assert capsys.readouterr().out


def test_readme_has_one_command_for_the_demonstration_and_one_for_the_tests():
    demonstration, tests = blocks("README.md", "bash")
    assert demonstration.strip().endswith("python -m skdml")
    assert tests.strip().endswith("python -m pytest -n auto")
    for command in (demonstration, tests):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install")
        assert command.count("\n") == 1


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "docs/measurements.md"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert not missing
