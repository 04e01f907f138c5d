"""Where candidates come from: lists of the items with the largest inner product, from torch here, from an engine elsewhere.

A searcher for a component similarity gets candidates from one or several *sources* and scores them in full. A source holds
one vector per item: the j-th component of every item, or the mean of its components. It does not depend on similarities.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import NO_ITEM, Upsert
from workbench.kernels import product_scan
from workbench.kernels.product_scan import Int8Table
from workbench.search.partition import largest
from workbench.search.topk import NO_SCORE, Best, CorpusRows, forbid, mask_rows
from workbench.similarities.rounding import UNKNOWN, largest_norm, norms, product_error, sum_error

BLOCK_BYTES = 64 * 2**20
"""Inner products that a scan holds at once; ranking them costs less, the more they are."""
WIDENED_ROWS = 4096
"""Vectors kept in less than float32 that are widened at once."""
TINY = torch.finfo(torch.float32).tiny


class Lists(NamedTuple):
    """One list of candidates for each of Q query vectors, or (`lists_of`) for each of them and of G sources.

    `scores` (Q, C): the inner products as the source computes them, descending if that was requested; −inf past the end.
    `rows` int64 (Q, C): rows of the corpus, unique within a list; −1 past the end. `outside_bound` float64 (Q,): no row
    outside the list, of those that are allowed and not excluded, has an inner product above this: in exact arithmetic on the
    vectors handed in, so whatever the source loses by rounding or quantising is added. −inf if there is no such row; +inf
    if nothing is known, as with an approximate index. `error` float64 (Q,): how far `scores` can be from these exact inner
    products; None if that is unknown.
    """

    scores: Float[Tensor, "Q *G C"]
    rows: Int[Tensor, "Q *G C"]
    outside_bound: Float[Tensor, "Q *G"]
    error: Float[Tensor, "Q *G"] | None = None


class CandidateSource(ABC):
    """The items with the largest inner product with a query, over one vector per item.

    Rows are those of the item state the source was built for, and stay so: `upsert` and `remove` reorder as
    `ItemState.upsert` and `ItemState.without` do. (An engine with keys of its own maps them through `CorpusRows`.)
    """

    @abstractmethod
    def lists(
        self,
        vectors: Float[Tensor, "Q d"],
        count: int,
        exclude: Int[Tensor, "Q H"] | None = None,
        allowed: Bool[Tensor, "N"] | None = None,
        ordered: bool = True,
    ) -> Lists:
        """Up to `count` ≥ 1 candidates (Q, C), C = min(count, N), for each query vector, on its device.

        `exclude` holds rows to leave out of each list, −1 for none; `allowed` holds for each row whether it may be listed. A
        source that cannot exclude rows itself fetches more and passes the result to `leave_out`: at most `count` + H. Who
        needs no order (`ordered`) gets the same candidates in any, perhaps sooner.
        """

    @abstractmethod
    def upsert(self, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> None:
        """Give the items `ids` these vectors: a known one keeps its row, new ones are appended in order.

        Raises NotImplementedError, which names what to do instead, if the index can only be rebuilt.
        """

    @abstractmethod
    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """Take the items `ids`, all of them known, out; the others keep their order. NotImplementedError as for `upsert`."""

    @abstractmethod
    def snapshot(self) -> Callable[[], None]:
        """What brings the source back to what it is now, however a change ended; RuntimeError if it cannot."""


@runtime_checkable
class Stored(Protocol):
    """What writes itself into files, from which it is opened again; a shallow copy of it may change while it stays the same."""

    def save_into(self, folder: Path) -> None:
        """Write its files into `folder`, each whole or not at all."""


SourceBuilder = Callable[[str, Int[Tensor, "N"], Float[Tensor, "N d"]], CandidateSource]
"""Makes a source from its name ("component-0", …, or "average": for a file or a collection), the ids and the vectors."""


def listed_among(rows: Int[Tensor, "Q C"], exclude: Int[Tensor, "Q H"]) -> Bool[Tensor, "Q C"]:
    """Which rows of each list are in `exclude`, −1 on either side being none. H work a list: nothing of H is sorted.

    >>> listed_among(torch.tensor([[7, 2, -1]]), torch.tensor([[2, -1, 3, 3]])).tolist()
    [[False, True, False]]
    """
    if not rows.numel():
        return torch.zeros_like(rows, dtype=torch.bool)
    if rows.device.type != "cpu":
        return _searched_for(rows, exclude)
    listed_too = np.zeros(rows.shape, dtype=bool)
    marks = np.zeros(int(rows.max()) + 2, dtype=bool)  # one place for all that is in no list
    for query, (listed, out) in enumerate(zip(rows.numpy(), exclude.numpy(), strict=True)):
        places = np.where(out < len(marks), out, -1)
        marks[places] = True
        marks[-1] = False
        listed_too[query] = marks[listed]
        marks[places] = False
    return torch.from_numpy(listed_too)


def _searched_for(rows: Int[Tensor, "Q C"], exclude: Int[Tensor, "Q H"]) -> Bool[Tensor, "Q C"]:
    """`listed_among` without a loop over queries: H log C work."""
    ascending, order = rows.sort(dim=1)
    places = torch.searchsorted(ascending, exclude.contiguous()).clamp(max=rows.shape[1] - 1)
    hit = (ascending.gather(1, places) == exclude) & (exclude >= 0)
    found = torch.zeros_like(rows, dtype=torch.uint8).scatter_reduce(1, places, hit.to(torch.uint8), "amax")
    return torch.zeros_like(found).scatter(1, order, found).bool()


def leave_out(lists: Lists, exclude: Int[Tensor, "Q H"], count: int) -> Lists:
    """The first `count` of each list that are not in `exclude`; what is cut off at the end counts for `outside_bound`.

    What is cut off is bounded by its score and the `error` of the lists, 0 if that is None: a source whose scores are
    rounded states their error, or adds it to `outside_bound` afterwards.
    """
    out = listed_among(lists.rows, exclude)
    scores = lists.scores.masked_fill(out, NO_SCORE)
    rows = lists.rows.masked_fill(out, NO_ITEM)
    order = out.to(torch.int8).argsort(dim=1, stable=True)  # what is left out goes to the end
    scores, rows = scores.gather(1, order), rows.gather(1, order)
    cut = scores[:, count] if scores.shape[1] > count else torch.full_like(lists.outside_bound, NO_SCORE)
    if lists.error is not None:
        cut = torch.where(cut > NO_SCORE, cut + lists.error, cut)
    return Lists(scores[:, :count], rows[:, :count], torch.maximum(lists.outside_bound, cut), lists.error)


class Scan(CandidateSource):
    """Every vector looked at: the lists are exact up to the rounding that `outside_bound` accounts for.

    On a CPU with a compiler the vectors are scanned in int8, a quarter of what float32 reads, with a proved error; what it
    does not rule out is scored and ranked in float32, so that a list is that of a scan in float32 (`kernels.product_scan`).
    Otherwise inner products are held block by block. The vectors are not copied; the int8 are a quarter of them.
    """

    def __init__(
        self,
        name: str,
        ids: Int[Tensor, "N"],
        vectors: Float[Tensor, "N d"],
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self.name = name
        self.block_bytes = block_bytes
        self._hold(ids, vectors)

    def _hold(self, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> None:
        self._rows = CorpusRows(ids)
        self._ids, self._vectors = ids, vectors
        self._table = product_scan.quantized(vectors) if product_scan.serves(vectors) else None
        self._norm = float(largest_norm(vectors)) if self._table is None else self._table.norm

    @property
    def table(self) -> Int8Table | None:
        """The vectors and their int8; None if they are not scanned in int8."""
        return self._table

    def lists(
        self,
        vectors: Float[Tensor, "Q d"],
        count: int,
        exclude: Int[Tensor, "Q H"] | None = None,
        allowed: Bool[Tensor, "N"] | None = None,
        ordered: bool = True,
    ) -> Lists:
        """See `CandidateSource.lists`."""
        if self._table is not None:
            scores, rows, bound, error = _scanned([self._table], vectors, count, exclude, allowed, ordered)
            return Lists(scores.squeeze(1), rows.squeeze(1), bound.squeeze(1), error)
        dtype = torch.float64 if self._vectors.dtype == torch.float64 else torch.float32
        queries = vectors.to(dtype)
        block = max(4 * (count + 1), self.block_bytes // (queries.element_size() * max(1, len(queries))))
        found: Best | None = None
        for start in range(0, len(self._ids), block):
            here = self._products(queries, start, min(start + block, len(self._ids)))
            if exclude is not None:
                mask_rows(here, exclude, start)
            if allowed is not None:
                forbid(here, allowed[start : start + block])
            scores, columns = largest(here, count + 1)
            if found is not None:
                scores, order = largest(torch.cat([found.scores, scores], 1), count + 1)
                columns = torch.cat([found.rows, columns + start], 1).gather(1, order)
            found = Best(scores, columns)
        assert found is not None  # CorpusRows refuses an empty corpus
        error = product_error(norms(queries), self._norm, queries.shape[1], dtype)
        error = error.nan_to_num(nan=UNKNOWN, posinf=UNKNOWN)
        last = found.scores[:, count] if found.scores.shape[1] > count else torch.full_like(error, NO_SCORE)
        # Nothing is known if the products may overflow: one that is −inf looks like no item.
        bound = torch.where(last > NO_SCORE, last + error, NO_SCORE).where(error.isfinite(), UNKNOWN)
        bound = bound.nan_to_num(nan=UNKNOWN, posinf=UNKNOWN, neginf=NO_SCORE)
        scores, rows = found.scores[:, :count], found.rows[:, :count]
        return Lists(scores, rows.masked_fill(scores == NO_SCORE, NO_ITEM), bound, error)

    def _products(self, queries: Float[Tensor, "Q d"], start: int, stop: int) -> Float[Tensor, "Q M"]:
        """Inner products with rows start..stop: vectors in less than float32 are widened while they are in cache."""
        if self._vectors.dtype == queries.dtype:
            return queries @ self._vectors[start:stop].T
        products = queries.new_empty((len(queries), stop - start))
        for first in range(start, stop, WIDENED_ROWS):
            last = min(first + WIDENED_ROWS, stop)
            wide = self._vectors[first:last].to(queries.dtype)
            torch.mm(queries, wide.T, out=products[:, first - start : last - start])
        return products

    def snapshot(self) -> Callable[[], None]:
        """See `CandidateSource.snapshot`."""
        before = dict(vars(self))
        return lambda: vars(self).update(before)

    def upsert(self, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> None:
        """See `CandidateSource.upsert`: the vectors are copied once."""
        put = Upsert(self._rows.of(ids))
        self._hold(put(self._ids, ids), put(self._vectors, vectors))

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """See `CandidateSource.remove`."""
        kept = ~torch.isin(self._ids, ids)
        self._hold(self._ids[kept], self._vectors[kept])


def lists_of(
    sources: Sequence[CandidateSource],
    vectors: Float[Tensor, "Q d"],
    count: int,
    exclude: Int[Tensor, "B H"] | None = None,
    allowed: Bool[Tensor, "N"] | None = None,
    ordered: bool = True,
) -> Lists:
    """The lists of each of G sources for each query, `scores` (Q, G, C): those of all scans in one pass.

    See `CandidateSource.lists`; a row of `exclude` is that of Q / B consecutive queries. An unknown error is +inf.
    """
    tables = [source.table for source in sources if isinstance(source, Scan) and source.table is not None]
    if len(tables) == len(sources):
        scores, rows, bound, error = _scanned(tables, vectors, count, exclude, allowed, ordered)
        return Lists(scores, rows, bound, error[:, None].expand_as(bound))
    if exclude is not None:
        exclude = exclude.repeat_interleave(len(vectors) // max(1, len(exclude)), dim=0)
    found = [source.lists(vectors, count, exclude, allowed, ordered) for source in sources]
    return Lists(
        torch.stack([lists.scores for lists in found], dim=1),
        torch.stack([lists.rows for lists in found], dim=1),
        torch.stack([lists.outside_bound for lists in found], dim=1),
        torch.stack([_known(lists) for lists in found], dim=1),
    )


def _known(lists: Lists) -> Float[Tensor, "Q"]:
    """Its error, +inf if it is unknown."""
    return torch.full_like(lists.outside_bound, UNKNOWN) if lists.error is None else lists.error


def _scanned(
    tables: Sequence[Int8Table],
    vectors: Float[Tensor, "Q d"],
    count: int,
    exclude: Int[Tensor, "B H"] | None,
    allowed: Bool[Tensor, "N"] | None,
    ordered: bool,
) -> tuple[Float[Tensor, "Q G C"], Int[Tensor, "Q G C"], Float[Tensor, "Q G"], Float[Tensor, "Q"]]:
    """`Lists.scores`, `rows` and `outside_bound` of Q queries and G tables, and the error of each query's scores."""
    width, most = vectors.shape[1], min(count, len(tables[0].vectors))
    rounding, underflow = sum_error(width, torch.float32), 2 * (width + 1) * TINY
    return product_scan.largest_products(
        vectors.float(), tables, most, rounding, underflow, exclude, allowed, ordered
    )
