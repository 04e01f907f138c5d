"""What a baseline is: scores of all items for a history."""

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.contracts import NO_ITEM, SequenceBatch
from workbench.search.topk import NO_SCORE, mask_rows


class Baseline(ABC):
    """A plain recommender: counts, a closed form, or a vector per user and item."""

    @abstractmethod
    def scores(
        self, histories: Int[Tensor, "B H"], users: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B N"]:
        """The score of every item, in the order of ids 1..N, for histories of item ids that are padded with 0.

        `users`: their dense ids, for baselines that know users by them. −inf for an item without a score.
        """

    @final
    def find(self, batch: SequenceBatch, exclude: Int[Tensor, "B H"], k: int) -> Int[Tensor, "B K"]:
        """The ids of the `k` best items for each history `exclude`, whose items are left out.

        Items that score −inf are not returned: −1 takes their place.
        """
        scores = self.scores(exclude, batch.user_ids)
        mask_rows(scores, exclude - 1)
        order = scores.sort(dim=1, descending=True, stable=True)
        best, rows = order.values[:, :k], order.indices[:, :k]
        ids = torch.where(best > NO_SCORE, rows + 1, NO_ITEM)
        return torch.nn.functional.pad(ids, (0, k - ids.shape[1]), value=NO_ITEM)
