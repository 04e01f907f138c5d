import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from workbench import similarities
from workbench.encoders import SASRecConfig
from workbench.retriever import RetrieverConfig
from workbench.similarities import SparCode, SparCodeConfig
from workbench.similarities.sparcode import similarity as module
from workbench.similarities.sparcode.quantizer import QuantizerConfig
from workbench.similarities.sparcode.scorers import CrossNet, Dot, InnerPDNN, MaxOfDots, scorer

D = 6
SMALL = SparCodeConfig(3, 2, 4, hidden=(5, 4), dropout=0.0, threshold=0.2, quantizer=QuantizerConfig(2, 5))
ALL_TO_ALL = replace(SMALL, quantizer=None)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def built(config: SparCodeConfig = SMALL) -> SparCode:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        similarity = similarities.build(config, D).train()
        assert isinstance(similarity, SparCode)
        similarity.queries(randn(40, D, seed=8), torch.arange(40))
    return similarity.eval()


def states(similarity: SparCode, b: int = 3, n: int = 20):
    return (
        similarity.queries(randn(b, D), torch.arange(b)),
        similarity.items(randn(n, D, seed=1), torch.arange(1, n + 1)),
    )


@pytest.mark.parametrize("interaction", ["dot", "maxsim", "crossnet", "dnn", "inner pdnn"])
@pytest.mark.parametrize("base", [SMALL, ALL_TO_ALL], ids=["quantized", "all-to-all"])
def test_scores_are_sums_of_sparse_scores(interaction, base):
    similarity = built(replace(base, interaction=interaction))
    queries, items = states(similarity)
    scores = similarity.score(queries, items)
    for b, n in itertools.product(range(3), range(20)):
        parts = [similarity.interactions(t[None], items[n : n + 1])[0, 0] for t in queries.tokens[b]]
        expected = sum(max(0.0, float((f + similarity.threshold).detach())) for f in parts)
        assert float(scores[b, n].detach()) == pytest.approx(expected, abs=1e-5)
    with torch.no_grad():  # each code once
        torch.testing.assert_close(similarity.score(queries, items), scores)
    assert (scores > 0).any() and similarity.score(queries[:0], items).shape == (0, 20)


@pytest.mark.parametrize("pairs", [1, 40, 10_000])
@pytest.mark.parametrize("interaction", ["dot", "maxsim", "crossnet", "dnn", "inner pdnn"])
def test_candidates_score_as_they_do_among_all(monkeypatch, pairs, interaction):
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", pairs)
    quantizer = QuantizerConfig(2, 5, gradient="straight-through")
    similarity = built(replace(SMALL, interaction=interaction, quantizer=quantizer, threshold=3.0))
    queries, items = states(similarity)
    rows = torch.tensor([[0, 19, 0], [5, 5, 5], [7, 2, 11]])
    scores = similarity.score_candidates(queries, items, rows)
    torch.testing.assert_close(scores, similarity.score(queries, items).gather(1, rows))
    scores.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in similarity.parameters())
    assert bool(similarity.query_tokenizer.weight.grad.any())


@torch.no_grad()
def test_interactions_are_the_formulas():
    token, x = randn(1, 1, 4), randn(1, 2, 4, seed=1)
    dots = [float(token[0, 0] @ v) for v in x[0]]

    def f(of: torch.nn.Module) -> float:
        return float(of.pairs(of.code_part(token), of.item_part(x)[None])[0, 0, 0].detach())

    assert f(Dot(4)) == pytest.approx(sum(dots) / 2, abs=1e-5)
    assert f(MaxOfDots(4, 2)) == pytest.approx(max(dots) / 2, abs=1e-5)
    cross = CrossNet(4, 2, 3)
    start = torch.cat([token[0, 0], x[0, 0], x[0, 1]])
    state = start
    for layer in cross.cross:
        state = start * layer(state) + state
    assert f(cross) == pytest.approx(float(cross.output(state)), abs=1e-5)
    inner = scorer("inner pdnn", 4, 2, (5, 3), 1)
    assert isinstance(inner, InnerPDNN)
    products = torch.tensor(dots) / 2  # √4
    among = (x[0, 0] @ x[0, 1])[None] / 2
    first = (
        inner.of_code(token[0, 0])
        + inner.of_item(torch.cat([x.flatten(), among]))
        + inner.of_products(products)
    )
    assert f(inner) == pytest.approx(float(products.sum() + inner.rest(first)), abs=1e-5)


