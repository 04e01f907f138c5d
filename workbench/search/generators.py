"""Where the approximate searcher's candidates come from: a list per component, one list by a vector each.

A generator turns queries into vectors and looks them up in one or several sources (`candidates.CandidateSource`).
The h-indexer's first stage (`h_indexer.FirstStageFilter`) is one too.
Source: "Retrieval with Learned Similarities", Algorithm 2 (TopKPerEmbedding, TopKAvg, CombTopK) and Theorems 2 and 3.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import ComponentSimilarity, ItemState, QueryState
from workbench.search import trace
from workbench.search.candidates import CandidateSource, Scan, SourceBuilder, lists_of
from workbench.search.certificates import Revertible, stated_precision
from workbench.search.first_stages import FirstStage
from workbench.search.ranking import Pairs, contains, unique
from workbench.search.topk import NO_SCORE
from workbench.similarities.rounding import UNKNOWN


class Candidates(NamedTuple):
    """Items to rescore: `pairs`, none of them masked.

    `outside_bound` takes a set of pairs that holds these, and returns (B,): no item of the corpus outside that set, if it
    may be found, has a score above this in exact arithmetic. −inf if there is no such item, +inf if nothing is known.
    """

    pairs: Pairs
    outside_bound: Callable[[Pairs], Float[Tensor, "B"]]


class CandidateGenerator(ABC):
    """Lists items that are likely to score high, for each query; `Approximate` scores those of all its generators."""

    @abstractmethod
    def listed(self, queries: QueryState) -> int:
        """How many candidates a query has at most: queries are cut so that they fit the memory budget."""

    @abstractmethod
    def candidates(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
        times: int,
    ) -> Candidates:
        """The candidates of each query; `excluded` are rows, −1 for none; lists are `times` as long as they were set."""

    @abstractmethod
    def upsert(self, items: ItemState) -> None:
        """Follow `ItemState.upsert`."""

    @abstractmethod
    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """Follow `ItemState.without`."""

    @abstractmethod
    def in_place(self) -> Sequence[Revertible]:
        """The parts that a change of the corpus changes."""


class ComponentLists(CandidateGenerator):
    """The `n1` items with the largest component score, for each of the P components, from one source per item group.

    The safe choice, which carries a proof: an item in none of the lists has component scores of at most t_p each, the last in
    list p, and so φ ≤ u(t) (Theorem 2). With `lookahead`, that many items after each list are looked at too: those that are
    candidates through another list do not count for t_p (Theorem 3).
    Raises ValueError if `n1` is below 1 or `lookahead` below 0.
    """

    def __init__(
        self,
        similarity: ComponentSimilarity,
        items: ItemState,
        n1: int,
        *,
        lookahead: int = 0,
        source: SourceBuilder = Scan,
    ) -> None:
        check_count("n1", n1)
        if lookahead < 0:
            raise ValueError(f"lookahead must be 0 or more items after each list, not {lookahead}")
        self.similarity, self.n1, self.lookahead = similarity, n1, lookahead
        components = similarity.item_components(items)
        self.sources: list[CandidateSource] = [
            source(f"component-{j}", items.ids, components[:, j]) for j in range(components.shape[1])
        ]

    def listed(self, queries: QueryState) -> int:
        """See `CandidateGenerator.listed`."""
        groups = self.similarity.query_components(queries).shape[1]
        return (self.n1 + self.lookahead) * groups * len(self.sources)

    def upsert(self, items: ItemState) -> None:
        """Put the components of `items` into every source."""
        components = self.similarity.item_components(items)
        for j, source in enumerate(self.sources):
            source.upsert(items.ids, components[:, j])

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """Take items out of every source."""
        for source in self.sources:
            source.remove(ids)

    def in_place(self) -> Sequence[Revertible]:
        """The sources."""
        return self.sources

    def candidates(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
        times: int,
    ) -> Candidates:
        """See `CandidateGenerator.candidates`."""
        f = self.similarity.query_components(queries)  # (B, Pq, d)
        count = self.n1 * times
        most, ordered = count + self.lookahead, self.lookahead > 0
        found = lists_of(self.sources, f.flatten(0, 1), most, excluded, allowed, ordered)
        assert found.error is not None

        # (B · Pq, Px, …) to (B, P, …): component i · Px + j.
        rows, last = (v.reshape(len(f), -1, *v.shape[2:]) for v in (found.rows, found.outside_bound))
        trace.listed("the list of component", rows[..., :count])
        later = None
        if rows.shape[2] > count:
            most_later = (found.scores + found.error[..., None]).reshape(rows.shape)
            later = (rows[..., count:], most_later[..., count:])
        return Candidates(unique(rows[..., :count].flatten(1)), partial(self._outside_bound, last, later))

    def _outside_bound(
        self,
        last: Float[Tensor, "B P"],
        later: tuple[Int[Tensor, "B P W"], Float[Tensor, "B P W"]] | None,
        pairs: Pairs,
    ) -> Float[Tensor, "B"]:
        """u of the largest score of each component: of the first of `later` not in `pairs`, or of the rest."""
        if later is not None:
            rows, most = later
            passed = contains(pairs, rows.flatten(1)).unflatten(1, (-1, rows.shape[2]))
            passed |= rows < 0
            last = torch.maximum(last, most.masked_fill(passed, NO_SCORE).amax(2))
        return self.similarity.upper_bound(last)


class VectorList(CandidateGenerator):
    """The `n2` items whose vectors of a first stage have the largest inner product with the query's, from one source.

    The fast choice, one inner product per item. It proves nothing, unless the list holds every item that may be found.
    `name` is that of the source, and of the list in a trace.
    """

    @stated_precision()
    def __init__(
        self,
        stage: FirstStage,
        items: ItemState,
        n2: int,
        *,
        name: str = "average",
        source: SourceBuilder = Scan,
    ) -> None:
        check_count("n2", n2)
        self.stage, self.n2, self.name = stage, n2, name
        self.source = source(name, items.ids, stage.item_vectors(items))

    def listing(self, n2: int) -> Self:
        """The same vectors in the same source, with lists of `n2` items."""
        check_count("n2", n2)
        other = copy.copy(self)
        other.n2 = n2
        return other

    def listed(self, queries: QueryState) -> int:
        """See `CandidateGenerator.listed`."""
        return self.n2

    def upsert(self, items: ItemState) -> None:
        """Put the vectors of `items` into the source; a learned stage stays as it was fitted."""
        self.source.upsert(items.ids, self.stage.item_vectors(items))

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """Take items out of the source."""
        self.source.remove(ids)

    def in_place(self) -> Sequence[Revertible]:
        """The source."""
        return [self.source]

    def candidates(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
        times: int,
    ) -> Candidates:
        """See `CandidateGenerator.candidates`."""
        vectors = self.stage.query_vectors(queries)  # (B, w)
        lists = self.source.lists(vectors, self.n2 * times, excluded, allowed, ordered=False)
        trace.listed(f"the list of the {self.name}", lists.rows)
        bound = lists.outside_bound.masked_fill(lists.outside_bound != NO_SCORE, UNKNOWN)
        return Candidates(unique(lists.rows), lambda pairs: bound)


def check_count(name: str, count: int) -> None:
    """Raise ValueError if a list would have no items."""
    if count < 1:
        raise ValueError(f"{name}: a list of candidates needs at least 1 item, not {count}")
