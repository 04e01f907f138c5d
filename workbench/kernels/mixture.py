"""The arithmetic of Mixture-of-Logits, one function each: component logits → gate → mixed score, and the largest logit.

On a CPU a C++ version serves float32 and bfloat16 states (`mixture_native`, compiled on demand); on a GPU a Triton version
(`mixture_triton`); otherwise, for other dtypes and if neither is available, the plain torch version.

What holds of the C++ version: the score of a pair is the same bits whatever the batch, the corpus, the tile or the
number of threads, and whether it is scored densely or as a candidate. torch's matrix products do not promise that: of the
plain version, and of the GPU's, the same holds up to rounding.

Tolerances, against the formula in float64 for unit components and τ = 0.05 (scores within ±20): float32 2e-5; items stored in
bfloat16 0.2 (the rounding of s by 2⁻⁸ and its effect on the gate), of which the arithmetic, float32 again, adds 2e-5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.kernels import mixture_native
from workbench.kernels.tiles import gathered_tiles
from workbench.runtime import optional

Combination = Literal["glu_silu", "glu_silu_ln", "sum"]
"""From a = query part ⊙ item part + pair part to the argument of the softmax: a·σ(a), a·σ(LN(a)), or the sum of the parts."""
COMBINATIONS = get_args(Combination)

PAIRS_AT_ONCE = 8192
"""Candidates whose gate torch computes together: their (pairs, hidden) activations stay in a processor's cache."""

PLAIN_BYTES = 64 * 2**20
"""Temporaries of the plain version of `component_maxima`."""


@dataclass(frozen=True)
class MixtureGate:
    """The part of the gate that looks at a pair: weights π = softmax(combination(query part, item part, pair part(s))).

    `layers`: the linear layers (weight, bias or None) that make the pair part of the component scores, with SiLU between
    them: two of them (P → hidden → P), one (P → P), or none for no pair part.
    """

    layers: tuple[tuple[Tensor, Tensor | None], ...]
    combination: Combination

    def __post_init__(self) -> None:
        if self.combination not in COMBINATIONS:
            raise ValueError(f"combination must be one of {COMBINATIONS}, not {self.combination!r}")
        if len(self.layers) > 2:
            raise ValueError(f"the pair gate has two layers at most, not {len(self.layers)}")

    def pair_part(self, logits: Float[Tensor, "*S P"]) -> Float[Tensor, "*S P"] | None:
        """What the layers make of the component scores, in their dtype; None if there are no layers."""
        if not self.layers:
            return None
        a = logits
        for index, (weight, bias) in enumerate(self.layers):
            a = F.silu(a) if index else a
            a = F.linear(a, weight.to(a.dtype), None if bias is None else bias.to(a.dtype))
        return a


def gate_weights(
    pair_part: Float[Tensor, "*S P"] | None,
    query_part: Float[Tensor, "*#S P"] | None,
    item_part: Float[Tensor, "*#S P"] | None,
    combination: Combination,
) -> Float[Tensor, "*S P"] | None:
    """π (…, P), at least 0 and with sum 1; None if there is no part at all, and all weights are equal.

    >>> gate_weights(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 5.0]]), "sum")
    tensor([[0.1192, 0.8808]])
    """
    present = [part for part in (query_part, item_part) if part is not None]
    a = pair_part
    if present:
        join = torch.add if combination == "sum" else torch.mul
        outer = join(present[0], present[1]) if len(present) == 2 else present[0]
        a = outer if a is None else a + outer
    if a is None:
        return None
    match combination:
        case "glu_silu":
            a = F.silu(a)
        case "glu_silu_ln":
            a = a * F.layer_norm(a, a.shape[-1:]).sigmoid()
        case "sum":
            pass
    return a.softmax(-1)


def _mixed(
    logits: Float[Tensor, "*S P"],
    query_part: Float[Tensor, "*#S P"] | None,
    item_part: Float[Tensor, "*#S P"] | None,
    gate: MixtureGate,
) -> Float[Tensor, "*S"]:
    of_query, of_item = (None if part is None else part.to(logits.dtype) for part in (query_part, item_part))
    pi = gate_weights(gate.pair_part(logits), of_query, of_item, gate.combination)
    return logits.mean(-1) if pi is None else (pi * logits).sum(-1)


