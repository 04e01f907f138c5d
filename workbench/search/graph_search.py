"""A walk over a graph of items by the learned score itself.

Source: Tan et al., "Fast Item Ranking under Neural Network based Measures" (SL2G, WSDM 2020); "GUITAR" (2023) and Alibaba's
NANN walk in the same way. Here two items are near by the cosine of all their components, and many pairs are scored at once.
"""

from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import ComponentSimilarity, ItemState, QueryState, Upsert
from workbench.kernels.walk import walks
from workbench.search import trace
from workbench.search.bounds import CellBounds, not_finite
from workbench.search.brute_force import BruteForce
from workbench.search.certificates import Answer, CorpusSearcher
from workbench.search.proximity_graph import ProximityGraph
from workbench.search.ranking import Pairs, best_of_pairs, merged, score_pairs
from workbench.search.tiles import DEFAULT_BUDGET
from workbench.search.topk import NO_SCORE, Best, all_finite
from workbench.similarities.rounding import UNKNOWN, largest_norm, norms, products_fit

LISTED = 144
"""Pairs of a query that are scored together: whole tiles of the kernel, whatever the processor."""

MOST_SCORED = 0.25
"""Share of the corpus in cells that bounds do not rule out, beyond which brute force is faster."""

ENTRIES = 256
"""Items that every walk begins with: they reach what the edges alone might not."""

PLACE_BYTES = 128
"""Bytes of a place in the list of a walk, about."""

FILE = "graph.safetensors"


