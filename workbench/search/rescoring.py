"""What the approximate searchers share: candidates rescored by the full similarity, and what that proves."""

from abc import abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import ComponentSimilarity, ItemState, QueryState
from workbench.search.bounds import not_finite
from workbench.search.brute_force import BruteForce
from workbench.search.certificates import Answer, CorpusSearcher, certificate, stated_precision
from workbench.search.ranking import Pairs, best_of_pairs, less, merged, score_pairs, union
from workbench.search.tiles import DEFAULT_BUDGET
from workbench.search.topk import Best
from workbench.similarities.rounding import largest_norm, norms, overflows

CANDIDATE_BYTES = 96
"""Bytes per candidate while candidates are put together, scored and ranked."""


class Candidates(NamedTuple):
    """Items to rescore: `pairs`, none of them masked; `bound` (B,) as in `Answer`: what no other item scores above."""

    pairs: Pairs
    bound: Float[Tensor, "B"]


class CandidateSearcher(CorpusSearcher):
    """Candidates first, from whatever a leaf looks them up in; then the full similarity of those alone.

    Gives exactly k unique items (fewer only if fewer are candidates: id −1), ties in the order of the corpus. `exact` if
    the k-th best score is at least the bound of everything else, which the masks of the request are taken off before;
    otherwise `gap` is the difference of the two. The bound holds for scores as they are computed, so that no rounding makes a
    false certificate. `num_scored` counts candidates.

    Queries or a corpus with a value that is not finite, or whose products may overflow, are searched by brute force: nothing
    can be ranked or bounded there.
    """

    def __init__(
        self,
        similarity: ComponentSimilarity,
        items: ItemState,
        memory_budget: int = DEFAULT_BUDGET,
        until_certified: bool = False,
    ) -> None:
        """`until_certified`: double the lists of the queries without a proof until they have one, or list everything."""
        super().__init__(similarity, items, memory_budget)
        self.similarity: ComponentSimilarity = similarity
        self.until_certified = until_certified
        with stated_precision():
            self._fallback = self._derived(items)

    def _derived(self, items: ItemState) -> "_Fallback":
        components = self.similarity.item_components(items)
        return _Fallback(
            BruteForce(self.similarity, items, self.memory_budget),
            not bool(not_finite(items).any()),
            largest_norm(components),
            components.dtype,
        )

    def _upsert(self, items: ItemState, corpus: ItemState) -> None:
        self._fallback = self._derived(corpus)
        self._upsert_candidates(items)

    def _remove(self, ids: Int[Tensor, "M"], corpus: ItemState) -> None:
        self._fallback = self._derived(corpus)
        self._remove_candidates(ids)

    @abstractmethod
    def _upsert_candidates(self, items: ItemState) -> None:
        """Put items where candidates are looked up."""

    @abstractmethod
    def _remove_candidates(self, ids: Int[Tensor, "M"]) -> None:
        """Take items out of where candidates are looked up."""

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

    def _batch(self, queries: QueryState, k: int, excluded: int) -> int:
        return max(1, self.memory_budget // (2 * CANDIDATE_BYTES * max(k, self._listed)))

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
        if not self._fallback.finite or bool(not_finite(queries).any()):
            return False
        lengths = norms(self.similarity.query_components(queries)).amax(1)
        return not bool(overflows(lengths, self._fallback.norm, self._dtype(queries)).any())

    def _score_error(self, queries: QueryState) -> Float[Tensor, "B"]:
        """See `ComponentSimilarity.score_error`."""
        return self.similarity.score_error(queries, self._fallback.norm, self._dtype(queries))

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
        size = len(queries)
        pairs, bound = self._candidates(queries, k, excluded, allowed, times)
        fresh = pairs if before is None else less(pairs, before.pairs, len(self.items))
        found = best_of_pairs(fresh, score_pairs(self.similarity, queries, self.items, fresh), size, k)
        if before is not None:
            found = merged(before.found, found, k)
            pairs = union([before.pairs, fresh], len(self.items))  # of ties a longer list may hold others
        answer = Answer(found.scores, found.rows, bound, pairs.queries.bincount(minlength=size))
        exact = certificate(found.scores[:, -1], bound).exact
        if not self.until_certified or times >= len(self.items) or bool(exact.all()):
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
    """Brute force over the corpus; whether all of it is `finite`; the largest `norm` of its components, and their dtype."""

    everything: BruteForce
    finite: bool
    norm: Float[Tensor, ""]
    dtype: torch.dtype


class _Scored(NamedTuple):
    """Pairs that were scored, all that shorter lists gave, and the best of them."""

    pairs: Pairs
    found: Best
