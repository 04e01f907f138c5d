import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench import similarities
from workbench.contracts import sampled_softmax
from workbench.search import registry
from workbench.similarities import DotConfig, DotProduct
from workbench.similarities import dot as module
from workbench.similarities.dot import DotItems, DotQueries

N_ROWS = 30


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def literal(config: DotConfig, q: list[float], x: list[float]) -> float:
    if config.normalize:
        q, x = ([v / max(math.hypot(*vector), 1e-6) for v in vector] for vector in (q, x))
    return sum(a * b for a, b in zip(q, x, strict=True)) / config.temperature


@given(
    b=st.integers(1, 4),
    n=st.integers(1, 9),
    d=st.integers(1, 5),
    normalize=st.booleans(),
    temperature=st.sampled_from([0.05, 1.0, 3.0]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_scores_are_the_formula(b, n, d, normalize, temperature, seed):
    config = DotConfig(normalize, temperature)
    similarity = similarities.build(config, d)
    q, x = randn(b, d, seed=seed), randn(n, d, seed=seed + 1)
    queries = similarity.queries(q, torch.zeros(b, dtype=torch.long))
    items = similarity.items(x, torch.arange(1, n + 1))
    expected = torch.tensor([[literal(config, u, v) for v in x.tolist()] for u in q.tolist()])
    torch.testing.assert_close(similarity.score(queries, items), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ratio", [0, 1_000_000])
def test_candidates_score_as_they_do_among_all(monkeypatch, ratio):
    monkeypatch.setattr(module, "DENSE_RATIO", ratio)
    similarity = DotProduct(DotConfig())
    queries = similarity.queries(randn(3, 4).requires_grad_(), torch.zeros(3, dtype=torch.long))
    x = randn(20, 4, seed=1).requires_grad_()
    items = similarity.items(x, torch.arange(1, 21))
    rows = torch.tensor([[0, 19, 0], [5, 5, 5], [7, 2, 11]])
    scores = similarity.score_candidates(queries, items, rows)
    torch.testing.assert_close(scores, similarity.score(queries, items).gather(1, rows))
    scores.sum().backward()
    assert x.grad is not None
    untouched = torch.tensor(sorted(set(range(20)) - set(rows.flatten().tolist())))
    assert (x.grad[untouched] == 0).all() and (x.grad[0] != 0).any()


def test_a_zero_vector_scores_zero_and_has_a_finite_gradient():
    similarity = DotProduct(DotConfig())
    q, x = torch.zeros(1, 4, requires_grad=True), randn(2, 4)
    queries = similarity.queries(q, torch.zeros(1, dtype=torch.long))
    scores = similarity.score(queries, similarity.items(x, torch.arange(1, 3)))
    assert scores.tolist() == [[0.0, 0.0]]
    scores.sum().backward()
    assert q.grad is not None and q.grad.isfinite().all()


def test_cosines_lie_within_one_over_the_temperature():
    similarity = DotProduct(DotConfig(temperature=0.05))
    queries = similarity.queries(1e3 * randn(30, 4), torch.zeros(30, dtype=torch.long))
    scores = similarity.score(queries, similarity.items(1e-3 * randn(40, 4, seed=1), torch.arange(1, 41)))
    assert 15 < scores.abs().max() <= 20.001


def test_there_is_nothing_to_learn_and_nothing_to_regularise():
    similarity = DotProduct(DotConfig())
    assert not list(similarity.parameters())
    queries = similarity.queries(randn(2, 4), torch.zeros(2, dtype=torch.long))
    items = similarity.items(randn(3, 4), torch.arange(1, 4))
    assert similarity.regularizers(queries, items, torch.tensor([0, 2])) == {}
    assert similarity.pair_bytes == similarity.score(queries, items).element_size()


def test_states_save_and_load(tmp_path):
    similarity = DotProduct(DotConfig())
    queries = similarity.queries(randn(2, 4), torch.zeros(2, dtype=torch.long))
    items = similarity.items(randn(3, 4), torch.tensor([7, 3, 5]))
    queries.save(tmp_path / "q.safetensors")
    items.save(tmp_path / "i.safetensors")
    again = similarity.score(
        DotQueries.load(tmp_path / "q.safetensors"), DotItems.load(tmp_path / "i.safetensors")
    )
    assert torch.equal(again, similarity.score(queries, items))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_an_impossible_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        DotConfig(temperature=temperature)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_loss_by_the_kernel_is_that_of_the_scores(monkeypatch, normalize):
    similarity = DotProduct(DotConfig(normalize))
    rows = torch.randint(N_ROWS, (9, 21), generator=torch.Generator().manual_seed(0))
    rows[3, 4:8] = rows[3, 0]
    found = []
    for serves in (module.mixture_loss.serves, lambda *tensors: False):
        monkeypatch.setattr(module.mixture_loss, "serves", serves)
        q, x = randn(9, 5, seed=1).requires_grad_(), randn(N_ROWS, 5, seed=2).requires_grad_()
        queries = similarity.queries(q, torch.zeros(9, dtype=torch.long))
        loss = similarity.sampled_softmax(queries, similarity.items(x, torch.arange(1, N_ROWS + 1)), rows)
        found.append((loss.detach(), *torch.autograd.grad(loss, (q, x))))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


def with_users(dim: int = 5) -> DotProduct:
    similarity = similarities.build(DotConfig(user_rows=7, user_dim=3), dim).eval()
    with torch.no_grad():
        for parameter in similarity.parameters():
            parameter.copy_(randn(*parameter.shape, seed=9))
    return similarity


def test_users_add_a_second_dot_product():
    similarity, users = with_users(), torch.tensor([3, 10, 6])
    q, x, ids = randn(3, 5), randn(N_ROWS, 5, seed=1), torch.arange(1, N_ROWS + 1)
    queries, items = similarity.queries(q, users), similarity.items(x, ids)
    embedded = similarity.users.table(torch.tensor([4, 4, 7]))  # 10 is 3 modulo 7; row 0 is free
    second = module.unit(embedded) @ module.unit(similarity.items_for_users(x)).T
    expected = (module.unit(q) @ module.unit(x).T + second) / 0.05
    torch.testing.assert_close(similarity.score(queries, items), expected, atol=1e-4, rtol=1e-4)
    rows = torch.randint(0, N_ROWS, (3, 6), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        similarity.score_candidates(queries, items, rows), expected.gather(1, rows), atol=1e-4, rtol=1e-4
    )
    norm = {"user norm": 0.1 * embedded.square().sum(1).mean()}
    torch.testing.assert_close(similarity.regularizers(queries, items, rows[:, 0]), norm)
    with pytest.raises(ValueError, match="has a part of the user's id: give the user"):
        similarity.queries(q)
    assert not DotProduct(DotConfig()).state_dict()


def test_users_drop_out_in_training_alone_and_both_losses_agree():
    similarity = with_users().train()
    q, users = randn(4, 5), torch.tensor([1, 2, 3, 4])
    torch.manual_seed(0)
    queries, items = (
        similarity.queries(q, users),
        similarity.items(randn(N_ROWS, 5, seed=1), torch.arange(1, N_ROWS + 1)),
    )
    of_user = queries.vectors[:, 5:]
    assert (of_user == 0).any() and (of_user != 0).any() and (queries.vectors[:, :5] != 0).all()
    rows = torch.arange(24).view(4, 6)
    by_kernel = similarity.sampled_softmax(queries, items, rows)
    plain = sampled_softmax(similarity.score_candidates(queries, items, rows), rows)
    torch.testing.assert_close(by_kernel, plain, atol=1e-4, rtol=1e-4)
    by_kernel.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in similarity.parameters())


@pytest.mark.parametrize("kind", sorted(set(registry.SEARCHERS) - {"paths", "tantivy"}))
def test_searchers_of_dot_products_find_the_best_with_users(kind):
    similarity = with_users()
    with torch.no_grad():
        queries = similarity.queries(randn(3, 5), torch.tensor([0, 1, 2]))
        items = similarity.items(randn(N_ROWS, 5, seed=1), torch.arange(1, N_ROWS + 1))
        best = similarity.score(queries, items).topk(4)
        cells = {"nlist": 2, "nprobe": 2} if kind == "faiss-ivf" else {}
        chosen = registry.SEARCHERS.from_dict({"kind": kind, **cells})
        found = registry.build(chosen, similarity, items).search(queries, 4)
    assert torch.equal(found.ids, best.indices + 1)
    torch.testing.assert_close(found.scores, best.values)
    assert found.exact.all() or kind not in ("brute-force", "exact")