class GraphSearch(CorpusSearcher):
    """The best k that a walk over a graph of items meets: from the best item so far to its neighbours, by φ itself.

    A walk begins with `entries` items spread over the corpus and ends when the `ef` best that it met have no neighbour left
    that was not scored. It reads `degree` neighbours of a node, chosen from its `nearest` by the cosine of all components, end
    to end.
    Items that may not be found lead on as all others do, and take none of the `ef` places. `num_scored` counts the pairs
    that were scored. Only a walk that has met every item proves its answer (`exact`).

    If it is to be `certified`, the corpus lies in about √N cells too, each with a bound of the scores of its items. After the
    walk all items of the cells are scored whose bound reaches the k-th best score and that the walk has not met whole: `exact`
    is always True then. Queries for which these are more than `MOST_SCORED` of the corpus are searched by brute force.

    Queries or a corpus with a value that is not finite, or whose products may overflow, are searched by brute force, and so
    are queries whose walk meets fewer than k items that may be found, or a score that is not finite. On a GPU scores are
    computed there, and walks kept on the CPU. `graph` is taken if it is given, else that in `folder`, else one is built (and
    written into `folder`).
    Raises ValueError if `ef`, `degree` or `nearest` is below 1, or the graph is of another number of items.
    """

    def __init__(
        self,
        similarity: ComponentSimilarity,
        items: ItemState,
        ef: int = 200,
        degree: int = 24,
        nearest: int = 32,
        *,
        graph: ProximityGraph | None = None,
        folder: Path | None = None,
        certified: bool = False,
        entries: int = ENTRIES,
        memory_budget: int = DEFAULT_BUDGET,
    ) -> None:
        for name, value in (("ef", ef), ("degree", degree), ("nearest", nearest), ("entries", entries)):
            if value < 1:
                raise ValueError(f"{name} of a graph must be at least 1, not {value}")
        super().__init__(similarity, items, memory_budget)
        self.similarity: ComponentSimilarity = similarity
        self.ef, self.degree, self.nearest, self.certified = ef, degree, nearest, certified
        self.entries = entries
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
            self.graph = ProximityGraph.build(vectors, degree, nearest)
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
        vectors = self.similarity.item_components(items).flatten(1)
        return vectors if all_finite(vectors) else vectors.nan_to_num()

    def _derive(self, items: ItemState) -> None:
        components = self.similarity.item_components(items)
        self._everything = BruteForce(self.similarity, items, self.memory_budget)
        self._finite = not bool(not_finite(items).any())
        self._norm, self._dtype = largest_norm(components), components.dtype
        self._reach = self.similarity.reach(items)
        self._cells = CellBounds(self.similarity, items, int(len(items) ** 0.5)) if self.certified else None

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
        places = min(total, max(self.ef, k) + excluded + LISTED)
        return max(1, self.memory_budget // (total // 4 + PLACE_BYTES * places))

    def _can_rank(self, queries: QueryState) -> bool:
        if not self._finite or bool(not_finite(queries).any()):
            return False
        f = self.similarity.query_components(queries)
        dtype = torch.promote_types(f.dtype, self._dtype)
        longest = float(norms(f).amax())
        return products_fit(longest, float(self._norm), dtype) and self.similarity.parts_fit(
            queries, longest, self._reach, dtype
        )

    def _search(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Answer:
        if not self._can_rank(queries):
            return self._everything.answer(queries, k, excluded, allowed)
        answer, failed = self._walked(queries, k, excluded, allowed)
        failed = failed | (answer.scores[:, -1] == NO_SCORE) & (answer.num_scored < len(self.items))
        if not bool(failed.any()):
            return answer
        left_out = None if excluded is None else excluded[failed]
        again = self._everything.answer(queries[failed], k, left_out, allowed)
        return Answer(
            *(old.index_put((failed,), new.to(old.dtype)) for old, new in zip(answer, again, strict=True))
        )

    def _walked(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> tuple[Answer, Bool[Tensor, "B"]]:
        """The answers, and the queries that brute force must answer: a score is not finite, or too much of the corpus is left
        for a proof."""
        total, device = len(self.items), self.items.ids.device
        graph, beam = self.graph, min(total, max(self.ef, k))
        begin = (graph.neighbours.cpu(), graph.entries(self.entries).cpu(), len(queries), beam, LISTED)
        size = len(queries)
        scored = torch.zeros(size, dtype=torch.int64)
        undefined = torch.zeros(size, dtype=torch.bool)
        met: list[Pairs] = []
        dtype = torch.float32
        with walks(*begin, _cpu(excluded), _cpu(allowed)) as walking:
            while len((step := walking.next()).nodes):
                scores = score_pairs(
                    self.similarity, queries, self.items, Pairs(*(s.to(device) for s in step))
                )
                if not all_finite(scores):  # a walk takes no notice of NaN
                    undefined[step.queries[~scores.cpu().isfinite()]] = True
                walking.scored(scores.cpu())
                trace.scored(
                    "neighbours of the best items are scored",
                    step.nodes.expand(size, -1),
                    scores.expand(size, -1),
                )
                if self._cells is not None:
                    met.append(Pairs(*step))
                scored += step.queries.bincount(minlength=size)
                dtype = scores.dtype
            best, rows = walking.best(k)
        found = Best(best.to(device, dtype), rows.to(device))
        if self._cells is not None:
            all_met = Pairs(*(torch.cat(part).to(device) for part in zip(*met, strict=True)))
            answer, too_many = self._proved(self._cells, queries, found, all_met, excluded, allowed)
            return answer, too_many | undefined.to(device)
        bound = torch.where(scored == total, NO_SCORE, UNKNOWN)
        return Answer(*found, bound.to(device), scored.to(device)), undefined.to(device)

    def _proved(
        self,
        cells: CellBounds,
        queries: QueryState,
        found: Best,
        met: Pairs,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> tuple[Answer, Bool[Tensor, "B"]]:
        """The best after all items are scored of the cells that bounds do not rule out, less those that were `met`, in any
        order; and the queries for which these are too many, and nothing more was scored."""
        size, total, k = len(queries), len(self.items), found.scores.shape[1]
        bounds = cells.of(queries)
        of_cell = met.queries * bounds.shape[1] + cells.member[met.rows]
        scored = of_cell.bincount(minlength=bounds.numel()).view(bounds.shape)
        rest = (scored < cells.sizes) & (bounds >= found.scores[:, -1:].double())
        too_many = (rest * cells.sizes).sum(1) > MOST_SCORED * total
        rest &= ~too_many[:, None]
        answers = []
        for query in range(size):
            rows = rest[query][cells.member].nonzero()[:, 0]
            mine = met.rows[met.queries == query]
            left_out = mine if excluded is None else torch.cat([mine, excluded[query]])
            rows = rows[~torch.isin(rows, left_out)]
            rows = rows if allowed is None else rows[allowed[rows]]
            one = queries[query : query + 1]
            pairs = Pairs(torch.zeros_like(rows), rows)
            scores = score_pairs(self.similarity, one, self.items, pairs)
            trace.scored("items of cells that bounds do not rule out are scored", rows[None], scores[None])
            walked = Best(found.scores[query : query + 1], found.rows[query : query + 1])
            best = merged(walked, best_of_pairs(pairs, scores, 1, k), k)
            count = torch.tensor(len(mine) + len(rows), device=rows.device)
            answers.append((best.scores[0], best.rows[0], best.scores[0, -1], count))
        scores, rows, bound, count = map(torch.stack, zip(*answers, strict=True))
        return Answer(scores, rows, bound, count), too_many


def _cpu(masked: Tensor | None) -> Tensor | None:
    return None if masked is None else masked.cpu()
