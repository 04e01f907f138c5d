"""Exact with a bound: candidates first, then only the items whose component scores can still bring them into the best k."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import ComponentSimilarity, ItemState, QueryState, Searcher, TopK
from workbench.kernels import mixture_native
from workbench.search.bounds import ComponentBounds, QueryVectors, not_finite
from workbench.search.brute_force import BruteForce
from workbench.search.candidates import Scan
from workbench.search.partition import largest
from workbench.search.quantized_vectors import Precision
from workbench.search.ranking import counted, marked, score_pairs
from workbench.search.tiles import DEFAULT_BUDGET, Tiling, check_evaluation, score_block, tiling
from workbench.search.topk import (
    NO_SCORE,
    Best,
    CorpusRows,
    best,
    check_defined,
    check_search,
    forbid,
    ids_of,
    mask_rows,
    merge,
)
from workbench.similarities.mol import MixtureOfLogits

PAIR_BYTES = 64
"""Bytes per query and seed while seeds are listed, scored and ranked."""

FEWEST_SAMPLED = 96
"""Items on which it is measured what a bound prunes."""

MEASURED_QUERIES = 8
"""Queries of a batch on which it is measured."""

SAMPLED_SHARE = 48
"""The sample is one item in so many: what is measured in vain costs two percent."""


class Exact(Searcher):
    """The best k with a proof: an item is scored unless its bound is below the k-th best score found.

    1. Candidates: the `seeds` · k items with the largest average component score ⟨Σ f_i, Σ g_j⟩. They are nearly the best, so
       the k-th best score among them, S, is nearly the final one.
    2. For every item the bound u(s) of its component scores s, rounding added (`bounds.ComponentBounds`), block by block;
       items whose bound is at least S are scored in full, and S grows with them.

    The ids and scores are those of brute force, up to the rounding of a score (a pair is scored on a gather here), ties in the
    order of the corpus, at any margin between the k-th and the next: `exact` is always True. `work` counts scored pairs.

    Pruning costs the component scores of all items, so what it brings is first measured, on a sample of the items and a few of
    the queries: where more than `max_scored_fraction` of the items would be scored, seeds and all, brute force it is.
    `precision` is that of the components that the bounds are computed from: less memory read, a slightly larger bound, the
    same result.

    Source: Algorithm 1 of "Retrieval with Learned Similarities" (METHODS: threshold S_K instead of the smallest score found),
    with the lists of every component replaced by one of their average.
    """

    def __init__(
        self,
        similarity: ComponentSimilarity,
        items: ItemState,
        *,
        seeds: int = 4,
        max_scored_fraction: float = 0.4,
        precision: Precision = "full",
        memory_budget: int = DEFAULT_BUDGET,
    ) -> None:
        if seeds < 1:
            raise ValueError(f"seeds must be at least 1 per result, not {seeds}")
        if not 0 <= max_scored_fraction <= 1:
            raise ValueError(
                f"max_scored_fraction is a share of the corpus, 0 to 1, not {max_scored_fraction}"
            )
        self.similarity = similarity
        self.seeds, self.max_scored_fraction, self.precision = seeds, max_scored_fraction, precision
        self.memory_budget = memory_budget
        self._hold(items)

    def _hold(self, items: ItemState) -> None:
        self._rows = CorpusRows(items.ids)
        self.items = items
        self._all = BruteForce(self.similarity, items, self.memory_budget)
        self._finite = not bool(not_finite(items).any())
        components = self.similarity.item_components(items)
        self._bounds = ComponentBounds(self.similarity, items, self.precision)
        self._average = Scan("average", items.ids, components.sum(1), block_bytes=self.memory_budget // 4)
        step = max(1, min(len(items) // FEWEST_SAMPLED, SAMPLED_SHARE))
        self._sample = items[torch.arange(0, len(items), step, device=items.ids.device)]
        self._sample_bounds = ComponentBounds(self.similarity, self._sample)
        # One pass of C++ over bounds and scores, where there is one.
        self._fused = self.precision == "full" and mixture_native.supports(components)

    def upsert(self, items: ItemState) -> None:
        """See `Searcher.upsert`: the state is copied and what the bounds need is derived anew."""
        self._hold(self.items.upsert(items))

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """See `Searcher.remove`; ValueError too where nothing would be left."""
        self._hold(self.items.without(ids))

    @torch.no_grad()
    def search(
        self,
        queries: QueryState,
        k: int,
        exclude: Int[Tensor, "B H"] | None = None,
        allowed: Bool[Tensor, "N"] | None = None,
    ) -> TopK:
        """The best `k` (B, K), proved; see `Searcher.search`.

        Where a query or an item holds a value that is not finite nothing can be bounded, and all pairs are scored.
        """
        check_search(queries, self.items, k, exclude, allowed)
        if not self._finite or not len(queries):
            return self._all.search(queries, k, exclude, allowed)
        check_evaluation(self.similarity)
        if self.max_scored_fraction < 1:
            asked = queries[:: -(-len(queries) // MEASURED_QUERIES)]
            share = self.surviving(asked, k).mean() + self.seeds * k / len(self.items)
            if not float(share) <= self.max_scored_fraction:
                return self._all.search(queries, k, exclude, allowed)
        if bool(not_finite(queries).any()):
            return self._all.search(queries, k, exclude, allowed)
        return self._search(queries, k, exclude, allowed)

    @torch.no_grad()
    def surviving(self, queries: QueryState, k: int) -> Float[Tensor, "B"]:
        """The share of items whose bound reaches the k-th best score, as measured on the sample; +inf where it is unknown."""
        vectors = self._sample_bounds.query_vectors(queries)
        scores = score_block(self.similarity, queries, self._sample, len(self._sample))
        place = -(-k * len(self._sample) // len(self.items))
        threshold = scores.topk(place, dim=1).values[:, -1:]
        share = (
            (self._sample_bounds.of(vectors, 0, len(self._sample), len(self._sample)) >= threshold)
            .float()
            .mean(1)
        )
        return share.masked_fill(not_finite(queries), float("inf"))

    def _search(
        self,
        queries: QueryState,
        k: int,
        exclude: Int[Tensor, "B H"] | None = None,
        allowed: Bool[Tensor, "N"] | None = None,
    ) -> TopK:
        cut = tiling(
            self._bounds.pair_bytes(queries),
            len(queries),
            len(self.items),
            self.items.ids.device,
            self.memory_budget // 2,
            query_bytes=PAIR_BYTES * self.seeds * k,
            least_block=k,
        )
        parts = []
        for start in range(0, len(queries), cut.queries):
            here = slice(start, start + cut.queries)
            excluded = None if exclude is None else self._rows.of(exclude[here])
            found, work = self._best(queries[here], k, excluded, allowed, cut)
            check_defined(found, self.items.ids, first_query=start)
            parts.append((found.scores, ids_of(found, self.items.ids), work))
        scores, ids, work = (torch.cat(column) for column in zip(*parts, strict=True))
        sure = torch.ones(len(queries), dtype=torch.bool, device=ids.device)
        return TopK(scores, ids, sure, scores.new_zeros(len(queries)), work)

    def _best(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
        cut: Tiling,
    ) -> tuple[Best, Int[Tensor, "B"]]:
        """The best k and how many pairs were scored for them."""
        size, total = len(queries), len(self.items)
        vectors = self._bounds.query_vectors(queries)
        sums = self.similarity.query_components(queries).sum(1)  # (B, d)
        seeds = self._average.lists(sums, min(self.seeds * k, total), excluded, allowed, ordered=False).rows
        tried = self.similarity.score_candidates(queries, self.items, seeds.clamp(min=0))
        tried = tried.masked_fill(seeds < 0, NO_SCORE)
        nothing = tried.new_full((size,), NO_SCORE)
        reach = largest(tried, k)[0][:, -1] if seeds.shape[1] >= k else nothing
        work = (seeds >= 0).sum(1)
        found: Best | None = None
        for start in range(0, total, cut.block):
            stop = min(start + cut.block, total)
            # An item that ties with the k-th may come before it in the corpus: what equals the reach is scored.
            scores = self._reaching(queries, vectors, start, stop, reach, cut.tile)
            if excluded is not None:
                mask_rows(scores, excluded, start)
            if allowed is not None:
                forbid(scores, allowed[start:stop])
            work += counted(scores > NO_SCORE) - _scored_again(scores, seeds, start)
            here = best(scores, k, start)
            found = here if found is None else merge(found, here, k)
            if found.scores.shape[1] == k:
                reach = torch.fmax(reach, found.scores[:, -1])
        assert found is not None  # CorpusRows refuses an empty corpus
        return found, work

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
        if isinstance(self.similarity, MixtureOfLogits) and self._fused:
            floors = reach.double() - vectors.inner.double() - vectors.outer.double()
            floors = floors.float().nextafter(torch.tensor(NO_SCORE))  # where it was rounded up
            return self.similarity.score_reaching(queries, self.items[start:stop], floors)  # type: ignore[arg-type]
        bounds = self._bounds.of(vectors, start, stop, tile)
        lowest = reach.to(bounds.dtype).clamp(min=torch.finfo(bounds.dtype).min)
        pairs = marked(bounds >= lowest[:, None], start)
        scores = reach.new_full(bounds.shape, NO_SCORE)
        scores[pairs.queries, pairs.rows - start] = score_pairs(self.similarity, queries, self.items, pairs)
        return scores


def _scored_again(scores: Float[Tensor, "B M"], seeds: Int[Tensor, "B C"], start: int) -> Int[Tensor, "B"]:
    """How many of the seeds are among the rows that were scored, `scores` being those of rows from `start` on."""
    columns = seeds - start
    inside = (columns >= 0) & (columns < scores.shape[1])
    reached = scores.gather(1, columns.clamp(0, scores.shape[1] - 1)) > NO_SCORE
    return (inside & reached).sum(1)
