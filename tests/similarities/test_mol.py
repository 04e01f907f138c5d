"""Mixture-of-Logits against its formula, written out pair by pair in plain Python."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from workbench import similarities
from workbench.similarities import MixtureOfLogits, MoLConfig
from workbench.similarities.mol import MoLItems, MoLQueries

D, B, N = 6, 4, 9
SMALL = MoLConfig(
    query_groups=3,
    item_groups=2,
    component_dim=4,
    query_hidden=5,
    item_hidden=7,
    gate_query=5,
    gate_item=6,
    gate_pair=7,
)
Row = list[float]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def built(config: MoLConfig, dim: int = D, seed: int = 3) -> MixtureOfLogits:
    """In evaluation mode, with every parameter (biases too) away from 0."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        similarity = similarities.build(config, dim)
        with torch.no_grad():
            for parameter in similarity.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    assert isinstance(similarity, MixtureOfLogits)
    return similarity.eval()


def states(similarity: MixtureOfLogits, dim: int = D, b: int = B, n: int = N) -> tuple[MoLQueries, MoLItems]:
    users = torch.tensor([0, 17, 5, 123456789, 4, 2])[:b]
    return similarity.queries(randn(b, dim, seed=1), users), similarity.items(
        randn(n, dim, seed=2), torch.arange(1, n + 1)
    )


# The formula, with lists of numbers only.


def affine(x: Row, weight: Tensor, bias: Tensor | None) -> Row:
    sums = [sum(a * b for a, b in zip(x, row, strict=True)) for row in weight.tolist()]
    return sums if bias is None else [s + b for s, b in zip(sums, bias.tolist(), strict=True)]


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))


def silu(v: float) -> float:
    return v * sigmoid(v)


def gelu(v: float) -> float:
    return v * 0.5 * (1 + math.erf(v / math.sqrt(2)))


def layer_norm(x: Row, eps: float) -> Row:
    mean = sum(x) / len(x)
    variance = sum((v - mean) ** 2 for v in x) / len(x)
    return [(v - mean) / math.sqrt(variance + eps) for v in x]


def project(network: nn.Module, kind: str, x: Row) -> Row:
    if kind != "linear":
        both = affine(x, network.glu.weight.T, network.glu.bias[0])
        half = len(both) // 2
        act = {"swiglu": silu, "geglu": gelu}[kind]
        x = [act(left) * right for left, right in zip(both[:half], both[half:], strict=True)]
    return affine(x, network.linear.weight, network.linear.bias)


def gate_part(network: nn.Sequential | None, x: Row) -> Row | None:
    if network is None:
        return None
    first, *rest = [layer for layer in network if isinstance(layer, nn.Linear)]
    y = affine(x, first.weight, first.bias)
    for layer in rest:
        y = affine([silu(v) for v in y], layer.weight, layer.bias)
    return y


def split(x: Row, config: MoLConfig) -> list[Row]:
    rows = [x[i : i + config.component_dim] for i in range(0, len(x), config.component_dim)]
    return [unit(row) for row in rows] if config.normalize else rows


def unit(x: Row) -> Row:
    norm = max(math.sqrt(sum(v * v for v in x)), 1e-6)
    return [v / norm for v in x]


def literal_pair(similarity: MixtureOfLogits, q: Row, user: int, x: Row) -> tuple[float, Row, Row]:
    """φ(q, x), the weights π and the component scores s."""
    c = similarity.config
    if c.query_layer_norm:
        q = layer_norm(q, 1e-6)
    f = split(project(similarity.query_network, c.query_projection, q), c)
    for rows, table in zip(c.user_tables, similarity.user_tables, strict=True):
        embedding = table.table.weight[user % rows + 1].tolist()
        f.append(unit(embedding) if c.normalize else embedding)
    g = split(project(similarity.item_network, c.item_projection, x), c)
    s = [sum(a * b for a, b in zip(fi, gj, strict=True)) / c.temperature for fi in f for gj in g]
    of_query = gate_part(similarity.gate_query, q)
    of_item = gate_part(similarity.gate_item, x)
    of_pair = gate_part(similarity.gate_pair, s)
    a = []
    for p in range(len(s)):
        parts = [part[p] for part in (of_query, of_item) if part is not None]
        both = (sum(parts) if c.gate_combination == "sum" else math.prod(parts)) if parts else 0.0
        a.append(both + (0.0 if of_pair is None else of_pair[p]))
    match c.gate_combination:
        case "glu_silu":
            w = [silu(v) for v in a]
        case "glu_silu_ln":
            w = [v * sigmoid(n) for v, n in zip(a, layer_norm(a, 1e-5), strict=True)]
        case "sum":
            w = a
    powers = [math.exp(v - max(w)) for v in w]
    pi = [v / sum(powers) for v in powers]
    return sum(weight * logit for weight, logit in zip(pi, s, strict=True)), pi, s


