"""Recorded steps are what the searcher did: what they score is `num_scored`, and the best of it is the list it returns."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch

from workbench import runtime
from workbench.contracts import Searcher
from workbench.search import (
    Approximate,
    BruteForce,
    Exact,
    FirstStageFilter,
    FittedScores,
    Int16BruteForce,
    trace,
)
from workbench.search.bounds import ComponentBounds
from workbench.search.graph_search import GraphSearch
from workbench.search.inverted_index import InvertedIndex
from workbench.search.path_beam import PathBeam
from workbench.search.tree import TreeBeam, cluster
from workbench.similarities.deep_retrieval.similarity import DeepRetrieval, DeepRetrievalConfig
from workbench.similarities.mol import MixtureOfLogits, MoLConfig
from workbench.similarities.sparcode.quantizer import QuantizerConfig
from workbench.similarities.sparcode.similarity import SparCode, SparCodeConfig

ITEMS, K, DIM = 600, 10, 12
IDS = torch.arange(1, ITEMS + 1)
EXCLUDE = torch.tensor([[3, 599, 40, 40, 0]])


@pytest.fixture(scope="module")
def mixture() -> MixtureOfLogits:
    torch.manual_seed(0)
    return MixtureOfLogits(MoLConfig(2, 2, 8, query_hidden=16), DIM).eval()


def vectors(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))


def tree(mixture: MixtureOfLogits, items: object, beam: int = 12) -> TreeBeam:
    made = cluster(vectors(ITEMS, 1), torch.Generator().manual_seed(0))
    means = made.means(vectors(ITEMS, 1))
    with torch.no_grad():
        nodes = mixture.items(means, torch.arange(1, len(means) + 1))
    return TreeBeam(mixture, mixture.items(vectors(ITEMS, 1), IDS), made, nodes, beam)


def h_indexer(mixture: MixtureOfLogits, items: object) -> Searcher:
    sample = mixture.queries(vectors(32, 5), torch.arange(32))
    stage = FittedScores(mixture, items, sample, 8)
    return Approximate(
        mixture, items, [FirstStageFilter(items, stage, 60, runtime.generator(0), sampled=100)]
    )


MIXTURES: dict[str, Callable[..., Searcher]] = {
    "brute force": partial(BruteForce, memory_budget=8192),
    "int16": partial(Int16BruteForce, least_operations=0),
    "exact": partial(Exact, max_scored_fraction=1.0, memory_budget=8192),
    "exact that gives up": partial(Exact, max_scored_fraction=0.0),
    "per component": partial(Approximate.of, n1=20),
    "until certified": partial(Approximate.of, n1=5, until_certified=True),
    "average": partial(Approximate.of, n2=50),
    "combined": partial(Approximate.of, n1=10, n2=30),
    "h-indexer": h_indexer,
    "graph": partial(GraphSearch, ef=20, degree=8),
    "tree": tree,
}  # fmt: skip


def held_to(steps: list[trace.Step], found, exclude=EXCLUDE) -> None:
    """The scored items of the steps are distinct, as many as `num_scored` counts, and their best are the list."""
    rows = torch.cat([step.rows for step in steps if step.scores is not None])
    scores = torch.cat([step.scores for step in steps if step.scores is not None])
    assert len(rows) == len(rows.unique())
    assert len(rows) + sum(step.others for step in steps) == int(found.num_scored)
    kept = ~torch.isin(IDS[rows], exclude)
    order = scores[kept].sort(descending=True)
    real = found.ids[0] > 0
    assert torch.equal(IDS[rows[kept][order.indices[: int(real.sum())]]], found.ids[0][real])
    torch.testing.assert_close(order.values[: int(real.sum())], found.scores[0][real])


@torch.no_grad()
@pytest.mark.parametrize("name", MIXTURES)
def test_the_steps_of_a_mixture_are_its_search(name: str, mixture: MixtureOfLogits) -> None:
    items = mixture.items(vectors(ITEMS, 1), IDS)
    query = mixture.queries(vectors(1, 2), torch.tensor([0]))
    searcher = MIXTURES[name](mixture, items)
    before = searcher.search(query, K, EXCLUDE)
    with trace.recording() as steps:
        found = searcher.search(query, K, EXCLUDE)
    assert torch.equal(found.ids, before.ids) and torch.equal(found.num_scored, before.num_scored)
    held_to(steps, found)
    assert not trace.listening()
    if name in ("brute force", "exact"):
        assert len(steps) > 3  # blocks
    if name == "until certified":
        bounds = [step.bound for step in steps if step.bound is not None]
        assert bool(found.exact) and len(bounds) > 1
        assert bounds[-1] <= float(found.scores[0, -1]) < bounds[-2]
    if name == "average":
        assert [step.bound for step in steps if step.bound is not None] == [math.inf]


@torch.no_grad()
def test_exact_search_scores_an_item_if_and_only_if_its_bound_reaches_the_kth_best(
    mixture: MixtureOfLogits,
) -> None:
    items = mixture.items(vectors(ITEMS, 1), IDS)
    query = mixture.queries(vectors(1, 2), torch.tensor([0]))
    bounds = ComponentBounds(mixture, items)
    bound = bounds.of(bounds.query_vectors(query), 0, ITEMS, ITEMS)[0]
    searcher = Exact(mixture, items, max_scored_fraction=1.0, memory_budget=8192)
    with trace.recording() as steps:
        searcher.search(query, K, EXCLUDE)
    done, scores = steps[0].rows, steps[0].scores
    assert scores is not None and len(steps) > 3
    for step in steps[1:]:
        assert step.scores is not None
        reach = scores.topk(K).values[-1]
        assert bool((bound[step.rows] >= reach).all())
        done, scores = torch.cat([done, step.rows]), torch.cat([scores, step.scores])
    out = torch.isin(IDS, EXCLUDE)
    out[done] = True
    assert bool((bound[~out] < scores.topk(K).values[-1]).all())
    assert 4 * K < len(done) < ITEMS


@torch.no_grad()
def test_the_steps_of_codes_and_of_paths_are_their_searches() -> None:
    torch.manual_seed(0)
    codes = SparCode(SparCodeConfig(2, 2, 4, hidden=(6,), quantizer=QuantizerConfig(2, 6)), DIM).eval()
    items, query = codes.items(vectors(ITEMS, 1), IDS), codes.queries(vectors(1, 2), torch.tensor([0]))
    whole = InvertedIndex.build(codes, items, loosest=math.inf)
    for sparsity in (0.5, 0.98):  # lists added up, and merged
        index = whole.at(whole.threshold_for(sparsity))
        with trace.recording() as steps:
            found = index.search(query, K, EXCLUDE)
        assert [step.what for step in steps if step.scores is None] == [
            "the list of code 1",
            "the list of code 2",
        ]
        held_to(steps, found)
        listed = torch.cat([step.rows for step in steps if step.scores is None])
        assert set(steps[-1].rows.tolist()) <= set(listed.tolist())
    config = DeepRetrievalConfig(
        depth=2, width=8, paths=2, node_dim=4, hidden=8, candidates=8, candidate_beam=16
    )
    paths = DeepRetrieval(config, DIM, ITEMS).eval()
    searcher = PathBeam.of(paths, paths.items(vectors(ITEMS, 1), IDS), 6)
    with trace.recording() as steps:
        found = searcher.search(paths.queries(vectors(1, 2), torch.tensor([0])), K, EXCLUDE)
    held_to(steps, found)
    walked = [step for step in steps if step.scores is None]
    assert len(walked) == 6
    assert set(torch.cat([step.rows for step in walked]).tolist()) == set(steps[-1].rows.tolist())


@torch.no_grad()
def test_several_queries_are_not_recorded_together(mixture: MixtureOfLogits) -> None:
    searcher = BruteForce(mixture, mixture.items(vectors(ITEMS, 1), IDS))
    queries = mixture.queries(vectors(2, 2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="one query at a time, not of 2"), trace.recording():
        searcher.search(queries, K)
    assert searcher.search(queries, K).exact.all()  # and listens to nothing any more
