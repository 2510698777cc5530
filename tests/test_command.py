"""``python -m skdml`` on tables of one's own: wrong inputs, samples, progress and pictures."""

import builtins
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
from matplotlib.image import imread
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import skdml.__main__ as command
from skdml import DeepTripletEmbedder
from skdml._command import comparison, labels, picture, tables
from skdml._command.progress import Progress
from skdml._command.tables import read_table, repeats_target
from skdml._command.tasks import Task

ROOT = Path(__file__).parent.parent
GOOD = "a,b,kind\n" + "".join(f"{i % 7},{i % 5}.5,{'xyz'[i % 3]}\n" for i in range(30))


@pytest.fixture(autouse=True)
def quick_learners(monkeypatch):
    def learners(seed):
        deep = DeepTripletEmbedder(max_epochs=2, random_state=seed)
        return {"Euclid": FunctionTransformer(), "DeepTripletEmbedder": deep}

    monkeypatch.setattr(command, "learners", learners)


def table_of(rows, header="a,kind"):
    return "\n".join([header, *rows]) + "\n"


def refusal(path, capsys, *arguments, target="kind"):
    """Run the command, and return the one line with which it ends."""
    with pytest.raises(SystemExit) as end:
        command.main(["--data", str(path), "--target", target, *arguments])
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line.removeprefix("python -m skdml: error: ")


# Wrong inputs


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("", "is empty; give a table", id="empty"),
        pytest.param(
            table_of(f"1,,u,{i % 3}" for i in range(30)).replace("a", "a,b,c", 1),
            "are equal besides the target; add columns that vary",
            id="equal-rows",
        ),
        pytest.param("\n \n\n", "blank lines only; give a table", id="blank"),
        pytest.param("a,b\n1,2\n", "no column 'kind'. Its columns are 'a', 'b'.", id="unknown"),
        pytest.param("a,Kinds\n1,2\n", "Did you mean 'Kinds'?", id="close"),
        pytest.param("kind\nx\ny\n", "no column besides the target 'kind'; add", id="alone"),
        pytest.param("kind,a,kind\n1,2,3\n", "several columns 'kind'; rename", id="twice"),
        pytest.param("a,kind\n", "0 rows below its header; give", id="no-rows"),
        pytest.param("a,kind\n1,2\n1\n", "another number of cells: [3]. Complete", id="ragged"),
        pytest.param("a,kind\n1,x\n2,y\n", "labels in 'kind' are different", id="two-rows"),
        pytest.param(
            table_of(["1,x"] * 2 + ["2,y"] * 2), "have 4 rows together; give 10", id="few"
        ),
        pytest.param(table_of(["1,x"] * 30), "are the same; the target needs two", id="one-class"),
        pytest.param(table_of(["1,x"] * 30 + ["1,y"]), "Only one class in 'kind'", id="single"),
        pytest.param(table_of(["1,"] * 30), "No row has a label in 'kind'", id="unlabelled"),
        pytest.param(
            table_of(f"1,{i}" for i in range(30)), "All 30 labels in 'kind' are different", id="ids"
        ),
        pytest.param(
            table_of(f"1,{i % 9}.5" for i in range(30)), "not integers, such as 0.5", id="numbers"
        ),
        pytest.param(table_of(["1,1", "1,inf"] * 9), "not integers, such as 1", id="inf-target"),
        pytest.param(
            table_of([f"{i},{i % 2}" for i in range(30)] + ["inf,1"]),
            "holds inf in line 32; numbers must lie within ±1e+150. Leave",
            id="inf",
        ),
        pytest.param(
            table_of([f"{i},{i % 2}" for i in range(30)] + ["-2e200,1"]), "-2e+200 in", id="huge"
        ),
        pytest.param(
            table_of(["x" * 140_000 + ",1"]), "near line 2 (field larger than", id="huge-cell"
        ),
        pytest.param(
            table_of(['"1,x', "2,y"]), "Look for a quotation mark that is not closed", id="quote"
        ),
        pytest.param("a,kind\n1,é\n".encode("latin-1"), "line 2 holds the byte 0xe9", id="latin-1"),
        pytest.param(b"a,kind\n1,\xc3", "line 2 holds the byte 0xc3", id="half-a-letter"),
        pytest.param(GOOD.encode("utf-16"), "UTF-16; save it as UTF-8", id="utf-16"),
        pytest.param(GOOD.encode("utf-16-le"), "encoded as UTF-16. Save", id="utf-16-no-mark"),
        pytest.param(GOOD.encode("utf-32"), "UTF-32; save it as UTF-8", id="utf-32"),
        pytest.param(b"\x7fELF\x02\x01\0\0\0", "binary file", id="binary"),
        pytest.param(b"PK\x03\x04 and more", "export the table as CSV", id="excel"),
        pytest.param(b"\x1f\x8b\x08 and more", "unpack it first", id="gzip"),
    ],
)
def test_wrong_tables_are_refused_in_one_line(tmp_path, content, message, capsys):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    out = tmp_path / "results"
    assert message in refusal(path, capsys, "--out", str(out))
    assert not out.exists()


