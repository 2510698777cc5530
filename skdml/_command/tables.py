"""Read a table of one's own: points, labels, and the preprocessing that the columns need."""

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skdml._command.labels import MISSING, choose_rows
from skdml._command.text import check_file, find_header, list_some, read_rows

# The square of a larger number, summed over all rows, may not be finite.
_LARGEST = 1e150


@dataclass
class Table:
    """A table that was read.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        The columns without the target: float64, or object if some columns hold text. A missing
        number is NaN and a missing text is empty.
    y : ndarray of str, shape (n_samples,)
        Class labels.
    preprocessor : ColumnTransformer
        Imputes and standardises columns of numbers, and one-hot encodes columns of text.
    notes : list of str
        What was left out, and which columns repeat the target. One sentence each.
    """

    X: NDArray[Any]
    y: NDArray[Any]
    preprocessor: ColumnTransformer
    notes: list[str] = field(default_factory=list)


def read_table(path: str | Path, target: str, seed: int = 0) -> Table:
    """Read a table of text with a header, and sample it if it is large.

    The file is read twice, row by row, so that its size does not decide how much memory is needed.
    The first pass checks all rows and chooses those to use. The second pass keeps these. pandas or
    polars converts their cells if one of them is installed, else numpy.

    Parameters
    ----------
    path : str or Path
        The file, encoded as UTF-8. Cells are separated by commas, semicolons, tabs or vertical
        bars.
    target : str
        Name of the column of class labels.
    seed : int, default=0
        Seed of the sample.

    Returns
    -------
    Table
        Points, labels and preprocessor.

    Raises
    ------
    ValueError
        If the file is no such table, or its target has no classes to learn from. The message says
        what to do.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    check_file(path)
    separator, header = find_header(path, target)
    place = header.index(target)
    labels, codes = _read_labels(path, separator, header, place)
    choice = choose_rows(target, labels, codes, len(header), seed)
    lines, cells = _read_chosen(path, separator, choice.is_chosen)
    y = np.array([row.pop(place) for row in cells])
    names = [name for column, name in enumerate(header) if column != place]
    columns = _convert(cells)
    _check_numbers(path, names, columns, lines)
    if all(len(np.unique(column)) == 1 for column in columns):
        raise ValueError(f"All rows of {path} are equal besides the target; add columns that vary.")
    repeats = [name for name, c in zip(names, columns, strict=True) if repeats_target(c, y)]
    if repeats:
        choice.notes.append(
            f"Warning: these columns repeat the target {target!r}: {list_some(repeats)}. Each of "
            "their values stands for one class. Remove them, or the scores mean nothing."
        )
    return Table(_stack(columns), y, _preprocessor(columns), choice.notes)


def _read_labels(
    path: Path, separator: str, header: list[str], place: int
) -> tuple[list[str], NDArray[np.integer]]:
    """Check the number of cells of all rows. Return the different labels, and those of the rows."""
    labels: dict[str, int] = {}
    codes = array("q")
    ragged = []
    rows = read_rows(path, separator)
    next(rows)
    for line, row in rows:
        if len(row) == len(header):
            codes.append(labels.setdefault(row[place].strip(), len(labels)))
        else:
            ragged.append(line)
    if ragged:
        shown = f"{ragged[:5]}" + (f" and {len(ragged) - 5} more" if len(ragged) > 5 else "")
        raise ValueError(
            f"{path} has {len(header)} columns; lines with another number of cells: {shown}. "
            "Complete these lines, and put cells that hold the separator in quotation marks."
        )
    if not codes:
        raise ValueError(f"{path} has 0 rows below its header; give a table with rows.")
    return list(labels), np.frombuffer(codes, dtype=np.int64)


def _read_chosen(
    path: Path, separator: str, is_chosen: NDArray[np.bool_]
) -> tuple[list[int], list[list[str]]]:
    """Return the chosen rows: their line numbers, and their cells without white space around."""
    rows = read_rows(path, separator)
    next(rows)
    chosen = [row for row, kept in zip(rows, is_chosen.tolist(), strict=False) if kept]
    return [line for line, _ in chosen], [[cell.strip() for cell in row] for _, row in chosen]


def _convert(cells: list[list[str]]) -> list[NDArray[Any]]:
    """Return the columns: float64 where all cells are numbers or missing, else str objects."""
    for convert in (_convert_by_pandas, _convert_by_polars):
        try:
            return convert(cells)
        except ModuleNotFoundError:
            continue
    return _convert_by_numpy(cells)


def _convert_by_pandas(cells: list[list[str]]) -> list[NDArray[Any]]:
    import pandas as pd

    frame = pd.DataFrame(cells, dtype=object)
    columns = []
    for name in frame:
        column = frame[name].where(~frame[name].isin(MISSING), None)
        numbers = pd.to_numeric(column, errors="coerce")
        if (numbers.isna() == column.isna()).all():
            columns.append(numbers.to_numpy(dtype=float, na_value=np.nan))
        else:
            columns.append(column.fillna("").to_numpy(dtype=object))
    return columns


def _convert_by_polars(cells: list[list[str]]) -> list[NDArray[Any]]:
    import polars as pl

    columns = []
    for values in zip(*cells, strict=True):
        column = pl.Series(values, dtype=pl.String)
        column = column.set(column.is_in(MISSING), None)
        numbers = column.cast(pl.Float64, strict=False)
        if numbers.null_count() == column.null_count():
            columns.append(numbers.fill_null(np.nan).to_numpy())
        else:
            columns.append(np.array(column.fill_null("").to_list(), dtype=object))
    return columns


def _convert_by_numpy(cells: list[list[str]]) -> list[NDArray[Any]]:
    columns = []
    for values in zip(*cells, strict=True):
        column = np.array(["" if cell in MISSING else cell for cell in values], dtype=object)
        try:
            columns.append(np.where(column == "", "nan", column).astype(float))
        except ValueError:
            columns.append(column)
    return columns


def _check_numbers(
    path: Path, names: list[str], columns: list[NDArray[Any]], lines: list[int]
) -> None:
    for name, column in zip(names, columns, strict=True):
        if column.dtype != float:
            continue
        too_large = np.abs(column) > _LARGEST  # False for missing numbers
        if too_large.any():
            row = int(too_large.argmax())
            raise ValueError(
                f"Column {name!r} of {path} holds {column[row]:g} in line {lines[row]}; numbers "
                f"must lie within ±{_LARGEST:g}. Leave the cell empty if its value is not known."
            )


def repeats_target(column: NDArray[Any], y: NDArray[Any]) -> bool:
    """Whether each value of a column belongs to one class, and each class to one value.

    Such a column is a copy of the target, an encoding of it, or its classes under other names.
    Upper and lower case are not distinguished, and rows in which the column is empty do not count.
    Each class must appear in the other rows.

    Examples
    --------
    >>> import numpy as np
    >>> from skdml._command.tables import repeats_target
    >>> repeats_target(np.array([1.0, 1.0, 0.0, np.nan]), np.array(["yes", "yes", "no", "no"]))
    True
    """
    if column.dtype == float:
        is_given = ~np.isnan(column)
    else:
        column = np.array([cell.casefold() for cell in column])
        is_given = column != ""
    _, values = np.unique(column[is_given], return_inverse=True)
    classes, of_rows = np.unique(y[is_given], return_inverse=True)
    n_pairs = len(np.unique(values * len(classes) + of_rows))
    return n_pairs == len(np.unique(values)) == len(np.unique(y))


def _stack(columns: list[NDArray[Any]]) -> NDArray[Any]:
    """Return columns as one array: float64 if all are numbers, else object."""
    all_numbers = all(column.dtype == float for column in columns)
    return np.stack([c if all_numbers else c.astype(object) for c in columns], axis=1)


def _preprocessor(columns: list[NDArray[Any]]) -> ColumnTransformer:
    numbers = [i for i, column in enumerate(columns) if column.dtype == float]
    texts = [i for i, column in enumerate(columns) if column.dtype != float]
    scale = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False, max_categories=20)
    return ColumnTransformer([("n", scale, numbers), ("s", encode, texts)])
