"""Inner products with gathered candidates by whole matrix products, tile by tile: nothing of size (T, N) is ever held."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE_BYTES = {"cpu": 2**20, "cuda": 2**28}
"""Scores of one tile: on a CPU they are written, gathered from and forgotten while they are in its cache."""


def gathered_product(
    queries: Float[Tensor, "T D"], items: Float[Tensor, "N D"], rows: Int[Tensor, "T C"]
) -> Float[Tensor, "T C"]:
    """⟨queries_t, items_rows[t, c]⟩ (T, C), with a gradient for `queries` and `items`.

    A tile of queries is multiplied with all N items and the candidates' scores are picked out of the product; the gradient
    puts them back into a tile of zeros. Where C is not much smaller than N this is far faster than a gather of the items'
    vectors, and the adjoint is two matrix products instead of a scattered addition.

    >>> gathered_product(torch.tensor([[1.0, 2.0]]), torch.eye(2), torch.tensor([[1, 1, 0]])).tolist()
    [[2.0, 2.0, 1.0]]
    """
    device = queries.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        queries, items = queries.to(dtype), items.to(dtype)
    with torch.autocast(device, enabled=False):
        product: Tensor = _GatheredProduct.apply(queries, items, rows)  # type: ignore[no-untyped-call]
    return product


def _tiles(rows: Tensor, items: Tensor) -> list[slice]:
    size = max(1, TILE_BYTES.get(rows.device.type, 2**20) // (items.element_size() * len(items)))
    return [slice(start, start + size) for start in range(0, len(rows), size)]


class _GatheredProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, items: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(queries, items, rows)
        found = queries.new_empty(rows.shape)
        for tile in _tiles(rows, items):
            torch.gather(queries[tile] @ items.T, 1, rows[tile], out=found[tile])
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, items, rows = ctx.saved_tensors
        (gradient,) = gradients
        of_queries, of_items, _ = ctx.needs_input_grad
        to_queries = torch.empty_like(queries) if of_queries else None
        to_items = torch.zeros_like(items) if of_items else None
        for tile in _tiles(rows, items):
            scattered = gradient.new_zeros(len(rows[tile]), len(items))
            scattered.scatter_add_(1, rows[tile], gradient[tile])
            if to_queries is not None:
                torch.mm(scattered, items, out=to_queries[tile])
            if to_items is not None:
                to_items.addmm_(scattered.T, queries[tile])
        return to_queries, to_items, None
