"""The searchers that the shared tests run over. A new searcher joins by one line in SEARCHERS."""

from collections.abc import Callable, Iterator

import pytest
import torch

from workbench import runtime
from workbench.contracts import ItemState, Searcher, Similarity
from workbench.kernels import product_scan, selection
from workbench.search import (
    Approximate,
    AveragedComponents,
    BruteForce,
    Exact,
    FirstStageFilter,
    Int16BruteForce,
)
from workbench.search.engines.faiss import faiss_lists
from workbench.search.graph_search import GraphSearch
from workbench.search.indexes import Flat
from workbench.search.sharded import Sharded, split
from workbench.search.tree import TreeBeam, cluster
from workbench.similarities.dot import DotItems

Build = Callable[[Similarity, ItemState], Searcher]


@pytest.fixture(scope="module", params=["C++ where it is", "without it"])
def both_versions(request: pytest.FixtureRequest) -> Iterator[None]:
    """Rank in C++, and as is done without a compiler."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "without it":
            patch.setattr(selection, "serves", lambda scores: False)
            patch.setattr(selection, "serves_rows", lambda rows: False)
            patch.setattr(product_scan, "serves", lambda vectors: False)
        yield


def tree_beam(similarity: Similarity, items: ItemState) -> TreeBeam:
    """A beam as wide as these small corpora, down a tree of the items' vectors."""
    assert isinstance(items, DotItems)
    vectors = items.vectors.nan_to_num()
    tree = cluster(vectors, torch.Generator().manual_seed(0))
    means = tree.means(vectors)
    nodes = similarity.items(means, torch.arange(1, len(means) + 1, device=means.device))
    return TreeBeam(similarity, items, tree, nodes, beam=512)


SEARCHERS: dict[str, Build] = {
    "brute force": BruteForce,
    "brute force, small tiles": lambda similarity, items: BruteForce(similarity, items, memory_budget=4096),
    "brute force, pair by pair": lambda similarity, items: BruteForce(similarity, items, memory_budget=1),
    "brute force, int16": lambda similarity, items: Int16BruteForce(similarity, items, least_operations=0),
    "exact": lambda similarity, items: Exact(
        similarity, items, max_scored_fraction=1.0, initial_per_k=1, memory_budget=4096
    ),
    "per component, until certified": lambda similarity, items: Approximate.of(
        similarity, items, n1=5, lookahead=1, until_certified=True
    ),
    "average": lambda similarity, items: Approximate.of(similarity, items, n2=60),
    "combined": lambda similarity, items: Approximate.of(similarity, items, n1=60, n2=3, lookahead=4),
    "h-indexer": lambda similarity, items: Approximate(
        similarity,
        items,
        [
            FirstStageFilter(
                items, AveragedComponents(similarity, items, 8), 60, runtime.generator(0), sampled=7
            )
        ],
    ),
    "per component by faiss": lambda similarity, items: Approximate.of(
        similarity, items, n1=60, source=faiss_lists(Flat())
    ),
    "cascade": lambda similarity, items: Approximate.of(
        similarity, items, n2=60, cheaper=similarity, keep=30
    ),
    "graph": lambda similarity, items: GraphSearch(similarity, items, ef=512, degree=8),
    "graph, certified": lambda similarity, items: GraphSearch(
        similarity, items, ef=5, degree=4, certified=True
    ),
    "tree beam": tree_beam,
    "sharded": lambda similarity, items: Sharded(
        lambda part: BruteForce(similarity, part), split(items, parts=3)
    ),
}
"""Every entry must find the true top k of a corpus of a few items, whatever it does on a large one."""


@pytest.fixture(scope="session", params=SEARCHERS.values(), ids=SEARCHERS.keys())
def build(request: pytest.FixtureRequest) -> Build:
    """Makes a searcher for a similarity and an item state."""
    built: Build = request.param
    return built


DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="session", params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)
