"""Brute force: its memory, its tiles, and real learned similarities."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from live_bytes import LiveBytes

from workbench.contracts import ItemState, QueryState, Similarity
from workbench.kernels import mixture_native
from workbench.search import BruteForce
from workbench.search.tiles import SMALLEST_TILE, score_block, tiling
from workbench.search.topk import best, forbid, mask_rows
from workbench.similarities.dot import DotConfig, DotProduct
from workbench.similarities.mol import MixtureOfLogits, MoLConfig

CPU = torch.device("cpu")
MIB = 2**20


def similarity_of(kind: str) -> Similarity:
    if kind == "dot":
        return DotProduct(DotConfig()).eval()
    torch.manual_seed(0)
    return MixtureOfLogits(
        MoLConfig(query_groups=4, item_groups=2, component_dim=8, query_hidden=16), dim=12
    ).eval()


def random_states(similarity: Similarity, queries: int, items: int) -> tuple[QueryState, ItemState]:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        q = similarity.queries(torch.randn(queries, 12, generator=generator), torch.arange(queries))
        x = similarity.items(torch.randn(items, 12, generator=generator), torch.arange(1, items + 1))
    return q, x


@pytest.mark.parametrize("budget", [MIB // 4, MIB, 8 * MIB])
@pytest.mark.parametrize(
    ("kind", "queries", "items", "k"),
    [("dot", 64, 20_000, 10), ("dot", 2_000, 300, 300), ("mol", 70, 2_000, 100)],
)
def test_memory_beyond_the_item_state_and_the_result_stays_under_the_budget(kind, queries, items, k, budget):
    similarity = similarity_of(kind)
    q, x = random_states(similarity, queries, items)
    exclude = torch.randint(0, items, (queries, 20), generator=torch.Generator().manual_seed(2))
    searcher = BruteForce(similarity, x, memory_budget=budget)
    with LiveBytes() as live:
        found = searcher.search(q, k, exclude)
    assert live.now == found.nbytes()
    assert live.peak - found.nbytes() <= budget


def test_memory_stays_under_the_budget_where_every_item_ties():
    similarity = similarity_of("dot")
    q, x = random_states(similarity, 64, 20_000)
    with LiveBytes() as live:
        found = BruteForce(similarity, x, memory_budget=2 * MIB).search(q.to(dtype=torch.float32), 10)
        zero = similarity.queries(torch.zeros(64, 12), torch.arange(64))
        tied = BruteForce(similarity, x, memory_budget=2 * MIB).search(zero, 10)
    assert tied.ids.tolist() == [list(range(1, 11))] * 64
    assert live.peak - found.nbytes() - tied.nbytes() - zero.nbytes() <= 2 * MIB


@pytest.mark.parametrize("kind", ["dot", "mol"])
@pytest.mark.parametrize("budget", [1, 10_000, 100_000])
def test_tiles_change_scores_by_rounding_only(kind, budget):
    similarity = similarity_of(kind)
    q, x = random_states(similarity, 7, 150)
    whole = BruteForce(similarity, x).search(q, 20)
    cut = BruteForce(similarity, x, memory_budget=budget).search(q, 20)
    torch.testing.assert_close(cut.scores, whole.scores, rtol=1e-5, atol=1e-5)
    # Random scores are far enough apart for rounding to leave the ranking alone.
    assert torch.equal(cut.ids, whole.ids)
    assert torch.equal(whole.num_scored, torch.full((7,), 150))


def test_mol_is_ranked_by_its_own_scores():
    similarity = similarity_of("mol")
    q, x = random_states(similarity, 3, 40)
    found = BruteForce(similarity, x).search(q, 40)
    with torch.no_grad():
        scores = similarity.score(q, x)
    torch.testing.assert_close(found.scores, scores.sort(dim=1, descending=True).values)
    torch.testing.assert_close(scores.gather(1, found.ids - 1), found.scores)


@settings(max_examples=200, deadline=None)
@given(
    pair_bytes=st.integers(1, 5000),
    queries=st.integers(0, 10_000),
    items=st.integers(1, 10**9),
    budget=st.integers(1, 2**33),
    k=st.integers(1, 3000),
    whole=st.booleans(),
)
def test_tilings_cover_everything_within_the_budget(pair_bytes, queries, items, budget, k, whole):
    cut = tiling(pair_bytes, queries, items, CPU, budget, query_bytes=96 * k, least_block=k, whole_rows=whole)
    assert 1 <= cut.queries <= max(queries, 1)
    assert 1 <= cut.tile <= cut.block <= items
    if whole:
        assert cut.block == items
    elif cut.queries > 1:
        assert cut.queries * cut.tile * pair_bytes + cut.queries * (24 * cut.block + 96 * k) <= budget
        assert cut.block >= min(items, SMALLEST_TILE) // 2


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_must_be_positive(budget):
    similarity = similarity_of("dot")
    _, items = random_states(similarity, 1, 3)
    with pytest.raises(ValueError, match="memory_budget must be a positive number of bytes"):
        BruteForce(similarity, items, memory_budget=budget)
    with pytest.raises(ValueError, match="memory_budget must be a positive number of bytes"):
        tiling(4, 1, 1, CPU, budget)


def test_a_block_is_scored_in_tiles_as_asked():
    similarity = similarity_of("dot")
    q, x = random_states(similarity, 2, 10)
    torch.testing.assert_close(score_block(similarity, q, x, 3), similarity.score(q, x))


@pytest.mark.skipif(not mixture_native.available(), reason="torch's products depend on the batch")
def test_the_bits_of_mol_scores_depend_on_neither_batch_nor_tiles():
    similarity = similarity_of("mol")
    q, x = random_states(similarity, 7, 500)
    whole = BruteForce(similarity, x).search(q, 50)
    for budget in (1, 30_000):
        cut = BruteForce(similarity, x, memory_budget=budget).search(q, 50)
        assert torch.equal(cut.scores, whole.scores) and torch.equal(cut.ids, whole.ids)
    for b in range(7):
        one = BruteForce(similarity, x).search(q[b : b + 1], 50)
        assert torch.equal(one.scores[0], whole.scores[b]) and torch.equal(one.ids[0], whole.ids[b])


def test_where_scoring_and_ranking_are_one_kernel_it_is_used(monkeypatch):
    similarity = similarity_of("mol")
    q, x = random_states(similarity, 3, 40)
    exclude, allowed = torch.tensor([[4, 9], [0, 1], [99, 40]]), torch.arange(40) != 20
    expected = BruteForce(similarity, x).search(q, 10, exclude, allowed)
    calls = []

    def top_k(self, queries, items, k, excluded, allowed):
        calls.append(excluded.tolist())
        scores = self.score(queries, items)
        mask_rows(scores, excluded)
        forbid(scores, allowed)
        return best(scores, k)

    monkeypatch.setattr(MixtureOfLogits, "fuses_top_k", lambda self, queries, items, k: k <= 10)
    monkeypatch.setattr(MixtureOfLogits, "top_k", top_k)
    found = BruteForce(similarity, x).search(q, 10, exclude, allowed)
    assert calls == [[[3, 8], [-1, 0], [-1, 39]]]
    assert torch.equal(found.ids, expected.ids) and torch.equal(found.scores, expected.scores)
    BruteForce(similarity, x).search(q, 11, exclude, allowed)
    assert len(calls) == 1
    with pytest.raises(ValueError, match="training mode"):
        BruteForce(similarity.train(), x).search(q, 10, exclude, allowed)
