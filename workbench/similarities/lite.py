"""LITE: a small network reads the whole matrix of component scores, rows first, then columns."""

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
from workbench.similarities.projections import ComponentsConfig, Projection, published_initialization
from workbench.similarities.registry import register

PAIRS_AT_ONCE = 16384
"""Gathered pairs that are scored together."""


@dataclass(frozen=True)
class LITEConfig(ComponentsConfig):
    """Components of unit length, as in `ComponentsConfig`; `hidden` m units a layer of the network that reads their scores.

    The mean of the components is divided by the temperature.
    Raises ValueError if `hidden` is below 1, or as `ComponentsConfig` does.
    """

    kind: ClassVar[str] = "lite"
    hidden: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, not {self.hidden}")


@dataclass(frozen=True)
class LITEQueries(QueryState):
    """`components` (B, Pq, d)."""

    components: Float[Tensor, "B Pq d"]


@dataclass(frozen=True)
class LITEItems(ItemState):
    """`components` (N, Px, d)."""

    components: Float[Tensor, "N Px d"]


@register(LITEConfig, title="LITE", color="#AA4499")
class LITE(Similarity[LITEQueries, LITEItems]):
    """φ(q, x) = mean of S / τ + ⟨w, column network(row network(S))⟩, S_ij = ⟨f_i(q), g_j(x)⟩.

    The row network takes each row of S (Px) to m numbers, the column network each column of the result (Pq) to m; both are a
    linear layer, a ReLU and a normalisation. w is 0 at the start, so that training corrects the mean.

    Source: Ji and others, "Efficient Document Ranking with Learnable Late Interactions" (2024), the separable form, with
    components in the place of token vectors. The score may fall where a component score grows, so no bound follows from the
    component scores: it is searched by brute force.
    """

    def __init__(self, config: LITEConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        c = config
        self.query_network = Projection(
            c.query_projection, dim, c.query_hidden, c.query_groups * c.component_dim, 0.0
        )
        self.item_network = Projection(
            c.item_projection, dim, c.item_hidden, c.item_groups * c.component_dim, c.item_dropout
        )
        self.row_network = nn.Linear(c.item_groups, c.hidden)
        self.column_network = nn.Linear(c.query_groups, c.hidden)
        self.output_weight = nn.Parameter(torch.empty(c.hidden * c.hidden))
        published_initialization(self)

    @property
    def pair_bytes(self) -> int:
        """Bytes of temporaries per pair in `score`: the component scores, and each layer before and after its ReLU."""
        c = self.config
        return 4 * (2 * c.query_groups * (c.item_groups + c.hidden) + 2 * c.hidden**2 + 1)

    def queries(
        self, embeddings: Float[Tensor, "B D"], user_ids: Int[Tensor, "B"] | None = None
    ) -> LITEQueries:
        """Query components (B, Pq, d); users are not looked at."""
        c = self.config
        q = F.layer_norm(embeddings, embeddings.shape[-1:], eps=1e-6) if c.query_layer_norm else embeddings
        return LITEQueries(unit(self.query_network(q).unflatten(-1, (-1, c.component_dim))))

    def items(self, embeddings: Float[Tensor, "N D"], ids: Int[Tensor, "N"]) -> LITEItems:
        """Item components (N, Px, d)."""
        components = self.item_network(embeddings).unflatten(-1, (-1, self.config.component_dim))
        return LITEItems(ids, unit(components))

    def score(self, queries: LITEQueries, items: LITEItems) -> Float[Tensor, "B N"]:
        """φ for every pair (B, N)."""
        f, g = queries.components, items.components
        flat = f.flatten(0, 1) @ g.flatten(0, 1).T  # (B·Pq, N·Px)
        grid = flat.view(len(f), f.shape[1], len(g), g.shape[1]).transpose(1, 2)  # (B, N, Pq, Px)
        return self._combined(grid, self._weights())

    def score_candidates(
        self, queries: LITEQueries, items: LITEItems, rows: Int[Tensor, "B C"]
    ) -> Float[Tensor, "B C"]:
        """φ for chosen rows (B, C), in tiles of queries."""
        weights = self._weights()

        def scored(of_queries: Sequence[Tensor], of_items: Sequence[Tensor]) -> Float[Tensor, "t C"]:
            f, g = of_queries[0], of_items[0]  # (t, Pq, d), (t, C, Px, d)
            grid = torch.bmm(g.flatten(1, 2), f.transpose(1, 2)).unflatten(1, g.shape[1:3])  # (t, C, Px, Pq)
            return self._combined(grid.transpose(2, 3), weights)

        tile = max(1, PAIRS_AT_ONCE // max(1, rows.shape[1]))
        return gathered_tiles(scored, [queries.components], [items.components], rows, weights, tile)

    def regularizers(
        self, queries: LITEQueries, items: LITEItems, rows: Int[Tensor, "B"]
    ) -> dict[str, Tensor]:
        """None."""
        return {}

    def _weights(self) -> list[Tensor]:
        rows, columns = self.row_network, self.column_network
        return [rows.weight, rows.bias, columns.weight, columns.bias, self.output_weight]

    def _combined(self, grid: Float[Tensor, "*S Pq Px"], weights: Sequence[Tensor]) -> Float[Tensor, "*S"]:
        """The score of a matrix of component scores."""
        row_weight, row_bias, column_weight, column_bias, output = weights
        by_row = _normalized(F.linear(grid, row_weight, row_bias))  # (…, Pq, m)
        by_column = _normalized(F.linear(by_row.transpose(-1, -2), column_weight, column_bias))  # (…, m, m)
        return grid.mean((-1, -2)) / self.config.temperature + by_column.flatten(-2) @ output


def _normalized(x: Float[Tensor, "*S m"]) -> Float[Tensor, "*S m"]:
    """ReLU, then mean 0 and variance 1."""
    return F.layer_norm(F.relu(x), x.shape[-1:])
