"""Between padded and jagged: fbgemm and plain torch do the same."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench import runtime
from workbench.contracts import SequenceBatch
from workbench.encoders import HSTU, HSTUConfig
from workbench.encoders.jagged import jagged

PATHS = [
    pytest.param(
        True, id="fbgemm", marks=pytest.mark.skipif(not runtime.optional("fbgemm_gpu"), reason="no fbgemm")
    ),
    pytest.param(False, id="plain torch"),
]
fbgemm_needed = pytest.mark.skipif(not runtime.optional("fbgemm_gpu"), reason="no fbgemm")
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=7)


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    monkeypatch.setattr("workbench.encoders.jagged._FBGEMM", request.param)


def rows_of(lengths: list[int], width: int, seed: int = 0) -> Tensor:
    return torch.randn(sum(lengths), width, generator=torch.Generator().manual_seed(seed))


@given(lengths=LENGTHS, extra=st.integers(0, 3), width=st.integers(1, 4))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_padding_and_back(path, lengths, extra, width):
    layout = jagged(torch.tensor(lengths), max(lengths) + extra)
    rows = rows_of(lengths, width)
    padded = layout.pad(rows)
    assert padded.shape == (len(lengths), max(lengths) + extra, width)
    start = 0
    for b, length in enumerate(lengths):
        assert torch.equal(padded[b, :length], rows[start : start + length])
        assert (padded[b, length:] == 0).all()
        start += length
    assert torch.equal(layout.unpad(padded), rows)
    assert layout.offsets.tolist()[-1] == len(layout.positions) == sum(lengths)


@given(lengths=LENGTHS, width=st.integers(1, 4))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_gradients_reach_valid_positions_alone(path, lengths, width):
    layout = jagged(torch.tensor(lengths), max(lengths) + 1)
    rows = rows_of(lengths, width).requires_grad_()
    weights = torch.arange(1.0, 1 + len(lengths) * (max(lengths) + 1) * width).view(len(lengths), -1, width)
    (layout.pad(rows) * weights).sum().backward()
    assert rows.grad is not None
    assert torch.equal(rows.grad, weights.flatten(0, 1)[layout.positions])
    grid = torch.randn_like(weights).requires_grad_()
    (layout.unpad(grid) * rows.grad).sum().backward()
    assert grid.grad is not None
    assert torch.equal(grid.grad.flatten(0, 1)[layout.positions], rows.grad)
    padding = torch.ones(grid.shape[0] * grid.shape[1], dtype=torch.bool)
    padding[layout.positions] = False
    assert (grid.grad.flatten(0, 1)[padding] == 0).all()


def test_strided_rows(path):
    layout = jagged(torch.tensor([2, 1]), 3)
    wide = rows_of([2, 1], 8)
    part = wide[:, 2:5]
    assert not part.is_contiguous()
    assert torch.equal(layout.pad(part), layout.pad(part.contiguous()))
    grid = torch.randn(3, 2, 4).transpose(0, 1)
    assert torch.equal(layout.unpad(grid), layout.unpad(grid.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_types_stay(path, dtype):
    layout = jagged(torch.tensor([1, 3]), 3)
    rows = torch.arange(8).view(4, 2).to(dtype)
    padded = layout.pad(rows)
    assert padded.dtype == dtype
    assert padded.tolist() == [[[0, 1], [0, 0], [0, 0]], [[2, 3], [4, 5], [6, 7]]]
    assert torch.equal(layout.unpad(padded), rows)


@fbgemm_needed
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_hstu_and_its_gradients_are_the_same_on_both_paths(monkeypatch, precision):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = HSTU(HSTUConfig(blocks=2, heads=2, qk_dim=4, v_dim=6), 8, 7)
    lengths = torch.tensor([3, 7, 1, 5] * 5)  # more than one group of rows
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(20, 7, 8, generator=generator)
    times = torch.randint(10**9, (20, 7), generator=generator)
    ids = torch.ones(20, 7, dtype=torch.long)
    batch = SequenceBatch(ids, times, ids.float(), lengths, lengths * 0, lengths, times[:, 0])
    results = []
    for fbgemm in (True, False):
        monkeypatch.setattr("workbench.encoders.jagged._FBGEMM", fbgemm)
        encoder.zero_grad()
        with (
            torch.random.fork_rng(),
            torch.autocast("cpu", dtype=precision, enabled=precision == torch.bfloat16),
        ):
            torch.manual_seed(2)
            outputs = encoder(embeddings, batch)
        outputs[batch.valid].float().square().sum().backward()
        results.append([outputs[batch.valid].detach(), *(p.grad for p in encoder.parameters())])
    for one, other in zip(*results, strict=True):
        assert one is not None and other is not None
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
