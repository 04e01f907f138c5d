"""Causal softmax attention over jagged histories, in C++ where that serves, else in torch; and encoders of blocks of it."""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.contracts import Encoder, SequenceBatch
from workbench.encoders.inputs import PositionalInput, check_length, last_positions
from workbench.encoders.jagged import ByLength, Group, by_length
from workbench.kernels.causal_attention import WeightDropout, causal_attention, serves


def self_attention(
    qkv: Float[Tensor, "T W"], histories: ByLength, heads: int, dropout: float
) -> Float[Tensor, "T V"]:
    """dropout(softmax(QKᵀ / √d)) V of each history, position i seeing 0..i.

    `qkv`: the jagged rows of all histories, W = 3 H d: queries, keys and values, heads one after the other in each; V = H d.
    `dropout`: the probability to drop a weight; which ones is decided by torch's generator.
    """
    weights = WeightDropout(dropout, seed=int(torch.randint(2**62, ()))) if dropout else WeightDropout()
    if serves(qkv):
        return causal_attention(qkv, histories.whole.offsets, heads, weights)
    return torch.cat([_attend(qkv[group.rows], group, heads, weights) for group in histories.groups])


def _attend(
    qkv: Float[Tensor, "t W"], group: Group, heads: int, dropout: WeightDropout
) -> Float[Tensor, "t V"]:
    grid = group.layout.pad(qkv).unflatten(-1, (3, heads, -1))  # (B, L, 3, heads, d)
    q, k, v = (t.transpose(1, 2) for t in grid.unbind(2))  # (B, heads, L, d)
    if dropout.probability and q.device.type == "cpu":  # the mask of the C++ version
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        later = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        weights = logits.masked_fill(later, float("-inf")).softmax(-1)
        rows = group.rows.start + group.layout.offsets[:-1, None] + torch.arange(group.layout.length)
        mask = dropout.mask(rows, heads, group.layout.length)  # (B, L, heads, L)
        attended = (weights * mask.transpose(1, 2).to(weights.dtype)) @ v
    else:
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout.probability)
    return group.layout.unpad(attended.transpose(1, 2).flatten(2))


class CausalBlocks(Encoder):
    """Item embeddings with positions, then blocks that map the jagged rows of all histories (T, D) to as many.

    Of valid positions alone; `dropout`: that of the input.
    """

    objective: Literal["next item", "masked item"] = "next item"

    def __init__(self, blocks: Iterable[nn.Module], dim: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.max_length = max_length
        self.inputs = PositionalInput(dim, max_length, dropout)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, embeddings: Float[Tensor, "B L D"], batch: SequenceBatch) -> Float[Tensor, "B L D"]:
        """One output per position (B, L, D); position i sees 0..i."""
        check_length(batch, self.max_length)
        histories = by_length(batch.lengths, embeddings.shape[1])
        x = histories.flat(self.inputs(embeddings, batch))
        for block in self.blocks:
            x = block(x, histories)
        return histories.padded(x)

    def encode(self, embeddings: Float[Tensor, "B L D"], batch: SequenceBatch) -> Float[Tensor, "B D"]:
        """The output at the last position (B, D)."""
        return last_positions(self(embeddings, batch), batch)
