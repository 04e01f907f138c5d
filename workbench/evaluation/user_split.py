"""Protocols of held-out users: which users train, which are queried, and how well a searcher serves the latter."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.contracts import Searcher, SequenceBatch
from workbench.data import Sequences, batch_of
from workbench.data.subsets import first_counts, first_part, keep, of_users, rated_at_least
from workbench.evaluation.relevant import Relevant, list_metrics
from workbench.retriever import Retriever

Find = Callable[[SequenceBatch, Int[Tensor, "B H"], int], Int[Tensor, "B K"]]
"""Item ids found for a batch of first parts, best first, −1 past the end; the second argument holds the ids to exclude."""
QUESTIONS = 250
"""Users per batch of queries."""


@dataclass(frozen=True)
class HeldOutUsers:
    """Which interactions count, which users are held out, and which of their items are predicted.

    Interactions rated below `min_rating` are left out, then users with fewer than `min_items` of the rest. Of those that
    remain `validation_users` and `test_users` are drawn by `seed` and held out whole; the others train. Of a held-out user the
    first `query_fraction`, at most its last `history` items, is the query; the rest is relevant, the first part no candidate.
    Raises ValueError if a value is out of its range.
    """

    name: str = "held-out users"
    min_rating: float = 4.0
    min_items: int = 10
    validation_users: int = 1000
    test_users: int = 1000
    history: int = 69
    query_fraction: float = 0.5
    part: Literal["validation", "test"] = "test"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.part not in ("validation", "test"):
            raise ValueError(f"part must be validation or test, not {self.part!r}")
        if self.min_items < 2:
            raise ValueError(f"two halves need at least 2 items, not {self.min_items}")
        if not 0 < self.query_fraction < 1:
            raise ValueError(f"query_fraction must lie between 0 and 1, not {self.query_fraction}")
        if min(self.validation_users, self.test_users, self.history) < 1:
            raise ValueError(
                f"validation_users, test_users and history must be at least 1, not {self.validation_users},"
                f" {self.test_users} and {self.history}"
            )

    @property
    def part_name(self) -> str:
        """The name of the training users' part of a dataset: "halves", or "first-80" for another share, in percent."""
        return "halves" if self.query_fraction == 0.5 else f"first-{100 * self.query_fraction:.0f}"

    @property
    def _first(self) -> str:
        return "first half" if self.query_fraction == 0.5 else f"first {self.query_fraction:.0%}"

    def card(self) -> pd.DataFrame:
        """One row per setting: `setting`, `value`, `meaning`; printed with every result."""
        rows = [
            ("split", "held-out users", "whole users are held out: no interaction of theirs is trained on"),
            (
                "part",
                self.part,
                f"{self.validation_users} users for choices, {self.test_users} for the result",
            ),
            (
                "interactions",
                f"rated {self.min_rating:g} or more",
                "lower ratings are neither history nor relevant",
            ),
            ("users", f"{self.min_items} or more", "interactions that a user needs to be kept"),
            ("query", self._first, f"of the history in time order, its last {self.history} items at most"),
            ("relevant", "the rest", "every item of it; metrics per user, then averaged, F1 too"),
            ("history mask", self._first, "its items are no candidates"),
            ("corpus", "catalogue", "candidates are all rows of the item table, rated or not"),
            (
                "model choice",
                "other users",
                "epochs on training users' left-out items, settings on validation users",
            ),
        ]
        return pd.DataFrame(rows, columns=["setting", "value", "meaning"])

    def __str__(self) -> str:
        """The card in one line."""
        rest = "second" if self.query_fraction == 0.5 else "rest"
        return (
            f"{self.name}: {self.part} users, ratings of {self.min_rating:g} or more, {self._first} of the history (last"
            f" {self.history} items) for the {rest}, {self._first} masked, corpus catalogue"
        )


PAPER = HeldOutUsers()
"""Settings of the paper's MovieLens 20M runs (1,000 users each for validation and test)."""


@dataclass(frozen=True)
class UserSplit:
    """A dataset cut by users: `training` has its users' whole histories, `held_out` those of the users who are queried."""

    training: Sequences
    held_out: Sequences


def split_users(sequences: Sequences, protocol: HeldOutUsers) -> UserSplit:
    """The training users and the users of the protocol's part; those of the other part are in neither.

    Raises ValueError if fewer users remain than are to be held out, and one more.
    """
    liked = rated_at_least(sequences, protocol.min_rating)
    users = np.flatnonzero(liked.lengths >= protocol.min_items)
    held = protocol.validation_users + protocol.test_users
    if len(users) <= held:
        raise ValueError(
            f"{sequences.name} has {len(users)} users with {protocol.min_items} interactions rated"
            f" {protocol.min_rating:g} or more; {held} are to be held out: hold out fewer"
        )
    order = np.random.default_rng(protocol.seed).permutation(users)
    validation, test = order[: protocol.validation_users], order[protocol.validation_users : held]
    asked = validation if protocol.part == "validation" else test
    return UserSplit(
        of_users(liked, np.sort(order[held:]), f"{sequences.name}-{protocol.part_name}"),
        of_users(liked, np.sort(asked), f"{sequences.name}-{protocol.part_name}-{protocol.part}"),
    )


def relevant_items(held_out: Sequences, protocol: HeldOutUsers) -> Relevant:
    """The items after the first part of each user, each once."""
    second = keep(held_out, ~first_part(held_out, protocol.query_fraction), held_out.name)
    users = np.repeat(np.arange(second.num_users), second.lengths)
    pairs = np.unique(users * (held_out.num_items + 1) + second.item_ids)
    counts = np.bincount(pairs // (held_out.num_items + 1), minlength=second.num_users)
    return Relevant(np.concatenate([[0], counts.cumsum()]), pairs % (held_out.num_items + 1))


def ask(find: Find, held_out: Sequences, k: int, protocol: HeldOutUsers) -> Int[Tensor, "U K"]:
    """The lists of `find` for each user's first part; an encoder reads its last `history` items, and all of it is
    excluded."""
    first = first_part(held_out, protocol.query_fraction)
    # The item after it is the target that a batch needs; it is not used.
    first[held_out.offsets[:-1] + first_counts(held_out, protocol.query_fraction)] = True
    asked = replace(keep(held_out, first, held_out.name), cuts=None)  # split by users alone
    found = []
    for start in range(0, asked.num_users, QUESTIONS):
        users = np.arange(start, min(start + QUESTIONS, asked.num_users))
        batch = batch_of(asked, users, "test", protocol.history)
        whole = torch.from_numpy(asked.history(users))
        found.append(find(batch.at_last_interaction(), whole, k))
    return torch.cat(found)


def judge(find: Find, held_out: Sequences, protocol: HeldOutUsers, ks: tuple[int, ...]) -> pd.DataFrame:
    """One row per held-out user, columns as `list_metrics` gives them for `ks`."""
    found = ask(find, held_out, max(ks), protocol)
    return list_metrics(found.cpu().numpy(), relevant_items(held_out, protocol), ks)


def by_searcher(retriever: Retriever, searcher: Searcher, allowed: Bool[Tensor, "N"] | None = None) -> Find:
    """Finding by a retriever's queries in a searcher, among the items of `allowed` if it is given."""

    def find(batch: SequenceBatch, exclude: Int[Tensor, "B H"], k: int) -> Int[Tensor, "B K"]:
        with torch.no_grad():
            queries = retriever.query_state(batch.to(retriever.device))
        return searcher.search(queries, k, exclude.to(retriever.device), allowed).ids.cpu()

    return find
