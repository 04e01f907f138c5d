"""SparCode's protocol on MovieLens: a tenth of the users to choose, a tenth to test, five seeds, P, R and NDCG @20 and @50."""

from collections.abc import Callable, Mapping

import pandas as pd
import torch

from workbench.data import Sequences
from workbench.evaluation.user_split import Find, HeldOutUsers, UserSplit, by_searcher, judge, split_users
from workbench.models.model_store import TrainedModel
from workbench.search.brute_force import BruteForce
from workbench.studies.seeds import over_seeds as spread

KS = (20, 50)
METRICS = tuple(f"{name}@{k}" for k in KS for name in ("P", "R", "NDCG"))


def user_split_protocol(sequences: Sequences, seed: int = 0, min_items: int = 10) -> HeldOutUsers:
    """Users 8 : 1 : 1, drawn by `seed`; every rating counts; the first 80 % of a history, of which the last 20 items are
    read, predicts the rest.

    The paper (section 4.1) gives the ratio, the history of 20 and the cut-offs, but not which items are predicted: the last
    fifth, as under the protocol of the same ratio, history and cut-offs of ComiRec (Cen et al., KDD 2020, section 4).
    """
    tenth = max(1, int((sequences.lengths >= min_items).sum()) // 10)
    return HeldOutUsers(
        "user split",
        min_rating=0.0,
        min_items=min_items,
        validation_users=tenth,
        test_users=tenth,
        history=20,
        query_fraction=0.8,
        seed=seed,
    )


def over_seeds(
    sequences: Sequences, ways: Mapping[str, Callable[[UserSplit, int], Find]], seeds: int = 5
) -> pd.DataFrame:
    """The table of `evaluation.seeds.over_seeds` for ways of finding items.

    Each of `ways` gives, for a split and a seed, how items are found; the seed draws the users and the weights, the same users
    for all. Raises ValueError if `seeds` is below 1 or there is no way.
    """
    if seeds < 1 or not ways:
        raise ValueError(f"seeds must be at least 1, not {seeds}, and there must be a way of finding items")
    values: dict[str, list[pd.Series]] = {name: [] for name in ways}
    for seed in range(seeds):
        protocol = user_split_protocol(sequences, seed)
        split = split_users(sequences, protocol)
        for name, way in ways.items():
            values[name].append(judge(way(split, seed), split.held_out, protocol, KS)[list(METRICS)].mean())
    return spread({name: pd.DataFrame(rows) for name, rows in values.items()})


def by_brute_force(trained: TrainedModel) -> Find:
    """Finding by a trained retriever over the whole corpus."""
    retriever = trained.retriever()
    with torch.no_grad():
        items = retriever.item_state().to("cpu")
    return by_searcher(retriever, BruteForce(retriever.similarity, items))
