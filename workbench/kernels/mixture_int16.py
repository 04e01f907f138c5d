"""Scores of Mixture-of-Logits from int16 components and weights, each with its own error, through ctypes: on a CPU with VNNI.

The caller chooses the scales and derives the error from them: `similarities.mol_int16`.
"""

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int16
from torch import Tensor

from workbench.kernels.native import library, struct

SOURCE = Path(__file__).with_name("mixture_int16.cpp")
INTERFACE = 1
"""`interface_version` of the source that this module speaks to."""

SWITCH = "WORKBENCH_INT16"
"""The environment variable that turns this off with 0."""

ROUGH = 1.5e-4
"""Relative error of the logistic function in the hidden units."""
PRECISE = 4e-6
"""Relative error of the logistic function in the gate, here and in `mixture.cpp`."""

_INTEGERS = ("queries", "items", "query_groups", "item_groups", "width", "hidden", "threads")
_POINTERS = (
    *("query_components", "item_components", "query_gate", "item_gate", "first", "last"),
    *("first_scale", "first_bias", "last_scale", "last_bias"),
    *("logit_step", "hidden_step", "slope", "offset", "lower", "upper"),
)
_Screen = struct(_INTEGERS, _POINTERS)
"""`struct Screen` of mixture_int16.cpp."""


class Int16Gate(NamedTuple):
    """The pair part of the gate: weights in int16, rows of an even number of columns; what 1 means in each row; biases."""

    first: Int16[Tensor, "H P"]
    first_scale: Float[Tensor, "H"]
    first_bias: Float[Tensor, "H"]
    last: Int16[Tensor, "P H"]
    last_scale: Float[Tensor, "P"]
    last_bias: Float[Tensor, "P"]


class Int16Queries(NamedTuple):
    """`components` int16 (B, Pq, d), d even, and `gate` (B, P) or None; what 1 means of a component score (`logit_step`) and of
    a hidden unit (`hidden_step`). The error of a score φ is slope · |π (s − φ)| + offset. All others float32 (B,)."""

    components: Int16[Tensor, "B Pq d"]
    gate: Float[Tensor, "B P"] | None
    logit_step: Float[Tensor, "B"]
    hidden_step: Float[Tensor, "B"]
    slope: Float[Tensor, "B"]
    offset: Float[Tensor, "B"]


@cache
def _library() -> ctypes.CDLL | None:
    found = library(SOURCE)
    return found if found is not None and found.interface_version() == INTERFACE else None


def tile() -> int:
    """Items of a tile; 0 if the processor has no VNNI for 512 bits, there is no compiler, or `WORKBENCH_INT16=0` is set."""
    if os.environ.get(SWITCH) == "0" or (found := _library()) is None:
        return 0
    return int(found.items_of_a_tile())


def tiles_for(items: int, groups: int, width: int) -> Int16[Tensor, "T Px w I 2"]:
    """Room for the components of that many items as the kernel reads them, see `fill`; nothing is written yet."""
    return torch.empty(-(-items // tile()), groups, -(-width // 2), tile(), 2, dtype=torch.int16)


def fill(tiles: Int16[Tensor, "T Px w I 2"], components: Int16[Tensor, "N Px d"]) -> None:
    """Write components into tiles of I items, pairs of numbers next to each other; zeros fill the last tile."""
    items, groups, width = components.shape
    even = components.new_zeros(len(tiles) * tiles.shape[3], groups, width + width % 2)
    even[:items, :, :width] = components
    tiles.copy_(even.view(len(tiles), -1, groups, tiles.shape[2], 2).permute(0, 2, 3, 1, 4))


def bounds(
    queries: Int16Queries,
    item_components: Int16[Tensor, "T Px w I 2"],
    item_gate: Float[Tensor, "N P"] | None,
    items: int,
    gate: Int16Gate,
    room: Float[Tensor, "R"] | None = None,
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Score less error, and score plus error, of each query with each of `items` items; only if `tile` is not 0.

    They are written into `room`, float32 of at least 2 B N numbers, if it is given.
    """
    b, query_groups, _ = queries.components.shape
    tiles, item_groups, width, _, _ = item_components.shape
    assert tiles * tile() >= items and (item_gate is None or len(item_gate) == items)
    lower, upper = (torch.empty(2 * b * items) if room is None else room[: 2 * b * items]).view(2, b, items)
    given = (
        *(queries.components, item_components, queries.gate, item_gate, gate.first, gate.last),
        *(gate.first_scale, gate.first_bias, gate.last_scale, gate.last_bias),
        *(queries.logit_step, queries.hidden_step, queries.slope, queries.offset, lower, upper),
    )
    held = [None if t is None else t.contiguous() for t in given]  # kept alive while the library reads them
    problem = _Screen(
        *(b, items, query_groups, item_groups, width, len(gate.first), torch.get_num_threads()),
        *(None if t is None else t.data_ptr() for t in held),
    )
    native = _library()
    assert native is not None
    if lower.numel() and native.mixture_int16(ctypes.byref(problem)):
        raise MemoryError("no memory for a tile of items")
    return lower, upper
