"""Every searcher where tensors are on a GPU, or say they are: the same answers, and no tensor of the CPU among them."""

import copy
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from types import ModuleType

import pytest
import torch
from pretended_gpu import pretended_gpu

from workbench import runtime
from workbench.contracts import ItemState, QueryState, Searcher
from workbench.kernels import mixture
from workbench.search import (
    Approximate,
    AveragedComponents,
    BruteForce,
    Exact,
    FirstStageFilter,
    FittedScores,
)
from workbench.search.candidates import Scan
from workbench.search.inverted_index import InvertedIndex
from workbench.search.path_beam import PathBeam
from workbench.search.sharded import Sharded, split
from workbench.search.tree import TreeBeam, cluster
from workbench.similarities import (
    DeepRetrievalConfig,
    DotConfig,
    MaxSimConfig,
    MoLConfig,
    SparCodeConfig,
    build,
)
from workbench.similarities.sparcode.quantizer import QuantizerConfig

ITEMS, DIM, QUERIES, K = 300, 8, 9, 20
COMPONENTS = {
    "dot": DotConfig(),
    "maxsim": MaxSimConfig(query_groups=3, item_groups=2, component_dim=4, query_hidden=8),
    "mol": MoLConfig(query_groups=3, item_groups=2, component_dim=4, query_hidden=8, gate_pair=8),
}
OWN_INDEX = {
    "sparcode": SparCodeConfig(2, 2, 4, hidden=(6,), threshold=0.0, quantizer=QuantizerConfig(2, 6)),
    "paths": DeepRetrievalConfig(
        depth=2, width=4, paths=2, node_dim=4, hidden=8, candidates=8, candidate_beam=16, beam=6
    ),
}


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[torch.device]:
    with pytest.MonkeyPatch.context() as patch, pretended_gpu() as there:
        patch.setattr(mixture, "_triton_version", lambda: None)  # compiles, where it is
        yield there


def states(similarity) -> tuple[QueryState, ItemState]:
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        q = similarity.queries(torch.randn(QUERIES, DIM, generator=g), torch.arange(QUERIES))
        return q, similarity.items(
            torch.randn(ITEMS, DIM, generator=g), torch.randperm(ITEMS, generator=g) + 1
        )


def made(config) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        similarity = (
            build(config, DIM, ITEMS) if isinstance(config, DeepRetrievalConfig) else build(config, DIM)
        )
        if isinstance(config, SparCodeConfig):
            similarity.train().queries(torch.randn(64, DIM), torch.arange(64))  # sets the codebooks
    return similarity.eval()


def moved(state, device: torch.device):
    values = {f.name: getattr(state, f.name) for f in fields(state)}
    return replace(state, **{n: v.to(device) for n, v in values.items() if isinstance(v, torch.Tensor)})


SEARCHERS = {
    "brute force": BruteForce,
    "brute force, small tiles": partial(BruteForce, memory_budget=100_000),
    "exact": partial(Exact, max_scored_fraction=1.0),
    "exact, int8": partial(Exact, max_scored_fraction=1.0, precision="int8"),
    "exact, measured": Exact,
    "per component": partial(Approximate.of, n1=30, lookahead=2, until_certified=True),
    "average": partial(Approximate.of, n2=60),
    "average, small blocks": partial(Approximate.of, n2=60, source=partial(Scan, block_bytes=4096)),
    "combined": partial(Approximate.of, n1=20, n2=30),
    "h-indexer": lambda s, x: Approximate(
        s, x, [FirstStageFilter(x, AveragedComponents(s, x, 4), 80, runtime.generator(0), sampled=100)]
    ),
    "sharded": lambda s, x: Sharded(partial(BruteForce, s), split(x, parts=3)),
}


def fitted(similarity, items, queries) -> Approximate:
    return Approximate(
        similarity,
        items,
        [FirstStageFilter(items, FittedScores(similarity, items, queries, 4), 80, runtime.generator(0))],
    )


