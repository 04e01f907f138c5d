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
