"""What every searcher shares: checked arguments, masks by item id, the best k with ties in corpus order, merging.

A searcher works on rows of its item state and turns them into ids at the very end. A masked item has the score −inf,
and so has every place that no item fills; NaN is carried along as the greatest score, so that `check_defined` finds it.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import NO_ITEM, QueryState
from workbench.kernels import selection
from workbench.search.partition import largest

NO_SCORE = float("-inf")


class Best(NamedTuple):
    """The best K found so far: `scores` (B, K), descending, and `rows` int64 (B, K) of the item state, ties ascending."""

    scores: Float[Tensor, "B K"]
    rows: Int[Tensor, "B K"]


class CorpusRows:
    """From item ids to rows of an item state: arithmetic if the ids are 1..N in order, a binary search otherwise.

    Raises ValueError if the corpus is empty, an id is below 1, or two rows have the same id.
    """

    def __init__(self, ids: Int[Tensor, "N"]) -> None:
        if len(ids) == 0:
            raise ValueError("the corpus is empty: an item state needs at least one item")
        self._size = len(ids)
        self._sorted: tuple[Tensor, Tensor] | None = None
        if bool((ids == torch.arange(1, self._size + 1, device=ids.device)).all()):
            return
        ordered, order = ids.sort()
        if int(ordered[0]) < 1:
            raise ValueError(f"item ids must be 1 or more; row {int(order[0])} has id {int(ordered[0])}")
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(repeated):
            rows = (ids == repeated[0]).nonzero().flatten().tolist()
            raise ValueError(f"item id {int(repeated[0])} is in rows {rows}: each item may be there once")
        self._sorted = (ordered, order)

    def of(self, ids: Int[Tensor, "*S"]) -> Int[Tensor, "*S"]:
        """The row of each id, −1 for padding and for items that are not in the corpus.

        >>> CorpusRows(torch.tensor([7, 3, 5])).of(torch.tensor([5, 0, 4, 7])).tolist()
        [2, -1, -1, 0]
        """
        ids = ids.long()
        if self._sorted is None:
            return torch.where((ids >= 1) & (ids <= self._size), ids - 1, NO_ITEM)
        ordered, order = self._sorted
        places = torch.searchsorted(ordered, ids).clamp(max=self._size - 1)
        return torch.where(ordered[places] == ids, order[places], NO_ITEM)


def check_request(
    queries: QueryState,
    size: int,
    device: torch.device,
    k: int,
    exclude: Tensor | None = None,
    allowed: Tensor | None = None,
) -> None:
    """Raise ValueError if a corpus of `size` items on `device` cannot serve these arguments: see `Searcher.search`."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if k > size:
        raise ValueError(f"k is {k}, but the corpus holds {size} items; request at most that many")
    if exclude is not None:
        if exclude.dtype not in (torch.int64, torch.int32) or exclude.dim() != 2:
            raise ValueError(
                f"exclude must hold item ids, int64 (B, H), not {exclude.dtype} of shape {tuple(exclude.shape)}"
            )
        if exclude.shape[0] != len(queries):
            raise ValueError(
                f"exclude has {exclude.shape[0]} rows for {len(queries)} queries; it needs one each"
            )
        if exclude.device != device:
            raise ValueError(f"exclude is on {exclude.device}, the items are on {device}")
    if allowed is not None:
        if allowed.dtype != torch.bool or allowed.dim() != 1:
            raise ValueError(
                f"allowed must be a mask, bool (N,), not {allowed.dtype} of shape {tuple(allowed.shape)}"
            )
        if len(allowed) != size:
            raise ValueError(f"allowed has {len(allowed)} rows for {size} items; it needs one each")
        if allowed.device != device:
            raise ValueError(f"allowed is on {allowed.device}, the items are on {device}")


