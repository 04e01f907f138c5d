"""The gated blocks of eSASRec, held to their formula."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.contracts import SequenceBatch
from workbench.encoders.esasrec import ESASRec, ESASRecConfig, LiGRBlock

MakeBatch = Callable[..., SequenceBatch]
DIM, HEADS = 16, 2


def literal(block: LiGRBlock, x: Tensor) -> Tensor:
    """One history (L, D) through the formula, with torch's own attention."""

    def parts(flat: Tensor) -> Tensor:
        return flat.unflatten(-1, (HEADS, -1)).transpose(0, 1)

    q, k, v = (parts(t) for t in block.project_in(block.attention_norm(x)).chunk(3, dim=-1))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).flatten(1)
    y = x + torch.sigmoid(block.attention_gate(x)) * block.project_out(mixed)
    gate, value = block.ffn_in(block.ffn_norm(y)).chunk(2, dim=-1)
    return y + torch.sigmoid(block.ffn_gate(y)) * block.ffn_out(F.silu(gate) * value)


def test_the_blocks_compute_their_formula(make_batch: MakeBatch, item_table: Tensor) -> None:
    torch.manual_seed(4)
    encoder = ESASRec(ESASRecConfig(blocks=2, heads=HEADS, dropout=0.3), DIM, 8).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    batch = make_batch([[3, 14, 15, 9, 26], [5], [8, 2, 7]])
    outputs = encoder(item_table[batch.item_ids], batch)
    inputs = encoder.inputs(item_table[batch.item_ids], batch)
    for row, length in enumerate(batch.lengths.tolist()):
        x = inputs[row, :length]
        for block in encoder.blocks:
            assert isinstance(block, LiGRBlock)
            x = literal(block, x)
        torch.testing.assert_close(outputs[row, :length], x, atol=2e-5, rtol=1e-4)


def test_a_closed_gate_leaves_the_input(make_batch: MakeBatch, item_table: Tensor) -> None:
    encoder = ESASRec(ESASRecConfig(blocks=1), DIM, 8).eval()
    block = encoder.blocks[0]
    assert isinstance(block, LiGRBlock)
    with torch.no_grad():
        for gate in (block.attention_gate, block.ffn_gate):
            gate.weight.zero_()
            gate.bias.fill_(-100.0)
    batch = make_batch([[3, 14, 15]])
    embeddings = item_table[batch.item_ids]
    torch.testing.assert_close(encoder(embeddings, batch), encoder.inputs(embeddings, batch))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 0}, "at least 1"),
        ({"heads": 0}, "at least 1"),
        ({"ffn_multiple": 0}, "at least 1"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ESASRecConfig(**change)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of 3 heads"):
        ESASRec(ESASRecConfig(heads=3), DIM, 8)