def check_against_the_formula(config: MoLConfig) -> None:
    similarity = built(config).double()
    q, x = randn(3, D, seed=1).double(), randn(4, D, seed=2).double()
    users = torch.tensor([0, 17, 123456789])
    queries, items = similarity.queries(q, users), similarity.items(x, torch.arange(1, 5))
    found = similarity.score(queries, items)
    logits = similarity.component_logits(queries, items)
    for b, n in itertools.product(range(3), range(4)):
        score, pi, s = literal_pair(similarity, q[b].tolist(), int(users[b]), x[n].tolist())
        assert found[b, n].item() == pytest.approx(score, abs=1e-9)
        assert logits[b, n].tolist() == pytest.approx(s, abs=1e-9)
        parts = [None if gate is None else gate[i] for gate, i in ((queries.gate, b), (items.gate, n))]
        assert similarity.gates(logits[b, n], *parts).tolist() == pytest.approx(pi, abs=1e-9)
    rows = torch.tensor([[3, 0], [1, 1], [2, 3]])
    torch.testing.assert_close(similarity.score_candidates(queries, items, rows), found.gather(1, rows))


HIDDEN = [None, 0, 5]


@pytest.mark.parametrize("combination", ["glu_silu", "glu_silu_ln", "sum"])
@pytest.mark.parametrize(("query", "item", "pair"), list(itertools.product(HIDDEN, HIDDEN, HIDDEN)))
def test_every_gate_is_the_formula(query, item, pair, combination):
    check_against_the_formula(
        replace(SMALL, gate_query=query, gate_item=item, gate_pair=pair, gate_combination=combination)
    )


@pytest.mark.parametrize("of_query", ["swiglu", "geglu", "linear"])
@pytest.mark.parametrize("of_item", ["swiglu", "geglu", "linear"])
@pytest.mark.parametrize("tables", [(), (5,), (5, 3)])
@pytest.mark.parametrize("normalize", [True, False])
def test_every_projection_is_the_formula(of_query, of_item, tables, normalize):
    config = replace(
        SMALL,
        query_projection=of_query,
        item_projection=of_item,
        user_tables=tables,
        normalize=normalize,
        temperature=0.05 if normalize else 1.0,
        query_layer_norm=not tables,
    )
    check_against_the_formula(config)


CONFIGS = st.fixed_dictionaries(
    {
        "query_groups": st.integers(3, 4),
        "item_groups": st.integers(1, 3),
        "component_dim": st.integers(1, 4),
        "temperature": st.sampled_from([0.05, 0.5]),
        "normalize": st.booleans(),
        "query_projection": st.sampled_from(["swiglu", "geglu", "linear"]),
        "query_hidden": st.just(5),
        "query_layer_norm": st.booleans(),
        "item_projection": st.sampled_from(["swiglu", "geglu", "linear"]),
        "item_hidden": st.just(5),
        "user_tables": st.sampled_from([(), (3,), (7, 4)]),
        "gate_query": st.sampled_from(HIDDEN),
        "gate_item": st.sampled_from(HIDDEN),
        "gate_pair": st.sampled_from(HIDDEN),
        "gate_combination": st.sampled_from(["glu_silu", "glu_silu_ln", "sum"]),
    }
)


