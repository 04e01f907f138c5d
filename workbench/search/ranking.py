"""The largest of long rows, quickly, and scores of a few pairs per query.

`torch.topk` looks at every element with a heap, on a CPU at 5 ns each. Here the maxima of groups of columns are ranked
first: the largest k elements lie in the k groups with the largest maxima. What is left is partitioned by numpy, which
uses the vector instructions that torch does not.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import ItemState, QueryState, Similarity
from workbench.search.tiles import check_evaluation
from workbench.search.topk import NO_SCORE, Best, best

STRIP = 192
"""Candidates of a query that are scored as one row: pairs are ragged, `score_candidates` takes rows of equal length."""

GROUPS_PER_RESULT = 4
"""Columns are grouped only where this many groups remain for each element that is asked for."""


def largest(scores: Float[Tensor, "Q M"], count: int) -> tuple[Float[Tensor, "Q C"], Int[Tensor, "Q C"]]:
    """The largest C = min(count, M) of each row, descending, and their columns; ties in any order, NaN first.

    >>> [t.tolist() for t in largest(torch.tensor([[1.0, 4.0, 2.0]]), 2)]
    [[[4.0, 2.0]], [[1, 2]]]
    """
    width = scores.shape[1]
    count = min(count, width)
    group = _group(width, count)
    if group == 1:
        columns = _partition(scores, count)
        return _ordered(scores.gather(1, columns), columns)
    groups = width // group
    # Group m holds columns m, m + groups, m + 2 · groups, …: its maximum is taken over rows of contiguous memory.
    maxima = scores[:, : group * groups].unflatten(1, (group, groups)).amax(1)
    chosen = _partition(maxima, count)
    inside = torch.arange(group, device=scores.device)[:, None] * groups
    columns = (chosen[:, None, :] + inside).flatten(1)  # (Q, group · C)
    rest = torch.arange(group * groups, width, device=scores.device).expand(len(scores), -1)
    columns = torch.cat([columns, rest], dim=1)
    values = scores.gather(1, columns)
    kept = _partition(values, count)
    return _ordered(values.gather(1, kept), columns.gather(1, kept))


def _group(width: int, count: int) -> int:
    """Columns per group: a power of two near √(width / count), where ranking maxima and ranking members cost the same."""
    group = 1
    while 4 * group * group * count <= width and GROUPS_PER_RESULT * 2 * group * count <= width:
        group *= 2
    return group


def _partition(values: Float[Tensor, "Q M"], count: int) -> Int[Tensor, "Q C"]:
    """Columns of the `count` largest of each row, in any order."""
    if values.device.type != "cpu":
        return values.topk(count, dim=1, sorted=False).indices
    if count >= values.shape[1]:
        return torch.arange(values.shape[1]).expand(len(values), -1)
    array = values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy()
    split = values.shape[1] - count
    return torch.from_numpy(np.ascontiguousarray(np.argpartition(array, split, axis=1)[:, split:]))


def _ordered(
    values: Float[Tensor, "Q C"], columns: Int[Tensor, "Q C"]
) -> tuple[Float[Tensor, "Q C"], Int[Tensor, "Q C"]]:
    ordered, order = values.sort(dim=1, descending=True)
    return ordered, columns.gather(1, order)


class Pairs(NamedTuple):
    """Queries and items that belong together: `queries`, `rows` int64 (M,), ascending by query, then by row, none twice."""

    queries: Int[Tensor, "M"]
    rows: Int[Tensor, "M"]


def marked(mask: Bool[Tensor, "B M"], first_row: int = 0) -> Pairs:
    """The pairs that are True; column 0 is `first_row` of the corpus.

    >>> marked(torch.tensor([[False, True], [True, True]])).rows.tolist()
    [1, 0, 1]
    """
    width = max(1, mask.shape[1])
    on_cpu = mask.device.type == "cpu"
    flat = torch.from_numpy(np.flatnonzero(mask.numpy())) if on_cpu else mask.flatten().nonzero()[:, 0]
    return Pairs(flat // width, flat % width + first_row)


def score_pairs(
    similarity: Similarity, queries: QueryState, items: ItemState, pairs: Pairs
) -> Float[Tensor, "M"]:
    """The similarity of each pair (M,): the pairs of a query are laid out in strips of equal length.

    Raises ValueError where dropout is on.
    """
    check_evaluation(similarity)
    counts = pairs.queries.bincount(minlength=len(queries))
    width = max(1, min(STRIP, int(counts.max()))) if len(counts) else 1
    strips = (counts + width - 1) // width
    first = counts.cumsum(0) - counts
    place = torch.arange(len(pairs.rows), device=pairs.rows.device) - first[pairs.queries]
    cell = (strips.cumsum(0) - strips)[pairs.queries] * width + place
    total = int(strips.sum())
    owners = torch.arange(len(queries), device=strips.device).repeat_interleave(strips)
    # A strip that is not full ends with rows of its own query, so that nothing new is read.
    rows = pairs.rows[first[owners]][:, None].repeat(1, width).flatten()
    rows[cell] = pairs.rows
    scores = similarity.score_candidates(queries[owners], items, rows.view(total, width))
    return scores.flatten()[cell]


def best_of_pairs(pairs: Pairs, scores: Float[Tensor, "M"], queries: int, k: int) -> Best:
    """The best k of each query's pairs (B, k), ties in the order of the corpus; score −inf and row 0 past the end."""
    counts = pairs.queries.bincount(minlength=queries)
    width = max(k, int(counts.max())) if queries else k
    first = counts.cumsum(0) - counts
    place = torch.arange(len(scores), device=scores.device) - first[pairs.queries]
    table = scores.new_full((queries, width), NO_SCORE)
    rows = pairs.rows.new_zeros((queries, width))
    table[pairs.queries, place] = scores
    rows[pairs.queries, place] = pairs.rows
    found = best(table, k)
    return Best(found.scores, rows.gather(1, found.rows))


def ordered(rows: Int[Tensor, "B C"]) -> Pairs:
    """The pairs of lists of rows (B, C), −1 for none and none twice in a list."""
    ascending = rows.sort(dim=1).values
    queries, places = (ascending >= 0).nonzero(as_tuple=True)
    return Pairs(queries, ascending[queries, places])


def merged(first: Best, second: Best, k: int) -> Best:
    """The best k of two lists that share no item, wherever in the corpus each item is; ties in the order of the corpus."""
    scores = torch.cat([first.scores, second.scores], dim=1)
    rows, order = torch.cat([first.rows, second.rows], dim=1).sort(dim=1)
    values, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return Best(values[:, :k], rows.gather(1, order[:, :k]))


def less(pairs: Pairs, others: Pairs, total: int) -> Pairs:
    """The pairs that are not among `others`; `total` is the size of the corpus.

    >>> less(Pairs(torch.tensor([0, 1]), torch.tensor([3, 3])), Pairs(torch.tensor([1]), torch.tensor([3])), 5).queries
    tensor([0])
    """
    new = ~torch.isin(pairs.queries * total + pairs.rows, others.queries * total + others.rows)
    return Pairs(pairs.queries[new], pairs.rows[new])


def union(parts: list[Pairs], total: int) -> Pairs:
    """The pairs that are in any of `parts`; `total` is the size of the corpus."""
    keys = torch.cat([part.queries * total + part.rows for part in parts]).unique()
    return Pairs(keys // total, keys % total)
