import doctest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels import products
from workbench.kernels.products import gathered_product


def test_examples_hold():
    assert doctest.testmod(products).failed == 0


@given(t=st.integers(0, 9), n=st.integers(1, 7), c=st.integers(1, 5), tile=st.sampled_from([1, 60, 10_000]))
@settings(deadline=None, max_examples=40)
def test_values_and_gradients_are_those_of_the_whole_product(t, n, c, tile):
    g = torch.Generator().manual_seed(t + 10 * n)
    q = torch.randn(t, 3, generator=g, dtype=torch.float64).requires_grad_()
    x = torch.randn(n, 3, generator=g, dtype=torch.float64).requires_grad_()
    rows = torch.randint(0, n, (t, c), generator=g)
    weights = torch.randn(t, c, generator=g, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "TILE_BYTES", {"cpu": tile})
        found = gathered_product(q, x, rows)
        ours = torch.autograd.grad((found * weights).sum(), (q, x))
    plain = (q @ x.T).gather(1, rows)
    theirs = torch.autograd.grad((plain * weights).sum(), (q, x))
    torch.testing.assert_close((found, *ours), (plain, *theirs))


@pytest.mark.parametrize("frozen", ["queries", "items"])
def test_what_needs_no_gradient_gets_none(frozen):
    q, x = torch.ones(2, 3), torch.ones(4, 3)
    (x if frozen == "queries" else q).requires_grad_()
    gathered_product(q, x, torch.tensor([[0, 1], [3, 3]])).sum().backward()
    assert (q.grad is None, x.grad is None) == (frozen == "queries", frozen == "items")


def test_autocast_computes_in_its_precision():
    q, x = torch.rand(3, 4).requires_grad_(), torch.rand(5, 4).requires_grad_()
    rows = torch.tensor([[0, 4], [1, 1], [2, 3]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gathered_product(q, x, rows)
        plain = (q @ x.T).gather(1, rows)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, plain)
    found.float().sum().backward()
    assert q.grad is not None and q.grad.dtype == torch.float32
