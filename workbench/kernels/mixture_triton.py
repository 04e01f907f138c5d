# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"
"""The Triton version of `mixture`, for CUDA: logits, gate and the running best k of a tile in one kernel.

A program takes a few queries and a stretch of the corpus, a tile of items at a time; nothing of a pair but its place among
the best k reaches memory. With TRITON_INTERPRET=1 in the environment before triton is imported, the same code runs on a
CPU, slowly.

Arithmetic: float32 states in float32 throughout (TF32 stays off); if the components of the items are bfloat16, products take
bfloat16 operands and are summed in float32.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

Layers = tuple[tuple[Tensor, Tensor | None], ...]

COMBINATIONS = {"glu_silu": 0, "glu_silu_ln": 1, "sum": 2}
MOST_RESULTS = 256
"""The longest list that a program keeps; each doubling costs registers."""

SMALLEST_PRODUCT = 16
"""What tensor cores multiply at least, in each dimension: narrower operands are padded with zeros."""

VALUES_OF_A_TILE = 4096
"""Component scores of a tile: with more, eight warps run out of registers."""

PROGRAMS = 1024
"""Minimum number of programs, if the corpus allows: several for each of a large GPU's processors."""


WARPS = 8
"""Warps of a program."""

EXACT, HALF, ROUNDED, THREE_TF32 = 0, 1, 2, 3
"""Products of float32, of bfloat16, of float32 rounded to bfloat16 (the same numbers, for the interpreter), and of float32 as
the sum of three products of TF32, which tensor cores compute: a few units in the last place are lost."""

FLOAT32_PRODUCTS = EXACT
"""How float32 is multiplied: `EXACT`, or `THREE_TF32` for measurements; no proof of a search knows the latter's error."""


@triton.jit
def product(a, b, sums, kind: tl.constexpr):
    """sums + a · b, computed as `kind` says."""
    if kind == 1:
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), sums)
    if kind == 2:
        a, b = a.to(tl.bfloat16), b.to(tl.bfloat16)
    if kind == 3:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), sums, input_precision="tf32x3")
    return tl.dot(a.to(tl.float32), b.to(tl.float32), sums, input_precision="ieee")


