"""What the approximate searchers share: candidates rescored by the full similarity, and what that proves."""

from abc import abstractmethod
from dataclasses import fields
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import ComponentSimilarity, ItemState, QueryState, Searcher, TopK
from workbench.search.bounds import not_finite
from workbench.search.brute_force import BruteForce
from workbench.search.ranking import Pairs, best_of_pairs, less, merged, score_pairs, union
from workbench.search.tiles import DEFAULT_BUDGET
from workbench.search.topk import Best, CorpusRows, check_defined, check_search, ids_of

CANDIDATE_BYTES = 96
"""Bytes per candidate while candidates are put together, scored and ranked."""


class Candidates(NamedTuple):
    """Items to rescore: `pairs`, none of them masked; `bound` (B,): no other item that is not masked can score above this, in
    any arithmetic whose rounding errors are those of `rounding.mixture_error`; −inf where there is none, +inf for unknown."""

    pairs: Pairs
    bound: Float[Tensor, "B"]


class CandidateSearcher(Searcher):
    """Candidates first, from whatever a leaf looks them up in; then the full similarity of those alone.

    Gives exactly k unique items (fewer only where fewer are candidates: id −1), ties in the order of the corpus. `exact` where
    the k-th best score is at least the bound of everything else, which the masks of the request are taken off before;
    otherwise `gap` is the difference of the two. The bound holds for scores as they are computed, so that no rounding makes a
    false certificate. `work` counts candidates.

    A corpus or a query with a value that is not finite is searched by brute force: nothing can be ranked or bounded there.
    """

    def __init__(
        self,
        similarity: ComponentSimilarity,
        items: ItemState,
        memory_budget: int = DEFAULT_BUDGET,
        until_certified: bool = False,
    ) -> None:
        """`until_certified`: double the lists of the queries without a proof until they have one, or list everything."""
        self.similarity = similarity
        self.memory_budget = memory_budget
        self.until_certified = until_certified
        self._hold(items)

    def _hold(self, items: ItemState) -> None:
        self._rows = CorpusRows(items.ids)
        self._all = BruteForce(self.similarity, items, self.memory_budget)
        self._finite = not bool(not_finite(items).any())
        self.items = items

    @abstractmethod
    def _candidates(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
        times: int,
    ) -> Candidates:
        """The candidates of each query; `excluded` are rows, −1 for none; lists are `times` as long as they were set."""

    @property
    @abstractmethod
    def _listed(self) -> int:
        """How many candidates a query has at most: queries are cut so that they fit the memory budget."""

    @final
    @torch.no_grad()
    def search(
        self,
        queries: QueryState,
        k: int,
        exclude: Int[Tensor, "B H"] | None = None,
        allowed: Bool[Tensor, "N"] | None = None,
    ) -> TopK:
        """The best `k` of the candidates (B, K); see `Searcher.search`."""
        check_search(queries, self.items, k, exclude, allowed)
        if not len(queries) or not self._finite or bool(not_finite(queries).any()):
            return self._all.search(queries, k, exclude, allowed)
        together = max(1, self.memory_budget // (2 * CANDIDATE_BYTES * max(k, self._listed)))
        parts = []
        for start in range(0, len(queries), together):
            here = slice(start, start + together)
            excluded = None if exclude is None else self._rows.of(exclude[here])
            parts.append(self._answer(queries[here], k, excluded, allowed, start, times=1))
        return joined(parts)

    @final
    def _answer(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
        first_query: int,
        times: int,
        before: "Scored | None" = None,
    ) -> TopK:
        """The best `k`, from lists `times` as long as they were set and what was scored `before`."""
        size = len(queries)
        pairs, bound = self._candidates(queries, k, excluded, allowed, times)
        fresh = pairs if before is None else less(pairs, before.pairs, len(self.items))
        found = best_of_pairs(fresh, score_pairs(self.similarity, queries, self.items, fresh), size, k)
        if before is not None:
            found = merged(before.found, found, k)
            pairs = union([before.pairs, fresh], len(self.items))  # of ties a longer list may hold others
        check_defined(found, self.items.ids, first_query)
        last = found.scores[:, -1]
        bound = bound.to(torch.promote_types(bound.dtype, last.dtype))
        exact = last >= bound
        # A difference too small for half precision is not nothing.
        gap = (bound - last).to(last.dtype).clamp(min=torch.finfo(last.dtype).tiny).masked_fill(exact, 0)
        work = pairs.queries.bincount(minlength=size)
        answer = TopK(found.scores, ids_of(found, self.items.ids), exact, gap, work)
        if not self.until_certified or times >= len(self.items) or bool(exact.all()):
            return answer
        unsure = ~exact
        number, still = unsure.cumsum(0) - 1, unsure[pairs.queries]
        known = Scored(
            Pairs(number[pairs.queries[still]], pairs.rows[still]),
            Best(found.scores[unsure], found.rows[unsure]),
        )
        rest = None if excluded is None else excluded[unsure]
        again = self._answer(queries[unsure], k, rest, allowed, first_query, 2 * times, known)
        return replaced(answer, unsure, again)


class Scored(NamedTuple):
    """Pairs that were scored, all that shorter lists gave, and the best of them."""

    pairs: Pairs
    found: Best


def replaced(whole: TopK, rows: Bool[Tensor, "B"], part: TopK) -> TopK:
    """`whole` with the results of some queries from `part`, which holds those alone, in order."""

    def put(name: str) -> Tensor:
        values: Tensor = getattr(whole, name).clone()
        values[rows] = getattr(part, name)
        return values

    return TopK(**{f.name: put(f.name) for f in fields(TopK)})


def joined(parts: list[TopK]) -> TopK:
    """The results of batches of queries, one after the other."""
    scores, ids, exact, gap, work = (
        torch.cat([getattr(part, name) for part in parts])
        for name in ("scores", "ids", "exact", "gap", "num_scored")
    )
    return TopK(scores, ids, exact, gap, work)
