"""Check that a file is a text table, and read its rows. Each error says what to do."""

import codecs
import contextlib
import csv
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

SEPARATORS = (",", ";", "\t", "|")

# The first bytes of files that are no tables of text, and what to do with them.
_STARTS = {
    codecs.BOM_UTF32_LE: "is encoded as UTF-32; save it as UTF-8",
    codecs.BOM_UTF16_LE: "is encoded as UTF-16; save it as UTF-8",
    codecs.BOM_UTF16_BE: "is encoded as UTF-16; save it as UTF-8",
    b"PK\x03\x04": "is an Excel or zip file; export the table as CSV",
    b"\xd0\xcf\x11\xe0": "is an Excel file; export the table as CSV",
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"BZh": "is compressed with bzip2; unpack it first",
    b"\xfd7zXZ": "is compressed with xz; unpack it first",
    b"PAR1": "is a Parquet file; export the table as CSV",
}


def check_file(path: Path) -> None:
    """Check that a path leads to a file of UTF-8 text.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    ValueError
        If there is no such file, or it is a folder, empty, binary, or not encoded as UTF-8.
    OSError
        If the file cannot be read.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a CSV file.")
    if not path.exists():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ValueError(f"No such file: {path}.{_did_you_mean(path.name, names)}")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file; write the table to a file first.")
    with open(path, "rb") as file:
        start = file.read(8)
    if not start:
        raise ValueError(f"{path} is empty; give a table with a header and rows.")
    for magic, advice in _STARTS.items():
        if start.startswith(magic):
            raise ValueError(f"{path} {advice}.")
    _check_utf8(path)


def _check_utf8(path: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with open(path, "rb") as file:
        while True:
            chunk = file.read(2**20)
            if b"\0" in chunk:
                raise ValueError(
                    f"{path} holds zero bytes: it is a binary file, or encoded as UTF-16. "
                    "Save the table as CSV, encoded as UTF-8."
                )
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                raise ValueError(
                    f"{path} is not encoded as UTF-8: line {line} holds the byte "
                    f"0x{error.object[error.start]:02x}. If it is text in another encoding, such "
                    "as Latin-1, save it as UTF-8."
                ) from None
            if not chunk:
                return
            line += chunk.count(b"\n")


def read_rows(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the number of its last line, the header first. Skip blank lines.

    Parameters
    ----------
    path : Path
        The file.
    separator : str
        The character between two cells.

    Yields
    ------
    line : int
        Number of the last line of the row, from 1.
    row : list of str
        The cells.

    Raises
    ------
    ValueError
        If a quotation mark is not closed, or a cell is too long.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            for row in reader:
                if len(row) > 1 or (row and row[0].strip()):
                    yield reader.line_num, row
        except csv.Error as error:
            raise ValueError(
                f"{path} cannot be read near line {reader.line_num} ({error}). Look for a "
                "quotation mark that is not closed, or is not doubled within a cell."
            ) from None


def find_header(path: Path, target: str) -> tuple[str, list[str]]:
    """Find the separator and the names of the columns.

    Parameters
    ----------
    path : Path
        The file.
    target : str
        Name of the column of class labels.

    Returns
    -------
    separator : str
        One of comma, semicolon, tab and vertical bar: the first that makes the target a column.
    header : list of str
        Names of all columns.

    Raises
    ------
    ValueError
        If the file has no header, or not exactly one column with the name of the target, or no
        other column.
    """
    headers = {}
    for separator in SEPARATORS:
        with contextlib.suppress(ValueError):  # a quoted cell does not end at another separator
            headers[separator] = _read_header(path, separator)
    if not headers:
        _read_header(path, SEPARATORS[0])  # raises the error
    fitting = [sep for sep, header in headers.items() if target in header]
    if not fitting:
        header = max(headers.values(), key=len)
        if not header:
            raise ValueError(f"{path} has blank lines only; give a table with a header and rows.")
        raise ValueError(
            f"{path} has no column {target!r}.{_did_you_mean(target, header)} "
            f"Its columns are {list_some(header)}."
        )
    header = headers[fitting[0]]
    if header.count(target) > 1:
        raise ValueError(f"{path} has several columns {target!r}; rename all but one.")
    if len(header) == 1:
        raise ValueError(f"{path} has no column besides the target {target!r}; add columns.")
    return fitting[0], header


def _read_header(path: Path, separator: str) -> list[str]:
    return [name.strip() for name in next(read_rows(path, separator), (0, []))[1]]


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    by_lower_case = {other.casefold(): other for other in names}
    close = difflib.get_close_matches(name.casefold(), by_lower_case, n=3)
    if not close:
        return ""
    return f" Did you mean {' or '.join(repr(by_lower_case[one]) for one in close)}?"


def list_some(names: Iterable[object], n: int = 10) -> str:
    """Return the first names as one text, and say how many follow.

    Examples
    --------
    >>> from skdml._command.text import list_some
    >>> list_some(["a", "b", "c"], n=2)
    "'a', 'b' and 1 more"
    """
    shown = [repr(name if len(str(name)) <= 40 else f"{str(name)[:40]}...") for name in names]
    rest = f" and {len(shown) - n} more" if len(shown) > n else ""
    return ", ".join(shown[:n]) + rest
