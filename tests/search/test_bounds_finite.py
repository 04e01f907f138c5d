"""What is not finite is found in any tensor of a state, in every precision."""

import pytest
import torch

from workbench.contracts import ItemState
from workbench.search.bounds import finite, not_finite
from workbench.similarities import DotConfig, build


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_rows_with_a_value_that_is_not_finite_are_found(dtype, wrong):
    items: ItemState = (
        build(DotConfig(normalize=False), 4).items(torch.randn(6, 4), torch.arange(1, 7)).to(dtype=dtype)
    )
    assert finite(items) and not not_finite(items).any()
    tensor = next(v for v in items.tensors().values() if v is not None and v.is_floating_point())
    tensor[4].view(-1)[2] = wrong
    tensor[1].view(-1)[0] = wrong
    assert not finite(items) and not_finite(items).nonzero().flatten().tolist() == [1, 4]
    assert not_finite(items[:0]).shape == (0,) and finite(items[:0])
