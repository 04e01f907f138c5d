"""The C++ that ranks: what sorting gives, to the bit and to the column, whatever the shape, the masks and the threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.kernels import selection
from workbench.search.certificates import certificate

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
    lists=st.integers(0, 4),
    length=st.integers(0, 40),
    most=st.sampled_from([1, 30, 64, 1_000, 10**9]),  # one bit each, or sorted
    seed=st.integers(0, 99),
)
def test_distinct_rows_are_those_of_sorting(lists, length, most, seed):
    rows = torch.randint(-1, most, (lists, length), generator=torch.Generator().manual_seed(seed))
    expected = [(q, row) for q in range(lists) for row in sorted(set(rows[q].tolist()) - {-1})]
    found = selection.distinct(rows)
    assert list(zip(*(part.tolist() for part in found), strict=True)) == expected
    assert selection.serves_rows(rows) and not selection.serves_rows(rows.int())


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 3, 20, 700]), max_size=4),
    count=st.integers(1, 30),
    seed=st.integers(0, 9),
)
def test_the_best_of_pairs_are_those_of_a_stable_sort_of_each_list(sizes, count, seed):
    lists = torch.repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
    scores = whole_numbers(1, len(lists), seed)[0]
    rows = torch.arange(len(lists)) + 5
    assert selection.serves_pairs(scores) and not selection.serves_pairs(scores.double())
    best, found = selection.best_of_pairs(lists, rows, scores, len(sizes), count)
    assert best.shape == found.shape == (len(sizes), count)
    for one, of in enumerate(sizes):
        order = scores[lists == one].sort(descending=True, stable=True).indices[:count]
        assert torch.equal(best[one, : len(order)], scores[lists == one][order])
        assert torch.equal(found[one, : len(order)], rows[lists == one][order])
        assert best[one, len(order) :].eq(-INF).all() and found[one, len(order) :].eq(0).all()
        assert len(order) == min(of, count)


@settings(max_examples=60, deadline=None)
@given(one=st.integers(0, 40), other=st.integers(0, 40), seed=st.integers(0, 99))
def test_merged_pairs_are_the_set_of_both(one, other, seed):
    chance = torch.Generator().manual_seed(seed)
    parts = [
        selection.distinct(torch.randint(-1, 30, (3, length), generator=chance)) for length in (one, other)
    ]
    pairs = [set(zip(*(part.tolist() for part in found), strict=True)) for found in parts]
    merged = selection.merged(*parts)
    assert list(zip(*(part.tolist() for part in merged), strict=True)) == sorted(pairs[0] | pairs[1])


def test_a_proof_is_the_one_that_torch_makes(monkeypatch):
    nan, tiny = float("nan"), torch.finfo(torch.float32).tiny
    values = torch.tensor([nan, -INF, INF, 0.0, -0.0, 1.0, 1.0000001, -2.5, 3e38, -3e38, tiny, tiny / 4])
    last = values.repeat_interleave(len(values))[:, None].expand(-1, 2).clone()[:, 1]  # not contiguous
    for bound in (values.repeat(len(values)), values.double().mul(1 + 1e-12).repeat(len(values))):
        found = certificate(last, bound)
        with monkeypatch.context() as patch:
            patch.setattr(selection, "_library", lambda: None)
            expected = certificate(last, bound)
        assert torch.equal(found.exact, expected.exact)
        assert torch.equal(found.gap, expected.gap) and found.gap.dtype == torch.float32
        above = (bound.double() > last.double()) & last.isfinite()
        assert bool((last.double() + found.gap.double() >= bound.double())[above].all())
