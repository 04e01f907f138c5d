"""One hidden layer over pairs, forwards and backwards: in C++ on a CPU, else in tiles that stay in a processor's cache."""

import ctypes
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.kernels.native import library, reads, struct

SOURCE = Path(__file__).with_name("pairwise_mlp.cpp")

TILE = 2**17
"""Hidden values that are held at once: half a megabyte."""


def hidden_layer(
    rows: Float[Tensor, "t K h"],
    columns: Float[Tensor, "t C h"],
    pairs: Float[Tensor, "t K C p"],
    of_pairs: Float[Tensor, "h p"],
    output: Float[Tensor, "1 h"],
    bias: Float[Tensor, "1"],
) -> Float[Tensor, "t K C"]:
    """output · ReLU(rows_k + columns_c + of_pairs · pairs_kc) + bias for every k and c of each group t.

    The hidden values (t, K, C, h) never exist as a whole; the gradient computes them again.

    >>> one = torch.ones
    >>> hidden_layer(one(1, 1, 2), -one(1, 1, 2), one(1, 1, 1, 1), 3 * one(2, 1), one(1, 2), one(1)).tolist()
    [[[7.0]]]
    """
    if torch.is_grad_enabled():
        result: Tensor = _Hidden.apply(rows, columns, pairs, of_pairs, output, bias)  # type: ignore[no-untyped-call]
        return result
    return _forward(rows, columns, pairs, of_pairs, output, bias)


def _tiles(rows: Tensor, columns: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of groups and of rows: several whole groups if they are small, else some rows of one."""
    t, k, h = rows.shape
    group = max(1, k * columns.shape[1] * h)
    if group <= TILE:
        step = max(1, TILE // group)
        yield from ((slice(s, s + step), slice(0, k)) for s in range(0, t, step))
        return
    step = max(1, TILE // max(1, columns.shape[1] * h))
    yield from ((slice(g, g + 1), slice(s, s + step)) for g in range(t) for s in range(0, k, step))


def _values(rows: Tensor, columns: Tensor, pairs: Tensor, of_pairs: Tensor) -> Tensor:
    """ReLU of the sums of one tile, with its first three dimensions as one."""
    sums = (rows[:, :, None] + columns[:, None]).flatten(0, 2)
    return sums.addmm_(pairs.flatten(0, 2), of_pairs.T).relu_()


_INTEGERS = ("groups", "rows", "columns", "hidden", "products", "threads")
_INPUTS = ("of_rows", "of_columns", "pairs", "of_pairs", "output", "bias")
_OUTPUTS = ("result", "above", "to_rows", "to_columns", "to_pairs", "to_of_pairs", "to_output")
_Problem = struct(_INTEGERS, (*_INPUTS, *_OUTPUTS))
"""`struct Problem` of pairwise_mlp.cpp."""


@cache
def _library() -> ctypes.CDLL | None:
    return library(SOURCE)


def _run(given: tuple[Tensor, ...], *made: Tensor | None) -> None:
    native = _library()
    assert native is not None
    kept = [t.detach().contiguous() for t in given]  # alive while the library reads them
    rows, pairs = kept[0], kept[2]
    problem = _Problem(
        *(*pairs.shape[:3], rows.shape[2], pairs.shape[3], torch.get_num_threads()),
        *(t.data_ptr() for t in kept),
        *(None if t is None else t.data_ptr() for t in made),
    )
    if native.pairwise_mlp(ctypes.byref(problem)):
        raise MemoryError("no memory for a hidden layer over pairs")


def _forward(
    rows: Tensor, columns: Tensor, pairs: Tensor, of_pairs: Tensor, output: Tensor, bias: Tensor
) -> Tensor:
    result = pairs.new_empty(pairs.shape[:-1])
    given = (rows, columns, pairs, of_pairs, output, bias)
    if reads(*given) and _library() is not None:
        if result.numel():
            _run(given, result, None, None, None, None, None, None)
        return result
    for g, k in _tiles(rows, columns):
        values = _values(rows[g, k], columns[g], pairs[g, k], of_pairs)
        result[g, k] = torch.mv(values, output[0]).view(result[g, k].shape)
    return result.add_(bias)


class _Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return _forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, pairs, of_pairs, output, bias = ctx.saved_tensors
        (above,) = gradients
        to_rows, to_columns, to_pairs = (
            torch.empty_like(rows, memory_format=torch.contiguous_format),
            torch.zeros_like(columns, memory_format=torch.contiguous_format),
            torch.empty_like(pairs, memory_format=torch.contiguous_format),
        )
        to_weights, to_output = of_pairs.new_zeros(of_pairs.shape), output.new_zeros(output.shape)
        if reads(*ctx.saved_tensors, above) and _library() is not None:
            above, made = above.contiguous(), (to_rows, to_columns, to_pairs, to_weights, to_output)
            if above.numel():
                _run(ctx.saved_tensors, None, above, *made)
            else:
                to_rows.zero_()
            return *made, above.sum().view_as(bias)
        for g, k in _tiles(rows, columns):
            some = pairs[g, k]
            values = _values(rows[g, k], columns[g], some, of_pairs)
            here = above[g, k].reshape(-1)
            to_output[0].add_(torch.mv(values.T, here))
            inside = torch.ops.aten.threshold_backward(
                torch.outer(here, output[0]), values, 0
            )  # before the ReLU
            to_pairs[g, k] = (inside @ of_pairs).view(some.shape)
            to_weights.addmm_(inside.T, some.flatten(0, 2))
            inside = inside.view(*some.shape[:-1], len(of_pairs))
            to_rows[g, k] = inside.sum(2)
            to_columns[g] += inside.sum(1)
        return to_rows, to_columns, to_pairs, to_weights, to_output, above.sum().view_as(bias)
