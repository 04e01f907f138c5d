"""Exact with a bound: candidates first, then only the items whose component scores can still bring them into the best k."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import ComponentSimilarity, ItemState, QueryState, Reach
from workbench.kernels import mixture_native
from workbench.search import trace
from workbench.search.bounds import ComponentBounds, QueryVectors, not_finite
from workbench.search.brute_force import BruteForce
from workbench.search.candidates import Scan
from workbench.search.certificates import Answer, CorpusSearcher, stated_precision
from workbench.search.quantized_vectors import Precision
from workbench.search.ranking import ascending_rows, counted, marked, merged, score_pairs
from workbench.search.tiles import DEFAULT_BUDGET, Tiling, score_block, tiling
from workbench.search.topk import NO_SCORE, Best, best, forbid, mask_rows
from workbench.similarities.mol import MixtureOfLogits
from workbench.similarities.rounding import UNKNOWN, norms

PAIR_BYTES = 64
"""Bytes per query and initial candidate while these are listed, scored and ranked."""

FEWEST_SAMPLED = 96
"""Items on which it is measured what a bound prunes."""

MEASURED_QUERIES = 8
"""Queries of a batch on which it is measured."""

SAMPLED_SHARE = 48
"""The sample is one item in every 48: what is measured in vain costs two percent."""


class Exact(CorpusSearcher):
    """The best k with a proof: an item is scored unless its bound is below the k-th best score found.

    1. Candidates: the `initial_per_k` · k items with the largest average component score ⟨Σ f_i, Σ g_j⟩. They are nearly the
       best, so the k-th best score among them, S, is nearly the final one.
    2. For every item the bound u(s) of its component scores s, rounding added (`bounds.ComponentBounds`), block by block;
       items whose bound is at least S are scored in full, and S grows with them.

    The ids and scores are those of brute force, up to the rounding of a score (a pair is scored on a gather here), ties in the
    order of the corpus, at any margin between the k-th and the next: `exact` is always True. `num_scored` counts scored pairs.

    Pruning costs the component scores of all items, so what it brings is first measured, on a sample of the items and a few of
    the queries: brute force is used if more than `max_scored_fraction` of the items would be scored. It is used too if
    nothing can be bounded: a value is not finite, or a product may overflow.
    `precision` is that of the components that the bounds are computed from: less memory read, a slightly larger bound, the
    same result.

    Source: Algorithm 1 of "Retrieval with Learned Similarities" (METHODS: threshold S_K instead of the smallest score found),
    with the lists of every component replaced by one of their average.
    Raises ValueError if `initial_per_k` is below 1, or `max_scored_fraction` not in [0, 1].
    """

    def __init__(
        self,
        similarity: ComponentSimilarity,
        items: ItemState,
        *,
        initial_per_k: int = 4,
        max_scored_fraction: float = 0.4,
        precision: Precision = "full",
        memory_budget: int = DEFAULT_BUDGET,
    ) -> None:
        if initial_per_k < 1:
            raise ValueError(f"initial_per_k must be at least 1, not {initial_per_k}")
        if not 0 <= max_scored_fraction <= 1:
            raise ValueError(
                f"max_scored_fraction is a share of the corpus, 0 to 1, not {max_scored_fraction}"
            )
        super().__init__(similarity, items, memory_budget)
        self.similarity: ComponentSimilarity = similarity
        self.initial_per_k, self.max_scored_fraction = initial_per_k, max_scored_fraction
        self.precision: Precision = precision
        with stated_precision():
            self._pruning = self._derived(items)

    def _derived(self, items: ItemState) -> "_Pruning":
        components = self.similarity.item_components(items)
        step = max(1, min(len(items) // FEWEST_SAMPLED, SAMPLED_SHARE))
        sample = items[torch.arange(0, len(items), step, device=items.ids.device)]
        return _Pruning(
            everything=BruteForce(self.similarity, items, self.memory_budget),
            finite=not bool(not_finite(items).any()),
            reach=self.similarity.reach(items),
            bounds=ComponentBounds(self.similarity, items, self.precision),
            average=Scan("average", items.ids, components.sum(1), block_bytes=self.memory_budget // 4),
            sample=sample,
            sample_bounds=ComponentBounds(self.similarity, sample),
            fused=self.precision == "full" and mixture_native.supports(components),
        )

    def _upsert(self, items: ItemState, corpus: ItemState) -> None:
        self._pruning = self._derived(corpus)

    def _remove(self, ids: Int[Tensor, "M"], corpus: ItemState) -> None:
        self._pruning = self._derived(corpus)

    @torch.no_grad()
    def surviving(self, queries: QueryState, k: int) -> Float[Tensor, "B"]:
        """The share of items whose bound reaches the k-th best score, as measured on the sample; +inf if it is unknown."""
        sample, bounds = self._pruning.sample, self._pruning.sample_bounds
        scores = score_block(self.similarity, queries, sample, len(sample))
        place = -(-k * len(sample) // len(self.items))
        threshold = scores.topk(place, dim=1).values[:, -1:]
        above = bounds.of(bounds.query_vectors(queries), 0, len(sample), len(sample))
        share = (above >= threshold).float().mean(1)
        return share.masked_fill(not_finite(queries), UNKNOWN)

    def _tiling(self, queries: QueryState, k: int) -> Tiling:
        return tiling(
            self._pruning.bounds.pair_bytes(queries),
            len(queries),
            len(self.items),
            self.items.ids.device,
            self.memory_budget // 2,
            query_bytes=PAIR_BYTES * self.initial_per_k * k,
            least_block=k,
        )

    def _batch(self, queries: QueryState, k: int, excluded: int) -> int:
        return self._tiling(queries, k).queries

    def _search(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Answer:
        vectors = self._pruning.bounds.query_vectors(queries)
        finite = self._pruning.finite and not bool(not_finite(queries).any())
        bounded = (
            finite and bool((vectors.inner + vectors.outer).isfinite().all()) and self._parts_fit(queries)
        )
        if not bounded or self._scores_too_many(queries, k):
            return self._pruning.everything.answer(queries, k, excluded, allowed)
        return self._pruned(queries, vectors, k, excluded, allowed)

    def _parts_fit(self, queries: QueryState) -> bool:
        f = self.similarity.query_components(queries)
        dtype = torch.promote_types(f.dtype, self.similarity.item_components(self.items).dtype)
        return self.similarity.parts_fit(queries, float(norms(f).amax()), self._pruning.reach, dtype)

    def _scores_too_many(self, queries: QueryState, k: int) -> bool:
        if self.max_scored_fraction == 1:
            return False
        measured = queries[:: -(-len(queries) // MEASURED_QUERIES)]
        share = self.surviving(measured, k).mean() + self.initial_per_k * k / len(self.items)
        if trace.listening():
            sampled = self._rows.of(self._pruning.sample.ids).expand(len(queries), -1)
            trace.listed(f"a sample shows that {float(share):.0%} would have to be scored", sampled)
        return not float(share) <= self.max_scored_fraction

    def _pruned(
        self,
        queries: QueryState,
        vectors: QueryVectors,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Answer:
        total, cut = len(self.items), self._tiling(queries, k)
        sums = self.similarity.query_components(queries).sum(1)  # (B, d)
        most = min(self.initial_per_k * k, total)
        first = self._pruning.average.lists(sums, most, excluded, allowed, ordered=False).rows
        first = ascending_rows(first)  # ties in the order of the corpus
        scores = self.similarity.score_candidates(queries, self.items, first.clamp(min=0))
        trace.scored("the best by the average component are scored", first, scores)
        found = best(scores.masked_fill(first < 0, NO_SCORE), k)
        found = Best(found.scores, first.gather(1, found.rows).clamp(min=0))
        nothing = scores.new_full((len(queries),), NO_SCORE)
        reach = found.scores[:, -1] if found.scores.shape[1] == k else nothing
        scored = (first >= 0).sum(1)
        for start in range(0, total, cut.block):
            stop = min(start + cut.block, total)
            # An item that ties with the k-th may come before it in the corpus: what equals the reach is scored.
            scores = self._reaching(queries, vectors, start, stop, reach, cut.tile)
            mask_rows(scores, first, start)
            if excluded is not None:
                mask_rows(scores, excluded, start)
            if allowed is not None:
                forbid(scores, allowed[start:stop])
            scored += counted(scores > NO_SCORE)
            trace.scored(
                "of the next block, what its bound does not rule out is scored", range(start, stop), scores
            )
            found = merged(found, best(scores, k, start), k)
            if found.scores.shape[1] == k:
                reach = torch.fmax(reach, found.scores[:, -1])
        return Answer(found.scores, found.rows, found.scores[:, -1], scored)

    def _reaching(
        self,
        queries: QueryState,
        vectors: QueryVectors,
        start: int,
        stop: int,
        reach: Float[Tensor, "B"],
        tile: int,
    ) -> Float[Tensor, "B M"]:
        """Scores of rows start..stop whose bound is at least `reach`, −inf for the others."""
        if isinstance(self.similarity, MixtureOfLogits) and self._pruning.fused:
            floors = reach.double() - vectors.inner - vectors.outer
            floors = floors.float().nextafter(torch.tensor(NO_SCORE))  # it may have been rounded up
            return self.similarity.score_reaching(queries, self.items[start:stop], floors)  # type: ignore[arg-type]
        bounds = self._pruning.bounds.of(vectors, start, stop, tile)
        lowest = reach.to(bounds.dtype).clamp(min=torch.finfo(bounds.dtype).min)
        pairs = marked(bounds >= lowest[:, None], start)
        scores = reach.new_full(bounds.shape, NO_SCORE)
        scores[pairs.queries, pairs.rows - start] = score_pairs(self.similarity, queries, self.items, pairs)
        return scores


@dataclass(frozen=True)
class _Pruning:
    """What is derived from a corpus: brute force over it, bounds of its scores, the average of each item's components."""

    everything: BruteForce
    finite: bool
    reach: Reach
    bounds: ComponentBounds
    average: Scan
    sample: ItemState
    sample_bounds: ComponentBounds
    fused: bool
    """One pass of C++ over bounds and scores."""
