"""Small datasets that differ from MovieLens in one way each, what the notebooks must cope with."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from workbench import paths
from workbench.data import Interactions, prepare, storage

USERS, ITEMS, DAY = 60, 64, 86_400


@dataclass(frozen=True)
class OddData:
    """Interactions, and an item table where there is one."""

    table: pd.DataFrame
    items: pd.DataFrame | None

    def prepare(self, name: str) -> None:
        """Prepare it under `name` in the workbench's folder of data."""
        prepared = prepare(Interactions.complete(self.table, self.items), name)
        storage.save(prepared.sequences, paths.data() / name, {})


def ordinary(users: int = USERS, items: int = ITEMS, lengths: tuple[int, int] = (4, 20)) -> OddData:
    """Users who walk among `items` items from a start of their own, most often to a neighbour; nothing odd yet."""
    generator = np.random.default_rng(0)
    rows = []
    for user in range(users):
        item = int(generator.integers(items))
        for step in range(int(generator.integers(*lengths))):
            rows.append((user + 1, 100 + item, 10**9 + user * DAY + step * 7 * DAY, 1 + item % 5))
            item = (item + int(generator.integers(1, 4))) % items
    ids = np.arange(100, 100 + items)
    genres = [f"kind {i % 4}|kind {4 + i % 3}" for i in range(items)]
    titles = [f"Item {i}" for i in ids]
    return OddData(
        pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "rating"]),
        pd.DataFrame({"item_id": ids, "title": titles, "genres": genres}),
    )


def no_genres() -> OddData:
    """The item table has titles alone, as that of Amazon Books."""
    plain = ordinary()
    assert plain.items is not None
    return OddData(plain.table, plain.items.drop(columns="genres"))


def no_titles() -> OddData:
    """Every third title and genre is empty."""
    plain = ordinary()
    assert plain.items is not None
    empty = np.arange(len(plain.items)) % 3 == 0
    return OddData(
        plain.table,
        plain.items.assign(title=plain.items["title"].mask(empty), genres=plain.items["genres"].mask(empty)),
    )


def no_ratings() -> OddData:
    """Neither ratings nor an item table: three columns and nothing else."""
    return OddData(ordinary().table.drop(columns="rating"), None)


def one_time_users() -> OddData:
    """The first ten users, and every second of the others, came once."""
    table = ordinary().table
    once = (table["user_id"] <= 10) | (table["user_id"] % 2 == 0)
    return OddData(table[~once | ~table.duplicated("user_id")], ordinary().items)


def thirty_items() -> OddData:
    """Fewer items than most lists are long."""
    return ordinary(items=30)


def string_ids() -> OddData:
    """Users and items are known by names."""
    plain = ordinary()
    assert plain.items is not None
    user, item = plain.table["user_id"].map("user-{:03d}".format), "B00" + plain.table["item_id"].astype(str)
    return OddData(
        plain.table.assign(user_id=user, item_id=item),
        plain.items.assign(item_id="B00" + plain.items["item_id"].astype(str)),
    )


def one_huge_user() -> OddData:
    """The first user has more interactions than all others together, and has met every item."""
    few, huge = ordinary(lengths=(4, 7)), ordinary(users=1, lengths=(2000, 2001)).table
    return OddData(
        pd.concat([huge, few.table.assign(user_id=few.table["user_id"] + 1)], ignore_index=True), few.items
    )


def all_times_equal() -> OddData:
    """Everything happened in one second."""
    return OddData(ordinary().table.assign(timestamp=10**9), ordinary().items)


def nobody_twice() -> OddData:
    """Every user came once: there is nothing to learn from and nothing to predict."""
    return OddData(ordinary().table.drop_duplicates("user_id"), ordinary().items)


KINDS: dict[str, Callable[[], OddData]] = {
    "no-genres": no_genres,
    "no-titles": no_titles,
    "no-ratings": no_ratings,
    "one-time-users": one_time_users,
    "thirty-items": thirty_items,
    "string-ids": string_ids,
    "one-huge-user": one_huge_user,
    "all-times-equal": all_times_equal,
    "nobody-twice": nobody_twice,
}
