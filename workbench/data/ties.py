"""Ties in time: interactions of one user with the same timestamp, whose order no data can settle."""

from dataclasses import replace

import numpy as np

from workbench.data.sequences import Sequences


def shuffle_ties(sequences: Sequences, random: np.random.Generator) -> Sequences:
    """The same interactions, those of a user with equal timestamps in a random order; all orders are equally likely.

    Whatever has another timestamp, or another user, keeps its place.
    """
    users = np.repeat(np.arange(sequences.num_users), sequences.lengths)
    order = np.lexsort((random.random(len(users)), sequences.timestamps, users))
    return replace(
        sequences, item_ids=sequences.item_ids[order], ratings=sequences.ratings[order], ties="shuffled"
    )


def moved_targets(sequences: Sequences, other: Sequences) -> float:
    """The share of users with a history and a target whose last item differs between two orders of the same interactions."""
    users = sequences.users_with("test")
    last = sequences.target_rows(users)
    return float((sequences.item_ids[last] != other.item_ids[last]).mean()) if len(users) else float("nan")
