"""Scores above a floor: the bits of the dense version where the bound reaches it, −inf elsewhere."""

import pytest
import torch

from workbench.kernels import mixture_native
from workbench.similarities.mol import MixtureOfLogits, MoLConfig

INF = float("inf")
SHAPES = [(4, 2, 8, 16), (1, 1, 5, 0), (3, 2, 7, None)]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(("query_groups", "item_groups", "width", "hidden"), SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_pairs_that_reach_the_floor_have_their_score(
    query_groups, item_groups, width, hidden, share, native, monkeypatch
):
    if native and not mixture_native.available():
        pytest.skip("no compiler: the C++ version cannot be built")
    if not native:
        monkeypatch.setattr(mixture_native, "supports", lambda *tensors: False)
    config = MoLConfig(query_groups, item_groups, width, query_hidden=8, gate_pair=hidden)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        similarity = MixtureOfLogits(config, 6).eval()
        with torch.no_grad():
            queries = similarity.queries(torch.randn(5, 6), torch.arange(5))
            items = similarity.items(torch.randn(1700, 6), torch.arange(1, 1701))
            scores = similarity.score(queries, items)
            bounds = similarity.upper_bound(similarity.component_logits(queries, items))
    floors = {0.0: torch.full((5,), INF), 1.0: torch.full((5,), -INF)}.get(share)
    if floors is None:
        floors = bounds.quantile(1 - share, dim=1) + 1e-4  # between two bounds, whatever their rounding
    found = similarity.score_reaching(queries, items, floors)
    expected = scores.masked_fill(bounds < floors[:, None], -INF)
    clear = (bounds - floors[:, None]).abs() > 1e-5
    torch.testing.assert_close(found[clear], expected[clear], rtol=1e-5, atol=1e-5)
    assert bool(clear.float().mean() > 0.99)
    if native:
        assert torch.equal(found[found > -INF], scores[found > -INF])


def test_nan_is_scored_whatever_the_floor():
    similarity = MixtureOfLogits(MoLConfig(2, 2, 4, query_hidden=8), 6).eval()
    with torch.no_grad():
        queries = similarity.queries(torch.randn(1, 6), torch.arange(1))
        items = similarity.items(torch.tensor([[1.0] * 6, [float("nan")] * 6]), torch.tensor([1, 2]))
    found = similarity.score_reaching(queries, items, torch.tensor([INF]))
    assert found[0, 0] == -INF and found[0, 1].isnan()
