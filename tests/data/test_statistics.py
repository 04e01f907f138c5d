import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.data import statistics
from workbench.data.interactions import Interactions
from workbench.data.prepare import Stage, prepare

JANUARY, MARCH = 1_704_067_200, 1_709_251_200  # the first seconds of 2024-01-01 and 2024-03-01 UTC


@pytest.fixture(scope="module")
def shop():
    """Two users; item 1 is met three times (twice by user 1), item 3 never; two rows of user 1 share a second."""
    table = pd.DataFrame(
        {
            "user_id": [1, 1, 1, 2],
            "item_id": [1, 1, 2, 1],
            "timestamp": [JANUARY, JANUARY + 60, JANUARY + 60, MARCH],
        }
    )
    items = pd.DataFrame({"item_id": [1, 2, 3], "title": ["a", "b", "c"], "genres": ["x|y", "x", None]})
    return prepare(Interactions.complete(table, items), "shop").sequences


def test_stage_counts():
    table = statistics.stage_counts((Stage("as read", 2, 2, 3, 4), Stage("2-core", 1, 1, 1, 2)))
    assert table["density"].tolist() == [4 / 6, 2.0]
    assert table["stage"].tolist() == ["as read", "2-core"]


def test_summary(shop):
    values = statistics.summary(shop).set_index("measure")["value"]
    assert values["users"] == 2
    assert values["items with an interaction"] == 2
    assert values["median history"] == 2
    assert values["share of the most popular 1% of the catalogue"] == 0.75
    assert values["Gini index of popularity"] == 0.25


def test_length_distribution(shop):
    table = statistics.length_distribution(shop)
    assert table[["length", "users"]].values.tolist() == [[1, 1], [3, 1]]
    assert table["share_at_most"].tolist() == [0.5, 1.0]


def test_popularity(shop):
    table = statistics.popularity(shop)
    assert table["title"].tolist() == ["a", "b", "c"]
    assert table["interactions"].tolist() == [3, 1, 0]
    assert table["interaction_share"].tolist() == [0.75, 1.0, 1.0]
    assert table["item_share"].tolist() == [1 / 3, 2 / 3, 1.0]


def test_over_time_fills_quiet_periods(shop):
    table = statistics.over_time(shop, "month")
    assert table["start"].tolist() == [pd.Timestamp(2024, month, 1) for month in (1, 2, 3)]
    assert table["interactions"].tolist() == [3, 0, 1]
    assert table["users"].tolist() == [1, 0, 1]
    assert table["new_users"].tolist() == [1, 0, 1]
    assert table["new_items"].tolist() == [2, 0, 0]


@pytest.mark.parametrize("period", ["day", "week", "month", "quarter", "year"])
def test_every_interaction_falls_into_one_period(sequences, period):
    table = statistics.over_time(
        dataclasses.replace(sequences, timestamps=sequences.timestamps * 86_400 * 9), period
    )
    assert table["interactions"].sum() == len(sequences.item_ids)
    assert table["new_users"].sum() == sequences.num_users
    assert table["new_items"].sum() == len(np.unique(sequences.item_ids))
    assert table["start"].is_monotonic_increasing
    assert (table["users"] <= table["interactions"]).all()


def test_repeats(shop):
    table = statistics.repeats(shop)
    assert table["count"].tolist() == [1, 1, 1]
    assert table["share"].tolist() == [0.25, 0.25, 0.5]


def test_genre_shares(shop):
    table = statistics.genre_shares(shop)
    assert table["genre"].tolist() == ["x", "y", "(none)"]
    assert table["items"].tolist() == [2, 1, 1]
    assert table["interactions"].tolist() == [4, 3, 0]
    assert table["interaction_share"].tolist() == [1.0, 0.75, 0.0]


def test_without_genres_the_table_is_empty_but_has_its_columns(sequences):
    table = statistics.genre_shares(sequences)
    assert len(table) == 0
    assert "interaction_share" in table


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_gini_is_half_the_relative_mean_difference(counts):
    values = np.array(counts)
    index = statistics.gini(values)
    if values.sum() == 0:
        assert np.isnan(index)
        return
    differences = np.abs(values[:, None] - values[None, :]).mean()
    assert index == pytest.approx(differences / (2 * values.mean()), abs=1e-12)


def test_gini_of_nothing_is_undefined():
    assert np.isnan(statistics.gini(np.array([], dtype=np.int64)))


@pytest.mark.movielens
def test_real_latest_small(movielens_small):
    from workbench.data.readers import read_movielens_csv

    sequences = prepare(read_movielens_csv(movielens_small), "ml").sequences
    assert statistics.popularity(sequences)["title"][0] == "Forrest Gump (1994)"
    assert statistics.genre_shares(sequences)["genre"][0] == "Drama"
    assert statistics.over_time(sequences, "year")["start"].dt.year.tolist() == list(range(1996, 2019))
    assert statistics.repeats(sequences)["count"][0] == 0