def tree(similarity, items) -> TreeBeam:
    grown = cluster(items.vectors, torch.Generator().manual_seed(0))
    means = grown.means(items.vectors)
    nodes = similarity.items(means, torch.arange(1, len(means) + 1, device=means.device))
    return TreeBeam(similarity, items, grown, nodes, beam=16)


def asked(searcher: Searcher, queries: QueryState, device: torch.device) -> list[torch.Tensor]:
    """What a searcher finds: plainly, without a history, and among the items that are allowed."""
    history = torch.tensor([[1, 5, 0]]).repeat(QUERIES, 1).to(device)
    allowed = (torch.arange(ITEMS) % 4 > 0).to(device)
    found = [searcher.search(queries, K), searcher.search(queries, K, history, allowed)]
    found.append(searcher.search(queries[:0], K))
    assert {getattr(one, f.name).device.type for one in found for f in fields(one)} == {device.type}
    return [one.scores.cpu() for one in found] + [one.ids.cpu() for one in found]


def same(make, config, device: torch.device) -> None:
    similarity = made(config)
    there = copy.deepcopy(similarity).to(device)
    queries, items = states(similarity)
    here = asked(make(similarity, items, queries), queries, torch.device("cpu"))
    queries, items = moved(queries, device), moved(items, device)
    for expected, found in zip(here, asked(make(there, items, queries), queries, device), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", COMPONENTS.values(), ids=COMPONENTS.keys())
@pytest.mark.parametrize("make", SEARCHERS.values(), ids=SEARCHERS.keys())
def test_it_finds_what_it_finds_on_the_cpu(make, config, device):
    same(lambda s, x, q: make(s, x), config, device)


def fused_kernels() -> ModuleType:
    """What the Triton kernels promise, in plain torch."""

    def mixture_scores(f, query_gate, g, item_gate, layers, combination, rows=None):
        scores = mixture.plain_scores(f, query_gate, g, item_gate, mixture.MixtureGate(layers, combination))
        return scores if rows is None else scores.gather(1, rows)

    def top_k(f, query_gate, g, item_gate, layers, combination, k, excluded=None, allowed=None):
        scores = mixture_scores(f, query_gate, g, item_gate, layers, combination)
        if excluded is not None:
            for query, rows in enumerate(excluded):
                scores[query, rows[rows >= 0]] = -torch.inf
        if allowed is not None:
            scores[:, ~allowed] = -torch.inf
        values, rows = scores.sort(dim=1, descending=True, stable=True)
        return values[:, :k], rows[:, :k]

    made = ModuleType("fused")
    vars(made).update(MOST_RESULTS=256, mixture_scores=mixture_scores, top_k=top_k)
    return made


@pytest.mark.parametrize("name", ["brute force", "exact", "per component", "average", "h-indexer"])
def test_it_asks_the_fused_kernels(name, device, monkeypatch):
    monkeypatch.setattr(mixture, "_triton_version", fused_kernels)
    same(lambda s, x, q: SEARCHERS[name](s, x), COMPONENTS["mol"], device)


@pytest.mark.parametrize("config", COMPONENTS.values(), ids=COMPONENTS.keys())
def test_a_fitted_first_stage(config, device):
    same(fitted, config, device)


def test_a_tree(device):
    same(lambda s, x, q: tree(s, x), COMPONENTS["dot"], device)


def test_an_inverted_index(device):
    same(lambda s, x, q: InvertedIndex.build(s, x, q.codes), OWN_INDEX["sparcode"], device)


def test_a_beam_of_paths(device):
    same(lambda s, x, q: PathBeam.of(s, x, 6), OWN_INDEX["paths"], device)


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name != "sharded"])
def test_items_come_and_go(name, device):
    similarity = made(COMPONENTS["mol"]).to(device)
    queries, items = (moved(state, device) for state in states(made(COMPONENTS["mol"])))
    searcher = SEARCHERS[name](similarity, items[:200])
    searcher.upsert(items[150:])
    searcher.remove(items.ids[:50])
    assert not torch.isin(searcher.search(queries, K).ids, items.ids[:50]).any()
