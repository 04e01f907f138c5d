"""A trained retriever with the data it is analysed on, its item side computed once."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from workbench.anatomy.dissection import AS_TRAINED, Change, Dissection, dissect
from workbench.contracts import ItemState, QueryState
from workbench.data import Sequences
from workbench.models import recommend
from workbench.retriever import Retriever


@dataclass(frozen=True, eq=False)
class ModelView:
    """`method` names the retriever in figures ("HSTU + MoL"); `items` is its item side, row i for the dense id i + 1."""

    method: str
    retriever: Retriever
    sequences: Sequences
    items: ItemState

    @classmethod
    def of(cls, method: str, retriever: Retriever, sequences: Sequences) -> Self:
        """The retriever with these data; ValueError if their numbers of items differ."""
        if retriever.num_items != sequences.num_items:
            raise ValueError(
                f"{method} has {retriever.num_items:,} items and {sequences.name} has {sequences.num_items:,}"
            )
        with torch.no_grad():
            return cls(method, retriever, sequences, retriever.item_state())

    def queries(self, users: NDArray[np.int64]) -> QueryState:
        """The query states of `users` before their test item; ValueError if one has no history before it."""
        if len(users) and not 0 <= users.min() <= users.max() < self.sequences.num_users:
            raise ValueError(f"users are numbered 0..{self.sequences.num_users - 1} in {self.sequences.name}")
        return recommend.queries(self.retriever, self.sequences, users)

    def scores(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """φ of every item for each of `users`: float32 (B, N)."""
        with torch.no_grad():
            scores = self.retriever.similarity.score(self.queries(users), self.items)
        return scores.float().cpu().numpy()

    def dissect(self, user: int, change: Change = AS_TRAINED) -> Dissection:
        """One user's query against every item: a Dissection (N, P)."""
        whole = dissect(self.retriever.similarity, self.queries(np.array([user])), self.items, change)
        return Dissection(whole.logits[0], whole.weights[0])

    def target(self, user: int) -> int:
        """The dense id of the item that came next, the user's test item."""
        return int(self.sequences.targets(np.array(user)))

    def unseen(self, user: int) -> NDArray[np.bool_]:
        """Whether each item may be recommended to a user, bool (N,): all but those of the history before the test item.

        A test item that is already in the history is excluded, as in every measurement.
        """
        mask = np.ones(self.sequences.num_items, dtype=bool)
        mask[self.sequences.history(np.array([user]))[0] - 1] = False
        return mask


def rank(scores: NDArray[np.floating], item: int, unseen: NDArray[np.bool_]) -> int:
    """The place from 1 that item `item` (dense id) has, or would have, among the unseen items; ties in its favour.

    >>> rank(np.array([0.5, 0.9, 0.7]), 3, np.array([True, True, True]))
    2
    """
    return 1 + int((scores[unseen] > scores[item - 1]).sum())
