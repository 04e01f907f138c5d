import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.kernels import mixture_loss
from workbench.similarities import DotConfig, DotProduct, MixtureOfLogits, MoLConfig
from workbench.training import step as step_module
from workbench.training.losses import Candidates, LossConfig, draw, loss
from workbench.training.objectives import next_item
from workbench.training.step import TrainingStep

T, N, D = 6, 9, 4
TARGETS = torch.tensor([3, 7, 3, 1, 9, 3])


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SIMILARITY = DotProduct(DotConfig(temperature=0.5))
QUERIES = SIMILARITY.queries(randn(T, D, seed=1), torch.zeros(T, dtype=torch.long))
ITEMS = SIMILARITY.items(randn(N, D, seed=2), torch.arange(1, N + 1))
ROWS = torch.arange(-1, N)
SCORES = SIMILARITY.score(QUERIES, ITEMS).tolist()


def computed(config: LossConfig, candidates: Candidates | None, targets: Tensor = TARGETS) -> float:
    return loss(config, SIMILARITY, QUERIES, ITEMS, targets, candidates, ROWS).item()


def softplus(v: float) -> float:
    return math.log1p(math.exp(v))


def literal(
    config: LossConfig, negatives: list[list[int]], log_q: list[list[float]] | None, targets: list[int]
) -> float:
    """The mean loss, term by term; `negatives` and `log_q` hold one list a position; `log_q`'s positive stands first."""
    total = 0.0
    for t, target in enumerate(targets):
        correction = log_q[t] if log_q else [0.0] * (1 + len(negatives[t]))
        positive = SCORES[t][target - 1] - correction[0]
        others = [
            SCORES[t][item - 1] - q
            for item, q in zip(negatives[t], correction[1:], strict=True)
            if item != target
        ]
        if config.kind == "gbce":
            drawn = len(others)
            beta = config.calibration * min(1, drawn / (N - 1)) + 1 - config.calibration
            total += (beta * softplus(-positive) + sum(map(softplus, others))) / (drawn + 1)
        elif config.kind == "bce":
            mean = sum(softplus(s) for s in others) / len(others) if others else 0.0
            total += softplus(-positive) + mean
        else:
            total += math.log(sum(math.exp(s) for s in [positive, *others])) - positive
    return total / len(targets)


@pytest.mark.parametrize("kind", ["sampled softmax", "bce", "gbce"])
def test_own_negatives_of_each_position(kind):
    config = LossConfig(kind, "uniform", 5)
    candidates = draw(config, TARGETS, N, generator())
    assert candidates is not None and candidates.ids.shape == (T, 5)
    assert (candidates.ids == TARGETS[:, None]).any()  # a collision, to be left out
    expected = literal(config, candidates.ids.tolist(), None, TARGETS.tolist())
    assert computed(config, candidates) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("log_q", [False, True])
@pytest.mark.parametrize("kind", ["sampled softmax", "bce", "gbce"])
def test_the_batch_as_negatives(kind, log_q):
    config = LossConfig(kind, "in-batch", log_q=log_q)
    candidates = draw(config, TARGETS, N, generator())
    assert candidates is not None
    assert candidates.ids.tolist() == [1, 3, 7, 9]  # each once, though 3 is there three times
    q = {1: 1 / 6, 3: 3 / 6, 7: 1 / 6, 9: 1 / 6}
    negatives = [[1, 3, 7, 9]] * T
    corrections = [[math.log(q[i]) for i in (target, 1, 3, 7, 9)] for target in TARGETS.tolist()]
    expected = literal(config, negatives, corrections if log_q else None, TARGETS.tolist())
    assert computed(config, candidates) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("log_q", [False, True])
@pytest.mark.parametrize("kind", ["sampled softmax", "bce", "gbce"])
def test_the_batch_and_shared_uniform_negatives(kind, log_q):
    config = LossConfig(kind, "mixed", 8, log_q=log_q)
    candidates = draw(config, TARGETS, N, generator())
    assert candidates is not None
    ids = candidates.ids.tolist()
    assert ids[:4] == [1, 3, 7, 9] and len(ids) == 12
    assert set(ids[4:]) & {1, 3, 7, 9}  # an item may be there as both
    q = [1 / 6, 3 / 6, 1 / 6, 1 / 6] + [1 / N] * 8
    corrections = [[math.log(q[ids.index(t)]), *map(math.log, q)] for t in TARGETS.tolist()]
    expected = literal(config, [ids] * T, corrections if log_q else None, TARGETS.tolist())
    assert computed(config, candidates) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_calibrated_scores_are_log_odds_of_an_interaction(calibration: float) -> None:
    """Of items that score the same, one in N is the positive: with t = 1 the loss is least where σ(φ) = 1 / N, however few
    negatives are drawn; with t = 0 where it is 1 / (C + 1), the overconfidence that the loss is made against."""
    items, drawn = 101, 10
    config = LossConfig("gbce", "uniform", drawn, calibration=calibration)
    beta = calibration * drawn / (items - 1) + 1 - calibration
    probability = beta / (beta + drawn)
    assert calibration != 1 or probability == pytest.approx(1 / items)
    assert calibration != 0 or probability == pytest.approx(1 / (drawn + 1))
    dot = DotProduct(DotConfig(normalize=False, temperature=1.0))
    queries = dot.queries(torch.ones(1, 1), torch.zeros(1, dtype=torch.long))
    candidates = Candidates(torch.arange(2, drawn + 2)[None])

    def at(score: float) -> float:
        state = dot.items(torch.full((items, 1), score), torch.arange(1, items + 1))
        return loss(
            config, dot, queries, state, torch.tensor([1]), candidates, torch.arange(-1, items)
        ).item()

    least = math.log(probability / (1 - probability))
    assert at(least) < min(at(least - 0.1), at(least + 0.1))


