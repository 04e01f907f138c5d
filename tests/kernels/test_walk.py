"""Walks over a graph: what C++ hands out and keeps is what Python does, and what the definition gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.kernels import walk


def edges(nodes: int, degree: int, seed: int) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    drawn = torch.randint(-1, nodes, (nodes, degree), generator=chance, dtype=torch.int32)
    return drawn.sort(dim=1, descending=True).values  # −1 past the end


def walked(
    make: type[walk.Walks],
    graph: Tensor,
    scores: Tensor,
    beam: int,
    listed: int,
    masks: tuple[Tensor, Tensor],
) -> tuple[list[list[int]], Tensor, Tensor]:
    """The nodes that each walk hands out, in order, and the best that it ends with."""
    entries = torch.arange(0, len(graph), max(1, len(graph) // 3))
    seen: list[list[int]] = [[] for _ in scores]
    with make(graph, entries, len(scores), beam, listed, *masks) as walks:
        while len((step := walks.next()).nodes):
            assert step.queries.tolist() == sorted(step.queries.tolist())
            assert int(step.queries.bincount().max()) <= listed
            for query, node in zip(*(part.tolist() for part in step), strict=True):
                seen[query].append(node)
            walks.scored(scores[step.queries, step.nodes])
        return seen, *walks.best(beam)


@settings(max_examples=40, deadline=None)
@given(
    nodes=st.integers(1, 70), degree=st.integers(1, 6), queries=st.integers(1, 12), beam=st.integers(1, 20),
    listed=st.integers(1, 9), seed=st.integers(0, 99),
)  # fmt: skip
def test_both_versions_walk_the_same_way(nodes, degree, queries, beam, listed, seed):
    if walk._library() is None:
        pytest.skip("there is no C++ compiler here")
    graph = edges(nodes, degree, seed)
    scores = torch.randint(-3, 4, (queries, nodes), generator=torch.Generator().manual_seed(seed)).float()
    chance = torch.Generator().manual_seed(seed)
    excluded = torch.randint(-1, nodes, (queries, 4), generator=chance)
    allowed = torch.rand(nodes, generator=chance) < 0.7
    walks = [
        walked(make, graph, scores, beam, listed, (excluded, allowed))
        for make in (walk._NativeWalks, walk._PlainWalks)
    ]
    assert walks[0][0] == walks[1][0]
    assert all(torch.equal(native, plain) for native, plain in zip(walks[0][1:], walks[1][1:], strict=True))
    seen, best, rows = walks[0]
    for query, met in enumerate(seen):
        assert len(set(met)) == len(met)
        closed = set(excluded[query].tolist())
        found = sorted((-float(scores[query, n]), n) for n in met if allowed[n] and n not in closed)[:beam]
        listed_rows = [
            (-score, n) for score, n in zip(best[query].tolist(), rows[query].tolist(), strict=True)
        ]
        assert found == listed_rows[: len(found)] and bool((best[query, len(found) :] == -torch.inf).all())


def test_a_walk_follows_the_best_node_and_ends_at_the_best_of_its_list():
    chain = torch.tensor([[1], [2], [3], [4], [5], [-1]], dtype=torch.int32)
    rising, falling = torch.arange(6.0), -torch.arange(6.0)
    for make in {walk._PlainWalks, walk._PlainWalks if walk._library() is None else walk._NativeWalks}:
        with make(chain, torch.tensor([0]), 2, 1, 8, None, None) as walks:
            met: list[set[int]] = [set(), set()]
            while len((step := walks.next()).nodes):
                for query in (0, 1):
                    met[query] |= set(step.nodes[step.queries == query].tolist())
                walks.scored(torch.stack([rising, falling])[step.queries, step.nodes])
        assert met == [{0, 1, 2, 3, 4, 5}, {0, 1}]
