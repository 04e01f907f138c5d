"""One search watched: the steps that a searcher records for one query, and what each of them leaves open."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from workbench import runtime
from workbench.bench.workloads import Asked, Workload, item_state, under
from workbench.contracts import NO_ITEM, ComponentSimilarity, TopK
from workbench.search import Approximate, BruteForce, Exact, FirstStageFilter, FittedScores, trace
from workbench.search.bounds import ComponentBounds
from workbench.search.brute_force import MASKED_BYTES, RANKED_BYTES
from workbench.search.certificates import CorpusSearcher
from workbench.search.exact import PAIR_BYTES
from workbench.search.graph_search import GraphSearch
from workbench.search.inverted_index import InvertedIndex
from workbench.search.path_beam import PathBeam
from workbench.search.tiles import BLOCK_BYTES
from workbench.search.tree import TreeBeam, cluster
from workbench.similarities.deep_retrieval.similarity import DeepRetrieval, DeepRetrievalItems
from workbench.similarities.sparcode.similarity import SparCode, SparCodeItems, SparCodeQueries

BLOCKS = 8
"""Blocks that a searcher which passes over the corpus passes in, about: on a small corpus it would take one."""


INITIAL_PER_K = 2
"""Candidates of exact search for each result: fewer than it takes by default, so that more is left for its bound to decide."""

WIDTH = 8
"""Of the h-indexer's first stage."""


@dataclass(frozen=True)
class Moment:
    """A search after a step; masks are bool (N,).

    `what` the step was; `here`: items that it touched; `listed`, `scored`: all that were until now. `best` holds the rows of
    the best so far, `s_k` the k-th best score (−inf: there are fewer than k), `num_scored` the pairs scored until now.
    `claimed`: a score that no other item exceeds, as is proved (+inf: nothing is). `could_enter`: items that were not
    scored, may be found, and whose bound reaches `s_k`; `next`: the row of the largest bound among those that were not scored,
    −1 if all were.
    """

    what: str
    here: Bool[Tensor, "N"]
    listed: Bool[Tensor, "N"]
    scored: Bool[Tensor, "N"]
    best: Int[Tensor, "*K"]
    s_k: float
    num_scored: int
    claimed: float
    could_enter: Bool[Tensor, "N"]
    next: int