def test_all_items_as_negatives():
    config = LossConfig("full softmax")
    assert draw(config, TARGETS, N, generator()) is None
    expected = literal(config, [list(range(1, N + 1))] * T, None, TARGETS.tolist())
    assert computed(config, None) == pytest.approx(expected, abs=1e-5)


def test_every_item_once_as_negative_is_the_full_softmax():
    everything = Candidates(torch.arange(1, N + 1).expand(T, -1))
    assert computed(LossConfig(count=N), everything) == pytest.approx(
        computed(LossConfig("full softmax"), None)
    )


@pytest.mark.parametrize("negatives", ["uniform", "shared", "in-batch", "mixed"])
@pytest.mark.parametrize("kind", ["sampled softmax", "bce", "gbce"])
def test_a_negative_that_is_the_positive_counts_for_nothing(kind, negatives):
    targets = torch.full((T,), 4)
    config = LossConfig(kind, negatives, 3)
    if negatives == "uniform":
        candidates = Candidates(torch.full((T, 3), 4))
    else:
        candidates = Candidates(torch.tensor([4] if negatives == "in-batch" else [4, 4, 4]))
    positives = sum(softplus(-SCORES[t][3]) for t in range(T)) / T
    expected = {"sampled softmax": 0.0, "bce": positives, "gbce": (1 - config.calibration) * positives}[kind]
    assert computed(config, candidates, targets) == pytest.approx(expected, abs=1e-6)


@given(
    kind=st.sampled_from(["sampled softmax", "bce", "gbce"]),
    negatives=st.sampled_from(["uniform", "shared", "in-batch", "mixed"]),
    targets=st.lists(st.integers(1, 20), min_size=1, max_size=15),
    count=st.integers(1, 30),
    log_q=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=50)
