# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"
"""The Triton version of `mixture_loss`, for CUDA: a kernel for the scores, and one for the gradient, which recomputes all else.

A program takes a position and a tile of its candidates. Scores and their gradient, a number a candidate, reach memory; nothing
else of a pair does. What many programs add to is added atomically, in any order: gradients differ in their last bits from one
run to the next. Layouts, arithmetic and the interpreter: see `mixture_triton`.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from workbench.kernels.dropout import drop_threshold, row_keys
from workbench.kernels.mixture_loss import LEAST_SUM, GateDropout
from workbench.kernels.mixture_triton import (
    COMBINATIONS,
    EXACT,
    HALF,
    ROUNDED,
    SMALLEST_PRODUCT,
    WARPS,
    padded,
    power_of_two,
    product,
)

VALUES_OF_A_TILE = 1024
"""Component scores of a tile: with more, eight warps run out of registers for the gradient."""
MOST_COMPONENTS = 128
"""Components of a pair, padded, beyond which weights of the gate do not fit into a processor's shared memory."""
COPIES = 32
"""Gradients of the gate's weights that programs add to in turn, so that they wait less for each other."""


@triton.jit
def _kept(keys_ptr, number, threshold: tl.constexpr, scale: tl.constexpr):
    """The dropout factor of element `number` of the row whose two keys are at `keys_ptr` (`Mask` of dropout.h)."""
    add = tl.load(keys_ptr).to(tl.uint32, bitcast=True)
    flip = tl.load(keys_ptr + 1).to(tl.uint32, bitcast=True)
    x = number.to(tl.uint32) * 0x9E3779B1 + add
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) ^ flip
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    x = x ^ (x >> 16)
    return tl.where(x >= threshold, scale, 0.0)


