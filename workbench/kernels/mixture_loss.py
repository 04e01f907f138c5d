"""Sampled softmax over Mixture-of-Logits with its gradient, for candidates of each position's own.

On a CPU a C++ version (`mixture_loss.cpp`, compiled on demand) serves float32: one position at a time, whose activations stay
in the processor's cache, so that the gradient comes with the value and nothing of size (T, C, P) exists. On a GPU a Triton
version (`mixture_loss_triton`) keeps only scores, and recomputes all else for the gradient; `WORKBENCH_FUSED_LOSS=0` turns it
off. Everywhere else the plain torch version works in tiles of positions, whose activations are recomputed for the gradient.

Within `runtime.bf16_products` the C++ version rounds the factors of its products to bfloat16 if the processor has AVX-512 BF16,
and so does the Triton version within autocast to bfloat16, or if a tensor is of that dtype: gradients are off by some 1e-2 of
their length; sums, softmax, activations and what adds up in the items stay float32.

Dropout is a function of a seed, the position, the candidate and the component (a hash), so that all versions, any tile and any
number of threads draw the same mask. The C++ version adds the gradient of the items and of the gate's weights in as many
shares as there are threads: the same bits for the same number of threads.
"""

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from workbench import runtime
from workbench.contracts import sampled_softmax
from workbench.kernels.dropout import drop_threshold, kept, signed
from workbench.kernels.mixture import PAIRS_AT_ONCE, MixtureGate, gate_weights
from workbench.kernels.mixture_native import COMBINATIONS, DTYPES, NO_SUCH_ROW, OUT_OF_MEMORY
from workbench.kernels.native import library, reads, struct
from workbench.kernels.tiles import gathered_tiles
from workbench.runtime import optional

SOURCE = Path(__file__).with_name("mixture_loss.cpp")
WIDTH_MULTIPLE = 16
"""Components must have a multiple of this many coordinates; others are padded with zeros."""
LEAST_SUM = 1e-6
"""The weights that dropout leaves are divided by their sum, and at least by this (the published constant)."""
SWITCH = "WORKBENCH_BF16"
"""The environment variable that turns products in bfloat16 off with 0."""
FUSED_SWITCH = "WORKBENCH_FUSED_LOSS"
"""The environment variable that turns the Triton version off with 0."""
SHARES_BYTES = 2**30
"""Gradients of the items that the threads hold together; a larger table is served by fewer threads, at least two."""


@dataclass(frozen=True)
class GateDropout:
    """Probability to drop a weight π (`gate`), and a component score before the pair gate (`inputs`); `seed` decides which."""

    gate: float = 0.0
    inputs: float = 0.0
    seed: int = 0


def mixture_loss(
    query_components: Float[Tensor, "T Pq d"],
    query_gate: Float[Tensor, "T P"] | None,
    item_components: Float[Tensor, "N Px d"],
    item_gate: Float[Tensor, "N P"] | None,
    gate: MixtureGate,
    rows: Int[Tensor, "T C"],
    dropout: GateDropout,
) -> Float[Tensor, ""]:
    """mean_t (log Σ_c exp φ(t, rows_tc) − φ(t, rows_t0)), with a gradient for components, gate parts and the gate's weights.

    φ = Σ_p ρ_p s_p, s_(i·Px + j) = ⟨f_i, g_j⟩; ρ = π after dropout, divided by its sum. The first candidate is the positive;
    others equal to it count for nothing. IndexError if a candidate is no row of the items.
    """
    parts = (query_components, query_gate, item_components, item_gate)
    weights = [t for layer in gate.layers for t in layer if t is not None]
    others = [t for t in (query_gate, item_gate, *weights) if t is not None]
    read = (query_components, item_components, *others)
    if rows.numel() and (serves(*read) or fuses(*read)):
        (first, last) = (
            gate.layers if len(gate.layers) == 2 else (None, gate.layers[0] if gate.layers else None)
        )
        flat = (*(first or (None, None)), *(last or (None, None)))
        plan = _Plan(gate.combination, dropout)
        loss: Tensor = _MixtureLoss.apply(plan, rows, *parts, *flat)  # type: ignore[no-untyped-call]
        return loss
    return plain_mixture_loss(*parts, gate, rows, dropout)


def serves(*tensors: Tensor) -> bool:
    """Whether the C++ version takes these: float32 on a CPU, one of them with a gradient, and the library is there."""
    return _learns(tensors) and reads(*tensors) and _library() is not None


