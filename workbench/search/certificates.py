"""What makes an answer provably exact, in one place: the precision of a search, the bound of all that it left out, the check.

A searcher gives an `Answer`: its list, and a bound that no other item's score exceeds. `certificate` alone turns this into
`TopK.exact` and `TopK.gap`; `CorpusSearcher.search` alone sets the precision in which scores and bounds are computed.
"""

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import NO_ITEM, ItemState, QueryState, Searcher, Similarity, TopK
from workbench.kernels import selection
from workbench.search.tiles import DEFAULT_BUDGET, check_evaluation
from workbench.search.topk import (
    Best,
    CorpusRows,
    all_finite,
    check_defined,
    check_request,
    count_open,
    ids_of,
    score_is,
)
from workbench.similarities.rounding import UNKNOWN


class Answer(NamedTuple):
    """What a searcher found for B queries.

    `scores` (B, K), descending, and `rows` int64 (B, K) of the corpus; −inf if no item fills a place. `bound` (B,): no item
    that is not in the list and may be found scores above this; −inf if there is no such item, +inf if nothing is known.
    `num_scored` int64 (B,): pairs whose full similarity was computed.
    """

    scores: Float[Tensor, "B K"]
    rows: Int[Tensor, "B K"]
    bound: Float[Tensor, "B"]
    num_scored: Int[Tensor, "B"]


class Certificate(NamedTuple):
    """`exact` and `gap` of `TopK`."""

    exact: Bool[Tensor, "B"]
    gap: Float[Tensor, "B"]


def certificate(last: Float[Tensor, "B"], bound: Float[Tensor, "B"]) -> Certificate:
    """The proof that lists with these `last` scores have, if no other item scores above `bound`; `gap` is rounded up.

    >>> certificate(torch.tensor([2.0, 2.0]), torch.tensor([2.0, 3.0]))
    Certificate(exact=tensor([ True, False]), gap=tensor([0.0000, 1.0000]))
    """
    above, most = 1 + 2 * torch.finfo(last.dtype).eps, bound.double()
    if selection.serves_bounds(last):
        return Certificate(*selection.certified(last, most, above))
    known = last.double()
    exact = known >= most
    gap = (most - known).mul_(above)
    # A difference too small for the dtype is not nothing.
    gap = gap.to(last.dtype).clamp_(min=torch.finfo(last.dtype).tiny)
    return Certificate(exact, gap.nan_to_num_(nan=UNKNOWN, posinf=UNKNOWN).masked_fill_(exact, 0))


