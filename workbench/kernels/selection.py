"""The C++ of `selection.cpp` through ctypes: the largest of long rows, masked places, and proofs of lists."""

import ctypes
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from workbench.kernels.native import library

SOURCE = Path(__file__).with_name("selection.cpp")
LONGEST = 2**32 - 1
"""Columns are counted in 32 bits."""


@cache
def _library() -> ctypes.CDLL | None:
    found = library(SOURCE)
    if found is not None:
        whole, address = ctypes.c_int64, ctypes.c_void_p
        found.largest.argtypes = [address, whole, whole, whole, whole, whole, address]
        found.mask.argtypes = [address, whole, whole, whole, address, whole, whole]
        found.mask.restype = None
        found.distinct.argtypes = [address, whole, whole, address, address]
        found.distinct.restype = whole
        found.best_of_pairs.argtypes = [address, address, address, whole, whole, whole, address, address]
        found.merged.argtypes = [address, address, whole, address, address, whole, address, address]
        found.merged.restype = whole
        found.certify.argtypes = [address, whole, address, whole, ctypes.c_double, address, address]
        found.certify.restype = None
    return found


def serves(scores: Float[Tensor, "Q M"]) -> bool:
    """Whether these are float32 on a CPU without a gradient, in rows of contiguous columns, and the library is there."""
    width = scores.shape[1]
    return _here(scores) and width <= LONGEST and (scores.stride(1) == 1 or width <= 1)


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


def serves_rows(rows: Int[Tensor, "*S"]) -> bool:
    """Whether these are int64 on a CPU, and the library is there."""
    return rows.device.type == "cpu" and rows.dtype == torch.int64 and _library() is not None


def distinct(rows: Int[Tensor, "Q C"]) -> tuple[Int[Tensor, "M"], Int[Tensor, "M"]]:
    """The distinct rows of each list, −1 being none, ascending, and before them the list that each is of. Only if `serves_rows`
    is true.
    """
    rows = rows.contiguous()
    most = rows.numel()
    lists, found = torch.empty(most, dtype=torch.int64), torch.empty(most, dtype=torch.int64)
    native = _library()
    assert native is not None
    count = native.distinct(rows.data_ptr(), *rows.shape, lists.data_ptr(), found.data_ptr())
    if count < 0:
        raise MemoryError("no memory to sort rows")
    return lists[:count], found[:count]


def merged(
    first: tuple[Int[Tensor, "M"], Int[Tensor, "M"]], second: tuple[Int[Tensor, "O"], Int[Tensor, "O"]]
) -> tuple[Int[Tensor, "U"], Int[Tensor, "U"]]:
    """The lists and rows that are in either, each of them ascending as `distinct` gives them. Only if `serves_rows` is true of
    all.
    """
    given = [t.contiguous() for t in (*first, *second)]
    most = len(given[0]) + len(given[2])
    lists, found = torch.empty(most, dtype=torch.int64), torch.empty(most, dtype=torch.int64)
    native = _library()
    assert native is not None
    here = [t.data_ptr() for t in given]
    count = native.merged(
        *here[:2], len(given[0]), *here[2:], len(given[2]), lists.data_ptr(), found.data_ptr()
    )
    return lists[:count], found[:count]


def best_of_pairs(
    lists: Int[Tensor, "M"], rows: Int[Tensor, "M"], scores: Float[Tensor, "M"], number: int, count: int
) -> tuple[Float[Tensor, "Q C"], Int[Tensor, "Q C"]]:
    """The `count` best scores of each of `number` lists and their rows, descending, NaN first, ties in the order of pairs; −inf
    and row 0 past the end. `lists` ascending; only if `serves_pairs` is true.
    """
    given = [t.contiguous() for t in (lists, rows, scores)]
    best = torch.empty(number, count)
    found = torch.empty(number, count, dtype=torch.int64)
    native = _library()
    assert native is not None
    sizes = (len(scores), number, count)
    if native.best_of_pairs(*(t.data_ptr() for t in given), *sizes, best.data_ptr(), found.data_ptr()):
        raise MemoryError("no memory to rank scores")
    return best, found


def serves_pairs(scores: Float[Tensor, "M"]) -> bool:
    """Whether these are float32 on a CPU without a gradient, no more than `LONGEST`, and the library is there."""
    return _here(scores) and scores.shape[0] <= LONGEST


def _here(scores: Float[Tensor, "*S"]) -> bool:
    read = scores.device.type == "cpu" and scores.dtype == torch.float32 and not scores.requires_grad
    return read and _library() is not None


def serves_bounds(last: Float[Tensor, "B"]) -> bool:
    """Whether these are float32 on a CPU without a gradient, and the library is there."""
    return _here(last)


def certified(
    last: Float[Tensor, "B"], bound: Float64[Tensor, "B"], above: float
) -> tuple[Bool[Tensor, "B"], Float[Tensor, "B"]]:
    """Whether `last` is at least `bound`, and by how much it is below: times `above`, at least the smallest normal number, +inf
    if it is NaN, and 0 if it is not below. Only if `serves_bounds` is true of `last`.
    """
    size = len(last)
    exact, gap = torch.empty(size, dtype=torch.bool), torch.empty(size)
    native = _library()
    assert native is not None
    bound = bound.contiguous()
    native.certify(
        *(last.data_ptr(), last.stride(0), bound.data_ptr(), size, above), exact.data_ptr(), gap.data_ptr()
    )
    return exact, gap
