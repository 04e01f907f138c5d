"""Hypencoder: the query becomes a small network, which reads the item's vector."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.contracts import ItemState, QueryState, Similarity
from workbench.kernels.tiles import gathered_tiles
from workbench.similarities.dot import unit
from workbench.similarities.projections import published_initialization
from workbench.similarities.registry import register

PAIRS_AT_ONCE = 16384
"""Gathered pairs that are scored together."""


@dataclass(frozen=True)
class HypencoderConfig:
    """`hidden` h units of the network that a query becomes; scores are divided by `temperature`.

    Raises ValueError if `hidden` is below 1 or `temperature` not positive.
    """

    kind: ClassVar[str] = "hypencoder"
    hidden: int = 8
    temperature: float = 0.05

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, not {self.hidden}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")


@dataclass(frozen=True)
class HypencoderQueries(QueryState):
    """A network per query: `weights` (B, h, D), `biases` (B, h), `outputs` (B, h), 1 + v divided by h τ."""

    weights: Float[Tensor, "B h D"]
    biases: Float[Tensor, "B h"]
    outputs: Float[Tensor, "B h"]


@dataclass(frozen=True)
class HypencoderItems(ItemState):
    """`vectors` (N, D), of unit length."""

    vectors: Float[Tensor, "N D"]


@register(HypencoderConfig, title="a Hypencoder", label="Hypencoder", color="#882255")
class Hypencoder(Similarity[HypencoderQueries, HypencoderItems]):
    """φ(q, x) = Σ_k (1 + v_k(q)) ReLU(⟨w_k(q), x⟩ + b_k(q)) / (h τ): |w_k| = 1; w, b, v linear in the unit vector q.

    Source: Killingback, Zeng and Zamani, "Hypencoder: Hypernetworks for Information Retrieval" (2025), with one narrow hidden
    layer in the place of several as wide as the vectors, made from the pooled query by linear maps in the place of attention
    over its tokens. No bound follows from parts of the score: it is searched by brute force.
    """

    def __init__(self, config: HypencoderConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.weight_network = nn.Linear(dim, config.hidden * dim)
        self.bias_network = nn.Linear(dim, config.hidden)
        self.output_network = nn.Linear(dim, config.hidden)
        published_initialization(self)

    @property
    def pair_bytes(self) -> int:
        """Bytes of temporaries per pair in `score`: the hidden units, twice, and the score."""
        return 4 * (2 * self.config.hidden + 1)

    def queries(
        self, embeddings: Float[Tensor, "B D"], user_ids: Int[Tensor, "B"] | None = None
    ) -> HypencoderQueries:
        """The network that each query becomes; users are not looked at."""
        q = unit(embeddings)
        weights = unit(self.weight_network(q).unflatten(-1, (self.config.hidden, -1)))
        outputs = (1 + self.output_network(q)) / (self.config.hidden * self.config.temperature)
        return HypencoderQueries(weights, self.bias_network(q), outputs)

    def items(self, embeddings: Float[Tensor, "N D"], ids: Int[Tensor, "N"]) -> HypencoderItems:
        """Item vectors (N, D)."""
        return HypencoderItems(ids, unit(embeddings))

    def score(self, queries: HypencoderQueries, items: HypencoderItems) -> Float[Tensor, "B N"]:
        """Every network on every item (B, N)."""
        flat = torch.addmm(
            queries.biases.flatten(), items.vectors, queries.weights.flatten(0, 1).T
        )  # (N, B·h)
        hidden = F.relu(flat).unflatten(1, queries.biases.shape)  # (N, B, h)
        return torch.einsum("nbh,bh->bn", hidden, queries.outputs)

    def score_candidates(
        self, queries: HypencoderQueries, items: HypencoderItems, rows: Int[Tensor, "B C"]
    ) -> Float[Tensor, "B C"]:
        """φ for chosen rows (B, C), in tiles of queries."""

        def scored(of_queries: Sequence[Tensor], of_items: Sequence[Tensor]) -> Float[Tensor, "t C"]:
            weights, biases, outputs = of_queries
            hidden = F.relu(torch.baddbmm(biases[:, None], of_items[0], weights.transpose(1, 2)))  # (t, C, h)
            return torch.bmm(hidden, outputs[..., None])[..., 0]

        tile = max(1, PAIRS_AT_ONCE // max(1, rows.shape[1]))
        parts = [queries.weights, queries.biases, queries.outputs]
        return gathered_tiles(scored, parts, [items.vectors], rows, [], tile)

    def regularizers(
        self, queries: HypencoderQueries, items: HypencoderItems, rows: Int[Tensor, "B"]
    ) -> dict[str, Tensor]:
        """None."""
        return {}
