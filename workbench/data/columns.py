"""Columns of a table: which is which by its name, and their values as ids, times, numbers and text."""

import math
import re
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workbench.data.errors import DataError
from workbench.data.ids import WHOLE_NUMBER, source_ids
from workbench.data.tables import LISTED, Table, complaint, listed, shown
from workbench.data.times import PER_SECOND, TimeUnit, moments
from workbench.data.values import empty_of, integers_of, numbers_of

Role = Literal["user", "item", "rating", "time", "title", "item_title", "genres"]
_THINGS = "item movie product article book song track"  # ids where no other column holds them, else titles
_SPELLINGS: dict[Role, str] = {
    "user": "user_id user userid uid customer_id customer visitor_id visitor member_id member reviewer_id reviewer"
    " client_id client account_id account buyer_id buyer shopper_id profile_id person_id email e_mail customer_email user_email"
    " username user_name",
    "item": f"item_id itemid iid movie_id product_id sku isbn asin parent_asin article_id book_id song_id track_id artist_id"
    f" business_id game_id app_id video_id news_id stock_code product_code item_code {_THINGS}",
    "rating": "rating ratings score stars overall book_rating user_rating review_score",
    "time": "timestamp time date ts datetime date_time unix_time unix_review_time unixtime epoch created_at created rated_at"
    " event_time ordered_at order_date order_time purchase_date purchased_at invoice_date review_date timestamps",
    "title": f"title name item_name item_title movie_title product_name product_title book_title label {_THINGS}",
    "item_title": "title item_title item_name movie_title product_title product_name book_title article_title"
    f" track_name song_title {_THINGS}",
    "genres": "genres genre categories category tags",
}
Problems = list[tuple[int, str]]


@dataclass(frozen=True)
class ColumnNames:
    """Names of columns that are not to be recognised by their usual spellings, and the unit of times that are numbers.

    Raises ValueError for a unit other than s, ms, us, ns.
    """

    user: str | None = None
    item: str | None = None
    rating: str | None = None
    time: str | None = None
    time_unit: TimeUnit | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        if self.time_unit not in (None, *get_args(TimeUnit)):
            raise ValueError(f"the unit of times must be one of s, ms, us, ns, not {self.time_unit!r}")


