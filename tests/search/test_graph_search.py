"""A graph of items that is walked by the score: neighbours that spread, recall with a share of the corpus, changes, files."""

from dataclasses import replace

import pytest
import torch

from workbench import runtime
from workbench.contracts import ItemState
from workbench.kernels import walk
from workbench.search import BruteForce, proximity_graph
from workbench.search.bounds import CellBounds
from workbench.search.graph_search import GraphSearch
from workbench.search.proximity_graph import INWARD, ProximityGraph, _reachable, _spread
from workbench.similarities import DotConfig, build
from workbench.similarities.mol import MixtureOfLogits, MoLConfig

ITEMS = 1_500


@pytest.fixture(scope="module")
def similarity() -> MixtureOfLogits:
    torch.manual_seed(0)
    return MixtureOfLogits(
        MoLConfig(query_groups=2, item_groups=2, component_dim=8, query_hidden=16), 12
    ).eval()


def made(similarity: MixtureOfLogits, ids: torch.Tensor, seed: int = 1) -> ItemState:
    """Items around 30 centres."""
    chance = torch.Generator().manual_seed(seed)
    centres = torch.randn(30, 12, generator=torch.Generator().manual_seed(9))
    near = centres[torch.randint(0, 30, (len(ids),), generator=chance)]
    with torch.no_grad():
        return similarity.items(near + 0.5 * torch.randn(len(ids), 12, generator=chance), ids)


@pytest.fixture(scope="module")
def items(similarity) -> ItemState:
    return made(similarity, torch.arange(1, ITEMS + 1))


@pytest.fixture(scope="module")
def queries(similarity):
    with torch.no_grad():
        return similarity.queries(
            torch.randn(16, 12, generator=torch.Generator().manual_seed(2)), torch.arange(16)
        )


@pytest.fixture(scope="module")
def searcher(similarity, items) -> GraphSearch:
    return GraphSearch(similarity, items, ef=40, degree=12)


def recall(searcher, truth, queries, **masks) -> float:
    found, true = searcher.search(queries, 10, **masks), truth.search(queries, 10, **masks)
    assert not found.exact.any() or torch.equal(found.ids[found.exact], true.ids[found.exact])
    assert (found.num_scored <= len(truth.items)).all()
    return (found.ids[:, :, None] == true.ids[:, None]).any(2).float().mean().item()


def test_most_of_the_best_are_found_with_a_part_of_the_corpus(similarity, items, queries, searcher):
    truth = BruteForce(similarity, items)
    found = searcher.search(queries, 10)
    assert found.num_scored.float().mean() < ITEMS / 2 and not found.exact.any()
    shares = [
        recall(GraphSearch(similarity, items, ef, 12, graph=searcher.graph), truth, queries)
        for ef in (10, 200)
    ]
    assert recall(searcher, truth, queries) > 0.9 and shares[1] >= shares[0] and shares[1] > 0.99


def test_masks_lengthen_the_walk(similarity, items, queries, searcher):
    truth = BruteForce(similarity, items)
    allowed = torch.rand(ITEMS, generator=torch.Generator().manual_seed(3)) < 0.3
    best = truth.search(queries, 10).ids
    assert recall(searcher, truth, queries, exclude=best[:, :7], allowed=allowed) > 0.8
    few = torch.zeros(ITEMS, dtype=torch.bool)
    few[torch.tensor([3, 700, 701, 1_400])] = True
    found = searcher.search(queries, 6, allowed=few)
    assert (found.ids[:, :4].sort(1).values == torch.tensor([4, 701, 702, 1_401])).all()
    assert (found.ids[:, 4:] == -1).all() and found.exact.all()


def test_changes_reach_the_graph(similarity, items, queries, searcher):
    changed = GraphSearch(similarity, items, 100, 12, graph=searcher.graph)
    gone = torch.arange(5, ITEMS, 7)
    fresh = made(similarity, torch.cat([torch.tensor([1, 2, 3]), torch.arange(5_000, 5_200)]), seed=4)
    changed.remove(gone)
    changed.upsert(fresh)
    whole = items.without(gone).upsert(fresh)
    graph = changed.graph.neighbours
    assert len(graph) == len(whole) and int(graph.max()) < len(whole)
    assert not (graph == torch.arange(len(whole))[:, None]).any()
    assert recall(changed, BruteForce(similarity, whole), queries) > 0.97
    new = set(range(len(whole) - 200, len(whole)))
    assert len(new & set(graph[: len(whole) - 200].flatten().tolist())) > 150  # older items lead to new ones
    assert len(searcher.graph) == ITEMS


def test_neighbours_are_near_and_spread():
    corner = torch.nn.functional.normalize(
        torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.12], [1.0, -0.5]]), dim=1
    )
    kept = _spread(corner, corner[:1], torch.tensor([[1, 2, 3]]), 3)
    assert kept.tolist() == [[1, 3, -1]]  # 2 is nearer to 1 than to 0


