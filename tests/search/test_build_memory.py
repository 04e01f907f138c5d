"""The memory of building an index, for each item: what is kept and little more, however large the corpus."""

import tracemalloc
from collections.abc import Callable

import pytest
import torch
from live_bytes import LiveBytes

from workbench import runtime
from workbench.contracts import ItemState, QueryState
from workbench.kernels import mixture_int16
from workbench.search import FirstStageFilter, FittedScores, first_stages, h_indexer, proximity_graph
from workbench.search.first_stages import AveragedComponents
from workbench.search.proximity_graph import _reachable
from workbench.similarities import MoLConfig, mol_int16, rounding
from workbench.similarities.mol import MixtureOfLogits
from workbench.similarities.mol_int16 import Int16Scores

FEW, MANY = 3_000, 6_000


@pytest.fixture(scope="module")
def world() -> tuple[MixtureOfLogits, QueryState, ItemState]:
    torch.manual_seed(0)
    mol = MixtureOfLogits(MoLConfig(2, 4, 32, query_hidden=8, gate_pair=8), 12).eval()
    with torch.no_grad():
        return (
            mol,
            mol.queries(torch.randn(64, 12)),
            mol.items(torch.randn(MANY, 12), torch.arange(1, MANY + 1)),
        )


def per_item(build: Callable[[ItemState], object], items: ItemState) -> float:
    """Bytes that the peak of a build grows by with each item."""
    peaks = []
    for count in (FEW, MANY):
        part = items[torch.arange(count)]
        with LiveBytes() as live:
            build(part)
        peaks.append(live.peak)
    return (peaks[1] - peaks[0]) / (MANY - FEW)


@pytest.mark.skipif(mixture_int16.tile() == 0, reason="this processor has no VNNI of 512 bits")
def test_int16_is_rounded_in_parts(world, monkeypatch):
    mol, _, items = world
    whole = Int16Scores(mol, items)
    monkeypatch.setattr(mol_int16, "TILES_TOGETHER", 4)
    monkeypatch.setattr(rounding, "AT_ONCE", 4_096)
    kept = 2 * items.components[0].numel()
    assert 0.9 * kept <= per_item(lambda part: Int16Scores(mol, part), items) <= 1.1 * kept
    parts = Int16Scores(mol, items)
    assert torch.equal(parts._item_components, whole._item_components)
    assert (parts._lost, parts._whole_lost) == (whole._lost, whole._whole_lost)


def test_scores_of_a_sample_are_fitted_in_parts(world, monkeypatch):
    mol, queries, items = world
    stage = FittedScores(mol, items, queries, 16)
    monkeypatch.setattr(first_stages, "DEFAULT_BUDGET", 8 * len(queries) * 500)
    kept = 4 * 16
    assert 0.9 * kept <= per_item(stage.item_vectors, items) <= 1.1 * kept
    torch.testing.assert_close(stage.item_vectors(items[:500]), stage.item_vectors(items)[:500])


def test_an_h_indexer_is_built_in_parts(world, monkeypatch):
    mol, _, items = world
    whole = AveragedComponents(mol, items, 16)
    monkeypatch.setattr(first_stages, "AT_ONCE", 4_096)
    monkeypatch.setattr(h_indexer, "ITEMS_AT_ONCE", 256)
    stage = AveragedComponents(mol, items, 16)
    assert per_item(lambda part: AveragedComponents(mol, part, 16), items) <= 1
    torch.testing.assert_close(stage.item_vectors(items).abs(), whole.item_vectors(items).abs())
    kept = 16 + 4  # int8, and a scale
    filters = per_item(
        lambda part: FirstStageFilter(part, stage, 10, runtime.generator(0), sampled=16), items
    )
    assert 0.9 * kept <= filters <= 1.5 * kept


def test_edges_are_counted_in_parts(monkeypatch):
    monkeypatch.setattr(proximity_graph, "ROWS_TOGETHER", 100)
    edges = torch.randint(-1, 5_000, (5_000, 24), generator=torch.Generator().manual_seed(0)).int()
    tracemalloc.start()
    try:
        _reachable(edges, 8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert edges.nbytes <= peak <= 1.5 * edges.nbytes
