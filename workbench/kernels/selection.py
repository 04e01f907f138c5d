"""The C++ of `selection.cpp` through ctypes: the largest of long rows and of inner products, and masked places."""

import ctypes
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.kernels.native import library, struct

SOURCE = Path(__file__).with_name("selection.cpp")
LONGEST = 2**32 - 1
"""Columns are counted in 32 bits."""


_INTEGERS = ("queries", "items", "width", "half", "count", "by_row", "excluded_each", "threads")
_POINTERS = ("vectors", "table", "excluded", "allowed", "scores", "rows", "beyond")
_Products = struct(_INTEGERS, _POINTERS)
"""`struct Products` of selection.cpp."""


@cache
def _library() -> ctypes.CDLL | None:
    found = library(SOURCE)
    if found is not None:
        whole, address = ctypes.c_int64, ctypes.c_void_p
        found.largest.argtypes = [address, whole, whole, whole, whole, whole, address]
        found.mask.argtypes = [address, whole, whole, whole, address, whole, whole]
        found.mask.restype = None
    return found


def serves(scores: Float[Tensor, "Q M"]) -> bool:
    """Whether these are float32 on a CPU without a gradient, in rows of contiguous columns, and the library is there."""
    if scores.requires_grad:
        return False
    here = scores.device.type == "cpu" and scores.dtype == torch.float32 and scores.shape[1] <= LONGEST
    return here and (scores.stride(1) == 1 or scores.shape[1] <= 1) and _library() is not None


def largest_columns(scores: Float[Tensor, "Q M"], count: int) -> Int[Tensor, "Q C"]:
    """Columns of the `count` ≤ M largest of each row, descending, NaN first, ties in the order of columns; int64.

    Only if `serves` is true.
    """
    columns = torch.empty(len(scores), count, dtype=torch.int64)
    native = _library()
    assert native is not None
    asked = (len(scores), scores.shape[1], scores.stride(0), count, torch.get_num_threads())
    if columns.numel() and native.largest(scores.data_ptr(), *asked, columns.data_ptr()):
        raise MemoryError("no memory to rank scores")
    return columns


def mask_columns(scores: Float[Tensor, "Q M"], chosen: Int[Tensor, "Q H"], first: int = 0) -> None:
    """Give the score −inf, in place, to columns `chosen` − `first`; others are ignored, a NaN stays. Only if `serves` is
    true."""
    native = _library()
    assert native is not None
    chosen = chosen.long().contiguous()
    shape = (len(scores), scores.shape[1], scores.stride(0))
    native.mask(scores.data_ptr(), *shape, chosen.data_ptr(), chosen.shape[1], first)


def serves_products(vectors: Float[Tensor, "Q d"], table: Tensor) -> bool:
    """Whether `largest_products` serves these: float32 and a table of float32 or bfloat16, on a CPU, with the library there."""
    here = vectors.device.type == table.device.type == "cpu" and len(table) <= LONGEST
    kept = table.dtype in (torch.float32, torch.bfloat16)
    return here and kept and vectors.dtype == torch.float32 and _library() is not None


def largest_products(
    vectors: Float[Tensor, "Q d"],
    table: Float[Tensor, "N w"],
    count: int,
    excluded: Int[Tensor, "R H"] | None = None,
    allowed: Bool[Tensor, "M"] | None = None,
    ordered: bool = True,
) -> tuple[Float[Tensor, "Q C"], Int[Tensor, "Q C"], Float[Tensor, "Q"]]:
    """The `count` largest inner products of each query with the rows of a table, these rows, and the largest product of the
    others (−inf if there is none); only if `serves_products` is true.

    Descending, ties in the order of rows; or, not `ordered`, the same in the order of rows, which is faster. −inf and row 0
    past the end. The products of all rows are held nowhere. Rows `excluded` (−1: none) and those not `allowed` are left
    out. A product is the same bits whatever else is asked.
    """
    if table.shape[1] != vectors.shape[1] or (excluded is not None and len(excluded) != len(vectors)):
        raise ValueError(
            f"vectors of shape {tuple(vectors.shape)} do not go with a table of shape {tuple(table.shape)}"
        )
    if allowed is not None and len(allowed) != len(table):
        raise ValueError(f"allowed has {len(allowed)} rows for {len(table)} of the table")
    scores = torch.empty(len(vectors), count)
    rows = torch.empty(len(vectors), count, dtype=torch.int64)
    beyond = torch.full((len(vectors),), -torch.inf)
    if not scores.numel():
        return scores, rows, beyond
    native = _library()
    assert native is not None
    # Names keep the tensors alive while the library reads them.
    asked, kept = vectors.detach().contiguous(), table.detach().contiguous()
    out = None if excluded is None else excluded.long().contiguous()
    mask = None if allowed is None else allowed.contiguous()
    problem = _Products(
        *(len(asked), len(kept), kept.shape[1], kept.dtype == torch.bfloat16, count, not ordered),
        *(0 if out is None else out.shape[1], torch.get_num_threads()),
        *(None if t is None else t.data_ptr() for t in (asked, kept, out, mask, scores, rows, beyond)),
    )
    if native.largest_products(ctypes.byref(problem)):
        raise MemoryError("no memory to rank inner products")
    return scores, rows, beyond
