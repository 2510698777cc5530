"""The Python on the pages runs as it stands, the README's commands exist, and every link works."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/guide.md", "docs/kernels.md", "docs/linear.md"]
OTHER_PAGES = [
    "CONTRIBUTING.md",
    "docs/quality.md",
    "benchmarks/README.md",
    "benchmarks/notebook.md",
]


def code_blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def heading_anchors(path):
    """Return the anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page, capsys):
    code = code_blocks(page, "python")
    assert code
    names = {}
    for block in code:
        exec(compile(block, page, "exec"), names)
    assert capsys.readouterr().out


def test_readme_has_one_command_for_the_demonstration_and_one_for_the_tests():
    demonstration, tests = code_blocks("README.md", "bash")
    assert demonstration.strip().endswith("python -m skdml")
    assert tests.strip().endswith("python -m pytest -n auto")
    for command in (demonstration, tests):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install")
        assert command.count("\n") == 1


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES])
def test_links_lead_to_existing_files(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES])
def test_anchors_lead_to_existing_headings(page):
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", (ROOT / page).read_text())
    targets = [
        ((ROOT / page).parent / file if file else ROOT / page, anchor) for file, anchor in links
    ]
    missing = [anchor for path, anchor in targets if anchor not in heading_anchors(path)]
    assert not missing
