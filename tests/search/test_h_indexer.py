"""The first stage of the h-indexer: sums of integers, on every processor."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from workbench.search import h_indexer
from workbench.search.h_indexer import FirstStageFilter, integer_products_are_exact
from workbench.search.quantized_vectors import QuantizedVectors


def cut_off(a: Tensor, b: Tensor) -> Tensor:
    """A product of int8 matrices as processors without dot product instructions make it: pairs are added in 16 bits."""
    pairs = ((a.int() + 128)[:, :, None] * b.int()[None]).unflatten(1, (-1, 2)).sum(2)
    return pairs.clamp(-(2**15), 2**15 - 1).sum(1, dtype=torch.int32) - 128 * b.int().sum(
        0, dtype=torch.int32
    )


@pytest.fixture(params=["this processor", "one that cuts off"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param != "this processor":
        monkeypatch.setattr(torch, "_int_mm", cut_off)
    integer_products_are_exact.cache_clear()
    yield
    integer_products_are_exact.cache_clear()


def test_scores_are_sums_of_integers_on_every_processor(processor: None) -> None:
    g = torch.Generator().manual_seed(0)
    queries = torch.randint(-127, 128, (5, 64), generator=g, dtype=torch.int8)
    items = QuantizedVectors.of(torch.randn(300, 64, generator=g), "int8")
    assert items.scales is not None
    exact = (queries.long() @ items.values.long().T).float() * items.scales[:, 0]
    assert torch.equal(FirstStageFilter._scores(queries, items, 0, 300), exact)


def test_a_processor_that_cuts_off_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    small = torch.full((1, 8), 63, dtype=torch.int8)
    assert cut_off(small, small.T).item() == 63 * 63 * 8
    monkeypatch.setattr(torch, "_int_mm", cut_off)
    h_indexer.integer_products_are_exact.cache_clear()
    assert not integer_products_are_exact()
    h_indexer.integer_products_are_exact.cache_clear()
