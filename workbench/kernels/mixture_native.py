"""The C++ version of `mixture`, through ctypes: a tile of items at a time, float32 arithmetic, any number of threads."""

import ctypes
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.kernels.native import library, reads, struct

SOURCE = Path(__file__).with_name("mixture.cpp")
INTERFACE = 3
"""`interface_version` of the source that this module speaks to."""

COMBINATIONS = {"glu_silu": 0, "glu_silu_ln": 1, "sum": 2}
DTYPES = (torch.float32, torch.bfloat16)
"""How components and gates may be stored; the arithmetic is float32 in either case."""

OUT_OF_MEMORY, NO_SUCH_ROW, NO_SUCH_QUERY = 1, 2, 3

_INTEGERS = (
    *("queries", "items", "candidates", "query_groups", "item_groups", "width", "hidden", "combination"),
    *("components_half", "gate_half", "threads"),
)
_POINTERS = (
    *("query_components", "query_gate", "item_components", "item_gate"),
    *("first_weight", "first_bias", "last_weight", "last_bias", "rows", "owners", "floors", "scores"),
)
_Problem = struct(_INTEGERS, _POINTERS)
"""`struct Problem` of mixture.cpp."""


@cache
def _library() -> ctypes.CDLL | None:
    found = library(SOURCE)
    return found if found is not None and found.interface_version() == INTERFACE else None


def available() -> bool:
    """Whether the native version can be had here; the first call compiles it (a few seconds, once per machine)."""
    return _library() is not None


def supports(*tensors: Tensor | None) -> bool:
    """Whether all of these are on a CPU in a dtype that is read, and the library is there."""
    return reads(*tensors, dtypes=DTYPES) and available()


def mixture_scores(
    query_components: Float[Tensor, "B Pq d"],
    query_gate: Float[Tensor, "B P"] | None,
    item_components: Float[Tensor, "N Px d"],
    item_gate: Float[Tensor, "N P"] | None,
    layers: list[tuple[Tensor, Tensor | None]],
    combination: str,
    rows: Int[Tensor, "B C"] | Int[Tensor, "C"] | None = None,
    floors: Float[Tensor, "B"] | None = None,
    owners: Int[Tensor, "C"] | None = None,
) -> Float[Tensor, "B M"] | Float[Tensor, "C"]:
    """Scores (B, N), or of the candidates `rows` (B, C); `layers`: the linear layers of the pair gate, at most two.

    With `owners`, ascending, `rows` (C,) are those of these queries, and so are the scores. With `floors` (and no `rows`) pairs
    whose largest component score is below the query's floor are −inf, unscored.
    """
    (first, last) = layers if len(layers) == 2 else (None, layers[0] if layers else None)
    hidden = -1 if last is None else 0 if first is None else first[0].shape[0]
    return _solve(
        "mixture_scores",
        query_components,
        query_gate,
        item_components,
        item_gate,
        weights=(*_pair(first), *_pair(last)),
        hidden=hidden,
        combination=COMBINATIONS[combination],
        rows=rows,
        floors=floors,
        owners=owners,
    )


def component_maxima(
    query_components: Float[Tensor, "B Pq d"], item_components: Float[Tensor, "N Px d"]
) -> Float[Tensor, "B N"]:
    """max_p s_p (B, N)."""
    nothing = (None, None, None, None)
    return _solve(
        "component_maxima",
        query_components,
        None,
        item_components,
        None,
        nothing,
        -1,
        COMBINATIONS["sum"],
        None,
    )


def _pair(layer: tuple[Tensor, Tensor | None] | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if layer is None else layer


def _single(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or (tensor.dtype == torch.float32 and tensor.is_contiguous()):
        return tensor
    return tensor.detach().float().contiguous()


def _solve(
    function: str,
    query_components: Tensor,
    query_gate: Tensor | None,
    item_components: Tensor,
    item_gate: Tensor | None,
    weights: tuple[Tensor | None, ...],
    hidden: int,
    combination: int,
    rows: Tensor | None,
    floors: Tensor | None = None,
    owners: Tensor | None = None,
) -> Tensor:
    b, query_groups, width = query_components.shape
    n, item_groups, _ = item_components.shape
    p = query_groups * item_groups
    inputs = p if hidden <= 0 else hidden
    expected = ((n, item_groups, width), (b, p), (n, p), (hidden, p), (hidden,), (p, inputs), (p,))
    given = (item_components, query_gate, item_gate, *weights)
    for tensor, shape in zip(given, expected, strict=True):  # the library would read past the end
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"components of {b} queries {(query_groups, width)} and {n} items {(item_groups, width)} do not go"
                f" with a tensor of shape {tuple(tensor.shape)} where {shape} is due"
            )
    listed = None if rows is None else (b, rows.shape[-1]) if owners is None else tuple(owners.shape)
    for chosen in (rows, owners):
        if chosen is not None and (chosen.dtype != torch.int64 or chosen.shape != listed):
            raise ValueError(
                f"rows must be int64 of shape {listed}, not {chosen.dtype} of {tuple(chosen.shape)}"
            )
    if floors is not None and (floors.shape != (b,) or rows is not None):
        raise ValueError(
            f"floors must be one for each of {b} queries, of all items, not {tuple(floors.shape)}"
        )
    scores = torch.empty(listed or (b, n))
    dtype = torch.promote_types(query_components.dtype, item_components.dtype)
    if scores.numel() == 0:
        return scores.to(dtype)
    library = _library()
    assert library is not None
    # Names keep the tensors alive while the library reads them.
    items, gate = item_components.contiguous(), None if item_gate is None else item_gate.contiguous()
    small = [_single(t) for t in (query_components, query_gate, *weights)]
    listed_rows, of = (None if t is None else t.contiguous() for t in (rows, owners))
    pointers = (small[0], small[1], items, gate, *small[2:], listed_rows, of, _single(floors), scores)
    problem = _Problem(
        *(b, n, 0 if listed is None else listed[-1]),
        *(query_groups, item_groups, width, hidden, combination),
        *(items.dtype == torch.bfloat16, gate is not None and gate.dtype == torch.bfloat16),
        torch.get_num_threads(),
        *(None if t is None else t.data_ptr() for t in pointers),
    )
    status = getattr(library, function)(ctypes.byref(problem))
    if status == NO_SUCH_ROW:
        raise IndexError(f"a candidate is no row of the corpus: rows must lie in 0..{n - 1}")
    if status == NO_SUCH_QUERY:
        raise IndexError(f"a pair is of no query: owners must lie in 0..{b - 1}")
    if status == OUT_OF_MEMORY:
        raise MemoryError("no memory for a tile of items")
    return scores.to(dtype)
