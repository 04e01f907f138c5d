"""Causal softmax attention over jagged histories and its gradient, in C++ on a CPU (`causal_attention.cpp`, made on demand).

One history and head at a time; only pairs of which the key is not after the query are computed, in blocks that stay in the
processor's cache; the gradient computes them again, and nothing of the size of all pairs exists. Dropout of the weights is a
hash of a seed and the place. The torch version, for other devices and dtypes and where there is no compiler, is the encoder's
(`encoders/self_attention.py`).
"""

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from workbench.kernels.dropout import drop_threshold, kept, signed
from workbench.kernels.mixture_native import OUT_OF_MEMORY
from workbench.kernels.native import library, reads, struct

SOURCE = Path(__file__).with_name("causal_attention.cpp")


@dataclass(frozen=True)
class WeightDropout:
    """The `probability` to drop a weight of the attention, and the `seed` that decides which."""

    probability: float = 0.0
    seed: int = 0

    def mask(self, rows: Int[Tensor, "*S"], heads: int, keys: int) -> Float[Tensor, "*S H L"]:
        """What the weights of jagged `rows` as queries are multiplied with, for the first `keys` keys of their histories."""
        numbers = (rows[..., None] * heads + torch.arange(heads, device=rows.device)).flatten()
        return kept(self.probability, self.seed, numbers, (keys,)).view(*rows.shape, heads, keys)


def serves(qkv: Tensor) -> bool:
    """Whether the C++ version takes these: float32 on a CPU, and the library is there."""
    return reads(qkv) and _library() is not None


def causal_attention(
    qkv: Float[Tensor, "T W"], offsets: Int[Tensor, "O"], heads: int, dropout: WeightDropout
) -> Float[Tensor, "T V"]:
    """dropout(softmax(QKᵀ / √d)) V of each history's rows, offsets[b] to offsets[b + 1]; only if `serves`.

    W = 3 H d: queries, keys and values, heads one after the other in each; V = H d. With a gradient for `qkv`. Raises
    ValueError if shapes do not agree.
    """
    result: Tensor = _CausalAttention.apply(qkv, offsets, heads, dropout)  # type: ignore[no-untyped-call]
    return result


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, offsets: Tensor, heads: int, dropout: WeightDropout) -> Tensor:
        if qkv.shape[1] % (3 * heads):
            raise ValueError(f"qkv must have 3 · {heads} equal parts, not a width of {qkv.shape[1]}")
        if (
            offsets.dtype != torch.int64
            or offsets[0] != 0
            or offsets[-1] != len(qkv)
            or (offsets.diff() < 0).any()
        ):
            raise ValueError(f"offsets must be int64 and rise from 0 to {len(qkv)}")
        qkv = qkv.detach().contiguous()
        mixed, logs = qkv.new_empty(len(qkv), qkv.shape[1] // 3), qkv.new_empty(len(qkv), heads)
        _run(offsets, heads, dropout, qkv, mixed, logs, None, None)
        ctx.save_for_backward(offsets, qkv, mixed, logs)
        ctx.heads, ctx.dropout = heads, dropout
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        offsets, qkv, mixed, logs = ctx.saved_tensors
        to_qkv = torch.empty_like(qkv)
        _run(offsets, ctx.heads, ctx.dropout, qkv, mixed, logs, gradients[0].contiguous(), to_qkv)
        return to_qkv, None, None, None


_INTEGERS = ("histories", "heads", "dim", "threads", "seed", "threshold")
_POINTERS = ("offsets", "qkv", "mixed", "logs", "to_mixed", "to_qkv")
_Problem = struct(_INTEGERS, _POINTERS)
"""`struct Problem` of causal_attention.cpp."""


@cache
def _library() -> ctypes.CDLL | None:
    return library(SOURCE)


def _run(offsets: Tensor, heads: int, dropout: WeightDropout, qkv: Tensor, *tensors: Tensor | None) -> None:
    rows = offsets.contiguous()
    problem = _Problem(
        *(len(rows) - 1, heads, qkv.shape[1] // (3 * heads), torch.get_num_threads()),
        *(signed(dropout.seed, 64), drop_threshold(dropout.probability)),
        *(None if t is None else t.data_ptr() for t in (rows, qkv, *tensors)),
    )
    native = _library()
    assert native is not None
    if native.causal_attention(ctypes.byref(problem)) == OUT_OF_MEMORY:
        raise MemoryError("no memory for the scores of a block of queries")
