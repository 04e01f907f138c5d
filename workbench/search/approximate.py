"""Approximate search: candidates from one or several lists, rescored by the full similarity, and what that proves.

Source: "Retrieval with Learned Similarities", Algorithm 2: lists of `n1` items per component, a list of `n2` by the average.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import ComponentSimilarity, ItemState, QueryState, Reach, Similarity
from workbench.search import trace
from workbench.search.bounds import finite, floating
from workbench.search.brute_force import BruteForce
from workbench.search.candidates import Scan, SourceBuilder
from workbench.search.certificates import Answer, CorpusSearcher, Revertible, certificate, stated_precision
from workbench.search.first_stages import AverageComponent
from workbench.search.generators import (
    CandidateGenerator,
    Candidates,
    ComponentLists,
    VectorList,
    check_count,
)
from workbench.search.ranking import Pairs, best_of_pairs, less, merged, narrowed, score_pairs, union
from workbench.search.tiles import DEFAULT_BUDGET
from workbench.search.topk import NO_SCORE, Best, all_finite
from workbench.similarities.rounding import UNKNOWN, largest_norm, norms, products_fit

CANDIDATE_BYTES = 96
"""Bytes per candidate while candidates are put together, scored and ranked."""


class Approximate(CorpusSearcher):
    """Candidates first, from each of `generators`; then the full similarity of those alone.

    Gives exactly k unique items (fewer only if fewer are candidates: id −1), ties in the order of the corpus. `exact` if
    the k-th best score is at least the bound of everything else, which the masks of the request are taken off before;
    otherwise `gap` is the difference of the two. The bound holds for scores as they are computed, so that no rounding makes a
    false certificate: it is the lowest of those that the generators give, and approximate sources give none.
    `num_scored` counts candidates.

    With a `cheaper` similarity over the same states, the `keep` candidates that it scores highest are rescored, at least k; the
    others are dropped, and what is dropped is bounded by nothing. `num_scored` counts those that are rescored.

    With `until_certified`, the lists of the queries without a proof are doubled until they have one, at worst when all items
    are candidates.

    Queries or a corpus with a value that is not finite, or whose products may overflow, are searched by brute force: nothing
    can be ranked or bounded there.
    Raises ValueError if there is no generator.
    """

    def __init__(
        self,
        similarity: ComponentSimilarity,
        items: ItemState,
        generators: Sequence[CandidateGenerator],
        *,
        until_certified: bool = False,
        cheaper: Similarity | None = None,
        keep: int = 1,
        memory_budget: int = DEFAULT_BUDGET,
    ) -> None:
        check_count("keep", keep)
        if not generators:
            raise ValueError("candidates need at least one generator: give n1, n2 or both")
        super().__init__(similarity, items, memory_budget)
        self.similarity: ComponentSimilarity = similarity
        self.generators, self.until_certified = tuple(generators), until_certified
        self.cheaper, self.keep = cheaper, keep
        with stated_precision():
            self._fallback = self._derived(items)

    @classmethod
    def of(
        cls,
        similarity: ComponentSimilarity,
        items: ItemState,
        *,
        n1: int | None = None,
        n2: int | None = None,
        lookahead: int = 0,
        until_certified: bool = False,
        source: SourceBuilder = Scan,
        cheaper: Similarity | None = None,
        keep: int = 1,
        memory_budget: int = DEFAULT_BUDGET,
    ) -> Self:
        """Candidates are the `n1` best items of each component, the `n2` best by the average component, or both.

        The average's list finds most of the best items, the components' lists carry the proof: with both the k-th best score
        is higher, and what the average lists does not count among the `lookahead` (see `generators.ComponentLists`). `source`
        makes the index of each list: by default a scan, whose lists are exact; approximate ones prove nothing.
        Raises ValueError if neither is given, or one is below 1.
        """
        with stated_precision():
            generators: list[CandidateGenerator] = []
            if n1 is not None:
                generators.append(ComponentLists(similarity, items, n1, lookahead=lookahead, source=source))
            if n2 is not None:
                generators.append(VectorList(AverageComponent(similarity), items, n2, source=source))
        return cls(
            similarity,
            items,
            generators,
            until_certified=until_certified,
            cheaper=cheaper,
            keep=keep,
            memory_budget=memory_budget,
        )

    def _derived(self, items: ItemState) -> "_Fallback":
        components = self.similarity.item_components(items)
        return _Fallback(
            BruteForce(self.similarity, items, self.memory_budget),
            finite(items),
            norm := largest_norm(components),
            float(norm),
            components.dtype,
            self.similarity.reach(items),
        )

    def _upsert(self, items: ItemState, corpus: ItemState) -> None:
        self._fallback = self._derived(corpus)
        for generator in self.generators:
            generator.upsert(items)

    def _remove(self, ids: Int[Tensor, "M"], corpus: ItemState) -> None:
        self._fallback = self._derived(corpus)
        for generator in self.generators:
            generator.remove(ids)

    def _in_place(self) -> Sequence[Revertible]:
        return [part for generator in self.generators for part in generator.in_place()]

    def _batch(self, queries: QueryState, k: int, excluded: int) -> int:
        listed = sum(generator.listed(queries) for generator in self.generators)
        return max(1, self.memory_budget // (2 * CANDIDATE_BYTES * max(k, listed)))

    def _search(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Answer:
        if not self._can_rank(queries):
            return self._fallback.everything.answer(queries, k, excluded, allowed)
        return self._rescored(queries, k, excluded, allowed, times=1)

    def _dtype(self, queries: QueryState) -> torch.dtype:
        """The dtype that scores are computed in."""
        return torch.promote_types(self.similarity.query_components(queries).dtype, self._fallback.dtype)

    def _can_rank(self, queries: QueryState) -> bool:
        """Whether every score is finite."""
        if not self._fallback.finite:
            return False
        components = self.similarity.query_components(queries)
        longest = float(norms(components).amax())  # infinite if a component is not finite
        dtype, reach = self._dtype(queries), self._fallback.reach
        if not products_fit(longest, self._fallback.longest, dtype):
            return False
        if not self.similarity.parts_fit(queries, longest, reach, dtype):
            return False
        return all(v is components or all_finite(v) for v in floating(queries))

    def _bound(self, queries: QueryState, parts: Sequence[Candidates], pairs: Pairs) -> Float[Tensor, "B"]:
        """What no item outside `pairs` scores above, as scores are computed: the lowest bound of all `parts`."""
        bounds = [
            part.outside_bound(pairs).nan_to_num(nan=UNKNOWN, posinf=UNKNOWN, neginf=NO_SCORE)
            for part in parts
        ]
        bound = reduce(torch.minimum, bounds)
        if float(bound.amin()) == UNKNOWN:
            return bound
        error = self.similarity.score_error(queries, self._fallback.norm, self._dtype(queries))
        return (bound + error).masked_fill_(bound == NO_SCORE, NO_SCORE)

    def _rescored(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
        times: int,
        before: "_Scored | None" = None,
    ) -> Answer:
        """The best `k`, from lists `times` as long as they were set and what was scored `before`."""
        size, total = len(queries), len(self.items)
        parts = [g.candidates(queries, k, excluded, allowed, times) for g in self.generators]
        pairs = union([part.pairs for part in parts], total)
        bound = self._bound(queries, parts, pairs)
        if self.cheaper is not None:
            keep = max(k, self.keep * times)
            pairs, dropped = narrowed(self.cheaper, queries, self.items, pairs, keep)
            bound = bound.masked_fill(dropped, UNKNOWN)
        fresh = pairs if before is None else less(pairs, before.pairs, total)
        scores = score_pairs(self.similarity, queries, self.items, fresh)
        if trace.listening():
            trace.scored("the candidates are scored", fresh.rows[None], scores[None])
        trace.bounded("the ends of the lists bound the rest", bound)
        found = best_of_pairs(fresh, scores, size, k)
        if before is not None:
            found = merged(before.found, found, k)
            pairs = union([before.pairs, fresh], total)  # of ties a longer list may hold others
        answer = Answer(found.scores, found.rows, bound, pairs.counts(size))
        if not self.until_certified or times >= total:
            return answer
        exact = certificate(found.scores[:, -1], bound).exact
        if bool(exact.all()):
            return answer
        unsure = ~exact
        number, still = unsure.cumsum(0) - 1, unsure[pairs.queries]
        known = _Scored(
            Pairs(number[pairs.queries[still]], pairs.rows[still]),
            Best(found.scores[unsure], found.rows[unsure]),
        )
        rest = None if excluded is None else excluded[unsure]
        again = self._rescored(queries[unsure], k, rest, allowed, 2 * times, known)
        return Answer(
            *(old.index_put((unsure,), new.to(old.dtype)) for old, new in zip(answer, again, strict=True))
        )


class _Fallback(NamedTuple):
    """Brute force over the corpus; whether all of it is `finite`; the largest `norm` of its components, as a number too
    (`longest`), their dtype, and the reach of all else."""

    everything: BruteForce
    finite: bool
    norm: Float[Tensor, ""]
    longest: float
    dtype: torch.dtype
    reach: Reach


class _Scored(NamedTuple):
    """Pairs that were scored, all that shorter lists gave, and the best of them."""

    pairs: Pairs
    found: Best
