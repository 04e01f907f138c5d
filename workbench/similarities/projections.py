"""The small networks that learned similarities are made of."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.kernels.dropout import Dropout

ProjectionKind = Literal["swiglu", "geglu", "linear"]


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

    def __init__(self, kind: ProjectionKind, dim: int, hidden: int, output: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.glu = None if kind == "linear" else GLU(kind, dim, hidden)
        self.linear = nn.Linear(dim if self.glu is None else hidden, output)

    def forward(self, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S output"]:
        """(…, D) to (…, output)."""
        x = self.dropout(x)
        projected: Tensor = self.linear(x if self.glu is None else self.glu(x))
        return projected


@dataclass(frozen=True)
class ComponentsConfig:
    """What similarities over component scores have in common; the defaults are those of the published ML-1M configuration.

    `query_groups` Pq and `item_groups` Px components of width `component_dim` d, whose scores are divided by `temperature` τ.
    `query_projection` and `item_projection`: a GLU of `*_hidden` units, or linear; `query_layer_norm`: the query enters
    through a LayerNorm without weights. Raises ValueError for a value out of its range.
    """

    query_groups: int = 8
    item_groups: int = 4
    component_dim: int = 64
    temperature: float = 0.05
    query_projection: ProjectionKind = "swiglu"
    query_hidden: int = 512
    query_layer_norm: bool = True
    item_projection: ProjectionKind = "linear"
    item_hidden: int = 512
    item_dropout: float = 0.1

    def __post_init__(self) -> None:
        if min(self.query_groups, self.item_groups, self.component_dim) < 1:
            raise ValueError(f"query_groups, item_groups and component_dim must be at least 1: {self}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
        check_probabilities(self, "item_dropout")
        for side in ("query", "item"):
            kind, hidden = getattr(self, f"{side}_projection"), getattr(self, f"{side}_hidden")
            if kind not in get_args(ProjectionKind):
                raise ValueError(f"{side}_projection must be swiglu, geglu or linear, not {kind!r}")
            if kind != "linear" and hidden < 1:
                raise ValueError(f"{side}_hidden must be at least 1, not {hidden}")

    @property
    def components(self) -> int:
        """P = Pq · Px."""
        return self.query_groups * self.item_groups


def check_probabilities(config: object, *names: str) -> None:
    """Raise ValueError if one of these fields does not lie in [0, 1)."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must lie in [0, 1), not {getattr(config, name)}")


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