def test_the_generator_decides_alone(kind, negatives, targets, count, log_q, seed):
    config, ids = LossConfig(kind, negatives, count, log_q), torch.tensor(targets)
    state = torch.get_rng_state()
    first, second = (draw(config, ids, 20, generator(seed)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first is not None and second is not None
    assert torch.equal(first.ids, second.ids)
    assert first.ids.min() >= 1 and first.ids.max() <= 20
    assert (first.log_q is not None) == (log_q and negatives in ("in-batch", "mixed"))
    if negatives == "uniform":
        assert first.ids.shape == (len(targets), count)
    elif negatives == "shared":
        assert first.ids.shape == (count,)
    else:
        distinct = sorted(set(targets))
        assert first.ids[: len(distinct)].tolist() == distinct
        assert len(first.ids) == len(distinct) + (count if negatives == "mixed" else 0)


def test_uniform_negatives_reach_every_item_equally():
    candidates = draw(LossConfig(count=1000), torch.ones(20, dtype=torch.long), 10, generator())
    assert candidates is not None
    counts = torch.bincount(candidates.ids.flatten(), minlength=11)
    assert counts[0] == 0
    assert (counts[1:] - 2000).abs().max() < 5 * (20_000 * 0.1 * 0.9) ** 0.5


@pytest.mark.parametrize("negatives", ["uniform", "shared", "in-batch", "mixed"])
@pytest.mark.parametrize("kind", ["sampled softmax", "full softmax", "bce", "gbce"])
def test_gradients_push_the_positive_up(kind, negatives):
    raw = randn(T, D, seed=1).requires_grad_()
    queries = SIMILARITY.queries(raw, torch.zeros(T, dtype=torch.long))
    config = LossConfig(kind, negatives, 4, log_q=True)
    candidates = draw(config, TARGETS, N, generator())
    values = []
    for _ in range(2):
        value = loss(config, SIMILARITY, queries, ITEMS, TARGETS, candidates, ROWS)
        values.append(value.item())
        (gradient,) = torch.autograd.grad(value, raw)
        queries = SIMILARITY.queries(raw - 0.05 * gradient, torch.zeros(T, dtype=torch.long))
    assert values[1] < values[0]


@pytest.mark.parametrize("negatives", ["in-batch", "mixed"])
def test_log_q_works_under_autocast(negatives):
    config = LossConfig("sampled softmax", negatives, 4, log_q=True)
    candidates = draw(config, TARGETS, N, generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = loss(config, SIMILARITY, QUERIES, ITEMS, TARGETS, candidates, ROWS).item()
    assert low == pytest.approx(computed(config, candidates), abs=0.05)


@pytest.mark.parametrize("negatives", ["uniform", "shared", "in-batch", "mixed"])
@pytest.mark.parametrize("kind", ["sampled softmax", "bce", "gbce"])
def test_a_large_corpus_prepares_the_items_of_the_step_alone(
    monkeypatch, kind, negatives, tiny_retriever, tiny_batch
):
    for similarity in (DotConfig(), MoLConfig(2, 2, 4, user_tables=(5,), query_hidden=6, gate_pair=4)):
        retriever = tiny_retriever(similarity).eval()
        config = LossConfig(kind, negatives, 3)
        batch, targets = tiny_batch, next_item(tiny_batch)
        candidates = draw(config, targets.target_ids, retriever.num_items, generator())
        training_step = TrainingStep(retriever, config)
        results = []
        for limit, few in ((0, 1000), (50_000, 0), (50_000, 1000)):
            monkeypatch.setattr(step_module, "WHOLE_CORPUS", limit)
            monkeypatch.setattr(step_module, "FEW", few)
            training_step.zero_grad()
            losses = training_step(batch, targets, candidates)
            losses.total.backward()
            results.append((losses, [p.grad for p in retriever.parameters()]))
        (some, of_some), again, (whole, of_whole) = results
        assert again[0].parts == some.parts  # few items are prepared alone whatever the corpus
        assert some.parts == pytest.approx(whole.parts, abs=1e-5)
        assert some.total.item() == pytest.approx(sum(some.parts.values()), abs=1e-5)
        assert set(some.parts) == ({"loss"} if similarity.kind == "dot" else {"loss", "balance", "user norm"})
        for one, other in zip(of_some, of_whole, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_step_scores_valid_positions_alone(tiny_retriever, tiny_batch, monkeypatch):
    asked = []
    original = MixtureOfLogits.queries

    def counting(self, embeddings, user_ids):
        asked.append(len(embeddings))
        return original(self, embeddings, user_ids)

    monkeypatch.setattr(MixtureOfLogits, "queries", counting)
    retriever = tiny_retriever(MoLConfig(2, 2, 4, query_hidden=6))
    targets = next_item(tiny_batch)
    candidates = draw(LossConfig(), targets.target_ids, retriever.num_items, generator())
    TrainingStep(retriever, LossConfig())(tiny_batch, targets, candidates)
    assert asked == [int(tiny_batch.lengths.sum())]
    assert asked[0] < tiny_batch.item_ids.numel()


@pytest.mark.parametrize("drop", [0.0, 0.3])
def test_a_step_of_mol_learns_the_same_with_and_without_a_compiler(
    tiny_retriever, tiny_batch, monkeypatch, drop
):
    retriever = tiny_retriever(
        MoLConfig(3, 2, 4, query_hidden=6, gate_dropout=drop, gate_input_dropout=drop, item_dropout=0.0)
    ).train()
    targets = next_item(tiny_batch)
    candidates = draw(LossConfig(), targets.target_ids, retriever.num_items, generator())
    found = []
    for library in (mixture_loss._library, lambda: None):
        monkeypatch.setattr(mixture_loss, "_library", library)
        retriever.zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            losses = TrainingStep(retriever, LossConfig())(tiny_batch, targets, candidates)
        losses.total.backward()
        found.append((losses.total.detach(), {n: p.grad for n, p in retriever.named_parameters()}))
    torch.testing.assert_close(found[0][0], found[1][0])
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "change", [{"kind": "hinge"}, {"negatives": "hard"}, {"count": 0}], ids=lambda change: next(iter(change))
)
def test_unknown_settings_are_refused(change):
    with pytest.raises((ValueError, TypeError), match=str(next(iter(change.values())))):
        LossConfig(**change)


@pytest.mark.parametrize("negatives", ["in-batch", "mixed"])
def test_frequencies_of_the_stream_take_the_place_of_the_batchs(negatives):
    config = LossConfig("sampled softmax", negatives, 4, log_q=True, frequencies="stream")
    shares = torch.arange(N + 1) / 45
    candidates = draw(config, TARGETS, N, generator(), shares)
    assert candidates is not None and candidates.log_q is not None
    torch.testing.assert_close(candidates.log_q[:4].exp(), torch.tensor([1, 3, 7, 9]) / 45)
    torch.testing.assert_close(candidates.log_q[4:].exp(), torch.full((len(candidates.ids) - 4,), 1 / N))
    with pytest.raises(ValueError, match="the share of each item"):
        draw(config, TARGETS, N, generator())
