"""Brute force in two steps: all pairs in int16, with a proved error, then in float32 those that may be among the best k."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.contracts import ItemState, QueryState, Similarity
from workbench.kernels.mixture import mixture_cost
from workbench.search import trace
from workbench.search.bounds import not_finite
from workbench.search.brute_force import BruteForce
from workbench.search.certificates import Answer, CorpusSearcher, stated_precision
from workbench.search.ranking import best_of_pairs, counted, marked, merged, score_pairs
from workbench.search.tiles import DEFAULT_BUDGET
from workbench.search.topk import NO_SCORE, Best, best, forbid, mask_rows
from workbench.similarities.mol import MixtureOfLogits
from workbench.similarities.mol_int16 import Int16Scores, serves

PAIR_BYTES = 20
"""Bytes per pair of a block: two bounds, a mask, and a copy while they are ranked."""

MOST_RESCORED = 0.25
"""Share of a block's pairs beyond which brute force is faster."""

LEAST_OPERATIONS = 4e8
"""Operations of scoring all pairs below which there is nothing to gain: deriving the errors and scoring some items again takes
what is saved. Measured: with P = 16 and 64 hidden units that is at some 100,000 pairs, with 32 and 128 at 20,000."""

BLOCK_BYTES = 64 * 2**20
"""Bytes of a block, at most, whatever the budget: larger ones are no faster (measured)."""

SMALLEST_BLOCK = 4_096
"""Items of a block, at least: each is a few calls."""


class Int16BruteForce(CorpusSearcher):
    """The best k by int16 scores of all N items, and float32 scores of those that these do not rule out.

    An item whose int16 score, plus its error, is below the k-th best score is not among the best k (`similarities.mol_int16`
    has the proof). All others are scored again: ids, scores and the order of ties are those of `BruteForce`, bit for bit, and
    `exact` is always True. `num_scored` counts the latter.

    Brute force answers if `mol_int16.serves` is false (on another processor, say, or without a hidden layer in the gate), a
    value is not finite, components or gates are so large that nothing is known of the error, too many items would be scored
    again, or scoring all pairs takes fewer than `least_operations`. Memory beyond the item state: half of its components, and
    `BLOCK_BYTES` in a search, or `memory_budget` if that is less.
    """

    def __init__(
        self,
        similarity: Similarity,
        items: ItemState,
        *,
        least_operations: float = LEAST_OPERATIONS,
        memory_budget: int = DEFAULT_BUDGET,
    ) -> None:
        super().__init__(similarity, items, memory_budget)
        self.least_operations = least_operations
        with stated_precision():
            self._derive(items)

    def _derive(self, items: ItemState) -> None:
        self._everything = BruteForce(self.similarity, items, self.memory_budget)
        usable = serves(self.similarity, items) and not bool(not_finite(items).any())
        self._scores = Int16Scores(self.similarity, items) if usable else None  # type: ignore[arg-type]

    def _upsert(self, items: ItemState, corpus: ItemState) -> None:
        self._derive(corpus)

    def _remove(self, ids: Int[Tensor, "M"], corpus: ItemState) -> None:
        self._derive(corpus)

    @property
    def _block_bytes(self) -> int:
        return min(self.memory_budget, BLOCK_BYTES)

    def _block(self, queries: int, k: int) -> int:
        """Items whose bounds are held together."""
        fitting = self._block_bytes // (PAIR_BYTES * max(1, queries))
        return min(len(self.items), max(fitting, k, SMALLEST_BLOCK))

    def _batch(self, queries: QueryState, k: int, excluded: int) -> int:
        least = min(len(self.items), max(k, SMALLEST_BLOCK))
        return max(1, min(len(queries), self._block_bytes // (PAIR_BYTES * least)))

    def _search(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Answer:
        found = None
        if self._scores is not None and self._operations(queries) >= self.least_operations:
            found = self._screened(self._scores, queries, k, excluded, allowed)
        return self._everything.answer(queries, k, excluded, allowed) if found is None else found

    def _operations(self, queries: QueryState) -> float:
        assert isinstance(self.similarity, MixtureOfLogits)
        c = self.similarity.config
        cost = mixture_cost(c.query_groups, c.item_groups, c.component_dim, c.gate_pair, len(queries))
        return cost.flops * len(queries) * len(self.items)

    def _screened(
        self,
        scores: Int16Scores,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Answer | None:
        """None if it is not known, or not worth it."""
        bounded = scores.queries(queries)  # type: ignore[arg-type]
        if not bounded.known:
            return None
        size, total = len(queries), len(self.items)
        found: Best | None = None
        scored = torch.zeros(size, dtype=torch.int64)
        reach = torch.full((size,), NO_SCORE)
        step = -(-self._block(size, k) // scores.tile) * scores.tile
        room = torch.empty(2 * size * min(step, total))  # of all blocks, one after the other
        for start in range(0, total, step):
            stop = min(start + step, total)
            lower, upper = scores.bounds(bounded.queries, start, stop, room)
            for bound in (lower, upper):
                if excluded is not None:
                    mask_rows(bound, excluded, start)
                if allowed is not None:
                    forbid(bound, allowed[start:stop])
            if found is None and stop - start >= k:
                reach = best(lower, k).scores[:, -1]
            # What is masked is −inf, and below every floor; what ties with the k-th is scored.
            candidates = upper >= reach.clamp(min=torch.finfo(torch.float32).min)[:, None]
            count = counted(candidates)
            if int(count.sum()) > MOST_RESCORED * candidates.numel() + size * k:
                return None
            pairs = marked(candidates, start)
            exactly = score_pairs(self.similarity, queries, self.items, pairs)
            trace.scored(
                "of the next block, what int16 does not rule out is scored",
                pairs.rows.expand(size, -1),
                exactly.expand(size, -1),
            )
            here = best_of_pairs(pairs, exactly, size, k)
            found = here if found is None else merged(found, here, k)
            reach = torch.fmax(reach, found.scores[:, -1])
            scored += count
        assert found is not None  # CorpusRows refuses an empty corpus
        return Answer(found.scores, found.rows, found.scores[:, -1], scored)
