"""The command ``python -m skdml``: compare learned distances with the Euclidean distance."""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import joblib
import numpy as np

from skdml._command.comparison import (
    N_NEIGHBORS,
    Result,
    Splits,
    best_of,
    compare,
    learners,
    planned_work,
)
from skdml._command.picture import draw
from skdml._command.progress import Progress, one_line
from skdml._command.report import format_results
from skdml._command.tables import read_table
from skdml._command.tasks import Task, demonstration, digits_in_uneven_light

__all__ = ["digits_in_uneven_light", "main"]  # the examples use the digits


class _Parser(argparse.ArgumentParser):
    """A parser that ends with one line for each wrong input, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 2**32:
        raise ValueError
    return seed


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m skdml",
        description="Compare learned distances with the Euclidean distance. Held-out rows are "
        "scored by k-NN accuracy and by the AMI of k-means clusters. Classes that are unseen in "
        "training are scored by recall@1, MAP@R, and verification (AUC and equal error rate). "
        "Without --data, the data are scikit-learn's digits, and the same digits, rotated and with "
        "a gradient of light. Writes a plot and the best model to a folder. A large table is "
        "sampled; the output says so.",
    )
    parser.add_argument("--data", metavar="FILE.csv", help="a table of your own, with a header")
    parser.add_argument("--target", metavar="COLUMN", help="the column of class labels in --data")
    parser.add_argument("--out", metavar="FOLDER", default="skdml-demo", help="default: skdml-demo")
    parser.add_argument(
        "--seed", type=_seed, default=0, help="seed of all random draws, from 0; default: 0"
    )
    return parser


def _read_tasks(args: argparse.Namespace, progress: Progress) -> list[Task]:
    """Return what to compare the learners on. Say what was left out of a table."""
    if args.data is None:
        return demonstration(args.seed)
    progress.begin(f"reading {args.data}")
    table = read_table(args.data, args.target, args.seed)
    for note in table.notes:
        progress.print(one_line(note))
    return [Task(Path(args.data).name, table.X, table.y, table.preprocessor)]


def _make_folder(out: Path) -> None:
    """Make the folder for the results, and check that files can be written to it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ValueError(
            f"--out {out} cannot be used as a folder ({error.strerror}); give another one."
        ) from None


def _title(task: Task, splits: Splits) -> str:
    title = f"{task.name}: {len(task.X)} rows, {len(np.unique(task.y))} classes"
    if splits.unseen is None:
        return f"{title} (too few classes to leave any unseen)"
    return f"{title}, {len(np.unique(splits.unseen[1]))} of them unseen in the last columns"


def _write(out: Path, results: dict[str, Result], splits: Splits, progress: Progress) -> None:
    """Write the best model, and a picture of unseen classes, or else of held-out rows."""
    best = best_of(results)
    joblib.dump(results[best]["rows"], out / "model.joblib")
    progress.print(f"best model ({best} with {N_NEIGHBORS}-NN, fitted): {out / 'model.joblib'}")
    names = dict.fromkeys(["Euclid", best])
    if splits.unseen is not None:
        path, points, what = out / "unseen.png", splits.unseen, "unseen classes"
        embeddings = {name: results[name]["unseen"] for name in names}
    else:
        path, points, what = out / "rows.png", splits.test, "held-out rows"
        embeddings = {name: results[name]["rows"][:-1] for name in names}
    progress.begin("drawing")
    try:
        draw(path, embeddings, points, what)
        progress.print(f"plot of the {what}: {path}")
    except ModuleNotFoundError as error:
        progress.print(f"no plot: {error.name} is not installed (pip install matplotlib)")


def _prepare(args: argparse.Namespace, progress: Progress) -> tuple[list[Task], list[Splits], Path]:
    """Return the tasks, their splits, and the folder for the results."""
    tasks = _read_tasks(args, progress)
    out = Path(args.out)
    _make_folder(out)
    return tasks, [Splits.of(task, args.seed) for task in tasks], out


def _run(tasks: list[Task], splits: list[Splits], out: Path, seed: int, progress: Progress) -> None:
    """Compare the learners, print their scores, and write a model and a picture."""
    start = time.perf_counter()
    candidates = learners(seed)
    progress.plan(sum(planned_work(c, s) for s in splits for c in candidates.values()))
    for task, split in zip(tasks, splits, strict=True):
        results = compare(task, split, candidates, progress)
        progress.print(f"\n{format_results(_title(task, split), results)}\n")
    _write(out, results, splits[-1], progress)
    progress.print(f"{time.perf_counter() - start:.0f} s")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command. See ``python -m skdml --help``."""
    parser = _parser()
    args = parser.parse_args(argv)
    if (args.data is None) != (args.target is None):
        parser.error("--data and --target come together: give both or neither")
    with contextlib.suppress(AttributeError):  # a stream that was replaced
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        with Progress() as progress:
            try:
                tasks, splits, out = _prepare(args, progress)
            except ValueError as error:  # later ones are faults of the package
                parser.error(str(error))
            _run(tasks, splits, out, args.seed, progress)
    except OSError as error:
        parser.error(
            f"{error}. Check that this can be read or written, and that the disk has room."
        )
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: stopped\n")


if __name__ == "__main__":
    main()
