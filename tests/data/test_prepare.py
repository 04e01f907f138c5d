import dataclasses
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data.errors import DataError
from workbench.data.interactions import Interactions
from workbench.data.prepare import Preparation, prepare
from workbench.data.readers import read_movielens_1m, read_movielens_csv

rows = st.lists(st.tuples(st.integers(-3, 5), st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=60)
"""User, item, second: few of each, so that repeats and ties are common."""


def interactions_of(triples):
    table = pd.DataFrame(triples, columns=["user_id", "item_id", "timestamp"])
    table["rating"] = np.arange(len(triples), dtype=np.float32)  # the row number: it shows where a row went
    items = pd.DataFrame({"item_id": range(8), "title": [f"item {i}" for i in range(8)]})
    return Interactions.complete(table, items)


@given(rows)
def test_every_interaction_arrives_in_stable_time_order(triples):
    sequences = prepare(interactions_of(triples), "x").sequences
    expected = sorted(range(len(triples)), key=lambda row: (triples[row][0], triples[row][2]))
    assert sequences.ratings.tolist() == expected
    user_of = np.repeat(sequences.users["user_id"].to_numpy(), sequences.lengths)
    item_of = sequences.items["item_id"].to_numpy()[sequences.item_ids - 1]
    arrived = list(zip(user_of.tolist(), item_of.tolist(), sequences.timestamps.tolist(), strict=True))
    assert arrived == [triples[row] for row in expected]


@given(rows, st.integers(2, 4))
def test_the_k_core_is_the_largest_set_with_k_everywhere(triples, k):
    left = list(triples)
    while True:
        users, items = Counter(u for u, _, _ in left), Counter(i for _, i, _ in left)
        stays = [row for row in left if users[row[0]] >= k and items[row[1]] >= k]
        if stays == left:
            break
        left = stays
    if not left:
        with pytest.raises(DataError, match="leaves no interaction"):
            prepare(interactions_of(triples), "x", Preparation(k_core=k))
        return
    prepared = prepare(interactions_of(triples), "x", Preparation(k_core=k))
    sequences = prepared.sequences
    assert len(sequences.item_ids) == len(left)
    assert set(sequences.users["user_id"]) == {user for user, _, _ in left}
    assert set(sequences.items["item_id"]) == {item for _, item, _ in left}
    assert prepared.stages[-1].items == prepared.stages[-1].catalogue == sequences.num_items


def test_one_pass_counts_on_the_raw_rows_as_the_published_code_does():
    """User 1 has two rows, of which the rare item's goes; the published filter then drops the user, not the item."""
    triples = [(1, 0, 0), (1, 1, 1), (2, 0, 0), (2, 2, 1), (3, 2, 0), (3, 0, 1)]
    once = prepare(interactions_of(triples), "x", Preparation(k_core=2, passes=1))
    assert [dataclasses.astuple(stage)[1:] for stage in once.stages] == [(3, 3, 8, 6), (3, 2, 2, 5)]
    published = prepare(interactions_of(triples), "x", Preparation(k_core=2, passes=1, min_length=2))
    assert dataclasses.astuple(published.stages[-1])[1:] == (2, 2, 2, 4)
    assert published.sequences.users["user_id"].tolist() == [2, 3]


def test_the_catalogue_outlives_short_users_and_the_rated_corpus_does_not():
    triples = [(1, 0, 0), (1, 1, 1), (2, 5, 0)]
    for corpus, items in (("catalogue", 8), ("rated", 2)):
        sequences = prepare(interactions_of(triples), "x", Preparation(min_length=2, corpus=corpus)).sequences
        assert (sequences.num_users, sequences.num_items) == (1, items)
        assert sequences.item_ids.tolist() == [1, 2]


def test_duplicates_are_kept_unless_asked_for():
    triples = [(1, 0, 5), (1, 0, 5), (1, 0, 6), (2, 0, 5)]
    assert len(prepare(interactions_of(triples), "x").sequences.item_ids) == 4
    dropped = prepare(interactions_of(triples), "x", Preparation(duplicates="drop"))
    assert dropped.sequences.ratings.tolist() == [0, 2, 3]
    assert [stage.interactions for stage in dropped.stages] == [4, 3]


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from(["catalogue", "rated"]))
def test_dense_ids_run_without_gaps_in_the_order_of_source_ids(random_interactions, seed, corpus):
    sequences = prepare(random_interactions(seed, rows=80), "x", Preparation(corpus=corpus)).sequences
    assert sequences.items["item_id"].is_monotonic_increasing
    assert sequences.users["user_id"].is_monotonic_increasing
    assert (sequences.lengths > 0).all()
    assert len(sequences.items["title"]) == sequences.num_items >= sequences.item_ids.max()
    assert all(
        values.flags.writeable for values in (sequences.item_ids, sequences.timestamps, sequences.ratings)
    )


