"""The small networks that learned similarities are made of."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.kernels.dropout import Dropout


class GLU(nn.Module):
    """act(x W₁ + b₁) ⊙ (x W₂ + b₂), with SiLU ("swiglu") or GELU ("geglu") as act."""

    def __init__(self, kind: Literal["swiglu", "geglu"], dim: int, hidden: int) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.empty(dim, 2 * hidden))
        self.bias = nn.Parameter(torch.empty(1, 2 * hidden))

    def forward(self, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S hidden"]:
        """(…, D) to (…, hidden)."""
        left, right = torch.addmm(self.bias, x, self.weight).chunk(2, dim=-1)
        return (F.silu(left) if self.kind == "swiglu" else F.gelu(left)) * right


class Projection(nn.Module):
    """Dropout, then a GLU and a linear layer, or a linear layer alone."""

    def __init__(
        self, kind: Literal["swiglu", "geglu", "linear"], dim: int, hidden: int, output: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.glu = None if kind == "linear" else GLU(kind, dim, hidden)
        self.linear = nn.Linear(dim if self.glu is None else hidden, output)

    def forward(self, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S output"]:
        """(…, D) to (…, output)."""
        x = self.dropout(x)
        projected: Tensor = self.linear(x if self.glu is None else self.glu(x))
        return projected


def hidden_network(dim: int, hidden: int, output: int, dropout: float, *, last_bias: bool) -> nn.Sequential:
    """Dropout, linear, SiLU, linear; or, for `hidden` of 0, dropout and one linear layer."""
    if hidden == 0:
        return nn.Sequential(Dropout(dropout), nn.Linear(dim, output, bias=last_bias))
    return nn.Sequential(
        Dropout(dropout), nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, output, bias=last_bias)
    )


def published_initialization(module: nn.Module) -> None:
    """Draw every parameter with two or more dimensions by Xavier's normal rule and set the others to 0.

    The published training code does this to all of MoL after its modules initialised themselves, GLU biases (stored with
    two dimensions) and user tables included; its results come from this draw.
    """
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_normal_(parameter)
        else:
            nn.init.zeros_(parameter)
