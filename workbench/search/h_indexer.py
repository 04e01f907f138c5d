"""The h-indexer: a first stage of low width in int8, a threshold from a sample, one filtering pass, then the full similarity.

Source: "Revisiting Neural Retrieval on Accelerators" (Zhai et al., 2023). There the first stage is trained together with the
mixture; here it is fitted to a trained similarity, without touching it (see `first_stages`).
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import ItemState, QueryState, Upsert
from workbench.search import trace
from workbench.search.certificates import Revertible, stated_precision
from workbench.search.first_stages import FirstStage
from workbench.search.generators import CandidateGenerator, Candidates, check_count
from workbench.search.partition import largest
from workbench.search.quantized_vectors import QuantizedVectors
from workbench.search.ranking import Pairs, marked, union
from workbench.search.tiles import DEFAULT_BUDGET
from workbench.search.topk import NO_SCORE, CorpusRows, count_open, forbid, mask_rows
from workbench.similarities.rounding import UNKNOWN

MULTIPLE = 8
"""Integer products on a GPU want widths and rows that are multiples of this."""

FEWEST_QUERIES = 17
"""Integer products on a GPU need this many."""

ITEMS_AT_ONCE = 4_096
"""Items whose vectors are computed and quantised together: a multiple of `MULTIPLE`."""


class FirstStageFilter(CandidateGenerator):
    """About `keep` items by a first stage in int8.

    Per query: first-stage scores of `sampled` random items give the threshold that `keep` items of the corpus are expected to
    reach; one pass over the corpus keeps those that do (a second one everything, should they be fewer than k). Vectors are
    quantised row by row on both sides, products are sums of integers. Proves nothing, unless all items are kept. `generator`
    draws the sample when the filter is built and when its corpus changes.
    Raises ValueError if `keep` or `sampled` is below 1.
    """

    @stated_precision()
    def __init__(
        self,
        items: ItemState,
        stage: FirstStage,
        keep: int,
        generator: torch.Generator,
        *,
        sampled: int = 4096,
        memory_budget: int = DEFAULT_BUDGET,
    ) -> None:
        check_count("keep", keep)
        if sampled < 1:
            raise ValueError(f"the threshold needs a sample of at least 1 item, not {sampled}")
        self.stage, self.keep, self.sampled, self.memory_budget = stage, keep, sampled, memory_budget
        self._generator = generator
        self._hold(items.ids, self._first_stage(items))

    def keeping(self, keep: int) -> Self:
        """The same filter, of the same vectors and the same sample, for another number of items."""
        check_count("keep", keep)
        other = copy.copy(self)
        other.keep = keep
        return other

    def _first_stage(self, items: ItemState) -> QuantizedVectors:
        """The vectors of items in int8, as many at a time as fit next to a corpus that fills the memory."""
        starts = range(0, max(1, len(items)), ITEMS_AT_ONCE)
        parts = (_quantised(self.stage.item_vectors(items[s : s + ITEMS_AT_ONCE])) for s in starts)
        return QuantizedVectors.joined(parts, len(items))

    def _hold(self, ids: Int[Tensor, "N"], vectors: QuantizedVectors) -> None:
        self._ids, self._vectors = ids, vectors
        size = len(vectors)
        whole = self.sampled >= size
        drawn = torch.randint(size, (self.sampled,), generator=self._generator)
        self._sample = (torch.arange(size) if whole else drawn).to(ids.device)
        scales = vectors.scales
        self._sampled_vectors = replace(
            vectors,
            values=vectors.values[self._sample],
            scales=None if scales is None else scales[self._sample],
        )

    def upsert(self, items: ItemState) -> None:
        """See `CandidateGenerator.upsert`: the first stage stays as it was fitted, and gives the new items their vectors."""
        put = Upsert(CorpusRows(self._ids).of(items.ids))
        self._hold(put(self._ids, items.ids), self._vectors.upserted(put, self._first_stage(items)))

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """See `CandidateGenerator.remove`."""
        kept = ~torch.isin(self._ids, ids)
        self._hold(self._ids[kept], self._vectors.kept(kept))

    def in_place(self) -> Sequence[Revertible]:
        """The filter itself."""
        return [self]

    def snapshot(self) -> Callable[[], None]:
        """What brings the filter back to what it is now."""
        state = dict(vars(self))
        return lambda: vars(self).update(state)

    def listed(self, queries: QueryState) -> int:
        """See `CandidateGenerator.listed`."""
        return 2 * self.keep

    def candidates(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
        times: int,
    ) -> Candidates:
        """See `CandidateGenerator.candidates`."""
        size = len(queries)
        vectors = _quantised(self.stage.query_vectors(queries)).values
        keep = torch.full((size,), max(k, self.keep * times), device=vectors.device)
        if excluded is not None:
            keep += (excluded >= 0).sum(1)  # what is left out may have been among them
        trace.listed("a sample sets the first stage's threshold", self._sample.expand(size, -1))
        threshold = self._threshold(vectors, keep, allowed)
        # A block's scores and their integers, for all queries.
        block = max(MULTIPLE, self.memory_budget // (32 * size) // MULTIPLE * MULTIPLE)
        pairs = self._passing(vectors, threshold, block, excluded, allowed)
        counts = pairs.counts(size)
        open_to = torch.as_tensor(count_open(len(self._ids), excluded, allowed), device=counts.device)
        short = counts < open_to.clamp(max=k)
        if bool(short.any()):  # the sample misled, or nearly everything is masked: these queries keep all
            threshold = threshold.masked_fill(short[:, None], NO_SCORE)
            pairs = self._passing(vectors, threshold, block, excluded, allowed)
            counts = pairs.counts(size)
        bound = torch.where(counts == open_to, NO_SCORE, UNKNOWN).double()
        return Candidates(pairs, lambda others: bound)

    def _passing(
        self,
        vectors: Int[Tensor, "B w"],
        threshold: Float[Tensor, "B 1"],
        block: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Pairs:
        """The pairs whose first-stage score is at least the threshold and not masked."""
        parts = []
        for start in range(0, len(self._ids), block):
            scores = self._scores(vectors, self._vectors, start, min(start + block, len(self._ids)))
            if excluded is not None:
                mask_rows(scores, excluded, start)
            if allowed is not None:
                forbid(scores, allowed[start : start + block])
            lowest = threshold.clamp(min=torch.finfo(scores.dtype).min)
            parts.append(marked(scores >= lowest, start))
            trace.listed("what reaches the threshold is kept", parts[-1].rows.expand(len(scores), -1))
        return parts[0] if len(parts) == 1 else union(parts, len(self._ids))

    def _threshold(
        self, vectors: Int[Tensor, "B w"], keep: Int[Tensor, "B"], allowed: Bool[Tensor, "N"] | None
    ) -> Float[Tensor, "B 1"]:
        """The first-stage score that about `keep` items of the corpus reach; −inf for all of them."""
        drawn = len(self._sample)
        scores = self._scores(vectors, self._sampled_vectors, 0, drawn)
        if allowed is not None:
            forbid(scores, allowed[self._sample])
        places = (keep * drawn / len(self._ids)).round().long().clamp(1, drawn)[:, None]
        thresholds = largest(scores, int(places.max()))[0].gather(1, places - 1)
        return thresholds.masked_fill((keep >= len(self._ids))[:, None], NO_SCORE)

    @staticmethod
    def _scores(
        queries: Int[Tensor, "B w"], items: QuantizedVectors, start: int, stop: int
    ) -> Float[Tensor, "B M"]:
        """First-stage scores of rows start..stop, each query's up to a factor of its own."""
        assert items.scales is not None
        values = items.values[start:stop]
        on_cpu = values.device.type == "cpu"
        if integer_products_are_exact() if on_cpu else len(values) % MULTIPLE == 0:
            more = 0 if on_cpu else max(0, FEWEST_QUERIES - len(queries))
            products = torch._int_mm(F.pad(queries, (0, 0, 0, more)), values.T)[: len(queries)].float()
        else:
            products = queries.float() @ values.float().T
        return products.mul_(items.scales[start:stop, 0])


@cache
def integer_products_are_exact() -> bool:
    """Whether torch's product of int8 matrices is exact on this CPU.

    Without dot product instructions (VNNI) oneDNN adds products in pairs, in 16 bits, where two large ones are cut off. Sums in
    float32, which take its place, are exact up to a width of 1,040.
    """
    largest_values = torch.full((FEWEST_QUERIES, MULTIPLE), 127, dtype=torch.int8)
    return bool((torch._int_mm(largest_values, largest_values.T) == 127 * 127 * MULTIPLE).all())


def _quantised(vectors: Float[Tensor, "M w"]) -> QuantizedVectors:
    """In int8, with zeros up to a multiple of `MULTIPLE`. (On a CPU torch's integer product is wrong for a width of 1.)"""
    return QuantizedVectors.of(F.pad(vectors.float(), (0, -vectors.shape[1] % MULTIPLE)), "int8")
