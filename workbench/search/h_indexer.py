"""The h-indexer: a first stage of low width in int8, a threshold from a sample, one filtering pass, then the full similarity.

Source: "Revisiting Neural Retrieval on Accelerators" (Zhai et al., 2023). There the first stage is trained together with the
mixture; here it is fitted to a trained similarity, without touching it (`AveragedComponents`, `FittedScores`).
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import ComponentSimilarity, ItemState, QueryState, Upsert
from workbench.search import trace
from workbench.search.bounds import not_finite
from workbench.search.certificates import Revertible, stated_precision
from workbench.search.generators import CandidateGenerator, Candidates, check_count
from workbench.search.partition import largest
from workbench.search.quantized_vectors import QuantizedVectors
from workbench.search.ranking import Pairs, marked, union
from workbench.search.tiles import DEFAULT_BUDGET, score_block, tiling
from workbench.search.topk import NO_SCORE, CorpusRows, count_open, forbid, mask_rows
from workbench.similarities.rounding import UNKNOWN

RIDGE = 1e-3
"""Of the fit of item vectors: a share of the mean squared query feature."""

MULTIPLE = 8
"""Integer products on a GPU want widths and rows that are multiples of this."""

FEWEST_QUERIES = 17
"""Integer products on a GPU need this many."""

LEVEL_ITEMS = 65_536
"""Items, evenly spaced, whose scores give a query's mean score; in a smaller corpus all of them."""

ITEMS_AT_ONCE = 131_072
"""Items whose vectors are computed and quantised together: a multiple of `MULTIPLE`."""


class FirstStage(ABC):
    """Vectors of low width w whose inner product ranks items for a query roughly as the similarity does."""

    @abstractmethod
    def query_vectors(self, queries: QueryState) -> Float[Tensor, "B w"]:
        """One vector per query."""

    @abstractmethod
    def item_vectors(self, items: ItemState) -> Float[Tensor, "N w"]:
        """One vector per item."""


class AveragedComponents(FirstStage):
    """Σ_i f_i and mean_j g_j, projected on the `width` principal directions of the items' averages: needs the corpus alone.

    With `width` at least d this is the score of `generators.AverageList`, up to a factor for each query.
    """

    def __init__(self, similarity: ComponentSimilarity, items: ItemState, width: int) -> None:
        check_width(width)
        self.similarity = similarity
        CorpusRows(items.ids)  # an empty corpus has no directions
        averages = self.similarity.item_components(items).double().mean(1)
        averages = averages.nan_to_num(0.0, 0.0, 0.0)  # such items are never ranked by it
        # In units in which no product overflows: neither directions nor an order depend on them.
        self._unit = averages.abs().amax().clamp(min=torch.finfo(torch.float64).tiny)
        averages = averages / self._unit
        _, _, directions = torch.linalg.svd(averages.T @ averages)
        self._directions = directions[:width].T  # (d, w)

    @torch.no_grad()
    def query_vectors(self, queries: QueryState) -> Float[Tensor, "B w"]:
        """Σ_i f_i, projected, up to a factor for each query."""
        sums = self.similarity.query_components(queries).double().sum(1)
        peaks = sums.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        return ((sums / peaks) @ self._directions).float()

    @torch.no_grad()
    def item_vectors(self, items: ItemState) -> Float[Tensor, "N w"]:
        """mean_j g_j, projected, up to a factor for the corpus."""
        averages = self.similarity.item_components(items).double().mean(1) / self._unit
        return (averages @ self._directions).float()