@dataclass(frozen=True)
class Watched:
    """A search for one query: `moments` after its steps, the first before all of them, and what it `found`.

    `ids` (N,); `scores` φ (N,) and `bounds` (N,) of all items (+inf under a similarity without bounds); `hidden` bool (N,):
    items that may not be found.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    bounds: NDArray[np.float32]
    hidden: NDArray[np.bool_]
    moments: tuple[Moment, ...]
    found: TopK

    @property
    def has_bounds(self) -> bool:
        """Whether the similarity bounds its scores."""
        return bool(np.isfinite(self.bounds).all())


@torch.no_grad()
def watch(asked: Asked, searcher: CorpusSearcher, query: int, k: int) -> Watched:
    """The search of `searcher`, over the items of `asked`, for the best `k` of query number `query`.

    Raises ValueError if there is no such query or fewer than k items may be found.
    """
    if not 0 <= query < len(asked.queries):
        raise ValueError(f"query {query} is not one of the {len(asked.queries)} of {asked.name}")
    state, exclude = asked.queries[query : query + 1], asked.exclude[query : query + 1]
    hidden = torch.isin(asked.items.ids, exclude)
    if not 1 <= k <= int((~hidden).sum()):
        raise ValueError(
            f"k must lie in 1 to {int((~hidden).sum()):,}, the items that the query may find, not {k}"
        )
    with trace.recording() as steps:
        found = searcher.search(state, k, exclude)
    scores = asked.similarity.score(state, asked.items)[0]
    bounds = torch.full_like(scores, math.inf)
    if isinstance(asked.similarity, ComponentSimilarity):
        known = ComponentBounds(asked.similarity, asked.items)
        bounds = known.of(known.query_vectors(state), 0, len(scores), len(scores))[0]
    moments = _moments(steps, hidden, bounds, k)
    arrays = (asked.items.ids, scores.float(), bounds.float(), hidden)
    ids, scored, bounded, out = (values.cpu().numpy() for values in arrays)
    return Watched(ids, scored, bounded, out, moments, found)


@torch.no_grad()
def typical_query(workload: Workload, k: int) -> int:
    """The number of the query for which exact search scores the median number of items."""
    searcher = Exact(workload.similarity, workload.items, max_scored_fraction=1.0)
    scored = searcher.search(workload.queries, k, workload.exclude).num_scored
    return int(scored.argsort(stable=True)[len(scored) // 2])


def _moments(
    steps: list[trace.Step], hidden: Bool[Tensor, "N"], bounds: Float[Tensor, "N"], k: int
) -> tuple[Moment, ...]:
    """The first before anything was done, then one for each step, the scores and bounds of which add up."""
    none = torch.zeros_like(hidden)
    listed, scored, here = none, none, none
    values = torch.full(hidden.shape, -math.inf, dtype=torch.float64)
    count, claimed, what = 0, math.inf, "before the search"
    moments = []
    for step in (None, *steps):
        if step is not None:
            here = none.clone()
            here[step.rows] = True
            what, claimed = step.what, claimed if step.bound is None else step.bound
            count += step.others
            if step.scores is None:
                listed = listed | here
            else:
                scored, count = scored | here, count + len(step.rows)
                values[step.rows] = step.scores.double()
        open_values = values.masked_fill(hidden, -math.inf)
        top = open_values.topk(k)
        s_k = float(top.values[-1])
        left = ~scored & ~hidden
        could_enter = left & (bounds.double() >= s_k)
        largest = int(bounds.masked_fill(~left, -math.inf).argmax()) if bool(left.any()) else NO_ITEM
        best = top.indices[top.values > -math.inf]
        moments.append(Moment(what, here, listed, scored, best, s_k, count, claimed, could_enter, largest))
    return tuple(moments)


Build = Callable[[Workload, int, int], CorpusSearcher]
"""A searcher from a workload, the length of its lists, and k."""


def _passing(workload: Workload, query_bytes: int) -> int:
    """A memory budget under which a query of `query_bytes` passes over the corpus in about `BLOCKS` blocks."""
    return 2 * (BLOCK_BYTES * -(-len(workload.items) // BLOCKS) + query_bytes)


def _brute_force(workload: Workload, length: int, k: int) -> CorpusSearcher:
    query_bytes = RANKED_BYTES * k + MASKED_BYTES * workload.exclude.shape[1]
    return BruteForce(workload.similarity, workload.items, _passing(workload, query_bytes))


def _exact(workload: Workload, length: int, k: int) -> CorpusSearcher:
    budget = 2 * _passing(workload, INITIAL_PER_K * k * PAIR_BYTES)  # it takes half for its blocks
    return Exact(workload.similarity, workload.items, initial_per_k=INITIAL_PER_K, memory_budget=budget)


def _h_indexer(workload: Workload, length: int, k: int) -> CorpusSearcher:
    stage = FittedScores(workload.similarity, workload.items, workload.sample, WIDTH)
    filtering = FirstStageFilter(workload.items, stage, length, runtime.generator(0), sampled=256)
    return Approximate(workload.similarity, workload.items, [filtering])


def _tree(workload: Workload, length: int, k: int) -> CorpusSearcher:
    tree = cluster(workload.embeddings, runtime.generator(0))
    nodes = item_state(workload.similarity, tree.means(workload.embeddings))
    return TreeBeam(workload.similarity, workload.items, tree, nodes, max(length, k))


WATCHABLE: Mapping[str, Build] = {
    "brute force": _brute_force,
    "exact with a bound": _exact,
    "per component": lambda w, length, k: Approximate.of(w.similarity, w.items, n1=length),
    "until certified": lambda w, length, k: Approximate.of(w.similarity, w.items, n1=length, until_certified=True),
    "average": lambda w, length, k: Approximate.of(w.similarity, w.items, n2=length),
    "combined": lambda w, length, k: Approximate.of(w.similarity, w.items, n1=length, n2=length),
    "h-indexer": _h_indexer,
    "graph": lambda w, length, k: GraphSearch(w.similarity, w.items, length, 12),
    "tree": _tree,
}  # fmt: skip
"""Searchers of component scores, by name, as they are built to be watched: the blocks of those that pass over the corpus are
small, so that there is something to see; what they find does not depend on it."""

LEARNED: Mapping[str, str] = {
    "SparCode": "adds up the inverted lists of the query's codes, under its own score",
    "Deep Retrieval": "follows the most probable paths and scores the items on them, under its own score",
}
"""Indexes that were learned, by name: what they do in a line."""

SPARSITY = 0.95
"""Share of (code, item) scores that the watched index of SparCode leaves out."""


def learned(workload: Workload, checkpoint: str, length: int) -> tuple[Asked, CorpusSearcher]:
    """The same users asking under the score of another checkpoint, and its own index; Deep Retrieval's beam is `length`.

    Raises as `workloads.under` does, and ValueError if the checkpoint has no index of its own.
    """
    asked = under(workload, checkpoint)
    if isinstance(asked.similarity, SparCode) and isinstance(asked.items, SparCodeItems):
        assert isinstance(asked.queries, SparCodeQueries)
        index = InvertedIndex.build(asked.similarity, asked.items, asked.queries.codes, loosest=math.inf)
        return asked, index.at(index.threshold_for(SPARSITY))
    if isinstance(asked.similarity, DeepRetrieval) and isinstance(asked.items, DeepRetrievalItems):
        return asked, PathBeam.of(asked.similarity, asked.items, length)
    raise ValueError(f"{checkpoint} has a {type(asked.similarity).__name__}, which has no index of its own")
