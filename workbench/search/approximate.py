"""Candidates per component, by the average of the components, or both; with a proof wherever there is one.

Source: "Retrieval with Learned Similarities", Algorithm 2 (TopKPerEmbedding, TopKAvg, CombTopK) and Theorems 2 and 3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import ComponentSimilarity, ItemState, QueryState
from workbench.search.candidates import CandidateSource, Lists, Scan, SourceBuilder
from workbench.search.certificates import Revertible
from workbench.search.ranking import Pairs, unique
from workbench.search.rescoring import Candidates, CandidateSearcher
from workbench.search.tiles import DEFAULT_BUDGET
from workbench.search.topk import NO_SCORE
from workbench.similarities.rounding import UNKNOWN


class ComponentLists:
    """The `count` items with the largest component score, for each of the P components, from one source per item group."""

    def __init__(
        self,
        similarity: ComponentSimilarity,
        items: ItemState,
        count: int,
        lookahead: int,
        source: SourceBuilder,
    ) -> None:
        check_count(count)
        if lookahead < 0:
            raise ValueError(f"lookahead must be 0 or more items after each list, not {lookahead}")
        self.similarity, self.count, self.lookahead = similarity, count, lookahead
        components = similarity.item_components(items)
        self.sources: list[CandidateSource] = [
            source(f"component-{j}", items.ids, components[:, j].contiguous())
            for j in range(components.shape[1])
        ]

    @property
    def listed(self) -> int:
        """Items in all lists of a query, for as many query groups as item groups."""
        return (self.count + self.lookahead) * len(self.sources) ** 2

    def upsert(self, items: ItemState) -> None:
        """Put the components of `items` into every source."""
        components = self.similarity.item_components(items)
        for j, source in enumerate(self.sources):
            source.upsert(items.ids, components[:, j].contiguous())

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """Take items out of every source."""
        for source in self.sources:
            source.remove(ids)

    def of(
        self,
        queries: QueryState,
        times: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> "Listed":
        """The lists of each query and component, `times` as long as they were set."""
        f = self.similarity.query_components(queries)  # (B, Pq, d)
        count = self.count * times
        size, groups = f.shape[:2]
        repeated = None if excluded is None else excluded.repeat_interleave(groups, dim=0)
        flat = f.flatten(0, 1)
        most, ordered = count + self.lookahead, self.lookahead > 0
        found = [source.lists(flat, most, repeated, allowed, ordered) for source in self.sources]

        def by_component(values: list[Tensor]) -> Tensor:
            return torch.stack([v.unflatten(0, (size, groups)) for v in values], dim=2).flatten(1, 2)

        rows = by_component([lists.rows for lists in found])  # (B, P, C)
        scores = by_component([lists.scores for lists in found])
        return Listed(
            rows[..., :count].flatten(1),
            rows[..., count:],
            scores[..., count:],
            by_component([lists.beyond for lists in found]),
            by_component([_error(lists) for lists in found]),
        )

    def bound(
        self, listed: "Listed", pairs: Pairs, total: int, score_error: Float[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """What an item outside `pairs` can score at most: u of the largest score of each component among them, and rounding.

        The largest is the first lookahead item that is no candidate, or else what lies beyond the list (Theorem 3; without
        lookahead items Theorem 2).
        """
        outside = listed.beyond
        if listed.lookahead_rows.shape[2]:
            keys = pairs.queries * total + pairs.rows
            first = torch.arange(len(outside), device=keys.device)[:, None, None] * total
            asked = first + listed.lookahead_rows
            passed = torch.isin(asked, keys) | (listed.lookahead_rows < 0)
            seen = (listed.lookahead_scores + listed.error[..., None]).masked_fill(passed, NO_SCORE)
            outside = torch.maximum(outside, seen.amax(2))
        bound = self.similarity.upper_bound(outside) + score_error
        return bound.nan_to_num(nan=UNKNOWN, posinf=UNKNOWN, neginf=NO_SCORE)


class Listed(NamedTuple):
    """`rows` (B, P · C), −1 for none; the `lookahead_rows` and `lookahead_scores` (B, P, W) of those after them; no other item
    of a list scores above `beyond` (B, P); scores are off by at most `error` (B, P)."""

    rows: Int[Tensor, "B R"]
    lookahead_rows: Int[Tensor, "B P W"]
    lookahead_scores: Float[Tensor, "B P W"]
    beyond: Float[Tensor, "B P"]
    error: Float[Tensor, "B P"]


def _error(lists: Lists) -> Float[Tensor, "Q"]:
    return torch.full_like(lists.beyond, UNKNOWN) if lists.error is None else lists.error


class AverageList:
    """The `count` items with the largest ⟨Σ_i f_i, mean_j g_j⟩, from one source."""

    def __init__(
        self, similarity: ComponentSimilarity, items: ItemState, count: int, source: SourceBuilder
    ) -> None:
        check_count(count)
        self.similarity, self.count = similarity, count
        self.source = source("average", items.ids, self._mean(items))

    def _mean(self, items: ItemState) -> Float[Tensor, "N d"]:
        return self.similarity.item_components(items).mean(1)

    def upsert(self, items: ItemState) -> None:
        """Put the averages of `items` into the source."""
        self.source.upsert(items.ids, self._mean(items))

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """Take items out of the source."""
        self.source.remove(ids)

    def of(
        self,
        queries: QueryState,
        times: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Lists:
        """The list of each query, `times` as long as it was set."""
        total = self.similarity.query_components(queries).sum(1)  # (B, d)
        return self.source.lists(total, self.count * times, excluded, allowed, ordered=False)


def check_count(count: int) -> None:
    """ValueError where a list would have no items."""
    if count < 1:
        raise ValueError(f"a list of candidates needs at least 1 item, not {count}")


class PerComponent(CandidateSearcher):
    """The `count` best items of each of the P components, rescored: the safe choice, which carries a proof.

    An item in none of the lists has component scores of at most t_p each, the last in list p, and so φ ≤ u(t): `exact` where
    the k-th best score reaches that (Theorem 2). With `lookahead`, so many items after each list are looked at too: those that
    are candidates through another list do not count for t_p (Theorem 3). With `until_certified`, `count` is doubled for the
    queries without a proof until they have one, at worst when all items are candidates.

    `source` makes the index of each item group: by default a scan, whose lists are exact; approximate ones prove nothing.
    """

    def __init__(
        self,
        similarity: ComponentSimilarity,
        items: ItemState,
        count: int,
        *,
        lookahead: int = 0,
        until_certified: bool = False,
        source: SourceBuilder = Scan,
        memory_budget: int = DEFAULT_BUDGET,
    ) -> None:
        super().__init__(similarity, items, memory_budget, until_certified)
        self.count, self.lookahead = count, lookahead
        self._lists = ComponentLists(similarity, items, count, lookahead, source)

    def _upsert_candidates(self, items: ItemState) -> None:
        self._lists.upsert(items)

    def _remove_candidates(self, ids: Int[Tensor, "M"]) -> None:
        self._lists.remove(ids)

    def _in_place(self) -> Sequence[Revertible]:
        return self._lists.sources

    @property
    def _listed(self) -> int:
        return self._lists.listed

    def _candidates(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
        times: int,
    ) -> Candidates:
        listed = self._lists.of(queries, times, excluded, allowed)
        pairs = unique(listed.rows)
        return Candidates(
            pairs, self._lists.bound(listed, pairs, len(self.items), self._score_error(queries))
        )


class Average(CandidateSearcher):
    """The `count` items with the largest ⟨Σ_i f_i(q), mean_j g_j(x)⟩, rescored: the fast choice, one inner product per item.

    This is the score under equal weights, times Pq. It proves nothing, unless the list holds every item that may be found.
    """

    def __init__(
        self,
        similarity: ComponentSimilarity,
        items: ItemState,
        count: int,
        *,
        source: SourceBuilder = Scan,
        memory_budget: int = DEFAULT_BUDGET,
    ) -> None:
        super().__init__(similarity, items, memory_budget)
        self.count = count
        self._list = AverageList(similarity, items, count, source)

    def _upsert_candidates(self, items: ItemState) -> None:
        self._list.upsert(items)

    def _remove_candidates(self, ids: Int[Tensor, "M"]) -> None:
        self._list.remove(ids)

    def _in_place(self) -> Sequence[Revertible]:
        return [self._list.source]

    @property
    def _listed(self) -> int:
        return self.count

    def _candidates(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
        times: int,
    ) -> Candidates:
        lists = self._list.of(queries, times, excluded, allowed)
        bound = torch.where(lists.beyond == NO_SCORE, lists.beyond, UNKNOWN)
        return Candidates(unique(lists.rows), bound)


class Combined(CandidateSearcher):
    """Both: `per_component` items of each component's list and `average` items by the average, rescored.

    The average's list finds most of the best items, the components' lists carry the proof (see `PerComponent`): the k-th best
    score is higher with the former, and what it lists does not count for t_p among the `lookahead`.
    """

    def __init__(
        self,
        similarity: ComponentSimilarity,
        items: ItemState,
        per_component: int,
        average: int,
        *,
        lookahead: int = 0,
        until_certified: bool = False,
        source: SourceBuilder = Scan,
        memory_budget: int = DEFAULT_BUDGET,
    ) -> None:
        super().__init__(similarity, items, memory_budget, until_certified)
        self.per_component, self.average, self.lookahead = per_component, average, lookahead
        self._lists = ComponentLists(similarity, items, per_component, lookahead, source)
        self._list = AverageList(similarity, items, average, source)

    def _upsert_candidates(self, items: ItemState) -> None:
        self._lists.upsert(items)
        self._list.upsert(items)

    def _remove_candidates(self, ids: Int[Tensor, "M"]) -> None:
        self._lists.remove(ids)
        self._list.remove(ids)

    def _in_place(self) -> Sequence[Revertible]:
        return [*self._lists.sources, self._list.source]

    @property
    def _listed(self) -> int:
        return self._lists.listed + self.average

    def _candidates(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
        times: int,
    ) -> Candidates:
        listed = self._lists.of(queries, times, excluded, allowed)
        more = self._list.of(queries, times, excluded, allowed)
        pairs = unique(torch.cat([listed.rows, more.rows], dim=1))
        bound = self._lists.bound(listed, pairs, len(self.items), self._score_error(queries))
        return Candidates(pairs, torch.where(more.beyond == NO_SCORE, more.beyond.to(bound.dtype), bound))
