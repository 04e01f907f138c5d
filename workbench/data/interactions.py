"""The common form of every dataset: a table of users, items, times, and ratings if there are any."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.data.errors import DataError
from workbench.data.ids import same_kind, source_ids

REQUIRED = ("user_id", "item_id", "timestamp")


@dataclass(frozen=True)
class Interactions:
    """Interactions of users with items, in the order of the source, with a table of all items and one of all
    users.

    `table`: `user_id`, `item_id`, `timestamp` (int64; seconds since 1970, 0 or later) and optionally `rating`
    (float32, NaN if unknown). `items`: `item_id`, `title` (str), and further columns such as `genres` (str, joined by "|").
    `users`: `user_id` and further columns. Ids are the source's own: a column of them is int64 or text (`str`), kept exactly
    as written (see `ids.source_ids`). An item or user may have no interaction.

    `ordered`: whether timestamps (and, among equal ones, rows) are in time order. `remarks`: what a reader recognised or
    assumed, one sentence each.

    Duplicates are kept: a user may meet an item again, and only `Preparation(duplicates="drop")` removes rows
    that agree in user, item and timestamp. On construction every table is checked and brought to the types
    above; a title that is missing or empty becomes the item's id.

    Raises DataError for an empty table, a missing column, an id that is missing or of a type that identifies nothing, a
    timestamp that is missing, negative or fractional, a rating beyond 32 bits, an id twice in `items` or `users`, and an
    interaction with an item or user that the tables do not have (`Interactions.complete` adds those instead).

    >>> table = pd.DataFrame({"user_id": [7, 7], "item_id": [30, 10], "timestamp": [5, 6]})
    >>> Interactions.complete(table).items["title"].tolist()
    ['10', '30']
    """

    table: pd.DataFrame
    items: pd.DataFrame
    users: pd.DataFrame
    ordered: bool = True
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.table, REQUIRED, "interactions")
        _require(self.items, ("item_id", "title"), "item table")
        _require(self.users, ("user_id",), "user table")
        if self.table.empty:
            raise DataError("interactions: the table is empty")
        item_ids, known_items = same_kind(
            source_ids(self.table["item_id"], "interactions", "item_id"),
            _distinct(self.items, "item_id", "item table"),
        )
        user_ids, known_users = same_kind(
            source_ids(self.table["user_id"], "interactions", "user_id"),
            _distinct(self.users, "user_id", "user table"),
        )
        table = self.table.assign(user_id=user_ids, item_id=item_ids, timestamp=_timestamps(self.table))
        if "rating" in table:
            table["rating"] = _ratings(table)
        items = self.items.assign(item_id=known_items, title=_titles(self.items["title"], known_items))
        users = self.users.assign(user_id=known_users)
        _require_known(table, items, "item_id", "item table")
        _require_known(table, users, "user_id", "user table")
        for name, value in (("table", table), ("items", items), ("users", users)):
            object.__setattr__(self, name, value.reset_index(drop=True))

    @classmethod
    def complete(
        cls,
        table: pd.DataFrame,
        items: pd.DataFrame | None = None,
        users: pd.DataFrame | None = None,
        *,
        ordered: bool = True,
        remarks: tuple[str, ...] = (),
    ) -> Self:
        """Interactions whose item and user tables also hold the ids that only `table` has.

        An item without a row is added with its id as title and no other value, a user without a row with its
        id alone; both come after the given rows, in order of id.
        Raises DataError as the constructor does.
        """
        _require(table, REQUIRED, "interactions")
        if items is not None:
            _require(items, ("item_id", "title"), "item table")
        if users is not None:
            _require(users, ("user_id",), "user table")
        whole_items = _extended(items, table, "item_id", "item table")
        if "title" not in whole_items:
            whole_items["title"] = whole_items["item_id"]
        return cls(table, whole_items, _extended(users, table, "user_id", "user table"), ordered, remarks)

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


def _extended(known: pd.DataFrame | None, table: pd.DataFrame, column: str, name: str) -> pd.DataFrame:
    """The rows of `known`, and one for each other id of `table`, in order of id."""
    ids = source_ids(table[column], "interactions", column).drop_duplicates()
    if known is None:
        return pd.DataFrame({column: ids.sort_values(ignore_index=True)})
    ids, known_ids = same_kind(ids, source_ids(known[column], name, column))
    added = pd.DataFrame({column: ids[~ids.isin(known_ids)].sort_values()})
    known = known.assign(**{column: known_ids})
    return pd.concat([known, added], ignore_index=True) if len(added) else known


def _require(table: pd.DataFrame, columns: tuple[str, ...], name: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        found = ", ".join(map(str, table.columns)) or "none"
        raise DataError(f"{name}: column {', '.join(map(repr, missing))} is missing (columns found: {found})")


def _titles(titles: "pd.Series[Any]", ids: "pd.Series[Any]") -> "pd.Series[Any]":
    texts = titles.astype("str")
    return texts.where(titles.notna() & (texts.str.strip() != ""), ids.astype("str"))


def _timestamps(table: pd.DataFrame) -> NDArray[np.int64]:
    values = table["timestamp"]
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        raise DataError(
            f"interactions: timestamp must be whole seconds since 1970, but its type is {values.dtype}"
        )
    missing = values.isna().to_numpy()
    if missing.any():
        row = int(missing.argmax())
        raise DataError(f"interactions: timestamp is missing in row {row}", row)
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
    ratings = table["rating"].to_numpy(dtype=np.float64, na_value=np.nan)
    too_large = np.abs(ratings) > np.finfo(np.float32).max
    if too_large.any():
        row = int(too_large.argmax())
        raise DataError(
            f"interactions: rating {table['rating'].iloc[row]} in row {row} is not finite in 32 bits (at most 3.4e38)",
            row,
        )
    return ratings.astype(np.float32)


def _distinct(table: pd.DataFrame, column: str, name: str) -> "pd.Series[Any]":
    ids = source_ids(table[column], name, column)
    repeated = ids.duplicated().to_numpy()
    if repeated.any():
        row = int(repeated.argmax())
        raise DataError(f"{name}: {column} {ids.iloc[row]} appears twice (again in row {row})", row)
    return ids


def _require_known(table: pd.DataFrame, known: pd.DataFrame, column: str, name: str) -> None:
    distinct = table[column].drop_duplicates()
    unknown = distinct[~distinct.isin(known[column])]
    if len(unknown):
        row = int(table[column].isin(unknown).to_numpy().argmax())
        raise DataError(
            f"interactions: {column} {table[column].iloc[row]} (row {row}) is not in the {name}"
            f" ({len(unknown):,} such ids); add it there, or use Interactions.complete",
            row,
        )
