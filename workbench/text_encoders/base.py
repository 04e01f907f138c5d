"""What a text encoder is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor


class TextEncoder(ABC):
    """A frozen map from a text to one vector of width `dim`.

    `digest` identifies the weights and every setting that changes the vectors: two encoders of one digest give the same ones.
    """

    name: str
    dim: int
    digest: str

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """One unit vector per text, float32 on the CPU. Raises ValueError for a text without a word."""

    @abstractmethod
    def count_truncated(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the encoder reads; only their beginnings are encoded."""


def require_words(texts: Sequence[str]) -> None:
    """Raise ValueError that gives the place of the first text that is empty or blank."""
    for place, text in enumerate(texts):
        if not text.strip():
            raise ValueError(f"text {place} is empty: an encoder needs at least one word")
