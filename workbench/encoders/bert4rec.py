"""BERT4Rec: a bidirectional transformer that fills in hidden items."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from workbench.contracts import PADDING_ID, Encoder, SequenceBatch
from workbench.encoders.inputs import check_length, last_positions
from workbench.encoders.registry import register


@dataclass(frozen=True)
class BERT4RecConfig:
    """Settings of BERT4Rec.

    Raises ValueError if a size is below 1, or `dropout` not in [0, 1).
    """

    kind: ClassVar[str] = "bert4rec"

    blocks: int = 2
    """Transformer blocks."""
    heads: int = 2
    """Attention heads; must divide the embedding width."""
    ffn_dim: int = 256
    """Hidden width of the feed-forward layers (4 times the embedding width in the paper)."""
    dropout: float = 0.1
    """Share of embeddings, attention weights and sublayer outputs that is dropped in training."""

    def __post_init__(self) -> None:
        if self.blocks < 1 or self.heads < 1 or self.ffn_dim < 1:
            raise ValueError(f"blocks, heads and ffn_dim must be at least 1: {self}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout}")


class _Block(nn.Module):
    """Attention over all valid positions, then a feed-forward network; a norm after each residual sum."""

    def __init__(self, config: BERT4RecConfig, dim: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_dropout = config.dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.merge = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn_dim), nn.GELU(), nn.Linear(config.ffn_dim, dim))
        self.ffn_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "B L D"], valid: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        x = self.attention_norm(x + self.dropout(self._attend(x, valid)))
        outputs: Tensor = self.ffn_norm(x + self.dropout(self.ffn(x)))
        return outputs

    def _attend(self, x: Float[Tensor, "B L D"], valid: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (B, heads, L, D / heads)
        mixed = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=valid[:, None, None, :],
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        outputs: Tensor = self.merge(mixed.transpose(1, 2).flatten(-2))  # (B, L, D)
        return outputs


@register(BERT4RecConfig, title="BERT4Rec", color="#E69F00", marks=("dashdot", "cross", "."))
class BERT4Rec(Encoder):
    """A bidirectional transformer over the history, with a learned embedding in place of each hidden item.

    h⁰_i = LN(x_i + p_i), or LN(mask + p_i) if the item is masked; post-norm blocks of attention and GELU feed-forward
    networks; output LN(GELU(W h + b)). The query embedding of a history is the output at a mask appended to it.

    Source: "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer"
    (Sun et al., 2019), section 3; the layer norms after the input sum and after the output projection are
    those of BERT. What differs: histories are padded on the right, so position 0 is the oldest item that is
    kept, and the score, with its bias, belongs to the similarity.
    """

    objective: Literal["next item", "masked item"] = "masked item"

    def __init__(self, config: BERT4RecConfig, dim: int, max_length: int) -> None:
        """Raises ValueError if `heads` does not divide `dim`, or `max_length` has no room for the mask."""
        super().__init__()
        if dim % config.heads:
            raise ValueError(f"heads ({config.heads}) must divide the embedding width ({dim})")
        if max_length < 2:
            raise ValueError(
                f"BERT4Rec needs max_length 2 or more, for an item and the mask, not {max_length}"
            )
        self.max_length = max_length
        self.mask = nn.Parameter(torch.empty(dim))
        self.positions = nn.Embedding(max_length, dim)
        self.input_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config, dim) for _ in range(config.blocks))
        self.output = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))
        nn.init.trunc_normal_(self.mask, std=0.02, a=-0.04, b=0.04)
        self.apply(_initialize)

    def forward(self, embeddings: Float[Tensor, "B L D"], batch: SequenceBatch) -> Float[Tensor, "B L D"]:
        """One embedding per position, from both sides; items marked in `batch.masked` have no influence.

        Raises ValueError if L exceeds this encoder's `max_length`, or a history is empty.
        """
        check_length(batch, self.max_length)
        if batch.masked is not None:
            embeddings = torch.where(batch.masked[:, :, None], self.mask.to(embeddings.dtype), embeddings)
        x = self.dropout(self.input_norm(embeddings + self.positions.weight[: embeddings.shape[1]]))
        valid = batch.valid
        for block in self.blocks:
            x = block(x, valid)
        outputs: Tensor = self.output(x)
        return outputs

    def encode(self, embeddings: Float[Tensor, "B L D"], batch: SequenceBatch) -> Float[Tensor, "B D"]:
        """The output at a mask appended to each history; one of `max_length` items drops its oldest for it.

        Items marked in `batch.masked` stay hidden. Raises ValueError as `forward` does.
        """
        check_length(batch, self.max_length)
        lengths = (batch.lengths + 1).clamp(max=self.max_length)
        width = min(embeddings.shape[1] + 1, self.max_length)
        positions = torch.arange(width, device=lengths.device)
        dropped = batch.lengths + 1 - lengths  # (B,), 1 if the window shifts
        sources = (positions + dropped[:, None]).clamp(max=embeddings.shape[1] - 1)  # (B, width)
        appended = positions == (lengths - 1)[:, None]  # (B, width)
        hidden = appended if batch.masked is None else appended | batch.masked.gather(1, sources)
        queries = replace(
            batch,
            item_ids=batch.item_ids.gather(1, sources).masked_fill(appended, PADDING_ID),
            timestamps=batch.timestamps.gather(1, sources),
            ratings=batch.ratings.gather(1, sources),
            lengths=lengths,
            masked=hidden,
        )
        shifted = embeddings.gather(1, sources[:, :, None].expand(-1, -1, embeddings.shape[2]))
        return last_positions(self(shifted, queries), queries)


def _initialize(module: nn.Module) -> None:
    """Truncated normal weights of deviation 0.02 and zero biases, as in BERT."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
