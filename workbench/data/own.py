"""The user's own interactions and items, in common file formats."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.data.columns import ColumnNames, Reading
from workbench.data.errors import DataError
from workbench.data.interactions import Interactions
from workbench.data.tables import FrameTable, Table, TextFormat, listed, open_table

Source = Path | pd.DataFrame


def read_own(
    source: Source,
    items: Source | None = None,
    columns: ColumnNames | None = None,
    *,
    encoding: str = "utf-8",
) -> Interactions:
    """One's own interactions, from a file, a folder of Parquet files or a pandas table, with a table of items if there is one.

    The format of a file is recognised by its content (see `tables.open_table`). Columns are those that `columns` names, or
    the first of the usual spellings (`user_id`, `userId`, `customer`, …). Ratings, titles and times may be missing:
    without times the order of rows is taken. Without `items`, an item's title is the first one that its interactions have.
    Times are dates or numbers of any unit (see `times.moments`), and seconds in the result, whose rows are sorted by time if
    they differ in fractions of a second. The item table needs the items' ids, again by
    `columns.item` or a usual spelling; `title` and `genres` (lists are joined by "|") are recognised, further columns are
    kept. An item without a title has its id as title.

    `remarks` of the result say what was recognised and assumed. Every row becomes one interaction.
    Raises FileNotFoundError, and DataError of one line that names file, line (row in Parquet) and column of the first three
    problems of a table, and how many there are.
    """
    columns = columns or ColumnNames()
    reading = Reading(_opened(source, encoding))
    table, item_table = _interactions(reading, columns, titled=items is None)
    remarks = list(reading.remarks)
    if items is not None:
        item_reading = Reading(_opened(items, encoding))
        item_table = _items(item_reading, columns)
        remarks += [f"{item_reading.table.name}: {remark}" for remark in item_reading.remarks]
        remarks += _in_common(table, item_table, item_reading.table.name)
    try:
        return Interactions.complete(table, item_table, remarks=tuple(remarks))
    except DataError as error:
        raise DataError(f"{reading.table.name}: {error}") from None


def _opened(source: Source, encoding: str) -> Table:
    if isinstance(source, pd.DataFrame):
        return FrameTable(source)
    return open_table(source, TextFormat(encodings=(encoding,)))


def _interactions(
    reading: Reading, columns: ColumnNames, titled: bool
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The interactions, and the items with their titles if these are to be read and there are any."""
    user, item = reading.required(columns, "user", "item")
    rating, time = reading.position("rating", columns.rating), reading.position("time", columns.time)
    title = reading.position("item_title", columns.title, [user, item]) if titled else None
    names = reading.table.names
    taken = [position for position in (user, item, rating, time, title) if position is not None]
    if twice := next((position for position in taken if taken.count(position) > 1), None):
        raise DataError(
            f"{reading.table.name}: column {names[twice]!r} cannot be two things at once; name others"
        )
    reading.load(taken)
    roles = {"users": user, "items": item, "ratings": rating, "times": time, "titles": title}
    recognised = [
        f"{role} in {names[position]!r}" for role, position in roles.items() if position is not None
    ]
    reading.remarks.append(f"columns recognised: {', '.join(recognised)}")
    if unused := [name for position, name in enumerate(names) if position not in taken]:
        hint = "" if title is not None or not titled else " (--title-col names the one of items' titles)"
        reading.remarks.append(f"columns not used: {listed(unused)}{hint}")
    table: dict[str, Any] = {"user_id": reading.ids(user), "item_id": reading.ids(item)}
    if rating is not None:
        table["rating"] = reading.numbers(rating)
    order = None
    if time is None:
        reading.remarks.append(
            "no column of times is recognised: rows count as in order of time (--time-col names one)"
        )
        table["timestamp"] = np.arange(len(table["user_id"]))
    else:
        table["timestamp"], order = reading.times(time, columns.time_unit)
    titles = None if title is None else reading.texts(title)
    reading.finish()
    items = None if titles is None else _titled(table["item_id"], titles, reading.remarks)
    frame = pd.DataFrame(table)
    return (frame if order is None else frame.iloc[order].reset_index(drop=True)), items


def _titled(ids: "pd.Series[Any]", titles: "pd.Series[Any]", remarks: list[str]) -> pd.DataFrame:
    """The first title of each item, in order of id; a remark counts items with several."""
    written = pd.DataFrame({"item_id": ids, "title": titles.str.strip()})
    written = written[written["title"] != ""].drop_duplicates()
    first = written.drop_duplicates("item_id")
    if several := int(written["item_id"].duplicated(keep=False).groupby(written["item_id"]).any().sum()):
        remarks.append(f"items with several titles, called by the first: {several:,}")
    known = ids.drop_duplicates().sort_values(ignore_index=True)
    return known.to_frame("item_id").merge(first, on="item_id", how="left").fillna({"title": ""})


def _items(reading: Reading, columns: ColumnNames) -> pd.DataFrame:
    names = list(reading.table.names)
    named = columns if columns.item in names else ColumnNames()
    (item,) = reading.required(named, "item")
    title, genres = reading.position("title", columns.title, [item]), reading.position("genres")
    own = {"item_id": item, "title": title, "genres": genres}
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        reading.remarks.append(f"columns that stand twice are left out: {', '.join(repeated)}")
    further = {
        name: position
        for position, name in enumerate(names)
        if name and name not in repeated and name not in own and position not in own.values()
    }
    reading.load([position for position in (*own.values(), *further.values()) if position is not None])
    table: dict[str, Any] = {"item_id": reading.ids(item)}
    table["title"] = reading.texts(title) if title is not None else table["item_id"].astype("str")
    if genres is not None:
        table["genres"] = reading.texts(genres)
    table |= {name: reading.further(position) for name, position in further.items()}
    frame = pd.DataFrame(table)
    reading.finish()
    frame = frame[~frame.duplicated()]
    repeats = len(table["item_id"]) - len(frame)
    if repeats:
        reading.remarks.append(f"{repeats:,} rows repeat another one in every column and are left out")
    again = table["item_id"].duplicated().to_numpy() & np.isin(np.arange(len(table["item_id"])), frame.index)
    reading.complain(names[item], again, lambda row: f"{table['item_id'][row]} stands in an earlier row too")
    reading.finish()
    if title is None:
        reading.remarks.append("no column of titles is recognised: items are called by their ids")
    elif untitled := int((frame["title"].str.strip() == "").sum()):
        reading.remarks.append(f"items without a title, called by their ids: {untitled:,}")
    return frame.reset_index(drop=True)


def _in_common(table: pd.DataFrame, items: pd.DataFrame, name: str) -> list[str]:
    """A remark on items that the item table lacks. Raises DataError if it lacks all: they are written in another way."""
    met = table["item_id"].astype("str").drop_duplicates()
    missing = met[~met.isin(items["item_id"].astype("str"))]
    if len(met) and len(missing) == len(met):
        examples = " and ".join(repr(str(ids.iloc[0])) for ids in (met, items["item_id"]) if len(ids))
        raise DataError(f"{name} has none of the items of the interactions (ids as written: {examples})")
    if missing.empty:
        return []
    return [
        f"{name} lacks {len(missing):,} of {len(met):,} items (such as {missing.iloc[0]!r}): they are called by their ids"
    ]
