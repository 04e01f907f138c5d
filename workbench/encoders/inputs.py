"""The input stage that SASRec, eSASRec and HSTU share: scaled item embeddings plus learned positions."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.contracts import SequenceBatch
from workbench.kernels.dropout import Dropout

OUTPUT_SLOTS = 11
"""The published code pads every sequence by ten output slots and one target; its position tables are that much longer."""


def check_length(batch: SequenceBatch, max_length: int) -> None:
    """ValueError if a batch is longer than the encoder was built for."""
    length = batch.item_ids.shape[1]
    if length > max_length:
        raise ValueError(
            f"histories of up to {length} items, but this encoder reads {max_length}; keep the last {max_length}"
        )


def last_positions(outputs: Float[Tensor, "B L D"], batch: SequenceBatch) -> Float[Tensor, "B D"]:
    """The output at the last valid position of each history: the query of a causal encoder."""
    return outputs[torch.arange(outputs.shape[0], device=outputs.device), batch.lengths - 1]


class PositionalInput(nn.Module):
    """x_i = dropout(√D · e_i + p_i), and 0 at padding.

    Source: the published generative-recommenders input stage; the table has `max_length + OUTPUT_SLOTS` rows so that
    published checkpoints fit.
    """

    def __init__(self, dim: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.scale = math.sqrt(dim)
        self.positions = nn.Parameter(torch.empty(max_length + OUTPUT_SLOTS, dim))
        self.dropout = Dropout(dropout)
        nn.init.xavier_normal_(self.positions)

    def forward(self, embeddings: Float[Tensor, "B L D"], batch: SequenceBatch) -> Float[Tensor, "B L D"]:
        """The encoder's input (B, L, D)."""
        x = self.dropout(embeddings * self.scale + self.positions[: embeddings.shape[1]])
        return x * batch.valid[..., None].to(x.dtype)
