"""The pointwise attention of HSTU with its gradient, in C++ on a CPU (`hstu_attention.cpp`, compiled on demand).

From a block's projection to what its last linear layer reads, one history at a time: SiLU, scores with relative bias, values,
layer norm, gate and dropout. Only pairs of which the key is not after the query are computed, in blocks that stay in the
processor's cache; the gradient computes them again, and nothing of the size of all pairs exists. The torch version, for other
devices and dtypes and where there is no compiler, is the encoder's (`encoders/hstu.py`).

The gradients of the biases are summed history by history: the same bits whatever the number of threads.
"""

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from workbench.kernels.dropout import drop_threshold, signed
from workbench.kernels.mixture_native import OUT_OF_MEMORY
from workbench.kernels.native import library, reads, struct

SOURCE = Path(__file__).with_name("hstu_attention.cpp")
MOST_BUCKETS = 256
"""The library holds a bucket in one byte."""


@dataclass(frozen=True)
class AttentionShape:
    """H heads with queries and keys of width `qk_dim` and values of width `v_dim`; N, which scores are divided by; ε of the
    layer norm; the `dropout` probability (0 in evaluation) and the `seed` that decides what is dropped."""

    heads: int
    qk_dim: int
    v_dim: int
    padded_length: int
    eps: float
    dropout: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Events:
    """When what happened, for the jagged rows of all histories.

    `offsets` int64 (O = B + 1,) of the histories' rows; `buckets` uint8 (E,), the time buckets of the pairs of a query and a
    key that is not after it: i + 1 for the query in row i of its history, history after history.
    """

    offsets: Int[Tensor, "O"]
    buckets: UInt8[Tensor, "E"]


def events(
    offsets: Int[Tensor, "O"],
    seen_at: Int[Tensor, "T"],
    happened_at: Int[Tensor, "T"],
    bounds: Int[Tensor, "R"],
) -> Events:
    """The time bucket of each pair: how many of the `bounds` its query's `seen_at` and its key's `happened_at` reach apart.

    All int64, on a CPU; only if `serves`. One byte for each pair, for all heads and blocks. Raises ValueError if shapes
    do not agree, or if `bounds` do not rise, are not positive, or lie closer together than an eighth of an octave (equal ones
    may be).
    """
    lengths = offsets.diff()
    given = [t.contiguous() for t in (offsets, seen_at, happened_at, bounds)]
    if any(t.dtype != torch.int64 for t in given):
        raise ValueError(f"offsets, times and bounds must be int64, not {[t.dtype for t in given]}")
    if not len(seen_at) == len(happened_at) == offsets[-1] or offsets[0] != 0 or (lengths < 0).any():
        raise ValueError(
            f"offsets must rise from 0 to the number of rows, {len(seen_at)} and {len(happened_at)}"
        )
    if len(bounds) >= MOST_BUCKETS:
        raise ValueError(f"there may be {MOST_BUCKETS} time buckets, not {len(bounds) + 1}")
    buckets = torch.empty(int((lengths * (lengths + 1)).sum()) // 2, dtype=torch.uint8)
    native = _library()
    assert native is not None
    integers, pointers = (len(lengths), torch.get_num_threads()), [t.data_ptr() for t in given]
    status = native.time_buckets(
        *map(ctypes.c_int64, integers), *map(ctypes.c_void_p, pointers), ctypes.c_int64(len(bounds)),
        ctypes.c_void_p(buckets.data_ptr()),
    )  # fmt: skip
    if status == OUT_OF_MEMORY:
        raise MemoryError("no memory for the time buckets")
    if status:
        raise ValueError("bounds must rise, be positive, and be equal or an eighth of an octave apart")
    return Events(offsets, buckets)


def serves(*tensors: Tensor) -> bool:
    """Whether the C++ version takes these: float32 on a CPU, and the library is there."""
    return reads(*tensors) and _library() is not None


def hstu_attention(
    projected: Float[Tensor, "T W"],
    position: Float[Tensor, "S"],
    time: Float[Tensor, "R"],
    events: Events,
    shape: AttentionShape,
) -> Float[Tensor, "T V"]:
    """dropout(U ⊙ LN(SiLU(QKᵀ + bias) V / N)), causal, V = H · v_dim; only if `serves` is true.

    U, V, Q, K are the parts of SiLU(`projected`), W = 2 H (qk_dim + v_dim), heads one after the other in each; the bias of
    query i and key j is position[j − i + N − 1] + time[bucket of the pair], the same for all heads. With a
    gradient for `projected`, `position` (S = 2 N − 1) and `time`. Raises ValueError if shapes do not agree.
    """
    result: Tensor = _HSTUAttention.apply(projected, position, time, events, shape)  # type: ignore[no-untyped-call]
    return result


class _HSTUAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, position: Tensor, time: Tensor, events: Events, shape: AttentionShape
    ) -> Tensor:
        _check(projected, position, time, events, shape)
        projected, position, time = (t.detach().contiguous() for t in (projected, position, time))
        attended = projected.new_empty(len(projected), shape.heads * shape.v_dim)
        gated = torch.empty_like(attended)
        _run(events, shape, projected=projected, position=position, time=time, attended=attended, gated=gated)
        ctx.save_for_backward(projected, position, time, attended)
        ctx.events, ctx.shape = events, shape
        return gated

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        projected, position, time, attended = ctx.saved_tensors
        histories, length = len(ctx.events.offsets) - 1, ctx.shape.padded_length
        to_projected = torch.empty_like(projected)
        to_position, to_time = position.new_zeros(histories, length), time.new_zeros(histories, len(time))
        given = {"projected": projected, "position": position, "time": time, "attended": attended}
        found = {"to_projected": to_projected, "to_position": to_position, "to_time": to_time}
        _run(ctx.events, ctx.shape, **given, to_gated=gradients[0].contiguous(), **found)
        return to_projected, F.pad(to_position.sum(0), (0, length - 1)), to_time.sum(0), None, None


