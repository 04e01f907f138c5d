"""Scores of a few pairs per query, and the best of them."""

import itertools
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import NO_ITEM, ItemState, QueryState, Similarity, have_equal_counts
from workbench.kernels import selection
from workbench.search.tiles import check_evaluation
from workbench.search.topk import NO_SCORE, Best, best


class Pairs(NamedTuple):
    """Queries and items that belong together: `queries`, `rows` int64 (M,), ascending by query, then by row, none twice."""

    queries: Int[Tensor, "M"]
    rows: Int[Tensor, "M"]

    def counts(self, queries: int) -> Int[Tensor, "B"]:
        """How many pairs each of the first `queries` has.

        >>> Pairs(torch.tensor([0, 2, 2]), torch.tensor([5, 1, 3])).counts(4).tolist()
        [1, 0, 2, 0]
        """
        return self.queries.bincount(minlength=queries)


def marked(mask: Bool[Tensor, "B M"], first_row: int = 0) -> Pairs:
    """The pairs that are True; column 0 is `first_row` of the corpus.

    >>> marked(torch.tensor([[False, True], [True, True]])).rows.tolist()
    [1, 0, 1]
    """
    width = max(1, mask.shape[1])
    on_cpu = mask.device.type == "cpu"
    flat = torch.from_numpy(np.flatnonzero(mask.numpy())) if on_cpu else mask.flatten().nonzero()[:, 0]
    return Pairs(flat // width, flat % width + first_row)


def counted(mask: Bool[Tensor, "B M"]) -> Int[Tensor, "B"]:
    """How many of each row are True: on a CPU by numpy, which does not widen them first.

    >>> counted(torch.tensor([[False, True], [True, True]])).tolist()
    [1, 2]
    """
    if mask.device.type == "cpu":
        return torch.tensor([np.count_nonzero(row) for row in mask.numpy()], dtype=torch.int64)
    return mask.sum(1)


def score_pairs(
    similarity: Similarity, queries: QueryState, items: ItemState, pairs: Pairs
) -> Float[Tensor, "M"]:
    """The similarity of each pair (M,), as `Similarity.score_pairs` gives it. Raises ValueError if dropout is on."""
    check_evaluation(similarity)
    return similarity.score_pairs(queries, items, *pairs)


def best_of_pairs(pairs: Pairs, scores: Float[Tensor, "M"], queries: int, k: int) -> Best:
    """The best k of each query's pairs (B, k), ties in the order of the corpus; score −inf and row 0 past the end."""
    if selection.serves_pairs(scores):
        return Best(*selection.best_of_pairs(*pairs, scores, queries, k))
    counts = pairs.counts(queries)
    if have_equal_counts(counts) and int(counts[0]) >= k:
        found = best(scores.view(queries, -1), k)
        return Best(found.scores, pairs.rows.view(queries, -1).gather(1, found.rows))
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
    ascending = ascending_rows(rows)
    return _marked_rows(ascending, ascending >= 0)


def unique(rows: Int[Tensor, "B C"]) -> Pairs:
    """The pairs of lists of rows (B, C) that may repeat; −1 is none.

    >>> unique(torch.tensor([[2, 0, 2, -1]])).rows.tolist()
    [0, 2]
    """
    if selection.serves_rows(rows):
        return Pairs(*selection.distinct(rows))
    ascending = ascending_rows(rows)
    fresh = ascending >= 0
    fresh[:, 1:] &= ascending[:, 1:] != ascending[:, :-1]
    return _marked_rows(ascending, fresh)


def ascending_rows(rows: Int[Tensor, "B C"]) -> Int[Tensor, "B C"]:
    """Each list in ascending order: on a CPU by numpy, whose sort is ten times as fast as torch's."""
    if rows.device.type == "cpu":
        if bool((rows[:, 1:] >= rows[:, :-1]).all()):
            return rows
        return torch.from_numpy(np.sort(rows.numpy(), axis=1))
    return rows.sort(dim=1).values


def _marked_rows(rows: Int[Tensor, "B C"], mask: Bool[Tensor, "B C"]) -> Pairs:
    if bool(mask.all()):  # the usual case of one full list
        queries = torch.arange(len(rows), device=rows.device).repeat_interleave(rows.shape[1])
        return Pairs(queries, rows.flatten())
    queries, places = marked(mask)
    return Pairs(queries, rows[queries, places])


def narrowed(
    similarity: Similarity, queries: QueryState, items: ItemState, pairs: Pairs, keep: int
) -> tuple[Pairs, Bool[Tensor, "B"]]:
    """The `keep` pairs of each query that this similarity scores highest, and for which queries any were dropped."""
    counts = pairs.counts(len(queries))
    dropped = counts > keep
    if not bool(dropped.any()):
        return pairs, dropped
    found = best_of_pairs(pairs, score_pairs(similarity, queries, items, pairs), len(queries), keep)
    return ordered(found.rows.masked_fill(found.scores == NO_SCORE, NO_ITEM)), dropped


def merged(first: Best, second: Best, k: int) -> Best:
    """The best k of two lists that share no item, wherever in the corpus each item is; ties in the order of the corpus."""
    scores = torch.cat([first.scores, second.scores], dim=1)
    rows, order = torch.cat([first.rows, second.rows], dim=1).sort(dim=1)
    values, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return Best(values[:, :k], rows.gather(1, order[:, :k]))


def contains(pairs: Pairs, rows: Int[Tensor, "B C"]) -> Bool[Tensor, "B C"]:
    """Which rows of each query are among its `pairs`; −1 is not.

    >>> contains(Pairs(torch.tensor([0, 1]), torch.tensor([3, 4])), torch.tensor([[4, 3], [4, -1]])).tolist()
    [[False, True], [True, False]]
    """
    if not rows.numel() or not len(pairs.rows):
        return torch.zeros_like(rows, dtype=torch.bool)
    total = 1 + int(torch.maximum(rows.amax(), pairs.rows.amax()))
    queries = torch.arange(len(rows), device=rows.device)[:, None]
    return torch.isin(queries * total + rows, pairs.queries * total + pairs.rows) & (rows >= 0)


def less(pairs: Pairs, others: Pairs, total: int) -> Pairs:
    """The pairs that are not among `others`; `total` is the size of the corpus.

    >>> less(Pairs(torch.tensor([0, 1]), torch.tensor([3, 3])), Pairs(torch.tensor([1]), torch.tensor([3])), 5).queries
    tensor([0])
    """
    new = ~torch.isin(pairs.queries * total + pairs.rows, others.queries * total + others.rows)
    return Pairs(pairs.queries[new], pairs.rows[new])


def union(parts: list[Pairs], total: int) -> Pairs:
    """The pairs that are in any of `parts`; `total` is the size of the corpus."""
    if len(parts) == 1:
        return parts[0]
    if all(map(selection.serves_rows, itertools.chain(*parts))):
        return reduce(lambda one, other: Pairs(*selection.merged(one, other)), parts)
    keys = ascending_rows(torch.cat([part.queries * total + part.rows for part in parts])[None])[0]
    keys = keys.unique_consecutive()
    return Pairs(keys // total, keys % total)
