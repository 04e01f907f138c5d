"""Cells of near vectors, and the nearest vectors found through them."""

import pytest
import torch
import torch.nn.functional as F

from workbench import runtime
from workbench.search import cells
from workbench.search.cells import nearest


@pytest.fixture(scope="module")
def unit() -> torch.Tensor:
    """1,200 vectors around 40 centres."""
    g = runtime.generator(0)
    centres = torch.randn(40, 8, generator=g).repeat(30, 1)
    return F.normalize(centres + 0.3 * torch.randn(1_200, 8, generator=g), dim=1)


def exact(unit: torch.Tensor, base: torch.Tensor, count: int) -> torch.Tensor:
    scores = unit @ unit[base].T
    scores[base[None] == torch.arange(len(unit))[:, None]] = -2
    return base[scores.topk(count, dim=1).indices]


def test_every_vector_is_in_the_cell_of_its_nearest_centre(unit):
    found = cells.cells(unit, 25, runtime.generator(1))
    assert torch.equal(found.member, torch.cdist(unit, found.centres).argmin(1))
    rows = found.rows()
    assert sorted(torch.cat(rows).tolist()) == list(range(1_200)) and min(map(len, rows)) > 0
    assert all((found.member[mine] == cell).all() for cell, mine in enumerate(rows))


@pytest.mark.parametrize("share", [1, 7])
def test_the_nearest_of_a_few_are_exact_and_through_cells_nearly_so(unit, share, monkeypatch):
    base = torch.arange(0, 1_200, share)
    truth = exact(unit, base, 10)
    assert torch.equal(nearest(unit, base, 10).long(), truth)
    monkeypatch.setattr(cells, "PRODUCTS", 5_000)
    assert torch.equal(nearest(unit, base, 10).long(), truth)
    monkeypatch.setattr(cells, "SCANNED", 50)
    through = nearest(unit, base, 10).long()
    assert (through != torch.arange(1_200)[:, None]).all()
    share_found = (through[:, :, None] == truth[:, None]).any(2).float().mean()
    assert 0.9 < share_found < 1


def test_short_lists_end_with_nothing(unit):
    found = nearest(unit[:3], torch.arange(3), 5)
    assert found[0].sort().values.tolist() == [-1, -1, -1, 1, 2]