def _check(projected: Tensor, position: Tensor, time: Tensor, events: Events, shape: AttentionShape) -> None:
    """ValueError if the library would read past an end."""
    rows, n = len(projected), shape.padded_length
    for name, tensor, expected in (
        ("projected", projected, (rows, 2 * shape.heads * (shape.qk_dim + shape.v_dim))),
        ("position", position, (2 * n - 1,)),
    ):
        if tensor.shape != expected:
            raise ValueError(f"{name} must be of shape {expected}, not {tuple(tensor.shape)}")
    lengths = events.offsets.diff()
    if events.offsets[-1] != rows or (len(lengths) and lengths.max() > n):
        raise ValueError(f"offsets must rise from 0 to {rows} in steps of at most {n}")
    if len(events.buckets) and events.buckets.max() >= len(time):
        raise ValueError(f"time must have a place for each of {int(events.buckets.max()) + 1} time buckets")


_INTEGERS = (
    *("histories", "heads", "qk_dim", "v_dim", "padded_length", "time_buckets"),
    *("threads", "seed", "threshold"),
)
_POINTERS = (
    *("offsets", "buckets", "projected", "position", "time", "attended", "gated", "to_gated"),
    *("to_projected", "to_position", "to_time"),
)
_Problem = struct(_INTEGERS, _POINTERS, doubles=("eps",))
"""`struct Problem` of hstu_attention.cpp."""


@cache
def _library() -> ctypes.CDLL | None:
    return library(SOURCE)


def _run(events: Events, shape: AttentionShape, /, **tensors: Tensor) -> None:
    given = tensors | {"offsets": events.offsets, "buckets": events.buckets}
    problem = _Problem(
        *(len(events.offsets) - 1, shape.heads, shape.qk_dim, shape.v_dim, shape.padded_length),
        *(len(given["time"]), torch.get_num_threads(), signed(shape.seed, 64), drop_threshold(shape.dropout)),
        shape.eps,
        *(given[name].data_ptr() if name in given else None for name in _POINTERS),
    )
    native = _library()
    assert native is not None
    if native.hstu_attention(ctypes.byref(problem)) == OUT_OF_MEMORY:
        raise MemoryError("no memory for the scores of a block of queries")
