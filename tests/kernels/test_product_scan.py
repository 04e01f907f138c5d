"""The C++ that lists the largest inner products: what sorting all of them gives, whatever its int8 makes of the vectors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.kernels import product_scan
from workbench.similarities.rounding import sum_error

INF = float("inf")
KINDS = (
    "as drawn",
    "whole numbers",
    "an outlier",
    "huge and tiny",
    "tiny",
    "zeros",
    "one vector",
    "not finite",
)

pytestmark = pytest.mark.skipif(
    not product_scan.serves(torch.zeros(1, 1)), reason="there is no C++ compiler here"
)


def vectors_of(kind: str, rows: int, width: int, chance: torch.Generator) -> Tensor:
    """Easy and hard ones for whole numbers of 8 bits."""
    drawn = torch.randn(rows, width, generator=chance)
    size = 10 ** (60 * torch.rand(rows, 1, generator=chance) - 30)
    match kind:
        case "whole numbers":  # many ties
            return drawn.round()
        case "an outlier":
            drawn[:, 0] += 1000
        case "huge and tiny":
            drawn *= size
        case "tiny":
            drawn *= 1e-30
        case "zeros":
            drawn[torch.rand(rows, generator=chance) < 0.9] = 0
        case "one vector":
            drawn = drawn[:1].repeat(rows, 1)
        case "not finite":
            drawn[::7, 0] = INF
            drawn[3::11, -1] = float("nan")
    return drawn


def largest(
    vectors: Tensor, tables: list[Tensor], count: int, *masks: Tensor | None, ordered: bool = True
) -> tuple[Tensor, ...]:
    width = vectors.shape[1]
    stored = [product_scan.quantized(table) for table in tables]
    error = (sum_error(width, torch.float32), 2 * (width + 1) * torch.finfo(torch.float32).tiny)
    return product_scan.largest_products(vectors, stored, count, *error, *masks, ordered=ordered)


def all_products(vectors: Tensor, table: Tensor) -> Tensor:
    """Of a list of all rows nothing is ruled out."""
    scores, rows, _, _ = largest(vectors, [table], len(table))
    places = torch.where(rows < 0, len(table), rows)
    return torch.full((len(vectors), 1, len(table) + 1), -INF).scatter(2, places, scores)[:, 0, :-1]


@pytest.fixture(scope="module", params=["", *product_scan.INSTRUCTIONS])
def instructions(request):
    """The best that the processor has, and what is there for others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(product_scan.SWITCH, request.param)
        yield request.param


@pytest.mark.parametrize("seed", range(6))
def test_a_row_that_is_not_a_number_comes_first_next_to_infinite_ones(instructions, seed):
    """A floor of +inf, which an infinite row gave, rules out no row whose score is not known."""
    chance = torch.Generator().manual_seed(seed)
    table, vectors = (vectors_of("not finite", rows, 16, chance) for rows in (9_000, 1))
    table = table[(table.double().nan_to_num() @ vectors.double().nan_to_num()[0]).argsort()]
    scores, rows, _, _ = largest(vectors, [table], 1)
    products = (table.double() * vectors.double()).sum(1)
    assert scores.isnan().all() and products[rows.item()].isnan()


