"""The tiled hidden layer against the plain formula, forwards and backwards, whatever the tiles."""

import pytest
import torch
from torch import nn

from workbench.kernels import pairwise_mlp as hidden
from workbench.kernels.pairwise_mlp import hidden_layer


def drawn(t: int, k: int, c: int, h: int, p: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(t, k, h), (t, c, h), (t, k, c, p), (h, p), (1, h), (1,)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def plain(rows, columns, pairs, of_pairs, output, bias):
    sums = rows[:, :, None] + columns[:, None] + pairs @ of_pairs.T
    return nn.functional.linear(sums.relu(), output, bias).squeeze(-1)


@pytest.mark.parametrize("tile", [1, 50, 10_000])
@pytest.mark.parametrize(
    "sizes", [(1, 7, 5, 3, 2), (4, 2, 3, 5, 1), (3, 1, 1, 2, 4), (0, 2, 3, 4, 1), (1, 2, 0, 3, 1)]
)
def test_values_and_gradients_are_those_of_the_formula(monkeypatch, tile, sizes):
    monkeypatch.setattr(hidden, "TILE", tile)
    ours, theirs = drawn(*sizes), drawn(*sizes)
    found, expected = hidden_layer(*ours), plain(*theirs)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    with torch.no_grad():
        torch.testing.assert_close(hidden_layer(*ours), expected)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "sizes", [(1, 9, 37, 5, 2), (4, 2, 16, 32, 1), (5, 1, 1, 2, 4), (0, 2, 3, 4, 1), (1, 2, 0, 3, 1)]
)
def test_the_native_version_agrees_in_single_precision(monkeypatch, sizes, threads):
    if hidden._library() is None:
        pytest.skip("no compiler")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    exact = drawn(*sizes)
    ours = [t.detach().float().requires_grad_() for t in exact]
    found, expected = hidden_layer(*ours), plain(*exact)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found * weights.float()).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, atol=1e-3, rtol=1e-3)
    with torch.no_grad():
        assert torch.equal(hidden_layer(*ours), found)


def test_a_pairs_value_does_not_depend_on_the_others():
    whole = [t.detach().float() for t in drawn(1, 6, 20, 7, 2)]
    rows, columns, pairs, *weights = whole
    part = hidden_layer(rows[:, 2:4], columns[:, 5:9], pairs[:, 2:4, 5:9], *weights)
    if hidden._library() is not None:
        assert torch.equal(part, hidden_layer(*whole)[:, 2:4, 5:9])


def test_nan_comes_through():
    rows, columns, *rest = (t.detach().float() for t in drawn(1, 2, 3, 4, 1))
    rows[0, 1, 0] = float("nan")
    found = hidden_layer(rows, columns, *rest)
    assert found[0, 1].isnan().all() and not found[0, 0].isnan().any()
