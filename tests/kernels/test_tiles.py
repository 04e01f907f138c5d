from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.kernels.dropout import dropout
from workbench.kernels.tiles import gathered_tiles

B, C, N = 7, 5, 11


class Bilinear:
    """Σ_p tanh(⟨q, x_p⟩ + g) w_p + h: two query tensors, two tables, two parameters, and dropout if wanted."""

    def __init__(self, probability: float = 0.0) -> None:
        self.probability = probability
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

        self.queries = [draw(B, 4), draw(B)]
        self.tables = [draw(N, 3, 4), draw(N, 1)]
        self.parameters = [draw(3), draw()]
        self.rows = torch.randint(N, (B, C), generator=generator)
        self.rows[0] = 2  # the same row again and again
        self.calls = 0

    def __call__(self, queries: Sequence[Tensor], tables: Sequence[Tensor]) -> Tensor:
        self.calls += 1
        (vectors, shift), (components, offset) = queries, tables
        mixed = torch.tanh(torch.einsum("td,tcpd->tcp", vectors, components) + shift[:, None, None])
        mixed = dropout(mixed, self.probability, training=True)
        return mixed @ self.parameters[0] + offset[..., 0] * self.parameters[1]

    @property
    def leaves(self) -> list[Tensor]:
        return [*self.queries, *self.tables, *self.parameters]

    def tiled(self, tile: int) -> Tensor:
        return gathered_tiles(self, self.queries, self.tables, self.rows, self.parameters, tile)

    def plain(self) -> Tensor:
        return self(self.queries, [table[self.rows] for table in self.tables])


@pytest.mark.parametrize("tile", [1, 2, 3, 7, 100])
def test_the_tile_changes_neither_values_nor_gradients(tile):
    pairs = Bilinear()
    weights = torch.linspace(-1, 1, B * C, dtype=torch.float64).view(B, C)
    expected = pairs.plain()
    wanted = torch.autograd.grad((expected * weights).sum(), pairs.leaves)
    actual = pairs.tiled(tile)
    torch.testing.assert_close(actual, expected)
    found = torch.autograd.grad((actual * weights).sum(), pairs.leaves)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want)
    with torch.no_grad():
        torch.testing.assert_close(pairs.tiled(tile), expected)


def test_gradients_are_those_of_finite_differences():
    pairs = Bilinear()

    def scores(*tensors: Tensor) -> Tensor:
        pairs.queries, pairs.tables = list(tensors[:2]), list(tensors[2:4])
        pairs.parameters = list(tensors[4:])
        return pairs.tiled(3)

    assert torch.autograd.gradcheck(scores, pairs.leaves)


@pytest.mark.parametrize("tile", [2, 7])
def test_the_gradient_sees_the_dropout_of_the_forward_pass(tile):
    pairs = Bilinear(probability=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(9)
        actual = pairs.tiled(tile)
        after = torch.get_rng_state()
        torch.rand(1000)  # what is drawn between the passes has no influence
        found = torch.autograd.grad(actual.sum(), pairs.leaves)
        drawn = torch.get_rng_state()
        torch.manual_seed(9)
        starts = range(0, B, tile)
        parts = [
            pairs(
                [q[s : s + tile] for q in pairs.queries], [t[pairs.rows[s : s + tile]] for t in pairs.tables]
            )
            for s in starts
        ]
        assert torch.equal(torch.get_rng_state(), after)
        torch.rand(1000)
        assert torch.equal(torch.get_rng_state(), drawn)  # the gradient leaves the generator where it was
    expected = torch.cat(parts)
    assert (expected == 0).sum() < expected.numel()
    torch.testing.assert_close(actual, expected)
    wanted = torch.autograd.grad(expected.sum(), pairs.leaves)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want)


@given(frozen=st.lists(st.booleans(), min_size=6, max_size=6))
@settings(max_examples=20, deadline=None)
def test_what_is_frozen_gets_no_gradient_and_the_rest_does(frozen):
    pairs, reference = Bilinear(), Bilinear()
    for leaf, freeze in zip(pairs.leaves, frozen, strict=True):
        leaf.requires_grad_(not freeze)
    actual = pairs.tiled(3)
    assert actual.requires_grad == (not all(frozen))
    if all(frozen):
        return
    actual.sum().backward()
    wanted = torch.autograd.grad(reference.plain().sum(), reference.leaves)
    for leaf, freeze, want in zip(pairs.leaves, frozen, wanted, strict=True):
        if freeze:
            assert leaf.grad is None
        else:
            torch.testing.assert_close(leaf.grad, want)


def test_a_part_that_is_not_used_has_a_zero_gradient():
    query = torch.ones(2, 3, requires_grad=True)
    unused = torch.ones(2, 1, requires_grad=True)
    table, rows = torch.ones(4, 3), torch.tensor([[0, 1], [2, 3]])

    def function(queries: Sequence[Tensor], tables: Sequence[Tensor]) -> Tensor:
        return torch.einsum("td,tcd->tc", queries[0], tables[0])

    gathered_tiles(function, [query, unused], [table], rows, [], 1).sum().backward()
    assert query.grad is not None and unused.grad is not None
    assert torch.equal(query.grad, torch.full((2, 3), 2.0))
    assert torch.equal(unused.grad, torch.zeros(2, 1))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("shape", [(0, 5), (7, 0)])
def test_no_queries_or_no_candidates(shape, grad):
    pairs = Bilinear()
    pairs.rows = pairs.rows[: shape[0], : shape[1]]
    pairs.queries = [q[: shape[0]] for q in pairs.queries]
    with torch.set_grad_enabled(grad):
        scores = pairs.tiled(3)
    assert scores.shape == shape and scores.dtype == torch.float64
    if grad:
        gradients = torch.autograd.grad(scores.sum(), pairs.tables)
        assert all((gradient == 0).all() for gradient in gradients)


def test_one_call_a_tile():
    pairs = Bilinear()
    pairs.tiled(3)
    assert pairs.calls == 3


def test_the_gradient_runs_in_the_precision_of_the_forward_pass():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 4, generator=generator, requires_grad=True)
    queries, table = torch.randn(2, 4, generator=generator), torch.randn(6, 4, generator=generator)
    rows = torch.tensor([[0, 5, 3], [1, 1, 2]])
    seen = []

    def function(of_queries: Sequence[Tensor], of_tables: Sequence[Tensor]) -> Tensor:
        mixed = of_queries[0] @ weight
        seen.append(mixed.dtype)
        return torch.einsum("td,tcd->tc", mixed.float(), of_tables[0])

    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = gathered_tiles(function, [queries], [table], rows, [weight], 1)
        again = (queries @ weight).sum()  # a cached cast of the weight must not lose this gradient
    assert seen == [torch.bfloat16] * 2
    again.backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0
    scores.sum().backward()
    assert seen == [torch.bfloat16] * 4
