"""A tree of items searched by beam, level by level: TDM's index, for any similarity."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import NO_ITEM, ItemState, QueryState, Similarity
from workbench.search import trace
from workbench.search.candidates import listed_among
from workbench.search.certificates import Answer, CorpusSearcher
from workbench.search.tiles import DEFAULT_BUDGET
from workbench.search.topk import NO_SCORE, best
from workbench.similarities.rounding import UNKNOWN

CLUSTERING_STEPS = 8
"""Rounds of 2-means per split: centres hardly move after these."""

CANDIDATE_BYTES = 64
"""Bytes per candidate of a query while a level is ranked, in addition to what scoring holds."""


@dataclass(frozen=True)
class ItemTree:
    """A binary tree over N items: every split halves a set of items by where they lie along its two centres.

    `order` int64 (N,): rows of the corpus, left to right. A node is a run of them: those of level l are the runs
    `bounds[l][j]:bounds[l][j + 1]`; the children of node j of level l are nodes 2 j and 2 j + 1 of level l + 1 (an empty run
    if a node of one item splits). Level 0 is the root, the last level holds single items (or nothing).
    """

    order: Int[Tensor, "N"]
    bounds: tuple[Tensor, ...]

    @property
    def levels(self) -> int:
        """Levels below the root: ⌈log₂ N⌉."""
        return len(self.bounds) - 1

    def means(self, values: Float[Tensor, "N D"]) -> Float[Tensor, "J D"]:
        """The mean of `values` over each inner node's items, level 1 first; zeros for empty nodes.

        The last level is left out: its nodes are the items.
        """
        sums = F.pad(values[self.order].double().cumsum(0), (0, 0, 1, 0))
        parts = [
            (sums[b[1:]] - sums[b[:-1]]) / b.diff().clamp(min=1)[:, None]
            for b in self.bounds[1 : self.levels]
        ]
        return torch.cat([*parts, values.new_zeros(0, values.shape[1]).double()]).to(values.dtype)


def cluster(embeddings: Float[Tensor, "N D"], generator: torch.Generator) -> ItemTree:
    """The tree of recursive balanced 2-means over item embeddings.

    Each set is split by 2-means (Lloyd's steps from two of its items), then evenly: the half that prefers the first centre by
    the larger margin goes left. Source: TDM (Zhu et al., 2018), section 3.2. All sets of a level are split together.

    Raises ValueError if there is no item or an embedding is not finite.
    """
    count = len(embeddings)
    if count == 0:
        raise ValueError("the corpus is empty: a tree needs at least one item")
    if not bool(embeddings.isfinite().all()):
        raise ValueError("a tree needs finite embeddings; found NaN or infinite ones")
    x = embeddings.detach().float()
    order = torch.arange(count, device=x.device)
    bounds = torch.tensor([0, count], device=x.device)
    levels = [bounds]
    while int(bounds.diff().max()) > 1:
        lengths = bounds.diff()
        sets = torch.repeat_interleave(torch.arange(len(lengths), device=x.device), lengths)
        margin = _margins(x[order], sets, bounds, generator)
        by_margin = margin.argsort(stable=True)
        order = order[by_margin[sets[by_margin].argsort(stable=True)]]
        middles = bounds[:-1] + (lengths + 1) // 2
        bounds = torch.cat([torch.stack([bounds[:-1], middles], dim=1).flatten(), bounds[-1:]])
        levels.append(bounds)
    return ItemTree(order, tuple(levels))


def _margins(
    x: Float[Tensor, "N D"], sets: Int[Tensor, "N"], bounds: Int[Tensor, "S1"], generator: torch.Generator
) -> Float[Tensor, "N"]:
    """|x − left centre|² − |x − right centre|² of each item within its set."""
    lengths = bounds.diff()
    draws = torch.rand(len(lengths), generator=generator, device=generator.device).to(x.device)
    first = bounds[:-1] + (draws * lengths).long().clamp(max=(lengths - 1).clamp(min=0))
    left = x[first.clamp(max=len(x) - 1)]  # an empty set's is not looked at
    away = (x - left[sets]).square().sum(1)
    order = away.argsort(stable=True)
    order = order[sets[order].argsort(stable=True)]
    right = x[order[(bounds[1:] - 1).clamp(min=0)]]  # the item that lies farthest from the first centre
    for _ in range(CLUSTERING_STEPS):
        margin = ((x - left[sets]).square() - (x - right[sets]).square()).sum(1)
        for centre, members in ((left, margin <= 0), (right, margin > 0)):
            total = torch.zeros_like(centre).index_add_(0, sets[members], x[members])
            size = torch.bincount(sets[members], minlength=len(lengths))[:, None]
            centre.copy_(torch.where(size > 0, total / size.clamp(min=1), centre))
    return ((x - left[sets]).square() - (x - right[sets]).square()).sum(1)


class TreeBeam(CorpusSearcher):
    """The best k that a beam search down a tree of items meets: at each level the `beam` best nodes are opened.

    An inner node is scored as if it were an item: `nodes` holds the item state of every inner node, level by level
    (of `tree.means(embeddings)`, say; its ids are not looked at). Leaves are the items themselves, and they alone are
    masked. `exact` is True only if the beam left nothing out; `gap` is +inf elsewhere; `num_scored` is the number of nodes
    and items scored, about 2 · beam · log₂(N / beam): levels that fit into the beam are passed without being scored.

    What differs from TDM (Zhu et al., 2018): inner nodes are not trained but are the mean of their items.
    Raises ValueError if `beam` is below 1, or the tree is of another corpus.
    """

    def __init__(
        self,
        similarity: Similarity,
        items: ItemState,
        tree: ItemTree,
        nodes: ItemState,
        beam: int,
        memory_budget: int = DEFAULT_BUDGET,
    ) -> None:
        if beam < 1:
            raise ValueError(f"beam must be at least 1, not {beam}")
        super().__init__(similarity, items, memory_budget)
        inner = sum(len(b) - 1 for b in tree.bounds[1 : tree.levels])
        if len(tree.order) != len(items) or len(nodes) != inner:
            raise ValueError(
                f"a tree of {len(tree.order)} items and {inner} inner nodes cannot serve {len(items)} items and"
                f" {len(nodes)} nodes: build it from this corpus"
            )
        self.tree, self.nodes, self.beam = tree, nodes, beam

    def _batch(self, queries: QueryState, k: int, excluded: int) -> int:
        wide = min(len(self.items), 2 * self.beam)
        per_query = wide * (self.similarity.pair_bytes + CANDIDATE_BYTES) + 8 * len(self.items)
        return max(1, self.memory_budget // per_query)

    def _search(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Answer:
        size = len(self.items)
        rows, work = self._reached(queries)  # (B, C), −1 if there is none
        present = rows >= 0
        scores = self.similarity.score_candidates(queries, self.items, rows.clamp(min=0))
        scores = scores.masked_fill(~present, NO_SCORE)
        trace.scored("the items at the end are scored", rows, scores)
        rows, order = torch.where(present, rows, size).sort(dim=1)  # ties in the order of the corpus
        scores = scores.gather(1, order)
        if excluded is not None:
            self._mask(scores, listed_among(rows.where(rows < size, NO_ITEM), excluded))
        if allowed is not None:
            self._mask(scores, ~allowed[rows.clamp(max=size - 1)] & (rows < size))
        found = best(scores, min(k, rows.shape[1]))
        missing, met = (0, k - found.scores.shape[1]), present.sum(1)
        return Answer(
            F.pad(found.scores, missing, value=NO_SCORE),
            F.pad(rows.gather(1, found.rows).clamp(max=size - 1), missing),
            torch.where(met == size, NO_SCORE, UNKNOWN),
            work + met,
        )

    def _mask(self, scores: Float[Tensor, "B C"], out: Bool[Tensor, "B C"]) -> None:
        """−inf if `out`, in place; a NaN stays, to be reported."""
        scores.masked_fill_(out & ~scores.isnan(), NO_SCORE)

    def _reached(self, queries: QueryState) -> tuple[Int[Tensor, "B C"], Int[Tensor, "B"]]:
        """Rows of the items under the last beam (−1: none), and the number of inner nodes scored."""
        count, device = len(queries), self.items.ids.device
        nodes = torch.zeros(count, 1, dtype=torch.int64, device=device)  # the root
        work = torch.zeros(count, dtype=torch.int64, device=device)
        offset = 0
        for level in range(1, self.tree.levels + 1):
            bounds = self.tree.bounds[level]
            nodes = torch.stack([2 * nodes, 2 * nodes + 1], dim=2).flatten(1)  # (B, 2 beam)
            if level == self.tree.levels:
                break
            if nodes.shape[1] > self.beam:
                filled = bounds[nodes + 1] > bounds[nodes]
                scores = self.similarity.score_candidates(queries, self.nodes, nodes + offset)
                work += filled.sum(1)
                scores = scores.masked_fill(~filled, NO_SCORE).nan_to_num(nan=float("inf"))
                nodes = nodes.gather(1, scores.topk(self.beam, dim=1).indices)
                if trace.listening():
                    under = [self.tree.order[bounds[n] : bounds[n + 1]] for n in nodes[0].tolist()]
                    trace.listed(
                        f"items under the best nodes of level {level}",
                        torch.cat(under).expand(count, -1),
                        filled.sum(),
                    )
            offset += len(bounds) - 1
        bounds = self.tree.bounds[self.tree.levels]
        filled = bounds[nodes + 1] > bounds[nodes]
        places = bounds[nodes].clamp(max=len(self.items) - 1)
        return torch.where(filled, self.tree.order[places], -1), work

    def _upsert(self, items: ItemState, corpus: ItemState) -> None:
        """Not possible: an item's place in the tree depends on all others."""
        raise NotImplementedError("a tree cannot take items in; build it again with `cluster` and `TreeBeam`")

    def _remove(self, ids: Int[Tensor, "M"], corpus: ItemState) -> None:
        """Not possible; see `_upsert`. `allowed` leaves items out of a search."""
        raise NotImplementedError(
            "a tree cannot lose items; build it again, or leave them out of searches with `allowed`"
        )
