"""From interactions to sequences: filters, dense ids, the stable sort by time."""

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.data.errors import DataError
from workbench.data.interactions import Interactions
from workbench.data.sequences import Sequences, Split, Ties
from workbench.data.temporal import SHARE, split_by_time
from workbench.data.ties import shuffle_ties


@dataclass(frozen=True)
class Preparation:
    """What is done to interactions before they become sequences, in this order.

    `duplicates`: "drop" removes rows that agree in user, item and timestamp, but the first. `k_core`: keep items and users
    with at least that many interactions (0 or 1: everyone), counted on the rows before each pass; `passes`: how often, None
    until nothing changes any more (the k-core proper). `min_length`: then keep users with at least that many interactions
    left; the catalogue is unchanged. `corpus`: "catalogue" keeps every row of the item table that the k-core left (all of
    them without one), "rated" those with an interaction left. `ties`: the order of a user's interactions at the same time, see
    `sequences.Ties`. `split`: "temporal" holds out by time, in periods of `share` of all interactions (see
    `temporal.split_by_time`).

    The published RAILS preprocessing is Preparation() for MovieLens, and for Amazon Books
    Preparation(k_core=5, passes=1, min_length=5): its 5-filter runs once, and items are counted before users
    who fell below five leave.
    Raises ValueError if a value is out of its range.
    """

    duplicates: Literal["keep", "drop"] = "keep"
    k_core: int = 0
    passes: int | None = None
    min_length: int = 0
    corpus: Literal["catalogue", "rated"] = "catalogue"
    ties: Ties = "source"
    split: Split = "leave-one-out"
    share: float = SHARE

    def __post_init__(self) -> None:
        if self.duplicates not in ("keep", "drop"):
            raise ValueError(f"duplicates must be 'keep' or 'drop', not {self.duplicates!r}")
        if self.k_core < 0 or self.min_length < 0:
            raise ValueError(f"k_core and min_length must be 0 or more, not {self.k_core}, {self.min_length}")
        if self.passes is not None and self.passes < 1:
            raise ValueError(f"passes must be 1 or more (None: until nothing changes), not {self.passes}")
        if self.corpus not in ("catalogue", "rated"):
            raise ValueError(f"corpus must be 'catalogue' or 'rated', not {self.corpus!r}")
        if self.ties not in get_args(Ties):
            raise ValueError(f"ties must be one of {get_args(Ties)}, not {self.ties!r}")
        if self.split not in get_args(Split):
            raise ValueError(f"split must be one of {get_args(Split)}, not {self.split!r}")
        if not 0 < self.share < 0.5:
            raise ValueError(f"share must be more than 0 and less than .5, not {self.share:g}")


@dataclass(frozen=True)
class Stage:
    """Counts after one step: `items` have an interaction, `catalogue` are all that can be recommended."""

    name: str
    users: int
    items: int
    catalogue: int
    interactions: int


@dataclass(frozen=True)
class Prepared:
    """Sequences, the counts of every stage on the way to them, and the remarks of the reader (see Interactions)."""

    sequences: Sequences
    stages: tuple[Stage, ...]
    remarks: tuple[str, ...] = ()


