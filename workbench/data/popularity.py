"""How often each item was met, held-out items left out: the one rule that every count of popularity follows."""

import numpy as np
from numpy.typing import NDArray

from workbench.data.sequences import Part, Sequences


def training_part(sequences: Sequences, part: Part | None = "train") -> NDArray[np.bool_]:
    """Which interactions `part` learns from, all before each user's first held-out one (None: all): bool (interactions,)."""
    if part is None:
        return np.ones(len(sequences.item_ids), dtype=np.bool_)
    places = np.arange(len(sequences.item_ids)) - np.repeat(sequences.offsets[1:], sequences.lengths)
    return places < -np.repeat(sequences.after(part), sequences.lengths)


def popularity(sequences: Sequences, part: Part | None = "train") -> NDArray[np.int64]:
    """Interactions of each item that `part` learns from (see `training_part`), in the order of ids: int64 (N,)."""
    ids = sequences.item_ids[training_part(sequences, part)]
    return np.bincount(ids, minlength=sequences.num_items + 1)[1:]


def most_popular(counts: NDArray[np.int64], most: int) -> NDArray[np.bool_]:
    """Which items are among the `most` most popular of these counts, the first of equal ones: bool (N,).

    >>> most_popular(np.array([5, 9, 5, 1]), 2).tolist()
    [True, True, False, False]
    """
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[np.argsort(-counts, kind="stable")[:most]] = True
    return chosen
