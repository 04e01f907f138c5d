"""Scores of gathered candidates in tiles of queries: bounded memory, activations recomputed for the gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

TileFunction = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


def gathered_tiles(
    function: TileFunction,
    queries: Sequence[Tensor],
    tables: Sequence[Tensor],
    rows: Int[Tensor, "B C"],
    parameters: Sequence[Tensor],
    tile: int,
) -> Float[Tensor, "B C"]:
    """function(queries, tables gathered at rows), computed `tile` queries at a time.

    Each of `queries` is (B, …), integers (without a gradient) too, each of `tables` (N, W, …); `function` sees (t, …) slices
    and (t, C, W, …) gathers and returns (t, C). `parameters`: what `function` uses besides, for the gradient. The gradient
    recomputes each tile with the random state and precision that it had, and adds into one buffer per table, so no tile
    costs a pass over the corpus (as checkpointing a gather would).
    """
    flat = [table.flatten(1) for table in tables]
    shapes = [table.shape[1:] for table in tables]
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*queries, *flat, *parameters)):
        plan = _Plan(function, shapes, tile, len(queries), len(flat))
        result: Tensor = _Gathered.apply(plan, rows, *queries, *flat, *parameters)  # type: ignore[no-untyped-call]
        return result
    parts = [_tile(function, [q[s : s + tile] for q in queries], flat, shapes, rows[s : s + tile])
             for s in _starts(rows, tile)]  # fmt: skip
    return torch.cat(parts)


def _starts(rows: Tensor, tile: int) -> range:
    """The first query of each tile; one (empty) tile if there are no queries."""
    return range(0, max(1, len(rows)), tile)


def _gather(table: Tensor, rows: Tensor, shape: torch.Size) -> Tensor:
    return table.index_select(0, rows.flatten()).view(*rows.shape, *shape)


def _tile(
    function: TileFunction,
    queries: list[Tensor],
    flat: Sequence[Tensor],
    shapes: Sequence[torch.Size],
    rows: Tensor,
) -> Tensor:
    return function(queries, [_gather(t, rows, s) for t, s in zip(flat, shapes, strict=True)])


class _Plan:
    def __init__(
        self, function: TileFunction, shapes: list[torch.Size], tile: int, num_queries: int, num_tables: int
    ) -> None:
        self.function, self.shapes, self.tile = function, shapes, tile
        self.num_queries, self.num_tables = num_queries, num_tables


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, rows: Tensor, *tensors: Tensor) -> Tensor:
        queries = tensors[: plan.num_queries]
        flat = tensors[plan.num_queries : plan.num_queries + plan.num_tables]
        device = rows.device.type
        ctx.plan = plan
        ctx.autocast = (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        ctx.states = []
        parts = []
        for start in _starts(rows, plan.tile):
            ctx.states.append(_random_state(device))
            here = slice(start, start + plan.tile)
            parts.append(_tile(plan.function, [q[here] for q in queries], flat, plan.shapes, rows[here]))
        ctx.save_for_backward(rows, *tensors)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        rows, *tensors = ctx.saved_tensors
        queries = tensors[: plan.num_queries]
        flat = tensors[plan.num_queries : plan.num_queries + plan.num_tables]
        parameters = tensors[plan.num_queries + plan.num_tables :]
        needed = ctx.needs_input_grad[2:]  # a frozen parameter, say, has no gradient
        totals = [torch.zeros_like(t) if need else None for t, need in zip(tensors, needed, strict=True)]
        device = rows.device.type
        with torch.random.fork_rng(devices=[rows.device] if device == "cuda" else [], device_type="cuda"):
            for index, start in enumerate(_starts(rows, plan.tile)):
                here = slice(start, start + plan.tile)
                _restore(device, ctx.states[index])
                leaves = [q[here].detach().requires_grad_(n) for q, n in zip(queries, needed, strict=False)]
                gathered = [
                    _gather(t.detach(), rows[here], s).requires_grad_()
                    for t, s in zip(flat, plan.shapes, strict=True)
                ]
                enabled, dtype = ctx.autocast
                with torch.enable_grad(), torch.autocast(device, dtype=dtype, enabled=enabled):
                    scores = plan.function(leaves, gathered)
                inputs = [*leaves, *gathered, *parameters]
                wanted = [i for i, need in enumerate(needed) if need]
                found = torch.autograd.grad(
                    scores, [inputs[i] for i in wanted], gradients[0][here], allow_unused=True
                )
                for i, gradient in zip(wanted, found, strict=True):
                    total = totals[i]
                    if gradient is None or total is None:
                        continue
                    if i < len(leaves):
                        total[here] = gradient
                    elif i < len(leaves) + len(gathered):
                        total.index_add_(0, rows[here].flatten(), gradient.flatten(2).flatten(0, 1))
                    else:
                        total += gradient
        return None, None, *totals


def _random_state(device: str) -> Tensor:
    return torch.cuda.get_rng_state() if device == "cuda" else torch.get_rng_state()


def _restore(device: str, state: Tensor) -> None:
    if device == "cuda":
        torch.cuda.set_rng_state(state)
    else:
        torch.set_rng_state(state)
