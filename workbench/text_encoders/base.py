"""What a text encoder is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor


class TextEncoder(ABC):
    """A frozen map from a text to one state per token, of width `dim`, and to one vector of the same width.

    `digest` identifies the weights and every setting that changes the vectors: two encoders of one digest give the same ones.
    `loaded_as` is the name under which `text_encoders.load` returns it.
    """

    name: str
    loaded_as: str
    dim: int
    digest: str

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """One unit vector per text, float32 on the CPU. Raises ValueError for a text without a word."""

    @abstractmethod
    def token_states(self, texts: Sequence[str]) -> tuple[Float[Tensor, "N L D"], Bool[Tensor, "N L"]]:
        """One state per token, float32, and which places hold a token. Raises ValueError for a text without a word."""

    @abstractmethod
    def split(self, text: str) -> list[str]:
        """The tokens that `token_states` gives a state for, as text."""

    @abstractmethod
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each text `token_states` gives a state for."""

    @abstractmethod
    def pool(self, states: Float[Tensor, "N L D"], present: Bool[Tensor, "N L"]) -> Float[Tensor, "N D"]:
        """The unit vectors that `encode` returns, from token states."""

    @abstractmethod
    def count_truncated(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the encoder reads; only their beginnings are encoded."""


def mean_states(states: Float[Tensor, "N L D"], present: Bool[Tensor, "N L"]) -> Float[Tensor, "N D"]:
    """The mean of the states of each text's tokens."""
    weights = present[..., None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def require_words(texts: Sequence[str]) -> None:
    """Raise ValueError that gives the place of the first text that is empty or blank."""
    for place, text in enumerate(texts):
        if not text.strip():
            raise ValueError(f"text {place} is empty: an encoder needs at least one word")