@triton.jit
def _kernel(
    f_ptr, query_gate_ptr, g_ptr, item_gate_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, rows_ptr, keys_ptr, scores_ptr,
    to_f_ptr, to_query_gate_ptr, to_g_ptr, to_item_gate_ptr, to_w1_ptr, to_b1_ptr, to_w2_ptr, to_b2_ptr,
    count, width,
    query_groups: tl.constexpr, item_groups: tl.constexpr,
    layers: tl.constexpr, combination: tl.constexpr, of_query: tl.constexpr, of_item: tl.constexpr,
    input_threshold: tl.constexpr, input_scale: tl.constexpr, gate_threshold: tl.constexpr, gate_scale: tl.constexpr,
    kind: tl.constexpr, backward: tl.constexpr, TILE: tl.constexpr, PQ: tl.constexpr, PX: tl.constexpr,
    WIDTH: tl.constexpr, HIDDEN: tl.constexpr, HIDDEN_AT_ONCE: tl.constexpr,
    least_sum: tl.constexpr, copies: tl.constexpr,
):  # fmt: skip
    """Write the scores of a tile to `scores_ptr`. If `backward`, read their gradients there and add those of all inputs."""
    P: tl.constexpr = PQ * PX
    components: tl.constexpr = query_groups * item_groups
    gated: tl.constexpr = layers > 0 or of_query or of_item
    t, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE
    rows_ptr += t * count
    # Component scores.
    row = tl.arange(0, TILE * PX)
    candidate, j = first + row // PX, row % PX
    g_there = (candidate < count) & (j < item_groups)
    g_at = (tl.load(rows_ptr + candidate, candidate < count, 0) * item_groups + j) * width
    i = tl.arange(0, PQ)
    f_there, f_at = i < query_groups, (t * query_groups + i) * width
    s = tl.zeros([TILE * PX, PQ], tl.float32)
    for start in range(0, width, WIDTH):
        k = start + tl.arange(0, WIDTH)
        g = tl.load(g_ptr + g_at[:, None] + k[None, :], g_there[:, None] & (k < width)[None, :], 0.0)
        f = tl.load(f_ptr + f_at[None, :] + k[:, None], f_there[None, :] & (k < width)[:, None], 0.0)
        s = product(g, f, s, kind)
    s = tl.reshape(tl.permute(tl.reshape(s, [TILE, PX, PQ]), [0, 2, 1]), [TILE, P])
    p = tl.arange(0, P)
    valid = (p // PX < query_groups) & (p % PX < item_groups)
    real = (p // PX) * item_groups + p % PX  # the component's place without padding
    n = first + tl.arange(0, TILE)
    n_there = n < count
    there = n_there[:, None] & valid[None, :]
    s = tl.where(there, s, 0.0)
    number = n[:, None] * components + real[None, :]
    # The pair part of the gate.
    x = s
    if input_threshold > 0 and layers > 0:
        x = s * _kept(keys_ptr + 4 * t, number, input_threshold, input_scale)
    a = tl.zeros([TILE, P], tl.float32)
    if layers == 1:
        a = product(x, tl.load(w2_ptr + p[None, :] * P + p[:, None]), a, kind) + tl.load(b2_ptr + p)[None, :]
    if layers == 2:
        a += tl.load(b2_ptr + p)[None, :]
        for start in range(0, HIDDEN, HIDDEN_AT_ONCE):
            h = start + tl.arange(0, HIDDEN_AT_ONCE)
            z = tl.zeros([TILE, HIDDEN_AT_ONCE], tl.float32) + tl.load(b1_ptr + h)[None, :]
            z = product(x, tl.load(w1_ptr + h[None, :] * P + p[:, None]), z, kind)
            a = product(z * tl.sigmoid(z), tl.load(w2_ptr + p[None, :] * HIDDEN + h[:, None]), a, kind)
    # Its combination with the parts of query and item.
    query_at = t * components + real
    item_at = tl.load(rows_ptr + n, n_there, 0)[:, None] * components + real[None, :]
    query_part = tl.zeros([P], tl.float32)
    item_part = tl.zeros([TILE, P], tl.float32)
    if of_query:
        query_part = tl.load(query_gate_ptr + query_at, valid, 0.0)
    if of_item:
        item_part = tl.load(item_gate_ptr + item_at, there, 0.0)
    if of_query and of_item and combination != 2:
        a += query_part[None, :] * item_part
    else:
        a += query_part[None, :] + item_part
    a = tl.where(there, a, 0.0)
    y, scale = a, tl.zeros([TILE], tl.float32)
    normal, sigma = a, a
    if combination == 0:
        sigma = tl.sigmoid(a)
        y = a * sigma
    if combination == 1:
        off = tl.where(there, a - (tl.sum(a, 1) / components)[:, None], 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(off * off, 1) / components + 1e-5)
        normal = off * scale[:, None]
        sigma = tl.sigmoid(normal)
        y = a * sigma
    pi = tl.where(valid[None, :], 1.0 / components, 0.0) + tl.zeros([TILE, P], tl.float32)
    mask = tl.full([TILE, P], 1.0, tl.float32)
    kept = tl.full([TILE], 1.0, tl.float32)
    if gated:
        y = tl.where(valid[None, :], y, float("-inf"))
        powers = tl.exp(y - tl.max(y, 1)[:, None])
        pi = powers / tl.sum(powers, 1)[:, None]
        if gate_threshold > 0:
            mask = _kept(keys_ptr + 4 * t + 2, number, gate_threshold, gate_scale)
            kept = tl.sum(pi * mask, 1)
    whole = kept > least_sum
    share = 1.0 / tl.where(whole, kept, least_sum)
    rho = pi * mask * share[:, None]
    score = tl.sum(rho * s, 1)
    if not backward:
        tl.store(scores_ptr + t * count + n, score, n_there)
        return
    above = tl.load(scores_ptr + t * count + n, n_there, 0.0)
    to_s = above[:, None] * rho
    if gated:
        # Of the weights, through their sum after dropout, then through the softmax.
        to_pi = mask * (s - tl.where(whole, score, 0.0)[:, None]) * share[:, None] * above[:, None]
        change = pi * (to_pi - tl.sum(pi * to_pi, 1)[:, None])
        if combination == 0:
            change *= sigma * (1.0 + a * (1.0 - sigma))
        if combination == 1:
            to_normal = change * a * sigma * (1.0 - sigma)
            mean = tl.sum(to_normal, 1) / components
            along = tl.sum(to_normal * normal, 1) / components
            change = change * sigma + scale[:, None] * (to_normal - mean[:, None] - normal * along[:, None])
        change = tl.where(there, change, 0.0)
        product_of_parts: tl.constexpr = of_query and of_item and combination != 2
        if of_query:
            of_each = change * item_part if product_of_parts else change
            tl.atomic_add(to_query_gate_ptr + query_at, tl.sum(of_each, 0), valid, sem="relaxed")
        if of_item:
            of_each = change * query_part[None, :] if product_of_parts else change
            tl.atomic_add(to_item_gate_ptr + item_at, of_each, there, sem="relaxed")
        if layers > 0:
            copy = (t + tl.program_id(1)) % copies
            tl.atomic_add(to_b2_ptr + copy * P + p, tl.sum(change, 0), valid, sem="relaxed")
            through = tl.zeros([TILE, P], tl.float32)
            if layers == 1:
                at = p[:, None] * P + p[None, :]
                added = product(tl.trans(change), x, tl.zeros([P, P], tl.float32), kind)
                tl.atomic_add(
                    to_w2_ptr + copy * P * P + at, added, valid[:, None] & valid[None, :], sem="relaxed"
                )
                through = product(change, tl.load(w2_ptr + at), through, kind)
            else:
                for start in range(0, HIDDEN, HIDDEN_AT_ONCE):
                    h = start + tl.arange(0, HIDDEN_AT_ONCE)
                    w1_at, w2_at = h[:, None] * P + p[None, :], p[:, None] * HIDDEN + h[None, :]
                    z = tl.zeros([TILE, HIDDEN_AT_ONCE], tl.float32) + tl.load(b1_ptr + h)[None, :]
                    z = product(x, tl.load(w1_ptr + h[None, :] * P + p[:, None]), z, kind)
                    slope = tl.sigmoid(z)
                    added = product(
                        tl.trans(change), z * slope, tl.zeros([P, HIDDEN_AT_ONCE], tl.float32), kind
                    )
                    tl.atomic_add(to_w2_ptr + copy * P * HIDDEN + w2_at, added, valid[:, None], sem="relaxed")
                    inner = product(
                        change, tl.load(w2_ptr + w2_at), tl.zeros([TILE, HIDDEN_AT_ONCE], tl.float32), kind
                    )
                    inner *= slope * (1.0 + z * (1.0 - slope))
                    added = product(tl.trans(inner), x, tl.zeros([HIDDEN_AT_ONCE, P], tl.float32), kind)
                    tl.atomic_add(to_w1_ptr + copy * HIDDEN * P + w1_at, added, valid[None, :], sem="relaxed")
                    tl.atomic_add(to_b1_ptr + copy * HIDDEN + h, tl.sum(inner, 0), sem="relaxed")
                    through = product(inner, tl.load(w1_ptr + w1_at), through, kind)
            if input_threshold > 0:
                through *= _kept(keys_ptr + 4 * t, number, input_threshold, input_scale)
            to_s += through
    # Back to the components.
    to_s = tl.where(there, to_s, 0.0)
    to_s = tl.reshape(tl.permute(tl.reshape(to_s, [TILE, PQ, PX]), [0, 2, 1]), [TILE * PX, PQ])
    for start in range(0, width, WIDTH):
        k = start + tl.arange(0, WIDTH)
        g_mask, f_mask = g_there[:, None] & (k < width)[None, :], f_there[:, None] & (k < width)[None, :]
        g_each, f_each = g_at[:, None] + k[None, :], f_at[:, None] + k[None, :]
        g, f = tl.load(g_ptr + g_each, g_mask, 0.0), tl.load(f_ptr + f_each, f_mask, 0.0)
        to_f = product(tl.trans(to_s), g, tl.zeros([PQ, WIDTH], tl.float32), kind)
        if PQ < 16:  # too short a sum for a product
            to_g = tl.sum(to_s[:, :, None] * f[None, :, :], 1)
        else:
            to_g = product(to_s, f, tl.zeros([TILE * PX, WIDTH], tl.float32), 0)
        tl.atomic_add(to_f_ptr + f_each, to_f, f_mask, sem="relaxed")
        tl.atomic_add(to_g_ptr + g_each, to_g, g_mask, sem="relaxed")


def fits(query_groups: int, item_groups: int) -> bool:
    """Whether the kernels serve components of these groups."""
    return power_of_two(query_groups) * power_of_two(item_groups) <= MOST_COMPONENTS


def launch(
    tensors: Sequence[Tensor | None],
    combination: str,
    dropout: GateDropout,
    rounded: bool = False,
) -> tuple[list[Tensor | None], dict[str, Any], tuple[Tensor, Tensor]]:
    """The kernel's tensors (weights padded), its constants, and where components and hidden units are after padding.

    `tensors`: query components and gate, item components and gate, W₁, b₁, W₂, b₂, all float32; `rounded`: factors of products
    become bfloat16.
    """
    f, query_gate, g, item_gate, w1, b1, w2, b2 = tensors
    assert f is not None and g is not None
    _, query_groups, width = f.shape
    item_groups, device = g.shape[1], f.device
    px = power_of_two(item_groups)
    pq = max(power_of_two(query_groups), SMALLEST_PRODUCT // px)
    component = torch.arange(query_groups * item_groups, device=device)
    place = component // item_groups * px + component % item_groups
    hidden = SMALLEST_PRODUCT if w1 is None else max(SMALLEST_PRODUCT, power_of_two(len(w1)))
    units = torch.arange(0 if w1 is None else len(w1), device=device)

    def spread(bias: Tensor | None, places: Tensor, size: int) -> Tensor:
        larger = torch.zeros(size, device=device)
        if bias is not None:
            larger[places] = bias
        return larger

    weights: list[Tensor | None] = [None] * 4
    if w2 is not None:
        inputs, inner = (place, pq * px) if w1 is None else (units, hidden)
        weights[2:] = padded(w2, place, inputs, (pq * px, inner)), spread(b2, place, pq * px)
    if w1 is not None:
        weights[:2] = padded(w1, units, place, (hidden, pq * px)), spread(b1, units, hidden)
    # Without tensor cores a product is unrolled: a longer one compiles for minutes.
    at_once = 32 if rounded else SMALLEST_PRODUCT
    gate_dropped, inputs_dropped = drop_threshold(dropout.gate), drop_threshold(dropout.inputs)
    constants = {
        "query_groups": query_groups,
        "item_groups": item_groups,
        "layers": (w1 is not None) + (w2 is not None),
        "combination": COMBINATIONS[combination],
        "of_query": query_gate is not None,
        "of_item": item_gate is not None,
        "input_threshold": inputs_dropped,
        "input_scale": 2**32 / (2**32 - inputs_dropped),
        "gate_threshold": gate_dropped,
        "gate_scale": 2**32 / (2**32 - gate_dropped),
        "kind": EXACT if not rounded else HALF if device.type == "cuda" else ROUNDED,
        "TILE": max(SMALLEST_PRODUCT, power_of_two(VALUES_OF_A_TILE // (pq * px))),
        "PQ": pq,
        "PX": px,
        "WIDTH": min(at_once, max(SMALLEST_PRODUCT, power_of_two(width))),
        "HIDDEN": hidden,
        "HIDDEN_AT_ONCE": min(at_once, hidden),
        "least_sum": LEAST_SUM,
        "copies": COPIES,
    }
    states = [None if t is None else t.contiguous() for t in (f, query_gate, g, item_gate)]
    return [*states, *weights], constants, (place, units)


def solve(
    tensors: Sequence[Tensor | None],
    combination: str,
    rows: Int[Tensor, "T C"],
    dropout: GateDropout,
    rounded: bool = False,
) -> tuple[Float[Tensor, ""], list[Tensor | None]]:
    """The mean loss, and its gradient for each of `tensors` (see `launch`). Raises IndexError if a candidate is no row."""
    f, _, g, _, w1, b1, w2, b2 = tensors
    assert f is not None and g is not None
    t, count = rows.shape
    least, largest = torch.stack(rows.aminmax()).tolist() if rows.numel() else (0, -1)
    if least < 0 or largest >= len(g):
        raise IndexError(f"a candidate is no row of the items: rows must lie in 0..{len(g) - 1}")
    read, constants, (place, units) = launch(tensors, combination, dropout, rounded)
    rows, scores = rows.contiguous(), torch.empty(t, count, device=f.device)
    positions = torch.arange(t, device=f.device)
    keys = torch.cat([row_keys(~dropout.seed, positions), row_keys(dropout.seed, positions)], dim=1)
    found: list[Tensor | None] = [None if x is None else torch.zeros_like(x) for x in read[:4]]
    found += [None if x is None else x.new_zeros(COPIES, *x.shape) for x in read[4:]]
    grid = (t, triton.cdiv(count, constants["TILE"]))

    def run(backward: bool) -> None:
        _kernel[grid](
            *read,
            rows,
            keys,
            scores,
            *found,
            count,
            f.shape[2],
            **constants,
            backward=backward,
            num_warps=WARPS,
        )

    with torch.cuda.device_of(f):  # triton launches on the current device
        run(backward=False)
    again = rows[:, 1:] == rows[:, :1]
    left = torch.cat([scores[:, :1], scores[:, 1:].masked_fill(again, float("-inf"))], dim=1)
    loss = (left.logsumexp(1) - left[:, 0]).mean()
    scores = left.softmax(1)
    scores[:, 0] -= 1
    scores /= t
    with torch.cuda.device_of(f):
        run(backward=True)
    kept = ((units, place), (units,), (place, place if w1 is None else units), (place,))
    sums = [
        None if total is None or given is None else total.sum(0)[torch.meshgrid(*places, indexing="ij")]
        for total, given, places in zip(found[4:], (w1, b1, w2, b2), kept, strict=True)
    ]
    return loss, [*found[:4], *sums]
