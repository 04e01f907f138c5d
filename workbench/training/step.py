"""One training step: encode, draw negatives, score valid positions, add regularizers."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.contracts import AlternatingSimilarity, SequenceBatch
from workbench.retriever import Retriever
from workbench.training.losses import Candidates, LossConfig, loss
from workbench.training.objectives import TrainingTargets

WHOLE_CORPUS = 50_000
"""Up to this many items the item side is computed for the whole corpus at each step; above, for the step's items alone."""
FEW = 4
"""It is computed for the step's items alone if the corpus is more than this many times larger."""


@dataclass(frozen=True)
class StepLosses:
    """`total` is what is minimised; `parts` are its terms by name, without gradient."""

    total: Float[Tensor, ""]
    parts: dict[str, float]


class TrainingStep(nn.Module):
    """A retriever with its loss as one module, so that data-parallel wrappers see every forward pass."""

    def __init__(self, retriever: Retriever, config: LossConfig) -> None:
        super().__init__()
        self.retriever, self.config = retriever, config

    def forward(
        self, batch: SequenceBatch, targets: TrainingTargets, candidates: Candidates | None
    ) -> StepLosses:
        """The losses of the T positions in `targets`: only these are scored, and items are prepared once for all."""
        retriever = self.retriever
        outputs = retriever(batch).flatten(0, 1).index_select(0, targets.positions)  # (T, D)
        queries = retriever.similarity.queries(outputs, targets.user_ids)
        ids, rows = self._items(targets.target_ids, candidates)
        items = retriever.item_state(ids)
        main = loss(self.config, retriever.similarity, queries, items, targets.target_ids, candidates, rows)
        terms = {"loss": main, **retriever.similarity.regularizers(queries, items, rows[targets.target_ids])}
        if isinstance(retriever.similarity, AlternatingSimilarity):
            retriever.similarity.on_batch(outputs.detach(), targets.target_ids)
        return StepLosses(
            torch.stack(list(terms.values())).sum(), {k: float(v.detach()) for k, v in terms.items()}
        )

    def _items(
        self, targets: Int[Tensor, "T"], candidates: Candidates | None
    ) -> tuple[Int[Tensor, "M"] | None, Int[Tensor, "R"]]:
        """The ids to prepare (None: all) and, for every id, its row among them."""
        count = self.retriever.num_items
        asked = 0 if candidates is None else len(targets) + candidates.ids.numel()
        if candidates is None or (count <= WHOLE_CORPUS and count <= FEW * asked):
            return None, torch.arange(-1, count, device=targets.device)
        ids = torch.cat([targets, candidates.ids.flatten()]).unique()
        rows = torch.zeros(count + 1, dtype=torch.long, device=targets.device)
        rows[ids] = torch.arange(len(ids), device=targets.device)
        return ids, rows
