"""The items of a model by the user's own ids, and the tables of recommendations."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
from numpy.typing import NDArray

from workbench import files
from workbench.contracts import TopK
from workbench.data import CATALOG, Sequences
from workbench.data.ids import SourceIds
from workbench.loading import reading

ITEMS = "items.parquet"
"""The file in a checkpoint's folder that holds its catalogue."""

LATEST = 10**11
"""Seconds since 1970 that no time reaches: those of the year 5138. Milliseconds are above it since 1973."""

LOOKUP_BYTES = 100
"""What the lookup of an id takes in memory: measured with a million ids of text."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """`items` has one row per dense id in order (row i is item i + 1): `item_id`, the source's id, `title`, and more."""

    name: str
    items: pd.DataFrame

    @classmethod
    def of(cls, sequences: Sequences) -> "Catalogue":
        """The catalogue of a dataset."""
        return cls(sequences.name, sequences.items)

    @classmethod
    def load(cls, folder: Path, name: str) -> "Catalogue":
        """The catalogue that `save` wrote to `folder`; FileNotFoundError if there is none, ValueError if it is damaged."""
        path = folder / ITEMS
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no {ITEMS}")
        with reading(path, "delete it, or train again"):
            items = pyarrow.parquet.read_table(path).to_pandas()
        if not {"item_id", "title"} <= set(items.columns):
            raise ValueError(f"{path} has no columns item_id and title: it is no catalogue")
        return cls(name, items)

    def save(self, folder: Path) -> None:
        """Write ids and titles into `folder`. ValueError if the licence of the data does not allow handing them on."""
        if self.name in CATALOG:
            raise ValueError(
                f"the licence of {self.name} does not allow copies of its item table; models take it from the prepared data"
            )
        with files.atomic_write(folder / ITEMS) as temporary:
            self.items[["item_id", "title"]].to_parquet(temporary, index=False)

    def extended(self, table: pd.DataFrame) -> "Catalogue":
        """The catalogue with the rows of `table` (`item_id`, `title`) after its own, ids as it has them: numbers or text.

        Raises ValueError if an id is none of its kind.
        """
        if table.empty:
            return self
        own = self.items["item_id"]
        try:
            ids = pd.Series(table["item_id"].to_numpy()).astype(own.dtype)
        except (TypeError, ValueError):
            raise ValueError(
                f"the item ids of {self.name} are {own.dtype}; {table['item_id'].iloc[0]!r} is none"
            ) from None
        added = pd.DataFrame({"item_id": ids, "title": table["title"].astype("str").to_numpy()})
        return Catalogue(self.name, pd.concat([self.items, added], ignore_index=True))

    def __len__(self) -> int:
        return len(self.items)

    def held_bytes(self) -> int:
        """Bytes that the items take in memory, about: the table, what reading it from Parquet leaves, and the lookup."""
        return 3 * int(self.items.memory_usage(deep=True).sum()) + LOOKUP_BYTES * len(self)

    @cached_property
    def lookup(self) -> SourceIds:
        """The way from source ids to dense ones and back."""
        return SourceIds("item", self.name, pd.Index(self.items["item_id"]), first=1)

    def histories(
        self, histories: Sequence[Iterable[object]], timestamps: Sequence[Sequence[int]] | None = None
    ) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]] | None]:
        """Dense ids of histories in source ids, and their `timestamps`; unknown items are left out, with one warning.

        Raises ValueError if a history is empty, holds no known item, is one string, or differs from its timestamps in number,
        or a timestamp is no time in seconds since 1970.
        """
        if timestamps is not None and len(timestamps) != len(histories):
            raise ValueError(
                f"there are {len(histories)} histories and {len(timestamps)} lists of timestamps: give one for each"
            )
        kept: list[NDArray[np.int64]] = []
        times: list[NDArray[np.int64]] = []
        unknown = total = 0
        for row, history in enumerate(histories):
            if isinstance(history, str | bytes):
                raise ValueError(f"a history is a list of item ids, not the text {history!r}")
            given = list(history)
            dense = self.lookup.find(given)
            known = dense > 0
            if not given:
                raise ValueError(f"history {row} is empty: give at least one item")
            if not known.any():
                self.lookup.to_dense(given)  # raises: names the ids, and similar ones
            if timestamps is not None:
                if len(timestamps[row]) != len(given):
                    raise ValueError(
                        f"history {row} has {len(given)} items and {len(timestamps[row])} timestamps: give one for each"
                    )
                times.append(_seconds(timestamps[row], row)[known])
            kept.append(dense[known])
            unknown, total = unknown + int((~known).sum()), total + len(given)
        if unknown:
            warnings.warn(
                f"{unknown:,} of {total:,} items in the histories are not in {self.name}, and are left out",
                UserWarning,
                stacklevel=4,
            )
        return kept, None if timestamps is None else times

    def table(self, found: TopK, row: int = 0) -> pd.DataFrame:
        """One list of `found` as a table: `rank` (from 1), `item_id`, `title`, `score`, `exact`."""
        return self.tables(found[row : row + 1]).drop(columns="query")

    def tables(self, found: TopK) -> pd.DataFrame:
        """All lists of `found`, one after the other, as one table: as `table`, and `query` (0..B−1)."""
        ids, scores = found.ids.cpu().numpy(), found.scores.float().cpu().numpy()
        query, place = np.nonzero(ids > 0)
        shown = self.items[["item_id", "title"]].iloc[ids[query, place] - 1].reset_index(drop=True)
        shown.insert(0, "rank", 1 + place)
        shown.insert(0, "query", query)
        return shown.assign(score=scores[query, place], exact=found.exact.cpu().numpy()[query])


def _seconds(given: Sequence[int], row: int) -> NDArray[np.int64]:
    """The timestamps of a history; ValueError unless they are seconds since 1970."""
    try:
        seconds = np.asarray(given, dtype=np.int64)
    except (OverflowError, TypeError, ValueError):
        seconds = np.array([-1])
    if not ((seconds >= 0) & (seconds < LATEST)).all():
        raise ValueError(
            f"the timestamps of history {row} must be whole numbers of seconds since 1970, below {LATEST:,}"
        )
    return seconds
