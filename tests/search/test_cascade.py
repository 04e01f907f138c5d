"""Candidates cut by a cheaper similarity before they are scored, and the linear gate that makes a mixture cheaper."""

from dataclasses import replace

import pytest
import torch

from workbench.kernels import mixture_native
from workbench.search import Approximate, BruteForce
from workbench.search.ranking import Pairs, marked, narrowed, score_pairs
from workbench.search.registry import CascadeSettings, build
from workbench.similarities import DotConfig, MoLConfig
from workbench.similarities import build as build_similarity
from workbench.similarities.mol import MixtureOfLogits
from workbench.similarities.mol_linear import with_linear_gate


@pytest.fixture(scope="module")
def world():
    torch.manual_seed(0)
    mol = MixtureOfLogits(MoLConfig(2, 2, 8, query_hidden=16, gate_pair=16), 12).eval()
    with torch.no_grad():
        items = mol.items(torch.randn(600, 12), torch.arange(1, 601))
        queries = mol.queries(torch.randn(40, 12), torch.arange(40))
    return mol, items, queries[:20], queries[20:]


def test_a_linear_gate_orders_nearly_as_the_trained_one(world):
    mol, items, queries, sample = world
    best = mol.score(queries, items).topk(20, dim=1).indices
    shares = []
    for linear in (with_linear_gate(mol, items, sample), with_linear_gate(mol, items)):
        assert linear.config == replace(mol.config, gate_pair=0)
        found = linear.score(queries, items).topk(40, dim=1).indices
        shares.append((found[:, :, None] == best[:, None]).any(1).float().mean().item())
    assert min(shares) > 0.9
    assert mol.config.gate_pair == 16 and len(mol.gate_pair) == 4


def test_a_linear_gate_is_found_again(world):
    mol, items, _, sample = world
    straight = with_linear_gate(mol, items, sample)
    bent = with_linear_gate(mol, items, sample)
    assert torch.equal(straight.gate_pair[-1].weight, bent.gate_pair[-1].weight)
    assert with_linear_gate(straight, items) is straight


def test_a_cascade_scores_what_it_keeps(world):
    mol, items, queries, sample = world
    truth = BruteForce(mol, items).search(queries, 10)
    cheaper = with_linear_gate(mol, items, sample)
    found = Approximate.of(mol, items, n2=300, cheaper=cheaper, keep=40).search(queries, 10)
    whole = Approximate.of(mol, items, n2=300).search(queries, 10)
    assert (found.num_scored == 40).all() and not found.exact.any()
    assert (found.ids[:, :, None] == whole.ids[:, None]).any(2).float().mean() > 0.9
    everything = Approximate.of(mol, items, n2=600, cheaper=cheaper, keep=600).search(queries, 10)
    assert everything.exact.all() and torch.equal(everything.ids, truth.ids)
    certain = Approximate.of(mol, items, n1=5, cheaper=cheaper, keep=5, until_certified=True).search(
        queries, 10
    )
    assert certain.exact.all() and torch.equal(certain.ids, truth.ids)


def test_only_queries_with_too_many_pairs_are_cut(world):
    mol, items, queries, _ = world
    rows = torch.tensor([0, 5, 9, 30, 7, 8])
    pairs, dropped = narrowed(mol, queries[:2], items, Pairs(torch.tensor([0, 0, 0, 0, 1, 1]), rows), 2)
    scores = mol.score(queries[:1], items)[0, rows[:4]]
    assert dropped.tolist() == [True, False] and pairs.queries.tolist() == [0, 0, 1, 1]
    assert pairs.rows.tolist() == [*rows[scores.topk(2).indices].sort().values.tolist(), 7, 8]


@torch.no_grad()
@pytest.mark.parametrize("share", [0.3, 0.8, 0.95])  # beyond `DENSE_SHARE` all are scored
def test_pairs_score_the_same_whatever_their_share_of_all(world, share):
    mol, items, queries, _ = world
    mask = torch.rand(len(queries), len(items), generator=torch.Generator().manual_seed(0)) < share
    mask[0, 5:] = False  # one query with few pairs
    scores = score_pairs(mol, queries, items, marked(mask))
    if mixture_native.available():
        assert torch.equal(scores, mol.score(queries, items)[mask])
    else:
        torch.testing.assert_close(scores, mol.score(queries, items)[mask])


def test_every_similarity_of_components_has_a_cascade(world):
    torch.manual_seed(0)
    dot = build_similarity(DotConfig(), 12).eval()
    items, queries = dot.items(torch.randn(90, 12), torch.arange(1, 91)), dot.queries(torch.randn(5, 12))
    truth = BruteForce(dot, items).search(queries, 7)
    assert torch.equal(build(CascadeSettings(n2=50, keep=20), dot, items).search(queries, 7).ids, truth.ids)
    mol, items, queries, _ = world
    found = build(CascadeSettings(n2=300, keep=50), mol, items).search(queries, 10)
    assert (found.num_scored == 50).all()
    with pytest.raises(ValueError, match="keep"):
        Approximate.of(mol, items, n2=300, cheaper=mol, keep=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_states_of_any_precision_and_magnitude_have_a_linear_gate(world, dtype, scale):
    mol, items, queries, _ = world
    items = replace(items, components=items.components * scale).to(dtype=dtype)
    queries = replace(queries, components=queries.components / scale).to(dtype=dtype)
    cheaper = with_linear_gate(mol, items)
    found = Approximate.of(mol, items, n1=9, cheaper=cheaper, keep=9, until_certified=True).search(queries, 5)
    expected = BruteForce(mol, items).search(queries, 5)
    assert torch.equal(found.ids[found.exact], expected.ids[found.exact])
