import numpy as np
import pandas as pd
import pytest

from workbench.data.errors import DataError
from workbench.data.interactions import Interactions


def table(**columns):
    return pd.DataFrame({"user_id": [1, 2], "item_id": [10, 20], "timestamp": [5, 6]} | columns)


ITEMS = pd.DataFrame({"item_id": [10, 20, 30], "title": ["a", "b", "c"], "genres": ["x|y", "", "z"]})
USERS = pd.DataFrame({"user_id": [1, 2]})


def test_tables_are_brought_to_their_types():
    odd = table(
        user_id=np.array([1, 2], np.uint8),
        item_id=pd.array([10, 20], dtype="Int64"),
        timestamp=np.array([5.0, 6.0]),
        rating=[3, np.nan],
        comment=["kept", "too"],
    )
    interactions = Interactions(odd.set_axis([7, 9]), ITEMS, USERS)
    kinds = interactions.table.dtypes.astype(str).to_dict()
    assert [kinds[name] for name in ("user_id", "item_id", "timestamp", "rating")] == ["int64"] * 3 + [
        "float32"
    ]
    assert interactions.table.index.tolist() == [0, 1]
    assert interactions.table["comment"].tolist() == ["kept", "too"]
    assert (len(interactions), interactions.num_users, interactions.num_items) == (2, 2, 2)


def test_large_ids_are_kept_exactly():
    ids = [2**53 + 1, -(2**63)]
    interactions = Interactions.complete(table(item_id=ids, user_id=[2**63 - 1, 2**63 - 2]))
    assert interactions.table["item_id"].tolist() == ids
    assert interactions.items["item_id"].tolist() == sorted(ids)
    assert interactions.users["user_id"].tolist() == [2**63 - 2, 2**63 - 1]


@pytest.mark.parametrize(
    ("changed", "message", "row"),
    [
        (
            table().drop(columns="timestamp"),
            r"column 'timestamp' is missing \(columns found: user_id, item_id\)",
            None,
        ),
        (table().iloc[:0], "the table is empty", None),
        (table(item_id=["a1", "b2"]), r"item_id a1 \(row 0\) is not in the item table \(2 such ids\)", 0),
        (table(user_id=[1.0, 2.5]), r"user_id must hold whole numbers or text, found 2\.5 in row 1", 1),
        (table(user_id=[True, False]), "user_id must hold whole numbers or text", 0),
        (table(user_id=pd.array([1, None], dtype="Int64")), "user_id is missing in row 1", 1),
        (table(item_id=np.array([10, 2**63], np.uint64)), "item_id 9223372036854775808 .* is not in", 1),
        (table(timestamp=[5, -6]), "timestamp -6 in row 1 is negative", 1),
        (table(timestamp=[np.nan, 6]), "timestamp is missing in row 0", 0),
        (table(timestamp=[5, 6.5]), r"timestamp 6\.5 in row 1 is not a whole number", 1),
        (table(timestamp=[5, np.inf]), "timestamp inf in row 1 is not a whole number", 1),
        (table(timestamp=["5", "6"]), "timestamp must be whole seconds", None),
        (table(timestamp=[True, False]), "timestamp must be whole seconds", None),
        (table(rating=[np.inf, 1]), "rating inf in row 0 is not finite", 0),
        (table(rating=[1, -1e300]), r"rating -1e\+300 in row 1 is not finite in 32 bits", 1),
        (table(rating=["good", "bad"]), "rating must hold numbers", None),
        (table(item_id=[10, 77]), r"item_id 77 \(row 1\) is not in the item table \(1 such ids\)", 1),
        (table(user_id=[5, 2]), r"user_id 5 \(row 0\) is not in the user table", 0),
    ],
)
def test_bad_interactions_are_named(changed, message, row):
    with pytest.raises(DataError, match=message) as error:
        Interactions(changed, ITEMS, USERS)
    assert error.value.row == row


def test_bad_item_and_user_tables_are_named():
    with pytest.raises(DataError, match=r"item table: item_id 10 appears twice \(again in row 3\)"):
        Interactions(table(), pd.concat([ITEMS, ITEMS[:1]]), USERS)
    with pytest.raises(DataError, match="item table: column 'title' is missing"):
        Interactions(table(), ITEMS[["item_id"]], USERS)
    with pytest.raises(DataError, match="user table: user_id 2 appears twice"):
        Interactions(table(), ITEMS, pd.concat([USERS, USERS[1:]]))


def test_duplicates_are_kept():
    twice = pd.concat([table(), table()])
    assert len(Interactions(twice, ITEMS, USERS)) == 4


def test_complete_adds_the_unknown_after_the_known():
    interactions = Interactions.complete(table(item_id=[40, 10]), ITEMS, USERS[:1])
    assert interactions.items["item_id"].tolist() == [10, 20, 30, 40]
    assert interactions.items["title"].tolist() == ["a", "b", "c", "40"]
    assert interactions.items["genres"].isna().tolist() == [False, False, False, True]
    assert interactions.users["user_id"].tolist() == [1, 2]


def test_complete_needs_no_tables_and_keeps_what_is_complete():
    interactions = Interactions.complete(table())
    assert interactions.items["title"].tolist() == ["10", "20"]
    assert Interactions.complete(table(), ITEMS, USERS).items.equals(
        Interactions(table(), ITEMS, USERS).items
    )
    with pytest.raises(DataError, match="column 'item_id' is missing"):
        Interactions.complete(table().drop(columns="item_id"))