def _one_dtype(queries: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(queries.dtype, items.dtype)
    return queries.to(dtype), items.to(dtype)


def _logits(f: Float[Tensor, "B Pq d"], g: Float[Tensor, "N Px d"]) -> Float[Tensor, "B N P"]:
    f, g = _one_dtype(f, g)
    flat = f.flatten(0, 1) @ g.flatten(0, 1).T  # (B·Pq, N·Px)
    return flat.view(f.shape[0], f.shape[1], g.shape[0], g.shape[1]).transpose(1, 2).flatten(2)


def plain_scores(
    query_components: Float[Tensor, "B Pq d"],
    query_gate: Float[Tensor, "B P"] | None,
    item_components: Float[Tensor, "N Px d"],
    item_gate: Float[Tensor, "N P"] | None,
    gate: MixtureGate,
) -> Float[Tensor, "B N"]:
    """`mixture_scores` in torch, all temporaries held at once: what the other versions are held to."""
    logits = _logits(query_components, item_components)
    return _mixed(logits, None if query_gate is None else query_gate[:, None], item_gate, gate)


def plain_candidate_scores(
    query_components: Float[Tensor, "B Pq d"],
    query_gate: Float[Tensor, "B P"] | None,
    item_components: Float[Tensor, "N Px d"],
    item_gate: Float[Tensor, "N P"] | None,
    gate: MixtureGate,
    rows: Int[Tensor, "B C"],
) -> Float[Tensor, "B C"]:
    """`candidate_scores` in torch, in tiles of queries."""

    def mixed(of_queries: Sequence[Tensor], of_items: Sequence[Tensor]) -> Float[Tensor, "t C"]:
        f, g = _one_dtype(of_queries[0], of_items[0])  # (t, Pq, d), (t, C, Px, d)
        logits = torch.einsum("bid,bcjd->bcij", f, g).flatten(2)  # (t, C, P)
        return _mixed(
            logits,
            of_queries[1][:, None] if len(of_queries) == 2 else None,
            of_items[1] if len(of_items) == 2 else None,
            gate,
        )

    return gathered_tiles(
        mixed,
        [t for t in (query_components, query_gate) if t is not None],
        [t for t in (item_components, item_gate) if t is not None],
        rows,
        [],
        max(1, PAIRS_AT_ONCE // max(1, rows.shape[1])),
    )


def mixture_scores(
    query_components: Float[Tensor, "B Pq d"],
    query_gate: Float[Tensor, "B P"] | None,
    item_components: Float[Tensor, "N Px d"],
    item_gate: Float[Tensor, "N P"] | None,
    gate: MixtureGate,
) -> Float[Tensor, "B N"]:
    """φ = Σ_p π_p s_p of every query with every item; no gradient.

    s_(i·Px + j) = ⟨f_i, g_j⟩, π = softmax of the gate's parts. The dtype is what the components' dtypes promote to.
    """
    if mixture_native.supports(query_components, query_gate, item_components, item_gate):
        return mixture_native.mixture_scores(
            query_components, query_gate, item_components, item_gate, list(gate.layers), gate.combination
        )
    if (fused := _triton(item_components, query_components)) is not None:
        scores: Tensor = fused.mixture_scores(
            query_components, query_gate, item_components, item_gate, gate.layers, gate.combination
        )
        return scores
    with torch.no_grad():
        return plain_scores(query_components, query_gate, item_components, item_gate, gate)


def candidate_scores(
    query_components: Float[Tensor, "B Pq d"],
    query_gate: Float[Tensor, "B P"] | None,
    item_components: Float[Tensor, "N Px d"],
    item_gate: Float[Tensor, "N P"] | None,
    gate: MixtureGate,
    rows: Int[Tensor, "B C"],
) -> Float[Tensor, "B C"]:
    """φ of each query with its own candidates, `rows` of the corpus; no gradient. IndexError if a row is none."""
    if mixture_native.supports(query_components, query_gate, item_components, item_gate):
        return mixture_native.mixture_scores(
            query_components,
            query_gate,
            item_components,
            item_gate,
            list(gate.layers),
            gate.combination,
            rows,
        )
    if (fused := _triton(item_components, query_components)) is not None:
        scores: Tensor = fused.mixture_scores(
            query_components, query_gate, item_components, item_gate, gate.layers, gate.combination, rows
        )
        return scores
    with torch.no_grad():
        return plain_candidate_scores(query_components, query_gate, item_components, item_gate, gate, rows)


def scores_pairs(*parts: Tensor | None) -> bool:
    """Whether `pair_scores` serves components and gates like these: on a CPU, float32 or bfloat16, with the C++ version."""
    return mixture_native.supports(*parts)


def pair_scores(
    query_components: Float[Tensor, "B Pq d"],
    query_gate: Float[Tensor, "B P"] | None,
    item_components: Float[Tensor, "N Px d"],
    item_gate: Float[Tensor, "N P"] | None,
    gate: MixtureGate,
    owners: Int[Tensor, "M"],
    rows: Int[Tensor, "M"],
) -> Float[Tensor, "M"]:
    """φ of each pair of a query `owners`, ascending, and one of `rows`, no gradient; only if `scores_pairs` is true.

    The bits of `mixture_scores`. IndexError if an owner is no query, or a row none of the corpus.
    """
    return mixture_native.mixture_scores(
        *(query_components, query_gate, item_components, item_gate),
        *(list(gate.layers), gate.combination, rows),
        owners=owners,
    )


def reaching_scores(
    query_components: Float[Tensor, "B Pq d"],
    query_gate: Float[Tensor, "B P"] | None,
    item_components: Float[Tensor, "N Px d"],
    item_gate: Float[Tensor, "N P"] | None,
    gate: MixtureGate,
    floors: Float[Tensor, "B"],
) -> Float[Tensor, "B N"]:
    """φ if max_p s_p, which φ never exceeds, is at least the query's floor or NaN, else −inf; no gradient.

    The C++ version computes the gate of the former pairs alone, and their scores with the bits of `mixture_scores`.
    """
    parts = (query_components, query_gate, item_components, item_gate)
    if mixture_native.supports(*parts):
        layers = list(gate.layers)
        return mixture_native.mixture_scores(*parts, layers, gate.combination, floors=floors)
    ruled_out = component_maxima(query_components, item_components) < floors[:, None]
    return mixture_scores(*parts, gate).masked_fill(ruled_out, float("-inf"))


def component_maxima(
    query_components: Float[Tensor, "B Pq d"], item_components: Float[Tensor, "N Px d"]
) -> Float[Tensor, "B N"]:
    """max_p s_p(q, x), s_p = ⟨f_i, g_j⟩, of every pair, without holding all component scores; no gradient.

    Computed with the bits of the scores that `mixture_scores` mixes, if the C++ version serves both. NaN if any component
    score is.

    >>> component_maxima(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[3.0, 1.0]], [[0.0, 2.0]]]))
    tensor([[3., 4.]])
    """
    if mixture_native.supports(query_components, item_components):
        return mixture_native.component_maxima(query_components, item_components)
    with torch.no_grad():
        pair_bytes = 8 * query_components.shape[1] * item_components.shape[1]
        tile = max(1, PLAIN_BYTES // (pair_bytes * max(1, len(query_components))))
        starts = range(0, max(1, len(item_components)), tile)
        parts = [_logits(query_components, item_components[s : s + tile]).amax(-1) for s in starts]
        return torch.cat(parts, dim=1)


@cache
def _triton_version() -> ModuleType | None:
    if optional("triton") is None:
        return None
    from workbench.kernels import mixture_triton

    return mixture_triton


def _triton(*components: Tensor) -> ModuleType | None:
    """The Triton version, if it serves components on this device in these dtypes."""
    served = all(t.device.type == "cuda" and t.dtype in mixture_native.DTYPES for t in components)
    return _triton_version() if served else None


def fuses_top_k(query_components: Tensor, item_components: Tensor, k: int) -> bool:
    """Whether `top_k` serves these: on a GPU, with triton, float32 or bfloat16, and k at most 256."""
    fused = _triton(query_components, item_components)
    return fused is not None and k <= fused.MOST_RESULTS


def top_k(
    query_components: Float[Tensor, "B Pq d"],
    query_gate: Float[Tensor, "B P"] | None,
    item_components: Float[Tensor, "N Px d"],
    item_gate: Float[Tensor, "N P"] | None,
    gate: MixtureGate,
    k: int,
    excluded: Int[Tensor, "B H"] | None = None,
    allowed: Bool[Tensor, "N"] | None = None,
) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """The best k scores and their rows, without holding the scores of all pairs; only if `fuses_top_k` is true.

    Equal scores are in the order of rows, NaN comes first; two equal items may score differently in the last bits, by their
    places in a tile. `excluded`: rows to leave out per query (−1: none), `allowed`: whether
    each row may be found; what is left out scores −inf. Raises ValueError if it is not available here.
    """
    fused = _triton(query_components, item_components)
    if fused is None:
        raise ValueError(
            f"the fused top k needs a GPU, triton, and float32 or bfloat16, not {item_components.dtype} on"
            f" {item_components.device}; rank mixture_scores instead"
        )
    with torch.no_grad():
        scores, rows = fused.top_k(
            *(query_components, query_gate, item_components, item_gate, gate.layers, gate.combination),
            *(k, excluded, allowed),
        )
    return scores, rows


def pair_bytes(device: torch.device, dtype: torch.dtype, components: int, hidden: int | None) -> int:
    """Bytes that `mixture_scores` holds at its peak per pair, its result included: what sizes tiles.

    The fused versions hold the result alone (and some hundred kilobytes of scratch per thread).
    """
    fused = mixture_native.available() if device.type == "cpu" else _triton_version() is not None
    if fused and device.type in ("cpu", "cuda") and dtype in mixture_native.DTYPES:
        return torch.float32.itemsize if dtype == torch.float32 else torch.float32.itemsize + dtype.itemsize
    return plain_pair_bytes(dtype, components, hidden)


def plain_pair_bytes(dtype: torch.dtype, components: int, hidden: int | None) -> int:
    """Bytes that `plain_scores` holds at its peak per pair: component scores, both sides of two activations, weights."""
    return dtype.itemsize * (6 * components + 2 * (hidden or 0))


@dataclass(frozen=True)
class MixtureCost:
    """What one pair costs: `flops` (a multiply-add counts 2), `exponentials`, and `bytes` to and from memory."""

    flops: float
    exponentials: float
    bytes: float


def mixture_cost(
    query_groups: int,
    item_groups: int,
    width: int,
    hidden: int | None,
    queries: int,
    item_bytes: int = 4,
    gated_items: bool = True,
) -> MixtureCost:
    """The least that `mixture_scores` must do per pair, for a roofline: compare with what the machine does per second.

    flops = 2Pd for the component scores, and for the pair gate 4PH with H `hidden` units, 2P² for a linear one (0), nothing
    for None. Exponentials: H of the hidden units' SiLU, 2P of the gate's SiLU and softmax. bytes: the item's components
    and its part of the gate (unless not `gated_items`), `item_bytes` each, read once for all `queries`, and a score of 4
    bytes written.

    >>> mixture_cost(8, 4, 64, 128, queries=32)
    MixtureCost(flops=20480.0, exponentials=192.0, bytes=40.0)
    """
    p = query_groups * item_groups
    gate = 0 if hidden is None else 2 * p * p if hidden == 0 else 4 * p * hidden
    read = item_bytes * (item_groups * width + (p if gated_items else 0))
    return MixtureCost(float(2 * p * width + gate), float((hidden or 0) + 2 * p), read / queries + 4)
