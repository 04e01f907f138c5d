"""The parts that searchers are made of: rows of ids, masks, the best k, merging."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.search.topk import Best, CorpusRows, best, check_defined, ids_of, mask_rows, merge

INF = float("inf")
NAN = float("nan")

pytestmark = pytest.mark.usefixtures("both_versions")


@pytest.mark.parametrize("ids", [[1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 3, 9], [10**12, 5, 7, 6]])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_rows_of_ids_are_found_and_others_are_not(ids, dtype):
    rows = CorpusRows(torch.tensor(ids))
    asked = [ids[2], 0, ids[0], ids[3], 8, -1]
    if dtype == torch.int32:
        asked = [min(i, 2**31 - 1) for i in asked]
    expected = [ids.index(i) if i in ids else -1 for i in asked]
    assert rows.of(torch.tensor([asked, asked], dtype=dtype)).tolist() == [expected, expected]


def test_ids_above_the_precision_of_float32_are_kept_apart():
    base = 2**24
    assert CorpusRows(torch.tensor([base + 1, base])).of(torch.tensor([base, base + 1])).tolist() == [1, 0]


def test_a_mask_touches_only_its_rows_and_its_block():
    scores = torch.arange(6.0).reshape(2, 3)
    mask_rows(scores, torch.tensor([[-1, 10, 10, 13], [12, 9, 11, -1]]), first_row=10)
    assert scores.tolist() == [[-INF, 1.0, 2.0], [3.0, -INF, -INF]]


def test_a_mask_hides_no_nan():
    scores = torch.tensor([[NAN, 1.0]])
    mask_rows(scores, torch.tensor([[0, 1]]))
    assert scores[0, 0].isnan()
    assert scores[0, 1] == -INF


@settings(max_examples=60, deadline=None)
@given(data=st.data(), width=st.integers(1, 70), k=st.integers(1, 80), first_row=st.integers(0, 5))
def test_best_is_a_stable_sort(data, width, k, first_row):
    values = st.sampled_from([-INF, -1.0, 0.0, 1.0, 1.5, INF])
    scores = torch.tensor(
        data.draw(st.lists(st.lists(values, min_size=width, max_size=width), min_size=1, max_size=4))
    )
    found = best(scores, k, first_row)
    order = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(found.scores, order.values[:, :k])
    reached = found.scores > -INF  # which of the impossible items fill the end is nobody's concern
    assert torch.equal(found.rows[reached], (order.indices[:, :k] + first_row)[reached])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), left=st.integers(1, 20), right=st.integers(1, 20), k=st.integers(1, 45))
def test_merging_two_blocks_equals_ranking_both_together(data, left, right, k):
    values = st.integers(-2, 2)
    width = left + right
    scores = torch.tensor(data.draw(st.lists(values, min_size=width, max_size=width)), dtype=torch.float32)[
        None
    ]
    merged = merge(best(scores[:, :left], k), best(scores[:, left:], k, left), k)
    whole = best(scores, k)
    assert torch.equal(merged.scores, whole.scores)
    assert torch.equal(merged.rows, whole.rows)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_nan_comes_first_so_that_it_is_found(k):
    scores = torch.tensor([[1.0, 1.0, NAN, 1.0, 1.0], [2.0, 1.0, 0.0, 1.0, 1.0]])
    found = best(scores, k)
    assert found.rows[0, 0] == 2
    with pytest.raises(ValueError, match="query 40 and item 7 is NaN"):
        check_defined(found, torch.tensor([9, 8, 7, 6, 5]), first_query=40)
    check_defined(Best(found.scores[1:], found.rows[1:]), torch.tensor([9, 8, 7, 6, 5]))


def test_ids_of_places_that_nothing_fills_are_minus_one():
    found = Best(torch.tensor([[INF, 0.0, -INF]]), torch.tensor([[1, 0, 2]]))
    assert ids_of(found, torch.tensor([30, 20, 10])).tolist() == [[20, 30, -1]]