@triton.jit
def _tile_scores(
    f_ptr, query_gate_ptr, g_ptr, item_gate_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, rows_ptr,
    first_query, first_item, num_queries, num_items, width,
    query_groups: tl.constexpr, item_groups: tl.constexpr,
    layers: tl.constexpr, combination: tl.constexpr, of_query: tl.constexpr, of_item: tl.constexpr,
    kind: tl.constexpr, QUERIES: tl.constexpr, ITEMS: tl.constexpr, PQ: tl.constexpr, PX: tl.constexpr,
    WIDTH: tl.constexpr, HIDDEN: tl.constexpr, HIDDEN_AT_ONCE: tl.constexpr, gathered: tl.constexpr,
):  # fmt: skip
    """Scores float32 (QUERIES, ITEMS). PQ, PX: the groups rounded up to powers of two; padded components weigh nothing.

    `gathered`: the items are candidates of one query, whose rows of the corpus are in `rows_ptr`.
    """
    P: tl.constexpr = PQ * PX
    PAIRS: tl.constexpr = QUERIES * ITEMS
    row = tl.arange(0, ITEMS * PX)
    item, j = first_item + row // PX, row % PX
    column = tl.arange(0, QUERIES * PQ)
    query, i = first_query + column // PQ, column % PQ
    g_there, f_there = (item < num_items) & (j < item_groups), (query < num_queries) & (i < query_groups)
    # Offsets within a tile are small: 32 bits spare registers.
    f_base = f_ptr + tl.cast(first_query, tl.int64) * query_groups * width
    f_at = (column // PQ * query_groups + i) * width
    if gathered:
        rows_base = rows_ptr + tl.cast(first_query, tl.int64) * num_items + first_item
        g_base = g_ptr
        g_at = (tl.load(rows_base + row // PX, item < num_items, 0) * item_groups + j) * width
    else:
        g_base = g_ptr + tl.cast(first_item, tl.int64) * item_groups * width
        g_at = (row // PX * item_groups + j) * width
    s = tl.zeros([ITEMS * PX, QUERIES * PQ], tl.float32)
    for start in range(0, width, WIDTH):
        k = start + tl.arange(0, WIDTH)
        g = tl.load(g_base + g_at[:, None] + k[None, :], g_there[:, None] & (k < width)[None, :], 0.0)
        f = tl.load(f_base + f_at[None, :] + k[:, None], f_there[None, :] & (k < width)[:, None], 0.0)
        s = product(g, f, s, kind)
    s = tl.reshape(s, [ITEMS, PX, QUERIES, PQ])
    s = tl.reshape(tl.permute(s, [2, 0, 3, 1]), [PAIRS, P])

    p = tl.arange(0, P)
    valid = (p // PX < query_groups) & (p % PX < item_groups)
    s = tl.where(valid[None, :], s, 0.0)  # an infinite value times a padded zero is NaN
    a = tl.zeros([PAIRS, P], tl.float32)
    if layers == 1:
        w = tl.load(w2_ptr + p[None, :] * P + p[:, None])
        a = product(s, w, a, kind) + tl.load(b2_ptr + p)[None, :]
    if layers == 2:
        a += tl.load(b2_ptr + p)[None, :]
        for start in range(0, HIDDEN, HIDDEN_AT_ONCE):
            h = start + tl.arange(0, HIDDEN_AT_ONCE)
            w1 = tl.load(w1_ptr + h[None, :] * P + p[:, None])
            x = tl.zeros([PAIRS, HIDDEN_AT_ONCE], tl.float32) + tl.load(b1_ptr + h)[None, :]
            x = product(s, w1, x, kind)
            w2 = tl.load(w2_ptr + p[None, :] * HIDDEN + h[:, None])
            a = product(x * tl.sigmoid(x), w2, a, kind)

    pair = tl.arange(0, PAIRS)
    q, n = first_query + pair // ITEMS, first_item + pair % ITEMS
    real = (p // PX) * item_groups + p % PX  # the component's place without padding
    components: tl.constexpr = query_groups * item_groups
    q_at = (pair // ITEMS)[:, None] * components + real[None, :]
    if gathered:
        n_at = tl.load(rows_base + pair % ITEMS, n < num_items, 0)[:, None] * components + real[None, :]
    else:
        n_at = (pair % ITEMS)[:, None] * components + real[None, :]
    q_there, n_there = (q < num_queries)[:, None] & valid[None, :], (n < num_items)[:, None] & valid[None, :]
    if of_query:
        query_base = query_gate_ptr + tl.cast(first_query, tl.int64) * components
    if of_item:
        item_base = item_gate_ptr
        if not gathered:
            item_base += tl.cast(first_item, tl.int64) * components
    if of_query and of_item:
        query_part = tl.load(query_base + q_at, q_there, 0.0).to(tl.float32)
        item_part = tl.load(item_base + n_at, n_there, 0.0).to(tl.float32)
        a += query_part + item_part if combination == 2 else query_part * item_part
    elif of_query:
        a += tl.load(query_base + q_at, q_there, 0.0).to(tl.float32)
    elif of_item:
        a += tl.load(item_base + n_at, n_there, 0.0).to(tl.float32)

    if layers > 0 or of_query or of_item:
        if combination == 0:
            a = a * tl.sigmoid(a)
        if combination == 1:
            mean = tl.sum(tl.where(valid[None, :], a, 0.0), 1) / components
            off = tl.where(valid[None, :], a - mean[:, None], 0.0)
            scale = 1.0 / tl.sqrt(tl.sum(off * off, 1) / components + 1e-5)
            a = a * tl.sigmoid(off * scale[:, None])
        a = tl.where(valid[None, :], a, float("-inf"))
        powers = tl.exp(a - tl.max(a, 1)[:, None])
    else:
        powers = tl.where(valid[None, :], 1.0, 0.0) + a
    scores = tl.sum(powers * s, 1) / tl.sum(powers, 1)
    return tl.reshape(scores, [QUERIES, ITEMS])


@triton.jit
def _scores_kernel(
    f_ptr, query_gate_ptr, g_ptr, item_gate_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, rows_ptr, scores_ptr,
    num_queries, num_items, width,
    query_groups: tl.constexpr, item_groups: tl.constexpr,
    layers: tl.constexpr, combination: tl.constexpr, of_query: tl.constexpr, of_item: tl.constexpr,
    kind: tl.constexpr, QUERIES: tl.constexpr, ITEMS: tl.constexpr, PQ: tl.constexpr, PX: tl.constexpr,
    WIDTH: tl.constexpr, HIDDEN: tl.constexpr, HIDDEN_AT_ONCE: tl.constexpr, gathered: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(num_queries, QUERIES)  # neighbours share a tile of items, which is read once then
    first_query, first_item = tl.program_id(0) % blocks * QUERIES, tl.program_id(0) // blocks * ITEMS
    scores = _tile_scores(
        f_ptr, query_gate_ptr, g_ptr, item_gate_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, rows_ptr,
        first_query, first_item, num_queries, num_items, width, query_groups, item_groups, layers, combination,
        of_query, of_item, kind, QUERIES, ITEMS, PQ, PX, WIDTH, HIDDEN, HIDDEN_AT_ONCE, gathered,
    )  # fmt: skip
    q, n = first_query + tl.arange(0, QUERIES), first_item + tl.arange(0, ITEMS)
    there = (q < num_queries)[:, None] & (n < num_items)[None, :]
    tl.store(scores_ptr + q.to(tl.int64)[:, None] * num_items + n[None, :], scores, there)


@triton.jit
def _top_k_kernel(
    f_ptr, query_gate_ptr, g_ptr, item_gate_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr,
    excluded_ptr, allowed_ptr, floors_ptr, keys_ptr,
    num_queries, num_items, width, num_excluded, stretch,
    query_groups: tl.constexpr, item_groups: tl.constexpr,
    layers: tl.constexpr, combination: tl.constexpr, of_query: tl.constexpr, of_item: tl.constexpr,
    kind: tl.constexpr, QUERIES: tl.constexpr, ITEMS: tl.constexpr, PQ: tl.constexpr, PX: tl.constexpr,
    WIDTH: tl.constexpr, HIDDEN: tl.constexpr, HIDDEN_AT_ONCE: tl.constexpr,
    K: tl.constexpr, excluding: tl.constexpr, filtered: tl.constexpr,
):  # fmt: skip
    """The best K of a stretch of the corpus as keys (QUERIES, stretches, K), in any order.

    The upper half of a key is the score, as a whole number in the same order with NaN on top, the lower half descends with
    the row: one order settles scores and ties. `floors_ptr`: per query the largest K-th best key of any stretch so far, which
    programs share: what is not above it is not among the best of all.
    """
    first_query, first_item = tl.program_id(0) * QUERIES, tl.program_id(1) * stretch
    q = first_query + tl.arange(0, QUERIES)
    # All different, and below every key of an item.
    best = tl.zeros([QUERIES, K], tl.int64) + (tl.arange(0, K).to(tl.int64) + (-(2**63) + 2))[None, :]
    for start in range(first_item, tl.minimum(first_item + stretch, num_items), ITEMS):
        scores = _tile_scores(
            f_ptr, query_gate_ptr, g_ptr, item_gate_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, None,
            first_query, start, num_queries, num_items, width, query_groups, item_groups, layers, combination,
            of_query, of_item, kind, QUERIES, ITEMS, PQ, PX, WIDTH, HIDDEN, HIDDEN_AT_ONCE, False,
        )  # fmt: skip
        n = start + tl.arange(0, ITEMS)
        left_out = tl.zeros([QUERIES, ITEMS], tl.int1)
        if filtered:
            left_out |= (tl.load(allowed_ptr + n, n < num_items, 1) == 0)[None, :]
        if excluding:
            for h in range(0, num_excluded):
                excluded = tl.load(excluded_ptr + q * num_excluded + h, q < num_queries, -1)
                left_out |= excluded[:, None] == n[None, :]
        undefined = scores != scores
        scores = tl.where(left_out & (undefined == 0), float("-inf"), scores) + 0.0  # -0 + 0 is 0: they tie
        bits = scores.to(tl.int32, bitcast=True)
        order = tl.where(undefined, 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))
        keys = (order.to(tl.int64) << 32) + (0x7FFFFFFF - n)[None, :]
        floor = tl.load(floors_ptr + q, q < num_queries, 0, cache_modifier=".cg")
        keys = tl.where((n < num_items)[None, :] & (keys > floor[:, None]), keys, -(2**63) + 1)
        # The best of the tile takes the place of the worst of the list while it is better: some k · (1 + ln(stretch / k))
        # times in all, which costs less than to sort lists and tiles together, in time and in registers.
        worst, top = tl.min(best, 1), tl.max(keys, 1)
        while tl.max((top > worst).to(tl.int32), 0) > 0:
            best = tl.where((best == worst[:, None]) & (top > worst)[:, None], top[:, None], best)
            keys = tl.where(keys == top[:, None], -(2**63) + 1, keys)
            worst, top = tl.min(best, 1), tl.max(keys, 1)
        tl.atomic_max(floors_ptr + q, worst, (q < num_queries) & (worst > floor))
    at = (q.to(tl.int64)[:, None] * tl.num_programs(1) + tl.program_id(1)) * K + tl.arange(0, K)[None, :]
    tl.store(keys_ptr + at, best, (q < num_queries)[:, None])


class Launch(NamedTuple):
    """What both kernels are started with: tensors, sizes, and what they are compiled for."""

    tensors: tuple[Tensor | None, ...]
    sizes: tuple[int, int, int]
    constants: dict[str, Any]


def kind_of(items: torch.dtype, device: str) -> int:
    """How products with items of a dtype are computed."""
    if items != torch.bfloat16:
        return FLOAT32_PRODUCTS
    return HALF if device == "cuda" else ROUNDED


def power_of_two(number: int) -> int:
    """The smallest that is not below `number`."""
    return 1 << max(0, number - 1).bit_length()


def padded(matrix: Tensor, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """`matrix` with its rows and columns moved to new places in a larger matrix of zeros."""
    larger = matrix.new_zeros(shape, dtype=torch.float32)
    larger[rows[:, None], columns[None, :]] = matrix.float()
    return larger


def launch(
    query_components: Float[Tensor, "B Pq d"],
    query_gate: Float[Tensor, "B P"] | None,
    item_components: Float[Tensor, "N Px d"],
    item_gate: Float[Tensor, "N P"] | None,
    layers: Layers,
    combination: str,
    together: bool = True,
) -> Launch:
    """Arguments of the kernels: contiguous states, the layers' weights padded to powers of two.

    `together`: whether a program may take several queries.
    """
    b, query_groups, width = query_components.shape
    n, item_groups, _ = item_components.shape
    px = power_of_two(item_groups)
    least = SMALLEST_PRODUCT // px if together else SMALLEST_PRODUCT  # for a product that is wide enough
    pq = max(power_of_two(query_groups), least)
    queries = max(1, SMALLEST_PRODUCT // pq)
    device = query_components.device
    component = torch.arange(query_groups * item_groups, device=device)
    place = component // item_groups * px + component % item_groups
    w1 = b1 = w2 = b2 = None
    hidden = SMALLEST_PRODUCT
    if layers:
        weight, bias = layers[-1]
        inputs = place
        if len(layers) == 2:
            first_weight, first_bias = layers[0]
            hidden = max(SMALLEST_PRODUCT, power_of_two(len(first_weight)))
            inputs = torch.arange(len(first_weight), device=device)
            w1 = padded(first_weight, inputs, place, (hidden, pq * px))
            b1 = torch.zeros(hidden, device=device)
            if first_bias is not None:
                b1[inputs] = first_bias.float()
        w2 = padded(weight, place, inputs, (pq * px, hidden if len(layers) == 2 else pq * px))
        b2 = torch.zeros(pq * px, device=device)
        if bias is not None:
            b2[place] = bias.float()
    states = (query_components, query_gate, item_components, item_gate)
    kind = kind_of(item_components.dtype, device.type)
    # Without tensor cores a product is unrolled: a longer one compiles for minutes.
    summed = SMALLEST_PRODUCT if kind in (EXACT, THREE_TF32) else 32
    return Launch(
        tensors=(*(None if t is None else t.detach().contiguous() for t in states), w1, b1, w2, b2),
        sizes=(b, n, width),
        constants={
            "query_groups": query_groups,
            "item_groups": item_groups,
            "layers": len(layers),
            "combination": COMBINATIONS[combination],
            "of_query": query_gate is not None,
            "of_item": item_gate is not None,
            "kind": kind,
            "QUERIES": queries,
            "ITEMS": max(SMALLEST_PRODUCT, power_of_two(VALUES_OF_A_TILE // (queries * pq * px))),
            "PQ": pq,
            "PX": px,
            "WIDTH": min(summed, max(SMALLEST_PRODUCT, power_of_two(width))),
            "HIDDEN": hidden,
            "HIDDEN_AT_ONCE": min(summed, hidden),
        },
    )


def mixture_scores(
    query_components: Float[Tensor, "B Pq d"],
    query_gate: Float[Tensor, "B P"] | None,
    item_components: Float[Tensor, "N Px d"],
    item_gate: Float[Tensor, "N P"] | None,
    layers: Layers,
    combination: str,
    rows: Int[Tensor, "B C"] | None = None,
) -> Float[Tensor, "B M"]:
    """Scores (B, N), or of the candidates `rows` (B, C), in the dtype that the components' dtypes promote to.

    Raises IndexError if a row is none of the corpus.
    """
    b, n = len(query_components), len(item_components)
    if rows is not None and rows.numel() and (int(rows.min()) < 0 or int(rows.max()) >= n):
        raise IndexError(f"a candidate is no row of the corpus: rows must lie in 0..{n - 1}")
    scored = n if rows is None else rows.shape[1]
    scores = torch.empty(b, scored, device=query_components.device)
    if scores.numel():
        start = launch(
            query_components,
            query_gate,
            item_components,
            item_gate,
            layers,
            combination,
            together=rows is None,
        )
        queries, items = start.constants["QUERIES"], start.constants["ITEMS"]
        grid = (triton.cdiv(scored, items) * triton.cdiv(b, queries),)
        given = None if rows is None else rows.long().contiguous()
        with torch.cuda.device_of(scores):  # triton launches on the current device
            _scores_kernel[grid](
                *start.tensors, given, scores, b, scored, start.sizes[2],
                **start.constants, gathered=rows is not None, num_warps=WARPS,
            )  # fmt: skip
    return scores.to(torch.promote_types(query_components.dtype, item_components.dtype))


def top_k(
    query_components: Float[Tensor, "B Pq d"],
    query_gate: Float[Tensor, "B P"] | None,
    item_components: Float[Tensor, "N Px d"],
    item_gate: Float[Tensor, "N P"] | None,
    layers: Layers,
    combination: str,
    k: int,
    excluded: Int[Tensor, "B H"] | None = None,
    allowed: Bool[Tensor, "N"] | None = None,
) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """The best k scores, descending, and their rows; ties in the order of rows, NaN first.

    `excluded`: rows to leave out per query (others, such as −1, are ignored); `allowed`: whether each row may be found. An
    item left out has the score −inf. Raises ValueError if k exceeds the corpus or MOST_RESULTS.
    """
    b, n = len(query_components), len(item_components)
    if not 1 <= k <= min(n, MOST_RESULTS):
        raise ValueError(f"k must lie in 1..{min(n, MOST_RESULTS)}, not be {k}")
    kept = power_of_two(k)
    start = launch(query_components, query_gate, item_components, item_gate, layers, combination)
    blocks = triton.cdiv(b, start.constants["QUERIES"])
    tiles = triton.cdiv(n, start.constants["ITEMS"])
    stretches = min(tiles, max(1, PROGRAMS // max(1, blocks)))
    stretch = triton.cdiv(tiles, stretches) * start.constants["ITEMS"]
    stretches = triton.cdiv(n, stretch)
    device = query_components.device
    keys = torch.empty(b, stretches, kept, dtype=torch.int64, device=device)
    floors = torch.full((b,), torch.iinfo(torch.int64).min, device=device)
    if b:
        with torch.cuda.device_of(keys):
            _top_k_kernel[(blocks, stretches)](
                *start.tensors,
                None if excluded is None else excluded.contiguous(),
                None if allowed is None else allowed.to(torch.int8),
                floors,
                keys,
                *start.sizes,
                0 if excluded is None else excluded.shape[1],
                stretch,
                **start.constants,
                K=kept,
                excluding=excluded is not None,
                filtered=allowed is not None,
                num_warps=WARPS,
            )
    best = keys.flatten(1).topk(k, dim=1).values
    order = (best >> 32).to(torch.int32)
    scores = (order ^ ((order >> 31) & 0x7FFFFFFF)).view(torch.float32)
    dtype = torch.promote_types(query_components.dtype, item_components.dtype)
    return scores.to(dtype), 0x7FFFFFFF - (best & 0xFFFFFFFF)
