"""Texts as a head reads them: one vector each, and the states of their tokens if a head looks at tokens."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor


class PaddedTokens(NamedTuple):
    """`states` (B, L, D), float32; `present` (B, L): which places hold a token."""

    states: Float[Tensor, "B L D"]
    present: Bool[Tensor, "B L"]


@dataclass(frozen=True)
class TokenStates:
    """The states of the tokens of N texts, end to end: text i has `states[offsets[i]:offsets[i + 1]]`."""

    states: NDArray[np.float16]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def padded(self, rows: NDArray[np.int64]) -> PaddedTokens:
        """The states of some texts, padded with zeros to the longest of them."""
        starts, counts = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        present = np.arange(counts.max(initial=1)) < counts[:, None]  # (B, L)
        states = np.zeros((*present.shape, self.states.shape[1]), dtype=np.float32)
        states[present] = self.states[(starts[:, None] + np.arange(present.shape[1]))[present]]
        return PaddedTokens(torch.from_numpy(states), torch.from_numpy(present))


@dataclass(frozen=True)
class EncodedTexts:
    """`vectors` (N, D), float32, one per text; `tokens`: their states, or None."""

    vectors: Float[Tensor, "N D"]
    tokens: TokenStates | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None and len(self.tokens) != len(self.vectors):
            raise ValueError(f"{len(self.vectors)} vectors and token states of {len(self.tokens)} texts")

    def __len__(self) -> int:
        return len(self.vectors)

    def pooled(self) -> Self:
        """The same texts without token states."""
        return type(self)(self.vectors)

    def batch(self, rows: NDArray[np.int64]) -> tuple[Float[Tensor, "B D"], PaddedTokens | None]:
        """The vectors of some texts, and their token states if there are any."""
        return self.vectors[torch.from_numpy(rows)], None if self.tokens is None else self.tokens.padded(rows)
