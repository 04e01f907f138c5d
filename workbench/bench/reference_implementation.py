"""The reference implementation: top-k as the published code computes it, nothing kept between calls, nothing in tiles."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from workbench.bench.workloads import Workload
from workbench.contracts import NO_ITEM, ComponentSimilarity, ItemState, QueryState, TopK
from workbench.kernels import mixture
from workbench.search.topk import mask_rows
from workbench.similarities.mol import MixtureOfLogits, MoLItems, MoLQueries

HELD_BYTES = 2**30
"""What the reference implementation may materialise; if (B, N, P) needs more it runs on a part of the corpus."""


class ReferenceImplementation:
    """Per call: the item side of all N items again, logits (B, N, P), the gate over all of them, one top-k.

    Runs on the first `rows` items of the corpus, as many as `held_bytes` admits for `batch_size` queries. All its steps
    are linear in N, so its whole cost is what is measured divided by `fraction`; a smaller part favours it, since more of it
    stays in the processor's cache. Answers of a part are no answers: `fraction` < 1 gives times only.
    """

    def __init__(self, workload: Workload, batch_size: int, held_bytes: int = HELD_BYTES) -> None:
        total = len(workload.items)
        self.similarity = workload.similarity
        self.rows = max(1, min(total, held_bytes // (batch_size * pair_bytes(workload.similarity))))
        self.fraction = self.rows / total
        self.embeddings = workload.embeddings[: self.rows]
        self.ids = workload.items.ids[: self.rows]

    def search(self, queries: QueryState, k: int, exclude: Int[Tensor, "B H"] | None) -> TopK:
        """The best k of the part (B, k)."""
        with torch.no_grad():
            scores = plain_scores(self.similarity, queries, self.similarity.items(self.embeddings, self.ids))
            if exclude is not None:
                mask_rows(scores, exclude - 1)  # ids are 1..N, row 0 has id 1; padding falls outside
            best, rows = scores.topk(min(k, self.rows), dim=1)
        found = torch.where(best > float("-inf"), self.ids[rows], NO_ITEM)
        size = len(best)
        return TopK(
            best,
            found,
            torch.ones(size, dtype=torch.bool, device=best.device),
            best.new_zeros(size),
            torch.full((size,), self.rows, device=best.device),
        )


def pair_bytes(similarity: ComponentSimilarity) -> int:
    """Bytes that `plain_scores` holds at its peak per pair, about."""
    if isinstance(similarity, MixtureOfLogits):
        c = similarity.config
        return mixture.plain_pair_bytes(torch.float32, c.components, c.gate_pair)
    return similarity.pair_bytes


def plain_scores(
    similarity: ComponentSimilarity, queries: QueryState, items: ItemState
) -> Float[Tensor, "B N"]:
    """φ of every pair by the formula, each step over all pairs; of a MoL that is gated as published, else `score`."""
    if not (
        isinstance(similarity, MixtureOfLogits)
        and isinstance(queries, MoLQueries)
        and isinstance(items, MoLItems)
        and similarity.config.gate_combination == "glu_silu"
        and similarity.gate_pair is not None
        and queries.gate is not None
        and items.gate is not None
    ):
        return similarity.score(queries, items)
    grid = torch.einsum("bid,njd->bnij", queries.components, items.components)
    logits = grid.flatten(2)  # (B, N, P)
    weights = F.silu(queries.gate[:, None] * items.gate[None] + similarity.gate_pair(logits)).softmax(-1)
    return (weights * logits).sum(-1)
