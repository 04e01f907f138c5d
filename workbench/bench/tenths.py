"""SparCode's protocol on MovieLens: a tenth of the users to choose, a tenth to test, five seeds, P, R and NDCG @20 and @50."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from workbench.data import Sequences
from workbench.evaluation.held_out_users import HeldOutUsers
from workbench.search.brute_force import BruteForce
from workbench.training.held_out_users import UserSplit, by_searcher, judge, split_users
from workbench.training.shelf import Shelved

KS = (20, 50)
METRICS = tuple(f"{name}@{k}" for k in KS for name in ("P", "R", "NDCG"))


def tenths(sequences: Sequences, seed: int = 0, least_items: int = 10) -> HeldOutUsers:
    """Users 8 : 1 : 1, drawn by `seed`; every rating counts; the last 20 items of a first half are read.

    The paper (section 4.1) says the ratio and the history of 20; not which items are asked for: here the second half.
    """
    tenth = max(1, int((sequences.lengths >= least_items).sum()) // 10)
    return HeldOutUsers(
        "tenths of users",
        least_rating=0.0,
        least_items=least_items,
        validation_users=tenth,
        test_users=tenth,
        history=20,
        seed=seed,
    )


def over_seeds(
    sequences: Sequences, train: Callable[[UserSplit, int], Shelved], seeds: int = 5
) -> pd.DataFrame:
    """Mean and deviation of each metric over seeds: `metric`, `mean`, `deviation`, `seeds`.

    `train` gives the trained retriever of a split and a seed: the seed draws the users and the weights. The deviation is
    that of a sample (n − 1); NaN for one seed. Raises ValueError where `seeds` is below 1.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, not {seeds}")
    rows = []
    for seed in range(seeds):
        protocol = tenths(sequences, seed)
        split = split_users(sequences, protocol)
        retriever = train(split, seed).retriever()
        find = by_searcher(retriever, BruteForce(retriever.similarity, retriever.item_state().to("cpu")))
        rows.append(judge(find, split.held_out, protocol, KS)[list(METRICS)].mean())
    values = pd.DataFrame(rows)
    deviation = values.std(ddof=1) if seeds > 1 else pd.Series(np.nan, index=values.columns)
    return pd.DataFrame(
        {
            "metric": METRICS,
            "mean": values.mean().to_numpy(),
            "deviation": deviation.to_numpy(),
            "seeds": seeds,
        }
    )
