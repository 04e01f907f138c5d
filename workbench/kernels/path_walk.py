"""Beam search along paths, and the items on a beam's paths, in C++ on a CPU (`path_walk.cpp`, compiled on demand).

The torch versions, for other devices and where there is no compiler, are `StructureModel.beam` and `PathBeam.reached`.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.kernels.native import library, reads, struct

SOURCE = Path(__file__).with_name("path_walk.cpp")


_Walk = struct(
    ("queries", "depth", "width", "hidden", "beam", "threads"),
    ("users", "lookups", "outputs", "biases", "marks", "counts", "paths", "log_probs"),
)
"""`struct Walk` of path_walk.cpp."""

_Lists = struct(
    ("queries", "beam", "items", "longest", "threads"), ("starts", "sizes", "rows", "merged", "counts")
)
"""`struct Lists` of path_walk.cpp."""


@cache
def _library() -> ctypes.CDLL | None:
    return library(SOURCE)


def serves(*tensors: Tensor) -> bool:
    """Whether the C++ version takes these: float32 or int64 on a CPU, and the library is there."""
    return reads(*tensors, dtypes=(torch.float32, torch.int64)) and _library() is not None


def walk_paths(
    users: Float[Tensor, "D B h"],
    lookups: Float[Tensor, "E K h"],
    outputs: Float[Tensor, "D K h"],
    biases: Float[Tensor, "D K"],
    beam: int,
    marks: Sequence[Tensor] | None = None,
) -> tuple[Int[Tensor, "B W"], Float[Tensor, "B W"]]:
    """The codes and log-probabilities of up to `beam` paths of each query, as `StructureModel.beam`; only if `serves` is true.

    `users`: what the user adds to the hidden units of each layer; `lookups`: what each node of an earlier layer adds, of layer
    1 for layer 2, of layers 1 and 2 for layer 3, and so on. `marks`: for each layer which beginnings lead anywhere, bool
    (K^layer,) or the sorted codes of those that do. −1 and −inf past the end.
    """
    depth, queries, hidden = users.shape
    width = min(beam, outputs.shape[1] ** depth)
    paths = torch.empty(queries, width, dtype=torch.int64)
    log_probs = torch.empty(queries, width)
    kept = [t.detach().contiguous() for t in (users, lookups, outputs, biases)]
    tables = [m.contiguous() for m in marks or ()]
    pointers = (ctypes.c_void_p * depth)(*(t.data_ptr() for t in tables))
    counts = (ctypes.c_int64 * depth)(*(-1 if t.dtype == torch.bool else len(t) for t in tables))
    problem = _Walk(
        *(queries, depth, outputs.shape[1], hidden, width, torch.get_num_threads()),
        *(t.data_ptr() for t in kept),
        *(ctypes.addressof(pointers), ctypes.addressof(counts), paths.data_ptr(), log_probs.data_ptr()),
    )
    _call("walk_paths", problem, paths)
    return paths, log_probs


def merge_lists(
    starts: Int[Tensor, "B W"], sizes: Int[Tensor, "B W"], rows: Int[Tensor, "E"], items: int
) -> tuple[Int[Tensor, "B C"], Int[Tensor, "B"]]:
    """The distinct rows in the W lists of each query, ascending, 0 past the end, and how many; only if `serves` is true.

    List w of query b holds rows[starts[b, w]] and the sizes[b, w] − 1 that follow; each lies in 0..items − 1.
    """
    longest = int(sizes.sum(1).max()) if sizes.numel() else 0
    merged = torch.empty(len(starts), longest, dtype=torch.int64)
    counts = torch.zeros(len(starts), dtype=torch.int64)
    kept = [t.contiguous() for t in (starts, sizes, rows)]
    problem = _Lists(
        *(*starts.shape, items, longest, torch.get_num_threads()),
        *(t.data_ptr() for t in (*kept, merged, counts)),
    )
    _call("merge_lists", problem, counts)
    return merged[:, : max(int(counts.max()), 1)] if longest else merged, counts


def _call(name: str, problem: ctypes.Structure, result: Tensor) -> None:
    native = _library()
    assert native is not None
    if result.numel() and getattr(native, name)(ctypes.byref(problem)):
        raise MemoryError("no memory for a beam of paths")