def test_a_missing_file_is_refused_with_close_names(tmp_path, capsys):
    (tmp_path / "Table.csv").write_text(GOOD)
    found = refusal(tmp_path / "tables.csv", capsys)
    assert found.endswith(
        "No such file: " + str(tmp_path / "tables.csv") + ". Did you mean 'Table.csv'?"
    )
    assert "No such file" in refusal(tmp_path / "none" / "t.csv", capsys)
    assert "No such file" in refusal(tmp_path / "Table.csv" / "t.csv", capsys)


def test_a_folder_or_a_device_is_refused(tmp_path, capsys):
    assert "is a folder; give a CSV file" in refusal(tmp_path, capsys)
    assert "not a regular file" in refusal("/dev/zero", capsys)


def test_an_out_that_is_no_folder_is_refused(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text(GOOD)
    for out in (path, path / "below"):
        message = refusal(path, capsys, "--out", str(out))
        assert f"--out {out} cannot be used as a folder" in message
        assert message.endswith("give another one.")
    assert path.read_text() == GOOD


def test_a_line_break_in_a_name_does_not_break_the_line(tmp_path, capsys):
    (tmp_path / "t.csv").write_text('"a\nb",kind\n1,2\n')
    assert "no column 'c\\nd'. Its columns are 'a\\nb', 'kind'." in refusal(
        tmp_path / "t.csv", capsys, target="c\nd"
    )


@pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--seed", "x"], ["--what"], ["--data"]])
def test_wrong_arguments_are_refused_in_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_file_that_cannot_be_written_ends_in_one_line(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(GOOD)
    (tmp_path / "model.joblib").mkdir()
    with pytest.raises(SystemExit) as end:
        command.main(
            ["--data", str(tmp_path / "t.csv"), "--target", "kind", "--out", str(tmp_path)]
        )
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("has room.")


# Tables that are read


def write(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    return tmp_path / "t.csv"


def test_blank_lines_are_skipped(tmp_path):
    blank = GOOD.replace("\n", "\n\n   \n")
    assert (
        read_table(write(tmp_path, "\n" + blank), "kind").X
        == read_table(write(tmp_path, GOOD), "kind").X
    ).all()


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_are_found(tmp_path, separator):
    table = GOOD.replace("a,b,kind", '"a","b","kind"').replace(",", separator)
    found = read_table(write(tmp_path, table), "kind")
    assert found.X.shape == (30, 2)
    assert found.X.dtype == float


def test_white_space_around_cells_does_not_count(tmp_path):
    found = read_table(
        write(tmp_path, table_of(["1, x", " 2 ,x ", "3,y", "4,y"] * 5, " a, kind ")), "kind"
    )
    assert found.X.dtype == float
    assert set(found.y) == {"x", "y"}


def test_a_quoted_cell_may_hold_separators_and_line_breaks(tmp_path):
    found = read_table(write(tmp_path, table_of(['"1, ""\n2""",x', "3,y"] * 5)), "kind")
    assert found.X[0, 0] == '1, "\n2"'


def test_rows_without_label_and_single_rows_are_left_out(tmp_path):
    found = read_table(write(tmp_path, GOOD + "1,2,\n1,2,NA\n1,2,w\n"), "kind")
    assert set(found.y) == {"x", "y", "z"}
    assert found.notes[:2] == [
        "Rows without a label in 'kind' are left out: 2.",
        "Classes with a single row are left out: 1.",
    ]


READERS = [tables._convert_by_pandas, tables._convert_by_polars, tables._convert_by_numpy]


@pytest.mark.parametrize("convert", READERS)
def test_every_reader_finds_the_same_columns(convert):
    cells = [
        ["1", "a", "", "NA", "True", "0x1", "inf", "12345678901234567890123"],
        ["-2.5e1", "?", "?", "3", "False", "2", "-inf", "1"],
    ]
    nan, inf = np.nan, np.inf
    expected = [
        np.array([1.0, -25.0]),
        np.array(["a", ""], dtype=object),
        np.array([nan, nan]),
        np.array([nan, 3.0]),
        np.array(["True", "False"], dtype=object),
        np.array(["0x1", "2"], dtype=object),
        np.array([inf, -inf]),
        np.array([12345678901234567890123.0, 1.0]),
    ]
    for found, right in zip(convert(cells), expected, strict=True):
        assert found.dtype == right.dtype
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize(
    ("missing", "used"),
    [((), 0), (("pandas",), 1), (("polars",), 0), (("pandas", "polars"), 2)],
)
def test_tables_are_read_with_what_is_installed(monkeypatch, missing, used):
    usual_import = builtins.__import__

    def import_or_fail(name, *args, **kwargs):
        if name in missing:
            raise ModuleNotFoundError(name=name)
        return usual_import(name, *args, **kwargs)

    calls = []
    for reader in READERS:

        def convert(cells, reader=reader):
            found = reader(cells)
            calls.append(reader)
            return found

        monkeypatch.setattr(tables, reader.__name__, convert)
    monkeypatch.setattr(builtins, "__import__", import_or_fail)
    tables._convert([["1", "a"]])
    assert calls == [READERS[used]]


# Columns that repeat the target


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["a", "b", "c", "c"], True),
        (["No", "yes", "maybe", "MAYBE"], True),
        ([3.0, 1.0, 2.0, 2.0], True),
        ([3.0, np.nan, 2.0, 2.0], False),  # the class "y" does not appear
        ([3.0, 1.0, 2.0, np.nan], True),
        ([3.0, 1.0, 2.0, 4.0], False),  # one class has two values
        ([3.0, 1.0, 1.0, 1.0], False),  # one value has two classes
        ([1.0, 1.0, 1.0, 1.0], False),
        ([np.nan] * 4, False),
        (["", "", "", ""], False),
    ],
)
def test_a_column_that_repeats_the_target_is_found(column, expected):
    column = np.array(column, dtype=object if isinstance(column[0], str) else float)
    assert repeats_target(column, np.array(["x", "y", "z", "z"])) is expected


