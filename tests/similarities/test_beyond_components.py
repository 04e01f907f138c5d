"""LITE and Hypencoder: scores that no bound over components holds."""

import pytest
import torch
from torch import Tensor

from workbench import similarities
from workbench.contracts import Similarity
from workbench.search.brute_force import BruteForce
from workbench.similarities import HypencoderConfig, LITEConfig, hypencoder, lite

D = 6
CONFIGS = {
    "lite": LITEConfig(query_groups=3, item_groups=2, component_dim=4, hidden=5, query_hidden=7),
    "hypencoder": HypencoderConfig(hidden=3),
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=CONFIGS)
def similarity(request: pytest.FixtureRequest) -> Similarity:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        built = similarities.build(CONFIGS[request.param], D).eval()
        for parameter in built.parameters():  # the start leaves out half of the formula
            torch.nn.init.normal_(parameter, std=0.5)
    return built


def literal(similarity: Similarity, q: Tensor, x: Tensor) -> Tensor:
    """The formula, one pair at a time, from the module's own weights."""
    q, x = q[None], x[None]
    if isinstance(similarity, lite.LITE):
        f = similarity.queries(q).components[0]
        g = similarity.items(x, torch.ones(1, dtype=torch.long)).components[0]
        assert torch.allclose(f.norm(dim=1), torch.ones(3)) and torch.allclose(g.norm(dim=1), torch.ones(2))
        s = torch.stack([torch.stack([a @ b for b in g]) for a in f])  # (Pq, Px)

        def normalized(v: Tensor) -> Tensor:
            return (v - v.mean()) / (v.var(correction=0) + 1e-5).sqrt()

        rows = torch.stack([normalized(similarity.row_network(row).relu()) for row in s])
        columns = torch.stack([normalized(similarity.column_network(column).relu()) for column in rows.T])
        return s.mean() / similarity.config.temperature + columns.flatten() @ similarity.output_weight
    assert isinstance(similarity, hypencoder.Hypencoder)
    q, x = q[0] / q.norm(), x[0] / x.norm()
    total = torch.zeros(())
    for k in range(similarity.config.hidden):
        w = similarity.weight_network(q)[k * D : (k + 1) * D]
        unit = (w / w.norm() @ x + similarity.bias_network(q)[k]).relu()
        total = total + (1 + similarity.output_network(q)[k]) * unit
    return total / similarity.config.hidden / similarity.config.temperature


def states(similarity: Similarity, b: int = 4, n: int = 20) -> tuple:
    return similarity.queries(randn(b, D)), similarity.items(randn(n, D, seed=1), torch.arange(1, n + 1))


def test_scores_are_the_formula(similarity):
    queries, items = states(similarity)
    expected = torch.stack(
        [torch.stack([literal(similarity, q, x) for x in randn(20, D, seed=1)]) for q in randn(4, D)]
    )
    torch.testing.assert_close(similarity.score(queries, items), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pairs", [1, 6, 10_000])
def test_candidates_score_as_they_do_among_all_with_every_gradient(monkeypatch, similarity, pairs):
    for module in (lite, hypencoder):
        monkeypatch.setattr(module, "PAIRS_AT_ONCE", pairs)
    rows = torch.tensor([[0, 19, 0], [5, 5, 5], [7, 2, 11], [3, 4, 6]])

    def gradients(scores: Tensor) -> list[Tensor]:
        similarity.zero_grad()
        scores.square().sum().backward()
        return [p.grad for p in similarity.parameters()]

    all_scores = similarity.score(*states(similarity)).gather(1, rows)
    found = similarity.score_candidates(*states(similarity), rows)
    torch.testing.assert_close(found, all_scores, atol=1e-3, rtol=1e-5)
    for mine, theirs in zip(gradients(found), gradients(all_scores), strict=True):
        assert bool(theirs.any())
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)


def test_brute_force_finds_the_best(similarity):
    queries, items = states(similarity)
    found = BruteForce(similarity, items).search(queries, 5)
    best = similarity.score(queries, items).topk(5)
    torch.testing.assert_close(found.scores, best.values)
    assert torch.equal(found.ids, items.ids[best.indices]) and found.exact.all()


def test_lite_starts_as_the_mean_of_its_components():
    built = similarities.build(CONFIGS["lite"], D).eval()
    queries, items = states(built)
    grid = torch.einsum("bpd,nqd->bnpq", queries.components, items.components)
    torch.testing.assert_close(built.score(queries, items), grid.mean((2, 3)) / 0.05)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (LITEConfig, {"query_groups": 0}, "at least 1"),
        (LITEConfig, {"hidden": 0}, "at least 1"),
        (LITEConfig, {"item_dropout": 1.0}, r"item_dropout must lie in \[0, 1\)"),
        (HypencoderConfig, {"hidden": 0}, "at least 1"),
        (HypencoderConfig, {"temperature": 0.0}, "positive"),
    ],
)
def test_bad_settings_are_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


@torch.no_grad()
@pytest.mark.parametrize("counts", [[0, 1, 250, 7], [5, 5, 5, 5], [0, 0, 0, 0]])
def test_ragged_pairs_score_as_they_do_among_all(similarity: Similarity, counts: list[int]) -> None:
    queries, items = states(similarity, n=250)
    owners = torch.arange(4).repeat_interleave(torch.tensor(counts))
    rows = torch.cat([torch.arange(count) for count in counts])
    scores = similarity.score_pairs(queries, items, owners, rows)
    torch.testing.assert_close(scores, similarity.score(queries, items)[owners, rows])