@dataclass
class Reading:
    """The columns of one table as they are read: their problems are collected and raised together."""

    table: Table
    remarks: list[str] = field(default_factory=list)
    problems: Problems = field(default_factory=list)
    problem_count: int = 0
    _read: dict[int, pa.ChunkedArray] = field(default_factory=dict)

    def load(self, positions: Sequence[int]) -> None:
        """Read these columns in one pass; a column that is not loaded takes a pass of its own."""
        self._read.update(zip(positions, self.table.read(positions), strict=True))

    def position(self, role: Role, name: str | None = None, taken: Collection[int] = ()) -> int | None:
        """The position of the column of `role`: the one called `name`, or of the first usual spelling; None if there is none.

        The columns at the positions `taken` are something else, unless `name` names one of them.
        Raises DataError if `name` is missing, or two columns have that name.
        """
        names = list(self.table.names)
        if name is None:
            spellings = _SPELLINGS[role].split()
            free = [found for position, found in enumerate(names) if position not in taken]
            by_plain = {_plain(found): found for found in reversed(free)}
            found = (
                spelling if spelling in free else by_plain.get(_plain(spelling)) for spelling in spellings
            )
            name = next(filter(None, found), None)
            if name is None:
                return None
        elif name not in names:
            raise DataError(f"{self.table.name} has no column {name!r} (columns found: {listed(names)})")
        if names.count(name) > 1:
            raise DataError(
                f"{self.table.name}: column {name!r} stands {names.count(name)} times; leave one of them"
            )
        return names.index(name)

    def required(self, columns: ColumnNames, *roles: Literal["user", "item"]) -> list[int]:
        """The positions of these columns. Raises DataError that names all missing ones, and the options for them."""
        found = {role: self.position(role, getattr(columns, role)) for role in roles}
        missing = [role for role, position in found.items() if position is None]
        if missing:
            options = " and ".join(f"--{role}-col" for role in missing)
            words = ", ".join(f"{role}=…" for role in missing)
            raise DataError(
                f"{self.table.name}: no column is recognised as {' or '.join(missing)} (columns found:"
                f" {listed(self.table.names)}); name it with {options} (in Python columns=wb.ColumnNames({words}))."
                " The first line of a text file must hold the names of the columns"
            )
        return [position for position in found.values() if position is not None]

    def named(self, name: str) -> int:
        """The position of the column `name`. Raises DataError if it is missing."""
        names = list(self.table.names)
        if name not in names:
            raise DataError(f"{self.table.name}: column {name!r} is missing (columns found: {listed(names)})")
        return names.index(name)

    def complain(self, name: str, wrong: NDArray[np.bool_], what: Callable[[int], str]) -> None:
        """Add the problems of the rows marked in `wrong`: what(row) of the first three is kept, the others are counted."""
        rows = np.flatnonzero(wrong)
        self.problem_count += len(rows)
        self.problems += [(int(row), f"{name} {what(int(row))}") for row in rows[:LISTED]]

    def _complain_of(self, name: str, column: pa.ChunkedArray, wrong: NDArray[np.bool_], what: str) -> None:
        self.complain(name, wrong, lambda row: f"{what}, found {shown(column[row].as_py())}")

    def finish(self) -> None:
        """Raises DataError with all problems, if there are any."""
        if self.problems:
            raise complaint(self.table, self.problems, self.problem_count)

    def ids(self, position: int) -> "pd.Series[Any]":
        """A column of ids, int64 or text, exactly as written; text of a file that holds whole numbers alone is int64."""
        name, column = self._column(position)
        if isinstance(column.type, pa.ExtensionType):
            column = column.cast(column.type.storage_type)
        written = pa.types.is_string(column.type)
        if written:
            column = pc.utf8_trim_whitespace(column)
        missing = empty_of(column)
        self.complain(name, missing, lambda row: "is missing")
        if missing.any():
            return pd.Series(np.zeros(len(column), dtype=np.int64))
        if written:
            column = _whole_numbers(column)
        try:
            return source_ids(_series(column), self.table.name, name)
        except DataError as error:
            if error.row is None:
                raise
            what = str(error).removeprefix(f"{self.table.name}: {name} ").removesuffix(f" in row {error.row}")
            self.complain(name, np.arange(len(column)) == error.row, lambda row: what)
            return pd.Series(np.zeros(len(column), dtype=np.int64))

    def integers(self, position: int) -> NDArray[np.int64]:
        """A column of integers of 64 bits, each as it is."""
        name, column = self._column(position)
        values, right = integers_of(column)
        self._complain_of(name, column, ~right, "must be an integer of 64 bits")
        return values

    def numbers(self, position: int, *, required: bool = False) -> NDArray[np.float32]:
        """A column of numbers as float32; NaN if there is none, which is a problem if they are `required`."""
        name, column = self._column(position)
        values, right = numbers_of(column)
        values[np.abs(values) > np.finfo(np.float32).max] = np.inf
        wrong = ~(right & np.isfinite(values)) & (required | ~empty_of(column))
        self._complain_of(name, column, wrong, "must be a number, finite as float32")
        return np.where(right, values, np.nan).astype(np.float32)

    def texts(self, position: int) -> "pd.Series[Any]":
        """A column as text: lists joined by "|", bytes decoded, whole numbers without a point, and "" for what is missing."""
        name, column = self._column(position)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return pc.fill_null(column, "").to_pandas().astype("str")
        values = column.to_pylist()
        wrong = np.array(
            [isinstance(value, bytes) and not _is_utf8(value) for value in values], dtype=np.bool_
        )
        self.complain(name, wrong, lambda row: f"must be UTF-8, found the bytes {shown(values[row])}")
        return pd.Series([_text(value) for value in values], dtype="str")

    def further(self, position: int) -> "pd.Series[Any]":
        """A column as it is, but lists, bytes and other nested values as text."""
        _, column = self._column(position)
        kind = column.type
        plain = pa.types.is_primitive(kind) or pa.types.is_decimal(kind)
        return column.to_pandas() if plain else self.texts(position)

    def times(
        self, position: int, unit: TimeUnit | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """A column of times as whole seconds since 1970, and, if it has fractions of a second, the order of rows by them.

        `unit` is that of numeric times; if it is None, it is inferred from the largest one (see `times.moments`), and a
        remark states what was found.
        Raises DataError if the column holds no times; single values that are none are problems of their rows.
        """
        name, column = self._column(position)
        try:
            found = moments(column, unit)
        except DataError as error:
            raise DataError(f"{self.table.name}: {name} {error}") from None
        self.complain(name, found.missing, lambda row: "is missing")
        for wrong, what in found.wrong:
            self._complain_of(name, column, wrong, what)
        seconds = np.floor_divide(found.values, PER_SECOND[found.unit]).astype(np.int64)
        if len(seconds):
            first, last = (np.datetime64(int(moment), "s") for moment in (seconds.min(), seconds.max()))
            self.remarks.append(f"{name} holds {found.kind}, from {first} to {last} UTC")
        fractions = (found.values % PER_SECOND[found.unit] != 0).any()
        return seconds, np.argsort(found.values, kind="stable") if fractions else None

    def _column(self, position: int) -> tuple[str, pa.ChunkedArray]:
        if position not in self._read:
            self.load([position])
        column = self._read[position]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        return self.table.names[position], column


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _whole_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text as int64 if every value is a whole number of 64 bits as it is written; otherwise as it is."""
    coded = column.dictionary_encode().unify_dictionaries()
    if not len(coded):
        return column.cast(pa.int64())
    written = coded.chunk(0).dictionary
    if not pc.all(pc.match_substring_regex(written, WHOLE_NUMBER)).as_py():
        return column
    try:
        numbers = written.cast(pa.int64())
    except pa.ArrowInvalid:  # more than 64 bits
        return column
    return pa.chunked_array([numbers.take(chunk.indices) for chunk in coded.chunks])


def _series(column: pa.ChunkedArray) -> "pd.Series[Any]":
    """Unsigned integers stay what they are, UUIDs come as text."""
    if pa.types.is_fixed_size_binary(column.type) and column.type.byte_width == 16:
        return pd.Series([str(uuid.UUID(bytes=value)) for value in column.to_pylist()], dtype="str")
    frame: pd.Series[Any] = column.to_pandas()
    return frame


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case bytes():
            return value.decode(errors="replace")
        case list() | tuple():
            return "|".join(map(_text, value))
        case dict():
            return "|".join(map(_text, value.values()))
        case float():
            return "" if math.isnan(value) else str(int(value)) if value.is_integer() else str(value)
        case _:
            return str(value)
