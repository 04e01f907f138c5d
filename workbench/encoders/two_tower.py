"""Two towers: an MLP over the pooled history, and the item table."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.contracts import Encoder, SequenceBatch
from workbench.encoders.inputs import check_length, last_positions
from workbench.encoders.registry import register


@dataclass(frozen=True)
class TwoTowerConfig:
    """Settings of the query tower.

    Raises ValueError if a hidden width is below 1, `dropout` not in [0, 1), or `decay` not in (0, 1].
    """

    kind: ClassVar[str] = "two_tower"

    hidden_dims: tuple[int, ...] = (256,)
    """Widths of the hidden layers, in order; empty for a linear tower."""
    dropout: float = 0.2
    """Share of the pooled history, and of each hidden layer, that is dropped in training."""
    decay: float = 1.0
    """Weight of an item against the one after it, in (0, 1]: 1 is the plain mean, less favours recency."""
    last_item: bool = True
    """Whether the embedding of the last item is concatenated to the pooled history."""

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden_dims):
            raise ValueError(f"hidden_dims must be 1 or more each, not {self.hidden_dims}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must lie in (0, 1], not {self.decay}")


@register(
    TwoTowerConfig,
    title="Two-tower MLP",
    label="two-tower",
    color="#858585",
    marks=("longdash", "triangle-up", "-"),
)
class TwoTower(Encoder):
    """The query tower: an MLP over the decayed mean of the history, concatenated with the last item.

    output_i = MLP([m_i; x_i]),  m_i = Σ_{j ≤ i} γ^{i−j} x_j / Σ_{j ≤ i} γ^{i−j},  γ the decay.

    The mean is causal, so that every position of a training sequence is a query of its own. The item tower is
    the item table itself, with whatever the similarity makes of it on its item side (`Similarity.items`).

    Source: "Deep Neural Networks for YouTube Recommendations" (Covington et al., 2016), section 3: averaged
    watch embeddings into ReLU layers. What differs: the history alone is read, without search tokens,
    geography or age.
    """

    objective: Literal["next item", "masked item"] = "next item"

    def __init__(self, config: TwoTowerConfig, dim: int, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.decay = config.decay
        self.last_item = config.last_item
        self.uses_order = config.last_item or config.decay < 1
        layers: list[nn.Module] = [nn.Dropout(config.dropout)]
        widths = (2 * dim if config.last_item else dim, *config.hidden_dims)
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU(), nn.Dropout(config.dropout)]
        self.tower = nn.Sequential(*layers, nn.Linear(widths[-1], dim))

    def forward(self, embeddings: Float[Tensor, "B L D"], batch: SequenceBatch) -> Float[Tensor, "B L D"]:
        """One embedding per position, from the items up to it.

        Raises ValueError if L exceeds this encoder's `max_length`, or a history is empty.
        """
        outputs: Tensor = self.tower(self._pooled(embeddings, batch))
        return outputs

    def encode(self, embeddings: Float[Tensor, "B L D"], batch: SequenceBatch) -> Float[Tensor, "B D"]:
        """The output at the last position of each history; the tower runs there only."""
        outputs: Tensor = self.tower(last_positions(self._pooled(embeddings, batch), batch))
        return outputs

    def _pooled(self, embeddings: Float[Tensor, "B L D"], batch: SequenceBatch) -> Float[Tensor, "B L W"]:
        """What the tower reads at each position: the causal mean, and the item itself if `last_item`."""
        check_length(batch, self.max_length)
        positions = torch.arange(embeddings.shape[1], device=embeddings.device)
        age = positions[:, None] - positions  # (L, L), how far item j lies behind position i
        # A matrix of weights and not running sums, which would scale item j by γ^−j and overflow.
        weights = torch.where(age >= 0, self.decay ** age.clamp(min=0).float(), 0.0)
        weights = weights / weights.sum(dim=1, keepdim=True)
        means = weights.to(embeddings.dtype) @ embeddings  # (B, L, D)
        return torch.cat([means, embeddings], dim=-1) if self.last_item else means