@given(given=CONFIGS)
@settings(max_examples=40, deadline=None)
def test_what_holds_for_every_configuration(given):
    config = MoLConfig(**given)
    similarity = built(config)
    queries, items = states(similarity)
    scores = similarity.score(queries, items)
    logits = similarity.component_logits(queries, items)
    assert logits.shape == (B, N, config.components)
    # The weights sum to one, so that the largest component bounds the score.
    pi = similarity.gates(logits, None if queries.gate is None else queries.gate[:, None], items.gate)
    assert (pi >= 0).all()
    torch.testing.assert_close(pi.sum(-1), torch.ones(B, N))
    slack = 1e-5 * logits.abs().max()
    assert (similarity.upper_bound(logits) >= scores - slack).all()
    assert (-similarity.upper_bound(-logits) <= scores + slack).all()
    # Candidates are a gather; queries do not see each other; the corpus' order is only an order.
    rows = torch.arange(N).expand(B, -1)
    torch.testing.assert_close(
        similarity.score_candidates(queries, items, rows), scores, atol=1e-4, rtol=1e-4
    )
    for b in range(B):
        torch.testing.assert_close(
            similarity.score(queries[b : b + 1], items)[0], scores[b], atol=1e-4, rtol=1e-4
        )
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    permuted = similarity.items(randn(N, D, seed=2)[order], order + 1)
    torch.testing.assert_close(similarity.score(queries, permuted), scores[:, order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        similarity.score(queries, items[order]), scores[:, order], atol=1e-4, rtol=1e-4
    )
    # States computed once are states computed again.
    again = similarity.items(randn(N, D, seed=2), torch.arange(1, N + 1))
    assert torch.equal(again.components, items.components)


def test_the_published_scores_lie_within_one_over_the_temperature():
    similarity = built(SMALL)
    scores = similarity.score(*states(similarity, b=6, n=40))
    assert scores.abs().max() <= 20.001


@pytest.mark.parametrize("missing", [{}, {"gate_item": None}, {"gate_query": None}, {"user_tables": (5, 3)}])
def test_states_save_load_and_slice(tmp_path, missing):
    similarity = built(replace(SMALL, **missing))
    queries, items = states(similarity)
    queries.save(tmp_path / "q.safetensors")
    items.save(tmp_path / "i.safetensors")
    loaded = MoLQueries.load(tmp_path / "q.safetensors"), MoLItems.load(tmp_path / "i.safetensors")
    scores = similarity.score(queries, items)
    assert torch.equal(similarity.score(*loaded), scores)
    assert (loaded[0].gate is None) == (missing == {"gate_query": None})
    part = similarity.score(queries[1:3], items[torch.tensor([8, 0])])
    torch.testing.assert_close(
        part, scores[1:3, [8, 0]], atol=2e-5, rtol=0
    )  # what float32 promises (kernels.mixture)


def test_the_user_decides_only_where_there_is_a_table():
    q, x = randn(2, D, seed=1).expand(2, D)[:1].expand(2, D), randn(N, D, seed=2)
    for tables, same in (((), True), ((5,), False)):
        similarity = built(replace(SMALL, user_tables=tables))
        queries = similarity.queries(q, torch.tensor([1, 2]))
        scores = similarity.score(queries, similarity.items(x, torch.arange(1, N + 1)))
        assert torch.allclose(scores[0], scores[1], atol=1e-5) == same
    wrapped = similarity.queries(q, torch.tensor([1, 6]))  # the same row of a table of 5
    # Not to the last bit: some processors' matrix products round the rows of a batch differently.
    torch.testing.assert_close(wrapped.components[0], wrapped.components[1])


# Training


def training_pass(
    similarity: MixtureOfLogits, tile_pairs: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, dict[str, Tensor]]:
    monkeypatch.setattr("workbench.similarities.mol.PAIRS_AT_ONCE", tile_pairs)
    similarity.zero_grad()
    queries, items = states(similarity)
    rows = torch.randint(N, (B, 5), generator=torch.Generator().manual_seed(0))
    scores = similarity.score_candidates(queries, items, rows)
    (scores * torch.linspace(-1, 1, 20).view(B, 5)).sum().backward()
    return scores.detach(), {n: p.grad for n, p in similarity.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("missing", [{}, {"gate_query": None}, {"gate_item": None}, {"gate_pair": None}])
def test_gradients_do_not_depend_on_the_tile(monkeypatch, missing):
    similarity = built(
        replace(SMALL, gate_dropout=0.0, item_dropout=0.0, user_tables=(5,), user_dropout=0.0, **missing)
    )
    scores, gradients = training_pass(similarity.train(), 1, monkeypatch)
    for pairs in (7, 1000):
        others, found = training_pass(similarity, pairs, monkeypatch)
        torch.testing.assert_close(others, scores)
        assert found.keys() == gradients.keys() == dict(similarity.named_parameters()).keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4)


def test_gradients_of_candidates_are_those_of_the_dense_scores():
    similarity = built(replace(SMALL, gate_dropout=0.0, item_dropout=0.0)).train()
    rows = torch.randint(N, (B, 5), generator=torch.Generator().manual_seed(0))
    gradients = []
    for gathered in (True, False):
        similarity.zero_grad()
        queries, items = states(similarity)
        scores = (
            similarity.score_candidates(queries, items, rows)
            if gathered
            else similarity.score(queries, items).gather(1, rows)
        )
        scores.sum().backward()
        gradients.append([p.grad for p in similarity.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_gradients_with_dropout_are_those_of_finite_differences():
    similarity = (
        built(replace(SMALL, gate_dropout=0.5, gate_input_dropout=0.3, temperature=1.0)).double().train()
    )
    rows = torch.randint(N, (B, 2), generator=torch.Generator().manual_seed(0))
    q, x = randn(B, D, seed=1).double().requires_grad_(), randn(N, D, seed=2).double().requires_grad_()

    def scores(q: Tensor, x: Tensor, *parameters: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(4)
            queries = similarity.queries(q, torch.zeros(B, dtype=torch.long))
            items = similarity.items(x, torch.arange(1, N + 1))
            return similarity.score_candidates(queries, items, rows)

    assert torch.autograd.gradcheck(scores, (q, x, *similarity.gate_pair.parameters()), fast_mode=True)


def test_gate_dropout_leaves_weights_that_sum_to_one():
    similarity = built(replace(SMALL, gate_dropout=0.5, temperature=1.0)).train()
    queries, items = states(similarity)
    logits = similarity.component_logits(queries, items)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pi = similarity.gates(logits, queries.gate[:, None], items.gate)
    dropped = (pi == 0).float().mean().item()
    assert 0.3 < dropped < 0.7
    alive = (pi > 0).any(-1)
    torch.testing.assert_close(pi.sum(-1)[alive], torch.ones(int(alive.sum())))
    assert (pi.sum(-1)[~alive] == 0).all()


@pytest.mark.parametrize("whole", [True, False])
def test_user_embeddings_are_dropped_by_element_or_as_a_whole(whole):
    config = replace(
        SMALL, user_tables=(50,), user_dropout=0.5, user_dropout_whole=whole, normalize=False, temperature=1.0
    )
    similarity = built(config).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        queries = similarity.queries(randn(400, D), torch.arange(400))
    raw = similarity.user_tables[0].table.weight[torch.arange(400) % 50 + 1]
    ratio = queries.components[:, -1] / raw
    assert set(ratio.detach().round(decimals=3).flatten().tolist()) == {0.0, 2.0}
    mixed = ((ratio > 1).any(1) & (ratio < 1).any(1)).float().mean().item()
    assert mixed == 0 if whole else mixed > 0.8
    assert (ratio > 1).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_the_balance_loss_is_the_negative_mutual_information():
    similarity = built(replace(SMALL, balance_weight=0.25))
    queries, items = states(similarity)
    rows = torch.tensor([3, 0, 8, 3])
    losses = similarity.regularizers(queries, items, rows)
    assert losses.keys() == {"balance"}
    q, x = randn(B, D, seed=1).tolist(), randn(N, D, seed=2).tolist()
    weights = [literal_pair(similarity, q[b], 0, x[int(rows[b])])[1] for b in range(B)]

    def entropy(pi: Row) -> float:
        return -sum(v * math.log(v) for v in pi)

    mean = [sum(column) / B for column in zip(*weights, strict=True)]
    expected = sum(entropy(pi) for pi in weights) / B - entropy(mean)
    assert expected < 0
    assert losses["balance"].item() == pytest.approx(0.25 * expected, abs=1e-5)


def test_the_balance_loss_spreads_weights_over_the_components():
    similarity = built(replace(SMALL, balance_weight=1.0, gate_dropout=0.0))
    rows = torch.arange(B)
    optimizer = torch.optim.Adam(similarity.parameters(), lr=0.1)
    values = []
    for _ in range(30):
        queries, items = states(similarity)
        loss = similarity.regularizers(queries, items, rows)["balance"]
        values.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert values[-1] < values[0] - 0.3
    assert values[-1] >= -math.log(min(B, SMALL.components)) - 1e-4  # the most that B pairs can tell


@pytest.mark.parametrize("dropout", [0.0, 0.8])
@pytest.mark.parametrize("training", [True, False])
def test_the_user_norm_is_that_of_the_embeddings_before_dropout(dropout, training):
    config = replace(
        SMALL, user_tables=(5, 3), user_norm_weight=0.1, user_dropout=dropout, balance_weight=0.0
    )
    similarity = built(config).train(training)
    users = torch.tensor([0, 17, 5, 123456789])
    queries, items = (
        similarity.queries(randn(B, D), users),
        similarity.items(randn(N, D), torch.arange(1, N + 1)),
    )
    losses = similarity.regularizers(queries, items, torch.arange(B))
    assert losses.keys() == {"user norm"}
    squares = [
        sum(v * v for v in table.table.weight[int(user) % rows + 1].tolist())
        for user in users
        for rows, table in zip(config.user_tables, similarity.user_tables, strict=True)
    ]
    assert losses["user norm"].item() == pytest.approx(0.1 * sum(squares) / B, rel=1e-5)
    losses["user norm"].backward()
    gradient = similarity.user_tables[0].table.weight.grad
    assert gradient is not None and (gradient[0] == 0).all() and (gradient[1] != 0).all()


def test_without_weights_there_are_no_regularizers():
    similarity = built(replace(SMALL, user_tables=(5,), balance_weight=0.0, user_norm_weight=0.0))
    assert similarity.regularizers(*states(similarity), torch.arange(B)) == {}
    similarity = built(replace(SMALL, balance_weight=0.0))
    assert similarity.regularizers(*states(similarity), torch.arange(B)) == {}


def test_under_autocast_no_gradient_is_lost():
    similarity = built(replace(SMALL, gate_dropout=0.0, item_dropout=0.0)).train()
    gradients = []
    for enabled in (True, False):
        similarity.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            queries, items = states(similarity)
            scores = similarity.score_candidates(queries, items, torch.arange(N).expand(B, -1))
            balance = similarity.regularizers(queries, items, torch.arange(B))["balance"]
        (scores.float().std() + 1000 * balance.float()).backward()
        gradients.append([p.grad.flatten() for p in similarity.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) == len(list(similarity.parameters()))
    for low, full in zip(*gradients, strict=True):
        assert torch.cosine_similarity(low, full, dim=0) > 0.9


@pytest.mark.parametrize("name", ["gate_pair", "gate_query", "item_network"])
def test_a_frozen_part_stays_and_the_rest_learns(name):
    similarity = built(replace(SMALL, gate_dropout=0.0)).train()
    getattr(similarity, name).requires_grad_(False)
    queries, items = states(similarity)
    similarity.score_candidates(queries, items, torch.arange(N).expand(B, -1)).sum().backward()
    for parameter_name, parameter in similarity.named_parameters():
        assert (parameter.grad is None) == parameter_name.startswith(name), parameter_name


def test_pair_bytes_cover_what_score_holds(monkeypatch):
    assert built(SMALL).double().pair_bytes >= 8 * SMALL.components * 3
    monkeypatch.setattr("workbench.kernels.mixture_native.available", lambda: False)
    similarity = built(SMALL)
    assert similarity.pair_bytes >= 4 * SMALL.components * 3
    assert built(replace(SMALL, gate_pair=1000)).pair_bytes > similarity.pair_bytes


@pytest.mark.parametrize("grad", [True, False])
def test_without_a_gradient_scores_are_those_with_one(grad):
    similarity = built(SMALL)
    rows = torch.randint(N, (B, 5), generator=torch.Generator().manual_seed(0))
    learned = states(similarity)
    with torch.set_grad_enabled(grad):
        if grad:  # nothing here needs a gradient
            similarity.requires_grad_(False)
        plain = states(similarity)
        scores = similarity.score(*plain)
        candidates = similarity.score_candidates(*plain, rows)
    assert not scores.requires_grad and not candidates.requires_grad
    similarity.requires_grad_(True)
    expected = similarity.score(*learned)
    assert expected.requires_grad and similarity.score_candidates(*learned, rows).requires_grad
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(candidates, expected.gather(1, rows), atol=1e-5, rtol=1e-5)


def test_states_may_be_stored_in_half_the_bytes():
    similarity = built(SMALL).requires_grad_(False)
    queries, items = states(similarity)
    half = items.to(dtype=torch.bfloat16)
    assert half.nbytes() < 0.75 * items.nbytes()
    scores = similarity.score(queries, half)
    assert scores.dtype == torch.float32
    # The arithmetic is that of float32 on the rounded state.
    assert torch.equal(scores, similarity.score(queries, half.to(dtype=torch.float32)))
    assert (scores - similarity.score(queries, items)).abs().max() < 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_groups": 0}, "query_groups"),
        ({"component_dim": 0}, "component_dim"),
        ({"user_tables": (4, 4, 4)}, "3 user tables leave no query group"),
        ({"temperature": 0.0}, "temperature"),
        ({"gate_dropout": 1.0}, "gate_dropout"),
        ({"item_dropout": -0.1}, "item_dropout"),
        ({"user_dropout": 1.5}, "user_dropout"),
        ({"gate_pair": -1}, "gate_pair"),
        ({"query_hidden": 0}, "query_hidden"),
        ({"user_tables": (0,)}, "at least 1 row"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        built(replace(SMALL, **change))
