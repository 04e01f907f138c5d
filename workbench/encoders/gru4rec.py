"""GRU4Rec: a recurrent network reads the history, one item after the other."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from workbench.contracts import Encoder, SequenceBatch
from workbench.encoders.inputs import check_length, last_positions
from workbench.encoders.registry import register


@dataclass(frozen=True)
class GRU4RecConfig:
    """Settings of GRU4Rec.

    Raises ValueError if a size is below 1, or `dropout` not in [0, 1).
    """

    kind: ClassVar[str] = "gru4rec"

    hidden_dim: int = 128
    """Width of the recurrent state."""
    layers: int = 1
    """Recurrent layers, each reading the states of the one below."""
    dropout: float = 0.2
    """Share of the input embedding, and of the states between layers, that is dropped in training."""

    def __post_init__(self) -> None:
        if self.hidden_dim < 1 or self.layers < 1:
            raise ValueError(
                f"hidden_dim and layers must be 1 or more, not {self.hidden_dim} and {self.layers}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout}")


@register(GRU4RecConfig, title="GRU4Rec", color="#009E73", marks=("dot", "diamond", "x"))
class GRU4Rec(Encoder):
    """A GRU over the item embeddings, and a linear map of its state back to the embedding width.

    h_i = GRU(dropout(x_i), h_{i−1}), output W h_i + b.

    Source: "Session-based Recommendations with Recurrent Neural Networks" (Hidasi et al., 2016). What
    differs: the original trains in session-parallel minibatches, one step of many sessions at a time with
    the state carried over and the gradient cut there, and with pairwise TOP1 or BPR losses against the other
    items of the minibatch. Here a batch holds whole histories, the gradient runs back to their beginning, and
    the loss is chosen in training, as for every other encoder: what is compared is the encoder alone.
    """

    objective: Literal["next item", "masked item"] = "next item"

    def __init__(self, config: GRU4RecConfig, dim: int, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.dropout = nn.Dropout(config.dropout)
        self.gru = nn.GRU(
            dim,
            config.hidden_dim,
            num_layers=config.layers,
            dropout=config.dropout if config.layers > 1 else 0.0,  # torch drops between layers only
            batch_first=True,
        )
        self.output = nn.Linear(config.hidden_dim, dim)

    def forward(self, embeddings: Float[Tensor, "B L D"], batch: SequenceBatch) -> Float[Tensor, "B L D"]:
        """One embedding per position, from the items up to it.

        Padding is on the right: the recurrence reaches it only after the last valid position, so nothing is packed. Raises
        ValueError if L exceeds this encoder's `max_length`, or a history is empty.
        """
        check_length(batch, self.max_length)
        states, _ = self.gru(self.dropout(embeddings))  # (B, L, hidden_dim)
        outputs: Tensor = self.output(states)
        return outputs

    def encode(self, embeddings: Float[Tensor, "B L D"], batch: SequenceBatch) -> Float[Tensor, "B D"]:
        """The output at the last position of each history."""
        return last_positions(self(embeddings, batch), batch)
