"""Fast parsing of delimited text into typed columns, and the slow search for the line that is wrong."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from workbench.data.interactions import DataError

Kind = Literal["int64", "float32", "optional float32", "string"]


@dataclass(frozen=True)
class Layout:
    """How the lines of a file are made: its separator, its columns and their kinds, whether line 1 names them.

    With a header the file may hold more columns, in any order, and those in `optional` may be absent; without
    one it holds exactly `columns`. `separator` is one character, or "::" as in MovieLens' `.dat` files, whose
    fields are never quoted.
    """

    separator: str
    columns: dict[str, Kind]
    header: bool
    optional: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.separator != "::" and len(self.separator) != 1:
            raise ValueError(f"separator must be one character or '::', not {self.separator!r}")


_ARROW: dict[Kind, pa.DataType] = {
    "int64": pa.int64(),
    "float32": pa.float32(),
    "optional float32": pa.float32(),
    "string": pa.dictionary(pa.int32(), pa.string()),
}


def read_columns(path: Path, layout: Layout) -> pd.DataFrame:
    """The columns of a text file, typed: int64, float32, or categorical for strings. Empty lines are skipped.

    Raises FileNotFoundError, and DataError that names file and line where a column is missing, a line has
    another number of fields, a field does not parse, or the bytes are not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    names = _names(path, layout)
    wanted = [name for name in names if name in layout.columns]
    parse = pyarrow.csv.ParseOptions(
        delimiter=layout.separator[0], quote_char=False if layout.separator == "::" else '"'
    )
    read = pyarrow.csv.ReadOptions(
        column_names=_spread(names, layout), skip_rows=1 if layout.header else 0, block_size=1 << 23
    )
    gaps = [name for name in read.column_names if name.startswith("\0")]
    convert = pyarrow.csv.ConvertOptions(
        column_types={name: _ARROW[layout.columns[name]] for name in wanted} | dict.fromkeys(gaps, pa.null()),
        include_columns=wanted + gaps,
        null_values=[""],
        strings_can_be_null=False,
    )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    try:
        table = pyarrow.csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)
    except pa.ArrowInvalid as error:
        raise _explained(path, layout, str(error)) from None
    table = table.select(wanted)
    if any(table[name].null_count for name in wanted if layout.columns[name] != "optional float32"):
        raise _explained(path, layout, "an empty field")
    frame: pd.DataFrame = table.unify_dictionaries().to_pandas(split_blocks=True, self_destruct=True)
    return frame


def read_text_table(
    path: Path, separator: str, columns: tuple[str, ...] | None, encoding: str
) -> pd.DataFrame:
    """A small table of text (titles, genres), every field a string; `columns` None takes the names from line
    1.

    "::" separates plain fields; any other separator follows the rules of CSV (quotes, line breaks inside
    them). Raises FileNotFoundError, and DataError that names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    records = (
        _plain_records(path, separator, encoding)
        if separator == "::"
        else _csv_records(path, separator, encoding)
    )
    rows: list[list[str]] = []
    for line, record in records:
        if columns is None:
            columns = tuple(name.strip() for name in record)
            continue
        if len(record) != len(columns):
            raise DataError(
                f"{path}, line {line}: {len(record)} fields where {len(columns)} belong ({', '.join(columns)}):"
                f" {_shown(separator.join(record))}"
            )
        rows.append(record)
    if columns is None:
        raise DataError(f"{path}: the file is empty")
    return pd.DataFrame(rows, columns=list(columns), dtype="str")


def integers(table: pd.DataFrame, column: str, path: Path, header: bool) -> NDArray[np.int64]:
    """A column of strings as int64; DataError that names file and line of the first that is no integer."""
    numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~np.isfinite(numbers) | (numbers % 1 != 0)
    if wrong.any():
        row = int(wrong.argmax())
        line = row + 1 + header
        raise DataError(f"{path}, line {line}: {column} must be an integer, found {table[column][row]!r}")
    return table[column].to_numpy(dtype=object).astype(np.int64)


def line_of(path: Path, row: int, header: bool) -> int:
    """The line (from 1) that holds row `row` (from 0) of a file, empty lines not counted as rows."""
    seen = -1
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if header and number == 1:
                continue
            seen += bool(line.strip(b"\r\n"))
            if seen == row:
                return number
    raise ValueError(f"{path} has no row {row}")


def _names(path: Path, layout: Layout) -> list[str]:
    if not layout.header:
        return list(layout.columns)
    with path.open("rb") as file:
        first = file.readline()
    try:
        header = next(csv.reader([first.decode("utf-8-sig")], delimiter=layout.separator), [])
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line 1: not UTF-8 ({error.reason} at byte {error.start})") from None
    names = [name.strip() for name in header]
    missing = [name for name in layout.columns if name not in names and name not in layout.optional]
    if missing:
        raise DataError(
            f"{path}, line 1: column {', '.join(map(repr, missing))} is missing (columns found: {', '.join(names)})"
        )
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise DataError(f"{path}, line 1: column {', '.join(map(repr, sorted(repeated)))} appears twice")
    return names


def _spread(names: list[str], layout: Layout) -> list[str]:
    """Column names for a one-character parser: "a::b" is three columns to it, the middle one always empty."""
    if layout.separator != "::":
        return names
    return [part for i, name in enumerate(names) for part in ([f"\0{i}", name] if i else [name])]


def _explained(path: Path, layout: Layout, reason: str) -> DataError:
    """The error that names the first line which does not fit `layout`; the parser's own words where none is found."""
    names = _names(path, layout)
    expected = layout.separator.join(names)
    for number, record in _raw_lines(path, layout.header):
        try:
            text = record.decode("utf-8")
        except UnicodeDecodeError as error:
            return DataError(
                f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start} of the line)"
            )
        fields = _fields(text, layout.separator)
        if len(fields) != len(names):
            return DataError(f"{path}, line {number}: expected {expected}, found {_shown(text)}")
        for name, field in zip(names, fields, strict=True):
            kind = layout.columns.get(name)
            if kind is not None and not _parses(field, kind):
                what = {"int64": "an integer of 64 bits", "string": "text"}.get(kind, "a number")
                return DataError(f"{path}, line {number}: {name} must be {what}, found {_shown(field)}")
    return DataError(f"{path}: {reason}")


def _fields(text: str, separator: str) -> list[str]:
    return text.split("::") if separator == "::" else next(csv.reader([text], delimiter=separator), [])


def _parses(field: str, kind: Kind) -> bool:
    if kind == "string":
        return field != ""
    if kind == "optional float32" and field == "":
        return True
    try:
        return -(2**63) <= int(field) < 2**63 if kind == "int64" else float(field) is not None
    except ValueError:
        return False


def _raw_lines(path: Path, header: bool) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            record = line.rstrip(b"\r\n")
            if record and not (header and number == 1):
                yield number, record


def _plain_records(path: Path, separator: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    for number, record in _raw_lines(path, header=False):
        try:
            yield number, record.decode(encoding).split(separator)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {number}: not {encoding} ({error.reason} at byte {error.start} of the line)"
            ) from None


def _csv_records(path: Path, separator: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            for record in reader:
                if record:
                    yield reader.line_num, record
        except UnicodeDecodeError as error:
            line = path.read_bytes()[: error.start].count(b"\n") + 1 if error.start else reader.line_num + 1
            raise DataError(f"{path}, near line {line}: not {encoding} ({error.reason})") from None
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}") from None


def _shown(text: str, limit: int = 80) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "…")
