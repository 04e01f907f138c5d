"""What notebooks show of odd datasets: genres if there are any, a user who makes an example."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from workbench.data import DataError, Interactions, Sequences, prepare
from workbench.data.examples import example_user, has_genres, users_with


def of_lengths(*lengths: int) -> Sequences:
    """A dataset whose users have these numbers of interactions, each with an item of its own."""
    users = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.arange(len(users))
    table = pd.DataFrame({"user_id": users, "item_id": rows, "timestamp": rows})
    return prepare(Interactions.complete(table), "mine").sequences


@pytest.mark.parametrize(
    ("lengths", "expected"), [((1, 2, 12, 9), 2), ((1, 2, 5, 4), 2), ((9,), 0), ((1, 1, 2), 2)]
)
def test_an_example_has_a_long_history_if_anybody_has(lengths: tuple[int, ...], expected: int) -> None:
    assert example_user(of_lengths(*lengths)) == expected


def test_a_chosen_user_is_checked() -> None:
    sequences = of_lengths(1, 2, 12)
    assert example_user(sequences, 1) == 1
    for user in (0, 3, -2):
        with pytest.raises(
            DataError, match=f"user {user} of mine has no item to predict: choose .* 1, 2, or -1"
        ):
            example_user(sequences, user)


def test_without_anybody_who_came_twice_there_is_nothing_to_predict() -> None:
    with pytest.raises(DataError, match="no user of mine has a test target and an interaction before it"):
        example_user(of_lengths(1, 1))
    with pytest.raises(DataError, match="no user of mine has a training target and an interaction before it"):
        users_with(of_lengths(3, 3), "train")


def test_genres_are_there_if_an_item_has_one() -> None:
    sequences = of_lengths(3)
    assert not has_genres(sequences)
    for genres, there in ((["", None, ""], False), (["", "a|b", ""], True)):
        assert has_genres(replace(sequences, items=sequences.items.assign(genres=genres))) == there
