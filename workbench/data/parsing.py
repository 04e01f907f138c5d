"""Fast parsing of delimited text into typed columns, and the slow search for the line that is wrong."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from workbench.data.errors import DataError

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


_BLOCK = 1 << 23
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
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    names = _names(path, layout)
    try:
        table = _parse(path, names, layout, skip_rows=1 if layout.header else 0)
    except pa.ArrowInvalid as error:
        raise _explained(path, names, layout, str(error)) from None
    frame: pd.DataFrame = table.unify_dictionaries().to_pandas(split_blocks=True, self_destruct=True)
    return frame


def read_text_table(
    path: Path, separator: str, columns: tuple[str, ...] | None, encoding: str, integers: tuple[str, ...] = ()
) -> pd.DataFrame:
    """A small table of text (titles, genres): strings, but int64 in the columns `integers`.

    `columns` None takes the names from line 1. "::" separates plain fields; any other separator follows the
    rules of CSV (quotes, line breaks inside them). Empty lines are skipped.
    Raises FileNotFoundError, and DataError that names file and line where a column of `integers` is missing,
    a line has another number of fields, an integer does not parse, or the bytes are not of `encoding`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    plain = separator == "::"
    records = (_plain_records if plain else _csv_records)(path, separator, encoding)
    rows: list[list[str]] = []
    lines: list[int] = []
    for line, record in records:
        if columns is None:
            columns = tuple(name.strip() for name in record)
            _require(columns, integers, f"{path}, line {line}")
            continue
        if len(record) != len(columns):
            expected = f"{len(columns)} belong ({', '.join(columns)})"
            found = _shown(separator.join(record))
            raise DataError(f"{path}, line {line}: {len(record)} fields where {expected}: {found}")
        rows.append(record)
        lines.append(line)
    if columns is None:
        raise DataError(f"{path}: the file is empty")
    table = pd.DataFrame(rows, columns=list(columns), dtype="str")
    for name in integers:
        wrong = [row for row, field in enumerate(table[name]) if not _parses(field, "int64")]
        if wrong:
            found = _shown(table[name].iloc[wrong[0]])
            raise DataError(f"{path}, line {lines[wrong[0]]}: {name} must be an integer, found {found}")
        table[name] = np.array([int(field) for field in table[name]], dtype=np.int64)
    return table


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
    _require(
        tuple(names), tuple(name for name in layout.columns if name not in layout.optional), f"{path}, line 1"
    )
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise DataError(f"{path}, line 1: column {', '.join(map(repr, sorted(repeated)))} appears twice")
    return names


def _require(names: tuple[str, ...], wanted: tuple[str, ...], where: str) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        found = ", ".join(names)
        raise DataError(
            f"{where}: column {', '.join(map(repr, missing))} is missing (columns found: {found})"
        )


def _parse(source: Path | io.BytesIO, names: list[str], layout: Layout, skip_rows: int = 0) -> pa.Table:
    """The wanted columns of lines with fields `names`; pa.ArrowInvalid, which knows no line, where one is wrong.

    The parser knows separators of one character: to it "a::b" is three columns, the middle one always empty.
    """
    spread = [part for i, name in enumerate(names) for part in ([f"\0{i}", name] if i else [name])]
    double = layout.separator == "::"
    gaps = [name for name in spread if name.startswith("\0")] if double else []
    wanted = [name for name in names if name in layout.columns]
    table = pyarrow.csv.read_csv(
        source,
        read_options=pyarrow.csv.ReadOptions(
            column_names=spread if double else names, skip_rows=skip_rows, block_size=_BLOCK
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=layout.separator[0], quote_char=False if double else '"'
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: _ARROW[layout.columns[name]] for name in wanted}
            | dict.fromkeys(gaps, pa.null()),
            include_columns=wanted + gaps,
            null_values=[""],
            strings_can_be_null=True,
        ),
    ).select(wanted)
    if any(table[name].null_count for name in wanted if layout.columns[name] != "optional float32"):
        raise pa.ArrowInvalid("an empty field")
    return table


def _explained(path: Path, names: list[str], layout: Layout, reason: str) -> DataError:
    """The error that names the first line which does not fit; the parser's own words where none is found.

    Blocks of lines go through the fast parser, and only one that fails is read line by line.
    """
    number = 0
    with path.open("rb") as file:
        if layout.header:
            file.readline()
            number = 1
        while lines := file.readlines(_BLOCK >> 3):
            try:
                _parse(io.BytesIO(b"".join(lines)), names, layout)
            except pa.ArrowInvalid:
                for line, record in enumerate(lines, start=number + 1):
                    if complaint := _complaint(record.rstrip(b"\r\n"), names, layout):
                        return DataError(f"{path}, line {line}: {complaint}")
            number += len(lines)
    return DataError(f"{path}: {reason}")


def _complaint(record: bytes, names: list[str], layout: Layout) -> str | None:
    """What is wrong with one line; an empty one is in order."""
    if not record:
        return None
    try:
        text = record.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8 ({error.reason} at byte {error.start} of the line)"
    fields = _fields(text, layout.separator)
    if len(fields) != len(names):
        return f"expected {layout.separator.join(names)}, found {_shown(text)}"
    for name, field in zip(names, fields, strict=True):
        kind = layout.columns.get(name)
        if kind is not None and not _parses(field, kind):
            what = {"int64": "an integer of 64 bits", "string": "text"}.get(kind, "a number")
            return f"{name} must be {what}, found {_shown(field)}"
    return None


def _fields(text: str, separator: str) -> list[str]:
    return text.split("::") if separator == "::" else next(csv.reader([text], delimiter=separator), [])


def _parses(field: str, kind: Kind) -> bool:
    if kind == "string":
        return field != ""
    if kind == "optional float32" and field == "":
        return True
    if kind == "int64":
        return re.fullmatch(r"\s*-?[0-9]+\s*", field) is not None and -(2**63) <= int(field) < 2**63
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field


def _plain_records(path: Path, separator: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            record = line.rstrip(b"\r\n")
            if not record:
                continue
            try:
                yield number, record.decode(encoding).split(separator)
            except UnicodeDecodeError as error:
                where = f"{error.reason} at byte {error.start} of the line"
                raise DataError(f"{path}, line {number}: not {encoding} ({where})") from None


def _csv_records(path: Path, separator: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            for record in reader:
                if record:
                    yield reader.line_num, record
        except UnicodeDecodeError as error:
            line = _undecodable_line(path, encoding)
            raise DataError(f"{path}, line {line}: not {encoding} ({error.reason})") from None
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}") from None


def _undecodable_line(path: Path, encoding: str) -> int:
    """The first line that is not of `encoding`; 0 where every line is."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError:
                return number
    return 0


def _shown(text: str, limit: int = 80) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "…")
