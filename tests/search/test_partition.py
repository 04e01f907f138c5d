"""The largest of long rows: those of a full sort, in every dtype, whatever the groups."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.search.partition import largest

NAN, INF = float("nan"), float("inf")

pytestmark = pytest.mark.usefixtures("both_versions")


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(0, 4),
    width=st.one_of(st.integers(1, 40), st.integers(1000, 3000)),
    count=st.integers(1, 60),
    values=st.integers(1, 10**6),
    seed=st.integers(0, 10**6),
)
def test_the_largest_are_those_of_a_sort(rows, width, count, values, seed):
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(values, (rows, width), generator=g).float()  # ties where there are few values
    found, columns = largest(scores, count)
    assert torch.equal(found, scores.sort(dim=1, descending=True).values[:, :count])
    assert torch.equal(scores.gather(1, columns), found)
    assert all(len(set(row)) == len(row) for row in columns.tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 3, 5000])
def test_nan_is_first_and_minus_infinity_last(dtype, width):
    scores = torch.zeros(2, width, dtype=dtype)
    scores[0, width // 2] = NAN
    scores[1] = -INF
    found, columns = largest(scores, min(2, width))
    assert found.dtype == dtype
    assert found[0, 0].isnan() and int(columns[0, 0]) == width // 2
    assert (found[1] == -INF).all()
