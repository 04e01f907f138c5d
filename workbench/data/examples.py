"""What a notebook can show of any dataset: whether its items have genres, and a user who makes an example."""

import numpy as np

from workbench.data.errors import DataError
from workbench.data.sequences import Part, Sequences

LONG = 8
"""Items that the history of an example has, if any user's is that long."""


def has_genres(sequences: Sequences) -> bool:
    """Whether any item has a genre."""
    return "genres" in sequences.items and bool(
        (sequences.items["genres"].fillna("").astype(str) != "").any()
    )


_NAMES = {"train": "training", "train and validation": "training"}


def example_user(sequences: Sequences, user: int = -1) -> int:
    """`user` itself, or for −1 the first user with at least `LONG` items before the test item (else the longest history).

    Raises DataError if `user` has no test item with a history before it, or nobody has one.
    """
    users = users_with(sequences, "test")
    if user == -1:
        histories = sequences.target_rows(users) - sequences.offsets[users]
        return int(users[np.argmax(np.minimum(histories, LONG))])
    if user not in users:
        raise DataError(
            f"user {user} of {sequences.name} has no item to predict: choose one with two interactions or more,"
            f" as {', '.join(map(str, users[:3]))}, or -1"
        )
    return user


def users_with(sequences: Sequences, part: Part) -> np.ndarray:
    """The users with a target of `part` and a history before it; DataError if there is none."""
    users = sequences.users_with(part)
    if not len(users):
        raise DataError(
            f"no user of {sequences.name} has a {_NAMES.get(part, part)} target and an interaction before it: there is nothing"
            " to predict"
        )
    return users
