"""What every encoder promises, whatever its kind."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from workbench.contracts import Encoder
from workbench.encoders import build
from workbench.encoders.bert4rec import BERT4RecConfig
from workbench.encoders.esasrec import ESASRecConfig
from workbench.encoders.gru4rec import GRU4RecConfig
from workbench.encoders.hstu import HSTUConfig
from workbench.encoders.sasrec import SASRecConfig
from workbench.encoders.two_tower import TwoTowerConfig
from workbench.training.objectives import masked_item, next_item

DIM, MAX_LENGTH = 16, 8
CONFIGS = {
    "sasrec": SASRecConfig(blocks=2, heads=2, ffn_dim=32, dropout=0.1),
    "esasrec": ESASRecConfig(blocks=2, heads=2, ffn_multiple=2, dropout=0.1),
    "hstu": HSTUConfig(blocks=2, heads=2, qk_dim=8, v_dim=8, dropout=0.1),
    "gru4rec": GRU4RecConfig(hidden_dim=24, layers=2, dropout=0.1),
    "bert4rec": BERT4RecConfig(blocks=2, heads=2, ffn_dim=32, dropout=0.1),
    "two_tower": TwoTowerConfig(hidden_dims=(32,), dropout=0.1),
    "two_tower, decayed": TwoTowerConfig(hidden_dims=(24, 24), dropout=0.1, decay=0.6, last_item=False),
}
CAUSAL = [name for name in CONFIGS if name != "bert4rec"]
HISTORIES = [
    [3, 14, 15, 9, 26],
    [5],
    [35, 8, 9, 7, 9, 3, 2, 38],
    [4, 6, 2],
]  # one item; all of max_length; a repeat


def built(name: str, max_length: int = MAX_LENGTH) -> Encoder:
    """An encoder in evaluation mode with weights large enough to tell inputs apart, the same at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = build(CONFIGS[name], DIM, max_length)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder.eval()


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_and_finite_outputs(name, make_batch, item_table):
    batch = make_batch(HISTORIES)
    encoder, embeddings = built(name), item_table[batch.item_ids]
    outputs, queries = encoder(embeddings, batch), encoder.encode(embeddings, batch)
    assert outputs.shape == (4, MAX_LENGTH, DIM)
    assert queries.shape == (4, DIM)
    assert outputs.isfinite().all() and queries.isfinite().all()
    assert (
        torch.cdist(queries, queries).fill_diagonal_(1).min() > 1e-3
    )  # different histories, different queries


@pytest.mark.parametrize("name", CONFIGS)
def test_the_registry_builds_what_the_config_names(name):
    kind, encoder = CONFIGS[name].kind, built(name)
    assert type(encoder).__name__.lower() == kind.replace("_", "")
    assert encoder.objective == ("masked item" if kind == "bert4rec" else "next item")


@pytest.mark.parametrize("name", CAUSAL)
def test_a_later_item_never_changes_an_earlier_output(name, make_batch, item_table):
    encoder, history = built(name), [3, 14, 15, 9, 26, 5]
    batch = make_batch([history])
    before = encoder(item_table[batch.item_ids], batch)
    for position in range(len(history)):
        changed = make_batch([[*history[:position], 33, *history[position + 1 :]]])
        after = encoder(item_table[changed.item_ids], changed)
        close(after[:, :position], before[:, :position])
        assert (after[:, position:] - before[:, position:]).abs().amax(dim=-1).min() > 1e-5


@pytest.mark.parametrize("name", CAUSAL)
def test_encode_is_forward_at_the_last_position(name, make_batch, item_table):
    encoder, batch = built(name), make_batch(HISTORIES)
    embeddings = item_table[batch.item_ids]
    outputs = encoder(embeddings, batch)
    close(encoder.encode(embeddings, batch), outputs[torch.arange(len(batch)), batch.lengths - 1])


@pytest.mark.parametrize("name", CONFIGS)
def test_padding_changes_nothing(name, make_batch, item_table):
    encoder, histories = built(name), [[3, 14, 15, 9], [5], [8, 9]]
    short, wide = make_batch(histories), make_batch(histories, width=MAX_LENGTH)
    outputs, padded = encoder(item_table[short.item_ids], short), encoder(item_table[wide.item_ids], wide)
    close(padded[:, :4][short.valid], outputs[short.valid])
    queries = encoder.encode(item_table[short.item_ids], short)
    close(encoder.encode(item_table[wide.item_ids], wide), queries)
    dirty = torch.where(
        wide.valid[:, :, None], item_table[wide.item_ids], 5.0
    )  # nor does what stands at padding
    close(encoder(dirty, wide)[wide.valid], outputs[short.valid])
    close(encoder.encode(dirty, wide), queries)


