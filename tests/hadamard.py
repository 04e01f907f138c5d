"""A similarity, an encoder and a preset of a user's own, as a file of theirs would define them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from workbench import encoders, similarities
from workbench.contracts import Encoder, ItemState, QueryState, SequenceBatch, Similarity
from workbench.retriever import RetrieverConfig
from workbench.training.config import TrainingConfig
from workbench.training.preset import Preset
from workbench.training.presets import add_preset


@dataclass(frozen=True)
class HadamardConfig:
    """An MLP over q ∘ x, with `hidden` units."""

    kind: ClassVar[str] = "hadamard_mlp"
    hidden: int = 8


@dataclass(frozen=True)
class Queries(QueryState):
    """`vectors` (B, D)."""

    vectors: Tensor


@dataclass(frozen=True)
class Items(ItemState):
    """`vectors` (N, D)."""

    vectors: Tensor


@similarities.register(HadamardConfig, title="a Hadamard-MLP", label="Hadamard-MLP")
class HadamardMLP(Similarity):
    """φ(q, x) = ⟨q, x⟩ + MLP(q ∘ x)."""

    def __init__(self, config: HadamardConfig, dim: int) -> None:
        super().__init__()
        self.hidden = config.hidden
        self.mlp = nn.Sequential(nn.Linear(dim, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 1))

    @property
    def pair_bytes(self) -> int:
        return 4 * (self.hidden + self.mlp[0].in_features + 1)

    def queries(self, embeddings: Tensor, user_ids: Tensor | None) -> Queries:
        return Queries(embeddings)

    def items(self, embeddings: Tensor, ids: Tensor) -> Items:
        return Items(ids, embeddings)

    def _of(self, q: Tensor, x: Tensor) -> Tensor:
        product = q * x
        return product.sum(-1) + self.mlp(product)[..., 0]

    def score(self, queries: Queries, items: Items) -> Tensor:
        return self._of(queries.vectors[:, None], items.vectors)

    def score_candidates(self, queries: Queries, items: Items, rows: Tensor) -> Tensor:
        return self._of(queries.vectors[:, None], items.vectors[rows])

    def regularizers(self, queries: QueryState, items: ItemState, rows: Tensor) -> dict[str, Tensor]:
        return {}


@dataclass(frozen=True)
class RecentConfig:
    """The mean of the history up to each position, with the last item counted `weight` times."""

    kind: ClassVar[str] = "recent"
    weight: float = 2.0


@encoders.register(RecentConfig, title="Recent mean", marks=("dot", "star", "\\"))
class Recent(Encoder):
    """q_i = w(mean(e_1..e_i) + weight · e_i)."""

    objective = "next item"

    def __init__(self, config: RecentConfig, dim: int) -> None:
        super().__init__()
        self.weight = config.weight
        self.project = nn.Linear(dim, dim)

    def forward(self, embeddings: Tensor, batch: SequenceBatch) -> Tensor:
        count = torch.arange(1, embeddings.shape[1] + 1, device=embeddings.device)[:, None]
        out: Tensor = self.project(embeddings.cumsum(1) / count + self.weight * embeddings)
        return out

    def encode(self, embeddings: Tensor, batch: SequenceBatch) -> Tensor:
        rows = torch.arange(len(batch), device=embeddings.device)
        return self(embeddings, batch)[rows, batch.lengths - 1]


add_preset(
    Preset(
        "mine/recent-hadamard",
        "cyclic",
        RetrieverConfig(RecentConfig(), HadamardConfig(), dim=8, max_length=8),
        TrainingConfig(epochs=2, batch_size=16, learning_rate=1e-2),
        "a test",
    )
)
