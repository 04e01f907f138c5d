"""The C++ that ranks: what sorting gives, to the bit and to the column, whatever the shape, the masks and the threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.kernels import selection

INF = float("inf")
SIZES = st.sampled_from([1, 2, 15, 16, 17, 47, 48, 49, 100, 1_000, 5_000])

pytestmark = pytest.mark.skipif(
    not selection.serves(torch.zeros(1, 1)), reason="there is no C++ compiler here"
)


def whole_numbers(rows: int, columns: int, seed: int, most: int = 3) -> Tensor:
    """Small ones: sums are exact, and there are many ties."""
    chance = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, (rows, columns), generator=chance).float()


@settings(max_examples=60, deadline=None)
@given(width=SIZES, rows=st.integers(0, 3), seed=st.integers(0, 9), data=st.data())
def test_the_largest_are_those_of_a_stable_sort(width, rows, seed, data):
    scores = whole_numbers(rows, width, seed, data.draw(st.sampled_from([1, 1_000_000])))
    for special in (INF, -INF, -0.0):
        scores[:, data.draw(st.integers(0, width - 1))] = special
    count = data.draw(st.integers(1, width))
    expected = scores.sort(dim=1, descending=True, stable=True).indices[:, :count]
    assert torch.equal(selection.largest_columns(scores, count), expected)


def test_nan_comes_first_wherever_it_is():
    scores = whole_numbers(1, 2_000, 0)
    scores[0, 1_234] = float("nan")
    assert selection.largest_columns(scores, 3)[0, 0] == 1_234
    assert selection.largest_columns(torch.full((1, 500), float("nan")), 2).tolist() == [[0, 1]]


def test_columns_of_a_wider_tensor_are_ranked():
    scores = whole_numbers(4, 300, 1)[:, 100:200]
    assert selection.serves(scores) and not selection.serves(scores.T)
    expected = scores.sort(dim=1, descending=True, stable=True).indices[:, :7]
    assert torch.equal(selection.largest_columns(scores, 7), expected)


def test_a_mask_spares_nan_and_what_lies_outside():
    scores = torch.tensor([[1.0, float("nan"), 3.0], [4.0, 5.0, 6.0]])
    selection.mask_columns(scores, torch.tensor([[11, 10, -1], [12, 13, 9]]), first=10)
    assert scores[0, 1].isnan()
    assert torch.equal(
        scores.masked_fill(scores.isnan(), 0.0), torch.tensor([[-INF, 0.0, 3.0], [4.0, 5.0, -INF]])
    )


@settings(max_examples=60, deadline=None)
@given(
    items=st.sampled_from([1, 47, 48, 49, 500, 9_000, 40_000]),
    queries=st.sampled_from([0, 1, 3, 9]),
    width=st.sampled_from([1, 16, 19]),
    half=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_the_largest_products_are_those_of_sorting_all(items, queries, width, half, threads, seed, data):
    vectors, table = whole_numbers(queries, width, seed), whole_numbers(items, width, seed + 1)
    if data.draw(st.booleans()):  # the best ones together: no sample shows them
        table = table[(table @ vectors.sum(0)).argsort()]
    count = data.draw(st.sampled_from([c for c in (1, 5, 200, 3_000) if c <= items]))
    excluded = data.draw(st.sampled_from([None, 1, 300]))
    chance = torch.Generator().manual_seed(seed)
    out = None if excluded is None else torch.randint(-1, items, (queries, excluded), generator=chance)
    allowed = torch.rand(items, generator=chance) < 0.5 if data.draw(st.booleans()) else None

    products = vectors @ table.T
    for query in range(queries if out is not None else 0):
        products[query, out[query][out[query] >= 0]] = -INF
    if allowed is not None:
        products[:, ~allowed] = -INF
    everything = products.sort(dim=1, descending=True, stable=True)
    expected, rows = (t[:, :count] for t in everything)
    last = everything.values[:, count] if count < items else torch.full((queries,), -INF)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        kept = table.bfloat16() if half else table
        scores, found, beyond = selection.largest_products(vectors, kept, count, out, allowed)
        others = selection.largest_products(vectors, kept, count, out, allowed, ordered=False)
    finally:
        torch.set_num_threads(before)
    rows = rows.masked_fill(expected == -INF, 0)
    assert torch.equal(scores, expected)
    assert torch.equal(found, rows)
    assert torch.equal(beyond, last) and torch.equal(others[2], last)
    # The same without an order: by rows, what is past the end after them.
    past = (expected == -INF).long() * items
    places = (rows + past).argsort(dim=1, stable=True)
    assert torch.equal(others[0], expected.gather(1, places))
    assert torch.equal(others[1], rows.gather(1, places))


def test_a_product_is_the_same_bits_whatever_else_is_asked():
    chance = torch.Generator().manual_seed(0)
    vectors, table = torch.randn(9, 33, generator=chance), torch.randn(700, 33, generator=chance)
    scores, rows, _ = selection.largest_products(vectors, table, 700)
    alone, same, _ = selection.largest_products(vectors[4:5], table, 700)
    assert torch.equal(scores[4], alone[0]) and torch.equal(rows[4], same[0])
    some, places, _ = selection.largest_products(vectors, table[100:300], 200)
    every = torch.empty(9, 700).scatter(1, rows, scores)
    assert torch.equal(every[:, 100:300].gather(1, places), some)


def test_what_does_not_fit_is_refused():
    vectors, table = torch.zeros(2, 3), torch.zeros(5, 4)
    with pytest.raises(ValueError, match=r"shape \(2, 3\) do not go with a table of shape \(5, 4\)"):
        selection.largest_products(vectors, table, 1)
    with pytest.raises(ValueError, match="allowed has 4 rows for 5"):
        selection.largest_products(vectors, table[:, :3], 1, allowed=torch.ones(4, dtype=torch.bool))
    assert not selection.serves_products(vectors.double(), table)
    assert not selection.serves_products(vectors, table.to(torch.int8))
