"""The project's files agree with each other: versions, floors, tools, links."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import skdml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOOLS = {"ruff", "mypy"}  # they check the newest versions only
PAGES = [*ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md")]


def declared():
    """Return all requirements in pyproject.toml, by name, those on skdml itself left out."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]
    requirements = {r.name: r for r in map(Requirement, lines)}
    return {name: r for name, r in requirements.items() if name != "skdml"}


def only_version(requirement, operator):
    """Return the version of a requirement that consists of one comparison with this operator."""
    (comparison,) = requirement.specifier
    assert comparison.operator == operator, f"{requirement} must read {requirement.name}{operator}"
    assert requirement.marker is None
    return Version(comparison.version)


def pins(name):
    """Return the versions that a constraints file pins."""
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    requirements = map(Requirement, filter(None, lines))
    return {r.name: only_version(r, "==") for r in requirements}


def find(pattern, name):
    """Return what the one match of a pattern in a file captures."""
    (found,) = set(re.findall(pattern, (ROOT / name).read_text(), flags=re.MULTILINE))
    return found


def test_floors_are_the_oldest_tested_versions():
    tested = pins("constraints-oldest.txt") | {
        name: pins("constraints.txt")[name] for name in TOOLS
    }
    floors = {name: only_version(r, ">=") for name, r in declared().items()}
    assert floors == {name: tested[name] for name in floors}


def test_newest_tested_versions_of_all_requirements_are_pinned():
    newest, oldest = pins("constraints.txt"), pins("constraints-oldest.txt")
    assert set(declared()) <= set(newest)
    assert all(newest[name] >= version for name, version in oldest.items() if name in newest)


def test_python_floor_is_the_same_everywhere():
    floor = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert PROJECT["tool"]["mypy"]["python_version"] == floor
    assert find(r'^target-version = "py(\d)', "ruff.toml") == floor[0]
    assert find(r'^target-version = "py\d(\d+)"', "ruff.toml") == floor.split(".")[1]
    assert find(r'python-version: "(.*)"', ".github/workflows/ci.yml") == floor
    for page in ("README.md", "CONTRIBUTING.md"):
        assert find(r"Python (3\.\d+) or newer", page) == floor


def test_pre_commit_runs_the_ruff_of_the_gate():
    version = find(r"additional_dependencies: \[ruff==(.*)\]", ".pre-commit-config.yaml")
    assert Version(version) == pins("constraints.txt")["ruff"]


def test_citation_names_the_version():
    assert find(r"^version: (.*)$", "CITATION.cff") == skdml.__version__


def test_package_says_that_it_is_typed():
    assert (Path(skdml.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("name", ["run", "long"])
def test_scripts_parse_and_a_workflow_runs_them(name):
    script = ROOT / ".ci" / name
    subprocess.run(["bash", "-n", script], check=True)
    workflows = (ROOT / ".github/workflows").glob("*.yml")
    assert sum(f"run: .ci/{name}\n" in path.read_text() for path in workflows) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]