@settings(max_examples=80, deadline=None)
@given(
    items=st.sampled_from([1, 47, 48, 49, 500, 9_000, 20_000]),
    queries=st.sampled_from([0, 1, 2, 7, 12]),
    width=st.sampled_from([1, 16, 19]),
    kind=st.sampled_from(KINDS),
    half=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_the_largest_products_are_those_of_sorting_all(
    instructions, items, queries, width, kind, half, threads, seed, data
):
    chance = torch.Generator().manual_seed(seed)
    table = vectors_of(kind, items, 2 * width, chance).unflatten(1, (2, width))  # rows of a table are apart
    vectors = vectors_of(data.draw(st.sampled_from([kind, "as drawn"])), queries, width, chance)
    if data.draw(st.booleans()):  # the best ones together: no sample shows them
        table = table[(table[:, 0].double().nan_to_num() @ vectors.double().nan_to_num().sum(0)).argsort()]
    table = table.bfloat16() if half else table
    count = data.draw(st.sampled_from([c for c in (1, 5, 200, 3_000) if c <= items]))
    lists = 3 if queries == 12 else 1
    excluded = data.draw(st.sampled_from([None, 1, 300]))
    out = (
        None if excluded is None else torch.randint(-1, items, (queries // lists, excluded), generator=chance)
    )
    allowed = torch.rand(items, generator=chance) < 0.5 if data.draw(st.booleans()) else None

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        tables = [table[:, 0], table[:, 1]]
        scores, found, beyond, error = largest(vectors, tables, count, out, allowed)
        others = largest(vectors, tables, count, out, allowed, ordered=False)
    finally:
        torch.set_num_threads(before)
    for group in range(2 if queries else 0):
        products = all_products(vectors, table[:, group])
        left_out = torch.zeros(products.shape, dtype=torch.bool)
        for query in range(queries if out is not None else 0):
            rows = out[query // lists]
            left_out[query, rows[rows >= 0]] = True
        if allowed is not None:
            left_out |= ~allowed
        keys = products.nan_to_num(nan=INF, posinf=3.4028e38).masked_fill(left_out, -INF)  # NaN comes first
        order = keys.sort(dim=1, descending=True, stable=True).indices
        products = products.masked_fill(left_out, -INF)
        expected, rows = products.gather(1, order[:, :count]), order[:, :count]
        nothing = torch.full((queries,), -INF)
        last = products.gather(1, order)[:, count] if count < items else nothing
        torch.testing.assert_close(scores[:, group], expected, rtol=0, atol=0, equal_nan=True)
        known = error.isfinite()
        assert torch.equal(others[2], beyond)
        assert torch.equal(beyond[known, group] == -INF, last[known] == -INF)
        assert torch.equal(beyond[known, group], last[known].double() + error[known])
        assert beyond[~known].eq(INF).all()
        past = expected == -INF
        rows = rows.masked_fill(past, -1)
        assert torch.equal(found[:, group], rows)
        # The same without an order.
        assert torch.equal(others[1][:, group].sort(dim=1).values, rows.sort(dim=1).values)


@pytest.mark.parametrize("kind", ["as drawn", "huge and tiny", "an outlier"])
@pytest.mark.parametrize("width", [1, 32, 50])
def test_products_are_those_of_the_formula(instructions, kind, width):
    chance = torch.Generator().manual_seed(0)
    vectors = vectors_of("as drawn", 5, width, chance)
    table = vectors_of(kind, 300, width, chance)
    exact = vectors.double() @ table.double().T
    most = vectors.double().norm(dim=1)[:, None] * table.double().norm(dim=1)
    off = (all_products(vectors, table).double() - exact).abs()
    assert bool((off <= sum_error(width, torch.float32) * most + 1e-36).all())


def test_a_product_is_the_same_bits_whatever_else_is_asked(instructions):
    chance = torch.Generator().manual_seed(0)
    vectors, table = torch.randn(9, 33, generator=chance), torch.randn(700, 33, generator=chance)
    every = all_products(vectors, table)
    assert torch.equal(all_products(vectors[4:5], table)[0], every[4])
    assert torch.equal(all_products(vectors, table[100:300]), every[:, 100:300])


def test_what_does_not_fit_is_refused():
    vectors, table = torch.zeros(2, 3), torch.zeros(5, 4)
    with pytest.raises(ValueError, match=r"shape \(2, 3\) do not go with tables of shapes \[\(5, 4\)\]"):
        largest(vectors, [table], 1)
    with pytest.raises(ValueError, match="allowed has 4 rows for 5"):
        largest(vectors, [table[:, :3]], 1, None, torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="excluded has 3 rows for 2 queries"):
        largest(vectors, [table[:, :3]], 1, torch.zeros(3, 1, dtype=torch.int64))
    assert not product_scan.serves(table.double())
    assert not product_scan.serves(table.T)
    assert not product_scan.serves(table[:0])