def test_a_column_that_repeats_the_target_is_named(tmp_path, capsys):
    names = {"x": "left", "y": "right", "z": "straight"}
    rows = [f"{line},{names[line[-1]]}" for line in GOOD.splitlines()[1:]]
    path = write(tmp_path, table_of(rows, "a,b,kind,way"))
    command.main(["--data", str(path), "--target", "kind", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    (warning,) = [line for line in printed.splitlines() if line.startswith("Warning")]
    assert "these columns repeat the target 'kind': 'way'. " in warning


# Samples of large tables


def test_a_large_table_is_sampled_and_the_output_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "MAX_ROWS", 300)
    rng = np.random.default_rng(0)
    kinds = rng.permutation(["often"] * 1500 + ["seldom"] * 480 + ["rare"] * 20)
    path = write(tmp_path, table_of(f"{i},{kind}" for i, kind in enumerate(kinds)))
    found = read_table(path, "kind")
    assert dict(zip(*np.unique(found.y, return_counts=True), strict=True)) == {
        "often": 225,
        "seldom": 72,
        "rare": 10,  # a share of 3, but at least ten
    }
    assert (found.y == kinds[found.X[:, 0].astype(int)]).all()
    assert "307 of 2000 rows are drawn at random, and at least 10 of each class" in found.notes[0]
    assert (read_table(path, "kind", seed=1).X != read_table(path, "kind", seed=2).X).any()
    assert (read_table(path, "kind", seed=1).X == read_table(path, "kind", seed=1).X).all()


def test_many_classes_are_sampled(monkeypatch):
    monkeypatch.setattr(labels, "MAX_CLASSES", 7)
    codes = np.arange(60) % 20
    choice = labels.choose_rows("kind", [f"k{i}" for i in range(20)], codes, 3, 0)
    assert len(np.unique(codes[choice.is_chosen])) == 7
    assert choice.is_chosen.sum() == 21
    assert choice.notes == ["7 of 20 classes are drawn at random."]


def test_a_wide_table_is_sampled_by_its_cells(monkeypatch):
    monkeypatch.setattr(labels, "MAX_CELLS", 400_000)
    codes = np.arange(1000) % 2
    choice = labels.choose_rows("kind", ["x", "y"], codes, 1000, 0)
    assert choice.is_chosen.sum() == 400


# Progress


def test_time_left_follows_from_the_work_that_is_done(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress()
    progress.begin("reading")
    now[0] = 3
    assert progress.line() == "  reading: 3 s passed"
    progress.plan(100)
    progress.begin("one", 60)
    now[0] = 13
    progress.work(20)
    assert progress.line() == "  one: 13 s passed, 20%, about 40 s left"
    progress.end()  # 40 were planned and not needed
    assert (progress.done, progress.total) == (20, 60)
    progress.begin("two", 30)
    progress.work(40)  # more than planned
    progress.end()
    assert (progress.done, progress.total) == (60, 70)
    progress.begin("drawing", 10)
    progress.end()
    assert progress.line() == "  drawing: 13 s passed"  # nothing planned is left


def test_a_run_counts_the_work_that_it_planned(capsys):
    X, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 6
    task = Task("points", X, y, StandardScaler())
    splits = comparison.Splits.of(task, 0)
    learner = DeepTripletEmbedder(max_epochs=3, early_stopping=False)
    with Progress() as progress:
        progress.plan(comparison.planned_work(learner, splits))
        results = comparison.compare(task, splits, {"d": learner}, progress)
    # 42 rows are trained on, then 30 rows of three classes, in 3 epochs. Scores count as 5 epochs.
    assert progress.done == progress.total == (3 + 5) * 42 + (3 + 5) * 30
    for name in ("rows", "unseen"):
        embedder = results["d"][name][0][-1] if name == "rows" else results["d"][name][-1]
        assert embedder.callbacks is None
        assert "CountEpochs" not in str(embedder.net_.callbacks_) + str(embedder.net_.callbacks)


def test_counting_epochs_does_not_change_what_is_learned():
    X, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 6
    usual, counted = (DeepTripletEmbedder(max_epochs=3, random_state=0) for _ in range(2))
    progress = Progress()
    with comparison.counted_epochs(counted, progress, 1):
        counted.fit(X, y)
    assert 3 <= progress.done <= 6
    np.testing.assert_allclose(counted.transform(X), usual.fit(X, y).transform(X), rtol=1e-5)


def test_lines_show_that_the_command_works(capsys):
    with Progress(seconds_per_line=0.02) as progress:
        progress.begin("reading")
        deadline = time.monotonic() + 20
        seen = ""
        while "reading: " not in seen and time.monotonic() < deadline:
            time.sleep(0.01)
            seen += capsys.readouterr().err
    assert "reading: " in seen


def test_a_bar_is_drawn_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress() as progress:
        progress.plan(10)
        progress.begin("half")
        progress.work(5)
        deadline = time.monotonic() + 20
        seen = ""
        while "half  50%|" not in seen and time.monotonic() < deadline:
            time.sleep(0.01)
            seen += capsys.readouterr().err
        progress.print("a table")
    assert "half  50%|" in seen
    assert "left" in seen
    assert capsys.readouterr().out == "a table\n"


# Pictures


@pytest.mark.parametrize("n_classes", [2, 3, 4, 12])
def test_every_run_writes_a_picture(tmp_path, n_classes, capsys):
    rng = np.random.default_rng(0)
    rows = [
        f"{rng.normal(i % n_classes):.3f},{rng.normal():.3f},k{i % n_classes}" for i in range(60)
    ]
    path = write(tmp_path, table_of(rows, "a,b,kind"))
    command.main(["--data", str(path), "--target", "kind", "--out", str(tmp_path / "out")])
    (image,) = (tmp_path / "out").glob("*.png")
    assert image.name == ("unseen.png" if n_classes >= 4 else "rows.png")
    assert str(image) in capsys.readouterr().out
    assert imread(image).std() > 0.05


@pytest.mark.parametrize("n_points", [3, 9, 10, 40])
@pytest.mark.parametrize("n_components", [1, 2, 3, 50])
def test_few_points_and_few_dimensions_are_drawn(tmp_path, n_points, n_components):
    Z = np.random.default_rng(0).normal(size=(n_points, n_components))
    y = np.array(["_a", "$x$", "b" * 90])[np.arange(n_points) % 3]
    for points in (Z, np.ones_like(Z)):
        assert np.isfinite(picture.flatten(points)).all()
        assert picture.flatten(points).shape == (n_points, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            picture.draw(tmp_path / "p.png", {"Euclid": FunctionTransformer()}, (points, y), "rows")
    assert imread(tmp_path / "p.png").std() > 0.02


# A learner that fails


def test_a_learner_that_fails_does_not_lose_the_rest(tmp_path, monkeypatch, capsys):
    class Fails(FunctionTransformer):
        def fit(self, X, y=None):
            warnings.warn("about to\nfail")
            raise ValueError("no\nway")

    learners = {"Euclid": FunctionTransformer(), "Fails": Fails()}
    monkeypatch.setattr(command, "learners", lambda seed: learners)
    path = write(tmp_path, GOOD)
    command.main(["--data", str(path), "--target", "kind", "--out", str(tmp_path)])
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "Fails is left out, because it failed: no way",
        "Fails warns: about to fail",
    ]
    assert re.search(r"^\| Euclid ", printed.out, flags=re.MULTILINE)
    assert "best model (Euclid" in printed.out
    assert joblib.load(tmp_path / "model.joblib").score([[1, 0.5]], ["x"]) in (0, 1)


def test_a_wrong_input_ends_a_process_without_traceback(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "skdml", "--data", "t.csv", "--target", "größe"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "python -m skdml: error: No such file: t.csv.\n"
