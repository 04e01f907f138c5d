"""The temporal split: nobody's future is in anybody's training."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from workbench.data.errors import DataError
from workbench.data.sequences import Cuts, Sequences

SHARE = 0.1


def split_by_time(sequences: Sequences, share: float = SHARE) -> Sequences:
    """The same interactions with a temporal split: the last `share` of all interactions are the test period, as many before
    them the validation period.

    A user's target is the first interaction of the period, and needs one before it; so a user may have both, one or no
    target. A leave-one-out split instead trains on what others did after a target: see "A Critical Study on Data Leakage in
    Recommender System Offline Evaluation" (Ji et al., ACM TOIS 2023).
    Raises ValueError for a share that is not in (0, .5), DataError for data without times or without a target of each part.
    """
    sequences.require_order("a temporal split")
    found = replace(sequences, cuts=cuts(sequences.timestamps, share))
    for part in ("train", "validation", "test"):
        if not len(found.users_with(part)):
            raise DataError(
                f"{sequences.name}: with {share:g} of the interactions in each period, no user has a {part} target and an"
                " interaction before it; choose another share, or leave-one-out"
            )
    return found


def cuts(timestamps: NDArray[np.int64], share: float) -> Cuts:
    """The times from which the last `share` of the interactions, and twice as many, are.

    Raises ValueError for a share that is not in (0, .5).

    >>> cuts(np.arange(100), 0.1)
    Cuts(validation=80, test=90)
    """
    if not 0 < share < 0.5:
        raise ValueError(f"the share of a period must be more than 0 and less than .5, not {share:g}")
    ordered = np.sort(timestamps)
    validation, test = (ordered[len(ordered) - max(1, round(n * share * len(ordered)))] for n in (2, 1))
    return Cuts(int(validation), int(test))