def test_times_too_far_apart_for_one_sort_key_are_sorted_too():
    triples = [(1, 0, 2**62), (0, 1, 2**61), (1, 2, 3), (0, 3, 0)]
    sequences = prepare(interactions_of(triples), "x").sequences
    assert sequences.timestamps.tolist() == [0, 2**61, 3, 2**62]


def test_without_ratings_they_are_nan():
    table = pd.DataFrame({"user_id": [1], "item_id": [2], "timestamp": [3]})
    assert np.isnan(prepare(Interactions.complete(table), "x").sequences.ratings).all()


@pytest.mark.parametrize(
    "wrong", [{"k_core": -1}, {"min_length": -1}, {"passes": 0}, {"corpus": "all"}, {"duplicates": "some"}]
)
def test_a_preparation_is_validated(wrong):
    with pytest.raises(
        (ValueError, TypeError), match=next(iter(wrong))
    ):  # TypeError: where types are checked
        Preparation(**wrong)


@pytest.mark.movielens
def test_real_movielens_1m_prepares_as_published(movielens_1m):
    interactions = read_movielens_1m(movielens_1m)
    prepared = prepare(interactions, "ml-1m")
    assert [dataclasses.astuple(stage)[1:] for stage in prepared.stages] == [(6_040, 3_706, 3_883, 1_000_209)]
    sequences = prepared.sequences
    assert sequences.lengths.min() == 20
    first = sequences.items["title"][sequences.item_ids[:1] - 1].item()
    assert first == "Girl, Interrupted (1999)"
    assert prepare(interactions, "ml-1m", Preparation(corpus="rated")).sequences.num_items == 3_706


@pytest.mark.movielens
def test_real_latest_small_in_its_5_core(movielens_small):
    prepared = prepare(read_movielens_csv(movielens_small), "ml", Preparation(k_core=5))
    counts = [np.bincount(prepared.sequences.item_ids)[1:], prepared.sequences.lengths]
    assert all(count.min() >= 5 for count in counts)
    assert prepared.stages[-1].interactions < prepared.stages[0].interactions == 100_836


@given(rows)
def test_ties_as_pandas_leaves_them_are_those_of_the_published_preprocessing(triples):
    check_pandas_order(triples)


def test_pandas_moves_ties_of_a_longer_table():
    draws = np.random.default_rng(0).integers(0, [5, 7, 40], (20_000, 3))
    triples = [tuple(row) for row in draws.tolist()]
    ratings = check_pandas_order(triples)
    assert ratings != prepare(interactions_of(triples), "x").sequences.ratings.tolist()


def check_pandas_order(triples):
    """The published code's own lines; the rows in their order."""
    given = interactions_of(triples)
    sequences = prepare(given, "x", Preparation(ties="pandas")).sequences
    groups = given.table.sort_values(by=["timestamp"]).groupby("user_id")
    ratings = sequences.ratings.tolist()
    assert ratings == [row for _, group in groups for row in group["rating"]]
    assert sequences.ties == "pandas"
    return ratings
