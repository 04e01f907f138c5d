"""A walk over a graph of items by the learned score itself.

Source: Tan et al., "Fast Item Ranking under Neural Network based Measures" (SL2G, WSDM 2020); "GUITAR" (2023) and Alibaba's
NANN walk in the same way. Here two items are near by the cosine of all their components, and many pairs are scored at once.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import ComponentSimilarity, ItemState, QueryState, Upsert
from workbench.kernels.walk import walks
from workbench.search import trace
from workbench.search.bounds import not_finite
from workbench.search.brute_force import BruteForce
from workbench.search.candidates import Scan, SourceBuilder, listed_among
from workbench.search.certificates import Answer, CorpusSearcher
from workbench.search.proximity_graph import ProximityGraph
from workbench.search.tiles import DEFAULT_BUDGET
from workbench.search.topk import NO_SCORE, best
from workbench.similarities.rounding import UNKNOWN, largest_norm, norms, overflows

LISTED = 128
"""Pairs of a query that are scored together."""

SCORED_BYTES = 64
"""Bytes of a pair that was scored, until all are ranked."""

SCORED_PER_PLACE = 16
"""Pairs that a walk scores for each place of its list, about, at most."""

FILE = "graph.safetensors"


class GraphSearch(CorpusSearcher):
    """The best k that a walk over a graph of items meets: from the best item so far to its neighbours, by φ itself.

    A walk begins with 256 items spread over the corpus and ends when the `ef` best that it met have no neighbour left that was
    not scored. It reads `degree` neighbours of a node, chosen from its `nearest` by the cosine of all components, end to end.
    `num_scored` counts the pairs that it scored. Only a walk that has met every item proves its answer (`exact`).

    Queries or a corpus with a value that is not finite, or whose products may overflow, are searched by brute force, and so
    are queries whose walk meets fewer than k items that may be found. On a GPU scores are computed there, and walks kept on
    the CPU. `graph` is taken if it is given, else that in `folder`, else one is built (and written into `folder`); `source`
    finds the nearest items while it is built.
    """

    def __init__(
        self,
        similarity: ComponentSimilarity,
        items: ItemState,
        ef: int = 200,
        degree: int = 24,
        nearest: int = 48,
        *,
        graph: ProximityGraph | None = None,
        folder: Path | None = None,
        source: SourceBuilder = Scan,
        memory_budget: int = DEFAULT_BUDGET,
    ) -> None:
        for name, value in (("ef", ef), ("degree", degree), ("nearest", nearest)):
            if value < 1:
                raise ValueError(f"{name} of a graph must be at least 1, not {value}")
        super().__init__(similarity, items, memory_budget)
        self.similarity: ComponentSimilarity = similarity
        self.ef, self.degree, self.nearest = ef, degree, nearest
        with torch.no_grad():
            self._derive(items)
            vectors = self._vectors(items)
        path = None if folder is None else folder / FILE
        if graph is not None:
            if len(graph) != len(items):
                raise ValueError(f"the graph is of {len(graph)} items, the corpus of {len(items)}")
            self.graph = graph
        elif path is not None and path.is_file():
            self.graph = ProximityGraph.load(path, items.ids, vectors, self._built_with)
        else:
            self.graph = ProximityGraph.build(items.ids, vectors, degree, nearest, source)
            if folder is not None:
                self.save_into(folder)

    def save_into(self, folder: Path) -> None:
        """Write the graph into `folder`, for a searcher of the same items with the same `degree` and `nearest`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.graph.save(folder / FILE, self.items.ids, self._vectors(self.items), self._built_with)

    @property
    def _built_with(self) -> str:
        return f"degree {self.degree}, nearest {self.nearest}"

    def _vectors(self, items: ItemState) -> Float[Tensor, "N d"]:
        return self.similarity.item_components(items).flatten(1).nan_to_num()

    def _derive(self, items: ItemState) -> None:
        components = self.similarity.item_components(items)
        self._everything = BruteForce(self.similarity, items, self.memory_budget)
        self._finite = not bool(not_finite(items).any())
        self._norm, self._dtype = largest_norm(components), components.dtype

    def _upsert(self, items: ItemState, corpus: ItemState) -> None:
        self._derive(corpus)
        put = Upsert(self._rows.of(items.ids))
        self.graph = self.graph.upserted(put, corpus.ids, self._vectors(corpus), self.nearest)

    def _remove(self, ids: Int[Tensor, "M"], corpus: ItemState) -> None:
        self._derive(corpus)
        kept = ~torch.isin(self.items.ids, ids)
        self.graph = self.graph.without(kept, self._vectors(self.items))

    def _batch(self, queries: QueryState, k: int, excluded: int) -> int:
        total = len(self.items)
        scored = min(total, SCORED_PER_PLACE * (max(self.ef, k) + excluded))
        return max(1, self.memory_budget // (total // 8 + SCORED_BYTES * scored))

    def _can_rank(self, queries: QueryState) -> bool:
        if not self._finite or bool(not_finite(queries).any()):
            return False
        f = self.similarity.query_components(queries)
        dtype = torch.promote_types(f.dtype, self._dtype)
        return not bool(overflows(norms(f).amax(1), self._norm, dtype).any())

    def _search(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Answer:
        if not self._can_rank(queries):
            return self._everything.answer(queries, k, excluded, allowed)
        total = len(self.items)
        open_items = total if allowed is None else int(allowed.sum())
        # What may not be found still leads on: the list has room for it.
        wanted = max(self.ef, k + (0 if excluded is None else excluded.shape[1]))
        beam = -(-wanted * total // max(1, open_items))
        scores, rows, counts = self._walked(queries, min(beam, total), k)
        if excluded is not None:
            scores = scores.masked_fill(listed_among(rows, excluded), NO_SCORE)
        if allowed is not None:
            scores = scores.masked_fill(~allowed[rows.clamp(min=0)], NO_SCORE)
        found = best(scores, k)
        bound = torch.where(counts == total, NO_SCORE, UNKNOWN).to(scores.dtype)
        answer = Answer(found.scores, rows.gather(1, found.rows).clamp(min=0), bound, counts)
        short = (found.scores[:, -1] == NO_SCORE) & (counts < total)
        if not bool(short.any()):
            return answer
        left_out = None if excluded is None else excluded[short]
        again = self._everything.answer(queries[short], k, left_out, allowed)
        return Answer(
            *(old.index_put((short,), new.to(old.dtype)) for old, new in zip(answer, again, strict=True))
        )

    def _walked(
        self, queries: QueryState, beam: int, k: int
    ) -> tuple[Float[Tensor, "B S"], Int[Tensor, "B S"], Int[Tensor, "B"]]:
        """All pairs that walks with lists of `beam` scored, rows ascending (−1 and −inf for none, at least k), and how many."""
        device = self.items.ids.device
        graph = self.graph.neighbours.cpu()
        scores, rows = [], []
        with walks(graph, self.graph.entries.cpu(), len(queries), beam, LISTED) as walking:
            while (step := walking.next()).nodes.shape[1]:
                here = self.similarity.score_candidates(queries, self.items, step.nodes.to(device))
                walking.scored(here.cpu())
                none = torch.arange(step.nodes.shape[1]) >= step.counts[:, None]
                rows.append(step.nodes.masked_fill(none, -1).to(device))
                scores.append(here.masked_fill(none.to(device), NO_SCORE))
                trace.scored("neighbours of the best items are scored", rows[-1], scores[-1])
        together = torch.cat(rows, 1)
        short = max(0, k - together.shape[1])
        ascending, order = F.pad(together, (0, short), value=-1).sort(dim=1)
        ordered = F.pad(torch.cat(scores, 1), (0, short), value=NO_SCORE).gather(1, order)
        return ordered, ascending, (ascending >= 0).sum(1)
