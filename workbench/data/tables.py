"""Tables in files, whose format is recognised by content: delimited text, also packed, and Parquet. Every record is
counted."""

import codecs
import csv
import io
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet

from workbench.data.errors import DataError
from workbench.data.packed import content_of
from workbench.loading import reading

SEPARATORS = (",", ";", "\t", "|")
"""What may separate fields if it is not given; the one that gives the first record most fields is taken."""
_DOUBLE, _UNIT = (
    "::",
    "\x1f",
)  # MovieLens' separator, and the one that replaces it: a character that no text holds
_CHUNK, _SAMPLE, _AT_ONCE = 1 << 24, 1 << 16, 1 << 16
LISTED = 3
"""Problems of a file that an error lists; the others are counted."""


@runtime_checkable
class Table(Protocol):
    """A table whose columns are read by position, because names may repeat or be empty."""

    @property
    def name(self) -> str:
        """What errors call the table: its path."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """The names of its columns, in order."""
        ...

    def read(self, positions: Sequence[int]) -> list[pa.ChunkedArray]:
        """These columns, every row of them. Raises DataError for records that do not fit."""
        ...

    def places(self, rows: Iterable[int]) -> dict[int, str]:
        """For each row (from 0) how a person finds it: "line 7" of a text (its record's first), "row 7" otherwise."""
        ...


@dataclass(frozen=True)
class TextFormat:
    """How a text is written. `separator`: one character, "::" as in MovieLens' `.dat` files (no quotes), None if it is to be
    found. `names` of the columns, None if the first record holds them. `encodings` are tried in turn. `escape`: a character
    before a quote that belongs to the text, if quotes are not written twice.
    """

    separator: str | None = None
    names: tuple[str, ...] | None = None
    encodings: tuple[str, ...] = ("utf-8",)
    escape: str | None = None


def open_table(path: Path, text: TextFormat | None = None) -> Table:
    """The table in a file or in a folder of Parquet files.

    A file is text or Parquet, as it is or packed by gzip, bzip2, zstd or xz, or the one file of a zip archive.

    Raises FileNotFoundError, and DataError for a file that is damaged, of another kind, or unpacks to too much (see `packed`).
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PAR1":
        return _parquet(path, path)
    content = content_of(path)
    if content.startswith(b"PAR1"):
        return _parquet(path, pa.BufferReader(content))
    return TextTable.of(path, content, text or TextFormat())


def complaint(table: Table, problems: Iterable[tuple[int, str]], count: int) -> DataError:
    """One error for `count` problems of a table, of which the first three are listed: each a row (from 0) and what is wrong."""
    first = sorted(problems)[:LISTED]
    places = table.places(row for row, _ in first)
    return _complaint(table.name, [(places[row], what) for row, what in first], count)


def _complaint(name: str, problems: list[tuple[str, str]], count: int) -> DataError:
    if count == 1:
        return DataError(f"{name}, {problems[0][0]}: {problems[0][1]}")
    more = [f"and {count - len(problems):,} more"] if count > len(problems) else []
    return DataError(
        f"{name} has {count:,} problems: "
        + "; ".join([f"{place}: {what}" for place, what in problems] + more)
    )


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names of columns as an error shows them."""
    text = ", ".join(shown(name, 40) for name in names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text


def shown(text: object, limit: int = 80) -> str:
    """A value as an error shows it, in some `limit` characters."""
    written = repr(text)
    return written if len(written) <= limit + 2 else f"{written[:limit]}…{written[-1]}"


@dataclass(frozen=True)
class TextTable:
    """Delimited text: `content` is UTF-8, the records begin at byte `start`, after `header_lines` lines.

    A file without a quote goes through Arrow's parser, and the rows it gives are compared with the lines of the file. Any
    other file, and one for which the two differ, is read record by record by Python's strict `csv` reader.
    """

    path: Path
    content: bytes
    separator: str
    quoted: bool
    columns: tuple[str, ...]
    escape: str | None
    start: int
    header_lines: int

    @classmethod
    def of(cls, path: Path, content: bytes, text: TextFormat) -> Self:
        """The table of a text. Raises DataError if it is empty or not of the encoding."""
        content = _utf8(path, content, text.encodings)
        if not content.strip():
            raise DataError(f"{path}: the file is empty")
        if text.separator == _DOUBLE:
            separator, quoted = _UNIT, False
            content = content.replace(_DOUBLE.encode(), _UNIT.encode())
        else:
            separator, quoted = text.separator or _separator(content), b'"' in content
        if text.names is not None:
            return cls(path, content, separator, quoted, text.names, text.escape, 0, 0)
        reader = _reader(io.BytesIO(content), separator, quoted, text.escape)
        try:
            header = next(filter(any, reader))
        except csv.Error as error:
            raise DataError(f"{path}, line 1: {_Quotes(1, str(error))}") from None
        ends = list(itertools.islice(_line_ends(content), reader.line_num))
        start = ends[-1] if len(ends) == reader.line_num else len(content)
        names = tuple(name.strip() for name in header)
        return cls(path, content, separator, quoted, names, text.escape, start, reader.line_num)

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def names(self) -> Sequence[str]:
        """The names of its columns, in order."""
        return self.columns

    def read(self, positions: Sequence[int]) -> list[pa.ChunkedArray]:
        """See `Table.read`."""
        return (None if self.quoted else self._fast(positions)) or self._strict(positions)

    def places(self, rows: Iterable[int]) -> dict[int, str]:
        """Where each row is found; see Table."""
        wanted = set(rows)
        return {row: f"line {line}" for row, (line, _) in enumerate(self._records()) if row in wanted}

    def _fast(self, positions: Sequence[int]) -> list[pa.ChunkedArray] | None:
        """The columns by Arrow's parser; None if a line does not fit, which the strict reader then explains."""
        body = pa.py_buffer(self.content).slice(self.start)
        codes = [str(position) for position in range(len(self.columns))]
        wanted = [codes[position] for position in positions]
        try:
            table = pyarrow.csv.read_csv(
                pa.BufferReader(body),
                read_options=pyarrow.csv.ReadOptions(column_names=codes, block_size=_CHUNK),
                parse_options=pyarrow.csv.ParseOptions(delimiter=self.separator, quote_char=False),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(codes, pa.string()), include_columns=wanted, null_values=[]
                ),
            )
        except pa.ArrowInvalid:
            return None
        if table.num_rows != _count_lines(body):
            return None
        return [table[code] for code in wanted]

    def _strict(self, positions: Sequence[int]) -> list[pa.ChunkedArray]:
        chunks: list[list[pa.Array]] = [[] for _ in positions]
        rows: list[list[str]] = []
        wrong: list[tuple[str, str]] = []
        count = 0

        def keep() -> None:
            for chunk, position in zip(chunks, positions, strict=True):
                chunk.append(pa.array([row[position] for row in rows], pa.string()))
            rows.clear()

        try:
            for line, record in self._records():
                if len(record) == len(self.columns):
                    rows.append(record)
                else:
                    count += 1
                    belong = f"{len(self.columns)} belong ({listed(self.columns, 6)})"
                    found = shown(self._separator_shown.join(record))
                    wrong += [(f"line {line}", f"{len(record)} fields but {belong}: {found}")][
                        : LISTED + 1 - count
                    ]
                if len(rows) == _AT_ONCE:
                    keep()
        except _Quotes as error:
            count += 1
            wrong = [*wrong[: LISTED - 1], (f"line {error.line}", str(error))]
        keep()
        if count:
            raise _complaint(self.name, wrong, count)
        return [pa.chunked_array(chunk, pa.string()) for chunk in chunks]

    @property
    def _separator_shown(self) -> str:
        return _DOUBLE if self.separator == _UNIT else self.separator

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Every record with the line (from 1) that it begins in; empty lines are none."""
        body = io.BytesIO(self.content)
        body.seek(self.start)
        before = csv.field_size_limit(sys.maxsize)
        try:
            reader = _reader(body, self.separator, self.quoted, self.escape)
            while True:
                line = self.header_lines + reader.line_num + 1
                try:
                    record = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    raise _Quotes(line, str(error)) from None
                if len(record) > 1 or (record and (record[0].strip() or len(self.columns) == 1)):
                    yield line, record
        finally:
            csv.field_size_limit(before)


class _Quotes(DataError):
    """Quotes of a record that do not pair up, or a header without an end."""

    def __init__(self, line: int, reason: str):
        text = (
            "a quote opens in this record and never closes"
            if "unexpected end" in reason
            else f"the quotes of this record do not pair up ({reason}): a quote that belongs to the text is written twice"
        )
        super().__init__(text)
        self.line = line


@dataclass(frozen=True)
class ParquetTable:
    """Parquet: one file, or a folder of them with columns named by its subfolders (`day=2024-01-31`)."""

    path: Path
    columns: tuple[str, ...]
    rows: int
    source: pyarrow.parquet.ParquetFile | pyarrow.dataset.Dataset

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def names(self) -> Sequence[str]:
        """The names of its columns, in order."""
        return self.columns

    def read(self, positions: Sequence[int]) -> list[pa.ChunkedArray]:
        """See `Table.read`."""
        wanted = [self.columns[position] for position in positions]
        read = (
            self.source.read if isinstance(self.source, pyarrow.parquet.ParquetFile) else self.source.to_table
        )
        with reading(self.path, "get it again", DataError):
            table = read(columns=wanted)
        if table.num_rows != self.rows:
            raise DataError(
                f"{self.path} is damaged: it declares {self.rows:,} rows, {table.num_rows:,} are there"
            )
        return [table[name] for name in wanted]

    def places(self, rows: Iterable[int]) -> dict[int, str]:
        """Where each row is found; see Table."""
        return {row: f"row {row + 1}" for row in rows}


@dataclass(frozen=True)
class FrameTable:
    """A pandas table; an index that has a name counts as a column."""

    frame: pd.DataFrame

    @property
    def name(self) -> str:
        """What errors call it."""
        return "table"

    @property
    def names(self) -> Sequence[str]:
        """The names of its columns, in order."""
        return [str(name) for name in self._whole.columns]

    def read(self, positions: Sequence[int]) -> list[pa.ChunkedArray]:
        """See `Table.read`."""
        columns = []
        for position in positions:
            values = self._whole.iloc[:, position]
            try:
                columns.append(pa.chunked_array([pa.array(values, from_pandas=True)]))
            except pa.ArrowException as error:
                raise DataError(
                    f"column {self.names[position]!r} holds values of several types: {error}"
                ) from None
        return columns

    def places(self, rows: Iterable[int]) -> dict[int, str]:
        """Where each row is found; see Table."""
        return {row: f"row {row + 1}" for row in rows}

    @property
    def _whole(self) -> pd.DataFrame:
        named = [name for name in self.frame.index.names if name is not None]
        return self.frame.reset_index(level=named) if named else self.frame


def _parquet(path: Path, source: Path | pa.BufferReader) -> ParquetTable:
    with reading(path, "or it is no Parquet file; get it again", DataError):
        file = pyarrow.parquet.ParquetFile(source, page_checksum_verification=True)
        return ParquetTable(path, tuple(file.schema_arrow.names), file.metadata.num_rows, file)


def _folder(path: Path) -> ParquetTable:
    """The Parquet files of a folder in the order of their names; what subfolders say (`day=…`) is text, exactly as written."""
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    )
    if not files:
        raise DataError(f"{path} is a folder without files; name a file, or a folder of Parquet files")
    keys = {
        part.partition("=")[0] for file in files for part in file.relative_to(path).parts[:-1] if "=" in part
    }
    schema = pa.schema([(name, pa.string()) for name in sorted(keys)])
    with reading(path, "every file of the folder must be a Parquet file of the same columns", DataError):
        found = pyarrow.dataset.dataset(
            [str(file) for file in files],
            format="parquet",
            partitioning=pyarrow.dataset.partitioning(schema, flavor="hive") if keys else None,
            partition_base_dir=str(path),
        )
        return ParquetTable(path, tuple(found.schema.names), found.count_rows(), found)


def _utf8(path: Path, content: bytes, encodings: tuple[str, ...]) -> bytes:
    """`content` as UTF-8 without a mark of the byte order, from the first of `encodings` that it is in."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ("utf-16",)
    elif b"\0" in content[:_SAMPLE]:
        raise DataError(f"{path} is neither text nor Parquet; save it as CSV or Parquet")
    for encoding in encodings:
        try:
            if codecs.lookup(encoding).name != "utf-8":
                return content.decode(encoding).encode()
            _check_utf8(content)
            return content.removeprefix(codecs.BOM_UTF8)
        except UnicodeDecodeError as error:
            if encoding == encodings[-1]:
                line = sum(1 for end in _line_ends(content) if end <= error.start) + 1
                raise DataError(
                    f"{path}, line {line}: not {encoding.upper()} ({error.reason}: byte"
                    f" 0x{content[error.start]:02x}); save it as UTF-8, or name its encoding (such as latin-1)"
                ) from None
        except LookupError:
            raise DataError(f"there is no encoding {encoding!r}; use utf-8, latin-1, cp1252, …") from None
    raise AssertionError("one encoding at least")


def _check_utf8(content: bytes) -> None:
    """Raises UnicodeDecodeError with the place in the whole content, without a copy of it."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for begin in range(0, len(content), _CHUNK):
        held = len(decoder.getstate()[0])
        try:
            decoder.decode(content[begin : begin + _CHUNK], final=begin + _CHUNK >= len(content))
        except UnicodeDecodeError as error:
            at = begin - held + error.start
            raise UnicodeDecodeError("utf-8", content, at, at + 1, error.reason) from None


def _reader(body: io.BytesIO, separator: str, quoted: bool, escape: str | None) -> Any:
    return csv.reader(
        io.TextIOWrapper(body, encoding="utf-8", newline=""),
        delimiter=separator,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        escapechar=escape,
    )


def _separator(content: bytes) -> str:
    sample = content[:_SAMPLE].decode(errors="ignore")

    def fields(separator: str) -> int:
        try:
            return len(
                next(filter(None, csv.reader(io.StringIO(sample, newline=""), delimiter=separator)), [])
            )
        except csv.Error:
            return 0

    return max(SEPARATORS, key=fields)


def _line_ends(content: bytes) -> Iterator[int]:
    """Where each line ends, its end included: after CR LF, LF or CR."""
    return (found.end() for found in re.finditer(rb"\r\n|\n|\r", content))


def _count_lines(body: pa.Buffer) -> int:
    """Lines that are not empty."""
    count, ended = 0, True
    values = np.frombuffer(body, dtype=np.uint8)
    for begin in range(0, len(values), _CHUNK):
        part = values[begin : begin + _CHUNK]
        ends = (part == 10) | (part == 13)
        count += int(np.count_nonzero(~ends[1:] & ends[:-1])) + int(ended and not ends[0])
        ended = bool(ends[-1])
    return count
