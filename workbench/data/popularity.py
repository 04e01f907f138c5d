"""How often each item was met, held-out items left out: the one rule that every count of popularity follows."""

import numpy as np
from numpy.typing import NDArray

from workbench.data.sequences import Sequences


def training_part(sequences: Sequences, held_out: int = 2) -> NDArray[np.bool_]:
    """Which interactions are for training: all but the last `held_out` of each user. bool (interactions,).

    2 leaves out the validation and the test item, 1 the test item alone, 0 nothing.
    """
    kept = np.ones(len(sequences.item_ids), dtype=bool)
    for last in range(1, held_out + 1):
        kept[sequences.offsets[1:][sequences.lengths >= last] - last] = False
    return kept


def popularity(sequences: Sequences, held_out: int = 2) -> NDArray[np.int64]:
    """Training interactions of each item (see `training_part`), in the order of ids: int64 (N,)."""
    ids = sequences.item_ids[training_part(sequences, held_out)]
    return np.bincount(ids, minlength=sequences.num_items + 1)[1:]


def most_popular(counts: NDArray[np.int64], most: int) -> NDArray[np.bool_]:
    """Which items are among the `most` most popular of these counts, the first of equal ones: bool (N,).

    >>> most_popular(np.array([5, 9, 5, 1]), 2).tolist()
    [True, True, False, False]
    """
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[np.argsort(-counts, kind="stable")[:most]] = True
    return chosen
