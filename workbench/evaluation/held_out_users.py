"""Protocols of held-out users as values: the first part of their history for the rest; Deep Retrieval's is the default."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd


@dataclass(frozen=True)
class HeldOutUsers:
    """Which interactions count, which users are held out, and what is asked of them.

    Interactions rated below `least_rating` are left out, then users with fewer than `least_items` of the rest. Of those that
    remain `validation_users` and `test_users` are drawn by `seed` and held out whole; the others train. Of a held-out user the
    first `asked` share, at most its last `history` items, is the query; the rest is relevant, the first part no candidate.
    """

    name: str = "held-out users"
    least_rating: float = 4.0
    least_items: int = 10
    validation_users: int = 1000
    test_users: int = 1000
    history: int = 69
    asked: float = 0.5
    part: Literal["validation", "test"] = "test"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.part not in ("validation", "test"):
            raise ValueError(f"part must be validation or test, not {self.part!r}")
        if self.least_items < 2:
            raise ValueError(f"two halves need at least 2 items, not {self.least_items}")
        if not 0 < self.asked < 1:
            raise ValueError(f"asked must lie between 0 and 1, not {self.asked}")
        if min(self.validation_users, self.test_users, self.history) < 1:
            raise ValueError(
                f"validation_users, test_users and history must be at least 1, not {self.validation_users},"
                f" {self.test_users} and {self.history}"
            )

    @property
    def part_name(self) -> str:
        """What the training users' part of a dataset is called: "halves", or "80%" of another share."""
        return "halves" if self.asked == 0.5 else f"{self.asked:.0%}"

    @property
    def _first(self) -> str:
        return "first half" if self.asked == 0.5 else f"first {self.asked:.0%}"

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
                f"rated {self.least_rating:g} or more",
                "lower ratings are neither history nor relevant",
            ),
            ("users", f"{self.least_items} or more", "interactions that a user needs to be kept"),
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
        rest = "second" if self.asked == 0.5 else "rest"
        return (
            f"{self.name}: {self.part} users, ratings of {self.least_rating:g} or more, {self._first} of the history (last"
            f" {self.history} items) for the {rest}, {self._first} masked, corpus catalogue"
        )


PAPER = HeldOutUsers()
"""Settings of the paper's MovieLens 20M runs (1,000 users each for validation and test)."""
