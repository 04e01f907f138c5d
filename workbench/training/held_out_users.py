"""Protocols of held-out users on data: who trains, who is asked, and what a way of finding items is worth to them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from workbench.contracts import Searcher, SequenceBatch
from workbench.data import Sequences, batch_of
from workbench.data.subsets import first_counts, first_part, keep, of_users, rated_at_least
from workbench.evaluation.held_out_users import HeldOutUsers
from workbench.evaluation.relevant import Relevant, list_metrics
from workbench.retriever import Retriever

Find = Callable[[SequenceBatch, Int[Tensor, "B H"], int], Int[Tensor, "B K"]]
"""Item ids found for a batch of first parts, best first, −1 past the end; the second argument holds the ids to leave out."""
QUESTIONS = 250
"""Users that are asked for together."""


@dataclass(frozen=True)
class UserSplit:
    """A dataset cut by users: `training` has its users' whole histories, `held_out` those of the part that is asked."""

    training: Sequences
    held_out: Sequences


def split_users(sequences: Sequences, protocol: HeldOutUsers) -> UserSplit:
    """The training users and the users of the protocol's part; those of the other part are in neither.

    Raises ValueError where fewer users remain than are to be held out, and one more.
    """
    liked = rated_at_least(sequences, protocol.least_rating)
    users = np.flatnonzero(liked.lengths >= protocol.least_items)
    held = protocol.validation_users + protocol.test_users
    if len(users) <= held:
        raise ValueError(
            f"{sequences.name} has {len(users)} users with {protocol.least_items} interactions rated"
            f" {protocol.least_rating:g} or more; {held} are to be held out: hold out fewer"
        )
    order = np.random.default_rng(protocol.seed).permutation(users)
    validation, test = order[: protocol.validation_users], order[protocol.validation_users : held]
    asked = validation if protocol.part == "validation" else test
    return UserSplit(
        of_users(liked, np.sort(order[held:]), f"{sequences.name}-{protocol.part_name}"),
        of_users(liked, np.sort(asked), f"{sequences.name}-{protocol.part_name}-{protocol.part}"),
    )


def relevant_items(held_out: Sequences, protocol: HeldOutUsers) -> Relevant:
    """What comes after the asked part of each user, each item once."""
    second = keep(held_out, ~first_part(held_out, protocol.asked), held_out.name)
    users = np.repeat(np.arange(second.num_users), second.lengths)
    pairs = np.unique(users * (held_out.num_items + 1) + second.item_ids)
    counts = np.bincount(pairs // (held_out.num_items + 1), minlength=second.num_users)
    return Relevant(np.concatenate([[0], counts.cumsum()]), pairs % (held_out.num_items + 1))


def ask(find: Find, held_out: Sequences, k: int, protocol: HeldOutUsers) -> Int[Tensor, "U K"]:
    """What `find` gives for each user's first part, of which an encoder reads the last `history` items and all are left out."""
    first = first_part(held_out, protocol.asked)
    # The item after it is the target that a batch is made with; nothing is asked of it.
    first[held_out.offsets[:-1] + first_counts(held_out, protocol.asked)] = True
    asked = keep(held_out, first, held_out.name)
    found = []
    for start in range(0, asked.num_users, QUESTIONS):
        users = np.arange(start, min(start + QUESTIONS, asked.num_users))
        batch = batch_of(asked, users, 0, protocol.history)
        last = batch.timestamps.gather(1, batch.lengths[:, None] - 1)[:, 0]  # no time of the target
        whole = torch.from_numpy(asked.history(users, 0))
        found.append(find(replace(batch, target_timestamps=last), whole, k))
    return torch.cat(found)


def judge(find: Find, held_out: Sequences, protocol: HeldOutUsers, ks: tuple[int, ...]) -> pd.DataFrame:
    """One row per held-out user, columns as `list_metrics` gives them for `ks`."""
    found = ask(find, held_out, max(ks), protocol)
    return list_metrics(found.cpu().numpy(), relevant_items(held_out, protocol), ks)


def by_searcher(retriever: Retriever, searcher: Searcher) -> Find:
    """Finding by a retriever's queries in a searcher."""

    def find(batch: SequenceBatch, exclude: Int[Tensor, "B H"], k: int) -> Int[Tensor, "B K"]:
        with torch.no_grad():
            queries = retriever.query_state(batch.to(retriever.device))
        return searcher.search(queries, k, exclude.to(retriever.device)).ids.cpu()

    return find