def prepare(interactions: Interactions, name: str, preparation: Preparation | None = None) -> Prepared:
    """Sequences with dense ids, sorted by user and time.

    Users with an interaction become 0..U−1 and items of the corpus 1..N, both in the order of their source
    ids: numbers by value, text by code point. Rows are sorted by user, then timestamp; rows of one user at the same
    second keep the order of the source, or that of `preparation.ties`.
    Raises DataError if the filters leave nothing, or a temporal split no target.
    """
    preparation = preparation or Preparation()
    table = interactions.table
    items = interactions.items.sort_values("item_id", ignore_index=True)
    users, user_ids = pd.factorize(table["user_id"], sort=True)  # (T,), (U,)
    rows = _Rows(
        users=users,
        items=_item_rows(table["item_id"], items["item_id"]),
        timestamps=table["timestamp"].to_numpy(),
        ratings=table["rating"].to_numpy() if "rating" in table else np.full(len(table), np.nan, np.float32),
    )
    catalogue = np.ones(len(items), dtype=np.bool_)
    stages = [rows.stage("as read", catalogue)]
    if preparation.duplicates == "drop":
        rows = rows[~table.duplicated(["user_id", "item_id", "timestamp"]).to_numpy()]
        stages.append(rows.stage("without duplicates", catalogue))
    if preparation.k_core > 1:
        rows = _core(rows, preparation.k_core, preparation.passes)
        catalogue = _present(rows.items, len(items))
        once = f", {preparation.passes} pass" if preparation.passes else ""
        stages.append(rows.stage(f"{preparation.k_core}-core{once}", catalogue))
    if preparation.min_length > 1:
        rows = rows[np.bincount(rows.users)[rows.users] >= preparation.min_length]
        stages.append(rows.stage(f"users of {preparation.min_length} or more", catalogue))
    if not len(rows.users):
        raise DataError(f"{name}: {preparation} leaves no interaction; require fewer per user and item")
    if preparation.corpus == "rated":
        catalogue = _present(rows.items, len(items))
        stages.append(rows.stage("rated items alone", catalogue))
    present = _present(rows.users, len(user_ids))
    new_users = np.cumsum(present, dtype=np.int64) - 1  # old code to 0..U−1
    new_items = np.cumsum(catalogue, dtype=np.int64)  # old code to 1..N
    rows = rows[_time_order(rows.users, rows.timestamps, preparation.ties)]
    sequences = Sequences(
        name=name,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(new_users[rows.users]))]),
        item_ids=new_items[rows.items],
        timestamps=rows.timestamps,
        ratings=rows.ratings,
        items=items[catalogue].reset_index(drop=True),
        users=_user_table(interactions.users, pd.Index(user_ids)[present]),
        ordered=interactions.ordered,
        ties=preparation.ties,
    )
    if preparation.ties == "shuffled":
        sequences = shuffle_ties(sequences, np.random.default_rng(0))
    if preparation.split == "temporal":
        sequences = split_by_time(sequences, preparation.share)
    remarks = interactions.remarks
    if sequences.lengths.max() < 2:
        remarks += (
            f"no user of {name} has two interactions: nothing can be held out, and no model be evaluated",
        )
    return Prepared(sequences, tuple(stages), remarks)


@dataclass(frozen=True)
class _Rows:
    """Interactions on their way: codes of users, rows of the sorted item table, timestamps, ratings, each (T,)."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    ratings: NDArray[np.float32]

    def __getitem__(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Self:
        return type(self)(
            self.users[chosen], self.items[chosen], self.timestamps[chosen], self.ratings[chosen]
        )

    def stage(self, name: str, catalogue: NDArray[np.bool_]) -> Stage:
        users, items = (int(np.count_nonzero(np.bincount(codes))) for codes in (self.users, self.items))
        return Stage(name, users, items, int(catalogue.sum()), len(self.users))


def _item_rows(ids: "pd.Series[Any]", table_ids: "pd.Series[Any]") -> NDArray[np.int64]:
    """The row of each id in the item table; each distinct id is looked up once."""
    codes, distinct = pd.factorize(ids)
    return pd.Index(table_ids).get_indexer(pd.Index(distinct))[codes]


def _present(codes: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    return np.bincount(codes, minlength=size) > 0


def _time_order(users: NDArray[np.int64], timestamps: NDArray[np.int64], ties: Ties) -> NDArray[np.int64]:
    """Rows by user, then timestamp, then as in the source, or as pandas sorts `ties`; what is sorted is not sorted again."""
    if ties == "pandas":
        order = pd.DataFrame({"time": timestamps}).sort_values(by=["time"]).index.to_numpy()
        return order[np.argsort(users[order], kind="stable")]
    user_step, time_step = np.diff(users), np.diff(timestamps)
    if ((user_step > 0) | ((user_step == 0) & (time_step >= 0))).all():
        return np.arange(len(users))
    earliest, latest = int(timestamps.min()), int(timestamps.max())
    span = latest - earliest + 1
    if (int(users.max()) + 1) * span < 2**63:  # both keys in one number: five times faster
        return np.argsort(users * span + (timestamps - earliest), kind="stable")
    return np.lexsort((timestamps, users))


def _core(rows: _Rows, k: int, passes: int | None) -> _Rows:
    """Rows that stay when users and items with fewer than k leave together, `passes` times or to the end."""
    done = 0
    while len(rows.users) and (passes is None or done < passes):
        of_user, of_item = np.bincount(rows.users)[rows.users], np.bincount(rows.items)[rows.items]
        stays = (of_user >= k) & (of_item >= k)
        if stays.all():
            break
        rows = rows[stays]
        done += 1
    return rows


def _user_table(users: pd.DataFrame, user_ids: pd.Index) -> pd.DataFrame:
    return users.iloc[pd.Index(users["user_id"]).get_indexer(user_ids)].reset_index(drop=True)
