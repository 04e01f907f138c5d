from dataclasses import replace

import pytest
import torch

from workbench.encoders.bert4rec import BERT4Rec, BERT4RecConfig


@pytest.fixture
def encoder() -> BERT4Rec:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        encoder = BERT4Rec(BERT4RecConfig(ffn_dim=32), dim=16, max_length=6).eval()
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def test_a_hidden_item_has_no_influence(encoder, make_batch, item_table):
    hidden = torch.tensor([[False, True, False, True]])
    one, other = make_batch([[1, 2, 3, 4]]), make_batch([[1, 20, 3, 40]])
    outputs = [encoder(item_table[b.item_ids], replace(b, masked=hidden)) for b in (one, other)]
    assert torch.equal(outputs[0], outputs[1])
    queries = [encoder.encode(item_table[b.item_ids], replace(b, masked=hidden)) for b in (one, other)]
    assert torch.equal(queries[0], queries[1])
    seen = [encoder.encode(item_table[b.item_ids], b) for b in (one, other)]
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)


def test_no_gradient_reaches_a_hidden_item(encoder, make_batch, item_table):
    batch = make_batch([[1, 2, 3, 4]])
    embeddings = item_table[batch.item_ids].requires_grad_()
    hidden = torch.tensor([[False, True, False, False]])
    encoder(embeddings, replace(batch, masked=hidden)).square().sum().backward()
    assert embeddings.grad is not None
    assert (embeddings.grad[0, 1] == 0).all()
    assert (embeddings.grad[0, [0, 2, 3]] != 0).any(dim=1).all()


def test_both_sides_are_seen(encoder, make_batch, item_table):
    before, after = make_batch([[1, 2, 3, 4]]), make_batch([[1, 2, 3, 5]])
    outputs = [encoder(item_table[b.item_ids], b) for b in (before, after)]
    assert (outputs[0] - outputs[1]).abs().amax(dim=-1).min() > 1e-4  # every position, the first too


def test_encode_appends_a_hidden_position(encoder, make_batch, item_table):
    batch, appended = make_batch([[1, 2, 3], [7]]), make_batch([[1, 2, 3, 30], [7, 31]])
    hidden = torch.tensor([[False, False, False, True], [False, True, False, False]])
    outputs = encoder(item_table[appended.item_ids], replace(appended, masked=hidden))
    queries = encoder.encode(item_table[batch.item_ids], batch)
    torch.testing.assert_close(queries, torch.stack([outputs[0, 3], outputs[1, 1]]))


def test_a_full_history_drops_its_oldest_item_for_the_mask(encoder, make_batch, item_table):
    batch = make_batch([[1, 2, 3, 4, 5, 6], [9, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7], [2, 3, 4, 5, 6]])
    queries = encoder.encode(item_table[batch.item_ids], batch)
    torch.testing.assert_close(queries[0], queries[1])
    torch.testing.assert_close(queries[0], queries[3])
    assert not torch.allclose(queries[0], queries[2], atol=1e-3)


def test_order_counts(encoder, make_batch, item_table):
    batch = make_batch([[1, 2, 3], [3, 1, 2]])
    queries = encoder.encode(item_table[batch.item_ids], batch)
    assert not torch.allclose(queries[0], queries[1], atol=1e-3)


@pytest.mark.parametrize("bad", [{"blocks": 0}, {"heads": 0}, {"ffn_dim": 0}, {"dropout": 1.0}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        BERT4RecConfig(**bad)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="must divide"):
        BERT4Rec(BERT4RecConfig(heads=3), dim=16, max_length=6)
    with pytest.raises(ValueError, match="max_length 2 or more"):
        BERT4Rec(BERT4RecConfig(), dim=16, max_length=1)
