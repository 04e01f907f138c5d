import uuid

import numpy as np
import pandas as pd
import pytest

from workbench.data.errors import DataError
from workbench.data.ids import SourceIds, source_ids
from workbench.data.interactions import Interactions
from workbench.data.prepare import prepare


def interactions(user_ids, item_ids):
    return Interactions.complete(
        pd.DataFrame({"user_id": user_ids, "item_id": item_ids, "timestamp": range(len(item_ids))})
    )


def test_ids_of_any_kind_are_kept_as_written():
    emails, skus = ["zoe@x.org", "ann@x.org", "zoe@x.org"], ["007", "7", "SKU-1"]
    sequences = prepare(interactions(emails, skus), "shop").sequences
    assert sequences.users["user_id"].tolist() == ["ann@x.org", "zoe@x.org"]
    assert sequences.items["item_id"].tolist() == sequences.items["title"].tolist() == ["007", "7", "SKU-1"]
    assert sequences.item_ids.tolist() == [2, 1, 3]


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (pd.Series([3.0, 4.0]), [3, 4]),
        (pd.Series([1, 2**64 - 1], dtype="uint64"), ["1", "18446744073709551615"]),
        (pd.Series([1, 2], dtype="uint64"), [1, 2]),
        (pd.Series(["b", "a", "b"], dtype="category"), ["b", "a", "b"]),
        (pd.Series([b"caf\xc3\xa9"]), ["café"]),
        (pd.Series([uuid.UUID(int=5)]), ["00000000-0000-0000-0000-000000000005"]),
        (pd.Series(["007", "7"]), ["007", "7"]),
    ],
)
def test_each_kind_becomes_integers_or_text(values, kept):
    assert source_ids(values, "table", "item_id").tolist() == kept


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pd.Series([True, False]), "must hold whole numbers or text, but its type is bool"),
        (pd.Series([1.0, 2.5]), r"must hold whole numbers or text, found .*2\.5.* in row 1"),
        (pd.Series(pd.to_datetime(["2020-01-01"])), "its type is datetime64"),
        (pd.Series(["a", ""]), "item_id is missing in row 1"),
        (pd.Series([1.0, np.nan]), "item_id is missing in row 1"),
    ],
)
def test_what_identifies_nothing_is_refused(values, message):
    with pytest.raises(DataError, match=message):
        source_ids(values, "table", "item_id")


def test_tables_of_two_kinds_meet_as_text():
    table = pd.DataFrame({"user_id": [1, 1], "item_id": ["7", "x"], "timestamp": [1, 2]})
    items = pd.DataFrame({"item_id": [7, 8], "title": ["seven", None]})
    found = Interactions.complete(table, items)
    assert found.items["item_id"].tolist() == ["7", "8", "x"]
    assert found.items["title"].tolist() == ["seven", "8", "x"]


@pytest.fixture
def numbers():
    return SourceIds("item", "shop", pd.Index([5, 70, 2**62]), first=1)


@pytest.fixture
def texts():
    return SourceIds("user", "shop", pd.Index(["007", "7", "ann@x.org"]), first=0)


def test_ids_are_found_by_what_they_say(numbers, texts):
    assert numbers.find(["70", 5, np.int32(70), 6, "x", "070", None, 2**70, True]).tolist() == [
        2,
        1,
        2,
        0,
        0,
        0,
        0,
        0,
        0,
    ]
    assert numbers.find(np.array([2**62, 6])).tolist() == [3, 0]
    assert texts.find([7, "007", "ann@x.org", "ANN@x.org"]).tolist() == [1, 0, 2, -1]
    assert numbers.find([]).tolist() == texts.find([]).tolist() == []


def test_ids_go_to_dense_ones_and_back(numbers, texts):
    for ids in (numbers, texts):
        assert ids.to_source(ids.to_dense(ids.ids)).tolist() == ids.ids.tolist()
    with pytest.raises(IndexError, match=r"dense item ids of shop lie in 1\.\.3"):
        numbers.to_source([0])
    with pytest.raises(IndexError, match=r"dense user ids of shop lie in 0\.\.2"):
        texts.to_source(np.array([3]))


def test_unknown_ids_are_listed_with_similar_ones(texts):
    with pytest.raises(DataError) as error:
        texts.to_dense(["7", "Ann@X.org", "nobody"])
    assert str(error.value) == (
        "shop has no users 'Ann@X.org', 'nobody' (did you mean 'ann@x.org' for 'Ann@X.org'?)"
    )
    with pytest.raises(DataError, match=r"'n0', 'n1', 'n2', 'n3', 'n4' and 3 more$"):
        texts.to_dense([f"n{i}" for i in range(8)])


def test_the_lookups_of_a_prepared_dataset():
    sequences = prepare(interactions(["b", "a"], [10, 3]), "shop").sequences
    assert sequences.item_lookup.to_dense([3, "10"]).tolist() == [1, 2]
    assert sequences.user_lookup.to_source([0, 1]).tolist() == ["a", "b"]
    with pytest.raises(DataError, match=r"shop has no item '4'$"):
        sequences.item_lookup.to_dense([4])


def test_fingerprints_tell_text_ids_apart():
    found = {
        prepare(interactions(["u", "v"], items), "shop").sequences.fingerprint()
        for items in (["a", "bc"], ["ab", "c"], ["1", "2"], [1, 2])
    }
    assert len(found) == 4
