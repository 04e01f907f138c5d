"""MaxSim: every query component looks for its best match among the item's components (late interaction, ColBERT)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from workbench.contracts import ComponentSimilarity, ItemState, QueryState
from workbench.kernels.tiles import gathered_tiles
from workbench.similarities.dot import unit
from workbench.similarities.projections import ComponentsConfig, Projection, published_initialization
from workbench.similarities.registry import register
from workbench.similarities.rounding import combination_error, norms

PAIRS_AT_ONCE = 16384
"""Gathered pairs that are scored together."""


@dataclass(frozen=True)
class MaxSimConfig(ComponentsConfig):
    """Components as in `ComponentsConfig`, of unit length if `normalize`: MoL without its gate, to compare the two."""

    kind: ClassVar[str] = "maxsim"
    normalize: bool = True


@dataclass(frozen=True)
class MaxSimQueries(QueryState):
    """`components` (B, Pq, d), already divided by τ · Pq."""

    components: Float[Tensor, "B Pq d"]


@dataclass(frozen=True)
class MaxSimItems(ItemState):
    """`components` (N, Px, d)."""

    components: Float[Tensor, "N Px d"]


@register(MaxSimConfig, title="MaxSim", color="#009E73")
class MaxSim(ComponentSimilarity[MaxSimQueries, MaxSimItems]):
    """φ(q, x) = 1/Pq Σ_i max_j ⟨f_i(q), g_j(x)⟩ / τ: the mean, so that the scale is that of one inner product.

    Source: Khattab and Zaharia, "ColBERT" (2020), equation 3, with learned projections in the place of tokens.
    """

    def __init__(self, config: MaxSimConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        c = config
        self.query_network = Projection(
            c.query_projection, dim, c.query_hidden, c.query_groups * c.component_dim, 0.0
        )
        self.item_network = Projection(
            c.item_projection, dim, c.item_hidden, c.item_groups * c.component_dim, c.item_dropout
        )
        published_initialization(self)

    @property
    def pair_bytes(self) -> int:
        """Bytes of temporaries per pair in `score`: the component scores, twice, and their maxima."""
        return 4 * self.config.query_groups * (2 * self.config.item_groups + 1)

    def queries(
        self, embeddings: Float[Tensor, "B D"], user_ids: Int[Tensor, "B"] | None = None
    ) -> MaxSimQueries:
        """Query components (B, Pq, d); users are not looked at."""
        c = self.config
        q = F.layer_norm(embeddings, embeddings.shape[-1:], eps=1e-6) if c.query_layer_norm else embeddings
        components = self.query_network(q).unflatten(-1, (-1, c.component_dim))
        if c.normalize:
            components = unit(components)
        return MaxSimQueries(components / (c.temperature * c.query_groups))

    def items(self, embeddings: Float[Tensor, "N D"], ids: Int[Tensor, "N"]) -> MaxSimItems:
        """Item components (N, Px, d)."""
        components = self.item_network(embeddings).unflatten(-1, (-1, self.config.component_dim))
        return MaxSimItems(ids, unit(components) if self.config.normalize else components)

    def query_components(self, queries: MaxSimQueries) -> Float[Tensor, "B Pq d"]:
        """f_i(q), already divided by τ · Pq."""
        return queries.components

    def item_components(self, items: MaxSimItems) -> Float[Tensor, "N Px d"]:
        """g_j(x)."""
        return items.components

    def upper_bound(self, component_logits: Float[Tensor, "*S P"]) -> Float[Tensor, "*S"]:
        """Σ_i max_j s_ij: the score itself."""
        return component_logits.unflatten(-1, (self.config.query_groups, -1)).amax(-1).sum(-1)

    def score_error(
        self, queries: MaxSimQueries, item_norm: Float[Tensor, ""], dtype: torch.dtype
    ) -> Float[Tensor, "B"]:
        """The error of Pq inner products, and of adding them up."""
        lengths, (_, groups, width) = norms(queries.components).amax(1), queries.components.shape
        return combination_error(lengths, item_norm, width, groups, groups, dtype)

    def score(self, queries: MaxSimQueries, items: MaxSimItems) -> Float[Tensor, "B N"]:
        """φ for every pair (B, N); of as many components as the states hold."""
        grid = self.component_logits(queries, items).unflatten(-1, (queries.components.shape[1], -1))
        return grid.amax(-1).sum(-1)

    def score_candidates(
        self, queries: MaxSimQueries, items: MaxSimItems, rows: Int[Tensor, "B C"]
    ) -> Float[Tensor, "B C"]:
        """φ for chosen rows (B, C), in tiles of queries."""

        def matched(of_queries: Sequence[Tensor], of_items: Sequence[Tensor]) -> Float[Tensor, "t C"]:
            f, g = of_queries[0], of_items[0]  # (t, Pq, d), (t, C, Px, d)
            grid = torch.bmm(g.flatten(1, 2), f.transpose(1, 2)).unflatten(1, g.shape[1:3])  # (t, C, Px, Pq)
            return grid.amax(2).sum(-1)

        tile = max(1, PAIRS_AT_ONCE // max(1, rows.shape[1]))
        return gathered_tiles(matched, [queries.components], [items.components], rows, [], tile)

    def regularizers(
        self, queries: MaxSimQueries, items: MaxSimItems, rows: Int[Tensor, "B"]
    ) -> dict[str, Tensor]:
        """None."""
        return {}