def test_edges_lead_to_every_item():
    """Also to the second half of the items, of which nobody is a neighbour."""
    chance = runtime.generator(1)
    crowd = torch.stack([torch.randperm(199, generator=chance)[:12] for _ in range(400)])
    crowd += crowd >= torch.arange(400)[:, None]  # no item is its own neighbour
    reached = _reachable(crowd.int(), 4)
    assert int(crowd.flatten().bincount(minlength=400)[200:].max()) == 0
    assert int(reached.flatten().bincount(minlength=400).min()) == 4
    assert all(len(set(row)) == 12 and node not in row for node, row in enumerate(reached.tolist()))
    kept = reached == crowd
    assert int((~kept).sum()) == 800 and not bool((reached[~kept] < 200).any())


def test_a_graph_leads_to_what_lies_apart(items):
    vectors = items.components.flatten(1)
    inward = ProximityGraph.build(vectors, 24, 32).neighbours.flatten().bincount(minlength=ITEMS)
    assert float((inward >= INWARD).float().mean()) > 0.99


def test_a_file_serves_the_same_items_alone(similarity, items, queries, searcher, tmp_path):
    searcher.save_into(tmp_path)
    opened = GraphSearch(similarity, items, 40, 12, folder=tmp_path)
    assert torch.equal(opened.graph.neighbours, searcher.graph.neighbours)
    with pytest.raises(ValueError, match="was built with degree 12, nearest 32, not degree 8"):
        GraphSearch(similarity, items, 40, 8, folder=tmp_path)
    with pytest.raises(ValueError, match="of other vectors"):
        GraphSearch(similarity, items[torch.arange(1, ITEMS)], 40, 12, folder=tmp_path)
    with pytest.raises(ValueError, match="of 1500 items, the corpus of 9"):
        GraphSearch(similarity, items[:9], graph=searcher.graph)
    with pytest.raises(ValueError, match="ef of a graph must be at least 1, not 0"):
        GraphSearch(similarity, items, 0)


def test_without_a_compiler_the_answers_are_the_same(similarity, items, queries, searcher, monkeypatch):
    native = searcher.search(queries, 10)
    monkeypatch.setattr(walk, "_library", lambda: None)
    plain = searcher.search(queries, 10)
    assert torch.equal(native.ids, plain.ids) and torch.equal(native.num_scored, plain.num_scored)


def test_what_cannot_be_ranked_is_searched_by_brute_force(similarity, items, queries, searcher):
    broken = items.components.clone()
    broken[700] = float("nan")
    items = replace(items, components=broken)
    with pytest.raises(ValueError, match="item 701"):
        GraphSearch(similarity, items, 40, graph=searcher.graph).search(queries, 10)


def test_a_graph_of_one_and_of_few_items(similarity, items, queries):
    for size in (1, 2, 9):
        found = GraphSearch(similarity, items[:size]).search(queries, size)
        assert found.exact.all() and torch.equal(
            found.ids, BruteForce(similarity, items[:size]).search(queries, size).ids
        )


def test_the_graph_is_the_same_twice(items):
    vectors = items.components.flatten(1)
    first, second = (ProximityGraph.build(vectors, 8, 16) for _ in range(2))
    assert torch.equal(first.neighbours, second.neighbours)


def test_a_certified_walk_is_brute_force(similarity, items, queries, searcher):
    truth = BruteForce(similarity, items)
    certified = GraphSearch(similarity, items, 40, 12, graph=searcher.graph, certified=True)
    walked, found = searcher.search(queries, 10), certified.search(queries, 10)
    best = truth.search(queries, 10)
    assert found.exact.all() and torch.equal(found.ids, best.ids) and torch.equal(found.scores, best.scores)
    assert (found.num_scored >= walked.num_scored).all() and (found.num_scored <= ITEMS).all()
    allowed = torch.rand(ITEMS, generator=torch.Generator().manual_seed(3)) < 0.3
    masks = {"exclude": best.ids[:, :7], "allowed": allowed}
    assert torch.equal(certified.search(queries, 10, **masks).ids, truth.search(queries, 10, **masks).ids)


def test_what_lies_close_together_is_ruled_out_by_its_cell():
    centres = torch.randn(30, 12, generator=torch.Generator().manual_seed(9)).repeat(40, 1)
    noise = 0.01 * torch.randn(centres.shape, generator=torch.Generator().manual_seed(1))
    dot = build(DotConfig(), 12).eval()
    items = dot.items(centres + noise, torch.arange(1, 1_201))
    queries = dot.queries(centres[:8])
    found = GraphSearch(dot, items, 20, 8, certified=True).search(queries, 5)
    assert torch.equal(found.ids, BruteForce(dot, items).search(queries, 5).ids)
    assert found.exact.all() and found.num_scored.float().mean() < 900
    cells = CellBounds(dot, items, 30)
    assert (dot.score(queries, items).double() <= cells.of(queries)[:, cells.member]).all()


def test_edges_are_turned_round_a_part_at_a_time(monkeypatch):
    edges = torch.randint(-1, 50, (50, 6), generator=torch.Generator().manual_seed(0)).int()
    whole = proximity_graph._reversed(edges)
    for node, back in enumerate(whole.tolist()):
        ends = sorted(n for n, row in enumerate(edges.tolist()) for e in row if e == node)
        assert [n for n in back if n >= 0] == ends[:6]
    reached = _reachable(edges, 3)
    monkeypatch.setattr(proximity_graph, "ROWS_TOGETHER", 7)
    assert torch.equal(proximity_graph._reversed(edges), whole)
    assert torch.equal(_reachable(edges, 3), reached)
