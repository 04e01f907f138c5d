"""Sources of candidates: their lists are the largest inner products, and nothing outside exceeds what they say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.search.candidates import Lists, Scan, _searched_for, leave_out, listed_among
from workbench.similarities.rounding import product_error

INF = float("inf")

pytestmark = pytest.mark.usefixtures("both_versions")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 50),
    count=st.integers(1, 60),
    excluded=st.integers(0, 4),
    filtered=st.booleans(),
)
def test_lists_hold_the_largest_and_beyond_bounds_the_rest(seed, n, count, excluded, filtered):
    g = torch.Generator().manual_seed(seed)
    vectors, queries = torch.randn(n, 5, generator=g), torch.randn(3, 5, generator=g)
    exclude = torch.randint(-1, n, (3, excluded), generator=g)
    allowed = torch.rand(n, generator=g) < 0.7 if filtered else None
    found = Scan("average", torch.arange(1, n + 1), vectors).lists(queries, count, exclude, allowed)
    assert found.rows.shape == found.scores.shape == (3, min(count, n))
    for b in range(3):
        left_out = set(exclude[b].tolist()) | (
            set() if allowed is None else set((~allowed).nonzero().flatten().tolist())
        )
        open_rows = [r for r in range(n) if r not in left_out]
        exact = {r: float(queries[b].double() @ vectors[r].double()) for r in open_rows}
        best = sorted(open_rows, key=lambda r: -exact[r])[:count]
        rows = [r for r in found.rows[b].tolist() if r >= 0]
        assert sorted(rows) == sorted(best)
        rest = [exact[r] for r in open_rows if r not in rows]
        assert all(score <= float(found.outside_bound[b]) for score in rest)
        assert (found.outside_bound[b] == -INF) == (not rest)


def test_a_source_follows_the_corpus():
    source = Scan("component-0", torch.tensor([4, 2, 9]), torch.tensor([[1.0], [2.0], [3.0]]))
    source.upsert(torch.tensor([7, 4]), torch.tensor([[5.0], [4.0]]))
    assert source.lists(torch.ones(1, 1), 4).rows.tolist() == [[3, 0, 2, 1]]
    source.remove(torch.tensor([4]))
    assert source.lists(torch.ones(1, 1), 4).rows.tolist() == [[2, 1, 0]]


def test_leaving_out_after_fetching_more_equals_leaving_out_inside():
    g = torch.Generator().manual_seed(0)
    source = Scan("average", torch.arange(1, 31), torch.randn(30, 4, generator=g))
    queries, exclude = torch.randn(5, 4, generator=g), torch.randint(-1, 30, (5, 6), generator=g)
    inside = source.lists(queries, 7, exclude)
    after = leave_out(source.lists(queries, 13), exclude, 7)
    assert torch.equal(inside.rows, after.rows)
    assert (after.outside_bound >= inside.outside_bound - 1e-4).all()


def test_what_is_cut_off_counts_for_what_lies_beyond():
    lists = Lists(torch.tensor([[4.0, 3.0, 2.0]]), torch.tensor([[8, 5, 1]]), torch.tensor([-INF]))
    found = leave_out(lists, torch.tensor([[8, -1]]), 1)
    assert (found.rows.tolist(), found.outside_bound.tolist()) == ([[5]], [2.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_rounding_of_a_product_stays_under_its_bound(dtype):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 48, generator=g).to(dtype), torch.randn(200, 48, generator=g).to(dtype)
    exact = (x.double() * y.double()).sum(1)
    error = product_error(x.float().norm(dim=1), y.float().norm(dim=1).amax(), 48, dtype)
    assert ((x @ y.T).diagonal().double() - exact).abs().le(error).all()
    assert product_error(torch.ones(1), torch.ones(()), 10**6, dtype).isinf().all() == (
        dtype != torch.float32
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(0, 3),
    listed=st.integers(0, 9),
    excluded=st.integers(0, 30),
    items=st.integers(1, 20),
)
def test_what_is_listed_among_the_excluded_is_found_either_way(seed, queries, listed, excluded, items):
    g = torch.Generator().manual_seed(seed)
    rows = torch.rand(queries, items, generator=g).argsort(1)[:, :listed]  # none twice
    rows = rows.masked_fill(torch.rand(rows.shape, generator=g) < 0.2, -1)
    exclude = torch.randint(-1, 2 * items, (queries, excluded), generator=g)
    expected = (rows[:, :, None] == exclude[:, None, :]).any(2) & (rows >= 0)
    assert torch.equal(listed_among(rows, exclude), expected)
    if listed:
        assert torch.equal(_searched_for(rows, exclude), expected)
