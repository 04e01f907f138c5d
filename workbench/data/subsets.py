"""Parts of a dataset: some users, some interactions, beginnings of histories."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from workbench.data.sequences import Sequences


def keep(sequences: Sequences, chosen: NDArray[np.bool_], name: str) -> Sequences:
    """The interactions that are `chosen`, bool (interactions,), of all users, under another name; items stay as they are.

    A user may be left with none. Raises ValueError if `chosen` has another length.
    """
    if len(chosen) != len(sequences.item_ids):
        raise ValueError(
            f"{len(chosen)} marks for {len(sequences.item_ids)} interactions of {sequences.name}"
        )
    before = np.concatenate([[0], chosen.cumsum()])
    return replace(
        sequences,
        name=name,
        offsets=before[sequences.offsets],
        item_ids=sequences.item_ids[chosen],
        timestamps=sequences.timestamps[chosen],
        ratings=sequences.ratings[chosen],
    )


def rated_at_least(sequences: Sequences, rating: float) -> Sequences:
    """The interactions with a rating of at least `rating`; all if nothing was rated (an interaction is then a like)."""
    if np.isnan(sequences.ratings).all():
        return sequences
    return keep(sequences, sequences.ratings >= rating, f"{sequences.name}-rated-{rating:g}")


def of_users(sequences: Sequences, users: NDArray[np.int64], name: str) -> Sequences:
    """Some users, in the given order, renumbered from 0; items are unchanged."""
    lengths = sequences.lengths[users]
    offsets = np.concatenate([[0], lengths.cumsum()])
    rows = np.repeat(sequences.offsets[users] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return replace(
        sequences,
        name=name,
        offsets=offsets,
        item_ids=sequences.item_ids[rows],
        timestamps=sequences.timestamps[rows],
        ratings=sequences.ratings[rows],
        users=sequences.users.iloc[users].reset_index(drop=True),
    )


def first_counts(sequences: Sequences, share: float = 0.5) -> NDArray[np.int64]:
    """The interactions in the first `share` of each user's, rounded up, but for one that is always left: int64 (U,).

    Raises ValueError if `share` does not lie between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, not {share}")
    whole = np.ceil(sequences.lengths * share - 1e-9).astype(np.int64)  # .8 · 10 is a little more than 8
    return np.minimum(whole, np.maximum(sequences.lengths - 1, 0))


def first_part(sequences: Sequences, share: float = 0.5) -> NDArray[np.bool_]:
    """Marks of the interactions that `first_counts` counts."""
    lengths = sequences.lengths
    place = np.arange(len(sequences.item_ids)) - np.repeat(sequences.offsets[:-1], lengths)
    return place < np.repeat(first_counts(sequences, share), lengths)
