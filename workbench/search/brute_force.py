"""Every pair scored: exact by construction, and what all other searchers are held to."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.contracts import ItemState, QueryState
from workbench.search import trace
from workbench.search.certificates import Answer, CorpusSearcher
from workbench.search.tiles import Tiling, score_block, tiling
from workbench.search.topk import Best, best, forbid, mask_rows, merge
from workbench.similarities.mol import MixtureOfLogits

RANKED_BYTES = 96
"""Bytes per query and place while two lists of k are merged."""

MASKED_BYTES = 48
"""Bytes per query and excluded item while it is masked."""


class BruteForce(CorpusSearcher):
    """The best k by scoring all N items, tile by tile.

    Memory beyond the item state and the result stays under `memory_budget` bytes at any B and N (a single pair is the
    least that is scored at once). Ties are in the order of the corpus, and neither the batch nor the tiles change the
    ranking of given scores. On a GPU with triton, Mixture-of-Logits is scored and ranked in one kernel (k up to 256), and its
    scores are held nowhere. `exact` is always True, `num_scored` always N.
    """

    def _upsert(self, items: ItemState, corpus: ItemState) -> None:
        """Nothing is derived from the corpus."""

    def _remove(self, ids: Int[Tensor, "M"], corpus: ItemState) -> None:
        """Nothing is derived from the corpus."""

    def _tiling(self, queries: QueryState, k: int, excluded: int) -> Tiling:
        return tiling(
            self.similarity.pair_bytes,
            len(queries),
            len(self.items),
            self.items.ids.device,
            self.memory_budget,
            query_bytes=RANKED_BYTES * k + MASKED_BYTES * excluded,
            least_block=k,
        )

    def _batch(self, queries: QueryState, k: int, excluded: int) -> int:
        return self._tiling(queries, k, excluded).queries

    def _search(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Answer:
        found = self._best(queries, k, excluded, allowed)
        scored = torch.full((len(queries),), len(self.items), device=self.items.ids.device)
        return Answer(found.scores, found.rows, found.scores[:, -1], scored)

    def _best(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Best:
        mol = self.similarity
        if isinstance(mol, MixtureOfLogits) and mol.fuses_top_k(queries, self.items, k):  # type: ignore[arg-type]
            return Best(*mol.top_k(queries, self.items, k, excluded, allowed))  # type: ignore[arg-type]
        cut = self._tiling(queries, k, 0 if excluded is None else excluded.shape[1])
        found: Best | None = None
        for start in range(0, len(self.items), cut.block):
            scores = score_block(self.similarity, queries, self.items[start : start + cut.block], cut.tile)
            trace.scored("a block of the corpus is scored", range(start, start + scores.shape[1]), scores)
            if excluded is not None:
                mask_rows(scores, excluded, start)
            if allowed is not None:
                forbid(scores, allowed[start : start + cut.block])
            here = best(scores, k, start)
            found = here if found is None else merge(found, here, k)
        assert found is not None  # CorpusRows refuses an empty corpus
        return found
