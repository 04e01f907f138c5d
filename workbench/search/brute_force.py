"""Every pair scored: exact by construction, and what all other searchers are held to."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import ItemState, QueryState, Searcher, Similarity, TopK
from workbench.search.tiles import DEFAULT_BUDGET, Tiling, check_evaluation, score_block, tiling
from workbench.search.topk import (
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

RANKED_BYTES = 96
"""Bytes per query and place while two lists of k are merged."""

MASKED_BYTES = 48
"""Bytes per query and excluded item while it is masked."""


class BruteForce(Searcher):
    """The best k by scoring all N items, tile by tile.

    Memory beyond the item state and the result stays under `memory_budget` bytes at any B and N (a single pair is the
    least that is scored at once). Ties are in the order of the corpus, and neither the batch nor the tiles change the
    ranking of given scores. On a GPU with triton, Mixture-of-Logits is scored and ranked in one kernel (k up to 256), and its
    scores are held nowhere. `exact` is always True, `work` always N. An item that scores −inf is never returned.
    """

    def __init__(self, similarity: Similarity, items: ItemState, memory_budget: int = DEFAULT_BUDGET) -> None:
        if memory_budget < 1:
            raise ValueError(f"memory_budget must be a positive number of bytes, not {memory_budget}")
        self.similarity = similarity
        self.memory_budget = memory_budget
        self._hold(items)

    def _hold(self, items: ItemState) -> None:
        self._rows = CorpusRows(items.ids)
        self.items = items

    def upsert(self, items: ItemState) -> None:
        """See `Searcher.upsert`: the item state is copied once, nothing is computed anew."""
        self._hold(self.items.upsert(items))

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """See `Searcher.remove`; ValueError too where nothing would be left."""
        self._hold(self.items.without(ids))

    def _tiling(self, queries: int, k: int, excluded: int) -> Tiling:
        return tiling(
            self.similarity.pair_bytes,
            queries,
            len(self.items),
            self.items.ids.device,
            self.memory_budget,
            query_bytes=RANKED_BYTES * k + MASKED_BYTES * excluded,
            least_block=k,
        )

    def search(
        self,
        queries: QueryState,
        k: int,
        exclude: Int[Tensor, "B H"] | None = None,
        allowed: Bool[Tensor, "N"] | None = None,
    ) -> TopK:
        """The best `k` of all items (B, K); see `Searcher.search`."""
        check_search(queries, self.items, k, exclude, allowed)
        cut = self._tiling(len(queries), k, 0 if exclude is None else exclude.shape[1])
        answer: TopK | None = None
        # At least one turn: no queries give an empty result of the right shape.
        for start in range(0, max(len(queries), 1), cut.queries):
            rows = slice(start, start + cut.queries)
            excluded = None if exclude is None else self._rows.of(exclude[rows])
            with torch.no_grad():
                found = self._search(queries[rows], k, excluded, allowed, cut)
            if answer is None:
                answer = self._blank(len(queries), found.scores)
            check_defined(found, self.items.ids, first_query=start)
            answer.scores[rows] = found.scores
            answer.ids[rows] = ids_of(found, self.items.ids)
        assert answer is not None
        return answer

    def _blank(self, queries: int, like: Float[Tensor, "Q K"]) -> TopK:
        shape = (queries, like.shape[1])
        return TopK(
            scores=like.new_empty(shape),
            ids=like.new_empty(shape, dtype=torch.int64),
            exact=like.new_ones(queries, dtype=torch.bool),
            gap=like.new_zeros(queries),
            num_scored=like.new_full((queries,), len(self.items), dtype=torch.int64),
        )

    def _search(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
        cut: Tiling,
    ) -> Best:
        mol = self.similarity
        if isinstance(mol, MixtureOfLogits) and mol.fuses_top_k(queries, self.items, k):  # type: ignore[arg-type]
            check_evaluation(mol)
            return Best(*mol.top_k(queries, self.items, k, excluded, allowed))  # type: ignore[arg-type]
        found: Best | None = None
        for start in range(0, len(self.items), cut.block):
            scores = score_block(self.similarity, queries, self.items[start : start + cut.block], cut.tile)
            if excluded is not None:
                mask_rows(scores, excluded, start)
            if allowed is not None:
                forbid(scores, allowed[start : start + cut.block])
            here = best(scores, k, start)
            found = here if found is None else merge(found, here, k)
        assert found is not None  # CorpusRows refuses an empty corpus
        return found
