"""The rows of tables with the largest inner products: scanned in int8 with a proved error, the few that it leaves in float32.

A tile of vectors x is kept as whole numbers I_x with one step s, and a query as I_q with s'. By Cauchy and Schwarz the product
q · x is within |s' I_q| |x − s I_x| + |q − s' I_q| |x| of s s' I_q · I_x, and in float32 within γ |q| |x| of that: a row
whose sum, with all of this, is below the float32 products of `count` other rows is not among the best. The rest is scored
in float32.
"""

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int, UInt8
from torch import Tensor

from workbench.kernels.native import library, struct

SOURCE = Path(__file__).with_name("product_scan.cpp")
LONGEST = 2**32 - 1
"""Rows are counted in 32 bits."""
WIDEST = 4096
"""Numbers of a vector: sums of products of 8 bits stay far below 2³⁰."""

SWITCH = "WORKBENCH_INT8"
"""The environment variable that chooses instructions: `avx2`, or `plain` C++; otherwise the best that the processor has."""
INSTRUCTIONS = {"avx2": 1, "plain": 2}

TILE, STRIP = 48, 16

_INTEGERS = (
    *("queries", "groups", "items", "width", "half", "count", "ordered", "per_excluded", "excluded_each"),
    *("instructions", "threads"),
)
_DOUBLES = ("rounding", "underflow", "norm")
_POINTERS = ("vectors", "tables", "excluded", "allowed", "scores", "rows", "beyond", "error")
_Table = struct(("stride",), ("vectors", "packed", "scales"))
"""`struct Table` of product_scan.cpp."""
_Scan = struct(_INTEGERS, _POINTERS, doubles=_DOUBLES)
"""`struct Scan` of product_scan.cpp."""


class Int8Table(NamedTuple):
    """A table of N vectors, and the same in int8.

    `packed`: tiles of 48 vectors, in 3 strips of 16 with 4 numbers of each side by side, each the number plus 128; `scales`
    float64 (T, 3): of each tile the step s, at least the largest |x − s I_x|, and at least the largest |x|; +inf if a value is
    not finite. `norm` is at least the largest |x| of all.
    """

    vectors: Float[Tensor, "N d"]
    packed: UInt8[Tensor, "T 3 w 16 4"]
    scales: Float64[Tensor, "T 3"]
    norm: float


@cache
def _library() -> ctypes.CDLL | None:
    found = library(SOURCE)
    if found is not None:
        whole, address = ctypes.c_int64, ctypes.c_void_p
        found.quantize.argtypes = [address, whole, whole, whole, whole, whole, address, address]
        found.quantize.restype = None
    return found


def serves(vectors: Float[Tensor, "N d"]) -> bool:
    """Whether these can be scanned: float32 or bfloat16 on a CPU, not empty, in rows of contiguous numbers, with the library
    there."""
    here = vectors.device.type == "cpu" and vectors.dtype in (torch.float32, torch.bfloat16)
    fits = 0 < len(vectors) <= LONGEST and 0 < vectors.shape[1] <= WIDEST
    return here and fits and (vectors.stride(1) == 1 or vectors.shape[1] == 1) and _library() is not None


def quantized(vectors: Float[Tensor, "N d"]) -> Int8Table:
    """The vectors, which are not copied, and their int8; only if `serves` is true."""
    vectors = vectors.detach()
    items, width = vectors.shape
    tiles = -(-items // TILE)
    packed = torch.empty(tiles, TILE // STRIP, -(-width // 4), STRIP, 4, dtype=torch.uint8)
    scales = torch.empty(tiles, 3, dtype=torch.float64)
    native = _library()
    assert native is not None
    shape = (vectors.dtype == torch.bfloat16, vectors.stride(0), items, width, torch.get_num_threads())
    native.quantize(vectors.data_ptr(), *shape, packed.data_ptr(), scales.data_ptr())
    return Int8Table(vectors, packed, scales, float(scales[:, 2].amax()))


def largest_products(
    queries: Float[Tensor, "Q d"],
    tables: Sequence[Int8Table],
    count: int,
    rounding: float,
    underflow: float,
    excluded: Int[Tensor, "B H"] | None = None,
    allowed: Bool[Tensor, "N"] | None = None,
    ordered: bool = True,
) -> tuple[Float[Tensor, "Q G C"], Int[Tensor, "Q G C"], Float64[Tensor, "Q G"], Float64[Tensor, "Q"]]:
    """The `count` largest inner products of each query with the rows of each table, these rows, what the exact product of no
    other row is above, and the error of each query's products.

    Descending, ties in the order of rows; or, not `ordered`, the same in any order, which is faster. −inf and row −1 past the
    end. All are the float32 products of a scan in float32: a sum in a fixed order, the same bits whatever else is requested.
    The bound is −inf if there is no other row, +inf like the error if products may overflow or a value is not finite. Rows
    `excluded` (−1: none; one list of them for Q / B consecutive queries) and those not `allowed` are left out. Queries are
    float32. A float32 product must be within `rounding` · |q| |x| + `underflow` · (1 + |q| + |x|) of the exact one.
    Raises ValueError if shapes do not match.
    """
    items, width = tables[0].vectors.shape
    dtype = tables[0].vectors.dtype
    if any(t.vectors.shape != (items, queries.shape[1]) or t.vectors.dtype != dtype for t in tables):
        raise ValueError(
            f"vectors of shape {tuple(queries.shape)} do not go with tables of shapes"
            f" {[tuple(t.vectors.shape) for t in tables]}"
        )
    if allowed is not None and len(allowed) != items:
        raise ValueError(f"allowed has {len(allowed)} rows for {items} of the table")
    if excluded is not None and len(queries) and (not len(excluded) or len(queries) % len(excluded)):
        raise ValueError(f"excluded has {len(excluded)} rows for {len(queries)} queries")
    scores = torch.empty(len(queries), len(tables), count)
    rows = torch.empty(len(queries), len(tables), count, dtype=torch.int64)
    beyond = torch.empty(len(queries), len(tables), dtype=torch.float64)
    error = torch.empty(len(queries), dtype=torch.float64)
    if not scores.numel():
        return scores, rows, beyond, error
    native = _library()
    assert native is not None
    # Names keep the tensors alive while the library reads them.
    given = queries.detach().contiguous()
    out = None if excluded is None else excluded.long().contiguous()
    mask = None if allowed is None else allowed.contiguous()
    read = [
        _Table(vectors.stride(0), vectors.data_ptr(), packed.data_ptr(), scales.data_ptr())
        for vectors, packed, scales, _ in tables
    ]
    listed = (_Table * len(read))(*read)
    problem = _Scan(
        *(len(queries), len(tables), items, width, dtype == torch.bfloat16),
        *(count, ordered),
        *(1, 0) if out is None else (len(queries) // len(out), out.shape[1]),
        *(INSTRUCTIONS.get(os.environ.get(SWITCH, ""), 0), torch.get_num_threads()),
        *(rounding, underflow, max(t.norm for t in tables)),
        *(given.data_ptr(), ctypes.addressof(listed)),
        *(None if t is None else t.data_ptr() for t in (out, mask, scores, rows, beyond, error)),
    )
    if native.largest_products(ctypes.byref(problem)):
        raise MemoryError("no memory to rank inner products")
    return scores, rows, beyond, error