def test_the_leak_is_there_in_training_only():
    similarity = built(replace(SMALL, threshold=-50.0, leak=0.1))
    queries, items = states(similarity)
    assert (similarity.score(queries, items) == 0).all()
    assert (similarity.train().score(queries, items) < 0).all()
    none = built(replace(SMALL, threshold=-50.0, leak=0.0)).train()
    queries, items = states(none)
    assert (none.score(queries, items) == 0).all()


def test_the_commitment_loss_is_weighted_and_no_gradient_reaches_codebooks():
    similarity = built().train()
    queries, items = states(similarity)
    losses = similarity.regularizers(queries, items, torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(losses["commitment"], 0.25 * queries.errors.mean())
    losses["commitment"].backward()
    assert similarity.query_tokenizer.weight.grad.any()
    assert "quantizer.codewords" in similarity.state_dict()
    assert not any("quantizer" in name for name, _ in similarity.named_parameters())
    other = built(ALL_TO_ALL)
    queries, items = states(other)
    assert queries.codes is None and queries.errors is None
    assert other.regularizers(queries, items, torch.zeros(3, dtype=torch.long)) == {}


def test_as_published_the_scorer_gives_nothing_to_the_tokenizer():
    similarity = built().train()
    queries, items = states(similarity)
    similarity.score(queries, items).sum().backward()
    assert similarity.query_tokenizer.weight.grad is None
    assert similarity.item_tokenizer.weight.grad.any()


def test_squeeze_and_excitation_makes_other_tokens_of_one_vector():
    similarity = built(replace(SMALL, query_tokenizer="senet"))
    queries, _ = states(similarity)
    assert queries.tokens.shape == (3, 3, 4)
    assert sum(p.numel() for p in similarity.query_tokenizer.parameters()) > 0


@pytest.mark.parametrize("interaction", ["dot", "inner pdnn"])
@pytest.mark.parametrize("tokenizer", ["linear", "senet"])
def test_aligned_tokenizers_start_near_the_inner_product_of_what_they_read(tokenizer, interaction):
    wide = SparCodeConfig(
        3, 2, 48, interaction, tokenizer, token_norm=False, dropout=0.0, threshold=50.0, quantizer=None
    )
    q, x = randn(30, 40), randn(50, 40, seed=1)
    read = torch.nn.functional.layer_norm(q, (40,))
    agreement = {}
    for aligned in (False, True):
        torch.manual_seed(0)
        similarity = similarities.build(replace(wide, aligned=aligned), 40).eval()
        with torch.no_grad():
            scores = similarity.score(
                similarity.queries(q, torch.arange(30)), similarity.items(x, torch.arange(1, 51))
            )
        pairs = torch.stack([scores.flatten(), (read @ x.T).flatten()])
        agreement[aligned] = float(torch.corrcoef(pairs)[0, 1])
        tokens = similarity.queries(q, torch.arange(30)).tokens
        assert not torch.allclose(tokens[:, 0], tokens[:, 1], atol=0.1)  # each is its own
    assert agreement[True] > 0.7 > 0.3 > abs(agreement[False])


def test_settings_survive_json():
    for config in (SMALL, ALL_TO_ALL):
        whole = RetrieverConfig(SASRecConfig(), config, D, 8)
        assert RetrieverConfig.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole
    values = whole.to_dict()
    values["similarity"]["quantizer"] = {"sheets": 3}
    with pytest.raises(ValueError, match="sheets"):
        RetrieverConfig.from_dict(values)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query_tokens": 0}, "at least 1"),
        ({"item_tokens": 0}, "at least 1"),
        ({"token_dim": 0}, "at least 1"),
        ({"cross_layers": 0}, "at least 1"),
        ({"hidden": ()}, "hidden needs at least one width"),
        ({"dropout": 1.0}, "dropout"),
        ({"leak": 1.0}, "leak"),
        ({"token_dim": 5}, "cannot be cut into 2 equal pieces"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **settings)


def test_the_loss_does_not_reward_zeros():
    """What the class documents of a learned threshold: no gradient while all scores are positive, else one that raises it."""
    torch.manual_seed(0)
    model = SparCode(SparCodeConfig(2, 2, 4, hidden=(4,), dropout=0.0, leak=0.0, quantizer=None), 6).train()
    q, x = torch.randn(40, 6), torch.randn(30, 6)
    for threshold, sign in ((100.0, 0), (0.0, -1)):
        with torch.no_grad():
            model.threshold.fill_(threshold)
        model.threshold.grad = None
        scores = model.score(model.queries(q), model.items(x, torch.arange(1, 31)))
        torch.nn.functional.cross_entropy(scores, scores.argmax(1)).backward()
        assert model.threshold.grad is not None
        found = float(model.threshold.grad)
        assert abs(found) < 1e-5 if sign == 0 else found < -1e-3
