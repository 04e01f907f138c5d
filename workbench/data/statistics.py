"""Tables that describe a dataset, one DataFrame per question: what figures are drawn from."""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.data.popularity import popularity as item_counts
from workbench.data.prepare import Stage
from workbench.data.sequences import Sequences

Period = Literal["day", "week", "month", "quarter", "year"]
_FREQUENCY: dict[Period, str] = {"day": "D", "week": "W", "month": "M", "quarter": "Q", "year": "Y"}


def stage_counts(stages: tuple[Stage, ...]) -> pd.DataFrame:
    """Counts after every step of the preparation: `stage`, `users`, `items`, `catalogue`, `interactions`,
    `density`.

    `density` is interactions / (users · catalogue); above 1 only if users have items repeatedly.
    """
    table = pd.DataFrame(
        [(stage.name, stage.users, stage.items, stage.catalogue, stage.interactions) for stage in stages],
        columns=["stage", "users", "items", "catalogue", "interactions"],
    )
    return table.assign(density=table["interactions"] / (table["users"] * table["catalogue"]))


def summary(sequences: Sequences) -> pd.DataFrame:
    """One number a row: `measure`, `value`. Lengths are interactions per user; the Gini index is over rated items."""
    lengths, counts = sequences.lengths, item_counts(sequences, part=None)
    rated = counts[counts > 0]
    head = np.sort(counts)[::-1][: max(1, len(counts) // 100)]
    values = {
        "users": sequences.num_users,
        "items in the catalogue": sequences.num_items,
        "items with an interaction": len(rated),
        "interactions": len(sequences.item_ids),
        "shortest history": lengths.min(),
        "median history": np.median(lengths),
        "mean history": lengths.mean(),
        "longest history": lengths.max(),
        "Gini index of popularity": gini(rated),
        "share of the most popular 1% of the catalogue": head.sum() / counts.sum(),
    }
    return pd.DataFrame({"measure": list(values), "value": [float(value) for value in values.values()]})


def length_distribution(sequences: Sequences) -> pd.DataFrame:
    """How many users have which number of interactions: `length`, `users`, `share`, `share_at_most`, ascending."""
    lengths, users = np.unique(sequences.lengths, return_counts=True)
    share = users / users.sum()
    return pd.DataFrame(
        {"length": lengths, "users": users, "share": share, "share_at_most": np.minimum(share.cumsum(), 1.0)}
    )


def popularity(sequences: Sequences) -> pd.DataFrame:
    """The popularity curve, most popular first: `rank` (from 1), `item` (dense id), `title`, `interactions`,
    shares.

    `item_share` is rank / N and `interaction_share` the part of all interactions that items up to this rank
    have (a Lorenz curve seen from above). Equally popular items come in the order of their ids; items without
    an interaction are included.
    """
    counts = item_counts(sequences, part=None)
    order = np.argsort(-counts, kind="stable")
    ranks = np.arange(1, len(order) + 1)
    return pd.DataFrame(
        {
            "rank": ranks,
            "item": order + 1,
            "title": sequences.items["title"].to_numpy()[order],
            "interactions": counts[order],
            "item_share": ranks / len(order),
            "interaction_share": counts[order].cumsum() / counts.sum(),
        }
    )


def gini(counts: NDArray[np.int64]) -> float:
    """The inequality of counts: 0 if all are equal, towards 1 if one has all.

    G = Σ_i (2i − n − 1) c_i / (n Σ_i c_i), counts ascending, i from 1. NaN if there is nothing to share.

    >>> gini(np.array([2, 2, 2])), gini(np.array([0, 0, 6]))
    (0.0, 0.6666666666666666)
    """
    ascending = np.sort(counts).astype(np.float64)
    n, total = len(ascending), ascending.sum()
    if n == 0 or total == 0:
        return float("nan")
    return float(((2 * np.arange(1, n + 1) - n - 1) * ascending).sum() / (n * total))


def over_time(sequences: Sequences, period: Period = "month") -> pd.DataFrame:
    """Activity per period (UTC) between the first interaction and the last, quiet periods included.

    Columns: `start`, `interactions`, `users` (active in the period), `new_users`, `new_items` (first seen in
    it).
    Raises ValueError if `period` is not a known one.
    """
    if period not in _FREQUENCY:
        raise ValueError(f"period must be one of {', '.join(_FREQUENCY)}, not {period!r}")
    moments = pd.to_datetime(pd.Series(sequences.timestamps), unit="s")
    periods = moments.dt.to_period(_FREQUENCY[period])
    ordinals = periods.astype("int64").to_numpy()  # periods since 1970
    first = int(ordinals.min())
    slot = ordinals - first
    size = int(slot.max()) + 1
    users = np.repeat(np.arange(sequences.num_users), sequences.lengths)
    active = np.unique(slot * sequences.num_users + users) // sequences.num_users

    def firsts(codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """In how many cases each period was the first that a code was seen in."""
        earliest = np.full(int(codes.max()) + 1, size)
        np.minimum.at(earliest, codes, slot)
        return np.bincount(earliest[earliest < size], minlength=size)

    start = pd.period_range(periods.min(), periods=size, freq=_FREQUENCY[period])
    return pd.DataFrame(
        {
            "start": start.to_timestamp(),
            "interactions": np.bincount(slot, minlength=size),
            "users": np.bincount(active, minlength=size),
            "new_users": firsts(users),
            "new_items": firsts(sequences.item_ids),
        }
    )


def repeats(sequences: Sequences) -> pd.DataFrame:
    """Repeated items and equal timestamps: `measure`, `count`, `share`.

    The first row counts interactions whose user has the same item earlier, the second those whose order is known only from
    the order of rows in the source. Shares are of all interactions, in the last row of all users.
    """
    users = np.repeat(np.arange(sequences.num_users), sequences.lengths)
    pairs = pd.Series(users * (sequences.num_items + 1) + sequences.item_ids)
    again = pairs.duplicated().to_numpy()
    same_user = np.diff(users, prepend=-1) == 0
    tied = same_user & (np.diff(sequences.timestamps, prepend=-1) == 0)
    total = len(users)
    counts = {
        "interactions with an earlier item of the user": (int(again.sum()), total),
        "interactions in the same second as the previous one": (int(tied.sum()), total),
        "users with a repeated item": (len(np.unique(users[again])), sequences.num_users),
    }
    return pd.DataFrame(
        [(measure, count, count / of) for measure, (count, of) in counts.items()],
        columns=["measure", "count", "share"],
    )


def genre_shares(sequences: Sequences) -> pd.DataFrame:
    """Genres by interactions, most first: `genre`, `items`, `item_share`, `interactions`,
    `interaction_share`.

    An item of several genres counts in each, so shares add up to more than 1; "(none)" holds items without one. Empty if the
    item table has no column `genres`.
    """
    columns = ["genre", "items", "item_share", "interactions", "interaction_share"]
    if "genres" not in sequences.items:
        return pd.DataFrame(columns=columns)
    genres = sequences.items["genres"].fillna("").replace("", "(none)").str.split("|")
    rows = pd.DataFrame({"genre": genres, "interactions": item_counts(sequences, part=None)}).explode("genre")
    table = rows.groupby("genre", as_index=False).agg(
        items=("interactions", "size"), interactions=("interactions", "sum")
    )
    table["item_share"] = table["items"] / sequences.num_items
    table["interaction_share"] = table["interactions"] / len(sequences.item_ids)
    return table.sort_values(["interactions", "genre"], ascending=[False, True], ignore_index=True)[columns]