class _Float32Products:
    """Products of float32 matrices in float32 while anyone searches, whatever `torch.backends` is set to.

    The settings belong to the process: the first search to begin keeps them, the last to end puts them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._searches = 0
        self._settings: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
        self._before: list[str] = []

    def begin(self) -> None:
        """Keep the settings, unless another search did."""
        with self._lock:
            if not self._searches:
                self._before = [setting.fp32_precision for setting in self._settings]
                for setting in self._settings:
                    setting.fp32_precision = "ieee"
            self._searches += 1

    def end(self) -> None:
        """Restore the settings, unless another search is running."""
        with self._lock:
            self._searches -= 1
            if not self._searches:
                for setting, before in zip(self._settings, self._before, strict=True):
                    setting.fp32_precision = before


_float32_products = _Float32Products()


@contextmanager
def stated_precision() -> Iterator[None]:
    """Compute in the dtype of the states: without autocast, TF32 and their like, and without gradients.

    Also a decorator, of what changes a state too: autocast refuses to join float64 tensors.
    """
    _float32_products.begin()
    try:
        with torch.no_grad(), ExitStack() as off:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    off.enter_context(torch.autocast(device, enabled=False, cache_enabled=device == "cpu"))
            yield
    finally:
        _float32_products.end()


@runtime_checkable
class Revertible(Protocol):
    """What can be brought back to an earlier state."""

    def snapshot(self) -> Callable[[], None]:
        """What brings this back to what it is now; it raises RuntimeError if it cannot."""


@contextmanager
def all_or_nothing(*parts: Revertible) -> Iterator[None]:
    """Change several parts, or none of them: if the block fails, all are brought back.

    Raises what the block raises, and RuntimeError if a part cannot be brought back.
    """
    snapshots = [part.snapshot() for part in parts]
    try:
        yield
    except BaseException as error:
        try:
            _restore(snapshots)
        except RuntimeError as second:
            raise RuntimeError(f"a change failed ({error}) and could not be undone: {second}") from error
        raise


def _restore(snapshots: Sequence[Callable[[], None]]) -> None:
    """Bring every part back; RuntimeError, after all others are back, if one cannot be."""
    failures = []
    for restore in snapshots:
        try:
            restore()
        except RuntimeError as error:
            failures.append(error)
    if failures:
        raise failures[0]


class CorpusSearcher(Searcher):
    """A searcher over one item state: checked arguments, one precision, batches, certificates; leaves do the searching.

    A leaf finds its answers in `_search`, for `_batch` queries at a time, and follows a change of its corpus
    in `_upsert` and `_remove`. A change that fails leaves everything as it was: what a leaf keeps is replaced, never
    changed in place, except what `_in_place` lists.
    Raises ValueError if `memory_budget` (bytes) is not positive.
    """

    def __init__(self, similarity: Similarity, items: ItemState, memory_budget: int = DEFAULT_BUDGET) -> None:
        if memory_budget < 1:
            raise ValueError(f"memory_budget must be a positive number of bytes, not {memory_budget}")
        self.similarity, self.memory_budget = similarity, memory_budget
        self._hold(items, CorpusRows(items.ids))

    def _hold(self, items: ItemState, rows: CorpusRows) -> None:
        self.items, self._rows, self._item_dtype = items, rows, _widest(items)

    @abstractmethod
    def _batch(self, queries: QueryState, k: int, excluded: int) -> int:
        """How many of the queries, with `excluded` items each, are searched together so that the memory budget holds."""

    @abstractmethod
    def _search(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Answer:
        """The best `k` of at least one query; `excluded` are rows of the corpus, −1 for none."""

    @abstractmethod
    def _upsert(self, items: ItemState, corpus: ItemState) -> None:
        """Follow an `upsert` of at least one item that gives `corpus`."""

    @abstractmethod
    def _remove(self, ids: Int[Tensor, "M"], corpus: ItemState) -> None:
        """Follow a `remove` of at least one item that leaves `corpus`."""

    def _in_place(self) -> Sequence[Revertible]:
        """The parts that a change of the corpus changes in place."""
        return ()

    @final
    def snapshot(self) -> Callable[[], None]:
        """What brings the searcher back to what it is now."""
        state, parts = dict(vars(self)), [part.snapshot() for part in self._in_place()]

        def restore() -> None:
            vars(self).update(state)
            _restore(parts)

        return restore

    @final
    @stated_precision()
    def search(
        self,
        queries: QueryState,
        k: int,
        exclude: Int[Tensor, "B H"] | None = None,
        allowed: Bool[Tensor, "N"] | None = None,
    ) -> TopK:
        """The best `k` of each query (B, K), with a proof if there is one; see `Searcher.search` and this class.

        Scores and bounds are computed in the dtype of the states (queries in a narrower one are widened), whatever autocast
        or `torch.set_float32_matmul_precision` say at the time.
        """
        check_request(queries, len(self.items), self.items.ids.device, k, exclude, allowed)
        check_evaluation(self.similarity)
        queries = _widened(queries, self._item_dtype)
        if not len(queries):
            return _nothing(queries, self.items, k)
        whole: TopK | None = None
        step = self._batch(queries, k, 0 if exclude is None else exclude.shape[1])
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            excluded = None if exclude is None else self._rows.of(exclude[part])
            answer = self._search(queries[part], k, excluded, allowed)
            found = _certified(answer, self.items, excluded, allowed, start)
            whole = _put(whole, found, part, len(queries))
        assert whole is not None
        return whole

    @final
    def answer(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Answer:
        """As `_search`, in batches: for a searcher of the same corpus that falls back on this one."""
        step = self._batch(queries, k, 0 if excluded is None else excluded.shape[1])
        parts = []
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            left_out = None if excluded is None else excluded[part]
            parts.append(self._search(queries[part], k, left_out, allowed))
        return parts[0] if len(parts) == 1 else Answer(*map(torch.cat, zip(*parts, strict=True)))

    @final
    @stated_precision()
    def upsert(self, items: ItemState) -> None:
        """See `Searcher.upsert`; nothing happens without items."""
        corpus = self.items.upsert(items)
        if not len(items):
            return
        rows = CorpusRows(corpus.ids)
        with all_or_nothing(self):
            self._upsert(items, corpus)
            self._hold(corpus, rows)

    @final
    @stated_precision()
    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """See `Searcher.remove`; ValueError too if nothing would be left."""
        corpus = self.items.without(ids)
        if not len(ids):
            return
        rows = CorpusRows(corpus.ids)
        with all_or_nothing(self):
            self._remove(ids, corpus)
            self._hold(corpus, rows)


def _floats(state: QueryState | ItemState) -> dict[str, Tensor]:
    return {name: v for name, v in state.tensors().items() if v is not None and v.is_floating_point()}


def _widest(state: QueryState | ItemState) -> torch.dtype:
    dtypes = [value.dtype for value in _floats(state).values()]
    widest = dtypes[0] if dtypes else torch.float32
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return widest


def _widened(queries: QueryState, dtype: torch.dtype) -> QueryState:
    """The queries in a dtype at least as wide as this one, that of the items."""
    wider = {
        name: value.to(dtype)
        for name, value in _floats(queries).items()
        if value.dtype != dtype and torch.promote_types(value.dtype, dtype) == dtype
    }
    return replace(queries, **wider) if wider else queries


def _nothing(queries: QueryState, items: ItemState, k: int) -> TopK:
    """The answer to no query."""
    dtype = torch.promote_types(_widest(queries), _widest(items))
    scores = torch.empty(0, k, dtype=dtype, device=items.ids.device)
    ids = scores.long()
    return TopK(scores, ids, scores.new_empty(0, dtype=torch.bool), scores.new_empty(0), ids.new_empty(0))


def _certified(
    answer: Answer,
    items: ItemState,
    excluded: Int[Tensor, "B H"] | None,
    allowed: Bool[Tensor, "N"] | None,
    first_query: int,
) -> TopK:
    """The answer with its certificate: a certified list is full, or holds every item that may be found.

    Raises ValueError that names the query (counted from `first_query`) and the item if a score is not finite.
    """
    exact, gap = certificate(answer.scores[:, -1], answer.bound)
    if all_finite(answer.scores):  # and all lists are full
        return TopK(answer.scores, items.ids[answer.rows], exact, gap, answer.num_scored)
    found = Best(answer.scores, answer.rows)
    check_defined(found, items.ids, first_query)
    ids = ids_of(found, items.ids)
    if bool((short := exact & (ids[:, -1] == NO_ITEM)).any()):
        lacking = short & ((ids != NO_ITEM).sum(1) < count_open(len(items), excluded, allowed))
        for query in lacking.nonzero()[:1, 0].tolist():
            missing = ~torch.isin(items.ids, ids[query])
            if excluded is not None:
                missing[excluded[query][excluded[query] >= 0]] = False
            if allowed is not None:
                missing &= allowed
            raise ValueError(score_is(first_query + query, int(items.ids[missing][0]), "-inf"))
    return TopK(answer.scores, ids, exact, gap, answer.num_scored)


def _put(whole: TopK | None, part: TopK, rows: slice, total: int) -> TopK:
    """`whole`, for `total` queries, with the results of some of them."""
    if len(part) == total:
        return TopK(*map(_alone, vars(part).values()))
    if whole is None:
        blank = {
            name: v.new_empty((total, *v.shape[1:])) for name, v in part.tensors().items() if v is not None
        }
        whole = TopK(**blank)
    for mine, theirs in zip(vars(whole).values(), vars(part).values(), strict=True):
        mine[rows] = theirs
    return whole


def _alone(tensor: Tensor) -> Tensor:
    """The tensor, copied if it is a view: it would keep the buffer that it is a part of."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
