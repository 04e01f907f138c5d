"""How queries and items are cut so that the memory of scoring stays under a budget, whatever B and N are."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.contracts import ItemState, QueryState, Similarity

DEFAULT_BUDGET = 256 * 2**20
"""Bytes beyond the item state and the result."""

CACHE_BYTES = 8 * 2**20
"""Temporaries of one tile on a CPU: where they stay in cache, MoL scores three to four times faster (measured)."""

BLOCK_BYTES = 24
"""Bytes per pair of a block while its scores are put together, masked and ranked."""

SMALLEST_TILE = 64
"""Items of a tile below which queries are cut instead: narrower matrix products waste the processor."""


@dataclass(frozen=True)
class Tiling:
    """`queries` are handled together; their scores are ranked `block` items at a time, computed `tile` items at a time."""

    queries: int
    block: int
    tile: int


def _even(total: int, at_most: int) -> int:
    """The size of equal parts of `total`, each at most `at_most` and at least 1: no small remainder at the end."""
    parts = max(1, -(-total // max(1, at_most)))
    return -(-total // parts)


@lru_cache(maxsize=1024)
def tiling(
    pair_bytes: int,
    queries: int,
    items: int,
    device: torch.device,
    memory_budget: int = DEFAULT_BUDGET,
    query_bytes: int = 0,
    least_block: int = SMALLEST_TILE,
    whole_rows: bool = False,
) -> Tiling:
    """The cut for `queries` × `items` pairs of `pair_bytes` each, and `query_bytes` of other temporaries per query.

    Queries are cut before a block holds fewer than `least_block` items, if the budget allows that many. With
    `whole_rows` a block always spans the corpus: the scores of at least one query are held whatever the budget.
    Raises ValueError if the budget is not positive.
    """
    if memory_budget < 1:
        raise ValueError(f"memory_budget must be a positive number of bytes, not {memory_budget}")
    for_tile = memory_budget // 2 if device.type != "cpu" else min(memory_budget // 2, CACHE_BYTES)
    for_block = memory_budget - for_tile
    least = items if whole_rows else min(items, max(least_block, SMALLEST_TILE))
    together = min(
        for_tile // (min(items, SMALLEST_TILE) * pair_bytes),
        for_block // (query_bytes + BLOCK_BYTES * least),
    )
    together = max(1, _even(queries, together))
    block = items if whole_rows else _even(items, (for_block // together - query_bytes) // BLOCK_BYTES)
    return Tiling(together, block, _even(block, for_tile // (together * pair_bytes)))


def check_evaluation(similarity: Similarity) -> None:
    """Raise ValueError if dropout is on."""
    if similarity.training:
        raise ValueError(
            "the similarity is in training mode, where dropout makes scores random; call .eval() first"
        )


def score_block(
    similarity: Similarity, queries: QueryState, items: ItemState, tile: int
) -> Float[Tensor, "B M"]:
    """Every query against every item of a block (B, M), `tile` items at a time; ValueError if dropout is on."""
    check_evaluation(similarity)
    if tile >= len(items):
        return similarity.score(queries, items)
    starts = range(0, len(items), tile)
    return torch.cat([similarity.score(queries, items[start : start + tile]) for start in starts], dim=1)