class FittedScores(FirstStage):
    """Item vectors fitted by least squares to the scores of a sample of queries.

    A query's vector u(q) is its components, all in one row, on the width − 1 principal directions of the `sample`'s, and a 1.
    An item's vector is the ridge solution b of u(q) · b ≈ φ(q, x) − mean_x φ(q, ·) over the sample: what follows of the gate is
    in it, so that it ranks better than the average of the same width. Costs len(sample) scores per item, once. (The mean is
    that of `LEVEL_ITEMS` items.)
    """

    def __init__(
        self, similarity: ComponentSimilarity, items: ItemState, sample: QueryState, width: int
    ) -> None:
        check_width(width)
        if len(sample) < 2:
            raise ValueError(f"a fit needs a sample of 2 queries or more, not {len(sample)}")
        self.similarity, self._sample = similarity, sample
        if bool(not_finite(sample).any()):
            raise ValueError("the sample of queries holds values that are not finite")
        rows = self._rows(sample)
        self._mean = rows.mean(0)
        _, _, directions = torch.linalg.svd(rows - self._mean, full_matrices=False)
        self._directions = directions[: width - 1].T
        u = self.query_vectors(sample)
        ridge = RIDGE * len(u) * u[:, :-1].square().mean() if u.shape[1] > 1 else torch.tensor(RIDGE)
        gram = u.T @ u + ridge * torch.eye(u.shape[1], device=u.device)
        self._solve = torch.linalg.solve(gram, u.T)  # (w, m)
        self._level = torch.zeros(len(sample), 1, device=u.device)
        self._level = self._scores(items[:: -(-len(items) // LEVEL_ITEMS)]).mean(1, keepdim=True)

    def _rows(self, queries: QueryState) -> Float[Tensor, "B F"]:
        return self.similarity.query_components(queries).flatten(1).float()

    @torch.no_grad()
    def query_vectors(self, queries: QueryState) -> Float[Tensor, "B w"]:
        """u(q)."""
        projected = (self._rows(queries) - self._mean) @ self._directions
        return torch.cat([projected, torch.ones_like(projected[:, :1])], dim=1)

    @torch.no_grad()
    def _scores(self, items: ItemState) -> Float[Tensor, "M N"]:
        cut = tiling(self.similarity.pair_bytes, len(self._sample), len(items), items.ids.device)
        starts = range(0, len(self._sample), cut.queries)
        parts = [
            score_block(self.similarity, self._sample[s : s + cut.queries], items, cut.tile) for s in starts
        ]
        scores = torch.cat(parts).float() - self._level
        return scores.nan_to_num(0.0, 0.0, 0.0)

    @torch.no_grad()
    def item_vectors(self, items: ItemState) -> Float[Tensor, "N w"]:
        """b, for as many items at a time as their scores fit the memory budget."""
        block = max(1, DEFAULT_BUDGET // (8 * len(self._sample)))
        starts = range(0, len(items), block)
        return torch.cat([(self._solve @ self._scores(items[s : s + block])).T for s in starts])


def check_width(width: int) -> None:
    """ValueError if a first stage would have no width."""
    if width < 1:
        raise ValueError(f"width must be at least 1, not {width}")


class FirstStageFilter(CandidateGenerator):
    """About `keep` items by a first stage in int8.

    Per query: first-stage scores of `sampled` random items give the threshold that `keep` items of the corpus are expected to
    reach; one pass over the corpus keeps those that do (a second one everything, should they be fewer than k). Vectors are
    quantised row by row on both sides, products are sums of integers. Proves nothing, unless all items are kept. `generator`
    draws the sample when the filter is built and when its corpus changes.
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
        parts = [_quantised(self.stage.item_vectors(items[s : s + ITEMS_AT_ONCE])) for s in starts]
        return parts[0] if len(parts) == 1 else QuantizedVectors.joined(parts)

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
        counts = pairs.queries.bincount(minlength=size)
        open_to = torch.as_tensor(count_open(len(self._ids), excluded, allowed), device=counts.device)
        short = counts < open_to.clamp(max=k)
        if bool(short.any()):  # the sample misled, or nearly everything is masked: these queries keep all
            threshold = threshold.masked_fill(short[:, None], NO_SCORE)
            pairs = self._passing(vectors, threshold, block, excluded, allowed)
            counts = pairs.queries.bincount(minlength=size)
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