def count_open(
    size: int, excluded: Int[Tensor, "B H"] | None, allowed: Bool[Tensor, "N"] | None
) -> Int[Tensor, "B"] | int:
    """How many of `size` rows each query may find, one number if it is the same for all; `excluded` are rows, −1 for none.

    >>> count_open(4, torch.tensor([[2, 2, 0, -1]]), torch.tensor([False, True, True, True]))
    tensor([2])
    """
    total = size if allowed is None else int(allowed.sum())
    if excluded is None:
        return total
    ordered = excluded.sort(dim=1).values
    counted = ordered >= 0
    counted[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    if allowed is not None:
        counted &= allowed[ordered.clamp(min=0)]
    return total - counted.sum(1)


def mask_rows(scores: Float[Tensor, "B M"], rows: Int[Tensor, "B H"], first_row: int = 0) -> None:
    """Give the score −inf, in place, to `rows` of the corpus; `scores` begins at `first_row`. Other rows are ignored.

    >>> scores = torch.zeros(1, 2)
    >>> mask_rows(scores, torch.tensor([[-1, 3, 9]]), first_row=2)
    >>> scores.tolist()
    [[0.0, -inf]]
    """
    if selection.serves(scores):
        selection.mask_columns(scores, rows, first_row)
        return
    width = scores.shape[1]
    columns = rows - first_row
    inside = (columns >= 0) & (columns < width)
    # The lower of the score and ±inf: no copy, no wait for the device, and a NaN stays to be reported.
    lowered = torch.where(inside, NO_SCORE, -NO_SCORE).to(scores.dtype)
    scores.scatter_reduce_(1, columns.clamp(0, width - 1), lowered, "amin")


def forbid(scores: Float[Tensor, "B M"], allowed: Bool[Tensor, "M"]) -> None:
    """Give the score −inf, in place, to items that are not `allowed`; a NaN stays, so that it is reported."""
    lowered = torch.where(allowed, -NO_SCORE, NO_SCORE).to(scores.dtype)
    torch.minimum(scores, lowered, out=scores)


def best(scores: Float[Tensor, "B M"], k: int, first_row: int = 0) -> Best:
    """The best min(k, M) of each row, descending; of equal scores those in lower rows win and come first.

    Without the C++ version `largest` promises no order among equals: the last place is settled by counting where it is
    contested.

    >>> best(torch.tensor([[1.0, 3.0, 1.0, 3.0]]), 3).rows.tolist()
    [[1, 3, 0]]
    """
    width = scores.shape[1]
    if selection.serves(scores):
        columns = selection.largest_columns(scores, min(k, width))
        return Best(scores.gather(1, columns), columns + first_row)
    if k >= width:
        values, columns = scores.sort(dim=1, descending=True, stable=True)
        return Best(values, columns + first_row)
    top, columns = largest(scores, k + 1)
    last = top[:, k - 1]
    contested = (last == top[:, k]) & (last > NO_SCORE) & ~top[:, 0].isnan()
    columns = columns[:, :k]  # (B, K)
    if bool(contested.any()):
        columns[contested] = _earliest(scores[contested], last[contested], k)
    columns = columns.sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return Best(values, columns.gather(1, order) + first_row)


def _earliest(scores: Float[Tensor, "R M"], last: Float[Tensor, "R"], k: int) -> Int[Tensor, "R K"]:
    """The k columns that score above `last`, and as many of those that equal it, from the left, as there is room for."""
    above = scores > last[:, None]
    equal = scores == last[:, None]
    room = k - above.sum(1, keepdim=True, dtype=torch.int32)
    chosen: Bool[Tensor, "R M"] = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
    return chosen.nonzero()[:, 1].reshape(len(scores), k)


def merge(earlier: Best, later: Best, k: int) -> Best:
    """The best k of two lists, where every row of `earlier` comes before every row of `later` in the corpus."""
    scores = torch.cat([earlier.scores, later.scores], dim=1)
    rows = torch.cat([earlier.rows, later.rows], dim=1)
    values, order = scores.sort(dim=1, descending=True, stable=True)
    return Best(values[:, :k], rows.gather(1, order[:, :k]))


def all_finite(values: Float[Tensor, "*S"]) -> bool:
    """Whether there is neither NaN nor an infinity: the ends tell, without a copy.

    >>> all_finite(torch.ones(3)), all_finite(torch.tensor([1.0, torch.nan])), all_finite(torch.ones(0))
    (True, False, True)
    """
    return not values.numel() or all(math.isfinite(float(end)) for end in values.aminmax())


def check_defined(found: Best, ids: Int[Tensor, "N"], first_query: int = 0) -> None:
    """Raise ValueError if a score is NaN or +inf, naming the query (counted from `first_query`) and the item."""
    defined = found.scores < -NO_SCORE
    if not bool(defined.all()):
        undefined = ~defined
        query, place = undefined.nonzero()[0].tolist()
        item, score = int(ids[found.rows[query, place]]), float(found.scores[query, place])
        raise ValueError(score_is(first_query + query, item, "NaN" if score != score else "infinite"))


def score_is(query: int, item: int, what: str) -> str:
    """The message of an error about a score that is not finite."""
    return (
        f"the score of query {query} and item {item} is {what}; look for NaN, infinite or huge values in the embeddings"
        " and in the similarity's weights"
    )


def ids_of(found: Best, ids: Int[Tensor, "N"]) -> Int[Tensor, "B K"]:
    """The item ids of what was found, −1 if the score is −inf: nothing was."""
    return torch.where(found.scores > NO_SCORE, ids[found.rows], NO_ITEM)
