"""The structure model: its distribution, its beam against all paths, prefixes."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels import path_walk
from workbench.similarities.deep_retrieval import structure
from workbench.similarities.deep_retrieval.structure import (
    Prefixes,
    StructureModel,
    decode_paths,
    encode_paths,
)

DEPTH, WIDTH, DIM = 3, 4, 5


def model(depth: int = DEPTH, width: int = WIDTH) -> StructureModel:
    torch.manual_seed(0)
    return StructureModel(DIM, depth, width, node_dim=3, hidden=6)


def users(count: int, seed: int = 1) -> torch.Tensor:
    return 3 * torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def literal(m: StructureModel, x: torch.Tensor, path: list[int]) -> float:
    """The formula: each layer's MLP on the concatenation of the user and the chosen nodes' embeddings."""
    total = 0.0
    for level in range(m.depth):
        inputs = torch.cat([x, *(m.nodes[d][path[d]] for d in range(level))])
        matrix = torch.cat([m.user_parts[level].weight, *(p.weight for p in m.node_parts[level])], dim=1)
        hidden = (matrix @ inputs + m.user_parts[level].bias).relu()
        total += float(m.outputs[level](hidden).log_softmax(-1)[path[level]].detach())
    return total


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_probabilities_are_the_formula_and_sum_to_one(depth):
    m = model(depth)
    x = users(2)
    paths = list(itertools.product(range(WIDTH), repeat=depth))
    codes = encode_paths(torch.tensor(paths), WIDTH)
    assert codes.tolist() == list(range(WIDTH**depth))
    found = m.log_probs(x, codes.expand(2, -1))
    expected = torch.tensor([[literal(m, row, list(path)) for path in paths] for row in x])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(2))


@given(depth=st.integers(1, 4), width=st.integers(2, 9), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_codes_and_nodes_say_the_same(depth, width, seed):
    codes = torch.randint(width**depth, (7,), generator=torch.Generator().manual_seed(seed))
    nodes = decode_paths(codes, depth, width)
    assert nodes.shape == (7, depth) and bool(((nodes >= 0) & (nodes < width)).all())
    assert torch.equal(encode_paths(nodes, width), codes)


@pytest.mark.parametrize("tile", [1, 10_000])
def test_a_beam_as_wide_as_all_paths_is_sorting_them(monkeypatch, tile):
    monkeypatch.setattr(structure, "TILE_UNITS", tile)
    m, x = model(), users(5)
    beam = m.beam(x, WIDTH**DEPTH)
    scores = m.log_probs(x, torch.arange(WIDTH**DEPTH).expand(5, -1))
    expected = scores.sort(dim=1, descending=True)
    torch.testing.assert_close(beam.log_probs, expected.values)
    assert torch.equal(beam.paths, expected.indices)


@pytest.mark.parametrize("width", [1, 3, 8])
def test_a_beam_is_sorted_distinct_and_has_the_probabilities_of_its_paths(width):
    m, x = model(), users(9)
    beam = m.beam(x, width)
    assert beam.paths.shape == (9, width)
    torch.testing.assert_close(beam.log_probs, m.log_probs(x, beam.paths))
    assert bool((beam.log_probs[:, 1:] <= beam.log_probs[:, :-1]).all())
    assert all(len(set(row)) == width for row in beam.paths.tolist())


def test_a_beam_keeps_the_best_beginnings_of_each_layer():
    m, x = model(), users(1)
    beginnings: list[tuple[float, list[int]]] = [(0.0, [])]
    for level in range(DEPTH):
        # The probability of a beginning is the sum over all that may follow.
        all_paths = m.log_probs(x, torch.arange(WIDTH**DEPTH)[None])[0].detach().exp()
        longer = []
        for _, nodes in beginnings:
            for node in range(WIDTH):
                begun = [*nodes, node]
                first = int(encode_paths(torch.tensor(begun), WIDTH)) * WIDTH ** (DEPTH - level - 1)
                longer.append((float(all_paths[first : first + WIDTH ** (DEPTH - level - 1)].sum()), begun))
        beginnings = sorted(longer, reverse=True)[:2]
    assert m.beam(x, 2).paths.tolist() == [[int(encode_paths(torch.tensor(n), WIDTH)) for _, n in beginnings]]


@pytest.mark.parametrize("dense", [0, 10_000])
def test_a_beam_within_a_set_of_paths_finds_those_alone(monkeypatch, dense):
    monkeypatch.setattr(structure, "DENSE_PREFIXES", dense)
    m, x = model(), users(4)
    held = torch.tensor([3, 17, 40, 41, 63])
    within = Prefixes(held, DEPTH, WIDTH)
    beam = m.beam(x, 8, within)
    assert [sorted(row[:5]) for row in beam.paths.tolist()] == [held.tolist()] * 4
    assert bool((beam.paths[:, 5:] == -1).all()) and bool((beam.log_probs[:, 5:] == -math.inf).all())
    best = m.log_probs(x, held.expand(4, -1)).max(1).values
    torch.testing.assert_close(m.beam(x, 8, within).log_probs[:, 0], best)
    codes = torch.arange(WIDTH**2)
    assert within.hold(2, codes).tolist() == [c in {0, 4, 10, 15} for c in range(WIDTH**2)]


def test_there_may_be_no_user_and_no_empty_beam():
    assert model().beam(users(0), 4).paths.shape == (0, 4)
    with pytest.raises(ValueError, match="at least 1 path, not 0"):
        model().beam(users(1), 0)


def test_the_gradient_reaches_users_and_every_layer():
    m, x = model(), users(3).requires_grad_()
    m.log_probs(x, torch.tensor([[1, 5], [2, 7], [0, 63]])).logsumexp(1).sum().backward()
    assert x.grad is not None and bool((x.grad != 0).any())
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in m.parameters())


@given(
    depth=st.integers(1, 4), width=st.integers(2, 20), beam=st.integers(1, 30), held=st.integers(0, 40),
    dense=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_the_native_beam_finds_the_paths_of_the_torch_beam(depth, width, beam, held, dense, seed):
    if not path_walk.serves():
        pytest.skip("no compiler")
    m, x = model(depth, width), users(5, seed)
    draws = torch.Generator().manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structure, "DENSE_PREFIXES", 2**24 if dense else 0)
        some = torch.randint(width**depth, (held,), generator=draws)
        within = Prefixes(some, depth, width) if held else None
        native = m.beam(x, beam, within)
        patch.setattr(path_walk, "serves", lambda *_: False)
        plain = m.beam(x, beam, within)
    assert torch.equal(native.paths, plain.paths)
    torch.testing.assert_close(native.log_probs, plain.log_probs, atol=1e-5, rtol=1e-5)


def test_nothing_undefined_is_hidden_by_the_native_beam():
    m, x = model(), users(2)
    x[1, 0] = float("nan")
    assert m.beam(x, 3).log_probs[1].isnan().any() and not m.beam(x, 3).log_probs[0].isnan().any()
