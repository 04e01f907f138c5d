"""The one table every dataset becomes: who met which item, when, and how it was rated where that is known."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

REQUIRED = ("user_id", "item_id", "timestamp")


class DataError(ValueError):
    """Data that cannot be used as it is; `row` is the offending row of the table (from 0) where there is one."""

    def __init__(self, message: str, row: int | None = None):
        super().__init__(message)
        self.row = row


@dataclass(frozen=True)
class Interactions:
    """Interactions of users with items, in the order of the source, with a table of all items and one of all
    users.

    `table`: `user_id`, `item_id`, `timestamp` (int64; seconds since 1970, 0 or later) and optionally `rating`
    (float32, NaN where unknown). `items`: `item_id` (int64), `title` (str), and further columns such as
    `genres` (str, joined by "|"). `users`: `user_id` (int64) and further columns. Ids are the source's own
    and may be any int64; for sources with string ids they are codes, and the string is kept as `source_id` in
    `items` and `users`. An item or user may have no interaction.

    Duplicates are kept: a user may meet an item again, and only `Preparation(duplicates="drop")` removes rows
    that agree in user, item and timestamp. On construction every table is checked and brought to the types
    above.

    Raises DataError for an empty table, a missing column, an id that is not an integer, a timestamp that is
    missing, negative or fractional, an infinite rating, an id twice in `items` or `users`, and an interaction
    with an item or user that the tables do not know (`Interactions.complete` adds those instead).

    >>> table = pd.DataFrame({"user_id": [7, 7], "item_id": [30, 10], "timestamp": [5, 6]})
    >>> Interactions.complete(table).items["title"].tolist()
    ['10', '30']
    """

    table: pd.DataFrame
    items: pd.DataFrame
    users: pd.DataFrame

    def __post_init__(self) -> None:
        _require(self.table, REQUIRED, "interactions")
        _require(self.items, ("item_id", "title"), "item table")
        _require(self.users, ("user_id",), "user table")
        if self.table.empty:
            raise DataError("interactions: the table is empty")
        table = self.table.assign(
            user_id=_integers(self.table, "user_id", "interactions"),
            item_id=_integers(self.table, "item_id", "interactions"),
            timestamp=_timestamps(self.table),
        )
        if "rating" in table:
            table["rating"] = _ratings(table)
        items = self.items.assign(
            item_id=_distinct(self.items, "item_id", "item table"), title=self.items["title"].astype(str)
        )
        users = self.users.assign(user_id=_distinct(self.users, "user_id", "user table"))
        _require_known(table, items, "item_id", "item table")
        _require_known(table, users, "user_id", "user table")
        for name, value in (("table", table), ("items", items), ("users", users)):
            object.__setattr__(self, name, value.reset_index(drop=True))

    @classmethod
    def complete(
        cls, table: pd.DataFrame, items: pd.DataFrame | None = None, users: pd.DataFrame | None = None
    ) -> Self:
        """Interactions whose item and user tables also hold the ids that only `table` knows.

        An item without a row is added with its id as title and no other value, a user without a row with its
        id alone; both come after the given rows, in order of id.
        Raises DataError as the constructor does.
        """
        _require(table, REQUIRED, "interactions")
        item_ids = np.unique(_integers(table, "item_id", "interactions"))
        user_ids = np.unique(_integers(table, "user_id", "interactions"))
        if items is not None:
            _require(items, ("item_id", "title"), "item table")
            item_ids = np.setdiff1d(item_ids, _integers(items, "item_id", "item table"))
        if users is not None:
            _require(users, ("user_id",), "user table")
            user_ids = np.setdiff1d(user_ids, _integers(users, "user_id", "user table"))
        added_items = pd.DataFrame({"item_id": item_ids, "title": item_ids.astype(str)})
        added_users = pd.DataFrame({"user_id": user_ids})
        return cls(table, _extended(items, added_items), _extended(users, added_users))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def num_users(self) -> int:
        """Users with at least one interaction."""
        return int(self.table["user_id"].nunique())

    @property
    def num_items(self) -> int:
        """Items with at least one interaction; `len(items)` is the whole catalogue."""
        return int(self.table["item_id"].nunique())


def _extended(table: pd.DataFrame | None, rows: pd.DataFrame) -> pd.DataFrame:
    if table is None or table.empty:
        return rows
    return pd.concat([table, rows], ignore_index=True) if len(rows) else table


def _require(table: pd.DataFrame, columns: tuple[str, ...], name: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        found = ", ".join(map(str, table.columns)) or "none"
        raise DataError(f"{name}: column {', '.join(map(repr, missing))} is missing (columns found: {found})")


def _present(table: pd.DataFrame, column: str, name: str) -> None:
    missing = table[column].isna().to_numpy()
    if missing.any():
        row = int(missing.argmax())
        raise DataError(f"{name}: {column} is missing in row {row}", row)


def _integers(table: pd.DataFrame, column: str, name: str) -> NDArray[np.int64]:
    _present(table, column, name)
    values = table[column]
    if not pd.api.types.is_integer_dtype(values):
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)
        wrong = ~np.isfinite(numbers) | (numbers != np.trunc(numbers))
        row = int(wrong.argmax())
        raise DataError(
            f"{name}: {column} must hold integers, but its type is {values.dtype}"
            f" (row {row}: {values.iloc[row]!r}); convert it, or give strings integer codes",
            row,
        )
    if str(values.dtype).lower() == "uint64" and (values > np.iinfo(np.int64).max).any():
        row = int((values > np.iinfo(np.int64).max).to_numpy().argmax())
        raise DataError(f"{name}: {column} {values.iloc[row]} in row {row} exceeds 63 bits", row)
    return values.to_numpy(dtype=np.int64)


def _timestamps(table: pd.DataFrame) -> NDArray[np.int64]:
    values = table["timestamp"]
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        raise DataError(
            f"interactions: timestamp must be whole seconds since 1970, but its type is {values.dtype}"
        )
    _present(table, "timestamp", "interactions")
    seconds = values.to_numpy(dtype=np.float64) if pd.api.types.is_float_dtype(values) else values.to_numpy()
    checks: list[tuple[NDArray[np.bool_], str]] = [(seconds < 0, "is negative")]
    if seconds.dtype.kind == "f":
        checks.append(
            ((seconds != np.trunc(seconds)) | (seconds >= 2**63), "is not a whole number of seconds")
        )
    for wrong, what in checks:
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(f"interactions: timestamp {seconds[row]} in row {row} {what}", row)
    return seconds.astype(np.int64)


def _ratings(table: pd.DataFrame) -> NDArray[np.float32]:
    if not pd.api.types.is_numeric_dtype(table["rating"]):
        raise DataError(f"interactions: rating must hold numbers, but its type is {table['rating'].dtype}")
    ratings = table["rating"].to_numpy(dtype=np.float32, na_value=np.nan)
    infinite = np.isinf(ratings)
    if infinite.any():
        row = int(infinite.argmax())
        raise DataError(f"interactions: rating {table['rating'].iloc[row]} in row {row} is not finite", row)
    return ratings


def _distinct(table: pd.DataFrame, column: str, name: str) -> NDArray[np.int64]:
    ids = _integers(table, column, name)
    repeated = pd.Index(ids).duplicated()
    if repeated.any():
        row = int(repeated.argmax())
        raise DataError(f"{name}: {column} {ids[row]} appears twice (again in row {row})", row)
    return ids


def _require_known(table: pd.DataFrame, known: pd.DataFrame, column: str, name: str) -> None:
    ids = table[column].to_numpy()
    unknown = np.setdiff1d(pd.unique(ids), known[column].to_numpy())
    if len(unknown):
        row = int(np.isin(ids, unknown).argmax())
        raise DataError(
            f"interactions: {column} {ids[row]} (row {row}) is not in the {name}"
            f" ({len(unknown):,} such ids); add it there, or use Interactions.complete",
            row,
        )
