import pytest
import torch

from workbench.encoders.two_tower import TwoTower, TwoTowerConfig


def identity_tower(config: TwoTowerConfig) -> TwoTower:
    """A linear tower that hands on the last 16 of its inputs, so that outputs show what is pooled."""
    encoder = TwoTower(config, dim=16, max_length=200).eval()
    linear = encoder.tower[-1]
    with torch.no_grad():
        linear.weight.copy_(torch.eye(linear.in_features)[:16])
        linear.bias.zero_()
    return encoder


@pytest.mark.parametrize("last_item", [False, True])
def test_pooling_is_the_causal_decayed_mean(last_item, make_batch, item_table):
    encoder = identity_tower(TwoTowerConfig(hidden_dims=(), decay=0.5, last_item=last_item))
    batch = make_batch([[1, 2, 3]])
    x = item_table[batch.item_ids]
    expected = torch.stack([x[0, 0], (x[0, 0] + 2 * x[0, 1]) / 3, (x[0, 0] + 2 * x[0, 1] + 4 * x[0, 2]) / 7])
    torch.testing.assert_close(encoder(x, batch)[0], expected)


def test_without_decay_the_mean_is_plain(make_batch, item_table):
    encoder = identity_tower(TwoTowerConfig(hidden_dims=(), last_item=False))
    batch = make_batch([[4, 9, 2, 7], [5, 5]])
    x = item_table[batch.item_ids]
    torch.testing.assert_close(encoder.encode(x, batch), torch.stack([x[0].mean(dim=0), x[1, 0]]))


def test_a_strong_decay_over_a_long_history_stays_finite(make_batch, item_table):
    encoder = identity_tower(TwoTowerConfig(hidden_dims=(), decay=0.01, last_item=False))
    batch = make_batch([[i % 40 + 1 for i in range(200)]])
    queries = encoder.encode(item_table[batch.item_ids], batch)
    assert queries.isfinite().all()
    close_to = (item_table[40] * 0.99 + item_table[39] * 0.0099)[None]
    torch.testing.assert_close(queries, close_to, atol=1e-3, rtol=0)


def test_the_last_item_counts_in_addition_to_the_mean(make_batch, item_table):
    config = TwoTowerConfig(hidden_dims=(8,))
    encoder = TwoTower(config, dim=16, max_length=4).eval()
    batch = make_batch([[1, 2, 3], [2, 1, 3], [3, 2, 1]])  # one mean; rows 0 and 1 share the last item too
    queries = encoder.encode(item_table[batch.item_ids], batch)
    torch.testing.assert_close(queries[0], queries[1])
    assert not torch.allclose(queries[0], queries[2], atol=1e-3)


@pytest.mark.parametrize("bad", [{"hidden_dims": (8, 0)}, {"dropout": 1.0}, {"decay": 0.0}, {"decay": 1.5}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        TwoTowerConfig(**bad)
