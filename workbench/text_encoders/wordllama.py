"""Static embeddings: the mean of a text's token vectors, 125,000 short texts in a few seconds."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.runtime import require
from workbench.text_encoders.base import TextEncoder, mean_states, require_words

MAX_TOKENS = 256


class WordLlamaEncoder(TextEncoder):
    """The 32,000 × 256 token vectors inside the package wordllama (MIT); nothing is downloaded."""

    name = loaded_as = "wordllama"

    def __init__(self) -> None:
        package = require("wordllama")
        folder = Path(
            str(package.__file__)
        ).parent  # named because the package does not find its own tokenizer
        self.model: Any = package.WordLlama.load(dim=256, cache_dir=folder, disable_download=True)
        self.model.tokenizer.enable_truncation(max_length=MAX_TOKENS)
        self.dim = int(self.model.embedding.shape[1])
        weights = hashlib.sha256(self.model.embedding.tobytes())
        weights.update(str(MAX_TOKENS).encode())
        self.digest = weights.hexdigest()

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """One unit vector per text."""
        require_words(texts)
        if not texts:
            return torch.empty(0, self.dim)
        return F.normalize(torch.from_numpy(self.model.embed(list(texts))).float(), dim=-1)

    def token_states(self, texts: Sequence[str]) -> tuple[Float[Tensor, "N L D"], Bool[Tensor, "N L"]]:
        """The vector of each token, whatever stands around it."""
        require_words(texts)
        encodings = self._encodings(texts)
        embedding = torch.from_numpy(self.model.embedding)
        ids = torch.tensor([encoding.ids for encoding in encodings]).clamp(max=len(embedding) - 1)
        present = torch.tensor([encoding.attention_mask for encoding in encodings], dtype=torch.bool)
        return embedding[ids].float(), present

    def split(self, text: str) -> list[str]:
        """Word pieces; "▁" marks the start of a word."""
        pieces: list[str] = self._encodings([text])[0].tokens
        return pieces

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens that are read of each text."""
        return [sum(encoding.attention_mask) for encoding in self._encodings(texts)]

    def pool(self, states: Float[Tensor, "N L D"], present: Bool[Tensor, "N L"]) -> Float[Tensor, "N D"]:
        """The mean of the states, of unit length."""
        return F.normalize(mean_states(states, present), dim=-1)

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Texts of more than 256 tokens."""
        return sum(len(encoding.overflowing) > 0 for encoding in self._encodings(texts))

    def _encodings(self, texts: Sequence[str]) -> Any:
        return self.model.tokenizer.encode_batch(list(texts), add_special_tokens=False)
