"""Where candidates come from: lists of the items with the largest inner product, from torch here, from an engine elsewhere.

A searcher for a component similarity asks one or several *sources* for candidates and scores them in full. A source holds
one vector per item: the j-th component of every item, or the mean of its components. It knows nothing of similarities.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import NO_ITEM
from workbench.search.topk import NO_SCORE, CorpusRows, forbid, mask_rows

BLOCK_BYTES = 4 * 2**20
"""Inner products that a scan holds at once: they stay in cache until they are ranked."""


class Lists(NamedTuple):
    """One list of candidates for each of Q query vectors.

    `scores` (Q, C): the inner products as the source knows them, descending; −inf past the end.
    `rows` int64 (Q, C): rows of the corpus, unique within a list; −1 past the end.
    `beyond` (Q,): no row outside the list, of those that are allowed and not excluded, has an inner product above this:
    in exact arithmetic on the vectors handed in, so whatever the source loses by rounding or quantising is added to it.
    −inf where there is no such row; +inf where nothing is known, as with an approximate index.
    """

    scores: Float[Tensor, "Q C"]
    rows: Int[Tensor, "Q C"]
    beyond: Float[Tensor, "Q"]


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
    ) -> Lists:
        """Up to `count` ≥ 1 candidates (Q, C), C = min(count, N), for each query vector, on its device.

        `exclude` holds rows to leave out of each list, −1 for none; `allowed` says of each row whether it may be listed.
        A source that cannot leave rows out itself asks for `count` + H and passes the result to `leave_out`.
        """

    @abstractmethod
    def upsert(self, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> None:
        """Give the items `ids` these vectors: a known one keeps its row, new ones are appended in order.

        Raises NotImplementedError, which says what to do instead, where the index can only be built anew.
        """

    @abstractmethod
    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """Take the items `ids`, all of them known, out; the others keep their order. NotImplementedError as for `upsert`."""


SourceBuilder = Callable[[str, Int[Tensor, "N"], Float[Tensor, "N d"]], CandidateSource]
"""Makes a source from its name ("component-0", …, or "average": for a file or a collection), the ids and the vectors."""


def leave_out(lists: Lists, exclude: Int[Tensor, "Q H"], count: int) -> Lists:
    """The first `count` of each list that are not in `exclude`; what is cut off at the end counts for `beyond`.

    The scores are taken for exact here: a source whose scores are rounded adds its error to `beyond` afterwards.
    """
    out = torch.zeros_like(lists.rows, dtype=torch.bool)
    for column in exclude.T:
        out |= (lists.rows == column[:, None]) & (column >= 0)[:, None]
    scores = lists.scores.masked_fill(out, NO_SCORE)
    rows = lists.rows.masked_fill(out, NO_ITEM)
    order = out.to(torch.int8).argsort(dim=1, stable=True)  # what is left out goes to the end
    scores, rows = scores.gather(1, order), rows.gather(1, order)
    cut = scores[:, count] if scores.shape[1] > count else torch.full_like(lists.beyond, NO_SCORE)
    return Lists(scores[:, :count], rows[:, :count], torch.maximum(lists.beyond, cut))


def product_error(
    query_norms: Float[Tensor, "*S"], item_norm: Float[Tensor, ""], width: int, dtype: torch.dtype
) -> Float[Tensor, "*S"]:
    """How far a computed inner product of `width` terms can be from the exact one.

    γ |q| |x| with γ = d u / (1 − d u) and u the unit roundoff of `dtype`, in which products are summed in whatever order;
    `item_norm` is the largest |x|. Source: Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 3.1.
    One u is added for rounding the norms and the result itself.
    """
    unit_roundoff = torch.finfo(dtype).eps / 2
    terms = (width + 4) * unit_roundoff
    if terms >= 1:  # nothing can be said in so low a precision
        return torch.full_like(query_norms, float("inf"))
    tiny = width * torch.finfo(dtype).tiny  # products that underflow
    return terms / (1 - terms) * query_norms * item_norm + tiny


class Scan(CandidateSource):
    """Every vector looked at, block by block: the lists are exact up to the rounding that `beyond` accounts for."""

    def __init__(self, name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> None:
        self.name = name
        self._hold(ids, vectors)

    def _hold(self, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> None:
        self._rows = CorpusRows(ids)
        self._ids = ids
        self._vectors = vectors
        self._norm = vectors.float().norm(dim=1).amax()

    def lists(
        self,
        vectors: Float[Tensor, "Q d"],
        count: int,
        exclude: Int[Tensor, "Q H"] | None = None,
        allowed: Bool[Tensor, "N"] | None = None,
    ) -> Lists:
        """See `CandidateSource.lists`."""
        total = len(self._ids)
        block = max(count, BLOCK_BYTES // (4 * max(1, len(vectors))))
        scores: Tensor | None = None
        rows: Tensor | None = None
        for start in range(0, total, block):
            here = vectors @ self._vectors[start : start + block].T
            if exclude is not None:
                mask_rows(here, exclude, start)
            if allowed is not None:
                forbid(here, allowed[start : start + block])
            top, columns = here.topk(min(count + 1, here.shape[1]), dim=1)
            columns += start
            if scores is not None and rows is not None:
                top, columns = torch.cat([scores, top], 1), torch.cat([rows, columns], 1)
                top, order = top.topk(min(count + 1, top.shape[1]), dim=1)
                columns = columns.gather(1, order)
            scores, rows = top, columns
        assert scores is not None and rows is not None  # CorpusRows refuses an empty corpus
        error = product_error(
            vectors.norm(dim=1), self._norm.to(vectors.dtype), vectors.shape[1], scores.dtype
        )
        last = scores[:, count] if scores.shape[1] > count else torch.full_like(error, NO_SCORE)
        beyond = torch.where(
            last > NO_SCORE, last + error, last
        )  # NaN, where a norm is infinite, says nothing too
        beyond = beyond.nan_to_num(nan=float("inf"), posinf=float("inf"), neginf=NO_SCORE)
        scores, rows = scores[:, :count], rows[:, :count]
        return Lists(scores, rows.masked_fill(scores == NO_SCORE, NO_ITEM), beyond)

    def upsert(self, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> None:
        """See `CandidateSource.upsert`: the vectors are copied once."""
        rows = self._rows.of(ids)
        known = rows >= 0
        changed = self._vectors.index_copy(0, rows[known], vectors[known].to(self._vectors.dtype))
        self._hold(
            torch.cat([self._ids, ids[~known]]), torch.cat([changed, vectors[~known].to(changed.dtype)])
        )

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """See `CandidateSource.remove`."""
        kept = ~torch.isin(self._ids, ids)
        self._hold(self._ids[kept], self._vectors[kept])
