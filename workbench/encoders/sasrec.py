"""SASRec (Kang & McAuley 2018), as configured in the published RAILS runs."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.encoders.jagged import ByLength
from workbench.encoders.registry import register
from workbench.encoders.self_attention import CausalBlocks, self_attention
from workbench.kernels.dropout import Dropout

EPS = 1e-8


@dataclass(frozen=True)
class SASRecConfig:
    """`blocks` of attention with `heads`, a pointwise network of `ffn_dim` hidden units (0: as wide as D), `dropout`.

    `activation` of the pointwise network: "relu", as in every published run, or "gelu" (by the error function).
    Raises ValueError if a size is below 1, `dropout` not in [0, 1), or the activation unknown.
    """

    kind: ClassVar[str] = "sasrec"
    blocks: int = 2
    heads: int = 1
    ffn_dim: int = 0
    dropout: float = 0.2
    activation: Literal["relu", "gelu"] = "relu"

    def __post_init__(self) -> None:
        if self.activation not in ("relu", "gelu"):
            raise ValueError(f"activation must be relu or gelu, not {self.activation!r}")
        if self.blocks < 1 or self.heads < 1 or self.ffn_dim < 0:
            raise ValueError(f"blocks and heads must be at least 1 and ffn_dim at least 0: {self}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout}")


class SASRecBlock(nn.Module):
    """Q = LN(x); y = Q + MHA(Q, x, x); z = LN(y); out = z + FFN(z). Keys and values are not normed; no norm has weights.

    Raises ValueError if the heads do not divide the width of the embeddings.
    """

    def __init__(self, config: SASRecConfig, dim: int) -> None:
        super().__init__()
        if dim % config.heads:
            raise ValueError(f"the embedding width {dim} is not a multiple of {config.heads} heads")
        hidden = config.ffn_dim or dim
        self.heads = config.heads
        self.dropout = config.dropout
        self.project_in = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, hidden),
            nn.GELU() if config.activation == "gelu" else nn.ReLU(),
            Dropout(config.dropout),
            nn.Linear(hidden, dim),
            Dropout(config.dropout),
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
        nn.init.zeros_(self.project_in.bias)
        nn.init.zeros_(self.project_out.bias)

    def forward(self, x: Float[Tensor, "T D"], histories: ByLength) -> Float[Tensor, "T D"]:
        """The layer's output (T, D) for the jagged rows of all histories, in their order."""
        width = x.shape[-1]
        query = F.layer_norm(x, (width,), eps=EPS)
        weight, bias = self.project_in.weight, self.project_in.bias
        q = F.linear(query, weight[:width], bias[:width])
        qkv = torch.cat([q, F.linear(x, weight[width:], bias[width:])], dim=1)
        attended = self_attention(qkv, histories, self.heads, self.dropout if self.training else 0.0)
        y = query + self.project_out(attended)
        z = F.layer_norm(y, (width,), eps=EPS)
        return z + self.ffn(z)


@register(SASRecConfig, title="SASRec", color="#56B4E9", marks=("dash", "circle", "/"))
class SASRec(CausalBlocks):
    """Causal self-attention over the history, of valid positions alone.

    The published code differs from the paper in normalising the query but not keys and values, and in adding the residual
    to the normalised query; both are kept, for parity with its checkpoints.
    """

    def __init__(self, config: SASRecConfig, dim: int, max_length: int) -> None:
        blocks = (SASRecBlock(config, dim) for _ in range(config.blocks))  # drawn after the input's positions
        super().__init__(blocks, dim, max_length, config.dropout)
