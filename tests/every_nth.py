"""A searcher of a user's own, as a file of theirs would define it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from workbench.contracts import ItemState, QueryState, Searcher, Similarity, TopK
from workbench.search import registry


@dataclass(frozen=True)
class EveryNthSettings:
    """Only one item in every `step` is scored."""

    kind: ClassVar[str] = "every-nth"
    step: int = 2


@registry.register(EveryNthSettings, title="one item in every few", label="every nth", color="#123456")
class EveryNth(Searcher):
    """The best k of a part of the corpus."""

    def __init__(self, settings: EveryNthSettings, similarity: Similarity, items: ItemState) -> None:
        self.similarity, self.items = similarity, items[:: settings.step]

    def search(
        self, queries: QueryState, k: int, exclude: Tensor | None = None, allowed: Tensor | None = None
    ) -> TopK:
        scores = self.similarity.score(queries, self.items)
        if exclude is not None:
            scores = scores.masked_fill(
                (self.items.ids[None, :, None] == exclude[:, None]).any(2), -torch.inf
            )
        best, rows = scores.topk(min(k, len(self.items)))
        best = torch.nn.functional.pad(best, (0, k - best.shape[1]), value=-torch.inf)
        ids = torch.nn.functional.pad(self.items.ids[rows], (0, k - rows.shape[1]), value=-1)
        unknown = torch.full((len(queries),), torch.inf)
        scored = torch.full((len(queries),), len(self.items))
        return TopK(best, ids.where(best > -torch.inf, -1), torch.zeros(len(queries)).bool(), unknown, scored)

    def upsert(self, items: ItemState) -> None:
        raise NotImplementedError("build it again")

    def remove(self, ids: Tensor) -> None:
        raise NotImplementedError("build it again")