@pytest.mark.parametrize("name", CONFIGS)
@given(
    histories=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=MAX_LENGTH), min_size=1, max_size=5)
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_batch_equals_one_by_one(name, histories, make_batch, item_table):
    encoder, batch = built(name), make_batch(histories)
    embeddings = item_table[batch.item_ids]
    outputs, queries = encoder(embeddings, batch), encoder.encode(embeddings, batch)
    for row, history in enumerate(histories):
        alone = make_batch([history])
        close(outputs[row, : len(history)], encoder(item_table[alone.item_ids], alone)[0])
        close(queries[row], encoder.encode(item_table[alone.item_ids], alone)[0])


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_gets_a_finite_gradient(name, make_batch, item_table):
    encoder, batch = built(name).train(), make_batch(HISTORIES)
    if encoder.objective == "masked item":
        batch = replace(batch, masked=batch.valid & (batch.item_ids % 2 == 0))
    embeddings = item_table[batch.item_ids].requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder(embeddings, batch)[batch.valid].square().sum().backward()
    assert embeddings.grad is not None and embeddings.grad.isfinite().all()
    assert embeddings.grad.abs().sum() > 0
    assert (embeddings.grad[~batch.valid] == 0).all()
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", CONFIGS)
def test_too_long_a_history_is_refused(name, make_batch, item_table):
    encoder, batch = built(name), make_batch([list(range(1, MAX_LENGTH + 2))])
    for call in (encoder, encoder.encode):
        with pytest.raises(ValueError, match=rf"{MAX_LENGTH + 1}.*{MAX_LENGTH}"):
            call(item_table[batch.item_ids], batch)


@pytest.mark.parametrize("name", CONFIGS)
def test_evaluation_is_deterministic_and_training_is_seeded(name, make_batch, item_table):
    encoder, batch = built(name), make_batch(HISTORIES)
    embeddings = item_table[batch.item_ids]
    assert torch.equal(encoder(embeddings, batch), encoder(embeddings, batch))
    assert torch.equal(encoder.encode(embeddings, batch), built(name).encode(embeddings, batch))

    def trained(seed: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return encoder.train()(embeddings, batch)[batch.valid]

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))  # dropout is at work


def learnt_accuracy(encoder: Encoder, table: nn.Embedding, make_batch, items: int, steps: int) -> float:
    """Accuracy of the next item of cyclic histories (…, i, i + 1, …) after full-softmax training."""
    generator = torch.Generator().manual_seed(5)

    def cyclic(count: int):
        starts = torch.randint(items, (count,), generator=generator).tolist()
        lengths = torch.randint(1, MAX_LENGTH + 1, (count,), generator=generator).tolist()
        runs = [
            [(start + step) % items + 1 for step in range(length + 1)]
            for start, length in zip(starts, lengths, strict=True)
        ]
        return make_batch([run[:-1] for run in runs], targets=[run[-1] for run in runs])

    optimizer = torch.optim.Adam([*encoder.parameters(), *table.parameters()], lr=5e-3)
    for _ in range(steps):
        batch = cyclic(64)
        if encoder.objective == "masked item":
            batch, targets = masked_item(batch, 0.3, generator, MAX_LENGTH, last_only=0.5)
        else:
            targets = next_item(batch)
        queries = encoder(table(batch.item_ids), batch).flatten(0, 1)[targets.positions]
        loss = cross_entropy(queries @ table.weight[1:].T, targets.target_ids - 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch = cyclic(256)
    with torch.no_grad():
        queries = encoder.eval().encode(table(batch.item_ids), batch)
        guesses = (queries @ table.weight[1:].T).argmax(dim=1) + 1
    return (guesses == batch.target_ids).float().mean().item()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_cycle_of_items_is_learnt(name, make_batch):
    items = 12
    with torch.random.fork_rng():
        torch.manual_seed(11)
        encoder = build(CONFIGS[name], DIM, MAX_LENGTH)
        table = nn.Embedding(items + 1, DIM, padding_idx=0)
        steps = 600 if encoder.objective == "masked item" else 150  # a cloze batch has fewer targets
        assert learnt_accuracy(encoder, table, make_batch, items, steps) > 0.9
