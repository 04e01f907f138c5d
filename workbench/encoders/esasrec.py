"""eSASRec (Tikhonovich et al. 2025): SASRec with the gated blocks of LiGR."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.encoders.jagged import ByLength
from workbench.encoders.registry import register
from workbench.encoders.self_attention import CausalBlocks, self_attention
from workbench.kernels.dropout import Dropout


@dataclass(frozen=True)
class ESASRecConfig:
    """`blocks` of attention with `heads`, a SwiGLU network `ffn_multiple` times as wide as D, `dropout`.

    Raises ValueError if a size is below 1, or `dropout` not in [0, 1).
    """

    kind: ClassVar[str] = "esasrec"
    blocks: int = 2
    heads: int = 1
    ffn_multiple: int = 4
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if min(self.blocks, self.heads, self.ffn_multiple) < 1:
            raise ValueError(f"blocks, heads and ffn_multiple must be at least 1: {self}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout}")


class LiGRBlock(nn.Module):
    """y = x + σ(W₁x) ⊙ MHA(LN(x)); out = y + σ(W₂y) ⊙ FFN(LN(y)), FFN(z) = V₃(SiLU(V₁z) ⊙ V₂z) without biases.

    Raises ValueError if the heads do not divide the width of the embeddings.

    Source: "From Features to Transformers: Redefining Ranking for Scalable Impact" (Borisyuk et al., 2025).
    """

    def __init__(self, config: ESASRecConfig, dim: int) -> None:
        super().__init__()
        if dim % config.heads:
            raise ValueError(f"the embedding width {dim} is not a multiple of {config.heads} heads")
        hidden = config.ffn_multiple * dim
        self.heads = config.heads
        self.attention_norm, self.ffn_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.project_in, self.project_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.attention_gate, self.ffn_gate = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.ffn_in, self.ffn_out = nn.Linear(dim, 2 * hidden, bias=False), nn.Linear(hidden, dim, bias=False)
        self.dropout = Dropout(config.dropout)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
        nn.init.zeros_(self.project_in.bias)
        nn.init.zeros_(self.project_out.bias)

    def forward(self, x: Float[Tensor, "T D"], histories: ByLength) -> Float[Tensor, "T D"]:
        """The layer's output (T, D) for the jagged rows of all histories, in their order."""
        qkv = self.project_in(self.attention_norm(x))
        dropout = self.dropout.probability if self.training else 0.0
        attended = self.project_out(self_attention(qkv, histories, self.heads, dropout))
        x = x + torch.sigmoid(self.attention_gate(x)) * self.dropout(attended)
        gate, value = self.ffn_in(self.ffn_norm(x)).chunk(2, dim=-1)
        transformed = self.ffn_out(self.dropout(F.silu(gate) * value))
        out: Tensor = x + torch.sigmoid(self.ffn_gate(x)) * self.dropout(transformed)
        return out


@register(ESASRecConfig, title="eSASRec", color="#0072B2", marks=("longdash", "triangle-up", "\\"))
class ESASRec(CausalBlocks):
    """Causal self-attention over the history, of valid positions alone, in LiGR blocks.

    Source: "eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion" (Tikhonovich et al., 2025), which joins
    these blocks with a sampled softmax. What differs: the input stage is that of SASRec and HSTU here (embeddings times √D plus
    learned positions), so that encoders differ in their blocks alone, and the loss is chosen in training, as for every other.
    """

    def __init__(self, config: ESASRecConfig, dim: int, max_length: int) -> None:
        blocks = (LiGRBlock(config, dim) for _ in range(config.blocks))  # drawn after the input's positions
        super().__init__(blocks, dim, max_length, config.dropout)
