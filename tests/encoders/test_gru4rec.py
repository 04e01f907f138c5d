import pytest
import torch

from workbench.encoders.gru4rec import GRU4Rec, GRU4RecConfig


def test_the_recurrence_is_the_gru_of_the_docstring(make_batch, item_table):
    encoder = GRU4Rec(GRU4RecConfig(hidden_dim=6, dropout=0.3), dim=16, max_length=5).eval()
    batch = make_batch([[3, 1, 4, 1, 5]])
    gru, state, expected = encoder.gru, torch.zeros(6), []
    for x in item_table[batch.item_ids[0]]:
        reset_x, update_x, new_x = (gru.weight_ih_l0 @ x + gru.bias_ih_l0).chunk(3)
        reset_h, update_h, new_h = (gru.weight_hh_l0 @ state + gru.bias_hh_l0).chunk(3)
        update = torch.sigmoid(update_x + update_h)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        state = (1 - update) * new + update * state
        expected.append(encoder.output(state))
    outputs = encoder(item_table[batch.item_ids], batch)[0]
    torch.testing.assert_close(outputs, torch.stack(expected), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bad", [{"hidden_dim": 0}, {"layers": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        GRU4RecConfig(**bad)
