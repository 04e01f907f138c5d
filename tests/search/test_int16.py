"""Brute force in int16: the lists of float32 to the bit, at any magnitude, and bounds that hold for every pair."""

import os
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from live_bytes import LiveBytes
from torch import Tensor

from workbench.kernels import mixture_int16
from workbench.search import BruteForce, Int16BruteForce, int16
from workbench.similarities import DotConfig, MaxSimConfig, MoLConfig, build
from workbench.similarities.mol import MixtureOfLogits, MoLItems, MoLQueries
from workbench.similarities.mol_int16 import Int16Scores, serves

needs_vnni = pytest.mark.skipif(mixture_int16.tile() == 0, reason="this processor has no VNNI of 512 bits")
SMALL = MoLConfig(3, 2, 8, query_hidden=8, gate_query=8, gate_item=8, gate_pair=16)


def states(
    config: MoLConfig = SMALL,
    b: int = 3,
    n: int = 200,
    seed: int = 0,
    weights: float = 1.0,
    gates: float = 1.0,
) -> tuple[MixtureOfLogits, MoLQueries, MoLItems]:
    """Random states; the gate's weights times `weights`, its query part times `gates`."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        mol = build(config, 8).eval()
        assert isinstance(mol, MixtureOfLogits)
        if mol.gate_pair is not None:
            for parameter in mol.gate_pair.parameters():
                parameter.copy_((parameter + 0.1 * torch.randn_like(parameter)) * weights)
        q, x = mol.queries(torch.randn(b, 8)), mol.items(torch.randn(n, 8), torch.arange(1, n + 1))
    return mol, replace(q, gate=None if q.gate is None else q.gate * gates), x


def check(mol: MixtureOfLogits, q: MoLQueries, x: MoLItems, k: int, **masks: Tensor | None) -> Tensor:
    """Both searchers find the same to the bit, or both refuse; returns what int16 scored again."""
    try:
        expected = BruteForce(mol, x).search(q, k, **masks)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)[:30]):
            Int16BruteForce(mol, x, least_operations=0).search(q, k, **masks)
        return torch.zeros(len(q))
    found = Int16BruteForce(mol, x, least_operations=0).search(q, k, **masks)
    assert torch.equal(found.scores, expected.scores) and torch.equal(found.ids, expected.ids)
    assert bool(found.exact.all()) and found.gap.tolist() == [0.0] * len(q)
    return found.num_scored


@needs_vnni
@settings(max_examples=60, deadline=None)
@given(
    groups=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 19)),
    hidden=st.integers(1, 21),
    parts=st.tuples(st.booleans(), st.booleans()),
    n=st.integers(1, 150),
    k=st.integers(1, 9),
    weights=st.sampled_from([0.0, 1e-20, 0.1, 1.0, 8.0, 1e3, 1e20]),
    gates=st.sampled_from([1e-20, 1.0, 30.0, 1e6]),
    of_query=st.floats(-38, 38),
    of_item=st.floats(-38, 38),
    balanced=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_lists_are_those_of_brute_force_at_any_magnitude(
    groups, hidden, parts, n, k, weights, gates, of_query, of_item, balanced, seed
):
    config = MoLConfig(
        *groups, query_hidden=8, gate_pair=hidden, gate_query=8 if parts[0] else None, gate_item=8 if parts[1] else None
    )  # fmt: skip
    mol, q, x = states(config, n=n, seed=seed, weights=weights, gates=gates)
    chance = torch.Generator().manual_seed(seed)
    power = -of_query if balanced else of_item
    unequal = 10 ** torch.linspace(0, 2, n)[torch.randperm(n, generator=chance)]
    scale = torch.ones(n) if seed % 2 else unequal
    x = replace(x, components=x.components * 10**power * scale[:, None, None])
    q = replace(q, components=q.components * 10**of_query)
    again = torch.randint(n, (n // 3,), generator=chance)  # ties, anywhere
    x = replace(x, components=x.components.index_copy(0, again, x.components[again.flip(0)]))
    if x.gate is not None:
        x = replace(x, gate=x.gate.index_copy(0, again, x.gate[again.flip(0)]))
    masked = seed % 3 == 0
    exclude = torch.randint(0, n + 3, (len(q), 4), generator=chance) if masked else None
    allowed = torch.rand(n, generator=chance) < 0.7 if masked else None
    check(mol, q, x, min(k, n), exclude=exclude, allowed=allowed)


@needs_vnni
@settings(max_examples=60, deadline=None)
@given(
    config=st.sampled_from(
        [SMALL, MoLConfig(8, 4, 64), MoLConfig(1, 1, 1, gate_pair=1), MoLConfig(5, 3, 7, gate_pair=9)]
    ),
    normalize=st.booleans(),
    weights=st.sampled_from([0.1, 1.0, 3.0]),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 5.0]),
    seed=st.integers(0, 2**20),
)
def test_bounds_hold_for_every_pair(config, normalize, weights, scale, seed):
    mol, q, x = states(replace(config, normalize=normalize), b=4, n=101, seed=seed, weights=weights)
    q = replace(q, components=q.components * scale)
    kernel = Int16Scores(mol, x)
    bounded = kernel.queries(q)
    lower, upper = kernel.bounds(bounded.queries, 0, len(x))
    with torch.no_grad():
        scores = mol.score(q, x)
    assert bounded.known or max(weights, scale) > 1
    if bounded.known:
        assert bool((lower <= scores).all()) and bool((scores <= upper).all())
        assert kernel.nbytes() >= x.components.numel() * 2


@needs_vnni
def test_few_items_are_scored_again():
    mol, q, x = states(MoLConfig(8, 4, 64), b=8, n=2_000)
    assert check(mol, q, x, 50).max() < 400
    kernel = Int16Scores(mol, x)
    lower, upper = kernel.bounds(kernel.queries(q).queries, 0, len(x))
    with torch.no_grad():
        off = (mol.score(q, x) - (lower + upper) / 2).abs()
    assert off.max() < 0.02 < (upper - lower).max() < 4  # of scores within ±20


@needs_vnni
def test_blocks_queries_and_tiles_do_not_change_the_lists():
    mol, q, x = states(b=7, n=9_001)
    expected = BruteForce(mol, x).search(q, 20)
    for budget in (1, 300_000, 2**28):
        found = Int16BruteForce(mol, x, memory_budget=budget).search(q, 20)
        assert torch.equal(found.ids, expected.ids) and torch.equal(found.scores, expected.scores)


@needs_vnni
def test_a_search_holds_the_bounds_of_one_block(monkeypatch):
    mol, q, x = states(b=8, n=20_000)
    searcher = Int16BruteForce(mol, x, least_operations=0)
    whole = searcher.search(q, 10)
    monkeypatch.setattr(int16, "BLOCK_BYTES", int16.PAIR_BYTES * len(q) * int16.SMALLEST_BLOCK)
    with LiveBytes() as live:
        found = searcher.search(q, 10)
    pairs = len(q) * int16.SMALLEST_BLOCK
    assert 8 * pairs <= live.peak <= 12 * pairs  # two bounds, and what is left of a block
    assert torch.equal(found.ids, whole.ids) and torch.equal(found.scores, whole.scores)


@needs_vnni
def test_a_corpus_that_changes():
    mol, q, x = states(n=120)
    searcher = Int16BruteForce(mol, x[:100], least_operations=0)
    searcher.upsert(x[90:])
    searcher.remove(x.ids[3:9])
    expected = BruteForce(mol, x[:100].upsert(x[90:]).without(x.ids[3:9])).search(q, 9)
    assert torch.equal(searcher.search(q, 9).ids, expected.ids)


@pytest.mark.parametrize("where", ["query", "item", "query gate", "item gate"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_values_that_are_not_finite_are_refused_as_by_brute_force(where, value):
    mol, q, x = states()
    q = replace(q, components=q.components.clone(), gate=None if q.gate is None else q.gate.clone())
    x = replace(x, components=x.components.clone(), gate=None if x.gate is None else x.gate.clone())
    assert q.gate is not None and x.gate is not None
    part = {"query": q.components, "item": x.components, "query gate": q.gate, "item gate": x.gate}[where]
    part[1, 0] = value
    check(mol, q, x, 5)


def test_it_is_switched_off_by_the_environment(monkeypatch):
    mol, q, x = states()
    monkeypatch.setenv("WORKBENCH_INT16", "0")
    assert mixture_int16.tile() == 0 and not serves(mol, x)
    assert check(mol, q, x, 5).tolist() == [len(x)] * len(q)
    monkeypatch.delenv("WORKBENCH_INT16")
    assert serves(mol, x) == (mixture_int16.tile() > 0) and "WORKBENCH_INT16" not in os.environ


@pytest.mark.parametrize(
    "config",
    [replace(SMALL, gate_pair=None), replace(SMALL, gate_pair=0), replace(SMALL, gate_combination="sum")],
)
def test_other_gates_are_left_to_brute_force(config):
    mol, q, x = states(config)
    assert not serves(mol, x)
    assert check(mol, q, x, 5).tolist() == [len(x)] * len(q)


def test_other_dtypes_and_similarities_are_left_to_brute_force():
    mol, q, x = states()
    half = x.to(dtype=torch.bfloat16)
    assert not serves(mol, half)
    check(mol, q, half, 5)
    for config in (DotConfig(), MaxSimConfig(2, 2, 4)):
        other = build(config, 8).eval()
        with torch.no_grad():
            items = other.items(torch.randn(30, 8), torch.arange(1, 31))
            found = Int16BruteForce(other, items, least_operations=0).search(
                other.queries(torch.randn(2, 8)), 4
            )
        assert found.num_scored.tolist() == [30, 30]


def test_few_pairs_are_left_to_brute_force():
    mol, q, x = states()
    assert Int16BruteForce(mol, x).search(q, 5).num_scored.tolist() == [len(x)] * len(q)


@needs_vnni
def test_the_logistic_functions_are_as_precise_as_the_proof_says():
    """One component, one hidden unit, gates of a single pair: what is left of a score is the rounding."""
    z = torch.linspace(-80, 80, 4001, dtype=torch.float64)
    power = torch.exp2(-z * 1.4426950408889634)
    cubic = [5.517166906e-2, 2.426111222e-1, 6.932609855e-1, 9.999280735e-1]
    y = -z * 1.4426950408889634
    r = y - y.round()
    value = torch.zeros_like(r)
    for c in cubic:
        value = value * r + c
    rough = 1 / (1 + value * torch.exp2(y.round()))
    assert ((rough - 1 / (1 + power)) * (1 + power)).abs().max() + 2**-14 < mixture_int16.ROUGH
