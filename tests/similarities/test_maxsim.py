import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench import similarities
from workbench.similarities import MaxSim, MaxSimConfig
from workbench.similarities import maxsim as module

D = 6
SMALL = MaxSimConfig(query_groups=3, item_groups=2, component_dim=4, query_hidden=5)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def built(config: MaxSimConfig = SMALL) -> MaxSim:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        similarity = similarities.build(config, D).eval()
    assert isinstance(similarity, MaxSim)
    return similarity


def literal(similarity: MaxSim, q: Tensor, x: Tensor) -> float:
    """The formula, pair by pair."""
    c = similarity.config
    f = (
        similarity.queries(q[None], torch.zeros(1, dtype=torch.long)).components[0]
        * c.temperature
        * c.query_groups
    )
    g = similarity.items(x[None], torch.ones(1, dtype=torch.long)).components[0]
    if c.normalize:
        assert torch.allclose(f.norm(dim=-1), torch.ones(len(f)))
    best = [max((a @ b).item() for b in g) for a in f]
    return sum(best) / len(best) / c.temperature


@given(b=st.integers(1, 4), n=st.integers(1, 7), normalize=st.booleans(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_scores_are_the_formula(b, n, normalize, seed):
    similarity = built(MaxSimConfig(3, 2, 4, normalize=normalize, query_hidden=5))
    q, x = randn(b, D, seed=seed), randn(n, D, seed=seed + 1)
    queries = similarity.queries(q, torch.zeros(b, dtype=torch.long))
    items = similarity.items(x, torch.arange(1, n + 1))
    expected = torch.tensor([[literal(similarity, u, v) for v in x] for u in q])
    torch.testing.assert_close(similarity.score(queries, items), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pairs", [1, 6, 10_000])
def test_candidates_score_as_they_do_among_all(monkeypatch, pairs):
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", pairs)
    similarity = built()
    queries = similarity.queries(randn(3, D), torch.zeros(3, dtype=torch.long))
    items = similarity.items(randn(20, D, seed=1), torch.arange(1, 21))
    rows = torch.tensor([[0, 19, 0], [5, 5, 5], [7, 2, 11]])
    scores = similarity.score_candidates(queries, items, rows)
    torch.testing.assert_close(scores, similarity.score(queries, items).gather(1, rows))
    scores.sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in similarity.parameters())


def test_one_component_each_is_a_dot_product():
    similarity = built(MaxSimConfig(1, 1, 4, query_hidden=5))
    queries = similarity.queries(randn(3, D), torch.zeros(3, dtype=torch.long))
    items = similarity.items(randn(9, D, seed=1), torch.arange(1, 10))
    torch.testing.assert_close(
        similarity.score(queries, items), queries.components[:, 0] @ items.components[:, 0].T
    )


def test_the_bound_is_the_score():
    similarity = built()
    queries = similarity.queries(randn(3, D), torch.zeros(3, dtype=torch.long))
    items = similarity.items(randn(9, D, seed=1), torch.arange(1, 10))
    logits = similarity.component_logits(queries, items)
    assert torch.equal(similarity.upper_bound(logits), similarity.score(queries, items))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query_groups": 0}, "at least 1"),
        ({"temperature": 0.0}, "positive"),
        ({"item_dropout": 1.0}, r"item_dropout must lie in \[0, 1\)"),
        ({"query_hidden": 0}, "at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MaxSimConfig(**settings)