def fuses(query_components: Tensor, item_components: Tensor, *others: Tensor) -> bool:
    """Whether the Triton version takes these: float32 or bfloat16 on a GPU, one with a gradient, not too many components."""
    tensors = (query_components, item_components, *others)
    on_gpu = all(t.device.type == "cuda" and t.dtype in DTYPES for t in tensors)
    # Its gradients add up in any order, and an exported program cannot hold it.
    barred = torch.are_deterministic_algorithms_enabled() or torch.compiler.is_exporting()
    if not on_gpu or barred or os.environ.get(FUSED_SWITCH) == "0" or not _learns(tensors):
        return False
    return optional("triton") is not None and _fused_version().fits(
        query_components.shape[1], item_components.shape[1]
    )


@cache
def _fused_version() -> ModuleType:
    from workbench.kernels import mixture_loss_triton

    return mixture_loss_triton


def _learns(tensors: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def plain_mixture_loss(
    query_components: Float[Tensor, "T Pq d"],
    query_gate: Float[Tensor, "T P"] | None,
    item_components: Float[Tensor, "N Px d"],
    item_gate: Float[Tensor, "N P"] | None,
    gate: MixtureGate,
    rows: Int[Tensor, "T C"],
    dropout: GateDropout,
) -> Float[Tensor, ""]:
    """`mixture_loss` in torch, on any device and in any dtype: what the other versions are held to."""
    pairs = rows.shape[1], query_components.shape[1] * item_components.shape[1]

    def mixed(of_queries: Sequence[Tensor], of_items: Sequence[Tensor]) -> Float[Tensor, "t C"]:
        f, positions, *query_part = of_queries
        g, *item_part = of_items
        flat = torch.bmm(g.flatten(1, 2), f.transpose(1, 2))  # (t, C·Px, Pq)
        logits = flat.unflatten(1, g.shape[1:3]).transpose(2, 3).flatten(2)  # (t, C, P)
        inputs = logits
        if gate.layers and dropout.inputs:
            inputs = logits * kept(dropout.inputs, ~dropout.seed, positions, pairs).to(logits.dtype)
        of_query = query_part[0][:, None] if query_part else None
        pi = gate_weights(
            gate.pair_part(inputs), of_query, item_part[0] if item_part else None, gate.combination
        )
        if pi is None:
            return logits.mean(-1)
        if dropout.gate:
            pi = pi * kept(dropout.gate, dropout.seed, positions, pairs).to(pi.dtype)
            pi = pi / pi.sum(-1, keepdim=True).clamp(min=LEAST_SUM)
        return (pi * logits).sum(-1)

    positions = torch.arange(len(rows), device=rows.device)
    scores = gathered_tiles(
        mixed,
        [t for t in (query_components, positions, query_gate) if t is not None],
        [t for t in (item_components, item_gate) if t is not None],
        rows,
        [t for layer in gate.layers for t in layer if t is not None],
        max(1, PAIRS_AT_ONCE // max(1, rows.shape[1])),
    )
    return sampled_softmax(scores, rows)


_INTEGERS = (
    *("queries", "candidates", "items", "query_groups", "item_groups", "width", "hidden", "combination"),
    *("shares", "bf16", "seed", "gate_threshold", "input_threshold"),
)
_READ = (
    *("query_components", "query_gate", "item_components", "item_gate"),
    *("first_weight", "first_bias", "last_weight", "last_bias"),
)
_POINTERS = (*_READ, "rows", "losses", *(f"to_{name}" for name in _READ))
_Problem = struct(_INTEGERS, _POINTERS)
"""`struct Problem` of mixture_loss.cpp."""


@cache
def _library() -> ctypes.CDLL | None:
    return library(SOURCE)


def has_bf16() -> bool:
    """Whether products can be in bfloat16: the processor has AVX-512 BF16, and `WORKBENCH_BF16=0` is not set."""
    found = _library()
    return os.environ.get(SWITCH) != "0" and found is not None and bool(found.has_bf16())


@dataclass(frozen=True)
class _Plan:
    combination: str
    dropout: GateDropout


class _MixtureLoss(torch.autograd.Function):
    """Value and gradient at once; `backward` only scales."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, rows: Tensor, *tensors: Tensor | None) -> Tensor:
        native = tensors[0] is not None and tensors[0].device.type == "cpu"
        loss, gradients = (_solve if native else _solve_fused)(plan, rows, tensors)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if t is None else t * gradients[0] for t in ctx.saved_tensors)


def _sizes(rows: Tensor, tensors: Sequence[Tensor | None]) -> tuple[int, int, int, int, int, int]:
    """T, Pq, d, N, Px, and the hidden units of the gate (0: a linear one, −1: none) of `tensors`, in the order of `_READ`.

    Raises ValueError if shapes or the rows' dtype do not fit: the kernels would read past the end.
    """
    query_components, _, item_components, _, first, _, last, _ = tensors
    assert query_components is not None and item_components is not None
    t, query_groups, width = query_components.shape
    n, item_groups, _ = item_components.shape
    p = query_groups * item_groups
    hidden = -1 if last is None else 0 if first is None else len(first)
    expected = (
        *((t, query_groups, width), (t, p), (n, item_groups, width), (n, p)),
        *((hidden, p), (hidden,), (p, hidden or p), (p,)),
    )
    for name, tensor, shape in zip(_READ, tensors, expected, strict=True):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} must be of shape {shape}, not {tuple(tensor.shape)}")
    if rows.dtype != torch.int64 or len(rows) != t:
        raise ValueError(f"rows must be int64, one for each of {t} queries, not {rows.dtype} of {len(rows)}")
    if rows.device != query_components.device:
        raise ValueError(f"rows are on {rows.device}, the components on {query_components.device}")
    return t, query_groups, width, n, item_groups, hidden


def _solve_fused(
    plan: _Plan, rows: Tensor, tensors: Sequence[Tensor | None]
) -> tuple[Tensor, list[Tensor | None]]:
    """`_solve` in Triton; within autocast to bfloat16, or if any of `tensors` is, products are of bfloat16."""
    _sizes(rows, tensors)
    autocast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16
    rounded = autocast or any(x is not None and x.dtype == torch.bfloat16 for x in tensors)
    whole = [None if x is None else x.detach().float() for x in tensors]
    loss, gradients = _fused_version().solve(whole, plan.combination, rows, plan.dropout, rounded)
    return loss, [
        None if to is None or x is None else to.to(x.dtype) for to, x in zip(gradients, tensors, strict=True)
    ]


def _solve(plan: _Plan, rows: Tensor, tensors: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor | None]]:
    """The mean loss, and its gradient for each of `tensors`, in the order of `_READ`."""
    t, query_groups, width, n, item_groups, hidden = _sizes(rows, tensors)
    p = query_groups * item_groups
    padding = -width % WIDTH_MULTIPLE
    read = [None if x is None else x.detach().contiguous() for x in tensors]
    if padding:
        read[0], read[2] = (None if x is None else F.pad(x, (0, padding)) for x in (read[0], read[2]))
    most = max(2, SHARES_BYTES // (4 * max(1, n) * (item_groups * (width + padding) + p)))
    shares = min(torch.get_num_threads(), most, t)
    found = [None if x is None else torch.zeros(_share_shape(i, x, shares)) for i, x in enumerate(read)]
    losses, chosen = torch.empty(t), rows.contiguous()
    drop, bf16 = plan.dropout, runtime.rounds_products() and has_bf16()
    problem = _Problem(
        *(t, rows.shape[1], n, query_groups, item_groups, width + padding, hidden),
        *(COMBINATIONS[plan.combination], shares, bf16, signed(drop.seed, 64)),
        *(drop_threshold(drop.gate), drop_threshold(drop.inputs)),
        *(None if x is None else x.data_ptr() for x in (*read, chosen, losses, *found)),
    )
    native = _library()
    assert native is not None
    status = native.mixture_loss(ctypes.byref(problem))
    if status == NO_SUCH_ROW:
        raise IndexError(f"a candidate is no row of the items: rows must lie in 0..{n - 1}")
    if status == OUT_OF_MEMORY:
        raise MemoryError("no memory for the gradient of the items")
    return losses.mean(), [
        _collected(i, to, x, width).div_(t) if to is not None and x is not None else None
        for i, (to, x) in enumerate(zip(found, tensors, strict=True))
    ]


def _share_shape(index: int, tensor: Tensor, shares: int) -> Sequence[int]:
    """Of the gradients of queries, which have one place each; of all else, with a place per share."""
    if index < 2:
        return tensor.shape
    return (shares, *(reversed(tensor.shape) if _READ[index] == "first_weight" else tensor.shape))


def _collected(index: int, found: Tensor, tensor: Tensor, width: int) -> Tensor:
    """The gradient of one tensor, out of what the shares found."""
    total = found if index < 2 else found[0]
    for share in found[1:] if index >= 2 else ():
        total += share
    if _READ[index] == "first_weight":
        return total.T.contiguous()
    return total[..., :width].contiguous() if total.shape != tensor.shape else total
