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
